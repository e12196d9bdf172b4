"""A heatmap as people want it: over the slide with a colour bar, as the best tiles, and as QuPath objects."""

import base64
import io
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pathflip.geometry import Box, SlideInfo
from pathflip.io import geojson
from pathflip.io.files import atomic_path
from pathflip.types import Heatmap

__all__ = [
    "draw_heatmap",
    "embedded",
    "heatmap_image",
    "line_with_spread",
    "save_boxes_png",
    "save_curves",
    "save_heatmap_png",
    "save_tiles_geojson",
    "shrunk",
    "top_tiles",
]

COLOR_MAP = "inferno"
RANGE_PERCENTILES = (2.0, 99.5)
LINE_COLOURS = ("#0072b2", "#d98200", "#009e73", "#b8508e", "#6b4fa0", "#555555")
LINE_MARKS = ("o", "s", "^", "D", "v", "P")


def top_tiles(heatmap: Heatmap, k: int = 8, *, apart: bool = True) -> list[tuple[Box, float]]:
    """The k highest-scoring tiles, best first; ``apart`` skips tiles that touch one already taken."""
    order = np.argsort(-np.nan_to_num(heatmap.scores, nan=-np.inf), kind="stable")
    taken: list[int] = []
    reach = 1.5 * heatmap.grid.tile_px0
    for row in order:
        if len(taken) == k or not np.isfinite(heatmap.scores[row]):
            break
        gaps = np.abs(heatmap.grid.coords[taken] - heatmap.grid.coords[row]).max(axis=1) if taken else np.array([])
        if not apart or not (gaps < reach).any():
            taken.append(int(row))
    return [(heatmap.grid.box(row), float(heatmap.scores[row])) for row in taken]


def heatmap_image(heatmap: Heatmap, shape: tuple[int, int]) -> NDArray[np.float32]:
    """Scores painted on a (height, width) canvas that spans level 0; NaN where there is no valid tile.

    Overlapping tiles are averaged.
    """
    return heatmap.as_array(shape)


def draw_heatmap(axes: Any, heatmap: Heatmap, thumbnail: NDArray[np.uint8], *, opacity: float = 0.55) -> Any:
    """Draw thumbnail and scores on matplotlib axes; returns the image for a colour bar."""
    axes.imshow(thumbnail)
    image = heatmap_image(heatmap, thumbnail.shape[:2])
    finite = image[np.isfinite(image)]
    low, high = np.percentile(finite, RANGE_PERCENTILES) if len(finite) else (0.0, 1.0)
    drawn = axes.imshow(image, cmap=COLOR_MAP, alpha=opacity, vmin=low, vmax=max(high, low + 1e-6))
    axes.set_axis_off()
    return drawn


def save_heatmap_png(
    heatmap: Heatmap, thumbnail: NDArray[np.uint8], target: str | Path, *, note: str = "", tiles: int = 5
) -> None:
    """Write slide and heatmap side by side, with a colour bar, the best tiles outlined, and what is shown.

    Args:
        thumbnail: the whole of level 0, RGB.
        note: a line under the title, for example what the picture must not be taken for.
        tiles: how many of the best tiles to outline and number.
    """
    from matplotlib.figure import Figure

    height, width = thumbnail.shape[:2]
    wide = min(2.2, max(0.5, width / height))
    figure = Figure(figsize=(9.6 * wide + 1.6, 5.6), dpi=110, layout="constrained")
    left, right = figure.subplots(1, 2)
    left.imshow(thumbnail)
    left.set_axis_off()
    drawn = draw_heatmap(right, heatmap, thumbnail)
    figure.colorbar(drawn, ax=right, shrink=0.8, label="similarity to the phrase")
    scale = width / heatmap.grid.info.size0[0]
    for rank, (box, _) in enumerate(top_tiles(heatmap, tiles), start=1):
        for axes in (left, right):
            _outline(axes, box, scale, str(rank))
    left.set_title(heatmap.grid.info.slide_id, fontsize=10)
    negation = "  (states an absence: the map shows where it would be)" if heatmap.negated else ""
    right.set_title(f"“{heatmap.text}”{negation}", fontsize=10)
    figure.suptitle(note, fontsize=8, color="#555555")
    with atomic_path(target) as temporary:
        figure.savefig(temporary, format="png")


def save_boxes_png(
    boxes: Sequence[tuple[Box, str]],
    info: SlideInfo,
    thumbnail: NDArray[np.uint8],
    target: str | Path,
    *,
    title: str,
    note: str = "",
) -> None:
    """Write a slide with labelled places outlined.

    Args:
        boxes: places in level-0 pixels, each with its label.
        info: of the slide.
        thumbnail: the whole of level 0, RGB.
        title: what the places stand for. note: a line under the picture, for example what it must not be taken for.
    """
    from matplotlib.figure import Figure

    height, width = thumbnail.shape[:2]
    figure = Figure(figsize=(5.6 * min(2.2, max(0.5, width / height)) + 0.4, 6.2), dpi=110, layout="constrained")
    axes = figure.subplots()
    axes.imshow(thumbnail)
    axes.set_axis_off()
    for box, label in boxes:
        _outline(axes, box, width / info.size0[0], label)
    axes.set_title("\n".join(textwrap.wrap(f"{info.slide_id}: {title}", 70)[:3]), fontsize=9)
    figure.supxlabel("\n".join(textwrap.wrap(note, 90)), fontsize=7, color="#555555")
    with atomic_path(target) as temporary:
        figure.savefig(temporary, format="png")


