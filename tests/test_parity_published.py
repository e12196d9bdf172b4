"""Variant 1 equals the released model, tensor by tensor (tests/fixtures/pf1_align/README.md is the specification)."""

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from parity import LOSS, align_batch, assert_close, assert_gradients, encode, numbers, tensors
from pathflip.errors import CheckpointError
from pathflip.published.negatives import met_in_global_batch
from pathflip.published.parameter_names import from_published, published_name, to_published
from pathflip.published.qformer_model import AS_RELEASED, PublishedConfig, PublishedPathFLIP
from pathflip.published.region_index import by_region
from pathflip.published.region_losses import published_candidates, sort_candidates, text_conditioned
from pathflip.types import AlignBatch

INPUTS, EXPECTED, WEIGHTS = (tensors("pf1_align", name) for name in ("inputs", "expected", "weights"))
SIZES: dict[str, Any] = {
    "feature_dim": 48,
    "vocab_size": 201,
    "embed_dim": 32,
    "width": 64,
    "num_layers": 4,
    "num_heads": 4,
    "ffn_width": 128,
    "max_tokens": 64,
    "num_queries": 4,
}


def released_weights() -> dict[str, Tensor]:
    return {key: value for key, value in WEIGHTS.items() if not key.startswith("pure_head.")}


def load(**settings: Any) -> PublishedPathFLIP:
    model = PublishedPathFLIP(PublishedConfig(**SIZES, **{**AS_RELEASED, **settings})).eval()
    model.load_state_dict(from_published(released_weights(), model, "published"))
    return model


@pytest.fixture(scope="module")
def model() -> PublishedPathFLIP:
    return load()


@pytest.fixture(scope="module")
def batch() -> AlignBatch:
    return align_batch(
        INPUTS["path"], (INPUTS["text_ids"], INPUTS["text_mask"]), (INPUTS["subtext_ids"], INPUTS["subtext_mask"])
    )


def recorded(module: nn.Module, run: Callable[[], object]) -> tuple[list[Tensor], list[Tensor]]:
    """First inputs and outputs of every call of ``module`` during ``run``."""
    inputs: list[Tensor] = []
    outputs: list[Tensor] = []

    def keep(_: nn.Module, arguments: tuple[Tensor, ...], out: Tensor) -> None:
        inputs.append(arguments[0])
        outputs.append(out)

    handle = module.register_forward_hook(keep)
    run()
    handle.remove()
    return inputs, outputs


@torch.no_grad()
def test_slide_and_region_queries(model: PublishedPathFLIP, batch: AlignBatch) -> None:
    x, mask = model.project_patches(*by_region(batch.patches, batch.patch_mask, batch.regions))
    assert_close(x, EXPECTED["path_embed"], name="path_embed")
    for i, layer in enumerate(model.qformer.layers):
        _, (state,) = recorded(layer.query_ffn, lambda: model.qformer(model.query_tokens, x, mask))
        assert_close(state[:, 0].contiguous(), EXPECTED["slide_hidden_all"][i + 1], name=f"slide_hidden_all[{i + 1}]")
    final = model.qformer(model.query_tokens, x, mask)
    assert_close(final[:, 0], EXPECTED["slide_query_hidden"], name="slide_query_hidden")
    assert_close(final[:, 1:], EXPECTED["region_query_hidden"], name="region_query_hidden")
    pooled = model.slide_proj(final.mean(dim=2))
    assert_close(pooled[:, 0], EXPECTED["slide_pre"], name="slide_pre")
    assert_close(pooled[:, 1:], EXPECTED["region_pre"], name="region_pre")


@torch.no_grad()
def test_embeddings(model: PublishedPathFLIP, batch: AlignBatch) -> None:
    output = model(batch)
    assert_close(output.slide, EXPECTED["slide_embed"], name="slide_embed")
    assert_close(output.patches, EXPECTED["region_embed"], name="region_embed")
    assert_close(output.caption, EXPECTED["text_embed"], name="text_embed")
    assert_close(output.sub_captions.flatten(0, 1), EXPECTED["subtext_embed"], name="subtext_embed")
    assert_close(model.similarity(*codes(model, batch)) / 0.1, EXPECTED["sim_i2t"], 5e-4, name="sim_i2t")
    assert_close(model.similarity(*codes(model, batch)).T / 0.1, EXPECTED["sim_t2i"], 5e-4, name="sim_t2i")


