"""Where a phrase is: boxes (RefPath) and masks (Dice of the thresholded map), against what looking nowhere gives."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from pathflip.benchmarks.measured import mean_score
from pathflip.benchmarks.protocol import Inputs, Outcome, Protocol, Published, Skipped
from pathflip.benchmarks.slide_files import allow_missing_or_raise, feature_files, open_model
from pathflip.benchmarks.test_sets import content_hash
from pathflip.errors import CaptionError, FeatureError
from pathflip.features import read_features
from pathflip.inference import Aligned, encode_slide, ground
from pathflip.io.slide_id import slide_id
from pathflip.io.tables import TableRow, first_of, read_rows
from pathflip.text.captions import patient_of
from pathflip.types import Heatmap

__all__ = ["BOXES", "MASKS", "box_of_heatmap", "dice", "iou"]

BOX_NAME, MASK_NAME = "refpath-boxes", "phrase-masks"
CANVAS_PX = 512
"""Longer side of the canvas on which heatmaps become boxes, pixels."""
RIGHT_IOU = 0.5

Rect = tuple[float, float, float, float]
"""x_min, y_min, x_max, y_max in pixels of the image."""


@dataclass(frozen=True)
class _Phrase:
    """A phrase and where it is: a box, or a mask's file."""

    key: str
    image: str
    size: tuple[int, int]
    text: str
    box: Rect | None = None
    mask: Path | None = None


def iou(first: Rect, second: Rect) -> float:
    """Area shared by two boxes over the area of both together."""
    width = max(0.0, min(first[2], second[2]) - max(first[0], second[0]))
    height = max(0.0, min(first[3], second[3]) - max(first[1], second[1]))
    shared = width * height
    areas = [(box[2] - box[0]) * (box[3] - box[1]) for box in (first, second)]
    return shared / (sum(areas) - shared) if shared else 0.0


def dice(first: NDArray[np.bool_], second: NDArray[np.bool_]) -> float:
    """Twice the shared area over the sum of both; 1 where both are empty."""
    total = int(first.sum()) + int(second.sum())
    return 2 * int((first & second).sum()) / total if total else 1.0


def _rows(path: Path) -> Iterator[TableRow]:
    for row in read_rows(path, expected="a file of phrases, one JSON object a line"):
        if row.problem:
            raise CaptionError(f"{path.name}: row {row.number}: {row.problem}")
        yield row


def read_phrases(path: Path, masks: bool) -> list[_Phrase]:
    """Phrases of a JSON-lines file or table.

    Raises:
        CaptionError: a row lacks image, size, expression, or its box or mask; a box is empty or outside its image.
    """
    phrases, problems = [], []
    for row in _rows(path):
        try:
            phrases.append(_phrase(path, row, masks))
        except CaptionError as error:
            problems.append(f"row {row.number}: {error}")
    if problems:
        raise CaptionError(f"{path.name}: {'; '.join(problems[:3])}" + (" …" if problems[3:] else ""))
    if not phrases:
        raise CaptionError(f"{path.name}: holds no phrase")
    keys = [one.key for one in phrases]
    if len(set(keys)) < len(keys):
        twice = next(key for key in keys if keys.count(key) > 1)
        raise CaptionError(f"{path.name}: two phrases bear the id '{twice}'; expected each once")
    return phrases


def _phrase(path: Path, row: TableRow, masks: bool) -> _Phrase:
    fields = row.fields
    image = slide_id(first_of(fields, ("image_id", "image", "slide", "slide_id")) or "")
    phrase = first_of(fields, ("expression", "phrase", "text"))
    text = str(phrase[0] if isinstance(phrase, list) and phrase else phrase or "").strip()
    if not text or text == "[]":
        raise CaptionError("no expression; expected the phrase in words")
    key = _key(row)
    if masks:
        name = first_of(fields, ("mask", "mask_path"))
        if name is None:
            raise CaptionError("no mask; expected the path of a picture, white where the phrase is")
        return _Phrase(key, image, (0, 0), text, mask=path.parent / str(name))
    try:
        width, height = int(fields["width"]), int(fields["height"])
        box = tuple(float(v) for v in _list(fields["bbox"]))
    except (KeyError, TypeError, ValueError):
        raise CaptionError("expected width, height, and bbox [x_min, y_min, x_max, y_max] in pixels") from None
    if len(box) != 4 or not (0 <= box[0] < box[2] <= width and 0 <= box[1] < box[3] <= height):
        raise CaptionError(
            f"bbox {list(box)} lies not inside {width} × {height} px; expected x_min, y_min, x_max, y_max"
        )
    return _Phrase(key, image, (width, height), text, box=(box[0], box[1], box[2], box[3]))


