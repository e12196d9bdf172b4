"""Released checkpoints in every shape they come in: the fixtures' outputs, bit by bit back again, or one line."""

import argparse
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from parity import FIXTURES, LOSS, align_batch, assert_close, tensors
from pathflip import inference
from pathflip.checkpoint import InputContract, load_checkpoint, save_checkpoint
from pathflip.cli import main
from pathflip.errors import CheckpointError, ConfigError, PathFLIPError
from pathflip.models import build_model
from pathflip.published.import_export import export_released, import_released, merge_lora
from pathflip.published.region_losses import sort_candidates
from pathflip.text.tokenizer import train_tokenizer

Weights = dict[str, Tensor]

ONE, TWO = tensors("pf1_align", "weights"), tensors("pf2_align", "weights")
ONE = {name: value for name, value in ONE.items() if not name.startswith("pure_head.")}  # the fixtures' own spare head
HEADS = {"published": ["num_heads=4"], "perceiver": ["num_heads=4", "text_heads=4"]}
FEATURES: dict[str, Any] = {"encoder": "conch", "tile_px": 256, "mpp": 0.5}


def bring(source: Path, out: Path, kind: str = "published", **more: Any) -> Any:
    return import_released(source, out, **{**FEATURES, "settings": HEADS[kind], **more})


def prefixed(prefix: str) -> Callable[[Weights, Path], Path]:
    def write(weights: Weights, folder: Path) -> Path:
        torch.save({prefix + name: value for name, value in weights.items()}, folder / "w.bin")
        return folder / "w.bin"

    return write


def write_safetensors(weights: Weights, folder: Path) -> Path:
    save_file(weights, folder / "w.safetensors")
    return folder / "w.safetensors"


def write_misnamed(weights: Weights, folder: Path) -> Path:
    save_file(weights, folder / "w.bin")
    return folder / "w.bin"


def write_lightning(weights: Weights, folder: Path) -> Path:
    run = {"epoch": 3, "hyper_parameters": {"args": argparse.Namespace(lr=1e-4)}, "optimizer_states": [{"state": {}}]}
    torch.save({"state_dict": {"model." + k: v for k, v in weights.items()}, **run}, folder / "w.ckpt")
    return folder / "w.ckpt"


def write_deepspeed(weights: Weights, folder: Path) -> Path:
    torch.save({"module": {"module.model." + k: v for k, v in weights.items()}, "ds_version": "0.16"}, folder / "w.pt")
    return folder / "w.pt"


def write_old_pickle(weights: Weights, folder: Path) -> Path:
    torch.save(weights, folder / "w.bin", _use_new_zipfile_serialization=False)
    return folder / "w.bin"


def write_shards(weights: Weights, folder: Path) -> Path:
    """What zero_to_fp32 writes by default: shards and their index."""
    names = sorted(weights)
    where = {n: f"pytorch_model-0000{1 + (i % 2)}-of-00002.bin" for i, n in enumerate(names)}
    for shard in set(where.values()):
        torch.save({"_forward_module.model." + n: weights[n] for n in names if where[n] == shard}, folder / shard)
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps({"metadata": {}, "weight_map": where}))
    return folder


SHAPES = {
    "bin": prefixed(""),
    "model": prefixed("model."),
    "module": prefixed("module."),
    "compiled": prefixed("module._orig_mod.model."),
    "safetensors": write_safetensors,
    "safetensors named bin": write_misnamed,
    "lightning": write_lightning,
    "deepspeed": write_deepspeed,
    "old pickle": write_old_pickle,
    "shards": write_shards,
}


