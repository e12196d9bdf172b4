"""Every encoder by its name: what turns tiles into feature vectors.

``load_encoder("stain_texture")`` needs nothing but this package. ``load_encoder("uni_v1")`` and the other foundation
encoders (``foundation.py``) take their weights from this machine; nothing is ever downloaded at run time.
"""

import difflib
import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pathflip.errors import ConfigError, PathFLIPError
from pathflip.features.concatenated import Concatenated, split_encoders
from pathflip.features.devices import PRECISIONS
from pathflip.features.encoder_protocol import Encoder
from pathflip.features.exported_networks import EXPORTED_SUFFIXES, exported_files, exported_row, open_exported
from pathflip.features.foundation import FOUNDATION, FoundationEncoder
from pathflip.features.network_encoder import NetworkEncoder
from pathflip.features.networks import averaged, build
from pathflip.features.other_models import folder_model, timm_model
from pathflip.features.stain_normalised import STAIN_METHODS, StainNormalised, split_method
from pathflip.features.texture import StainTexture
from pathflip.features.weights import first_line, weight_files

__all__ = ["ENCODERS", "ColourHistogram", "Encoder", "EncoderEntry", "NetworkEncoder", "encoder_table", "load_encoder"]


class ColourHistogram:
    """Joint RGB histogram, 5 × 5 × 5 bins, square roots of fractions: the baseline texture has to beat."""

    name = "colour_histogram"
    revision = "1"
    reentrant = True
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


def _random_resnet18(device: torch.device | str | None) -> Encoder:
    """ResNet-18 with random weights (seed 0), global average pooling: what an architecture alone is worth."""
    from transformers import ResNetConfig, ResNetModel

    config = ResNetConfig(depths=[2, 2, 2, 2], hidden_sizes=[64, 128, 256, 512], layer_type="basic")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = ResNetModel(config)
    return NetworkEncoder("random_resnet18", "seed0", averaged(model), 512, device=device)


@dataclass(frozen=True)
class EncoderEntry:
    """A row of the table of built-in encoders: how to load one, and what it is."""

    load: Callable[[torch.device | str | None], Encoder]
    dim: int
    what: str


ENCODERS: Mapping[str, EncoderEntry] = {
    "stain_texture": EncoderEntry(
        StainTexture, StainTexture.dim, "stain unmixing, filter energies and blobs; no weights (default)"
    ),
    "colour_histogram": EncoderEntry(ColourHistogram, 125, "joint RGB histogram, 125 bins; a baseline"),
    "random_resnet18": EncoderEntry(_random_resnet18, 512, "untrained ResNet-18, mean-pooled; a baseline"),
}
"""Encoders that need no files. The others are in :data:`~pathflip.features.FOUNDATION`."""

SIDE_BY_SIDE = ("efficientnet_lite0", "stain_texture")
"""Two encoders whose vectors tell real tiles apart better side by side than alone (docs/encoders.md)."""


def encoder_table() -> list[dict[str, Any]]:
    """Every encoder with a name, as rows for people and machines: what it is, and whether its weights are here."""
    rows: list[dict[str, Any]] = [
        {"name": name, "dim": entry.dim, "what": entry.what, "here": True} for name, entry in ENCODERS.items()
    ]
    for row in FOUNDATION.values():
        mean, std = row.normalisation
        rows.append(
            {
                "name": row.name, "dim": row.dim, "tile_px": row.tile_px, "mpp": list(row.mpp),
                "resize_px": row.resize_px, "input_px": row.input_px, "mean": list(mean), "std": list(std),
                "interpolation": row.interpolation, "pooling": row.pooling, "precision": row.precision,
                "source": row.source, "licence": row.licence, "gated": row.gated, "what": row.note, "here": _here(row),
            }
        )  # fmt: skip
    first, second = FOUNDATION[SIDE_BY_SIDE[0]], ENCODERS[SIDE_BY_SIDE[1]]
    joined = "both vectors, one behind the other; any two or more encoders can be joined so"
    name, dim = "+".join(SIDE_BY_SIDE), first.dim + second.dim
    return [*rows, {"name": name, "dim": dim, "what": joined, "here": _here(first)}]


def _here(row: FoundationEncoder) -> bool:
    try:
        return bool(weight_files(row, None))
    except PathFLIPError:
        return False


