"""Yes-or-no questions: what speaks for a yes, and what the calibration makes of it."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float

from pathflip.assistant.calibration import YesOrNo, YesOrNoCalibration, YesOrNoScores, sigmoid
from pathflip.assistant.generation import PROMPTS_AT_ONCE, Prompt, prompt_row
from pathflip.assistant.saved_assistant import LoadedAssistant
from pathflip.data.instruct import rows_to_batch
from pathflip.models.measurements import QUESTION
from pathflip.text.chat import ChatPiece
from pathflip.text.questions import asks_whether
from pathflip.text.sub_captions import parse_sub_caption

__all__ = ["Verdict", "decide", "denies", "places_of_yes_and_no", "verdicts", "with_verdict", "yes_or_no_scores"]

_PRESENCE, _GATE, _MARGIN = 0, 1, 2
"""Columns of the measures (:meth:`~pathflip.models.measurements.Measures.stack`)."""
LEAST_ANSWERED_SO = 0.5
"""A question that the language model would answer with other words than yes or no, more likely than not, is open."""

DENIES = "a yes would say that something is not there; ask whether it is there"


@dataclass(frozen=True)
class Verdict:
    """What a calibration makes of one question's scores.

    Attributes:
        side: yes, no or undecided.
        probability: of a yes, at even odds before the slide was looked at.
        note: what the person who asked must know: why it is undecided, or that language model and slide disagree; "".
    """

    side: YesOrNo
    probability: float
    note: str = ""


def verdicts(assistant: LoadedAssistant, prompts: Sequence[Prompt]) -> list[Verdict | None]:
    """What the calibration makes of open questions; None of those that are not answered with yes or no, and of all
    where no threshold is stored."""
    fitted = assistant.calibration.yes_or_no
    asked = [one for one in prompts if asks_whether(one.question)] if fitted is not None else []
    weighed = dict(zip(map(id, asked), yes_or_no_scores(assistant, asked), strict=True)) if asked else {}
    out: list[Verdict | None] = []
    for one in prompts:
        scores = weighed.get(id(one))
        if fitted is None or scores is None or scores.answers_so < LEAST_ANSWERED_SO:
            out.append(None)
        else:
            out.append(Verdict("undecided", 0.5, DENIES) if denies(one.question) else decide(fitted, scores))
    return out


def denies(question: str) -> bool:
    """Whether a yes would say that something is not there ("Is necrosis absent?")."""
    return parse_sub_caption(question.rstrip(" ?")).negated


def places_of_yes_and_no(question: str, options: Sequence[str]) -> tuple[int, int] | None:
    """Where the options of a yes-or-no question say yes and no; None where it is none, or says so twice or never."""
    if not asks_whether(question):
        return None
    words = [option.strip(" .,!").lower() for option in options]
    if words.count("yes") != 1 or words.count("no") != 1:
        return None
    return words.index("yes"), words.index("no")


@torch.no_grad()
def yes_or_no_scores(assistant: LoadedAssistant, prompts: Sequence[Prompt]) -> list[YesOrNoScores]:
    """What speaks for a yes to each of some open questions; many at a time.

    Args:
        assistant: from :func:`~pathflip.assistant.load_assistant`. prompts: made without options.
    """
    yes, no = (assistant.template.answer_ids(word, ended=False) for word in ("Yes", "No"))
    shared = next((i for i, pair in enumerate(zip(yes, no, strict=False)) if len(set(pair)) > 1), -1)
    if shared < 0:  # a tokenizer that knows neither word
        return [YesOrNoScores(0.0, *_measured(one), answers_so=0.0) for one in prompts]
    scores: list[YesOrNoScores] = []
    for start in range(0, len(prompts), PROMPTS_AT_ONCE):
        some = prompts[start : start + PROMPTS_AT_ONCE]
        rows = [prompt_row(one, [*one.pieces, ChatPiece(yes[:shared])]) for one in some]
        batch = rows_to_batch(rows, assistant.model.config.embed_dim).to(assistant.device)
        likely = assistant.model.next_logits(batch).float().log_softmax(-1)[:, [yes[shared], no[shared]]].cpu()
        for one, (of_yes, of_no) in zip(some, likely.tolist(), strict=True):
            either = min(1.0, sum(torch.tensor([of_yes, of_no]).exp().tolist()))
            scores.append(YesOrNoScores(of_yes - of_no, *_measured(one), either))
    return scores


def _measured(prompt: Prompt) -> tuple[float, float, float]:
    """Presence, gate and margin of what the question speaks of, on the slide where its presence is highest."""
    slides = [one.numbers[one.kind == QUESTION].mean(0) for one in prompt.slides if (one.kind == QUESTION).any()]
    if not slides:
        return 0.0, 0.0, 0.0
    best = max(slides, key=lambda numbers: float(numbers[_PRESENCE]))
    return float(best[_PRESENCE]), float(best[_GATE]), float(best[_MARGIN])


def decide(calibration: YesOrNoCalibration, scores: YesOrNoScores) -> Verdict:
    """The side that a question's scores lie on, and what must be said beside it."""
    side, odds = calibration.decide(scores), calibration.log_odds(scores)
    probability, seen = sigmoid(odds), sigmoid(calibration.of_evidence(scores))
    if side == "undecided":
        low, high = sigmoid(calibration.no_below), sigmoid(calibration.yes_from)
        note = (
            f"yes at {probability:.0%}: it says no below {low:.0%} and yes from {high:.0%}; between, "
            f"{calibration.fitted_on} showed too many of both"
        )
    elif (side == "yes") != (seen >= 0.5):
        note = f"what is seen on the slide speaks for {'no' if side == 'yes' else 'yes'} (yes at {seen:.0%})"
    elif (side == "yes") != (scores.words > 0):
        note = f"the language model alone would have said {'no' if side == 'yes' else 'yes'}"
    else:
        note = ""
    return Verdict(side, probability, note)


def with_verdict(
    question: str, options: Sequence[str], probabilities: Float[np.ndarray, " O"], verdict: Verdict
) -> Float[np.ndarray, " O"]:
    """Probabilities of options, of which one says yes and one no: what these two share is divided by the verdict."""
    places = places_of_yes_and_no(question, options)
    if places is None:
        return probabilities
    yes, no = places
    out, both = probabilities.copy(), probabilities[yes] + probabilities[no]
    out[yes], out[no] = both * verdict.probability, both * (1 - verdict.probability)
    return out
