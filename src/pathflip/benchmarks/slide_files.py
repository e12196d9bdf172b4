"""The feature files a benchmark's slides or cases need: found, counted, and what is missing said."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from pathflip.benchmarks.protocol import Inputs, Skipped
from pathflip.data.case_items import by_part, cases_of_folders, join_reports
from pathflip.errors import CaptionError, ConfigError, ContractError, FeatureError
from pathflip.inference import Aligned, EncodedCase, EncodedSlide, encode_files, load
from pathflip.io.slide_id import join_ids, paths_by_id
from pathflip.io.storage import list_folder
from pathflip.text.case_tables import read_cases
from pathflip.types import Case

__all__ = [
    "all_files", "allow_missing_or_raise", "cases_at", "encode_each", "feature_files", "in_chunks", "item_files",
    "open_model", "scores_of_slides",
]  # fmt: skip

Files = TypeVar("Files")
Encoded = EncodedSlide | EncodedCase

SLIDES_AT_ONCE = 32
"""Encoded slides held at a time, so that texts are encoded once for many slides."""


def feature_files(name: str, wanted: Sequence[str], inputs: Inputs) -> tuple[dict[str, Path], list[Skipped]]:
    """The feature file of every slide wanted, and those without one.

    Raises:
        ConfigError: some have none, and missing slides were not allowed; or all have none.
    """
    if inputs.cases is not None:
        raise ConfigError(f"{name}: --cases cannot be used here, its items are slides; leave it out")
    return _joined(name, wanted, paths_by_id(all_files(inputs)), inputs)


def item_files(name: str, wanted: Sequence[str], inputs: Inputs) -> tuple[dict[str, tuple[Path, ...]], list[Skipped]]:
    """The feature files of every item wanted, of a slide or with ``inputs.cases`` of a case, and items without any.

    Raises:
        ConfigError: see :func:`feature_files`. CaptionError: the table of cases cannot be read.
    """
    files = all_files(inputs)
    if inputs.cases is None:
        alone, missing = _joined(name, wanted, paths_by_id(files), inputs)
        return {one: (file,) for one, file in alone.items()}, missing
    joined = join_reports(files, cases_at(inputs))
    items = [one for item in joined.items for one in ([item] if item.name in wanted else by_part([item]))]
    by_name = {item.name: item.files for item in items} | {one: (file,) for one, file in joined.lonely_files.items()}
    return _joined(name, wanted, by_name, inputs)


def cases_at(inputs: Inputs) -> list[Case]:
    """The cases that ``inputs.cases`` tells of."""
    assert inputs.cases is not None
    return cases_of_folders(all_files(inputs)) if inputs.cases == "folders" else read_cases(inputs.cases)


def all_files(inputs: Inputs) -> list[Path]:
    """Every feature file of the inputs, those of folders included.

    Raises:
        ConfigError: a path that is neither file nor folder.
    """
    files: list[Path] = []
    for path in inputs.features:
        if path.is_dir():
            files += [p for p in list_folder(path) if p.suffix.lower() == ".h5" and not p.name.startswith(".")]
        elif path.is_file():
            files.append(path)
        else:
            raise ConfigError(f"'{path}': no such file or folder of features; check the path")
    return files


def _joined(
    name: str, wanted: Sequence[str], by_id: Mapping[str, Files], inputs: Inputs
) -> tuple[dict[str, Files], list[Skipped]]:
    """The files of the names wanted, and the names without any."""
    items = "slides" if inputs.cases is None else "cases"
    unique = list(dict.fromkeys(wanted))
    slide_of = join_ids(unique, by_id)
    file_of = {one: by_id[slide_of[one]] for one in unique if one in slide_of}
    missing = [Skipped(one, "no feature file") for one in unique if one not in file_of]
    if not file_of:
        example = f"'{next(iter(by_id))}'" if by_id else "nothing"
        raise ConfigError(
            f"{name}: none of its {len(unique)} {items} has a feature file: {items} are named '{unique[0]}' and the "
            f"like, features {example}; expected the same names"
        )
    allow_missing_or_raise(name, missing, len(unique), items, inputs)
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
    name: str, model: Aligned, files: Mapping[str, tuple[Path, ...]], inputs: Inputs, skipped: list[Skipped]
) -> Iterator[tuple[str, Encoded]]:
    """Slides or cases one by one; an unreadable file is skipped where missing slides are allowed.

    Raises:
        FeatureError: an unreadable file, and missing slides were not allowed. ContractError: features of another kind.
    """
    for done, (slide, own) in enumerate(files.items(), start=1):
        try:
            encoded = encode_files(model, own, slide)
        except ContractError:
            raise
        except (FeatureError, CaptionError) as error:
            if not inputs.allow_missing:
                raise FeatureError(f"{name}: {error}; or give --allow-missing to score the other slides") from None
            skipped.append(Skipped(slide, "its feature file cannot be read"))
            continue
        inputs.progress(done, len(files), slide)
        yield slide, encoded


def in_chunks(slides: Iterator[tuple[str, Encoded]], size: int = SLIDES_AT_ONCE) -> Iterator[list[Any]]:
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
    slides: Iterator[tuple[str, Encoded]], score: Callable[[list[Encoded]], np.ndarray]
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
