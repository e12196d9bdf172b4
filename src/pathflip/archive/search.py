"""Search an archive in two stages: by one vector a slide, then the best by their stored patches.

A text scores a slide as :func:`pathflip.inference.retrieve` does, z(whole) + 2·z(sub-captions), with the stored patches
in place of all; mean and standard deviation are over slides evenly spread through the archive, so that a score does not
depend on what else was found.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int

from pathflip.archive.covering import cover, from_int8
from pathflip.archive.query_words import check_words
from pathflip.archive.slide_rows import tile_boxes, unit_vector
from pathflip.archive.text_vectors import query_direction
from pathflip.archive.vector_tables import Archive, in_condition
from pathflip.archive.where import condition
from pathflip.errors import ConfigError, FeatureError
from pathflip.features import read_features
from pathflip.geometry import Box
from pathflip.inference import Aligned, EncodedSlide, encode_caption, encode_slide
from pathflip.inference.retrieval import SENTENCE_WEIGHT
from pathflip.io.storage import shown
from pathflip.types import SlideCode, TextCode

__all__ = ["CANDIDATES", "Hit", "Place", "Searcher"]

CANDIDATES = 1000
"""Slides that the second stage looks at."""
REFERENCES = 512
"""Slides that means and standard deviations are taken over."""
PLACES = 3
SLIDES_AT_ONCE = 128
_STORED = ["slide_id", "vector", "patches", "scales", "weights", "boxes"]


@dataclass(frozen=True)
class Place:
    """A region of a hit, level-0 pixels: ``score`` is its similarity to ``text``, or to the query's patches."""

    box: Box
    score: float
    text: str = ""


@dataclass(frozen=True)
class Hit:
    """A slide that fits, with its regions that fit best."""

    slide_id: str
    score: float
    size0: tuple[int, int]
    places: tuple[Place, ...]
    case_id: str = ""
    patient: str = ""
    labels: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class StoredSlides:
    """Rows of the archive as tensors: ``code`` with padded patches and their weights, ``boxes`` of them."""

    row_ids: Int[np.ndarray, " n"]
    names: tuple[str, ...]
    code: SlideCode
    boxes: tuple[Int[np.ndarray, "_ 4"], ...]


@dataclass(frozen=True, eq=False)
class _Query:
    """Unit patch embeddings to compare with, how much each counts, and the slide they are of."""

    patches: torch.Tensor
    weight: torch.Tensor
    slide: torch.Tensor | None
    name: str


