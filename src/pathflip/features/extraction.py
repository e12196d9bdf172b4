"""Slides to feature files: one slide (:func:`extract`) or a cohort that survives what happens to cohorts.

A cohort run may be killed at any moment and started again: files appear whole or not at all, finished slides are
checked and skipped, and files made with other settings are never mixed in.
"""

import json
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, ThreadPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from multiprocessing import get_context, parent_process
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pathflip.errors import ConfigError, FeatureError, PathFLIPError, SlideError
from pathflip.features.encoders import Encoder, load_encoder
from pathflip.features.store import features_path, read_features, read_settings, write_features
from pathflip.files import write_text
from pathflip.geometry import TileGrid, TileSpec
from pathflip.slide import Slide, find_tissue, open_slide, slide_id, tile_slide
from pathflip.slide.tissue import TissueSpec
from pathflip.types import SlideFeatures

__all__ = ["ExtractOutcome", "ExtractProgress", "extract", "extract_cohort", "read_tiles"]

_IN_MEMORY_BYTES = 2**27
"""Slides whose tiles take no more than this are read once; of larger ones the staining sample is read ahead."""


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


@dataclass(frozen=True)
class ExtractProgress:
    """How far a cohort run is; ``outcome`` is set when a slide has just ended.

    Rate and time left are of this run: skipped slides count as done but not towards the rate.
    """

    slides_done: int
    slides: int
    tiles_done: int
    tiles_per_s: float
    seconds: float
    seconds_left: float | None
    outcome: ExtractOutcome | None = None


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
        batch_size: tiles encoded at once.
        readers: threads that read ahead; 0 reads between batches.
        progress: called with (tiles done, tiles in all) after every batch.

    Returns:
        One row a tile, in the order of ``grid.coords``. A tile that cannot be read is a zero row with ``valid``
        False.

    Raises:
        SlideError: not a single tile could be read.
        FeatureError: the encoder returned non-finite values.
    """
    total, px = len(grid), grid.spec.tile_px
    matrix = np.zeros((total, encoder.dim), np.float32)
    valid = np.zeros(total, bool)
    sample = _sample_rows(total, encoder.sample_tiles)
    size = total if total * px * px * 3 <= _IN_MEMORY_BYTES else batch_size
    state = None
    if encoder.sample_tiles and size < total:
        tiles, readable = read_tiles(slide, grid, sample)
        state = encoder.prepare(tiles[readable])
    for rows, tiles, readable in _read_ahead(slide, grid, max(1, size), readers):
        if encoder.sample_tiles and state is None:
            state = encoder.prepare(tiles[sample][readable[sample]])
        for start in range(0, len(rows), batch_size):
            part = slice(start, start + batch_size)
            good = rows[part][readable[part]]
            if len(good):
                matrix[good] = encoder.encode(tiles[part][readable[part]], state)
            if progress is not None:
                progress(int(rows[part][-1]) + 1, total)
        valid[rows] = readable
    if total and not valid.any():
        raise SlideError(f"slide '{slide.info.slide_id}': none of its {total} tiles could be read; the file is damaged")
    if not np.isfinite(matrix).all():
        bad = int((~np.isfinite(matrix)).any(axis=1).sum())
        raise FeatureError(
            f"slide '{slide.info.slide_id}': encoder '{encoder.name}' gave NaN or infinity in {bad} rows"
        )
    return SlideFeatures(slide.info.slide_id, matrix, grid.coords, valid, slide.info, grid.spec, encoder.name)


def _sample_rows(total: int, count: int) -> NDArray[np.int64]:
    """The same rows every time: a seeded choice without replacement, in order."""
    return np.sort(np.random.default_rng(0).permutation(total)[:count])


def _read_ahead(
    slide: Slide, grid: TileGrid, size: int, readers: int
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.uint8], NDArray[np.bool_]]]:
    """Batches of (rows, tiles, readable) in order; ``readers`` threads stay at most two batches each ahead."""
    batches = [np.arange(start, min(start + size, len(grid))) for start in range(0, len(grid), size)]
    if readers == 0:
        for rows in batches:
            yield rows, *read_tiles(slide, grid, rows)
        return
    with ThreadPoolExecutor(readers) as pool:
        waiting: deque[tuple[NDArray[np.int64], Future[Any]]] = deque()
        for rows in batches:
            waiting.append((rows, pool.submit(read_tiles, slide, grid, rows)))
            if len(waiting) > 2 * readers:
                rows, future = waiting.popleft()
                yield rows, *future.result()
        for rows, future in waiting:
            yield rows, *future.result()


def read_tiles(slide: Slide, grid: TileGrid, rows: NDArray[np.int64]) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    """Read some tiles of a slide.

    Returns:
        uint8 (n, px, px, 3) and which could be read; the others are zeros.
    """
    px = grid.spec.tile_px
    tiles = np.zeros((len(rows), px, px, 3), np.uint8)
    readable = np.zeros(len(rows), bool)
    for i, (x0, y0) in enumerate(grid.coords[rows].tolist()):
        try:
            tiles[i] = slide.read_tile(x0, y0, grid.spec)
            readable[i] = True
        except PathFLIPError:  # this tile is damaged; others may be fine
            continue
    return tiles, readable


@dataclass(frozen=True)
class _Job:
    index: int
    slide_id: str
    slide: Path
    target: Path
    spec: TileSpec
    slide_mpp: float | None
    tissue: TissueSpec
    settings: dict[str, Any]
    batch_size: int
    readers: int


def extract_cohort(
    paths: Iterable[str | Path],
    spec: TileSpec,
    encoder: str | Encoder,
    out: str | Path,
    *,
    slide_mpp: float | None = None,
    tissue: TissueSpec | None = None,
    num_workers: int | None = None,
    batch_size: int = 256,
    device: str | None = None,
    overwrite: bool = False,
    progress: Callable[[ExtractProgress], None] | None = None,
) -> list[ExtractOutcome]:
    """Find tissue, cut tiles, encode and write features for every slide: ``out/features_<encoder>/<slide>.h5``.

    Slides that fail are listed in ``out/failures.jsonl`` and the batch goes on. Slides finished earlier with the
    same settings are checked and skipped, so a killed run is continued by the same command.

    Args:
        paths: slide files; their stems must differ.
        spec: which tiles to cut.
        encoder: a name or ``hf:FOLDER`` (see :func:`load_encoder`), or an encoder object (then one process).
        out: folder for results.
        slide_mpp: microns per level-0 pixel, for slides that do not say.
        tissue: how tissue is searched for.
        num_workers: processes, each with whole slides; None takes one a processor core (one in all with a GPU).
            Scripts that use more than one need the usual ``if __name__ == "__main__":`` guard.
        batch_size: tiles encoded at once.
        device: where to encode; None takes the GPU if there is one.
        overwrite: extract again what is there.
        progress: called as slides and batches end.

    Returns:
        One outcome a slide, in the order of ``paths``.

    Raises:
        ConfigError: equal stems; files from other settings (named) without ``overwrite``; or another run is
            writing to the same folder.
    """
    slides = _unique_slides(paths)
    loaded = load_encoder(encoder, device) if isinstance(encoder, str) else encoder
    folder = features_path(out, loaded.name, "x").parent
    folder.mkdir(parents=True, exist_ok=True)
    workers = _worker_count(num_workers, loaded, encoder, len(slides))
    readers = 0 if workers > 1 else min(4, os.cpu_count() or 1)
    jobs = _plan(slides, spec, tissue or TissueSpec(), loaded, folder, slide_mpp, batch_size, readers)
    with _only_writer(folder):
        for leftover in folder.glob(".*.tmp.h5"):
            leftover.unlink(missing_ok=True)
        finished = {} if overwrite else _finished(jobs, folder)
        todo = [job for job in jobs if job.index not in finished]
        run = _Run(jobs, Path(out) / "failures.jsonl", loaded.name, progress)
        for outcome in finished.values():
            run.end(outcome)
        if workers > 1 and len(todo) > 1 and isinstance(encoder, str):
            del loaded
            _run_in_processes(todo, encoder, device, min(workers, len(todo)), run)
        else:
            for job in todo:
                run.end(_extract_job(job, loaded, partial(_tick_one, run, job.index)))
    return [run.outcomes[job.index] for job in jobs]


def _plan(
    slides: dict[str, Path],
    spec: TileSpec,
    tissue: TissueSpec,
    encoder: Encoder,
    folder: Path,
    slide_mpp: float | None,
    batch_size: int,
    readers: int,
) -> list[_Job]:
    return [
        _Job(
            index=i,
            slide_id=stem,
            slide=path,
            target=folder / f"{stem}.h5",
            spec=spec,
            slide_mpp=slide_mpp,
            tissue=tissue,
            settings=_settings(path, spec, tissue, encoder, slide_mpp),
            batch_size=batch_size,
            readers=readers,
        )
        for i, (stem, path) in enumerate(slides.items())
    ]


def _unique_slides(paths: Iterable[str | Path]) -> dict[str, Path]:
    slides: dict[str, Path] = {}
    for path in map(Path, paths):
        stem = slide_id(path)
        if stem in slides and slides[stem].resolve() != path.resolve():
            raise ConfigError(
                f"two slides are named '{stem}': '{slides[stem]}' and '{path}' would be written to one file; "
                "rename one, or extract their folders into different --out folders"
            )
        slides.setdefault(stem, path)
    return slides


def _worker_count(asked: int | None, loaded: Encoder, encoder: str | Encoder, slides: int) -> int:
    if asked is not None and asked < 0:
        raise ConfigError(f"num_workers: got {asked}, expected 0 or more")
    if not isinstance(encoder, str):
        return 1
    on_gpu = getattr(getattr(loaded, "device", None), "type", "cpu") != "cpu"
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(slides, asked if asked is not None else 1 if on_gpu else cores))


def _settings(
    path: Path, spec: TileSpec, tissue: TissueSpec, encoder: Encoder, slide_mpp: float | None
) -> dict[str, Any]:
    """Everything the rows of a feature file depend on."""
    return {
        "encoder": encoder.name,
        "encoder_revision": encoder.revision,
        "tile_px": spec.tile_px,
        "mpp": spec.mpp,
        "stride_px": spec.stride_px,
        "min_tissue": spec.min_tissue,
        "tissue": asdict(tissue),
        "slide_mpp": slide_mpp,
        "slide_bytes": path.stat().st_size if path.is_file() else None,
    }


@contextmanager
def _only_writer(folder: Path) -> Iterator[None]:
    """Hold the folder's lock; the system releases it however the process ends."""
    try:
        import fcntl
    except ImportError:  # Windows: runs are not kept apart there
        yield
        return
    with (folder / ".lock").open("w") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise ConfigError(
                f"{folder}: another extraction is writing here; wait for it to end or choose another --out"
            ) from None
        yield


