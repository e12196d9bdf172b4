"""What a slide says about asked texts: the numbers and vectors a language model is shown.

Each text meets all keys of the slide. It becomes one token: the keys pooled by how well they show the text, and
measured facts: does the slide show it, how much of the tissue, where. The keys that show the texts best become
tokens of their own. Nothing here is trained, so a slide can be looked at once and the result kept.
"""

from dataclasses import dataclass, fields, replace

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from pathflip.types import AlignModel, SlideCode, TextCode

__all__ = [
    "AHEAD",
    "AMONG",
    "BOTH",
    "NUM_KINDS",
    "NUM_MEASURED",
    "NUM_NUMBERS",
    "OPTION",
    "PATCH",
    "PROBE",
    "QUESTION",
    "SLIDE",
    "Findings",
    "compare_options",
    "examine",
    "margins",
    "patch_numbers",
    "pick_patches",
    "slide_numbers",
    "unit",
    "with_question",
]

SLIDE, QUESTION, OPTION, BOTH, PROBE, PATCH = range(6)
"""Kinds of tokens: the slide, what the question speaks of, an option, question and option together, a statement looked
for unasked, a patch."""
NUM_KINDS = 6

LOOKING_VERSION = 2
"""Counts up whenever the numbers below come to mean something else: an assistant would misread them.
2: where a question denies, its options are looked for as denied."""

QUANTILES = (0.5, 0.75, 0.9, 0.95, 0.98, 1.0)
FOCUS = 2.5
"""Pooling weight of a key: exp(FOCUS · z), z its heat standardised over the slide, whatever the model's scale."""
TEXTS_AT_ONCE = 2**24
"""Keys times texts compared at once."""

_PRESENCE, _GATE, _MARGIN, _SIGN, _SIMILARITY, _SHARE, _LOG_SHARE = range(7)
_QUANTILE = 7
_PLACE = _QUANTILE + len(QUANTILES)  # mean x, mean y, deviation x, deviation y
_NINTHS = _PLACE + 4  # the nine fields of the tissue's bounding box
AHEAD, AMONG, _COUNT = _NINTHS + 9, _NINTHS + 10, _NINTHS + 11
NUM_MEASURED = _NINTHS + 12
NUM_NUMBERS = 2 * NUM_MEASURED
"""F. Of a text: presence logit, gate, margin, sign, whole-slide cosine, fraction of keys above the margin and its
logarithm, quantiles of the heat above the margin, mean place and its standard deviation, fraction in each ninth of the
tissue's box, presence ahead of the best other option, softmax among the options. Of a patch: heat above the margin,
place. Of the slide: logarithm of the number of keys. Then, for an option, the same of what the question speaks of."""


@dataclass(frozen=True, eq=False)
class Findings:
    """C texts looked for on one slide: the keys pooled for each, the text's own direction, what was measured.
    ``best`` are its k hottest keys a text, best first."""

    pooled: Float[Tensor, "C E"]
    asked: Float[Tensor, "C E"]
    numbers: Float[Tensor, "C F"]
    best: Int[Tensor, "C k"]
    best_heat: Float[Tensor, "C k"]


