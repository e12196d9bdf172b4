"""One picture in every kind of TIFF: what becomes of each combination, and the table of it in ``docs/slides.md``.

``python tests/slide_matrix.py`` writes the table anew; ``tests/test_slide_matrix.py`` checks that it is current.
"""

import itertools
import sys
import tempfile
import warnings
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from pathflip.errors import SlideError
from pathflip.slide import open_slide
from slide_files import area_mean, smooth_picture
from tiff_writer import (
    LONG,
    RATIONAL,
    SHORT,
    UNDEFINED,
    Page,
    cut,
    image,
    in_data_units,
    jpeg,
    rgb_to_ycbcr,
    split_jpeg,
    stream,
    write_tiff,
)

Pixels = NDArray[np.uint8]
WIDTH, HEIGHT, TILE, ROWS = 210, 150, (64, 48), 32

COMPRESSIONS = {
    "none": 1, "LZW": 5, "LZW, predictor": 5, "deflate": 8, "deflate (Adobe)": 32946, "deflate, predictor": 8,
    "PackBits": 32773, "LZMA": 34925, "Zstandard": 50000, "JPEG, own tables": 7, "JPEG, shared tables": 7,
    "JPEG, old style": 6, "JPEG 2000 33003": 33003, "JPEG 2000 33004": 33004, "JPEG 2000 33005": 33005,
    "JPEG 2000 34712": 34712, "WebP": 50001, "PNG": 34933, "JPEG XL": 50002, "LERC": 34887,
}  # fmt: skip
COLOURS = {
    "RGB": 2, "YCbCr 4:4:4": 6, "YCbCr 4:2:2": 6, "YCbCr 4:2:0": 6, "grey": 1, "grey, white is 0": 0, "palette": 3,
    "CMYK": 5, "RGB + unmarked": 2, "RGB + associated alpha": 2, "RGB + alpha": 2, "RGB + alpha of zeros": 2,
    "CIELab": 8, "five channels": 1,
}  # fmt: skip
LEVELS = (
    "none", "2", "4", "3", "2, 4", "odd sizes", "padded", "one axis only", "unmarked", "in sub-directories",
    "smallest first",
)  # fmt: skip
RESOLUTIONS = ("cm", "inch", "none", "72 dpi", "0.5 × 1 µm", "5 µm", "zero", "on the half level only")
FACTORS = {
    "compression": tuple(COMPRESSIONS),
    "colour": tuple(COLOURS),
    "planes": ("together", "apart"),
    "bits": (8, 16, 12),
    "parts": ("tiles", "strips"),
    "levels": LEVELS,
    "file": ("classic, little", "classic, big", "BigTIFF, little", "BigTIFF, big"),
    "orientation": (1, 2, 3, 4, 5, 6, 7, 8),
    "resolution": RESOLUTIONS,
}
UNREAD = {"CIELab", "five channels", "JPEG, old style", 12, "0.5 × 1 µm"}
"""Values that are refused whatever stands beside them: such a case tests nothing else."""


@dataclass(frozen=True)
class Case:
    """One combination."""

    compression: str = "deflate"
    colour: str = "RGB"
    planes: str = "together"
    bits: int = 8
    parts: str = "tiles"
    levels: str = "2"
    file: str = "classic, little"
    orientation: int = 1
    resolution: str = "cm"

    @property
    def number(self) -> int:
        """TIFF tag 259."""
        return COMPRESSIONS[self.compression]

    @property
    def is_jpeg(self) -> bool:
        """JPEG as TIFF stores it, new or old."""
        return self.number in (6, 7)

    @property
    def is_jpeg2000(self) -> bool:
        """Under one of its numbers."""
        return self.compression.startswith("JPEG 2000")

    @property
    def odd(self) -> str:
        """What differs from an ordinary slide."""
        plain = Case()
        return ", ".join(f"{k} {v}" for k, v in asdict(self).items() if v != getattr(plain, k)) or "nothing"