def codes(model: PublishedPathFLIP, batch: AlignBatch) -> tuple[Any, Any]:
    slides = model.encode_slides(batch.patches, batch.patch_mask, batch.regions)
    unnegated = torch.zeros(3, dtype=torch.bool)
    return slides, model.encode_texts(("a", "b", "c"), batch.caption_ids, batch.caption_mask, unnegated)


@torch.no_grad()
def test_text_hidden_states(model: PublishedPathFLIP, batch: AlignBatch) -> None:
    """The padded path reproduces every position; the packed one the first token."""
    qformer = model.qformer
    x = qformer.embeddings(batch.caption_ids, torch.arange(16).expand(3, -1))
    assert_close(x, EXPECTED["text_hidden_all"][0], name="text_hidden_all[0]")
    for i, layer in enumerate(qformer.layers):
        x = layer.text(x, batch.caption_mask)
        assert_close(x, EXPECTED["text_hidden_all"][i + 1], name=f"text_hidden_all[{i + 1}]")
    assert_close(x, EXPECTED["text_hidden"], name="text_hidden")
    hidden = recorded(model.text_proj, lambda: model(batch))[0]
    assert_close(hidden[1], EXPECTED["subtext_hidden_cls"], name="subtext_hidden_cls")


def test_losses_and_every_gradient(model: PublishedPathFLIP, batch: AlignBatch) -> None:
    model.zero_grad()
    index = sort_candidates(EXPECTED["caption_offsets"], 4)
    assert torch.equal(index, EXPECTED["caption_indices"])
    parts = model.losses(model(batch), batch, index)
    torch.testing.assert_close(parts["slide"], EXPECTED["loss_itc"], rtol=LOSS, atol=0)
    torch.testing.assert_close(parts["region"], EXPECTED["loss_fg"], rtol=LOSS, atol=0)
    total = parts["slide"] + parts["region"]
    torch.testing.assert_close(total, EXPECTED["loss"], rtol=LOSS, atol=0)
    total.backward()
    grads = {published_name(name, "published"): p.grad for name, p in model.named_parameters()}
    assert_gradients(grads, numbers("pf1_align", "grad_norms"))
    assert not any(name in grads for name in numbers("pf1_align", "params_without_grad"))
    full = {key.removeprefix("grad."): value for key, value in EXPECTED.items() if key.startswith("grad.")}
    assert len(full) == 14
    for name, value in full.items():
        assert_close(grads[name], value, name=f"gradient of {name}")


@torch.no_grad()
def test_region_head(model: PublishedPathFLIP, batch: AlignBatch) -> None:
    output = model(batch)
    texts, index = output.sub_captions.flatten(0, 1), EXPECTED["caption_indices"]
    attended = model.region_head(texts[index], output.patches, output.patch_mask)
    assert_close(attended, EXPECTED["fg_attended"], name="fg_attended")
    logits = model.logit_scale * torch.cosine_similarity(attended, texts[index], dim=-1)
    assert_close(logits, EXPECTED["fg_logits"], name="fg_logits")
    everything = model.region_head(texts, output.patches, output.patch_mask)
    assert_close(everything, EXPECTED["fg_all_attended"], name="fg_all_attended")
    weights = model.region_head.weights(texts, output.patches, output.patch_mask)
    assert_close(weights, EXPECTED["fg_all_weights_per_head"], name="fg_all_weights_per_head")
    score = torch.cosine_similarity(everything, texts.expand(3, -1, -1), dim=-1)
    assert_close(score, EXPECTED["region_text_score"], name="region_text_score")
    mask = INPUTS["region_mask_example"].bool()
    assert_close(model.region_head(texts, output.patches, mask), EXPECTED["fg_masked_out"], name="fg_masked_out")
    masked = model.region_head.weights(texts, output.patches, mask).mean(dim=1)
    assert_close(masked, EXPECTED["fg_masked_weights"], name="fg_masked_weights")


