# ruff: noqa: C408 (arguments read as arguments)
"""Our networks against timm's own, built with the arguments the model cards give, on random weights.

Skipped where timm is not installed: it needs torchvision, which has no build for the CPU build of torch.
Two blocks deep by default; ``PATHFLIP_FULL_DEPTH=1`` runs every encoder at its real depth (20 GB of memory).
"""

import os
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch

from encoder_files import randomise, save
from pathflip.features import FOUNDATION, load_encoder

timm = pytest.importorskip("timm", reason="timm is not installed: pip install 'pathflip[encoders]'")

FULL = os.environ.get("PATHFLIP_FULL_DEPTH") == "1"


def arguments(name):
    """timm.create_model's arguments, as the model cards (or TRIDENT, for checkpoints without a config) give them."""
    gated = {"mlp_layer": timm.layers.SwiGLUPacked, "act_layer": torch.nn.SiLU}
    virchow = dict(init_values=1e-5, mlp_ratio=5.3375, global_pool="", img_size=224, dynamic_img_size=True, **gated)
    optimus = dict(img_size=224, init_values=1e-5, dynamic_img_size=False, global_pool="token")
    mini = dict(img_size=224, patch_size=14, init_values=1e-5, reg_tokens=4, no_embed_class=True, global_pool="")
    small = dict(dynamic_img_size=True, img_size=224)
    return {
        "uni_v1": ("vit_large_patch16_224", dict(init_values=1e-5, dynamic_img_size=True, img_size=224)),
        "uni2_h": (
            "vit_giant_patch14_224",
            dict(img_size=224, patch_size=14, depth=24, num_heads=24, init_values=1e-5, embed_dim=1536,
                 mlp_ratio=2.66667 * 2, no_embed_class=True, reg_tokens=8, dynamic_img_size=True, **gated),
        ),
        "virchow": ("vit_huge_patch14_224", virchow),
        "virchow2": ("vit_huge_patch14_224", {**virchow, "reg_tokens": 4}),
        "virchow2_cls": ("vit_huge_patch14_224", {**virchow, "reg_tokens": 4}),
        "prov_gigapath": (
            "vit_giant_patch14_dinov2",
            dict(img_size=224, patch_size=16, embed_dim=1536, depth=40, num_heads=24, mlp_ratio=5.33334),
        ),
        "h_optimus_0": ("vit_giant_patch14_reg4_dinov2", optimus),
        "h_optimus_1": ("vit_giant_patch14_reg4_dinov2", optimus),
        "h0_mini": ("vit_base_patch16_224", {**mini, "mlp_ratio": 5.33334, **gated}),
        "h0_mini_cls": ("vit_base_patch16_224", {**mini, "mlp_ratio": 5.33334, **gated}),
        "kaiko_vits8": ("vit_small_patch8_224", small),
        "kaiko_vits16": ("vit_small_patch16_224", small),
        "kaiko_vitb8": ("vit_base_patch8_224", small),
        "kaiko_vitb16": ("vit_base_patch16_224", small),
        "kaiko_vitl14": ("vit_large_patch14_reg4_dinov2", dict(img_size=518, dynamic_img_size=True)),
        "lunit_vits8": ("vit_small_patch8_224", {}),
        "lunit_vits16": ("vit_small_patch16_224", {}),
    }[name]  # fmt: skip


VITS = [name for name, row in FOUNDATION.items() if row.layout == "timm_vit"]


def pooled(model, row, x):
    """The model card's pooling of timm's own output."""
    tokens = model.forward_features(x)
    if row.pooling == "cls":
        return tokens[:, 0]
    return torch.cat([tokens[:, 0], tokens[:, model.num_prefix_tokens :].mean(1)], dim=-1)


@pytest.fixture
def at_depth(monkeypatch):
    """Patch a row of the table to a depth that a test can afford; returns timm's arguments for it."""

    def patch(name):
        row = FOUNDATION[name]
        if FULL:
            return row, {}
        row = replace(row, vit=replace(row.vit, depth=2))
        monkeypatch.setitem(FOUNDATION, name, row)
        return row, {"depth": 2}

    return patch


@pytest.mark.parametrize("name", VITS)
def test_vision_transformer_equals_timms(name, at_depth, tmp_path, rng):
    row, shallow = at_depth(name)
    architecture, settings = arguments(name)
    model = randomise(timm.create_model(architecture, num_classes=0, **{**settings, **shallow}))
    save(tmp_path / name, model.state_dict())
    encoder = load_encoder(f"{name}={tmp_path / name}", "cpu")
    tiles = rng.integers(0, 256, (2, 224, 224, 3), dtype=np.uint8)
    if row.resize_px != 224:
        tiles = rng.integers(0, 256, (2, row.resize_px, row.resize_px, 3), dtype=np.uint8)
    cut = (row.resize_px - row.input_px) // 2
    seen = tiles[:, cut : cut + row.input_px, cut : cut + row.input_px].transpose(0, 3, 1, 2) / 255
    mean, std = (np.reshape(values, (3, 1, 1)) for values in row.normalisation)
    with torch.inference_mode():
        want = pooled(model, row, torch.tensor((seen - mean) / std, dtype=torch.float32)).numpy()
    got = encoder.encode(tiles)
    assert got.shape == (2, row.dim)
    assert np.abs(want).std() > 1e-3
    np.testing.assert_allclose(got, want, atol=2e-4 * np.abs(want).max())


