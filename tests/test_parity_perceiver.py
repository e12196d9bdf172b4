"""Variant 2 equals the released model, tensor by tensor (tests/fixtures/pf2_align/README.md is the specification)."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from parity import LOSS, align_batch, assert_close, assert_gradients, numbers, tensors
from pathflip import losses
from pathflip.published import region_losses
from pathflip.published.latent_model import AS_RELEASED, PerceiverConfig, PerceiverPathFLIP
from pathflip.published.parameter_names import from_published, published_name, to_published
from pathflip.types import AlignBatch

INPUTS, EXPECTED, WEIGHTS = (tensors("pf2_align", name) for name in ("inputs", "expected", "weights"))
SIZES: dict[str, Any] = {
    "feature_dim": 48,
    "vocab_size": 200,
    "embed_dim": 32,
    "num_heads": 4,
    "text_width": 64,
    "text_layers": 2,
    "text_heads": 4,
    "text_ffn_width": 128,
    "max_tokens": 64,
    "top_k": 6,
}
TAGS = [f"{a}_{b}_{c}" for a in ("infonce", "siglip") for b in ("flair", "softtopk") for c in ("cls", "mean")]


def load(tag: str = "siglip_flair_cls", **settings: Any) -> PerceiverPathFLIP:
    slide, region, pooling = tag.split("_")
    choices = {
        **AS_RELEASED,
        "slide_loss": {"infonce": "info_nce", "siglip": "sigmoid"}[slide],
        "region_loss": {"flair": "text_conditioned", "softtopk": "soft_top_k"}[region],
        "normalize": {"flair": "positives", "softtopk": "entries"}[region],
        "pooling": {"cls": "cls", "mean": "mean_with_padding"}[pooling],
    }
    model = PerceiverPathFLIP(PerceiverConfig(**SIZES, **{**choices, **settings})).eval()
    released = dict(WEIGHTS)
    if region == "softtopk":
        released = {key: value for key, value in released.items() if not key.startswith("fine_gained_loss_head")}
    if slide == "infonce":
        released = {key: value for key, value in released.items() if not key.startswith("global_logit")}
    model.load_state_dict(from_published(released, model, "perceiver"))
    return model


@pytest.fixture(scope="module")
def batch() -> AlignBatch:
    return align_batch(
        INPUTS["image"].unsqueeze(1),
        (INPUTS["input_ids_global"], INPUTS["attn_mask_global"]),
        (INPUTS["input_ids_local"], INPUTS["attn_mask_local"]),
    )


@torch.no_grad()
def test_image(batch: AlignBatch) -> None:
    model = load()
    x = model._project(batch.patches, batch.patch_mask)
    assert_close(x, EXPECTED["image_proj"], name="image_proj")
    tokens, features = model.encode_patches(batch.patches, batch.patch_mask)
    assert_close(tokens, EXPECTED["tokens"], name="tokens")
    assert_close(features, EXPECTED["patch_features"], name="patch_features")
    code = model.encode_slides(batch.patches, batch.patch_mask)
    assert_close(code.slide, EXPECTED["image_global"], name="image_global")
    assert_close(code.patches, EXPECTED["image_local"], name="image_local")


@torch.no_grad()
@pytest.mark.parametrize("pooling", ["cls", "mean"])
def test_text(batch: AlignBatch, pooling: str) -> None:
    output = load(f"siglip_flair_{pooling}")(batch)
    assert_close(output.caption, EXPECTED[f"text_global_{pooling}"], name="text_global")
    assert_close(output.sub_captions, EXPECTED[f"text_local_{pooling}"], name="text_local")


@torch.no_grad()
def test_text_hidden_states(batch: AlignBatch) -> None:
    encoder = load().text_encoder
    local = (INPUTS["input_ids_local"].flatten(0, 1), INPUTS["attn_mask_local"].flatten(0, 1).bool())
    for name, (ids, mask) in {"global": (batch.caption_ids, batch.caption_mask), "local": local}.items():
        x = encoder.embeddings(ids, torch.arange(ids.shape[1]).expand_as(ids))
        for layer in encoder.layers:
            x = layer.text(x, mask)  # type: ignore[operator]
        assert_close(x, EXPECTED[f"text_hidden_{name}"], name=name)


@torch.no_grad()
def test_mean_pooling_leaves_padding_out_unless_released(batch: AlignBatch) -> None:
    """Released mean pooling depends on how far a text was padded (here by up to 0.39); ours is the masked mean."""
    ours = load(pooling="mean")(batch).caption
    assert_close(ours, EXPECTED["alt_text_global_maskedmean"], name="masked mean")
    assert (ours - EXPECTED["text_global_mean"]).abs().max() > 0.3
    wider = replace(
        batch,
        caption_ids=torch.nn.functional.pad(batch.caption_ids, (0, 7)),
        caption_mask=torch.nn.functional.pad(batch.caption_mask, (0, 7)),
    )
    assert_close(load(pooling="mean")(wider).caption, ours, 1e-6)
    released = load("siglip_flair_mean")
    assert (released(wider).caption - released(batch).caption).abs().max() > 0.1


@pytest.mark.parametrize("tag", TAGS)
def test_losses_and_every_gradient(batch: AlignBatch, tag: str) -> None:
    model = load(tag)
    index = region_losses.sort_candidates(EXPECTED["caption_offsets"], 4)
    assert torch.equal(index, EXPECTED["caption_indices"])
    parts = model.losses(model(batch), batch, index)
    torch.testing.assert_close(parts["slide"], EXPECTED[f"loss_itc.{tag}"], rtol=LOSS, atol=0)
    torch.testing.assert_close(parts["region"], EXPECTED[f"loss_local.{tag}"], rtol=LOSS, atol=0)
    total = parts["slide"] + parts["region"]
    torch.testing.assert_close(total, EXPECTED[f"loss.{tag}"], rtol=LOSS, atol=0)
    total.backward()
    grads = {published_name(name, "perceiver"): p.grad for name, p in model.named_parameters()}
    assert_gradients(grads, numbers("pf2_align", "grad_norms")[tag])
    prefix = f"grad.{tag}."
    for key, value in EXPECTED.items():
        if key.startswith(prefix):
            assert_close(grads[key.removeprefix(prefix)], value, name=key)


@torch.no_grad()
def test_global_similarity_and_raw_sum(batch: AlignBatch) -> None:
    output = load()(batch)
    similarity = losses.cosine(output.slide, output.caption)
    logits = 6.5 * similarity - 3.2
    values = [similarity, logits]
    assert min((x - EXPECTED["sim_global_cls"]).abs().max().item() for x in values) < 5e-5
    labels = 2 * torch.eye(3, dtype=torch.long) - 1
    total = region_losses.pair_sigmoid(logits, labels) * 9
    torch.testing.assert_close(total, EXPECTED["siglip_sum_one_direction_cls"], rtol=LOSS, atol=0)


@torch.no_grad()
def test_text_conditioned_head(batch: AlignBatch) -> None:
    model = load()
    output = model(batch)
    texts, index = output.sub_captions, EXPECTED["caption_indices"]
    assert model.region_head is not None
    rows = model.region_head(texts.flatten(0, 1)[index], output.patches, output.patch_mask)
    unit = torch.nn.functional.normalize(rows, dim=-1)
    assert_close(unit, EXPECTED["flair_local_image_normalised_cls"], name="normalised")
    logits = 7.5 * torch.cosine_similarity(rows, texts.flatten(0, 1)[index], dim=-1) - 2.4
    assert_close(logits, EXPECTED["flair_logits_cls"], name="flair_logits")
    own = model.region_head(texts, output.patches, output.patch_mask)
    assert_close(own, EXPECTED["fg_head_out_own_cls"], name="fg_head_out_own")
    weights = model.region_head.weights(texts, output.patches, output.patch_mask).mean(dim=1)
    assert_close(weights, EXPECTED["fg_head_weights_own_cls"], name="fg_head_weights_own")
    assert_close(weights, EXPECTED["flair_ret_weights_cls"], name="flair_ret_weights_cls")


@torch.no_grad()
def test_weights_returned_with_the_loss_under_mean_pooling(batch: AlignBatch) -> None:
    model = load("siglip_flair_mean")
    output = model(batch)
    assert model.region_head is not None
    weights = model.region_head.weights(output.sub_captions, output.patches, output.patch_mask).mean(dim=1)
    assert_close(weights, EXPECTED["flair_ret_weights_mean"])
    soft = load("siglip_softtopk_mean")(batch)
    _, weights = region_losses.soft_top_k_pool(soft.sub_captions, soft.patches, soft.patch_mask, 6)
    assert_close(weights, EXPECTED["softtopk_ret_weights_mean"])


@torch.no_grad()
def test_slide_level_term(batch: AlignBatch) -> None:
    model = load(slide_term=True)
    loss = model.losses(model(batch), batch, EXPECTED["caption_indices"])["region"]
    torch.testing.assert_close(loss, EXPECTED["loss_local_flair_mps_cls"], rtol=LOSS, atol=0)


@torch.no_grad()
def test_soft_top_k(batch: AlignBatch) -> None:
    output = load("siglip_softtopk_cls")(batch)
    pooled, weights = region_losses.soft_top_k_pool(output.sub_captions, output.patches, output.patch_mask, 6)
    assert_close(weights, EXPECTED["softtopk_selection_weights_cls"])
    assert_close(weights, EXPECTED["softtopk_ret_weights_cls"])
    largest = weights.topk(6).indices.sort().values
    assert torch.equal(largest, EXPECTED["softtopk_indices_cls"].sort().values)
    assert_close(pooled, EXPECTED["softtopk_local_features_cls"])


@torch.no_grad()
def test_released_grounding(batch: AlignBatch) -> None:
    """The released grounding path feeds the head features it was not trained on; ours uses the trained space."""
    model = load()
    ids, mask = batch.sub_caption_ids.flatten(0, 1), batch.sub_caption_token_mask.flatten(0, 1)
    texts = model.encode_texts(("",) * 12, ids, mask, torch.zeros(12, dtype=torch.bool))
    assert model.region_head is not None
    features = model.encode_patches(batch.patches, batch.patch_mask)[1]
    everything = torch.ones(3, 20, dtype=torch.bool)
    assert_close(
        own_rows(model.region_head.weights(texts.local, features, everything).mean(1)), EXPECTED["forward_attn_text"]
    )
    out = model.region_head(texts.local.unflatten(0, (3, 4)), features, everything)
    assert_close(out, EXPECTED["forward_query_out"])
    similarity = model.patch_similarity(model.encode_slides(batch.patches, batch.patch_mask), texts)
    assert_close(own_rows(similarity), EXPECTED["fg_head_weights_own_cls"])


def own_rows(table: Tensor) -> Tensor:
    """(3 slides, 12 texts, M) -> each slide's own four texts."""
    return torch.stack([table[i, 4 * i : 4 * i + 4] for i in range(3)])


