"""Sub-captions of plain reports in German, sentence by sentence."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from pathflip.simulate.german_phrases import (
    GERMAN_ABSENCE,
    GERMAN_AMOUNTS,
    GERMAN_DIAGNOSIS,
    GERMAN_GRADES,
    GERMAN_NAMES,
    GERMAN_NON_VISUAL,
    GERMAN_NUCLEI,
    GERMAN_PATTERNS,
    GERMAN_PLACES,
    GERMAN_PRESENCE,
    GERMAN_PRESENCE_PLAIN,
    GERMAN_TYPES,
)
from pathflip.simulate.phrases import sentence_case
from pathflip.simulate.report_writer import PaintedSubCaption, particulars

__all__ = ["german_non_visual", "german_sentence"]


def german_sentence(sub_caption: PaintedSubCaption, rng: np.random.Generator) -> list[PaintedSubCaption]:
    """What a plain report states, in German: a sentence, or one for each finding it denies."""
    if sub_caption.kind == "absence":
        names = (sub_caption.concept, *sub_caption.others)
        return [_filled(replace(sub_caption, concept=name, others=()), GERMAN_ABSENCE, rng) for name in names]
    if sub_caption.kind == "finding":
        return [_filled(sub_caption, GERMAN_PRESENCE if sub_caption.place else GERMAN_PRESENCE_PLAIN, rng)]
    kind = "diagnosis" if sub_caption.tumour and sub_caption.kind not in GERMAN_DIAGNOSIS else sub_caption.kind
    return [_filled(sub_caption, GERMAN_DIAGNOSIS[kind], rng)]


def german_non_visual(sub_captions: Sequence[PaintedSubCaption], rng: np.random.Generator) -> list[PaintedSubCaption]:
    """Sentences that no slide can confirm, one a sub-caption, of the same topics."""
    out = []
    for one in sub_captions:
        templates = GERMAN_NON_VISUAL[one.kind]
        sentence = templates[int(rng.integers(len(templates)))].format(**particulars(rng))
        out.append(replace(one, sentence=sentence, template=""))
    return out


def _filled(sub_caption: PaintedSubCaption, templates: Sequence[str], rng: np.random.Generator) -> PaintedSubCaption:
    """A template with the sub-caption's facts; those it does not mention are forgotten."""
    usable = [one for one in templates if all(slot not in one or value for slot, value in _values(sub_caption).items())]
    template = usable[int(rng.integers(len(usable)))]
    values = {slot.strip("{}"): value for slot, value in _values(sub_caption).items()}
    return replace(
        sub_caption,
        sentence=sentence_case(template.format(**values)),
        template=template,
        place=sub_caption.place if "{place}" in template else None,
        extent=sub_caption.extent if "{amount}" in template else None,
        percent=sub_caption.percent if "{percent}" in template else None,
    )


def _values(sub_caption: PaintedSubCaption) -> dict[str, str]:
    """The slots of the templates; "" where the sub-caption does not say."""
    named = GERMAN_NAMES.get(sub_caption.concept)
    many = named is not None and named.plural
    return {
        "{name}": named.name if named else "",
        "{dative}": named.dative if named else "",
        "{ist}": "sind" if many else "ist",
        "{fehlt}": "fehlen" if many else "fehlt",
        "{place}": GERMAN_PLACES[sub_caption.place] if sub_caption.place else "",
        "{amount}": GERMAN_AMOUNTS[sub_caption.extent] if sub_caption.extent else "",
        "{percent}": sub_caption.percent or "",
        "{type}": GERMAN_TYPES[sub_caption.tumour] if sub_caption.tumour else "",
        "{grade}": GERMAN_GRADES[sub_caption.grade] if sub_caption.grade else "",
        "{pattern}": GERMAN_PATTERNS[sub_caption.pattern] if sub_caption.pattern else "",
        "{nuclear}": GERMAN_NUCLEI[sub_caption.grade] if sub_caption.grade else "",
    }