def _key(row: TableRow) -> str:
    """The phrase's id, or the row's number; an id may be 0."""
    own = first_of(row.fields, ("bbox_id", "phrase_id", "id"))
    return str(row.number if own is None else own)


def _list(value: Any) -> Any:
    return json.loads(value) if isinstance(value, str) else value


# --- Boxes -----------------------------------------------------------------------------------------------------------


def box_of_heatmap(heatmap: Heatmap, size: tuple[int, int]) -> tuple[Rect, tuple[float, float]]:
    """The box around the largest connected place above the map's Otsu threshold, and the point of the highest score.

    Args:
        heatmap: of a phrase. size: of the image in level-0 pixels (width, height).
    """
    scale = CANVAS_PX / max(size)
    shape = max(1, round(size[1] * scale)), max(1, round(size[0] * scale))
    values = heatmap.as_array(shape)
    above = _above_threshold(values)
    _, _, stats, _ = cv2.connectedComponentsWithStats(above.astype(np.uint8), connectivity=8)
    if len(stats) > 1:
        best = 1 + int(np.argmax(stats[1:, cv2.CC_STAT_AREA]))
        x, y, width, height = (float(v) for v in stats[best, :4])
    else:
        x, y, width, height = 0.0, 0.0, float(shape[1]), float(shape[0])
    row, column = np.unravel_index(int(np.nanargmax(values)), shape)
    back = size[0] / shape[1], size[1] / shape[0]
    point = ((float(column) + 0.5) * back[0], (float(row) + 0.5) * back[1])
    return (x * back[0], y * back[1], (x + width) * back[0], (y + height) * back[1]), point


def _above_threshold(values: NDArray[np.float32]) -> NDArray[np.bool_]:
    """Where a map lies above its own Otsu threshold (1979); nowhere where it is flat or empty."""
    shown = np.isfinite(values)
    if not shown.any():
        return np.zeros(values.shape, bool)
    low, high = float(values[shown].min()), float(values[shown].max())
    if high - low < 1e-9:
        return np.zeros(values.shape, bool)
    bytes_ = np.round(255 * (np.nan_to_num(values, nan=low) - low) / (high - low)).astype(np.uint8)
    threshold, _ = cv2.threshold(bytes_[shown][None], 0, 255, cv2.THRESH_BINARY + cv2.THRESH_OTSU)
    above: NDArray[np.bool_] = shown & (bytes_ > threshold)
    return above


def run_boxes(inputs: Inputs) -> Outcome:
    """Accuracy at an IoU of 0.5, mean IoU and the pointing game, beside a centre box and the whole image."""
    inputs.require(BOX_NAME, "predictions", "model")
    phrases = read_phrases(inputs.data, masks=False)
    if inputs.predictions is not None:
        places, skipped = _predicted_boxes(inputs.predictions, phrases, inputs)
    else:
        places, skipped = _grounded(phrases, inputs)
    scored = [one for one in phrases if one.key in places]
    overlaps = np.array([iou(places[one.key][0], one.box) for one in scored if one.box])
    pointed = np.array([_inside(places[one.key][1], one.box) for one in scored if one.box])
    whole = np.array([iou((0, 0, *one.size), one.box) for one in scored if one.box])
    middle = np.array([iou(_centre_box(one.size), one.box) for one in scored if one.box])
    at_centre = np.array([_inside((one.size[0] / 2, one.size[1] / 2), one.box) for one in scored if one.box])
    area = np.array([_area(one.box) / (one.size[0] * one.size[1]) for one in scored if one.box])
    patients = [patient_of(one.image) for one in scored]

    def score(measure: str, ours: NDArray[Any], centre: NDArray[Any], all_of_it: NDArray[Any], chance: float) -> Any:
        floors = {"centre box": centre, "whole image": all_of_it}
        return mean_score(measure, "all", ours, patients, chance, inputs, rivals=floors)

    scores = (
        score("accuracy at IoU 0.5", overlaps >= RIGHT_IOU, middle >= RIGHT_IOU, whole >= RIGHT_IOU,
              float((whole >= RIGHT_IOU).mean())),
        score("mean IoU", overlaps, middle, whole, float(whole.mean())),
        score("pointing", pointed, at_centre, area, float(area.mean())),
    )  # fmt: skip
    return Outcome(
        scores=scores, scored=len(scored), total=len(phrases),
        test_set=f"{len(phrases):,} phrases (content hash {content_hash([(p.key, p.text) for p in phrases])})",
        skipped=tuple(skipped),
        items=tuple(
            {"bbox_id": one.key, "image_id": one.image, "expression": one.text, "iou": round(float(v), 6),
             "predicted": [round(x) for x in places[one.key][0]]}
            for one, v in zip(scored, overlaps, strict=True)
        ),
        notes=("chance: the whole image as box; of pointing, a random point",),
        compared_on=tuple(zip([one.key for one in scored], patients, strict=True)),
    )  # fmt: skip


