"""Small slides with known pixels, written where a test asks for them."""

from pathlib import Path

import cv2
import numpy as np
import tifffile
from numpy.typing import NDArray

Pixels = NDArray[np.uint8]


def smooth_picture(height: int, width: int, seed: int = 0) -> Pixels:
    """Blobs of colour some tens of pixels wide: sub-pixel shifts show, compression hardly does."""
    rng = np.random.default_rng(seed)
    small = rng.integers(0, 256, (height // 24 + 3, width // 24 + 3, 3), np.uint8)
    return cv2.resize(small, (width, height), interpolation=cv2.INTER_CUBIC)


def write_pyramid(
    path: Path,
    levels: list[Pixels],
    *,
    mpp: float | None = 0.25,
    compression: str | None = "deflate",
    tile: int = 128,
    description: str | None = None,
    **options: object,
) -> Path:
    """A tiled TIFF with one page a level; ``mpp`` goes into the resolution tags."""
    with tifffile.TiffWriter(path) as writer:
        for number, level in enumerate(levels):
            per_cm = (1e4 / mpp, 1e4 / mpp) if mpp else None
            writer.write(
                level,
                tile=(tile, tile),
                photometric="rgb",
                compression=compression,
                resolution=per_cm if number == 0 else None,
                resolutionunit="CENTIMETER" if mpp and number == 0 else None,
                subfiletype=0 if number == 0 else 1,
                description=description,
                metadata=None,
                **options,
            )
    return path


def halved(picture: Pixels, factor: int) -> Pixels:
    """The exact mean over ``factor × factor`` blocks (sizes must divide)."""
    height, width = picture.shape[0] // factor, picture.shape[1] // factor
    blocks = picture[: height * factor, : width * factor].reshape(height, factor, width, factor, 3)
    return np.rint(blocks.mean(axis=(1, 3))).astype(np.uint8)


def exact_box(picture: Pixels, x: float, y: float, width: float, height: float, out: tuple[int, int]) -> Pixels:
    """Box resampling from its definition, one output pixel at a time; outside the picture is white."""
    pad = int(max(width, height, 8)) + 8
    framed = np.pad(picture.astype(float), ((pad, pad), (pad, pad), (0, 0)), constant_values=255)
    result = np.zeros((out[1], out[0], 3))
    for j in range(out[1]):
        rows, down = covered(y + j * height / out[1], y + (j + 1) * height / out[1])
        for i in range(out[0]):
            columns, across = covered(x + i * width / out[0], x + (i + 1) * width / out[0])
            part = framed[rows.start + pad : rows.stop + pad, columns.start + pad : columns.stop + pad]
            result[j, i] = np.einsum("r,c,rck->k", down, across, part) / (down.sum() * across.sum())
    return np.rint(result).astype(np.uint8)


def area_mean(picture: Pixels, x: float, y: float, width: float, height: float, out: tuple[int, int]) -> Pixels:
    """As :func:`exact_box` within the picture, by its integral: fast enough for hundreds of files."""
    integral = np.zeros((picture.shape[0] + 1, picture.shape[1] + 1, 3))
    integral[1:, 1:] = picture.cumsum(axis=0, dtype=float).cumsum(axis=1)

    def at(edges: NDArray[np.float64], values: NDArray[np.float64], axis: int) -> NDArray[np.float64]:
        low = np.clip(np.floor(edges).astype(int), 0, values.shape[axis] - 2)
        share = (edges - low).reshape([-1 if a == axis else 1 for a in range(3)])
        return values.take(low, axis) * (1 - share) + values.take(low + 1, axis) * share

    corners = at(y + np.arange(out[1] + 1) * (height / out[1]), integral, 0)
    corners = at(x + np.arange(out[0] + 1) * (width / out[0]), corners, 1)
    sums = np.diff(np.diff(corners, axis=0), axis=1)
    return np.rint(sums * (out[0] * out[1] / (width * height))).astype(np.uint8)


def covered(low: float, high: float) -> tuple[range, NDArray[np.float64]]:
    """The pixels an interval touches, and how much of each it covers."""
    pixels = range(int(np.floor(low)), int(np.ceil(high)))
    return pixels, np.array([min(high, p + 1) - max(low, p) for p in pixels])
