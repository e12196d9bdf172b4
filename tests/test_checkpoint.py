import json
import os
import pickle
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from pathflip.checkpoint import InputContract, load_checkpoint, save_checkpoint
from pathflip.errors import CheckpointError, ContractError
from pathflip.geometry import SlideInfo, TileSpec
from pathflip.io.files import atomic_directory
from pathflip.models import build_model
from pathflip.text.tokenizer import load_tokenizer, train_tokenizer
from pathflip.types import SlideFeatures

CONTRACT = InputContract(encoder="texture", dim=6, tile_px=256, mpp=0.5, stride_px=256)
SIZE = {"kind": "tied", "width": 3}


class Tied(nn.Module):
    """Two names for one tensor, and a buffer."""

    def __init__(self, width: int = 3) -> None:
        super().__init__()
        self.first = nn.Linear(width, width)
        self.second = nn.Linear(width, width)
        self.second.weight = self.first.weight
        self.register_buffer("mean", torch.arange(float(width)))


def build(config: dict) -> Tied:
    return Tied(config["width"])


def features(**changes) -> SlideFeatures:
    values = {"encoder": "texture", "dim": 6, "tile_px": 256, "mpp": 0.5, **changes}
    return SlideFeatures(
        slide_id="case-7",
        features=np.zeros((2, values["dim"]), np.float32),
        coords=np.zeros((2, 2), np.int64),
        valid=np.ones(2, bool),
        info=SlideInfo("case-7", (4096, 4096), 0.25),
        spec=TileSpec(values["tile_px"], values["mpp"], values.get("stride_px", 0)),
        encoder=values["encoder"],
    )


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    return save_checkpoint(
        tmp_path / "run" / "last", Tied(), model_config=SIZE, contract=CONTRACT, recipe={"name": "x"}
    )


def test_a_real_model_comes_back_with_its_words(tmp_path):
    tokenizer = train_tokenizer(["keratin pearls are seen", "no necrosis", "glands with mucin"])
    model = build_model({"kind": "pathflip", "feature_dim": 6, "vocab_size": tokenizer.vocab_size})
    save_checkpoint(
        tmp_path / "a",
        model,
        contract=CONTRACT,
        tokenizer=tokenizer,
        text={"num_sub_captions": 4},
        recipe={"name": "align_base"},
        metrics={"step": 3.0},
    )
    back = load_checkpoint(tmp_path / "a")
    assert not back.model.training
    assert back.contract == CONTRACT
    assert back.config["text"] == {"num_sub_captions": 4}
    assert back.config["recipe"] == {"name": "align_base"}
    assert back.config["metrics"] == {"step": 3.0}
    assert {name: value.shape for name, value in back.model.state_dict().items()} == {
        name: value.shape for name, value in model.state_dict().items()
    }
    for name, value in model.state_dict().items():
        assert torch.equal(back.model.state_dict()[name], value)
    words = ["no keratin pearls"]
    assert torch.equal(back.tokenizer.encode(words).ids, tokenizer.encode(words).ids)
    assert sorted(path.name for path in (tmp_path / "a").iterdir()) == ["config.json", "model.safetensors", "tokenizer"]
    assert load_tokenizer(tmp_path / "a" / "tokenizer").vocab_size == tokenizer.vocab_size


def test_tied_weights_and_buffers_come_back(saved):
    model = load_checkpoint(saved, build).model
    assert torch.equal(model.first.weight, model.second.weight)
    assert torch.equal(model.mean, torch.arange(3.0))


def test_a_runs_directory_means_its_best_else_its_last(saved):
    assert load_checkpoint(saved.parent, build).config["recipe"] == {"name": "x"}
    save_checkpoint(saved.parent / "best", Tied(), model_config=SIZE, contract=CONTRACT, recipe={"name": "better"})
    assert load_checkpoint(saved.parent, build).config["recipe"] == {"name": "better"}


def test_saving_again_replaces_the_whole_directory(saved):
    (saved / "stale").write_text("from an older version")
    model = Tied()
    save_checkpoint(saved, model, model_config=SIZE, contract=CONTRACT)
    assert sorted(path.name for path in saved.iterdir()) == ["config.json", "model.safetensors"]
    assert torch.equal(load_checkpoint(saved, build).model.first.weight, model.first.weight)
    assert [path.name for path in saved.parent.iterdir()] == ["last"]


