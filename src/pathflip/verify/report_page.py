"""A verified report for people: one HTML page, JSON, and the evidence as QuPath annotations."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pathflip import __version__
from pathflip.errors import ContractError
from pathflip.inference import Aligned, EncodedCase, EncodedSlide, slides_in
from pathflip.io import geojson
from pathflip.io.files import page_template, path_inside, write_json, write_text
from pathflip.plots import COLOR_MAP, RANGE_PERCENTILES, embedded, heatmap_image, shrunk, top_tiles
from pathflip.slide import open_slide
from pathflip.slide.resolution_table import SlideResolution
from pathflip.types import Evidence, Heatmap
from pathflip.verify.calibration import Fit
from pathflip.verify.heatmaps import heatmaps
from pathflip.verify.judge import Judgement, Omission, Verdict, Verification

__all__ = ["slide_thumbnail", "verification_view", "write_verification"]

STYLES: dict[Verdict, str] = {
    "supported": "supported",
    "contradicted": "contradicted",
    "uncertain": "uncertain",
    "not visible": "not-visible",
}
COLORS = {"supported": (27, 110, 75), "contradicted": (163, 52, 31), "uncertain": (160, 120, 0)}
OMITTED_COLOR = (163, 52, 31)
MOST_PICTURES = 40
MOST_ROWS = 200
PICTURE_PX = 460
THUMBNAIL_PX = 900
HEATMAP_OPACITY = 0.75
MARKED_TILES = 3
CAUTION = "Research software, not a medical device: a verdict here is no diagnosis and replaces no pathologist."


def write_verification(
    verification: Verification,
    model: Aligned,
    slide: EncodedSlide | EncodedCase,
    out: Path,
    *,
    thumbnail: NDArray[np.uint8] | None = None,
    model_name: str = "",
    note: str = "",
) -> list[Path]:
    """Write ``SLIDE.verify.html``, ``.json`` and ``.geojson`` (evidence tiles of every judged sentence).

    Of a case there is a ``.geojson`` a slide: ``CASE.verify.SLIDE.geojson``.

    Args:
        thumbnail: the whole of level 0, RGB; without it heatmaps stand on an empty canvas.
        model_name, note: what made the page, and what must be said of it.
    """
    stem = path_inside(out, f"{verification.slide_id}.verify")
    targets = [stem.with_name(f"{stem.name}.{kind}") for kind in ("html", "json")]
    view = verification_view(verification, model, slide, thumbnail, model_name)
    view["caution"] = " ".join(dict.fromkeys([note, CAUTION])).strip()
    template = page_template(Path(__file__).with_name("templates") / "verify.html")
    write_text(targets[0], template.render(page=view))
    write_json(targets[1], verification.as_row())
    for one in slides_in(slide):
        name = f"{stem.name}.{one.slide_id}.geojson" if isinstance(slide, EncodedCase) else f"{stem.name}.geojson"
        targets.append(path_inside(out, name))
        geojson.write_features(targets[-1], _annotations(verification, one))
    return targets


def slide_thumbnail(file: Path, slide: EncodedSlide, slide_mpp: SlideResolution | None = None) -> NDArray[np.uint8]:
    """The slide's picture for the page.

    Raises:
        ContractError: another slide than the features were made on.
    """
    with open_slide(file, slide_mpp=slide_mpp) as opened:
        if opened.info.size0 != slide.grid.info.size0:
            raise ContractError(
                f"slide '{file.name}' is {opened.info.size0} px, but the features were made on "
                f"{slide.grid.info.size0} px ('{slide.slide_id}'); give the slide the features come from"
            )
        return opened.thumbnail(THUMBNAIL_PX)


def verification_view(
    verification: Verification,
    model: Aligned,
    slide: EncodedSlide | EncodedCase,
    thumbnail: NDArray[np.uint8] | None = None,
    model_name: str = "",
) -> dict[str, Any]:
    """Everything the page shows, as plain values (pictures as data addresses); other pages may embed it."""
    of_case = isinstance(slide, EncodedCase)
    pictures = _pictures(verification, model, slide, thumbnail)
    rows = [_sentence_view(n, j, pictures, of_case) for n, j in enumerate(verification.judgements, start=1)]
    verdicts = [j.verdict for j in verification.judgements]
    return {
        "slide_id": verification.slide_id,
        "notes": list(verification.notes),
        "rows": rows,
        "shown": MOST_ROWS,
        "not_visible": [row for row in rows if row["style"] == "not-visible"],
        "counts": [
            {"verdict": name, "style": style, "count": verdicts.count(name)}
            for name, style in STYLES.items()
            if name in verdicts
        ],
        "omissions": [_omission_view(o, pictures) for o in verification.omissions],
        "can_omit": verification.omission_score is not None,
        "num_findings": len(verification.calibration.knowledge.lexicon.findings) if verification.calibration else 0,
        "thumbnail": None if thumbnail is None else embedded(shrunk(thumbnail, PICTURE_PX)),
        "calibration": _calibration_view(verification),
        "caution": CAUTION,
        "version": __version__,
        "model": model_name or "the model given",
    }


# --- Rows ------------------------------------------------------------------------------------------------------------


def _sentence_view(number: int, judgement: Judgement, pictures: dict[str, str], of_case: bool) -> dict[str, Any]:
    where = "where the thing denied would be" if judgement.negated else "best tiles outlined"
    if of_case and judgement.regions:
        where = f"slide {judgement.regions[0].slide_id}: {where}"
    return {
        "number": number,
        "sentence": judgement.sentence,
        "verdict": judgement.verdict,
        "style": STYLES[judgement.verdict],
        "reason": judgement.reason,
        "picture": pictures.get(judgement.sentence),
        "caption": where,
        **_meter(judgement.probability),
    }


def _omission_view(omission: Omission, pictures: dict[str, str]) -> dict[str, Any]:
    picture = pictures.get(omission.finding)
    return {"finding": omission.finding.capitalize(), "picture": picture, **_meter(omission.probability)}


def _meter(probability: float | None) -> dict[str, Any]:
    if probability is None:
        return {"probability": None, "probability_text": "", "percent": 0}
    return {"probability": probability, "probability_text": _two(probability), "percent": round(100 * probability)}


def _two(value: float | None) -> str:
    """Two decimals, and never a certainty the model does not have."""
    if value is None:
        return "never"
    return f"{min(max(value, 0.01), 0.99):.2f}"


def _calibration_view(verification: Verification) -> dict[str, Any] | None:
    fitted = verification.calibration
    if fitted is None:
        return None
    fits = [_fit_view("sentences", fitted.sub_captions)]
    if fitted.findings is not None:
        fits.append(_fit_view("findings left out", fitted.findings) | {"low": "–", "high": _two(fitted.omitted_from)})
    return {
        "slides": fitted.slides,
        "patients": fitted.patients,
        "split": fitted.split,
        "fits": fits,
        "wrong": f"{1 - fitted.safe:.0%}",
        "note": fitted.note,
    }


def _skill(value: float | None) -> str:
    return "–" if value is None else f"{value:+.2f}".replace("-", "−")


def _fit_view(name: str, fit: Fit) -> dict[str, str]:
    return {
        "name": name,
        "before": f"{fit.ece_before:.3f}",
        "after": f"{fit.ece_after:.3f}",
        "brier": _skill(fit.brier_skill_after),
        "log_loss": _skill(fit.log_loss_skill_after),
        "auroc": f"{fit.auroc:.2f}",
        "low": _two(fit.low),
        "high": _two(fit.high),
        "examples": f"{fit.examples[0]} / {fit.examples[1]}",
    }


# --- Where -----------------------------------------------------------------------------------------------------------


def _annotations(verification: Verification, slide: EncodedSlide) -> list[dict[str, Any]]:
    """QuPath annotations: the best tiles of every judged sentence on one slide, classified by its verdict."""
    features, info = [], slide.grid.info
    for number, judgement in enumerate(verification.judgements, start=1):
        for rank, region in _ranked(judgement.regions, slide):
            probability = {} if judgement.probability is None else {"probability": judgement.probability}
            features.append(
                geojson.feature(
                    [geojson.box_ring(region.box)],
                    name=f"{number}.{rank} {judgement.sentence}",
                    info=info,
                    classification=judgement.verdict,
                    color=COLORS[judgement.verdict],
                    measurements={"similarity": region.score, **probability},
                )
            )
    for omission in verification.omissions:
        for rank, region in _ranked(omission.regions, slide):
            features.append(
                geojson.feature(
                    [geojson.box_ring(region.box)],
                    name=f"{omission.finding} {rank}",
                    info=info,
                    classification="possibly left out",
                    color=OMITTED_COLOR,
                    measurements={"similarity": region.score, "probability": omission.probability},
                )
            )
    return features


def _ranked(regions: Sequence[Evidence], slide: EncodedSlide) -> list[tuple[int, Evidence]]:
    """The regions on one slide, with their rank among all."""
    return [(rank, one) for rank, one in enumerate(regions, start=1) if one.slide_id == slide.slide_id]


def _pictures(
    verification: Verification,
    model: Aligned,
    encoded: EncodedSlide | EncodedCase,
    thumbnail: NDArray[np.uint8] | None,
) -> dict[str, str]:
    """Heatmaps by sentence or finding: what needs looking at first, at most ``MOST_PICTURES``; of a case, on the slide
    with the best tile."""
    order = {"contradicted": 0, "uncertain": 1, "supported": 2}
    judged = [(order[j.verdict], n, j.sentence) for n, j in enumerate(verification.judgements[:MOST_ROWS]) if j.regions]
    sentences = list(dict.fromkeys(text for *_, text in sorted(judged)))
    texts = [*(o.finding for o in verification.omissions), *sentences][:MOST_PICTURES]
    best = {o.finding: o.regions for o in verification.omissions} | {
        j.sentence: j.regions for j in verification.judgements
    }
    pictures: dict[str, str] = {}
    for slide in slides_in(encoded):
        own = [text for text in texts if best[text] and best[text][0].slide_id == slide.slide_id]
        canvas = _canvas(thumbnail, slide.grid.info.size0)
        pictures |= {m.text: embedded(_heat_panel(m, canvas)) for m in heatmaps(model, slide, own)}
    return pictures


def _canvas(thumbnail: NDArray[np.uint8] | None, size0: tuple[int, int]) -> NDArray[np.uint8]:
    if thumbnail is not None:
        return shrunk(thumbnail, PICTURE_PX)
    scale = PICTURE_PX / max(size0)
    return np.full((max(1, round(size0[1] * scale)), max(1, round(size0[0] * scale)), 3), 248, np.uint8)


def _heat_panel(heatmap: Heatmap, canvas: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The map over a pale grey slide, its best tiles outlined."""
    from matplotlib import colormaps
    from PIL import Image, ImageDraw

    image = heatmap_image(heatmap, canvas.shape[:2])
    finite = image[np.isfinite(image)]
    low, high = np.percentile(finite, RANGE_PERCENTILES) if len(finite) else (0.0, 1.0)
    scaled = np.clip((np.nan_to_num(image, nan=low) - low) / max(high - low, 1e-6), 0, 1)
    grey = 255 - 0.5 * (255 - canvas @ np.array([0.299, 0.587, 0.114]))
    paper = np.repeat(grey[..., None], 3, axis=2)
    blend = HEATMAP_OPACITY * 255 * colormaps[COLOR_MAP](scaled)[..., :3] + (1 - HEATMAP_OPACITY) * paper
    shown = Image.fromarray(np.rint(np.where(np.isfinite(image)[..., None], blend, paper)).astype(np.uint8))
    pen = ImageDraw.Draw(shown)
    scale = canvas.shape[1] / heatmap.grid.info.size0[0]
    for box, _ in top_tiles(heatmap, MARKED_TILES):
        corners = [box.x * scale, box.y * scale, (box.x + box.width) * scale, (box.y + box.height) * scale]
        pen.rectangle(corners, outline=(34, 224, 208), width=2)
    return np.asarray(shown)
