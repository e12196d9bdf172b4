"""``result.json``: a benchmark's result with all that is needed to trust it, or to doubt it."""

import csv
import hashlib
import json
import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, fields
from datetime import UTC, datetime
from io import StringIO
from pathlib import Path
from typing import Any

from pathflip import __version__
from pathflip.benchmarks.protocol import Inputs, Outcome, Protocol, Score
from pathflip.checkpoint import stored_caution
from pathflip.errors import CaptionError
from pathflip.io.files import write_json, write_text
from pathflip.io.tables import plain_cell, read_utf8

__all__ = [
    "FORMAT",
    "FORMAT_VERSION",
    "as_result",
    "digest_of_path",
    "model_row",
    "read_result",
    "weights_folder",
    "write_files",
]

FORMAT = "pathflip-benchmark-result"
FORMAT_VERSION = 1
"""Raised when a reader of the old version would misread the new one (docs/formats.md)."""
_WEIGHTS = ("model.safetensors", "assistant.safetensors")
_SHOWN_ITEMS = 20


def digest_of_path(path: Path) -> str:
    """SHA-256 of a file; of a folder, over the names and digests of all files in it (sorted)."""
    if path.is_file():
        with path.open("rb") as handle:
            return hashlib.file_digest(handle, "sha256").hexdigest()
    whole = hashlib.sha256()
    for file in sorted(p for p in path.rglob("*") if p.is_file() and not p.name.startswith(".")):
        whole.update(f"{file.relative_to(path).as_posix()} {digest_of_path(file)}\n".encode())
    return whole.hexdigest()


def weights_folder(place: Path) -> Path | None:
    """The folder with the weights of a model or assistant: itself, or "best" or "last" in it; None where none is."""
    return next((f for f in (place, place / "best", place / "last") if any((f / w).is_file() for w in _WEIGHTS)), None)


def model_row(inputs: Inputs) -> dict[str, Any]:
    """What was measured: kind, folder or file, and SHA-256 of its weights (or of the predictions)."""
    if inputs.predictions is not None:
        return {"kind": "predictions", "name": inputs.predictions.name, "sha256": digest_of_path(inputs.predictions)}
    place = inputs.assistant or inputs.model
    if place is None:
        return {"kind": "none", "name": "", "sha256": ""}
    folder = weights_folder(place) or place
    whole = hashlib.sha256()
    for file in sorted(f for name in _WEIGHTS for f in folder.rglob(name)):
        whole.update(digest_of_path(file).encode())
    return {
        "kind": "assistant" if inputs.assistant else "model",
        "name": f"{folder.parent.name}/{folder.name}" if folder != place else folder.name,
        "sha256": whole.hexdigest(),
    }


def caution(inputs: Inputs) -> str:
    """What must stand beside every number of the model measured; "" where predictions are scored, or none is."""
    place = inputs.assistant or inputs.model
    if inputs.predictions is not None or place is None:
        return ""
    folder = weights_folder(place) or place
    return stored_caution(folder / "aligned" if inputs.assistant else folder)


def as_result(protocol: Protocol, inputs: Inputs, outcome: Outcome) -> dict[str, Any]:
    """The content of ``result.json``; numbers that are not finite become null."""
    headline = outcome.scores[0]
    reasons = Counter(one.reason for one in outcome.skipped)
    result = {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "pathflip_version": __version__,
        "made": datetime.now(UTC).isoformat(timespec="seconds"),
        "protocol": {
            "name": protocol.name, "title": protocol.title, "metric": protocol.metric, "table": protocol.table,
            "source": protocol.source,
        },
        "test_set": {
            "file": inputs.data.name, "sha256": digest_of_path(inputs.data), "set": outcome.test_set,
            "published_set": outcome.published_applies,
        },
        "scored": outcome.scored,
        "total": outcome.total,
        "skipped": {
            "number": len(outcome.skipped),
            "reasons": dict(reasons),
            "first": [one.item for one in outcome.skipped[:_SHOWN_ITEMS]],
        },
        "metric": {"measure": headline.measure, "group": headline.group, "value": headline.value,
                   "low": headline.low, "high": headline.high, "interval": "95 % over patients"},
        "chance_level": headline.chance,
        "text_only": headline.text_only,
        "baselines": dict(headline.baselines),
        "scores": [_score_row(score) for score in outcome.scores],
        "model": model_row(inputs),
        "against": outcome.against,
        "settings": {
            "resamples": inputs.resamples, "seed": inputs.seed, "allow_missing": inputs.allow_missing,
            "other_set": inputs.other_set, "gallery_normalised": inputs.gallery_normalised,
            "text_only": inputs.text_only.name if inputs.text_only else None,
            "against": inputs.against.name if inputs.against else None,
            **{name: str(value) for name, value in inputs.settings.items() if value is not None},
        },
        "published": [asdict(p) for p in protocol.published],
        "tables": {title: {"header": list(header), "rows": [list(row) for row in rows]}
                   for title, (header, rows) in outcome.tables.items()},
        "notes": list(outcome.notes),
    }  # fmt: skip
    return _finite(result)


def _score_row(score: Score) -> dict[str, Any]:
    """A score without what only comparisons need (``comparison.npz`` holds that)."""
    return {one.name: getattr(score, one.name) for one in fields(score) if one.name not in ("drawn", "right")}


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): _finite(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(one) for one in value]
    return value.item() if hasattr(value, "item") else value


def write_files(folder: Path, result: Mapping[str, Any], outcome: Outcome) -> None:
    """``result.json``, ``items.csv`` (a row an item) and ``skipped.csv`` (where items were) into a folder."""
    write_json(folder / "result.json", result)
    if outcome.items:
        write_text(folder / "items.csv", _csv([dict(row) for row in outcome.items]))
    if outcome.skipped:
        write_text(folder / "skipped.csv", _csv([asdict(one) for one in outcome.skipped]))


def _csv(rows: list[dict[str, Any]]) -> str:
    text = StringIO()
    columns = list(dict.fromkeys(key for row in rows for key in row))
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows({key: plain_cell(value) for key, value in row.items()} for row in rows)
    return text.getvalue()


def read_result(path: Path) -> dict[str, Any]:
    """A result that was written before.

    Args:
        path: its folder, or ``result.json`` itself.

    Raises:
        CaptionError: there is none, or it is of another program or version.
    """
    file = path / "result.json" if path.is_dir() else path
    if not file.is_file():
        raise CaptionError(f"'{path}': no result.json; expected a folder that `pathflip benchmark NAME --out` wrote")
    try:
        result: dict[str, Any] = json.loads(read_utf8(file, "a benchmark's result"))
    except (ValueError, RecursionError) as error:
        raise CaptionError(f"'{file}': not JSON ({error}); expected result.json, or its folder") from None
    if not isinstance(result, dict) or result.get("format") != FORMAT:
        raise CaptionError(f"'{file}': is no result of a benchmark (format is not '{FORMAT}')")
    if result.get("format_version") != FORMAT_VERSION:
        raise CaptionError(
            f"'{file}': format_version is {result.get('format_version')!r}, expected {FORMAT_VERSION}; run the "
            "benchmark again with this version"
        )
    lacking = [key for key in ("protocol", "metric", "scores", "scored", "total", "test_set") if key not in result]
    if lacking:
        raise CaptionError(f"'{file}': lacks '{lacking[0]}'; it is damaged: run the benchmark again")
    return result
