"""Damaged files: whatever their bytes say, a reader refuses or reads; it never crashes, hangs or takes all memory.

``PATHFLIP_FUZZ=20000 python -m pytest tests/test_fuzz.py`` runs a long campaign.
"""

import os

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from damage import (
    Child,
    damaged_feature_files,
    damaged_tiffs,
    scratch,
    tiff_bases,
    write_feature_file,
)

EXAMPLES = int(os.environ.get("PATHFLIP_FUZZ", "0"))
FUZZ = {"deadline": None, "database": None, "suppress_health_check": list(HealthCheck), "print_blob": False}
if not EXAMPLES:
    FUZZ["derandomize"] = True
BASES = tiff_bases()
PEAK_MB = 1500
"""The process starts at about 350 MB; a plain image may lawfully take 1,050 MB."""


@pytest.fixture(scope="module")
def child():
    reader = Child()
    yield reader
    reader.close()


def assert_harmless(answer):
    assert answer["verdict"] in ("ok", "refused"), answer.get("trace", answer)
    assert answer["peak_mb"] < PEAK_MB
    assert "\n" not in answer.get("message", "")


@given(data=st.data())
@settings(max_examples=EXAMPLES or 150, **FUZZ)
def test_damaged_tiffs(child, tmp_path_factory, data):
    path = scratch(tmp_path_factory.getbasetemp(), ".tif")
    with open(path, "wb") as file:
        file.write(data.draw(damaged_tiffs(BASES)))
    assert_harmless(child.ask("slide", path))


@given(data=st.data())
@settings(max_examples=EXAMPLES or 150, **FUZZ)
def test_damaged_feature_files(child, tmp_path_factory, data):
    folder = tmp_path_factory.getbasetemp()
    base = write_feature_file(folder / "base.h5").read_bytes()
    path = scratch(folder, ".h5")
    data.draw(damaged_feature_files(base))(path)
    assert_harmless(child.ask("features", path))


def test_chunk_tables_that_point_nowhere(child, tmp_path):
    """Found by a long campaign: HDF5 crashes on a dataset whose table of chunks is said not to exist."""
    base = write_feature_file(tmp_path / "base.h5").read_bytes()
    trees = [at for at in range(len(base)) if base.startswith(b"TREE", at)]
    places = [at for tree in trees for at in range(len(base)) if base.startswith(tree.to_bytes(8, "little"), at)]
    answers = []
    for place in places:
        (tmp_path / "damaged.h5").write_bytes(base[:place] + b"\xff" * 8 + base[place + 8 :])
        answers.append(child.ask("features", tmp_path / "damaged.h5"))
        assert_harmless(answers[-1])
    assert sum(", 0 of them stored" in answer.get("message", "") for answer in answers) >= 3  # one a dataset
