"""Extraction on a Ray cluster of separate processes, and object stores: nothing lost, nothing twice."""

import json
import os
import shutil
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import fsspec
import numpy as np
import pytest
from fsspec.implementations.dirfs import DirFileSystem
from fsspec.implementations.local import LocalFileSystem

from cohort_run import write_slide
from pathflip.data.packed import pack_features
from pathflip.data.packed.on_cluster import pack_on_cluster
from pathflip.errors import ConfigError, MissingExtraError, OutputError
from pathflip.features import ExtractOutcome, extract_cohort, read_features
from pathflip.features.cluster import ClusterSpec, Dispatcher, _lost_slide, _work, extract_on_cluster
from pathflip.features.extraction import SlideJob
from pathflip.features.outcomes import CohortRun, FailureList
from pathflip.features.workers import EncoderChoice
from pathflip.geometry import TileSpec
from pathflip.io.storage import as_url, local_path, shown
from pathflip.slide.tissue import TissueSpec

SPEC = TileSpec(64, 2.0)


def run(paths, out, **options):
    return extract_cohort(paths, SPEC, "colour_histogram", out, num_workers=1, **options)


@pytest.fixture
def slides(tmp_path):
    (tmp_path / "slides").mkdir()
    return [write_slide(tmp_path / "slides" / f"s{i}.tif", seed=i) for i in range(3)]


@pytest.fixture
def expected(slides, tmp_path):
    return {o.slide_id: read_features(o.path).features for o in run(slides, tmp_path / "expected")}


# ---------------------------------------------------------------- Ray


@pytest.fixture
def ray_cluster(monkeypatch):
    """A head that runs nothing, and two nodes of one processor each; every node is processes of its own."""
    pytest.importorskip("ray", reason="needs Ray: pip install 'pathflip[cluster]'")
    from ray.cluster_utils import Cluster

    here = str(Path(__file__).parent)  # workers import this file for what is planted below
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([here, *filter(None, [os.environ.get("PYTHONPATH")])]))
    monkeypatch.setenv("RAY_worker_niceness", "0")  # Ray's 15 starves them on a busy machine
    head = {"num_cpus": 0, "include_dashboard": False}
    cluster = Cluster(initialize_head=True, head_node_args=head)
    nodes = [cluster.add_node(num_cpus=1, wait=False) for _ in range(2)]
    cluster.wait_for_nodes()
    yield cluster, nodes
    cluster.shutdown()


def deadly(job, encoder):
    """What a worker does, but that slide "killer" takes its process with it, as a crash in a decoder does."""
    if job.slide_id == "killer":
        os._exit(139)
    from pathflip.features.cluster import _work

    return _work(job, encoder)


@pytest.mark.slow
def test_a_node_killed_in_the_middle_loses_nothing(ray_cluster, tmp_path, monkeypatch):
    ray = pytest.importorskip("ray", reason="needs Ray: pip install 'pathflip[cluster]'")
    cluster, nodes = ray_cluster
    monkeypatch.setattr("pathflip.features.cluster._work", deadly)
    folder, out, spec = tmp_path / "slides", tmp_path / "o", TileSpec(64, 2.0, 8)
    folder.mkdir()
    whole = [write_slide(folder / f"s{i:02d}.tif", seed=i) for i in range(12)]
    (folder / "broken.tif").write_bytes(b"not a slide" * 50)
    write_slide(folder / "killer.tif")
    paths, ended, lines = sorted(folder.iterdir()), [], []

    def show(step):
        if step.outcome is not None:
            ended.append(step.outcome.slide_id)
            if len(ended) == 4:
                cluster.remove_node(nodes[1], allow_graceful=False)  # kill -9 of the node's processes
                while sum(node["Alive"] for node in ray.nodes()) > 2:  # until the cluster knows: seconds
                    time.sleep(0.1)

    outcomes = extract_on_cluster(
        paths, spec, "colour_histogram", out, ClusterSpec(cluster.address, retries=1), say=lines.append, progress=show
    )
    assert [o.slide for o in outcomes] == paths
    assert sorted(ended) == sorted(p.stem for p in paths)  # each exactly once
    assert {o.slide_id: o.error for o in outcomes if o.status != "done"} == {
        "broken": "SlideError", "killer": "WorkerDied"}  # fmt: skip
    rows = [json.loads(line) for line in (out / "failures.jsonl").read_text().splitlines()]
    assert sorted((row["slide_id"], row["error"]) for row in rows) == [
        ("broken", "SlideError"), ("killer", "WorkerDied")]  # fmt: skip
    assert any("was lost" in line for line in lines)
    features = out / "features_colour_histogram"
    assert sorted(p.name for p in features.iterdir()) == [
        ".lock", ".settings.json", *(f"s{i:02d}.h5" for i in range(12))]  # fmt: skip
    again = extract_cohort(whole, spec, "colour_histogram", out, num_workers=1)  # this machine goes on from there
    assert [o.status for o in again] == ["skipped"] * 12  # each was read whole
    for outcome in extract_cohort(whole[::4], spec, "colour_histogram", tmp_path / "here", num_workers=1):
        same = read_features(features / outcome.path.name)
        np.testing.assert_array_equal(same.features, read_features(outcome.path).features)


