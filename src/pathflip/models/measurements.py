"""What is measured of a slide for each text that is looked for: the numbers and vectors behind the visual tokens.

Each text is compared with all patches of the slide. What comes of it: the patches pooled by their similarity to the
text, and facts: does the slide show it, on how much of the tissue, where. Nothing here is trained, so a slide can be
measured once and the result kept.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Self

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from pathflip.types import AlignModel, SlideCode, TextCode

__all__ = [
    "BOTH",
    "MEASURES_VERSION",
    "NUM_KINDS",
    "NUM_MEASURES",
    "NUM_NUMBERS",
    "OPTION",
    "PATCH",
    "PROBE",
    "QUESTION",
    "SLIDE",
    "MeasuredTexts",
    "Measures",
    "compare_options",
    "compare_with_absence",
    "measure_texts",
    "pick_patches",
    "token_numbers",
    "unit",
]

SLIDE, QUESTION, OPTION, BOTH, PROBE, PATCH = range(6)
"""Kinds of visual tokens: the slide, what the question speaks of, an option, question and option together, a text
looked for though nobody asked, a patch."""
NUM_KINDS = 6

MEASURES_VERSION = 3
"""Counts up whenever the numbers below come to mean something else: an assistant would misread them.
2: where a question denies, its options are looked for as denied. 3: what a question speaks of is set against its
absence (before, these two numbers were 0), and a yes-or-no question is answered without probes."""

QUANTILES = (0.5, 0.75, 0.9, 0.95, 0.98, 1.0)
FOCUS = 2.5
"""Pooling weight of a patch: exp(FOCUS · z), z its similarity standardised over the slide (any model's scale)."""
PAIRS_AT_ONCE = 2**24
"""Patches times texts compared at once."""


@dataclass(frozen=True, eq=False)
class _Rows:
    """Records of tensors with a row a text: taken by row and joined."""

    def rows(self, index: slice | Sequence[int]) -> Self:
        """The same record of some of its rows."""
        return type(self)(**{f.name: _rows_of(getattr(self, f.name), index) for f in fields(self)})

    @classmethod
    def cat(cls, parts: Sequence[Self]) -> Self:
        """Join records row by row, in order."""
        return cls(**{f.name: _joined([getattr(part, f.name) for part in parts]) for f in fields(cls)})


@dataclass(frozen=True, eq=False)
class Measures(_Rows):
    """Facts about C texts on one slide, or about C patches. What was not measured is 0.

    Attributes:
        presence: logit that the slide shows the text. gate, margin: predicted from the text alone.
        sign: -1 for a text that states an absence, else 1.
        similarity: of slide and text (of a patch: its similarity to its text above the margin).
        fraction: of the patches that are above the margin. log_fraction: log(1 + 1000 · fraction).
        quantiles: of the patches' similarity above the margin, at ``QUANTILES``.
        place: mean x and y of the pooled patches in the box of the tissue, 0 to 1. deviation: standard deviations.
        ninths: fraction of the pooling weight in each ninth of the box, row by row.
        ahead: presence less that of the best other option. among: softmax of presence among the options. What a
            question speaks of has one alternative, its absence, whose logit is 0.
        log_num_patches: of the slide.
    """

    presence: Float[Tensor, " C"]
    gate: Float[Tensor, " C"]
    margin: Float[Tensor, " C"]
    sign: Float[Tensor, " C"]
    similarity: Float[Tensor, " C"]
    fraction: Float[Tensor, " C"]
    log_fraction: Float[Tensor, " C"]
    quantiles: Float[Tensor, "C 6"]
    place: Float[Tensor, "C 2"]
    deviation: Float[Tensor, "C 2"]
    ninths: Float[Tensor, "C 9"]
    ahead: Float[Tensor, " C"]
    among: Float[Tensor, " C"]
    log_num_patches: Float[Tensor, " C"]

    @classmethod
    def zeros(cls, count: int) -> "Measures":
        """Nothing measured of ``count`` texts."""
        widths = {"quantiles": len(QUANTILES), "place": 2, "deviation": 2, "ninths": 9}
        return cls(**{f.name: torch.zeros((count, widths[f.name]) if f.name in widths else count) for f in fields(cls)})

    def stack(self) -> Float[Tensor, "C F"]:
        """All of them as columns, in the order of the fields (which is that of every trained projector)."""
        columns = [getattr(self, f.name) for f in fields(self)]
        return torch.cat([value[:, None] if value.ndim == 1 else value for value in columns], dim=1)


NUM_MEASURES = Measures.zeros(0).stack().shape[1]
NUM_NUMBERS = 2 * NUM_MEASURES
"""F of a visual token: its own measures and, for an option, those of what the question speaks of."""


@dataclass(frozen=True, eq=False)
class MeasuredTexts(_Rows):
    """C texts looked for on one slide.

    Attributes:
        pooled: the slide's patches pooled by their similarity to each text, as directions (:func:`unit`).
        directions: of the texts themselves.
        measures: facts about each.
        best_patches: the k patches most similar to each text, best first. best_similarity: theirs.
    """

    pooled: Float[Tensor, "C E"]
    directions: Float[Tensor, "C E"]
    measures: Measures
    best_patches: Int[Tensor, "C k"]
    best_similarity: Float[Tensor, "C k"]


@torch.no_grad()
def measure_texts(
    net: AlignModel, code: SlideCode, place: Float[Tensor, "M 2"], texts: TextCode, num_best: int
) -> MeasuredTexts:
    """Compare every text with one slide.

    Args:
        net: the alignment model that made both codes.
        code: one slide (B = 1).
        place: x and y of every patch in the box of the tissue, 0 to 1.
        texts: what to look for.
        num_best: k.

    Returns:
        What was measured, on the CPU.
    """
    step = max(1, PAIRS_AT_ONCE // max(1, code.patches.shape[1]))
    starts = range(0, len(texts.texts), step)
    return MeasuredTexts.cat([_measure_some(net, code, place, _some(texts, i, i + step), num_best) for i in starts])


def _measure_some(net: AlignModel, code: SlideCode, place: Tensor, texts: TextCode, num_best: int) -> MeasuredTexts:
    real = code.patch_mask[0]
    patches, place = code.patches[0][real], place[real]
    all_similarity = net.patch_similarity(code, texts)
    similarity = all_similarity[0][:, real].float()
    deviation = similarity.std(1, keepdim=True, unbiased=False).clamp(min=1e-6)
    weight = (FOCUS * (similarity - similarity.mean(1, keepdim=True)) / deviation).softmax(-1)
    best = similarity.topk(min(num_best, similarity.shape[1]), dim=1)
    above = similarity - _margin(texts, similarity)[:, None]
    presence, whole = net.presence(code, texts, all_similarity)[0], net.similarity(code, texts)[0]
    return MeasuredTexts(
        pooled=unit(weight @ F.normalize(patches.float(), dim=-1)),
        directions=unit(texts.local),
        measures=replace(
            _where_and_how_much(above, weight, place),
            presence=presence.float().clamp(-20, 20).cpu(),
            gate=torch.ones(len(above)) if texts.gate is None else texts.gate.float().cpu(),
            margin=_margin(texts, similarity).cpu(),
            sign=(1.0 - 2.0 * texts.negated.float()).cpu(),
            similarity=whole.float().cpu(),
        ),
        best_patches=real.nonzero()[:, 0][best.indices].cpu(),
        best_similarity=best.values.cpu(),
    )


def _margin(texts: TextCode, similarity: Float[Tensor, "C M"]) -> Float[Tensor, " C"]:
    """From where on a similarity counts: the model's own, else two standard deviations above the slide's mean."""
    if texts.margin is not None:
        return texts.margin.float()
    return similarity.mean(1) + 2 * similarity.std(1, unbiased=False)


def _where_and_how_much(
    above: Float[Tensor, "C M"], weight: Float[Tensor, "C M"], place: Float[Tensor, "M 2"]
) -> Measures:
    """The measures of place and extent: similarity above the margin, pooling weights and places in, CPU out."""
    fraction = (above > 0).float().mean(1)
    rank = [round(q * (above.shape[1] - 1)) for q in QUANTILES]
    mean = weight @ place
    third = (place * 3).long().clamp(0, 2)
    ninth = F.one_hot(third[:, 1] * 3 + third[:, 0], 9).float()
    return replace(
        Measures.zeros(len(above)),
        fraction=fraction.cpu(),
        log_fraction=(1000 * fraction).log1p().cpu(),
        quantiles=above.sort(dim=1).values[:, rank].cpu(),
        place=mean.cpu(),
        deviation=(weight @ place.square() - mean.square()).clamp(min=0).sqrt().cpu(),
        ninths=(weight @ ninth).cpu(),
    )


def compare_options(measures: Measures, options: Sequence[int]) -> Measures:
    """The same, with the presence of some rows, which are each other's alternatives, set against the others'."""
    if len(options) < 2:
        return measures
    rows = torch.tensor(options)
    presence = measures.presence[rows]
    top = presence.topk(2)
    best_other = top.values[0].expand(len(presence)).clone()
    best_other[top.indices[0]] = top.values[1]
    return replace(
        measures,
        ahead=measures.ahead.index_copy(0, rows, presence - best_other),
        among=measures.among.index_copy(0, rows, presence.softmax(0)),
    )


def compare_with_absence(measures: Measures, rows: Sequence[int]) -> Measures:
    """The same, with the presence of some rows set against their absence.

    The mean of ``among`` over a list of findings is then how much of the list the slide shows; no mean of logits is.
    """
    if not len(rows):
        return measures
    index = torch.tensor(rows)
    presence = measures.presence[index]
    return replace(
        measures,
        ahead=measures.ahead.index_copy(0, index, presence),
        among=measures.among.index_copy(0, index, presence.sigmoid()),
    )


def token_numbers(measures: Measures, kinds: Int[Tensor, " C"] | None = None) -> Float[Tensor, "C F"]:
    """The numbers of visual tokens: their measures and, beside an option's, the mean of those of the question.

    Whether "lower right" fits "Where is the necrosis?" is a relation between the option and where the necrosis is.
    """
    own = measures.stack()
    of_question = torch.zeros_like(own)
    if kinds is not None and (question := kinds == QUESTION).any():
        of_question[(kinds == OPTION) | (kinds == BOTH)] = own[question].mean(0)
    return torch.cat([own, of_question], dim=1)


def pick_patches(texts: MeasuredTexts, count: int) -> list[tuple[int, int, float]]:
    """At most ``count`` different patches, taken in turn from the best of every text: (text, patch, similarity)."""
    best, similarity = texts.best_patches.tolist(), texts.best_similarity.tolist()
    picked: dict[int, tuple[int, int, float]] = {}
    for rank in range(len(best[0]) if best else 0):
        for text, row in enumerate(best):
            if len(picked) == count:
                return list(picked.values())
            picked.setdefault(row[rank], (text, row[rank], similarity[text][rank]))
    return list(picked.values())


def unit(vectors: Float[Tensor, "V E"]) -> Float[Tensor, "V E"]:
    """Directions of length √E, on the CPU: entries of order one whatever the width."""
    return (F.normalize(vectors.float(), dim=-1) * vectors.shape[-1] ** 0.5).cpu()


def _some(texts: TextCode, start: int, stop: int) -> TextCode:
    part = slice(start, stop)
    return replace(
        texts,
        texts=texts.texts[part],
        caption=texts.caption[part],
        local=texts.local[part],
        negated=texts.negated[part],
        gate=None if texts.gate is None else texts.gate[part],
        margin=None if texts.margin is None else texts.margin[part],
    )


def _rows_of(value: Tensor | _Rows, index: slice | Sequence[int]) -> Tensor | _Rows:
    return value.rows(index) if isinstance(value, _Rows) else value[index]


def _joined(values: Sequence[Tensor] | Sequence[_Rows]) -> Tensor | _Rows:
    first = values[0]
    return type(first).cat(values) if isinstance(first, _Rows) else torch.cat(list(values))  # type: ignore[arg-type]
