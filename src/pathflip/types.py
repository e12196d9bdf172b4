"""Tensors that cross package borders, and the letters their shapes are written in.

```text
B slides in a batch      N patches of a slide      L regions of a slide          S patch slots of a region
K sub-captions           T text tokens             C candidate texts             M rows a text attends to
D patch-feature width    E shared-embedding width  W model width                 Q query tokens
V visual tokens          F numbers of one          H language-model width
```

Every mask is boolean and True means real. Everything is a frozen dataclass; nothing here computes.
(No ``from __future__ import annotations`` here: it would hide the shapes from the run-time check in the tests.)
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, Literal, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from numpy.typing import NDArray
from torch import Tensor

from pathflip.geometry import Box, SlideInfo, TileGrid, TileSpec
from pathflip.io import tile_scores

__all__ = [
    "IGNORED", "AlignBatch", "AlignModel", "AlignOutput", "Answer", "Caption", "Case", "CaseSlide", "Evidence",
    "Heatmap", "InstructBatch", "PatchChunk", "RegionGrid", "SlideChunks", "SlideCode", "SlideFeatures",
    "SlideTokens", "SubCaption", "TextCode",
]  # fmt: skip


IGNORED = -100
"""The label of a token that nothing is learned from (torch's and transformers' convention)."""


@dataclass(frozen=True, eq=False, repr=False)
class SlideFeatures:
    """The patch features of one slide. Row i is tile i of ``TileGrid(info, spec, coords)``.

    A tile that could not be read is a row with ``valid`` False (and zeros), never a white tile.
    """

    slide_id: str
    features: Float[np.ndarray, "N D"]
    coords: Int[np.ndarray, "N 2"]
    valid: Bool[np.ndarray, " N"]
    info: SlideInfo
    spec: TileSpec
    encoder: str

    @property
    def grid(self) -> TileGrid:
        """The tiles of the rows: their geometry."""
        return TileGrid(self.info, self.spec, self.coords)

    __repr__ = tile_scores.features_line
    to_dataframe = tile_scores.features_table
    to_image = tile_scores.features_image


@dataclass(frozen=True)
class SubCaption:
    """One sub-caption of a report.

    Attributes:
        text: the sentence, or the clause, as written.
        content: what it speaks of, negation cues removed ("no necrosis seen" -> "necrosis seen").
        visual: whether this slide can show it (margins, node counts, stage, history cannot be seen).
        negated: whether it states an absence.
        concept: a short name for the finding, where known.
        box: where it is, where known.
        undecided: whether it leaves open if the finding is there, or could not be understood. Never trains.
        reason: why it is not visible, or why it is undecided.
        part: the part of the report it belongs to ("A"), where there are parts.
        section: the kind of section it stands in ("microscopy", "diagnosis", …), where there are sections.
        language: two-letter code of its language, or "mixed".
        place: start and end in the report's text, in characters.
    """

    text: str
    content: str
    visual: bool = True
    negated: bool = False
    concept: str | None = None
    box: Box | None = None
    undecided: bool = False
    reason: str | None = None
    part: str | None = None
    section: str | None = None
    language: str | None = None
    place: tuple[int, int] | None = None

    @property
    def polarity(self) -> Literal["affirmed", "denied", "undecided"]:
        """Whether the finding is there, is not there, or neither can be told from the words."""
        return "undecided" if self.undecided else "denied" if self.negated else "affirmed"

    @property
    def decided(self) -> bool:
        """Whether a slide can show it and it says yes or no: what may train and may be judged."""
        return self.visual and not self.undecided


@dataclass(frozen=True)
class Caption:
    """A slide's report: whole, and as sub-captions in reading order."""

    slide_id: str
    patient: str
    text: str
    sub_captions: tuple[SubCaption, ...]


@dataclass(frozen=True)
class CaseSlide:
    """A slide of a case: its part ("A") and stain where known; ``folder`` is where a table says that it lies."""

    slide_id: str
    part: str | None = None
    stain: str | None = None
    folder: str = ""


@dataclass(frozen=True)
class Case(Caption):
    """One report and its slides (none, where only their folder tells them: ``data/case_items.py`` finds them).

    ``slide_id`` is the name of results: the case's, or its only slide's. ``parts`` are those the report names.
    """

    case_id: str = ""
    slides: tuple[CaseSlide, ...] = ()
    parts: tuple[str, ...] = ()


