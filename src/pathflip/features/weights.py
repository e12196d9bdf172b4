"""Where published weights lie on this machine, and reading them without executing them. Nothing is downloaded."""

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pathflip.errors import ConfigError
from pathflip.features.foundation import FoundationEncoder, how_to_get

__all__ = ["State", "cached_repository", "files_in", "first_line", "models_folder", "read_weights", "weight_files"]

State = dict[str, Tensor]
"""Weights by name."""


def models_folder() -> Path | None:
    """The folder PATHFLIP_MODELS names, with a folder for each encoder (or repository) in it; None if it is not set."""
    value = os.environ.get("PATHFLIP_MODELS", "")
    return Path(value).expanduser() if value else None


def cached_repository(repository: str) -> Path | None:
    """Folder of a repository in the Hugging Face cache, if an earlier download left it there."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(repository, local_files_only=True))
    except (LocalEntryNotFoundError, HFValidationError, FileNotFoundError):
        return None


def weight_files(row: FoundationEncoder, override: Path | None) -> list[Path]:
    """The files that hold an encoder's weights: from the path given, PATHFLIP_MODELS, the Python package that carries
    them, or the Hugging Face cache.

    Raises:
        ConfigError: there are none; the message says what to accept, what to run and where to put them.
        CheckpointError: the package's file is not the published one.
    """
    if override is not None:
        return files_in(row.name, override)
    models, repository = models_folder(), row.repository
    own = [models / row.name] if models else []
    own += [models / repository.split("/")[1]] if models and repository else []
    cached = cached_repository(repository) if repository else None
    for place in [*own, *([cached] if cached else [])]:
        if place.exists():
            return files_in(row.name, place)
    if row.packaged is not None and (file := row.packaged.path()) is not None:
        row.packaged.check(file, f"encoder '{row.name}'")
        return [file]
    looked = [str(place) for place in own] or ["PATHFLIP_MODELS (not set)"]
    looked += ["the Hugging Face cache"] if repository else []
    looked += [f"the package '{row.packaged.distribution}' (not installed)"] if row.packaged is not None else []
    raise ConfigError(
        f"encoder '{row.name}': no weights in {' or '.join(looked)}, and nothing is downloaded at run time: "
        f"{how_to_get(row, models)}"
    )


def files_in(name: str, path: Path) -> list[Path]:
    """Weight files in a folder (safetensors before others), or the file itself.

    Raises:
        ConfigError: there are none, or several that are not parts of one.
    """
    path = path.expanduser()
    if path.is_file():
        return [path]
    if not path.is_dir():
        raise ConfigError(f"encoder '{name}': no file or folder '{path}'; expected the published weights there")
    for pattern in ("*.safetensors", "*.bin", "*.pth", "*.pt"):
        files = sorted(path.glob(pattern))
        whole = [file for file in files if not re.search(r"-\d+-of-\d+\.", file.name)]
        preferred = [file for file in whole if file.stem in ("model", "pytorch_model", "open_clip_pytorch_model")]
        if len(whole) > 1 and preferred:
            return preferred[:1]
        if len(whole) > 1:
            names = ", ".join(file.name for file in whole[:4])
            raise ConfigError(f"encoder '{name}': several weight files in '{path}' ({names}); pass  {name}=FILE")
        if files:
            return whole or files
    raise ConfigError(f"encoder '{name}': no weights in '{path}'; expected a file *.safetensors, *.bin or *.pth there")


def read_weights(name: str, files: list[Path]) -> State:
    """Read weights from safetensors, or from torch files by the reader that refuses to execute anything.

    Raises:
        ConfigError: a file is damaged, or holds more than tensors.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    state: State = {}
    for file in files:
        try:
            if file.suffix == ".safetensors":
                part: Any = load_file(file)
            else:
                part = torch.load(file, map_location="cpu", weights_only=True)
        except (SafetensorError, OSError) as error:
            reason = first_line(error)
            raise ConfigError(f"encoder '{name}': '{file}' cannot be read: {reason}; fetch it again") from error
        except Exception as error:  # torch raises many kinds for a file that is no plain checkpoint
            raise ConfigError(
                f"encoder '{name}': '{file}' holds more than tensors, or is damaged, and pickled objects are never "
                f"loaded ({first_line(error)}); convert it to safetensors on a machine you can spare"
            ) from error
        state |= _unwrapped(name, file, part)
    return state


def _unwrapped(name: str, file: Path, part: Any) -> State:
    """The tensors of a checkpoint that may wrap them once, and may prefix them with ``module.``."""
    for key in ("model", "state_dict"):
        if isinstance(part, Mapping) and isinstance(part.get(key), Mapping):
            part = part[key]
    tensors = {k: v for k, v in part.items() if isinstance(v, Tensor)} if isinstance(part, Mapping) else {}
    if numbered := [key for key in tensors if not isinstance(key, str)]:
        raise ConfigError(f"encoder '{name}': '{file}' names a tensor {numbered[0]!r}; expected weights named by words")
    if not tensors:
        raise ConfigError(f"encoder '{name}': '{file}' holds no tensors; expected a checkpoint's weights")
    return {key.removeprefix("module."): value for key, value in tensors.items()}


def first_line(error: BaseException) -> str:
    """The first line of what a library said."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__)[:200]
