"""Multiple-choice benchmarks: answers from an assistant or a file, and their scores."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from string import ascii_uppercase
from typing import Any

import numpy as np

from pathflip.assistant import load_assistant
from pathflip.benchmarks.measured import paired_row
from pathflip.benchmarks.protocol import Inputs, Outcome, Score, Skipped
from pathflip.benchmarks.slide_files import allow_missing_or_raise, feature_files
from pathflip.data.question_files import VQAQuestion
from pathflip.errors import CaptionError
from pathflip.evaluate.answer_parsing import parse_answer
from pathflip.evaluate.answering import answer_questions
from pathflip.evaluate.bootstrap import PatientBootstrap
from pathflip.evaluate.predictions import VQAPrediction, match_predictions, read_predictions
from pathflip.evaluate.scorable import Scorable, scorable
from pathflip.evaluate.vqa import letter_baselines, vqa_measures

__all__ = ["UNKNOWN_ANSWER", "answers_to", "choice_outcome", "content_rows", "match_answers", "not_scorable"]

UNKNOWN_ANSWER = "its right answer cannot be told"


def content_rows(questions: Sequence[VQAQuestion]) -> list[tuple[str, ...]]:
    """What identifies a question: slide, words, options, key."""
    return [(q.slide_id, q.question, *q.options, q.answer) for q in questions]


def not_scorable(questions: Scorable) -> tuple[Skipped, ...]:
    """The questions whose right answer cannot be told, as items that are not scored."""
    return tuple(Skipped(item, f"{UNKNOWN_ANSWER}: {why}") for item, why in questions.why_not.items())


def answers_to(
    name: str, questions: Sequence[VQAQuestion], inputs: Inputs, others: Sequence[VQAQuestion] = ()
) -> tuple[list[VQAQuestion], list[VQAPrediction], list[Skipped], int]:
    """The questions that can be scored, their answers, the others with the reason, and answers to no question.

    Args:
        others: questions of the test set that are not scored; predictions may answer them.

    Raises:
        ConfigError: neither predictions nor an assistant; or something is missing and that was not allowed.
    """
    inputs.require(name, "predictions", "assistant")
    if inputs.predictions is not None:
        return match_answers(name, questions, read_predictions(inputs.predictions), inputs, others)
    assert inputs.assistant is not None
    files, missing = feature_files(name, [q.slide_id for q in questions], inputs)
    assistant = load_assistant(inputs.assistant, inputs.device, inputs.settings.get("language_model"))
    can = [q for q in questions if q.slide_id in files]
    lost = {one.item for one in missing}
    skipped = [Skipped(q.question_id, "its slide has no feature file") for q in questions if q.slide_id in lost]
    offered = [_without_gaps(q) for q in can]
    answers = answer_questions(assistant, offered, files, inputs.progress)
    return can, [_as_written(*one) for one in zip(can, offered, answers, strict=True)], skipped, 0


def match_answers(
    name: str,
    questions: Sequence[VQAQuestion],
    predictions: Iterable[VQAPrediction],
    inputs: Inputs,
    others: Sequence[VQAQuestion] = (),
) -> tuple[list[VQAQuestion], list[VQAPrediction], list[Skipped], int]:
    """As :func:`answers_to`, from predictions.

    Raises:
        ConfigError: a question has none, and missing ones were not allowed. CaptionError: none fits.
    """
    matched, strays = match_predictions(questions, predictions, others)
    missing = [Skipped(q.question_id, "no prediction") for q, p in zip(questions, matched, strict=True) if p is None]
    allow_missing_or_raise(name, missing, len(questions), "questions", inputs)
    pairs = [(q, replace(p, question_id=q.question_id)) for q, p in zip(questions, matched, strict=True) if p]
    return [q for q, _ in pairs], [p for _, p in pairs], missing, strays


def _without_gaps(question: VQAQuestion) -> VQAQuestion:
    """The question with the options that are offered, under consecutive letters, as a language model is asked."""
    if question.offered == len(question.options):
        return question
    return replace(question, options=tuple(option for option in question.options if option))


def _as_written(question: VQAQuestion, offered: VQAQuestion, answer: VQAPrediction) -> VQAPrediction:
    """An answer in the letters of the file."""
    if offered is question or answer.text is None:
        return answer
    letter = parse_answer(answer.text, offered.options).letter
    if letter is None:
        return replace(answer, text="")
    text = offered.options[ascii_uppercase.index(letter)]
    return replace(answer, text=ascii_uppercase[question.options.index(text)])


def _text_only(name: str, questions: Sequence[VQAQuestion], inputs: Inputs) -> list[VQAPrediction] | None:
    """Answers of the text-only baseline to the same questions: from a file, or from an assistant shown no slide."""
    if inputs.text_only is None:
        return None
    if inputs.text_only.is_dir():
        twin = replace(inputs, assistant=inputs.text_only, predictions=None, allow_missing=False)
        loaded = load_assistant(inputs.text_only, inputs.device, inputs.settings.get("language_model"))
        if not loaded.model.config.text_only:
            raise CaptionError(
                f"--text-only '{inputs.text_only}': this assistant is shown slides; expected one trained with "
                "--set assistant.text_only=true, or a file of its answers"
            )
        return answers_to(name, questions, twin)[1]
    return list(read_predictions(inputs.text_only))


def choice_outcome(
    name: str,
    questions: Sequence[VQAQuestion],
    inputs: Inputs,
    test_set: tuple[str, bool],
    *,
    extra_baselines: Callable[[Sequence[VQAQuestion]], Mapping[str, np.ndarray]] | None = None,
    train: Sequence[VQAQuestion] | None = None,
) -> Outcome:
    """Score multiple-choice questions; see :func:`pathflip.evaluate.vqa.vqa_measures` for what is measured.

    Args:
        name: of the benchmark. questions: all of the test set, those with problems, too. test_set: what it is, and
            whether published values are of it. extra_baselines: further answers that look at no slide: credit a
            question, by name. train: questions the constant letter is chosen on.
    """
    known = scorable(inputs.data.name, questions)
    scored, answers, skipped, strays = answers_to(name, known.questions, inputs, known.others)
    if not scored:
        raise CaptionError(f"{name}: no question can be scored; expected one at least")
    rows = vqa_measures(
        scored, answers, text_only=_text_only(name, scored, inputs), train=train,
        num=inputs.resamples, seed=inputs.seed, draws=True, others=known.others,
    )  # fmt: skip
    credit = {key: own for key, own in letter_baselines(scored, train).items() if key != "chance"}
    credit |= dict(extra_baselines(scored)) if extra_baselines else {}
    cohorts = PatientBootstrap(np.array([one.patient for one in scored]), inputs.resamples, inputs.seed)
    scores = [_score(row, credit, cohorts) for row in rows]
    if skipped:
        scores.insert(1, _counted_as_wrong(scores[0], len(known.questions)))
    scores += _parsed_only(scored, answers)
    notes = list(known.notes)
    if strays:
        notes.append(f"{strays} predictions belong to no question of the test set and were left out")
    if train is None:
        notes.append(
            "the constant letter is the test key's own most frequent one, which flatters it (no --train given)"
        )
    if inputs.text_only is None:
        notes.append("no text-only baseline was given (--text-only): how much words alone give is not known")
    return Outcome(
        scores=tuple(scores), scored=len(scored), total=len(questions), test_set=test_set[0],
        published_applies=test_set[1], skipped=(*not_scorable(known), *skipped), items=tuple(_items(scored, answers)),
        notes=tuple(notes), compared_on=tuple((one.question_id, one.patient) for one in scored),
    )  # fmt: skip


def _score(row: Mapping[str, Any], credit: Mapping[str, np.ndarray], cohorts: PatientBootstrap) -> Score:
    """A row as a score; accuracies are compared, item by item, with answers that look at no slide."""
    baselines = {name: value for name, value in row.get("baselines", {}).items() if name != "chance"}
    paired = {}
    if row["measure"] == "accuracy":
        places = row["places"]
        baselines |= {name: float(own[places].mean()) for name, own in credit.items()}
        paired = {
            name: paired_row(
                row["value"], baselines[name], row["drawn"], cohorts.means(own, places), row["right"], own[places]
            )
            for name, own in credit.items()
        }
    unread = ", ".join(f"{count} {why}" for why, count in row.get("unread", {}).items())
    return Score(
        measure=f"{row['measure']} ({'written' if row['how'] == 'generation' else 'likeliest option'})",
        group=row["category"],
        value=row["value"],
        low=row["low"],
        high=row["high"],
        number=row["questions"],
        chance=row.get("baselines", {}).get("chance", 0.0),
        baselines=baselines,
        text_only=row.get("text_only"),
        difference=row.get("difference"),
        difference_low=row.get("difference_low"),
        difference_high=row.get("difference_high"),
        p_value=row.get("mcnemar_p"),
        note=f"not read: {unread}" if unread else "",
        paired=paired,
        drawn=row.get("drawn"),
        right=row.get("right"),
    )


def _counted_as_wrong(headline: Score, total: int) -> Score:
    """The headline where what is missing counts as wrong."""
    factor = headline.number / total
    return Score(
        measure=headline.measure, group="all, missing counted as wrong", value=headline.value * factor,
        low=None if headline.low is None else headline.low * factor,
        high=None if headline.high is None else headline.high * factor,
        number=total, chance=headline.chance,
    )  # fmt: skip


def _parsed_only(questions: Sequence[VQAQuestion], answers: Sequence[VQAPrediction]) -> list[Score]:
    """Accuracy among the answers that could be read: some publish this, and it is the higher number."""
    read = [
        (q, letter)
        for q, a in zip(questions, answers, strict=True)
        if a.text is not None and (letter := parse_answer(a.text, q.options).letter)
    ]
    written = sum(answer.text is not None for answer in answers)
    if not read or len(read) == written:
        return []
    value = float(np.mean([q.answer == letter for q, letter in read]))
    chance = float(np.mean([1 / q.offered for q, _ in read]))
    note = f"{written - len(read)} of {written} answers name no option; here they are left out, above they are wrong"
    return [Score("accuracy (written, parsed only)", "all", value, None, None, len(read), chance, note=note)]


def _items(questions: Sequence[VQAQuestion], answers: Sequence[VQAPrediction]) -> list[dict[str, Any]]:
    rows = []
    for question, answer in zip(questions, answers, strict=True):
        row: dict[str, Any] = {
            "question_id": question.question_id, "slide": question.slide_id, "category": question.category,
            "key": question.answer,
        }  # fmt: skip
        if answer.text is not None:
            parsed = parse_answer(answer.text, question.options)
            row |= {"answer": answer.text[:200], "read_as": parsed.letter or "", "read_by": parsed.why}
        if answer.probabilities is not None:
            row["likeliest"] = ascii_uppercase[int(np.argmax(answer.probabilities))]
        rows.append(row)
    return rows