def _predicted_boxes(
    path: Path, phrases: Sequence[_Phrase], inputs: Inputs
) -> tuple[dict[str, tuple[Rect, tuple[float, float]]], list[Skipped]]:
    known = {one.key: one for one in phrases}
    places: dict[str, tuple[Rect, tuple[float, float]]] = {}
    for row in _rows(path):
        key = _key(row)
        try:
            box = [float(v) for v in _list(first_of(row.fields, ("bbox", "box", "prediction")))]
            x0, y0, x1, y1 = box
        except (TypeError, ValueError):
            raise CaptionError(f"{path.name}: row {row.number}: expected bbox [x_min, y_min, x_max, y_max]") from None
        if key in places:
            raise CaptionError(f"{path.name}: row {row.number}: '{key}' stands there already; expected one box")
        if not (x0 <= x1 and y0 <= y1 and np.isfinite(box).all()):
            raise CaptionError(
                f"{path.name}: row {row.number}: bbox {box} is no box; expected x_min ≤ x_max, y_min ≤ y_max"
            )
        if key in known:
            places[key] = (x0, y0, x1, y1), ((x0 + x1) / 2, (y0 + y1) / 2)
    if not places:
        raise CaptionError(
            f"{path.name}: no box of it belongs to a phrase of '{inputs.data.name}'; expected its bbox_id"
        )
    missing = [Skipped(one.key, "no box") for one in phrases if one.key not in places]
    allow_missing_or_raise(BOX_NAME, missing, len(phrases), "phrases", inputs)
    return places, missing


def _grounded(
    phrases: Sequence[_Phrase], inputs: Inputs
) -> tuple[dict[str, tuple[Rect, tuple[float, float]]], list[Skipped]]:
    places: dict[str, tuple[Rect, tuple[float, float]]] = {}
    skipped: list[Skipped] = []
    for one, heatmap in _heatmaps(BOX_NAME, phrases, inputs, skipped):
        if heatmap.grid.info.size0 != one.size:
            raise CaptionError(
                f"{BOX_NAME}: image '{one.image}' is {one.size[0]} × {one.size[1]} px in the file, its features are of "
                f"{heatmap.grid.info.size0} px; expected features of the very image the boxes are drawn on"
            )
        places[one.key] = box_of_heatmap(heatmap, one.size)
    return places, skipped


def _heatmaps(
    name: str, phrases: Sequence[_Phrase], inputs: Inputs, skipped: list[Skipped]
) -> Iterator[tuple[_Phrase, Heatmap]]:
    """A heatmap a phrase; each image is encoded once."""
    files, missing = feature_files(name, [one.image for one in phrases], inputs)
    absent = {one.item for one in missing}
    skipped += [Skipped(one.key, "its image has no feature file") for one in phrases if one.image in absent]
    model: Aligned = open_model(inputs)
    by_image: dict[str, list[_Phrase]] = {}
    for one in phrases:
        by_image.setdefault(one.image, []).append(one)
    for done, (image, file) in enumerate(files.items(), start=1):
        try:
            encoded = encode_slide(model, read_features(file))
        except FeatureError as error:
            if not inputs.allow_missing:
                raise FeatureError(f"{name}: {error}; or give --allow-missing to score the other images") from None
            skipped += [Skipped(one.key, "its image's features cannot be read") for one in by_image[image]]
            continue
        inputs.progress(done, len(files), image)
        for one in by_image[image]:
            yield one, ground(model, encoded, one.text)


