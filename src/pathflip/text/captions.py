"""Captions and reports from disk: JSON lines, JSON lists (SlideInstruct / SlideBench) and CSV.

One row a slide. Columns or keys (without regard to case, spaces and dashes): the slide (:data:`SLIDE_KEYS`), its text
(:data:`TEXT_KEYS`), the patient (:data:`PATIENT_KEYS`, optional) and ready-made sub-captions (:data:`SUBCAPTION_KEYS`,
optional). Where there are none, the text is split into sentences and each is parsed into a statement.
"""

import json
import re
import warnings
from collections.abc import Iterable, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Literal

from pathflip.errors import CaptionError
from pathflip.geometry import Box
from pathflip.io.files import write_text
from pathflip.io.slide_id import join_ids, slide_id
from pathflip.io.tables import PLAIN, TableOptions, TableRow, first_of, is_empty, read_rows, text_of
from pathflip.text.reports import read_report, undecided_note
from pathflip.text.statements import parse_statement
from pathflip.types import Caption, SubCaption

__all__ = ["check_captions", "named_as", "patient_of", "read_captions", "slide_of_row", "slides_of_row",
           "write_captions"]  # fmt: skip

# The first that a table has decides. "image" may hold a list with one path, as in SlideInstruct and SlideBench.
SLIDE_KEYS = (
    "slide", "slide_id", "slide_path", "slide_name", "wsi", "wsi_id", "wsi_path", "image", "images", "image_path",
    "image_id", "filename", "file_name", "file", "id",
)  # fmt: skip
PATIENT_KEYS = ("patient", "patient_id", "case", "case_id", "subject", "subject_id", "submitter_id")
TEXT_KEYS = ("text", "caption", "report", "report_text", "description", "findings")
SUBCAPTION_KEYS = ("subcaptions", "sub_captions", "sentences", "fine_grained_concepts")
PART_KEYS = ("part", "specimen_part", "part_id", "part_of_report")
STATEMENT_KEYS = ("text", "visual_description", "sentence", "description")
_POLARITIES = ("affirmed", "denied", "undecided", "present", "absent", "uncertain")
# Fields of a ready-made sub-caption that replace what the rules say.
_GIVEN_FIELDS = (
    ("content", str), ("concept", str), ("visual", bool), ("negated", bool), ("undecided", bool), ("reason", str),
    ("part", str), ("section", str), ("language", str),
)  # fmt: skip
_TCGA = re.compile(r"^(TCGA-[A-Z0-9]{2}-[A-Z0-9]{4})-")
_SHOWN = 5


def read_captions(
    path: str | Path, on_error: Literal["raise", "skip"] = "raise", options: TableOptions = PLAIN
) -> list[Caption]:
    """Captions of a file, in file order.

    Args:
        path: ``.jsonl`` / ``.ndjson`` (one object a line), ``.json`` (a list of objects) or ``.csv`` / ``.tsv``
            (comma, semicolon or tab); see :mod:`pathflip.io.tables`.
        on_error: what to do about rows that cannot be used: "raise" names them all in one error, "skip" leaves them
            out and warns with the same line.
        options: columns and encoding, where the file does not say.

    Raises:
        CaptionError: the file cannot be read, holds no usable row, or (``on_error="raise"``) a row cannot be used.
    """
    if on_error not in ("raise", "skip"):
        raise CaptionError(f"on_error: got {on_error!r}, expected 'raise' or 'skip'")
    captions, problems = check_captions(path, options)
    if problems:
        shown = "; ".join(problems[:_SHOWN]) + (f"; and {len(problems) - _SHOWN} more" if problems[_SHOWN:] else "")
        plural = "row" if len(problems) == 1 else "rows"
        line = f"{Path(path).name}: {len(problems)} {plural} cannot be used: {shown}"
        if on_error == "raise":
            raise CaptionError(f"{line}; mend the file, or leave such rows out with on_error='skip'")
        warnings.warn(line, stacklevel=2)
    if note := undecided_note(captions):
        warnings.warn(f"{Path(path).name}: {note}", stacklevel=2)
    if not captions:
        raise CaptionError(f"{Path(path).name}: no usable caption; expected one row a slide with a slide and a text")
    return captions


