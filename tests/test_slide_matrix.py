"""One known picture in every kind of TIFF: right pixels at full size and at a third, or one line that says why."""

import numpy as np
import pytest

from slide_files import area_mean, exact_box, smooth_picture
from slide_matrix import (
    NAMES,
    UNREAD,
    Case,
    Outcome,
    known_picture,
    outcome_of,
    outcomes,
    table,
    turn_back,
    written_table,
)


@pytest.fixture(scope="module")
def results() -> list[Outcome]:
    return list(outcomes())


def allowed(case: Case) -> tuple[float, float]:
    """Mean grey levels that a case may be off: what its compression or its palette costs."""
    native = 3.0 if case.is_jpeg else 1.0
    return native, 8.0 if case.colour == "palette" else native + 2.0


def must_be_refused(case: Case) -> set[str]:
    """The factors for which it may not be read."""
    refused = {name for name in NAMES if getattr(case, name) in UNREAD}
    subsampled = case.colour in ("YCbCr 4:2:2", "YCbCr 4:2:0") and not case.is_jpeg
    return refused | ({"colour"} if subsampled else set())


def test_what_is_read_has_the_right_pixels_everywhere(results):
    wrong = []
    for result in results:
        native, scaled = allowed(result.case)
        if result.status == "wrong" or (result.status == "read" and (result.native > native or result.scaled > scaled)):
            wrong.append(f"{result.case.odd}: {result.native:.2f}, {result.scaled:.2f} {result.line}")
    assert not wrong, "\n".join(wrong)
    assert sum(result.status == "read" for result in results) > 200


def test_everything_is_read_but_what_is_refused_by_name(results):
    for result in results:
        reasons = must_be_refused(result.case)
        assert (result.status == "refused") == bool(reasons), (result.case.odd, result.line)
        if reasons:
            words = [word for name in reasons for word in NAMES[name]]
            assert any(word in result.line for word in words), (result.case.odd, result.line)
            assert "\n" not in result.line
            assert "damaged" not in result.line


def test_resolutions_are_taken_or_unknown(results):
    want = {"cm": 0.5, "inch": 0.5, "5 µm": 5.0, "none": None, "72 dpi": None, "zero": None}
    for result in results:
        if result.status != "read":
            continue
        if result.case.resolution == "on the half level only":
            lost = result.case.levels in ("none", "padded", "one axis only")
            assert result.mpp == (None if lost else pytest.approx(0.5, rel=1e-3)), result.case.odd
        else:
            expected = want[result.case.resolution]
            assert result.mpp == (None if expected is None else pytest.approx(expected, rel=1e-3)), result.case.odd


def test_every_value_and_nearly_every_pair_stands_in_a_case_that_is_read(results):
    read = [result.case for result in results if result.status == "read"]
    pairs = {(case.compression, case.orientation) for case in read}
    assert len(pairs) >= 19 * 8 - 4


def test_the_table_in_the_documentation_is_current(results):
    assert written_table() == table(results), "run: python tests/slide_matrix.py"


@pytest.mark.parametrize(
    ("target", "bug"),
    [
        ("pathflip.slide.sources.tiff_colours.Colours.to_rgb", lambda self, s: np.repeat(s[..., :1], 3, -1)),
        ("pathflip.slide.sources.oriented.turned", lambda pixels, orientation: pixels),
        ("pathflip.slide.sources.tiff_pages.level_factor", lambda size0, size, tile=None: size0[0] / size[0]),
    ],
)
def test_the_matrix_sees_a_planted_bug(tmp_path, monkeypatch, target, bug):
    case = Case(orientation=3, levels="padded")
    good = outcome_of(case, tmp_path, known_picture())
    assert good.native <= allowed(case)[0]
    assert good.scaled <= allowed(case)[1]
    monkeypatch.setattr(target, bug)
    monkeypatch.setattr(
        "pathflip.slide.sources.tiled_tiff.seems_the_same", lambda source, level: True
    )  # it sees the last
    bad = outcome_of(case, tmp_path, known_picture())
    assert bad.native > allowed(case)[0] or bad.scaled > allowed(case)[1]


def test_the_references_agree():
    picture = smooth_picture(150, 210)
    box = (10.3, 20.7, 100.1, 70.2, (31, 29))
    assert np.abs(area_mean(picture, *box).astype(int) - exact_box(picture, *box)).max() <= 1
    for orientation in range(1, 9):
        from PIL import Image, ImageOps

        image = Image.fromarray(turn_back(picture, orientation))
        image.getexif()[0x0112] = orientation
        assert np.array_equal(np.asarray(ImageOps.exif_transpose(image)), picture)
