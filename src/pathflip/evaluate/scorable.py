"""Which multiple-choice questions can be scored: those whose right answer is one option and no other."""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from string import ascii_uppercase

from pathflip.data.question_files import VQAQuestion
from pathflip.errors import CaptionError
from pathflip.text.question_tables import plain_option

__all__ = ["Scorable", "place_of_letter", "scorable"]

_SHOWN = 3


def place_of_letter(question: VQAQuestion) -> int:
    """The right option's place from 0, of a question whose answer is a letter."""
    return ascii_uppercase.index(question.answer)


@dataclass(frozen=True)
class Scorable:
    """Questions of a test set.

    Attributes:
        questions: those that can be scored. others: those that cannot.
        why_not: of every other, by its id, why its right answer cannot be told.
        notes: what a reader of scores must know of both.
    """

    questions: list[VQAQuestion]
    others: list[VQAQuestion]
    why_not: dict[str, str]
    notes: tuple[str, ...]


def scorable(
    file: str,
    questions: Sequence[VQAQuestion],
    place: Callable[[VQAQuestion], int] = place_of_letter,
    *,
    published: bool = True,
) -> Scorable:
    """Take the questions apart; nothing is scored whose right answer is not known, or not the only one.

    Args:
        file: their name, for messages. questions: as read ``with_problems``. place: of the right option, from 0.
        published: they are a benchmark's, in which no question may stand twice; else that is only noted.

    Raises:
        CaptionError: a question of a benchmark stands twice with the same answer (it would count twice), two bear the
            same id, or none can be scored.
    """
    _refuse_equal_ids(file, questions)
    why_not = {one.question_id: one.problem for one in questions if one.problem}
    groups = _alike([one for one in questions if not one.problem])
    if published:
        why_not |= _answered_twice(file, groups, place)
    rest = [one for one in questions if one.question_id not in why_not]
    if not rest:
        identity, reason = next(iter(why_not.items()))
        raise CaptionError(
            f"{file}: no question can be scored: of none of {len(questions)} can the right answer be told "
            f"('{identity}': {reason})"
        )
    notes = []
    if why_not:
        shown = "; ".join(f"'{identity}': {reason}" for identity, reason in list(why_not.items())[:_SHOWN])
        more = " …" if len(why_not) > _SHOWN else ""
        notes.append(
            f"{len(why_not)} of {len(questions)} questions are not scored: their right answer cannot be told "
            f"({shown}{more})"
        )
    others = [one for one in questions if one.question_id in why_not]
    if groups and not published:
        notes.append(
            f"{sum(map(len, groups))} questions stand there more than once (same slide, words and options, the first: "
            f"'{groups[0][0].question_id}' and '{groups[0][1].question_id}'); each counts"
        )
    return Scorable(rest, others, why_not, (*notes, *_odd_options(rest)))


def _refuse_equal_ids(file: str, questions: Sequence[VQAQuestion]) -> None:
    identity, number = Counter(one.question_id for one in questions).most_common(1)[0]
    if number > 1:
        raise CaptionError(f"{file}: {number} questions bear the id '{identity}'; expected an id of its own for each")


def _alike(questions: Sequence[VQAQuestion]) -> list[list[VQAQuestion]]:
    """Groups of several questions of the same slide, words and options in any order."""
    alike: dict[tuple[object, ...], list[VQAQuestion]] = {}
    for one in questions:
        options = frozenset(plain_option(text) for text in one.options)
        alike.setdefault((one.slides, " ".join(one.question.casefold().split()), options), []).append(one)
    return [group for group in alike.values() if len(group) > 1]


def _answered_twice(
    file: str, groups: Sequence[list[VQAQuestion]], place: Callable[[VQAQuestion], int]
) -> dict[str, str]:
    """Questions that stand there again with another answer, and why they cannot be scored.

    Raises:
        CaptionError: one stands there again with the same answer.
    """
    apart = [group for group in groups if len({plain_option(one.options[place(one)]) for one in group}) > 1]
    twice = [group for group in groups if group not in apart]
    if twice:
        copies = sum(len(group) - 1 for group in twice)
        raise CaptionError(
            f"{file}: {copies} questions stand there twice (the first: '{twice[0][0].question_id}' and "
            f"'{twice[0][1].question_id}', same slide, words and options); expected each once: leave the copies out"
        )
    return {one.question_id: "it stands there twice, with different answers" for group in apart for one in group}


def _odd_options(questions: Sequence[VQAQuestion]) -> list[str]:
    """What must be said of options of questions that are scored: empty ones, and equal ones beside the right one."""
    notes = []
    empty = [one for one in questions if one.empty_options]
    if empty:
        notes.append(
            f"{len(empty)} questions have an empty option, which counts as not offered ('{empty[0].question_id}': "
            f"{', '.join(empty[0].empty_options)}{'; …' if len(empty) > 1 else ''})"
        )
    equal = [one for one in questions if _has_equal(one)]
    if equal:
        notes.append(
            f"{len(equal)} questions have two options of the same text beside the right one ('{equal[0].question_id}'"
            f"{', …' if len(equal) > 1 else ''})"
        )
    return notes


def _has_equal(question: VQAQuestion) -> bool:
    texts = [plain_option(text) for text in question.options if text]
    return len(set(texts)) < len(texts)
