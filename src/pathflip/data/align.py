"""Features and captions to :class:`~pathflip.types.AlignBatch`: what alignment training sees."""

from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float, Int
from pydantic import AliasChoices, BaseModel, ConfigDict, Field
from torch import Tensor

from pathflip.data.case_items import Item, by_part, pair_reports, with_findings
from pathflip.data.patches import DrawnPatches, PatchReader, PatchRows
from pathflip.data.whole_files import WholeFiles
from pathflip.errors import CaptionError, ConfigError
from pathflip.text.flips import flipped_sub_caption
from pathflip.text.pretrained import PretrainedText
from pathflip.text.sampling import merge_sentences, sample_merges
from pathflip.text.sub_captions import parse_sub_caption
from pathflip.text.tokenizer import Tokenizer
from pathflip.types import AlignBatch, Caption, SubCaption

__all__ = ["AlignDataset", "TextSpec", "sub_caption_key", "text_to_encode"]


class TextSpec(BaseModel):
    """How captions become model input, in training and afterwards alike (stored in the checkpoint).

    Older checkpoints call two of them ``num_subcaptions`` and ``statement_tokens``; both names are read.

    Attributes:
        num_sub_captions: K, sub-captions drawn a slide and step.
        num_flips: sub-captions made untrue by rule, added as hard negatives.
        sampler: "sentences" draws single sub-captions; "published" draws merges of 1-3 sentences.
        polarity: encode what a sub-caption speaks of and carry its negation as a sign ("no necrosis" is "necrosis",
            negated); False gives the text encoder the sentence as written.
        visual_only: draw the sub-captions a slide can show first, others only where there are none; and let the
            others score nothing afterwards (rules of ``pathflip.text.sub_captions``).
        caption_tokens, sub_caption_tokens: longest text kept, in tokens.
        pretrained: a pretrained text encoder beside the tower from scratch: a name of
            ``pathflip.text.pretrained.KNOWN`` or a folder; empty for none. pretrained_digest: SHA-256 of its weights.
        pretrained_train: "frozen" (its vectors are computed once), "lora" (adapters of ``pretrained_rank`` in all its
            linear layers), or "full". pretrained_stored: keep a frozen encoder's files in the checkpoint, too (those of
            a trained one always are).
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    num_sub_captions: int = Field(8, ge=1, validation_alias=AliasChoices("num_sub_captions", "num_subcaptions"))
    num_flips: int = Field(0, ge=0)
    sampler: Literal["sentences", "published"] = "sentences"
    polarity: bool = True
    visual_only: bool = True
    caption_tokens: int = Field(384, ge=8)
    sub_caption_tokens: int = Field(64, ge=8, validation_alias=AliasChoices("sub_caption_tokens", "statement_tokens"))
    pretrained: str = ""
    pretrained_digest: str = ""
    pretrained_train: Literal["frozen", "lora", "full"] = "frozen"
    pretrained_rank: int = Field(8, ge=1)
    pretrained_stored: bool = False


def text_to_encode(sub_caption: SubCaption, spec: TextSpec) -> tuple[str, bool]:
    """The string the text encoder sees, and whether it is negated."""
    return (sub_caption.content, sub_caption.negated) if spec.polarity else (sub_caption.text, False)


def sub_caption_key(text: str, negated: bool) -> int:
    """A 63-bit key, equal for equal sub-captions on every machine (0 is never returned: it marks padding)."""
    digest = blake2b(f"{int(negated)}|{' '.join(text.lower().split())}".encode(), digest_size=8).digest()
    return (int.from_bytes(digest, "big") >> 1) or 1


def _key(sub_caption: SubCaption, spec: TextSpec) -> int:
    return sub_caption_key(*text_to_encode(sub_caption, spec))


def _joint_key(keys: Sequence[int]) -> int:
    """One key for several sub-captions, in whatever order and however often they are said."""
    return sub_caption_key(" ".join(str(key) for key in sorted(set(keys))), False)


MOST_MERGED = 3
"""Sentences in one sub-caption of the published sampler."""


@dataclass(frozen=True)
class _Drawn:
    """A sub-caption that a step sees; ``parts`` are the keys of the sentences merged into it."""

    sub_caption: SubCaption
    made_false: bool = False
    parts: tuple[int, ...] = ()


class AlignDataset:
    """Slides or cases paired with their reports; batches are a pure function of ``(indices, rng)``.

    A case is one item, or one for each of its parts that has slides: its patches are drawn from all of them, evenly.

    Args:
        files: one feature file a slide.
        captions: captions and cases; matched to files by slide id (:mod:`pathflip.data.case_items`).
        tokenizer: words to ids.
        text: how captions become sub-captions.
        max_patches: patches drawn an item and step, a seeded random subset; None takes all.
        reader: who reads the patches; :class:`~pathflip.data.whole_files.WholeFiles` where none is given.
        regions: the model reads regions (the reader knows which): then whole regions are drawn.
        max_regions: regions drawn a slide and step; None takes all.
        context: also give the 3×3 neighbourhood mean of every drawn patch (over all tiles, drawn or not).
        pretrained: also give a pretrained encoder's vectors of captions and sub-captions.
        caption_vectors: of captions, too; False for models that read sub-captions alone, which a vector of every
            report would cost time for nothing.
        allow_missing: pass over files without a caption, and captions without files, with a warning.

    Raises:
        CaptionError: a feature file without a caption or the reverse (both lists are named, nothing is dropped
            silently), or a caption without a sub-caption.
        ConfigError: ``max_patches`` with regions, or ``max_regions`` without.
    """

    def __init__(
        self,
        files: Sequence[Path],
        captions: Sequence[Caption],
        tokenizer: Tokenizer,
        *,
        text: TextSpec,
        reader: PatchReader | None = None,
        max_patches: int | None = None,
        regions: bool = False,
        max_regions: int | None = None,
        context: bool = True,
        pretrained: PretrainedText | None = None,
        caption_vectors: bool = True,
        allow_missing: bool = False,
    ) -> None:
        wrong, other = ("max_patches", "max_regions") if regions else ("max_regions", "max_patches")
        if {"max_regions": max_regions, "max_patches": max_patches}[wrong] is not None:
            with_or_without = "with" if regions else "without"
            raise ConfigError(f"{wrong}: got a number {with_or_without} 'regions'; expected {other}, or none of both")
        self.items = with_findings(by_part(pair_reports(files, captions, allow_missing)), "training")
        self.tokenizer, self.text, self.regions = tokenizer, text, regions
        self.max_patches, self.max_regions = max_patches, max_regions
        self.reader: PatchReader = reader if reader is not None else WholeFiles()
        self.context, self.pretrained, self.caption_vectors = context, pretrained, caption_vectors
        self._keys = [_caption_keys(item.caption, text) for item in self.items]
        self._whole_keys = [_whole_key(item.caption, text) for item in self.items]

    def __len__(self) -> int:
        return len(self.items)

    def encoded_texts(self) -> list[str]:
        """Every sub-caption of the captions as the text encoder sees it, each once, sorted."""
        sub_captions = (sub_caption for item in self.items for sub_caption in item.caption.sub_captions)
        return sorted({text_to_encode(sub_caption, self.text)[0] for sub_caption in sub_captions})

    def trained_texts(self) -> list[str]:
        """The texts that steps can draw, as the text encoder sees them, each once, sorted.

        Sub-captions a slide can show, and whole captions for models that read these.
        """
        texts: set[str] = set()
        for item in self.items:
            stated = [one for one in item.caption.sub_captions if not one.undecided]
            visual = [one for one in stated if one.visual] if self.text.visual_only else []
            texts |= {text_to_encode(one, self.text)[0] for one in visual or stated}
            texts |= {item.caption.text} if self.caption_vectors else set()
        return sorted(texts)

    def batch(self, indices: Sequence[int], rng: np.random.Generator) -> AlignBatch:
        """One padded batch. The same indices and generator state give the same batch, whatever was asked before."""
        # Each slide draws from a generator of its own, so that its share of a batch does not depend on its company.
        seed = int(rng.integers(2**62))
        own = [np.random.default_rng([seed, i]) for i in indices]
        items = [self.items[i] for i in indices]
        patches = [self._draw_patches(item.files, generator) for item, generator in zip(items, own, strict=True)]
        wanted = _wanted(items, patches)
        self.reader.announce(wanted)  # the disk works while the texts are put together
        drawn = [self._draw_sub_captions(item.caption, generator) for item, generator in zip(items, own, strict=True)]
        texts = self._caption_tensors([item.caption.text for item in items]) | self._sub_caption_tensors(drawn)
        rows = iter(self.reader.read(wanted, self.context))
        return AlignBatch(
            slide_ids=tuple(item.name for item in items),
            **_pad_slides(
                [_joined_rows([next(rows) for _ in own]) for own in patches], [_joined_patches(own) for own in patches]
            ),
            **texts,
            caption_keys=_pad_keys([self._keys[i] for i in indices]),
            caption_key=torch.tensor([self._whole_keys[i] for i in indices]),
        )

    def _draw_patches(self, files: Sequence[Path], rng: np.random.Generator) -> list[DrawnPatches]:
        """Patches (or whole regions) of every slide of an item."""
        if self.regions:
            grids = [self.reader.regions(file) for file in files]
            assert all(grid is not None for grid in grids), "regions are drawn, and the reader was made without them"
            drawn = _draw_evenly([len(grid.index) for grid in grids if grid is not None], self.max_regions, rng)
            return [DrawnPatches.of_regions(grid, some) for grid, some in zip(grids, drawn, strict=True) if grid]
        counts = [self.reader.count(file) for file in files]
        return [DrawnPatches(some) for some in _draw_evenly(counts, self.max_patches, rng)]

    def _draw_sub_captions(self, caption: Caption, rng: np.random.Generator) -> list["_Drawn"]:
        """K sub-captions, then the flips."""
        sub_captions = [s for s in caption.sub_captions if not s.undecided]
        if self.text.sampler == "published":
            merges = sample_merges(len(sub_captions), self.text.num_sub_captions, rng)
            texts = [s.text for s in sub_captions]
            keys = [_key(one, self.text) for one in sub_captions]
            return [
                _Drawn(parse_sub_caption(merge_sentences(texts, merge)), parts=tuple(sorted({keys[i] for i in merge})))
                for merge in merges
            ]
        usable = [i for i, s in enumerate(sub_captions) if s.visual] if self.text.visual_only else []
        order = rng.permutation(usable or len(sub_captions))[: self.text.num_sub_captions]
        drawn = [_Drawn(sub_captions[i]) for i in order]
        flips: list[_Drawn] = []
        for i in rng.permutation(len(sub_captions)):
            if len(flips) == self.text.num_flips:
                break
            if sub_captions[i].visual and (flipped := flipped_sub_caption(sub_captions[i], rng)) is not None:
                flips.append(_Drawn(flipped, made_false=True))
        return drawn + flips

    def _caption_tensors(self, texts: list[str]) -> dict[str, Tensor]:
        tokens = self.tokenizer.encode(texts, self.text.caption_tokens)
        out = {"caption_ids": tokens.ids, "caption_mask": tokens.mask}
        if self.pretrained is not None and self.caption_vectors:
            out |= self._known("caption", self.pretrained, texts)
        return out

    def _known(self, what: str, pretrained: PretrainedText, texts: list[str]) -> dict[str, Tensor]:
        """A frozen encoder's vectors of texts; of one that is trained along, the tokens it reads."""
        if self.text.pretrained_train == "frozen":
            return {f"{what}_vectors": pretrained.embed(texts)}
        tokens = pretrained.tokenizer.encode(texts, pretrained.max_tokens)
        return {f"{what}_encoder_ids": tokens.ids, f"{what}_encoder_mask": tokens.mask}

    def _sub_caption_tensors(self, drawn: list[list["_Drawn"]]) -> dict[str, Tensor]:
        slots = self.text.num_sub_captions + self.text.num_flips
        filled = torch.tensor(
            [b * slots + k for b, row in enumerate(drawn) for k in range(len(row))], dtype=torch.int64
        )
        entries = [entry for row in drawn for entry in row]
        encoded = [text_to_encode(entry.sub_caption, self.text) for entry in entries]
        texts = [text for text, _ in encoded]
        tokens = self.tokenizer.encode(texts, self.text.sub_caption_tokens)
        keys = [
            sub_caption_key(*one) if len(entry.parts) < 2 else _joint_key(entry.parts)
            for one, entry in zip(encoded, entries, strict=True)
        ]
        values = {
            "sub_caption_ids": tokens.ids,
            "sub_caption_token_mask": tokens.mask,
            "sub_caption_keys": torch.tensor(keys, dtype=torch.int64),
            "sub_caption_mask": torch.ones(len(entries), dtype=torch.bool),
            "sub_caption_negated": torch.tensor([negated for _, negated in encoded], dtype=torch.bool),
            "sub_caption_false": torch.tensor([entry.made_false for entry in entries], dtype=torch.bool),
        }
        if self.pretrained is not None:
            values |= self._known("sub_caption", self.pretrained, texts)
        if self.text.sampler == "published":
            parts = [[*entry.parts, *[0] * (MOST_MERGED - len(entry.parts))] for entry in entries]
            values["sub_caption_part_keys"] = torch.tensor(parts, dtype=torch.int64).reshape(-1, MOST_MERGED)
        out: dict[str, Tensor] = {}
        for name, value in values.items():  # slots that no sub-caption fills stay zero
            whole = value.new_zeros(len(drawn) * slots, *value.shape[1:])
            whole[filled] = value
            out[name] = whole.unflatten(0, (len(drawn), slots))
        return out


