"""Multiple-choice questions about slides, from a file: a cohort's ``questions.jsonl``, SlideBench, and others."""

from dataclasses import dataclass, replace
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
    ``options`` are by letter: one that is "" is not offered, so that letters mean what they mean in the file;
    ``empty_options`` are all letters whose cell is empty. ``problem``: why the right answer cannot be told, "" where it
    can; only where such questions were asked for.
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
    problem: str = ""
    empty_options: tuple[str, ...] = ()

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
    path: Path,
    split: str | None = None,
    *,
    labelled: bool = True,
    options: TableOptions = PLAIN,
    with_problems: bool = False,
) -> list[VQAQuestion]:
    """Questions about a slide, or about several slides of a case.

    :mod:`pathflip.text.question_tables` tells how they may be written.

    Args:
        split: only questions on slides of this split, which ``splits.csv`` beside the file tells (patients too).
        labelled: every row must hold options and the right one's letter. False takes questions to be asked, too: an
            answer, and options, may be absent.
        options: columns and encoding, where the file does not say.
        with_problems: questions whose right answer cannot be told (an answer that is no option, two options of the same
            text and one of them right, one option) are given, too, with ``problem``; else they are refused.

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
    for row in read_question_rows(path, options, with_problems=with_problems):
        row = _keyed(row, path.name, with_problems) if labelled else row
        slide = row.slide_ids[0] + (f"+{len(row.slide_ids) - 1}" if len(row.slide_ids) > 1 else "")
        count[slide] = count.get(slide, 0) + 1
        about = known.get(slide) or known.get(row.slide_ids[0], {})
        if split is None or about.get("split") == split:
            patient = row.patient or about.get("patient") or patient_of(row.slide_ids[0])
            questions.append(_question(row, row.question_id or f"{slide}#{count[slide]}", slide, patient))
    if not questions:
        raise CaptionError(f"{path.name}: no question on a slide of the split '{split}'")
    first: dict[str, VQAQuestion] = {}
    for question in questions:
        if first.setdefault(question.question_id, question) is not question:
            raise CaptionError(
                f"{path.name}: two questions bear the same id '{question.question_id}'; expected an id of its own for "
                "each"
            )
    return questions


def _keyed(row: QuestionRow, name: str, with_problems: bool) -> QuestionRow:
    """A row that must have options and a key."""
    lacks = "" if row.problem or row.answer >= 0 else "no answer" if row.options else "no options"
    if lacks and not with_problems:
        raise CaptionError(
            f"{name}: row {row.number}: {lacks}; expected options (a list 'options' or columns A, B, …) and the letter "
            "of one of them"
        )
    return replace(row, problem=row.problem or lacks)


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
        problem=row.problem,
        empty_options=row.empty_options,
    )


def _splits_beside(path: Path) -> dict[str, dict[str, str]]:
    beside = path.with_name("splits.csv")
    return read_split_rows(beside) if beside.is_file() else {}
