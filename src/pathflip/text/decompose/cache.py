"""Answers kept on disk, one small file each, so that no question is asked (or paid for) twice."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from pathflip.io.files import write_json
from pathflip.text.decompose.replies import ReplySubCaption, prompt

__all__ = ["ReplyCache"]


class ReplyCache:
    """Answers by what they depend on: the prompt, the model, its parameters and the report's text.

    The report itself is not stored, but the answer is, and it holds the report's sub-captions: a cache folder is as
    confidential as the reports.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def _path(self, model: str, parameters: Mapping[str, Any], text: str) -> Path:
        depends = [prompt().version, prompt().text, model, dict(parameters), text]
        key = hashlib.sha256(json.dumps(depends, sort_keys=True).encode()).hexdigest()
        return self.folder / key[:2] / f"{key[2:34]}.json"

    def get(self, model: str, parameters: Mapping[str, Any], text: str) -> list[ReplySubCaption] | None:
        """The answer kept, or None; a damaged file counts as none."""
        try:
            entry = json.loads(self._path(model, parameters, text).read_text(encoding="utf-8"))
            items = entry["subcaptions"] if "subcaptions" in entry else entry["statements"]  # its name before
            return [ReplySubCaption.model_validate(item) for item in items]
        except (OSError, ValueError, KeyError, TypeError, ValidationError, RecursionError):
            return None

    def put(
        self,
        model: str,
        parameters: Mapping[str, Any],
        text: str,
        sub_captions: Sequence[ReplySubCaption],
    ) -> None:
        """Store an answer (atomically)."""
        entry = {
            "prompt_version": prompt().version,
            "model": model,
            "parameters": dict(parameters),
            "subcaptions": [sub_caption.model_dump() for sub_caption in sub_captions],
        }
        write_json(self._path(model, parameters, text), entry)
