"""Captions and reports from disk: JSON lines, JSON lists (SlideInstruct / SlideBench) and CSV.

One row a slide. Columns or keys (case does not matter): the slide (:data:`SLIDE_KEYS`), its text (:data:`TEXT_KEYS`),
the patient (:data:`PATIENT_KEYS`, optional) and ready-made sub-captions (:data:`SUBCAPTION_KEYS`, optional). Where
there are none, the text is split into sentences and each is parsed into a statement.
"""

import csv
import json
import re
import warnings
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Literal

from pathflip.errors import CaptionError
from pathflip.geometry import Box
from pathflip.io.files import write_text
from pathflip.io.tables import read_utf8
from pathflip.text.sentences import split_sentences
from pathflip.text.statements import parse_statement, statements_of
from pathflip.types import Caption, SubCaption

__all__ = ["check_captions", "patient_of", "read_captions", "slide_id_of", "write_captions"]

# First match wins. "image" may hold a list with one path, as in SlideInstruct and SlideBench.
SLIDE_KEYS = ("slide", "slide_id", "wsi", "wsi_id", "image", "image_id", "filename", "file", "id")
PATIENT_KEYS = ("patient", "patient_id", "case", "case_id", "subject", "subject_id", "submitter_id")
TEXT_KEYS = ("text", "caption", "report", "report_text", "description", "findings")
SUBCAPTION_KEYS = ("subcaptions", "sub_captions", "sentences", "fine_grained_concepts")
STATEMENT_KEYS = ("text", "visual_description", "sentence", "description")

# Taken off a slide's name; any other dot belongs to it (a TCGA name ends in ".31CABE32-36D7-…", which is no suffix).
_SUFFIXES: tuple[str, ...] = (
    ".svs",
    ".ndpi",
    ".mrxs",
    ".scn",
    ".bif",
    ".dcm",
    ".tif",
    ".tiff",
    ".vms",
    ".vmu",
    ".svslide",
)
_SUFFIXES += (
    ".czi",
    ".vsi",
    ".png",
    ".jpg",
    ".jpeg",
    ".bmp",
    ".h5",
    ".hdf5",
    ".pt",
    ".pth",
    ".npy",
    ".npz",
    ".csv",
    ".zarr",
)
_SUFFIXES += (".safetensors", ".txt", ".json")
_POLARITIES = ("affirmed", "denied", "undecided", "present", "absent", "uncertain")
# Fields of a ready-made sub-caption that replace what the rules say.
_GIVEN_FIELDS = (
    ("content", str), ("concept", str), ("visual", bool), ("negated", bool), ("undecided", bool), ("reason", str),
    ("part", str), ("section", str), ("language", str),
)  # fmt: skip
_TCGA = re.compile(r"^(TCGA-[A-Z0-9]{2}-[A-Z0-9]{4})-")
_SHOWN = 5


def read_captions(path: str | Path, on_error: Literal["raise", "skip"] = "raise") -> list[Caption]:
    """Captions of a file, in file order.

    Args:
        path: ``.jsonl`` / ``.ndjson`` (one object a line), ``.json`` (a list of objects) or ``.csv`` / ``.tsv``
            (comma, semicolon or tab), UTF-8 with or without a byte-order mark.
        on_error: what to do about rows that cannot be used: "raise" names them all in one error, "skip" leaves them
            out and warns with the same line.

    Raises:
        CaptionError: the file cannot be read, holds no usable row, or (``on_error="raise"``) a row cannot be used.
    """
    if on_error not in ("raise", "skip"):
        raise CaptionError(f"on_error: got {on_error!r}, expected 'raise' or 'skip'")
    captions, problems = check_captions(path)
    if problems:
        shown = "; ".join(problems[:_SHOWN]) + (f"; and {len(problems) - _SHOWN} more" if problems[_SHOWN:] else "")
        plural = "row" if len(problems) == 1 else "rows"
        line = f"{Path(path).name}: {len(problems)} {plural} cannot be used: {shown}"
        if on_error == "raise":
            raise CaptionError(f"{line}; mend the file, or leave such rows out with on_error='skip'")
        warnings.warn(line, stacklevel=2)
    if not captions:
        raise CaptionError(f"{Path(path).name}: no usable caption; expected one row a slide with a slide and a text")
    return captions


