"""What turns a model's scores into probabilities one may act on: a JSON file beside the checkpoint.

It is fitted by :mod:`pathflip.evaluate.verifier_calibration` on slides and reports the model was not trained on,
and belongs to one set of weights. Probabilities are at **even odds**: what the slide says, before anything is known of
how often reports are right. Where nine sentences of ten are right to begin with, a wrong one is rarer than the number
reads.
"""

import json
from hashlib import sha256
from pathlib import Path

import numpy as np
from jaxtyping import Float
from pydantic import AliasChoices, BaseModel, ConfigDict, Field, ValidationError

from pathflip.errors import CheckpointError
from pathflip.io.files import write_json
from pathflip.verify.scores import Knowledge

__all__ = [
    "FILE_NAME",
    "Fit",
    "Logistic",
    "VerifierCalibration",
    "read_verifier_calibration",
    "weights_digest",
    "write_verifier_calibration",
]

FILE_NAME = "calibration.json"
FORMAT = "pathflip-calibration"
FORMAT_VERSION = 1


class Logistic(BaseModel):
    """Platt's scaling (1999) with one weight a score: probability = 1 / (1 + exp(-(weights·scores + bias))).

    With one score this is a temperature, 1 / weight, and a bias.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    scores: tuple[str, ...]
    weights: tuple[float, ...]
    bias: float

    def probability(self, scores: Float[np.ndarray, "n F"]) -> Float[np.ndarray, " n"]:
        """Probability of each row of scores, columns in the order of ``self.scores``."""
        logit = np.asarray(scores, float) @ np.array(self.weights) + self.bias
        return np.asarray(0.5 * (1 + np.tanh(logit / 2)))


class Fit(BaseModel):
    """How one of the two calibrations came about and how good it is.

    Attributes:
        logistic: scores to probability.
        low, high: beyond these the examples are as they read, but for a fraction of 1 - ``safe``; None
            where no probability is that safe.
        ece_before, ece_after: expected calibration error of the model's own sigmoid, and of the fitted probability on
            patients left out of the fit.
        brier_skill_before, brier_skill_after, log_loss_skill_before, log_loss_skill_after: of the same two
            probabilities, over always stating how many of the examples are true (0; a calibration error alone is small
            for that, too). None in files of older versions.
        auroc: on patients left out of the fit.
        examples: true and false examples.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    logistic: Logistic
    low: float | None
    high: float | None
    ece_before: float
    ece_after: float
    brier_skill_before: float | None = None
    brier_skill_after: float | None = None
    log_loss_skill_before: float | None = None
    log_loss_skill_after: float | None = None
    auroc: float
    examples: tuple[int, int]


class VerifierCalibration(BaseModel):
    """Everything verification needs beside the checkpoint (docs/verify.md specifies the file).

    Attributes:
        weights_digest: of ``model.safetensors``; another model's calibration is refused.
        split: which slides it was fitted on. slides, patients: how many.
        knowledge: words, findings, alternatives and what they look like.
        sub-captions: is a sentence of a report true of the slide?
        findings: does the slide show a finding? None where the captions affirm and deny too few.
        omitted_from: a finding that no sentence names is told from this probability on, which a fraction ``1 - safe``
            of the calibration slides' own reports reach (there are many findings to be wrong about).
        safe: fraction of the examples beyond a threshold that are as they read.
        unknown_fraction: from this fraction of unknown words on a sentence is not judged.
        note: what the probabilities must not be taken for.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: str = FORMAT
    format_version: int = FORMAT_VERSION
    weights_digest: str
    split: str
    slides: int
    patients: int
    knowledge: Knowledge
    sub_captions: Fit = Field(validation_alias=AliasChoices("sub_captions", "statements"))
    findings: Fit | None
    omitted_from: float | None = None
    safe: float = Field(0.8, gt=0.5, lt=1)
    unknown_fraction: float = Field(0.5, gt=0, le=1, validation_alias=AliasChoices("unknown_fraction", "unknown_share"))
    note: str = ""


def weights_digest(checkpoint: Path) -> str:
    """What identifies the weights of a checkpoint directory."""
    with open(checkpoint / "model.safetensors", "rb") as handle:
        digest = sha256()
        while block := handle.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()[:32]


def write_verifier_calibration(checkpoint: Path, calibration: VerifierCalibration) -> Path:
    """Write ``calibration.json`` into a checkpoint directory."""
    values = calibration.model_dump(mode="json")
    lexicon = values["knowledge"]["lexicon"]
    lexicon["words"] = sorted(lexicon["words"])
    write_json(checkpoint / FILE_NAME, values)
    return checkpoint / FILE_NAME


def read_verifier_calibration(checkpoint: Path) -> VerifierCalibration | None:
    """The calibration of a checkpoint directory; None where it has none.

    Raises:
        CheckpointError: damaged, of another version, or of other weights.
    """
    file = checkpoint / FILE_NAME
    again = "run  pathflip calibrate  again"
    if not file.is_file():
        return None
    try:
        values = json.loads(file.read_text(encoding="utf-8"))
        calibration = VerifierCalibration.model_validate(values)
    except (OSError, ValueError, ValidationError) as error:
        reason = str(error).strip().split("\n")[0]
        raise CheckpointError(f"{file}: not a calibration this version reads ({reason}); {again}") from None
    if (calibration.format, calibration.format_version) != (FORMAT, FORMAT_VERSION):
        raise CheckpointError(
            f"{file}: is {calibration.format} version {calibration.format_version}, "
            f"expected {FORMAT} {FORMAT_VERSION}; {again}"
        )
    if calibration.weights_digest != weights_digest(checkpoint):
        raise CheckpointError(f"{file}: was fitted for other weights than the model.safetensors beside it; {again}")
    return calibration
