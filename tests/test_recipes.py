"""Recipes are complete, and wrong settings are refused with the right one."""

import pytest

from pathflip.errors import ConfigError
from pathflip.models import build_config
from pathflip.recipes import RECIPES, AlignRecipe, align_base, find_recipe, with_settings


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
        "from pathflip.recipes import align_base\n"
        "def my_run():\n    return align_base().model_copy(update={'name': 'mine'})\n"
        "def wrong():\n    return 3\n"
    )
    assert isinstance(find_recipe(f"{file}:my_run"), AlignRecipe)
    assert find_recipe(f"{file}:my_run").name == "mine"
    with pytest.raises(ConfigError, match="gave int"):
        find_recipe(f"{file}:wrong")