def check_captions(path: str | Path) -> tuple[list[Caption], list[str]]:
    """The usable captions of a file, and one line for each row that cannot be used ("row 7: …").

    Rows are counted as an editor counts them: lines of a JSON-lines file, records after the header of a CSV,
    entries of a JSON list, from 1.

    Raises:
        CaptionError: the file as a whole cannot be read.
    """
    path = Path(path)
    captions: list[Caption] = []
    problems: list[str] = []
    seen: dict[str, int] = {}
    for number, row in _rows(path):
        try:
            if isinstance(row, CaptionError):
                raise row
            caption = _caption(row)
            if caption.slide_id in seen:
                raise CaptionError(f"slide '{caption.slide_id}' stands already in row {seen[caption.slide_id]}")
        except CaptionError as error:
            problems.append(f"row {number}: {error}")
            continue
        seen[caption.slide_id] = number
        captions.append(caption)
    return captions, problems


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


# --- Rows ------------------------------------------------------------------------------------------------------------


def _rows(path: Path) -> Iterator[tuple[int, Mapping[str, Any] | CaptionError]]:
    """Numbered rows of a file; a row that cannot be decoded is its error."""
    kind = path.suffix.lower()
    text = read_utf8(path)
    if kind in (".csv", ".tsv"):
        yield from _csv_rows(path, text)
    elif kind in (".jsonl", ".ndjson"):
        for number, line in enumerate(text.split("\n"), start=1):
            if line.strip():
                yield number, _json_object(line)
    elif kind == ".json":
        try:
            entries = json.loads(text)
        except ValueError as error:
            raise CaptionError(f"{path.name}: not JSON ({error}); expected a list of objects") from None
        if not isinstance(entries, list):
            raise CaptionError(f"{path.name}: got a JSON {type(entries).__name__}, expected a list of objects")
        for number, entry in enumerate(entries, start=1):
            yield number, entry if isinstance(entry, dict) else CaptionError("not an object with a slide and a text")
    else:
        raise CaptionError(f"{path.name}: got a '{kind}' file, expected .jsonl, .ndjson, .json, .csv or .tsv")


def _json_object(line: str) -> Mapping[str, Any] | CaptionError:
    try:
        row = json.loads(line)
    except ValueError as error:
        return CaptionError(f"not JSON ({error})")
    return row if isinstance(row, dict) else CaptionError("not a JSON object with a slide and a text")


def _csv_rows(path: Path, text: str) -> Iterator[tuple[int, Mapping[str, Any] | CaptionError]]:
    header = text.partition("\n")[0]
    delimiter = max(",;\t", key=header.count)
    reader = csv.DictReader(text.splitlines(keepends=True), delimiter=delimiter)
    columns = {(name or "").strip().lower() for name in reader.fieldnames or ()}
    for role, keys in (("slide", SLIDE_KEYS), ("text", TEXT_KEYS)):
        if not columns & set(keys):
            raise CaptionError(f"{path.name}: no column for the {role}: got {sorted(columns)}, expected one of {keys}")
    number = 0
    while True:
        number += 1
        try:
            row = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            yield number, CaptionError(f"not CSV ({error})")
            continue
        if None in row:
            yield number, CaptionError("more fields than the header has; quote texts that hold the separator")
        else:
            yield number, row


# --- One row ---------------------------------------------------------------------------------------------------------


