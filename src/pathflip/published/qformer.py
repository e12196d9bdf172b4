"""The Querying Transformer (BLIP-2, arXiv 2301.12597) over patches: a few learned queries read a slide and its regions.

The patches are never projected. For a head with query q and projections W_k, W_v,

    softmax(q · (W_k x + b_k)) (W_v x + b_v)  =  W_v (softmax((W_kᵀ q) · x) x) + b_v,

since q · b_k is the same for every x and the weights sum to one: W_k is folded into the queries, W_v is applied to
their results. With Q queries and H heads that costs 2·Q·H·E a patch where projecting costs 2·E·W; exact either way.
"""

from typing import cast

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from pathflip.models.layers import masked_softmax
from pathflip.models.text_tower import FeedForward, TextConfig, TextEmbeddings, TextLayer, init_bert
from pathflip.published.patch_attention import ChunkReader, PatchReader

__all__ = ["PatchCrossAttention", "QFormer", "QFormerLayer"]

Reader = PatchReader | ChunkReader
BERT_WIDTH = 768
"""The width that BERT's initialisation, N(0, .02) whatever the layer, was made for."""


def _read(
    u: Float[Tensor, "B R HQ E"], x: Float[Tensor, "B L S E"], mask: Bool[Tensor, "B L S"] | None, drop: float
) -> tuple[Float[Tensor, "B R HQ E"], Float[Tensor, "B R HQ"] | None]:
    """Weighted sums of patches: row 0 of the queries reads the slide's, row 1 + l those of region l (with as many rows
    as regions there is none of the slide). With dropout on the weights also what they now sum to.
    """
    if torch.is_autocast_enabled(u.device.type):
        u = u.to(x.dtype)
    with torch.autocast(u.device.type, enabled=False):
        region_mask = None if mask is None else mask.unsqueeze(2)
        if u.shape[1] == x.shape[1]:
            sums, mass = _weighted_sum(u, x, region_mask, drop)
            return sums, mass if drop > 0.0 else None
        slide_mask = None if mask is None else mask.flatten(1).unsqueeze(1)
        slide, slide_mass = _weighted_sum(u[:, 0], x.flatten(1, 2), slide_mask, drop)
        regions, region_mass = _weighted_sum(u[:, 1:], x, region_mask, drop)
    sums = torch.cat([slide.unsqueeze(1), regions], dim=1)
    return sums, torch.cat([slide_mass.unsqueeze(1), region_mass], dim=1) if drop > 0.0 else None


def _weighted_sum(u: Tensor, x: Tensor, mask: Tensor | None, drop: float) -> tuple[Tensor, Tensor]:
    weights = F.dropout(masked_softmax(u @ x.mT, mask), drop)
    return weights @ x, weights.sum(dim=-1)


