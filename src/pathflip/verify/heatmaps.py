"""Texts that every slide is compared with, encoded once, and heatmaps of many texts on one slide."""

from collections.abc import Sequence
from threading import Lock

import numpy as np
import torch
from jaxtyping import Float

from pathflip.arguments import as_texts
from pathflip.inference import Aligned, EncodedSlide, encode_text
from pathflip.inference.grounding import heat_of_tiles
from pathflip.types import Heatmap, TextCode

__all__ = ["encoded_once", "heatmaps", "tile_similarity"]

_LISTS_KEPT = 2
_lock = Lock()


def encoded_once(model: Aligned, texts: tuple[str, ...]) -> TextCode:
    """The code of a fixed list of texts, kept with the model for its next slide (the last two lists it met)."""
    codes = model.text_codes
    with _lock:
        code = codes.get(texts)
    if code is None:
        code = encode_text(model, texts)
    with _lock:
        codes.pop(texts, None)
        codes[texts] = code  # the last used stands last
        while len(codes) > _LISTS_KEPT:
            del codes[next(iter(codes))]
    return code


@torch.no_grad()
def tile_similarity(model: Aligned, slide: EncodedSlide, code: TextCode) -> Float[np.ndarray, "C N"]:
    """Similarity of every tile to every text; NaN where a tile is invalid."""
    similarity = model.net.patch_similarity(slide.code, code)[0].float().cpu().numpy()
    return np.where(slide.row_of_tile >= 0, similarity[:, slide.row_of_tile], np.nan).astype(np.float32)


def heatmaps(model: Aligned, slide: EncodedSlide, texts: str | Sequence[str]) -> list[Heatmap]:
    """A heatmap a text, like :func:`pathflip.inference.ground` but encoded together; ``presence`` is left out (NaN)."""
    if not (texts := as_texts(texts, "texts")):
        return []
    code = encode_text(model, texts)
    heat = heat_of_tiles(slide, tile_similarity(model, slide, code))
    return [
        Heatmap(slide.grid, scores, text, presence=float("nan"), negated=denies)
        for scores, text, denies in zip(heat, texts, code.negated.tolist(), strict=True)
    ]
