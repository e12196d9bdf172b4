"""One rule from a file name or a table cell to a slide id, and one way to join them."""

import json
import unicodedata
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pathflip.errors import CaptionError, FeatureError, PathFLIPError
from pathflip.io.slide_id import check_name, join_ids, paths_by_id, slide_id

CASES = Path(__file__).parent / "fixtures" / "cases"
UUID = "00000000-1111-4222-8333-44444444441"


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("a.svs", "a"),
        ("dir/TCGA-1.abc-def.svs", "TCGA-1.abc-def"),
        ("b.ome.tif", "b"),
        ("c.OME.TIFF", "c"),
        ("c.ome.h5", "c"),  # what CLAM makes of c.ome.tif
        ("c.ome.tiff.h5", "c"),
        ("d", "d"),
        ("e.qptiff", "e"),
        ("e.v2.svs", "e.v2"),
        ("C:\\scans 2\\s 1.ndpi", "s 1"),
        ("s3://bucket/a b/x#1.svs", "x#1"),
        ("s3:/bucket/x.h5", "x"),
        ("https://host/x%20y.svs?token=1#z", "x y"),
        ("slides/", "slides"),
        (" s1 ", "s1"),
        (17, "17"),
        (17.0, "17"),
        (".svs", ".svs"),
        (unicodedata.normalize("NFD", "Müller.tif"), "Müller"),
        ("caf\udce9.tif", "caf%E9"),
    ],
)
def test_names(name, expected):
    assert slide_id(name) == expected
    if isinstance(name, str):
        assert slide_id(Path(name)) == expected or "://" in name or name != name.strip()


@pytest.mark.parametrize("value", ["", "  ", ".", "..", "/", "a/..", None, True, 1.5, [], {"a": 1}])
def test_what_names_no_slide_is_refused(value):
    with pytest.raises(CaptionError, match="expected its name or path"):
        slide_id(value)


PARTS = st.sampled_from([".", "a", " ", ".svs", ".ome", ".tif", ".h5", "/", "\\", "é", "e\u0301", "\udcff", ".v2", "%"])


@given(st.lists(PARTS, max_size=8).map("".join))
def test_the_rule_is_stable(text):
    """Applied to its own result, or to the feature file named after it, it changes nothing."""
    try:
        name = slide_id(text)
    except PathFLIPError:
        return
    assert slide_id(name) == name
    assert slide_id(f"{name}.h5") == name
    assert slide_id(Path("x") / f"{name}.h5") == name
    assert "/" not in name
    assert "\\" not in name


def test_file_names_and_the_names_captions_use():
    rows = [json.loads(line) for line in (CASES / "tables" / "one_name_two_rules.jsonl").read_text().splitlines()]
    assert len(rows) == 7
    for row in rows:
        assert (slide_id(row["slide_file"]) == slide_id(row["other_name"])) is row["same_slide"], row


def test_a_barcode_joins_the_one_file_that_begins_with_it():
    files = sorted(p for p in (CASES / "features").glob("TCGA-*.h5"))
    ids = paths_by_id(files)
    assert join_ids(["TCGA-ZZ-A001-01Z-00-DX1", "TCGA-ZZ-A002"], ids) == {
        "TCGA-ZZ-A001-01Z-00-DX1": f"TCGA-ZZ-A001-01Z-00-DX1.{UUID}1",
        "TCGA-ZZ-A002": f"TCGA-ZZ-A002-01Z-00-DX1.{UUID.removesuffix('1')}21",
    }
    two = [f"TCGA-ZZ-A001-01Z-00-DX1.{UUID}1", f"TCGA-ZZ-A001-01Z-00-DX2.{UUID}2"]
    with pytest.raises(CaptionError, match=rf"'TCGA-ZZ-A001' fits 2 slides \('{two[0]}', '{two[1]}'\)"):
        join_ids(["TCGA-ZZ-A001"], two)
    assert join_ids(["TCGA-ZZ-A001-01Z-00-DX1"], two) == {"TCGA-ZZ-A001-01Z-00-DX1": two[0]}
    assert join_ids(["TCGA-ZZ-A00", "TCGA", "other"], two) == {}


@pytest.mark.parametrize(
    ("names", "ids", "expected"),
    [
        ([f"s1.{UUID}1"], ["s1"], {f"s1.{UUID}1": "s1"}),
        (["s1"], [f"s1.{UUID}1"], {"s1": f"s1.{UUID}1"}),
        ([f"s1.{UUID}1"], [f"s1.{UUID}2"], {}),  # another file of the slide
        (["e"], ["e.v2"], {}),
        (["S1"], ["s1"], {}),
        (["s1"], ["s1", f"s1.{UUID}1"], {"s1": "s1"}),  # the same name needs no guess
        (["TCGA-ZZ-A001"], ["TCGA-ZZ-A0011-01"], {}),
    ],
)
def test_joins(names, ids, expected):
    assert join_ids(names, ids) == expected


def test_two_names_of_one_slide_are_refused():
    with pytest.raises(CaptionError, match="both mean slide 's1'"):
        join_ids(["s1", f"s1.{UUID}1"], ["s1"])
    with pytest.raises(CaptionError, match=r"both of slide 'a'"):
        paths_by_id([Path("x/a.h5"), Path("y/a.h5")])


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        ("../x", "begins with a dot"),
        ("a/../x", "holds a path"),
        ("/etc/x", "holds a path"),
        ("a\\b", "holds a path"),
        ("C:x", "holds a path"),
        ("..", "begins with a dot"),
        ("", "is empty"),
        ("a\nb", "control characters"),
        ("a\x1b[31mb", "control characters"),
        ("a\u202eb", "control characters"),
        ("a\x00b", "control characters"),
        ("é" * 130, "260 bytes"),
    ],
)
def test_names_that_choose_a_place_are_refused(name, problem):
    with pytest.raises(FeatureError, match=f"f.h5: its slide_id .* {problem}") as caught:
        check_name(name, "slide_id", "f.h5")
    assert all(c.isprintable() for c in str(caught.value))
    assert len(str(caught.value)) < 300


def test_ordinary_names_pass():
    for name in ("a", "Müller ß 病理 🔬", "-x", "a..b", "TCGA-1.b", "hf_H-optimus-0", "a%b&c"):
        assert check_name(name, "slide_id", "f.h5") == name


@pytest.mark.parametrize("value", [". .", " .. . ", "...", "/x/ . /"])
def test_dots_and_spaces_name_no_slide(value):
    with pytest.raises(CaptionError, match="no slide named"):
        slide_id(value)
