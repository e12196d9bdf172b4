"""What preparation and scanning add: folds, bubbles, blur, pen and dust."""

import cv2
import numpy as np
from numpy.typing import NDArray

from pathflip.simulate.world import FINDINGS, LABELS, World

__all__ = ["spoil_glass", "spoil_tissue"]

_FINDING_IDS = np.array([LABELS.index(name) for name in FINDINGS])


def spoil_tissue(
    stains: NDArray[np.uint8], labels: NDArray[np.uint8], world: World, rng: np.random.Generator
) -> NDArray[np.bool_]:
    """Fold or tear-out the tissue here and there, away from findings; label cells whose tissue can no longer be read.

    Works on stain amounts in place: a fold is tissue lying double.
    """
    hidden = np.zeros(labels.shape, bool)
    if rng.random() < 0.35:
        hidden |= _fold(stains, labels, world, rng)
    if rng.random() < 0.15:
        hidden |= _out_of_focus(stains, labels, world, rng)
    return hidden


def _place_apart(
    labels: NDArray[np.uint8], shape: NDArray[np.uint8], rng: np.random.Generator
) -> tuple[int, int] | None:
    """A top-left label cell where ``shape`` lies on tissue and touches no finding; None if ten tries find none."""
    blocked = np.isin(labels, _FINDING_IDS)
    height, width = shape.shape
    for _ in range(10):
        y = int(rng.integers(0, max(1, labels.shape[0] - height)))
        x = int(rng.integers(0, max(1, labels.shape[1] - width)))
        window = (slice(y, y + height), slice(x, x + width))
        cells = shape[: labels.shape[0] - y, : labels.shape[1] - x] > 0
        if (labels[window] > 0)[cells].mean() > 0.7 and not (blocked[window] & cells).any():
            return x, y
    return None


def _curve(length: int, width: int, rng: np.random.Generator, thickness: int) -> NDArray[np.uint8]:
    """A bent stroke in a box of ``length`` × ``width`` cells, 255 inside."""
    canvas = np.zeros((width, length), np.uint8)
    t = np.linspace(0, 1, 24)
    sway = np.sin(t * np.pi * rng.uniform(0.6, 1.6) + rng.uniform(0, 2)) * 0.3 + 0.5
    points = np.stack([(0.08 + 0.84 * t) * (length - 1), sway * (width - 1)], axis=1)
    cv2.polylines(canvas, [np.rint(points).astype(np.int32)], False, 255, thickness, cv2.LINE_AA)
    return canvas


