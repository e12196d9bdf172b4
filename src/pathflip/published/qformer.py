"""The Querying Transformer (BLIP-2, arXiv 2301.12597) over patches: a few learned queries read a slide and its regions.

The patches are never projected. For a head with query q and projections W_k, W_v,

    softmax(q · (W_k x + b_k)) (W_v x + b_v)  =  W_v (softmax((W_kᵀ q) · x) x) + b_v,

since q · b_k is the same for every x and the weights sum to one: W_k is folded into the queries, W_v is applied to
their results. With Q queries and H heads that costs 2·Q·H·E a patch where projecting costs 2·E·W; exact either way.
"""

from typing import Any, cast

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from pathflip.models.cpu import Linear, MatrixStack, products
from pathflip.models.layers import draw_kept, dropout, keep_some, masked_softmax
from pathflip.models.text_tower import FeedForward, TextConfig, TextEmbeddings, TextLayer, init_bert
from pathflip.published.patch_attention import ChunkReader, PatchReader

__all__ = ["PatchCrossAttention", "QFormer", "QFormerLayer"]

Reader = PatchReader | ChunkReader


def _read(
    u: Float[Tensor, "B R HQ E"], x: Float[Tensor, "B L S E"], mask: Bool[Tensor, "B L S"] | None, drop: float
) -> tuple[Float[Tensor, "B R HQ E"], Float[Tensor, "B R HQ"] | None]:
    """Weighted sums of patches (row 0: of the slide's, row 1 + l: of region l's; or, with as many rows as regions, of
    the regions' alone); with dropout on the weights also what they now sum to.
    """
    if torch.is_autocast_enabled(u.device.type):
        u = u.to(x.dtype)
    with torch.autocast(u.device.type, enabled=False):
        if u.shape[1] == x.shape[1]:
            found, mass = _read_plainly(u, x, None if mask is None else mask.unsqueeze(2), drop)
            return found, mass if drop > 0.0 else None
        if u.device.type == "cpu" and torch.is_grad_enabled():
            found, mass = _ReadFunction.apply(u, x, mask, drop)
            return found, mass if drop > 0.0 else None
        parts = [_read_plainly(*part, drop) for part in _slide_and_regions(u, x, mask)]
    found = torch.cat([parts[0][0].unsqueeze(1), parts[1][0]], dim=1)
    return found, torch.cat([parts[0][1].unsqueeze(1), parts[1][1]], dim=1) if drop > 0.0 else None


def _slide_and_regions(u: Tensor, x: Tensor, mask: Tensor | None) -> list[tuple[Tensor, Tensor, Tensor | None]]:
    """Queries, patches and mask of the slide, and of its regions."""
    slide_mask = None if mask is None else mask.flatten(1).unsqueeze(1)
    return [(u[:, 0], x.flatten(1, 2), slide_mask), (u[:, 1:], x, None if mask is None else mask.unsqueeze(2))]


def _read_plainly(u: Tensor, x: Tensor, mask: Tensor | None, drop: float) -> tuple[Tensor, Tensor]:
    weights = dropout(masked_softmax(products(u, x.mT), mask), drop)
    return products(weights, x), weights.sum(dim=-1)


