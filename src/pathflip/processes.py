"""What every process of ours asks of its surroundings: to end with its parent, to reuse freed memory, to be quiet."""

import ctypes
import os
import re
import sys
import threading
import warnings
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing import parent_process
from typing import Any

__all__ = [
    "CountedWarning",
    "counted_notes",
    "follow_parent",
    "freed_memory_is_reused",
    "keep_memory",
    "printable",
    "transformers_are_quiet",
    "warnings_are_notes",
]

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # mallopt(3)
_LARGEST, _NEVER, _USUAL = 2**30, -1, 2**17


def follow_parent() -> None:
    """End this process of ``multiprocessing`` with its parent, also when that is killed; its warnings are notes.

    Why: a worker waits for work on a pipe that it holds both ends of, so nothing else tells it that nobody will come.
    Meant as the ``initializer`` of a pool; does nothing in a process that has no such parent.
    """
    parent = parent_process()
    if parent is None:
        return

    def wait() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()
    warnings_are_notes()


_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")
"""Characters that steer a terminal; file names, reports and servers' replies may hold them."""


def printable(text: str) -> str:
    """Text whose control characters are visible escapes, so that no name or answer steers the terminal."""
    return _CONTROL.sub(lambda match: f"\\u{ord(match[0]):04x}", text)


class CountedWarning(UserWarning):
    """One of many of a kind (a file each): shown once, and then counted.

    ``kind`` tells how the others are counted: "files of another name than the slide they say they are of".
    """

    def __init__(self, message: str, kind: str) -> None:
        super().__init__(message)
        self.kind = kind


_COUNTED: Counter[str] = Counter()


def counted_notes() -> list[str]:
    """What is left to say of warnings that were counted, and forget it."""
    lines = [f"and {number - 1} more {kind}" for kind, number in _COUNTED.items() if number > 1]
    _COUNTED.clear()
    return lines


def warnings_are_notes() -> None:
    """Show warnings of this process as notes of one line; those of libraries about their own code not at all."""

    def show(
        message: Warning | str, category: type[Warning], filename: str, lineno: int, file: Any = None, line: Any = None
    ) -> None:
        if isinstance(message, CountedWarning):
            _COUNTED[message.kind] += 1
            if _COUNTED[message.kind] > 1:
                return
        if issubclass(category, UserWarning):
            sys.stderr.write(printable(f"note: {' '.join(str(message).split())}") + "\n")
            sys.stderr.flush()

    warnings.showwarning = show


def keep_memory() -> bool:
    """Have the C library keep freed memory for the next array instead of handing it back to the system.

    Why: large blocks are otherwise mapped anew for every array, and the kernel fills each of their pages with zeros: a
    fifth of the time of encoding small tiles, 4 % of a training step at the paper's size (200,000 pages).

    Returns:
        Whether the C library knows how (glibc does).
    """
    libc = _glibc()
    return libc is not None and _mallopt(libc, _LARGEST, _NEVER)


@contextmanager
def freed_memory_is_reused() -> Iterator[bool]:
    """:func:`keep_memory` for a while: what is free is handed back at the end. Yields what that returned."""
    libc, supported = _glibc(), keep_memory()
    try:
        yield supported
    finally:
        if libc is not None:
            _mallopt(libc, _USUAL, _USUAL)
            libc.malloc_trim(0)


_TRANSFORMERS = threading.RLock()


@contextmanager
def transformers_are_quiet() -> Iterator[None]:
    """One thread alone with ``transformers``, without its reports and progress bars: what they would say is an error,
    or nothing, here.

    Alone, because while it reads a model it ties no weights, in the whole process, by taking a method away and putting
    back what was there: two threads that do so at once put back nothing, and from then on every model's head is random.
    """
    from transformers.utils import logging

    with _TRANSFORMERS:
        yield from _quiet(logging)


def _quiet(logging: Any) -> Iterator[None]:
    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()


def _glibc() -> Any:
    """The C library if it is the one with these functions, else None."""
    libc = ctypes.CDLL(None) if sys.platform == "linux" else None
    return libc if all(hasattr(libc, name) for name in ("mallopt", "malloc_trim")) else None


def _mallopt(libc: Any, mmap_threshold: int, trim_threshold: int) -> bool:
    return bool(libc.mallopt(_MMAP_THRESHOLD, mmap_threshold) and libc.mallopt(_TRIM_THRESHOLD, trim_threshold))
