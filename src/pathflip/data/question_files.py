"""Multiple-choice questions about slides, from a file: a cohort's ``questions.jsonl``, SlideBench, and others."""

from dataclasses import dataclass
from pathlib import Path
from string import ascii_uppercase

from pathflip.data.splits import read_split_rows
from pathflip.errors import CaptionError
from pathflip.io.tables import PLAIN, TableOptions
from pathflip.text.captions import patient_of
from pathflip.text.question_tables import QuestionRow, read_question_rows
from pathflip.text.refusals import CANNOT_TELL

__all__ = ["VQAQuestion", "read_questions"]


@dataclass(frozen=True)
class VQAQuestion:
    """A question. ``question_id`` is unique in its file; ``answer`` is a letter, "" where it is not known;
    ``subcategory`` may be empty.

    ``slide_ids`` are the slides of a case, shown together; of one slide there is only ``slide_id``.
    ``options`` are by letter: one that is "" is not offered, so that letters mean what they mean in the file.
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
    slide_ids: tuple[str, ...] = ()

    @property
    def slides(self) -> tuple[str, ...]:
        """All slides the question is about."""
        return self.slide_ids or (self.slide_id,)

    @property
    def offered(self) -> int:
        """How many options there are."""
        return sum(bool(option) for option in self.options)

    @property
    def cannot_tell(self) -> str | None:
        """The letter of the option :data:`CANNOT_TELL`, where it is offered."""
        place = next((i for i, option in enumerate(self.options) if option.strip().lower() == CANNOT_TELL), None)
        return None if place is None else ascii_uppercase[place]


def read_questions(
    path: Path, split: str | None = None, *, labelled: bool = True, options: TableOptions = PLAIN
) -> list[VQAQuestion]:
    """Questions about a slide, or about several slides of a case.

    :mod:`pathflip.text.question_tables` tells how they may be written.

    Args:
        split: only questions on slides of this split, which ``splits.csv`` beside the file tells (patients too).
        labelled: every row must hold options and the right one's letter. False takes questions to be asked, too: an
            answer, and options, may be absent.
        options: columns and encoding, where the file does not say.

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
    for row in read_question_rows(path, options):
        slide = _slide_or_case(row, path.name, labelled)
        count[slide] = count.get(slide, 0) + 1
        about = known.get(slide) or known.get(row.slide_ids[0], {})
        if split is None or about.get("split") == split:
            patient = row.patient or about.get("patient") or patient_of(row.slide_ids[0])
            questions.append(_question(row, row.question_id or f"{slide}#{count[slide]}", slide, patient))
    if not questions:
        raise CaptionError(f"{path.name}: no question on a slide of the split '{split}'")
    if len({question.question_id for question in questions}) < len(questions):
        raise CaptionError(f"{path.name}: two questions bear the same id; expected an id of its own for each")
    return questions


def _slide_or_case(row: QuestionRow, name: str, labelled: bool) -> str:
    """What a row with what is needed is about: its slide, or the first of several and how many more."""
    lacks = "" if not labelled or row.answer >= 0 else "no answer" if row.options else "no options"
    if lacks:
        raise CaptionError(
            f"{name}: row {row.number}: {lacks}; expected options (a list 'options' or columns A, B, …) and the letter "
            "of one of them"
        )
    return row.slide_ids[0] + (f"+{len(row.slide_ids) - 1}" if len(row.slide_ids) > 1 else "")


def _question(row: QuestionRow, identity: str, slide: str, patient: str) -> VQAQuestion:
    return VQAQuestion(
        question_id=identity,
        slide_id=slide,
        patient=patient,
        question=row.question,
        options=row.options,
        answer=ascii_uppercase[row.answer] if row.answer >= 0 else "",
        category=row.category or "all questions",
        subcategory=row.subcategory,
        answerable=row.answerable,
        needs_slide=row.needs_slide,
        slide_ids=row.slide_ids if len(row.slide_ids) > 1 else (),
    )


def _splits_beside(path: Path) -> dict[str, dict[str, str]]:
    beside = path.with_name("splits.csv")
    return read_split_rows(beside) if beside.is_file() else {}
