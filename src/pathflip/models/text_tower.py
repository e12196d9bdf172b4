"""Words to vectors: the BERT encoder (arXiv 1810.04805), computed on real tokens only.

All texts of a batch go through the linear layers as one run of real tokens, longest text first; attention works on
groups of texts of like length; the last layer is computed for the first token alone where only that is asked for.
Values equal those of the padded computation.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from pydantic import BaseModel, ConfigDict, PositiveFloat, PositiveInt
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from pathflip.errors import ConfigError
from pathflip.models.layers import as_autocast, attend

__all__ = [
    "FeedForward",
    "Packing",
    "SelfAttention",
    "TextConfig",
    "TextEmbeddings",
    "TextEncoder",
    "TextLayer",
    "encode",
    "init_bert",
]

Pooling = Literal["cls", "mean", "mean_with_padding"]
_SAME_GROUP = 0.7  # a text joins the group of a longer one if it is at least this fraction of its length


class TextConfig(BaseModel):
    """A BERT encoder; the defaults are BERT base with the vocabulary of BioBERT (cased).

    Attributes:
        token_types: whether the checkpoint carries token-type embeddings (row 0 is added to every token).
        norm_first: normalise what enters a block instead of what leaves it (Xiong et al. 2020, arXiv 2002.04745), and
            the last layer's states; embeddings enter as they are. Trains from scratch without a long warm-up.
        dropout: of embeddings, attention weights and blocks; with ``norm_first`` of embeddings alone.
        word_dropout: fraction of word pieces hidden in training, so that no single word decides.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    vocab_size: PositiveInt = 28996
    width: PositiveInt = 768
    num_layers: PositiveInt = 12
    num_heads: PositiveInt = 12
    ffn_width: PositiveInt = 3072
    max_tokens: PositiveInt = 512
    token_types: bool = True
    norm_first: bool = False
    dropout: float = 0.1
    word_dropout: float = 0.0
    eps: PositiveFloat = 1e-12


@dataclass(frozen=True)
class _Group:
    """Texts of like length: rows ``start:stop`` of the run, ``place`` their slots in a (texts, longest) grid."""

    start: int
    stop: int
    texts: int
    longest: int
    place: Int[Tensor, " P"] | None
    mask: Bool[Tensor, "G 1 1 T"] | None


class Packing:
    """How the real tokens of several padded blocks of texts form one run, longest text first.

    A text without any real token keeps its first one, so that every text has a first token.
    """

    def __init__(self, masks: Sequence[Bool[Tensor, "_ _"]]) -> None:
        cleared = [mask.clone() for mask in masks]
        for mask in cleared:
            mask[:, 0] = True
        lengths = torch.cat([mask.sum(dim=1) for mask in cleared])
        self.order = lengths.argsort(descending=True, stable=True)
        """Which text (counted over all blocks) stands at each place of the run."""
        self.sizes = sizes = lengths[self.order]
        """Number of real tokens of each text, in run order."""
        self.starts = sizes.cumsum(0) - sizes
        """Row of each text's first token, in run order."""
        column = torch.cat([mask.nonzero()[:, 1] for mask in cleared])
        before = lengths.cumsum(0) - lengths
        within = torch.arange(len(column)) - self.starts.repeat_interleave(sizes)
        self.source = before[self.order].repeat_interleave(sizes) + within
        """Row of the run -> row among the real tokens in text order."""
        self.position = column[self.source]
        self.masks = cleared
        self.groups = _group(sizes.tolist())

    def tokens(self, ids: Sequence[Int[Tensor, "_ _"]]) -> Int[Tensor, " P"]:
        """Token ids in run order."""
        return torch.cat([block[mask] for block, mask in zip(ids, self.masks, strict=True)])[self.source]

    def mean(self, rows: Float[Tensor, "P W"]) -> Float[Tensor, "C W"]:
        """The mean token of every text, in run order."""
        owner = torch.arange(len(self.sizes)).repeat_interleave(self.sizes)
        total = rows.new_zeros(len(self.sizes), rows.shape[1]).index_add(0, owner, rows)
        return total / self.sizes.unsqueeze(1)

    def unsort(self, rows: Float[Tensor, "C W"]) -> Float[Tensor, "C W"]:
        """One row a text, from run order back to text order."""
        return rows[self.order.argsort()]