def can_be_written(case: Case) -> bool:
    """Whether such a file can be: formats have fewer colours and bits than TIFF."""
    colour, number = case.colour, case.number
    image_formats = case.is_jpeg or case.is_jpeg2000 or number in (50001, 34933, 50002, 34887)
    subsampled = colour in ("YCbCr 4:2:2", "YCbCr 4:2:0")
    if case.bits == 12 and (image_formats or colour not in ("grey", "RGB") or number != 1):
        return False
    if case.bits == 16 and (case.is_jpeg or number == 50001 or subsampled or colour == "palette"):
        return False
    if subsampled and (not case.is_jpeg and number != 1):
        return False
    if subsampled and (case.planes == "apart" or (case.parts == "strips" and not case.is_jpeg)):
        return False
    if image_formats and case.planes == "together" and colour in ("CIELab", "five channels", "palette"):
        return False
    if number == 50001 and not (case.planes == "together" and colour.startswith("RGB")):
        return False
    if case.planes == "together" and number in (34933, 50002) and colour == "CMYK":
        return False
    if number == 33003 and colour not in ("RGB", "YCbCr 4:4:4"):
        return False
    if case.is_jpeg2000 and (case.planes == "apart" and number in (33003, 33005)):
        return False
    return not (case.planes == "apart" and colour in ("grey", "grey, white is 0", "palette"))


PLAIN = (
    Case(),
    Case(compression="JPEG, own tables"),
    Case(compression="none"),
    Case(compression="none", colour="grey"),
)
"""Ordinary slides: each value and pair is put into the first of them that can hold it."""


def within(values: dict[str, object]) -> Case | None:
    """An ordinary slide but for these values; None where there can be none."""
    return next((case for plain in PLAIN if can_be_written(case := replace(plain, **values))), None)


def selection(seed: int = 7) -> list[Case]:
    """Every value of every factor alone, and every pair of values that can be written, in few cases."""
    rng = np.random.default_rng(seed)
    names = [f.name for f in fields(Case)]
    cases = [case for n, values in FACTORS.items() for v in values if (case := within({n: v}))]
    combinations = [
        ((a, x), (b, y)) for a, b in itertools.combinations(names, 2) for x in FACTORS[a] for y in FACTORS[b]
    ]
    wanted = {pair for pair in combinations if not {v for _, v in pair} <= UNREAD and within(dict(pair))}

    def pairs(case: Case) -> set[tuple[tuple[str, object], tuple[str, object]]]:
        together = set(itertools.combinations([(n, getattr(case, n)) for n in names], 2))
        unread = UNREAD & set(asdict(case).values())
        return {(a, b) for a, b in together if not unread or a[1] in unread or b[1] in unread}

    for case in cases:
        wanted -= pairs(case)
    for pair in sorted(wanted, key=repr):
        if pair not in wanted:
            continue
        case = within(dict(pair)) or Case()
        for name in rng.permutation(names):  # fill up the other factors where that covers more pairs
            if name in dict(pair):
                continue
            options = [replace(case, **{name: v}) for v in FACTORS[name] if v not in UNREAD]
            case = max((case, *filter(can_be_written, options)), key=lambda c: len(pairs(c) & wanted))
        cases.append(case)
        wanted -= pairs(case)
    return list(dict.fromkeys(cases))


def known_picture() -> Pixels:
    """Smooth, with a corner of another colour each, so that turns and shifts show."""
    picture = cv2.GaussianBlur(smooth_picture(HEIGHT, WIDTH, 3), (0, 0), 3)
    picture[:20, :30] = (220, 20, 30)
    picture[-20:, -30:] = (30, 40, 210)
    return picture


def shrunk(picture: Pixels, width: int, height: int, factor_x: float, factor_y: float) -> Pixels:
    """A level of this size: the exact mean under each of its pixels; beyond the slide its edge goes on."""
    rows, columns = int(np.ceil(height * factor_y)) + 2, int(np.ceil(width * factor_x)) + 2
    framed = np.pad(
        picture, ((0, max(0, rows - len(picture))), (0, max(0, columns - picture.shape[1])), (0, 0)), mode="edge"
    )
    return area_mean(framed, 0, 0, width * factor_x, height * factor_y, (width, height))


