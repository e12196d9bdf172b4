"""``metrics.jsonl``: one JSON object a line, each step once, also after a kill and a resume."""

import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TextIO

from pathflip.io.files import write_text

__all__ = ["MetricsLog", "read_metrics"]


def read_metrics(path: str | Path) -> list[dict[str, Any]]:
    """The lines of a ``metrics.jsonl``; one torn by a kill (only the last can be) is left out."""
    records = []
    for line in Path(path).read_text(encoding="utf-8").splitlines():
        try:
            records.append(json.loads(line))
        except ValueError:
            continue
    return records


class MetricsLog:
    """Appends lines. What belongs to one step (losses, then an evaluation) is held back until it is one line.

    Args:
        path: the file.
        write: False on all processes but the first.
        on_line: called with every line as it is written.
    """

    def __init__(self, path: Path, write: bool, on_line: Callable[[Mapping[str, float]], None] | None = None) -> None:
        self._path, self._write, self._on_line = path, write, on_line
        self._held: dict[str, Any] = {}
        self._file: TextIO | None = None

    def open(self, keep_until: int) -> None:
        """Begin, or go on after step ``keep_until``: later lines are of a run that was killed and will come again."""
        if not self._write:
            return
        records = [r for r in read_metrics(self._path) if r["step"] <= keep_until] if self._path.exists() else []
        write_text(self._path, "".join(json.dumps(record) + "\n" for record in records))
        self._file = open(self._path, "a", encoding="utf-8", buffering=1)  # noqa: SIM115 (closed by close())

    def hold(self, record: Mapping[str, Any]) -> None:
        """Add to the line of the step under way. JSON has no NaN or infinity: such a value becomes null."""
        clean = {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in record.items()}
        self._held = {**self._held, **clean}

    def flush(self) -> None:
        """Write the line that is held, if there is one."""
        held, self._held = self._held, {}
        if held and self._file is not None:
            self._file.write(json.dumps(held) + "\n")
            if self._on_line is not None:
                self._on_line(held)

    def close(self) -> None:
        """Write what is held and close."""
        self.flush()
        if self._file is not None:
            self._file.close()
            self._file = None
