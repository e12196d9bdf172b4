"""Rows of a CSV, TSV, JSON or JSON-lines file, whatever their columns: for questions, predictions and groups."""

import csv
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from pathflip.errors import CaptionError

__all__ = ["first_of", "read_table", "read_utf8"]


def read_utf8(path: Path, expected: str = "a file of captions") -> str:
    """The text of a file.

    Raises:
        CaptionError: it cannot be read, or is not UTF-8; ``expected`` says what should be there.
    """
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise CaptionError(
            f"{path.name}: not UTF-8 (byte {error.start}); save it as UTF-8, in a spreadsheet 'CSV UTF-8'"
        ) from None
    except OSError as error:
        raise CaptionError(f"{path}: cannot be read ({error.strerror or error}); expected {expected}") from None


def read_table(path: Path) -> list[dict[str, Any]]:
    """All rows, keys in lower case, in file order.

    Raises:
        CaptionError: the file cannot be read, or is of another kind.
    """
    text = read_utf8(path, "a table")
    kind = path.suffix.lower()
    if kind in (".csv", ".tsv"):
        header = text.partition("\n")[0]
        delimiter = max(",;\t", key=header.count)
        rows: Iterable[Any] = csv.DictReader(text.splitlines(keepends=True), delimiter=delimiter)
    elif kind in (".jsonl", ".ndjson"):
        rows = [_json(path, line, f"line {number}") for number, line in enumerate(text.split("\n"), 1) if line.strip()]
    elif kind == ".json":
        rows = _json(path, text, "the file")
        if not isinstance(rows, list):
            raise CaptionError(f"{path.name}: got a JSON {type(rows).__name__}, expected a list of objects")
    else:
        raise CaptionError(f"{path.name}: got a '{kind}' file, expected .jsonl, .json, .csv or .tsv")
    plain = []
    for number, row in enumerate(rows, 1):
        if not isinstance(row, dict):
            raise CaptionError(f"{path.name}: row {number} is a {type(row).__name__}, expected an object")
        plain.append({str(key).strip().lower(): value for key, value in row.items() if key is not None})
    if not plain:
        raise CaptionError(f"{path.name}: holds no row")
    return plain


def _json(path: Path, text: str, where: str) -> Any:
    try:
        return json.loads(text)
    except ValueError as error:
        raise CaptionError(f"{path.name}: {where} is not JSON ({error})") from None


def first_of(row: Mapping[str, Any], keys: Iterable[str]) -> Any:
    """The first of ``keys`` that holds something, or None."""
    return next((row[key] for key in keys if row.get(key) not in (None, "", [])), None)
