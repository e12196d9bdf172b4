"""One slide to one feature file: read ahead, encode, write. What a whole cohort needs is in ``cohort.py``."""

import errno
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from itertools import chain, islice
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from pathflip.errors import FeatureError, OutputError, PathFLIPError, SlideError, SlideLostError
from pathflip.features.encoder_protocol import Encoder
from pathflip.features.store import write_features
from pathflip.geometry import TileGrid, TileSpec
from pathflip.io.storage import local_copy, remove, shown, state, written_to
from pathflip.slide import Slide, find_tissue, open_slide, tile_slide
from pathflip.slide.artefacts import ArtefactSpec, find_artefacts
from pathflip.slide.resolution_table import SlideResolution
from pathflip.slide.tiling import ExcludedTiles, exclude_artefacts, write_excluded
from pathflip.slide.tissue import TissueSpec
from pathflip.types import SlideFeatures

__all__ = ["ExtractOutcome", "SlideJob", "extract", "failed", "output_error", "read_tiles", "run_job"]

_PIECE = 16
"""Tiles a thread takes at once: few enough that all are busy on a slide of a hundred."""
_THIS_FILE_ONLY = (errno.ENAMETOOLONG, errno.EILSEQ, errno.EINVAL, errno.EISDIR, errno.EFBIG)
"""Reasons why one result cannot be written although others can; any other reason stops the whole run."""


@dataclass(frozen=True)
class ExtractOutcome:
    """What became of one slide.

    Attributes:
        status: "done", "skipped" (finished earlier), "empty" (no tile held enough tissue: no file) or "failed".
        path: the feature file (absent for "empty" and "failed").
        tiles: rows written; ``invalid`` of them could not be read.
        message: why, for "empty" and "failed"; a remark otherwise.
    """

    slide_id: str
    slide: Path
    status: str
    path: Path
    tiles: int = 0
    invalid: int = 0
    seconds: float = 0.0
    message: str = ""
    error: str = ""