@torch.no_grad()
def check_outputs_of_variant_one(model: Any) -> None:
    inputs, expected = tensors("pf1_align", "inputs"), tensors("pf1_align", "expected")
    captions, subs = (inputs["text_ids"], inputs["text_mask"]), (inputs["subtext_ids"], inputs["subtext_mask"])
    batch = align_batch(inputs["path"], captions, subs)
    output = model(batch)
    assert_close(output.slide, expected["slide_embed"], name="slide_embed")
    assert_close(output.patches, expected["region_embed"], name="region_embed")
    assert_close(output.caption, expected["text_embed"], name="text_embed")
    assert_close(output.sub_captions.flatten(0, 1), expected["subtext_embed"], name="subtext_embed")
    losses = model.losses(output, batch, sort_candidates(expected["caption_offsets"], 4))
    torch.testing.assert_close(sum(losses.values()), expected["loss"], rtol=LOSS, atol=0)


@torch.no_grad()
def check_outputs_of_variant_two(model: Any, pooling: str = "mean") -> None:
    inputs, expected = tensors("pf2_align", "inputs"), tensors("pf2_align", "expected")
    captions = inputs["input_ids_global"], inputs["attn_mask_global"]
    batch = align_batch(inputs["image"].unsqueeze(1), captions, (inputs["input_ids_local"], inputs["attn_mask_local"]))
    output = model(batch)
    assert_close(output.slide, expected["image_global"], name="image_global")
    assert_close(output.patches, expected["image_local"], name="image_local")
    assert_close(output.caption, expected[f"text_global_{pooling}"], name="text_global")
    assert_close(output.sub_captions, expected[f"text_local_{pooling}"], name="text_local")
    losses = model.losses(output, batch, sort_candidates(expected["caption_offsets"], 4))
    torch.testing.assert_close(sum(losses.values()), expected[f"loss.siglip_flair_{pooling}"], rtol=LOSS, atol=0)


def assert_same(weights: Weights, expected: Weights) -> None:
    assert weights.keys() == expected.keys()
    for name, value in expected.items():
        assert weights[name].dtype == value.dtype, name
        assert torch.equal(weights[name], value), name


@pytest.mark.parametrize("shape", SHAPES)
def test_variant_one_in_and_back(shape: str, tmp_path: Path) -> None:
    """The dead head is kept for the way back; the way back is bit-equal; so is in, out and in again."""
    done = bring(SHAPES[shape](ONE, tmp_path), tmp_path / "run")
    check_outputs_of_variant_one(load_checkpoint(tmp_path / "run").model)
    assert done.kind == "published"
    assert "Qformer.cls.predictions.bias" in done.ignored
    assert len(done.ignored) + done.parameters == len(ONE)
    export_released(tmp_path / "run", tmp_path / "back.safetensors")
    assert_same(load_file(tmp_path / "back.safetensors"), ONE)
    bring(tmp_path / "back.safetensors", tmp_path / "again")
    first, second = (load_file(tmp_path / run / "model.safetensors") for run in ("run", "again"))
    assert_same(second, first)


@pytest.mark.parametrize("shape", ["bin", "lightning", "safetensors"])
def test_variant_two_in_and_back(shape: str, tmp_path: Path) -> None:
    done = bring(SHAPES[shape](TWO, tmp_path), tmp_path / "run", "perceiver")
    check_outputs_of_variant_two(load_checkpoint(tmp_path / "run").model)
    assert done.kind == "perceiver"
    assert any("pooling mean_with_padding" in text for text in done.assumed)
    export_released(tmp_path / "run", tmp_path / "back.bin")
    assert_same(torch.load(tmp_path / "back.bin", weights_only=True), TWO)


def test_what_the_file_says_and_what_options_say(tmp_path: Path) -> None:
    """Losses are told by their parameters; pooling by --set."""
    file = prefixed("")(TWO, tmp_path)
    bring(file, tmp_path / "a", "perceiver", settings=[*HEADS["perceiver"], "pooling=cls", "text.caption_tokens=40"])
    check_outputs_of_variant_two(load_checkpoint(tmp_path / "a").model, "cls")
    assert inference.load(tmp_path / "a").text.caption_tokens == 40
    bare = {k: v for k, v in TWO.items() if not k.startswith(("fine_gained_loss_head.", "global_logit"))}
    done = bring(prefixed("")(bare, tmp_path), tmp_path / "b", "perceiver", settings=HEADS["perceiver"])
    assert (done.model["region_loss"], done.model["slide_loss"]) == ("soft_top_k", "info_nce")
    assert done.model["normalize"] == "entries"
    assert done.contract == {"encoder": "conch", "dim": 48, "tile_px": 256, "mpp": 0.5, "stride_px": None}
    assert done.model["num_latents"] == 129
    assert (done.model["text_layers"], done.model["text_ffn_width"]) == (2, 128)


