"""Every encoder, in one table: what turns tiles into feature vectors.

``load_encoder("stain_texture")`` needs nothing but this package. ``load_encoder("hf:/models/phikon")`` loads a
foundation encoder from a local folder in the Hugging Face layout; nothing is ever downloaded at run time.
"""

import difflib
import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor, nn

from pathflip.errors import ConfigError, MissingExtraError
from pathflip.features.texture import StainTexture

__all__ = ["ENCODERS", "ColourHistogram", "Encoder", "EncoderEntry", "NetworkEncoder", "load_encoder"]

_IMAGENET_MEAN = (0.485, 0.456, 0.406)
_IMAGENET_STD = (0.229, 0.224, 0.225)


@runtime_checkable
class Encoder(Protocol):
    """What extraction asks of an encoder.

    Attributes:
        name: stands in the feature files and in every model's input contract.
        revision: changes whenever the same tile would give other numbers (formula, weights).
        dim: width of a feature vector.
        tile_px: tile side it was trained at, pixels; None takes any.
        mpp: resolution it was trained at, microns per pixel; None takes any.
        sample_tiles: how many tiles of a slide :meth:`prepare` wants to see; 0 where there is nothing to measure.
    """

    name: str
    revision: str
    dim: int
    tile_px: int | None
    mpp: float | None
    sample_tiles: int

    def prepare(self, sample: NDArray[np.uint8]) -> Any:
        """Measure a slide (its staining, say) on a sample of its tiles, uint8 (n, px, px, 3)."""
        ...

    def encode(self, tiles: NDArray[np.uint8] | Tensor, state: Any = None) -> NDArray[np.float32]:
        """Tiles uint8 (n, px, px, 3) to features float32 (n, dim). ``state`` is what ``prepare`` returned."""
        ...


class ColourHistogram:
    """Joint RGB histogram, 5 × 5 × 5 bins, square roots of fractions: the baseline texture has to beat."""

    name = "colour_histogram"
    revision = "1"
    dim = 125
    tile_px: int | None = None
    mpp: float | None = None
    sample_tiles = 0

    def __init__(self, device: torch.device | str | None = None) -> None:
        del device  # counting is not worth a transfer

    def prepare(self, sample: NDArray[np.uint8]) -> None:
        """Nothing to measure."""

    def encode(self, tiles: NDArray[np.uint8] | Tensor, state: Any = None) -> NDArray[np.float32]:
        """Square roots of the fraction of pixels in each bin; float32 (n, 125)."""
        pixels = np.asarray(tiles)
        bins = (pixels.astype(np.uint16) * 5) >> 8
        codes = (bins[..., 0] * 5 + bins[..., 1]) * 5 + bins[..., 2]
        counts = np.zeros((len(codes), self.dim), np.float32)
        for row, code in zip(counts, codes.reshape(len(codes), pixels.shape[1] * pixels.shape[2]), strict=True):
            row[:] = np.bincount(code, minlength=self.dim)
        return np.sqrt(counts / (pixels.shape[1] * pixels.shape[2]))


class NetworkEncoder:
    """A neural network behind the encoder interface: scales, normalises, runs, pools.

    Args:
        name: of the encoder.
        revision: digest of its weights.
        network: maps float (n, 3, px, px) to features (n, dim).
        dim: their width.
        input_px: side tiles are resized to; None leaves them as they are.
        mean, std: channel statistics the network was trained with, for values 0..1.
        device: where to run; None takes the GPU if there is one.
    """

    sample_tiles = 0
    tile_px: int | None = None
    mpp: float | None = None

    def __init__(
        self,
        name: str,
        revision: str,
        network: Callable[[Tensor], Tensor],
        dim: int,
        *,
        input_px: int | None = None,
        mean: tuple[float, ...] = _IMAGENET_MEAN,
        std: tuple[float, ...] = _IMAGENET_STD,
        device: torch.device | str | None = None,
    ) -> None:
        self.name, self.revision, self.dim, self.input_px = name, revision, dim, input_px
        self.device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        self._network = network.eval().to(self.device) if isinstance(network, nn.Module) else network
        self._mean = torch.tensor(mean, device=self.device)[:, None, None] * 255
        self._std = torch.tensor(std, device=self.device)[:, None, None] * 255

    def prepare(self, sample: NDArray[np.uint8]) -> None:
        """Nothing to measure."""

    @torch.inference_mode()
    def encode(self, tiles: NDArray[np.uint8] | Tensor, state: Any = None) -> NDArray[np.float32]:
        """Run the network on tiles uint8 (n, px, px, 3); float32 (n, dim)."""
        if len(tiles) == 0:
            return np.zeros((0, self.dim), np.float32)
        x = torch.as_tensor(tiles).to(self.device).permute(0, 3, 1, 2).float()
        if self.input_px is not None and tuple(x.shape[2:]) != (self.input_px, self.input_px):
            x = F.interpolate(x, (self.input_px, self.input_px), mode="bicubic", antialias=True).clamp_(0, 255)
        return self._network((x - self._mean) / self._std).float().cpu().numpy()


def _random_resnet18(device: torch.device | str | None) -> Encoder:
    """ResNet-18 with random weights (seed 0), global average pooling: what an architecture alone is worth."""
    from transformers import ResNetConfig, ResNetModel

    config = ResNetConfig(depths=[2, 2, 2, 2], hidden_sizes=[64, 128, 256, 512], layer_type="basic")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = ResNetModel(config)
    return NetworkEncoder("random_resnet18", "seed0", _Pooled(model), 512, device=device)


