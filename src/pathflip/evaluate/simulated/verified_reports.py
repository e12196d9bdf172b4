"""Verified reports for the demo's page: errors planted in true reports, and whether they were found."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from pathflip.errors import ConfigError
from pathflip.evaluate.simulated.planted_errors import SlideTruth, VerificationStudy, read_truth, study_verification
from pathflip.evaluate.verifier_calibration import calibrate
from pathflip.features import read_features
from pathflip.inference import Aligned, EncodedSlide, encode_slide
from pathflip.simulate.phrases import NAMES
from pathflip.simulate.report_writer import ERROR_KINDS, CorruptedReport, PlantedError, corrupt_report
from pathflip.text.sub_captions import parse_sub_caption
from pathflip.types import Caption
from pathflip.verify.calibration import VerifierCalibration, write_verifier_calibration
from pathflip.verify.judge import Verification, verify_report
from pathflip.verify.report_page import slide_thumbnail, verification_view, write_verification

__all__ = ["CohortVerification", "ErrorView", "VerifiedExample", "verified_examples", "verify_cohort"]


@dataclass(frozen=True)
class ErrorView:
    """One planted error and what became of it.

    Attributes:
        kind, attribute, sentence, original: as planted ("" where there is none).
        outcome: "found" (called contradicted, or named as left out), "doubted" (improbable, not safely so) or "missed".
        probability: of the false sentence, or of the finding left out where it was named; None otherwise.
    """

    kind: str
    attribute: str | None
    sentence: str
    original: str
    outcome: str
    probability: float | None


@dataclass(frozen=True)
class VerifiedExample:
    """A report with planted errors, verified: ``view`` is what ``verify.html`` shows, for a page to embed."""

    slide_id: str
    text: str
    verification: Verification = field(repr=False)
    view: dict[str, Any] = field(repr=False)
    errors: tuple[ErrorView, ...]


@dataclass(frozen=True)
class CohortVerification:
    """Everything a report page tells of verification: the table, the calibration, and examples picked by rule."""

    study: VerificationStudy
    calibration: VerifierCalibration = field(repr=False)
    examples: tuple[VerifiedExample, ...]


def verify_cohort(
    model: Aligned,
    cohort: Path,
    features: Path,
    captions: dict[str, tuple[list[Path], list[Caption]]],
    *,
    out: Path | None = None,
    seed: int = 0,
    num_examples: int = 3,
    num: int = 1000,
) -> CohortVerification:
    """Calibrate on val, measure planted errors on test, and verify example reports of a painted cohort.

    Args:
        model: read from its directory, where ``calibration.json`` is written.
        cohort: written by ``pathflip simulate``. features: folder of feature files.
        captions: split -> (files, captions), from :func:`pathflip.recipes.align.read_split`.
        out: where to write the examples' pages; None writes none.
        num: bootstrap resamples of patients.

    Raises:
        ConfigError: a split without slides.
    """
    for split in ("train", "val", "test"):
        if not captions[split][1]:
            raise ConfigError(f"verification: no slide in the split '{split}'; expected train, val and test")
    encoded = {split: _encoded(model, features, captions[split][1]) for split in ("val", "test")}
    seen = _encoded(model, features, captions["train"][1])
    training = captions["train"][1]
    calibration = calibrate(model, encoded["val"], captions["val"][1], training, seen, split="val", seed=seed)
    if model.checkpoint.path is not None:
        write_verifier_calibration(model.checkpoint.path, calibration)
    truths = read_truth(cohort, [caption.slide_id for caption in captions["test"][1]])
    study = study_verification(model, encoded["test"], truths, calibration, training, seed=seed, num=num)
    examples = verified_examples(cohort, model, encoded["test"], truths, calibration, seed=seed, num=num_examples)
    if out is not None:
        by_id = {slide.slide_id: slide for slide in encoded["test"]}
        for example in examples:
            slide = by_id[example.slide_id]
            picture = slide_thumbnail(cohort / "slides" / f"{slide.slide_id}.tif", slide)
            write_verification(example.verification, model, slide, out, thumbnail=picture, note=model.note)
    return CohortVerification(study, calibration, tuple(examples))


def _encoded(model: Aligned, features: Path, captions: Sequence[Caption]) -> list[EncodedSlide]:
    return [encode_slide(model, read_features(features / f"{caption.slide_id}.h5")) for caption in captions]


def verified_examples(
    cohort: Path,
    model: Aligned,
    slides: Sequence[EncodedSlide],
    truths: Sequence[SlideTruth],
    calibration: VerifierCalibration,
    *,
    seed: int = 0,
    num: int = 3,
) -> list[VerifiedExample]:
    """Reports with one error of each kind, at even steps from most errors found to fewest, none picked by hand.

    Ties are broken by how improbable the false sentences are, then by the slides' order.
    """
    judged = []
    for row, (slide, truth) in enumerate(zip(slides, truths, strict=True)):
        rng = np.random.default_rng([seed, row, 1])
        made = corrupt_report(truth.report, truth.plan, truth.measured, rng, ERROR_KINDS)
        sub_captions = [parse_sub_caption(s.sentence) for s in made.sub_captions]
        verification = verify_report(model, slide, sub_captions, calibration)
        errors = tuple(_outcome(error, verification) for error in made.errors)
        judged.append((-_success(errors), row, made, verification, errors))
    judged.sort(key=lambda entry: entry[:2])
    places = [round(i * (len(judged) - 1) / max(1, num - 1)) for i in range(min(num, len(judged)))]
    return [_example(cohort, model, slides, judged[place][1:]) for place in dict.fromkeys(places)]


def _example(
    cohort: Path,
    model: Aligned,
    slides: Sequence[EncodedSlide],
    judged: tuple[int, CorruptedReport, Verification, tuple[ErrorView, ...]],
) -> VerifiedExample:
    row, made, verification, errors = judged
    slide = slides[row]
    picture = slide_thumbnail(cohort / "slides" / f"{slide.slide_id}.tif", slide)
    return VerifiedExample(
        slide.slide_id, made.text, verification, verification_view(verification, model, slide, picture), errors
    )


def _success(errors: Sequence[ErrorView]) -> float:
    """Fraction of errors found, and a little for how improbable the false sentences are."""
    if not errors:
        return 0.0
    doubt = [1 - e.probability for e in errors if e.sentence and e.probability is not None]
    fraction = sum(e.outcome == "found" for e in errors) / len(errors)
    return fraction + 0.01 * (float(np.mean(doubt)) if doubt else 0.0)


def _outcome(error: PlantedError, verification: Verification) -> ErrorView:
    sentence, original = error.sentence or "", error.original or ""
    probability: float | None = None
    outcome = "missed"
    if sentence:
        judgement = next(j for j in verification.judgements if j.sentence == sentence)
        probability = judgement.probability
        if judgement.verdict == "contradicted":
            outcome = "found"
        elif judgement.verdict == "uncertain" and probability is not None and probability < 0.5:
            outcome = "doubted"
    else:
        names = NAMES[error.concept].wording.seen
        named = [o.probability for o in verification.omissions if o.finding in names]
        if named:
            outcome, probability = "found", max(named)
    return ErrorView(error.kind, error.attribute, sentence, original, outcome, probability)
