"""How far an assistant's answers can be trusted: a temperature, when to say that the slide cannot tell, and from where
on a yes-or-no question is answered with yes, with no, or not at all."""

import json
import math
from dataclasses import dataclass
from hashlib import file_digest
from pathlib import Path
from typing import Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from pathflip.errors import CheckpointError
from pathflip.io.files import write_json

__all__ = ["AnswerCalibration", "YesOrNo", "YesOrNoCalibration", "YesOrNoScores", "read_answer_calibration"]

CALIBRATION_FILE = "calibration.json"
WEIGHTS_FILE = "assistant.safetensors"

YesOrNo = Literal["yes", "no", "undecided"]


@dataclass(frozen=True)
class YesOrNoScores:
    """What speaks for a yes to one question.

    Attributes:
        words: log-odds of the language model's answer beginning with "Yes" instead of "No".
        presence, gate, margin: of what the question speaks of, from the alignment model
            (:class:`~pathflip.models.measurements.Measures`); of several slides those where its presence is highest.
            Gate and margin depend on the text alone: they tell how high its presence is on any slide.
        answers_so: probability that the language model begins with either word.
    """

    words: float
    presence: float
    gate: float
    margin: float
    answers_so: float = 1.0


class YesOrNoCalibration(BaseModel):
    """When a yes-or-no question ("Is there necrosis?") is answered with yes or no, fitted on patients not trained on.

    Two logistic regressions, one on the other: what the alignment model sees, and with it what the language model would
    say. From ``yes_from`` on lay at most a twentieth of the questions whose answer is no, below ``no_below`` at most a
    twentieth of those whose answer is yes; what lies between is undecided.

    Attributes:
        presence, gate, margin, evidence_intercept: log-odds of a yes by the alignment model alone.
        words, evidence, intercept: weights of the language model's log-odds and of those in the sum.
        yes_from, no_below: log-odds; ``no_below`` is not above ``yes_from``.
        fitted_on: on what, in words. measured: what it showed there, on patients left out of the fit.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    presence: float
    gate: float
    margin: float
    evidence_intercept: float
    words: float
    evidence: float
    intercept: float
    yes_from: float
    no_below: float
    fitted_on: str
    measured: dict[str, float] = {}

    def of_evidence(self, scores: YesOrNoScores) -> float:
        """Log-odds of a yes by what the alignment model sees alone."""
        seen = self.presence * scores.presence + self.gate * scores.gate + self.margin * scores.margin
        return seen + self.evidence_intercept

    def log_odds(self, scores: YesOrNoScores) -> float:
        """Log-odds of a yes, at even odds before the slide was looked at."""
        return self.words * scores.words + self.evidence * self.of_evidence(scores) + self.intercept

    def decide(self, scores: YesOrNoScores) -> YesOrNo:
        """Yes, no, or what validation patients could not tell."""
        odds = self.log_odds(scores)
        return "yes" if odds >= self.yes_from else "no" if odds < self.no_below else "undecided"


class AnswerCalibration(BaseModel):
    """How far an assistant's probabilities can be trusted, fitted on questions whose answers are known.

    Attributes:
        temperature: logits of the options are divided by it.
        refusal_slope, refusal_intercept: P(the slide cannot tell) = σ(slope · logit + intercept), of the log-odds of
            the words "cannot be determined from this slide" as the answer to the question without options.
        refuse_above: probability from which an answer is withheld.
        fitted_on: on what, in words; empty where nothing was fitted.
        measured: what it showed there (calibration error before and after, fractions of both kinds withheld).
        yes_or_no: of yes-or-no questions; None where nothing was fitted, and their answers say so.
        weights_digest: of ``assistant.safetensors``, with which it belongs; "" in files of older versions.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    temperature: float = Field(1.0, gt=0)
    refusal_slope: float = 1.0
    refusal_intercept: float = 0.0
    refuse_above: float = Field(0.5, ge=0, le=1)
    fitted_on: str = ""
    measured: dict[str, float] = {}
    yes_or_no: YesOrNoCalibration | None = None
    weights_digest: str = ""

    def scaled(self, probabilities: np.ndarray) -> np.ndarray:
        """Probabilities of options at this temperature."""
        logits = np.log(np.maximum(probabilities, 1e-12)) / self.temperature
        weights = np.exp(logits - logits.max())
        return np.asarray(weights / weights.sum())

    def refusal(self, logit: float) -> float:
        """Probability that the slide cannot tell."""
        return sigmoid(self.refusal_slope * logit + self.refusal_intercept)

    def write(self, assistant: str | Path) -> Path:
        """Keep it beside an assistant's weights, with their digest; the file."""
        file = Path(assistant) / CALIBRATION_FILE
        own = self.model_copy(update={"weights_digest": _weights_digest(Path(assistant))})
        write_json(file, own.model_dump(mode="json"))
        return file


def read_answer_calibration(assistant: str | Path) -> AnswerCalibration:
    """The calibration in an assistant's directory; one that changes nothing where there is none.

    Raises:
        CheckpointError: the file is damaged, or was fitted with other weights.
    """
    path = Path(assistant) / CALIBRATION_FILE
    if not path.is_file():
        return AnswerCalibration()
    try:
        calibration = AnswerCalibration.model_validate(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, ValidationError, RecursionError) as error:
        raise CheckpointError(f"'{path}': damaged ({str(error).splitlines()[0]}); fit it again or delete it") from None
    if calibration.weights_digest not in ("", _weights_digest(Path(assistant))):
        raise CheckpointError(
            f"'{path}': was fitted for other weights than the {WEIGHTS_FILE} beside it; fit it again "
            "(pathflip calibrate --assistant …) or delete it"
        )
    return calibration


def _weights_digest(assistant: Path) -> str:
    with open(assistant / WEIGHTS_FILE, "rb") as handle:
        return file_digest(handle, "sha256").hexdigest()[:32]


def sigmoid(logit: float) -> float:
    """The probability of log-odds, without overflow."""
    return 1 / (1 + math.exp(-max(-60.0, min(60.0, logit))))
