"""Encoders as extraction loads them: precision, GPUs in turn, and tiles that do not fit the encoder."""

import json
import multiprocessing
import re
import subprocess
import sys
import warnings
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from cohort_run import write_slide
from encoder_files import randomise
from pathflip.errors import ConfigError
from pathflip.features import extract_cohort, read_features
from pathflip.features import workers as workers
from pathflip.features.cluster import ClusterSpec, extract_on_cluster
from pathflip.features.cohort import _reader_count, _worker_count
from pathflip.features.workers import EncoderChoice
from pathflip.geometry import TileSpec

SPEC = TileSpec(64, 2.0)


@pytest.fixture
def slides(tmp_path):
    (tmp_path / "slides").mkdir()
    return [write_slide(tmp_path / "slides" / f"s{i}.tif", seed=i) for i in range(2)]


@pytest.fixture
def network(tmp_path):
    """A small transformer in a folder of its own, as ``hf:FOLDER``."""
    from transformers import ViTConfig, ViTModel

    config = ViTConfig(
        hidden_size=24, num_hidden_layers=2, num_attention_heads=2, intermediate_size=40, image_size=32, patch_size=8
    )
    randomise(ViTModel(config, add_pooling_layer=False)).save_pretrained(tmp_path / "vit")
    return f"hf:{tmp_path}/vit"


def rows(outcomes):
    assert {outcome.status for outcome in outcomes} == {"done"}
    return np.concatenate([read_features(outcome.path).features for outcome in outcomes])


def test_precision_reaches_every_worker_and_is_never_mixed(slides, network, tmp_path):
    mixed = {"precision": "bfloat16", "device": "cpu"}
    full = rows(extract_cohort(slides, SPEC, network, tmp_path / "full", num_workers=1, device="cpu"))
    here = rows(extract_cohort(slides, SPEC, network, tmp_path / "here", num_workers=1, **mixed))
    workers = rows(extract_cohort(slides, SPEC, network, tmp_path / "two", num_workers=2, **mixed))
    np.testing.assert_array_equal(workers, here)
    assert 0 < np.abs(full - here).max() < 0.1 * np.abs(full).max()
    with pytest.raises(ConfigError, match=r"encoder_revision was (\w+), now \1-bfloat16"):
        extract_cohort(slides, SPEC, network, tmp_path / "full", num_workers=1, **mixed)


def test_cluster_nodes_run_alike(slides, tmp_path):
    with pytest.raises(ConfigError, match=r"float16.*expected float32 or bfloat16"):
        extract_on_cluster(slides, SPEC, "colour_histogram", tmp_path, ClusterSpec(), precision="float16")


@pytest.mark.usefixtures("annotations_off")
def test_each_worker_takes_the_next_gpu(monkeypatch):
    taken = []
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(
        workers, "load_encoder", lambda name, device, precision: taken.append((name, device, precision))
    )
    monkeypatch.setattr(workers, "settle_worker", lambda: None)
    started = multiprocessing.get_context("spawn").Value("i", 0)
    for _ in range(3):
        workers._start_worker(EncoderChoice("e", precision="float16"), started, [])
    workers._start_worker(EncoderChoice("e", "cuda:1"), started, [])
    assert taken == [("e", "cuda:0", "float16"), ("e", "cuda:1", "float16"), ("e", "cuda:0", "float16"),
                     ("e", "cuda:1", "auto")]  # fmt: skip


@pytest.mark.usefixtures("annotations_off")
def test_as_many_workers_as_gpus(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 3)
    on_gpu, on_cpu = (SimpleNamespace(device=torch.device(name)) for name in ("cuda:0", "cpu"))
    assert _worker_count(None, EncoderChoice("e"), on_gpu, 100) == 3
    assert _worker_count(None, EncoderChoice("e", "cuda"), on_gpu, 2) == 2
    assert _worker_count(None, EncoderChoice("e", "cuda:2"), on_gpu, 100) == 1
    assert _worker_count(5, EncoderChoice("e"), on_gpu, 100) == 5
    assert _worker_count(None, EncoderChoice("e", "cpu"), on_cpu, 1000) >= 1
    assert _worker_count(4, on_gpu, on_gpu, 100) == 1  # an object cannot be loaded elsewhere
    assert _reader_count(3, on_gpu) >= 1  # a GPU must not wait for tiles
    assert _reader_count(3, on_cpu) == 0


@pytest.fixture
def exported(tmp_path):
    """A network for tiles of 40 px, as ``torchscript:FILE``."""
    net = nn.Sequential(nn.Conv2d(3, 5, 8, 8), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    torch.jit.trace(net, torch.zeros(1, 3, 32, 32)).save(str(tmp_path / "net.ts"))
    card = {"name": "mine", "dim": 5, "input_px": 32, "mean": [0.5] * 3, "std": [0.5] * 3, "tile_px": 40, "mpp": [2.0]}
    (tmp_path / "net.json").write_text(json.dumps(card))
    return f"torchscript:{tmp_path}/net.ts"


def test_tiles_that_do_not_fit_the_encoder_are_said_once(slides, exported, tmp_path):
    words = ["extract", str(slides[0].parent), "--encoder", exported, "--tile-px", "64", "--mpp", "2", "--workers", "1"]
    command = [sys.executable, "-c", "from pathflip.cli import main; main()", *words, "--out", str(tmp_path / "cli")]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    lines = [line for line in done.stderr.splitlines() if "encoder 'mine'" in line]
    assert len(lines) == 1
    assert re.search(r"tiles are 64 px, it is meant for 40 px \(--tile-px 40\)", lines[0])
    with pytest.warns(UserWarning, match="meant for 40 px"):
        extract_cohort(slides[:1], SPEC, exported, tmp_path / "a", num_workers=1, device="cpu")
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        extract_cohort(slides[:1], TileSpec(40, 2.0), exported, tmp_path / "b", num_workers=1, device="cpu")
