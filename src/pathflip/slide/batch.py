"""Many rectangles of a slide at once: read by several threads, handed over in order, a few at a time."""

import os
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from itertools import islice
from typing import NamedTuple

from pathflip.errors import ConfigError
from pathflip.slide.resample import resample
from pathflip.slide.sources.source import BatchReader, Pixels, Read, Rectangle

__all__ = ["Job", "images_in_order", "run_job"]

MAX_WORKERS = 8
"""Threads unless more are asked for: beyond that the interpreter's lock is in the way."""
_PLANNED = 256
"""Jobs looked at together to see which stored tiles they share."""
_OVERLAP_SECONDS = 0.02
_TAKING_TURNS = (0.8, 1.2)
"""Processors in use from and to which threads take turns."""
_ALONE_CHUNKS = 16
"""Chunks read by one thread before several are tried again."""
_CHUNK_BYTES = 2**22
_CHUNK = 16


class Job(NamedTuple):
    """A rectangle of a level, and what is made of it.

    Attributes:
        rectangle: pixels to read.
        box: x, y, width, height of what is wanted, in pixels of the rectangle's level, from the rectangle's corner;
            None hands the rectangle over as it is stored.
        out: columns and rows of the image.
    """

    rectangle: Rectangle
    box: tuple[float, float, float, float] | None
    out: tuple[int, int]


def run_job(job: Job, read: Read) -> Pixels:
    """Read and resample: uint8 (rows, columns, 3)."""
    pixels, dx, dy = read(job.rectangle)
    if job.box is None:
        return pixels
    x, y, width, height = job.box
    return resample(pixels, x - dx, y - dy, width, height, job.out)


def images_in_order(
    jobs: Iterable[Job], reader_of: Callable[[Sequence[Rectangle]], BatchReader], workers: int | None
) -> Iterator[Pixels]:
    """The images of all jobs, in order; a few dozen at most are in memory at a time.

    Args:
        jobs: what to read.
        reader_of: as :meth:`~pathflip.slide.sources.source.Source.reader_of`.
        workers: threads; None takes one for every processor this process may use, 8 at most.

    Raises:
        ConfigError: ``workers`` is below 1.
        SlideError: at the first job that fails; the images before it are handed over first.
    """
    if workers is not None and workers < 1:
        raise ConfigError(f"workers: got {workers}, expected 1 or more")
    return _images(_chunks(iter(jobs), reader_of), _usable_processors() if workers is None else workers)


_Images = tuple[list[Pixels], Exception | None]


class _Chunk(NamedTuple):
    """Neighbouring jobs, and the reader that knows what comes before and after them."""

    jobs: list[Job]
    reader: BatchReader


def _images(chunks: Iterator[_Chunk], workers: int) -> Iterator[Pixels]:
    """Chunks that several threads share are begun before their turn; the others are read here, at their turn."""
    waiting: deque[Future[_Images] | _Chunk] = deque()
    pool: ThreadPoolExecutor | None = None
    overlap = _Overlap()
    try:
        while True:
            fresh = list(islice(chunks, max(0, workers + 2 - len(waiting))))
            alone = workers == 1 or len(waiting) + len(fresh) == 1  # nothing to share
            for chunk in fresh:
                if not alone and chunk.reader.shared and overlap.pays():
                    pool = pool or ThreadPoolExecutor(workers, "pathflip-read")
                    waiting.append(pool.submit(_run, *chunk))
                else:
                    waiting.append(chunk)
            if not waiting:
                return
            first = waiting.popleft()
            if isinstance(first, _Chunk):
                for job in first.jobs:
                    yield run_job(job, first.reader.read)
                continue
            with overlap.measured():
                images, error = first.result()
            yield from images
            if error is not None:
                raise error
    finally:
        if pool is not None:
            pool.shutdown(cancel_futures=True)


class _Overlap:
    """Whether threads read at the same time, or wait for one another; learned while their results are awaited.

    Decoding a small tile takes a tenth of a millisecond, before and after which a thread needs the interpreter's lock.
    Where waking a thread takes as long (a busy machine, a virtual one), two of them only take turns, and one alone is
    faster by what the turns cost. Threads that read at the same time use more than one processor; those that wait for a
    disk or a network share use less, and are kept.
    """

    def __init__(self) -> None:
        self._wall = self._cpu = 0.0
        self._alone = 0

    def pays(self) -> bool:
        """Whether the next chunk is for the threads; else it is one of some that are read by one, before a new try."""
        self._alone = max(0, self._alone - 1)
        return self._alone == 0

    @contextmanager
    def measured(self) -> Iterator[None]:
        """While this lasts, the threads are waited for."""
        wall, cpu = time.perf_counter(), time.process_time()
        yield
        self._wall += time.perf_counter() - wall
        self._cpu += time.process_time() - cpu
        if self._wall < _OVERLAP_SECONDS:
            return
        if _TAKING_TURNS[0] <= self._cpu / self._wall < _TAKING_TURNS[1] and self._alone == 0:
            self._alone = _ALONE_CHUNKS
        self._wall = self._cpu = 0.0


def _run(jobs: list[Job], reader: BatchReader) -> _Images:
    """The images up to the first that fails, and its error."""
    images: list[Pixels] = []
    for job in jobs:
        try:
            images.append(run_job(job, reader.read))
        except Exception as error:
            return images, error
    return images, None


def _chunks(jobs: Iterator[Job], reader_of: Callable[[Sequence[Rectangle]], BatchReader]) -> Iterator[_Chunk]:
    while planned := list(islice(jobs, _PLANNED)):
        reader = reader_of([job.rectangle for job in planned])
        resized = any(job.out != (job.rectangle.width, job.rectangle.height) for job in planned)
        reader = reader._replace(shared=reader.shared or resized)
        largest = max(job.out[0] * job.out[1] * 3 for job in planned)
        size = max(1, min(_CHUNK, _CHUNK_BYTES // largest))
        for start in range(0, len(planned), size):
            yield _Chunk(planned[start : start + size], reader)


def _usable_processors() -> int:
    affinity = getattr(os, "sched_getaffinity", None)  # containers and schedulers hand out fewer than the machine has
    count = len(affinity(0)) if affinity else os.cpu_count()
    return max(1, min(MAX_WORKERS, count or 1))
