"""Feature files to a training store: each slide on its own, whole or not at all, so a killed run goes on."""

import io
import os
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np

from pathflip.data.packed.packed_store import StoreSettings, current_slides, packed_files, packed_name, sha256_of
from pathflip.data.packed.slide_file import DType, PackedSlide, Source, read_packed_header, write_packed
from pathflip.errors import ConfigError, FeatureError, OutputError, PathFLIPError
from pathflip.features.extraction import output_error
from pathflip.features.store import FeatureKind, check_cohort, read_features, read_kind
from pathflip.io.files import atomic_path
from pathflip.io.locks import waiting_lock
from pathflip.io.slide_id import paths_by_id, slide_id
from pathflip.io.storage import as_url, local_copy, local_path, remove, shown, state, write_bytes

__all__ = ["PackJob", "PackOutcome", "PackRun", "RunPackJobs", "failed_pack", "pack_features", "pack_slide"]

_MOST_THREADS = 4
_LOSS_TO_TELL = 0.05
"""Rounding of this fraction of a feature's standard deviation is told; half of it is noise nobody can measure."""


@dataclass(frozen=True)
class PackJob:
    """One slide to pack, on any machine that sees its feature file and the store."""

    slide_id: str
    file: Path
    store: Path
    settings: StoreSettings


@dataclass(frozen=True)
class PackOutcome:
    """What became of one slide: "done", "skipped" (packed earlier from the same file) or "failed" (``message``)."""

    slide_id: str
    file: Path
    status: str
    path: Path | None = None
    rows: int = 0
    seconds: float = 0.0
    message: str = ""
    error: str = ""


@runtime_checkable
class PackRun(Protocol):
    """Takes in what became of each slide."""

    def end(self, outcome: PackOutcome) -> None:
        """A slide has ended, one way or the other."""
        ...


RunPackJobs = Callable[[Sequence[PackJob], PackRun], None]
"""Packs slides somewhere and hands each outcome on, once."""


class _Outcomes:
    """Outcomes by slide, and progress."""

    def __init__(self, total: int, progress: Callable[[int, int], None] | None) -> None:
        self.by_slide: dict[str, PackOutcome] = {}
        self._total, self._progress = total, progress

    def end(self, outcome: PackOutcome) -> None:
        self.by_slide[outcome.slide_id] = outcome
        if self._progress is not None:
            self._progress(len(self.by_slide), self._total)


