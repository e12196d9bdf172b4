"""Zero-shot classification: which of several named classes a slide shows."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from jaxtyping import Float

from pathflip.arguments import as_texts
from pathflip.errors import ConfigError
from pathflip.inference.aligned import Aligned
from pathflip.inference.encoding import (
    EncodedCase,
    EncodedSlide,
    Slides,
    as_slides,
    encode_text,
    encoded_slides,
    presence_of,
)
from pathflip.types import TextCode

__all__ = ["ZeroShot", "zero_shot"]

TEMPLATES = ("{}.", "The tissue shows {}.", "This slide shows {}.", "Diagnosis: {}.")

SIMILARITY_WEIGHT = 2.0
"""Weight of the whole-slide cosine beside the presence logit in zero-shot scores; chosen on val (docs/log.md)."""


UNKNOWN_PENALTY = 1000.0
"""How far below all others a class of unknown words scores."""


@dataclass(frozen=True, eq=False)
class ZeroShot:
    """Class scores of slides. ``probabilities`` are a softmax over the classes given, not calibrated frequencies."""

    slide_ids: tuple[str, ...]
    classes: tuple[str, ...]
    scores: Float[np.ndarray, "B C"]
    probabilities: Float[np.ndarray, "B C"]
    unknown: tuple[str, ...] = ()
    """Classes no name of which holds a word of the training texts: they come last, with probability 0, unless all are
    unknown, where nothing can be told."""

    @property
    def best(self) -> tuple[str, ...]:
        """The winning class of each slide."""
        return tuple(self.classes[i] for i in self.scores.argmax(1))


@torch.no_grad()
def zero_shot(
    model: Aligned,
    slides: Slides,
    classnames: Mapping[str, str | Sequence[str]] | Sequence[str],
    templates: str | Sequence[str] = TEMPLATES,
) -> ZeroShot:
    """Classify slides by words alone.

    A class scores the mean over ``classnames[class] × templates`` of the text-conditioned presence logit plus
    ``SIMILARITY_WEIGHT`` times the whole-slide cosine.

    Args:
        classnames: class -> its name, or its names (synonyms); or a list of names. At least two classes.
        templates: sentences with one ``{}``, or one sentence.

    Raises:
        ConfigError: no slide, fewer than two classes, a class without names, a template without ``{}``.
    """
    slides = as_slides(slides)
    if not len(slides):
        raise ConfigError("zero_shot: got no slide, expected at least one")
    names = _names(classnames)
    prompts = _prompts(names, templates)
    code = encode_text(model, [text for texts in prompts.values() for text in texts])
    encoded = list(encoded_slides(model, slides))
    per_prompt = np.stack([_class_scores(model, slide, code) for slide in encoded])
    ends = np.cumsum([0, *(len(texts) for texts in prompts.values())])
    scores = np.stack([per_prompt[:, a:b].mean(1) for a, b in pairwise(ends)], axis=1)
    unknown = tuple(name for name, own in names.items() if all(map(model.knows_no_word_of, own)))
    if len(unknown) < len(prompts):
        scores[:, [name in unknown for name in prompts]] = scores.min() - UNKNOWN_PENALTY
    exponent = np.exp(scores - scores.max(1, keepdims=True))
    return ZeroShot(
        tuple(slide.slide_id for slide in encoded),
        tuple(prompts),
        scores,
        exponent / exponent.sum(1, keepdims=True),
        unknown,
    )


def _names(classnames: Mapping[str, str | Sequence[str]] | Sequence[str]) -> dict[str, list[str]]:
    """The names of each class."""
    if isinstance(classnames, list | tuple) and all(isinstance(name, str) for name in classnames):
        if len(set(classnames)) < len(classnames):
            raise ConfigError(f"zero_shot: a class stands twice in {list(classnames)}; expected each once")
        classnames = {name: name for name in classnames}
    if not isinstance(classnames, Mapping):
        raise TypeError(
            f"zero_shot: got a {type(classnames).__name__} of classes, expected {{class: its names}} or a list of names"
        )
    if len(classnames) < 2:
        raise ConfigError(f"zero_shot: got {len(classnames)} class, expected at least two to choose from")
    if empty := [name for name, names in classnames.items() if not names]:
        raise ConfigError(f"zero_shot: class '{empty[0]}' has no names; expected at least one")
    return {c: list(as_texts(names, f"class '{c}'")) for c, names in classnames.items()}


def _prompts(names: Mapping[str, Sequence[str]], templates: str | Sequence[str]) -> dict[str, list[str]]:
    templates = as_texts(templates, "templates")
    if bad := [t for t in templates if t.count("{}") != 1]:
        raise ConfigError(
            f"zero_shot: template {bad[0]!r} has no single '{{}}'; expected for example 'A slide of {{}}.'"
        )
    if not templates:
        raise ConfigError("zero_shot: got no template, expected at least one, for example 'A slide of {}.'")
    return {name: [t.format(one) for one in own for t in templates] for name, own in names.items()}


def _class_scores(model: Aligned, slide: EncodedSlide | EncodedCase, code: TextCode) -> np.ndarray:
    similarity = model.net.similarity(slide.code, code)[0].float().cpu().numpy()
    return SIMILARITY_WEIGHT * similarity + presence_of(model, slide, code)
