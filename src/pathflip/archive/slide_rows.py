"""What an archive keeps of one slide: its feature file encoded, its vectors and thumbnail as columns of the table."""

import io
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from pathflip.archive.covering import cover, from_int8, to_int8
from pathflip.archive.text_vectors import TextProbe
from pathflip.errors import FeatureError, PathFLIPError
from pathflip.features import read_features
from pathflip.inference import Aligned, EncodedSlide, encode_slide
from pathflip.io.slide_id import slide_id
from pathflip.io.storage import local_copy, shown
from pathflip.types import SlideCode

__all__ = ["EncodedRow", "IndexJob", "encode_row", "tile_boxes", "unit_vector"]

THUMBNAIL_PX = 256


@dataclass(frozen=True)
class IndexJob:
    """A slide to encode: its feature file, and its slide file where a thumbnail is wanted."""

    slide_id: str
    file: Path
    patches_a_slide: int
    slide_file: Path | None = None


@dataclass(frozen=True, eq=False)
class EncodedRow:
    """The columns of a slide, or ``error``: why there are none."""

    slide_id: str
    columns: dict[str, Any] = field(default_factory=dict)
    error: str = ""


def encode_row(model: Aligned, probe: TextProbe, job: IndexJob) -> EncodedRow:
    """Encode one slide. Whatever is wrong with its files becomes an error of its own."""
    try:
        with local_copy(job.file) as local:
            features = read_features(local)
        encoded = encode_slide(model, features)
        if encoded.slide_id != job.slide_id and slide_id(encoded.slide_id) != job.slide_id:
            raise FeatureError(f"{job.file.name}: holds slide '{encoded.slide_id}'; give it that slide's name")
        columns = _columns(model, probe, encoded, job.patches_a_slide)
        columns |= {"slide_id": job.slide_id, "file": shown(job.file)}
        columns["thumbnail"] = _thumbnail(job.slide_file)
    except PathFLIPError as error:
        return EncodedRow(job.slide_id, error=str(error))
    except OSError as error:
        return EncodedRow(job.slide_id, error=f"{shown(job.file)}: cannot be read ({error.strerror or error})")
    return EncodedRow(job.slide_id, columns)


def _columns(model: Aligned, probe: TextProbe, encoded: EncodedSlide, patches_a_slide: int) -> dict[str, Any]:
    """The vectors of a slide as the table's columns (docs/formats.md)."""
    patches = encoded.code.patches[0].float().cpu().numpy()
    vector = encoded.code.slide[0].float().cpu().numpy()
    mean = patches.mean(axis=0)
    if not (np.isfinite(patches).all() and np.isfinite(vector).all()):
        raise FeatureError(f"slide '{encoded.slide_id}': the model gives NaN or infinity for it; check its features")
    covering = cover(patches, patches_a_slide)
    numbers, scales = to_int8(patches[covering.rows])
    weight = torch.from_numpy(covering.weight.astype(np.float32))[None]
    stored = torch.from_numpy(from_int8(numbers, scales))[None]
    code = SlideCode(encoded.code.slide[:1].float().cpu(), stored, weight > 0, weight)
    unit = unit_vector(vector)
    return {
        "slide_id": encoded.slide_id,
        "num_patches": len(patches),
        "width0": encoded.grid.info.size0[0],
        "height0": encoded.grid.info.size0[1],
        "mean_cosine": covering.mean_cosine,
        "min_cosine": covering.min_cosine,
        "vector": unit,
        "patch_vector": unit_vector(mean),
        "text_vector": np.concatenate([unit, probe.coefficients(model, code)[0]]),
        "patches": numbers.tobytes(),
        "scales": scales.astype("<f4").tobytes(),
        "weights": covering.weight.astype("<i4").tobytes(),
        "boxes": tile_boxes(encoded, covering.rows).astype("<i4").tobytes(),
    }


def tile_boxes(encoded: EncodedSlide, rows: NDArray[np.int64]) -> NDArray[np.int64]:
    """Where patches lie, level-0 pixels, ``(K, 4)`` as x, y, width, height: of a region the box of its tiles."""
    tiles = np.flatnonzero(encoded.row_of_tile >= 0)
    low = encoded.grid.coords[tiles].astype(np.int64)
    high = low + encoded.grid.tile_px0
    size = int(encoded.row_of_tile.max()) + 1
    start, stop = np.full((size, 2), np.iinfo(np.int64).max), np.full((size, 2), -1)
    np.minimum.at(start, encoded.row_of_tile[tiles], low)
    np.maximum.at(stop, encoded.row_of_tile[tiles], high)
    return np.concatenate([start[rows], stop[rows] - start[rows]], axis=1)


def unit_vector(vector: NDArray[np.float32]) -> NDArray[np.float32]:
    """Of length 1."""
    return np.asarray(vector / max(float(np.linalg.norm(vector)), 1e-12), np.float32)


def _thumbnail(slide_file: Path | None) -> bytes | None:
    """A small JPEG of the slide; None where it is not at hand."""
    if slide_file is None:
        return None
    from PIL import Image

    from pathflip.slide import open_slide

    with open_slide(slide_file) as slide:
        picture = Image.fromarray(slide.thumbnail(THUMBNAIL_PX))
    out = io.BytesIO()
    picture.save(out, "JPEG", quality=80)
    return out.getvalue()