@dataclass(frozen=True, eq=False)
class RegionGrid:
    """Which patches make up which region. ``index`` holds rows of the slide's patches; unused slots hold 0."""

    index: Int[np.ndarray, "L S"]
    mask: Bool[np.ndarray, "L S"]
    boxes: Int[np.ndarray, "L 4"]  # x, y, width, height in level-0 pixels


class _Tensors:
    """Moving a dataclass of tensors between devices and joining batches of it."""

    def to(self, device: torch.device | str, non_blocking: bool = False) -> Any:
        """A copy with every tensor on ``device``; other fields unchanged."""
        moved = {
            f.name: value.to(device, non_blocking=non_blocking)
            for f in fields(self)  # type: ignore[arg-type]
            if isinstance(value := getattr(self, f.name), Tensor)
        }
        return replace(self, **moved)  # type: ignore[type-var]

    @classmethod
    def cat(cls, parts: Sequence[Any]) -> Any:
        """Join along the first axis; None stays None, tuples are chained."""
        joined: dict[str, Any] = {}
        for f in fields(cls):  # type: ignore[arg-type]
            values = [getattr(part, f.name) for part in parts]
            if isinstance(values[0], Tensor):
                joined[f.name] = torch.cat(values)
            elif isinstance(values[0], tuple):
                joined[f.name] = tuple(item for value in values for item in value)
            else:
                joined[f.name] = values[0]
        return cls(**joined)


@dataclass(frozen=True, eq=False)
class AlignBatch(_Tensors):
    """Slides and their texts, padded: what a training step sees.

    ``context`` is the mean of a patch's 3×3 neighbourhood on the tile lattice (itself included, missing
    neighbours left out); ``position`` is the patch's place in the tissue's bounding box, x and y in [0, 1].
    ``regions`` groups the patches for the published models: row l holds the places of its patches in N, -1 where
    a slot is empty; None where the batch knows no regions.

    ``sub_caption_*`` describe K sub-captions a slide: single sentences or merges of some. ``sub_caption_false`` marks
    those made by rule to be untrue of the slide (hard negatives). ``sub_caption_keys`` identifies a sub-caption across
    slides and processes, ``caption_keys`` lists all of a slide's caption (0 pads): a candidate whose key stands there,
    or each of whose ``sub_caption_part_keys`` does (of merged sentences), is true of that slide, whoever it was
    sampled for. Slides of equal ``caption_key`` have the same report.

    ``*_vectors`` are a frozen pretrained text encoder's; of one that is trained along, ``*_encoder_ids`` are what it
    reads.
    """

    slide_ids: tuple[str, ...]
    patches: Float[Tensor, "B N D"]
    patch_mask: Bool[Tensor, "B N"]
    context: Float[Tensor, "B N D"] | None
    position: Float[Tensor, "B N 2"] | None
    caption_ids: Int[Tensor, "B T"]
    caption_mask: Bool[Tensor, "B T"]
    sub_caption_ids: Int[Tensor, "B K U"]
    sub_caption_token_mask: Bool[Tensor, "B K U"]
    sub_caption_mask: Bool[Tensor, "B K"]
    sub_caption_negated: Bool[Tensor, "B K"]
    sub_caption_false: Bool[Tensor, "B K"]
    sub_caption_keys: Int[Tensor, "B K"]
    caption_keys: Int[Tensor, "B J"]
    caption_key: Int[Tensor, " B"] | None = None
    sub_caption_part_keys: Int[Tensor, "B K R"] | None = None
    regions: Int[Tensor, "B L S"] | None = None
    caption_vectors: Float[Tensor, "B P"] | None = None
    sub_caption_vectors: Float[Tensor, "B K P"] | None = None
    caption_encoder_ids: Int[Tensor, "B V"] | None = None
    caption_encoder_mask: Bool[Tensor, "B V"] | None = None
    sub_caption_encoder_ids: Int[Tensor, "B K X"] | None = None
    sub_caption_encoder_mask: Bool[Tensor, "B K X"] | None = None


@dataclass(frozen=True, eq=False)
class AlignOutput(_Tensors):
    """Both sides of a batch in the shared space.

    ``patches`` are what texts are compared with, of unit length (0 where padded). Of the published models they are as
    long as the model makes them, and of its first variant they are regions: M is the number of these.
    ``gate`` and ``margin`` are predicted from the text alone (None in the published models).
    """

    slide: Float[Tensor, "B E"]
    caption: Float[Tensor, "B E"]
    patches: Float[Tensor, "B M E"]
    patch_mask: Bool[Tensor, "B M"]
    sub_captions: Float[Tensor, "B K E"]
    gate: Float[Tensor, "B K"] | None = None
    margin: Float[Tensor, "B K"] | None = None