class _ReadFunction(torch.autograd.Function):
    """:func:`_read` on CPU: keeps the softmax and a boolean mask, and adds up the patches' gradient in place."""

    @staticmethod
    def forward(ctx: Any, u: Tensor, x: Tensor, mask: Tensor | None, drop: float) -> tuple[Tensor, Tensor]:
        ctx.mask, ctx.scale = mask, 1.0
        saved, found, mass = [], [], []
        for queries, patches, real in _slide_and_regions(u, x, mask):
            weights = masked_softmax(products(queries, patches.mT), real)
            kept, left = None, weights
            if drop > 0.0:
                kept, ctx.scale = draw_kept(weights, drop)
                left = keep_some(weights, kept, ctx.scale)
            found.append(products(left, patches))
            mass.append(left.sum(dim=-1))
            saved += [weights, kept]
        ctx.save_for_backward(u, x, *saved)
        return (
            torch.cat([found[0].unsqueeze(1), found[1]], dim=1),
            torch.cat([mass[0].unsqueeze(1), mass[1]], dim=1),
        )

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, None, None]:
        u, x, *saved = ctx.saved_tensors
        to_found, to_mass = grads
        to_x, to_u = torch.zeros_like(x), []
        parts = _slide_and_regions(u, x, ctx.mask)
        for row, (queries, patches, real) in enumerate(parts):
            weights, kept = saved[2 * row], saved[2 * row + 1]
            rows = slice(1, None) if row else 0
            grad, grad_mass = to_found[:, rows], to_mass[:, rows].unsqueeze(-1)
            to_weights = products(grad, patches.mT)
            if kept is not None:
                to_weights = keep_some(to_weights.add_(grad_mass), kept, ctx.scale)
            to_scores = torch._softmax_backward_data(to_weights, weights, -1, weights.dtype)
            if real is not None:
                to_scores.masked_fill_(~real, 0.0)
            left = weights if kept is None else keep_some(weights, kept, ctx.scale)
            into = to_x.flatten(0, 1) if row else to_x.flatten(1, 2)
            for ours, other in ((left, grad), (to_scores, queries)):
                into.baddbmm_(ours.flatten(0, -3).mT, other.flatten(0, -3))
            to_u.append(products(to_scores, patches))
        return torch.cat([to_u[0].unsqueeze(1), to_u[1]], dim=1), to_x, None, None