def test_a_failed_save_leaves_the_old_checkpoint(saved):
    class Broken:
        def save(self, folder: Path) -> None:
            raise OSError("disk full")

    before = {path.name: path.read_bytes() for path in saved.iterdir()}
    with pytest.raises(OSError, match="disk full"):
        save_checkpoint(saved, Tied(), model_config=SIZE, contract=CONTRACT, tokenizer=Broken())
    assert {path.name: path.read_bytes() for path in saved.iterdir()} == before
    assert [path.name for path in saved.parent.iterdir()] == ["last"]


def test_without_one_call_exchange_two_renames_do(saved, monkeypatch):
    monkeypatch.setattr("pathflip.io.files._exchange", lambda first, second: False)
    save_checkpoint(saved, Tied(), model_config=SIZE, contract=CONTRACT, recipe={"name": "new"})
    assert load_checkpoint(saved, build).config["recipe"] == {"name": "new"}
    assert [path.name for path in saved.parent.iterdir()] == ["last"]


@pytest.mark.slow
def test_a_kill_while_saving_leaves_a_whole_directory(tmp_path):
    """A process replaces a directory as fast as it can and is killed; whatever stands there is whole."""
    script = textwrap.dedent(
        """
        import sys
        from pathlib import Path
        from pathflip.io.files import atomic_directory
        count = 0
        while True:
            count += 1
            with atomic_directory(sys.argv[1]) as folder:
                for name in "abc":
                    (folder / name).write_text(str(count))
            if count == 3:
                print("ready", flush=True)
        """
    )
    target = tmp_path / "target"
    for wait in (0.0, 0.013, 0.031):
        process = subprocess.Popen([sys.executable, "-c", script, str(target)], stdout=subprocess.PIPE)
        process.stdout.readline()
        try:
            process.wait(timeout=wait)
        except subprocess.TimeoutExpired:
            os.kill(process.pid, signal.SIGKILL)
        process.wait()
        process.stdout.close()
        assert len({(target / name).read_text() for name in "abc"}) == 1


def test_a_directory_that_is_something_else_is_not_replaced(tmp_path):
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter1.tex").write_text("years of work")
    with pytest.raises(CheckpointError, match="exists and is not a checkpoint"):
        save_checkpoint(tmp_path / "thesis", Tied(), model_config=SIZE, contract=CONTRACT)
    assert (tmp_path / "thesis" / "chapter1.tex").read_text() == "years of work"


def test_nan_weights_are_never_written(tmp_path):
    model = Tied()
    with torch.no_grad():
        model.second.bias[1] = float("nan")
    with pytest.raises(CheckpointError, match=r"1 \(second.bias\) hold NaN"):
        save_checkpoint(tmp_path / "a", model, model_config=SIZE, contract=CONTRACT)
    assert not (tmp_path / "a").exists()


class Bomb:
    def __reduce__(self):
        return (Path.touch, (Path("exploded"),))


def truncated(path: Path) -> None:
    file = path / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-7])


def garbage(path: Path) -> None:
    (path / "model.safetensors").write_bytes(b"\x00" * 50)


def pickled(path: Path) -> None:
    (path / "model.safetensors").write_bytes(pickle.dumps(Bomb()))


def changed_weights(change):
    def damage(path: Path) -> None:
        weights = {name: change(value) for name, value in load_file(path / "model.safetensors").items()}
        save_file(weights, path / "model.safetensors")

    return damage


