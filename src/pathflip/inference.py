"""The jobs people come for: encode, classify without labels, retrieve, and show where.

Everything takes an :class:`Aligned` model (``load``), slide features (``read_features``) and words. Features of
another encoder, tile size or resolution than the model was trained on are refused, both named.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from jaxtyping import Float, Int

from pathflip import picture
from pathflip.checkpoint import Checkpoint, load_checkpoint
from pathflip.data.align import TextSpec, text_to_encode
from pathflip.data.regions import Neighbourhood, RegionSpec, group_regions, relative_positions
from pathflip.errors import CaptionError, ConfigError, ContractError, FeatureError
from pathflip.geometry import TileGrid
from pathflip.models.products import keep_laid_out
from pathflip.slide import open_slide, slide_id
from pathflip.text.sentences import split_sentences
from pathflip.text.statements import parse_statement
from pathflip.types import AlignModel, Heatmap, PatchChunk, RegionGrid, SlideCode, SlideFeatures, TextCode

__all__ = [
    "Aligned",
    "EncodedSlide",
    "Retrieval",
    "ZeroShot",
    "encode_slide",
    "encode_text",
    "ground",
    "ground_to_files",
    "load",
    "presence_scores",
    "retrieval_scores",
    "retrieve",
    "zero_shot",
]

TEMPLATES = ("{}.", "The tissue shows {}.", "This slide shows {}.", "Diagnosis: {}.")
SENTENCE_WEIGHT = 2.0
"""Weight of the statement-level score beside the whole-slide score in retrieval (docs/method.md)."""
SIMILARITY_WEIGHT = 5.0
"""Weight of the whole-slide cosine beside the presence logit in zero-shot scores; chosen on val (docs/log.md)."""
FEWEST_TO_STANDARDISE = 8
TEXTS_PER_CALL = 256
PATCHES_A_CHUNK = 2**11
"""Of models that read single patches: what one core's cache holds."""
REGION_PATCHES_A_CHUNK = 2**12
"""Of models that read regions: their queries share a product, so more at a time are faster."""
PAIRS_PER_CALL = 2**24
"""Keys times texts compared at once: three float32 arrays of that size."""
THUMBNAIL_PX = 1400


@dataclass(frozen=True, eq=False)
class Aligned:
    """A trained model with the words and features it understands."""

    checkpoint: Checkpoint
    text: TextSpec
    regions: RegionSpec
    device: torch.device

    @property
    def net(self) -> AlignModel:
        """The model itself."""
        return cast(AlignModel, self.checkpoint.model)

    @property
    def note(self) -> str:
        """What every picture and page made with this model must say."""
        note = str(self.checkpoint.config["recipe"].get("note", ""))
        return note if "medical device" in note else f"{note} Research software, not a medical device.".strip()


@dataclass(frozen=True, eq=False)
class EncodedSlide:
    """A slide in the shared space, and which tile each key stands for (``key_of_tile`` is -1 where invalid)."""

    slide_id: str
    code: SlideCode
    grid: TileGrid
    key_of_tile: Int[np.ndarray, " N"]


@dataclass(frozen=True, eq=False)
class ZeroShot:
    """Class scores of slides. ``probabilities`` are a softmax over the classes given, not calibrated frequencies."""

    slide_ids: tuple[str, ...]
    classes: tuple[str, ...]
    scores: Float[np.ndarray, "B C"]
    probabilities: Float[np.ndarray, "B C"]

    @property
    def best(self) -> tuple[str, ...]:
        """The winning class of each slide."""
        return tuple(self.classes[i] for i in self.scores.argmax(1))


