"""Rows to a table on disk: CSV, TSV, JSON lines, JSON or Parquet, by the ending of the name."""

import csv
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pathflip.errors import ConfigError, MissingExtraError
from pathflip.io.files import atomic_path, write_text
from pathflip.io.tables import plain_cell

__all__ = ["TABLE_SUFFIXES", "is_table", "left_out_beside", "write_left_out", "write_table"]

TABLE_SUFFIXES = (".csv", ".tsv", ".jsonl", ".json", ".parquet")


def is_table(path: str | Path) -> bool:
    """Whether a name to write to is that of a table, not of a folder."""
    return Path(path).suffix.lower() in TABLE_SUFFIXES


def write_table(path: str | Path, rows: Sequence[Mapping[str, Any]], columns: Sequence[str] = ()) -> None:
    """Write rows as a table, atomically.

    Args:
        path: its ending decides the kind. rows: values that are lists or objects become JSON in a cell of a CSV.
        columns: of a table without rows; else the keys of the rows, in the order they come up.

    Raises:
        ConfigError: another ending. MissingExtraError: Parquet without pyarrow.
    """
    path = Path(path)
    kind = path.suffix.lower()
    if kind not in TABLE_SUFFIXES:
        raise ConfigError(f"'{path}': got a '{kind}' file to write, expected one of {', '.join(TABLE_SUFFIXES)}")
    names = list(dict.fromkeys([*columns, *(key for row in rows for key in row)]))
    if kind == ".jsonl":
        write_text(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
    elif kind == ".json":
        write_text(path, json.dumps([dict(row) for row in rows], ensure_ascii=False, indent=2) + "\n")
    elif kind == ".parquet":
        _write_parquet(path, rows, names)
    else:
        with atomic_path(path) as temporary, open(temporary, "w", newline="", encoding="utf-8") as handle:
            writer = csv.writer(handle, delimiter="\t" if kind == ".tsv" else ",", lineterminator="\n")
            writer.writerow(names)
            writer.writerows([_cell(row.get(name)) for name in names] for row in rows)


def left_out_beside(path: Path) -> Path:
    """Where the rows go that a result could not be made of."""
    return path.with_name(f"{path.stem}.left_out.csv")


def write_left_out(path: Path, problems: Sequence[str]) -> None:
    """Rows that were left out and why, from lines like "row 7: no text": row 1 is the first below the header."""
    rows = []
    for problem in problems:
        head, _, reason = problem.partition(": ")
        number = head.removeprefix("row ").strip()
        known = head.startswith("row ") and number.isdigit()
        rows.append({"row": int(number) if known else "", "reason": reason if known else problem})
    write_table(path, rows, ("row", "reason"))


def _cell(value: Any) -> Any:
    if isinstance(value, list | tuple | dict):
        return json.dumps(value, ensure_ascii=False)
    return "" if value is None else plain_cell(value)


def _write_parquet(path: Path, rows: Sequence[Mapping[str, Any]], names: Sequence[str]) -> None:
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError:
        raise MissingExtraError("pyarrow", "tables", "writing Parquet") from None
    table = pyarrow.table({name: [row.get(name) for row in rows] for name in names})
    with atomic_path(path) as temporary:
        parquet.write_table(table, temporary)
