"""Slides and texts into the shared space, and how strongly a slide shows a text."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int

from pathflip.arguments import as_texts
from pathflip.data.align import text_to_encode
from pathflip.data.patches import DrawnPatches, Neighbourhood, relative_positions
from pathflip.data.regions import group_regions
from pathflip.errors import CaptionError, ConfigError, FeatureError
from pathflip.features.store import read_features
from pathflip.geometry import TileGrid
from pathflip.inference.aligned import Aligned
from pathflip.text.sub_captions import parse_sub_caption
from pathflip.types import PatchChunk, SlideChunks, SlideCode, SlideFeatures, TextCode

__all__ = ["EncodedCase", "EncodedSlide", "Slides", "encode_case", "encode_files", "encode_slide", "encode_text",
           "presence_scores", "slides_in"]  # fmt: skip

TEXTS_PER_CALL = 256

PATCHES_A_CHUNK = 2**11
"""What one core's cache holds."""

REGION_PATCHES_A_CHUNK = 2**12
"""Of models that read regions: their queries share a product, so more at a time are faster."""

PAIRS_PER_CALL = 2**24
"""Patches times texts compared at once: three float32 arrays of that size."""


@dataclass(frozen=True, eq=False)
class EncodedSlide:
    """An encoded slide: its embeddings in the shared space.

    ``row_of_tile``: which row of ``code.patches`` stands for a tile (several share one where the model reads regions);
    -1 where the tile is invalid.
    """

    slide_id: str
    code: SlideCode
    grid: TileGrid
    row_of_tile: Int[np.ndarray, " N"]


@dataclass(frozen=True, eq=False)
class EncodedCase:
    """Several slides of one case in the shared space, scored as one: ``code`` is of the patches of all of them.

    ``slide_id`` is the case's name, ``slides`` are its slides, each encoded alone: for heatmaps and evidence.
    """

    slide_id: str
    code: SlideCode
    slides: tuple[EncodedSlide, ...]


Slides = SlideFeatures | EncodedSlide | EncodedCase | Sequence[SlideFeatures | EncodedSlide | EncodedCase]
"""One slide or case, or several."""


def slides_in(encoded: EncodedSlide | EncodedCase) -> tuple[EncodedSlide, ...]:
    """The slides of a case; a slide alone."""
    return encoded.slides if isinstance(encoded, EncodedCase) else (encoded,)


@torch.no_grad()
def encode_slide(model: Aligned, features: SlideFeatures) -> EncodedSlide:
    """One slide into the shared space, chunk by chunk, whatever its size.

    Raises:
        ContractError: features of another encoder, width, tile size or resolution than the model's.
        FeatureError: no valid patch.
    """
    chunks, row_of_tile = _prepared(model, features)
    code = model.net.encode_slide(chunks)
    return EncodedSlide(features.slide_id, code.to(model.device), features.grid, row_of_tile)


@torch.no_grad()
def encode_case(model: Aligned, slides: Sequence[SlideFeatures], name: str) -> EncodedCase:
    """The slides of one case, for scores of the case as a whole.

    A case is to the model what it was in training: one set of the patches of all its slides. So a finding is present
    where any slide shows it, and a denial holds where none does.

    Args:
        slides: their features; at least one. name: the case's.

    Raises:
        ContractError, FeatureError: see :func:`encode_slide`. ConfigError: no slide.
    """
    if not len(slides):
        raise ConfigError(f"encode_case: got no slide of case '{name}', expected at least one")
    prepared = [_prepared(model, features) for features in slides]

    def everything() -> Iterator[PatchChunk]:
        for chunks, _ in prepared:
            yield from chunks()

    encoded = tuple(
        EncodedSlide(features.slide_id, model.net.encode_slide(chunks).to(model.device), features.grid, row_of_tile)
        for features, (chunks, row_of_tile) in zip(slides, prepared, strict=True)
    )
    code = encoded[0].code if len(slides) == 1 else model.net.encode_slide(everything).to(model.device)
    return EncodedCase(name, code, encoded)


def encode_files(model: Aligned, files: Sequence[Path], name: str) -> EncodedSlide | EncodedCase:
    """A slide, or a case of several slides, from its feature files.

    Raises:
        ContractError, FeatureError: see :func:`encode_slide`; or a file cannot be read.
    """
    features = [read_features(file) for file in files]
    alone = len(features) == 1 and features[0].slide_id == name
    return encode_slide(model, features[0]) if alone else encode_case(model, features, name)


