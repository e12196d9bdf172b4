"""Multiple-choice questions about slides, from a file: a cohort's ``questions.jsonl``, or SlideBench's columns."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from string import ascii_uppercase
from typing import Any

from pathflip.errors import CaptionError
from pathflip.io.tables import first_of, read_table
from pathflip.text import captions
from pathflip.text.captions import PATIENT_KEYS, patient_of, slide_id_of
from pathflip.text.refusals import CANNOT_TELL

__all__ = ["ID_KEYS", "SLIDE_KEYS", "VQAQuestion", "read_questions"]

SLIDE_KEYS = tuple(key for key in captions.SLIDE_KEYS if key != "id")
"""Columns that name the slide; "id" names the question here."""
ID_KEYS = ("id", "question_id", "qid")


@dataclass(frozen=True)
class VQAQuestion:
    """A question. ``question_id`` is unique in its file; ``answer`` is a letter, "" where it is not known;
    ``subcategory`` may be empty.
    """

    question_id: str
    slide_id: str
    patient: str
    question: str
    options: tuple[str, ...]
    answer: str
    category: str
    subcategory: str = ""
    answerable: bool = True
    needs_slide: bool = True

    @property
    def cannot_tell(self) -> str | None:
        """The letter of the option :data:`CANNOT_TELL`, where it is offered."""
        place = next((i for i, option in enumerate(self.options) if option.strip().lower() == CANNOT_TELL), None)
        return None if place is None else ascii_uppercase[place]


def read_questions(path: Path, split: str | None = None, *, labelled: bool = True) -> list[VQAQuestion]:
    """Questions of a synthetic cohort (``questions.jsonl``) or in SlideBench's columns (CSV or JSON).

    Args:
        split: only questions on slides of this split, which ``splits.csv`` beside the file tells (patients too).
        labelled: every row must hold options and the right one's letter. False takes questions to be asked, too: an
            answer, and options, may be absent.

    Raises:
        CaptionError: the file cannot be read, or a row is no question.
    """
    known = _splits_beside(path)
    if split is not None and not known:
        raise CaptionError(
            f"no splits.csv beside '{path.name}', so the split '{split}' is not known; leave --split out"
        )
    questions = []
    count: dict[str, int] = {}
    for number, row in enumerate(read_table(path), 1):
        try:
            slide_id = slide_id_of(first_of(row, SLIDE_KEYS))
            count[slide_id] = count.get(slide_id, 0) + 1
            patient = str(first_of(row, PATIENT_KEYS) or known.get(slide_id, {}).get("patient") or patient_of(slide_id))
            named = first_of(row, ID_KEYS)
            identity = f"{slide_id}#{count[slide_id]}" if named is None else str(named)
            question = _question(row, identity, slide_id, patient, labelled)
        except CaptionError as error:
            raise CaptionError(f"{path.name}: question {number}: {error}") from None
        if split is None or known.get(slide_id, {}).get("split") == split:
            questions.append(question)
    if not questions:
        raise CaptionError(f"{path.name}: no question on a slide of the split '{split}'")
    if len({question.question_id for question in questions}) < len(questions):
        raise CaptionError(f"{path.name}: two questions bear the same id; expected an id of its own for each")
    return questions


def _question(row: Mapping[str, Any], identity: str, slide_id: str, patient: str, labelled: bool) -> VQAQuestion:
    question = str(row.get("question") or "").strip()
    if not question:
        raise CaptionError("no question; expected its words in a field 'question'")
    options = _options(row)
    if len(options) == 1 or (labelled and not options):
        raise CaptionError(
            f"{len(options) or 'no'} options; expected at least two, in a list 'options' or columns A, B, …"
        )
    answer = str(row.get("answer") or "").strip().upper().rstrip(".")
    if not options:
        answer = ""
    elif (labelled or answer) and (len(answer) != 1 or answer not in ascii_uppercase[: len(options)]):
        raise CaptionError(f"the answer is '{answer}', expected a letter from A to {ascii_uppercase[len(options) - 1]}")
    return VQAQuestion(
        question_id=identity,
        slide_id=slide_id,
        patient=patient,
        question=question,
        options=options,
        answer=answer,
        category=str(first_of(row, ("category", "broad category")) or "all questions"),
        subcategory=str(first_of(row, ("narrow category", "subcategory")) or ""),
        answerable=row.get("answerable", True) not in (False, "False", "false", "0"),
        needs_slide=row.get("needs_slide", True) not in (False, "False", "false", "0"),
    )


def _options(row: Mapping[str, Any]) -> tuple[str, ...]:
    """The options of a row: a list, or the columns A, B, … up to the last that is filled."""
    listed = row.get("options")
    if isinstance(listed, str) and listed.strip():  # a CSV cell holds them as JSON
        try:
            listed = json.loads(listed)
        except ValueError:
            raise CaptionError("options in a CSV cell must be a JSON list of texts") from None
    if listed:
        if not isinstance(listed, list):
            raise CaptionError(f"options are a {type(listed).__name__}, expected a list of texts")
        cells = [str(option if option is not None else "").strip() for option in listed]
    else:
        columns = [str(row.get(letter.lower()) or "").strip() for letter in ascii_uppercase]
        filled = [place for place, text in enumerate(columns) if text]
        cells = columns[: filled[-1] + 1] if filled else []
    if len(cells) > len(ascii_uppercase):
        raise CaptionError(f"got {len(cells)} options, expected at most {len(ascii_uppercase)}")
    if "" in cells:  # left out, the letters behind it would name other options
        raise CaptionError(f"option {ascii_uppercase[cells.index('')]} is empty, expected words in each")
    return tuple(cells)


def _splits_beside(path: Path) -> dict[str, dict[str, str]]:
    beside = path.with_name("splits.csv")
    if not beside.is_file():
        return {}
    return {slide_id_of(first_of(row, SLIDE_KEYS)): row for row in read_table(beside)}
