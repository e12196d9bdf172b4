"""Whole slides in worker processes of this machine, which may die without taking the run with them."""

from collections.abc import Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from multiprocessing import get_context
from typing import Any

import torch

from pathflip.errors import ConfigError
from pathflip.features.devices import worker_device
from pathflip.features.encoder_protocol import Encoder
from pathflip.features.encoders import load_encoder
from pathflip.features.extraction import ExtractOutcome, SlideJob, failed, run_job
from pathflip.features.outcomes import CohortRun
from pathflip.processes import follow_parent, keep_memory

__all__ = ["EncoderChoice", "run_in_processes", "settle_worker"]


@dataclass(frozen=True)
class EncoderChoice:
    """An encoder as it was asked for, to be loaded wherever slides are worked on.

    Attributes:
        name, device, precision: as :func:`load_encoder` takes them; "cuda", or None where there are GPUs, spreads
            workers over them.
    """

    name: str
    device: str | None = None
    precision: str = "auto"

    def load(self, worker: int = 0) -> Encoder:
        """Load it for one of several workers (its number, from 0); raises what :func:`load_encoder` raises."""
        device = worker_device(worker, self.device, torch.cuda.device_count())
        return load_encoder(self.name, device, precision=self.precision)


def run_in_processes(jobs: Sequence[SlideJob], encoder: EncoderChoice, workers: int, run: CohortRun) -> None:
    """Whole slides in worker processes. A slide that kills its worker is tried once more, alone, then recorded."""
    while jobs:
        suspects, jobs = _run_pool(jobs, encoder, workers, run)
        for job in suspects:
            if any(_run_pool([job], encoder, 1, run)):
                message = f"slide '{job.slide_id}': the process reading it died (out of memory, or a damaged file)"
                run.end(failed(job, 0.0, "WorkerDied", message))


def _run_pool(
    jobs: Sequence[SlideJob], encoder: EncoderChoice, workers: int, run: CohortRun
) -> tuple[list[SlideJob], list[SlideJob]]:
    """Run jobs in fresh processes. When a worker dies: the jobs then under way, and those not yet begun."""
    context = get_context("spawn")  # fork would copy locked thread pools
    counts = context.RawArray("q", 2 * len(jobs))  # tiles done and in all; -1 in all: begun
    started = context.Value("i", 0)
    pool = ProcessPoolExecutor(workers, context, initializer=_start_worker, initargs=(encoder, started, counts))
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
                f"extraction workers died while starting with encoder '{encoder.name}'; expected enough memory for "
                f"{workers} of them, and scripts to be files with an  if __name__ == '__main__':  guard; "
                "use num_workers=1 otherwise"
            ) from None
        return begun, [jobs[i] for i in left if not counts[2 * i + 1]]
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
    return [], []


def _collect(future: "Future[ExtractOutcome]", run: CohortRun) -> bool:
    """Whether a future had ended well before the pool broke; its outcome is then counted."""
    if not future.done() or future.cancelled() or future.exception() is not None:
        return False
    run.end(future.result())
    return True


_worker: dict[str, Any] = {}
"""This worker process's encoder and tile counters."""


def _start_worker(encoder: EncoderChoice, started: Any, counts: Any) -> None:
    settle_worker()
    follow_parent()
    with started.get_lock():
        number = started.value
        started.value += 1
    _worker.update(encoder=encoder.load(number), counts=counts)


def settle_worker() -> None:
    """Make this process one of several that each take whole slides: one thread, and memory kept for reuse."""
    import cv2
    from threadpoolctl import threadpool_limits

    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    threadpool_limits(1)  # numpy's linear algebra too: for 3 × 3 problems its threads only wait for each other
    keep_memory()


def _work(job: SlideJob, slot: int) -> ExtractOutcome:
    counts = _worker["counts"]
    counts[2 * slot + 1] = -1

    def tick(done: int, total: int) -> None:
        counts[2 * slot], counts[2 * slot + 1] = done, total

    return run_job(job, _worker["encoder"], tick)
