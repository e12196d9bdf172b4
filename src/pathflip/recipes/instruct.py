"""Assistant recipes: the two published stages, and small twins that train on two processor cores."""

import difflib
from collections.abc import Callable

from pathflip.assistant import (
    LanguageModelSpec,
    LoraSpec,
)
from pathflip.data.instruct import InstructSpec
from pathflip.errors import ConfigError
from pathflip.train import (
    OptimConfig,
    TrainConfig,
)
from pathflip.train.instruct_run import InstructRecipe

__all__ = [
    "find_instruction_recipe",
    "instruct_small_stage1",
    "instruct_small_stage2",
    "instruct_stage1",
    "instruct_stage2",
]


def instruct_stage1() -> InstructRecipe:
    """The published first stage: captions teach the projector; language model and alignment model are frozen.

    ``pathflip train instruct_stage1 --aligned runs/base --features F --captions C --out runs/stage1``

    Published hyper-parameters (docs/assistant.md): Qwen3-4B-Instruct, 128 patches, 5 epochs, learning rate 1e-3, no
    weight decay, 5 % warm-up, cosine to 0. About 8 GB of weights: meant for one GPU of 24 GB or more.
    """
    return InstructRecipe(
        name="instruct_stage1",
        learn=("caption",),
        language=LanguageModelSpec(source="Qwen/Qwen3-4B-Instruct-2507", train="frozen", dtype="bfloat16"),
        data=InstructSpec(max_length=2048),
        epochs=5,
        train=TrainConfig(
            batch_size=4,
            accumulation=4,
            precision="bf16",
            optim=OptimConfig(lr=1e-3, weight_decay=0.0, warmup_factor=1e-3),
        ),
    )


def instruct_stage2() -> InstructRecipe:
    """The published second stage: captions, questions and conversations teach projector and LoRA adapters.

    ``pathflip train instruct_stage2 --start runs/stage1 --features F --captions C --questions Q --out runs/stage2``

    Published hyper-parameters: LoRA of rank 64, alpha 128, dropout 0.05 on all linear layers, 2 epochs, learning rate
    1e-4, weight decay 0.05, one conversation a micro-batch and 16 micro-batches a step.
    """
    return InstructRecipe(
        name="instruct_stage2",
        language=LanguageModelSpec(
            source="Qwen/Qwen3-4B-Instruct-2507", train="lora", lora=LoraSpec(), dtype="bfloat16",
            gradient_checkpointing=True,
        ),
        data=InstructSpec(max_length=2048),
        epochs=2,
        train=TrainConfig(
            batch_size=1,
            accumulation=16,
            precision="bf16",
            optim=OptimConfig(lr=1e-4, weight_decay=0.05, decay="all", warmup_factor=1e-2),
        ),
    )  # fmt: skip


def instruct_small_stage1() -> InstructRecipe:
    """The first stage at the size of two processor cores: captions teach the projector, the language model is frozen.

    ``pathflip train instruct_small_stage1 --aligned runs/base --language-model runs/language/last --features F
    --captions C --out runs/small1``

    The language model is what ``pathflip train language_small`` wrote (:mod:`pathflip.recipes.language`). Some
    twenty seconds on one core with the demo's 280 captions.
    """
    return InstructRecipe(
        name="instruct_small_stage1",
        learn=("caption",),
        assistant={"num_patches": 4, "projector_width": 256, "vector_dropout": 0.1, "option_loss": 1.25},
        num_probes=48,
        language=LanguageModelSpec(train="frozen"),
        data=InstructSpec(max_length=512, pack_tokens=256),
        train=TrainConfig(steps=40, batch_size=16, optim=OptimConfig(lr=3e-3, weight_decay=0.0, warmup_steps=10)),
    )


def instruct_small_stage2() -> InstructRecipe:
    """The second stage at that size: captions and questions teach projector and language model, whole.

    ``pathflip train instruct_small_stage2 --start runs/small1 --features F --captions C --questions Q --out runs/two``

    The demo's cohort (3,175 questions, 560 yes-or-no questions and 280 captions of the training patients): some two
    minutes on one core. What it reaches beside the same model without the slide is told in docs/assistant.md.
    """
    return InstructRecipe(
        name="instruct_small_stage2",
        language=LanguageModelSpec(train="full"),
        data=InstructSpec(max_length=512, pack_tokens=256),
        train=TrainConfig(
            steps=500,
            batch_size=24,
            optim=OptimConfig(lr=2e-3, weight_decay=0.05, betas=(0.9, 0.98), warmup_steps=40),
        ),
    )


INSTRUCTION_RECIPES: dict[str, Callable[[], InstructRecipe]] = {
    recipe.__name__: recipe
    for recipe in (instruct_stage1, instruct_stage2, instruct_small_stage1, instruct_small_stage2)
}


def find_instruction_recipe(name: str) -> InstructRecipe:
    """A recipe by name.

    Raises:
        ConfigError: no such recipe; the closest name is offered.
    """
    if name not in INSTRUCTION_RECIPES:
        close = difflib.get_close_matches(name, INSTRUCTION_RECIPES, n=1)
        hint = f"; did you mean '{close[0]}'?" if close else ""
        raise ConfigError(f"recipe: got '{name}', expected {', '.join(INSTRUCTION_RECIPES)}{hint}")
    return INSTRUCTION_RECIPES[name]()
