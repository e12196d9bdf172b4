"""``pathflip train instruct_…``: the half of the verb that teaches an assistant."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pathflip.cli.app import files_in, progress_bar
from pathflip.errors import ConfigError


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
) -> dict[str, Any]:
    """Train, and return the row to print."""
    from pathflip.data.instruct import read_examples
    from pathflip.instruction_recipes import find_instruction_recipe, split_examples, train_instruct
    from pathflip.recipes import with_settings

    chosen = with_settings(find_instruction_recipe(recipe), settings)
    if not texts:
        raise ConfigError(f"train {recipe}: give --captions, --questions or --conversations to learn from")
    parts = split_examples([example for path in texts for example in read_examples(path)], splits)
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
            on_step=lambda row: advance(row["step"], row["steps"], f"loss {row['loss']:.3f}" if "loss" in row else ""),
        )
    return {"out": str(out), "step": result.step, "best": result.best, **result.metrics}
