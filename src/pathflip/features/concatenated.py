"""Several encoders side by side: ``load_encoder("efficientnet_lite0+stain_texture")``.

Each encoder sees the same tiles, and its vector stands behind that of the one before it, as it is. What reads the
features (a model, a nearest-neighbour search) standardises each number for itself.
"""

import re
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from pathflip.errors import ConfigError
from pathflip.features.encoder_protocol import Encoder

__all__ = ["Concatenated", "split_encoders"]

_KINDS = ("hf", "timm", "onnx", "torchscript")
"""What may stand before a colon in a reference."""


def split_encoders(reference: str, names: Collection[str]) -> list[str]:
    """``"uni_v1=models/uni+stain_texture"`` to ``["uni_v1=models/uni", "stain_texture"]``.

    A plus sign separates where an encoder's name (or ``hf:``, ``timm:``, ``onnx:``, ``torchscript:``) follows it,
    unless it belongs to a file or folder that is there.

    Raises:
        ConfigError: an encoder stands twice.
    """
    place = re.sub(rf"^(?:(?:{'|'.join(_KINDS)}):)?(?:[\w.-]+=)?", "", reference)
    if place and Path(place).expanduser().exists():
        return [reference]
    known = "|".join(re.escape(name) for name in sorted(names, key=len, reverse=True))
    parts = re.split(rf"\+(?=(?:{known})(?:[+=]|$)|(?:{'|'.join(_KINDS)}):)", reference)
    if twice := [part for part in parts if parts.count(part) > 1]:
        raise ConfigError(f"encoder '{reference}': '{twice[0]}' stands twice; expected each encoder once")
    return parts


class Concatenated:
    """Encoders side by side; satisfies :class:`~pathflip.features.Encoder`.

    Args:
        encoders: two or more. Tiles are cut for all of them alike, so those that want a tile size or a resolution must
            want the same.

    Raises:
        ConfigError: they want tiles of different sides or resolutions.
    """

    def __init__(self, encoders: Sequence[Encoder]) -> None:
        self.encoders = tuple(encoders)
        self.name = "+".join(encoder.name for encoder in encoders)
        self.revision = "+".join(encoder.revision for encoder in encoders)
        self.dim = sum(encoder.dim for encoder in encoders)
        self.tile_px: int | None = self._agreed("tile_px", "tile side, pixels")
        self.mpp: float | None = self._agreed("mpp", "resolution, µm per pixel")
        self.sample_tiles = max(encoder.sample_tiles for encoder in encoders)
        self.reentrant = all(getattr(encoder, "reentrant", False) for encoder in encoders)
        self.device = next((e.device for e in encoders if hasattr(e, "device")), "cpu")
        rows = [row for e in encoders if (row := getattr(e, "row", None)) is not None]
        self.row = next((row for row in rows if row.tile_px is not None or row.mpp), rows[0] if rows else None)

    def _agreed(self, what: str, words: str) -> Any:
        wanted = {encoder.name: value for encoder in self.encoders if (value := getattr(encoder, what)) is not None}
        if len(set(wanted.values())) > 1:
            listed = ", ".join(f"{name} {value:g}" for name, value in wanted.items())
            raise ConfigError(
                f"encoder '{self.name}': got {words}: {listed}; expected encoders that want the same tiles"
            )
        return next(iter(wanted.values()), None)

    def prepare(self, sample: NDArray[np.uint8]) -> tuple[Any, ...]:
        """What each encoder measures of a slide, on the sample uint8 (n, px, px, 3) it wants."""
        return tuple(encoder.prepare(sample[: encoder.sample_tiles]) for encoder in self.encoders)

    def encode(self, tiles: NDArray[np.uint8] | Tensor, state: tuple[Any, ...] | None = None) -> NDArray[np.float32]:
        """Vectors float32 (n, dim) of tiles uint8 (n, px, px, 3), the first encoder's numbers first."""
        states = state or (None,) * len(self.encoders)
        parts = [encoder.encode(tiles, own) for encoder, own in zip(self.encoders, states, strict=True)]
        return np.concatenate(parts, axis=1)