def _group(sizes: list[int]) -> list[_Group]:
    groups, first, start = [], 0, 0
    while first < len(sizes):
        last = first
        while last < len(sizes) and sizes[last] >= _SAME_GROUP * sizes[first]:
            last += 1
        longest, stop = sizes[first], start + sum(sizes[first:last])
        mask = torch.arange(longest) < torch.tensor(sizes[first:last]).unsqueeze(1)
        even = sizes[last - 1] == longest
        place = None if even else mask.flatten().nonzero().squeeze(1)
        groups.append(_Group(start, stop, last - first, longest, place, None if even else mask[:, None, None, :]))
        first, start = last, stop
    return groups


class _Block(nn.Module):
    """A residual block: ``LN(x + inside(x))``, or with ``norm_first`` ``x + inside(LN(x))`` without dropout."""

    def __init__(self, width: int, dropout: float, eps: float, norm_first: bool) -> None:
        super().__init__()
        self.norm_first, self.dropout = norm_first, 0.0 if norm_first else dropout
        self.norm = nn.LayerNorm(width, eps=eps)

    def _open(self, x: Float[Tensor, "*b W"]) -> Float[Tensor, "*b W"]:
        """What the inside of the block reads."""
        return self.norm(x) if self.norm_first else x

    def _close(self, residual: Float[Tensor, "*b W"], branch: Float[Tensor, "*b W"]) -> Float[Tensor, "*b W"]:
        x = residual + F.dropout(branch, self.dropout, self.training)
        return x if self.norm_first else self.norm(x)


class SelfAttention(_Block):
    """Self-attention block."""

    def __init__(self, width: int, num_heads: int, dropout: float, eps: float, norm_first: bool = False) -> None:
        super().__init__(width, dropout, eps, norm_first)
        if width % num_heads:
            raise ConfigError(f"width: got {width}, expected a multiple of num_heads {num_heads}")
        self.num_heads = num_heads
        self.query, self.key, self.value, self.out = (nn.Linear(width, width) for _ in range(4))

    def _heads(self, rows: Float[Tensor, "*b T W"]) -> Float[Tensor, "*b H T d"]:
        return rows.unflatten(-1, (self.num_heads, -1)).transpose(-2, -3)

    def forward(self, x: Float[Tensor, "*b T W"], mask: Bool[Tensor, "*b T"] | None = None) -> Float[Tensor, "*b T W"]:
        """Every row attends to all real rows."""
        rows = as_autocast(self._open(x))
        q, k, v = (self._heads(proj(rows)) for proj in (self.query, self.key, self.value))
        key_mask = None if mask is None else mask[..., None, None, :]
        heads = attend(q, k, v, key_mask, self.dropout if self.training else 0.0)
        return self._close(x, self.out(heads.transpose(-2, -3).flatten(-2)))

    def packed(self, x: Float[Tensor, "P W"], packing: Packing) -> Float[Tensor, "P W"]:
        """Every token attends to the tokens of its own text."""
        rows = as_autocast(self._open(x))
        parts = [proj(rows) for proj in (self.query, self.key, self.value)]
        return self._close(x, self.out(torch.cat([self._grouped(parts, group) for group in packing.groups])))

    def packed_first(self, x: Float[Tensor, "P W"], packing: Packing) -> Float[Tensor, "C W"]:
        """As :meth:`packed`, for the first token of every text alone (in run order)."""
        first, rows = x[packing.starts], as_autocast(self._open(x))
        queries, parts = self.query(self._open(first)), [self.key(rows), self.value(rows)]
        done, attended = 0, []
        for group in packing.groups:
            q = queries[done : done + group.texts].unsqueeze(1)
            attended.append(self._grouped(parts, group, q))
            done += group.texts
        return self._close(first, self.out(torch.cat(attended)))

    def _grouped(self, parts: list[Tensor], group: _Group, query: Tensor | None = None) -> Float[Tensor, "R W"]:
        """Attention inside one group; with ``query`` (texts, 1, W), for those rows only."""
        grids = []
        for part in parts:
            rows = part[group.start : group.stop]
            if group.place is not None:
                rows = rows.new_zeros(group.texts * group.longest, rows.shape[1]).index_copy(0, group.place, rows)
            grids.append(self._heads(rows.unflatten(0, (group.texts, group.longest))))
        q, k, v = [self._heads(query), *grids] if query is not None else grids
        heads = attend(q, k, v, group.mask, self.dropout if self.training else 0.0)
        rows = heads.transpose(1, 2).flatten(2).flatten(0, 1)
        return rows if query is not None or group.place is None else rows[group.place]

    def weights(
        self, x: Float[Tensor, "*b T W"], mask: Bool[Tensor, "*b T"] | None = None
    ) -> Float[Tensor, "*b H T T"]:
        """The attention weights of every head."""
        rows = self._open(x)
        q, k = self._heads(self.query(rows)), self._heads(self.key(rows))
        logits = q @ k.mT * q.shape[-1] ** -0.5
        if mask is not None:
            logits = logits.masked_fill(~mask[..., None, None, :], torch.finfo(logits.dtype).min)
        return logits.softmax(dim=-1)


