"""Recipes are complete, and wrong settings and mixed cohorts are refused with the right one."""

import numpy as np
import pytest

from pathflip.errors import ConfigError, FeatureError
from pathflip.evaluate.alignment import evaluate_checkpoint
from pathflip.features import write_features
from pathflip.geometry import SlideInfo, TileSpec
from pathflip.models import build_config
from pathflip.recipes.align import RECIPES, AlignRecipe, align_base, find_recipe
from pathflip.recipes.settings import with_settings
from pathflip.train.align_run import train_align
from pathflip.types import Caption, SlideFeatures


@pytest.mark.parametrize("name", sorted(RECIPES))
def test_every_recipe_describes_a_model(name):
    recipe = find_recipe(name)
    assert recipe.name == name
    build_config({**recipe.model, "feature_dim": 8, "vocab_size": 100})
    assert "pathflip train" in RECIPES[name].__doc__ or "align_base" in RECIPES[name].__doc__


def test_settings_reach_deep():
    changed = with_settings(align_base(), ["train.optim.lr=0.5", "model.width=64", "text.sampler=published"])
    assert changed.train.optim.lr == 0.5
    assert changed.model["width"] == 64
    assert changed.text.sampler == "published"


@pytest.mark.parametrize(
    ("setting", "said"),
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
def test_wrong_settings_are_named(setting, said):
    with pytest.raises(ConfigError, match=said):
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
    said = r"4 feature files of 2 kinds \(two, 3 wide.*odd\.h5.*a\.h5"
    with pytest.raises(FeatureError, match=said):
        train_align(align_base(), mixed, captions, tmp_path / "run")
    halves = {"val_files": mixed[2:], "val_captions": captions[2:]}
    with pytest.raises(FeatureError, match=said):  # validation slides count too
        train_align(align_base(), mixed[:2], captions[:2], tmp_path / "run", **halves)
    assert not (tmp_path / "run").exists()
    with pytest.raises(FeatureError, match=said):
        evaluate_checkpoint(tmp_path / "run", mixed, captions=tmp_path / "captions.jsonl")
