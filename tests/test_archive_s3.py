"""An archive in an S3 bucket: filled, searched, filled again; against a server that speaks S3 on this machine."""

import os
from pathlib import Path

import pytest

from archive_model import write_model, write_slide_features
from pathflip.archive import Searcher, index_features, open_archive, read_facts
from pathflip.errors import ConfigError, FeatureError, OutputError
from pathflip.inference import load

for package in ("lancedb", "moto", "s3fs", "flask"):
    pytest.importorskip(package, reason=f"{package} is not installed")

TEXT = "Keratin pearls are seen in the upper left."


@pytest.fixture(scope="module")
def bucket():
    """A bucket on a server of this machine, and the environment that leads there."""
    import boto3
    import s3fs
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    address = f"http://{host}:{port}"
    words = {
        "AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test", "AWS_REGION": "us-east-1",
        "AWS_DEFAULT_REGION": "us-east-1", "AWS_ENDPOINT_URL": address, "AWS_ALLOW_HTTP": "true",
    }  # fmt: skip
    before = {name: os.environ.get(name) for name in words}
    os.environ.update(words)
    s3fs.S3FileSystem.clear_instance_cache()
    boto3.client("s3", endpoint_url=address).create_bucket(Bucket="slides")
    try:
        yield "s3://slides"
    finally:
        for name, value in before.items():
            os.environ.pop(name)
            if value is not None:
                os.environ[name] = value
        s3fs.S3FileSystem.clear_instance_cache()
        server.stop()


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return load(write_model(tmp_path_factory.mktemp("model") / "m"), "cpu")


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("features")
    return [write_slide_features(folder, f"slide-{n}", 20 + 3 * n, seed=n) for n in range(5)]


def test_an_archive_in_a_bucket_is_filled_and_searched_as_one_on_disk(bucket, model, files, tmp_path):
    labels = tmp_path / "labels.csv"
    labels.write_text("slide,organ\nslide-0,lung\nslide-1,colon\nslide-2,lung\n")
    facts = read_facts([file.stem for file in files], labels=labels)
    there = Path(f"{bucket}/one")
    first = index_features(model, files[:3], there, facts=facts)
    assert [outcome.status for outcome in first] == ["indexed"] * 3
    more = index_features(model, files, there)
    assert [outcome.status for outcome in more] == ["unchanged"] * 3 + ["indexed"] * 2
    index_features(model, files, tmp_path / "disk", facts=facts)
    stored, local = (Searcher(open_archive(folder), model) for folder in (there, tmp_path / "disk"))
    for hits in (
        lambda s: s.by_text(TEXT),
        lambda s: s.by_slide("slide-1"),
        lambda s: s.by_slide("slide-4", 5, "organ = 'lung'"),
    ):
        assert [(h.slide_id, h.score, h.places, h.labels) for h in hits(stored)] == [
            (h.slide_id, h.score, h.places, h.labels) for h in hits(local)
        ]
    assert len(stored.by_text(TEXT)) == 5


def test_features_of_a_bucket_are_indexed_too(bucket, model, files, tmp_path):
    from pathflip.io.storage import written_to

    remote = []
    for file in files[:2]:
        target = Path(f"{bucket}/features/{file.name}")
        with written_to(target) as local:
            local.write_bytes(file.read_bytes())
        remote.append(target)
    outcomes = index_features(model, remote, tmp_path / "a")
    assert [outcome.status for outcome in outcomes] == ["indexed"] * 2
    assert len(Searcher(open_archive(tmp_path / "a"), model).by_slide("slide-0")) == 1


def test_what_a_bucket_lacks_or_refuses_is_one_line(bucket, model, files):
    import fsspec

    with pytest.raises(ConfigError, match=r"'s3://slides/none/archive.json': |'s3://slides/none': no archive there"):
        open_archive(Path(f"{bucket}/none"))
    fsspec.filesystem("s3").pipe_file("slides/other/report.txt", b"mine")
    with pytest.raises(ConfigError, match=r"holds 'report\.txt'"):
        index_features(model, files[:1], Path(f"{bucket}/other"))
    with pytest.raises(OutputError, match="s3://nowhere/a"):
        index_features(model, files[:1], Path("s3://nowhere/a"))
    index_features(model, files[:1], Path(f"{bucket}/torn"))
    store = fsspec.filesystem("s3")
    store.invalidate_cache()
    for name in store.find("slides/torn/slides.lance"):
        store.pipe_file(name, b"\0" * 50)
    with pytest.raises(FeatureError, match="s3://slides/torn"):
        Searcher(open_archive(Path(f"{bucket}/torn"))).by_slide("slide-0")
