"""The table of foundation encoders, and every published layout loaded with random weights against another library."""

import json
import re
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from encoder_files import hf_vit_as_timm, published, randomise, save, swin_as_timm
from pathflip.errors import ConfigError
from pathflip.features import FOUNDATION, contract_warning, encoder_table, load_encoder
from pathflip.features.foundation import ViTShape
from pathflip.geometry import TileSpec


def normalised(row, tiles):
    """A tile's pixels as the row says, by numpy: float32 (n, 3, px, px)."""
    mean, std = (np.reshape(values, (3, 1, 1)) for values in row.normalisation)
    return torch.tensor((tiles.transpose(0, 3, 1, 2) / 255 - mean) / std, dtype=torch.float32)


def tiles_for(row, rng, count=2):
    return rng.integers(0, 256, (count, row.input_px, row.input_px, 3), dtype=np.uint8)


@pytest.fixture
def small(monkeypatch):
    """Shrink a row of the table (tests only): its transformer, its width, the side it sees."""

    def patch(name, *, vit=None, dim, px):
        row = replace(FOUNDATION[name], dim=dim, resize_px=px, input_px=px)
        row = replace(row, vit=ViTShape(**vit) if vit else row.vit)
        monkeypatch.setitem(FOUNDATION, name, row)
        return row

    return patch


@pytest.fixture(autouse=True)
def no_cache(monkeypatch, tmp_path):
    """Nobody's real models: an empty Hugging Face cache, no PATHFLIP_MODELS."""
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.delenv("PATHFLIP_MODELS", raising=False)


def tiny_vit(**settings):
    from transformers import ViTConfig, ViTModel

    config = ViTConfig(
        hidden_size=24,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=40,
        layer_norm_eps=1e-6,
        **settings,
    )
    return randomise(ViTModel(config, add_pooling_layer=False))


TINY = {"width": 24, "depth": 2, "heads": 2, "patch": 8}


# --- the table ---


def test_the_table_holds_together():
    for name, row in FOUNDATION.items():
        assert row.name == name
        assert row.input_px <= row.resize_px
        if row.tile_px is not None:
            assert row.tile_px >= row.input_px
        if row.layout == "timm_vit":
            assert row.dim == row.vit.width * (2 if row.pooling == "cls+mean" else 1)
            assert row.input_px % row.vit.patch == 0
        assert row.repository is None or re.fullmatch(r"[\w.-]+/[\w.-]+", row.repository)


def test_contract_warning_names_what_is_right():
    row = FOUNDATION["virchow"]
    assert contract_warning(row, TileSpec(224, 0.5)) is None
    assert contract_warning(row, TileSpec(224, 0.51)) is None
    assert re.search(r"256 px.*224 px \(--tile-px 224\)", contract_warning(row, TileSpec(256, 0.5)))
    assert re.search(r"cut at 0.25 mpp.*0.5 mpp \(--mpp 0.5\)", contract_warning(row, TileSpec(224, 0.25)))
    assert contract_warning(FOUNDATION["virchow2"], TileSpec(224, 2.0)) is None
    assert contract_warning(FOUNDATION["plip"], TileSpec(100, 7.0)) is None


def test_the_table_as_rows_says_what_is_here(tmp_path, monkeypatch):
    save(tmp_path / "models" / "UNI", {"x": torch.zeros(1)}, "pytorch_model.bin")
    monkeypatch.setenv("PATHFLIP_MODELS", str(tmp_path / "models"))
    monkeypatch.setattr("pathflip.io.packaged_weights.find_spec", lambda name: None)
    rows = {row["name"]: row for row in json.loads(json.dumps(encoder_table()))}
    assert set(rows) == {
        "stain_texture",
        "colour_histogram",
        "random_resnet18",
        *FOUNDATION,
        "efficientnet_lite0+stain_texture",
    }
    assert [name for name, row in rows.items() if row["here"] and name in FOUNDATION] == ["uni_v1"]
    assert (rows["uni2_h"]["dim"], rows["uni2_h"]["gated"]) == (1536, True)


def test_the_verb_prints_the_table():
    from typer.testing import CliRunner

    from pathflip.cli.app import app

    lines = CliRunner().invoke(app, ["encoders", "--json"]).stdout.splitlines()
    assert [json.loads(line) for line in lines] == encoder_table()
    text = CliRunner().invoke(app, ["encoders"]).stdout
    assert re.search(r"virchow +absent +2560 wide  224 px at 0.5 mpp; Apache-2.0, gated; paige-ai/Virchow\n", text)