def line_with_spread(
    axes: Any, place: int, label: str, x: Sequence[float], means: Sequence[float], spreads: Sequence[float]
) -> None:
    """Draw one line of a comparison, the ``place``-th: means with their standard deviations."""
    style = {"color": LINE_COLOURS[place % len(LINE_COLOURS)], "marker": LINE_MARKS[place % len(LINE_MARKS)]}
    axes.errorbar(x, means, yerr=spreads, label=label, capsize=3, linewidth=1.8, **style)


def save_curves(
    panels: Mapping[str, Mapping[str, Sequence[tuple[float, Sequence[float]]]]], target: str | Path, *, x_label: str
) -> None:
    """Write an SVG with a panel a measure: each line's mean and standard deviation against x, on a logarithmic axis;
    what was measured at one x alone is dotted across.

    Args:
        panels: by measure, by line: pairs of x and the values that were measured there.
        target: the picture. x_label: what x is.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(3.4 * len(panels), 3.4), layout="constrained")
    for axes, (measure, lines) in zip(np.atleast_1d(figure.subplots(1, len(panels))), panels.items(), strict=True):
        for place, (label, points) in enumerate(lines.items()):
            x, values = zip(*sorted(points, key=lambda point: point[0]), strict=True)
            spreads = [float(np.std(of_x, ddof=1)) if len(of_x) > 1 else 0.0 for of_x in values]
            means = [float(np.mean(of_x)) for of_x in values]
            line_with_spread(axes, place, label, x, means, spreads)
            if len(means) == 1:  # to compare the others' points with
                axes.axhline(means[0], color=LINE_COLOURS[place % len(LINE_COLOURS)], linestyle=":", linewidth=1)
        ticks = sorted({x for points in lines.values() for x, _ in points})
        axes.set_xscale("log")
        axes.set_xticks(ticks, [str(tick) for tick in ticks])
        axes.minorticks_off()
        axes.set_xlabel(x_label)
        axes.set_title(measure, fontsize=10)
        axes.set_ylim(0, 1)
        axes.spines[["top", "right"]].set_visible(False)
    figure.axes[0].legend(frameon=False, fontsize=8)
    with atomic_path(target) as temporary:
        figure.savefig(temporary, format="svg", metadata={"Date": None})


def _outline(axes: Any, box: Box, scale: float, label: str) -> None:
    from matplotlib.patches import Rectangle

    x, y = box.x * scale, box.y * scale
    axes.add_patch(Rectangle((x, y), box.width * scale, box.height * scale, fill=False, ec="#00a0a0", lw=1.4))
    axes.text(x, y - 2, label, color="#006060", fontsize=8, weight="bold")


def save_tiles_geojson(heatmap: Heatmap, target: str | Path, k: int | None = None) -> None:
    """Write tiles as QuPath objects with the score as a measurement: all (a measurement map), or the best k."""
    scored = (
        top_tiles(heatmap, k)
        if k is not None
        else [(heatmap.grid.box(row), float(score)) for row, score in enumerate(heatmap.scores) if np.isfinite(score)]
    )
    object_type = "tile" if k is None else "annotation"
    geojson.write_features(
        target,
        [
            geojson.feature(
                [geojson.box_ring(box)],
                name=heatmap.text if k is None else f"{heatmap.text} #{rank}",
                info=heatmap.grid.info,
                object_type=object_type,
                classification=heatmap.text,
                measurements={"similarity": score},
            )
            for rank, (box, score) in enumerate(scored, start=1)
        ],
    )


def embedded(picture: NDArray[np.uint8], kind: str = "JPEG") -> str:
    """An RGB image (height, width, 3) as a data address, for a page that fetches nothing."""
    from PIL import Image

    memory = io.BytesIO()
    Image.fromarray(picture).save(memory, kind, **({"quality": 86, "subsampling": 0} if kind == "JPEG" else {}))
    return f"data:image/{kind.lower()};base64,{base64.b64encode(memory.getvalue()).decode('ascii')}"


def shrunk(picture: NDArray[np.uint8], most: int) -> NDArray[np.uint8]:
    """An image whose longer side is at most ``most`` pixels."""
    from PIL import Image

    image = Image.fromarray(picture)
    image.thumbnail((most, most), Image.Resampling.LANCZOS)
    return np.asarray(image)
