"""Parameter names of the released checkpoints, as data: a list of rewrites a variant, from our names to theirs."""

import re
from collections.abc import Mapping

from torch import Tensor, nn

from pathflip.errors import CheckpointError

__all__ = ["UNUSED", "from_published", "published_name", "to_published"]

_BERT = (
    (r"embeddings\.word\.", "embeddings.word_embeddings."),
    (r"embeddings\.position\.", "embeddings.position_embeddings."),
    (r"embeddings\.token_type\.", "embeddings.token_type_embeddings."),
    (r"embeddings\.norm\.", "embeddings.LayerNorm."),
    (r"\.self_attention\.(query|key|value)\.", r".attention.self.\1."),
    (r"\.self_attention\.out\.", ".attention.output.dense."),
    (r"\.self_attention\.norm\.", ".attention.output.LayerNorm."),
    (r"\.cross_attention\.(query|key|value)\.", r".crossattention.self.\1."),
    (r"\.cross_attention\.out\.", ".crossattention.output.dense."),
    (r"\.cross_attention\.norm\.", ".crossattention.output.LayerNorm."),
    (r"\.ffn\.up\.", ".intermediate.dense."),
    (r"\.ffn\.down\.", ".output.dense."),
    (r"\.ffn\.norm\.", ".output.LayerNorm."),
    (r"\.query_ffn\.up\.", ".intermediate_query.dense."),
    (r"\.query_ffn\.down\.", ".output_query.dense."),
    (r"\.query_ffn\.norm\.", ".output_query.LayerNorm."),
)

_RENAMES: dict[str, tuple[tuple[str, str], ...]] = {
    "published": (
        (r"^qformer\.layers\.", "Qformer.bert.encoder.layer."),
        (r"^qformer\.", "Qformer.bert."),
        *_BERT,
        (r"^patch_proj\.", "path_encoder."),
        (r"^slide_proj\.", "path_proj."),
        (r"^mixing\.", "path_trans."),
        (r"^region_head\.attention\.", "fg_head.attn."),
        (r"^region_head\.projected_([qkv])\w+\.", r"fg_head.w_\1."),
        (r"^region_head\.normed_([qkv])\w+\.", r"fg_head.ln_\1."),
    ),
    "perceiver": (
        (r"^text_encoder\.layers\.", "text_encoder.encoder.layer."),
        *_BERT,
        (r"^patch_proj\.", "image_proj."),
        (r"^latents$", "slide_encoder.visual_tokens"),
        (r"^blocks\.", "slide_encoder.encoder_layers."),
        (r"^decoder\.", "slide_encoder.patch_decoder."),
        (r"\.attention\.(in_proj|out_proj)", r".mha.\1"),
        (r"\.norm_ffn\.", ".norm2."),
        (r"\.mlp\.up\.", ".ffn.0."),
        (r"\.mlp\.down\.", ".ffn.3."),
        (r"^slide_head\.", "image_projection_global."),
        (r"^key_head\.", "image_projection_local."),
        (r"^caption_head\.", "text_projection_global."),
        (r"^local_head\.", "text_projection_local."),
        (r"^region_head\.mha\.", "fine_gained_loss_head.attn."),
        (r"^region_head\.normed_([qkv])\w+\.", r"fine_gained_loss_head.ln_\1."),
        (r"^logit_(scale|bias)_global$", r"global_logit_\1"),
        (r"^logit_(scale|bias)$", r"local_logit_\1"),
    ),
}

UNUSED = re.compile(r"\.position_ids$|^Qformer\.cls\.|^text_encoder\.pooler\.")
"""Released parameters without a part in alignment: the masked-language-model head, BERT's pooler, an index buffer."""


def published_name(key: str, kind: str) -> str:
    """The released name of our parameter ``key`` in the model of this ``kind`` (``published`` or ``perceiver``)."""
    for ours, theirs in _RENAMES[kind]:
        key = re.sub(ours, theirs, key)
    return key


def to_published(model: nn.Module, kind: str) -> dict[str, Tensor]:
    """The model's parameters under their released names."""
    return {published_name(key, kind): value for key, value in model.state_dict().items()}


def from_published(released: Mapping[str, Tensor], model: nn.Module, kind: str) -> dict[str, Tensor]:
    """Released parameters under our names, ready for ``model.load_state_dict``.

    A ``model.`` prefix is taken off. Parameters without a part in alignment are dropped.

    Raises:
        CheckpointError: a parameter is missing, unknown, or of another shape than the model's; all are named.
    """
    plain = {key.removeprefix("model."): value for key, value in released.items()}
    own = model.state_dict()
    names = {key: published_name(key, kind) for key in own}
    missing = sorted(set(names.values()) - set(plain))
    unknown = sorted(key for key in set(plain) - set(names.values()) if not UNUSED.search(key))
    if missing or unknown:
        raise CheckpointError(
            f"not the parameters of this {kind} model: missing {', '.join(missing) or 'none'}; "
            f"unknown {', '.join(unknown) or 'none'}"
        )
    shapes = [
        f"{name} {tuple(plain[name].shape)} (expected {tuple(own[key].shape)})"
        for key, name in names.items()
        if plain[name].shape != own[key].shape
    ]
    if shapes:
        raise CheckpointError(f"sizes differ from the model's config: {', '.join(shapes)}")
    return {key: plain[name] for key, name in names.items()}