@torch.no_grad()
def test_optional_head_with_norms(model: PublishedPathFLIP, batch: AlignBatch) -> None:
    normed = PublishedPathFLIP(PublishedConfig(**SIZES, region_head="normed")).eval()
    released = {k: v for k, v in released_weights().items() if not k.startswith("fg_head.")}
    released |= {k.replace("pure_head.", "fg_head."): v for k, v in WEIGHTS.items() if k.startswith("pure_head.")}
    normed.load_state_dict(from_published(released, normed, "published"))
    output = normed(batch)
    texts = output.sub_captions.flatten(0, 1)
    out = normed.region_head(texts, output.patches, output.patch_mask)
    assert_close(out, EXPECTED["pure_head_out"], name="pure_head_out")
    weights = normed.region_head.weights(texts, output.patches, output.patch_mask).mean(dim=1)
    assert_close(weights, EXPECTED["pure_head_weights"], name="pure_head_weights")


@torch.no_grad()
@pytest.mark.parametrize("bias", [-10.0, -3.0])
def test_region_loss_with_bias(model: PublishedPathFLIP, batch: AlignBatch, bias: float) -> None:
    output = model(batch)
    texts = output.sub_captions.flatten(0, 1)[EXPECTED["caption_indices"]]
    attended = model.region_head(texts, output.patches, output.patch_mask)
    loss = text_conditioned(attended, texts, EXPECTED["fg_labels"].long(), 10.0, bias, "candidates")
    torch.testing.assert_close(loss, EXPECTED[f"loss_fg_bias{bias:.0f}"], rtol=LOSS, atol=0)


@torch.no_grad()
def test_region_loss_of_one_slide(model: PublishedPathFLIP) -> None:
    one = align_batch(
        INPUTS["path"][:1],
        (INPUTS["text_ids"][:1], INPUTS["text_mask"][:1]),
        (INPUTS["subtext_ids"][:1], INPUTS["subtext_mask"][:1]),
    )
    loss = model.losses(model(one), one)["region"]
    torch.testing.assert_close(loss, EXPECTED["loss_fg_single"], rtol=LOSS, atol=0)


@torch.no_grad()
def test_attention_of_texts_over_regions(model: PublishedPathFLIP, batch: AlignBatch) -> None:
    ids, mask = batch.sub_caption_ids.flatten(0, 1), batch.sub_caption_token_mask.flatten(0, 1)
    texts = model.encode_texts(("",) * 12, ids, mask, torch.zeros(12, dtype=torch.bool))
    weights = model.patch_similarity(codes(model, batch)[0], texts)
    own = torch.stack([weights[i, 4 * i : 4 * i + 4] for i in range(3)])
    assert_close(own, EXPECTED["region_attn"], name="region_attn")
    assert_close(own, EXPECTED["ret_region_attn"], name="ret_region_attn")


# ------------------------------------------------------------------------------------------ ours beside theirs


