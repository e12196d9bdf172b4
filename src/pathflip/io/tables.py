"""Tables from disk: CSV, TSV, JSON and JSON lines, as spreadsheets, databases and other programs write them.

The one reader for captions, questions, predictions, splits and labels. Encoding and separator are found out, column
names are compared without case, spaces and dashes, and what only says that nothing is known ("nan", "N/A",
"[Not Available]", "--") is empty. A row that cannot be read bears its problem; the other rows go on.
"""

import csv
import json
import math
import re
import stat
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from io import StringIO
from pathlib import Path
from typing import Any

from pathflip.errors import CaptionError
from pathflip.io.text_encoding import decoded

__all__ = [
    "PLAIN",
    "TableOptions",
    "TableRow",
    "column_name",
    "first_of",
    "is_empty",
    "plain_cell",
    "read_rows",
    "read_table",
    "read_utf8",
    "text_of",
]

_KINDS = {".csv": "csv", ".tsv": "csv", ".tab": "csv", ".jsonl": "lines", ".ndjson": "lines", ".json": "json"}
_EXPECTED = "expected .jsonl, .ndjson, .json, .csv or .tsv"
_HALF_A_CHARACTER = re.compile("[\ud800-\udfff]")
_DELIMITERS = ",;\t|"
_SEP_LINE = re.compile(r'^"?sep=(\\t|.)"?[,;\t]*\r?(?:\n|$)', re.IGNORECASE)
_LONGEST_CELL = 2**31 - 1
"""Python's own limit of 131,072 characters is shorter than a long report."""
_SNIFFED_ROWS = 20
_USUAL_COLUMNS = frozenset(
    """slide slide_id wsi wsi_id image image_id image_path filename file id patient patient_id case case_id text caption
    report description question prompt options answer split label""".split()  # noqa: SIM905
)
"""Names a header is recognised by when its separator is looked for."""


@dataclass(frozen=True)
class TableOptions:
    """What a person says of a table that it does not say itself.

    Attributes:
        slide_column, text_column, part_column, case_column: names of the columns with the slide, its text, its part,
            and its case; None finds them by their usual names.
        encoding: of the file, as Python names it ("cp1252", "shift_jis"); None finds it out.
        where_present: a table without a column named here is read by the usual names.
    """

    slide_column: str | None = None
    text_column: str | None = None
    part_column: str | None = None
    encoding: str | None = None
    case_column: str | None = None
    where_present: bool = False

    @property
    def columns(self) -> dict[str, str]:
        """Usual name -> the name it has in this table."""
        named = {"slide": self.slide_column, "text": self.text_column, "part": self.part_column}
        named["case"] = self.case_column
        return {usual: name for usual, name in named.items() if name}

    @property
    def of_answers(self) -> "TableOptions":
        """For the answers to what this table holds: its slide column, where they have it too, and its encoding."""
        return TableOptions(slide_column=self.slide_column, encoding=self.encoding, where_present=True)


PLAIN = TableOptions()


@dataclass(frozen=True)
class TableRow:
    """One row of a table.

    Attributes:
        number: as an editor counts: the line of a JSON-lines file, the record after the header of a CSV, the entry of
            a JSON list; from 1.
        fields: by column name (see :func:`column_name`). Of a CSV every column is there, None where its cell is
            empty; of JSON what is null is left out.
        problem: why the row cannot be read; "" where it can.
    """

    number: int
    fields: Mapping[str, Any] = field(default_factory=dict)
    problem: str = ""


