"""Visual tokens: what a language model is shown of a slide when it is asked something.

A slide is encoded once (:func:`prepare_slide`), and each text is compared with it once
(:mod:`pathflip.models.measurements`). The results become tokens: the slide's own, one for each text, and
the patches most like the texts.
"""

from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from pathflip.arguments import as_texts
from pathflip.data.patches import relative_positions
from pathflip.errors import ConfigError, FeatureError
from pathflip.inference import Aligned, EncodedSlide, encode_slide, encode_text
from pathflip.models.assistant import AssistantConfig
from pathflip.models.measurements import (
    BOTH,
    NUM_NUMBERS,
    OPTION,
    PATCH,
    PROBE,
    QUESTION,
    SLIDE,
    MeasuredTexts,
    Measures,
    compare_options,
    compare_with_absence,
    measure_texts,
    pick_patches,
    token_numbers,
    unit,
)
from pathflip.text.questions import QueryText, asks_whether, query_texts
from pathflip.types import SlideFeatures, SlideTokens, TextCode

__all__ = ["PreparedSlide", "VisualTokenizer", "prepare_slide"]


@dataclass(frozen=True, eq=False)
class PreparedSlide:
    """A slide ready for questions: encoded, with the place and the tiles of every patch, and its features."""

    features: SlideFeatures
    encoded: EncodedSlide
    place: Float[Tensor, "M 2"]
    tiles: tuple[np.ndarray, ...]

    @property
    def slide_id(self) -> str:
        """The slide's id."""
        return self.encoded.slide_id


def prepare_slide(model: Aligned, features: SlideFeatures, keep: Bool[np.ndarray, " N"] | None = None) -> PreparedSlide:
    """Encode a slide for questions.

    Args:
        model: the alignment model.
        features: of the slide.
        keep: tiles to leave on the slide. The others are removed as if they had never been cut: the slide, the
            neighbourhoods and the patches are computed without them. Positions stay those of the whole tissue.

    Raises:
        ContractError, FeatureError: see :func:`pathflip.inference.encode_slide`.
    """
    whole = features
    if keep is not None:
        if keep.shape != features.valid.shape:
            raise FeatureError(
                f"slide '{features.slide_id}': keep has {keep.shape[0]} entries for {len(features.valid)} tiles"
            )
        features = replace(features, valid=features.valid & keep)
    encoded = encode_slide(model, features)
    place = relative_positions(whole.coords, whole.valid, whole.grid.tile_px0)
    rows = np.flatnonzero(encoded.row_of_tile >= 0)
    patch = encoded.row_of_tile[rows]
    rows = rows[np.argsort(patch, kind="stable")]
    num_patches = encoded.code.patches.shape[1]
    count = np.bincount(patch, minlength=num_patches)
    tiles = tuple(np.split(rows, np.cumsum(count)[:-1]))
    patch = encoded.row_of_tile[rows]
    total = np.stack([np.bincount(patch, place[rows, axis], num_patches) for axis in (0, 1)], axis=1)
    middle = total / np.maximum(count, 1)[:, None]
    return PreparedSlide(
        features=whole,
        encoded=encoded,
        place=torch.from_numpy(middle).float().to(model.device),
        tiles=tiles,
    )


