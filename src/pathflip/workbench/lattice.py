"""A heatmap as a page draws it: one number a cell of the lattice its tiles were cut on."""

import base64
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from pathflip.types import Heatmap

__all__ = ["answer_row", "heat_lattice"]

TOP_REGIONS = 8


def answer_row(heatmap: "Heatmap", notes: Sequence[str] = ()) -> dict[str, Any]:
    """Everything a page shows of a heatmap: the map, the best places, and what must be said of it."""
    from pathflip.plots import top_tiles

    regions = [
        {"x": box.x, "y": box.y, "width": box.width, "height": box.height, "score": round(score, 4)}
        for box, score in top_tiles(heatmap, TOP_REGIONS)
    ]
    absence = ["States an absence: the map shows where it would be."] if heatmap.negated else []
    return {
        "text": heatmap.text,
        "notes": [*notes, *absence],
        "unknown": False,
        "negated": heatmap.negated,
        "presence": None if math.isnan(heatmap.presence) else round(heatmap.presence, 3),
        "regions": regions,
        "map": heat_lattice(heatmap),
    }


def heat_lattice(heatmap: "Heatmap") -> dict[str, Any]:
    """Scores on the lattice the tiles were cut on, as 16-bit steps between the smallest and the largest (0: no tile).

    Where tiles overlap, a cell is the mean of those over it.
    """
    grid = heatmap.grid
    step = grid.spec.stride_px0(grid.info)
    cells = grid.cells()
    reach = max(1, round(grid.tile_px0 / step))
    columns, rows = (cells.max(axis=0) + reach).tolist() if len(cells) else (0, 0)
    total, count = np.zeros((rows, columns)), np.zeros((rows, columns))
    valid = np.isfinite(heatmap.scores)
    for down in range(reach):
        for right in range(reach):
            np.add.at(total, (cells[valid, 1] + down, cells[valid, 0] + right), heatmap.scores[valid])
            np.add.at(count, (cells[valid, 1] + down, cells[valid, 0] + right), 1)
    mean = total / np.maximum(count, 1)
    shown = mean[count > 0]
    low, high = (float(shown.min()), float(shown.max())) if len(shown) else (0.0, 0.0)
    scaled = np.where(count > 0, 1 + (mean - low) / max(high - low, 1e-9) * 65534, 0)
    corner = grid.coords.min(axis=0).tolist() if len(grid) else [0, 0]
    return {
        "x": corner[0],
        "y": corner[1],
        "step": step,
        "columns": columns,
        "rows": rows,
        "low": low,
        "high": high,
        "cells": base64.b64encode(np.rint(scaled).astype("<u2").tobytes()).decode("ascii"),
    }