@dataclass(frozen=True, eq=False)
class Retrieval:
    """Scores of slides (rows) against captions (columns): ``scores`` combines the other two."""

    slide_ids: tuple[str, ...]
    captions: tuple[str, ...]
    whole: Float[np.ndarray, "B A"]
    statements: Float[np.ndarray, "B A"]
    scores: Float[np.ndarray, "B A"]

    def slides_for(self, caption: int, k: int = 5) -> list[tuple[str, float]]:
        """The k best slides for a caption."""
        order = np.argsort(-self.scores[:, caption], kind="stable")[:k]
        return [(self.slide_ids[i], float(self.scores[i, caption])) for i in order]

    def captions_for(self, slide: int, k: int = 5) -> list[tuple[int, float]]:
        """The k best captions (column numbers) for a slide."""
        order = np.argsort(-self.scores[slide], kind="stable")[:k]
        return [(int(i), float(self.scores[slide, i])) for i in order]


def load(path: str | Path, device: str | torch.device | None = None) -> Aligned:
    """Open a checkpoint directory written by training, ready to use.

    Raises:
        CheckpointError: missing, damaged or foreign.
    """
    chosen = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    checkpoint = load_checkpoint(Path(path))
    checkpoint.model.to(chosen).eval().requires_grad_(False)
    if chosen.type == "cpu":
        keep_laid_out(checkpoint.model)
    regions = RegionSpec(**checkpoint.config["recipe"].get("regions", {}))
    return Aligned(checkpoint, TextSpec(**checkpoint.config["text"]), regions, chosen)


@torch.no_grad()
def encode_slide(model: Aligned, features: SlideFeatures) -> EncodedSlide:
    """One slide into the shared space.

    Raises:
        ContractError: features of another encoder, width, tile size or resolution than the model's.
        FeatureError: no valid patch.
    """
    model.checkpoint.contract.check(features)
    rows = np.flatnonzero(features.valid)
    if len(rows) == 0:
        raise FeatureError(
            f"slide '{features.slide_id}': no valid patch among {len(features.valid)}; nothing to encode"
        )
    if hasattr(model.net, "encode_stream"):
        code = model.net.encode_stream(_chunks(features, rows, model.device))
        key_of_tile = np.full(len(features.valid), -1, np.int64)
        key_of_tile[rows] = np.arange(len(rows))
        return EncodedSlide(features.slide_id, code.to(model.device), features.grid, key_of_tile)
    return _encode_regions(model, features)


def _chunks(features: SlideFeatures, rows: Int[np.ndarray, " V"], device: torch.device) -> Iterator[PatchChunk]:
    """The valid patches of a slide, thousands at a time, with their context and positions."""
    near = Neighbourhood(features.grid.cells(), features.valid)
    place = relative_positions(features.coords, features.valid, features.grid.tile_px0)
    for start in range(0, len(rows), PATCHES_A_CHUNK):
        part = rows[start : start + PATCHES_A_CHUNK]
        patches = features.features[part].astype(np.float32, copy=False)
        yield (
            torch.from_numpy(patches).to(device),
            torch.from_numpy(near.mean(features.features, part)).to(device),
            torch.from_numpy(place[part]).to(device),
        )


