"""Answers kept on disk, one small file each, so that no question is asked (or paid for) twice."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from pathflip.io.files import write_json
from pathflip.text.decompose.replies import ReplyStatement, prompt

__all__ = ["ReplyCache"]


class ReplyCache:
    """Answers by what they depend on: the prompt, the model, its parameters and the report's text.

    The report itself is not stored, but the answer is, and it holds the report's statements: a cache folder is as
    confidential as the reports.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def _path(self, model: str, parameters: Mapping[str, Any], text: str) -> Path:
        depends = [prompt().version, prompt().text, model, dict(parameters), text]
        key = hashlib.sha256(json.dumps(depends, sort_keys=True).encode()).hexdigest()
        return self.folder / key[:2] / f"{key[2:34]}.json"

    def get(self, model: str, parameters: Mapping[str, Any], text: str) -> list[ReplyStatement] | None:
        """The answer kept, or None; a damaged file counts as none."""
        try:
            entry = json.loads(self._path(model, parameters, text).read_text(encoding="utf-8"))
            return [ReplyStatement.model_validate(item) for item in entry["statements"]]
        except (OSError, ValueError, KeyError, TypeError, ValidationError, RecursionError):
            return None

    def put(
        self,
        model: str,
        parameters: Mapping[str, Any],
        text: str,
        statements: Sequence[ReplyStatement],
    ) -> None:
        """Keep an answer (atomically)."""
        entry = {
            "prompt_version": prompt().version,
            "model": model,
            "parameters": dict(parameters),
            "statements": [statement.model_dump() for statement in statements],
        }
        write_json(self._path(model, parameters, text), entry)
