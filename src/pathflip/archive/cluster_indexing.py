"""Indexing on a Ray cluster, handed out by the extraction's dispatcher: nodes encode, one process writes."""

from collections.abc import Callable, Sequence
from pathlib import Path

from pathflip.archive.indexing import IndexRun, RunIndexJobs
from pathflip.archive.slide_rows import EncodedRow, IndexJob, encode_row
from pathflip.archive.text_vectors import TextProbe
from pathflip.features.cluster import ClusterSpec, Dispatcher, connected
from pathflip.features.workers import settle_worker
from pathflip.inference import Aligned, load

__all__ = ["index_on_cluster"]


def index_on_cluster(cluster: ClusterSpec, model: Path, say: Callable[[str], None] = lambda line: None) -> RunIndexJobs:
    """For ``index_features(run_jobs=…)``: every slide a task, on whichever node is free.

    Every node must see feature files, slides and the model's directory under the same names. Only the process that was
    started writes to the archive; a slide whose node is lost is encoded again elsewhere.

    Args:
        cluster: which cluster, and what a slide needs of it. model: checkpoint directory.
        say: told of stragglers, lost nodes and waiting for resources; one line each.
    """

    def run_jobs(jobs: Sequence[IndexJob], run: IndexRun) -> None:
        ray = connected(cluster.address)
        try:
            Dispatcher(ray, cluster, run, say, _work, (model.resolve(),), _lost_slide).work(jobs)
        finally:
            ray.shutdown()

    return run_jobs


_models: dict[Path, tuple[Aligned, TextProbe]] = {}
"""This worker process's models; Ray keeps processes and gives them one task after the other."""


def _lost_slide(job: IndexJob, error: str, message: str) -> EncodedRow:
    return EncodedRow(job.slide_id, error=message)


def _work(job: IndexJob, model: Path) -> EncodedRow:
    """One slide, in a worker process of some node."""
    if model not in _models:
        settle_worker()
        aligned = load(model)
        _models[model] = aligned, TextProbe.of(aligned)
    return encode_row(*_models[model], job)