def test_published_sizes_need_no_options(tmp_path: Path) -> None:
    """At published proportions (heads 64 wide) nothing has to be given but the features; what is assumed is said."""
    config = {"kind": "published", "width": 128, "ffn_width": 64, "num_heads": 2, "num_layers": 3, "vocab_size": 70}
    sizes = {"embed_dim": 64, "cross_every": 1, "mixing_layers": 1, "region_head": "normed", "bias": -10.0}
    native = build_model({**config, **sizes}).eval()
    contract = InputContract(encoder="conch", dim=512, tile_px=256, mpp=0.5)
    save_checkpoint(tmp_path / "native", native, contract=contract)
    out = export_released(tmp_path / "native", tmp_path / "w.bin")
    assert [note.split()[0] for note in out.notes] == ["logit", "without"]
    done = import_released(tmp_path / "w.bin", tmp_path / "run", **FEATURES)
    settings = {**config, **{k: v for k, v in sizes.items() if k != "bias"}}
    assert {key: done.model[key] for key in settings} == settings
    assert any(text.startswith("num_heads 2") for text in done.assumed)
    again = load_checkpoint(tmp_path / "run").model
    scale, bias = again._scaling()
    torch.testing.assert_close(scale, native.logit_scale.exp())
    assert bias.item() == -10.0


def test_half_precision_goes_back_as_it_came(tmp_path: Path) -> None:
    half = {name: v.bfloat16() if v.is_floating_point() else v for name, v in ONE.items()}
    bring(write_safetensors(half, tmp_path), tmp_path / "run")
    export_released(tmp_path / "run", tmp_path / "back.safetensors")
    assert_same(load_file(tmp_path / "back.safetensors"), half)
    assert all(p.dtype == torch.float32 for p in load_checkpoint(tmp_path / "run").model.parameters())


# ------------------------------------------------------------------------------------------------ LoRA


def with_lora(weights: Weights, rank: int, scale: float) -> Weights:
    """Split every linear layer of the text encoder's layers so that merging restores it, under PEFT's names."""
    generator = torch.Generator().manual_seed(0)
    split: Weights = {}
    for name, value in weights.items():
        layer, _, leaf = name.replace("text_encoder.", "text_encoder.base_model.model.", 1).rpartition(".")
        if not (name.startswith("text_encoder.encoder.") and "LayerNorm" not in name):
            split[f"{layer}.{leaf}".lstrip(".")] = value
            continue
        if leaf == "weight":
            down = torch.randn(rank, value.shape[1], generator=generator) * 0.1
            up = torch.randn(value.shape[0], rank, generator=generator) * 0.1
            split |= {f"{layer}.lora_A.default.weight": down, f"{layer}.lora_B.default.weight": up}
            value = value - scale * up @ down
        split[f"{layer}.base_layer.{leaf}"] = value
    return split


@pytest.mark.parametrize("alpha_from", ["published", "option", "file", "rslora"])
def test_lora_is_merged(alpha_from: str, tmp_path: Path) -> None:
    rank, alpha = (16, 64.0) if alpha_from == "published" else (4, 6.0)
    scale = alpha / (rank**0.5 if alpha_from == "rslora" else rank)
    file = prefixed("model.")(with_lora(TWO, rank, scale), tmp_path)
    if alpha_from in ("file", "rslora"):
        config = {"lora_alpha": alpha, "r": rank, "use_rslora": alpha_from == "rslora"}
        (tmp_path / "adapter_config.json").write_text(json.dumps(config))
    done = bring(file, tmp_path / "run", "perceiver", lora_alpha=alpha if alpha_from == "option" else None)
    assert done.merged_lora == 12
    assert done.ignored == ["text_encoder.pooler.dense.bias", "text_encoder.pooler.dense.weight"]
    source = {"published": "assumed", "option": "given", "file": "adapter_config", "rslora": "adapter_config"}[
        alpha_from
    ]
    assert any(f"alpha {alpha:g}" in text and source in text for text in done.assumed)
    check_outputs_of_variant_two(load_checkpoint(tmp_path / "run").model)
    export_released(tmp_path / "run", tmp_path / "back.bin")
    back = torch.load(tmp_path / "back.bin", weights_only=True)
    assert all(torch.allclose(back[name], value, atol=1e-6) for name, value in TWO.items())


