"""Captions and reports from disk: JSON lines, JSON lists (SlideInstruct / SlideBench, HISTAI, REG), CSV, text files.

One row a slide, or a case (:mod:`pathflip.text.case_tables`). Columns or keys (without regard to case, spaces and
dashes): the slide (:data:`SLIDE_KEYS`), its text (:data:`TEXT_KEYS`, or a column a section: :data:`SECTION_KEYS`),
the patient (:data:`PATIENT_KEYS`, optional) and ready-made sub-captions (:data:`SUBCAPTION_KEYS`, optional). Where
there are none, the text is split into sentences and each is parsed into a sub-caption.
"""

import json
import re
import warnings
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

from pathflip.errors import CaptionError
from pathflip.geometry import Box
from pathflip.io.files import write_text
from pathflip.io.tables import PLAIN, TableOptions, TableRow, first_of, is_empty, read_rows, read_utf8, text_of
from pathflip.text.case_tables import (
    CASE_KEYS,
    SLIDE_KEYS,
    ReportGroup,
    ReportRow,
    case_of_row,
    case_slides_of_row,
    findings_on,
    grouped_reports,
    part_notes,
)
from pathflip.text.language_detection import language_of_file
from pathflip.text.reports import read_report, undecided_note
from pathflip.text.sub_captions import parse_sub_caption
from pathflip.types import Caption, Case, CaseSlide, SubCaption

__all__ = ["CaptionTable", "check_captions", "identity_row", "patient_of", "patient_of_row", "read_caption_table",
           "read_captions", "slide_of_row", "slides_of_row", "write_captions"]  # fmt: skip

PATIENT_KEYS = ("patient", "patient_id", "case", "case_id", "subject", "subject_id", "submitter_id")
TEXT_KEYS = (
    "text", "caption", "report", "report_text", "description", "findings", "pathology_report", "pathology_text",
    "report_body", "befund", "befundtext", "compte_rendu", "informe",
)  # fmt: skip
SUBCAPTION_KEYS = ("subcaptions", "sub_captions", "sentences", "fine_grained_concepts")
# Where a report stands in a column a section: heading that is written over each, and the names of its column.
SECTION_KEYS = (
    ("CLINICAL HISTORY", ("clinical_history", "clinical_information", "history", "anamnesis")),
    ("GROSS DESCRIPTION", ("grossing", "gross", "gross_description", "macroscopy", "macroscopic_description")),
    ("MICROSCOPIC DESCRIPTION", ("micro_protocol", "microscopy", "micro", "microscopic_description", "histology")),
    ("DIAGNOSIS", ("conclusion", "diagnosis", "final_diagnosis", "diagnoses", "impression")),
)  # fmt: skip
_TOLD_BY_SECTIONS = tuple(name for heading, names in SECTION_KEYS[2:] for name in names)
SUB_CAPTION_KEYS = ("text", "visual_description", "sentence", "description")
_POLARITIES = ("affirmed", "denied", "undecided", "present", "absent", "uncertain")
# Fields of a ready-made sub-caption that replace what the rules say.
_GIVEN_FIELDS = (
    ("content", str), ("concept", str), ("visual", bool), ("negated", bool), ("undecided", bool), ("reason", str),
    ("part", str), ("section", str), ("language", str),
)  # fmt: skip
_TCGA = re.compile(r"^(TCGA-[A-Z0-9]{2}-[A-Z0-9]{4})-")
_CPTAC = re.compile(r"^(C3[LN]-\d{5})-\d{2,3}(?![\d])")
_SHOWN = 5


@dataclass(frozen=True)
class CaptionTable:
    """What a file of reports holds.

    Attributes:
        captions: the usable ones; a :class:`~pathflip.types.Case` where a row names its case or several slides.
        problems: a line for each row that cannot be used ("row 7: …").
        notes: lines about what was read and does not fit: parts without slides, slides without parts, and the like.
    """

    captions: list[Caption]
    problems: list[str]
    notes: list[str]


