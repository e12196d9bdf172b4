"""A small language model learns words from the cohort's text: what is learned, what is written, what is refused."""

import json

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from pathflip.assistant import build_language_model
from pathflip.data.instruct import InstructDataset, InstructSpec
from pathflip.data.instruct_examples import read_examples
from pathflip.errors import ConfigError
from pathflip.published.splice import IGNORED
from pathflip.recipes.language import find_language_recipe, language_small
from pathflip.recipes.settings import with_settings
from pathflip.text.chat import ChatTemplate
from pathflip.train.language_run import _see_nothing, train_language
from tiny_assistant import chat_tokenizer, save_cohort


@pytest.fixture(scope="module")
def examples(tmp_path_factory):
    folder = save_cohort(tmp_path_factory.mktemp("cohort"))
    return read_examples(folder / "captions.jsonl") + read_examples(folder / "questions.jsonl")


def tiny(**changes):
    small = ["built.hidden_size=32", "built.intermediate_size=48", "built.head_dim=8", "train.batch_size=4"]
    return with_settings(language_small(), [*small, *(f"{key}={value}" for key, value in changes.items())])


def test_everything_that_is_said_is_learned_and_nothing_is_shown(examples):
    template = ChatTemplate(chat_tokenizer("chatml"))
    data = InstructDataset(examples, _see_nothing, template, InstructSpec(learn="everything"), 1)
    batch = data.batch(range(len(data)), np.random.default_rng(0))
    real = batch.conversation >= 0
    assert torch.equal(batch.labels[real], batch.ids[real])
    assert (batch.labels[~real] == IGNORED).all()
    assert len(batch.vectors) == 0
    answers = InstructDataset(examples, _see_nothing, template, InstructSpec(), 1)
    assert (answers.batch([0], np.random.default_rng(0)).labels == IGNORED).any()


@pytest.mark.slow
def test_it_learns_and_leaves_a_folder_any_program_opens(tmp_path, examples):
    result = train_language(tiny(**{"train.steps": 60}), examples, tmp_path / "words", note="painted")
    folder = tmp_path / "words" / "last"
    assert result.step == 60
    rows = [json.loads(line) for line in (tmp_path / "words" / "metrics.jsonl").read_text().splitlines()]
    losses = [row["loss"] for row in rows if "loss" in row]
    assert losses[-1] < 0.6 * losses[0]
    lm, tokenizer = AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    ids = torch.tensor([tokenizer.encode(examples[0].turns[1].text)])
    shuffled = ids[:, torch.randperm(ids.shape[1], generator=torch.Generator().manual_seed(0))]
    with torch.no_grad():
        text_loss, noise = (lm(input_ids=x, labels=x).loss.item() for x in (ids, shuffled))
    assert text_loss < noise
    assert json.loads((folder / "pathflip.json").read_text())["note"] == "painted"
    assert not list(folder.glob("*.bin"))


def test_it_has_just_under_two_million_parameters_and_other_names_are_refused():
    recipe = language_small()
    lm = build_language_model(recipe.built, recipe.vocab_size, 1, 0)
    assert 1.9e6 < sum(p.numel() for p in lm.parameters()) < 2e6
    with pytest.raises(ConfigError, match="expected language_small"):
        find_language_recipe("language_large")


def test_unknown_settings_of_the_language_model_are_refused(tmp_path, examples):
    with pytest.raises(ConfigError, match="unknown setting 'hidden_sizes'"):
        train_language(tiny(**{"built.hidden_sizes": 3}), examples, tmp_path / "words")