def test_lora_against_the_assistant_fixture_formula() -> None:
    """y = W x + (alpha / r) B (A x), computed without merging."""
    generator = torch.Generator().manual_seed(1)
    base, down, up, x = (torch.randn(*s, generator=generator) for s in ((6, 5), (2, 5), (6, 2), (5,)))
    merged, layers = merge_lora(
        {"q.base_layer.weight": base, "q.lora_A.default.weight": down, "q.lora_B.default.weight": up}, lambda r: 8 / r
    )
    assert layers == ["q"]
    torch.testing.assert_close(merged["q.weight"] @ x, base @ x + 4.0 * (up @ (down @ x)))


def test_lora_that_cannot_be_merged_is_refused(tmp_path: Path) -> None:
    split = with_lora(TWO, 4, 1.0)
    with pytest.raises(CheckpointError, match=r"rank 4 and no adapter_config.json.*--lora-alpha"):
        bring(prefixed("")(split, tmp_path), tmp_path / "run", "perceiver")
    half = {name: value for name, value in split.items() if "layer.1.output.dense.lora_B" not in name}
    with pytest.raises(CheckpointError, match=r"layer\.1\.output\.dense: LoRA without its other half"):
        bring(prefixed("")(half, tmp_path), tmp_path / "run", "perceiver", lora_alpha=4)
    (tmp_path / "adapter_config.json").write_text('{"lora_alpha": 4, "use_dora": true}')
    with pytest.raises(CheckpointError, match="use_dora cannot be merged"):
        bring(prefixed("")(split, tmp_path), tmp_path / "run", "perceiver")
    with pytest.raises(ConfigError, match="no unmerged LoRA"):
        bring(prefixed("")(TWO, tmp_path), tmp_path / "run", "perceiver", lora_alpha=4)


# ------------------------------------------------------------------------------------------------ bad input


def refused(file: Path, tmp_path: Path, kind: str = "published", **more: Any) -> str:
    """The one line of the refusal; nothing is written."""
    with pytest.raises(PathFLIPError) as caught:
        bring(file, tmp_path / "run", kind, **more)
    assert not (tmp_path / "run").exists()
    assert len(str(caught.value).splitlines()) == 1
    return str(caught.value)


def test_missing_and_unknown_parameters_are_named(tmp_path: Path) -> None:
    broken = {name: value for name, value in ONE.items() if name not in ("text_proj.bias", "path_encoder.weight")}
    broken |= {"surprise.weight": torch.zeros(2), "Qformer.bert.encoder.layer.1.extra": torch.zeros(2)}
    message = refused(prefixed("")(broken, tmp_path), tmp_path)
    for name in ("path_encoder.weight", "text_proj.bias", "surprise.weight", "Qformer.bert.encoder.layer.1.extra"):
        assert name in message
    layer = {name: value for name, value in ONE.items() if ".layer.2.output." not in name}
    assert "Qformer.bert.encoder.layer.2.output.LayerNorm.weight" in refused(prefixed("")(layer, tmp_path), tmp_path)


def test_unknown_parameters_are_dropped_only_when_told(tmp_path: Path) -> None:
    file = FIXTURES / "pf1_align" / "weights.safetensors"
    message = refused(file, tmp_path)
    assert "pure_head.ln_q.weight" in message
    assert "--drop" in message
    assert "no unknown parameter begins with fg_head." in refused(file, tmp_path, drop=["fg_head."])
    done = bring(file, tmp_path / "run", drop=["pure_head."])
    assert len(done.dropped) == 10
    check_outputs_of_variant_one(load_checkpoint(tmp_path / "run").model)