def edit(**changes):
    def change(path: Path) -> None:
        config = json.loads((path / "config.json").read_text())
        (path / "config.json").write_text(json.dumps({**config, **changes}))

    return change


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (truncated, "model.safetensors: cannot be read"),
        (garbage, "model.safetensors: cannot be read"),
        (pickled, "model.safetensors: cannot be read"),
        (lambda path: (path / "model.safetensors").unlink(), "model.safetensors: missing"),
        (lambda path: (path / "config.json").unlink(), "not a checkpoint: config.json is missing"),
        (lambda path: (path / "config.json").write_text('{"format":'), "config.json: cannot be read as JSON"),
        (lambda path: (path / "config.json").write_bytes(b"\xff\xfe\x00"), "config.json: cannot be read as JSON"),
        (lambda path: (path / "config.json").write_text('{"model_type": "bert"}'), "is of another program"),
        (lambda path: (path / "config.json").write_text("[]"), "is of another program"),
        (edit(format_version=99), "format_version is 99, expected 1"),
        (edit(contract={"encoder": "texture"}), "settings cannot be used"),
        (edit(model={"kind": "tied"}), "settings cannot be used"),
        (edit(model={"kind": "tied", "width": 4}), "weights do not fit the model of config.json"),
        (
            lambda path: save_file({"x": torch.ones(1)}, path / "model.safetensors"),
            r"missing 5 \(first.bias, .*unknown 1",
        ),
        (lambda path: (path / "tokenizer").mkdir(), "the tokenizer cannot be read"),
        (lambda path: (path / "config.json").write_text("[" * 100_000), "config.json: cannot be read as JSON"),
        (edit(model={"kind": "tied", "width": 10**7}), "weights do not fit the model of config.json"),
        (edit(model={**SIZE, "num_layers": 10**9}), "num_layers 1000000000, but model.safetensors holds"),
        (changed_weights(lambda value: value.to(torch.int8)), "hold int8, expected floating point"),
        (changed_weights(lambda value: value.float() / 0), "hold NaN or infinity"),
    ],
)
def test_damaged_and_foreign_checkpoints_are_one_clear_line(saved, damage, message, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    damage(saved)
    with pytest.raises(CheckpointError, match=message) as error:
        load_checkpoint(saved, build)
    assert "\n" not in str(error.value)
    assert str(saved) in str(error.value)
    assert not Path("exploded").exists()


def test_pickles_and_missing_paths_point_to_import(tmp_path):
    torch.save({"weight": torch.ones(1)}, tmp_path / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match=r"it is a pickle, which is never loaded; use  pathflip import"):
        load_checkpoint(tmp_path / "pytorch_model.bin")
    with pytest.raises(
        CheckpointError, match=r"found: pytorch_model.bin\); published weights are read by  pathflip import"
    ):
        load_checkpoint(tmp_path)
    with pytest.raises(CheckpointError, match="no such checkpoint"):
        load_checkpoint(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(CheckpointError, match="found: nothing"):
        load_checkpoint(tmp_path / "empty")


@pytest.mark.parametrize(
    ("changes", "field", "got", "expected"),
    [
        ({"encoder": "uni"}, "encoder", "'uni'", "'texture'"),
        ({"dim": 1024}, "dim", "1024", "6"),
        ({"tile_px": 224}, "tile_px", "224", "256"),
        ({"mpp": 0.52}, "mpp", "0.52", "0.5"),
        ({"mpp": 0.485}, "mpp", "0.485", "0.5"),
        ({"stride_px": 128}, "stride_px", "128", "256"),
    ],
)
def test_other_features_are_refused_by_name(changes, field, got, expected):
    with pytest.raises(ContractError) as error:
        CONTRACT.check(features(**changes))
    message = str(error.value)
    assert f"slide 'case-7': {field} of the features is {got}, the model was trained on {expected}" in message
    assert "encoder 'texture', dim 6, tile_px 256, mpp 0.5, stride_px 256" in message


@pytest.mark.parametrize("mpp", [0.491, 0.5, 0.509])
def test_nearly_the_same_resolution_is_accepted(mpp):
    CONTRACT.check(features(mpp=mpp))
    assert InputContract.of(features()) == CONTRACT


def test_a_contract_without_a_stride_takes_any(saved):
    """Checkpoints written before the stride was kept still load, and say nothing of it."""
    config = json.loads((saved / "config.json").read_text())
    del config["contract"]["stride_px"]
    (saved / "config.json").write_text(json.dumps(config))
    contract = load_checkpoint(saved, build).contract
    contract.check(features(stride_px=128))
    assert contract.tile_spec() == TileSpec(256, 0.5)
    assert CONTRACT.model_copy(update={"stride_px": 128}).tile_spec() == TileSpec(256, 0.5, 128)


def test_atomic_directory_needs_no_earlier_one(tmp_path):
    with atomic_directory(tmp_path / "deep" / "new") as folder:
        (folder / "file").write_text("x")
    assert (tmp_path / "deep" / "new" / "file").read_text() == "x"


def test_an_assistant_is_told_from_an_alignment_model(tmp_path):
    (tmp_path / "config.json").write_text('{"format": "pathflip-assistant"}')
    (tmp_path / "assistant.safetensors").write_bytes(b"")
    with pytest.raises(CheckpointError, match="is an assistant; expected an alignment model"):
        load_checkpoint(tmp_path)
