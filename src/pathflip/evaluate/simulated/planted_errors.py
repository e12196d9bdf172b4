"""How well planted errors are found: AUROC for each kind, against a coin, the words alone, and another slide.

Reports of painted slides are true by construction, so an error planted in one (an attribute exchanged, a finding
invented or left out, a negation turned) is the only thing wrong with it. For each kind the false sentences are told
from the true ones that could have borne the same error (a wrong grade from true grades, not from any sentence) by the
verifier's probability; an omission is told from the intact report by the omission score. Two baselines show what the
words give away: one has no slide, the other a wrong one.
"""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float

from pathflip.errors import ConfigError
from pathflip.evaluate import metrics
from pathflip.evaluate.bootstrap import bootstrap_interval
from pathflip.evaluate.metrics import Interval
from pathflip.evaluate.probability_scores import skills_of_binary
from pathflip.inference import Aligned, EncodedSlide
from pathflip.simulate.report_writer import ERROR_KINDS, CorruptedReport, PaintedSubCaption, Report, corrupt_report
from pathflip.simulate.world import CasePlan, Measured, PlacedFinding
from pathflip.text.known_words import content_words
from pathflip.text.sub_captions import parse_sub_caption
from pathflip.types import Caption, SubCaption
from pathflip.verify.calibration import VerifierCalibration
from pathflip.verify.judge import omission_scores
from pathflip.verify.scores import score_rows, weigh_sub_captions

__all__ = ["ErrorRow", "Planted", "SlideTruth", "VerificationStudy", "plant_errors", "read_truth", "study_verification"]

DRAWS = 3
"""Errors of each kind planted in every report, each in a copy of its own."""
ATTRIBUTES = ("tumour", "grade", "pattern", "place", "extent")
OMITTED = "finding_omitted"


@dataclass(frozen=True)
class SlideTruth:
    """What a painted slide shows, and its true report."""

    slide_id: str
    patient: str
    plan: CasePlan
    measured: Mapping[str, Measured]
    report: Report


@dataclass(frozen=True)
class Planted:
    """A report with one error. ``slide`` is a row number, ``sentence`` the false one ("" where one was left out), and
    ``original`` what stood there ("" where one was invented)."""

    slide: int
    kind: str
    attribute: str | None
    concept: str
    sentence: str
    original: str
    report: CorruptedReport


@dataclass(frozen=True)
class ErrorRow:
    """How well one kind of error is found; the interval is over patients.

    Attributes:
        kind: of ``ERROR_KINDS``. attribute: of an exchange, or None for all.
        errors: how many were planted.
        auroc: false sentences against true ones of their kind (reports with an omission against intact ones).
        words: the same from the words alone: how common they are in training captions (omission: number of sentences).
        wrong_slide: of the verifier, shown another patient's slide.
        paired: fraction of errors less probable than the true sentence they replaced; nan where they replaced none.
        caught: fraction of errors called contradicted (omission: a finding named).
        false_alarms: fraction of those true sentences called contradicted (omission: of intact reports with a finding
            named).
    """

    kind: str
    attribute: str | None
    errors: int
    auroc: Interval
    words: float
    wrong_slide: float
    paired: float
    caught: float
    false_alarms: float


@dataclass(frozen=True)
class VerificationStudy:
    """Rows of the table, and calibration on the planted errors.

    Attributes:
        ece_raw, ece: expected calibration error of the model's own sigmoid and of the verifier's probability.
        skills_raw, skills: Brier and log-loss skill of the same, over always stating ``fraction_true``.
        fraction_true: of the sentences both were measured on.
    """

    rows: tuple[ErrorRow, ...]
    ece_raw: float
    ece: float
    skills_raw: tuple[float, float]
    skills: tuple[float, float]
    fraction_true: float
    sentences: int