def read_captions(
    path: str | Path, on_error: Literal["raise", "skip"] = "raise", options: TableOptions = PLAIN
) -> list[Caption]:
    """Captions of a file, in file order; what does not fit in them (parts, slides, cases) is a warning.

    Args:
        path: ``.jsonl`` / ``.ndjson`` (one object a line), ``.json`` (a list of objects) or ``.csv`` / ``.tsv``
            (comma, semicolon or tab), see :mod:`pathflip.io.tables`; or a folder of ``.txt`` files named after their
            slides or cases, or lying in a folder a case.
        on_error: what to do about rows that cannot be used: "raise" names them all in one error, "skip" leaves them
            out and warns with the same line.
        options: columns and encoding, where the file does not say.

    Raises:
        CaptionError: the file cannot be read, holds no usable row, or (``on_error="raise"``) a row cannot be used.
    """
    if on_error not in ("raise", "skip"):
        raise CaptionError(f"on_error: got {on_error!r}, expected 'raise' or 'skip'")
    table = read_caption_table(path, options)
    problems = table.problems
    if problems:
        shown = "; ".join(problems[:_SHOWN]) + (f"; and {len(problems) - _SHOWN} more" if problems[_SHOWN:] else "")
        plural = "row" if len(problems) == 1 else "rows"
        line = f"{Path(path).name}: {len(problems)} {plural} cannot be used: {shown}"
        if on_error == "raise":
            raise CaptionError(
                f"{line}; mend the file, or let `pathflip decompose` leave such rows out and list them (in Python: "
                "on_error='skip')"
            )
        warnings.warn(line, stacklevel=2)
    for note in [*table.notes, undecided_note(table.captions)]:
        if note:
            warnings.warn(f"{Path(path).name}: {note}", stacklevel=2)
    if not table.captions:
        raise CaptionError(f"{Path(path).name}: no usable caption; expected one row a slide with a slide and a text")
    return table.captions


def check_captions(
    path: str | Path, options: TableOptions = PLAIN, *, whole_reports: bool = False
) -> tuple[list[Caption], list[str]]:
    """The usable captions of a file, and one line for each row that cannot be used; see :func:`read_caption_table`."""
    table = read_caption_table(path, options, whole_reports=whole_reports)
    return table.captions, table.problems


def read_caption_table(path: str | Path, options: TableOptions = PLAIN, *, whole_reports: bool = False) -> CaptionTable:
    """Everything a file of reports holds, and what is wrong with it.

    Rows are counted as an editor counts them: lines of a JSON-lines file, records after the header of a CSV,
    entries of a JSON list, from 1. ``whole_reports`` keeps the text of the report where a caption would hold only what
    its slides can show.

    Raises:
        CaptionError: the file as a whole cannot be read.
    """
    path = Path(path)
    if path.is_dir() and (files := _report_files(path)):
        rows = _rows_of_files(path, files, options.encoding)
    else:
        rows = read_rows(path, options, expected="a file of captions")
    if path.suffix.lower() in (".csv", ".tsv"):
        _check_columns(path, rows)
    parsed: list[ReportRow] = []
    fields_of: dict[int, Mapping[str, Any]] = {}
    problems: list[tuple[int, str]] = []
    for row in rows:
        try:
            if row.problem:
                raise CaptionError(row.problem)
            parsed.append(_report_row(row.number, row.fields))
            fields_of[row.number] = row.fields
        except CaptionError as error:
            problems.append((row.number, str(error)))
    groups, case_notes = grouped_reports(parsed)
    captions: list[Caption] = []
    fit = _FitOfParts()
    language = language_of_file(row.report for row in parsed)
    for group in groups:
        source = next((row.number for row in group.rows if row.report), group.rows[0].number)
        try:
            if group.problem:
                raise CaptionError(group.problem)
            captions.append(_caption(group, fields_of[source], whole_reports, fit, language))
        except CaptionError as error:
            numbers = [row.number for row in group.rows] if group.problem else [source]
            problems += [(number, str(error)) for number in numbers]
    notes = [] if options.text_column else _several_texts(fields_of.values())
    return CaptionTable(captions, [f"row {n}: {why}" for n, why in sorted(problems)], notes + case_notes + fit.lines())


def _several_texts(rows: Iterable[Mapping[str, Any]]) -> list[str]:
    """A note where rows hold different texts in several columns of which one is taken."""
    several = [
        keys
        for row in rows
        if len(keys := [key for key in TEXT_KEYS if key in row and not is_empty(row[key])]) > 1
        and len({str(row[key]).strip() for key in keys}) > 1
    ]
    if not several:
        return []
    first, *others = several[0]
    return [
        f"{len(several)} rows hold texts in several columns: '{first}' is taken, not '{', '.join(others)}'; name "
        "another with --text-column"
    ]


class _FitOfParts:
    """Counts what does not fit between the parts of reports and their slides: a line a kind."""

    def __init__(self) -> None:
        self._names: dict[str, list[str]] = {}

    def add(self, name: str, parts: Sequence[str], slides: Sequence[CaseSlide]) -> None:
        for note in part_notes(name, parts, slides):
            kind, _, which = note.partition(": ")
            self._names.setdefault(kind, []).append(which)

    def lines(self) -> list[str]:
        return [
            f"{len(names)} reports: {kind} ({', '.join(names[:3])}{', …' if names[3:] else ''})"
            for kind, names in self._names.items()
        ]