class FeedForward(_Block):
    """Feed-forward block: ``down(gelu(up(x)))`` inside."""

    def __init__(self, width: int, ffn_width: int, dropout: float, eps: float, norm_first: bool = False) -> None:
        super().__init__(width, dropout, eps, norm_first)
        self.up, self.down = nn.Linear(width, ffn_width), nn.Linear(ffn_width, width)

    def forward(self, x: Float[Tensor, "*b W"]) -> Float[Tensor, "*b W"]:
        """Self-attention of padded texts, row by row."""
        return self._close(x, self.down(F.gelu(self.up(self._open(x)))))


class TextEmbeddings(nn.Module):
    """Word plus position (plus token type 0), normalised unless the layers do that first."""

    def __init__(self, config: TextConfig) -> None:
        super().__init__()
        self.word = nn.Embedding(config.vocab_size, config.width, padding_idx=0)  # [PAD] is never trained
        self.position = nn.Embedding(config.max_tokens, config.width)
        self.token_type = nn.Embedding(2, config.width) if config.token_types else None
        self.norm = nn.Identity() if config.norm_first else nn.LayerNorm(config.width, eps=config.eps)
        self.dropout, self.word_dropout = config.dropout, config.word_dropout

    def forward(self, ids: Int[Tensor, "*b"], position: Int[Tensor, "*b"]) -> Float[Tensor, "*b W"]:
        """Embed tokens standing at ``position`` of their texts."""
        words = self.word(ids)
        if self.training and self.word_dropout:
            words = words * (torch.rand_like(words[..., :1]) >= self.word_dropout)
        x = words + self.position(position)
        if self.token_type is not None:
            x = x + self.token_type.weight[0]
        return F.dropout(self.norm(x), self.dropout, self.training)


class TextLayer(nn.Module):
    """One BERT layer. Subclasses may add to it; the text path uses these two blocks only."""

    def __init__(self, config: TextConfig) -> None:
        super().__init__()
        shared = (config.dropout, config.eps, config.norm_first)
        self.self_attention = SelfAttention(config.width, config.num_heads, *shared)
        self.ffn = FeedForward(config.width, config.ffn_width, *shared)

    def text(self, x: Float[Tensor, "*b T W"], mask: Bool[Tensor, "*b T"]) -> Float[Tensor, "*b T W"]:
        """Padded texts."""
        return self.ffn(self.self_attention(x, mask))

    def text_packed(self, x: Float[Tensor, "P W"], packing: Packing) -> Float[Tensor, "P W"]:
        """Real tokens in run order."""
        return self.ffn(self.self_attention.packed(x, packing))

    def text_packed_first(self, x: Float[Tensor, "P W"], packing: Packing) -> Float[Tensor, "C W"]:
        """Real tokens in; the first token of every text out."""
        return self.ffn(self.self_attention.packed_first(x, packing))


Block = tuple[Int[Tensor, "_ _"], Bool[Tensor, "_ _"]]