def _inside(point: tuple[float, float], box: Rect) -> float:
    return float(box[0] <= point[0] <= box[2] and box[1] <= point[1] <= box[3])


def _area(box: Rect) -> float:
    return (box[2] - box[0]) * (box[3] - box[1])


def _centre_box(size: tuple[int, int]) -> Rect:
    """A box of half the image's sides, in its middle."""
    return size[0] / 4, size[1] / 4, 3 * size[0] / 4, 3 * size[1] / 4


# --- Masks -----------------------------------------------------------------------------------------------------------


def run_masks(inputs: Inputs) -> Outcome:
    """Dice of the map above its own Otsu threshold with the true mask, beside the whole tissue."""
    inputs.require(MASK_NAME, "model")
    phrases = read_phrases(inputs.data, masks=True)
    skipped: list[Skipped] = []
    scored: list[_Phrase] = []
    values: list[Mapping[str, float]] = []
    for one, heatmap in _heatmaps(MASK_NAME, phrases, inputs, skipped):
        truth = _read_mask(one)
        seen = heatmap.as_array((truth.shape[0], truth.shape[1]))
        tissue = np.isfinite(seen)
        values.append({"Dice": dice(_above_threshold(seen), truth), "whole tissue": dice(tissue, truth)})
        scored.append(one)
    if not scored:
        raise FeatureError(f"{MASK_NAME}: no image could be read; expected one at least")
    ours, floor = (np.array([row[name] for row in values]) for name in ("Dice", "whole tissue"))
    patients = [patient_of(one.image) for one in scored]
    score = mean_score("Dice", "all", ours, patients, float(floor.mean()), inputs,
                       rivals={"whole tissue": floor})  # fmt: skip
    return Outcome(
        scores=(score,), scored=len(scored), total=len(phrases),
        test_set=f"{len(phrases):,} masks (content hash {content_hash([(p.key, p.text) for p in phrases])})",
        skipped=tuple(skipped),
        items=tuple(
            {"id": one.key, "image_id": one.image, "expression": one.text, "dice": round(row["Dice"], 6)}
            for one, row in zip(scored, values, strict=True)
        ),
        compared_on=tuple(zip([one.key for one in scored], patients, strict=True)),
        notes=("the threshold is each map's own (Otsu), so no label is used; chance is the whole tissue as mask",),
    )  # fmt: skip


def _read_mask(one: _Phrase) -> NDArray[np.bool_]:
    assert one.mask is not None
    picture = cv2.imread(str(one.mask), cv2.IMREAD_GRAYSCALE) if one.mask.is_file() else None
    if picture is None:
        raise CaptionError(f"mask '{one.mask}': cannot be read; expected a picture, white where the phrase is")
    scale = min(1.0, 2048 / max(picture.shape))
    size = [max(1, round(side * scale)) for side in picture.shape[1::-1]]
    small = cv2.resize(picture, size, interpolation=cv2.INTER_NEAREST) if scale < 1 else picture
    mask: NDArray[np.bool_] = small > 0
    return mask


BOXES = Protocol(
    name=BOX_NAME,
    title="RefPath phrase boxes",
    metric="accuracy at IoU 0.5, mean IoU, pointing",
    needs="JSON lines image_id, width, height, bbox, bbox_id, expression; an alignment model and features, or boxes",
    run=run_boxes,
    table="places",
    source="RefPath's public files",
)
MASKS = Protocol(
    name=MASK_NAME,
    title="Phrase masks",
    metric="Dice of the thresholded similarity map",
    needs="JSON lines image_id, expression, mask (a picture); an alignment model and features",
    run=run_masks,
    published=(
        Published("best text-guided tumour segmentation", "Dice", "all", 0.897, "ASTRA's protocol, other slides"),
    ),
    table="places",
)