@torch.no_grad()
@pytest.mark.parametrize("tag", ["siglip_flair_cls", "siglip_softtopk_cls"])
def test_padding_never_matters(batch: AlignBatch, tag: str) -> None:
    model = load(tag, pooling="mean")
    patch_mask = torch.ones(3, 20, dtype=torch.bool)
    patch_mask[0, 11:] = False
    clean = replace(batch, patch_mask=patch_mask)
    dirty = replace(
        clean,
        patches=batch.patches.masked_fill(~patch_mask.unsqueeze(-1), float("nan")),
        caption_ids=batch.caption_ids.masked_fill(~batch.caption_mask, 11),
        sub_caption_ids=batch.sub_caption_ids.masked_fill(~batch.sub_caption_token_mask, 13),
    )
    a, b = model(clean), model(dirty)
    assert torch.equal(a.slide, b.slide)
    for name, loss in model.losses(a, clean, EXPECTED["caption_indices"]).items():
        assert torch.equal(loss, model.losses(b, dirty, EXPECTED["caption_indices"])[name]), name
    fewer = model.encode_slides(batch.patches[:1, :11], patch_mask[:1, :11])
    assert_close(a.slide[:1], fewer.slide, 1e-5)
    assert_close(a.patches[:1, :11], fewer.patches, 1e-5)


def test_second_skip_is_an_option(batch: AlignBatch) -> None:
    with torch.no_grad():
        ours = load(second_skip=False).encode_patches(batch.patches, batch.patch_mask)[1]
        released = load(second_skip=True).encode_patches(batch.patches, batch.patch_mask)[1]
    assert_close(released - ours, EXPECTED["image_proj"], 1e-4)


def test_names_go_both_ways() -> None:
    model = load()
    assert all(torch.equal(value, WEIGHTS[key]) for key, value in to_published(model, "perceiver").items())
