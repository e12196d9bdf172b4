"""``train --start``: an alignment run that begins with the weights of another, or of an imported model."""

import json
import warnings

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from pathflip.checkpoint import InputContract, load_checkpoint, save_checkpoint
from pathflip.cli import app
from pathflip.data.align import TextSpec
from pathflip.errors import CheckpointError, ConfigError, ContractError, TrainingError
from pathflip.features import read_features
from pathflip.models import build_model
from pathflip.recipes.align import find_recipe
from pathflip.recipes.settings import with_settings
from pathflip.text.tokenizer import train_tokenizer
from pathflip.train.align_run import train_align
from small_cohort import WORDS, short, small_cohort
from text_encoder_files import encoder_folder

SIZES = {"width": 16, "embed_dim": 8, "text_width": 16, "text_heads": 2, "text_ffn": 16}


def recipe_of(name="align_base", steps=1, **settings):
    """A recipe that moves nothing (its learning rate is next to 0), so that a run ends with what it began with."""
    settings = {**{f"model.{key}": value for key, value in SIZES.items()}, "text.pretrained": "", **settings}
    still = ["train.optim.lr=1e-12", "train.optim.weight_decay=0", f"train.steps={steps}", "train.eval_every=0"]
    sets = [f"{name}={value}" for name, value in settings.items()]
    return with_settings(
        find_recipe(name), [*still, "train.batch_size=4", "train.save_every=0", "vocab_size=80", *sets]
    )


@pytest.fixture(scope="module")
def cohort(tmp_path_factory):
    return small_cohort(tmp_path_factory.mktemp("cohort"), np.random.default_rng(0))


@pytest.fixture(scope="module")
def earlier(cohort, tmp_path_factory):
    """A trained run."""
    out = tmp_path_factory.mktemp("earlier") / "run"
    sizes = {f"model__{key}": value for key, value in SIZES.items()}
    train_align(short(text__pretrained="", train__seed=5, **sizes), *cohort, out)
    return out


def weights(run):
    return load_checkpoint(run / "last").model.state_dict()


@pytest.mark.slow
def test_the_same_model_begins_with_all_of_it_words_and_statistics_too(cohort, earlier, tmp_path):
    files, captions = cohort
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # nothing is left out, so nothing is said
        train_align(recipe_of(), files[:4], captions[:4], tmp_path / "run", start=earlier)
    own, before = weights(tmp_path / "run"), weights(earlier)
    assert own.keys() == before.keys()
    for name, value in before.items():
        torch.testing.assert_close(own[name], value, atol=1e-6, rtol=0, msg=name)
    fresh = tmp_path / "fresh"
    train_align(recipe_of(), files[:4], captions[:4], fresh)
    assert not torch.allclose(weights(fresh)["key_head.weight"], before["key_head.weight"], atol=1e-3)
    assert not torch.allclose(weights(fresh)["stem.feature_mean"], before["stem.feature_mean"], atol=1e-3)
    record = json.loads((tmp_path / "run" / "last" / "config.json").read_text())["recipe"]["start"]
    assert record["loaded"] == len(before)
    assert record["path"] == str(earlier / "last")
    old, new = (load_checkpoint(run / "last").tokenizer.backend.to_str() for run in (earlier, tmp_path / "run"))
    assert old == new


@pytest.mark.slow
def test_what_does_not_fit_is_left_out_and_said_in_one_line(cohort, earlier, tmp_path):
    recipe = recipe_of(**{"model.embed_dim": 12, "model.context": "false"})
    with pytest.warns(UserWarning, match="start ") as caught:
        train_align(recipe, *cohort, tmp_path / "run", start=earlier)
    line = next(str(one.message) for one in caught if str(one.message).startswith("start "))
    assert "of another shape (caption_head.bias, caption_head.weight, …)" in line
    assert len(line.splitlines()) == 1
    own, before = weights(tmp_path / "run"), weights(earlier)
    assert torch.allclose(own["text.embeddings.word.weight"], before["text.embeddings.word.weight"], atol=1e-6)
    assert own["stem.layers.0.weight"].shape != before["stem.layers.0.weight"].shape
    assert torch.allclose(own["stem.layers.3.weight"], before["stem.layers.3.weight"], atol=1e-6)


@pytest.mark.slow
def test_rows_of_another_tokenizer_are_other_words(cohort, earlier, tmp_path):
    """The same number of tokens, so the same shape: taking the rows over would be silently wrong."""
    size = load_checkpoint(earlier / "last").tokenizer.vocab_size
    other = train_tokenizer(["Nothing of that kind, but wholly other words here."] * 3 + list(WORDS), size)
    other.save(tmp_path / "tokenizer")
    assert other.vocab_size == size
    with pytest.warns(UserWarning, match=r"1 of another tokenizer \(text.embeddings.word.weight\)"):
        train_align(recipe_of(tokenizer=tmp_path / "tokenizer"), *cohort, tmp_path / "run", start=earlier)
    own, before = weights(tmp_path / "run"), weights(earlier)
    assert not torch.allclose(own["text.embeddings.word.weight"], before["text.embeddings.word.weight"], atol=1e-3)
    assert torch.allclose(own["key_head.weight"], before["key_head.weight"], atol=1e-6)


