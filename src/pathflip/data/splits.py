"""Which slide belongs to which split."""

import warnings
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from pathflip.arguments import Paths, as_paths
from pathflip.data.case_items import Joined, captions_of_cases, join_reports
from pathflip.errors import CaptionError, ConfigError
from pathflip.io.slide_id import folder_of, join_ids, slide_id
from pathflip.io.tables import PLAIN, TableOptions, is_empty, read_table
from pathflip.text.captions import read_captions
from pathflip.text.case_tables import CASE_KEYS, SLIDE_KEYS, slides_of
from pathflip.types import Caption, Case

__all__ = ["SPLITS", "named_splits", "read_split", "read_split_rows", "read_splits"]

SPLITS = ("train", "val", "test")
_OTHERWISE = {"training": "train", "validation": "val", "valid": "val", "testing": "test"}
"""Other words for the usual splits: beside these they are a slip, alone they are names like any."""
_SPLIT_KEYS = ("split", "set", "subset", "partition", "cohort_split")


def read_splits(path: Path, options: TableOptions = PLAIN, asked: str = "") -> dict[str, str]:
    """The split of every slide (or case) a table names in its columns slide (or case) and split; other columns are
    ignored, but a patient (column patient) must stand in one split. An empty split leaves the slide out.

    Columns may bear their other usual names ("Slide ID", "Set"). Splits may have other names than train, val and test
    ("internal_test"); slides of those are used only where they are asked for, and a warning counts them.

    Args:
        asked: the split that a command was asked for.

    Raises:
        ConfigError: the file cannot be read, lacks a column, or names a slide or a patient in two splits, one split
            by two words ("train" and "training"), or not the one that is asked for.
    """
    split_of: dict[str, str] = {}
    homes: dict[str, str] = {}
    rows = _rows(path, options)
    folders: dict[str, set[str]] = {}
    for number, row in enumerate(rows, start=1):
        folders.setdefault(_slide(path, number, row), set()).add(folder_of(row.get("slide") or ""))
    for number, row in enumerate(rows, start=1):
        split = "" if is_empty(row.get("split")) else str(row["split"]).strip()
        split = split.casefold() if split.casefold() in SPLITS else split
        usual = next((one for one in (_OTHERWISE.get(split.casefold()),) if one), split)
        if usual != split and any(str(other.get("split") or "").strip() == usual for other in rows):
            raise ConfigError(
                f"'{path.name}' row {number}: split '{split}' beside '{usual}', expected one word for one split, or "
                "nothing to leave the slide out"
            )
        name, folder = _slide(path, number, row), folder_of(row.get("slide") or "")
        if folder and len(folders[name]) > 1:  # equal file names in several folders, named as extract names them
            name = f"{folder}__{name}"
        if split_of.setdefault(name, split) != split:
            raise ConfigError(f"'{path.name}' row {number}: slide '{name}' is in two splits; expected one")
        patient = row.get("patient")
        if patient and split and homes.setdefault(patient, split) != split:
            raise ConfigError(f"patient '{patient}' has slides in {homes[patient]} and {split}; expected one split")
    if asked and asked not in SPLITS and asked not in split_of.values():
        raise ConfigError(f"--split: got '{asked}', expected one that '{path.name}' names: {names_in(split_of)}")
    others = {name: split for name, split in split_of.items() if split and split not in (*SPLITS, asked)}
    if others:
        warnings.warn(
            f"'{path.name}' names splits besides {', '.join(SPLITS)}: {names_in(others)}; their slides are used only "
            "where --split names them",
            stacklevel=2,
        )
    return split_of


def named_splits(path: Path) -> str:
    """:func:`names_in` a table of splits."""
    return names_in({name: row.get("split", "").strip() for name, row in read_split_rows(path).items()})


def names_in(split_of: Mapping[str, str]) -> str:
    """The splits of a table with their numbers of slides, as a person reads them: "test (12), train (40)"."""
    counted = Counter(split for split in split_of.values() if split)
    return ", ".join(f"{name} ({counted[name]})" for name in sorted(counted)) or "none"


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
    for name, keys in (("slide", (*SLIDE_KEYS, *CASE_KEYS)), ("split", _SPLIT_KEYS)):
        if name not in rows[0] and (column := next((one for one in keys if one in rows[0]), "")):
            rows = [{**row, name: row[column]} for row in rows]
    if lacking := [name for name in ("slide", "split") if name not in rows[0]]:
        raise ConfigError(f"'{path.name}': no column '{lacking[0]}'; expected the columns slide and split")
    return rows


