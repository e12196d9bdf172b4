"""Two systems on the same items of a benchmark: what is kept of each for it, and the paired differences.

Both systems are measured on the same bootstrap cohorts of patients, so a result keeps the value of every measure on
every cohort (``comparison.npz``): the difference of two results is then paired without running either again.
"""

import json
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pathflip.benchmarks.measured import paired_scores
from pathflip.benchmarks.protocol import Inputs, Outcome, Protocol, Score
from pathflip.benchmarks.result import model_row, read_result, weights_folder
from pathflip.errors import CaptionError, ConfigError, PathFLIPError
from pathflip.evaluate.paired import are_right_or_wrong
from pathflip.io.files import atomic_path

__all__ = ["FILE_NAME", "Record", "compare_results", "compared_with", "read_record", "record_of", "write_record"]

FILE_NAME = "comparison.npz"
FORMAT, FORMAT_VERSION = "pathflip-benchmark-comparison", 1

Key = tuple[str, str]
"""Measure and group of a score."""


@dataclass(frozen=True, eq=False)
class Record:
    """What a paired comparison needs of a measured system.

    Attributes:
        name: of the system. protocol: of the benchmark. items: what was scored, item and patient, in order.
        resamples, seed: of the bootstrap. scores: value, values on the cohorts, and what is right, by measure and
            group.
    """

    name: str
    protocol: str
    items: tuple[tuple[str, str], ...]
    resamples: int
    seed: int
    scores: Mapping[Key, Score]


def record_of(name: str, protocol: str, inputs: Inputs, outcome: Outcome) -> Record:
    """The record of a system that was just measured."""
    scores = {(one.measure, one.group): one for one in outcome.scores if one.drawn is not None}
    return Record(name, protocol, outcome.compared_on, inputs.resamples, inputs.seed, scores)


def write_record(folder: Path, record: Record) -> None:
    """Write ``comparison.npz`` (docs/formats.md); nothing where no score can be compared."""
    if not record.scores:
        return
    rows: list[dict[str, Any]] = []
    arrays: dict[str, Any] = {}
    for place, ((measure, group), score) in enumerate(record.scores.items()):
        rows.append({"measure": measure, "group": group, "value": score.value, "number": score.number})
        arrays[f"drawn_{place}"] = np.asarray(score.drawn, np.float64)
        if score.right is not None and are_right_or_wrong(score.right):
            arrays[f"right_{place}"] = np.asarray(score.right).astype(np.uint8)
    about = {
        "format": FORMAT, "format_version": FORMAT_VERSION, "protocol": record.protocol, "seed": record.seed,
        "resamples": record.resamples, "scores": rows, "items": [list(item) for item in record.items],
    }  # fmt: skip
    with atomic_path(folder / FILE_NAME) as temporary, open(temporary, "wb") as handle:
        np.savez_compressed(handle, about=np.array(json.dumps(about)), **arrays)


def read_record(folder: Path, name: str) -> Record:
    """The record in a result's folder.

    Args:
        folder: written by ``pathflip benchmark NAME --out``. name: what to call the system.

    Raises:
        CaptionError: there is none, or it cannot be read.
    """
    file = folder / FILE_NAME
    if not file.is_file():
        raise CaptionError(f"'{folder}': no {FILE_NAME}; its result was written by an older version: run it again")
    try:
        with np.load(file, allow_pickle=False) as stored:
            arrays = {key: stored[key] for key in stored.files}
        about = json.loads(str(arrays["about"]))
        if (about["format"], about["format_version"]) != (FORMAT, FORMAT_VERSION):
            raise CaptionError(f"'{file}': is {about['format']} {about['format_version']}, expected {FORMAT} 1")
        scores = {
            (row["measure"], row["group"]): Score(
                row["measure"], row["group"], row["value"], None, None, row["number"], 0.0,
                drawn=arrays[f"drawn_{place}"], right=arrays.get(f"right_{place}"),
            )
            for place, row in enumerate(about["scores"])
        }  # fmt: skip
        items = tuple((str(item), str(patient)) for item, patient in about["items"])
        return Record(name, about["protocol"], items, int(about["resamples"]), int(about["seed"]), scores)
    except (OSError, ValueError, KeyError, TypeError, zipfile.BadZipFile) as error:
        raise CaptionError(f"'{file}': is damaged ({error}); run the benchmark again") from None


# --- A system against another ----------------------------------------------------------------------------------------


def compared_with(protocol: Protocol, inputs: Inputs, outcome: Outcome) -> Outcome:
    """The outcome with every score compared, item by item, with the same score of ``inputs.against``.

    Raises:
        ConfigError: ``against`` is nothing that can be measured. CaptionError: it is of other items.
    """
    assert inputs.against is not None
    ours = record_of(model_row(inputs)["name"], protocol.name, inputs, outcome)
    theirs, about = _measured(protocol, inputs)
    _refuse_other_items(f"--against '{inputs.against}'", ours, theirs)
    label = theirs.name if theirs.name != ours.name else f"{inputs.against.parent.name}/{theirs.name}"
    rows = differences(ours, theirs)
    if not rows:
        raise CaptionError(f"--against '{inputs.against}': has none of the measures of this result; nothing to compare")
    scores = tuple(
        replace(one, paired={**one.paired, label: rows[one.measure, one.group]})
        if (one.measure, one.group) in rows
        else one
        for one in outcome.scores
    )
    return replace(outcome, scores=scores, against={**about, "name": label})