def read_truth(cohort: Path, slide_ids: Sequence[str]) -> list[SlideTruth]:
    """Plans, measurements and reports of painted slides, from ``truth/ID.json``."""
    truths = []
    for slide_id in slide_ids:
        record = json.loads((cohort / "truth" / f"{slide_id}.json").read_text(encoding="utf-8"))
        plan = dict(record["plan"])
        plan["findings"] = tuple(PlacedFinding(**finding) for finding in plan["findings"])
        measured = {name: Measured(**values) for name, values in record["measured"].items()}
        report = record["report"]
        rows = report["sub_captions"] if "sub_captions" in report else report["statements"]  # its name before
        sub_captions = tuple(PaintedSubCaption(**{**row, "others": tuple(row["others"])}) for row in rows)
        written = Report(report["text"], sub_captions)
        truths.append(SlideTruth(slide_id, plan["patient"], CasePlan(**plan), measured, written))
    return truths


def plant_errors(truths: Sequence[SlideTruth], seed: int = 0, draws: int = DRAWS) -> list[Planted]:
    """``draws`` errors of each kind in every report, one a copy; equal errors are kept once."""
    errors: dict[tuple[int, str, str, str], Planted] = {}
    for row, truth in enumerate(truths):
        rng = np.random.default_rng([seed, row])
        for kind in ERROR_KINDS * draws:
            made = corrupt_report(truth.report, truth.plan, truth.measured, rng, [kind])
            for error in made.errors:
                sentence, original = error.sentence or "", error.original or ""
                planted = Planted(
                    slide=row,
                    kind=kind,
                    attribute=error.attribute,
                    concept=error.concept,
                    sentence=sentence,
                    original=original,
                    report=made,
                )
                errors.setdefault((row, kind, sentence, original), planted)
    return list(errors.values())


def study_verification(
    model: Aligned,
    slides: Sequence[EncodedSlide],
    truths: Sequence[SlideTruth],
    calibration: VerifierCalibration,
    training_captions: Sequence[Caption],
    *,
    seed: int = 0,
    num: int = 1000,
) -> VerificationStudy:
    """Plant errors in true reports and measure how well they are found.

    Args:
        slides, truths: aligned; patients the model and the calibration have not seen.
        training_captions: what the words-only baseline counts in.
        seed: of the errors and the resampling. num: bootstrap resamples of patients.

    Raises:
        ConfigError: fewer than two patients.
    """
    patients = [truth.patient for truth in truths]
    if len(set(patients)) < 2:
        raise ConfigError(f"verification: got slides of {len(set(patients))} patient, expected at least two")
    planted = plant_errors(truths, seed)
    sentences = _sentences(truths, planted)
    own = _judged(model, slides, sentences, calibration)
    other = _judged(model, [slides[i] for i in _other_patients(patients)], sentences, calibration)
    table = _Table(
        planted=planted,
        truths=truths,
        sentences=sentences,
        own=own,
        other=other,
        common=_commonness(training_captions),
        calibration=calibration,
    )
    completeness = _Completeness(
        model=model,
        slides=slides,
        other=_other_patients(patients),
        truths=truths,
        planted=planted,
        calibration=calibration,
    )
    rng = np.random.default_rng(seed)
    rows = []
    for kind in ERROR_KINDS:
        rows.append(completeness.row(rng, num) if kind == OMITTED else table.row(kind, None, rng, num))
    rows += [table.row("attribute_swapped", attribute, rng, num) for attribute in ATTRIBUTES]
    truth = np.array([s.stated is not None for s in sentences])
    raw = 0.5 * (1 + np.tanh(own.logit / 2))
    return VerificationStudy(
        rows=tuple(row for row in rows if row.errors),
        ece_raw=metrics.expected_calibration_error(raw, truth),
        ece=metrics.expected_calibration_error(own.probability, truth),
        skills_raw=skills_of_binary(raw, truth),
        skills=skills_of_binary(own.probability, truth),
        fraction_true=float(truth.mean()),
        sentences=len(truth),
    )


# --- Sentences -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Sentence:
    """A visible sentence about a slide: a true one and what it states, or (``stated`` None) a planted error."""

    slide: int
    sub_caption: SubCaption
    stated: PaintedSubCaption | None