class PatchCrossAttention(nn.Module):
    """Post-norm cross-attention block of the queries of slides and regions over the same patches.

    Queries come as (B, 1 + L, Q, W): row 0 of a slide reads all its patches, row 1 + l those of region l.
    """

    def __init__(self, width: int, key_dim: int, num_heads: int, dropout: float, eps: float) -> None:
        super().__init__()
        self.num_heads, self.dropout = num_heads, dropout
        self.query, self.out = Linear(width, width), Linear(width, width)
        self.key, self.value = nn.Linear(key_dim, width), nn.Linear(key_dim, width)
        self.norm = nn.LayerNorm(width, eps=eps)

    def forward(
        self, h: Float[Tensor, "B R Q W"], x: Float[Tensor, "B L S E"], mask: Bool[Tensor, "B L S"] | None
    ) -> Float[Tensor, "B R Q W"]:
        """``mask`` None: all patches are real. Padded patches must hold finite values."""
        found, mass = _read(self._fold_keys(h), x, mask, self.dropout if self.training else 0.0)
        attended = self._apply_values(found, mass)
        return self.norm(h + dropout(self.out(attended), self.dropout, self.training))

    def answer(self, h: Float[Tensor, "b r Q W"], patches: Reader) -> Float[Tensor, "B R Q W"]:
        """:meth:`forward` without gradient and dropout. One row of queries stands for all that are alike."""
        heads, key_dim = self.num_heads, self.key.in_features
        q = self.query(h) * (h.shape[-1] // heads) ** -0.5
        to_keys = MatrixStack(self.key.weight.view(heads, -1, key_dim).mT)
        u = to_keys(q.view(-1, heads, q.shape[-1] // heads)).reshape(*h.shape[:2], -1, key_dim)  # (b, r, Q·H, E)
        if torch.is_autocast_enabled(u.device.type):
            u = u.to(patches.x.dtype)
        with torch.autocast(u.device.type, enabled=False):
            found = patches.read(u)
        of_values = MatrixStack(self.value.weight.view(heads, -1, key_dim))
        z = of_values(found.reshape(-1, heads, key_dim)).reshape(*found.shape[:2], -1, h.shape[-1])
        return self.norm(h + self.out(z + self.value.bias))

    def _fold_keys(self, h: Float[Tensor, "B R Q W"]) -> Float[Tensor, "B R HQ E"]:
        """The queries of every head carried into patch space, W_kᵀ q / √d."""
        batch, rows, num_queries, width = h.shape
        q = self.query(h) * (width // self.num_heads) ** -0.5
        q = q.view(-1, self.num_heads, width // self.num_heads).transpose(0, 1)  # (H, B·R·Q, d)
        u = products(q, self.key.weight.view(self.num_heads, -1, self.key.in_features))
        return u.view(self.num_heads, batch, rows, num_queries, -1).permute(1, 2, 0, 3, 4).flatten(2, 3)

    def _apply_values(
        self, found: Float[Tensor, "B R HQ E"], mass: Float[Tensor, "B R HQ"] | None
    ) -> Float[Tensor, "B R Q W"]:
        batch, rows, _, key_dim = found.shape
        heads = self.num_heads
        z = found.view(batch, rows, heads, -1, key_dim).permute(2, 0, 1, 3, 4).flatten(1, 3)  # (H, B·R·Q, E)
        z = products(z, self.value.weight.view(heads, -1, key_dim).mT)
        z = z.view(heads, batch, rows, -1, z.shape[-1]).permute(1, 2, 3, 0, 4)  # (B, R, Q, H, d)
        # The key bias changes nothing; 0 times it keeps its gradient 0 rather than absent (DDP, AdamW).
        bias = (self.value.bias + 0.0 * self.key.bias).view(heads, -1)
        if mass is not None:
            bias = bias * mass.view(batch, rows, heads, -1).transpose(2, 3).unsqueeze(-1)
        return (z + bias).flatten(3)

    def weights(
        self, h: Float[Tensor, "*b Q W"], x: Float[Tensor, "*b N E"], mask: Bool[Tensor, "*b N"] | None = None
    ) -> Float[Tensor, "*b H Q N"]:
        """Attention weights of every head and query over the given patches (0 on padded ones)."""
        u = self._fold_keys(h.reshape(-1, 1, *h.shape[-2:])).reshape(*h.shape[:-2], self.num_heads * h.shape[-2], -1)
        weights = masked_softmax(u @ x.mT, None if mask is None else mask.unsqueeze(-2))
        weights = weights if mask is None else weights * mask.unsqueeze(-2)
        return weights.unflatten(-2, (self.num_heads, h.shape[-2]))


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
        """The query path."""
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

    def forward(
        self,
        queries: Float[Tensor, "1 Q W"],
        x: Float[Tensor, "B L S E"],
        mask: Bool[Tensor, "B L S"] | None,
        stop: int | None = None,
        slide: bool = True,
    ) -> Float[Tensor, "B R Q W"]:
        """Query states of every slide (row 0) and its regions (rows 1..L), final or as they enter layer ``stop``.

        ``slide`` False leaves row 0 out: regions do not depend on it.
        """
        if not torch.is_grad_enabled() and not (self.training and self.embeddings.dropout > 0.0):
            return self.answer(queries, PatchReader(x, mask, slide), stop)
        shape = (len(x), x.shape[1] + int(slide), -1, -1)
        if stop == 0:
            return self.embeddings.norm(queries).unsqueeze(0).expand(shape)
        h = self._first_layer(queries, x, mask, shape)
        for layer in self.layers[1:stop]:
            h = checkpoint(layer, h, x, mask, use_reentrant=False) if self.checkpointed else layer(h, x, mask)
        return h

    @torch.no_grad()
    def answer(self, queries: Float[Tensor, "1 Q W"], patches: Reader, stop: int | None = None) -> Tensor:
        """:meth:`forward` without gradients and dropout: final query states of all rows that ``patches`` has, or as
        they enter layer ``stop``. Until they have read, all rows are one.
        """
        h = self.embeddings.norm(queries).unsqueeze(0)
        for layer in cast(list[QFormerLayer], self.layers[:stop]):
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
            return first(dropout(start.expand(shape), drop), x, mask)
        return first.after_self(first.self_attention(start).expand(shape), x, mask)
