"""What surrounds a network: pictures to input, precision, memory, devices, exported files, names timm knows."""

import builtins
import json
import shutil
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from encoder_files import save
from pathflip.errors import ConfigError, FeatureError, MissingExtraError
from pathflip.features import FOUNDATION, load_encoder, worker_device
from pathflip.features.devices import FittingBatches, precision_for
from pathflip.features.network_encoder import NetworkEncoder, to_input

FIXTURE = Path(__file__).parent / "fixtures" / "exported_encoder"


def picture(rng, side):
    """A tile with structure at all scales, uint8 (1, side, side, 3)."""
    layers = [
        np.asarray(Image.fromarray(rng.integers(0, 256, (n, n, 3), dtype=np.uint8)).resize((side, side)), float)
        for n in (4, 16, 64)
    ]
    return np.mean(layers, axis=0).astype(np.uint8)[None]


# --- pictures to input ---


@pytest.mark.parametrize("name", ["plip", "phikon", "prov_gigapath", "hibou_b"])
def test_resize_crop_and_normalisation_equal_transformers_processor(name, rng):
    """Against transformers' own processor on Pillow, whose resize rounds twice: one grey level of room, no bias."""
    from transformers import CLIPImageProcessorPil

    row = FOUNDATION[name]
    mean, std = row.normalisation
    processor = CLIPImageProcessorPil(
        size={"shortest_edge": row.resize_px}, crop_size={"height": row.input_px, "width": row.input_px},
        image_mean=list(mean), image_std=list(std), resample=3 if row.interpolation == "bicubic" else 2,
    )  # fmt: skip
    tile = picture(rng, 256 if row.resize_px != 256 else 300)
    want = np.asarray(processor(Image.fromarray(tile[0]), return_tensors="np")["pixel_values"])
    seen = []

    def network(x):
        seen.append(x)
        return torch.zeros(len(x), 2)

    encoder = NetworkEncoder(
        name, "r", network, 2, resize_px=row.resize_px, input_px=row.input_px, normalisation=row.normalisation,
        interpolation=row.interpolation, device="cpu",
    )  # fmt: skip
    encoder.encode(tile)
    grey = 1 / 255 / np.reshape(std, (3, 1, 1))
    difference = (seen[0].numpy() - want) / grey
    assert np.abs(difference).max() < 1.01
    assert np.abs(difference).mean() < 0.25
    assert abs(difference.mean()) < 0.1


def test_a_tile_of_the_right_size_is_left_as_it_is(rng):
    tile = rng.integers(0, 256, (2, 32, 32, 3), dtype=np.uint8)
    np.testing.assert_array_equal(to_input(torch.tensor(tile), 32, 32, "bicubic").permute(0, 2, 3, 1).numpy(), tile)
    cropped = to_input(torch.tensor(tile), 32, 28, "bicubic").permute(0, 2, 3, 1).numpy()
    np.testing.assert_array_equal(cropped, tile[:, 2:30, 2:30])


# --- memory ---


class Memory:
    """A network that runs out of memory above ``room`` tiles."""

    def __init__(self, room):
        self.room, self.sizes = room, []

    def __call__(self, tiles):
        self.sizes.append(len(tiles))
        if len(tiles) > self.room:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return np.asarray(tiles, np.float32).reshape(len(tiles), -1).sum(1, keepdims=True)


def test_batches_halve_until_they_fit_and_stay_so():
    tiles = np.arange(100, dtype=np.uint8).reshape(100, 1, 1, 1)
    memory, batches = Memory(15), FittingBatches()
    np.testing.assert_array_equal(batches.run(memory, tiles)[:, 0], np.arange(100))
    assert memory.sizes[:4] == [100, 50, 25, 12]
    assert set(memory.sizes[4:]) == {12, 4}
    memory.sizes.clear()
    memory.room = 1000
    batches.run(memory, tiles[:30])
    assert memory.sizes == [12, 12, 6]
    fresh, memory = FittingBatches(), Memory(1000)
    fresh.run(memory, tiles[:3])
    fresh.run(memory, tiles)
    assert memory.sizes == [3, 100]


def test_an_encoder_runs_in_what_memory_there_is(rng):
    class Network(nn.Module):
        def forward(self, x):
            if len(x) > 3:
                raise torch.OutOfMemoryError("no room")
            return x.mean((2, 3))

    encoder = NetworkEncoder("n", "r", Network(), 3, normalisation=((0, 0, 0), (1, 1, 1)), device="cpu")
    tiles = rng.integers(0, 256, (10, 8, 8, 3), dtype=np.uint8)
    np.testing.assert_allclose(encoder.encode(tiles), tiles.mean((1, 2)) / 255, rtol=1e-5)