@dataclass(frozen=True, eq=False)
class SlideCode(_Tensors):
    """Encoded slides: the image half of :class:`AlignOutput`.

    ``patch_weight``: how many patches of the slide each row stands for, where only some are held (an archive); None
    where every row is one patch. Models that pool patches by their similarity to a text use it.
    """

    slide: Float[Tensor, "B E"]
    patches: Float[Tensor, "B M E"]
    patch_mask: Bool[Tensor, "B M"]
    patch_weight: Float[Tensor, "B M"] | None = None


@dataclass(frozen=True, eq=False)
class TextCode(_Tensors):
    """Encoded texts. ``caption`` meets whole slides, ``local`` meets patches; both ``E`` wide."""

    texts: tuple[str, ...]
    caption: Float[Tensor, "C E"]
    local: Float[Tensor, "C E"]
    negated: Bool[Tensor, " C"]
    gate: Float[Tensor, " C"] | None = None
    margin: Float[Tensor, " C"] | None = None


@dataclass(frozen=True, eq=False)
class PatchChunk(_Tensors):
    """Some patches of one slide, all of them real; fields as in :class:`AlignBatch`. A region is never cut in two."""

    patches: Float[Tensor, "V D"]
    context: Float[Tensor, "V D"] | None = None
    position: Float[Tensor, "V 2"] | None = None
    regions: Int[Tensor, "l S"] | None = None


SlideChunks = Callable[[], Iterable[PatchChunk]]
"""A whole slide, chunk by chunk. Can be asked for more than once."""


@runtime_checkable
class AlignModel(Protocol):
    """What training and inference ask of an alignment model: everything that callers use stands here."""

    reads_context: bool
    """It uses the neighbourhood mean of each patch."""

    reads_regions: bool
    """It needs patches grouped into regions, and compares texts with these: ``SlideCode.patches`` has a row a region,
    not a patch."""

    captions_are_sub_captions: bool
    """True: a caption's embedding is the mean over its sub-captions' ``TextCode.caption``. Else it is encoded whole."""

    def __call__(self, batch: AlignBatch) -> AlignOutput:
        """Encode both sides."""
        ...

    def losses(self, output: AlignOutput, batch: AlignBatch) -> dict[str, Tensor]:
        """Named scalar losses of the (global) batch; their sum is what training minimises."""
        ...

    def encode_slide(self, chunks: SlideChunks) -> SlideCode:
        """One slide of any size into the shared space, in the memory of a chunk and of what comes out."""
        ...

    def encode_texts(
        self,
        texts: tuple[str, ...],
        ids: Int[Tensor, "C T"],
        mask: Bool[Tensor, "C T"],
        negated: Bool[Tensor, " C"],
        vectors: Float[Tensor, "C P"] | None = None,
        unknown: Bool[Tensor, " C"] | None = None,
    ) -> TextCode:
        """Texts into the shared space; ``vectors`` are a pretrained encoder's, for models that have such a path;
        ``unknown`` tells which texts hold words of no training text, for models that read these otherwise."""
        ...

    def similarity(self, slides: SlideCode, texts: TextCode) -> Float[Tensor, "B C"]:
        """Global score: cosine of slide and caption embeddings."""
        ...

    def patch_similarity(self, slides: SlideCode, texts: TextCode) -> Float[Tensor, "B C M"]:
        """How much each patch shows what the text speaks of (higher is more); padded ones hold -inf."""
        ...

    def presence(
        self, slides: SlideCode, texts: TextCode, patch_similarity: Float[Tensor, "B C M"] | None = None
    ) -> Float[Tensor, "B C"]:
        """Text-conditioned score: a logit that the slide shows what the text states.

        ``patch_similarity``: what the method of that name gave for the same slides and texts, lest it be computed
        twice; models whose logit rests on something else leave it unused.
        """
        ...

    def set_feature_statistics(self, mean: Float[Tensor, " D"], std: Float[Tensor, " D"]) -> None:
        """Standardise patch features by these; models that take features as they come leave them unused."""
        ...