def _report_files(folder: Path) -> list[Path]:
    """The ``.txt`` files of a folder, and of the folders in it (a folder a case)."""
    files = [file for file in [*folder.glob("*.txt"), *folder.glob("*/*.txt")] if file.name[0] != "."]
    return sorted(file for file in files if file.is_file() and file.parent.name[:1] != ".")


def _rows_of_files(folder: Path, files: Sequence[Path], encoding: str | None) -> list[TableRow]:
    """A row a file: the case is its name; in a folder of its own, where it is the only one, the folder's."""
    alone = Counter(file.parent for file in files)
    rows = []
    for number, file in enumerate(files, start=1):
        case = file.parent.name if file.parent != folder and alone[file.parent] == 1 else file.stem
        try:
            text = read_utf8(file, "a report", encoding).strip()
            if not text:
                raise CaptionError(f"{file.name}: is empty; expected a report")
            rows.append(TableRow(number, {"case": case, "text": text}))
        except CaptionError as error:
            rows.append(TableRow(number, problem=str(error)))
    return rows


def _check_columns(path: Path, rows: Iterable[TableRow]) -> None:
    """A table without a column for the slide or its text is refused as a whole, not row by row."""
    columns = next((row.fields.keys() for row in rows if not row.problem), None)
    if columns is None:
        return
    texts = (*TEXT_KEYS, *SUBCAPTION_KEYS)
    for role, keys, others in (("slide", SLIDE_KEYS, CASE_KEYS), ("text", texts, _TOLD_BY_SECTIONS)):
        if not columns & {*keys, *others}:
            raise CaptionError(
                f"{path.name}: no column for the {role}: got {_shown_names(columns)}, expected one of "
                f"{', '.join(keys)}; or name it with --{role}-column"
            )


def _shown_names(columns: Iterable[str]) -> list[str]:
    return sorted(name.replace("_", " ") for name in columns)


def write_captions(path: str | Path, captions: Iterable[Caption]) -> None:
    """Write captions as JSON lines, sub-captions included; :func:`read_captions` gives back equal objects."""
    lines = []
    for caption in captions:
        sub_captions = [
            {key: value for key, value in asdict(sub_caption).items() if value is not None}
            | ({"box": list(asdict(sub_caption.box).values())} if sub_caption.box else {})
            for sub_caption in caption.sub_captions
        ]
        row = {**identity_row(caption), "text": caption.text, "subcaptions": sub_captions}
        lines.append(json.dumps(row, ensure_ascii=False))
    write_text(path, "\n".join(lines) + "\n")


def identity_row(caption: Caption) -> dict[str, Any]:
    """Whose report it is, as a row of JSON holds it: slide and patient; or case, slides, report's parts, patient."""
    if not isinstance(caption, Case):
        return {"slide": caption.slide_id, "patient": caption.patient}
    slides = [
        {"slide": f"{one.folder}/{one.slide_id}" if one.folder else one.slide_id}
        | {name: value for name, value in (("part", one.part), ("stain", one.stain)) if value}
        for one in caption.slides
    ]
    row: dict[str, Any] = {"case": caption.case_id, "slides": slides, "patient": caption.patient}
    return row | ({"report_parts": list(caption.parts)} if caption.parts else {})


# --- One row ---------------------------------------------------------------------------------------------------------


def _report_row(number: int, fields: Mapping[str, Any]) -> ReportRow:
    """Who, where and which report, of a row."""
    case = case_of_row(fields)
    # A number beside a case is the row's, not a slide's.
    keys = [key for key in SLIDE_KEYS if key != "id"] if case else SLIDE_KEYS
    slides = case_slides_of_row(fields, keys)
    if not slides and not case:
        raise CaptionError(_NO_SLIDE)
    report = " ".join(_text(fields).split()) or json.dumps(first_of(fields, SUBCAPTION_KEYS), ensure_ascii=False)
    patient = str(first_of(fields, [key for key in PATIENT_KEYS if key not in CASE_KEYS]) or "").strip()
    return ReportRow(number, case, patient, slides, "" if report == "null" else report)


def _caption(
    group: ReportGroup, fields: Mapping[str, Any], whole_report: bool, fit: _FitOfParts, language: str
) -> Caption:
    what = f"case '{group.name}'" if group.case and len(group.slides) != 1 else f"slide '{group.name}'"
    text = _text(fields)
    sub_captions = _sub_captions(fields)
    parts = tuple(map(str, listed)) if isinstance(listed := fields.get("report_parts"), list) else ()
    if not text and sub_captions:
        text = " ".join(sub_caption.text for sub_caption in sub_captions)
    if not text:
        raise CaptionError(f"{what} has an empty caption")
    if not sub_captions:
        report = read_report(text, language)
        sub_captions, parts = findings_on(report.all_sub_captions, report.parts, group.slides), report.parts
        text = report.text if whole_report else report.text_of(sub_captions)
        fit.add(group.name, parts, group.slides)
    if not sub_captions:
        raise CaptionError(f"{what}: the caption holds no sentence (got {text[:40]!r})")
    patient = group.patient or str(first_of(fields, PATIENT_KEYS) or "").strip() or _patient_of_group(group)
    if not group.case and len(group.slides) == 1:
        return Caption(slide_id=group.name, patient=patient, text=text, sub_captions=sub_captions)
    case = group.case or group.name
    return Case(group.name, patient, text, sub_captions, case_id=case, slides=group.slides, parts=parts)


