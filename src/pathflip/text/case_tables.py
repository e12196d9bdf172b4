"""Cases: which slides one report speaks of, and which of its findings they can show.

Hospitals write one report a case and scan several slides of it. A table says so by a ``case`` column, with the slides
in one cell or in rows, and a part and stain for each; an archive has a folder a case, in which file names repeat.
:func:`grouped_reports` makes reports of rows, :func:`findings_on` tells what slides of some parts can show,
:func:`case_with_slides` narrows a case to the slides at hand.
"""

import ast
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pathflip.errors import CaptionError
from pathflip.io.slide_id import folder_of, slide_id, slide_names_in
from pathflip.io.tables import PLAIN, TableOptions, first_of, is_empty, read_rows
from pathflip.text.report_parts import is_of_part
from pathflip.types import Caption, Case, CaseSlide, SubCaption

__all__ = [
    "CASE_KEYS",
    "PART_KEYS",
    "SLIDE_KEYS",
    "STAIN_KEYS",
    "ReportGroup",
    "ReportRow",
    "case_of_row",
    "case_slides_of_row",
    "case_with_slides",
    "findings_on",
    "grouped_reports",
    "part_notes",
    "parts_of_slide",
    "read_cases",
    "slides_of",
]

# The first that a table has decides. "image" may hold a list with one path, as in SlideInstruct and SlideBench.
SLIDE_KEYS = (
    "slide", "slide_id", "slide_path", "slide_name", "wsi", "wsi_id", "wsi_path", "image", "images", "image_path",
    "image_id", "filename", "file_name", "file", "slides", "slide_ids", "wsis", "files", "slide_file", "slide_filename",
    "slide_file_name", "wsi_name", "wsi_file", "wsi_filename", "wsi_file_name", "slide_barcode", "barcode", "id",
)  # fmt: skip
CASE_KEYS = ("case", "case_id", "case_mapping", "case_name", "case_no", "case_number",
             "accession", "accession_id", "accession_no", "accession_number")  # fmt: skip
PART_KEYS = ("part", "parts", "specimen_part", "part_id", "part_of_report")
STAIN_KEYS = ("stain", "stains", "staining", "stain_name")
_SLIDE_NAME_KEYS = ("slide", "slide_id", "slide_path", "path", "name", "image", "file", "filename", "file_name")
_PART_WORD = re.compile(r"^(?:parts?|specimens?|teil|probe|prélèvement|muestra|検体)[\s.:#]*", re.IGNORECASE)


def slides_of(caption: Caption) -> tuple[CaseSlide, ...]:
    """The slides a report speaks of: one, or those of its case (none where only their folder tells them)."""
    return caption.slides if isinstance(caption, Case) else (CaseSlide(caption.slide_id),)


# --- One row ---------------------------------------------------------------------------------------------------------


def case_of_row(fields: Mapping[str, Any]) -> str:
    """The case a row names; "" where it names none.

    Raises:
        CaptionError: it is neither text nor a whole number.
    """
    value = first_of(fields, CASE_KEYS)
    if value is None:
        return ""
    if isinstance(value, bool | list | dict) or (isinstance(value, float) and not value.is_integer()):
        raise CaptionError(f"the case is {value!r}, expected its name")
    return slide_id(int(value) if isinstance(value, float) else value)


def case_slides_of_row(fields: Mapping[str, Any], keys: Sequence[str]) -> tuple[CaseSlide, ...]:
    """The slides a row names, each with its part and stain; none where the slide's column says nothing.

    Raises:
        CaptionError: something in the slide's column is no name; parts or stains are neither one for all slides nor
            one for each.
    """
    value = first_of(fields, keys)
    if value is None:
        return ()
    cells = slide_names_in(value)
    parts = _one_for_each(first_of(fields, PART_KEYS), len(cells), "parts")
    stains = _one_for_each(first_of(fields, STAIN_KEYS), len(cells), "stains")
    return tuple(_case_slide(*entry) for entry in zip(cells, parts, stains, strict=True))


def _case_slide(cell: Any, part: str | None, stain: str | None) -> CaseSlide:
    """A slide from its name or path, or from an object with ``slide``, ``part`` and ``stain``."""
    if isinstance(cell, dict):
        part, stain = _text_or_none(first_of(cell, PART_KEYS)) or part, _text_or_none(cell.get("stain")) or stain
        cell = first_of(cell, _SLIDE_NAME_KEYS) if set(_SLIDE_NAME_KEYS) & cell.keys() else cell
    if is_empty(cell):
        raise CaptionError("no slide named in a list of slides; expected the name or path of each")
    return CaseSlide(slide_id(cell), part, stain, folder_of(cell))