class Searcher:
    """An open archive and, for texts and for slides outside it, the model."""

    def __init__(self, archive: Archive, model: Aligned | None = None, *, candidates: int = CANDIDATES) -> None:
        if candidates < 1:
            raise ConfigError(f"candidates: got {candidates}, expected 1 or more")
        if model is not None:
            archive.check_model(model)
        if not len(archive):
            raise ConfigError(f"'{shown(archive.folder)}': no slide in this archive yet; fill it with  pathflip index")
        self.archive, self.model, self.candidates = archive, model, candidates
        self._references: StoredSlides | None = None
        self._reference_vectors: Float[np.ndarray, "n E"] | None = None

    def by_text(self, text: str, k: int = 20, where: str = "") -> list[Hit]:
        """Slides that show what a text says.

        Raises:
            CaptionError: nothing in it that the model can read. ConfigError: no such column in the condition.
        """
        model = self._model("a text")
        expression = self._condition(where, k)
        check_words(model, text)
        return self.by_codes(*encode_caption(model, text), k, expression)

    def by_codes(self, whole: TextCode, sub_captions: TextCode, k: int, expression: str = "") -> list[Hit]:
        """:meth:`by_text` of an encoded caption; ``expression`` is one of :func:`pathflip.archive.where.condition`."""
        if self._references is None:
            self._references = self.load(self.archive.spread_row_ids(REFERENCES))
        presence = self._presence(self._references, sub_captions)
        parts = np.stack([self._cosine(self._references, whole), presence.mean(1)], 1)
        center, spread = parts.mean(0), parts.std(0)
        row_ids = self._candidates_of_text(whole, sub_captions, parts, presence, max(k, self.candidates), expression)
        if not len(row_ids):
            return []
        slides = self.load(row_ids)
        scaled = np.where(
            spread > 1e-9, (self._parts(slides, whole, sub_captions) - center) / np.maximum(spread, 1e-9), 0
        )
        scores = scaled[:, 0] + SENTENCE_WEIGHT * scaled[:, 1]
        order = [int(row) for row in np.argsort(-scores, kind="stable")[:k]]
        return self._hits(slides, order, scores, [self._places_of_text(slides, row, sub_captions) for row in order])

    def by_slide(self, slide: str | Path | EncodedSlide, k: int = 20, where: str = "") -> list[Hit]:
        """Slides like another one: a slide of the archive by its name, a feature file, or one the model has encoded.

        The score is the mean of two cosines: of the slides, and of the query's patches with the most similar ones.
        """
        expression = self._condition(where, k)
        query = self._slide_query(slide)
        assert query.slide is not None
        row_ids, _ = self.archive.nearest("vector", query.slide.numpy(), max(k, self.candidates) + 1, expression)
        if not len(row_ids):
            return []
        slides = self.load(row_ids)
        whole = F.normalize(slides.code.slide, dim=-1) @ query.slide
        nearest = self._cosines(slides, query.patches).amax(-1) @ query.weight / query.weight.sum()
        scores = ((whole + nearest) / 2).numpy()
        return self._like(slides, scores, query, k)

    def by_region(self, slide: str | Path | EncodedSlide, box: Box, k: int = 20, where: str = "") -> list[Hit]:
        """Slides with a place like a region of a slide: the mean cosine of their best patches with the region's."""
        expression = self._condition(where, k)
        query = self._region_query(slide, box)
        direction = F.normalize(query.weight @ query.patches, dim=-1)
        row_ids, _ = self.archive.nearest("patch_vector", direction.numpy(), max(k, self.candidates) + 1, expression)
        if not len(row_ids):
            return []
        slides = self.load(row_ids)
        cosines = self._cosines(slides, direction[None])[:, 0]
        best = cosines.topk(min(PLACES, cosines.shape[1]), dim=-1).values
        real = best.isfinite()
        scores = (torch.where(real, best, 0).sum(-1) / real.sum(-1)).numpy()
        one = _Query(direction[None], torch.ones(1), None, query.name)
        return self._like(slides, scores, one, k)

    # --- Rows as tensors ---------------------------------------------------------------------------------------------

    def load(self, row_ids: Int[np.ndarray, " n"]) -> StoredSlides:
        """The stored vectors of rows, in their order.

        Raises:
            FeatureError: a row is damaged.
        """
        rows = self.archive.take(row_ids, _STORED).to_pydict()
        width = self.archive.model.embed_dim
        patches, weights, boxes = [], [], []
        for number, name in enumerate(rows["slide_id"]):
            try:
                scale = np.frombuffer(rows["scales"][number], "<f4")
                values = np.frombuffer(rows["patches"][number], np.int8).reshape(len(scale), width)
                weights.append(torch.from_numpy(np.frombuffer(rows["weights"][number], "<i4").astype(np.float32)))
                boxes.append(np.frombuffer(rows["boxes"][number], "<i4").astype(np.int64).reshape(len(scale), 4))
                if len(weights[-1]) != len(scale) or not len(scale):
                    raise ValueError("lengths differ")
            except (ValueError, TypeError) as error:
                raise FeatureError(
                    f"'{shown(self.archive.folder)}': slide '{name}' is damaged ({error}); index again"
                ) from None
            patches.append(torch.from_numpy(from_int8(values, scale)))
        pad = torch.nn.utils.rnn.pad_sequence
        weight = pad(weights, batch_first=True)
        slide = torch.tensor(np.array(rows["vector"], np.float32))
        code = SlideCode(slide, pad(patches, batch_first=True), weight > 0, weight)
        return StoredSlides(row_ids, tuple(rows["slide_id"]), code, tuple(boxes))

    # --- Scores ------------------------------------------------------------------------------------------------------

    def _candidates_of_text(
        self,
        whole: TextCode,
        sub_captions: TextCode,
        parts: Float[np.ndarray, "n 2"],
        presence: Float[np.ndarray, "n C"],
        count: int,
        expression: str,
    ) -> Int[np.ndarray, " m"]:
        """The first stage: rows that a product of vectors ranks highest for a text (see ``text_vectors``)."""
        assert self._references is not None
        if self._reference_vectors is None:
            held = self.archive.take(self._references.row_ids, ["text_vector"])["text_vector"]
            self._reference_vectors = np.array(held.to_pylist(), np.float32)
        caption, local = (
            F.normalize(vectors.float(), dim=-1).cpu().numpy() for vectors in (whole.caption, sub_captions.local)
        )
        stored = self._reference_vectors
        direction = query_direction(stored, parts, caption[0], local, presence, SENTENCE_WEIGHT)
        return self.archive.farthest("text_vector", direction, stored, count, expression)

    def _parts(self, slides: StoredSlides, whole: TextCode, sub_captions: TextCode) -> Float[np.ndarray, "n 2"]:
        """Whole-slide cosine and mean presence of the sub-captions, slide by slide."""
        return np.stack([self._cosine(slides, whole), self._presence(slides, sub_captions).mean(1)], 1)

    @torch.no_grad()
    def _cosine(self, slides: StoredSlides, whole: TextCode) -> Float[np.ndarray, " n"]:
        model = self._model("a text")
        return np.asarray(model.net.similarity(slides.code.to(model.device), whole)[:, 0].float().cpu().numpy())

    @torch.no_grad()
    def _presence(self, slides: StoredSlides, sub_captions: TextCode) -> Float[np.ndarray, "n C"]:
        """Of every sub-caption on every slide."""
        model, parts = self._model("a text"), []
        for start in range(0, len(slides.names), SLIDES_AT_ONCE):
            code = _some(slides.code, slice(start, start + SLIDES_AT_ONCE)).to(model.device)
            parts.append(model.net.presence(code, sub_captions).float().cpu())
        return torch.cat(parts).numpy()

    @torch.no_grad()
    def _places_of_text(self, slides: StoredSlides, row: int, sub_captions: TextCode) -> tuple[Place, ...]:
        """The patches that show the sub-captions best; those that deny show where the thing would be, and are left out
        where others affirm."""
        model = self._model("a text")
        code = _some(slides.code, slice(row, row + 1)).to(model.device)
        similarity = model.net.patch_similarity(code, sub_captions)[0].float().cpu().numpy()
        affirmed = np.flatnonzero(~sub_captions.negated.cpu().numpy())
        similarity = similarity[affirmed] if len(affirmed) else similarity
        texts = [sub_captions.texts[i] for i in affirmed] if len(affirmed) else list(sub_captions.texts)
        best = similarity.max(axis=0)[: len(slides.boxes[row])]
        return tuple(
            Place(_box(slides.boxes[row][i]), float(best[i]), texts[int(similarity[:, i].argmax())])
            for i in np.argsort(-best, kind="stable")[:PLACES]
        )

    def _cosines(self, slides: StoredSlides, patches: Float[torch.Tensor, "q E"]) -> Float[torch.Tensor, "n q M"]:
        """Of query patches with stored ones; -inf where padded."""
        cosine = patches @ F.normalize(slides.code.patches, dim=-1).mT
        return cosine.masked_fill(~slides.code.patch_mask[:, None], float("-inf"))

    def _like(self, slides: StoredSlides, scores: np.ndarray, query: _Query, k: int) -> list[Hit]:
        order = [int(i) for i in np.argsort(-scores, kind="stable") if slides.names[i] != query.name][:k]
        places = []
        for row in order:
            part = StoredSlides(slides.row_ids, (), _some(slides.code, slice(row, row + 1)), ())
            best = self._cosines(part, query.patches)[0].amax(0).numpy()[: len(slides.boxes[row])]
            top = np.argsort(-best, kind="stable")[:PLACES]
            places.append(tuple(Place(_box(slides.boxes[row][i]), float(best[i])) for i in top))
        return self._hits(slides, order, scores, places)

    def _hits(
        self, slides: StoredSlides, order: Sequence[int], scores: np.ndarray, places: list[tuple[Place, ...]]
    ) -> list[Hit]:
        labels = self.archive.labels
        columns = ["case_id", "patient", "width0", "height0", *labels.values()]
        if not order:
            return []
        facts = self.archive.take(slides.row_ids[order], columns).to_pydict()
        return [
            Hit(
                slides.names[row],
                float(scores[row]),
                (facts["width0"][number], facts["height0"][number]),
                places[number],
                facts["case_id"][number] or "",
                facts["patient"][number] or "",
                {name: facts[c][number] for name, c in labels.items() if facts[c][number] is not None},
            )
            for number, row in enumerate(order)
        ]

    # --- Queries -----------------------------------------------------------------------------------------------------

    def _condition(self, where: str, k: int) -> str:
        if k < 1:
            raise ConfigError(f"k: got {k}, expected 1 or more")
        return condition(where, self.archive.columns) if where.strip() else ""

    def _model(self, what: str) -> Aligned:
        if self.model is None:
            raise ConfigError(f"search: {what} can only be read by the model; give --model")
        return self.model

    def _encoded(self, slide: str | Path | EncodedSlide) -> EncodedSlide | None:
        """The slide with all its patches; None where only the archive knows it."""
        if isinstance(slide, EncodedSlide):
            return slide
        if Path(slide).suffix.lower() != ".h5":
            return None
        return encode_slide(self._model("a feature file"), read_features(Path(slide)))

    def _stored(self, name: str) -> tuple[StoredSlides, str]:
        """A slide of the archive, and its feature file."""
        with_id = self.archive.rows(["slide_id", "file"], in_condition([name]), limit=1)
        if not with_id["slide_id"]:
            raise ConfigError(f"'{name}': neither a slide of this archive nor a feature file (.h5); check the name")
        row_ids, _ = self.archive.nearest(
            "vector", np.zeros(self.archive.model.embed_dim), 1, in_condition([name]), True
        )
        return self.load(row_ids), str(with_id["file"][0])

    def _slide_query(self, slide: str | Path | EncodedSlide) -> _Query:
        encoded = self._encoded(slide)
        if encoded is not None:
            patches = encoded.code.patches[0].float().cpu()
            covering = cover(patches.numpy(), self.archive.patches_a_slide)
            return _Query(
                F.normalize(patches[torch.from_numpy(covering.rows)], dim=-1),
                torch.from_numpy(covering.weight.astype(np.float32)),
                torch.from_numpy(unit_vector(encoded.code.slide[0].float().cpu().numpy())),
                encoded.slide_id,
            )
        stored, _ = self._stored(str(slide))
        code = stored.code
        vector = F.normalize(code.slide[0], dim=-1)
        assert code.patch_weight is not None
        return _Query(F.normalize(code.patches[0], dim=-1), code.patch_weight[0], vector, stored.names[0])

    def _region_query(self, slide: str | Path | EncodedSlide, box: Box) -> _Query:
        """The patches whose middle lies in a region, or whose tile holds its middle: all of a feature file's or encoded
        slide's, else those stored."""
        encoded, hint = self._encoded(slide), ""
        if encoded is not None:
            patches = encoded.code.patches[0].float().cpu()
            boxes, name = tile_boxes(encoded, np.arange(len(patches))), encoded.slide_id
            weight = torch.ones(len(patches))
        else:
            stored, file = self._stored(str(slide))
            assert stored.code.patch_weight is not None
            patches, weight = stored.code.patches[0], stored.code.patch_weight[0]
            boxes, name = stored.boxes[0], stored.names[0]
            hint = f", or give its feature file ('{file}'), with all of them"
        inside = torch.from_numpy(_inside(boxes, box))
        if not inside.any():
            raise FeatureError(f"region {box.x},{box.y},{box.width},{box.height} of '{name}': no patch there{hint}")
        return _Query(F.normalize(patches[inside], dim=-1), weight[inside], None, name)


def _inside(boxes: Int[np.ndarray, "n 4"], box: Box) -> Bool[np.ndarray, " n"]:
    """Which tiles have their middle in a region; where none has, those that hold the region's middle."""
    low, high = np.array([box.x, box.y]), np.array([box.x + box.width, box.y + box.height])
    middles = boxes[:, :2] + boxes[:, 2:] / 2
    inside = ((middles >= low) & (middles <= high)).all(axis=1)
    if inside.any():
        return np.asarray(inside)
    middle = (low + high) / 2
    return np.asarray(((boxes[:, :2] <= middle) & (middle <= boxes[:, :2] + boxes[:, 2:])).all(axis=1))


def _some(code: SlideCode, part: slice) -> SlideCode:
    weight = None if code.patch_weight is None else code.patch_weight[part]
    return SlideCode(code.slide[part], code.patches[part], code.patch_mask[part], weight)


def _box(values: Any) -> Box:
    return Box(*(int(value) for value in values))
