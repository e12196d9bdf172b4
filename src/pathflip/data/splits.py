"""Which slide belongs to which split."""

from pathlib import Path

from pathflip.errors import CaptionError, ConfigError
from pathflip.io.slide_id import slide_id
from pathflip.io.tables import PLAIN, TableOptions, is_empty, read_table

__all__ = ["SPLITS", "read_split_rows", "read_splits"]

SPLITS = ("train", "val", "test")


def read_splits(path: Path, options: TableOptions = PLAIN) -> dict[str, str]:
    """The split of every slide a table names in its columns slide and split; other columns are ignored, but a
    patient (column patient) must stand in one split. An empty split leaves the slide out.

    Raises:
        ConfigError: the file cannot be read, lacks a column, or names another split than train, val and test, a
            slide in two of them, or a patient in two of them.
    """
    split_of: dict[str, str] = {}
    homes: dict[str, str] = {}
    for number, row in enumerate(_rows(path, options), start=1):
        split = "" if is_empty(row.get("split")) else str(row["split"]).strip()
        if split and split not in SPLITS:
            raise ConfigError(
                f"'{path.name}' row {number}: split '{split}', expected {', '.join(SPLITS)}, or nothing to leave "
                "the slide out"
            )
        name = _slide(path, number, row)
        if split_of.setdefault(name, split) != split:
            raise ConfigError(f"'{path.name}' row {number}: slide '{name}' is in two splits; expected one")
        patient = row.get("patient")
        if patient and split and homes.setdefault(patient, split) != split:
            raise ConfigError(f"patient '{patient}' has slides in {homes[patient]} and {split}; expected one split")
    return split_of


def read_split_rows(path: Path, options: TableOptions = PLAIN) -> dict[str, dict[str, str]]:
    """The rows of a table of splits by slide, whatever columns they have.

    Raises:
        ConfigError: the file cannot be read or lacks a column.
    """
    rows = enumerate(_rows(path, options), start=1)
    return {_slide(path, number, row): {key: str(value or "") for key, value in row.items()} for number, row in rows}


def _rows(path: Path, options: TableOptions) -> list[dict[str, str]]:
    try:
        rows = read_table(path, options, expected="a table of splits with the columns slide and split")
    except CaptionError as error:
        raise ConfigError(f"{error}; expected the columns slide and split") from None
    if lacking := [name for name in ("slide", "split") if name not in rows[0]]:
        raise ConfigError(f"'{path.name}': no column '{lacking[0]}'; expected the columns slide and split")
    return rows


def _slide(path: Path, number: int, row: dict[str, str]) -> str:
    try:
        return slide_id(row.get("slide") or "")
    except CaptionError as error:
        raise ConfigError(f"'{path.name}' row {number}: {error}") from None
