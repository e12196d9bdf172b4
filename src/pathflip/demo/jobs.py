"""Jobs side by side in processes, one thread each; some wait for others."""

import time
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from dataclasses import dataclass
from graphlib import TopologicalSorter
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
    """Run jobs, ``num_workers`` at a time; of those that wait for nothing more, the one that stands first goes first.

    Two jobs side by side with a thread each are quicker than two one after the other that share their threads.

    Args:
        jobs: names differ; what a job waits for stands among them.
        num_workers: processes.
        tick: called about every second.

    Raises:
        Whatever a job raises, and graphlib.CycleError for jobs that wait for each other.
    """
    by_name = {job.name: job for job in jobs}
    order = {name: place for place, name in enumerate(by_name)}
    graph = TopologicalSorter({job.name: job.after for job in jobs})
    graph.prepare()
    ready: list[str] = []
    running: dict[Future[Done], str] = {}
    done: dict[str, Done] = {}
    with ProcessPoolExecutor(max(1, num_workers), mp_context=get_context("spawn"), initializer=follow_parent) as pool:
        while graph.is_active():
            ready = sorted([*ready, *graph.get_ready()], key=order.__getitem__)
            while ready and len(running) < max(1, num_workers):
                name = ready.pop(0)
                running[pool.submit(_timed, by_name[name])] = name
            ended, _ = wait(running, timeout=1.0, return_when=FIRST_COMPLETED)
            for future in ended:
                name = running.pop(future)
                done[name] = future.result()
                graph.done(name)
            tick()
    return done


def _timed(job: Job) -> Done:
    torch.set_num_threads(1)
    threadpool_limits(1)
    start = time.perf_counter()
    return Done(job.run(*job.arguments), time.perf_counter() - start)
