"""Variant 1 the way the released code computes it, on the parameters of our model: what align_step.py measures against.

Texts padded to the maximum, one pass for captions and one for sub-captions; every layer for every token; keys and
values of all patches projected in every layer that reads them; regions one after the other; attention maps kept.
"""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pathflip.models.text_tower import FeedForward, SelfAttention
from pathflip.published.qformer import PatchCrossAttention
from pathflip.published.qformer_model import PublishedPathFLIP
from pathflip.types import AlignBatch

__all__ = ["Encoded", "encode_slides", "encode_texts", "ground", "losses", "pad_texts"]


@dataclass
class Encoded:
    """Embeddings and the attention maps the released code stacks in every step."""

    slide: Tensor
    regions: Tensor
    global_map: Tensor
    local_map: Tensor


def _attention(block: nn.Module, q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor]:
    """Explicit multi-head attention of (rows, tokens, W) projections; also the weights."""
    heads, dropout = block.num_heads, block.dropout
    q, k, v = (x.view(*x.shape[:2], heads, -1).permute(0, 2, 1, 3) for x in (q, k, v))
    scores = q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1])
    weights = (scores if bias is None else scores + bias).softmax(dim=-1)
    out = F.dropout(weights, dropout, block.training) @ v
    return out.permute(0, 2, 1, 3).flatten(2), weights


def _linear(layer: nn.Linear, x: Tensor) -> Tensor:
    return F.linear(x, layer.weight, layer.bias)


def _self(block: SelfAttention, h: Tensor, bias: Tensor | None = None) -> Tensor:
    out, _ = _attention(block, _linear(block.query, h), _linear(block.key, h), _linear(block.value, h), bias)
    return block.norm(F.dropout(_linear(block.out, out), block.dropout, block.training) + h)


def _cross(block: PatchCrossAttention, h: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
    out, weights = _attention(block, _linear(block.query, h), _linear(block.key, x), _linear(block.value, x), None)
    return block.norm(F.dropout(_linear(block.out, out), block.dropout, block.training) + h), weights


def _feed(block: FeedForward, h: Tensor) -> Tensor:
    out = _linear(block.down, F.gelu(_linear(block.up, h)))
    return block.norm(F.dropout(out, block.dropout, block.training) + h)


def _queries(model: PublishedPathFLIP, x: Tensor) -> tuple[Tensor, list[Tensor]]:
    """The Q-Former over patches (rows, N, E): final query states and the map of every layer that reads patches."""
    embeddings = model.qformer.embeddings
    h = embeddings.norm(model.query_tokens.expand(len(x), -1, -1))
    h, maps = F.dropout(h, embeddings.dropout, embeddings.training), []
    for layer in model.qformer.layers:
        h = _self(layer.self_attention, h)
        if layer.cross_attention is not None:
            h, weights = _cross(layer.cross_attention, h, x)
            maps.append(weights)
        h = _feed(layer.query_ffn, h)
    return h, maps


def encode_slides(model: PublishedPathFLIP, patches: Tensor) -> Encoded:
    """Slide pass over all patches, then one pass a region."""
    x = model.patch_proj(patches)
    hidden, maps = _queries(model, x.flatten(1, 2))
    tokens, local_maps = [model.slide_proj(hidden.mean(dim=1))], []
    for region in range(x.shape[1]):
        hidden, region_maps = _queries(model, x[:, region])
        tokens.append(model.slide_proj(hidden.mean(dim=1)))
        local_maps.append(region_maps[-1])
    mixed = model.mixing(torch.stack(tokens, dim=1))
    return Encoded(mixed[:, 0], mixed[:, 1:], maps[-1], torch.stack(local_maps, dim=3))


def encode_texts(model: PublishedPathFLIP, ids: Tensor, mask: Tensor) -> Tensor:
    """Every token of every padded text through every layer; the first token's embedding."""
    embeddings = model.qformer.embeddings
    h = embeddings(ids, torch.arange(ids.shape[1]).expand_as(ids))
    bias = -10000.0 * (1.0 - mask[:, None, None, :].to(h.dtype))
    for layer in model.qformer.layers:
        h = _feed(layer.ffn, _self(layer.self_attention, h, bias))
    return model.text_proj(h[:, 0])


def losses(model: PublishedPathFLIP, batch: AlignBatch, index: Tensor) -> tuple[dict[str, Tensor], Encoded]:
    """Both losses of an (already padded) batch; ``index`` holds each slide's candidate texts."""
    code = encode_slides(model, batch.patches.unflatten(1, batch.regions.shape[1:]))
    caption = encode_texts(model, batch.caption_ids, batch.caption_mask)
    num_slides, num_subs = batch.sub_caption_mask.shape
    subs = encode_texts(model, batch.sub_caption_ids.flatten(0, 1), batch.sub_caption_token_mask.flatten(0, 1))
    v, t = F.normalize(code.slide, dim=-1), F.normalize(caption, dim=-1)
    target, config = torch.arange(num_slides), model.config
    slide = 0.5 * sum(
        F.cross_entropy(a @ b.T / config.temperature, target, label_smoothing=config.smoothing)
        for a, b in ((v, t), (t, v))
    )
    texts = torch.stack([subs[row] for row in index])  # one copy of its candidates a slide
    attended = _head(model, texts, code.regions)
    cosine = (F.normalize(attended, dim=-1) * F.normalize(texts, dim=-1)).sum(dim=-1)
    labels = 2.0 * (index // num_subs == target.unsqueeze(1)) - 1.0
    region = -F.logsigmoid(labels * model.logit_scale * cosine).sum() / index.shape[1]
    return {"slide": slide, "region": region}, code


def _head(model: PublishedPathFLIP, texts: Tensor, regions: Tensor) -> Tensor:
    head = model.region_head
    q, k, v = head.projected_query(texts), head.projected_key(regions), head.projected_value(regions)
    attention = head.attention
    return F.multi_head_attention_forward(
        *(x.transpose(0, 1) for x in (q, k, v)),
        q.shape[-1],
        attention.num_heads,
        attention.in_proj_weight,
        attention.in_proj_bias,
        None,
        None,
        False,
        0.0,
        attention.out_proj.weight,
        attention.out_proj.bias,
        need_weights=True,
    )[0].transpose(0, 1)


def ground(model: PublishedPathFLIP, patches: Tensor, ids: Tensor, mask: Tensor) -> Tensor:
    """One phrase on one slide: the released code encodes the slide anew for every phrase."""
    code = encode_slides(model, patches)
    text = encode_texts(model, ids, mask).unsqueeze(0)
    return F.cosine_similarity(_head(model, text, code.regions), text, dim=-1)


def pad_texts(ids: Tensor, mask: Tensor, width: int) -> tuple[Tensor, Tensor]:
    """Texts padded to ``width`` tokens, whatever their length."""
    extra = (0, width - ids.shape[-1])
    return F.pad(ids, extra), F.pad(mask, extra)
