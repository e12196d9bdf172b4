"""Networks exported by somebody's own package: ONNX (recommended) and TorchScript files.

ONNX is a data format: a graph of known operators. TorchScript is a program; torch's own interpreter runs it rather than
Python's, and it can still read and write files: load it only from whom you trust. Files of ``torch.export`` (``.pt2``)
are not read at all, because torch unpickles them, which runs whatever the file says.
"""

import re
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from torch import Tensor, nn

from pathflip.errors import ConfigError, MissingExtraError
from pathflip.features.foundation import FoundationEncoder
from pathflip.features.weights import first_line

__all__ = ["EXPORTED_SUFFIXES", "ExportedCard", "exported_files", "exported_row", "open_exported"]

EXPORTED_SUFFIXES = {".onnx", ".torchscript", ".ts", ".pt2"}


class ExportedCard(BaseModel):
    """What an exported file does not say, in ``FILE.json`` beside ``FILE.onnx``.

    Attributes:
        name: of the encoder, in feature files.
        dim: width of a feature vector.
        input_px: side of what the network sees.
        mean, std: channel statistics, for values 0 to 1.
        tile_px: tile side it is meant for; None: any.
        mpp: resolutions it was trained at, the recommended one first; empty: any.
        resize_px: side tiles are resized to before the central crop; None: ``input_px``.
        interpolation: of the resize.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(pattern=r"^[A-Za-z0-9_.-]+$")
    dim: int = Field(gt=0)
    input_px: int = Field(gt=0)
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    tile_px: int | None = None
    mpp: tuple[float, ...] = ()
    resize_px: int | None = None
    interpolation: Literal["bilinear", "bicubic"] = "bicubic"


def exported_row(path: Path) -> FoundationEncoder:
    """What an exported file is, from the card beside it.

    Raises:
        ConfigError: there is no card, or it does not say what it must.
    """
    beside = path.with_suffix(".json")
    if not beside.is_file():
        raise ConfigError(
            f"encoder '{path}': the file does not say how its input is normalised; expected '{beside}' with "
            '{"name": "mine", "dim": 768, "input_px": 224, "mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5]}, or '
            f"NAME={path} with the name of an encoder in the table (pathflip encoders)"
        )
    try:
        card = ExportedCard.model_validate_json(beside.read_bytes())
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "the file"
        raise ConfigError(f"'{beside}': {where}: {first['msg']}; see docs/encoders.md") from error
    return FoundationEncoder(
        card.name, card.dim, card.tile_px, card.mpp, card.resize_px or card.input_px, card.input_px,
        (card.mean, card.std), card.interpolation, "own", "exported", path.resolve().as_uri(), "its owner's", False,
        "float32",
    )  # fmt: skip


def exported_files(path: Path) -> list[Path]:
    """Every file that decides what an exported encoder computes: its digest must change with each of them.

    The network, the weights an ONNX file keeps in files beside it, and the card that says how pixels are normalised.

    Raises:
        ConfigError: weights beside the file are missing, or lie outside its folder.
    """
    card = path.with_suffix(".json")
    beside = sorted(_external_data(path)) if path.suffix == ".onnx" else []
    return [path, *beside, *([card] if card.is_file() else [])]


_LOCATION = re.compile(rb"\x0a\x08location\x12([\x01-\x7f])", re.DOTALL)
"""ONNX's TensorProto.external_data entry of key "location": protobuf field 1 = key, field 2 = a string's length."""


def _external_data(path: Path) -> set[Path]:
    data = path.read_bytes()
    names = {data[m.end() : m.end() + m.group(1)[0]].decode("utf-8", "replace") for m in _LOCATION.finditer(data)}
    folder = path.parent.resolve()
    files = {name: (folder / name).resolve() for name in names}
    for name, file in files.items():
        if not file.is_relative_to(folder):
            raise ConfigError(f"encoder '{path}': its weights '{name}' lie outside its folder; expected them beside it")
        if not file.is_file():
            raise ConfigError(f"encoder '{path}': its weights '{name}' are missing; copy them beside it")
    return set(files.values())


def open_exported(path: Path, device: torch.device) -> Callable[[Tensor], Tensor]:
    """An exported network as a function of normalised pixels (n, 3, px, px) to features (n, dim), in float32.

    Raises:
        ConfigError: the file cannot be read, or is of a kind that is never loaded.
        MissingExtraError: onnxruntime is not installed.
    """
    if path.suffix == ".pt2":
        raise ConfigError(
            f"encoder '{path}': .pt2 files are read by unpickling, which runs whatever they say, so they are not read; "
            "export to ONNX instead (torch.onnx.export)"
        )
    if not path.is_file():
        raise ConfigError(f"encoder '{path}': no such file; expected an exported network")
    return _onnx(path, device) if path.suffix == ".onnx" else _torchscript(path, device)


def _onnx(path: Path, device: torch.device) -> Callable[[Tensor], Tensor]:
    try:
        import onnxruntime
    except ImportError:
        raise MissingExtraError("onnxruntime", "onnx", f"the encoder in '{path}'") from None
    wanted: list[Any] = ["CPUExecutionProvider"]
    if device.type == "cuda" and "CUDAExecutionProvider" in onnxruntime.get_available_providers():
        wanted.insert(0, ("CUDAExecutionProvider", {"device_id": device.index or 0}))
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    try:
        session = onnxruntime.InferenceSession(str(path), options, providers=wanted)
    except Exception as error:  # onnxruntime's exceptions have no common base class
        raise ConfigError(f"encoder '{path}': onnxruntime cannot load it: {first_line(error)}") from error
    name = session.get_inputs()[0].name

    def run(x: Tensor) -> Tensor:
        return torch.from_numpy(session.run(None, {name: x.cpu().numpy()})[0])

    return run


def _torchscript(path: Path, device: torch.device) -> nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch.jit announces its retirement at every call
        try:
            return torch.jit.load(path, map_location=device)
        except (RuntimeError, ValueError) as error:
            raise ConfigError(f"encoder '{path}': torch cannot load it: {first_line(error)}") from error
