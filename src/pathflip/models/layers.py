"""Layers every model shares: attention over few or many keys, packed rows, masked softmax and means."""

from collections.abc import Iterable
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

from pathflip.types import SlideCode, TextCode

__all__ = [
    "MultiHeadAttention",
    "TextKeyAttention",
    "as_autocast",
    "attend",
    "cosine_of_patches",
    "cosine_of_slides",
    "drop_padding",
    "masked_softmax",
]


def masked_softmax(logits: Float[Tensor, "*b M"], mask: Bool[Tensor, "... M"] | None) -> Float[Tensor, "*b M"]:
    """Softmax over the last axis among entries whose mask is True; rows without any are spread evenly.

    Finite whatever the mask: callers keep padded values at zero, so an empty row yields a constant.
    """
    if mask is not None:
        logits = logits.masked_fill(~mask, torch.finfo(logits.dtype).min)
    return logits.softmax(dim=-1)


def drop_padding(values: Float[Tensor, "*b D"], mask: Bool[Tensor, "*b"]) -> Float[Tensor, "*b D"]:
    """Zeros where the mask is False, whatever stood there (NaN included); no copy where nothing is padding."""
    if values.device.type == "cpu" and bool(mask.all()):
        return values
    return values.masked_fill(~mask.unsqueeze(-1), 0.0)


def cosine_of_slides(slides: SlideCode, texts: TextCode) -> Float[Tensor, "B C"]:
    """Cosine of slide and caption embeddings."""
    return F.normalize(slides.slide, dim=-1) @ F.normalize(texts.caption, dim=-1).T


def cosine_of_patches(slides: SlideCode, texts: TextCode) -> Float[Tensor, "B C M"]:
    """Cosine of each patch (of unit length already) with the text; padded ones hold -inf."""
    similarity = F.normalize(texts.local, dim=-1) @ slides.patches.mT
    return similarity.masked_fill(~slides.patch_mask[:, None], float("-inf"))


def attend(
    query: Float[Tensor, "*b H T d"],
    key: Float[Tensor, "*b H M d"],
    value: Float[Tensor, "*b H M d"],
    mask: Bool[Tensor, "... M"] | None = None,
    drop: float = 0.0,
) -> Float[Tensor, "*b H T d"]:
    """Scaled dot-product attention: fused, but explicit on CPU where weights are dropped or in bfloat16.

    Why: the fused CPU kernel knows no dropout, and is several times slower than explicit in bfloat16
    (docs/performance.md).
    """
    explicit = query.device.type == "cpu" and (drop > 0.0 or query.dtype == torch.bfloat16)
    if not explicit and mask is None and query.ndim > 4:  # with more than four axes torch does not fuse
        q, k, v = (x.flatten(0, -4) for x in (query, key, value))
        return F.scaled_dot_product_attention(q, k, v, dropout_p=drop).unflatten(0, query.shape[:-3])
    if not explicit:
        return F.scaled_dot_product_attention(query, key, value, attn_mask=mask, dropout_p=drop)
    weights = masked_softmax((query * query.shape[-1] ** -0.5) @ key.mT, mask)
    return F.dropout(weights, drop) @ value


def as_autocast(x: Float[Tensor, "*b"]) -> Float[Tensor, "*b"]:
    """x in autocast's precision, so that several linear layers that read it do not each convert it again."""
    kind = x.device.type
    return x.to(torch.get_autocast_dtype(kind)) if torch.is_autocast_enabled(kind) else x