# --- vision transformers in timm's layout, against Hugging Face's ---


def test_plain_transformer_equals_transformers(tmp_path, small, rng):
    model = tiny_vit(image_size=32, patch_size=8)
    row = small("kaiko_vits8", vit=TINY, dim=24, px=32)
    save(tmp_path, hf_vit_as_timm(model))
    tiles = tiles_for(row, rng)
    with torch.inference_mode():
        want = model(pixel_values=normalised(row, tiles)).last_hidden_state[:, 0].numpy()
    np.testing.assert_allclose(load_encoder(f"kaiko_vits8={tmp_path}", "cpu").encode(tiles), want, atol=1e-5)


def test_class_and_mean_leave_registers_out(tmp_path, small, rng):
    from transformers import Dinov2WithRegistersConfig, Dinov2WithRegistersModel

    config = Dinov2WithRegistersConfig(
        hidden_size=24, num_hidden_layers=2, num_attention_heads=2, use_swiglu_ffn=True, num_register_tokens=3,
        image_size=56, patch_size=14,
    )  # fmt: skip
    model = randomise(Dinov2WithRegistersModel(config))
    row = small("virchow2", vit={**TINY, "patch": 14, "registers": 3}, dim=48, px=56)
    state = hf_vit_as_timm(model)
    # In this layout positions cover registers too; theirs are added, ours are part of the token.
    state["pos_embed"] = torch.cat([state["pos_embed"][:, :1], torch.zeros(1, 3, 24), state["pos_embed"][:, 1:]], dim=1)
    save(tmp_path, state)
    tiles = tiles_for(row, rng)
    with torch.inference_mode():
        tokens = model(pixel_values=normalised(row, tiles)).last_hidden_state.numpy()
    want = [np.concatenate([t[0], np.mean([t[i] for i in range(4, len(t))], axis=0)]) for t in tokens]
    np.testing.assert_allclose(load_encoder(f"virchow2={tmp_path}", "cpu").encode(tiles), want, atol=1e-5)


def test_positions_stretch_as_dino_stretches_them(tmp_path, small, rng):
    """CONCH v1.5's trunk, seen through a pooling that lets one patch through: offset 0.1, no anti-aliasing."""
    from pathflip.features.vit import VisionTransformer

    state = hf_vit_as_timm(tiny_vit(image_size=32, patch_size=8))
    trunk = VisionTransformer(ViTShape(**TINY, resample="dino"), state)
    trunk.load_state_dict(state)
    _, got = trunk._positions(8, 8)
    grid = state["pos_embed"][0, 1:].reshape(4, 4, 24).permute(2, 0, 1)[None]
    want = F.interpolate(grid, scale_factor=(8.1 / 4, 8.1 / 4), mode="bicubic")[0].permute(1, 2, 0).reshape(64, 24)
    torch.testing.assert_close(got[0], want)
    assert not torch.allclose(got, VisionTransformer(ViTShape(**TINY), state)._positions(8, 8)[1])


@pytest.mark.parametrize(("name", "width", "heads"), [("hibou_b", 768, 12), ("hibou_l", 1024, 16)])
def test_hibou_equals_transformers_dinov2_with_registers(name, width, heads, tmp_path, small, rng):
    """At its real width and input, two blocks deep."""
    from transformers import Dinov2WithRegistersConfig, Dinov2WithRegistersModel

    config = Dinov2WithRegistersConfig(
        hidden_size=width, num_hidden_layers=2, num_attention_heads=heads, image_size=224, patch_size=14,
        use_swiglu_ffn=True,
    )  # fmt: skip
    model = randomise(Dinov2WithRegistersModel(config))
    shape = {"width": width, "depth": 2, "heads": heads, "patch": 14, "registers": 4}
    assert FOUNDATION[name].vit == replace(ViTShape(**shape), depth=FOUNDATION[name].vit.depth)
    row = small(name, vit=shape, dim=width, px=224)
    save(tmp_path, published(model))
    tiles = tiles_for(row, rng, 1)
    with torch.inference_mode():
        want = model(pixel_values=normalised(row, tiles)).pooler_output.numpy()
    got = load_encoder(f"{name}={tmp_path}", "cpu").encode(tiles)
    np.testing.assert_allclose(got, want, atol=1e-4 * np.abs(want).max())