@pytest.mark.slow
def test_the_head_on_another_text_encoder_begins_anew(cohort, tmp_path):
    one, two = encoder_folder(tmp_path / "bert"), encoder_folder(tmp_path / "roberta", "roberta")
    train_align(recipe_of(**{"text.pretrained": one}), *cohort, tmp_path / "first")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        train_align(recipe_of(**{"text.pretrained": one}), *cohort, tmp_path / "same", start=tmp_path / "first")
    with pytest.warns(UserWarning, match=r"of another text encoder \(pretrained_text\."):
        train_align(recipe_of(**{"text.pretrained": two}), *cohort, tmp_path / "other", start=tmp_path / "first")
    name = "pretrained_text.vector_mean"
    first, same, other = (weights(tmp_path / run)[name] for run in ("first", "same", "other"))
    assert torch.equal(first, same)
    assert not torch.allclose(first, other)


def save_start(folder, kind="pathflip", tokenizer=None, **contract):
    sizes = SIZES if kind == "pathflip" else {"width": 16, "num_layers": 1, "num_heads": 2, "region_heads": 2}
    torch.manual_seed(3)
    model = build_model({"kind": kind, "feature_dim": 8, "vocab_size": 80, **sizes})
    facts = {"encoder": "e", "dim": 8, "tile_px": 256, "mpp": 0.5, **contract}
    return save_checkpoint(folder, model, contract=InputContract(**facts), tokenizer=tokenizer, text=TextSpec())


@pytest.mark.parametrize(
    ("contract", "message"),
    [
        ({"encoder": "uni_v1"}, "encoder of the features is 'e', it was trained on 'uni_v1'"),
        ({"tile_px": 224}, "tile_px of the features is 256, it was trained on 224"),
        ({"mpp": 1.0}, "mpp of the features is 0.5, it was trained on 1.0"),
        ({"stride_px": 128}, "stride_px of the features is 256, it was trained on 128"),
    ],
)
def test_a_start_on_other_features_is_refused_before_anything_is_written(contract, message, cohort, tmp_path):
    start = save_start(tmp_path / "start", **contract)
    with pytest.raises(ContractError, match=message):
        train_align(recipe_of(), *cohort, tmp_path / "run", start=start)
    assert not (tmp_path / "run").exists()


def test_a_start_of_which_nothing_fits_or_that_is_not_there_is_refused(cohort, tmp_path):
    start = save_start(tmp_path / "start", kind="published")
    with pytest.raises(ConfigError, match=r"none of its weights fits: kind is 'published' there, 'pathflip' here"):
        train_align(recipe_of(), *cohort, tmp_path / "run", start=start)
    with pytest.raises(CheckpointError, match="no such checkpoint"):
        train_align(recipe_of(), *cohort, tmp_path / "run", start=tmp_path / "absent")


@pytest.mark.slow
def test_an_imported_model_is_trained_on(cohort, tmp_path):
    """A published model without a tokenizer of its own, as ``pathflip import`` writes it."""
    start = save_start(tmp_path / "imported", kind="published")
    sets = {"model": '{"kind": "published", "width": 16, "num_layers": 1, "num_heads": 2, "region_heads": 2}'}
    still = ["train.optim.lr=1e-12", "train.optim.weight_decay=0", "train.steps=1", "vocab_size=80", "regions.side=2"]
    recipe = with_settings(
        find_recipe("align_published"), [*still, "train.batch_size=4", "train.precision=no", f"model={sets['model']}"]
    )
    with pytest.warns(UserWarning, match="word.weight"):
        train_align(recipe, *cohort, tmp_path / "run", start=start)
    own, before = weights(tmp_path / "run"), load_checkpoint(start).model.state_dict()
    taken = [name for name in before if not name.endswith("embeddings.word.weight")]
    assert len(taken) == len(before) - 1 > 20
    for name in taken:
        torch.testing.assert_close(own[name], before[name], atol=1e-6, rtol=0, msg=name)


@pytest.mark.slow
def test_going_on_with_another_start_is_refused(cohort, earlier, tmp_path):
    train_align(recipe_of(), *cohort, tmp_path / "run", start=earlier)
    other = tmp_path / "other"
    train_align(recipe_of(**{"train.seed": 9}), *cohort, other)
    with pytest.raises(TrainingError, match="resume: the weights of --start differ"):
        train_align(recipe_of(), *cohort, tmp_path / "run", start=other, resume=True)


@pytest.mark.slow
def test_the_command(cohort, earlier, tmp_path):
    files, captions = cohort
    table = tmp_path / "captions.csv"
    table.write_text("slide,patient,text\n" + "".join(f"{c.slide_id},{c.patient},{c.text}\n" for c in captions))
    sets = [word for key, value in SIZES.items() for word in ("--set", f"model.{key}={value}")]
    words = ["train", "align_base", "--features", str(files[0].parent), "--captions", str(table), *sets]
    words += ["--set", "train.steps=1", "--set", "text.pretrained=", "--start", str(earlier), "--out"]
    done = CliRunner().invoke(app, [*words, str(tmp_path / "run")])
    assert done.exception is None, done.output
    assert "start" in json.loads((tmp_path / "run" / "last" / "config.json").read_text())["recipe"]
    assert read_features(files[0]).encoder == "e"