class FakeRay:
    """Ray's calls, with what becomes of each copy of a slide decided beforehand.

    ``script[slide_id]`` lists, for its first, second, … copy: "done", "hangs", "dies", or an exception the task raises.
    """

    class exceptions:  # noqa: N801  # Ray's own name
        class RayError(Exception):
            pass

        class RayTaskError(RayError):
            def __init__(self, cause):
                super().__init__(str(cause))
                self.cause = cause

    def __init__(self, script, slots=2):
        self.script, self.slots, self.jobs, self.begun, self.cancelled = script, slots, {}, [], []
        self.got, self.lost_with = set(), None  # node "m…" is lost once this slide's outcome was taken

    def remote(self, function):
        return self

    def options(self, **options):
        return SimpleNamespace(remote=self._begin)

    def _begin(self, job, encoder):
        ref = f"{job.slide_id} {self.begun.count(job.slide_id)}"
        self.jobs[ref] = job
        self.begun.append(job.slide_id)
        return ref

    def _fate(self, ref):
        name, copy = ref.split()
        return self.script.get(name, ["done"])[int(copy)]

    def nodes(self):
        lost = self.lost_with in self.got
        return [
            {"NodeID": name * 20, "Alive": not (name == "m" and lost), "Resources": {"CPU": self.slots / 2}}
            for name in "nm"
        ]

    def wait(self, refs, num_returns, timeout):
        time.sleep(timeout / 50)
        return [ref for ref in refs if self._fate(ref) != "hangs"][:num_returns], []

    def get(self, ref):
        fate = self._fate(ref)
        if fate == "dies":
            raise self.exceptions.RayError("node died")
        if isinstance(fate, Exception):
            raise self.exceptions.RayTaskError(fate)
        job = self.jobs[ref]
        self.got.add(job.slide_id)
        return ExtractOutcome(job.slide_id, job.slide, "done", job.target, tiles=int(ref.split()[1]))

    def cancel(self, ref, force):
        self.cancelled.append(ref)


def dispatch(script, tmp_path, count=12, lost_with=None, **options):
    """Outcomes, the ray, and what was said."""
    ray, lines = FakeRay(script), []
    ray.lost_with = lost_with
    spec = ClusterSpec(straggler_seconds=0.1, **options)
    jobs = [
        SlideJob(i, f"s{i}", tmp_path / f"s{i}.tif", tmp_path / f"s{i}.h5", SPEC, None, TissueSpec(), {}, 1, 0)
        for i in range(count)
    ]
    run = CohortRun(jobs, FailureList(tmp_path / "failures.jsonl", "e"), None)
    Dispatcher(ray, spec, run, lines.append, _work, (EncoderChoice("e"),), _lost_slide).work(jobs)
    return run.outcomes, ray, lines


