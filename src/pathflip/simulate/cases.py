"""The plans of a cohort's cases: who, which split, which tumour, which findings, how much and where.

Findings are drawn independently of the tumour's type, grade and pattern, so that none can be guessed from another:
a model that finds keratin must look for keratin. (Real tumours are kinder; here squamous carcinoma has no more of it.)
"""

from collections.abc import Iterator, Sequence
from typing import TypeVar

import numpy as np

from pathflip.simulate.world import (
    BENIGN_FRACTION,
    FINDINGS,
    GRADES,
    PATTERNS,
    PLACES,
    SCATTERED,
    TUMOUR_ONLY,
    TUMOUR_TYPES,
    CasePlan,
    PlacedFinding,
    World,
)

__all__ = ["HELD_OUT_COMBINATIONS", "HELD_OUT_PAIRS", "plan_cases"]

HELD_OUT_COMBINATIONS = frozenset(
    {("adenocarcinoma", "single_files"), ("squamous_cell_carcinoma", "papillary"), ("melanoma", "glandular")}
)
"""(type, pattern) that only test patients have."""

HELD_OUT_PAIRS = frozenset(
    frozenset(pair)
    for pair in (
        ("necrosis", "calcification"),
        ("mucin_pools", "adipose_tissue"),
        ("keratin_pearls", "neutrophil_abscess"),
        ("vascular_invasion", "haemorrhage"),
        ("lymphoid_aggregates", "normal_glands"),
        ("foamy_macrophages", "cystic_spaces"),
        ("smooth_muscle", "eosinophil_infiltrate"),
        ("hyalinised_collagen", "haemosiderin_pigment"),
    )
)
"""Pairs of findings that only test slides show together."""

_SPLIT_FRACTIONS = (("test", 0.20), ("val", 0.10))
_NUM_FINDINGS = (2, 3, 4, 5)
_FRACTIONS = (0.01, 0.20)
_MOST_FINDINGS = 0.45
_SCATTERED_FRACTION = 0.2
_TUMOUR_FRACTIONS = (0.25, 0.50)
_HELD_OUT_COMBINATION_FRACTION = 0.25
_HELD_OUT_PAIR_FRACTION = 0.35

_Diagnosis = tuple[str | None, int, str | None]


def plan_cases(world: World) -> list[CasePlan]:
    """Plan every slide of ``world``, in slide order; the same list for the same name, seed and number of cases.

    A fifth of the patients have two slides (one diagnosis, other findings), always in one split. Train and val never
    hold :data:`HELD_OUT_COMBINATIONS` or :data:`HELD_OUT_PAIRS`; test has many of both.
    """
    sizes = {name: round(fraction * world.num_cases) for name, fraction in _SPLIT_FRACTIONS}
    sizes["train"] = world.num_cases - sum(sizes.values())
    rng = world.rng("cases")
    drawn = [(split, *case) for split, size in sizes.items() for case in _plan_split(split, size, rng)]
    first_slides = rng.permutation(len(drawn))
    names: dict[tuple[str, int], str] = {}
    plans = []
    for number, where in enumerate(first_slides):
        split, patient, diagnosis, findings = drawn[where]
        name = names.setdefault((split, patient), f"P{len(names) + 1:04d}")
        plans.append(_case(world, number, name, split, diagnosis, findings, rng))
    return plans


def _case(
    world: World,
    number: int,
    patient: str,
    split: str,
    diagnosis: _Diagnosis,
    names: Sequence[str],
    rng: np.random.Generator,
) -> CasePlan:
    tumour, grade, pattern = diagnosis
    return CasePlan(
        slide_id=f"{world.name}-{number + 1:04d}",
        patient=patient,
        split=split,
        tumour=tumour,
        grade=grade,
        pattern=pattern,
        tumour_fraction=round(float(rng.uniform(*_TUMOUR_FRACTIONS)), 4) if tumour else 0.0,
        findings=_place(names, rng),
        seed=int(world.rng("slide", number).integers(2**31)),
    )


def _plan_split(split: str, num_slides: int, rng: np.random.Generator) -> list[tuple[int, _Diagnosis, tuple[str, ...]]]:
    """(patient number, diagnosis, findings) of every slide of a split."""
    num_patients = round(num_slides / 1.2)
    if num_patients == 0:
        return []
    slides_of = np.ones(num_patients, dtype=int)
    slides_of[rng.choice(num_patients, num_slides - num_patients, replace=False)] = 2
    diagnoses = _draw_diagnoses(split, num_patients, rng)
    slides = [(patient, diagnoses[patient]) for patient in range(num_patients) for _ in range(slides_of[patient])]
    deck = _FindingDeck(split, rng)
    return [(patient, diagnosis, deck.draw(diagnosis[0] is not None)) for patient, diagnosis in slides]


