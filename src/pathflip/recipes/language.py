"""Recipes of small language models, for machines where no pretrained one fits."""

from collections.abc import Callable

from pathflip.data.instruct import InstructSpec
from pathflip.errors import ConfigError
from pathflip.train import OptimConfig, TrainConfig
from pathflip.train.language_run import LanguageRecipe

__all__ = ["find_language_recipe", "language_small"]


def language_small() -> LanguageRecipe:
    """A Qwen3 of just under 2 million parameters that reads the training patients' captions and questions, no slide.

    ``pathflip train language_small --captions C --questions Q --splits S --out runs/language``

    The demo's cohort: half a minute on one core. ``runs/language/last`` is a folder in Hugging Face layout.
    """
    return LanguageRecipe(
        name="language_small",
        built={
            "hidden_size": 256, "intermediate_size": 768, "num_hidden_layers": 2, "num_attention_heads": 4,
            "num_key_value_heads": 2, "head_dim": 64, "max_position_embeddings": 2048, "tie_word_embeddings": True,
            "initializer_range": 0.1,
        },
        data=InstructSpec(max_length=512, pack_tokens=256, learn="everything"),
        train=TrainConfig(
            steps=100, batch_size=24, optim=OptimConfig(lr=2e-3, weight_decay=0.05, betas=(0.9, 0.98), warmup_steps=40)
        ),
    )  # fmt: skip


LANGUAGE_RECIPES: dict[str, Callable[[], LanguageRecipe]] = {"language_small": language_small}


def find_language_recipe(name: str) -> LanguageRecipe:
    """A recipe by name.

    Raises:
        ConfigError: no such recipe.
    """
    if name not in LANGUAGE_RECIPES:
        raise ConfigError(f"recipe: got '{name}', expected {', '.join(LANGUAGE_RECIPES)}")
    return LANGUAGE_RECIPES[name]()