# --- published layouts with something on top ---


def naive_attention(q, k, v, heads):
    """One query at a time, one head at a time, a plain softmax."""
    out = torch.zeros(q.shape[0], v.shape[1])
    size = q.shape[1] // heads
    for h in range(heads):
        part = slice(h * size, (h + 1) * size)
        for i in range(len(q)):
            weights = torch.exp(k[:, part] @ q[i, part] / size**0.5)
            out[i, part] = (weights / weights.sum()) @ v[:, part]
    return out


def test_conch_pools_by_one_attending_query(tmp_path, small, rng):
    model = tiny_vit(image_size=32, patch_size=8)
    row = small("conch_v1", vit=TINY, dim=16, px=32)
    g = torch.Generator().manual_seed(1)
    shapes = {
        "query": (1, 16), "ln_q.weight": (16,), "ln_q.bias": (16,), "ln_k.weight": (24,), "ln_k.bias": (24,),
        "attn.q_proj_weight": (16, 16), "attn.k_proj_weight": (16, 24), "attn.v_proj_weight": (16, 24),
        "attn.in_proj_bias": (48,), "attn.out_proj.weight": (16, 16), "attn.out_proj.bias": (16,),
    }  # fmt: skip
    pool = {key: torch.randn(shape, generator=g) * 0.3 for key, shape in shapes.items()}
    norm = {"weight": torch.rand(16, generator=g), "bias": torch.rand(16, generator=g)}
    state = {f"visual.trunk.{key}": value for key, value in hf_vit_as_timm(model).items()}
    state |= {f"visual.attn_pool_contrast.{key}": value for key, value in pool.items()}
    state |= {f"visual.ln_contrast.{key}": value for key, value in norm.items()}
    state |= {"visual.proj_contrast": torch.zeros(16, 16), "visual.attn_pool_caption.query": torch.zeros(3, 8)}
    state |= {"text.cls_emb": torch.zeros(3), "logit_scale": torch.zeros(())}
    save(tmp_path, state, "pytorch_model.bin")
    tiles = tiles_for(row, rng)
    with torch.inference_mode():
        tokens = model(pixel_values=normalised(row, tiles)).last_hidden_state
    want = []
    for each in tokens:
        keys = F.layer_norm(each, (24,), pool["ln_k.weight"], pool["ln_k.bias"])
        query = F.layer_norm(pool["query"], (16,), pool["ln_q.weight"], pool["ln_q.bias"])
        bq, bk, bv = pool["attn.in_proj_bias"].chunk(3)
        q, k = query @ pool["attn.q_proj_weight"].T + bq, keys @ pool["attn.k_proj_weight"].T + bk
        mixed = naive_attention(q, k, keys @ pool["attn.v_proj_weight"].T + bv, 8)
        out = mixed @ pool["attn.out_proj.weight"].T + pool["attn.out_proj.bias"]
        want.append(F.layer_norm(out[0], (16,), norm["weight"], norm["bias"]).numpy())
    np.testing.assert_allclose(load_encoder(f"conch_v1={tmp_path}", "cpu").encode(tiles), want, atol=1e-5)


def test_conch_v1_5_pools_by_one_attending_query(tmp_path, small, rng):
    model = tiny_vit(image_size=32, patch_size=8)
    row = small("conch_v1_5", vit={**TINY, "resample": "dino"}, dim=16, px=32)
    g = torch.Generator().manual_seed(2)
    shapes = {"query": (1, 16), "ln_q.weight": (16,), "ln_q.bias": (16,), "ln_k.weight": (24,), "ln_k.bias": (24,),
              "to_q.weight": (16, 16), "to_kv.weight": (32, 24), "to_out.weight": (16, 16)}  # fmt: skip
    pool = {key: torch.randn(shape, generator=g) * 0.3 for key, shape in shapes.items()}
    norm = {"weight": torch.rand(16, generator=g), "bias": torch.rand(16, generator=g)}
    state = {f"trunk.{key}": value for key, value in hf_vit_as_timm(model).items()}
    state |= {f"trunk.blocks.{i}.ls{j}.gamma": torch.ones(24) for i in range(2) for j in (1, 2)}
    state |= {f"attn_pool_contrast.{key}": value for key, value in pool.items()}
    state |= {f"ln_contrast.{key}": value for key, value in norm.items()}
    save(tmp_path, state, "pytorch_model_vision.bin")
    tiles = tiles_for(row, rng)
    with torch.inference_mode():
        tokens = model(pixel_values=normalised(row, tiles)).last_hidden_state
    want = []
    for each in tokens:
        keys = F.layer_norm(each, (24,), pool["ln_k.weight"], pool["ln_k.bias"]) @ pool["to_kv.weight"].T
        query = F.layer_norm(pool["query"], (16,), pool["ln_q.weight"], pool["ln_q.bias"]) @ pool["to_q.weight"].T
        out = naive_attention(query, keys[:, :16], keys[:, 16:], 8) @ pool["to_out.weight"].T
        want.append(F.layer_norm(out[0], (16,), norm["weight"], norm["bias"]).numpy())
    np.testing.assert_allclose(load_encoder(f"conch_v1_5={tmp_path}", "cpu").encode(tiles), want, atol=1e-5)


