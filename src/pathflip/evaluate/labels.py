"""Labels of slides from a table: which slide is of which class, and of which patient."""

import warnings
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pathflip.errors import CaptionError
from pathflip.io.slide_id import join_ids
from pathflip.io.tables import PLAIN, TableOptions, TableRow, column_name, first_of, read_rows
from pathflip.text.captions import patient_of_row, slide_of_row

__all__ = ["LABEL_KEYS", "SlideLabel", "match_labels", "read_labels"]

LABEL_KEYS = ("label", "class", "diagnosis", "target", "subtype", "category", "y")
_SHOWN = 5


@dataclass(frozen=True)
class SlideLabel:
    """A slide, its patient, and what it is."""

    slide_id: str
    patient: str
    label: str


def read_labels(path: Path, column: str | None = None, options: TableOptions = PLAIN) -> list[SlideLabel]:
    """The labelled slides of a table with the columns slide, label and, optional, patient.

    Rows without a label are left out, with a warning that counts them.

    Args:
        path: CSV, TSV, JSON lines or JSON. column: the column of the label, where it bears another name.
        options: column of the slide and encoding, where the file does not say.

    Raises:
        CaptionError: the file cannot be read, has no such column, names a slide twice with two labels, or holds fewer
            than two classes.
    """
    rows = read_rows(path, options, expected="a table of labels with the columns slide and label")
    keys = (column_name(column),) if column else LABEL_KEYS
    labels: dict[str, SlideLabel] = {}
    problems, unlabelled = [], 0
    _check_column(path, rows, keys)
    for row in rows:
        try:
            if row.problem:
                raise CaptionError(row.problem)
            if not set(keys) & row.fields.keys():
                raise CaptionError(f"no column '{column or 'label'}'; got {', '.join(sorted(row.fields))}")
            value = first_of(row.fields, keys)
            if value is None:
                unlabelled += 1
                continue
            slide = slide_of_row(row.fields)
            patient = patient_of_row(row.fields, slide)
            one = SlideLabel(slide, patient, str(value).strip())
            if labels.setdefault(slide, one).label != one.label:
                raise CaptionError(f"slide '{slide}' is '{labels[slide].label}' in another row, '{one.label}' here")
        except CaptionError as error:
            problems.append(f"row {row.number}: {error}")
    if problems:
        more = f"; and {len(problems) - _SHOWN} more" if problems[_SHOWN:] else ""
        raise CaptionError(f"{path.name}: {'; '.join(problems[:_SHOWN])}{more}")
    if unlabelled:
        warnings.warn(f"{path.name}: {unlabelled} of {len(rows)} rows have no label and are left out", stacklevel=2)
    classes = Counter(one.label for one in labels.values())
    if len(classes) < 2:
        raise CaptionError(f"{path.name}: {len(classes)} classes among {len(labels)} labels; expected two at least")
    return list(labels.values())


def _check_column(path: Path, rows: Sequence[TableRow], keys: Sequence[str]) -> None:
    """A table without a column of labels is refused as a whole, not row by row."""
    columns = {name for row in rows for name in row.fields}
    if columns and not set(keys) & columns:
        raise CaptionError(
            f"{path.name}: no column '{keys[0]}'; got {', '.join(sorted(columns))}; call the column of the labels "
            "'label', or name it with --label-column (zero-shot, few-shot)"
        )


def match_labels(
    labels: Sequence[SlideLabel], slides: Sequence[str], file: str
) -> tuple[dict[str, SlideLabel], list[str], list[str]]:
    """Labels by the slides they are of, slides without a label, and labelled slides that are not there.

    Raises:
        CaptionError: labels and slides have nothing in common.
    """
    slide_of = join_ids([one.slide_id for one in labels], slides)
    by_slide = {slide_of[one.slide_id]: one for one in labels if one.slide_id in slide_of}
    if not by_slide:
        raise CaptionError(
            f"{file}: none of its {len(labels)} slides is there: it names '{labels[0].slide_id}' and the like, the "
            f"features '{slides[0] if slides else 'nothing'}'; expected the same names"
        )
    unlabelled = [slide for slide in slides if slide not in by_slide]
    return by_slide, unlabelled, [one.slide_id for one in labels if one.slide_id not in slide_of]
