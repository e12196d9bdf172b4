"""Packing on a Ray cluster, handed out by the extraction's dispatcher."""

from collections.abc import Callable, Sequence

from pathflip.data.packed.packing import PackJob, PackOutcome, PackRun, RunPackJobs, failed_pack, pack_slide
from pathflip.features.cluster import ClusterSpec, Dispatcher, connected
from pathflip.features.workers import settle_worker

__all__ = ["pack_on_cluster"]


def pack_on_cluster(cluster: ClusterSpec, say: Callable[[str], None] = lambda line: None) -> RunPackJobs:
    """For ``pack_features(run_jobs=…)``: every slide a task, on whichever node is free.

    Every node must see feature files and store under the same names. A slide whose node is lost is begun again
    elsewhere; a file appears whole or not at all, so one packed twice does no harm.

    Args:
        cluster: which cluster, and what a slide needs of it.
        say: told of stragglers, lost nodes and waiting for resources; one line each.
    """

    def run_jobs(jobs: Sequence[PackJob], run: PackRun) -> None:
        ray = connected(cluster.address)
        try:
            Dispatcher(ray, cluster, run, say, _work, (), failed_pack).work(jobs)
        finally:
            ray.shutdown()

    return run_jobs


def _work(job: PackJob) -> PackOutcome:
    """One slide, in a worker process of some node."""
    settle_worker()
    return pack_slide(job)