def _draw_diagnoses(split: str, num_patients: int, rng: np.random.Generator) -> list[_Diagnosis]:
    """One diagnosis a patient: types in turn, and for each type its grades and patterns in turn."""
    seen = {(t, p) for t in TUMOUR_TYPES for p in PATTERNS} - HELD_OUT_COMBINATIONS
    num_benign = round(BENIGN_FRACTION * num_patients)
    num_tumour = num_patients - num_benign
    num_held_out = round(_HELD_OUT_COMBINATION_FRACTION * num_tumour) if split == "test" else 0
    drawn: list[_Diagnosis] = [(None, 0, None)] * num_benign
    for kinds, number in ((seen, num_tumour - num_held_out), (HELD_OUT_COMBINATIONS, num_held_out)):
        types = _cycle(sorted({tumour for tumour, _ in kinds}), rng)
        decks = {
            tumour: _cycle([(tumour, g, p) for p in PATTERNS if (tumour, p) in kinds for g in GRADES], rng)
            for tumour in TUMOUR_TYPES
        }
        drawn += [next(decks[next(types)]) for _ in range(number)]
    return [drawn[i] for i in rng.permutation(num_patients)]


_Card = TypeVar("_Card")


def _cycle(deck: Sequence[_Card], rng: np.random.Generator) -> Iterator[_Card]:
    """Every card once in random order, then all again in another, without end."""
    while True:
        yield from (deck[i] for i in rng.permutation(len(deck)))


class _FindingDeck:
    """Draws the findings of one slide after the other, leaning to those that have come up too rarely so far."""

    def __init__(self, split: str, rng: np.random.Generator) -> None:
        self._rng = rng
        self._counts = dict.fromkeys(FINDINGS, 0)
        self._drawn = 0.0
        self._test = split == "test"

    def draw(self, tumour: bool) -> tuple[str, ...]:
        wanted = int(self._rng.choice(_NUM_FINDINGS))
        self._drawn += wanted / len(FINDINGS)
        chosen = self._held_out_pair(tumour) if self._test and self._rng.random() < _HELD_OUT_PAIR_FRACTION else []
        while len(chosen) < wanted:
            chosen.append(self._next(chosen, tumour))
        for name in chosen:
            self._counts[name] += 1
        return tuple(chosen)

    def _weights(self, names: Sequence[str]) -> np.ndarray:
        lag = np.array([self._drawn - self._counts[name] for name in names])
        weights = np.exp(np.clip(0.7 * lag, -20, 20))
        return np.asarray(weights / weights.sum())

    def _next(self, chosen: Sequence[str], tumour: bool) -> str:
        free = [name for name in FINDINGS if name not in chosen and (tumour or name not in TUMOUR_ONLY)]
        if not self._test:
            free = [n for n in free if not any(frozenset((n, other)) in HELD_OUT_PAIRS for other in chosen)]
        return str(self._rng.choice(free, p=self._weights(free)))

    def _held_out_pair(self, tumour: bool) -> list[str]:
        pairs = sorted(tuple(sorted(pair)) for pair in HELD_OUT_PAIRS if tumour or not pair & TUMOUR_ONLY)
        lag = [min(self._drawn - self._counts[name] for name in pair) for pair in pairs]
        best = [pair for pair, value in zip(pairs, lag, strict=True) if value >= max(lag) - 0.5]
        return list(best[int(self._rng.integers(len(best)))])


def _place(names: Sequence[str], rng: np.random.Generator) -> tuple[PlacedFinding, ...]:
    """Sizes (log-uniform) and places; two findings of a slide never share a compass cell."""
    low, high = np.log(_FRACTIONS)
    fractions = np.exp(rng.uniform(low, high, len(names)))
    while fractions.sum() > _MOST_FINDINGS:
        fractions = np.exp(rng.uniform(low, high, len(names)))
    cells = rng.permutation([place for place in PLACES if place != SCATTERED])[: len(names)]
    places = np.where(rng.random(len(names)) < _SCATTERED_FRACTION, SCATTERED, cells)
    return tuple(
        PlacedFinding(name, round(float(fraction), 4), str(place))
        for name, fraction, place in zip(names, fractions, places, strict=True)
    )