@dataclass(frozen=True)
class _Judged:
    logit: Float[np.ndarray, " n"]
    probability: Float[np.ndarray, " n"]


def _sentences(truths: Sequence[SlideTruth], planted: Sequence[Planted]) -> list[_Sentence]:
    """Every true visible sentence once, then every planted one."""
    true = {(row, s.sentence): s for row, truth in enumerate(truths) for s in truth.report.sub_captions if s.visual}
    false = dict.fromkeys((p.slide, p.sentence) for p in planted if p.sentence)
    out = [_Sentence(row, parse_sub_caption(text), stated) for (row, text), stated in true.items()]
    return out + [_Sentence(row, parse_sub_caption(text), None) for row, text in false]


def _could_bear(stated: PaintedSubCaption | None, kind: str, attribute: str | None) -> bool:
    """Whether a true sentence is of the kind that an error of this kind makes false."""
    if stated is None:
        return False
    if kind == "attribute_swapped":
        return any(getattr(stated, name) is not None for name in ((attribute,) if attribute else ATTRIBUTES))
    if kind == "finding_invented":
        return stated.kind == "finding"
    return stated.kind in ("finding", "absence") and not stated.others


def _judged(
    model: Aligned, slides: Sequence[EncodedSlide], sentences: Sequence[_Sentence], calibration: VerifierCalibration
) -> _Judged:
    logit, probability = np.zeros(len(sentences)), np.zeros(len(sentences))
    for row, slide in enumerate(slides):
        places = [i for i, s in enumerate(sentences) if s.slide == row]
        evidence = weigh_sub_captions(model, slide, [sentences[i].sub_caption for i in places], calibration.knowledge)
        logit[places] = [e.logit for e in evidence]
        probability[places] = calibration.sub_captions.logistic.probability(score_rows(evidence))
    return _Judged(logit, probability)