def _prepared(model: Aligned, features: SlideFeatures) -> tuple[SlideChunks, Int[np.ndarray, " N"]]:
    """The chunks of a slide, and which row of its code will stand for a tile."""
    model.checkpoint.contract.check(features)
    if not features.valid.any():
        raise FeatureError(
            f"slide '{features.slide_id}': no valid patch among {len(features.valid)}; nothing to encode"
        )
    row_of_tile = np.full(len(features.valid), -1, np.int64)
    if model.net.reads_regions:
        grid = group_regions(features, model.regions)
        step = max(1, REGION_PATCHES_A_CHUNK // grid.mask.shape[1])
        drawn = [DrawnPatches.of_regions(grid, slice(start, start + step)) for start in range(0, len(grid.index), step)]
        row_of_tile[grid.index[grid.mask]] = np.nonzero(grid.mask)[0]
    else:
        rows = np.flatnonzero(features.valid)
        drawn = [DrawnPatches(rows[i : i + PATCHES_A_CHUNK]) for i in range(0, len(rows), PATCHES_A_CHUNK)]
        row_of_tile[rows] = np.arange(len(rows))
    return _chunks(model, features, drawn), row_of_tile


def _chunks(model: Aligned, features: SlideFeatures, drawn: Sequence[DrawnPatches]) -> SlideChunks:
    """The patches of a slide, thousands at a time, with what the model reads of their surroundings."""
    near = Neighbourhood(features.grid.cells(), features.valid) if model.net.reads_context else None
    place = relative_positions(features.coords, features.valid, features.grid.tile_px0)

    def tensor(values: np.ndarray | None) -> torch.Tensor | None:
        return None if values is None else torch.from_numpy(values).to(model.device)

    def chunks() -> Iterator[PatchChunk]:
        for one in drawn:
            yield PatchChunk(
                patches=torch.from_numpy(features.features[one.rows].astype(np.float32, copy=False)).to(model.device),
                context=tensor(None if near is None else near.mean(features.features, one.rows)),
                position=tensor(place[one.rows]),
                regions=tensor(one.regions),
            )

    return chunks


@torch.no_grad()
def encode_text(model: Aligned, texts: str | Sequence[str], *, sub_captions: bool = True) -> TextCode:
    """Texts into the shared space.

    Args:
        texts: one or more.
        sub_captions: treat each text as one sub-caption (negation becomes a sign, as in training); False encodes
            a whole caption as written.

    Raises:
        CaptionError: an empty text.
    """
    texts = tuple(as_texts(texts, "texts"))
    for place, text in enumerate(texts):
        if not text.strip():
            raise CaptionError(f"text {place}: got an empty text, expected words; remove it or fill it")
    parts = []
    for start in range(0, len(texts), TEXTS_PER_CALL):
        chunk = texts[start : start + TEXTS_PER_CALL]
        if sub_captions:
            parsed = [parse_sub_caption(text) for text in chunk]
            encoded, limit = [text_to_encode(one, model.text) for one in parsed], model.text.sub_caption_tokens
            visual = [one.visual or not model.text.visual_only for one in parsed]
        else:
            encoded, limit = [(text, False) for text in chunk], model.text.caption_tokens
            visual = [True] * len(chunk)
        tokenizer = model.checkpoint.tokenizer
        # The tower trained from scratch reads only words it was trained on; the pretrained one reads all.
        tokens = tokenizer.encode([tokenizer.known_part(text) for text, _ in encoded], limit)
        negated = torch.tensor([negated for _, negated in encoded], device=model.device)
        ids, mask = tokens.ids.to(model.device), tokens.mask.to(model.device)
        vectors = None if model.pretrained is None else model.pretrained.embed([text for text, _ in encoded])
        unknown = torch.tensor([bool(tokenizer.unknown_words(text)) for text, _ in encoded], device=model.device)
        vectors = None if vectors is None else vectors.to(model.device)
        code = model.net.encode_texts(chunk, ids, mask, negated, vectors, unknown)
        if code.gate is not None:
            code = replace(code, gate=code.gate * torch.tensor(visual, device=model.device))
        parts.append(code)
    return TextCode.cat(parts)


@torch.no_grad()
def presence_scores(model: Aligned, slides: Slides, texts: str | Sequence[str] | TextCode) -> Float[np.ndarray, "B C"]:
    """A logit for every slide and sub-caption (texts, or encoded already): does the slide show it? 0 means the model
    cannot say.

    Raises:
        ConfigError: no slide. ContractError, FeatureError, CaptionError: a slide or text that cannot be encoded.
    """
    slides = as_slides(slides)
    if not slides:
        raise ConfigError("presence_scores: got no slide, expected at least one")
    code = texts if isinstance(texts, TextCode) else encode_text(model, texts)
    return np.stack([presence_of(model, slide, code) for slide in encoded_slides(model, slides)])


def presence_of(model: Aligned, slide: EncodedSlide | EncodedCase, code: TextCode) -> np.ndarray:
    """Presence of every text, some texts at a time: large slides times many texts would not fit in memory at once."""
    step = max(1, PAIRS_PER_CALL // slide.code.patches.shape[1])
    parts = [model.net.presence(slide.code, _some_texts(code, i, i + step))[0] for i in range(0, len(code.texts), step)]
    return torch.cat(parts).float().cpu().numpy()


def _some_texts(code: TextCode, start: int, stop: int) -> TextCode:
    part = slice(start, stop)
    gate, margin = (None if value is None else value[part] for value in (code.gate, code.margin))
    return TextCode(code.texts[part], code.caption[part], code.local[part], code.negated[part], gate, margin)


def as_slides(slides: Slides) -> Sequence[Any]:
    """Slides as a sequence; one alone is a sequence of one."""
    return [slides] if isinstance(slides, SlideFeatures | EncodedSlide | EncodedCase) else slides


def encoded_slides(
    model: Aligned, slides: Sequence[SlideFeatures | EncodedSlide | EncodedCase]
) -> Iterator[EncodedSlide | EncodedCase]:
    for slide in slides:
        yield slide if isinstance(slide, EncodedSlide | EncodedCase) else encode_slide(model, slide)