def _finished(jobs: Sequence[_Job], folder: Path) -> dict[int, ExtractOutcome]:
    """Jobs whose file is there, whole, and made with the same settings.

    Raises:
        ConfigError: some files were made with other settings.
    """
    finished: dict[int, ExtractOutcome] = {}
    changed: list[tuple[_Job, str]] = []
    for job in jobs:
        if not job.target.is_file():
            continue
        try:
            settings = read_settings(job.target)
            features = None if settings is None else read_features(job.target)
        except FeatureError:
            continue  # damaged: extract it again
        if features is None:
            changed.append((job, "it was not made by pathflip extract"))
        elif settings != job.settings:
            changed.append((job, _differences(settings or {}, job.settings)))
        else:
            invalid = int((~features.valid).sum())
            finished[job.index] = ExtractOutcome(
                job.slide_id, job.slide, "skipped", job.target, len(features.valid), invalid, 0.0, "finished earlier"
            )
    if changed:
        job, difference = changed[0]
        raise ConfigError(
            f"{folder}: {len(changed)} feature files there were made with other settings (for example "
            f"'{job.target.name}': {difference}); pass --overwrite to replace them, or choose another --out"
        )
    return finished


def _differences(old: dict[str, Any], new: dict[str, Any]) -> str:
    keys = [key for key in {**old, **new} if old.get(key) != new.get(key)]
    return ", ".join(f"{key} was {old.get(key)}, now {new.get(key)}" for key in keys)