def test_ctranspath_equals_timms_swin_behind_its_stem(tmp_path, rng):
    from timm.models.swin_transformer import SwinTransformer
    from torch import nn

    class Stem(nn.Module):
        """Three convolutions instead of one, giving timm's channels-last grid."""

        def __init__(self, img_size, norm_layer, **_):
            super().__init__()
            self.grid_size, self.img_size, self.patch_size = (56, 56), (img_size, img_size), (4, 4)
            self.proj = nn.Sequential(
                nn.Conv2d(3, 12, 3, 2, 1, bias=False), nn.BatchNorm2d(12), nn.ReLU(),
                nn.Conv2d(12, 24, 3, 2, 1, bias=False), nn.BatchNorm2d(24), nn.ReLU(), nn.Conv2d(24, 96, 1),
            )  # fmt: skip
            self.norm = norm_layer(96)

        def forward(self, x):
            return self.norm(self.proj(x).permute(0, 2, 3, 1))

    model = randomise(SwinTransformer(num_classes=0, embed_layer=Stem))
    state = {}
    for key, value in model.state_dict().items():
        # timm 0.5, with which it was published, had the merging of patches at the end of a stage, not the beginning.
        parts = key.split(".")
        if parts[0] == "layers" and parts[2] == "downsample":
            key = ".".join(["layers", str(int(parts[1]) - 1), *parts[2:]])
        state[key] = value
    save(tmp_path, {"model": state}, "ctranspath.pth")
    tiles = rng.integers(0, 256, (2, 224, 224, 3), dtype=np.uint8)
    row = FOUNDATION["ctranspath"]
    mean, std = (np.reshape(values, (3, 1, 1)) for values in row.normalisation)
    with torch.inference_mode():
        want = model(torch.tensor((tiles.transpose(0, 3, 1, 2) / 255 - mean) / std, dtype=torch.float32)).numpy()
    got = load_encoder(f"ctranspath={tmp_path}", "cpu").encode(tiles)
    np.testing.assert_allclose(got, want, atol=2e-4 * np.abs(want).max())


def test_resnet50_equals_timms_third_stage(tmp_path, rng):
    model = randomise(timm.create_model("resnet50", pretrained=False))
    save(tmp_path, model.state_dict())
    tiles = rng.integers(0, 256, (2, 224, 224, 3), dtype=np.uint8)
    row = FOUNDATION["resnet50"]
    mean, std = (np.reshape(values, (3, 1, 1)) for values in row.normalisation)
    x = torch.tensor((tiles.transpose(0, 3, 1, 2) / 255 - mean) / std, dtype=torch.float32)
    with torch.inference_mode():
        x = model.maxpool(model.act1(model.bn1(model.conv1(x))))
        want = model.layer3(model.layer2(model.layer1(x))).mean((2, 3)).numpy()
    got = load_encoder(f"resnet50={tmp_path}", "cpu").encode(tiles)
    np.testing.assert_allclose(got, want, atol=2e-4 * np.abs(want).max())


def test_keep_equals_timms_trunk_and_its_head(tmp_path, rng, monkeypatch):
    row = FOUNDATION["keep"]
    depth = row.vit.depth if FULL else 2
    monkeypatch.setitem(FOUNDATION, "keep", replace(row, vit=replace(row.vit, depth=depth)))
    trunk = timm.create_model("vit_large_patch16_224", init_values=1e-5, num_classes=0, depth=depth)
    head = torch.nn.Sequential(torch.nn.Linear(1024, 768), torch.nn.GELU(), torch.nn.Linear(768, 768))
    randomise(trunk), randomise(head, 1)
    state = {f"visual.{key}": value for key, value in trunk.state_dict().items()}
    state = {key.replace(".gamma", ".weight"): value for key, value in state.items()}
    state |= {f"visual_head.{key}": value for key, value in head.state_dict().items()}
    state |= {"text.embeddings.word_embeddings.weight": torch.zeros(2, 2), "logit_scale": torch.zeros(())}
    save(tmp_path, state)
    tiles = rng.integers(0, 256, (2, 224, 224, 3), dtype=np.uint8)
    mean, std = (np.reshape(values, (3, 1, 1)) for values in row.normalisation)
    with torch.inference_mode():
        want = head(trunk(torch.tensor((tiles.transpose(0, 3, 1, 2) / 255 - mean) / std, dtype=torch.float32)))
        want = (want / want.norm(dim=1, keepdim=True)).numpy()
    got = load_encoder(f"keep={tmp_path}", "cpu").encode(tiles)
    np.testing.assert_allclose(got, want, atol=1e-5)


@pytest.mark.parametrize("name", ["resnet18.a1_in1k", "vit_tiny_patch16_224", "convnext_atto"])
def test_any_timm_name_equals_timm_and_its_transform(name, tmp_path, rng):
    from PIL import Image

    model = randomise(timm.create_model(name, pretrained=False))
    save(tmp_path, model.state_dict())
    tile = rng.integers(0, 256, (1, 256, 256, 3), dtype=np.uint8)
    tile = np.asarray(Image.fromarray(tile[0]).resize((64, 64)).resize((256, 256)))[None]
    settings = timm.data.resolve_data_config({}, model=model)
    transform = partial(timm.data.create_transform(**settings))
    model.reset_classifier(0)
    with torch.inference_mode():
        want = model(transform(Image.fromarray(tile[0]))[None]).numpy()
    got = load_encoder(f"timm:{name}={tmp_path}", "cpu").encode(tile)
    np.testing.assert_allclose(got, want, atol=0.02 * np.abs(want).max())