class VisualTokenizer:
    """Makes visual tokens of slides and questions; slides and texts are encoded once and remembered.

    Args:
        model: the alignment model.
        config: how many texts, patches and tokens.
        read: features by slide id; needed only for slides that are named by their id.
        evidence: keep the tiles behind every token (training has no use for them).
        cache_bytes: slides are kept encoded up to this size; those used longest ago leave.
    """

    def __init__(
        self,
        model: Aligned,
        config: AssistantConfig,
        read: Callable[[str], SlideFeatures] | None = None,
        *,
        evidence: bool = True,
        cache_bytes: int = 2 << 30,
    ) -> None:
        self.model, self.config, self._read = model, config, read
        self.evidence, self.cache_bytes = evidence, cache_bytes
        self._slides: OrderedDict[str, PreparedSlide] = OrderedDict()
        self._measured: dict[str, dict[str, MeasuredTexts]] = {}
        self._codes: dict[str, TextCode] = {}
        self._expected: dict[str, tuple[str, ...]] = {}

    def expect(self, texts_of: Mapping[str, Sequence[str]]) -> None:
        """Texts that will be looked for on slides, by slide id.

        They are all measured the first time the slide is used, several times quicker than question after question.
        """
        self._expected = {slide_id: tuple(dict.fromkeys(texts)) for slide_id, texts in texts_of.items()}
        self.encode([text for texts in self._expected.values() for text in texts])

    def slide(self, slide_id: str) -> PreparedSlide:
        """A slide by its id, encoded once."""
        if slide_id in self._slides:
            self._slides.move_to_end(slide_id)
            return self._slides[slide_id]
        if self._read is None:
            raise ConfigError(f"slide '{slide_id}': this assistant knows no features by name; give it the slide itself")
        prepared = self._slides[slide_id] = prepare_slide(self.model, self._read(slide_id))
        while sum(_size(one) for one in self._slides.values()) > self.cache_bytes and len(self._slides) > 1:
            gone, _ = self._slides.popitem(last=False)
            self._measured.pop(gone, None)
        return prepared

    def __call__(
        self, slide: PreparedSlide | str, questions: Sequence[str], options: Sequence[str] = (), num_slides: int = 1
    ) -> SlideTokens:
        """:meth:`tokens` for what the questions speak of: what ``data.instruct`` calls."""
        queries = [query for question in questions for query in self.queries(question, options)]
        return self.tokens(slide, list(dict.fromkeys(queries)), num_slides)

    def queries(self, question: str, options: Sequence[str] = ()) -> list[QueryText]:
        """What to look for: the question's texts and, where these do not answer it (it has no options, and does not ask
        whether something is there), the probes."""
        queries = query_texts(question, options, self.config.max_texts)
        if not options and not asks_whether(question):
            known = {query.text for query in queries}
            queries += [QueryText(text, probe=True) for text in self.config.probes if text not in known]
        return queries[: self.config.max_texts]

    def tokens(self, slide: PreparedSlide | str, queries: Sequence[QueryText], num_slides: int = 1) -> SlideTokens:
        """What the language model is shown of one slide.

        Args:
            slide: prepared, or the id of a slide that ``read`` knows.
            queries: the texts to look for, from :meth:`queries`.
            num_slides: slides of the conversation, which share its ``max_tokens``.

        Raises:
            ConfigError: more slides than tokens allow.
        """
        if self.config.text_only:
            return self._without_slide(queries[: self.config.max_tokens // num_slides])
        prepared = self.slide(slide) if isinstance(slide, str) else slide
        budget = self.config.max_tokens // num_slides
        if budget < 2:
            raise ConfigError(
                f"conversation: got {num_slides} slides, expected at most {self.config.max_tokens // 2} "
                f"(max_tokens {self.config.max_tokens})"
            )
        queries = queries[: min(self.config.max_texts, budget - 1)]
        texts = self._measure(prepared, tuple(query.text for query in queries))
        patches = pick_patches(texts, min(self.config.num_patches, budget - 1 - len(queries)))
        return _tokens(prepared, queries, texts, patches, self.config.tiles_per_text if self.evidence else 0)

    def encode(self, texts: Sequence[str]) -> None:
        """Encode texts ahead, many at a time."""
        missing = [text for text in dict.fromkeys(as_texts(texts, "texts")) if text not in self._codes]
        if missing:
            code = encode_text(self.model, missing)
            for row, text in enumerate(missing):
                self._codes[text] = _one_text(code, row)

    def _without_slide(self, queries: Sequence[QueryText]) -> SlideTokens:
        """What is looked for, and nothing of the slide."""
        self.encode([query.text for query in queries])
        directions = torch.cat([self._codes[query.text].local for query in queries])
        no_tiles, no_scores = np.zeros(0, np.int64), np.zeros(0, np.float32)
        return SlideTokens(
            vectors=torch.zeros(len(queries), self.config.embed_dim),
            text_vectors=unit(directions),
            numbers=torch.zeros(len(queries), NUM_NUMBERS),
            kind=torch.tensor([_kind(query) for query in queries]),
            slot=torch.tensor([query.option for query in queries]),
            tiles=(no_tiles,) * len(queries),
            scores=(no_scores,) * len(queries),
            texts=tuple(query.text for query in queries),
        )

    def _measure(self, slide: PreparedSlide, texts: tuple[str, ...]) -> MeasuredTexts:
        # Results are kept for slides known by id only: a prepared slide may be one of many, with tiles removed.
        is_named = self._slides.get(slide.slide_id) is slide
        known = self._measured.setdefault(slide.slide_id, {}) if is_named else {}
        ahead = self._expected.get(slide.slide_id, ()) if is_named and not known else ()
        missing = [text for text in dict.fromkeys([*texts, *ahead]) if text not in known]
        if missing:
            self.encode(missing)
            code = TextCode.cat([self._codes[text] for text in missing])
            measured = measure_texts(self.model.net, slide.encoded.code, slide.place, code, self._num_best(slide))
            known |= {text: measured.rows(slice(row, row + 1)) for row, text in enumerate(missing)}
        return MeasuredTexts.cat([known[text] for text in texts])

    def _num_best(self, slide: PreparedSlide) -> int:
        wanted = max(self.config.tiles_per_text, self.config.num_patches)
        return min(wanted, slide.encoded.code.patches.shape[1])


def _tokens(
    slide: PreparedSlide,
    queries: Sequence[QueryText],
    texts: MeasuredTexts,
    patches: Sequence[tuple[int, int, float]],
    tiles_per_text: int,
) -> SlideTokens:
    """Slide, texts, patches, in this order; ``tiles_per_text`` 0 leaves the evidence out."""
    code = slide.encoded.code
    text_of = torch.tensor([text for text, _, _ in patches], dtype=torch.long)
    chosen = torch.tensor([patch for _, patch, _ in patches], dtype=torch.long)
    similarity = torch.tensor([value for _, _, value in patches])
    patch_vectors = code.patches[0, chosen.to(code.patches.device)]
    of_patches = replace(
        Measures.zeros(len(patches)),
        similarity=similarity - texts.measures.margin[text_of],
        place=slide.place.cpu()[chosen],
    )
    of_slide = replace(Measures.zeros(1), log_num_patches=code.patch_mask.sum().float().log1p().cpu()[None])
    vectors = torch.cat([unit(code.slide), texts.pooled, unit(patch_vectors)])
    no_text = torch.zeros_like(vectors[:1])
    tiles, scores = _evidence(slide, texts, chosen, similarity, tiles_per_text) if tiles_per_text else ((), ())
    options = [query.option for query in queries]
    return SlideTokens(
        vectors=vectors,
        text_vectors=torch.cat([no_text, texts.directions, texts.directions[text_of]]),
        numbers=torch.cat([token_numbers(of_slide), _text_numbers(queries, texts.measures), token_numbers(of_patches)]),
        kind=torch.tensor([SLIDE, *(_kind(query) for query in queries), *[PATCH] * len(patches)]),
        slot=torch.tensor([0, *options, *(options[text] for text, _, _ in patches)]),
        tiles=tiles,
        scores=scores,
        texts=("", *(query.text for query in queries), *(queries[text].text for text, _, _ in patches)),
    )


def _text_numbers(queries: Sequence[QueryText], measures: Measures) -> Float[Tensor, "C F"]:
    """Numbers of the texts' tokens; options are compared with each other, alone and joined with the question, and what
    the question speaks of with its absence."""
    kinds = [_kind(query) for query in queries]
    measures = compare_with_absence(measures, [row for row, kind in enumerate(kinds) if kind == QUESTION])
    for alternatives in (OPTION, BOTH):
        measures = compare_options(measures, [row for row, kind in enumerate(kinds) if kind == alternatives])
    return token_numbers(measures, torch.tensor(kinds))


def _kind(query: QueryText) -> int:
    if query.probe:
        return PROBE
    if query.option == 0:
        return QUESTION
    return BOTH if query.joined else OPTION


def _evidence(
    slide: PreparedSlide,
    texts: MeasuredTexts,
    chosen: Int[Tensor, " P"],
    similarity: Float[Tensor, " P"],
    tiles_per_text: int,
) -> tuple[tuple[np.ndarray, ...], tuple[np.ndarray, ...]]:
    """Tiles and scores of every token: none for the slide, the best of each text, one patch's of each patch."""
    parts = [(np.zeros(0, np.int64), np.zeros(0, np.float32))]
    for best, scores in zip(texts.best_patches[:, :tiles_per_text], texts.best_similarity, strict=True):
        parts.append(_tiles_of(slide, best, scores[: len(best)]))
    parts += [_tiles_of(slide, chosen[i : i + 1], similarity[i : i + 1]) for i in range(len(chosen))]
    return tuple(tiles for tiles, _ in parts), tuple(scores for _, scores in parts)


def _tiles_of(slide: PreparedSlide, patches: Tensor, similarity: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """The tiles behind patches, with the patch's similarity each."""
    tiles = [slide.tiles[patch] for patch in patches.tolist()]
    scores = [np.full(len(t), value, np.float32) for t, value in zip(tiles, similarity.tolist(), strict=True)]
    return np.concatenate(tiles).astype(np.int64), np.concatenate(scores)


def _one_text(code: TextCode, row: int) -> TextCode:
    one = slice(row, row + 1)
    gate, margin = (None if value is None else value[one] for value in (code.gate, code.margin))
    return TextCode(
        texts=code.texts[one],
        caption=code.caption[one],
        local=code.local[one],
        negated=code.negated[one],
        gate=gate,
        margin=margin,
    )


def _size(slide: PreparedSlide) -> int:
    return slide.encoded.code.patches.nbytes + slide.features.features.nbytes