def test_one_tile_that_does_not_fit_is_one_line():
    with pytest.raises(FeatureError, match="single tile") as caught:
        FittingBatches().run(Memory(0), np.zeros((8, 1, 1, 1), np.uint8))
    assert "\n" not in str(caught.value)


# --- precision and devices ---


def test_precision_is_the_authors_on_a_gpu_and_full_elsewhere():
    cpu, gpu = torch.device("cpu"), torch.device("cuda", 1)
    assert precision_for("auto", "float16", gpu) == "float16"
    assert precision_for("auto", "float16", cpu) == "float32"
    assert precision_for("bfloat16", "float16", cpu) == "bfloat16"
    with pytest.raises(ConfigError, match="for GPUs"):
        precision_for("float16", "float16", cpu)
    with pytest.raises(ConfigError, match="expected one of auto"):
        precision_for("half", "float16", cpu)


def test_bfloat16_is_close_and_never_passes_for_float32(rng):
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, 32, 8, 8), nn.GELU(), nn.Flatten(), nn.Linear(32 * 16, 20))
    tiles = rng.integers(0, 256, (4, 32, 32, 3), dtype=np.uint8)
    full = NetworkEncoder("n", "r", network, 20, device="cpu")
    mixed = NetworkEncoder("n", "r", network, 20, device="cpu", precision="bfloat16")
    a, b = full.encode(tiles), mixed.encode(tiles)
    assert b.dtype == np.float32
    assert 0 < np.abs(a - b).max() < 0.05 * np.abs(a).max()
    assert (full.revision, mixed.revision) == ("r", "r-bfloat16")


def test_workers_take_gpus_in_turn():
    assert [worker_device(i, None, 3) for i in range(5)] == ["cuda:0", "cuda:1", "cuda:2", "cuda:0", "cuda:1"]
    assert worker_device(4, "cuda", 2) == "cuda:0"
    assert worker_device(4, "cuda:7", 2) == "cuda:7"
    assert worker_device(1, "cpu", 2) == "cpu"
    assert worker_device(1, None, 0) is None
    with pytest.raises(ConfigError, match="no GPU"):
        worker_device(0, "cuda", 0)


# --- exported networks ---

CARD = {"name": "mine", "dim": 6, "input_px": 32, "mean": [0.4, 0.5, 0.6], "std": [0.2, 0.3, 0.4]}


def by_numpy(tiles):
    """What tests/fixtures/exported_encoder/README.md says the exported network does."""
    weights = np.load(FIXTURE / "weights.npz", allow_pickle=False)
    x = (tiles / 255 - CARD["mean"]) / CARD["std"]
    rows = []
    for tile in x:
        blocks = tile.reshape(4, 8, 4, 8, 3)
        maps = np.einsum("iajbc,fcab->ijf", blocks, weights["conv.weight"]) + weights["conv.bias"]
        rows.append(weights["fc.weight"] @ np.maximum(maps, 0).mean((0, 1)) + weights["fc.bias"])
    return np.stack(rows)


def test_onnx_with_its_card_equals_numpy(tmp_path, rng):
    shutil.copy(FIXTURE / "tiny.onnx", tmp_path)
    (tmp_path / "tiny.json").write_text(json.dumps(CARD | {"tile_px": 40, "mpp": [0.5]}))
    encoder = load_encoder(f"onnx:{tmp_path}/tiny.onnx", "cpu")
    assert (encoder.name, encoder.dim, encoder.tile_px, encoder.mpp) == ("mine", 6, 40, 0.5)
    tiles = rng.integers(0, 256, (5, 32, 32, 3), dtype=np.uint8)
    np.testing.assert_allclose(encoder.encode(tiles), by_numpy(tiles), atol=1e-5)
    with pytest.raises(ConfigError, match="runs as it was exported"):
        load_encoder(f"onnx:{tmp_path}/tiny.onnx", "cpu", precision="bfloat16")


