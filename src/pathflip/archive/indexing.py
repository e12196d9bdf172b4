"""Fill an archive: encode feature files and write a row a slide, some at a time, from where an earlier run ended."""

import hashlib
import io
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pathflip.archive.covering import cover, to_int8
from pathflip.archive.vector_tables import Archive, create_or_open, in_condition
from pathflip.errors import CaptionError, ConfigError, FeatureError, PathFLIPError
from pathflip.features import read_features
from pathflip.inference import Aligned, EncodedSlide, encode_slide
from pathflip.io.slide_id import join_ids, paths_by_id, slide_id
from pathflip.io.storage import shown, state
from pathflip.io.tables import PLAIN, TableOptions, first_of, is_empty, read_table
from pathflip.text.captions import read_captions
from pathflip.text.case_tables import CASE_KEYS, slides_of

__all__ = ["IndexOutcome", "SlideFacts", "index_features", "read_facts", "row_of", "tile_boxes"]

PATCHES_A_SLIDE = 64
SLIDES_A_WRITE = 64
THUMBNAIL_PX = 256
_SLIDE_KEYS = ("slide", "slide_id", "slide name", "filename", "file", "image", "id")
_PATIENT_KEYS = ("patient", "patient_id", "case_submitter_id")


@dataclass(frozen=True)
class IndexOutcome:
    """What became of a slide: status "indexed", "unchanged" or "failed"; ``mean_cosine`` and ``min_cosine`` say how
    well its stored patches stand for all."""

    slide_id: str
    status: str
    patches: int = 0
    stored: int = 0
    mean_cosine: float = 0.0
    min_cosine: float = 0.0
    error: str = ""


@dataclass(frozen=True)
class SlideFacts:
    """What tables say of a slide: its case, patient and labels."""

    case_id: str = ""
    patient: str = ""
    labels: Mapping[str, str] = field(default_factory=dict)


def read_facts(
    slide_ids: Sequence[str],
    captions: Path | None = None,
    labels: Path | None = None,
    options: TableOptions = PLAIN,
) -> dict[str, SlideFacts] | None:
    """Cases and patients of captions, and all columns of a table of labels, by slide; None where neither is given.

    Raises:
        CaptionError: a table cannot be read, has no column of slides, or names none of these slides.
    """
    if captions is None and labels is None:
        return None
    facts = {name: SlideFacts() for name in slide_ids}
    if captions is not None:
        named = [(one.slide_id, c) for c in read_captions(captions, options=options) for one in slides_of(c)]
        for name, caption in _joined(captions, named, slide_ids):
            case = getattr(caption, "case_id", "") or caption.slide_id
            facts[name] = SlideFacts(case, caption.patient)
    if labels is not None:
        rows = read_table(labels, options)
        keys = (options.slide_column, *_SLIDE_KEYS) if options.slide_column else _SLIDE_KEYS
        column = next((name for name in keys if name in rows[0]), None)
        if column is None:
            raise CaptionError(f"{labels.name}: no column of slides; expected one of {', '.join(keys)}")
        no_labels = {column.lower(), *CASE_KEYS, *_PATIENT_KEYS}
        named_rows = [(slide_id(row[column]), row) for row in rows if not is_empty(row.get(column))]
        for name, row in _joined(labels, named_rows, slide_ids):
            own = {str(k): str(v) for k, v in row.items() if str(k).lower() not in no_labels and not is_empty(v)}
            case, patient = (str(first_of(row, k) or "") for k in (CASE_KEYS, _PATIENT_KEYS))
            old = facts[name]
            facts[name] = SlideFacts(case or old.case_id, patient or old.patient, own)
    return facts


def _joined(path: Path, named: Sequence[tuple[str, Any]], slide_ids: Sequence[str]) -> Iterator[tuple[str, Any]]:
    joined = join_ids([name for name, _ in named], slide_ids)
    if not joined:
        raise CaptionError(f"{path.name}: none of its {len(named)} slides is among the {len(slide_ids)} feature files")
    return ((joined[name], value) for name, value in named if name in joined)