def load_encoder(reference: str, device: torch.device | str | None = None, *, precision: str = "auto") -> Encoder:
    """Load an encoder.

    Args:
        reference: a name in :data:`ENCODERS` or :data:`~pathflip.features.FOUNDATION`; ``NAME=PATH``, a foundation
            encoder from a folder, a weight file or an exported network of your own; ``hf:FOLDER`` or ``hf:OWNER/NAME``
            (in the Hugging Face cache), a model in the layout of transformers or timm; ``timm:NAME=PATH`` or
            ``timm:NAME`` (in the cache); ``onnx:FILE`` or ``torchscript:FILE`` with a card ``FILE.json`` beside it;
            or just an existing folder. ``A+B`` puts the vectors of two (or more) of these side by side. ``+macenko``
            behind any of these normalises stains slide by slide first.
        device: where to run; None takes the GPU if there is one.
        precision: "auto" (the authors' on a GPU, float32 elsewhere), "float32", "bfloat16" or "float16"; for networks.

    Raises:
        ConfigError: no such encoder, or its weights are absent or of another model (the message says what to fetch).
        MissingExtraError: the encoder needs a package that is not installed.
    """
    if precision not in PRECISIONS:
        raise ConfigError(f"precision: got '{precision}', expected one of {', '.join(PRECISIONS)}")
    reference, method = split_method(reference)
    if method is not None:
        return StainNormalised(load_encoder(reference, device, precision=precision), method)
    if len(parts := split_encoders(reference, [*ENCODERS, *FOUNDATION])) > 1:
        return Concatenated([load_encoder(part, device, precision=precision) for part in parts])
    name, _, path = reference.partition("=")
    kind, _, rest = reference.partition(":")
    if reference in ENCODERS:
        return ENCODERS[reference].load(device)
    if name in FOUNDATION and (path or name == reference):
        return _foundation(FOUNDATION[name], Path(path).expanduser() if path else None, device, precision)
    if kind == "timm":
        return _network_encoder(*timm_model(rest), device, precision)
    if kind in ("onnx", "torchscript"):
        file = Path(rest).expanduser()
        return _exported(exported_row(file), file, device, precision)
    if kind == "hf" or Path(reference).is_dir():
        return _network_encoder(*folder_model(reference.removeprefix("hf:")), device, precision)
    known = [*ENCODERS, *FOUNDATION]
    bare, _, method = reference.rpartition("+")
    if bare.partition("=")[0].partition("+")[0] in known:
        close = difflib.get_close_matches(method, [*STAIN_METHODS, *known], n=1)
        raise ConfigError(
            f"encoder '{reference}': no stain normalisation '{method}'; expected {STAIN_METHODS[0]}, or the name of a "
            f"second encoder{f'; did you mean {close[0]!r}?' if close else ' (see  pathflip encoders)'}"
        )
    close = difflib.get_close_matches(name, known, n=1)
    hint = f"did you mean '{close[0]}'? Otherwise " if close else ""
    raise ConfigError(
        f"encoder '{reference}': no such name or folder; {hint}expected one of {', '.join(known)}, or NAME=PATH, "
        "hf:FOLDER, timm:NAME=PATH, onnx:FILE, torchscript:FILE, two of these joined by +, each with or without "
        "+macenko (see  pathflip encoders)"
    )


def _foundation(
    row: FoundationEncoder, override: Path | None, device: torch.device | str | None, precision: str
) -> Encoder:
    if override is not None and override.suffix in EXPORTED_SUFFIXES:
        return _exported(row, override, device, precision)
    files = [] if row.layout == "exported" else weight_files(row, override)
    return _network_encoder(row, build(row, files), files, device, precision)


def _exported(row: FoundationEncoder, file: Path, device: torch.device | str | None, precision: str) -> Encoder:
    if precision not in ("auto", "float32"):
        raise ConfigError(f"precision '{precision}': an exported network runs as it was exported; expected float32")
    place = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    files = exported_files(file) if file.is_file() else [file]
    network = open_exported(file, place)
    return _network_encoder(replace(row, precision="float32"), network, files, place, "float32")


def _network_encoder(
    row: FoundationEncoder,
    network: Callable[[Tensor], Tensor],
    files: list[Path],
    device: torch.device | str | None,
    precision: str,
) -> Encoder:
    """A network with its table row as an encoder; its width is tried before anyone waits for a slide."""
    encoder = NetworkEncoder(
        row.name, _digest(files), network, row.dim, resize_px=row.resize_px, input_px=row.input_px,
        normalisation=row.normalisation, interpolation=row.interpolation, device=device, precision=precision,
        recommended=row.precision, row=row,
    )  # fmt: skip
    try:
        shape = encoder.encode(np.zeros((1, row.input_px, row.input_px, 3), np.uint8)).shape
    except PathFLIPError:
        raise
    except Exception as error:  # onnxruntime's exceptions have no common base class
        raise ConfigError(
            f"encoder '{row.name}': '{files[0]}' does not run on one tile of {row.input_px} px: {first_line(error)}"
        ) from error
    if shape != (1, row.dim):
        raise ConfigError(
            f"encoder '{row.name}': '{files[0]}' gives an array of shape {shape} for one tile, expected "
            f"(1, {row.dim}); it is another model, or was exported without its pooling"
        )
    return encoder


def _digest(paths: list[Path]) -> str:
    digest = hashlib.sha256()
    for path in paths:
        with path.open("rb") as handle:
            digest.update(hashlib.file_digest(handle, "sha256").digest())
    return digest.hexdigest()[:16]
