"""A slide whose file says that its rows and columns run another way (TIFF tag 274, EXIF orientation)."""

from dataclasses import replace

import numpy as np

from pathflip.errors import SlideError
from pathflip.geometry import Box
from pathflip.slide.sources.source import Pixels, Source

__all__ = ["OrientedSource", "oriented", "turned"]

_TURNS = {2: (False, True, False), 3: (False, True, True), 4: (False, False, True), 5: (True, False, False)}
_TURNS |= {6: (True, True, False), 7: (True, True, True), 8: (True, False, True)}
"""By orientation: are rows and columns exchanged, then is left and right, then top and bottom (TIFF 6.0, p. 36)."""


def oriented(source: Source, orientation: int) -> Source:
    """``source`` as it is to be looked at; itself where its first row is the top and its first column the left."""
    return OrientedSource(source, orientation) if orientation in _TURNS else source


def turned(pixels: Pixels, orientation: int) -> Pixels:
    """A stored picture as it is to be looked at."""
    swap, mirror, flip = _TURNS.get(orientation, (False, False, False))
    pixels = pixels.swapaxes(0, 1) if swap else pixels
    return np.ascontiguousarray(pixels[:: -1 if flip else 1, :: -1 if mirror else 1])


class OrientedSource(Source):
    """Another source, turned or mirrored while it is read."""

    def __init__(self, source: Source, orientation: int) -> None:
        self._source = source
        self._orientation = orientation
        self._swap, self._mirror, self._flip = _TURNS[orientation]
        self.background = source.background
        self.sizes = tuple(self._swapped(size) for size in source.sizes)
        note = f"turned as its orientation tag says ({orientation})"
        info = source.info
        self.info = replace(info, size0=self._swapped(info.size0), notes=(*info.notes, note))

    def _swapped(self, size: tuple[int, int]) -> tuple[int, int]:
        return (size[1], size[0]) if self._swap else size

    def read(
        self, level: int, x: int, y: int, width: int, height: int, halvings: int = 0
    ) -> tuple[Pixels, float, float]:
        full_w, full_h = self.sizes[level]
        left = full_w - x - width if self._mirror else x
        top = full_h - y - height if self._flip else y
        if self._swap:
            left, top, width, height = top, left, height, width
        pixels, dx, dy = self._source.read(level, left, top, width, height)
        if dx or dy:
            raise SlideError(
                f"slide '{self.info.slide_id}': level {level} starts between two pixels, and the orientation tag says "
                f"{self._orientation}; expected 1 (upright) for such levels: save the slide upright"
            )
        # A level of rounded size covers a little more or less than the slide; mirrored, that lies before its corner.
        scale, size0 = self.info.downsamples[level], self.info.size0
        before = size0[0] / scale - full_w if self._mirror else 0.0, size0[1] / scale - full_h if self._flip else 0.0
        return turned(pixels, self._orientation), before[0], before[1]

    def absent_boxes(self) -> list[Box]:
        width0, height0 = self.info.size0
        boxes = []
        for box in self._source.absent_boxes():
            x, y, width, height = (
                (box.y, box.x, box.height, box.width) if self._swap else (box.x, box.y, box.width, box.height)
            )
            x, y = width0 - x - width if self._mirror else x, height0 - y - height if self._flip else y
            boxes.append(Box(x, y, width, height))
        return boxes

    def close(self) -> None:
        self._source.close()