def test_a_straggler_is_reported_begun_again_and_counted_once(tmp_path):
    outcomes, ray, lines = dispatch({"s3": ["hangs", "done"]}, tmp_path)
    assert [outcomes[i].status for i in range(12)] == ["done"] * 12
    assert outcomes[3].tiles == 1  # the second copy's outcome
    assert ray.begun.count("s3") == 2
    assert len(ray.begun) == 13
    assert ray.cancelled == ["s3 0"]  # the copy that hangs
    assert lines[-1] == "slide 's3' is begun a second time"
    assert any(line.startswith("slide 's3' has taken") for line in lines)


@pytest.mark.parametrize("slide", ["s0", "s11"])
def test_a_lost_node_is_told_of_even_at_the_very_end(slide, tmp_path):
    outcomes, _, lines = dispatch({}, tmp_path, lost_with=slide)
    assert [outcomes[i].status for i in range(12)] == ["done"] * 12
    assert lines == ["node mmmmmmmm was lost; its slides are begun again elsewhere"]


def test_a_slide_whose_every_process_dies_is_a_failure(tmp_path):
    outcomes, _, _ = dispatch({"s3": ["dies"], "s4": [ValueError("odd")]}, tmp_path, retries=2)
    assert {i: o.error for i, o in outcomes.items() if o.status == "failed"} == {3: "WorkerDied", 4: "ValueError"}
    assert "died 3 times" in outcomes[3].message
    assert len((tmp_path / "failures.jsonl").read_text().splitlines()) == 2


def test_a_straggler_whose_second_copy_dies_is_still_awaited(tmp_path):
    script = {"s3": ["hangs", "dies"]}
    threading.Timer(1.0, lambda: script.update(s3=["done", "dies"])).start()
    outcomes, _, _ = dispatch(script, tmp_path)
    assert (outcomes[3].status, outcomes[3].tiles) == ("done", 0)


def test_a_full_disk_on_a_node_stops_the_run(tmp_path):
    with pytest.raises(OutputError, match="No space left"):
        dispatch({"s3": [OutputError("cannot write: No space left on device")]}, tmp_path)


def test_no_cluster_is_said_in_one_line(slides, tmp_path):
    pytest.importorskip("ray", reason="needs Ray: pip install 'pathflip[cluster]'")
    for address in ("nonsense", "127.0.0.1:1", "ray://127.0.0.1:1"):
        with pytest.raises(ConfigError, match=rf"no Ray cluster answers at '{address}'.*ray start --head"):
            extract_on_cluster(slides, SPEC, "colour_histogram", tmp_path / "o", ClusterSpec(address))
    with pytest.raises(ConfigError, match=r"ClusterSpec.cpus: got -1"):
        ClusterSpec(cpus=-1)