def read_rows(path: str | Path, options: TableOptions = PLAIN, *, expected: str = "a table") -> list[TableRow]:
    """All rows of a table, in file order; those that cannot be read bear their problem.

    Args:
        path: ``.csv`` or ``.tsv`` (comma, semicolon, tab or bar), ``.jsonl`` / ``.ndjson``, or ``.json`` (a list of
            objects).
        options: columns and encoding, where the file does not say.
        expected: what should be there, for messages.

    Raises:
        CaptionError: the file as a whole cannot be read: absent, a folder, another kind, not text, a quote that is
            never closed, two columns of one name, or no such column as ``options`` names.
    """
    path = Path(path)
    kind = _KINDS.get(path.suffix.lower())
    if kind is None and not path.is_dir():
        advice = "; save it as CSV (UTF-8)" if path.suffix.lower() in (".xls", ".xlsx", ".ods") else ""
        raise CaptionError(f"{path.name}: got a '{path.suffix.lower()}' file, {_EXPECTED}{advice}")
    text = read_utf8(path, expected, options.encoding)
    if kind == "csv":
        return list(_csv_rows(path, text, options))
    entries = _json_lines(text) if kind == "lines" else _json_list(path, text)
    return [_json_row(number, entry, options) for number, entry in entries]


def read_table(path: str | Path, options: TableOptions = PLAIN, *, expected: str = "a table") -> list[dict[str, Any]]:
    """The fields of all rows, where every row must be readable.

    Raises:
        CaptionError: see :func:`read_rows`; or a row cannot be read (named), or there is none.
    """
    path = Path(path)
    rows = read_rows(path, options, expected=expected)
    for row in rows:
        if row.problem:
            raise CaptionError(f"{path.name}: row {row.number}: {row.problem}")
    if not rows:
        raise CaptionError(f"{path.name}: holds no row")
    return [dict(row.fields) for row in rows]


def read_utf8(path: str | Path, expected: str = "a file of captions", encoding: str | None = None) -> str:
    """The text of a file: UTF-8 or UTF-16; a Windows-1252 file is read as such and said to be.

    Raises:
        CaptionError: it cannot be read, or is no text in a known encoding; ``expected`` says what should be there.
    """
    path = Path(path)
    try:
        mode = path.stat().st_mode
        if stat.S_ISDIR(mode):
            raise CaptionError(f"{path}: is a folder, expected {expected}: {_inside(path)}")
        if not stat.S_ISREG(mode):
            raise CaptionError(f"{path}: is no regular file (a pipe or device), expected {expected}")
        data = path.read_bytes()
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise CaptionError(f"{path}: cannot be read ({reason}); expected {expected}") from None
    return decoded(path, data, encoding)


def _inside(folder: Path) -> str:
    try:
        tables = sorted(p.name for p in folder.iterdir() if p.suffix.lower() in _KINDS)
    except OSError:
        tables = []
    return f"give one of the tables in it ({', '.join(tables[:3])})" if tables else "it holds no table"


# --- Cells -----------------------------------------------------------------------------------------------------------

_NOTHING = frozenset(
    [
        *("nan", "n/a", "na", "n.a.", "nd", "n/d", "none", "null", "nil", "no data", "no value", "unknown", "missing"),
        *("not available", "not applicable", "not reported", "not evaluated", "not specified", "not recorded"),
        *("unavailable", "discrepancy", "#n/a", "#n/d", "#null!", "#ref!", "#value!", "#name?", "#div/0!", "<na>"),
        *("#num!", "#spill!", "#calc!", "#nv", "#wert!", "#bezug!", "#zahl!", "#valor!", "#valeur!"),
    ]
)
"""What databases and spreadsheets write where nothing is known; compared without case and brackets."""


def is_empty(value: Any) -> bool:
    """Whether a cell says nothing: absent, blank, NaN, "N/A", "[Not Available]", "--" and the like."""
    if value is None or value == [] or (isinstance(value, float) and math.isnan(value)):
        return True
    if not isinstance(value, str):
        return False
    text = value.strip().casefold()
    return not any(c.isalnum() for c in text) or text in _NOTHING or text.strip("[](){}<>\"' ") in _NOTHING