@dataclass(frozen=True, eq=False, repr=False)
class Heatmap:
    """A score per tile for one text. Rows follow ``grid.coords``; NaN where a tile is invalid."""

    grid: TileGrid
    scores: NDArray[np.float32]
    text: str
    presence: float
    """Logit that the slide shows what the text states."""
    negated: bool = False
    """The text states an absence: the map shows where the thing *would* be."""

    __repr__ = tile_scores.heatmap_line

    def as_array(self, shape: tuple[int, int]) -> NDArray[np.float32]:
        """Scores on a (height, width) canvas that spans level 0; NaN where there is no tile, overlaps averaged."""
        return tile_scores.painted(self.grid, self.scores, shape)

    def to_image(self, max_px: int = 1024) -> Any:
        """A Pillow picture of level 0, RGBA, its longer side ``max_px``; clear where there is no tile."""
        return tile_scores.image(self.grid, self.scores, max_px)

    def to_geojson(self) -> dict[str, Any]:
        """A FeatureCollection for QuPath: a tile object a valid tile, its score as the measurement "similarity"."""
        return tile_scores.feature_collection(self.grid, self.scores, self.text)

    def to_dataframe(self) -> Any:
        """A pandas table: x, y, width, height (level-0 pixels) and similarity a tile, NaN where it is invalid."""
        return tile_scores.table(self.grid, self.scores, text=self.text, negated=self.negated)


@dataclass(frozen=True)
class Evidence:
    """A place on a slide that supports a text: ``box`` in level-0 pixels, ``score`` the higher the more."""

    box: Box
    score: float
    text: str
    slide_id: str = ""


@dataclass(frozen=True)
class Answer:
    """What an assistant says, and on what grounds.

    Attributes:
        text: the answer. generated: what the language model wrote, where that differs.
        evidence: the places that were looked at, best first.
        options, probabilities: of a multiple-choice question: the options, and a softmax over their likelihoods.
        abstained: it says that the slide cannot tell.
        confidence: of the answer given, where known.
        note: what must be known of this answer: that language model and slide disagree, why it is undecided, that no
            threshold for yes and no is stored; "" where there is nothing.
    """

    text: str
    evidence: tuple[Evidence, ...] = ()
    options: tuple[str, ...] = ()
    probabilities: tuple[float, ...] = ()
    generated: str = ""
    abstained: bool = False
    confidence: float | None = None
    note: str = ""


@dataclass(frozen=True, eq=False)
class SlideTokens(_Tensors):
    """What a language model is shown of one slide, before projection: V tokens.

    Attributes:
        vectors: pooled patches, or one: a direction in the shared space, of length √E.
        text_vectors: the text that was looked for, likewise (zero for the slide's own token).
        numbers: what was measured (:mod:`pathflip.models.measurements`).
        kind: SLIDE, QUESTION, OPTION, BOTH, PROBE or PATCH of that module. slot: the option's number from 1.
        tiles: the tiles each token stands for, best first; empty means the whole slide. scores: theirs.
        texts: what was looked for, a text a token ("" for the slide).
    """

    vectors: Float[Tensor, "V E"]
    text_vectors: Float[Tensor, "V E"]
    numbers: Float[Tensor, "V F"]
    kind: Int[Tensor, " V"]
    slot: Int[Tensor, " V"]
    tiles: tuple[NDArray[np.int64], ...]
    scores: tuple[NDArray[np.float32], ...]
    texts: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class InstructBatch(_Tensors):
    """Conversations about slides, one or several a row.

    Attributes:
        slide_ids: the first slide of every conversation.
        ids: tokens; 0 where a visual token or padding stands.
        visual: row of ``vectors`` that stands there, -1 for text.
        conversation: number of the conversation, from 0 over the whole batch; -1 is padding.
        position_ids: 0, 1, … within each conversation.
        labels: the token itself where it is to be learned, -100 elsewhere (not yet shifted).
    """

    slide_ids: tuple[str, ...]
    ids: Int[Tensor, "B T"]
    visual: Int[Tensor, "B T"]
    conversation: Int[Tensor, "B T"]
    position_ids: Int[Tensor, "B T"]
    labels: Int[Tensor, "B T"]
    vectors: Float[Tensor, "V E"]
    text_vectors: Float[Tensor, "V E"]
    numbers: Float[Tensor, "V F"]
    kind: Int[Tensor, " V"]
    slot: Int[Tensor, " V"]