@torch.no_grad()
def examine(net: AlignModel, code: SlideCode, place: Float[Tensor, "M 2"], texts: TextCode, num_best: int) -> Findings:
    """Look for every text on one slide.

    Args:
        net: the alignment model that made both codes.
        code: one slide (B = 1).
        place: x and y of every key in the box of the tissue, 0 to 1.
        texts: what to look for.
        num_best: k.

    Returns:
        Findings on the CPU.
    """
    step = max(1, TEXTS_AT_ONCE // max(1, code.patches.shape[1]))
    parts = [_examine(net, code, place, _rows(texts, i, i + step), num_best) for i in range(0, len(texts.texts), step)]
    return Findings(*(torch.cat([getattr(part, f.name) for part in parts]).cpu() for f in fields(Findings)))


def _examine(net: AlignModel, code: SlideCode, place: Tensor, texts: TextCode, num_best: int) -> Findings:
    real = code.patch_mask[0]
    keys, place = code.patches[0][real], place[real]
    similarity = net.patch_similarity(code, texts)
    heat = similarity[0][:, real].float()
    z = (heat - heat.mean(1, keepdim=True)) / heat.std(1, keepdim=True, unbiased=False).clamp(min=1e-6)
    weight = (FOCUS * z).softmax(-1)
    pooled = weight @ F.normalize(keys.float(), dim=-1)
    best = heat.topk(min(num_best, heat.shape[1]), dim=1)
    index = real.nonzero()[:, 0][best.indices]
    presence = net.presence(code, texts, similarity)[0].float()
    numbers = _measure(net, code, texts, presence, heat, weight, place)
    return Findings(unit(pooled), unit(texts.local), numbers, index, best.values)


def _measure(
    net: AlignModel, code: SlideCode, texts: TextCode, presence: Tensor, heat: Tensor, weight: Tensor, place: Tensor
) -> Float[Tensor, "C F"]:
    out = heat.new_zeros(len(heat), NUM_NUMBERS)
    margin = texts.margin.float() if texts.margin is not None else heat.mean(1) + 2 * heat.std(1, unbiased=False)
    above = heat - margin[:, None]
    fraction = (above > 0).float().mean(1)
    out[:, _PRESENCE] = presence.clamp(-20, 20)
    out[:, _GATE] = 1.0 if texts.gate is None else texts.gate.float()
    out[:, _MARGIN] = margin
    out[:, _SIGN] = 1.0 - 2.0 * texts.negated.float()
    out[:, _SIMILARITY] = net.similarity(code, texts)[0].float()
    out[:, _SHARE], out[:, _LOG_SHARE] = fraction, (1000 * fraction).log1p()
    ordered = above.sort(dim=1).values
    rank = [round(q * (heat.shape[1] - 1)) for q in QUANTILES]
    out[:, _QUANTILE : _QUANTILE + len(QUANTILES)] = ordered[:, rank]
    mean = weight @ place
    out[:, _PLACE : _PLACE + 2] = mean
    out[:, _PLACE + 2 : _PLACE + 4] = (weight @ place.square() - mean.square()).clamp(min=0).sqrt()
    field = (place * 3).long().clamp(0, 2)
    ninth = F.one_hot(field[:, 1] * 3 + field[:, 0], 9).float()
    out[:, _NINTHS : _NINTHS + 9] = weight @ ninth
    return out


def compare_options(numbers: Float[Tensor, "C F"]) -> Float[Tensor, "C F"]:
    """The same, with each text's presence set against that of the others, which are its alternatives."""
    presence = numbers[:, _PRESENCE]
    if len(presence) < 2:
        return numbers
    top = presence.topk(2)
    best_other = top.values[0].expand(len(presence)).clone()
    best_other[top.indices[0]] = top.values[1]
    out = numbers.clone()
    out[:, AHEAD], out[:, AMONG] = presence - best_other, presence.softmax(0)
    return out


def with_question(numbers: Float[Tensor, "C F"], kinds: Int[Tensor, " C"]) -> Float[Tensor, "C F"]:
    """The same, where every option also holds the mean numbers of what the question speaks of: whether "lower right"
    fits "Where is the necrosis?" is a relation between the option and where the necrosis was found."""
    question, options = kinds == QUESTION, (kinds == OPTION) | (kinds == BOTH)
    if not (question.any() and options.any()):
        return numbers
    out = numbers.clone()
    out[options, NUM_MEASURED:] = numbers[question, :NUM_MEASURED].mean(0)
    return out


def pick_patches(findings: Findings, count: int) -> list[tuple[int, int, float]]:
    """At most ``count`` different keys, taken in turn from the best of every text: (text, key, heat)."""
    best, heat = findings.best.tolist(), findings.best_heat.tolist()
    picked: dict[int, tuple[int, int, float]] = {}
    for rank in range(len(best[0]) if best else 0):
        for text, row in enumerate(best):
            if len(picked) == count:
                return list(picked.values())
            picked.setdefault(row[rank], (text, row[rank], heat[text][rank]))
    return list(picked.values())


def patch_numbers(above: Float[Tensor, " V"], place: Float[Tensor, "V 2"]) -> Float[Tensor, "V F"]:
    """Numbers of patch tokens: heat above the margin of their text, and place."""
    out = above.new_zeros(len(above), NUM_NUMBERS)
    out[:, _SIMILARITY], out[:, _PLACE : _PLACE + 2] = above, place
    return out


def margins(findings: Findings) -> Float[Tensor, " C"]:
    """Where each text's heat begins to count."""
    return findings.numbers[:, _MARGIN]


def unit(vectors: Float[Tensor, "V E"]) -> Float[Tensor, "V E"]:
    """Directions of length √E, on the CPU: entries of order one whatever the width."""
    return (F.normalize(vectors.float(), dim=-1) * vectors.shape[-1] ** 0.5).cpu()


def slide_numbers(code: SlideCode) -> Float[Tensor, "1 F"]:
    """Numbers of the slide's own token: how large it is."""
    out = torch.zeros(1, NUM_NUMBERS)
    out[0, _COUNT] = code.patch_mask.sum().float().log1p()
    return out


def _rows(texts: TextCode, start: int, stop: int) -> TextCode:
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
