"""Jobs side by side in processes, one thread each; some wait for others."""

import time
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from dataclasses import dataclass
from multiprocessing import get_context
from typing import Any

import torch
from threadpoolctl import threadpool_limits

from pathflip.processes import follow_parent

__all__ = ["Done", "Job", "run_jobs"]


@dataclass(frozen=True)
class Job:
    """A function of a module with its arguments; ``after`` names jobs that must have ended before."""

    name: str
    run: Callable[..., Any]
    arguments: tuple[Any, ...] = ()
    after: tuple[str, ...] = ()


@dataclass(frozen=True)
class Done:
    """What a job returned, and how long it took."""

    result: Any
    seconds: float


def run_jobs(jobs: Sequence[Job], num_workers: int, tick: Callable[[], None] = lambda: None) -> dict[str, Done]:
    """Run jobs, ``num_workers`` at a time, those that stand first first.

    Two jobs side by side with a thread each are quicker than two one after the other that share their threads.

    Args:
        jobs: names differ; what a job waits for stands among them.
        num_workers: processes.
        tick: called about every second.

    Raises:
        Whatever a job raises.
    """
    waiting, done = list(jobs), dict[str, Done]()
    running: dict[Future[Done], str] = {}
    with ProcessPoolExecutor(max(1, num_workers), mp_context=get_context("spawn"), initializer=follow_parent) as pool:
        while waiting or running:
            for job in list(waiting):
                if len(running) < max(1, num_workers) and all(name in done for name in job.after):
                    running[pool.submit(_timed, job)] = job.name
                    waiting.remove(job)
            ended, _ = wait(running, timeout=1.0, return_when=FIRST_COMPLETED)
            for future in ended:
                done[running.pop(future)] = future.result()
            tick()
    return done


def _timed(job: Job) -> Done:
    torch.set_num_threads(1)
    threadpool_limits(1)
    start = time.perf_counter()
    return Done(job.run(*job.arguments), time.perf_counter() - start)