def test_keep_puts_its_head_on_the_class_token(tmp_path, small, rng):
    model = tiny_vit(image_size=32, patch_size=8)
    row = small("keep", vit=TINY, dim=16, px=32)
    head = randomise(torch.nn.Sequential(torch.nn.Linear(24, 16), torch.nn.GELU(), torch.nn.Linear(16, 16)))
    state = {f"visual.{key}": value for key, value in hf_vit_as_timm(model).items()}
    state |= {f"visual.blocks.{i}.ls{j}.weight": torch.ones(24) for i in range(2) for j in (1, 2)}
    state |= {f"visual_head.{key}": value for key, value in head.state_dict().items()}
    state |= {"text.pooler.dense.weight": torch.zeros(2, 2), "logit_scale": torch.zeros(())}
    save(tmp_path, state)
    tiles = tiles_for(row, rng)
    with torch.inference_mode():
        want = head(model(pixel_values=normalised(row, tiles)).last_hidden_state[:, 0])
    want = (want / want.norm(dim=1, keepdim=True)).numpy()
    np.testing.assert_allclose(load_encoder(f"keep={tmp_path}", "cpu").encode(tiles), want, atol=1e-5)


def test_ctranspath_at_its_real_size(tmp_path, rng):
    from transformers import SwinConfig, SwinModel

    model = randomise(SwinModel(SwinConfig()))
    stem = randomise(torch.nn.Sequential(
        torch.nn.Conv2d(3, 12, 3, 2, 1, bias=False), torch.nn.BatchNorm2d(12), torch.nn.ReLU(),
        torch.nn.Conv2d(12, 24, 3, 2, 1, bias=False), torch.nn.BatchNorm2d(24), torch.nn.ReLU(),
        torch.nn.Conv2d(24, 96, 1),
    ), 1)  # fmt: skip
    state = swin_as_timm(published(model)) | {f"patch_embed.proj.{k}": v for k, v in stem.state_dict().items()}
    state |= {
        "layers.0.blocks.1.attn_mask": torch.zeros(1),
        "layers.0.blocks.0.attn.relative_position_index": torch.zeros(1),
    }
    save(tmp_path, {"model": state}, "ctranspath.pth")
    row = FOUNDATION["ctranspath"]
    tiles = tiles_for(row, rng, 1)
    model.embeddings.patch_embeddings.projection = stem
    with torch.inference_mode():
        want = model(pixel_values=normalised(row, tiles)).pooler_output.numpy()
    np.testing.assert_allclose(load_encoder(f"ctranspath={tmp_path}", "cpu").encode(tiles), want, atol=1e-4)


def test_resnet50_is_cut_after_its_third_stage(tmp_path, rng):
    from transformers import ResNetConfig, ResNetModel

    model = randomise(ResNetModel(ResNetConfig()))
    new = {}
    for key, value in published(model).items():
        key = re.sub(r"^embedder\.embedder\.convolution", "conv1", key)
        key = re.sub(r"^embedder\.embedder\.normalization", "bn1", key)
        key = re.sub(r"encoder\.stages\.(\d)", lambda m: f"layer{int(m[1]) + 1}", key).replace(".layers.", ".")
        key = re.sub(r"\.layer\.(\d)\.convolution", lambda m: f".conv{int(m[1]) + 1}", key)
        key = re.sub(r"\.layer\.(\d)\.normalization", lambda m: f".bn{int(m[1]) + 1}", key)
        new[key.replace("shortcut.convolution", "downsample.0").replace("shortcut.normalization", "downsample.1")] = (
            value
        )
    save(tmp_path, new | {"fc.weight": torch.zeros(10, 2048), "fc.bias": torch.zeros(10)})
    row = FOUNDATION["resnet50"]
    tiles = tiles_for(row, rng, 1)
    with torch.inference_mode():
        stages = model(pixel_values=normalised(row, tiles), output_hidden_states=True).hidden_states
    want = stages[3].mean(dim=(2, 3)).numpy()
    assert want.shape == (1, 1024)
    np.testing.assert_allclose(load_encoder(f"resnet50={tmp_path}", "cpu").encode(tiles), want, rtol=1e-4, atol=1e-4)