def _measured(protocol: Protocol, inputs: Inputs) -> tuple[Record, dict[str, Any]]:
    """The other system's record, and what it is; an earlier result is read, anything else is run."""
    against = inputs.against
    assert against is not None
    if (against / "result.json").is_file():
        result = read_result(against)
        name = str(result["model"]["name"] or against.name)
        return read_record(against, name), {**result["model"], "result": str(against)}
    nothing: dict[str, Any] = dict.fromkeys(("against", "model", "assistant", "predictions", "text_only"))
    other = replace(inputs, **(nothing | _kind(against)))
    try:
        outcome = protocol.run(other)
    except PathFLIPError as error:
        raise type(error)(f"--against: {error}") from None
    row = model_row(other)
    return record_of(row["name"], protocol.name, other, outcome), row


def _kind(against: Path) -> dict[str, Any]:
    if against.is_file():
        return {"predictions": against}
    folder = weights_folder(against) if against.is_dir() else None
    if folder is None:
        raise ConfigError(
            f"--against '{against}': expected a file of predictions, the directory of a model or assistant, or the "
            "folder of a result"
        )
    return {"assistant" if (folder / "assistant.safetensors").is_file() else "model": against}


def _refuse_other_items(what: str, ours: Record, theirs: Record) -> None:
    """Refuse to compare what cannot be paired.

    Raises:
        CaptionError: another benchmark or other items. ConfigError: another bootstrap.
    """
    if theirs.protocol != ours.protocol:
        raise CaptionError(f"{what}: is a result of '{theirs.protocol}', expected one of '{ours.protocol}'")
    if theirs.items != ours.items:
        first, second = dict(ours.items), dict(theirs.items)
        apart = [name for name in {**first, **second} if (name in first) != (name in second)]
        example = f"; '{apart[0]}' is in one alone" if apart else "; their order or patients differ"
        raise CaptionError(
            f"{what}: scored {len(second)} items, this one {len(first)}, and they are not the same{example}; expected "
            "the same items of both: a paired comparison needs them"
        )
    if (theirs.resamples, theirs.seed) != (ours.resamples, ours.seed):
        raise ConfigError(
            f"{what}: has {theirs.resamples} resamples with seed {theirs.seed}, this one {ours.resamples} with seed "
            f"{ours.seed}; expected the same: give --resamples {theirs.resamples} --seed {theirs.seed}"
        )


def differences(ours: Record, theirs: Record) -> dict[Key, dict[str, float | None]]:
    """First minus second, for every measure that both have of as many items."""
    rows = {}
    for key, one in ours.scores.items():
        other = theirs.scores.get(key)
        if other is not None and other.number == one.number and _cohorts(one).shape == _cohorts(other).shape:
            rows[key] = paired_scores(one, other)
    return rows


def _cohorts(score: Score) -> NDArray[np.floating]:
    return np.asarray(score.drawn)


# --- Results that were written before --------------------------------------------------------------------------------


def compare_results(
    folders: Sequence[Path], results: Sequence[Mapping[str, Any]]
) -> tuple[list[dict[str, Any]], list[str]]:
    """Every two results of one benchmark, compared on their headline: rows, and why others could not be.

    Args:
        folders: of the results, in the same order.
    """
    rows: list[dict[str, Any]] = []
    notes: list[str] = []
    names = _names(folders, results)
    for i, j in combinations(range(len(results)), 2):
        first, second = results[i], results[j]
        if first["protocol"]["name"] != second["protocol"]["name"]:
            continue
        try:
            ours, theirs = read_record(_folder(folders[i]), names[i]), read_record(_folder(folders[j]), names[j])
            _refuse_other_items(f"'{names[j]}'", ours, theirs)
        except PathFLIPError as error:
            notes.append(f"{first['protocol']['name']}, '{names[i]}' and '{names[j]}' not compared: {error}")
            continue
        headline = (first["metric"]["measure"], first["metric"]["group"])
        compared = differences(ours, theirs)
        key = headline if headline in compared else next(iter(compared), None)
        if key is None:
            notes.append(f"{first['protocol']['name']}, '{names[i]}' and '{names[j]}' not compared: no common measure")
            continue
        rows.append(
            {"benchmark": first["protocol"]["title"], "measure": key[0], "group": key[1], "first": names[i],
             "second": names[j], "number": ours.scores[key].number, "first_value": ours.scores[key].value,
             "second_value": compared[key]["value"], **{k: v for k, v in compared[key].items() if k != "value"}}
        )  # fmt: skip
    return rows, notes


def _folder(path: Path) -> Path:
    return path if path.is_dir() else path.parent


def _names(folders: Sequence[Path], results: Sequence[Mapping[str, Any]]) -> list[str]:
    """A name a result: its system's, and its folder's too where two systems are called alike."""
    plain = [str(result["model"]["name"] or "no model") for result in results]
    return [
        name if plain.count(name) == 1 else f"{name} ({_folder(folder).name})"
        for name, folder in zip(plain, folders, strict=True)
    ]