def test_sizes_and_values_that_cannot_be(tmp_path: Path) -> None:
    wrong = {**ONE, "path_proj.weight": torch.zeros(32, 65)}
    assert "path_proj.weight (32, 65) (expected (32, 64))" in refused(prefixed("")(wrong, tmp_path), tmp_path)
    nan = {**ONE, "fg_head.w_q.bias": torch.full((32,), float("nan"))}
    assert "NaN or infinity in fg_head.w_q.bias" in refused(prefixed("")(nan, tmp_path), tmp_path)
    whole = {**ONE, "path_proj.bias": torch.zeros(32, dtype=torch.int8)}
    assert "not floating point: path_proj.bias" in refused(prefixed("")(whole, tmp_path), tmp_path)
    twice = {**ONE, "model.logit_scale": torch.tensor(1.0)}
    assert "two tensors for logit_scale" in refused(prefixed("")(twice, tmp_path), tmp_path)
    file = prefixed("")(TWO, tmp_path)
    assert "--set num_heads=N" in refused(file, tmp_path, "perceiver", settings=[])
    assert "nonsense" in refused(file, tmp_path, "perceiver", settings=[*HEADS["perceiver"], "nonsense=1"])
    assert "KEY=VALUE" in refused(file, tmp_path, "perceiver", settings=["num_heads"])
    with pytest.raises(CheckpointError, match="holds a perceiver model, not a published one"):
        import_released(file, tmp_path / "run", kind="published", **FEATURES)


def test_features_must_be_named(tmp_path: Path) -> None:
    message = refused(prefixed("")(ONE, tmp_path), tmp_path, encoder=None, mpp=None)
    assert "(48 wide)" in message
    assert "--encoder, --mpp" in message
    assert "contract.mpp" in refused(prefixed("")(ONE, tmp_path), tmp_path, mpp=-1.0)


@pytest.mark.parametrize("shape", ["bin", "old pickle", "safetensors", "lightning"])
@pytest.mark.parametrize("share", [0.0, 0.001, 0.5, 0.999])
def test_truncated_files(shape: str, share: float, tmp_path: Path) -> None:
    file = SHAPES[shape](ONE, tmp_path)
    file.write_bytes(file.read_bytes()[: int(share * file.stat().st_size)])
    message = refused(file, tmp_path)
    assert str(file) in message


@pytest.mark.parametrize("suffix", ["bin", "ckpt", "safetensors"])
def test_foreign_files(suffix: str, tmp_path: Path) -> None:
    file = tmp_path / f"w.{suffix}"
    file.write_bytes(torch.Generator().manual_seed(0).get_state().numpy().tobytes()[::-1])
    assert "cannot be read" in refused(file, tmp_path)
    file.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\n")
    assert "git lfs pull" in refused(file, tmp_path)
    (save_file if suffix == "safetensors" else torch.save)({"conv1.weight": torch.zeros(2)}, file)
    assert "not a released PathFLIP model (its names: conv1.weight" in refused(file, tmp_path)


def test_other_foreign_things(tmp_path: Path) -> None:
    assert "no such file" in refused(tmp_path / "nowhere.bin", tmp_path)
    torch.save([1, 2], tmp_path / "list.bin")
    assert "a list without tensors" in refused(tmp_path / "list.bin", tmp_path)
    torch.save({**ONE, "note": "hello"}, tmp_path / "note.bin")
    assert "not tensors: note" in refused(tmp_path / "note.bin", tmp_path)
    (tmp_path / "ds").mkdir()
    (tmp_path / "ds" / "mp_rank_00_model_states.pt").write_bytes(b"")
    assert "zero_to_fp32" in refused(tmp_path / "ds", tmp_path)
    assistant = {**{k: v for k, v in ONE.items() if not k.startswith("fg_head")}, "llm_model.x": torch.zeros(1)}
    assert "assistant's stage" in refused(prefixed("")(assistant, tmp_path), tmp_path)