def first_of(fields: Mapping[str, Any], keys: Iterable[str]) -> Any:
    """The cell of the first of these columns that the row has; None where it says nothing.

    An empty cell is not made up for from another column: a row without a slide is not of the slide its ``id`` names.
    """
    value = next((fields[key] for key in keys if key in fields), None)
    return None if is_empty(value) else value


def text_of(value: Any, what: str) -> str:
    """A cell that must be text, stripped; "" where it says nothing.

    Raises:
        CaptionError: it is no text, or holds half a character.
    """
    if is_empty(value):
        return ""
    if not isinstance(value, str):
        raise CaptionError(f"the {what} is a {type(value).__name__}, expected text")
    if _HALF_A_CHARACTER.search(value):
        raise CaptionError(f"the {what} holds half a character (a lone surrogate); expected Unicode text")
    return value.strip()


def column_name(name: Any) -> str:
    """A column's name as it is compared: lower case, words joined by one underscore ("Slide ID" is ``slide_id``)."""
    return re.sub(r"[\s\-_]+", "_", str(name).strip().lower()).strip("_")


def plain_cell(value: Any) -> Any:
    """A cell for a CSV file that a spreadsheet shows as text of one line: a formula gets an apostrophe in front."""
    if not isinstance(value, str):
        return value
    text = " ".join(value.splitlines())
    return f"'{text}" if text.lstrip()[:1] in ("=", "+", "-", "@") and text else text


# --- CSV -------------------------------------------------------------------------------------------------------------


def _csv_rows(path: Path, text: str, options: TableOptions) -> Iterator[TableRow]:
    sep_line = _SEP_LINE.match(text)
    text = text[sep_line.end() :] if sep_line else text
    if "\n" in text:  # then a lone carriage return ends no line; the csv module writes it unquoted into texts
        text = re.sub(r"\r(?!\n)", " ", text)
    delimiter = sep_line[1].replace("\\t", "\t") if sep_line else _delimiter(text, options)
    lines_before = 1 if sep_line else 0
    header: list[str] | None = None
    number = 0
    for record in _records(path, text, delimiter, lines_before):
        if header is None:
            if isinstance(record, TableRow):
                raise CaptionError(f"{path.name}: its header: {record.problem}")
            header = _header(path, record, options)
            continue
        number += 1
        if isinstance(record, TableRow):
            yield TableRow(number, problem=record.problem)
        elif any(cell.strip() for cell in record[len(header) :]):
            yield TableRow(number, problem="more fields than the header has; quote texts that hold the separator")
        elif any(cell.strip() for cell in record):
            cells = [cell if cell.strip() else None for cell in record] + [None] * (len(header) - len(record))
            yield TableRow(number, {name: cell for name, cell in zip(header, cells, strict=False) if name})


def _records(path: Path, text: str, delimiter: str, lines_before: int) -> Iterator[list[str] | TableRow]:
    """Records, or a row with the problem of one. Lines are counted as an editor counts them."""
    old_limit = csv.field_size_limit(_LONGEST_CELL)
    try:
        reader = csv.reader(StringIO(text, newline=""), delimiter=delimiter, strict=True, skipinitialspace=True)
        while True:
            first = reader.line_num + 1 + lines_before
            try:
                record = next(reader)
            except StopIteration:
                return
            except csv.Error as error:
                last = reader.line_num + lines_before
                if last > first or "end of data" in str(error):
                    raise CaptionError(
                        f"{path.name}: line {first}: a quote is opened there and not closed before line {last}; close "
                        'it, and double the quotes inside quoted texts ("")'
                    ) from None
                yield TableRow(0, problem=f'a quote stands inside a text (line {first}); expected it doubled ("")')
                continue
            if any("\n" in cell and cell.endswith(delimiter) for cell in record):
                last = reader.line_num + lines_before
                yield TableRow(
                    0, problem=f"a quote seems not to be closed in line {first} (its text ends in line {last})"
                )
            elif record:
                yield record
    finally:
        csv.field_size_limit(old_limit)