def check_captions(
    path: str | Path, options: TableOptions = PLAIN, *, whole_reports: bool = False
) -> tuple[list[Caption], list[str]]:
    """The usable captions of a file, and one line for each row that cannot be used ("row 7: …").

    Rows are counted as an editor counts them: lines of a JSON-lines file, records after the header of a CSV,
    entries of a JSON list, from 1. ``whole_reports`` keeps the text of the report where a caption would hold only what
    its slide can show.

    Raises:
        CaptionError: the file as a whole cannot be read.
    """
    path = Path(path)
    captions: list[Caption] = []
    problems: list[str] = []
    seen: dict[str, int] = {}
    rows = read_rows(path, options, expected="a file of captions")
    if path.suffix.lower() in (".csv", ".tsv"):
        _check_columns(path, rows)
    for row in rows:
        try:
            if row.problem:
                raise CaptionError(row.problem)
            caption = _caption(row.fields, whole_reports)
            if caption.slide_id in seen:
                raise CaptionError(f"slide '{caption.slide_id}' stands already in row {seen[caption.slide_id]}")
        except CaptionError as error:
            problems.append(f"row {row.number}: {error}")
            continue
        seen[caption.slide_id] = row.number
        captions.append(caption)
    return captions, problems


def _check_columns(path: Path, rows: Iterable[TableRow]) -> None:
    """A table without a column for the slide or its text is refused as a whole, not row by row."""
    columns = next((row.fields.keys() for row in rows if not row.problem), None)
    if columns is None:
        return
    roles = (("slide", SLIDE_KEYS), ("text", (*TEXT_KEYS, *SUBCAPTION_KEYS)))
    for role, keys in roles:
        if not columns & set(keys):
            raise CaptionError(
                f"{path.name}: no column for the {role}: got {_shown_names(columns)}, expected one of "
                f"{', '.join(keys)}; or name it with --{role}-column"
            )


def _shown_names(columns: Iterable[str]) -> list[str]:
    return sorted(name.replace("_", " ") for name in columns)


def write_captions(path: str | Path, captions: Iterable[Caption]) -> None:
    """Write captions as JSON lines, statements included; :func:`read_captions` gives back equal objects."""
    lines = []
    for caption in captions:
        statements = [
            {key: value for key, value in asdict(statement).items() if value is not None}
            | ({"box": list(asdict(statement.box).values())} if statement.box else {})
            for statement in caption.subcaptions
        ]
        row = {"slide": caption.slide_id, "patient": caption.patient, "text": caption.text, "subcaptions": statements}
        lines.append(json.dumps(row, ensure_ascii=False))
    write_text(path, "\n".join(lines) + "\n")


# --- One row ---------------------------------------------------------------------------------------------------------


def _caption(fields: Mapping[str, Any], whole_report: bool = False) -> Caption:
    name = slide_of_row(fields)
    text = _text(fields)
    statements = _statements(fields)
    if not text and statements:
        text = " ".join(statement.text for statement in statements)
    if not text:
        raise CaptionError(f"slide '{name}' has an empty caption")
    if not statements:
        report, part = read_report(text), str(first_of(fields, PART_KEYS) or "").strip() or None
        text = report.text if whole_report else report.caption(part)
        statements = report.sub_captions(part)
    if not statements:
        raise CaptionError(f"slide '{name}': the caption holds no sentence (got {text[:40]!r})")
    patient = str(first_of(fields, PATIENT_KEYS) or "").strip() or patient_of(name)
    return Caption(slide_id=name, patient=patient, text=text, subcaptions=statements)


def slide_of_row(fields: Mapping[str, Any], keys: Iterable[str] = SLIDE_KEYS) -> str:
    """The id of the one slide a row names.

    Raises:
        CaptionError: it names none, or several.
    """
    slides = slides_of_row(fields, keys)
    if len(slides) > 1:
        raise CaptionError(f"got {len(slides)} slides in one row, expected one")
    return slides[0]