def test_ray_absent_names_the_command(slides, tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "ray", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'pathflip\[cluster\]'"):
        extract_on_cluster(slides, SPEC, "colour_histogram", tmp_path / "o", ClusterSpec())


# ---------------------------------------------------------------- object stores


class Bucket(DirFileSystem):
    """A stand-in for S3: objects appear whole, cannot be appended to, and the store may refuse."""

    protocol = "s3"
    refuse_after = None
    puts = 0

    def _join(self, path):
        return super()._join(self._strip_protocol(path)) if isinstance(path, str) else super()._join(path)

    @classmethod
    def _strip_protocol(cls, path):
        return path.removeprefix("s3://")

    def _count(self):
        Bucket.puts += 1
        if Bucket.refuse_after is not None and Bucket.puts > Bucket.refuse_after:
            raise OSError("SlowDown: please reduce your request rate")

    def put_file(self, local, remote, **options):
        self._count()
        target = self._join(remote)
        os.makedirs(os.path.dirname(target), exist_ok=True)
        shutil.copy(local, target)

    def pipe_file(self, path, value, **options):
        self._count()
        os.makedirs(os.path.dirname(self._join(path)), exist_ok=True)
        with open(self._join(path), "wb") as handle:
            handle.write(value)


@pytest.fixture(params=["s3", "memory"])
def store(request, tmp_path, monkeypatch):
    """(URL of an empty store, fsspec's view of it)."""
    Bucket.refuse_after, Bucket.puts = None, 0
    if request.param == "memory":
        store = fsspec.filesystem("memory")
        yield "memory://lab", store
        store.rm("/lab", recursive=True)
        return
    bucket = Bucket(path=str(tmp_path / "bucket"), fs=LocalFileSystem(), skip_instance_cache=True)
    real = fsspec.filesystem
    monkeypatch.setattr(fsspec, "filesystem", lambda scheme, **o: bucket if scheme == "s3" else real(scheme, **o))
    yield "s3://lab", bucket


def test_slides_and_features_in_an_object_store(store, slides, expected, tmp_path):
    url, files = store
    for path in slides:
        files.pipe_file(f"{url}/slides/{path.name}", path.read_bytes())
    files.pipe_file(f"{url}/slides/broken.tif", b"not a slide" * 50)
    paths = [f"{url}/slides/{name}" for name in ("s0.tif", "broken.tif", "s1.tif", "s2.tif", "absent.tif")]
    outcomes = run(paths, f"{url}/out")
    assert [o.status for o in outcomes] == ["done", "failed", "done", "done", "failed"]
    assert f"slide '{url}/slides/broken.tif': neither OpenSlide" in outcomes[1].message
    assert f"slide '{url}/slides/absent.tif'" in outcomes[4].message
    rows = [json.loads(line) for line in files.cat_file(f"{url}/out/failures.jsonl").splitlines()]
    assert [(row["slide_id"], row["path"]) for row in rows] == [
        ("broken", f"{url}/slides/broken.tif"), ("absent", f"{url}/slides/absent.tif")]  # fmt: skip
    for name, rows in expected.items():
        target = f"{url}/out/features_colour_histogram/{name}.h5"
        np.testing.assert_array_equal(read_features(target).features, rows)
        assert shown(outcomes[0].path) == f"{url}/out/features_colour_histogram/s0.h5"
    files.pipe_file(f"{url}/slides/broken.tif", slides[0].read_bytes())
    again = run(paths[:4], f"{url}/out")
    assert [o.status for o in again] == ["skipped", "done", "skipped", "skipped"]
    with pytest.raises(ConfigError, match=r"min_tissue was 0.25, now 0.5"):
        extract_cohort(paths[:2], TileSpec(64, 2.0, 0, 0.5), "colour_histogram", f"{url}/out", num_workers=1)
    assert not list(Path("/tmp").glob("pathflip-*/s0.tif"))  # downloads are removed


@pytest.mark.parametrize("store", ["s3"], indirect=True)
def test_a_store_that_refuses_stops_the_run_and_the_next_goes_on(store, slides, expected):
    url, _ = store
    Bucket.refuse_after = 2  # the settings and one slide
    with pytest.raises(OutputError, match=r"cannot write 's3://lab/out/.*SlowDown.*run the same command again"):
        run(slides, f"{url}/out")
    Bucket.refuse_after = None
    assert [o.status for o in run(slides, f"{url}/out")] == ["skipped", "done", "done"]
    for name, rows in expected.items():
        target = f"{url}/out/features_colour_histogram/{name}.h5"
        np.testing.assert_array_equal(read_features(target).features, rows)


def test_file_urls_are_paths(slides, tmp_path):
    (outcome,) = run([f"file://{slides[0]}"], f"file://{tmp_path / 'o'}")
    assert outcome.path == tmp_path / "o" / "features_colour_histogram" / "s0.h5"
    assert outcome.path.is_file()


@pytest.mark.parametrize(
    ("path", "url"),
    [("s3://b/a c.svs", "s3://b/a c.svs"), (Path("s3://b/x") / "y.h5", "s3://b/x/y.h5"), ("gs://b", "gs://b"),
     ("/data/s3:/b", None), ("s3", None), (Path("a.svs"), None), ("https://x/y", None)],
)  # fmt: skip
def test_what_counts_as_a_url(path, url):
    assert as_url(path) == url
    assert shown(path) == (url or str(path))
    assert local_path("file:///data/x.svs") == local_path(Path("file:///data/x.svs")) == Path("/data/x.svs")


def test_a_store_without_its_package_names_the_command(slides, tmp_path):
    if __import__("importlib.util").util.find_spec("adlfs"):
        pytest.skip("adlfs is installed here")
    with pytest.raises(MissingExtraError, match=r"needs the package 'adlfs'"):
        run(slides, "az://container/out")


def pack_deadly(job):
    """Packing as a worker does it, but that one slide takes its process with it."""
    if job.slide_id == "s00":
        os._exit(139)
    from pathflip.data.packed.on_cluster import _work

    return _work(job)


@pytest.mark.slow
def test_packing_on_a_cluster_survives_a_lost_node(ray_cluster, tmp_path, monkeypatch):
    cluster, nodes = ray_cluster
    (tmp_path / "slides").mkdir()
    paths = [write_slide(tmp_path / "slides" / f"s{i:02d}.tif", seed=i) for i in range(8)]
    files = [outcome.path for outcome in run(paths, tmp_path / "features")]
    here = pack_features(files, tmp_path / "here")
    monkeypatch.setattr("pathflip.data.packed.on_cluster._work", pack_deadly)
    lost = []

    def progress(done, total):
        if done == 3 and not lost:
            lost.append(cluster.remove_node(nodes[1], allow_graceful=False))

    jobs = pack_on_cluster(ClusterSpec(cluster.address, retries=1))
    outcomes = pack_features(files, tmp_path / "there", run_jobs=jobs, progress=progress)
    assert [(o.slide_id, o.error) for o in outcomes if o.status != "done"] == [("s00", "WorkerDied")]
    assert lost
    for one, other in zip(here[1:], outcomes[1:], strict=True):
        assert one.path.read_bytes() == other.path.read_bytes()
    assert [o.status for o in pack_features(files, tmp_path / "there")] == ["done"] + ["skipped"] * 7


def index_deadly(job, model):
    """Indexing as a worker does it, but that one slide takes its process with it."""
    if job.slide_id == "slide-0":
        os._exit(139)
    from pathflip.archive.cluster_indexing import _work

    return _work(job, model)


@pytest.mark.slow
def test_indexing_on_a_cluster_survives_a_lost_node(ray_cluster, tmp_path, monkeypatch):
    pytest.importorskip("lancedb")
    from archive_model import write_model, write_slide_features
    from pathflip.archive import Searcher, index_features, open_archive
    from pathflip.archive.cluster_indexing import index_on_cluster
    from pathflip.inference import load

    cluster, nodes = ray_cluster
    model = load(write_model(tmp_path / "model"), "cpu")
    files = [write_slide_features(tmp_path / "features", f"slide-{n}", 20 + n, seed=n) for n in range(8)]
    index_features(model, files[1:], tmp_path / "here")
    monkeypatch.setattr("pathflip.archive.cluster_indexing._work", index_deadly)
    lost = []

    def progress(done, total):
        if done == 3 and not lost:
            lost.append(cluster.remove_node(nodes[1], allow_graceful=False))

    jobs = index_on_cluster(ClusterSpec(cluster.address, retries=1), tmp_path / "model")
    outcomes = index_features(model, files, tmp_path / "there", run_jobs=jobs, progress=progress)
    assert [(o.slide_id, o.error[:33]) for o in outcomes if o.status != "indexed"] == [
        ("slide-0", "slide 'slide-0': the process read")
    ]
    assert lost
    here, there = (Searcher(open_archive(tmp_path / name), model) for name in ("here", "there"))
    for query in ("slide-1", "slide-5"):
        assert [(h.slide_id, h.places) for h in here.by_slide(query)] == [
            (h.slide_id, h.places) for h in there.by_slide(query)
        ]
    again = index_features(model, files, tmp_path / "there")
    assert [o.status for o in again] == ["indexed"] + ["unchanged"] * 7