def _fold(
    stains: NDArray[np.uint8], labels: NDArray[np.uint8], world: World, rng: np.random.Generator
) -> NDArray[np.bool_]:
    side, step = labels.shape[0], world.label_px
    shape = _curve(max(8, int(side * rng.uniform(0.16, 0.30))), max(6, side // 12), rng, 2)
    shape = shape if rng.random() < 0.5 else np.ascontiguousarray(shape.T)
    hidden = np.zeros(labels.shape, bool)
    spot = _place_apart(labels, shape, rng)
    if spot is None:
        return hidden
    x, y = spot
    cells = shape[: side - y, : side - x]
    view = stains[y * step : (y + cells.shape[0]) * step, x * step : (x + cells.shape[1]) * step]
    mask = cv2.resize(cells, (view.shape[1], view.shape[0]), interpolation=cv2.INTER_CUBIC)
    weight = np.clip((mask.astype(np.float32) - 90) / 60, 0, 1)[..., None]
    double = np.maximum(view.astype(np.float32), cv2.blur(np.roll(view, 37, axis=0), (9, 9)).astype(np.float32) * 0.9)
    tissue = (view.max(axis=2) > 0)[..., None]
    view[:] = np.clip(view + weight * tissue * (double * 0.8 + 12), 0, 255).astype(np.uint8)
    hidden[y : y + cells.shape[0], x : x + cells.shape[1]] = cells > 120
    return hidden & (labels > 0)


def _out_of_focus(
    stains: NDArray[np.uint8], labels: NDArray[np.uint8], world: World, rng: np.random.Generator
) -> NDArray[np.bool_]:
    side, step = labels.shape[0], world.label_px
    size = max(6, side // 9)
    shape = np.zeros((size, size), np.uint8)
    cv2.ellipse(shape, (size // 2, size // 2), (size // 2 - 1, size // 3), float(rng.uniform(0, 180)), 0, 360, 255, -1)
    hidden = np.zeros(labels.shape, bool)
    spot = _place_apart(labels, shape, rng)
    if spot is None:
        return hidden
    x, y = spot
    view = stains[y * step : (y + size) * step, x * step : (x + size) * step]
    mask = cv2.GaussianBlur(cv2.resize(shape, (size * step, size * step)), (0, 0), step / 2).astype(np.float32) / 255
    soft = cv2.GaussianBlur(view, (0, 0), 5.0)
    view[:] = (view + mask[..., None] * (soft.astype(np.float32) - view)).astype(np.uint8)
    hidden[y : y + size, x : x + size] = shape > 0
    return hidden & (labels > 0)


def spoil_glass(
    rgb: NDArray[np.uint8],
    tissue: NDArray[np.bool_],
    hidden: NDArray[np.bool_],
    world: World,
    rng: np.random.Generator,
) -> None:
    """Dust everywhere, sometimes pen marks and air bubbles on the glass; changes ``rgb`` in place."""
    _dust(rgb, rng)
    near = cv2.dilate((tissue | hidden).astype(np.uint8), np.ones((5, 5), np.uint8)) > 0
    if rng.random() < 0.25:
        _pen(rgb, near, world, rng)
    if rng.random() < 0.25:
        _bubble(rgb, near, world, rng)


def _dust(rgb: NDArray[np.uint8], rng: np.random.Generator) -> None:
    side = len(rgb)
    for _ in range(int(rng.integers(3, 14) * (side / 2048) ** 2) + 1):
        centre = tuple(int(v) for v in rng.integers(0, side, 2))
        axes = (int(rng.integers(1, 4)), int(rng.integers(1, 3)))
        shade = int(rng.integers(60, 190))
        cv2.ellipse(rgb, centre, axes, float(rng.uniform(0, 180)), 0, 360, (shade, shade, shade - 10), -1, cv2.LINE_AA)
    if rng.random() < 0.2:
        points = np.cumsum(rng.normal(0, 9, (14, 2)) + rng.normal(0, 7, 2), axis=0) + rng.integers(0, side, 2)
        cv2.polylines(rgb, [points.astype(np.int32)], False, (120, 125, 140), 2, cv2.LINE_AA)


def _pen(rgb: NDArray[np.uint8], near: NDArray[np.bool_], world: World, rng: np.random.Generator) -> None:
    """A felt-pen stroke on free glass (never over tissue: reports do not speak of what is under it)."""
    side, step = near.shape[0], world.label_px
    stroke = _curve(side // 3, max(6, side // 16), rng, max(1, side // 64))
    stroke = stroke if rng.random() < 0.5 else np.ascontiguousarray(stroke.T)
    y = int(rng.integers(0, max(1, side - stroke.shape[0])))
    x = int(rng.integers(0, max(1, side - stroke.shape[1])))
    cells = np.where(near[y : y + stroke.shape[0], x : x + stroke.shape[1]], 0, stroke)
    view = rgb[y * step : (y + cells.shape[0]) * step, x * step : (x + cells.shape[1]) * step]
    alpha = cv2.resize(cells, (view.shape[1], view.shape[0]), interpolation=cv2.INTER_LINEAR).astype(np.float32)
    ink = np.array([(25, 60, 170), (20, 120, 60), (30, 30, 35)][int(rng.integers(3))], np.float32)
    weight = np.clip((alpha - 100) / 60, 0, 1)[..., None] * np.float32(rng.uniform(0.6, 0.85))
    view[:] = (view + weight * (ink * view / 245 - view)).astype(np.uint8)


def _bubble(rgb: NDArray[np.uint8], near: NDArray[np.bool_], world: World, rng: np.random.Generator) -> None:
    side, step = near.shape[0], world.label_px
    radius = int(rng.uniform(0.02, 0.05) * side) + 2
    for _ in range(10):
        x, y = (int(v) for v in rng.integers(radius, side - radius, 2))
        if not near[y - radius : y + radius, x - radius : x + radius].any():
            centre = (x * step, y * step)
            cv2.circle(rgb, centre, radius * step - step, (205, 206, 208), 5, cv2.LINE_AA)
            cv2.circle(rgb, centre, radius * step - step - 5, (250, 250, 250), 2, cv2.LINE_AA)
            return
