"""The encoder table, and foundation encoders from a local folder."""

import builtins
import json

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from pathflip.errors import ConfigError, MissingExtraError
from pathflip.features import ENCODERS, Encoder, load_encoder


@pytest.mark.parametrize("name", sorted(ENCODERS))
def test_every_encoder_keeps_the_interface(name, rng):
    tiles = rng.integers(0, 256, (3, 64, 64, 3), dtype=np.uint8)
    encoder = load_encoder(name, "cpu")
    assert isinstance(encoder, Encoder)
    assert encoder.name == name
    features = encoder.encode(tiles, encoder.prepare(tiles))
    assert features.shape == (3, encoder.dim)
    assert features.dtype == np.float32
    again = load_encoder(name, "cpu").encode(torch.as_tensor(tiles), encoder.prepare(tiles))
    np.testing.assert_array_equal(again, features)
    assert encoder.encode(tiles[:0]).shape == (0, encoder.dim)


def test_random_weights_leave_the_global_generator_alone():
    torch.manual_seed(7)
    want = torch.rand(3)
    torch.manual_seed(7)
    load_encoder("random_resnet18", "cpu")
    torch.testing.assert_close(torch.rand(3), want)


def test_histogram_equals_numpy(rng):
    tile = rng.integers(0, 256, (1, 32, 32, 3), dtype=np.uint8)
    want, _ = np.histogramdd(tile.reshape(-1, 3).astype(int) * 5 // 256, bins=[range(6)] * 3)
    np.testing.assert_allclose(
        load_encoder("colour_histogram").encode(tile)[0], np.sqrt(want.ravel() / 1024), rtol=1e-6
    )


def test_unknown_name_suggests():
    with pytest.raises(ConfigError, match="did you mean 'stain_texture'"):
        load_encoder("stain_textur")
    with pytest.raises(ConfigError, match="did you mean 'uni_v1'"):
        load_encoder("uni")


def test_absent_folder_says_what_to_fetch(tmp_path):
    with pytest.raises(ConfigError, match=r"nothing is downloaded.*hf download"):
        load_encoder(f"hf:{tmp_path}/uni")


def test_pickled_objects_are_refused(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "pytorch_model.bin").write_bytes(b"x")
    with pytest.raises(ConfigError, match="pickled objects are never loaded"):
        load_encoder(f"hf:{tmp_path}")


def test_local_vit_gives_the_models_own_class_token(tmp_path, rng):
    from transformers import ViTConfig, ViTModel

    torch.manual_seed(0)
    config = ViTConfig(
        hidden_size=24, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32, image_size=32, patch_size=8
    )
    model = ViTModel(config, add_pooling_layer=False).eval()
    folder = tmp_path / "tiny_vit"
    model.save_pretrained(folder)
    processing = {"image_mean": [0.7, 0.6, 0.7], "image_std": [0.2, 0.3, 0.2], "size": {"height": 32, "width": 32}}
    (folder / "preprocessor_config.json").write_text(json.dumps(processing))
    encoder = load_encoder(f"hf:{folder}", "cpu")
    tiles = rng.integers(0, 256, (2, 32, 32, 3), dtype=np.uint8)
    pixels = (tiles.transpose(0, 3, 1, 2) / 255 - np.reshape([0.7, 0.6, 0.7], (3, 1, 1))) / np.reshape(
        [0.2, 0.3, 0.2], (3, 1, 1)
    )
    with torch.inference_mode():
        want = model(torch.tensor(pixels, dtype=torch.float32)).last_hidden_state[:, 0].numpy()
    assert (encoder.name, encoder.dim) == ("hf_tiny_vit", 24)
    np.testing.assert_allclose(encoder.encode(tiles), want, atol=1e-4)
    larger = rng.integers(0, 256, (2, 64, 64, 3), dtype=np.uint8)
    assert encoder.encode(larger).shape == (2, 24)
    first = encoder.revision
    ViTModel(config, add_pooling_layer=False).save_pretrained(folder)
    assert load_encoder(f"hf:{folder}", "cpu").revision != first


def test_timm_folder_without_timm_names_the_extra(tmp_path, monkeypatch):
    (tmp_path / "config.json").write_text(json.dumps({"architecture": "vit_large_patch16_224", "pretrained_cfg": {}}))
    save_file({"x": torch.zeros(1)}, tmp_path / "model.safetensors")
    real = builtins.__import__

    def without_timm(name, *args, **kwargs):
        if name == "timm":
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without_timm)
    with pytest.raises(MissingExtraError, match=r"pip install 'pathflip\[encoders\]'"):
        load_encoder(f"hf:{tmp_path}")


def test_an_unknown_precision_is_refused_by_every_encoder():
    with pytest.raises(ConfigError, match="precision: got 'int8', expected one of auto"):
        load_encoder("colour_histogram", precision="int8")