def test_an_exported_network_of_the_table_needs_no_card(tmp_path, monkeypatch, rng):
    row = replace(
        FOUNDATION["musk"], dim=6, resize_px=32, input_px=32, normalisation=(tuple(CARD["mean"]), tuple(CARD["std"]))
    )
    monkeypatch.setitem(FOUNDATION, "musk", row)
    tiles = rng.integers(0, 256, (2, 32, 32, 3), dtype=np.uint8)
    encoder = load_encoder(f"musk={FIXTURE}/tiny.onnx", "cpu")
    assert (encoder.name, encoder.tile_px) == ("musk", 384)
    np.testing.assert_allclose(encoder.encode(tiles), by_numpy(tiles), atol=1e-5)
    monkeypatch.setitem(FOUNDATION, "musk", replace(row, dim=7))
    with pytest.raises(ConfigError, match=r"shape \(1, 6\) for one tile, expected \(1, 7\)"):
        load_encoder(f"musk={FIXTURE}/tiny.onnx", "cpu")
    monkeypatch.setitem(FOUNDATION, "musk", replace(row, resize_px=40, input_px=40))
    with pytest.raises(ConfigError, match="does not run on one tile of 40 px"):
        load_encoder(f"musk={FIXTURE}/tiny.onnx", "cpu")


@pytest.mark.filterwarnings("ignore")
def test_torchscript_equals_its_network(tmp_path, rng):
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, 6, 32), nn.Flatten()).eval()
    torch.jit.script(network).save(tmp_path / "net.ts")
    (tmp_path / "net.json").write_text(json.dumps(CARD))
    tiles = rng.integers(0, 256, (3, 32, 32, 3), dtype=np.uint8)
    x = torch.tensor(((tiles / 255 - CARD["mean"]) / CARD["std"]).transpose(0, 3, 1, 2), dtype=torch.float32)
    with torch.inference_mode():
        want = network(x).numpy()
    np.testing.assert_allclose(load_encoder(f"torchscript:{tmp_path}/net.ts", "cpu").encode(tiles), want, atol=1e-5)


def test_exported_files_that_cannot_be_used_say_why(tmp_path):
    (tmp_path / "net.onnx").write_bytes(b"no graph")
    with pytest.raises(ConfigError, match=r"does not say how its input is normalised; expected '.*net\.json'"):
        load_encoder(f"onnx:{tmp_path}/net.onnx")
    (tmp_path / "net.json").write_text(json.dumps(CARD | {"men": [1]}))
    with pytest.raises(ConfigError, match="men: Extra inputs"):
        load_encoder(f"onnx:{tmp_path}/net.onnx")
    (tmp_path / "net.json").write_text(json.dumps(CARD))
    with pytest.raises(ConfigError, match="onnxruntime cannot load it"):
        load_encoder(f"onnx:{tmp_path}/net.onnx", "cpu")
    with pytest.raises(ConfigError, match="torch cannot load it"):
        load_encoder(f"torchscript:{tmp_path}/net.onnx".replace(".onnx", ".json"), "cpu")
    with pytest.raises(ConfigError, match=r"\.pt2 files are read by unpickling"):
        load_encoder(f"musk={tmp_path}/net.pt2", "cpu")
    with pytest.raises(ConfigError, match="no such file"):
        load_encoder(f"musk={tmp_path}/absent.onnx", "cpu")


def without(monkeypatch, package):
    real = builtins.__import__

    def missing(name, *args, **kwargs):
        if name == package:
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", missing)


def test_onnx_without_onnxruntime_names_the_extra(monkeypatch):
    without(monkeypatch, "onnxruntime")
    with pytest.raises(MissingExtraError, match=r"pip install 'pathflip\[onnx\]'"):
        load_encoder(f"musk={FIXTURE}/tiny.onnx", "cpu")


# --- names timm knows ---


class TimmModel(nn.Module):
    """What timm's models offer: a forward pass without classifier, and the settings of the published weights."""

    pretrained_cfg = {  # noqa: RUF012
        "classifier": "fc", "input_size": (3, 32, 32), "crop_pct": 0.8, "mean": (0.4, 0.5, 0.6), "std": (0.2, 0.3, 0.4),
        "interpolation": "bilinear",
    }  # fmt: skip

    def __init__(self):
        super().__init__()
        self.body = nn.Conv2d(3, 5, 32)

    def forward(self, x):
        return self.body(x).flatten(1)


@pytest.fixture
def fake_timm(monkeypatch):
    """Stands in for timm where it cannot be installed; records what it was asked for."""
    calls = []

    def create_model(name, **arguments):
        calls.append((name, arguments))
        if name == "nonsense":
            raise RuntimeError("Unknown model (nonsense)")
        return TimmModel()

    monkeypatch.setitem(sys.modules, "timm", SimpleNamespace(create_model=create_model))
    return calls


