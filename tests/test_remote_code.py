"""Folders of models bring code along (``auto_map``): it never runs, and nobody is asked whether it may.

transformers asks on the terminal where ``trust_remote_code`` is not stated, and a pipe of ``y`` answers.
"""

import ast
import contextlib
import io
import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

import pathflip
from pathflip.assistant import LanguageModelSpec, open_language_model
from pathflip.assistant.language_model import open_tokenizer
from pathflip.assistant.saved_assistant import load_assistant, save_assistant
from pathflip.errors import PathFLIPError
from pathflip.evaluate.bertscore import BertScorer
from pathflip.features import load_encoder
from pathflip.text.decompose import DecomposeSpec, LocalSpec, decompose_reports
from pathflip.text.pretrained import open_pretrained_text
from pathflip.text.tokenizer import load_tokenizer, train_tokenizer
from pathflip.types import Caption
from tiny_assistant import assemble, chat_tokenizer, save_language_model

AUTO = (
    "AutoConfig", "AutoModel", "AutoModelForCausalLM", "AutoModelForMaskedLM", "AutoModelForImageClassification",
    "AutoImageProcessor", "AutoProcessor",
)  # fmt: skip


@pytest.fixture
def ran(tmp_path, monkeypatch):
    """A file that the code in :func:`plant` writes when it is imported, with "y" on standard input."""
    monkeypatch.setattr("sys.stdin", io.StringIO("y\n" * 50))
    monkeypatch.setattr("builtins.input", lambda *_: "y")
    monkeypatch.setenv("HF_MODULES_CACHE", str(tmp_path / "modules"))
    return tmp_path / "ran"


def plant(folder, ran):
    """Code of its own for every part of a model folder, under a model type that transformers does not know."""
    (folder / "evil.py").write_text(f"open({str(ran)!r}, 'w').write('x')\nclass C: pass\nM = T = C\n")
    config = json.loads((folder / "config.json").read_text()) if (folder / "config.json").exists() else {}
    names = {"AutoTokenizer": ["evil.T", "evil.T"], **dict.fromkeys(AUTO, "evil.C")}
    (folder / "config.json").write_text(json.dumps({**config, "model_type": "mine", "auto_map": names}))
    words = folder / "tokenizer_config.json"
    told = json.loads(words.read_text()) if words.exists() else {}
    words.write_text(json.dumps({**told, "tokenizer_class": "T", "auto_map": names}))
    return folder


def language_model(folder):
    return save_language_model(folder)


def by_tokenizer(folder):
    train_tokenizer(["necrosis is seen"] * 3, 100).save(folder)
    (folder / "tokenizer.json").unlink()
    return lambda: load_tokenizer(folder)


def by_chat_tokenizer(folder):
    chat_tokenizer("chatml").save_pretrained(folder)
    return lambda: open_tokenizer(folder)


def by_language_model(folder):
    language_model(folder)
    return lambda: open_language_model(LanguageModelSpec(source=str(folder)))


def by_decomposer(folder):
    language_model(folder)
    report = [Caption("s", "p", "Necrosis is seen.", ())]
    return lambda: decompose_reports(report, DecomposeSpec(by=LocalSpec(model=folder)))


def by_bertscore(folder):
    language_model(folder)
    return lambda: BertScorer(folder, 1, "cpu")


def by_text_encoder(folder):
    language_model(folder)
    return lambda: open_pretrained_text(str(folder))


def by_patch_encoder(folder):
    save_file({"x": torch.ones(2)}, folder / "model.safetensors")
    return lambda: load_encoder(f"hf:{folder}", "cpu")


OPENERS = (
    by_tokenizer, by_chat_tokenizer, by_language_model, by_decomposer, by_bertscore, by_text_encoder, by_patch_encoder,
)  # fmt: skip


@pytest.mark.parametrize("opener", OPENERS, ids=lambda opener: opener.__name__)
def test_code_in_a_model_folder_never_runs(tmp_path, ran, opener):
    folder = tmp_path / "model"
    folder.mkdir()
    read = opener(folder)
    plant(folder, ran)
    with contextlib.suppress(PathFLIPError):  # what needs none of its code may open
        read()
    assert not ran.exists()


def test_code_in_a_saved_assistant_never_runs(tmp_path, ran):
    assistant = assemble(tmp_path / "made", train="full")
    words = {"language": assistant.language, "template": assistant.template, "aligned": tmp_path / "made" / "aligned"}
    out = save_assistant(tmp_path / "saved", assistant.model, **words)
    inside = [folder for folder in (out / "language", out / "tokenizer") if folder.is_dir()]
    assert inside
    for folder in inside:
        plant(folder, ran)
    with pytest.raises(PathFLIPError):
        load_assistant(out)
    assert not ran.exists()


def test_the_planted_code_would_run(tmp_path, ran):
    """What the tests above show is that the code is not run: with trust it is."""
    from transformers import AutoConfig

    folder = tmp_path / "model"
    folder.mkdir()
    plant(folder, ran)
    with pytest.raises(Exception, match=r".*"):
        AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=True)
    assert ran.exists()


def _calls(tree):
    """Calls that build something of Hugging Face's from a folder or a configuration."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            owner = getattr(node.func.value, "id", "")
            if node.func.attr in ("from_pretrained", "from_config") and owner.lower().startswith("auto"):
                yield node


def test_every_call_says_that_no_code_is_trusted():
    seen = 0
    for file in Path(pathflip.__file__).parent.rglob("*.py"):
        for call in _calls(ast.parse(file.read_text(encoding="utf-8"))):
            seen += 1
            stated = {word.arg: getattr(word.value, "value", None) for word in call.keywords}
            if None in stated and "trust_remote_code" not in stated:  # **options, checked where they are made
                assert '"trust_remote_code": False' in file.read_text(encoding="utf-8"), file
            else:
                assert stated.get("trust_remote_code") is False, f"{file.name}:{call.lineno}"
    assert seen >= 9
