"""Folders of models in Hugging Face's layout: what their files say is compared before anything is built from them.

transformers fills what a folder's weights lack with random numbers and goes on, and builds whatever its configuration
says, a thousand million layers too.
"""

import json
import re
import struct
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from pathflip.errors import ConfigError

__all__ = ["check_model_folder", "refuse_missing_weights", "stored_shapes"]

_MOST_HEADER_BYTES = 2**28
_MOST_LAYERS = 10_000
_COUNTS_LAYERS = re.compile(r"(num|n)_(\w+_)?layers?|(encoder|decoder)_layers")
"""Not every setting with "layers" in its name: Qwen's ``max_window_layers`` is 28 in models of two layers, too."""
_UNUSED = ("pooler.",)
"""Parts that nothing here uses, and that folders leave out."""


def check_model_folder(folder: Path, what: str, weights: Path | None = None) -> None:
    """Refuse a configuration that asks for more layers than there are weights, before it is built.

    Args:
        folder: holds ``config.json`` and weights in ``*.safetensors``; without any, some thousand layers are allowed.
        what: for messages, for example "language model 'x'".
        weights: a file of weights elsewhere.

    Raises:
        ConfigError: ``config.json`` is missing, no JSON object, or asks for the impossible; damaged weights.
    """
    file = folder / "config.json"
    try:
        config = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        reason = error.strerror if isinstance(error, OSError) else type(error).__name__
        raise ConfigError(f"{what}: '{file}' cannot be read ({reason}); copy the folder again") from None
    if not isinstance(config, dict):
        raise ConfigError(f"{what}: '{file}' holds a {type(config).__name__}, expected a JSON object of settings")
    files = [weights] if weights is not None else sorted(folder.glob("*.safetensors"))
    tensors = sum(len(stored_shapes(path)) for path in files)
    most = tensors if files else _MOST_LAYERS
    for name, value in _layer_counts(config):
        if value > most:
            but = f"but its weights are {tensors} tensors" if files else "which no model has"
            raise ConfigError(f"{what}: '{file}' asks for {value} layers ({name}), {but}: copy the folder again")


def _layer_counts(config: Mapping[str, Any], depth: int = 0) -> Iterator[tuple[str, int]]:
    """Every whole number that says how many layers are built, also of a model's parts."""
    for name, value in config.items():
        if isinstance(value, dict) and depth < 3:
            yield from _layer_counts(value, depth + 1)
        elif _COUNTS_LAYERS.fullmatch(str(name)) and isinstance(value, int) and not isinstance(value, bool):
            yield str(name), value


def stored_shapes(file: Path) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the tensors in a safetensors file, from its header alone.

    Raises:
        ConfigError: damaged.
    """
    try:
        with open(file, "rb") as handle:
            (size,) = struct.unpack("<Q", handle.read(8))
            if size > min(_MOST_HEADER_BYTES, file.stat().st_size):
                raise ValueError(f"a header of {size} bytes")
            header = json.loads(handle.read(size))
            return {name: tuple(map(int, row["shape"])) for name, row in header.items() if name != "__metadata__"}
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError, struct.error) as error:
        reason = " ".join(str(error).split())[:100] or type(error).__name__
        raise ConfigError(f"'{file}': not readable safetensors weights ({reason}); copy the folder again") from None


def refuse_missing_weights(what: str, loading: Mapping[str, Iterable[Any]]) -> None:
    """Refuse a model of which some weights were not in its folder: transformers has filled them with random numbers.

    Args:
        what: for messages.
        loading: what ``from_pretrained(…, output_loading_info=True)`` returns beside the model.

    Raises:
        ConfigError: weights are missing, or of another shape.
    """
    missing = sorted(str(name) for name in loading.get("missing_keys") or ())
    missing = [name for name in missing if not any(part in name for part in _UNUSED)]
    other = sorted(
        str(row[0] if isinstance(row, tuple | list) else row) for row in loading.get("mismatched_keys") or ()
    )
    if missing or other:
        raise ConfigError(
            f"{what}: its weights lack {len(missing)} of the tensors that config.json asks for and have {len(other)} "
            f"of another shape (first '{(missing + other)[0]}'); the two are not of one model: copy the folder again"
        )
