"""Writing files so that a kill at any moment leaves either the old file or the new one, never half of one."""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4

__all__ = ["atomic_path", "write_json", "write_text"]


@contextmanager
def atomic_path(target: str | Path) -> Iterator[Path]:
    """Yield a temporary name beside ``target`` to write to; rename it onto ``target`` when the block ends well.

    The temporary name keeps the suffix (writers choose formats by it), starts with a dot and is unique, so two
    jobs on one folder never share it. If the block raises, the temporary file is removed and ``target`` is as before.
    """
    target = Path(target)
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f".{target.stem[:80]}.{uuid4().hex[:8]}.tmp{target.suffix}")
    try:
        yield temporary
        with open(temporary, "rb") as handle:
            os.fsync(handle.fileno())
        os.replace(temporary, target)
    finally:
        temporary.unlink(missing_ok=True)


def write_text(target: str | Path, text: str) -> None:
    """Write UTF-8 text atomically."""
    with atomic_path(target) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(target: str | Path, value: Any, indent: int | None = 2) -> None:
    """Write JSON atomically; non-ASCII characters stay readable."""
    write_text(target, json.dumps(value, ensure_ascii=False, indent=indent, allow_nan=False) + "\n")