def extract(
    slide: Slide,
    grid: TileGrid,
    encoder: Encoder,
    *,
    batch_size: int = 256,
    readers: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> SlideFeatures:
    """Encode the tiles of one slide.

    Args:
        slide: the open slide.
        grid: its tiles.
        encoder: from :func:`~pathflip.features.load_encoder`. Its ``prepare`` sees a seeded sample of the tiles.
        batch_size: tiles encoded at once, at most.
        readers: threads that read ahead, and encode too if the encoder is ``reentrant``; 0 reads between batches.
        progress: called with (tiles done, tiles in all) after every batch.

    Returns:
        One row a tile, in the order of ``grid.coords``. A tile that cannot be read is a zero row with ``valid``
        False.

    Raises:
        SlideError: not a single tile could be read, or the file cannot be reached any more.
        FeatureError: the encoder returned non-finite values.
    """
    total = len(grid)
    matrix = np.zeros((total, encoder.dim), np.float32)
    valid = np.zeros(total, bool)
    done = 0
    for rows, readable, vectors in _encoded(slide, grid, encoder, batch_size, readers):
        matrix[rows[readable]], valid[rows] = vectors, readable
        done += len(rows)
        if progress is not None:
            progress(done, total)
    if total and not valid.any():
        raise SlideError(f"slide '{slide.info.slide_id}': none of its {total} tiles could be read; the file is damaged")
    if not np.isfinite(matrix).all():
        bad = int((~np.isfinite(matrix)).any(axis=1).sum())
        raise FeatureError(
            f"slide '{slide.info.slide_id}': encoder '{encoder.name}' gave NaN or infinity in {bad} rows"
        )
    return SlideFeatures(slide.info.slide_id, matrix, grid.coords, valid, slide.info, grid.spec, encoder.name)


_Rows = NDArray[np.int64]
_Tiles = tuple[_Rows, NDArray[np.uint8], NDArray[np.bool_]]
_Vectors = tuple[_Rows, NDArray[np.bool_], NDArray[np.float32]]


def _encoded(slide: Slide, grid: TileGrid, encoder: Encoder, batch_size: int, readers: int) -> Iterator[_Vectors]:
    """(rows, readable, vectors of the readable ones) of all tiles: first the sample that shows the staining.

    The sample is the same every time: a seeded choice without replacement, in order.
    """
    sample = np.sort(np.random.default_rng(0).permutation(len(grid))[: encoder.sample_tiles])
    others = np.setdiff1d(np.arange(len(grid)), sample)

    def read(rows: _Rows) -> _Tiles:
        return rows, *read_tiles(slide, grid, rows)

    first = list(_ahead(read, _split(sample, _PIECE), readers))
    state = encoder.prepare(np.concatenate([tiles[readable] for _, tiles, readable in first])) if first else None

    def encode(batch: _Tiles) -> _Vectors:
        rows, tiles, readable = batch
        shown = tiles[readable]
        return rows, readable, encoder.encode(shown, state) if len(shown) else np.zeros((0, encoder.dim), np.float32)

    if getattr(encoder, "reentrant", False):
        yield from _ahead(encode, first, readers)
        yield from _ahead(lambda rows: encode(read(rows)), _split(others, min(batch_size, _PIECE)), readers)
    else:
        pieces = _ahead(read, _split(others, _PIECE), readers, batch_size // _PIECE)
        yield from map(encode, chain(first, _joined(pieces, max(1, batch_size // _PIECE))))


def _split(rows: _Rows, size: int) -> list[_Rows]:
    return [rows[start : start + size] for start in range(0, len(rows), size)]


def _joined(pieces: Iterator[_Tiles], count: int) -> Iterator[_Tiles]:
    """``count`` pieces as one, again and again."""
    while parts := list(islice(pieces, count)):
        rows, tiles, readable = zip(*parts, strict=True)
        yield np.concatenate(rows), np.concatenate(tiles), np.concatenate(readable)


_Item = TypeVar("_Item")
_Found = TypeVar("_Found")


def _ahead(
    function: Callable[[_Item], _Found], items: Sequence[_Item], threads: int, more: int = 0
) -> Iterator[_Found]:
    """``function`` of every item, in order, by so many threads that stay at most two items each, and ``more``, ahead;
    0: as asked.

    Each thread computes alone: torch's own threads would only wait for each other's processors.
    """
    if threads == 0:
        yield from map(function, items)
        return
    before = torch.get_num_threads()
    try:
        with ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,)) as pool:
            waiting: deque[Future[_Found]] = deque()
            for item in items:
                waiting.append(pool.submit(function, item))
                if len(waiting) > 2 * threads + more:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
    finally:
        torch.set_num_threads(before)  # the setting of threads to come is one for all of the process


def read_tiles(slide: Slide, grid: TileGrid, rows: NDArray[np.int64]) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    """Read some tiles of a slide.

    Returns:
        uint8 (n, px, px, 3) and which could be read; the others are zeros.

    Raises:
        SlideLostError: the file itself cannot be reached any more.
    """
    px = grid.spec.tile_px
    tiles = np.zeros((len(rows), px, px, 3), np.uint8)
    readable = np.zeros(len(rows), bool)
    for i, (x0, y0) in enumerate(grid.coords[rows].tolist()):
        try:
            tiles[i] = slide.read_tile(x0, y0, grid.spec)
            readable[i] = True
        except SlideLostError:  # not this tile's fault: nothing more can be read, and a later run may read it all
            raise
        except PathFLIPError:  # this tile is damaged; others may be fine
            continue
    return tiles, readable


@dataclass(frozen=True)
class SlideJob:
    """One slide's extraction, from file to file; it can be pickled and done anywhere that sees both files.

    Attributes:
        index: its place in the cohort.
        slide_id: the name its results carry.
        settings: everything the rows depend on; stored in the file.
        batch_size, readers: as for :func:`extract`.
        exclude: leave out tiles that artefacts found in this way have spoilt; None keeps all.
    """

    index: int
    slide_id: str
    slide: Path
    target: Path
    spec: TileSpec
    slide_mpp: SlideResolution | None
    tissue: TissueSpec
    settings: dict[str, Any]
    batch_size: int
    readers: int
    exclude: ArtefactSpec | None = None


def run_job(job: SlideJob, encoder: Encoder, tick: Callable[[int, int], None] | None = None) -> ExtractOutcome:
    """One slide from file to file. Whatever is wrong with the slide becomes an outcome; the batch goes on.

    Raises:
        OutputError: results cannot be written (disk full, no permission): other slides would fare no better.
    """
    started = time.monotonic()
    try:
        features, excluded = _features(job, encoder, tick)
        if features is None:
            return _empty(job, time.monotonic() - started, excluded)
        _write(job, features, excluded)
    except OutputError:
        raise
    except PathFLIPError as error:
        return failed(job, time.monotonic() - started, type(error).__name__, str(error))
    except Exception as error:  # a batch of ten thousand slides must not stop for one
        message = f"slide '{job.slide_id}': {type(error).__name__}: {error}"
        return failed(job, time.monotonic() - started, type(error).__name__, message)
    invalid = int((~features.valid).sum())
    remarks = [f"{invalid} tiles could not be read"] * bool(invalid) + _left_out(excluded)
    return ExtractOutcome(
        job.slide_id, job.slide, "done", job.target, len(features.valid), invalid,
        time.monotonic() - started, "; ".join(remarks),
    )  # fmt: skip


def _left_out(excluded: ExcludedTiles | None) -> list[str]:
    counts = excluded.counts if excluded is not None else {}
    reasons = ", ".join(f"{kind} {count}" for kind, count in counts.items())
    return [f"{sum(counts.values())} tiles excluded ({reasons})"] if counts else []


def _features(
    job: SlideJob, encoder: Encoder, tick: Callable[[int, int], None] | None
) -> tuple[SlideFeatures | None, ExcludedTiles | None]:
    """Features under the job's name (None where no tile holds enough tissue), and the tiles left out."""
    before = state(job.slide)
    with _fetched(job) as path, open_slide(path, slide_mpp=job.slide_mpp) as slide:
        job.spec.downsample(slide.info)  # refuse before any pixel is read
        tissue = find_tissue(slide, job.tissue)
        grid, excluded = tile_slide(slide, tissue, job.spec), None
        if job.exclude is not None:
            artefacts = find_artefacts(slide, tissue, job.exclude)
            grid, excluded = exclude_artefacts(grid, tissue, artefacts, job.exclude.max_share)
        if len(grid) == 0:
            return None, excluded
        slide_features = extract(slide, grid, encoder, batch_size=job.batch_size, readers=job.readers, progress=tick)
    if state(job.slide) != before:
        raise SlideLostError(
            f"slide '{shown(job.slide)}': the file changed while it was read; run again when it has been copied whole"
        )
    return replace(
        slide_features, slide_id=job.slide_id, info=replace(slide_features.info, slide_id=job.slide_id)
    ), excluded


@contextmanager
def _fetched(job: SlideJob) -> Iterator[Path]:
    """The slide on this machine; errors speak of it where it came from."""
    with ExitStack() as stack:
        try:
            path = stack.enter_context(local_copy(job.slide))
        except OSError as error:
            raise SlideLostError(f"slide '{shown(job.slide)}': cannot be fetched: {error.strerror or error}") from error
        try:
            yield path
        except SlideError as error:
            raise type(error)(str(error).replace(str(path), shown(job.slide))) from error


def _write(job: SlideJob, features: SlideFeatures, excluded: ExcludedTiles | None) -> None:
    try:
        with written_to(job.target) as target:
            if excluded is not None:
                write_excluded(target.with_suffix(".excluded.csv"), excluded)
            write_features(target, features, settings=job.settings)
    except OSError as error:
        if error.errno in _THIS_FILE_ONLY:
            raise
        raise output_error(job.target, error) from error


def output_error(path: Path, error: OSError) -> OutputError:
    """The line for a result that cannot be written."""
    return OutputError(
        f"cannot write '{shown(path)}': {error.strerror or error}; nothing finished is lost: make room (or make the "
        "folder writable) and run the same command again"
    )


def _empty(job: SlideJob, seconds: float, excluded: ExcludedTiles | None) -> ExtractOutcome:
    remove(job.target)
    why = "; ".join(_left_out(excluded)) or f"no tile holds {job.spec.min_tissue:.0%} tissue"
    message = f"slide '{job.slide_id}': {why}; no features written"
    return ExtractOutcome(job.slide_id, job.slide, "empty", job.target, seconds=seconds, message=message)


def failed(job: SlideJob, seconds: float, error: str, message: str) -> ExtractOutcome:
    """The outcome of a slide that failed."""
    return ExtractOutcome(job.slide_id, job.slide, "failed", job.target, seconds=seconds, message=message, error=error)