def _one_for_each(value: Any, count: int, what: str) -> list[str | None]:
    """A cell's parts, a slide each: "A" is of all slides, "A; B" is of two."""
    if value is None or (isinstance(value, list) and not value):
        return [None] * count
    if isinstance(value, str) and value.strip()[:1] == "[" and isinstance(listed := _list_written(value), list):
        value = listed
    text = _text_or_none(value)
    values = value if isinstance(value, list) else [one.strip() for one in re.split(r"[;,|\n]", text or "")]
    if count == 1:
        return [text if not isinstance(value, list) else ", ".join(map(str, values))]
    if len(values) == 1:
        return [text if not isinstance(value, list) else _text_or_none(values[0])] * count
    if len(values) != count:
        raise CaptionError(
            f"{len(values)} {what} for {count} slides ({value!r}); expected one for all, or one for each"
        )
    return [_text_or_none(one) for one in values]


def _list_written(text: str) -> Any:
    """A list written as JSON or Python in a cell; the text where it is none."""
    try:
        return ast.literal_eval(text.strip())
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return text


def _text_or_none(value: Any) -> str | None:
    return None if is_empty(value) else str(value).strip()


# --- Rows to reports -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class ReportRow:
    """What a row of a table says of who and where; ``report`` is what makes two rows' reports the same one."""

    number: int
    case: str
    patient: str
    slides: tuple[CaseSlide, ...]
    report: str


@dataclass
class ReportGroup:
    """Rows of one report. ``name`` is the case's, or that of its only slide; ``case`` is "" where none is named."""

    name: str
    rows: list[ReportRow]
    case: str = ""
    slides: tuple[CaseSlide, ...] = ()
    problem: str = ""

    @property
    def patient(self) -> str:
        """The patient that one of its rows names; "" where none does."""
        return next((row.patient for row in self.rows if row.patient), "")


def grouped_reports(rows: Sequence[ReportRow]) -> tuple[list[ReportGroup], list[str]]:
    """Rows as reports, in the order of their first rows, and what a reader of the table must know.

    Rows that name one case and hold the same report (or none) are that report's slides. Slides of one file name in
    several folders or cases are called ``FOLDER__NAME``, as ``pathflip extract`` calls them. A group that cannot be
    used bears its problem.
    """
    groups: list[ReportGroup] = []
    of_case: dict[str, list[ReportRow]] = {}
    for row in rows:
        if row.case:
            of_case.setdefault(row.case, []).append(row)
        else:
            groups.append(ReportGroup(_name_of_slides(row.slides), [row]))
    notes: list[str] = []
    for case, members in of_case.items():
        groups += _groups_of_case(case, members, notes)
    groups.sort(key=lambda group: group.rows[0].number)
    _name_slides(groups)
    _refuse_repeated_slides(groups)
    return groups, notes


def _groups_of_case(case: str, rows: list[ReportRow], notes: list[str]) -> list[ReportGroup]:
    """The reports of one case: one, or one for each different text."""
    patients = list(dict.fromkeys(row.patient for row in rows if row.patient))
    texts = list(dict.fromkeys(row.report for row in rows if row.report))
    if len(patients) > 1:
        named = ", ".join(f"'{patient}'" for patient in patients[:4])
        owners: dict[str, set[str]] = {}
        for row in rows:
            owners.setdefault(row.report, set()).add(row.patient)
        if any(not row.patient for row in rows) or any(len(one) > 1 for one in owners.values()):
            problem = (
                f"case '{case}' stands with {len(patients)} patients ({named}); expected one: give each its own case"
            )
            return [ReportGroup(case, rows, case, problem=problem)]
        notes.append(f"case '{case}' stands with {len(patients)} patients ({named}): taken as a case of each")
        by_patient = [[row for row in rows if row.patient == patient] for patient in patients]
        return [group for own in by_patient for group in _groups_of_case(f"{own[0].patient}__{case}", own, notes)]
    if len(texts) < 2:
        return [ReportGroup(case, rows, case)]
    groups = []
    for number, text in enumerate(texts, start=1):
        own = [row for row in rows if row.report == text]
        parts = {slide.part for row in own for slide in row.slides}
        part = next(iter(parts)) if len(parts) == 1 else None
        groups.append(ReportGroup(f"{case}__{part or number}", own, case))
    silent = [row for row in rows if not row.report]
    if silent:
        problem = f"case '{case}' has {len(texts)} different reports, and here none; expected the text in every row"
        groups.append(ReportGroup(case, silent, case, problem=problem))
    return groups