class _Run:
    """Outcomes, failures and progress of one cohort run, kept in the main process."""

    def __init__(
        self, jobs: Sequence[_Job], failures: Path, encoder: str, progress: Callable[[ExtractProgress], None] | None
    ) -> None:
        self.outcomes: dict[int, ExtractOutcome] = {}
        self._index = {job.slide_id: job.index for job in jobs}
        self._failures, self._encoder, self._progress = failures, encoder, progress
        self._started = time.monotonic()
        self._partial: dict[int, tuple[int, int]] = {}
        self._tiles = self._ended = self._skipped = 0
        self._forget_old_failures()

    def _forget_old_failures(self) -> None:
        """Drop the lines of slides this run tries again."""
        if not self._failures.is_file():
            return
        lines = [line for line in self._failures.read_text(encoding="utf-8").splitlines() if line.strip()]
        rows = [json.loads(line) for line in lines]
        kept = [
            line
            for line, row in zip(lines, rows, strict=True)
            if row.get("slide_id") not in self._index or row.get("encoder") != self._encoder
        ]
        if kept:
            write_text(self._failures, "".join(f"{line}\n" for line in kept))
        else:
            self._failures.unlink()

    def tick(self, under_way: dict[int, tuple[int, int]]) -> None:
        """(tiles done, tiles in all) of slides under way, by job."""
        self._partial.update(under_way)
        self._report(None)

    def end(self, outcome: ExtractOutcome) -> None:
        """A slide has ended, one way or the other."""
        index = self._index[outcome.slide_id]
        self.outcomes[index] = outcome
        self._partial.pop(index, None)
        if outcome.status == "skipped":
            self._skipped += 1
        else:
            self._ended += 1
            self._tiles += outcome.tiles
        if outcome.status == "failed":
            row = {"slide_id": outcome.slide_id, "path": str(outcome.slide), "encoder": self._encoder,
                   "error": outcome.error, "message": outcome.message}  # fmt: skip
            with self._failures.open("a", encoding="utf-8") as handle:
                handle.write(json.dumps(row, ensure_ascii=False) + "\n")
        self._report(outcome)

    def _report(self, outcome: ExtractOutcome | None) -> None:
        if self._progress is None:
            return
        seconds = time.monotonic() - self._started
        tiles = self._tiles + sum(done for done, _ in self._partial.values())
        share = self._ended + sum(done / total for done, total in self._partial.values() if total)
        todo = len(self._index) - self._skipped
        left = seconds * (todo - share) / share if share > 0 else (0.0 if todo == 0 else None)
        self._progress(
            ExtractProgress(
                len(self.outcomes), len(self._index), tiles, tiles / max(seconds, 1e-9), seconds, left, outcome
            )
        )