def _delimiter(text: str, options: TableOptions) -> str:
    """The separator that gives the header names that are known, and rows as long as the header."""
    wanted = _USUAL_COLUMNS | {column_name(name) for name in options.columns.values()}

    def score(delimiter: str) -> tuple[int, float, int]:
        rows = []
        try:
            for row in csv.reader(StringIO(text[: 1 << 16], newline=""), delimiter=delimiter, skipinitialspace=True):
                rows += [row] if row else []
                if len(rows) > _SNIFFED_ROWS:
                    break
        except csv.Error:  # a cell beyond Python's limit: what was read tells enough
            pass
        if not rows or len(rows[0]) < 2:
            return 0, 0.0, 0
        known = sum(column_name(name) in wanted for name in rows[0])
        fits = sum(len(row) == len(rows[0]) for row in rows) / len(rows)
        return known, fits, len(rows[0])

    return max(_DELIMITERS, key=score)


def _header(path: Path, record: Sequence[str], options: TableOptions) -> list[str]:
    """Names of the columns; "" for one without a name, or one that ``options`` replaces."""
    names = [column_name(name) for name in record]
    twice = sorted({name for name in names if name and names.count(name) > 1})
    if twice:
        raise CaptionError(f"{path.name}: two columns are named '{twice[0]}'; expected each once: rename one")
    for usual, named in options.columns.items():
        if column_name(named) not in names:
            if options.where_present:
                continue
            raise CaptionError(f"{path.name}: no column '{named}'; got {sorted(name for name in names if name)}")
        place = names.index(column_name(named))
        names = ["" if name == usual else name for name in names]
        names[place] = usual
    return names


# --- JSON ------------------------------------------------------------------------------------------------------------


def _json_lines(text: str) -> Iterator[tuple[int, Any]]:
    """Numbered entries; a line that is not JSON is its error."""
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            try:
                yield number, _loads(line)
            except CaptionError as error:
                yield number, error


def _json_list(path: Path, text: str) -> Iterable[tuple[int, Any]]:
    try:
        entries = _loads(text)
    except CaptionError as error:
        lines = list(_json_lines(text))  # JSON lines under another name
        if len(lines) > 1 and all(isinstance(entry, dict) for _, entry in lines):
            return lines
        raise CaptionError(f"{path.name}: {error}; expected a list of objects") from None
    if not isinstance(entries, list):
        raise CaptionError(f"{path.name}: got a JSON {type(entries).__name__}, expected a list of objects")
    return enumerate(entries, start=1)


def _loads(text: str) -> Any:
    try:
        return json.loads(text, object_pairs_hook=_named_once)
    except RecursionError:
        raise CaptionError("not JSON that can be read (nested too deeply)") from None
    except ValueError as error:  # JSONDecodeError, and numbers of more than 4,300 digits
        raise CaptionError(f"not JSON ({error})") from None


def _named_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object's values by name; Python itself would keep the last of two silently."""
    entry = dict(pairs)
    if len(entry) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise CaptionError(f"not JSON that can be used: '{twice[:60]}' stands twice in one object; expected each once")
    return entry


def _json_row(number: int, entry: Any, options: TableOptions) -> TableRow:
    if isinstance(entry, CaptionError):
        return TableRow(number, problem=str(entry))
    if not isinstance(entry, dict):
        return TableRow(number, problem=f"a JSON {type(entry).__name__}, not an object with named values")
    entry = {key: value for key, value in entry.items() if value is not None}
    fields = {column_name(key): value for key, value in entry.items()}
    if len(fields) < len(entry):
        return TableRow(number, problem="two of its names differ only in case, spaces or dashes; expected each once")
    for usual, named in options.columns.items():
        fields.pop(usual, None) if column_name(named) != usual else None
        if column_name(named) in fields:
            fields[usual] = fields.pop(column_name(named))
    return TableRow(number, fields)
