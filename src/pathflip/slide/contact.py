"""The contact sheet: every slide of a cohort as a thumbnail with what was found on it, flagged slides first."""

import base64
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pathflip.io.files import atomic_path, page_template, write_text
from pathflip.slide.artefacts import ArtefactMask
from pathflip.slide.reader import Slide
from pathflip.slide.tissue import TissueMask

__all__ = ["COLOURS", "draw_thumbnail", "save_picture", "write_sheets"]

COLOURS = {
    "blur": (255, 145, 0),
    "fold": (220, 20, 40),
    "pen": (230, 0, 230),
    "bubble": (0, 175, 190),
    "dark": (110, 75, 20),
    "dust": (120, 120, 130),
}
_TISSUE = (0, 130, 40)
_SIDE = 480
_PER_PAGE = 300
_SORTS = (
    ("flags", "flagged first"), ("slide_id", "name"), ("tissue_mm2", "tissue area"), ("sharpness", "sharpness"),
    ("blurred", "blur"), ("folded", "folds"), ("pen", "pen"), ("bubble", "bubbles"), ("dark", "dark bands"),
    ("haematoxylin", "haematoxylin"), ("eosin", "eosin"), ("seconds", "seconds"),
)  # fmt: skip


def draw_thumbnail(slide: Slide, tissue: TissueMask | None, artefacts: ArtefactMask | None) -> NDArray[np.uint8]:
    """The slide, at most 480 px, with artefacts tinted by kind (:data:`COLOURS`) and the tissue outlined in green."""
    import cv2

    picture = slide.thumbnail(_SIDE)
    size = picture.shape[1], picture.shape[0]
    if artefacts is not None:
        for kind, colour in COLOURS.items():
            mask = artefacts.mask(kind).astype(np.float32)
            if mask.any():
                share = cv2.resize(_spread(mask, artefacts.downsample, slide, size), size, interpolation=cv2.INTER_AREA)
                weight = 0.7 * np.minimum(2 * share, 1)[..., None]
                picture = (picture * (1 - weight) + weight * np.array(colour)).astype(np.uint8)
    if tissue is not None and tissue.mask.any():
        scale = size[0] / slide.info.size0[0]
        for polygon in tissue.polygons:
            for ring in (polygon.exterior, *polygon.interiors):
                points = np.rint(np.asarray(ring.coords) * scale).astype(np.int32)
                cv2.polylines(picture, [points], True, _TISSUE, 1, cv2.LINE_AA)
    return np.asarray(picture, np.uint8)


def _spread(mask: NDArray[np.float32], downsample: float, slide: Slide, size: tuple[int, int]) -> NDArray[np.float32]:
    """The mask cut to the slide (its last row and column reach beyond), at least as large as the picture."""
    import cv2

    width, height = (side / downsample for side in slide.info.size0)
    larger = max(1.0, size[0] / width)
    map_back = np.array([[width / (size[0] * larger), 0, 0], [0, height / (size[1] * larger), 0]], np.float32)
    out = (round(size[0] * larger), round(size[1] * larger))
    if larger == 1.0:
        return mask[: max(1, round(height)), : max(1, round(width))]
    flags = cv2.INTER_NEAREST | cv2.WARP_INVERSE_MAP
    return np.asarray(cv2.warpAffine(mask, map_back, out, flags=flags), np.float32)


def save_picture(target: Path, picture: NDArray[np.uint8]) -> None:
    """Write a JPEG atomically."""
    from PIL import Image

    with atomic_path(target) as temporary:
        Image.fromarray(picture).save(temporary, format="JPEG", quality=82)


def write_sheets(out: Path, rows: Sequence[Mapping[str, Any]], pictures: Sequence[Path]) -> list[Path]:
    """Write ``qc.html`` (then ``qc-2.html``, …), 300 slides each, flagged ones first; one file, nothing fetched.

    Args:
        out: folder.
        rows: :class:`~pathflip.slide.quality.SlideQuality` as dictionaries.
        pictures: the JPEG of each slide; a missing one shows as "no picture".
    """
    order = sorted(range(len(rows)), key=lambda i: (-len(rows[i]["flags"]), str(rows[i]["slide_id"])))
    pages = [order[i : i + _PER_PAGE] for i in range(0, len(order), _PER_PAGE)] or [[]]
    for old in out.glob("qc-*.html"):
        old.unlink()
    names = ["qc.html", *(f"qc-{number}.html" for number in range(2, len(pages) + 1))]
    flagged = sum(bool(row["flags"]) for row in rows)
    template = page_template(Path(__file__).with_name("templates") / "contact.html")
    for number, (name, page) in enumerate(zip(names, pages, strict=True), start=1):
        cards = [_card(rows[i], pictures[i]) for i in page]
        text = template.render(
            cards=cards, slides=len(rows), flagged=flagged, names=names, number=number, sorts=_SORTS,
            legend=[("tissue", _TISSUE), *COLOURS.items()],
        )  # fmt: skip
        write_text(out / name, text)
    return [out / name for name in names]


def _card(row: Mapping[str, Any], picture: Path) -> dict[str, Any]:
    source = ""
    if picture.is_file():
        source = "data:image/jpeg;base64," + base64.b64encode(picture.read_bytes()).decode()
    keys = {name: "" if row[name] is None else row[name] for name, _ in _SORTS if name != "flags"}
    return {
        "row": row,
        "source": source,
        "facts": _facts(row),
        "keys": {**keys, "flags": len(row["flags"])},
    }


def _facts(row: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Names and values as a person reads them; what was not measured is left out."""

    def share(name: str) -> str:
        return "" if row[name] is None else f"{row[name]:.1%}"

    def number(name: str, form: str = "{:.3g}") -> str:
        return "" if row[name] is None else form.format(row[name])

    spoilt = f" ({row['tiles_spoilt']} spoilt)" if row["tiles_spoilt"] else ""
    stains = "" if row["haematoxylin"] is None else f"{row['haematoxylin']:.2f} / {row['eosin']:.2f}"
    read = "" if row["tiles_read"] is None else f"{row['tiles_invalid']} of {row['tiles_read']} read"
    size = "" if row["width0"] is None else f"{row['width0']} × {row['height0']} px"
    mpp = "unknown" if row["width0"] is not None and row["mpp0"] is None else number("mpp0", "{:.4g} µm/px")
    facts = (
        ("tissue", number("tissue_mm2", "{:.3g} mm²")), ("tiles", number("tiles", "{}") + spoilt),
        ("sharpness", number("sharpness", "{:.2f}")), ("blurred", share("blurred")), ("folded", share("folded")),
        ("pen", share("pen")), ("bubbles", share("bubble")), ("dark bands", share("dark")),
        ("H / E density", stains), ("invalid tiles", read), ("size", size), ("resolution", mpp),
        ("read by", row["reader"].split(":")[0]), ("seconds", number("seconds", "{:.1f}")),
    )  # fmt: skip
    return [(name, value) for name, value in facts if value]