def slides_of_row(fields: Mapping[str, Any], keys: Iterable[str] = SLIDE_KEYS) -> tuple[str, ...]:
    """The ids of the slides a row names, one or a list.

    Raises:
        CaptionError: it names none, or something that is no name.
    """
    value = first_of(fields, keys)
    values = value if isinstance(value, list) else [value]
    if any(is_empty(one) for one in values):
        raise CaptionError(f"no slide named; expected one of the fields {', '.join(SLIDE_KEYS[:2])}, wsi, image, file")
    return tuple(slide_id(one) for one in values)


def named_as(captions: Iterable[Caption], ids: Iterable[str]) -> list[Caption]:
    """Captions under the ids that the files of their slides have (see :func:`~pathflip.io.slide_id.join_ids`).

    Raises:
        CaptionError: a caption's slide fits several files, or two captions one.
    """
    captions = list(captions)
    slide_of = join_ids([caption.slide_id for caption in captions], ids)
    return [replace(caption, slide_id=slide_of.get(caption.slide_id, caption.slide_id)) for caption in captions]


def patient_of(slide: str) -> str:
    """The patient of a slide nobody named one for: the TCGA barcode's first three parts, or the slide itself."""
    barcode = _TCGA.match(slide)
    return barcode.group(1) if barcode else slide


def _text(fields: Mapping[str, Any]) -> str:
    value = first_of(fields, TEXT_KEYS)
    if value is None and isinstance(fields.get("conversations"), list):  # LLaVA style: the last answer is the caption
        turns = [turn for turn in fields["conversations"] if isinstance(turn, dict) and turn.get("from") == "gpt"]
        value = turns[-1].get("value") if turns else None
    return text_of(value, "caption")


def _statements(fields: Mapping[str, Any]) -> tuple[SubCaption, ...]:
    value = first_of(fields, SUBCAPTION_KEYS)
    if isinstance(value, str):  # a CSV cell holds them as JSON
        try:
            value = json.loads(value)
        except (ValueError, RecursionError):
            raise CaptionError("sub-captions in a CSV cell must be a JSON list of texts") from None
    if value is None:
        return ()
    if not isinstance(value, list):
        raise CaptionError(f"sub-captions are a {type(value).__name__}, expected a list of texts or objects")
    return tuple(_statement(item, place) for place, item in enumerate(value, start=1))


def _statement(item: Any, place: int) -> SubCaption:
    """A ready-made sub-caption: a text, or an object whose fields override what the rules say."""
    fields = {"text": item} if isinstance(item, str) else item
    text = text_of(first_of(fields, STATEMENT_KEYS), f"sub-caption {place}") if isinstance(fields, dict) else ""
    if not text:
        raise CaptionError(f"sub-caption {place} has no text")
    given: dict[str, Any] = {}
    for name, kind in _GIVEN_FIELDS:
        value = fields.get(name)
        if value is None:
            continue
        if not isinstance(value, kind):
            raise CaptionError(f"sub-caption {place}: '{name}' is {value!r}, expected {kind.__name__}")
        given[name] = value
    if fields.get("polarity") is not None:
        if fields["polarity"] not in _POLARITIES:
            raise CaptionError(
                f"sub-caption {place}: 'polarity' is {fields['polarity']!r}, expected one of {', '.join(_POLARITIES)}"
            )
        given.setdefault("negated", fields["polarity"] in ("absent", "denied"))
        given.setdefault("undecided", fields["polarity"] in ("uncertain", "undecided"))
    if fields.get("box") is not None:
        given["box"] = _box(fields["box"], place)
    if isinstance(fields.get("place"), list) and len(fields["place"]) == 2:
        given["place"] = (int(fields["place"][0]), int(fields["place"][1]))
    decided = {"undecided": False, "reason": None} if "negated" in given else {}
    return replace(parse_statement(text), **(decided | given))


def _box(value: Any, place: int) -> Box:
    if isinstance(value, list) and len(value) == 4 and all(isinstance(number, int) for number in value):
        return Box(*value)
    raise CaptionError(f"sub-caption {place}: 'box' is {value!r}, expected [x, y, width, height] in level-0 pixels")