def expected(case: Case, picture: Pixels) -> Pixels:
    """What must be seen."""
    if case.colour.startswith("grey"):
        return np.repeat(picture[..., 1:2], 3, axis=-1)
    if case.colour == "palette":
        return (picture // 51 * 51).astype(np.uint8)
    if case.colour in ("RGB + alpha", "RGB + associated alpha"):
        share = alpha_of(picture)[..., None] / 255
        return np.rint(picture * share + 255 * (1 - share)).astype(np.uint8)
    return picture


def alpha_of(picture: Pixels) -> Pixels:
    """Opaque above, half transparent below."""
    alpha = np.full(picture.shape[:2], 255, np.uint8)
    alpha[len(alpha) // 2 :] = 128
    return alpha


def stored_samples(case: Case, picture: Pixels) -> Pixels:
    """The picture in the case's colours, uint8 (rows, columns, samples)."""
    colour = case.colour
    if colour == "grey":
        return picture[..., 1:2]
    if colour == "grey, white is 0":
        return 255 - picture[..., 1:2]
    if colour == "palette":
        r, g, b = (picture[..., i].astype(int) // 51 for i in range(3))
        return (r * 36 + g * 6 + b)[..., None].astype(np.uint8)
    if colour == "CMYK":
        return np.concatenate([255 - picture, np.zeros_like(picture[..., :1])], axis=-1)
    if colour == "five channels":
        return np.concatenate([picture, picture[..., :2]], axis=-1)
    if colour.startswith("RGB +"):
        alpha = np.zeros(picture.shape[:2], np.uint8) if colour == "RGB + alpha of zeros" else alpha_of(picture)
        rgb = picture
        if colour == "RGB + associated alpha":
            rgb = np.rint(picture * (alpha[..., None] / 255)).astype(np.uint8)
        return np.concatenate([rgb, alpha[..., None]], axis=-1)
    if case.number == 33003 or (colour.startswith("YCbCr") and (not case.is_jpeg or case.planes == "apart")):
        return rgb_to_ycbcr(picture) if case.number != 33005 else picture
    return picture


def page_of(case: Case, picture: Pixels, *, reduced: bool, mpp: tuple[float, float] | None) -> Page:
    """One level as a page."""
    samples = stored_samples(case, picture)
    if case.bits == 16:
        samples = samples.astype(np.uint16) * 257
    height, width, count = samples.shape
    order = "<" if case.file.endswith("little") else ">"
    tile = TILE if case.parts == "tiles" else None
    planes = [samples[..., i : i + 1] for i in range(count)] if case.planes == "apart" else [samples]
    predictor = 2 if "predictor" in case.compression else 1
    tags: dict[int, tuple[int, object]] = {
        254: (LONG, 1 if reduced else 0), 256: (LONG, width), 257: (LONG, height), 258: (SHORT, [case.bits] * count),
        259: (SHORT, case.number), 262: (SHORT, COLOURS[case.colour]), 274: (SHORT, case.orientation),
        277: (SHORT, count), 284: (SHORT, 2 if case.planes == "apart" else 1), 317: (SHORT, predictor),
    }  # fmt: skip
    tags |= {322: (LONG, TILE[0]), 323: (LONG, TILE[1])} if tile else {278: (LONG, ROWS)}
    further = {"RGB + unmarked": [0], "RGB + associated alpha": [1], "RGB + alpha": [2], "RGB + alpha of zeros": [2]}
    if case.colour in further or case.colour == "five channels":
        tags[338] = (SHORT, further.get(case.colour, [0, 0, 0, 0]))
    if case.colour == "palette":
        entries = np.zeros((3, 256), int)
        for i in range(216):
            entries[:, i] = [i // 36 * 51 * 257, i // 6 % 6 * 51 * 257, i % 6 * 51 * 257]
        tags[320] = (SHORT, entries)
    if COLOURS[case.colour] == 6:
        steps = {"YCbCr 4:2:2": [2, 1], "YCbCr 4:2:0": [2, 2]}.get(case.colour, [1, 1])
        tags[530] = (SHORT, steps)
    if mpp is not None:
        unit, per = (2, 25400) if case.resolution in ("inch", "72 dpi") else (3, 10000)
        values = [[round(per * 100 / m), 100] if m else [0, 1] for m in mpp]
        tags |= {282: (RATIONAL, values[0]), 283: (RATIONAL, values[1]), 296: (SHORT, unit)}
    segments = [_segment(case, part, order, predictor) for plane in planes for part in cut(plane, tile, ROWS)]
    if case.compression == "JPEG, shared tables":
        pairs = [split_jpeg(segment) for segment in segments]
        tags[347] = (UNDEFINED, pairs[0][0])
        segments = [rest for _, rest in pairs]
    return Page(tags, segments, tile is not None)


def _segment(case: Case, samples: Pixels, order: str, predictor: int) -> bytes:
    if case.is_jpeg:
        steps = case.colour[6:].replace(":", "") if case.colour.startswith("YCbCr") else None
        return jpeg(samples, steps)
    if case.colour in ("YCbCr 4:2:2", "YCbCr 4:2:0"):
        return in_data_units(samples, 2, 1 if case.colour == "YCbCr 4:2:2" else 2)
    if case.bits == 12:
        return _twelve_bits(samples)
    if case.is_jpeg2000 or case.number in (50001, 34933, 50002, 34887):
        raw_ycbcr = case.number == 33003 or (case.colour == "YCbCr 4:4:4" and case.number != 33005)
        return image(samples, case.number, transform=samples.shape[-1] == 3 and not raw_ycbcr)
    return stream(samples, case.number, order, predictor)


def _twelve_bits(samples: Pixels) -> bytes:
    """Each row by itself, most significant bit first."""
    values = samples.astype(np.uint16).reshape(len(samples), -1) * 16
    bits = (values[..., None] >> np.arange(12)[::-1]) & 1
    return np.packbits(bits.reshape(len(samples), -1), axis=1).tobytes()


MPP = {
    "cm": (0.5, 0.5), "inch": (0.5, 0.5), "none": None, "72 dpi": (25400 / 72,) * 2, "0.5 × 1 µm": (0.5, 1.0),
    "5 µm": (5.0, 5.0), "zero": (0.0, 0.0), "on the half level only": None,
}  # fmt: skip


def level_plan(case: Case) -> list[tuple[int, int, float, float]]:
    """Width, height and factors of the smaller levels."""
    plans = {"none": [], "2": [2], "4": [4], "3": [3], "2, 4": [2, 4], "odd sizes": [2, 4, 8]}
    if case.levels == "one axis only":
        return [(WIDTH // 2, HEIGHT, 2.0, 1.0)]
    if case.levels == "padded":
        return [(TILE[0] * 3, TILE[1] * 2, 2.0, 2.0)]
    return [(-(-WIDTH // f), -(-HEIGHT // f), float(f), float(f)) for f in plans.get(case.levels, [2])]


def write_case(path: Path, case: Case, picture: Pixels) -> Path:
    """The file of a combination; it shows ``picture``, however it is stored."""
    mpp = MPP[case.resolution]
    turned = turn_back(picture, case.orientation)
    full = page_of(case, turned, reduced=False, mpp=mpp)
    smaller = []
    for width, height, across, down in level_plan(case):
        level = shrunk(picture, width, height, across, down)
        if case.levels == "padded":
            level[HEIGHT // 2 :], level[:, WIDTH // 2 :] = 255, 255
        own = (mpp[0] * across, mpp[1] * down) if mpp else None
        if case.resolution == "on the half level only":
            own = (0.5 * across, 0.5 * down)
        marked = case.levels not in ("unmarked", "smallest first")
        smaller.append(page_of(case, turn_back(level, case.orientation), reduced=marked, mpp=own))
    pages = [full, *smaller]
    if case.levels == "in sub-directories":
        full.below, pages = smaller, [full]
    elif case.levels == "smallest first":
        pages = [*smaller[::-1], full]
    order = "<" if case.file.endswith("little") else ">"
    return write_tiff(path, pages, big=case.file.startswith("Big"), order=order)


def turn_back(picture: Pixels, orientation: int) -> Pixels:
    """The rows and columns to store, so that a reader that obeys the orientation sees ``picture``."""
    if orientation >= 5:
        picture = picture.swapaxes(0, 1)
    if orientation in (2, 3, 7, 8):
        picture = picture[:, ::-1]
    if orientation in (3, 4, 6, 7):
        picture = picture[::-1]
    return np.ascontiguousarray(picture)


NAMES = {
    "compression": ("compressed as", "OJPEG", "JPEG", "lossy", "YCbCr"),
    "colour": ("photometric", "samples a pixel", "YCbCr", "planes of different sizes", "JPEG"),
    "bits": ("bits",),
    "levels": ("level",),
    "resolution": ("µm wide",),
    "orientation": ("orientation",),
    "planes": ("planes",),
}
"""Words with which a refusal names the factor it refuses for."""


@dataclass(frozen=True)
class Outcome:
    """What became of a case: "read" or "refused"; the mean difference at full and at a third of the size; the line."""

    case: Case
    status: str
    native: float = 0.0
    scaled: float = 0.0
    line: str = ""
    mpp: float | None = None


def outcome_of(case: Case, folder: Path, picture: Pixels) -> Outcome:
    """Write, open, compare."""
    path = write_case(folder / "slide.tif", case, picture)
    want = expected(case, picture)
    if case.colour in ("RGB + alpha", "RGB + associated alpha"):
        want = expected_turned(case, picture)
    try:
        with warnings.catch_warnings(action="ignore"), open_slide(path) as slide:
            if slide.info.size0 != (WIDTH, HEIGHT):
                return Outcome(case, "wrong", line=f"size {slide.info.size0}")
            native = slide.read_region_px(0, 0, 0, WIDTH, HEIGHT)
            x, y, side, out = 30, 21, 120, 40
            scaled = slide.read_box(x, y, side, side, (out, out))
            mpp = slide.info.mpp0
    except SlideError as error:
        return Outcome(case, "refused", line=str(error))
    small = area_mean(want, x, y, side, side, (out, out))
    return Outcome(case, "read", _difference(native, want), _difference(scaled, small), mpp=mpp)


def expected_turned(case: Case, picture: Pixels) -> Pixels:
    """With alpha, which is laid over the stored rows, not the shown ones."""
    stored = expected(case, turn_back(picture, case.orientation))
    inverse = {6: 8, 8: 6}.get(case.orientation, case.orientation)
    return turn_back(stored, inverse)


def _difference(got: Pixels, want: Pixels) -> float:
    return float(np.abs(got.astype(int) - want.astype(int)).mean())


def outcomes() -> Iterator[Outcome]:
    """Of every case of the selection."""
    picture = known_picture()
    with tempfile.TemporaryDirectory() as folder:
        for case in selection():
            yield outcome_of(case, Path(folder), picture)


def table(results: list[Outcome]) -> str:
    """Outcomes by value of each factor, and every line with which something is refused."""
    rows = ["| | value | read | refused, by name |", "|---|---|---|---|"]
    for name, values in FACTORS.items():
        for value in values:
            count = Counter(r.status for r in results if getattr(r.case, name) == value)
            alone = next((r.status for r in results if r.case == within({name: value})), "not alone")
            label = name if value == values[0] else ""
            rows.append(f"| {label} | {value} ({alone}) | {count['read']} | {count['refused']} |")
    return "\n".join(rows) + "\n"


MARKS = ("<!-- matrix: begin -->\n", "<!-- matrix: end -->\n")
PAGE = Path(__file__).resolve().parents[1] / "docs" / "slides.md"


def written_table() -> str:
    """The table that stands in the documentation."""
    return PAGE.read_text(encoding="utf-8").partition(MARKS[0])[2].partition(MARKS[1])[0]


def main() -> None:
    """Write the table into the documentation."""
    page = PAGE.read_text(encoding="utf-8")
    before, _, rest = page.partition(MARKS[0])
    after = rest.partition(MARKS[1])[2]
    PAGE.write_text(before + MARKS[0] + table(list(outcomes())) + MARKS[1] + after, encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