# --- layouts of Hugging Face transformers ---


def test_phikon_at_its_real_size_from_pickled_weights(tmp_path, rng):
    from transformers import ViTConfig, ViTModel

    with torch.device("meta"):
        model = ViTModel(ViTConfig(), add_pooling_layer=False)
    model = randomise(model.to_empty(device="cpu"))
    save(tmp_path, published(model), "pytorch_model.bin")
    model.config.save_pretrained(tmp_path)
    row = FOUNDATION["phikon"]
    tiles = tiles_for(row, rng, 1)
    with torch.inference_mode():
        want = model(pixel_values=normalised(row, tiles)).last_hidden_state[:, 0].numpy()
    encoder = load_encoder(f"phikon={tmp_path}", "cpu")
    assert (encoder.name, encoder.dim, encoder.tile_px, encoder.mpp) == ("phikon", 768, 224, 0.5)
    np.testing.assert_allclose(encoder.encode(tiles), want, atol=1e-4 * np.abs(want).max())


def test_phikon_v2_gives_dinov2s_class_token(tmp_path, small, rng):
    from transformers import Dinov2Config, Dinov2Model

    config = Dinov2Config(hidden_size=24, num_hidden_layers=2, num_attention_heads=2, image_size=56, patch_size=14)
    model = randomise(Dinov2Model(config))
    model.save_pretrained(tmp_path)
    row = small("phikon_v2", dim=24, px=56)
    tiles = tiles_for(row, rng)
    with torch.inference_mode():
        want = model(pixel_values=normalised(row, tiles)).last_hidden_state[:, 0].numpy()
    np.testing.assert_allclose(load_encoder(f"phikon_v2={tmp_path}", "cpu").encode(tiles), want, atol=1e-5)


