"""The repaired published model: each repair does what it says, and none touches the model as published."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor, nn

from parity import assert_close
from pathflip import losses
from pathflip.checkpoint import InputContract, load_checkpoint, save_checkpoint
from pathflip.published.import_export import export_released
from pathflip.published.qformer_model import REPAIRED, PublishedConfig, PublishedPathFLIP
from pathflip.types import AlignBatch, SlideCode, TextCode

SIZES: dict[str, Any] = {
    "feature_dim": 8,
    "vocab_size": 60,
    "embed_dim": 16,
    "width": 32,
    "num_layers": 2,
    "num_heads": 4,
    "ffn_width": 64,
    "num_queries": 3,
}


def build(**settings: Any) -> PublishedPathFLIP:
    torch.manual_seed(0)
    return PublishedPathFLIP(PublishedConfig(**SIZES, **settings)).eval()


def slides(side: int = 2) -> tuple[Tensor, Tensor, Tensor]:
    """Two slides of twelve patches in regions of ``side`` patches; the second has one patch fewer."""
    patches = torch.randn(2, 12, 8, generator=torch.Generator().manual_seed(1))
    mask = torch.ones(2, 12, dtype=torch.bool)
    mask[1, 11] = False
    regions = torch.arange(12).view(-1, side).expand(2, -1, -1).contiguous()
    regions[1, -1, -1] = -1
    return patches, mask, regions


def texts(count: int = 6) -> tuple[Tensor, Tensor]:
    ids = torch.randint(5, 60, (count, 9), generator=torch.Generator().manual_seed(2))
    ids[:, 0] = 2
    return ids, torch.arange(9) < torch.tensor([9, 7, 5, 9, 3, 8])[:count].unsqueeze(1)


def mean_cosine(rows: Tensor) -> float:
    rows = F.normalize(rows, dim=-1)
    count = len(rows)
    return float(((rows @ rows.T).sum() - count) / (count * (count - 1)))


def test_a_narrow_text_path_tells_texts_apart_from_the_start_only_when_repaired() -> None:
    with torch.no_grad():
        published, scaled, repaired = (
            mean_cosine(build(**settings).embed_texts([texts()])[0])
            for settings in ({}, {"init": "by_width"}, {"init": "by_width", "text_pooling": "mean"})
        )
    assert published > 0.999
    assert repaired < scaled < published
    assert repaired < 0.8


def test_weights_are_scaled_to_their_layers_inputs() -> None:
    plain, scaled = build(), build(init="by_width")
    for name, weight in scaled.qformer.named_parameters():
        own = dict(plain.qformer.named_parameters())[name]
        is_linear = name.endswith("weight") and "norm" not in name and "embeddings" not in name
        torch.testing.assert_close(weight, own * (768 / own.shape[1]) ** 0.5 if is_linear else own)


def test_the_mean_of_tokens_counts_no_padding() -> None:
    model, (ids, mask) = build(text_pooling="mean"), texts()
    other = torch.where(mask, ids, 7)
    with torch.no_grad():
        assert_close(model.embed_texts([(ids, mask)])[0], model.embed_texts([(other, mask)])[0], 1e-6)


def test_patch_keys_are_projected_patches_as_the_mixing_leaves_them() -> None:
    model, (patches, mask, regions) = build(region_keys="patches"), slides(side=1)
    code = model.encode_slides(patches, mask, regions)
    assert code.patch_mask.equal(mask)
    x = model.patch_proj(patches[:1])
    slide = model.slide_proj(model.qformer(model.query_tokens, x.unsqueeze(1), None, slide=False).mean(2))
    mixed = model.mixing(torch.cat([slide, x], dim=1))
    assert_close(code.slide[:1].detach(), mixed[:, 0].detach(), 1e-5)
    assert_close(code.patches[:1].detach(), mixed[:, 1:].detach(), 1e-5)


def test_a_regions_key_is_the_mean_of_its_real_patches() -> None:
    model, (patches, mask, regions) = build(region_keys="patches"), slides()
    seen: list[Tensor] = []
    model.mixing.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].detach()))
    model.encode_slides(patches, mask, regions)
    x = model.patch_proj(patches).detach()
    assert_close(seen[0][0, 3], (x[0, 4] + x[0, 5]) / 2, 1e-6)
    assert_close(seen[0][1, 6], x[1, 10], 1e-6)


@pytest.mark.parametrize("head", ["projected", "normed"])
def test_similarity_heat_is_what_a_text_finds_in_one_region_alone(head: str) -> None:
    model, (patches, mask, regions) = build(heat="similarity", region_head=head), slides()
    code = model.encode_slides(patches, mask, regions)
    embedded = torch.randn(4, 16, generator=torch.Generator().manual_seed(3))
    words = TextCode(("a", "b", "c", "d"), embedded, embedded, torch.zeros(4, dtype=torch.bool))
    heat = model.patch_similarity(code, words)
    for region in range(5):
        alone = SlideCode(code.slide, code.patches, torch.arange(6).expand(2, -1) == region)
        attended = model.region_head(words.local, alone.patches, alone.patch_mask)
        expected = F.cosine_similarity(attended, words.local, dim=-1)
        assert_close(heat[..., region].detach(), expected.detach(), 1e-5)


def test_features_are_standardised_where_asked() -> None:
    model, (patches, mask, regions) = build(standardize=True), slides()
    shift, spread = torch.arange(8.0), torch.linspace(0.5, 4, 8)
    model.set_feature_statistics(shift, spread)
    plain = build()
    assert {"feature_mean", "feature_std"} == set(model.state_dict()) - set(plain.state_dict())
    with torch.no_grad():
        ours = model.encode_slides(patches * spread + shift, mask, regions)
        same = plain.encode_slides(patches, mask, regions)
    assert_close(ours.slide, same.slide, 1e-4)
    assert_close(ours.patches, same.patches, 1e-4)


def batch() -> AlignBatch:
    patches, mask, regions = slides(side=1)
    ids, real = texts(4)
    keys = torch.tensor([[11, 12], [13, 14]])
    return AlignBatch(
        slide_ids=("a", "b"),
        patches=patches,
        patch_mask=mask,
        context=None,
        position=None,
        regions=regions,
        caption_ids=ids[:2],
        caption_mask=real[:2],
        caption_keys=keys,
        sub_caption_ids=ids.view(2, 2, -1),
        sub_caption_token_mask=real.view(2, 2, -1),
        sub_caption_mask=torch.ones(2, 2, dtype=torch.bool),
        sub_caption_keys=keys,
        sub_caption_negated=torch.zeros(2, 2, dtype=torch.bool),
        sub_caption_false=torch.zeros(2, 2, dtype=torch.bool),
    )


def test_the_temperature_is_learned_from_the_published_one_on() -> None:
    model, published = build(**REPAIRED), build(**{**REPAIRED, "learned_temperature": False})
    published.load_state_dict({k: v for k, v in model.state_dict().items() if k != "slide_logit_scale"})
    together = batch()
    ours, theirs = (one.losses(one(together), together) for one in (model, published))
    torch.testing.assert_close(ours["slide"], theirs["slide"])
    output = model(together)
    torch.testing.assert_close(ours["slide"], losses.info_nce(output.slide, output.caption, 10.0, 0.1))
    sum(ours.values()).backward()  # type: ignore[union-attr]
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
    assert model.slide_logit_scale is not None
    assert model.slide_logit_scale.grad.abs() > 0  # type: ignore[union-attr]


def test_export_leaves_out_what_the_released_code_has_not_and_says_what_differs(tmp_path: Any) -> None:
    contract = InputContract(encoder="e", dim=8, mpp=0.5, tile_px=256, stride_px=256)
    save_checkpoint(tmp_path / "model", build(**REPAIRED), contract=contract, recipe={})
    exported = export_released(tmp_path / "model", tmp_path / "out.safetensors")
    notes = " ".join(exported.notes)
    for name in ("text_pooling", "standardize", "region_keys", "heat"):
        assert f"the model has {name}=" in notes
    save_checkpoint(tmp_path / "plain", build(bias=0.0), contract=contract, recipe={})
    plain = export_released(tmp_path / "plain", tmp_path / "plain.safetensors")
    assert not any("the model has" in note for note in plain.notes)
    assert set(load_file(tmp_path / "out.safetensors")) == set(load_file(tmp_path / "plain.safetensors"))


def test_a_repaired_model_comes_back_from_its_checkpoint(tmp_path: Any) -> None:
    model = build(**REPAIRED)
    model.set_feature_statistics(torch.arange(8.0), torch.full((8,), 2.0))
    contract = InputContract(encoder="e", dim=8, mpp=0.5, tile_px=256, stride_px=256)
    save_checkpoint(tmp_path / "model", model, contract=contract, recipe={})
    again: nn.Module = load_checkpoint(tmp_path / "model").model
    for name, value in model.state_dict().items():
        torch.testing.assert_close(again.state_dict()[name], value, rtol=0, atol=0)