def test_scale_is_exponentiated_unless_released(batch: AlignBatch) -> None:
    raw, right = load()._scaling()[0], load(raw_logit_scale=False)._scaling()[0]
    assert raw.item() == pytest.approx(2.6593, abs=1e-4)
    assert right.item() == pytest.approx(1 / 0.07, rel=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("num_slides", [1, 2, 3])
def test_released_region_loss_grows_with_the_batch(num_slides: int) -> None:
    """With all-zero logits the released loss is B ln 2; ours is ln 2 whatever B."""
    part = align_batch(
        INPUTS["path"][:num_slides],
        (INPUTS["text_ids"][:num_slides], INPUTS["text_mask"][:num_slides]),
        (INPUTS["subtext_ids"][:num_slides], INPUTS["subtext_mask"][:num_slides]),
    )
    for settings, expected in (({}, num_slides * math.log(2)), ({"normalize": "entries"}, math.log(2))):
        model = load(**settings)
        model.logit_scale.zero_()
        assert model.losses(model(part), part)["region"].item() == pytest.approx(expected, rel=1e-5)


@torch.no_grad()
def test_repeated_sub_caption_is_not_a_negative(batch: AlignBatch) -> None:
    """Slide 1 holds, in its caption, a sub-caption sampled for slide 0: released code calls it false of slide 1."""
    keys = torch.zeros(3, 4, dtype=torch.long)
    keys[0, 2] = 7
    known = replace(batch, sub_caption_keys=keys, caption_keys=torch.tensor([[0], [7], [0]]))
    output = load()(known)
    ours, released = (met_in_global_batch(output, known, None, False, repeats)[1] for repeats in (False, True))
    assert ours[1, 2] == 1
    assert released[1, 2] == -1
    assert (ours != released).sum() == 1
    losses = [load(repeats_are_negatives=repeats, candidates="all", process_blocks=False) for repeats in (False, True)]
    values = [model.losses(output, known)["region"].item() for model in losses]
    assert values[0] != values[1]


@torch.no_grad()
def test_padding_never_matters(model: PublishedPathFLIP, batch: AlignBatch) -> None:
    """Padded patches, regions, tokens and sub-captions may hold anything; extra padding changes nothing."""
    patch_mask = torch.ones(3, 5, 7, dtype=torch.bool)
    patch_mask[0, :, 5:] = False
    patch_mask[1, 3:] = False
    sub_caption_mask = torch.ones(3, 4, dtype=torch.bool)
    sub_caption_mask[2, 3] = False
    clean = replace(batch, patch_mask=patch_mask.flatten(1), sub_caption_mask=sub_caption_mask)
    dirty = replace(
        clean,
        patches=batch.patches.masked_fill(~patch_mask.flatten(1).unsqueeze(-1), float("nan")),
        caption_ids=batch.caption_ids.masked_fill(~batch.caption_mask, 11),
        sub_caption_ids=batch.sub_caption_ids.masked_fill(
            ~(batch.sub_caption_token_mask & sub_caption_mask.unsqueeze(-1)), 13
        ),
    )
    index = published_candidates(sub_caption_mask, torch.Generator().manual_seed(1))
    a, b = model(clean), model(dirty)
    real_keys = a.patch_mask.unsqueeze(-1)
    assert torch.equal(a.slide, b.slide)
    assert torch.equal(a.caption, b.caption)
    assert torch.equal(a.patches * real_keys, b.patches * real_keys)
    for name, loss in model.losses(a, clean, index).items():
        assert torch.equal(loss, model.losses(b, dirty, index)[name]), name
    by_regions = clean.patches.view(*patch_mask.shape, -1)
    whole = encode(model, by_regions[1:2, :3], patch_mask[1:2, :3])
    assert_close(a.slide[1:2], whole.slide, 1e-5, "slide without its padded regions")
    fewer = encode(model, by_regions[0:1, :, :5], patch_mask[0:1, :, :5])
    assert_close(a.patches[0:1], fewer.patches, 1e-5, "regions without their padded patches")


def test_padding_never_reaches_gradients(model: PublishedPathFLIP, batch: AlignBatch) -> None:
    patch_mask = torch.ones(3, 5, 7, dtype=torch.bool)
    patch_mask[0, 2:] = False
    patches = batch.patches.masked_fill(~patch_mask.flatten(1).unsqueeze(-1), float("nan"))
    holes = replace(batch, patches=patches, patch_mask=patch_mask.flatten(1))
    model.zero_grad()
    sum(model.losses(model(holes), holes, EXPECTED["caption_indices"]).values()).backward()  # type: ignore[union-attr]
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


@pytest.mark.parametrize("checkpointed", [False, True])
def test_training_with_dropout_is_seeded(batch: AlignBatch, checkpointed: bool) -> None:
    """Same seed, same gradients; recomputing layers gives what keeping them gives."""
    results = []
    for checkpoint_layers in (checkpointed, False):
        model = load(checkpoint_layers=checkpoint_layers).train()
        torch.manual_seed(5)
        sum(model.losses(model(batch), batch, EXPECTED["caption_indices"]).values()).backward()  # type: ignore[union-attr]
        results.append(model.query_tokens.grad)
    assert_close(results[0], results[1], 1e-6)


# ------------------------------------------------------------------------------------------ names


def test_names_go_both_ways(model: PublishedPathFLIP) -> None:
    released = to_published(model, "published")
    assert set(released) <= set(WEIGHTS)
    assert all(torch.equal(value, WEIGHTS[key]) for key, value in released.items())
    prefixed = {f"model.{key}": value for key, value in released_weights().items()}
    assert set(from_published(prefixed, model, "published")) == set(model.state_dict())


def test_foreign_names_are_named(model: PublishedPathFLIP) -> None:
    weights = released_weights()
    weights["surprise.weight"] = weights.pop("text_proj.weight")
    with pytest.raises(CheckpointError, match=r"missing text_proj\.weight; unknown surprise\.weight"):
        from_published(weights, model, "published")
    weights = released_weights() | {"text_proj.weight": torch.zeros(3, 3)}
    with pytest.raises(CheckpointError, match=r"text_proj\.weight \(3, 3\) \(expected \(32, 64\)\)"):
        from_published(weights, model, "published")
