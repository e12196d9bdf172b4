"""What the model says of sub-captions on a slide, as a row of scores that a calibration weighs.

One logit is not enough. "Poorly differentiated adenocarcinoma" and "well differentiated adenocarcinoma" share most of
theirs, so a sub-caption is compared with the same sentence saying something else (``lead``). Place and extent stand in
the heatmap rather than in the logit (``shape``). And findings differ in how high they score on any slide, so the
finding that a sub-caption names is compared with the same finding on other slides (``presence``).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch.nn.functional as F
from jaxtyping import Bool, Float
from pydantic import BaseModel, ConfigDict

from pathflip.inference import Aligned, EncodedCase, EncodedSlide, encode_text, presence_scores
from pathflip.text.known_words import content_words
from pathflip.types import SubCaption, TextCode
from pathflip.verify.heatmaps import encoded_once
from pathflip.verify.lexicon import Finding, Lexicon, rewordings, subjects
from pathflip.verify.place_and_extent import Shapes, describe_findings, shape_lead

__all__ = [
    "FINDING_SCORES",
    "SUB_CAPTION_SCORES",
    "Knowledge",
    "Weighing",
    "finding_logits",
    "finding_scores",
    "mentioned_findings",
    "score_rows",
    "synonym_groups",
    "weigh_sub_captions",
]

FINDING_SCORES = ("presence",)
SUB_CAPTION_SCORES = (
    "logit, finding asserted",
    "logit, other",
    "presence, finding asserted",
    "presence, finding denied",
    "lead, finding",
    "lead, other",
    "shape",
    "finding denied",
    "other",
    "no lead",
    "no shape",
)
"""Sentences that name a finding of the vocabulary ("finding") are weighed apart from those that do not ("other": the
diagnosis, the tumour's grade and pattern), because their logits and leads differ in size and in worth."""
ALIKE, SAME = 0.7, 0.95
"""Cosines of two names of a finding: each other's nearest, and any two."""
LARGEST_SHAPE = 8.0
"""Log-likelihoods of few numbers run away in the tails."""


class Knowledge(BaseModel):
    """What the captions of the training set and the slides of the calibration taught, beside the model's weights.

    Attributes:
        lexicon: words, findings and alternatives.
        heard: the alternatives whose exchange changes the model's logit from slide to slide; of the others (synonyms,
            and differences it is deaf to) a lead would be noise.
        offsets: mean and standard deviation of every finding's logit over the calibration slides.
        shapes: what phrases look like in a heatmap, None where captions exchange too few.
        groups: the number of each finding's group; names of one finding share one (:func:`synonym_groups`).
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    lexicon: Lexicon
    heard: dict[str, tuple[str, ...]] = {}
    offsets: tuple[tuple[float, float], ...] = ()
    shapes: Shapes | None = None
    groups: tuple[int, ...] = ()


@dataclass(frozen=True)
class Weighing:
    """What the model says of one sub-caption on one slide.

    Attributes:
        logit: that the slide shows what is stated.
        presence: of the finding it names, in standard deviations above its mean over slides, negative for a
            denial; None where it names none.
        lead: the smallest lead of the logit over a rewording; None where there is none.
        shape: the smallest lead of a phrase of place or extent over its rivals; None where there is none.
        rival: what the slide speaks for instead, in words, where a lead is negative ("" where none is).
        negated: the sub-caption states an absence.
    """

    logit: float
    presence: float | None
    lead: float | None
    shape: float | None
    rival: str
    negated: bool


def weigh_sub_captions(
    model: Aligned,
    slide: EncodedSlide | EncodedCase,
    sub_captions: Sequence[SubCaption],
    knowledge: Knowledge,
    code_of: Callable[[Sequence[str]], TextCode] | None = None,
) -> list[Weighing]:
    """Evidence for sub-captions about one slide; each distinct text is encoded once.

    ``code_of`` gives the codes of texts in their order, where they are kept from slide to slide.
    """
    if not sub_captions:
        return []
    lexicon = knowledge.lexicon
    spoken = lexicon.model_copy(update={"alternatives": knowledge.heard})
    groups = [[] if s.negated else rewordings(s.content, spoken) for s in sub_captions]
    texts = sorted({s.text for s in sub_captions} | {t for slots in groups for slot in slots for t in slot})
    code = code_of(texts) if code_of is not None else encode_text(model, texts)
    logit = dict(zip(texts, presence_scores(model, [slide], code)[0].tolist(), strict=True))
    presence = finding_scores(model, [slide], knowledge)[0] if lexicon.findings else np.zeros(0)
    # Place and extent are of one slide: "upper left" says nothing of a case.
    one_slide = slide if isinstance(slide, EncodedSlide) else None
    described = describe_findings(model, one_slide, lexicon) if knowledge.shapes and one_slide is not None else None
    out = []
    for sub_caption, slots in zip(sub_captions, groups, strict=True):
        shape = None
        if described is not None and knowledge.shapes is not None:
            shape = shape_lead(sub_caption, described, lexicon, knowledge.shapes)
        out.append(_weigh(sub_caption, slots, logit, presence, shape, lexicon))
    return out


def _weigh(
    sub_caption: SubCaption,
    slots: Sequence[Sequence[str]],
    logit: dict[str, float],
    presence: Float[np.ndarray, " F"],
    shape: tuple[float, str] | None,
    lexicon: Lexicon,
) -> Weighing:
    own = logit[sub_caption.text]
    strongest = max((text for slot in slots for text in slot), key=lambda text: logit[text], default="")
    lead = own - logit[strongest] if strongest else None
    named = subjects(sub_caption.content, lexicon)
    # A denial of two findings is wrong if either is there; an assertion of two, if either is not.
    extreme = (
        (-max(presence[i] for i in named) if sub_caption.negated else min(presence[i] for i in named))
        if named
        else None
    )
    rival = f"“{strongest}”" if lead is not None and lead < 0 else ""
    if shape is not None and shape[0] < min(0.0, lead or 0.0):
        rival = shape[1]
    return Weighing(
        logit=own,
        presence=None if extreme is None else float(extreme),
        lead=lead,
        shape=None if shape is None else shape[0],
        rival=rival,
        negated=sub_caption.negated,
    )


def score_rows(evidence: Sequence[Weighing]) -> Float[np.ndarray, "n 11"]:
    """Weighings as the columns ``SUB_CAPTION_SCORES``."""
    rows = np.zeros((len(evidence), len(SUB_CAPTION_SCORES)))
    for row, e in zip(rows, evidence, strict=True):
        other = e.presence is None
        denied = e.negated and not other  # its logit is its presence, less what sets findings apart
        row[int(other)] = 0.0 if denied else e.logit
        row[2 + int(denied)] = e.presence or 0.0
        row[4 + int(other)] = e.lead or 0.0
        row[6] = float(np.clip(e.shape or 0.0, -LARGEST_SHAPE, LARGEST_SHAPE))
        row[7:] = (denied, other, e.lead is None, e.shape is None)
    return rows


# --- Findings --------------------------------------------------------------------------------------------------------


def finding_logits(
    model: Aligned, slides: Sequence[EncodedSlide | EncodedCase], findings: Sequence[Finding]
) -> Float[np.ndarray, "B F"]:
    """How present each finding is on each slide: the mean logit over its wordings."""
    asks = tuple(ask for finding in findings for ask in finding.asks)
    scores = presence_scores(model, slides, encoded_once(model, asks))
    ends = np.cumsum([len(finding.asks) for finding in findings])
    return np.stack([part.mean(1) for part in np.split(scores, ends[:-1], axis=1)], axis=1)


def finding_scores(
    model: Aligned, slides: Sequence[EncodedSlide | EncodedCase], knowledge: Knowledge
) -> Float[np.ndarray, "B F"]:
    """Logits of findings, standardised by the calibration slides, averaged over the names of a finding.

    Some findings score high on every slide; what tells is where they score higher than elsewhere.
    """
    mean, deviation = np.array(knowledge.offsets, float).T
    own = (finding_logits(model, slides, knowledge.lexicon.findings) - mean) / np.maximum(deviation, 1e-6)
    together = np.array(knowledge.groups)[:, None] == np.array(knowledge.groups)
    return np.asarray(own @ (together / together.sum(0)))


def mentioned_findings(sub_captions: Sequence[SubCaption], knowledge: Knowledge) -> Bool[np.ndarray, " F"]:
    """Which findings the visible sentences of a report speak of, affirming or denying, by any of their names."""
    word_sets = [set(content_words(s.content)) for s in sub_captions]
    findings = knowledge.lexicon.findings
    literal = [any(set(content_words(f.name)) <= own for own in word_sets) for f in findings]
    spoken = {group for group, there in zip(knowledge.groups, literal, strict=True) if there}
    return np.array([group in spoken for group in knowledge.groups], bool)


def synonym_groups(model: Aligned, findings: Sequence[Finding]) -> tuple[int, ...]:
    """A group number a finding: names that mean the same to the model share one.

    Two names do when their mean embeddings, in the space where texts meet tiles, are each other's nearest and closer
    than ``ALIKE``, or closer than ``SAME``. Names nobody told the model are one come together this way because they
    were aligned with the same tissue.
    """
    asks = tuple(ask for finding in findings for ask in finding.asks)
    ends = np.cumsum([len(finding.asks) for finding in findings])
    parts = np.split(F.normalize(encoded_once(model, asks).local, dim=-1).float().cpu().numpy(), ends[:-1])
    means = np.stack([part.mean(0) for part in parts])
    means /= np.maximum(np.linalg.norm(means, axis=1, keepdims=True), 1e-9)
    cosine = means @ means.T - 2 * np.eye(len(means))
    nearest = cosine.argmax(1)
    group = list(range(len(findings)))
    for row, column in zip(*np.triu_indices(len(findings), 1), strict=True):
        mutual = nearest[row] == column and nearest[column] == row
        if cosine[row, column] >= (ALIKE if mutual else SAME):
            old, new = group[column], group[row]
            group = [new if number == old else number for number in group]
    return tuple(group)