def _tick_one(run: _Run, index: int, done: int, total: int) -> None:
    run.tick({index: (done, total)})


def _extract_job(job: _Job, encoder: Encoder, tick: Callable[[int, int], None]) -> ExtractOutcome:
    """One slide from file to file. Whatever goes wrong becomes an outcome; the batch goes on."""
    started = time.monotonic()
    try:
        with open_slide(job.slide, slide_mpp=job.slide_mpp) as slide:
            grid = tile_slide(slide, find_tissue(slide, job.tissue), job.spec)
            if len(grid) == 0:
                return _empty(job, time.monotonic() - started)
            features = extract(slide, grid, encoder, batch_size=job.batch_size, readers=job.readers, progress=tick)
        write_features(job.target, features, settings=job.settings)
    except PathFLIPError as error:
        return _failed(job, time.monotonic() - started, type(error).__name__, str(error))
    except Exception as error:  # a batch of ten thousand slides must not stop for one
        message = f"slide '{job.slide_id}': {type(error).__name__}: {error}"
        return _failed(job, time.monotonic() - started, type(error).__name__, message)
    invalid = int((~features.valid).sum())
    message = f"{invalid} tiles could not be read" if invalid else ""
    seconds = time.monotonic() - started
    return ExtractOutcome(job.slide_id, job.slide, "done", job.target, len(grid), invalid, seconds, message)