class PatchCrossAttention(nn.Module):
    """Post-norm cross-attention block of the queries of slides and regions over the same patches.

    Queries come as (B, 1 + L, Q, W): row 0 of a slide reads all its patches, row 1 + l those of region l.
    """

    def __init__(self, width: int, key_dim: int, num_heads: int, dropout: float, eps: float) -> None:
        super().__init__()
        self.num_heads, self.dropout = num_heads, dropout
        self.query, self.out = nn.Linear(width, width), nn.Linear(width, width)
        self.key, self.value = nn.Linear(key_dim, width), nn.Linear(key_dim, width)
        self.norm = nn.LayerNorm(width, eps=eps)

    def forward(
        self, h: Float[Tensor, "B R Q W"], x: Float[Tensor, "B L S E"], mask: Bool[Tensor, "B L S"] | None
    ) -> Float[Tensor, "B R Q W"]:
        """``mask`` None: all patches are real. Padded patches must hold finite values."""
        read, mass = _read(self._fold_keys(h), x, mask, self.dropout if self.training else 0.0)
        attended = self._apply_values(read, mass)
        return self.norm(h + F.dropout(self.out(attended), self.dropout, self.training))

    def answer(self, h: Float[Tensor, "b r Q W"], patches: Reader) -> Float[Tensor, "B R Q W"]:
        """:meth:`forward` without gradient and dropout. One row of queries stands for all that are alike."""
        heads = self.num_heads
        q = self.query(h) * (h.shape[-1] // heads) ** -0.5
        u = torch.einsum("brqhd,hde->brqhe", q.unflatten(-1, (heads, -1)), self.key.weight.unflatten(0, (heads, -1)))
        u = u.flatten(2, 3)  # (b, r, Q·H, E)
        if torch.is_autocast_enabled(u.device.type):
            u = u.to(patches.x.dtype)
        with torch.autocast(u.device.type, enabled=False):
            read = patches.read(u)
        read = read.unflatten(2, (-1, heads))
        z = torch.einsum("brqhe,hde->brqhd", read, self.value.weight.unflatten(0, (heads, -1))).flatten(3)
        return self.norm(h + self.out(z + self.value.bias))

    def _fold_keys(self, h: Float[Tensor, "B R Q W"]) -> Float[Tensor, "B R HQ E"]:
        """The queries of every head carried into patch space, W_kᵀ q / √d."""
        batch, rows, num_queries, width = h.shape
        q = self.query(h) * (width // self.num_heads) ** -0.5
        q = q.view(-1, self.num_heads, width // self.num_heads).transpose(0, 1)  # (H, B·R·Q, d)
        u = q @ self.key.weight.view(self.num_heads, -1, self.key.in_features)
        return u.view(self.num_heads, batch, rows, num_queries, -1).permute(1, 2, 0, 3, 4).flatten(2, 3)

    def _apply_values(
        self, read: Float[Tensor, "B R HQ E"], mass: Float[Tensor, "B R HQ"] | None
    ) -> Float[Tensor, "B R Q W"]:
        batch, rows, _, key_dim = read.shape
        heads = self.num_heads
        z = read.view(batch, rows, heads, -1, key_dim).permute(2, 0, 1, 3, 4).flatten(1, 3)  # (H, B·R·Q, E)
        z = z @ self.value.weight.view(heads, -1, key_dim).mT
        z = z.view(heads, batch, rows, -1, z.shape[-1]).permute(1, 2, 3, 0, 4)  # (B, R, Q, H, d)
        # The key bias changes nothing; 0 times it keeps its gradient 0 rather than absent (DDP, AdamW).
        bias = (self.value.bias + 0.0 * self.key.bias).view(heads, -1)
        if mass is not None:
            bias = bias * mass.view(batch, rows, heads, -1).transpose(2, 3).unsqueeze(-1)
        return (z + bias).flatten(3)


class QFormerLayer(TextLayer):
    """A BERT layer queries pass too: shared self-attention, cross-attention in some layers, an own feed-forward."""

    def __init__(self, config: TextConfig, key_dim: int, crosses: bool) -> None:
        super().__init__(config)
        self.cross_attention = (
            PatchCrossAttention(config.width, key_dim, config.num_heads, config.dropout, config.eps)
            if crosses
            else None
        )
        self.query_ffn = FeedForward(config.width, config.ffn_width, config.dropout, config.eps)

    def forward(
        self, h: Float[Tensor, "B R Q W"], x: Float[Tensor, "B L S E"], mask: Bool[Tensor, "B L S"] | None
    ) -> Float[Tensor, "B R Q W"]:
        """Read patches with the queries."""
        return self.after_self(self.self_attention(h), x, mask)

    def after_self(
        self, h: Float[Tensor, "B R Q W"], x: Float[Tensor, "B L S E"], mask: Bool[Tensor, "B L S"] | None
    ) -> Float[Tensor, "B R Q W"]:
        """The query path behind self-attention."""
        if self.cross_attention is not None:
            h = self.cross_attention(h, x, mask)
        return self.query_ffn(h)


class QFormer(nn.Module):
    """Learned queries over patches, and (same self-attention) the text path.

    Args:
        config: the BERT sizes.
        key_dim: E, width of the patches it reads.
        cross_every: cross-attention stands in layers 0, cross_every, 2·cross_every, …
        checkpointed: recompute layers in the backward pass instead of keeping their activations.
    """

    def __init__(self, config: TextConfig, key_dim: int, cross_every: int, checkpointed: bool = False) -> None:
        super().__init__()
        self.checkpointed = checkpointed
        self.embeddings = TextEmbeddings(config)
        layers = [QFormerLayer(config, key_dim, crosses=i % cross_every == 0) for i in range(config.num_layers)]
        self.layers = nn.ModuleList(layers)
        self.apply(init_bert)
        for layer in layers:  # the query feed-forward starts as a copy of the text one
            layer.query_ffn.load_state_dict(layer.ffn.state_dict())

    @torch.no_grad()
    def scale_weights_to_width(self) -> None:
        """Weights of linear layers drawn N(0, .02) times √(768 / inputs): what a layer passes on is then that of a
        BERT's, whose inputs are 768 wide, at any width."""
        for module in self.modules():
            if isinstance(module, nn.Linear):
                module.weight.mul_((BERT_WIDTH / module.in_features) ** 0.5)

    def forward(
        self,
        queries: Float[Tensor, "1 Q W"],
        x: Float[Tensor, "B L S E"],
        mask: Bool[Tensor, "B L S"] | None,
        slide: bool = True,
    ) -> Float[Tensor, "B R Q W"]:
        """Query states of every slide (row 0) and its regions (rows 1..L), final.

        ``slide`` False leaves row 0 out: regions do not depend on it.
        """
        if not torch.is_grad_enabled() and not (self.training and self.embeddings.dropout > 0.0):
            return self.answer(queries, PatchReader(x, mask, slide))
        shape = (len(x), x.shape[1] + int(slide), -1, -1)
        h = self._first_layer(queries, x, mask, shape)
        for layer in self.layers[1:]:
            h = checkpoint(layer, h, x, mask, use_reentrant=False) if self.checkpointed else layer(h, x, mask)
        return h

    @torch.no_grad()
    def answer(self, queries: Float[Tensor, "1 Q W"], patches: Reader) -> Tensor:
        """:meth:`forward` without gradients and dropout: final query states of all rows that ``patches`` has.
        Until they have read, all rows are one.
        """
        h = self.embeddings.norm(queries).unsqueeze(0)
        for layer in cast(list[QFormerLayer], self.layers):
            h = layer.self_attention(h)
            if layer.cross_attention is not None:
                h = layer.cross_attention.answer(h, patches)
            h = layer.query_ffn(h)
        return h.expand(*patches.rows, -1, -1)

    def _first_layer(self, queries: Tensor, x: Tensor, mask: Tensor | None, shape: tuple[int, ...]) -> Tensor:
        """Layer 0. Up to its cross-attention all rows are alike, so without dropout that part is computed once."""
        first: QFormerLayer = self.layers[0]  # type: ignore[assignment]
        start, drop = self.embeddings.norm(queries).unsqueeze(0), self.embeddings.dropout
        if self.training and drop > 0.0:
            return first(F.dropout(start.expand(shape), drop), x, mask)
        return first.after_self(first.self_attention(start).expand(shape), x, mask)
