"""What became of each slide of a cohort run: outcomes, ``failures.jsonl``, progress."""

import errno
import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from pathflip.features.extraction import ExtractOutcome, SlideJob, output_error
from pathflip.io.files import atomic_path
from pathflip.io.locks import waiting_lock
from pathflip.io.storage import as_url, exists, read_bytes, remove, shown, write_bytes

__all__ = ["CohortRun", "ExtractProgress", "FailureList"]

_PUT_EVERY_S = 10.0


@dataclass(frozen=True)
class ExtractProgress:
    """How far a cohort run is; ``outcome`` is set when a slide has just ended.

    Rate and time left are of this run: skipped slides count as done but not towards the rate.
    """

    slides_done: int
    slides: int
    tiles_done: int
    tiles_per_s: float
    seconds: float
    seconds_left: float | None
    outcome: ExtractOutcome | None = None


class FailureList:
    """``failures.jsonl``: a line for every slide that failed, of all encoders that write to one folder.

    A line torn by a kill is dropped at the next rewriting; the slide it spoke of has no features and is tried again.
    """

    def __init__(self, path: Path, encoder: str) -> None:
        self._path, self._encoder = path, encoder
        self._lines: list[bytes] = []
        self._put_at = 0.0

    def forget(self, slide_ids: Mapping[str, int]) -> None:
        """Drop the lines of slides that are tried again."""
        if as_url(self._path):
            whole = read_bytes(self._path) if exists(self._path) else b""
            self._lines = [line for line in whole.splitlines() if self._is_kept(line, slide_ids)]
            self.flush()
            return
        with self._locked():
            if not self._path.is_file():
                return
            lines = [line for line in self._path.read_bytes().splitlines() if self._is_kept(line, slide_ids)]
            if not lines:
                self._path.unlink()
                return
            with atomic_path(self._path) as temporary:
                temporary.write_bytes(b"".join(line + b"\n" for line in lines))

    def _is_kept(self, line: bytes, slide_ids: Mapping[str, int]) -> bool:
        try:
            row = json.loads(line)
        except ValueError:
            return False
        return isinstance(row, dict) and (row.get("encoder") != self._encoder or row.get("slide_id") not in slide_ids)

    def add(self, outcome: ExtractOutcome) -> None:
        """Append a failed slide."""
        row = {"slide_id": outcome.slide_id, "path": shown(outcome.slide), "encoder": self._encoder,
               "error": outcome.error, "message": outcome.message}  # fmt: skip
        line = json.dumps(row, ensure_ascii=False).encode("utf-8", "backslashreplace")  # file names need not be UTF-8
        if as_url(self._path):
            self._lines.append(line)
            if time.monotonic() - self._put_at > _PUT_EVERY_S:
                self.flush()
            return
        with self._locked(), self._path.open("ab") as handle:
            handle.write(line + b"\n")

    def flush(self) -> None:
        """In an object store nothing can be appended: the whole list is put there, now and then and at the end."""
        url = as_url(self._path)
        if url is None:
            return
        self._put_at = time.monotonic()
        try:
            if self._lines:
                write_bytes(url, b"".join(line + b"\n" for line in self._lines))
            else:
                remove(self._path)
        except OSError as error:
            raise output_error(self._path, error) from error

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """Runs with other encoders may share the list: one of them at a time changes it."""
        try:
            with waiting_lock(self._path.parent / ".failures.lock"):
                if self._path.is_symlink():
                    raise OSError(errno.ELOOP, "the list is a symbolic link")
                yield
        except OSError as error:
            raise output_error(self._path, error) from error


class CohortRun:
    """Outcomes, failures and progress of one cohort run, kept in the main process."""

    def __init__(
        self, jobs: Sequence[SlideJob], failures: FailureList, progress: Callable[[ExtractProgress], None] | None
    ) -> None:
        self.outcomes: dict[int, ExtractOutcome] = {}
        self._index = {job.slide_id: job.index for job in jobs}
        self._failures, self._progress = failures, progress
        self._started = time.monotonic()
        self._partial: dict[int, tuple[int, int]] = {}
        self._tiles = self._ended = self._skipped = 0
        failures.forget(self._index)

    def tick(self, under_way: dict[int, tuple[int, int]]) -> None:
        """(tiles done, tiles in all) of slides under way, by job."""
        self._partial.update(under_way)
        self._report(None)

    def end(self, outcome: ExtractOutcome) -> None:
        """A slide has ended, one way or the other."""
        index = self._index[outcome.slide_id]
        self.outcomes[index] = outcome
        self._partial.pop(index, None)
        if outcome.status == "skipped":
            self._skipped += 1
        else:
            self._ended += 1
            self._tiles += outcome.tiles
        if outcome.status == "failed":
            self._failures.add(outcome)
        self._report(outcome)

    def _report(self, outcome: ExtractOutcome | None) -> None:
        if self._progress is None:
            return
        seconds = time.monotonic() - self._started
        tiles = self._tiles + sum(done for done, _ in self._partial.values())
        share = self._ended + sum(done / total for done, total in self._partial.values() if total)
        todo = len(self._index) - self._skipped
        left = seconds * (todo - share) / share if share > 0 else (0.0 if todo == 0 else None)
        self._progress(
            ExtractProgress(
                len(self.outcomes), len(self._index), tiles, tiles / max(seconds, 1e-9), seconds, left, outcome
            )
        )
