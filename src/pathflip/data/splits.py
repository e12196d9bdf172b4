"""Which slide belongs to which split."""

import csv
from pathlib import Path

from pathflip.errors import ConfigError
from pathflip.text.captions import slide_id_of

__all__ = ["SPLITS", "read_splits"]

SPLITS = ("train", "val", "test")


def read_splits(path: Path) -> dict[str, str]:
    """The split of every slide a CSV file names in its columns slide and split; other columns are ignored, but a
    patient (column patient) must stand in one split. An empty split leaves the slide out.

    Raises:
        ConfigError: the file cannot be read, lacks a column, or names another split than train, val and test, a
            slide in two of them, or a patient in two of them.
    """
    try:
        with open(path, newline="", encoding="utf-8-sig") as handle:
            rows = list(csv.DictReader(handle))
    except OSError as error:
        raise ConfigError(f"'{path}': cannot be read ({error.strerror or error}); expected a CSV of splits") from None
    except (UnicodeDecodeError, csv.Error) as error:
        raise ConfigError(f"'{path}': not a CSV in UTF-8 ({error}); expected the columns slide and split") from None
    if not rows or not {"slide", "split"} <= rows[0].keys():
        raise ConfigError(f"'{path.name}': expected the columns slide and split")
    found: dict[str, str] = {}
    homes: dict[str, str] = {}
    for line, row in enumerate(rows, start=2):
        split = (row["split"] or "").strip()
        if split and split not in SPLITS:
            raise ConfigError(
                f"'{path.name}' line {line}: split '{split}', expected {', '.join(SPLITS)}, or nothing to leave "
                "the slide out"
            )
        slide_id = slide_id_of(row["slide"] or "")
        if found.setdefault(slide_id, split) != split:
            raise ConfigError(f"'{path.name}' line {line}: slide '{slide_id}' is in two splits; expected one")
        patient = row.get("patient")
        if patient and split and homes.setdefault(patient, split) != split:
            raise ConfigError(f"patient '{patient}' has slides in {homes[patient]} and {split}; expected one split")
    return found
