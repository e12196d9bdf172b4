"""The same extraction on a Ray cluster: each slide a task, on whichever node is free.

Everything that makes a cohort run safe (plan, settings, skipping, ``failures.jsonl``) is that of
:func:`~pathflip.features.extract_cohort`; only the doing is elsewhere. A task writes its file under a temporary name
and renames it, so one that runs twice (its node was lost, or it was slow and another began it too) does no harm: the
first outcome counts. ``docs/scale.md`` says how to start a cluster and how far it goes.
"""

import logging
import socket
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pathflip.errors import ConfigError, MissingExtraError, OutputError
from pathflip.features import Encoder, ExtractOutcome, extract_cohort
from pathflip.features.extraction import SlideJob, failed, run_job
from pathflip.features.outcomes import CohortRun
from pathflip.features.workers import EncoderChoice, settle_worker
from pathflip.geometry import TileSpec

__all__ = ["ClusterSpec", "Dispatcher", "connected", "extract_on_cluster"]

_POLL_S = 1.0
_AHEAD = 1.25
"""Tasks handed out for each that can run: enough that no node waits, few enough that submission is nearly the start."""


@dataclass(frozen=True)
class ClusterSpec:
    """Which cluster, and what a slide needs of it.

    Attributes:
        address: "auto" (the cluster of this machine), ``HOST:PORT``, or ``ray://HOST:PORT`` from outside it.
        cpus, gpus: reserved for one slide at a time; fractions share (``gpus=0.25``: four slides on a GPU).
        retries: how often a slide is begun again after its worker or node died.
        straggler_factor: a slide that takes this many times the median is reported; when nothing else is left to hand
            out, it is begun a second time elsewhere.
        straggler_seconds: but never before this long.
    """

    address: str = "auto"
    cpus: float = 1.0
    gpus: float = 0.0
    retries: int = 3
    straggler_factor: float = 4.0
    straggler_seconds: float = 120.0

    def __post_init__(self) -> None:
        for name, low in (
            ("cpus", 0.01),
            ("gpus", 0),
            ("retries", 0),
            ("straggler_factor", 1),
            ("straggler_seconds", 0),
        ):
            if getattr(self, name) < low:
                raise ConfigError(f"ClusterSpec.{name}: got {getattr(self, name)}, expected {low} or more")


def extract_on_cluster(
    paths: Iterable[str | Path],
    spec: TileSpec,
    encoder: str,
    out: str | Path,
    cluster: ClusterSpec,
    *,
    device: str | None = None,
    precision: str = "auto",
    say: Callable[[str], None] = lambda line: None,
    **options: Any,
) -> list[ExtractOutcome]:
    """:func:`~pathflip.features.extract_cohort` with the slides' work done by a Ray cluster.

    Args:
        paths, spec, encoder, out: as there. Every node must see slides, ``out`` and (for ``hf:FOLDER``) the encoder
            under the same names: a shared file system, or an object store. PathFLIP must be installed on every node.
        cluster: which cluster.
        device: where nodes encode; None takes the GPU if the task has one.
        precision: "float32" ("auto" too) or "bfloat16": in these all nodes run alike, with a GPU or without.
        say: told of stragglers, lost nodes, waiting for resources, and unfit tiles; one line each.
        **options: further arguments of ``extract_cohort``.

    Raises:
        MissingExtraError: Ray is not installed.
        ConfigError: no cluster answers; precision "float16"; or what ``extract_cohort`` raises.
    """
    if precision == "float16":
        raise ConfigError("precision 'float16' is for GPUs, and a node may have none; expected float32 or bfloat16")
    precision = "float32" if precision == "auto" else precision  # a node with a GPU would choose otherwise
    ray = connected(cluster.address)
    try:

        def run_jobs(jobs: Sequence[SlideJob], run: CohortRun) -> None:
            extra = (EncoderChoice(encoder, device, precision),)
            Dispatcher(ray, cluster, run, say, _work, extra, _lost_slide).work(jobs)

        here = {"device": "cpu", "precision": precision, "warn": say}
        return extract_cohort(paths, spec, encoder, out, run_jobs=run_jobs, **here, **options)
    finally:
        ray.shutdown()


def connected(address: str) -> Any:
    """The module Ray, connected to a cluster.

    Raises:
        MissingExtraError: it is not installed. ConfigError: no cluster answers.
    """
    try:
        import ray
    except ImportError:
        raise MissingExtraError("ray", "cluster", "--cluster") from None
    try:
        if ":" in address:  # Ray itself asks a dead address for minutes
            host, _, port = address.removeprefix("ray://").rpartition(":")
            socket.create_connection((host, int(port)), timeout=10).close()
        ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
    except (ConnectionError, RuntimeError, ValueError, OSError) as error:
        reason = " ".join(str(error).split())[:200]
        raise ConfigError(
            f"no Ray cluster answers at '{address}' ({reason}); start one with  ray start --head --port 6379  and "
            "  ray start --address HOST:6379  on every further node"
        ) from None
    return ray


@dataclass
class _Task:
    """One slide at work, perhaps twice."""

    job: Any
    started: float
    copies: list[Any] = field(default_factory=list)
    reported: bool = False


