"""Models that are in no table: any folder in the layout of Hugging Face transformers or of timm, any name timm knows.

How tiles are resized, cropped and normalised is read from the folder's own files, as those libraries would.
"""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from pathflip.errors import ConfigError
from pathflip.features.foundation import IMAGENET, FoundationEncoder, Statistics
from pathflip.features.networks import timm_network, transformers_network
from pathflip.features.weights import State, cached_repository, files_in, first_line, read_weights

__all__ = ["folder_model", "timm_model"]

Loaded = tuple[FoundationEncoder, nn.Module, list[Path]]
"""What is known of a model, the model, and the files it depends on."""


@dataclass(frozen=True)
class _Input:
    """How a tile becomes the network's input; fields as in :class:`FoundationEncoder`."""

    resize_px: int
    input_px: int
    normalisation: Statistics
    interpolation: str


def folder_model(reference: str) -> Loaded:
    """A model from a local folder, or from the Hugging Face cache (OWNER/NAME).

    Raises:
        ConfigError: no such folder, or it does not hold a model that can be loaded whole.
        MissingExtraError: the layout is timm's and timm is not installed.
    """
    local = Path(reference).expanduser()
    cached = cached_repository(reference) if not local.is_dir() and reference.count("/") == 1 else None
    folder = cached or local
    if not (folder / "config.json").is_file():
        raise ConfigError(
            f"encoder 'hf:{reference}': no config.json in the folder '{folder}', nor such a repository in the Hugging "
            "Face cache; nothing is downloaded at run time: accept the model's licence on huggingface.co, run  "
            "hf download OWNER/NAME --local-dir FOLDER  on a machine with network, and pass  hf:FOLDER"
        )
    name = f"hf_{reference.rsplit('/', 1)[1] if cached else folder.resolve().name}"
    files = files_in(name, folder)
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        network, prepared = _from_folder(name, folder, config, read_weights(name, files))
    except (ConfigError, json.JSONDecodeError) as error:
        raise ConfigError(f"encoder 'hf:{reference}': {error}") from error
    return _row(name, network, prepared, str(folder)), network, [folder / "config.json", *files]


def _from_folder(name: str, folder: Path, config: Mapping[str, Any], state: State) -> tuple[nn.Module, _Input]:
    if "architecture" in config and "model_type" not in config:
        arguments = config.get("model_args")
        network = timm_network(config["architecture"], state, f"the encoder in '{folder}'", arguments)
        return network, _timm_input(config.get("pretrained_cfg") or {})
    path = folder / "preprocessor_config.json"
    processing = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    return transformers_network(name, folder, state), _transformers_input(processing, config)


def _transformers_input(processing: Mapping[str, Any], config: Mapping[str, Any]) -> _Input:
    """What a ``preprocessor_config.json`` says; ImageNet's statistics where it says nothing."""
    trained = config.get("image_size") or config.get("vision_config", {}).get("image_size")
    size = _side(processing.get("size")) or _side(trained) or 224
    cropped = processing.get("do_center_crop", "crop_size" in processing)
    crop = (_side(processing.get("crop_size")) or size) if cropped else size
    mean, std = processing.get("image_mean") or IMAGENET[0], processing.get("image_std") or IMAGENET[1]
    interpolation = "bicubic" if processing.get("resample") == 3 else "bilinear"  # PIL's numbers
    return _Input(max(size, crop), crop, (tuple(mean), tuple(std)), interpolation)


def _side(size: Any) -> int | None:
    """A side from what image processors call size: a number, height and width, or the shortest edge."""
    if isinstance(size, Mapping):
        size = size.get("height") or size.get("shortest_edge")
    return None if size is None else int(size)


def timm_model(reference: str) -> Loaded:
    """Any model timm knows: ``NAME=PATH``, or ``NAME`` with weights in the Hugging Face cache (``timm/NAME``).

    Raises:
        ConfigError: no such name, no weights, or weights of another model.
        MissingExtraError: timm is not installed.
    """
    architecture, _, path = reference.partition("=")
    name = f"timm_{architecture}"
    place = Path(path).expanduser() if path else cached_repository(f"timm/{architecture}")
    if place is None or not place.exists():
        raise ConfigError(
            f"encoder 'timm:{reference}': no weights in '{place or 'the Hugging Face cache'}', and nothing is "
            f"downloaded at run time: run  hf download timm/{architecture} --local-dir FOLDER  on a machine with "
            f"network, and pass  timm:{architecture}=FOLDER"
        )
    files = files_in(name, place)
    network = timm_network(architecture, read_weights(name, files), f"the encoder '{architecture}'")
    return _row(name, network, _timm_input(network.pretrained_cfg), f"timm/{architecture}"), network, files


def _timm_input(config: Mapping[str, Any]) -> _Input:
    """What timm's ``pretrained_cfg`` says; its crop fraction is of the resized side."""
    side = int((config.get("input_size") or (3, 224, 224))[-1])
    resize = math.floor(side / (config.get("crop_pct") or 1.0))
    mean, std = config.get("mean") or IMAGENET[0], config.get("std") or IMAGENET[1]
    interpolation = "bilinear" if config.get("interpolation") == "bilinear" else "bicubic"
    return _Input(resize, side, (tuple(mean), tuple(std)), interpolation)


@torch.inference_mode()
def _row(name: str, network: nn.Module, prepared: _Input, source: str) -> FoundationEncoder:
    """A row for a model that is in no table; its width is what it gives."""
    side = prepared.input_px
    try:
        dim = int(network.eval()(torch.zeros(1, 3, side, side)).shape[-1])
    except (RuntimeError, ValueError) as error:
        raise ConfigError(f"encoder '{name}': does not run on one tile of {side} px: {first_line(error)}") from error
    return FoundationEncoder(
        name=name, dim=dim, tile_px=None, mpp=(), resize_px=prepared.resize_px, input_px=prepared.input_px,
        normalisation=prepared.normalisation, interpolation=prepared.interpolation, pooling="own", layout="own",
        source=source, licence="its owner's", gated=False, precision="float32",
    )  # fmt: skip