def _region_chunks(
    features: SlideFeatures, grid: RegionGrid, device: torch.device
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Whole regions of a slide, thousands of patches at a time; unused slots hold zeros."""
    step = max(1, REGION_PATCHES_A_CHUNK // grid.mask.shape[1])
    for start in range(0, len(grid.mask), step):
        mask = grid.mask[start : start + step]
        patches = features.features[grid.index[start : start + step]].astype(np.float32, copy=False)
        patches[~mask] = 0
        yield torch.from_numpy(patches[None]).to(device), torch.from_numpy(mask[None]).to(device)


def _encode_regions(model: Aligned, features: SlideFeatures) -> EncodedSlide:
    """Models that read whole regions get some of them at a time if they can and there are many, else all at once."""
    grid = group_regions(features, model.regions)
    if hasattr(model.net, "encode_regions") and grid.mask.size > getattr(model.net, "patches_at_once", 0):
        code = model.net.encode_regions(lambda: _region_chunks(features, grid, model.device))
    else:
        patches, masks = zip(*_region_chunks(features, grid, model.device), strict=True)
        code = model.net.encode_slides(torch.cat(patches, dim=1), torch.cat(masks, dim=1))
    key_of_tile = np.full(len(features.valid), -1, np.int64)
    region, slot = np.nonzero(grid.mask)
    key = region * grid.mask.shape[1] + slot if model.net.keys_are_patches else region
    key_of_tile[grid.index[region, slot]] = key
    return EncodedSlide(features.slide_id, code, features.grid, key_of_tile)


@torch.no_grad()
def encode_text(model: Aligned, texts: str | Sequence[str], *, statements: bool = True) -> TextCode:
    """Texts into the shared space.

    Args:
        texts: one or more.
        statements: treat each text as one statement (negation becomes a sign, as in training); False encodes
            a whole caption as written.

    Raises:
        CaptionError: an empty text.
    """
    texts = (texts,) if isinstance(texts, str) else tuple(texts)
    for place, text in enumerate(texts):
        if not text.strip():
            raise CaptionError(f"text {place}: got an empty text, expected words; remove it or fill it")
    parts = []
    for start in range(0, len(texts), TEXTS_PER_CALL):
        chunk = texts[start : start + TEXTS_PER_CALL]
        if statements:
            parsed = [parse_statement(text) for text in chunk]
            encoded, limit = [text_to_encode(one, model.text) for one in parsed], model.text.statement_tokens
            visual = [one.visual or not model.text.visual_only for one in parsed]
        else:
            encoded, limit = [(text, False) for text in chunk], model.text.caption_tokens
            visual = [True] * len(chunk)
        tokens = model.checkpoint.tokenizer.encode([text for text, _ in encoded], limit)
        negated = torch.tensor([negated for _, negated in encoded], device=model.device)
        ids, mask = tokens.ids.to(model.device), tokens.mask.to(model.device)
        code = model.net.encode_texts(chunk, ids, mask, negated)
        if code.gate is not None:
            code = replace(code, gate=code.gate * torch.tensor(visual, device=model.device))
        parts.append(code)
    return TextCode.cat(parts)


@torch.no_grad()
def presence_scores(
    model: Aligned, slides: Sequence[SlideFeatures | EncodedSlide], texts: Sequence[str] | TextCode
) -> Float[np.ndarray, "B C"]:
    """A logit for every slide and statement (texts, or encoded already): does the slide show it? 0 means the model
    cannot say."""
    code = texts if isinstance(texts, TextCode) else encode_text(model, texts)
    return np.stack([_presence(model, slide, code) for slide in _encoded(model, slides)])


def _presence(model: Aligned, slide: EncodedSlide, code: TextCode) -> np.ndarray:
    """Presence of every text, some texts at a time: large slides times many texts would not fit in memory at once."""
    step = max(1, PAIRS_PER_CALL // slide.code.keys.shape[1])
    parts = [model.net.presence(slide.code, _some_texts(code, i, i + step))[0] for i in range(0, len(code.texts), step)]
    return torch.cat(parts).float().cpu().numpy()


def _some_texts(code: TextCode, start: int, stop: int) -> TextCode:
    part = slice(start, stop)
    gate, margin = (None if value is None else value[part] for value in (code.gate, code.margin))
    return TextCode(code.texts[part], code.caption[part], code.local[part], code.negated[part], gate, margin)


def _encoded(model: Aligned, slides: Sequence[SlideFeatures | EncodedSlide]) -> Iterator[EncodedSlide]:
    for slide in slides:
        yield slide if isinstance(slide, EncodedSlide) else encode_slide(model, slide)


@torch.no_grad()
def zero_shot(
    model: Aligned,
    slides: Sequence[SlideFeatures | EncodedSlide],
    classnames: Mapping[str, Sequence[str]],
    templates: Sequence[str] = TEMPLATES,
) -> ZeroShot:
    """Classify slides by words alone.

    A class scores the mean over ``classnames[class] × templates`` of the text-conditioned presence logit plus
    ``SIMILARITY_WEIGHT`` times the whole-slide cosine.

    Args:
        classnames: class -> its names (synonyms). At least two classes.
        templates: sentences with one ``{}``.

    Raises:
        ConfigError: fewer than two classes, a class without names, a template without ``{}``.
    """
    prompts = _prompts(classnames, templates)
    code = encode_text(model, [text for texts in prompts.values() for text in texts])
    encoded = list(_encoded(model, slides))
    per_prompt = np.stack([_class_scores(model, slide, code) for slide in encoded])
    ends = np.cumsum([0, *(len(texts) for texts in prompts.values())])
    scores = np.stack([per_prompt[:, a:b].mean(1) for a, b in pairwise(ends)], axis=1)
    exponent = np.exp(scores - scores.max(1, keepdims=True))
    return ZeroShot(
        tuple(slide.slide_id for slide in encoded), tuple(prompts), scores, exponent / exponent.sum(1, keepdims=True)
    )


def _prompts(classnames: Mapping[str, Sequence[str]], templates: Sequence[str]) -> dict[str, list[str]]:
    if len(classnames) < 2:
        raise ConfigError(f"zero_shot: got {len(classnames)} class, expected at least two to choose from")
    if bad := [t for t in templates if t.count("{}") != 1]:
        raise ConfigError(
            f"zero_shot: template {bad[0]!r} has no single '{{}}'; expected for example 'A slide of {{}}.'"
        )
    if empty := [name for name, names in classnames.items() if not names]:
        raise ConfigError(f"zero_shot: class '{empty[0]}' has no names; expected at least one")
    return {c: [t.format(name) for name in names for t in templates] for c, names in classnames.items()}


def _class_scores(model: Aligned, slide: EncodedSlide, code: TextCode) -> np.ndarray:
    similarity = model.net.similarity(slide.code, code)[0].float().cpu().numpy()
    return SIMILARITY_WEIGHT * similarity + _presence(model, slide, code)


@torch.no_grad()
def retrieve(model: Aligned, slides: Sequence[SlideFeatures | EncodedSlide], captions: Sequence[str]) -> Retrieval:
    """Score every slide against every caption, both ways at once.

    Args:
        slides: at least one.
        captions: whole reports or single sentences.

    Raises:
        CaptionError: a caption without a sentence.
    """
    sentences = [_counted_statements(model, caption, place) for place, caption in enumerate(captions)]
    unique = sorted({sentence for parts in sentences for sentence in parts})
    row_of = {sentence: row for row, sentence in enumerate(unique)}
    rows_of = [[row_of[sentence] for sentence in parts] for parts in sentences]
    code = encode_text(model, unique)
    whole_code = _whole_captions(model, captions, rows_of, code)
    whole, statements, ids = [], [], []
    for slide in _encoded(model, slides):
        logits = _presence(model, slide, code)
        ids.append(slide.slide_id)
        whole.append(model.net.similarity(slide.code, whole_code)[0].float().cpu().numpy())
        statements.append([float(logits[rows].mean()) for rows in rows_of])
    whole_scores, statement_scores = np.stack(whole), np.array(statements)
    return Retrieval(
        tuple(ids), tuple(captions), whole_scores, statement_scores, retrieval_scores(whole_scores, statement_scores)
    )


def _counted_statements(model: Aligned, caption: str, place: int) -> list[str]:
    """The sentences of a caption that its score is the mean of: those a slide can show, or all if there are none."""
    sentences = split_sentences(caption)
    if not sentences:
        raise CaptionError(f"caption {place}: no sentence in {caption[:40]!r}; expected at least one")
    if not model.text.visual_only:
        return sentences
    return [s for s in sentences if parse_statement(s).visual] or sentences


def _whole_captions(model: Aligned, captions: Sequence[str], rows_of: list[list[int]], code: TextCode) -> TextCode:
    if not model.net.captions_are_statements:
        return encode_text(model, captions, statements=False)
    caption = torch.stack([code.caption[rows].mean(0) for rows in rows_of])
    return TextCode(tuple(captions), caption, caption, torch.zeros(len(captions), dtype=torch.bool))


def retrieval_scores(whole: Float[np.ndarray, "B A"], statements: Float[np.ndarray, "B A"]) -> np.ndarray:
    """z(whole) + 2·z(statements).

    With ``FEWEST_TO_STANDARDISE`` slides or more, z is over the slides, caption by caption: some captions score high on
    every slide, and what tells is on which they score higher than elsewhere. With fewer it is over the whole matrix.
    A constant column (or matrix) contributes nothing.
    """
    axis = 0 if len(whole) >= FEWEST_TO_STANDARDISE else None

    def standard(values: np.ndarray) -> np.ndarray:
        spread = values.std(axis=axis, keepdims=True)
        centred = values - values.mean(axis=axis, keepdims=True)
        return np.where(spread > 1e-9, centred / np.maximum(spread, 1e-9), 0.0)

    return standard(whole) + SENTENCE_WEIGHT * standard(statements)


@torch.no_grad()
def ground(model: Aligned, features: SlideFeatures | EncodedSlide, text: str) -> Heatmap:
    """Where on the slide is what the text speaks of? A score per tile, no region label needed.

    For a statement of absence the map shows where the thing would be, and ``negated`` says so.

    Raises:
        ContractError, FeatureError, CaptionError: see :func:`encode_slide` and :func:`encode_text`.
    """
    slide = features if isinstance(features, EncodedSlide) else encode_slide(model, features)
    code = encode_text(model, text)
    heat = model.net.heat(slide.code, code)[0, 0].float().cpu().numpy()
    scores = np.where(slide.key_of_tile >= 0, heat[slide.key_of_tile], np.nan).astype(np.float32)
    return Heatmap(
        slide.grid, scores, text, presence=float(_presence(model, slide, code)[0]), negated=bool(code.negated[0])
    )


def ground_to_files(
    model: Aligned,
    slide: EncodedSlide,
    texts: Sequence[str],
    out: Path,
    *,
    slide_file: Path | None = None,
    slide_mpp: float | None = None,
    tiles: int = 5,
) -> list[dict[str, Any]]:
    """Ground phrases and write, for each, the best tiles and a measurement map for QuPath, and, with the slide at
    hand, the heatmap over its thumbnail.

    Returns:
        One row a phrase: text, slide_id, presence, negated, best tiles, files, note.
    """
    thumbnail, note = None, model.note
    if slide_file is not None:
        if (drawn := slide_id(slide_file)) != slide.slide_id.rpartition("__")[2]:
            note = f"Drawn on slide '{drawn}', but the features are those of '{slide.slide_id}'. {note}"
        with open_slide(slide_file, slide_mpp=slide_mpp) as opened:
            if opened.info.size0 != slide.grid.info.size0:
                raise ContractError(
                    f"slide '{slide_file.name}' is {opened.info.size0} px, but the features were made on "
                    f"{slide.grid.info.size0} px ('{slide.slide_id}'); give the slide the features come from"
                )
            thumbnail = opened.thumbnail(THUMBNAIL_PX)
    rows = []
    for number, text in enumerate(texts, start=1):
        heatmap = ground(model, slide, text)
        stem = out / f"{slide.slide_id}.{number:02d}-{_slug(text)}"
        files = [f"{stem}.top.geojson", f"{stem}.map.geojson"]
        picture.save_tiles_geojson(heatmap, files[0], tiles)
        picture.save_tiles_geojson(heatmap, files[1])
        if thumbnail is not None:
            files.append(f"{stem}.png")
            picture.save_heatmap_png(heatmap, thumbnail, files[2], note=note, tiles=tiles)
        best = [
            {"x": box.x, "y": box.y, "width": box.width, "height": box.height, "score": round(score, 4)}
            for box, score in picture.top_tiles(heatmap, tiles)
        ]
        rows.append(
            {
                "slide_id": slide.slide_id,
                "text": text,
                "presence": round(heatmap.presence, 4),
                "negated": heatmap.negated,
                "tiles": best,
                "files": files,
                "note": note,
            }
        )
    return rows


def _slug(text: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")[:40] or "phrase"