def _wanted(items: Sequence[Item], drawn: Sequence[Sequence[DrawnPatches]]) -> list[tuple[Path, Int[np.ndarray, " _"]]]:
    """What to read: (feature file, places) of every slide of every item."""
    return [
        (file, patches.rows)
        for item, own in zip(items, drawn, strict=True)
        for file, patches in zip(item.files, own, strict=True)
    ]


def _some_of(count: int, most: int | None, rng: np.random.Generator) -> Int[np.ndarray, " n"]:
    """``most`` of the numbers below ``count`` (all of them where there are no more), ascending."""
    if most is None or count <= most:
        return np.arange(count)
    return np.sort(rng.choice(count, most, replace=False))


def _draw_evenly(counts: Sequence[int], most: int | None, rng: np.random.Generator) -> list[Int[np.ndarray, " _"]]:
    """``most`` numbers in all, as evenly from below each of ``counts`` as these allow."""
    if len(counts) == 1:
        return [_some_of(counts[0], most, rng)]
    shares = list(counts)
    if most is not None and sum(counts) > most:
        shares, left = [0] * len(counts), most
        while left:
            open_ones = rng.permutation([i for i, count in enumerate(counts) if shares[i] < count])
            each = max(1, left // len(open_ones))
            for i in open_ones[:left]:
                taken = min(each, counts[i] - shares[i], left)
                shares[i], left = shares[i] + taken, left - taken
    return [_some_of(count, share, rng) for count, share in zip(counts, shares, strict=True)]


def _joined_rows(parts: Sequence[PatchRows]) -> PatchRows:
    """The patches of several slides as one run."""
    if len(parts) == 1:
        return parts[0]
    context = [part.context for part in parts if part.context is not None]
    return PatchRows(
        np.concatenate([part.features for part in parts]),
        np.concatenate([part.position for part in parts]),
        np.concatenate(context) if context else None,
    )


def _joined_patches(parts: Sequence[DrawnPatches]) -> DrawnPatches:
    """What was drawn of several slides as one run; regions index the run."""
    if len(parts) == 1:
        return parts[0]
    first = np.cumsum([0, *(len(part.rows) for part in parts)])
    moved = [
        np.where(part.regions >= 0, part.regions + start, -1)
        for part, start in zip(parts, first, strict=False)
        if part.regions is not None
    ]
    return DrawnPatches(np.concatenate([part.rows for part in parts]), np.concatenate(moved) if moved else None)


def _caption_keys(caption: Caption, spec: TextSpec) -> np.ndarray:
    if not caption.sub_captions:
        raise CaptionError(
            f"slide '{caption.slide_id}': the caption has no sentence (got {caption.text[:40]!r}); "
            "expected at least one; remove the row or write a report"
        )
    return np.array([_key(one, spec) for one in caption.sub_captions], np.int64)


def _whole_key(caption: Caption, spec: TextSpec) -> int:
    """A key that reports share if all that may be drawn of them is the same, in whatever order."""
    sub_captions = [one for one in caption.sub_captions if not one.undecided]
    visual = [one for one in sub_captions if one.visual] if spec.visual_only else []
    keys = [_key(one, spec) for one in visual or sub_captions]
    return _joint_key(keys) if keys else sub_caption_key(caption.text, False)


def _pad_keys(keys: list[np.ndarray]) -> Tensor:
    out = np.zeros((len(keys), max(len(k) for k in keys)), np.int64)
    for row, values in enumerate(keys):
        out[row, : len(values)] = values
    return torch.as_tensor(out)


def _pad_slides(slides: Sequence[PatchRows], drawn: Sequence[DrawnPatches]) -> dict[str, Any]:
    """The drawn patches of every slide as one padded block."""
    counts = torch.tensor([len(rows.features) for rows in slides])
    contexts = [rows.context for rows in slides if rows.context is not None]
    return {
        "patches": _padded([rows.features for rows in slides]),
        "patch_mask": torch.arange(int(counts.max())) < counts.unsqueeze(1),
        "context": _padded(contexts) if contexts else None,
        "position": _padded([rows.position for rows in slides]),
        "regions": _pad_regions([one.regions for one in drawn if one.regions is not None]),
    }


def _padded(parts: Sequence[Float[np.ndarray, "_ d"]]) -> Float[Tensor, "B N d"]:
    """Arrays of unlike lengths as one float32 block, zeros behind each."""
    out = torch.empty(len(parts), max(len(part) for part in parts), parts[0].shape[1])
    for row, part in zip(out, parts, strict=True):
        row[: len(part)].copy_(torch.from_numpy(part))
        row[len(part) :] = 0
    return out


def _pad_regions(regions: list[Int[np.ndarray, "_ S"]]) -> Int[Tensor, "B L S"] | None:
    """Region tables of one length; a missing region has empty slots only. None where no slide has regions."""
    if not regions:
        return None
    out = np.full((len(regions), max(len(one) for one in regions), regions[0].shape[1]), -1, np.int64)
    for row, one in zip(out, regions, strict=True):
        row[: len(one)] = one
    return torch.from_numpy(out)