def tiny_clip(act="quick_gelu"):
    from transformers import CLIPConfig, CLIPModel

    vision = {"hidden_size": 64, "intermediate_size": 40, "num_hidden_layers": 2, "num_attention_heads": 1}
    vision |= {"image_size": 32, "patch_size": 8, "hidden_act": act}
    text = {"hidden_size": 16, "intermediate_size": 20, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = CLIPConfig(vision_config=vision, text_config=text | {"vocab_size": 99}, projection_dim=12)
    return randomise(CLIPModel(config))


def test_plip_gives_clips_image_features(tmp_path, small, rng):
    model = tiny_clip()
    model.save_pretrained(tmp_path)
    row = small("plip", dim=12, px=32)
    tiles = tiles_for(row, rng)
    with torch.inference_mode():
        want = model.get_image_features(pixel_values=normalised(row, tiles))
    want = getattr(want, "pooler_output", want).numpy()
    np.testing.assert_allclose(load_encoder(f"plip={tmp_path}", "cpu").encode(tiles), want, atol=1e-5)
    np.testing.assert_allclose(load_encoder(f"hf:{tmp_path}", "cpu").dim, 12)


@pytest.mark.parametrize("act", ["gelu", "quick_gelu"])
def test_quiltnet_from_openclips_layout(act, tmp_path, small, rng):
    model = tiny_clip(act)
    old = published(model)
    state = {"visual.proj": old["visual_projection.weight"].T, "logit_scale": torch.zeros(())}
    names = {
        "embeddings.class_embedding": "class_embedding", "embeddings.position_embedding.weight": "positional_embedding",
        "embeddings.patch_embedding.weight": "conv1.weight", "pre_layrnorm.weight": "ln_pre.weight",
        "pre_layrnorm.bias": "ln_pre.bias", "post_layernorm.weight": "ln_post.weight",
        "post_layernorm.bias": "ln_post.bias",
    }  # fmt: skip
    state |= {f"visual.{new}": old[f"vision_model.{key}"] for key, new in names.items()}
    for i in range(2):
        layer, block = f"vision_model.encoder.layers.{i}.", f"visual.transformer.resblocks.{i}."
        for kind in ("weight", "bias"):
            parts = [old[f"{layer}self_attn.{part}_proj.{kind}"] for part in "qkv"]
            state[f"{block}attn.in_proj_{kind}"] = torch.cat(parts)
            pairs = {"layer_norm1": "ln_1", "layer_norm2": "ln_2", "self_attn.out_proj": "attn.out_proj",
                     "mlp.fc1": "mlp.c_fc", "mlp.fc2": "mlp.c_proj"}  # fmt: skip
            state |= {f"{block}{new}.{kind}": old[f"{layer}{key}.{kind}"] for key, new in pairs.items()}
    save(tmp_path, state, "open_clip_pytorch_model.bin")
    settings = {"model_cfg": {"vision_cfg": {"layers": 2}, "quick_gelu": act == "quick_gelu"}}
    (tmp_path / "open_clip_config.json").write_text(json.dumps(settings))
    row = small("quiltnet", dim=12, px=32)
    tiles = tiles_for(row, rng)
    with torch.inference_mode():
        want = model.get_image_features(pixel_values=normalised(row, tiles))
    want = getattr(want, "pooler_output", want).numpy()
    np.testing.assert_allclose(load_encoder(f"quiltnet={tmp_path}", "cpu").encode(tiles), want, atol=1e-5)
    (tmp_path / "open_clip_config.json").unlink()
    with pytest.raises(ConfigError, match=r"no open_clip_config\.json"):
        load_encoder(f"quiltnet={tmp_path}", "cpu")


# --- weights that are not those of the encoder asked for ---


def test_other_weights_are_refused_by_name(tmp_path, small):
    small("kaiko_vits8", vit=TINY, dim=24, px=32)
    whole = hf_vit_as_timm(tiny_vit(image_size=32, patch_size=8))

    def refused(change, match):
        state = dict(whole)
        change(state)
        save(tmp_path, state)
        with pytest.raises(ConfigError, match=match) as caught:
            load_encoder(f"kaiko_vits8={tmp_path}", "cpu")
        assert "\n" not in str(caught.value)

    refused(lambda s: s.pop("norm.bias"), r"1 weights missing \(first 'norm.bias'\)")
    refused(lambda s: s.update(surprise=torch.zeros(1)), r"1 weights not understood \(first 'surprise'\)")
    refused(lambda s: s.update({"norm.bias": torch.zeros(7)}), r"'norm.bias' has shape \(7,\), expected \(24,\)")
    refused(lambda s: [s.pop(key) for key in list(s) if key.startswith("blocks.1.")], "depth 1, expected 2")
    refused(lambda s: s.update(reg_token=torch.zeros(1, 4, 24)), "registers 4, expected 0")
    refused(lambda s: s.update(pos_embed=torch.zeros(1, 19, 24)), "19 positions")
    refused(lambda s: s.pop("pos_embed"), "no weight named 'pos_embed'")
    save(tmp_path, whole | {"head.weight": torch.zeros(3, 24), "head.bias": torch.zeros(3)})
    assert load_encoder(f"kaiko_vits8={tmp_path}", "cpu").dim == 24


def test_another_width_than_the_tables_is_an_error(tmp_path, small):
    small("phikon_v2", dim=25, px=32)
    tiny_vit(image_size=32, patch_size=8).save_pretrained(tmp_path)
    with pytest.raises(ConfigError, match=r"shape \(1, 24\) for one tile, expected \(1, 25\)"):
        load_encoder(f"phikon_v2={tmp_path}", "cpu")


def test_missing_and_leftover_transformers_weights_are_errors(tmp_path, small):
    small("phikon_v2", dim=24, px=32)
    model = tiny_vit(image_size=32, patch_size=8)
    model.config.save_pretrained(tmp_path)
    state = published(model)
    state.pop("encoder.layer.1.output.dense.bias")
    save(tmp_path, state)
    with pytest.raises(ConfigError, match=r"1 weights missing"):
        load_encoder(f"phikon_v2={tmp_path}", "cpu")
    save(tmp_path, published(model) | {"embeddings.register_tokens": torch.zeros(1, 4, 24)})
    with pytest.raises(ConfigError, match=r"not understood \(first 'embeddings.register_tokens'\)"):
        load_encoder(f"hf:{tmp_path}", "cpu")


class _Bomb:
    def __reduce__(self):
        return (exec, ("raise SystemExit('executed')",))


def test_a_pickle_that_runs_code_is_not_run(tmp_path):
    torch.save({"model": _Bomb()}, tmp_path / "pytorch_model.bin")
    with pytest.raises(ConfigError, match="holds more than tensors"):
        load_encoder(f"uni_v1={tmp_path}", "cpu")
    (tmp_path / "pytorch_model.bin").write_bytes(b"not a checkpoint")
    with pytest.raises(ConfigError, match=r"holds more than tensors, or is damaged"):
        load_encoder(f"uni_v1={tmp_path}", "cpu")
    (tmp_path / "model.safetensors").write_bytes(b"\0" * 20)
    with pytest.raises(ConfigError, match=r"model\.safetensors' cannot be read"):
        load_encoder(f"uni_v1={tmp_path}", "cpu")


# --- where weights are found ---


def test_absent_weights_say_what_to_accept_run_and_where_to_put_them(tmp_path, monkeypatch):
    with pytest.raises(ConfigError) as caught:
        load_encoder("uni_v1")
    text = str(caught.value)
    assert "\n" not in text
    for part in ("accept the licence (CC-BY-NC-ND-4.0) at https://huggingface.co/MahmoodLab/UNI",
                 "hf download MahmoodLab/UNI --local-dir models/uni_v1", "PATHFLIP_MODELS"):  # fmt: skip
        assert part in text
    monkeypatch.setenv("PATHFLIP_MODELS", str(tmp_path))
    with pytest.raises(ConfigError, match=f"hf download owkin/phikon --local-dir {tmp_path}/phikon "):
        load_encoder("phikon")
    with pytest.raises(ConfigError, match=r"fetch the weights from https://github\.com/Xiyue-Wang/TransPath"):
        load_encoder("ctranspath")
    with pytest.raises(ConfigError, match=r"export it from there.*musk=FILE\.onnx"):
        load_encoder("musk")
    with pytest.raises(ConfigError, match="no file or folder"):
        load_encoder(f"uni_v1={tmp_path}/nowhere")
    (tmp_path / "uni_v1").mkdir()
    with pytest.raises(ConfigError, match="no weights in"):
        load_encoder("uni_v1")


def test_weights_are_found_by_environment_and_in_the_hub_cache(tmp_path, small, monkeypatch):
    small("kaiko_vits8", vit=TINY, dim=24, px=32)
    state = hf_vit_as_timm(tiny_vit(image_size=32, patch_size=8))
    save(tmp_path / "models" / "kaiko_vits8", state)
    monkeypatch.setenv("PATHFLIP_MODELS", str(tmp_path / "models"))
    by_environment = load_encoder("kaiko_vits8", "cpu")
    monkeypatch.delenv("PATHFLIP_MODELS")
    repository = FOUNDATION["kaiko_vits8"].repository
    cached = tmp_path / "hub" / f"models--{repository.replace('/', '--')}"
    save(cached / "snapshots" / "abc", state)
    (cached / "refs").mkdir()
    (cached / "refs" / "main").write_text("abc")
    by_cache = load_encoder("kaiko_vits8", "cpu")
    assert by_cache.revision == by_environment.revision
    save(tmp_path / "models" / "kaiko_vits8", state | {"norm.bias": torch.ones(24)})
    assert load_encoder(f"kaiko_vits8={tmp_path}/models/kaiko_vits8", "cpu").revision != by_cache.revision


def test_several_weight_files(tmp_path, small):
    small("kaiko_vits8", vit=TINY, dim=24, px=32)
    state = hf_vit_as_timm(tiny_vit(image_size=32, patch_size=8))
    keys = list(state)
    save(tmp_path, {key: state[key] for key in keys[:9]}, "model-00001-of-00002.safetensors")
    save(tmp_path, {key: state[key] for key in keys[9:]}, "model-00002-of-00002.safetensors")
    assert load_encoder(f"kaiko_vits8={tmp_path}", "cpu").dim == 24
    other = tmp_path / "other"
    save(other, state, "a.safetensors")
    save(other, state, "b.safetensors")
    with pytest.raises(ConfigError, match=r"several weight files.*kaiko_vits8=FILE"):
        load_encoder(f"kaiko_vits8={other}", "cpu")
    assert load_encoder(f"kaiko_vits8={other}/b.safetensors", "cpu").dim == 24
