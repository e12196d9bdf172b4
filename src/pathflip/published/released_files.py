"""Released files: every tensor in them, under plain names; nothing in a pickle but tensors is ever read."""

import argparse
import json
import re
from collections.abc import Callable, Iterable, Mapping
from hashlib import sha256
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from pathflip.errors import CheckpointError

__all__ = ["digest", "load_tensors", "named", "plain_names", "read_released"]

_WRAPPERS = re.compile(r"^(?:(?:model|module|_forward_module|_orig_mod)\.)+|(?<=\.)_orig_mod\.|base_model\.model\.")
"""Put before names by Lightning, DDP and DeepSpeed, DeepSpeed under Lightning, torch.compile, and PEFT."""
_CONTAINERS = ("state_dict", "model_state_dict", "module", "model")
"""Where Lightning, plain training loops, DeepSpeed and others keep the weights in what they pickle."""
_WHOLE = ("model.safetensors", "pytorch_model.bin")


def read_released(source: str | Path) -> dict[str, Tensor]:
    """All tensors of a released file, or of a folder of shards, under the names they have there.

    Raises:
        CheckpointError: missing, truncated, foreign, or it holds more than tensors.
    """
    source = Path(source)
    if source.is_dir():
        return _read_folder(source)
    if not source.is_file():
        raise CheckpointError(f"{source}: no such file; expected a released checkpoint (.safetensors, .bin or .ckpt)")
    with open(source, "rb") as handle:
        head = handle.read(64)
    if not head:
        raise CheckpointError(f"{source}: is empty; copy it again")
    if head.startswith(b"version https://git-lfs"):
        raise CheckpointError(f"{source}: is a Git LFS pointer, not the weights; fetch them with  git lfs pull")
    header = int.from_bytes(head[:8], "little")  # of safetensors: its length, then a JSON object
    safe = source.suffix == ".safetensors" or (head[8:9] == b"{" and header <= source.stat().st_size)
    loaded = load_tensors(source, load_file if safe else _read_pickle)
    return _weights_inside(source, loaded)


def _read_pickle(file: Path) -> Any:
    # Lightning stores the run's arguments beside the weights; a Namespace is plain attributes, no code.
    with torch.serialization.safe_globals([argparse.Namespace]):
        return torch.load(file, map_location="cpu", weights_only=True)


def load_tensors(file: Path, read: Callable[[Path], Any]) -> Any:
    """Read a file; whatever goes wrong becomes one line."""
    try:
        return read(file)
    except Exception as error:  # a damaged pickle or archive can raise anything
        reason = " ".join(str(error).split())
        forbidden = re.search(r"GLOBAL (\S+)", reason)
        if forbidden:
            raise CheckpointError(
                f"{file}: holds more than tensors ({forbidden[1]}), and nothing but tensors is read from a pickle, so "
                "that no code in it can run; where you trust it, save its state_dict alone, best as .safetensors"
            ) from None
        raise CheckpointError(
            f"{file}: cannot be read ({(reason or type(error).__name__)[:160]}); expected safetensors or a pickle of "
            "tensors: it is truncated or of another program; copy it again"
        ) from error


def _weights_inside(file: Path, loaded: Any) -> dict[str, Tensor]:
    """The state dict in what was read."""
    for _ in range(len(_CONTAINERS)):
        inner = (loaded.get(name) for name in _CONTAINERS) if isinstance(loaded, Mapping) else ()
        loaded = next((value for value in inner if isinstance(value, Mapping)), loaded)
    if not isinstance(loaded, Mapping) or not any(isinstance(value, Tensor) for value in loaded.values()):
        raise CheckpointError(
            f"{file}: holds a {type(loaded).__name__} without tensors; expected parameters by name, plain or under "
            f"{', '.join(_CONTAINERS)}"
        )
    foreign = [str(name) for name, value in loaded.items() if not (isinstance(name, str) and isinstance(value, Tensor))]
    if foreign:
        raise CheckpointError(f"{file}: not tensors: {named(foreign)}; expected nothing but parameters by name")
    return dict(loaded)


def _read_folder(folder: Path) -> dict[str, Tensor]:
    """Shards with an index, or the one whole file in a folder."""
    for name in _WHOLE:
        index = folder / f"{name}.index.json"
        if index.is_file():
            try:
                shards = sorted({Path(shard).name for shard in json.loads(index.read_text())["weight_map"].values()})
            except (ValueError, KeyError, TypeError, AttributeError) as error:
                raise CheckpointError(f"{index}: not an index of shards ({type(error).__name__})") from error
            return {key: value for shard in shards for key, value in read_released(folder / shard).items()}
    if (folder / "config.json").is_file() and "pathflip-checkpoint" in (folder / "config.json").read_text("utf-8"):
        raise CheckpointError(f"{folder}: is a PathFLIP checkpoint already; use it as it is")
    for name in _WHOLE:
        if (folder / name).is_file():
            return read_released(folder / name)
    if any(folder.rglob("*_states.pt")):
        raise CheckpointError(
            f"{folder}: a DeepSpeed folder, its weights in pieces; merge them first:  python zero_to_fp32.py . merged"
        )
    raise CheckpointError(f"{folder}: no {' or '.join(_WHOLE)} in this folder; give the released file")


def digest(source: Path) -> str | None:
    """SHA-256 of a file; None for a folder."""
    if not source.is_file():
        return None
    digest = sha256()
    with open(source, "rb") as handle:
        while block := handle.read(1 << 22):
            digest.update(block)
    return digest.hexdigest()


def plain_names(source: Path, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Parameters without what training wrappers put before their names."""
    plain: dict[str, Tensor] = {}
    for name, value in tensors.items():
        short = _WRAPPERS.sub("", name)
        if short in plain:
            raise CheckpointError(f"{source}: two tensors for {short} once prefixes are taken off; keep one of them")
        plain[short] = value
    return plain


def named(names: Iterable[str]) -> str:
    """All names; many are written once a family, layer numbers as *."""
    names = sorted(names)
    if len(names) <= 20:
        return ", ".join(names) or "none"
    families: dict[str, int] = {}
    for name in names:
        family = re.sub(r"\.\d+\.", ".*.", re.sub(r"\.(weight|bias)$", ".{weight,bias}", name))
        families[family] = families.get(family, 0) + 1
    listed = ", ".join(f"{family} ×{count}" if count > 1 else family for family, count in families.items())
    return f"{len(names)} ({listed})"
