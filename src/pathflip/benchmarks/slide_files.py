"""The feature files a benchmark's slides need: found, counted, and what is missing said."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pathflip.benchmarks.protocol import Inputs, Skipped
from pathflip.errors import CaptionError, ConfigError, ContractError, FeatureError
from pathflip.features import read_features
from pathflip.inference import Aligned, EncodedSlide, encode_slide, load
from pathflip.io.slide_id import join_ids, paths_by_id
from pathflip.io.storage import list_folder

__all__ = ["allow_missing_or_raise", "encode_each", "feature_files", "in_chunks", "open_model", "scores_of_slides"]

SLIDES_AT_ONCE = 32
"""Encoded slides held at a time, so that texts are encoded once for many slides."""


def feature_files(name: str, wanted: Sequence[str], inputs: Inputs) -> tuple[dict[str, Path], list[Skipped]]:
    """The feature file of every slide wanted, and those without one.

    Raises:
        ConfigError: some have none, and missing slides were not allowed; or all have none.
    """
    files: list[Path] = []
    for path in inputs.features:
        if path.is_dir():
            files += [p for p in list_folder(path) if p.suffix.lower() == ".h5" and not p.name.startswith(".")]
        elif path.is_file():
            files.append(path)
        else:
            raise ConfigError(f"'{path}': no such file or folder of features; check the path")
    by_id = paths_by_id(files)
    unique = list(dict.fromkeys(wanted))
    slide_of = join_ids(unique, by_id)
    file_of = {one: by_id[slide_of[one]] for one in unique if one in slide_of}
    missing = [Skipped(one, "no feature file") for one in unique if one not in file_of]
    if not file_of:
        example = f"'{next(iter(by_id))}'" if by_id else "nothing"
        raise ConfigError(
            f"{name}: none of its {len(unique)} slides has a feature file: slides are named '{unique[0]}' and the "
            f"like, features {example}; expected the same names"
        )
    allow_missing_or_raise(name, missing, len(unique), "slides", inputs)
    return file_of, missing


def allow_missing_or_raise(name: str, missing: Sequence[Skipped], total: int, what: str, inputs: Inputs) -> None:
    """Missing items never make a test set smaller in silence.

    Raises:
        ConfigError: items are missing and ``allow_missing`` was not said.
    """
    if missing and not inputs.allow_missing:
        shown = ", ".join(f"'{one.item}'" for one in missing[:3])
        raise ConfigError(
            f"{name}: {len(missing)} of {total} {what} cannot be scored ({missing[0].reason}: {shown}"
            f"{' …' if len(missing) > 3 else ''}); expected all of them: add them, or give --allow-missing and both "
            "numbers are printed"
        )


def open_model(inputs: Inputs) -> Aligned:
    """The alignment model to measure.

    Raises:
        ConfigError: none is given.
    """
    if inputs.model is None:
        raise ConfigError("benchmark: give --model, the checkpoint directory of an alignment model")
    return load(inputs.model, inputs.device)


def encode_each(
    name: str, model: Aligned, files: dict[str, Path], inputs: Inputs, skipped: list[Skipped]
) -> Iterator[tuple[str, EncodedSlide]]:
    """Slides one by one; an unreadable file is skipped where missing slides are allowed.

    Raises:
        FeatureError: an unreadable file, and missing slides were not allowed. ContractError: features of another kind.
    """
    for done, (slide, file) in enumerate(files.items(), start=1):
        try:
            encoded = encode_slide(model, read_features(file))
        except ContractError:
            raise
        except (FeatureError, CaptionError) as error:
            if not inputs.allow_missing:
                raise FeatureError(f"{name}: {error}; or give --allow-missing to score the other slides") from None
            skipped.append(Skipped(slide, "its feature file cannot be read"))
            continue
        inputs.progress(done, len(files), slide)
        yield slide, encoded


def in_chunks(slides: Iterator[tuple[str, EncodedSlide]], size: int = SLIDES_AT_ONCE) -> Iterator[list[Any]]:
    """Some encoded slides at a time."""
    chunk: list[Any] = []
    for one in slides:
        chunk.append(one)
        if len(chunk) == size:
            yield chunk
            chunk = []
    if chunk:
        yield chunk


def scores_of_slides(
    slides: Iterator[tuple[str, EncodedSlide]], score: Callable[[list[EncodedSlide]], np.ndarray]
) -> tuple[list[str], np.ndarray]:
    """Slide names, and a row of scores each; slides are let go when they are scored."""
    names: list[str] = []
    parts = []
    for chunk in in_chunks(slides):
        names += [name for name, _ in chunk]
        parts.append(score([encoded for _, encoded in chunk]))
    if not parts:
        raise FeatureError("benchmark: no slide could be read; expected one at least")
    return names, np.concatenate(parts)
