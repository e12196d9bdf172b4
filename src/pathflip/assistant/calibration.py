"""How far an assistant's probabilities can be trusted: a temperature, and when to say that the slide cannot tell."""

import json
import math
from pathlib import Path

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from pathflip.errors import CheckpointError
from pathflip.io.files import write_json

__all__ = ["AnswerCalibration", "read_answer_calibration"]

CALIBRATION_FILE = "calibration.json"


class AnswerCalibration(BaseModel):
    """How far an assistant's probabilities can be trusted, fitted on questions whose answers are known.

    Attributes:
        temperature: logits of the options are divided by it.
        refusal_slope, refusal_intercept: P(the slide cannot tell) = σ(slope · logit + intercept), of the log-odds of
            the words "cannot be determined from this slide" as the answer to the question without options.
        refuse_above: probability from which an answer is withheld.
        fitted_on: on what, in words; empty where nothing was fitted.
        measured: what it showed there (calibration error before and after, fractions of both kinds withheld).
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    temperature: float = Field(1.0, gt=0)
    refusal_slope: float = 1.0
    refusal_intercept: float = 0.0
    refuse_above: float = Field(0.5, ge=0, le=1)
    fitted_on: str = ""
    measured: dict[str, float] = {}

    def scaled(self, probabilities: np.ndarray) -> np.ndarray:
        """Probabilities of options at this temperature."""
        logits = np.log(np.maximum(probabilities, 1e-12)) / self.temperature
        weights = np.exp(logits - logits.max())
        return np.asarray(weights / weights.sum())

    def refusal(self, logit: float) -> float:
        """Probability that the slide cannot tell."""
        return 1 / (1 + math.exp(-max(-60.0, min(60.0, self.refusal_slope * logit + self.refusal_intercept))))

    def write(self, assistant: str | Path) -> None:
        """Keep it beside an assistant's weights."""
        write_json(Path(assistant) / CALIBRATION_FILE, self.model_dump(mode="json"))


def read_answer_calibration(assistant: str | Path) -> AnswerCalibration:
    """The calibration in an assistant's directory; one that changes nothing where there is none.

    Raises:
        CheckpointError: the file is damaged.
    """
    path = Path(assistant) / CALIBRATION_FILE
    if not path.is_file():
        return AnswerCalibration()
    try:
        return AnswerCalibration.model_validate(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, ValidationError) as error:
        raise CheckpointError(f"'{path}': damaged ({str(error).splitlines()[0]}); fit it again or delete it") from None