def _name_of_slides(slides: Sequence[CaseSlide]) -> str:
    """A name for slides that no case is named for."""
    folders = {slide.folder for slide in slides}
    if len(slides) > 1 and len(folders) == 1 and (folder := next(iter(folders))):
        return folder
    return slides[0].slide_id + (f"+{len(slides) - 1}" if len(slides) > 1 else "") if slides else ""


def _name_slides(groups: Sequence[ReportGroup]) -> None:
    """Fill in the groups' slides; a name that stands in several folders or cases gets its folder in front."""
    places: dict[str, set[str]] = {}
    for group in groups:
        for slide in (slide for row in group.rows for slide in row.slides):
            places.setdefault(slide.slide_id, set()).add(slide.folder or group.case)
    for group in groups:
        listed = [slide for row in group.rows for slide in row.slides]
        whose = [replace(one, folder=one.folder or group.case) for one in listed]
        named = [
            replace(one, slide_id=f"{one.folder}__{one.slide_id}") if _in_several(places[one.slide_id], one) else one
            for one in whose
        ]
        group.slides = tuple({slide.slide_id: slide for slide in reversed(named)}.values())[::-1]
        if len(group.slides) == 1 and group.rows:
            group.name = group.slides[0].slide_id
        elif not group.case and len({slide.slide_id for slide in listed}) < len(listed):
            group.name = _name_of_slides(group.slides)


def _in_several(places: set[str], slide: CaseSlide) -> bool:
    return len(places - {""}) > 1 and bool(slide.folder)


def _refuse_repeated_slides(groups: Sequence[ReportGroup]) -> None:
    """A slide has one report: a later one bears a problem; and so does a second item of one name."""
    seen: dict[str, int] = {}
    names: dict[str, int] = {}
    for group in groups:
        number = group.rows[0].number
        repeated = next((slide.slide_id for slide in group.slides if slide.slide_id in seen), None)
        if not group.problem and repeated is not None:
            group.problem = f"slide '{repeated}' stands already in row {seen[repeated]}"
        elif not group.problem and not group.slides and group.name in names:
            group.problem = f"case '{group.name}' stands already in row {names[group.name]}"
        if not group.problem:
            seen |= {slide.slide_id: number for slide in group.slides}
            names[group.name] = number


# --- Parts -----------------------------------------------------------------------------------------------------------


def findings_on(
    sub_captions: Iterable[SubCaption], parts: Sequence[str], slides: Sequence[CaseSlide]
) -> tuple[SubCaption, ...]:
    """The sub-captions of a whole report as they stand to some slides of it.

    A finding of a part that none of the slides is of is not visible on them. Where a slide's part is not known, or is
    none of the report's, a finding of a part that no other slide is of is undecided: nobody can tell. Slides without
    any part show the whole report only if they are as many as its parts, or more.

    Args:
        sub_captions: of the report, whatever part they belong to.
        parts: the report's.
        slides: at hand; none where they are not known yet, and then nothing changes.
    """
    sub_captions = tuple(sub_captions)
    if len(parts) < 2 or not slides:
        return sub_captions
    named = [parts_of_slide(slide, parts) for slide in slides]
    nowhere = all(slide.part is None for slide in slides)
    if nowhere and len(slides) > 1 and len(slides) >= len(parts):
        return sub_captions
    known = {label for labels in named for label in labels}
    reason = _why_unknown(slides, named, parts)
    return tuple(_on_parts(one, known, reason) for one in sub_captions)


def parts_of_slide(slide: CaseSlide, parts: Sequence[str]) -> set[str]:
    """Which of the report's parts a slide is of: "A", "Part A", "A, B", and the block "A1" of part A."""
    labels = re.split(r"[\s,;/&+|]+", _PART_WORD.sub("", slide.part or "").strip().upper())
    known = {label for label in labels if label in parts}
    blocks = (re.match(r"[A-Z](?=[\s.-]?\d{1,3}$)", label) for label in labels)
    of_blocks = {part for part in parts for label in labels if label and is_of_part(part, label)}
    return known | of_blocks | {block.group() for block in blocks if block and block.group() in parts}