def _caption(row: Mapping[str, Any]) -> Caption:
    fields = {str(key).strip().lower(): value for key, value in row.items()}
    slide_id = slide_id_of(_first(fields, SLIDE_KEYS))
    text = _text(fields)
    statements = _statements(fields)
    if not text and statements:
        text = " ".join(statement.text for statement in statements)
    if not text:
        raise CaptionError(f"slide '{slide_id}' has an empty caption")
    if not statements:
        statements = tuple(one for sentence in split_sentences(text) for one in statements_of(sentence))
    if not statements:
        raise CaptionError(f"slide '{slide_id}': the caption holds no sentence (got {text[:40]!r})")
    patient = str(_first(fields, PATIENT_KEYS) or "").strip() or patient_of(slide_id)
    return Caption(slide_id=slide_id, patient=patient, text=text, subcaptions=statements)


def _first(fields: Mapping[str, Any], keys: Iterable[str]) -> Any:
    """The first of ``keys`` that holds something."""
    return next((fields[key] for key in keys if fields.get(key) not in (None, "", [])), None)


def slide_id_of(value: Any) -> str:
    """The slide's id: the file's stem where a path is given."""
    if isinstance(value, list) and len(value) == 1:
        value = value[0]
    if isinstance(value, list):
        raise CaptionError(f"got {len(value)} slides in one row, expected one")
    name = re.split(r"[\\/]", str(value if value is not None else "").strip())[-1]
    for suffix in _SUFFIXES:
        if name.lower().endswith(suffix) and len(name) > len(suffix):
            name = name[: -len(suffix)]
            break
    if not name:
        raise CaptionError(f"no slide named; expected one of the fields {', '.join(SLIDE_KEYS[:5])}")
    return name


def patient_of(slide_id: str) -> str:
    """The patient of a slide nobody named one for: the TCGA barcode's first three parts, or the slide itself."""
    barcode = _TCGA.match(slide_id)
    return barcode.group(1) if barcode else slide_id


def _text(fields: Mapping[str, Any]) -> str:
    value = _first(fields, TEXT_KEYS)
    if value is None and isinstance(fields.get("conversations"), list):  # LLaVA style: the last answer is the caption
        turns = [turn for turn in fields["conversations"] if isinstance(turn, dict) and turn.get("from") == "gpt"]
        value = turns[-1].get("value") if turns else None
    if value is not None and not isinstance(value, str):
        raise CaptionError(f"the caption is a {type(value).__name__}, expected text")
    return (value or "").strip()


def _statements(fields: Mapping[str, Any]) -> tuple[SubCaption, ...]:
    value = _first(fields, SUBCAPTION_KEYS)
    if isinstance(value, str):  # a CSV cell holds them as JSON
        try:
            value = json.loads(value)
        except ValueError:
            raise CaptionError("sub-captions in a CSV cell must be a JSON list of texts") from None
    if value is None:
        return ()
    if not isinstance(value, list):
        raise CaptionError(f"sub-captions are a {type(value).__name__}, expected a list of texts or objects")
    return tuple(_statement(item, place) for place, item in enumerate(value, start=1))


def _statement(item: Any, place: int) -> SubCaption:
    """A ready-made sub-caption: a text, or an object whose fields override what the rules say."""
    fields = {"text": item} if isinstance(item, str) else item
    text = _first(fields, STATEMENT_KEYS) if isinstance(fields, dict) else None
    if not isinstance(text, str) or not text.strip():
        raise CaptionError(f"sub-caption {place} has no text")
    given: dict[str, Any] = {}
    for name, kind in _GIVEN_FIELDS:
        value = fields.get(name)
        if value is None:
            continue
        if not isinstance(value, kind):
            raise CaptionError(f"sub-caption {place}: '{name}' is {value!r}, expected {kind.__name__}")
        given[name] = value
    if fields.get("polarity") is not None and "negated" not in given:
        if fields["polarity"] not in _POLARITIES:
            raise CaptionError(
                f"sub-caption {place}: 'polarity' is {fields['polarity']!r}, expected one of {', '.join(_POLARITIES)}"
            )
        given["negated"] = fields["polarity"] in ("absent", "denied")
        given["undecided"] = fields["polarity"] in ("uncertain", "undecided")
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