def _slide(path: Path, number: int, row: dict[str, str]) -> str:
    try:
        return slide_id(row.get("slide") or "")
    except CaptionError as error:
        raise ConfigError(f"'{path.name}' row {number}: {error}") from None


def read_split(
    files: Paths,
    captions: Path,
    splits: Path | None,
    options: TableOptions = PLAIN,
    cases: Sequence[Case] = (),
    asked: str = "",
) -> dict[str, tuple[list[Path], list[Caption]]]:
    """Feature files and captions by split (train, val, test, and ``asked``); all is "train" where no splits are given.

    ``options`` are of the captions; ``cases`` tell which of them are of one case, where the captions do not. Slides are
    left out only where the splits file does not name them. A slide with a caption but without features, or the
    reverse, is an error later, by name.

    Raises:
        CaptionError, ConfigError: unreadable captions or splits, or a patient in two splits.
    """
    reports = captions_of_cases(read_captions(captions, options=options), cases)
    joined = join_reports(as_paths(files, "files"), reports)
    known = [*(item.caption for item in joined.items), *joined.lonely_captions]
    parts: dict[str, tuple[list[Path], list[Caption]]] = {name: ([], []) for name in (*SPLITS, asked) if name}
    split_of = {} if splits is None else _split_names(splits, joined, asked)
    if splits is not None and not any(_split_of(caption, split_of) for caption in known):
        raise ConfigError(f"'{splits.name}' names none of the slides of '{captions.name}'; expected the same ids")
    if files and not joined.items:
        raise ConfigError(
            f"features and captions share no slide: features are named '{next(iter(joined.lonely_files))}' and the "
            f"like, captions '{known[0].slide_id}'; expected the same ids (a slide's id is its file name without the "
            "ending)"
        )
    item_of = {id(item.caption): item for item in joined.items}
    homes: dict[str, str] = {}
    for caption in sorted(known, key=lambda one: one.slide_id):
        part = "train" if splits is None else _split_of(caption, split_of)
        if part not in parts:
            continue
        if homes.setdefault(caption.patient, part) != part:
            raise ConfigError(
                f"patient '{caption.patient}' has slides in {homes[caption.patient]} and {part}; "
                "expected every patient in one split"
            )
        item = item_of.get(id(caption))
        parts[part][0].extend(item.files if item else ())
        # A case goes on whole: that a slide of it has no features is told, or refused, where it is used.
        parts[part][1].append(item.as_read if item and isinstance(caption, Case) else caption)
    for name, file in joined.lonely_files.items():
        if (part := "train" if splits is None else split_of.get(name, "")) in parts:
            parts[part][0].append(file)
    return parts


def _split_names(splits: Path, joined: Joined, asked: str) -> dict[str, str]:
    """The split of every name in a table of splits, under the names of the files."""
    split_of = read_splits(splits, asked=asked)
    own = {name for item in joined.items for name in _names(item.caption)} | set(joined.lonely_files)
    own |= {name for caption in joined.lonely_captions for name in _names(caption)}
    id_of = join_ids(split_of, own)
    return {id_of.get(name, name): split for name, split in split_of.items()}


def _names(caption: Caption) -> list[str]:
    """By what a table may name it: the item, its case, its slides."""
    case = [caption.case_id] if isinstance(caption, Case) else []
    return [caption.slide_id, *case, *(slide.slide_id for slide in slides_of(caption))]


def _split_of(caption: Caption, split_of: Mapping[str, str]) -> str:
    """The split of a report; "" where the table does not name it.

    Raises:
        ConfigError: its slides stand in several.
    """
    named = {split_of[name] for name in _names(caption) if name in split_of}
    if len(named) > 1:
        raise ConfigError(
            f"case '{caption.slide_id}' has slides in {' and '.join(sorted(one or 'no split' for one in named))}; "
            "expected a case in one split"
        )
    return named.pop() if named else ""
