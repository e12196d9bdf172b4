"""What every way of reading a slide has in common: pixels by pyramid level, and the errors of a read."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from pathflip.errors import SlideError, SlideLostError
from pathflip.geometry import Box, SlideInfo

__all__ = [
    "BatchReader",
    "Color",
    "NotHereError",
    "Pixels",
    "Read",
    "Rectangle",
    "Source",
    "flatten",
    "read_error",
]

Pixels = NDArray[np.uint8]
Color = tuple[int, int, int]


class Rectangle(NamedTuple):
    """What :meth:`Source.read` takes."""

    level: int
    x: int
    y: int
    width: int
    height: int
    halvings: int = 0


Read = Callable[[Rectangle], tuple[Pixels, float, float]]


class BatchReader(NamedTuple):
    """How the rectangles of a batch are read.

    Attributes:
        read: as :meth:`Source.read`.
        shared: whether several threads are faster than one.
    """

    read: Read
    shared: bool


class NotHereError(Exception):
    """Why another way of reading is to be tried; the text is shown by ``pathflip info``."""


class Source(ABC):
    """Pixels by pyramid level. Reads are thread-safe and raise SlideError, for that read only."""

    info: SlideInfo
    sizes: tuple[tuple[int, int], ...]
    background: Color

    @abstractmethod
    def read(
        self, level: int, x: int, y: int, width: int, height: int, halvings: int = 0
    ) -> tuple[Pixels, float, float]:
        """A rectangle of a level (halved ``halvings`` times), and where it really starts.

        Args:
            level: pyramid level.
            x, y, width, height: the rectangle, in pixels of the level divided by ``2 ** halvings``.
            halvings: how often the source should halve while decoding; at most what :meth:`halvings` returned.

        Returns:
            uint8 (height, width, 3), background beyond the edge; and by how much (x, y) the first pixel's corner
            lies beyond the corner asked for, in those pixels (0 for sources that store exact levels).
        """

    def reader_of(self, rectangles: Sequence[Rectangle]) -> "BatchReader":
        """:meth:`read` for each of these rectangles once, from any thread, in about this order.

        Knowing them all, a source keeps what several of them need, and no longer than they do.
        """
        return BatchReader(lambda rectangle: self.read(*rectangle), shared=True)

    def halvings(self, level: int, downsample: float) -> int:
        """How often this source can halve a level while decoding, when it is wanted ``downsample`` times smaller."""
        return 0

    def stored_tile_px(self, level: int) -> tuple[int, int] | None:
        """Width and height of the tiles a level is stored in, where they can be handed on as they are."""
        return None

    def stored_jpeg(self, level: int, column: int, row: int) -> bytes | None:
        """One stored tile as a JPEG file of its own, not decoded and compressed again; None where there is none."""
        return None

    def absent_boxes(self) -> list[Box]:
        """Rectangles of level 0 that the file leaves out, and which are shown as background."""
        return []

    def close(self) -> None:
        """Release the file."""
        return None


def read_error(path: Path, message: str) -> SlideError:
    """The error for a read that failed: ``message``, or that the file itself can no longer be reached."""
    try:
        with open(path, "rb") as handle:
            handle.read(1)
    except OSError as error:
        return SlideLostError(f"slide '{path}': could be read, and now no longer: {error.strerror or error}")
    return SlideError(" ".join(message.split()))


def flatten(rgba: NDArray[np.uint8], background: Color) -> Pixels:
    """RGBA (rows, columns, 4) over a background colour: uint8 RGB."""
    alpha = rgba[..., 3]
    if alpha.min(initial=255) == 255:
        return np.ascontiguousarray(rgba[..., :3])
    share = alpha[..., None].astype(np.float32) / 255
    mixed = rgba[..., :3] * share + np.asarray(background, np.float32) * (1 - share)
    return np.rint(mixed).astype(np.uint8)
