"""Model folders whose files contradict each other: one line, before memory is taken, never random weights."""

import json
import time

import pytest
import torch
from safetensors.torch import load_file, save_file

from pathflip.assistant import LanguageModelSpec, open_language_model
from pathflip.assistant.saved_assistant import load_assistant, save_assistant
from pathflip.errors import CheckpointError, ConfigError, PathFLIPError
from pathflip.evaluate.bertscore import BertScorer
from pathflip.inference import load
from pathflip.io.model_folder import check_model_folder, refuse_missing_weights, stored_shapes
from pathflip.text.decompose import DecomposeSpec, LocalSpec, decompose_reports
from pathflip.text.pretrained import open_pretrained_text
from pathflip.text.tokenizer import train_tokenizer
from pathflip.types import Caption
from text_encoder_files import encoder_folder
from tiny_assistant import assemble, save_aligned, save_language_model

REPORT = [Caption("s", "p", "Necrosis is seen.", ())]
OPENERS = {
    "language model": (save_language_model, lambda f: open_language_model(LanguageModelSpec(source=str(f)))),
    "decomposer": (save_language_model, lambda f: decompose_reports(REPORT, DecomposeSpec(by=LocalSpec(model=f)))),
    "bertscore": (encoder_folder, lambda f: BertScorer(f, 1, "cpu")),
    "text encoder": (encoder_folder, lambda f: open_pretrained_text(str(f))),
}


def edited(folder, **changes):
    file = folder / "config.json"
    config = json.loads(file.read_text())
    assert changes.keys() <= config.keys()
    file.write_text(json.dumps({**config, "layer_types": None, **changes}))


def unlike(folder):
    weights = load_file(folder / "model.safetensors")
    name = next(name for name in weights if "layers.1" in name or "layer.1" in name)
    save_file({key: value for key, value in weights.items() if key != name}, folder / "model.safetensors")


DAMAGE = {
    "a thousand million layers": (
        lambda f: edited(f, num_hidden_layers=10**9),
        r"asks for 1000000000 layers \(num_hid",
    ),
    "two layers more": (lambda f: edited(f, num_hidden_layers=4), "its weights lack"),
    "another width": (lambda f: edited(f, hidden_size=128), "of another shape|cannot be"),
    "a tensor lost": (unlike, "its weights lack 1 of the tensors"),
    "no settings": (lambda f: (f / "config.json").write_text("[]"), "expected a JSON object"),
    "deep settings": (lambda f: (f / "config.json").write_text("[" * 100_000), "cannot be read"),
    "cut weights": (lambda f: (f / "model.safetensors").write_bytes(b"\xff" * 40), "not readable safetensors weights"),
}


@pytest.mark.parametrize("opener", OPENERS)
@pytest.mark.parametrize("damage", DAMAGE)
def test_a_folder_that_contradicts_itself_is_one_line(tmp_path, opener, damage):
    make, read = OPENERS[opener]
    folder = make(tmp_path / "m")
    spoil, message = DAMAGE[damage]
    spoil(folder)
    start = time.monotonic()
    with pytest.raises(ConfigError, match=message) as told:
        read(folder)
    assert "\n" not in str(told.value)
    assert time.monotonic() - start < 10


def test_whole_folders_open(tmp_path):
    for name, (make, read) in OPENERS.items():
        if name != "decomposer":  # it would answer
            assert read(make(tmp_path / name)) is not None


@pytest.fixture
def saved(tmp_path):
    assistant = assemble(tmp_path, train="full")
    words = {"language": assistant.language, "template": assistant.template, "aligned": tmp_path / "aligned"}
    return save_assistant(tmp_path / "saved", assistant.model, **words)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_hidden_layers": 10**9}, "asks for 1000000000 layers"),
        ({"hidden_size": 100_000}, "describes [0-9]+ weights, 'assistant.safetensors' holds"),
        ({"vocab_size": 10**9}, "describes [0-9]+ weights"),
        ({"hidden_size": -4}, "its language model cannot be built"),
        ({"num_attention_heads": "many"}, "cannot be (built|read)"),
        ({"model_type": "no such"}, "its language model cannot be built"),
    ],
)
def test_an_assistants_language_model_is_compared_before_it_is_built(saved, changes, message):
    edited(saved / "language", **changes)
    with pytest.raises(PathFLIPError, match=message) as told:
        load_assistant(saved)
    assert "\n" not in str(told.value)


@pytest.mark.parametrize("text", ["[]", "3", '"a"', "null"])
def test_an_assistants_settings_that_are_none(saved, text):
    (saved / "config.json").write_text(text)
    with pytest.raises(CheckpointError, match="expected the settings of an assistant"):
        load_assistant(saved)


@pytest.mark.parametrize(
    ("change", "message"),
    [(lambda v: v / 0, "holds NaN or infinity"), (lambda v: v.to(torch.int8), "holds no floating-point numbers")],
)
def test_an_assistants_weights_are_finite_numbers(saved, change, message):
    weights = load_file(saved / "assistant.safetensors")
    save_file({name: change(value) for name, value in weights.items()}, saved / "assistant.safetensors")
    with pytest.raises(CheckpointError, match=message):
        load_assistant(saved)


def test_parts_and_shapes_by_hand(tmp_path):
    save_file({"a": torch.ones(2, 3), "b": torch.ones(4)}, tmp_path / "w.safetensors", {"format": "pt"})
    assert stored_shapes(tmp_path / "w.safetensors") == {"a": (2, 3), "b": (4,)}
    (tmp_path / "config.json").write_text('{"vision_config": {"num_layers": 3}, "use_layer_scale": true}')
    with pytest.raises(ConfigError, match=r"asks for 3 layers \(num_layers\), but its weights are 2 tensors"):
        check_model_folder(tmp_path, "model")
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "config.json").write_text('{"num_layers": 1000000000}')
    with pytest.raises(ConfigError, match="which no model has"):
        check_model_folder(tmp_path / "empty", "model")
    (tmp_path / "config.json").write_text('{"vision_config": {"num_layers": 2}, "max_window_layers": 28}')
    check_model_folder(tmp_path, "model")
    refuse_missing_weights("model", {"missing_keys": {"pooler.dense.weight"}, "unexpected_keys": {"head"}})
    with pytest.raises(ConfigError, match=r"lack 1 of the tensors.*have 1 of another shape.*first 'x'"):
        refuse_missing_weights("model", {"missing_keys": {"x"}, "mismatched_keys": [("y", (1,), (2,))]})


def test_a_tokenizer_with_more_words_than_the_model(tmp_path):
    """An id beyond the embeddings would be an index error in the middle of an answer, or another word's vector."""
    folder = save_aligned(tmp_path / "aligned")
    words = [f"{a}{b}{c}" for a in "bdfgk" for b in "aeiou" for c in "lmnrstvz"]
    train_tokenizer(words * 3, 900).save(folder / "tokenizer")
    with pytest.raises(CheckpointError, match=r"its tokenizer has \d+ ids, the model \d+ embeddings"):
        load(folder)