def _empty(job: _Job, seconds: float) -> ExtractOutcome:
    job.target.unlink(missing_ok=True)
    message = f"slide '{job.slide_id}': no tile holds {job.spec.min_tissue:.0%} tissue; no features written"
    return ExtractOutcome(job.slide_id, job.slide, "empty", job.target, seconds=seconds, message=message)


def _failed(job: _Job, seconds: float, error: str, message: str) -> ExtractOutcome:
    return ExtractOutcome(job.slide_id, job.slide, "failed", job.target, seconds=seconds, message=message, error=error)


def _run_in_processes(jobs: Sequence[_Job], encoder: str, device: str | None, workers: int, run: _Run) -> None:
    """Whole slides in worker processes. A slide that kills its worker is tried once more, alone, then recorded."""
    while jobs:
        suspects, jobs = _run_pool(jobs, encoder, device, workers, run)
        for job in suspects:
            if any(_run_pool([job], encoder, device, 1, run)):
                message = f"slide '{job.slide_id}': the process reading it died (out of memory, or a damaged file)"
                run.end(_failed(job, 0.0, "WorkerDied", message))


def _run_pool(
    jobs: Sequence[_Job], encoder: str, device: str | None, workers: int, run: _Run
) -> tuple[list[_Job], list[_Job]]:
    """Run jobs in fresh processes. When a worker dies: the jobs then under way, and those not yet begun."""
    context = get_context("spawn")  # fork would copy locked thread pools
    counts = context.RawArray("q", 2 * len(jobs))  # tiles done and in all; -1 in all: begun
    pool = ProcessPoolExecutor(workers, context, initializer=_start_worker, initargs=(encoder, device, counts))
    waiting: dict[Future[ExtractOutcome], int] = {}
    try:
        waiting = {pool.submit(_work, job, i): i for i, job in enumerate(jobs)}
        while waiting:
            ended, _ = wait(waiting, timeout=0.5, return_when=FIRST_COMPLETED)
            for future in ended:
                run.end(future.result())
                del waiting[future]
            run.tick({jobs[i].index: (counts[2 * i], counts[2 * i + 1]) for i in waiting.values() if counts[2 * i]})
    except BrokenProcessPool:
        left = [i for future, i in waiting.items() if not _collect(future, run)]
        begun = [jobs[i] for i in left if counts[2 * i + 1]]
        if not begun:  # it died before it could begin anything: the encoder, not a slide
            raise ConfigError(
                f"extraction workers died while starting with encoder '{encoder}'; expected enough memory for "
                f"{workers} of them, and scripts to be files with an  if __name__ == '__main__':  guard; "
                "use num_workers=1 otherwise"
            ) from None
        return begun, [jobs[i] for i in left if not counts[2 * i + 1]]
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
    return [], []


def _collect(future: "Future[ExtractOutcome]", run: _Run) -> bool:
    """Whether a future had ended well before the pool broke; its outcome is then counted."""
    if not future.done() or future.cancelled() or future.exception() is not None:
        return False
    run.end(future.result())
    return True


_worker: dict[str, Any] = {}
"""This worker process's encoder and tile counters."""


def _start_worker(encoder: str, device: str | None, counts: Any) -> None:
    import cv2
    import torch
    from threadpoolctl import threadpool_limits

    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    threadpool_limits(1)  # numpy's linear algebra too: for 3 × 3 problems its threads only wait for each other
    _keep_memory()
    threading.Thread(target=_die_with_parent, daemon=True).start()
    _worker.update(encoder=load_encoder(encoder, device), counts=counts)


def _die_with_parent() -> None:
    """A killed main process must not leave workers behind, still writing."""
    parent = parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _keep_memory() -> None:
    """Tell glibc to reuse large buffers instead of returning them: a fifth faster with small tiles, measured."""
    import ctypes

    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if os.name == "posix" else None
    if mallopt is not None:
        trim_threshold, mmap_threshold = -1, -3
        mallopt(mmap_threshold, 2**30)
        mallopt(trim_threshold, 2**31 - 1)


def _work(job: _Job, slot: int) -> ExtractOutcome:
    counts = _worker["counts"]
    counts[2 * slot + 1] = -1

    def tick(done: int, total: int) -> None:
        counts[2 * slot], counts[2 * slot + 1] = done, total

    return _extract_job(job, _worker["encoder"], tick)
