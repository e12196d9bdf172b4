"""``pathflip train instruct_…`` and ``language_…``: the part of the verb that teaches an assistant, or words."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from pathflip.cli.app import files_in, progress_bar
from pathflip.errors import ConfigError
from pathflip.io.tables import PLAIN, TableOptions


def train_assistant(
    recipe: str,
    features: Sequence[Path],
    texts: Sequence[Path],
    out: Path,
    *,
    splits: Path | None,
    aligned: Path | None,
    start: Path | None,
    language_model: Path | None,
    settings: Sequence[str],
    resume: bool,
    options: TableOptions = PLAIN,
) -> dict[str, Any]:
    """Train, and return the row to print."""
    from pathflip.recipes.instruct import find_instruction_recipe
    from pathflip.recipes.settings import with_settings
    from pathflip.train.instruct_run import train_instruct

    chosen, parts = with_settings(find_instruction_recipe(recipe), settings), _examples(recipe, texts, splits, options)
    with progress_bar(f"training {chosen.name}") as advance:
        result = train_instruct(
            chosen,
            parts["train"],
            files_in(features, {".h5"}),
            out,
            aligned=aligned,
            start=start,
            language_model=language_model,
            val_examples=parts["val"],
            resume=resume,
            on_step=_shown(advance),
        )
    return {"out": str(out), "step": result.step, "best": result.best, **result.metrics}


def train_words(
    recipe: str,
    texts: Sequence[Path],
    out: Path,
    splits: Path | None,
    settings: Sequence[str],
    resume: bool,
    options: TableOptions = PLAIN,
) -> dict[str, Any]:
    """Train a small language model on the texts of the training patients, and return the row to print."""
    from pathflip.recipes.language import find_language_recipe
    from pathflip.recipes.settings import with_settings
    from pathflip.train.language_run import train_language

    chosen, parts = with_settings(find_language_recipe(recipe), settings), _examples(recipe, texts, splits, options)
    with progress_bar(f"training {chosen.name}") as advance:
        result = train_language(chosen, parts["train"], out, resume=resume, on_step=_shown(advance))
    return {"out": str(out), "step": result.step, "language_model": str(out / "last"), **result.metrics}


def _examples(recipe: str, texts: Sequence[Path], splits: Path | None, options: TableOptions) -> dict[str, Any]:
    """What the files hold, by split."""
    from pathflip.data.instruct_examples import read_examples
    from pathflip.train.instruct_run import split_examples

    if not texts:
        raise ConfigError(f"train {recipe}: give --captions, --questions or --conversations to learn from")
    return split_examples([example for path in texts for example in read_examples(path, options)], splits)


def _shown(advance: Callable[..., None]) -> Callable[[Mapping[str, float]], None]:
    return lambda row: advance(row["step"], row["steps"], f"loss {row['loss']:.3f}" if "loss" in row else "")
