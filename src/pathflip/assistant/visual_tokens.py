"""Slides looked at with words: each slide encoded once, each text looked for once, the results joined as tokens."""

from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

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
    Findings,
    compare_options,
    examine,
    margins,
    patch_numbers,
    pick_patches,
    slide_numbers,
    unit,
    with_question,
)
from pathflip.text.questions import AskedText, asked_texts
from pathflip.types import SlideFeatures, SlideTokens, TextCode

__all__ = ["Looker", "SlideView", "view_slide"]


@dataclass(frozen=True, eq=False)
class SlideView:
    """A slide in the shared space, with the place and the tiles of every key, and the features it came from."""

    features: SlideFeatures
    encoded: EncodedSlide
    place: Float[Tensor, "M 2"]
    tiles: tuple[np.ndarray, ...]

    @property
    def slide_id(self) -> str:
        """Whose it is."""
        return self.encoded.slide_id


def view_slide(model: Aligned, features: SlideFeatures, keep: Bool[np.ndarray, " N"] | None = None) -> SlideView:
    """Encode a slide for looking.

    Args:
        model: the alignment model.
        features: of the slide.
        keep: tiles to leave on the slide. The others are removed as if they had never been cut: the slide, the
            neighbourhoods and the keys are computed without them. Positions stay those of the whole tissue.

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
    key = encoded.row_of_tile[rows]
    rows = rows[np.argsort(key, kind="stable")]
    num_keys = encoded.code.patches.shape[1]
    count = np.bincount(key, minlength=num_keys)
    tiles = tuple(np.split(rows, np.cumsum(count)[:-1]))
    total = np.stack([np.bincount(encoded.row_of_tile[rows], place[rows, axis], num_keys) for axis in (0, 1)], axis=1)
    middle = total / np.maximum(count, 1)[:, None]
    return SlideView(whole, encoded, torch.from_numpy(middle).float().to(model.device), tiles)


class Looker:
    """Looks at slides with words, remembering both.

    Args:
        model: the alignment model.
        config: how many texts, patches and tokens.
        read: features by slide id; needed only to look at slides by their id.
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
        self._views: OrderedDict[str, SlideView] = OrderedDict()
        self._found: dict[str, dict[str, Findings]] = {}
        self._codes: dict[str, TextCode] = {}
        self._expected: dict[str, tuple[str, ...]] = {}

    def expect(self, texts_of: Mapping[str, Sequence[str]]) -> None:
        """Texts that will be looked for on slides: they are all looked for the first time the slide is, which is
        several times quicker than one question after the other."""
        self._expected = {slide_id: tuple(dict.fromkeys(texts)) for slide_id, texts in texts_of.items()}
        self.encode([text for texts in self._expected.values() for text in texts])

    def view(self, slide_id: str) -> SlideView:
        """A slide by its id, encoded once."""
        if slide_id in self._views:
            self._views.move_to_end(slide_id)
            return self._views[slide_id]
        if self._read is None:
            raise ConfigError(f"slide '{slide_id}': this assistant knows no features by name; give it the slide itself")
        view = self._views[slide_id] = view_slide(self.model, self._read(slide_id))
        while sum(_size(one) for one in self._views.values()) > self.cache_bytes and len(self._views) > 1:
            gone, _ = self._views.popitem(last=False)
            self._found.pop(gone, None)
        return view

    def __call__(
        self, slide: SlideView | str, questions: Sequence[str], options: Sequence[str] = (), num_slides: int = 1
    ) -> SlideTokens:
        """:meth:`look` for what the questions ask: what ``data.instruct`` calls."""
        asked = [one for question in questions for one in self.asked(question, options)]
        return self.look(slide, list(dict.fromkeys(asked)), num_slides)

    def asked(self, question: str, options: Sequence[str] = ()) -> list[AskedText]:
        """What to look for: the question's texts and, where it has no options, the probes."""
        found = asked_texts(question, options, self.config.max_texts)
        if not options:
            known = {one.text for one in found}
            found += [AskedText(text, probe=True) for text in self.config.probes if text not in known]
        return found[: self.config.max_texts]

    def look(self, slide: SlideView | str, asked: Sequence[AskedText], num_slides: int = 1) -> SlideTokens:
        """What the language model is shown of one slide.

        Args:
            slide: a view, or the id of a slide that ``read`` knows.
            asked: the texts, from :meth:`asked`.
            num_slides: slides of the conversation, which share its ``max_tokens``.

        Raises:
            ConfigError: more slides than tokens allow.
        """
        if self.config.text_only:
            return self._unseen(asked[: self.config.max_tokens // num_slides])
        view = self.view(slide) if isinstance(slide, str) else slide
        budget = self.config.max_tokens // num_slides
        if budget < 2:
            raise ConfigError(
                f"conversation: got {num_slides} slides, expected at most {self.config.max_tokens // 2} "
                f"(max_tokens {self.config.max_tokens})"
            )
        asked = asked[: min(self.config.max_texts, budget - 1)]
        found = self._examine(view, tuple(one.text for one in asked))
        patches = pick_patches(found, min(self.config.num_patches, budget - 1 - len(asked)))
        return _tokens(view, asked, found, patches, self.config.tiles_per_text if self.evidence else 0)

    def encode(self, texts: Sequence[str]) -> None:
        """Encode texts ahead, many at a time."""
        missing = [text for text in dict.fromkeys(texts) if text not in self._codes]
        if missing:
            code = encode_text(self.model, missing)
            for row, text in enumerate(missing):
                self._codes[text] = _row(code, row)

    def _unseen(self, asked: Sequence[AskedText]) -> SlideTokens:
        """What was asked for, and nothing of the slide."""
        self.encode([one.text for one in asked])
        local = torch.cat([self._codes[one.text].local for one in asked])
        nothing, none = tuple(np.zeros(0, np.int64) for _ in asked), tuple(np.zeros(0, np.float32) for _ in asked)
        return SlideTokens(
            vectors=torch.zeros(len(asked), self.config.embed_dim),
            asked=unit(local),
            numbers=torch.zeros(len(asked), NUM_NUMBERS),
            kind=torch.tensor([_kind(one) for one in asked]),
            slot=torch.tensor([one.option for one in asked]),
            tiles=nothing,
            scores=none,
            texts=tuple(one.text for one in asked),
        )

    def _examine(self, view: SlideView, texts: tuple[str, ...]) -> Findings:
        # Results are kept for slides known by id only: a view may be one of many of a slide, with tiles removed.
        is_named = self._views.get(view.slide_id) is view
        known = self._found.setdefault(view.slide_id, {}) if is_named else {}
        ahead = self._expected.get(view.slide_id, ()) if is_named and not known else ()
        missing = [text for text in dict.fromkeys([*texts, *ahead]) if text not in known]
        if missing:
            self.encode(missing)
            code = TextCode.cat([self._codes[text] for text in missing])
            found = examine(self.model.net, view.encoded.code, view.place, code, self._num_best(view))
            known |= {text: _part(found, row) for row, text in enumerate(missing)}
        return Findings(*(torch.cat([getattr(known[t], f.name) for t in texts]) for f in fields(Findings)))

    def _num_best(self, view: SlideView) -> int:
        wanted = max(self.config.tiles_per_text, self.config.num_patches)
        return min(wanted, view.encoded.code.patches.shape[1])


def _tokens(
    view: SlideView,
    asked: Sequence[AskedText],
    found: Findings,
    patches: Sequence[tuple[int, int, float]],
    tiles_per_text: int,
) -> SlideTokens:
    """Slide, texts, patches, in this order; ``tiles_per_text`` 0 leaves the evidence out."""
    code = view.encoded.code
    kind = [_kind(one) for one in asked]
    numbers = found.numbers
    for group in (OPTION, BOTH):  # alternatives are compared with each other
        rows = [i for i, one in enumerate(kind) if one == group]
        if rows:
            numbers = numbers.index_copy(0, torch.tensor(rows), compare_options(numbers[rows]))
    numbers = with_question(numbers, torch.tensor(kind))
    chosen = torch.tensor([key for _, key, _ in patches], dtype=torch.long)
    origin = torch.tensor([text for text, _, _ in patches], dtype=torch.long)
    heat = torch.tensor([score for _, _, score in patches])
    margin = margins(found)[origin]
    vectors = torch.cat([unit(code.slide), found.pooled, unit(code.patches[0, chosen.to(code.patches.device)])])
    tiles: tuple[np.ndarray, ...] = ()
    scores: tuple[np.ndarray, ...] = ()
    if tiles_per_text:
        tiles, scores = _all_evidence(view, found, chosen, heat, tiles_per_text)
    return SlideTokens(
        vectors=vectors,
        asked=torch.cat([torch.zeros_like(vectors[:1]), found.asked, found.asked[origin]]),
        numbers=torch.cat([slide_numbers(code), numbers, patch_numbers(heat - margin, view.place.cpu()[chosen])]),
        kind=torch.tensor([SLIDE, *kind, *[PATCH] * len(patches)]),
        slot=torch.tensor([0, *(one.option for one in asked), *(asked[i].option for i in origin.tolist())]),
        tiles=tiles,
        scores=scores,
        texts=("", *(one.text for one in asked), *(asked[i].text for i in origin.tolist())),
    )


def _all_evidence(
    view: SlideView, found: Findings, chosen: Tensor, heat: Tensor, tiles_per_text: int
) -> tuple[tuple[np.ndarray, ...], tuple[np.ndarray, ...]]:
    """Tiles and scores of every token: none for the slide, the best of each text, one key of each patch."""
    parts = [(np.zeros(0, np.int64), np.zeros(0, np.float32))]
    parts += [_evidence(view, found.best[i, :tiles_per_text], found.best_heat[i]) for i in range(len(found.best))]
    parts += [_evidence(view, chosen[i : i + 1], heat[i : i + 1]) for i in range(len(chosen))]
    tiles, scores = zip(*parts, strict=True)
    return tiles, scores


def _kind(asked: AskedText) -> int:
    if asked.probe:
        return PROBE
    if asked.option == 0:
        return QUESTION
    return BOTH if asked.joined else OPTION


def _evidence(view: SlideView, keys: Tensor, heat: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """The tiles behind keys, with the key's heat each."""
    tiles = [view.tiles[key] for key in keys.tolist()]
    scores = [np.full(len(t), float(h), np.float32) for t, h in zip(tiles, heat.tolist(), strict=False)]
    return np.concatenate(tiles).astype(np.int64), np.concatenate(scores)


def _part(found: Findings, row: int) -> Findings:
    return Findings(*(getattr(found, f.name)[row : row + 1] for f in fields(Findings)))


def _row(code: TextCode, row: int) -> TextCode:
    one = slice(row, row + 1)
    gate, margin = (None if value is None else value[one] for value in (code.gate, code.margin))
    return TextCode(code.texts[one], code.caption[one], code.local[one], code.negated[one], gate, margin)


def _size(view: SlideView) -> int:
    keys = view.encoded.code.patches
    return keys.nbytes + view.features.features.nbytes