class Dispatcher:
    """Hands out slides, takes in outcomes: each slide exactly once.

    Args:
        ray: connected. spec: what a slide needs.
        run: its ``end`` takes in outcomes.
        say: told of stragglers and lost nodes.
        work: does a job (which has a ``slide_id``) on some node: ``work(job, *extra)`` gives its outcome.
        fail: the outcome of a job that failed, from the job, the error's name and a message.
    """

    def __init__(
        self,
        ray: Any,
        spec: ClusterSpec,
        run: Any,
        say: Callable[[str], None],
        work: Callable[..., Any],
        extra: tuple[Any, ...],
        fail: Callable[[Any, str, str], Any],
    ) -> None:
        self._ray, self._spec, self._run, self._say = ray, spec, run, say
        self._extra, self._fail = extra, fail
        self._remote = ray.remote(work).options(
            num_cpus=spec.cpus, num_gpus=spec.gpus, max_retries=spec.retries, retry_exceptions=False
        )
        self._tasks: dict[Any, _Task] = {}
        self._seconds: list[float] = []
        self._nodes: set[str] = set()
        self._waiting_since: float | None = None

    def work(self, jobs: Sequence[Any]) -> None:
        """Do all jobs on the cluster."""
        left = list(reversed(jobs))
        try:
            while left or self._tasks:
                slots = self._slots()
                while left and len(self._tasks) < max(1, int(slots * _AHEAD)):
                    job = left.pop()
                    self._begin(_Task(job, time.monotonic()))
                self._collect()
                self._look_at_stragglers(nothing_left=not left)
            self._slots()  # a node lost while the last slides ran is told of too
        finally:
            for ref in self._tasks:
                self._ray.cancel(ref, force=False)

    def _slots(self) -> int:
        """How many slides the nodes now alive can work on at once."""
        alive = {node["NodeID"]: node["Resources"] for node in self._ray.nodes() if node["Alive"]}
        for lost in self._nodes - set(alive):
            self._say(f"node {lost[:8]} was lost; its slides are begun again elsewhere")
        self._nodes = set(alive)
        wanted = {"CPU": self._spec.cpus, "GPU": self._spec.gpus}
        slots = sum(
            int(min(node.get(kind, 0) / need for kind, need in wanted.items() if need)) for node in alive.values()
        )
        if slots:
            self._waiting_since = None
        elif self._waiting_since is None:
            self._waiting_since = time.monotonic()
            self._say(f"no node offers {self._spec.cpus:g} CPU and {self._spec.gpus:g} GPU; waiting for one")
        return slots

    def _begin(self, task: _Task) -> None:
        ref = self._remote.remote(task.job, *self._extra)
        task.copies.append(ref)
        self._tasks[ref] = task

    def _collect(self) -> None:
        """Wait a moment for outcomes; the first of a slide counts."""
        ended, _ = self._ray.wait(list(self._tasks), num_returns=len(self._tasks), timeout=0)
        if not ended:
            ended, _ = self._ray.wait(list(self._tasks), num_returns=1, timeout=_POLL_S)
        for ref in ended:
            task = self._tasks.pop(ref, None)
            if task is None:  # its other copy came first
                continue
            outcome = self._outcome(ref, task)
            if outcome is None:  # this copy is lost, the other still at work
                continue
            for copy in task.copies:
                if self._tasks.pop(copy, None) is not None:
                    self._ray.cancel(copy, force=False)
            self._seconds.append(time.monotonic() - task.started)
            self._run.end(outcome)

    def _outcome(self, ref: Any, task: _Task) -> Any:
        """None where this copy of the task is lost and the other still at work."""
        try:
            return self._ray.get(ref)
        except self._ray.exceptions.RayTaskError as error:
            if isinstance(error.cause, OutputError | MissingExtraError | ConfigError):
                raise error.cause from None  # other slides would fare no better
            return self._fail(task.job, type(error.cause).__name__, f"slide '{task.job.slide_id}': {error.cause}")
        except self._ray.exceptions.RayError as error:
            if any(copy in self._tasks for copy in task.copies):
                return None
            message = (
                f"slide '{task.job.slide_id}': the process reading it died {self._spec.retries + 1} times "
                f"({type(error).__name__}: out of memory, a damaged file, or lost nodes)"
            )
            return self._fail(task.job, "WorkerDied", message)

    def _look_at_stragglers(self, nothing_left: bool) -> None:
        if len(self._seconds) < 5:
            return
        median = sorted(self._seconds)[len(self._seconds) // 2]
        limit = max(self._spec.straggler_seconds, self._spec.straggler_factor * median)
        for task in {id(task): task for task in self._tasks.values()}.values():
            seconds = time.monotonic() - task.started
            if seconds < limit:
                continue
            if not task.reported:
                task.reported = True
                self._say(f"slide '{task.job.slide_id}' has taken {seconds:.0f} s (median {median:.0f} s)")
            if nothing_left and len(task.copies) == 1:
                self._say(f"slide '{task.job.slide_id}' is begun a second time")
                self._begin(task)


_encoders: dict[EncoderChoice, Encoder] = {}
"""This worker process's encoders; Ray keeps processes and gives them one task after the other."""


def _lost_slide(job: SlideJob, error: str, message: str) -> ExtractOutcome:
    return failed(job, 0.0, error, message)


def _work(job: SlideJob, encoder: EncoderChoice) -> ExtractOutcome:
    """One slide, in a worker process of some node."""
    if encoder not in _encoders:
        settle_worker()
        _encoders[encoder] = encoder.load()
    return run_job(job, _encoders[encoder])
