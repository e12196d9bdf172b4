"""One vector of a slide that stands for its answers to texts, so that an index can rank a million slides for a text.

How strongly a slide shows a text is no product of two vectors: its patches are pooled by their similarity to the text
first. As a function of the text it is smooth, though, so a linear one comes near it. Slide by slide its coefficients
are fitted by ridge regression to the answers to a thousand texts of words the model knows, and kept beside the slide's
own embedding. A query becomes the direction that fits its true scores best over slides spread through the archive
(:meth:`TextProbe.direction`), which mends what the thousand texts lack.
"""

import re
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float

from pathflip.inference import Aligned, encode_text
from pathflip.types import SlideCode, TextCode

__all__ = ["TextProbe", "query_direction"]

PROBES = 1000
WORDS_A_PROBE = (3, 8)
RIDGE = 0.01
"""Of the coefficients, in units of their mean variance over the texts."""
QUERY_RIDGE = 0.3
"""Of what a query's direction is changed by, likewise over the slides it is fitted to."""
_WORD = re.compile(r"[^\W\d_]{3,}")


@dataclass(frozen=True, eq=False)
class TextProbe:
    """Texts whose answers a slide's coefficients are fitted to: directions of unit length, and the matrix that fits."""

    directions: Float[torch.Tensor, "A E"]
    fit: Float[np.ndarray, "A E"]

    @classmethod
    def of(cls, model: Aligned) -> "TextProbe":
        """Of a model: texts of words its tokenizer has whole, drawn with a fixed seed, so the same on every machine."""
        directions = F.normalize(encode_text(model, _probe_texts(model)).local.float().cpu(), dim=-1)
        texts = directions.double().numpy()
        gram = texts.T @ texts
        ridge = RIDGE * np.trace(gram) / len(gram)
        return cls(directions, np.linalg.solve(gram + ridge * np.eye(len(gram)), texts.T).T)

    @torch.no_grad()
    def coefficients(self, model: Aligned, code: SlideCode) -> Float[np.ndarray, "B E"]:
        """Of slides: how their presence changes with the direction of a text."""
        count = len(self.directions)
        affirmed = torch.zeros(count, dtype=torch.bool)
        texts = TextCode(("",) * count, self.directions, self.directions, affirmed).to(model.device)
        presence = model.net.presence(code.to(model.device), texts).float().cpu().numpy()
        return np.asarray(presence @ self.fit, np.float32)


def _probe_texts(model: Aligned) -> list[str]:
    vocabulary = model.checkpoint.tokenizer.backend.get_vocab()
    words = sorted({match[0] for token in vocabulary if (match := _WORD.fullmatch(token.strip("#Ġ▁")))}) or ["tissue"]
    rng = np.random.default_rng(0)
    lengths = rng.integers(WORDS_A_PROBE[0], WORDS_A_PROBE[1] + 1, PROBES)
    return [" ".join(words[i] for i in rng.integers(len(words), size=length)) for length in lengths]


def query_direction(
    stored: Float[np.ndarray, "n T"],
    scores: Float[np.ndarray, "n 2"],
    whole: Float[np.ndarray, " E"],
    sub_captions: Float[np.ndarray, "C E"],
    presence: Float[np.ndarray, "n C"],
    weight: float,
) -> Float[np.ndarray, " T"]:
    """The direction whose product with stored vectors (embedding, coefficients) ranks slides as their scores do.

    Args:
        stored: vectors of slides whose scores are known. scores: whole-slide cosine and mean presence of each.
        whole, sub_captions: directions of the caption and of its sub-captions, of unit length.
        presence: of every sub-caption on these slides; it tells what each counts for (denied: against).
        weight: of the presence beside the cosine, both by their standard deviations.
    """
    width = len(whole)
    coefficients = stored[:, width:].astype(np.float64)
    centred = coefficients - coefficients.mean(0)
    linear = centred @ sub_captions.T.astype(np.float64)
    counts = ((presence - presence.mean(0)) * linear).sum(0) / np.maximum((linear**2).sum(0), 1e-12)
    direction = counts @ sub_captions / len(sub_captions)
    left = scores[:, 1] - scores[:, 1].mean() - centred @ direction
    gram = centred.T @ centred
    ridge = QUERY_RIDGE * np.trace(gram) / width + 1e-12
    direction = direction + np.linalg.solve(gram + ridge * np.eye(width), centred.T @ left)
    deviation = np.maximum(scores.std(0), 1e-9)
    return np.concatenate([whole / deviation[0], weight * direction / deviation[1]]).astype(np.float32)
