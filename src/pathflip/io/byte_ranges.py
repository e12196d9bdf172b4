"""Scattered rows of many files at once, from this machine or an object store.

Plain reads, announced to the system beforehand so that the disk works on all of them together: on cold files a
third of the time a memory map takes, on warm ones half (docs/log.md). A file that shrinks under a memory map kills the
process; here it is an error.
"""

import os
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pathflip.errors import FeatureError
from pathflip.io.storage import as_url, filesystem, shown

__all__ = ["RowRequest", "announce_rows", "read_rows"]

_GAP_BYTES = 4096
"""Rows this far apart are read in one go: on a disk a page costs the same whether its middle is wanted or not."""
_GAP_BYTES_REMOTE = 256 * 1024
"""From an object store each request costs as much as so many bytes, and more."""


@dataclass(frozen=True, eq=False)
class RowRequest:
    """Rows of equal length that lie one after the other in a file.

    Attributes:
        path: the file, of this machine or an object store.
        start: where row 0 begins, in bytes.
        row_bytes: length of a row.
        rows: which rows, ascending, each once.
    """

    path: Path
    start: int
    row_bytes: int
    rows: NDArray[np.int64]

    def runs(self, gap_bytes: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """First row of every run to read, and the row after its last; runs less than a gap apart are one."""
        gap = 1 + (gap_bytes - 1) // max(1, self.row_bytes)
        cuts = np.flatnonzero(np.diff(self.rows) > gap) + 1
        first, last = np.concatenate([[0], cuts]), np.concatenate([cuts, [len(self.rows)]]) - 1
        return self.rows[first], self.rows[last] + 1


@dataclass(frozen=True, eq=False)
class _Plan:
    """One request as byte ranges, and the buffer they are read into."""

    request: RowRequest
    first: NDArray[np.int64]
    after: NDArray[np.int64]
    buffer: NDArray[np.uint8]

    @classmethod
    def of(cls, request: RowRequest, gap_bytes: int) -> "_Plan":
        rows = request.rows
        first, after = request.runs(gap_bytes) if len(rows) else (rows, rows)
        return cls(request, first, after, np.empty((int((after - first).sum()), request.row_bytes), np.uint8))

    def ranges(self) -> list[tuple[int, int]]:
        """(first byte, bytes) of every run."""
        start, size = self.request.start, self.request.row_bytes
        offsets, lengths = start + self.first * size, (self.after - self.first) * size
        return list(zip(offsets.tolist(), lengths.tolist(), strict=True))

    def wanted(self) -> NDArray[np.uint8]:
        """The rows asked for, out of all that were read."""
        rows = self.request.rows
        if len(rows) == len(self.buffer):
            return self.buffer
        before = np.concatenate([[0], np.cumsum(self.after - self.first)[:-1]])
        run = np.searchsorted(self.first, rows, side="right") - 1
        return self.buffer[before[run] + rows - self.first[run]]


def announce_rows(requests: Sequence[RowRequest]) -> None:
    """Let the disk begin on rows that will be read in a moment. What is wrong with a file is told then."""
    for request in requests:
        if as_url(request.path) is None:
            with suppress(OSError), open(request.path, "rb", buffering=0) as file:
                _announce(_Plan.of(request, _GAP_BYTES), file.fileno())


def read_rows(requests: Sequence[RowRequest]) -> list[NDArray[np.uint8]]:
    """The bytes of the rows of every request, (rows, row_bytes).

    Raises:
        FeatureError: a file cannot be read, or ends before its last row.
    """
    plans = [_Plan.of(one, _GAP_BYTES if as_url(one.path) is None else _GAP_BYTES_REMOTE) for one in requests]
    _read_local([plan for plan in plans if as_url(plan.request.path) is None])
    _read_remote([plan for plan in plans if as_url(plan.request.path) is not None])
    return [plan.wanted() for plan in plans]


def _read_local(plans: Sequence[_Plan]) -> None:
    with ExitStack() as stack:
        files: dict[Path, Any] = {}
        for plan in plans:
            path = plan.request.path
            if path not in files:
                try:
                    files[path] = stack.enter_context(open(path, "rb", buffering=0))
                except OSError as error:
                    raise _lost(path, error.strerror or str(error)) from None
            _announce(plan, files[path].fileno())
        for plan in plans:
            _fill(plan, files[plan.request.path])


def _announce(plan: _Plan, handle: int) -> None:
    """Tell the system what will be read, where it listens; without the first line it reads far ahead of every row."""
    if not hasattr(os, "posix_fadvise"):
        return
    with suppress(OSError):
        os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_RANDOM)
        for offset, length in plan.ranges():
            os.posix_fadvise(handle, offset, length, os.POSIX_FADV_WILLNEED)


def _fill(plan: _Plan, file: Any) -> None:
    target, at = plan.buffer.reshape(-1).data, 0
    try:
        for offset, length in plan.ranges():
            end = at + length
            while at < end:
                count = _read_into(file, target[at:end], offset + length - (end - at))
                if not count:
                    raise _lost(plan.request.path, "it ends too early")
                at += count
    except OSError as error:
        raise _lost(plan.request.path, error.strerror or str(error)) from None


def _read_into(file: Any, target: memoryview, offset: int) -> int:
    if hasattr(os, "preadv"):
        return os.preadv(file.fileno(), [target], offset)
    file.seek(offset)
    return int(file.readinto(target))


def _read_remote(plans: Sequence[_Plan]) -> None:
    if not plans:
        return
    urls = [as_url(plan.request.path) or "" for plan in plans]
    ranges = [
        (url, start, start + size) for plan, url in zip(plans, urls, strict=True) for start, size in plan.ranges()
    ]
    paths, starts, ends = [one[0] for one in ranges], [one[1] for one in ranges], [one[2] for one in ranges]
    try:
        parts = iter(filesystem(urls[0]).cat_ranges(paths, starts, ends, on_error="raise"))
    except (OSError, ValueError) as error:
        raise _lost(plans[0].request.path, str(error) or type(error).__name__) from None
    for plan in plans:
        data = b"".join(next(parts) for _ in range(len(plan.first)))
        if len(data) != plan.buffer.size:
            raise _lost(plan.request.path, "it ends too early")
        plan.buffer[...] = np.frombuffer(data, np.uint8).reshape(plan.buffer.shape)


def _lost(path: Path, reason: str) -> FeatureError:
    return FeatureError(
        f"{shown(path)}: a packed slide that cannot be read any more ({reason}); run the same command again (with "
        "--resume, for a training): what is missing is packed anew"
    )