def _other_patients(patients: Sequence[str]) -> list[int]:
    """For each slide a slide of another patient, as far away in the list as can be."""
    count = len(patients)
    steps = sorted(range(1, count), key=lambda step: abs(step - count // 2))
    return [
        next((row + step) % count for step in steps if patients[(row + step) % count] != patients[row])
        for row in range(count)
    ]


def _commonness(captions: Sequence[Caption]) -> Counter[str]:
    """In how many captions a word stands, words of denials counted apart."""
    return Counter(word for c in captions for word in {w for s in c.sub_captions for w in _marked_words(s)})


def _marked_words(sub_caption: SubCaption) -> list[str]:
    return [f"not {word}" if sub_caption.negated else word for word in content_words(sub_caption.content)]


class _Table:
    """Rows of the table about sentences."""

    def __init__(
        self,
        planted: Sequence[Planted],
        truths: Sequence[SlideTruth],
        sentences: Sequence[_Sentence],
        own: _Judged,
        other: _Judged,
        common: Counter[str],
        calibration: VerifierCalibration,
    ) -> None:
        self.planted, self.own, self.other = planted, own, other
        self.place = {(s.slide, s.sub_caption.text, s.stated is not None): i for i, s in enumerate(sentences)}
        self.stated = [s.stated for s in sentences]
        self.patient = np.array([truths[s.slide].patient for s in sentences])
        self.words = np.array([_mean_log([common[w] for w in _marked_words(s.sub_caption)]) for s in sentences])
        low = calibration.sub_captions.low
        self.contradicted = own.probability <= (-1.0 if low is None else low)

    def row(self, kind: str, attribute: str | None, rng: np.random.Generator, num: int) -> ErrorRow:
        """One kind of error against the true sentences that could have borne it."""
        errors = [p for p in self.planted if p.kind == kind and attribute in (None, p.attribute)]
        places = np.array(sorted({self.place[p.slide, p.sentence, False] for p in errors}), int)
        true = np.array([i for i, stated in enumerate(self.stated) if _could_bear(stated, kind, attribute)], int)
        rows = np.concatenate([true, places])
        false, patients = np.arange(len(rows)) >= len(true), self.patient[rows]
        if not len(places):
            return _no_errors(kind, attribute)
        score = 1 - self.own.probability[rows]
        return ErrorRow(
            kind=kind,
            attribute=attribute,
            errors=len(places),
            auroc=bootstrap_interval(metrics.auroc, false, score, rng=rng, patients=patients, num=num),
            words=metrics.auroc(false, -self.words[rows]),
            wrong_slide=metrics.auroc(false, 1 - self.other.probability[rows]),
            paired=self._paired(errors),
            caught=float(self.contradicted[places].mean()),
            false_alarms=float(self.contradicted[true].mean()),
        )

    def _paired(self, errors: Sequence[Planted]) -> float:
        pairs = [
            (self.own.probability[self.place[p.slide, p.original, True]], self.own.probability[i])
            for p in errors
            if p.original and (i := self.place[p.slide, p.sentence, False]) >= 0
        ]
        return float(np.mean([(true > false) + 0.5 * (true == false) for true, false in pairs])) if pairs else np.nan


def _mean_log(counts: Sequence[int]) -> float:
    return float(np.mean(np.log1p(counts))) if counts else 0.0


class _Completeness:
    """The row about findings left out: reports with an omission against intact ones."""

    def __init__(
        self,
        model: Aligned,
        slides: Sequence[EncodedSlide],
        other: Sequence[int],
        truths: Sequence[SlideTruth],
        planted: Sequence[Planted],
        calibration: VerifierCalibration,
    ) -> None:
        omitted = [p for p in planted if p.kind == OMITTED]
        reports = [(row, [s.sentence for s in t.report.sub_captions]) for row, t in enumerate(truths)]
        reports += [(p.slide, [s.sentence for s in p.report.sub_captions]) for p in omitted]
        parsed = [(row, [s for s in map(parse_sub_caption, texts) if s.visual]) for row, texts in reports]
        self.incomplete = np.arange(len(reports)) >= len(truths)
        self.patient = np.array([truths[row].patient for row, _ in reports])
        self.length = np.array([len(sub_captions) for _, sub_captions in parsed])
        self.score = omission_scores(model, [slides[row] for row, _ in parsed], [s for _, s in parsed], calibration)
        wrong = [slides[other[row]] for row, _ in parsed]
        self.wrong = omission_scores(model, wrong, [s for _, s in parsed], calibration)
        self.of_slide = np.array([row for row, _ in reports])
        limit = calibration.omitted_from
        self.named = self.score > (2.0 if limit is None else limit)

    def row(self, rng: np.random.Generator, num: int) -> ErrorRow:
        """The omission score against its baselines."""
        incomplete: Bool[np.ndarray, " n"] = self.incomplete
        intact = {
            int(row): score for row, score in zip(self.of_slide[~incomplete], self.score[~incomplete], strict=True)
        }
        pairs = [
            (score > intact[int(row)]) + 0.5 * (score == intact[int(row)])
            for row, score in zip(self.of_slide[incomplete], self.score[incomplete], strict=True)
        ]
        if not pairs:
            return _no_errors(OMITTED, None)
        return ErrorRow(
            kind=OMITTED,
            attribute=None,
            errors=len(pairs),
            auroc=bootstrap_interval(metrics.auroc, incomplete, self.score, rng=rng, patients=self.patient, num=num),
            words=metrics.auroc(incomplete, -self.length),
            wrong_slide=metrics.auroc(incomplete, self.wrong),
            paired=float(np.mean(pairs)),
            caught=float(self.named[incomplete].mean()),
            false_alarms=float(self.named[~incomplete].mean()),
        )


def _no_errors(kind: str, attribute: str | None) -> ErrorRow:
    """The row of a kind of which none could be planted."""
    nan = float("nan")
    return ErrorRow(
        kind=kind,
        attribute=attribute,
        errors=0,
        auroc=Interval(nan, nan, nan),
        words=nan,
        wrong_slide=nan,
        paired=nan,
        caught=nan,
        false_alarms=nan,
    )
