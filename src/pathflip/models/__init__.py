"""Models: tensors in, tensors out; no model knows a file. Configs stand beside models; ``kind`` tells them apart."""

from collections.abc import Mapping
from importlib import import_module
from typing import Any

from pathflip.errors import ConfigError

__all__ = ["KINDS", "build_config", "build_model"]

KINDS: dict[str, tuple[str, str, str]] = {
    "pathflip": ("pathflip.models.pathflip", "PathFLIP", "PathFLIPConfig"),
    "published": ("pathflip.published.qformer_model", "PublishedPathFLIP", "PublishedConfig"),
    "perceiver": ("pathflip.published.latent_model", "PerceiverPathFLIP", "PerceiverConfig"),
    "clip": ("pathflip.models.clip", "SlideCLIP", "ClipConfig"),
}
"""kind -> (module, model class, config class), imported on first use: the published models stand above this layer."""


def build_config(values: Mapping[str, Any]) -> Any:
    """The config that ``values`` (with its ``kind``) describes.

    Raises:
        ConfigError: the kind is unknown, or a setting is unknown, missing or out of range.
    """
    from pydantic import ValidationError

    kind = values.get("kind")
    if kind not in KINDS:
        raise ConfigError(f"model kind: got {kind!r}, expected one of {', '.join(KINDS)}")
    module, _, name = KINDS[kind]
    try:
        return getattr(import_module(module), name)(**values)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "(all)"
        raise ConfigError(f"model {kind}, setting {where}: {first['msg']} (got {first['input']!r})") from error


def build_model(config: Any) -> Any:
    """The untrained model of a config, or of the mapping a config was saved as."""
    if isinstance(config, Mapping):
        config = build_config(config)
    kind = getattr(config, "kind", None)
    if kind not in KINDS:
        raise ConfigError(f"model kind: got {kind!r}, expected one of {', '.join(KINDS)}")
    module, name, _ = KINDS[kind]
    return getattr(import_module(module), name)(config)