def encode(
    embeddings: TextEmbeddings,
    layers: Sequence[TextLayer],
    blocks: Sequence[Block],
    pooling: Pooling = "cls",
    checkpointed: bool = False,
    norm: nn.Module | None = None,
) -> list[Float[Tensor, "_ W"]]:
    """Pooled states of several padded blocks of texts, all in one pass.

    On a GPU each block is computed as it is padded (packing would have to wait for the lengths); elsewhere packed.

    Args:
        embeddings: the embedding layer.
        layers: the encoder's layers.
        blocks: (ids, mask) pairs, each (texts, tokens); widths may differ.
        pooling: ``cls``: the first token. ``mean``: the mean of real tokens. ``mean_with_padding``: the mean of all
            positions, as variant 2 was released; a text's vector then depends on how far it was padded.
        checkpointed: recompute layers in the backward pass instead of keeping their activations.
        norm: of the last layer's states, before they are pooled.

    Returns:
        One (texts, W) tensor a block.
    """
    _check_length(embeddings, blocks)
    norm = norm or nn.Identity()
    if pooling == "mean_with_padding" or blocks[0][0].device.type != "cpu":
        return [_encode_padded(embeddings, layers, ids, mask, pooling, checkpointed, norm) for ids, mask in blocks]
    packing = Packing([mask for _, mask in blocks])
    x = embeddings(packing.tokens([ids for ids, _ in blocks]), packing.position)
    for layer in layers[:-1]:
        x = _run(layer.text_packed, checkpointed, x, packing)
    if pooling == "cls":
        rows = packing.unsort(norm(layers[-1].text_packed_first(x, packing)))
    else:
        rows = packing.unsort(packing.mean(norm(layers[-1].text_packed(x, packing))))
    return list(rows.split([len(ids) for ids, _ in blocks]))


def _run(layer: Callable[..., Tensor], checkpointed: bool, *inputs: Any) -> Tensor:
    return checkpoint(layer, *inputs, use_reentrant=False) if checkpointed else layer(*inputs)


def _check_length(embeddings: TextEmbeddings, blocks: Sequence[Block]) -> None:
    longest, limit = max(ids.shape[1] for ids, _ in blocks), embeddings.position.num_embeddings
    if longest > limit:
        raise ConfigError(f"texts of {longest} tokens, expected at most {limit}: truncate them or raise max_tokens")


def _encode_padded(
    embeddings: TextEmbeddings,
    layers: Sequence[TextLayer],
    ids: Int[Tensor, "C T"],
    mask: Bool[Tensor, "C T"],
    pooling: Pooling,
    checkpointed: bool,
    norm: nn.Module,
) -> Float[Tensor, "C W"]:
    first = torch.arange(mask.shape[1], device=mask.device) == 0
    mask = mask | first  # every text keeps a token, as in Packing
    x = embeddings(ids, torch.arange(ids.shape[1], device=ids.device).expand_as(ids))
    for layer in layers:
        x = _run(layer.text, checkpointed, x, mask)
    if pooling == "cls":
        return norm(x[:, 0])
    x = norm(x)
    if pooling == "mean_with_padding":
        return x.mean(dim=1)
    return x.masked_fill(~mask.unsqueeze(-1), 0.0).sum(dim=1) / mask.sum(dim=1, keepdim=True)


class TextEncoder(nn.Module):
    """BERT. ``encoder(blocks)`` gives pooled states of several padded blocks of texts.

    A text without any token (padding) gets a finite state that nothing should look at.
    """

    def __init__(self, config: TextConfig, checkpointed: bool = False) -> None:
        super().__init__()
        self.checkpointed = checkpointed
        self.embeddings = TextEmbeddings(config)
        self.layers = nn.ModuleList(TextLayer(config) for _ in range(config.num_layers))
        self.norm = nn.LayerNorm(config.width, eps=config.eps) if config.norm_first else None
        self.apply(init_bert)
        if config.norm_first:
            self.apply(_init_from_scratch)

    def forward(self, blocks: Sequence[Block], pooling: Pooling = "cls") -> list[Float[Tensor, "_ W"]]:
        """One (texts, W) tensor a block; see :func:`encode`."""
        layers: list[TextLayer] = list(self.layers)  # type: ignore[arg-type]
        return encode(self.embeddings, layers, blocks, pooling, self.checkpointed, self.norm)


def init_bert(module: nn.Module) -> None:
    """BERT's initialisation: N(0, 0.02) weights, zero biases."""
    if isinstance(module, nn.Linear | nn.Embedding):
        nn.init.normal_(module.weight, std=0.02)
    if isinstance(module, nn.Linear) and module.bias is not None:
        nn.init.zeros_(module.bias)


def _init_from_scratch(module: nn.Module) -> None:
    """Residual branches of small towers must be heard at once: torch's own initialisation, not BERT's."""
    if isinstance(module, nn.Linear):
        module.reset_parameters()
