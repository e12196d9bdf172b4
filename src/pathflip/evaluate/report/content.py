"""What the report page is made from: examples, tables and numbers, as plain records."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from pathflip.errors import ConfigError
from pathflip.evaluate.estimates import Estimate
from pathflip.evaluate.simulated.answered_questions import AssistantStudy
from pathflip.evaluate.simulated.verified_reports import CohortVerification
from pathflip.geometry import Box
from pathflip.types import Heatmap

__all__ = [
    "CaseExample",
    "CasePhrase",
    "CaseSlideMap",
    "Confusion",
    "FindingRow",
    "GroundingExample",
    "ModelNote",
    "ReportContent",
    "ReportSentence",
    "RetrievalExample",
    "RetrievedSlide",
    "model_names",
]


@dataclass(frozen=True, eq=False)
class GroundingExample:
    """A phrase on a slide: what is true, and what two models show.

    Attributes:
        thumbnail: the whole of level 0, RGB, (h, w, 3).
        baseline: the map of the model named in ``ReportContent.baseline``, or None.
        truth: where the thing the phrase affirms or denies is, (h', w'), any size, spanning level 0; all False where
            the slide has none of it. The page calls the phrase true when this and ``negated`` say so.
        average_precision: of the model's tiles against the truth; NaN where the slide has none of it.
        presence: logit that what the phrase states is true of the slide.
    """

    slide_id: str
    phrase: str
    negated: bool
    thumbnail: NDArray[np.uint8] = field(repr=False)
    heatmap: Heatmap
    baseline: Heatmap | None
    truth: NDArray[np.bool_] = field(repr=False)
    average_precision: float
    presence: float
    baseline_average_precision: float = math.nan

    def __post_init__(self) -> None:
        check_picture(self.slide_id, self.thumbnail)
        if self.truth.ndim != 2 or self.truth.dtype != np.bool_ or not self.truth.size:
            raise ConfigError(
                f"GroundingExample '{self.slide_id}': truth is {self.truth.dtype} {self.truth.shape}, "
                "expected a boolean (height, width) mask that spans level 0"
            )


@dataclass(frozen=True, eq=False)
class RetrievedSlide:
    """One answer: a slide, its thumbnail (h, w, 3), its score, whether it is the right one, words of its report."""

    slide_id: str
    thumbnail: NDArray[np.uint8] = field(repr=False)
    score: float
    is_own: bool
    excerpt: str

    def __post_init__(self) -> None:
        check_picture(self.slide_id, self.thumbnail)


@dataclass(frozen=True, eq=False)
class RetrievalExample:
    """A report, the slide it was written for, and the slides the model found for it, best first."""

    text: str
    slide_id: str
    thumbnail: NDArray[np.uint8] = field(repr=False)
    ranked: Sequence[RetrievedSlide]

    def __post_init__(self) -> None:
        check_picture(self.slide_id, self.thumbnail)


@dataclass(frozen=True)
class ReportSentence:
    """A stretch of a case's report as it was read.

    Attributes:
        kind: "affirmed", "denied", "undecided", "not visible", or "" for what is no sentence (headings, spaces).
        note: what is shown of it on demand: its part, and why it is not visible.
    """

    text: str
    kind: str = ""
    note: str = ""


@dataclass(frozen=True, eq=False)
class CaseSlideMap:
    """One slide of a case for one phrase.

    Attributes:
        truth: where the thing is, (h', w') bool, all False where this slide has none of it.
        presence: logit that the phrase is true of this slide.
    """

    slide_id: str
    part: str
    thumbnail: NDArray[np.uint8] = field(repr=False)
    heatmap: Heatmap
    truth: NDArray[np.bool_] = field(repr=False)
    presence: float

    def __post_init__(self) -> None:
        check_picture(self.slide_id, self.thumbnail)


@dataclass(frozen=True, eq=False)
class CasePhrase:
    """A sub-caption of a case's report: its part ("" for none), and every slide of the case, in one order.

    ``evidence``: the best places over all slides, best first: slide, box, similarity.
    """

    text: str
    part: str
    slides: tuple[CaseSlideMap, ...]
    evidence: tuple[tuple[str, Box, float], ...]


@dataclass(frozen=True, eq=False)
class CaseExample:
    """A case of several slides with one report."""

    case: str
    patient: str
    parts: tuple[str, ...]
    report: tuple[ReportSentence, ...]
    phrases: tuple[CasePhrase, ...]


@dataclass(frozen=True, eq=False)
class Confusion:
    """Slides of each true class (rows) by the class the model chose (columns): ``counts`` (C, C)."""

    task: str
    classes: tuple[str, ...]
    counts: NDArray[np.int64]

    def __post_init__(self) -> None:
        if self.counts.shape != (len(self.classes),) * 2:
            raise ConfigError(
                f"Confusion '{self.task}': counts are {self.counts.shape}, expected one row and one column for each "
                f"of {len(self.classes)} classes"
            )


@dataclass(frozen=True)
class FindingRow:
    """How one finding fares. NaN where it could not be measured.

    Attributes:
        present: test slides that show it.
        average_precision: mean over those slides.
        prevalence: mean fraction of the tiles that show it on those slides, which is what chance gives as AP.
    """

    finding: str
    present: int
    presence_auroc: float
    absence_auroc: float
    average_precision: float
    prevalence: float


@dataclass(frozen=True)
class ModelNote:
    """What a model is, in a line, and what it cost."""

    name: str
    description: str
    num_parameters: int
    train_seconds: float


@dataclass(frozen=True, eq=False)
class ReportContent:
    """Everything the report page shows.

    Attributes:
        world: what the cohort holds, some lines of plain text.
        splits: number of slides by split.
        reference: the model the page is about; a key of the inner mappings of ``estimates``.
        models: in the order of the columns; the reference may stand anywhere.
        estimates: measure -> model -> estimate (differences are reference minus model).
        upper_bounds: measure -> what a supervised classifier reaches on the same features.
        timings: stage -> seconds.
        versions: package -> version.
        notes: lines shown under the title, such as "A quick run: too few slides for its numbers to mean much."
        baseline: whose maps stand beside the model's.
        answers, verification: what the assistant and the verifier showed; None leaves their sections out.
        case: a case of two slides with one report; None leaves its section out.
        selection: a sentence on how the phrases and reports were picked, so that nobody takes them for hand-picked.
    """

    world: str
    splits: Mapping[str, int]
    reference: str
    models: Sequence[ModelNote]
    groundings: Sequence[GroundingExample]
    retrievals: Sequence[RetrievalExample]
    confusions: Sequence[Confusion]
    estimates: Mapping[str, Mapping[str, Estimate]]
    upper_bounds: Mapping[str, float]
    findings: Sequence[FindingRow]
    timings: Mapping[str, float]
    command: str
    versions: Mapping[str, str]
    notes: Sequence[str] = ()
    baseline: str = "mean-pool CLIP"
    selection: str = ""
    case: CaseExample | None = None
    answers: AssistantStudy | None = None
    verification: CohortVerification | None = None

    def __post_init__(self) -> None:
        if self.reference not in model_names(self):
            raise ConfigError(
                f"ReportContent.reference: got '{self.reference}', expected one of {', '.join(model_names(self))}"
            )


def model_names(content: ReportContent) -> list[str]:
    """The reference first, then the rest in the order given."""
    measured = [name for by_model in content.estimates.values() for name in by_model]
    names = dict.fromkeys([*(model.name for model in content.models), *measured])
    return sorted(names, key=lambda name: name != content.reference)


def check_picture(slide_id: str, picture: NDArray[np.uint8]) -> None:
    if picture.ndim != 3 or picture.shape[2] != 3 or picture.dtype != np.uint8 or not picture.size:
        raise ConfigError(
            f"slide '{slide_id}': the thumbnail is {picture.dtype} {picture.shape}, expected uint8 (height, width, 3)"
        )