class MultiHeadAttention(nn.Module):
    """Multi-head attention with one packed input projection; parameter names are those of torch's own module."""

    def __init__(self, width: int, num_heads: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.dropout = dropout
        self.in_proj_weight = nn.Parameter(torch.empty(3 * width, width))
        self.in_proj_bias = nn.Parameter(torch.zeros(3 * width))
        self.out_proj = nn.Linear(width, width)
        nn.init.xavier_uniform_(self.in_proj_weight)
        nn.init.zeros_(self.out_proj.bias)

    def _project(self, rows: Float[Tensor, "*b M E"], part: int) -> Float[Tensor, "*b H M d"]:
        """Rows through third ``part`` (query 0, key 1, value 2) of the packed projection, split into heads."""
        weight, bias = self.in_proj_weight.chunk(3)[part], self.in_proj_bias.chunk(3)[part]
        return F.linear(rows, weight, bias).unflatten(-1, (self.num_heads, -1)).transpose(-2, -3)

    def forward(
        self,
        query: Float[Tensor, "*c T E"],
        key: Float[Tensor, "*b M E"],
        value: Float[Tensor, "*b M E"],
        key_mask: Bool[Tensor, "*b M"] | None = None,
    ) -> Float[Tensor, "*b T E"]:
        """What each query found among the keys; queries (T, E) are shared by the whole batch of keys."""
        q, k, v = (self._project(rows, part) for part, rows in enumerate((query, key, value)))
        q = q.expand(*k.shape[:-2], *q.shape[-2:])
        mask = None
        if key_mask is not None:  # a row without any real key attends to all: fused attention would return NaN
            mask = (key_mask | ~key_mask.any(dim=-1, keepdim=True))[..., None, None, :]
        heads = attend(q, k, v, mask, self.dropout if self.training else 0.0)
        return self.out_proj(heads.transpose(-2, -3).flatten(-2))

    def value_alone(self, value: Float[Tensor, "*b M E"]) -> Float[Tensor, "*b M E"]:
        """:meth:`forward` of any query over each row of ``value`` by itself."""
        return self.out_proj(self._project(value, 2).transpose(-2, -3).flatten(-2))

    def over_chunks(
        self, query: Float[Tensor, "B T E"], chunks: Iterable[Float[Tensor, "B _ E"]]
    ) -> Float[Tensor, "B T E"]:
        """:meth:`forward` (without dropout) over keys that come in chunks and serve as values too.

        The softmax is carried along as (largest logit, sum, weighted sum) (Milakov & Gimelshein 2018,
        arXiv 1805.02867), so that no tensor spans all keys.
        """
        q = self._project(query, 0)
        q = q * q.shape[-1] ** -0.5
        high = torch.full_like(q[..., :1], torch.finfo(q.dtype).min)
        norm, total = torch.zeros_like(high), torch.zeros_like(q)
        for rows in chunks:
            k, v = self._project(rows, 1), self._project(rows, 2)
            logits = q @ k.mT
            higher = torch.maximum(high, logits.amax(dim=-1, keepdim=True))
            shrink, weights = (high - higher).exp(), (logits - higher).exp()
            total, norm = total * shrink + weights @ v, norm * shrink + weights.sum(dim=-1, keepdim=True)
            high = higher
        return self.out_proj((total / norm).transpose(-2, -3).flatten(-2))

    def weights(
        self,
        query: Float[Tensor, "*c T E"],
        key: Float[Tensor, "*b M E"],
        key_mask: Bool[Tensor, "*b M"] | None = None,
    ) -> Float[Tensor, "*b H T M"]:
        """The attention weights of every head (0 on padded keys)."""
        q, k = self._project(query, 0), self._project(key, 1)
        mask = None if key_mask is None else key_mask[..., None, None, :]
        weights = masked_softmax(q @ k.mT * q.shape[-1] ** -0.5, mask)
        return weights if mask is None else weights * mask


class TextKeyAttention(nn.Module):
    """o(s): what text s finds among a slide's keys (FLAIR, arXiv 2412.03561), as both published variants compute it.

    Before the attention, texts and keys pass extra projections (``projected``, variant 1: so they are projected
    twice) or layer norms (``normed``, variant 2).
    """

    def __init__(self, embed_dim: int, num_heads: int, kind: Literal["projected", "normed"]) -> None:
        super().__init__()
        self.kind = kind
        for role in ("query", "key", "value"):
            layer = nn.Linear(embed_dim, embed_dim) if kind == "projected" else nn.LayerNorm(embed_dim)
            self.add_module(f"{kind}_{role}", layer)
        self.attention = MultiHeadAttention(embed_dim, num_heads)

    def _prepared(self, role: str, rows: Tensor) -> Tensor:
        return self.get_submodule(f"{self.kind}_{role}")(rows)

    def alone(self, keys: Float[Tensor, "B M E"]) -> Float[Tensor, "B M E"]:
        """What any text finds where one key is all there is: attention to a single key gives its value."""
        return self.attention.value_alone(self._prepared("value", keys))

    def forward(
        self, texts: Float[Tensor, "*b C E"], keys: Float[Tensor, "B M E"], key_mask: Bool[Tensor, "B M"]
    ) -> Float[Tensor, "B C E"]:
        """One table of texts (C, E) for all slides, or each slide's own (B, C, E)."""
        query, key, value = self._prepared("query", texts), self._prepared("key", keys), self._prepared("value", keys)
        return self.attention(query, key, value, key_mask)

    def weights(
        self, texts: Float[Tensor, "*b C E"], keys: Float[Tensor, "B M E"], key_mask: Bool[Tensor, "B M"]
    ) -> Float[Tensor, "B H C M"]:
        """Attention weights of every head; 0 on padded keys."""
        return self.attention.weights(self._prepared("query", texts), self._prepared("key", keys), key_mask)
