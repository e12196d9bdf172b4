"""What a benchmark is, what it is given, and what it gives back: plain records."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pathflip.errors import ConfigError

__all__ = ["Inputs", "Outcome", "Protocol", "Published", "Score", "Skipped"]


@dataclass(frozen=True)
class Published:
    """A value somebody published for one measure and group of a benchmark; it was not run here.

    ``note`` says where a value comes from when not from the paper itself.
    """

    system: str
    measure: str
    group: str
    value: float
    note: str = ""


@dataclass(frozen=True)
class Inputs:
    """What a benchmark is run on.

    Attributes:
        data: the benchmark's own file, or folder. model: checkpoint of an alignment model. assistant: an assistant's
            directory. features: feature files. predictions: somebody's answers, to score without a model.
        cases: which slides are one case: a table with case and slide, or "folders". Items are then the cases (or, of
            slides of several parts, ``CASE__A``), each one set of the patches of all its slides.
        text_only: answers without the slide: a file of predictions, or the directory of a text-only assistant.
        against: another system on the same items, to compare with: a file of predictions, a model's or assistant's
            directory (of the same features), or the folder of a result that was written before.
        allow_missing: score what is there although slides or predictions are missing; both numbers are printed.
        other_set: take a file that is none of the published test sets; the result says so.
        gallery_normalised: of retrieval: also scores standardised over the test gallery, printed apart.
        references: true reports, where ``data`` holds none. train: the training split, for baselines.
        settings: further settings of single benchmarks, by name ("crop_mpp", "sentence_model", "meteor_jar").
        resamples, seed: of the bootstrap over patients. device: where to run; None takes a GPU if there is one.
    """

    data: Path
    model: Path | None = None
    assistant: Path | None = None
    features: tuple[Path, ...] = ()
    predictions: Path | None = None
    cases: str | None = None
    text_only: Path | None = None
    against: Path | None = None
    allow_missing: bool = False
    other_set: bool = False
    gallery_normalised: bool = False
    settings: Mapping[str, Any] = field(default_factory=dict)
    resamples: int = 1000
    seed: int = 0
    device: str | None = None
    progress: Callable[..., None] = lambda done, total, note="": None

    def require(self, name: str, *wanted: str) -> None:
        """Refuse to run without one of the named inputs, or with predictions that nothing reads.

        Raises:
            ConfigError: none of them is given.
        """
        if self.predictions is not None and "predictions" not in wanted:
            raise ConfigError(f"{name}: --predictions cannot be scored here; expected --{' or --'.join(wanted)}")
        if not any(getattr(self, one) for one in wanted):
            raise ConfigError(f"{name}: got none of --{', --'.join(wanted)}; expected one of them")
        needs_features = (self.model is not None or self.assistant is not None) and self.predictions is None
        if needs_features and not self.features and "images" not in wanted:
            raise ConfigError(f"{name}: give --features, the feature files of the slides (or folders of them)")


@dataclass(frozen=True)
class Score:
    """One number with what it must be read beside.

    Attributes:
        measure, group: what, and of which items ("all", a category, an organ, a task).
        value, low, high: with its 95 % interval over patients (None: no interval can be given).
        number: items scored.
        chance: the level that knowing nothing gives.
        baselines: what looking at no slide gives, by name.
        text_only, difference, difference_low, difference_high: the text-only baseline, and the paired difference to it.
        p_value: of McNemar's exact test against the text-only baseline, for accuracies.
        note: what a reader must know.
        paired: by the name of a baseline or another system on the same items: its "value", and "difference" (this minus
            that), "low", "high" (95 % over patients) and, for accuracies, McNemar's "p_value".
        drawn: the value on every bootstrap cohort; right: what of each item is right, where the measure is their mean.
            Both are kept for comparisons with other results (``comparison.npz``).
    """

    measure: str
    group: str
    value: float
    low: float | None
    high: float | None
    number: int
    chance: float
    baselines: Mapping[str, float] = field(default_factory=dict)
    text_only: float | None = None
    difference: float | None = None
    difference_low: float | None = None
    difference_high: float | None = None
    p_value: float | None = None
    note: str = ""
    paired: Mapping[str, Mapping[str, float | None]] = field(default_factory=dict)
    drawn: NDArray[np.floating] | None = field(default=None, repr=False, compare=False)
    right: NDArray[Any] | None = field(default=None, repr=False, compare=False)


@dataclass(frozen=True)
class Skipped:
    """An item that was not scored, and why."""

    item: str
    reason: str


@dataclass(frozen=True)
class Outcome:
    """What running a protocol gives.

    Attributes:
        scores: the headline first.
        scored, total: items scored, and items of the test set.
        test_set: which set the file is, in words. published_applies: published values are of this very set.
        skipped: items that were not scored.
        items: a row an item (prediction, truth), written as ``items.csv``.
        compared_on: what identifies each item that was scored, with its patient: two results that agree in it are of
            the same items.
        notes: what a reader must know. against: the other system it was compared with.
        tables: further tables for the page: title -> (header, rows).
    """

    scores: tuple[Score, ...]
    scored: int
    total: int
    test_set: str
    published_applies: bool = True
    skipped: tuple[Skipped, ...] = ()
    items: tuple[Mapping[str, Any], ...] = ()
    compared_on: tuple[tuple[str, str], ...] = ()
    notes: tuple[str, ...] = ()
    against: Mapping[str, Any] | None = None
    tables: Mapping[str, tuple[tuple[str, ...], tuple[tuple[Any, ...], ...]]] = field(default_factory=dict)


@dataclass(frozen=True)
class Protocol:
    """A benchmark.

    Attributes:
        name: as typed. title: as printed. metric: the headline measure in words. needs: files and models, in words.
        run: from inputs to an outcome. published: values to print beside it.
        source: where the protocol is described.
        table: protocols that differ in this never stand in one table ("zero-shot", "supervised", …).
    """

    name: str
    title: str
    metric: str
    needs: str
    run: Callable[[Inputs], Outcome] = field(repr=False)
    published: tuple[Published, ...] = ()
    table: str = "zero-shot"
    source: str = ""

    def as_row(self) -> dict[str, Any]:
        """What ``pathflip benchmark --json`` prints."""
        values = [
            {"system": p.system, "measure": p.measure, "group": p.group, "value": p.value}
            | ({"note": p.note} if p.note else {})
            for p in self.published
        ]
        return {
            "name": self.name,
            "protocol": self.title,
            "metric": self.metric,
            "needs": self.needs,
            "published": values,
        }