class _Bomb:
    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> Any:
        return os.system, (f"touch '{self.mark}'",)


@pytest.mark.parametrize("zipped", [True, False])
def test_code_in_a_pickle_never_runs(zipped: bool, tmp_path: Path) -> None:
    mark, file = tmp_path / "ran", tmp_path / "w.ckpt"
    torch.save({"state_dict": ONE, "extra": _Bomb(mark)}, file, _use_new_zipfile_serialization=zipped)
    message = refused(file, tmp_path)
    assert not mark.exists()
    assert "system" in message
    assert "no code in it can run" in message
    torch.load(file, weights_only=False)  # the bomb is real
    assert mark.exists()


def test_export_refuses(tmp_path: Path) -> None:
    bring(prefixed("")(ONE, tmp_path), tmp_path / "run")
    with pytest.raises(ConfigError, match=r"\.safetensors or \.bin"):
        export_released(tmp_path / "run", tmp_path / "w.onnx")
    (tmp_path / "run" / "released.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"missing Qformer\.bert\.embeddings\.position_ids"):
        export_released(tmp_path / "run", tmp_path / "back.bin")
    clip = build_model({"kind": "clip", "feature_dim": 8, "vocab_size": 70, "width": 16, "embed_dim": 16})
    save_checkpoint(tmp_path / "clip", clip, contract=InputContract(encoder="x", dim=8, tile_px=64, mpp=1.0))
    with pytest.raises(CheckpointError, match="kind 'clip' has no released counterpart"):
        export_released(tmp_path / "clip", tmp_path / "back.bin")


def test_words(tmp_path: Path) -> None:
    """With its tokenizer the model answers; a tokenizer that knows more ids than the model is refused."""
    file = prefixed("")(TWO, tmp_path)
    train_tokenizer(["keratin pearls are seen", "no necrosis"] * 5, 90).save(tmp_path / "small")
    done = bring(file, tmp_path / "run", "perceiver", tokenizer=tmp_path / "small")
    assert any("token ids" in text for text in done.assumed)
    code = inference.encode_text(inference.load(tmp_path / "run"), ["keratin pearls"])
    assert code.local.shape == (1, 32)
    assert code.local.isfinite().all()
    words = [f"word{chr(97 + i % 26)}{chr(97 + i // 26)}" for i in range(400)]
    train_tokenizer(words * 3, 600).save(tmp_path / "large")
    message = refused(file, tmp_path / "b", "perceiver", tokenizer=tmp_path / "large")
    assert "the model knows 200" in message


def test_command_line(tmp_path: Path, capsys: Any, monkeypatch: Any) -> None:
    def run(*words: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["pathflip", *words])
        with pytest.raises(SystemExit) as left:
            main()
        return left.value.code, *capsys.readouterr()  # type: ignore[return-value]

    file = write_lightning(ONE, tmp_path)
    features = ["--encoder", "conch", "--tile-px", "256", "--mpp", "0.5", "--set", "num_heads=4"]
    status, message, _ = run("import", str(file), "--out", str(tmp_path / "run"), *features, "--json")
    row = json.loads(message)
    assert (status, row["kind"], row["contract"]["dim"]) == (0, "published", 48)
    _, message, _ = run("export", str(tmp_path / "run"), "--out", str(tmp_path / "back.safetensors"), "--json")
    assert json.loads(message)["tensors"] == len(ONE)
    assert_same(load_file(tmp_path / "back.safetensors"), ONE)
    _, message, _ = run("import", str(file), "--out", str(tmp_path / "run"), *features)
    assert "assumed: mixing_heads 8" in message
    assert "ignored: Qformer.bert.embeddings.position_ids" in message
    status, message, complaint = run("import", str(file), "--out", str(tmp_path / "b"))
    assert (status, message) == (2, "")
    assert "--encoder, --tile-px, --mpp" in complaint
    assert len(complaint.strip().splitlines()) == 1
