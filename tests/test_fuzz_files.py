"""Feature files and tables of any dialect and any damage: read as they are meant, or refused; never read otherwise.

``PATHFLIP_FUZZ=2000 python -m pytest tests/test_fuzz.py tests/test_fuzz_files.py`` runs a long campaign.
"""

import os
import warnings

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from damage import Child, damaged_feature_files, scratch, write_feature_file
from damage_tables import damaged_tables, feature_layouts, tables
from pathflip.errors import PathFLIPError
from pathflip.interop import ReadOptions, read_tiles
from pathflip.io.tables import read_rows, read_table

EXAMPLES = int(os.environ.get("PATHFLIP_FUZZ", "0"))
FUZZ = {"deadline": None, "database": None, "suppress_health_check": list(HealthCheck), "print_blob": False}
if not EXAMPLES:
    FUZZ["derandomize"] = True
PEAK_MB = 1500


@pytest.fixture(scope="module")
def child():
    reader = Child()
    yield reader
    reader.close()


def assert_harmless(answer):
    assert answer["verdict"] in ("ok", "refused"), answer.get("trace", answer)
    assert answer["peak_mb"] < PEAK_MB
    assert "\n" not in answer.get("message", "")


def one_line_or(read):
    """What is read, or None where it is refused in one line."""
    try:
        return read()
    except PathFLIPError as error:
        message = str(error)
    assert message
    assert "\n" not in message
    return None


def plain(row):
    """Slide and text of a row, however its columns are called."""
    slide = row.pop("slide")
    (text,) = row.values()
    return slide, " ".join(text.split())


@given(table=tables())
@settings(max_examples=EXAMPLES or 80, **FUZZ)
def test_tables_of_every_dialect_say_what_was_meant(tmp_path_factory, table):
    data, suffix, rows = table
    path = tmp_path_factory.getbasetemp() / f"t{suffix}"
    path.write_bytes(data)
    meant = [(slide, " ".join(text.split())) for slide, text in rows]
    if any(text.encode("cp1252", "ignore").decode("cp1252") != text for _, text in rows) or _is_another(data):
        meant = None  # what could not be written in its encoding, or is text in two encodings, only must not crash
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        read = one_line_or(lambda: [plain(row) for row in read_table(path)])
    assert meant is None or read is None or read == meant


def _is_another(data):
    """Whether Windows-1252 bytes happen to be UTF-8 as well."""
    try:
        return any(byte > 127 for byte in data) and "é" not in data.decode("utf-8") and b"\xc3" in data
    except UnicodeDecodeError:
        return False


@given(data=st.data())
@settings(max_examples=EXAMPLES or 80, **FUZZ)
def test_damaged_tables(child, tmp_path_factory, data):
    content, suffix = data.draw(damaged_tables())
    path = scratch(tmp_path_factory.getbasetemp(), suffix)
    with open(path, "wb") as file:
        file.write(content)
    assert_harmless(child.ask("table", path))


@given(layout=feature_layouts())
@settings(max_examples=EXAMPLES or 60, **FUZZ)
def test_feature_files_of_every_layout_say_what_was_meant(tmp_path_factory, layout):
    write, (matrix, coords) = layout
    path = tmp_path_factory.getbasetemp() / "layout.h5"
    write(path)
    tiles = one_line_or(lambda: read_tiles(path, ReadOptions(mpp=0.5))[1])
    if tiles is None:
        return
    np.testing.assert_array_equal(tiles.features, matrix)
    np.testing.assert_array_equal(tiles.grid.coords, coords)


@given(data=st.data())
@settings(max_examples=EXAMPLES or 60, **FUZZ)
def test_damaged_feature_files_of_others(child, tmp_path_factory, data):
    folder = tmp_path_factory.getbasetemp()
    if data.draw(st.booleans()):
        data.draw(feature_layouts())[0](folder / "theirs.h5")
        base = (folder / "theirs.h5").read_bytes()
    else:
        base = write_feature_file(folder / "base.h5").read_bytes()
    path = scratch(folder, ".h5")
    data.draw(damaged_feature_files(base))(path)
    assert_harmless(child.ask("foreign", path))


def test_planted_bugs_are_seen(tmp_path):
    """A reader that took the wrong separator, or lost a row, would fail above."""
    (tmp_path / "t.csv").write_text("Slide;text\ns0;xa,by\n", encoding="utf-8")
    assert [plain(dict(row.fields)) for row in read_rows(tmp_path / "t.csv")] == [("s0", "xa,by")]
