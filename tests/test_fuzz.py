"""Damaged files: whatever their bytes say, a reader refuses or reads; it never crashes, hangs or takes all memory.

And what it reads are the right pixels: other libraries read the same damaged slide, and where none of them sees what
ours shows, something was wrong in silence. ``PATHFLIP_FUZZ=2000 python -m pytest tests/test_fuzz.py -n 0`` tries 2,000
of each kind, 20,000 is a long campaign.
"""

import os
from collections import Counter

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from damage import (
    Child,
    damaged_feature_files,
    damaged_slides,
    damaged_tiffs,
    pixel_bases,
    scratch,
    tiff_bases,
    write_feature_file,
)

EXAMPLES = int(os.environ.get("PATHFLIP_FUZZ", "0"))
FUZZ = {"deadline": None, "database": None, "suppress_health_check": list(HealthCheck), "print_blob": False}
if not EXAMPLES:
    FUZZ["derandomize"] = True
BASES = tiff_bases()
COUNTS: Counter[str] = Counter()
"""Verdicts of the comparison of pixels, printed at the end of a campaign."""
DIFFERENCES: list[tuple[object, object]] = []
"""What was done to slides that nothing else shows as ours does, and what was seen: all of them, so none is shrunk."""
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


@pytest.fixture(scope="module")
def bases(tmp_path_factory):
    return Bases(pixel_bases(tmp_path_factory.mktemp("bases")))


class Bases:
    """The undamaged slides, not printed when a test fails."""

    def __init__(self, content):
        self.content = content


@pytest.fixture(scope="module")
def reference():
    reader = Child()
    yield reader
    reader.close()
    if EXAMPLES:
        print(f"\nslides compared: {dict(COUNTS)}")


def differ(got, want):
    """Whether two pictures of one size show something else somewhere, beyond rounding of another decoder."""
    off = np.abs(got.astype(int) - want.astype(int)).mean(axis=-1)
    rows, columns = (-(-side // 16) * 16 for side in off.shape)
    blocks = np.pad(off, ((0, rows - off.shape[0]), (0, columns - off.shape[1])))
    return bool(blocks.reshape(rows // 16, 16, columns // 16, 16).mean(axis=(1, 3)).max() > 12)


def otherwise_by_design(answer):
    """What our reader shows otherwise than others on purpose, and says in a note."""
    return any(
        word in note for note in answer["notes"] for word in ("orientation tag", "alpha", "leaves out", "read as")
    )


def compared(child, reference, path):
    """How a damaged slide fares: "refused", "alone" (no other library reads it), "same", "by design" or "differs"."""
    answer = child.ask("pixels", path)
    assert_harmless(answer)
    if answer["verdict"] == "refused":
        return "refused", []
    pixels = np.load(f"{path}.npy")
    other = reference.ask("reference", path)
    pictures = other.get("pictures", {})
    sizes = {name: size for name, size in pictures.items() if name != "errors" and size == answer["size0"]}
    verdicts = {name: differ(pixels, np.load(f"{path}.{name}.npy")) for name in sizes}
    if not verdicts:
        return "alone", []
    if not all(verdicts.values()):
        return "same", []
    return ("by design" if otherwise_by_design(answer) else "differs"), [answer, pictures]


@given(data=st.data())
@settings(max_examples=EXAMPLES or 120, **FUZZ)
def test_damaged_slides_show_the_right_pixels(child, reference, bases, tmp_path_factory, data):
    path = scratch(tmp_path_factory.getbasetemp(), ".pixels.tif")
    damaged, words = data.draw(damaged_slides(bases.content))
    with open(path, "wb") as file:
        file.write(damaged)
    verdict, seen = compared(child, reference, path)
    COUNTS[verdict] += 1
    if verdict == "differs":
        DIFFERENCES.append((words, seen))


def test_no_damaged_slide_was_shown_wrongly_in_silence():
    assert COUNTS.total() > 0
    assert not DIFFERENCES, "\n".join(str(difference)[:600] for difference in DIFFERENCES[:20])


def test_the_comparison_saw_enough(child, reference, bases, tmp_path):
    """Undamaged, nearly every base is read by another library too, and alike; a planted difference is seen."""
    verdicts = []
    for number, base in enumerate(bases.content):
        (tmp_path / f"{number}.tif").write_bytes(base)
        verdicts.append(compared(child, reference, str(tmp_path / f"{number}.tif"))[0])
    assert Counter(verdicts)["same"] >= 11, verdicts
    assert "differs" not in verdicts
    pixels = np.load(tmp_path / "0.tif.npy")
    spoilt = pixels.copy()
    spoilt[40:60, 70:100] = 128
    assert differ(pixels, spoilt)
    assert not differ(pixels, pixels + (pixels < 255))


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