def _why_unknown(slides: Sequence[CaseSlide], named: Sequence[set[str]], parts: Sequence[str]) -> str:
    """Why a finding of another part cannot be placed; "" where every slide's part is known."""
    unknown = [slide for slide, labels in zip(slides, named, strict=True) if not labels]
    if not unknown:
        return ""
    foreign = next((slide.part for slide in unknown if slide.part), None)
    if foreign is not None:
        return f"the slide's part '{foreign}' is none of the report's ({', '.join(parts)})"
    if len(slides) == 1:
        return "the slide's part is not known"
    return "the part of a slide of the case is not known"


def _on_parts(one: SubCaption, known: set[str], reason: str) -> SubCaption:
    if one.part is None or not one.visual or set(one.part.split(", ")) & known:
        return one
    if reason:
        return replace(one, undecided=True, negated=False, reason=reason)
    return replace(one, visual=False, reason=f"part {one.part}")


def case_with_slides(case: Case, slides: Sequence[CaseSlide]) -> Case:
    """The case with the slides at hand: findings of parts without a slide are not visible any more, nor in its text."""
    narrowed = findings_on(case.sub_captions, case.parts, slides)
    text = case.text
    if narrowed != case.sub_captions:
        text = " ".join(dict.fromkeys(one.text for one in narrowed if one.decided)) or text
    return replace(case, slides=tuple(slides), sub_captions=narrowed, text=text)


def part_notes(name: str, parts: Sequence[str], slides: Sequence[CaseSlide]) -> list[str]:
    """What does not fit between a report's parts and its slides, in words; the kind stands before the colon."""
    if len(parts) < 2 or not slides:
        return []
    notes = []
    named = [parts_of_slide(slide, parts) for slide in slides]
    if foreign := sorted({str(s.part) for s, labels in zip(slides, named, strict=True) if s.part and not labels}):
        notes.append(f"a slide's part is none of the report's: {name} (part {', '.join(foreign)})")
    without = [slide for slide in slides if slide.part is None]
    if without and (len(without) < len(slides) or len(slides) < len(parts)):
        notes.append(f"a slide has no part, and the report has several: {name}")
    empty = [part for part in parts if part not in {label for labels in named for label in labels}]
    if empty and not without and not foreign:
        notes.append(f"a part of the report has no slide: {name} (part {', '.join(empty)})")
    return notes


# --- Cases without their reports -------------------------------------------------------------------------------------


def read_cases(path: str | Path, options: TableOptions = PLAIN) -> list[Case]:
    """Which slides are of which case, by a table; what its reports say is not read, and they may be absent.

    Raises:
        CaptionError: the file cannot be read, or no row names a case, or a row names no slide.
    """
    path = Path(path)
    rows: list[ReportRow] = []
    for row in read_rows(path, options, expected="a table with the columns case and slide"):
        try:
            if row.problem:
                raise CaptionError(row.problem)
            case = case_of_row(row.fields)
            slides = case_slides_of_row(row.fields, [key for key in SLIDE_KEYS if key != "id"])
            if not case and not slides:
                raise CaptionError("neither case nor slide named; expected the columns case and slide")
            patient = str(first_of(row.fields, ("patient", "patient_id", "subject")) or "").strip()
            rows.append(ReportRow(row.number, case, patient, slides, ""))
        except CaptionError as error:
            raise CaptionError(f"{path.name}: row {row.number}: {error}") from None
    groups, _ = grouped_reports(rows)
    if problem := next((group.problem for group in groups if group.problem), ""):
        raise CaptionError(f"{path.name}: {problem}")
    return [
        Case(
            group.name, group.patient or group.name, "", (), group.case or group.name, group.slides,
            parts_of_slides(group.slides),
        )
        for group in groups
    ]  # fmt: skip


def parts_of_slides(slides: Sequence[CaseSlide]) -> tuple[str, ...]:
    """The parts that a case's slides are of, blocks ("A1") by their part; () where one names none, or several."""
    labels = [_PART_WORD.sub("", slide.part or "").strip().upper() for slide in slides]
    parts = [re.sub(r"^([A-Z])[\s.-]?\d{1,3}$", r"\1", label) for label in labels]
    return tuple(sorted(set(parts))) if all(re.fullmatch(r"\w{1,4}", part) for part in parts) else ()
