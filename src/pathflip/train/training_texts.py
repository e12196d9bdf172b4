"""Vectors of the training texts in a model that keeps them for reading other words (pathflip.models.known_texts)."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from pathflip.data.align import TextSpec
from pathflip.text.pretrained import PretrainedText
from pathflip.text.tokenizer import Tokenizer

__all__ = ["training_texts_known"]

TEXTS_A_CALL = 256


@contextmanager
def training_texts_known(
    model: Any,
    tokenizer: Tokenizer,
    text: TextSpec,
    pretrained: PretrainedText | None,
    texts: Callable[[], Sequence[str]],
) -> Iterator[None]:
    """Inside, the model holds the vectors that its weights of now give the training texts; behind it none.

    Training never reads them, so they are no part of its state. Models without a place for them stay as they are;
    sharded weights must be collected already (``whole_weights``).
    """
    known = getattr(model, "known_texts", None)
    if known is None:
        yield
        return
    if pretrained is not None and text.pretrained_train != "frozen":
        pretrained.forget()
    training = model.training
    model.eval()
    try:
        with torch.no_grad():
            known.remember(_vectors(model, tokenizer, text, pretrained, texts()))
        yield
    finally:
        known.forget()
        model.train(training)


def _vectors(
    model: Any, tokenizer: Tokenizer, text: TextSpec, pretrained: PretrainedText | None, texts: Sequence[str]
) -> Float[Tensor, "C W"]:
    """One vector a text, read as :func:`pathflip.inference.encode_text` reads it."""
    device = next(model.parameters()).device
    limit = text.sub_caption_tokens if model.captions_are_sub_captions else text.caption_tokens
    parts = []
    for start in range(0, len(texts), TEXTS_A_CALL):
        some = list(texts[start : start + TEXTS_A_CALL])
        tokens = tokenizer.encode([tokenizer.known_part(one) for one in some], limit)
        vectors = None if pretrained is None else pretrained.embed(some).to(device)
        parts.append(model.text_vectors(tokens.ids.to(device), tokens.mask.to(device), vectors))
    return torch.cat(parts)