def pack_features(
    files: Sequence[str | Path],
    store: str | Path,
    *,
    dtype: DType | None = None,
    context: bool | None = None,
    num_threads: int | None = None,
    run_jobs: RunPackJobs | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> list[PackOutcome]:
    """Lay features out for training: ``store/<slide>-<hash>.safetensors`` and ``store/store.json``.

    Slides packed earlier from the same feature file are skipped; those whose file changed are packed anew. One
    process packs at a time, others wait for it. Slides that fail are in the outcomes and the rest goes on.

    Args:
        files: feature files of one kind.
        store: folder to write to, or an object store (which has no locks: one packing at a time there).
        dtype: of new stores; None takes float16.
        context: whether a new store holds neighbourhood means (twice the size, and a step reads one row a patch
            instead of nine); None: it does. Without them they are computed from the neighbours when needed.
        num_threads: slides packed at once; None takes one a processor core, four at most.
        run_jobs: packs elsewhere (``pathflip.features.cluster``).
        progress: called with (slides done, slides).

    Raises:
        ConfigError: the store is of another version or kind, or holds another ``dtype`` or no ``context``.
        FeatureError: features of several kinds.
        OutputError: the store cannot be written. What is finished stays.
    """
    by_slide = paths_by_id([local_path(file) for file in files])
    run = _Outcomes(len(by_slide), progress)
    readable = _readable(by_slide, run)
    if not readable:
        return [run.by_slide[name] for name in by_slide]
    folder = local_path(store)
    kind = check_cohort(list(readable.values()))
    with _alone(folder):
        settings = _settled(folder, kind, dtype, context)
        jobs = []
        current = current_slides(folder, list(readable.values()))
        for name, file in readable.items():
            if (packed := current.get(file)) is not None:
                run.end(PackOutcome(name, file, "skipped", packed.path, packed.rows, message="packed earlier"))
            else:
                jobs.append(PackJob(name, file, folder, settings))
        if run_jobs is not None and jobs:
            run_jobs(jobs, run)
        else:
            _pack_here(jobs, run, num_threads)
        if jobs:
            current = current_slides(folder, list(readable.values()))
            _remove_replaced(folder, {slide_id(file): packed for file, packed in current.items()})
            _tell_loss(list(current.values()))
    return [run.by_slide[name] for name in by_slide]


def _readable(by_slide: dict[str, Path], run: PackRun) -> dict[str, Path]:
    """Files whose header can be read; the others have failed."""
    out = {}
    for name, file in by_slide.items():
        try:
            read_kind(file)
            out[name] = file
        except FeatureError as error:
            run.end(PackOutcome(name, file, "failed", message=str(error), error=type(error).__name__))
    return out


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Hold the store while it is written to, and clear away what a killed run left half-written.

    Raises:
        OutputError: it cannot be written to.
    """
    if as_url(folder):
        yield
        return
    with ExitStack() as stack:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            stack.enter_context(waiting_lock(folder / ".lock"))
        except OSError as error:
            raise output_error(folder, error) from None
        for leftover in folder.glob(".*.tmp.*"):
            leftover.unlink(missing_ok=True)
        yield


def _settled(folder: Path, kind: FeatureKind, dtype: DType | None, context: bool | None) -> StoreSettings:
    """Settings of the store that is there, if they are what was asked for; of a new one otherwise."""
    settings = StoreSettings.read(folder)
    if settings is None:
        settings = StoreSettings(dtype or "float16", context is not False, kind)
        try:
            settings.write(folder)
        except OSError as error:
            raise output_error(folder, error) from None
        return settings
    where = f"training store '{shown(folder)}'"
    if (differs := kind.difference(settings.kind)) is not None:
        raise ConfigError(
            f"{where}: holds features of another {differs} ({settings.kind}), got {kind}; choose another folder for "
            "the store, or delete this one"
        )
    if dtype not in (None, settings.dtype):
        raise ConfigError(f"{where}: holds {settings.dtype}, got {dtype}; choose another folder, or delete this one")
    if context and not settings.context:
        raise ConfigError(
            f"{where}: was made without neighbourhood means, and they were asked for; choose another folder, or delete "
            "this one"
        )
    return settings


def pack_slide(job: PackJob) -> PackOutcome:
    """Pack one slide. Whatever is wrong with its feature file becomes an outcome.

    Raises:
        OutputError: the store cannot be written: other slides would fare no better.
    """
    started = time.monotonic()
    try:
        packed_path, rows = _packed(job)
    except OutputError:
        raise
    except PathFLIPError as error:
        return failed_pack(job, type(error).__name__, str(error), time.monotonic() - started)
    except Exception as error:  # the rest of a cohort goes on
        message = f"{shown(job.file)}: {type(error).__name__}: {error}"
        return failed_pack(job, type(error).__name__, message, time.monotonic() - started)
    return PackOutcome(job.slide_id, job.file, "done", packed_path, rows, time.monotonic() - started)


def failed_pack(job: PackJob, error: str, message: str, seconds: float = 0.0) -> PackOutcome:
    """The outcome of a slide that failed."""
    return PackOutcome(job.slide_id, job.file, "failed", None, 0, seconds, message, error)


def _packed(job: PackJob) -> tuple[Path, int]:
    before = state(job.file)
    with local_copy(job.file) as local:
        digest = sha256_of(local)
        features = read_features(local)
    if before is None or state(job.file) != before:
        raise FeatureError(f"{shown(job.file)}: changed while it was read; run again when it is written whole")
    kind = FeatureKind.of(features)
    if (differs := kind.difference(job.settings.kind)) is not None:
        raise FeatureError(f"{shown(job.file)}: is of another {differs} ({kind}), expected {job.settings.kind}")
    source = Source(*before, digest)
    target = job.store / packed_name(job.slide_id, digest)
    dtype, context = job.settings.dtype, job.settings.context
    try:
        if url := as_url(target):
            buffer = io.BytesIO()
            write_packed(buffer, features, source, dtype, context)
            write_bytes(url, buffer.getbuffer())
        else:
            with atomic_path(target) as temporary, open(temporary, "wb") as handle:
                write_packed(handle, features, source, dtype, context)
    except OSError as error:
        raise output_error(target, error) from None
    return target, int(features.valid.sum())


def _pack_here(jobs: Sequence[PackJob], run: PackRun, num_threads: int | None) -> None:
    if num_threads is not None and num_threads < 1:
        raise ConfigError(f"num_threads: got {num_threads}, expected 1 or more")
    threads = num_threads or min(_MOST_THREADS, len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 1)
    with ThreadPoolExecutor(threads, thread_name_prefix="pack") as pool:
        waiting: set[Future[PackOutcome]] = {pool.submit(pack_slide, job) for job in jobs}
        try:
            while waiting:
                ended, waiting = wait(waiting, return_when=FIRST_COMPLETED)
                for future in ended:
                    run.end(future.result())
        finally:
            for future in waiting:
                future.cancel()


def _remove_replaced(folder: Path, current: dict[str, PackedSlide]) -> None:
    """Older packings of slides that were packed anew."""
    names = {name: packed.path.name for name, packed in current.items()}
    for path in packed_files(folder, names):
        try:
            if names.get(read_packed_header(path).slide_id, path.name) != path.name:
                remove(path)
        except FeatureError:  # torn: its slide has been packed anew beside it
            remove(path)


def _tell_loss(slides: Sequence[PackedSlide], most: int = 200) -> None:
    """Say where rounding hides what a feature tells: values far from zero that hardly vary."""
    if not slides or slides[0].dtype == "float32":
        return
    some = slides[:: max(1, len(slides) // most)]
    parts = [slide.whole("total", "squares", "error_squares") for slide in some]
    count = sum(slide.rows for slide in some)
    total, squares, errors = (np.sum([part[i][:, 0] for part in parts], axis=0) for i in range(3))
    variance = np.maximum(squares / count - (total / count) ** 2, 0)
    loss = np.sqrt(errors / count / np.maximum(variance, 1e-300)) * (variance > 0)
    coarse = np.flatnonzero(loss > _LOSS_TO_TELL)
    if len(coarse):
        warnings.warn(
            f"float16 rounds {len(coarse)} of {len(loss)} features by more than {_LOSS_TO_TELL:.0%} of their standard "
            f"deviation (worst: feature {int(loss.argmax())}, {loss.max():.0%}); pack into another folder with "
            "--dtype float32 if these matter",
            stacklevel=3,
        )