def test_a_timm_name_is_built_without_classifier_and_filled(fake_timm, tmp_path, rng):
    torch.manual_seed(0)
    model = TimmModel()
    save(tmp_path, model.state_dict() | {"fc.weight": torch.zeros(3, 5), "fc.bias": torch.zeros(3)})
    encoder = load_encoder(f"timm:some_net.tag={tmp_path}", "cpu")
    assert fake_timm == [("some_net.tag", {"pretrained": False, "num_classes": 0})]
    assert (encoder.name, encoder.dim, encoder.resize_px, encoder.input_px) == ("timm_some_net.tag", 5, 40, 32)
    tiles = rng.integers(0, 256, (2, 40, 40, 3), dtype=np.uint8)
    x = (tiles[:, 4:36, 4:36] / 255 - [0.4, 0.5, 0.6]) / [0.2, 0.3, 0.4]
    with torch.inference_mode():
        want = model(torch.tensor(x.transpose(0, 3, 1, 2), dtype=torch.float32)).numpy()
    np.testing.assert_allclose(encoder.encode(tiles), want, atol=1e-5)


def test_a_timm_folder_passes_its_arguments_on(fake_timm, tmp_path):
    config = {
        "architecture": "vit_x", "model_args": {"img_size": 32, "num_classes": 7, "reg_tokens": 4},
        "pretrained_cfg": {"input_size": [3, 32, 32], "mean": [0.1, 0.2, 0.3], "std": [1, 1, 1]},
    }  # fmt: skip
    (tmp_path / "config.json").write_text(json.dumps(config))
    save(tmp_path, TimmModel().state_dict())
    assert load_encoder(f"hf:{tmp_path}", "cpu").dim == 5
    assert fake_timm == [("vit_x", {"pretrained": False, "img_size": 32, "reg_tokens": 4, "num_classes": 0})]


def test_timm_names_and_weights_that_do_not_fit_are_one_line(fake_timm, tmp_path):
    save(tmp_path, TimmModel().state_dict() | {"other": torch.zeros(1)})
    with pytest.raises(ConfigError, match="not understood"):
        load_encoder(f"timm:net={tmp_path}", "cpu")
    with pytest.raises(ConfigError, match="timm cannot build 'nonsense'"):
        load_encoder(f"timm:nonsense={tmp_path}", "cpu")
    with pytest.raises(ConfigError, match=r"hf download timm/net --local-dir FOLDER"):
        load_encoder(f"timm:net={tmp_path}/absent", "cpu")


def test_timm_absent_names_the_extra(monkeypatch, tmp_path):
    without(monkeypatch, "timm")
    save(tmp_path, TimmModel().state_dict())
    with pytest.raises(MissingExtraError, match=r"pip install 'pathflip\[encoders\]'"):
        load_encoder(f"timm:net={tmp_path}")


def test_every_file_that_decides_an_onnx_encoder_changes_its_revision(tmp_path):
    for name in ("tiny_external.onnx", "tiny_external.bin"):
        shutil.copy(FIXTURE / name, tmp_path)
    (tmp_path / "tiny_external.json").write_text(json.dumps(CARD))
    first = load_encoder(f"onnx:{tmp_path}/tiny_external.onnx", "cpu").revision
    weights = bytearray((tmp_path / "tiny_external.bin").read_bytes())
    weights[3] ^= 1  # the lowest bit of an exponent: other features, the same .onnx file
    (tmp_path / "tiny_external.bin").write_bytes(weights)
    second = load_encoder(f"onnx:{tmp_path}/tiny_external.onnx", "cpu").revision
    (tmp_path / "tiny_external.json").write_text(json.dumps({**CARD, "mean": [0.1, 0.2, 0.3]}))
    third = load_encoder(f"onnx:{tmp_path}/tiny_external.onnx", "cpu").revision
    assert len({first, second, third}) == 3
    (tmp_path / "tiny_external.bin").unlink()
    with pytest.raises(ConfigError, match=r"weights 'tiny_external.bin' are missing"):
        load_encoder(f"onnx:{tmp_path}/tiny_external.onnx", "cpu")


def test_onnx_weights_outside_the_folder_are_refused(tmp_path):
    (tmp_path / "tiny_external.json").write_text(json.dumps(CARD))
    named = (FIXTURE / "tiny_external.onnx").read_bytes().replace(b"tiny_external.bin", b"../../etc/passwd1")
    (tmp_path / "tiny_external.onnx").write_bytes(named)
    with pytest.raises(ConfigError, match="outside its folder"):
        load_encoder(f"onnx:{tmp_path}/tiny_external.onnx", "cpu")