def index_features(
    model: Aligned,
    files: Sequence[Path],
    folder: Path,
    *,
    facts: Mapping[str, SlideFacts] | None = None,
    slides: Mapping[str, Path] | None = None,
    patches_a_slide: int = PATCHES_A_SLIDE,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> list[IndexOutcome]:
    """Encode feature files and keep their vectors in an archive, made where there is none.

    A slide that is there and whose file and facts are as they were is passed over; one whose file changed is replaced
    (and keeps its labels where none are given). What is written stays, however the run ends.

    Args:
        facts: see :func:`read_facts`. slides: slide files by slide id, for thumbnails.
        patches_a_slide: most patch embeddings kept of one.

    Returns:
        One outcome a slide; a file that cannot be used is "failed", and the rest goes on.

    Raises:
        ContractError: the archive holds another model's vectors. OutputError: it cannot be written to.
        CaptionError: two files of one slide.
    """
    if patches_a_slide < 1:
        raise ConfigError(f"patches a slide: got {patches_a_slide}, expected 1 or more")
    by_id = paths_by_id(files)
    archive = create_or_open(folder, model, patches_a_slide)
    present = _present(archive)
    outcomes: list[IndexOutcome] = []
    waiting: list[dict[str, Any]] = []
    for number, (name, path) in enumerate(by_id.items(), start=1):
        states = (_file_state(path), _facts_state(facts, name))
        old = present.get(name)
        if old is not None and old[0] == states[0] and states[1] in ("", old[1]):
            outcomes.append(IndexOutcome(name, "unchanged"))
        else:
            try:
                encoded = encode_slide(model, read_features(path))
                if encoded.slide_id != name and slide_id(encoded.slide_id) != name:
                    raise FeatureError(f"{path.name}: holds slide '{encoded.slide_id}'; give it that slide's name")
                row = row_of(encoded, patches_a_slide) | {"slide_id": name, "file": shown(path)}
                row |= _facts_columns(archive, None if facts is None else facts.get(name, SlideFacts()), old, name)
                row |= {"file_state": states[0], "facts_state": states[1] or (old[1] if old else "")}
                row["thumbnail"] = _thumbnail(slides, name)
            except PathFLIPError as error:
                outcomes.append(IndexOutcome(name, "failed", error=str(error)))
            else:
                waiting.append(row)
                outcomes.append(_outcome(row))
        if len(waiting) >= SLIDES_A_WRITE:
            archive.write(waiting)
            waiting = []
        progress(number, len(by_id))
    if waiting:
        archive.write(waiting)
    if any(outcome.status == "indexed" for outcome in outcomes):
        archive.tidy()
    return outcomes


def _present(archive: Archive) -> dict[str, tuple[str, str]]:
    held = archive.rows(["slide_id", "file_state", "facts_state"])
    pairs = zip(held["file_state"], held["facts_state"], strict=True)
    return dict(zip(held["slide_id"], pairs, strict=True))


def _file_state(path: Path) -> str:
    return ":".join(map(str, state(path) or ("absent",)))


def _facts_state(facts: Mapping[str, SlideFacts] | None, name: str) -> str:
    """What changes when a table says something else of the slide; "" where no table is given."""
    if facts is None:
        return ""
    one = facts.get(name, SlideFacts())
    text = json.dumps([one.case_id, one.patient, dict(one.labels)], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _facts_columns(archive: Archive, facts: SlideFacts | None, old: Any, name: str) -> dict[str, Any]:
    """Case, patient and labels: those given, or, of a slide that is there, those it has."""
    if facts is None and old is not None:
        stored = archive.rows(["case_id", "patient", *archive.labels.values()], in_condition([name]))
        labels = {label: stored[column][0] for label, column in archive.labels.items()}
        return {
            "case_id": stored["case_id"][0],
            "patient": stored["patient"][0],
            "labels": {label: value for label, value in labels.items() if value is not None},
        }
    one = facts or SlideFacts()
    return {"case_id": one.case_id or None, "patient": one.patient or None, "labels": dict(one.labels)}


def row_of(encoded: EncodedSlide, patches_a_slide: int) -> dict[str, Any]:
    """The vectors of a slide as the table's columns (docs/formats.md)."""
    patches = encoded.code.patches[0].float().cpu().numpy()
    vector = encoded.code.slide[0].float().cpu().numpy()
    mean = patches.mean(axis=0)
    if not (np.isfinite(patches).all() and np.isfinite(vector).all()):
        raise FeatureError(f"slide '{encoded.slide_id}': the model gives NaN or infinity for it; check its features")
    covering = cover(patches, patches_a_slide)
    numbers, scales = to_int8(patches[covering.rows])
    return {
        "slide_id": encoded.slide_id,
        "num_patches": len(patches),
        "width0": encoded.grid.info.size0[0],
        "height0": encoded.grid.info.size0[1],
        "mean_cosine": covering.mean_cosine,
        "min_cosine": covering.min_cosine,
        "vector": _unit(vector),
        "patch_vector": _unit(mean),
        "patches": numbers.tobytes(),
        "scales": scales.astype("<f4").tobytes(),
        "weights": covering.weight.astype("<i4").tobytes(),
        "boxes": tile_boxes(encoded, covering.rows).astype("<i4").tobytes(),
    }


def tile_boxes(encoded: EncodedSlide, rows: NDArray[np.int64]) -> NDArray[np.int64]:
    """Where patches lie, level-0 pixels, ``(K, 4)`` as x, y, width, height: of a region the box of its tiles."""
    tiles = np.flatnonzero(encoded.row_of_tile >= 0)
    low = encoded.grid.coords[tiles].astype(np.int64)
    high = low + encoded.grid.tile_px0
    size = int(encoded.row_of_tile.max()) + 1
    start, stop = np.full((size, 2), np.iinfo(np.int64).max), np.full((size, 2), -1)
    np.minimum.at(start, encoded.row_of_tile[tiles], low)
    np.maximum.at(stop, encoded.row_of_tile[tiles], high)
    return np.concatenate([start[rows], stop[rows] - start[rows]], axis=1)


def _unit(vector: NDArray[np.float32]) -> NDArray[np.float32]:
    return np.asarray(vector / max(float(np.linalg.norm(vector)), 1e-12), np.float32)


def _outcome(row: Mapping[str, Any]) -> IndexOutcome:
    return IndexOutcome(
        row["slide_id"],
        "indexed",
        row["num_patches"],
        len(row["weights"]) // 4,
        round(row["mean_cosine"], 4),
        round(row["min_cosine"], 4),
    )


def _thumbnail(slides: Mapping[str, Path] | None, name: str) -> bytes | None:
    """A small JPEG of the slide; None where it is not at hand."""
    if slides is None or name not in slides:
        return None
    from PIL import Image

    from pathflip.slide import open_slide

    with open_slide(slides[name]) as slide:
        picture = Image.fromarray(slide.thumbnail(THUMBNAIL_PX))
    out = io.BytesIO()
    picture.save(out, "JPEG", quality=80)
    return out.getvalue()