def _patient_of_group(group: ReportGroup) -> str:
    """The patient that a slide's name tells; else its case: slides of one case are of one patient."""
    told = patient_of(group.name)
    return group.case if group.case and told == group.name else told


_NO_SLIDE = f"no slide named; expected one of the fields {', '.join(SLIDE_KEYS[:2])}, wsi, image, file"


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
    slides = case_slides_of_row({key: value for key, value in fields.items() if key in keys}, tuple(keys))
    if not slides:
        raise CaptionError(_NO_SLIDE)
    return tuple(slide.slide_id for slide in slides)


def patient_of(slide: str) -> str:
    """The patient of a slide nobody named one for: the TCGA barcode's first three parts, a CPTAC slide's first two
    ("C3N-00580-27" is of C3N-00580), or the slide itself."""
    barcode = _TCGA.match(slide) or _CPTAC.match(slide)
    return barcode.group(1) if barcode else slide


def patient_of_row(fields: Mapping[str, Any], slide: str) -> str:
    """The patient of a slide that a row is about: named, else its case, else what the slide's name tells.

    Slides of one case are of one patient; a table that names cases alone must not let them be told apart.
    """
    return str(first_of(fields, PATIENT_KEYS) or case_of_row(fields) or patient_of(slide)).strip()


def _text(fields: Mapping[str, Any]) -> str:
    value = first_of(fields, TEXT_KEYS)
    if value is None and isinstance(fields.get("conversations"), list):  # LLaVA style: the last answer is the caption
        turns = [turn for turn in fields["conversations"] if isinstance(turn, dict) and turn.get("from") == "gpt"]
        value = turns[-1].get("value") if turns else None
    if value is None and not any(key in fields for key in TEXT_KEYS):
        return _from_sections(fields)
    return text_of(value, "caption")


def _from_sections(fields: Mapping[str, Any]) -> str:
    """A report from a column a section, each under its heading; "" where there is none."""
    sections = [(heading, text_of(first_of(fields, names), heading.lower())) for heading, names in SECTION_KEYS]
    return "\n\n".join(f"{heading}:\n{text}" for heading, text in sections if text)


def _sub_captions(fields: Mapping[str, Any]) -> tuple[SubCaption, ...]:
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
    return tuple(_sub_caption(item, place) for place, item in enumerate(value, start=1))


def _sub_caption(item: Any, place: int) -> SubCaption:
    """A ready-made sub-caption: a text, or an object whose fields override what the rules say."""
    fields = {"text": item} if isinstance(item, str) else item
    text = text_of(first_of(fields, SUB_CAPTION_KEYS), f"sub-caption {place}") if isinstance(fields, dict) else ""
    if not text:
        raise CaptionError(f"sub-caption {place} has no text")
    stated: dict[str, Any] = {}
    for name, kind in _GIVEN_FIELDS:
        value = fields.get(name)
        if value is None:
            continue
        if not isinstance(value, kind):
            raise CaptionError(f"sub-caption {place}: '{name}' is {value!r}, expected {kind.__name__}")
        stated[name] = value
    if fields.get("polarity") is not None:
        if fields["polarity"] not in _POLARITIES:
            raise CaptionError(
                f"sub-caption {place}: 'polarity' is {fields['polarity']!r}, expected one of {', '.join(_POLARITIES)}"
            )
        stated.setdefault("negated", fields["polarity"] in ("absent", "denied"))
        stated.setdefault("undecided", fields["polarity"] in ("uncertain", "undecided"))
    if fields.get("box") is not None:
        stated["box"] = _box(fields["box"], place)
    if isinstance(fields.get("place"), list) and len(fields["place"]) == 2:
        stated["place"] = (int(fields["place"][0]), int(fields["place"][1]))
    decided = {"undecided": False, "reason": None} if "negated" in stated else {}
    return replace(parse_sub_caption(text), **(decided | stated))


def _box(value: Any, place: int) -> Box:
    if isinstance(value, list) and len(value) == 4 and all(isinstance(number, int) for number in value):
        return Box(*value)
    raise CaptionError(f"sub-caption {place}: 'box' is {value!r}, expected [x, y, width, height] in level-0 pixels")