class _Pooled(nn.Module):
    """A Hugging Face vision model as a function to (n, dim): class token or pooled output, else the mean."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Float[Tensor, "n 3 y x"]) -> Float[Tensor, "n D"]:
        if hasattr(self.model, "get_image_features"):  # CLIP-like: only the image tower runs
            image_features: Any = self.model.get_image_features
            out = image_features(pixel_values=x)
            return out if isinstance(out, Tensor) else out.pooler_output
        out = self.model(pixel_values=x)
        hidden = out.last_hidden_state
        if hidden.ndim == 4:
            return hidden.mean(dim=(2, 3))
        return hidden[:, 0]


def _from_folder(reference: str, device: torch.device | str | None) -> Encoder:
    """A foundation encoder from a local folder: Hugging Face transformers layout, or timm's."""
    folder = Path(reference).expanduser()
    if not (folder / "config.json").is_file():
        raise ConfigError(
            f"encoder 'hf:{reference}': no config.json in the folder '{folder}'; nothing is downloaded at run time: "
            f"accept the model's licence on huggingface.co, run  hf download OWNER/NAME --local-dir FOLDER  on a "
            "machine with network, and pass  hf:FOLDER"
        )
    weights = sorted(folder.glob("*.safetensors"))
    if not weights:
        raise ConfigError(
            f"encoder 'hf:{reference}': no *.safetensors in '{folder}' (pickled weights are never loaded); "
            "download or convert the safetensors file"
        )
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    load = _timm_network if "architecture" in config and "model_type" not in config else _transformers_network
    network, input_px, mean, std = load(folder, config)
    with torch.inference_mode():
        dim = int(network.eval()(torch.zeros(1, 3, input_px, input_px)).shape[1])
    name = f"hf_{folder.resolve().name}"
    revision = _digest([folder / "config.json", *weights])
    return NetworkEncoder(name, revision, network, dim, input_px=input_px, mean=mean, std=std, device=device)


_Loaded = tuple[nn.Module, int, tuple[float, ...], tuple[float, ...]]


def _transformers_network(folder: Path, config: Mapping[str, Any]) -> _Loaded:
    from transformers import AutoModel

    try:
        model = AutoModel.from_pretrained(folder, local_files_only=True, use_safetensors=True)
    except (OSError, ValueError, KeyError) as error:
        reason = str(error).splitlines()[0]
        raise ConfigError(f"encoder 'hf:{folder}': transformers cannot load it: {reason}") from error
    path = folder / "preprocessor_config.json"
    processing = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    size = processing.get("crop_size") or processing.get("size") or config.get("image_size") or 224
    if isinstance(size, dict):
        size = size.get("height") or size.get("shortest_edge") or 224
    mean = tuple(processing.get("image_mean") or _IMAGENET_MEAN)
    std = tuple(processing.get("image_std") or _IMAGENET_STD)
    return _Pooled(model), int(size), mean, std


def _timm_network(folder: Path, config: Mapping[str, Any]) -> _Loaded:
    try:
        import timm
    except ImportError:
        raise MissingExtraError("timm", "encoders", f"the encoder in '{folder}'") from None
    weights = next(iter(sorted(folder.glob("*.safetensors"))))
    arguments = {"num_classes": 0, **config.get("model_args", {})}
    model = timm.create_model(config["architecture"], pretrained=False, checkpoint_path=str(weights), **arguments)
    data = config.get("pretrained_cfg", {})
    size = int(data.get("input_size", (3, 224, 224))[-1])
    return model, size, tuple(data.get("mean", _IMAGENET_MEAN)), tuple(data.get("std", _IMAGENET_STD))


def _digest(paths: list[Path]) -> str:
    digest = hashlib.sha256()
    for path in paths:
        with path.open("rb") as handle:
            digest.update(hashlib.file_digest(handle, "sha256").digest())
    return digest.hexdigest()[:16]


@dataclass(frozen=True)
class EncoderEntry:
    """A row of the table: how to load an encoder, and what it is."""

    load: Callable[[torch.device | str | None], Encoder]
    what: str


ENCODERS: Mapping[str, EncoderEntry] = {
    "stain_texture": EncoderEntry(StainTexture, "stain unmixing, filter energies and blobs; no weights (default)"),
    "colour_histogram": EncoderEntry(ColourHistogram, "joint RGB histogram, 125 bins; a baseline"),
    "random_resnet18": EncoderEntry(_random_resnet18, "untrained ResNet-18, mean-pooled; a baseline"),
}
"""Encoders by name. ``hf:FOLDER`` loads any other from disk."""


def load_encoder(name_or_path: str, device: torch.device | str | None = None) -> Encoder:
    """Load an encoder.

    Args:
        name_or_path: a name in :data:`ENCODERS`, or ``hf:FOLDER`` (or just an existing folder) with ``config.json`` and
            safetensors weights in the layout of Hugging Face transformers or timm.
        device: where to run; None takes the GPU if there is one.

    Raises:
        ConfigError: no such encoder, or the folder does not hold one (the message says what to fetch).
        MissingExtraError: the encoder needs timm and it is not installed.
    """
    if name_or_path in ENCODERS:
        return ENCODERS[name_or_path].load(device)
    if name_or_path.startswith("hf:") or Path(name_or_path).is_dir():
        return _from_folder(name_or_path.removeprefix("hf:"), device)
    close = difflib.get_close_matches(name_or_path, ENCODERS, n=1)
    hint = f"; did you mean '{close[0]}'?" if close else ""
    raise ConfigError(
        f"encoder '{name_or_path}': unknown; expected one of {', '.join(ENCODERS)} or hf:FOLDER for a local model{hint}"
    )
