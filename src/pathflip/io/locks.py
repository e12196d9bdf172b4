"""Locks on folders: one run at a time writes there. The system releases a lock however its process ends."""

import errno
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import BaseFileLock, FileLock, Timeout

from pathflip.errors import ConfigError

__all__ = ["only_writer", "waiting_lock"]


@contextmanager
def only_writer(folder: Path, what: str) -> Iterator[bool]:
    """Hold the lock of a folder, ``.lock`` in it, which names who holds it.

    Args:
        folder: made where absent. what: it is that writes, for the message ("extraction", "training").

    Yields:
        Whether it is locked; False where this file system has no locks.

    Raises:
        ConfigError: another process holds it.
        OSError: the folder cannot be written to, or the lock is a symbolic link.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / ".lock"
    lock = FileLock(path, timeout=0)
    try:
        locked = _acquired(lock)
    except Timeout:
        raise ConfigError(
            f"{folder}: another {what} ({_holder(path)}) is writing here; wait for it to end or choose another --out"
        ) from None
    try:
        if locked:
            _name_holder(path)
        yield locked
    finally:
        lock.release()


@contextmanager
def waiting_lock(path: Path) -> Iterator[None]:
    """Hold a lock for a moment, waiting for others to let go.

    Raises:
        OSError: it cannot be written, or is a symbolic link.
    """
    lock = FileLock(path)
    _acquired(lock)
    try:
        yield
    finally:
        lock.release()


def _acquired(lock: BaseFileLock) -> bool:
    """Take a lock; False on file systems that have none (some network shares)."""
    try:
        lock.acquire()
    except NotImplementedError:
        return False
    except OSError as error:
        if error.errno not in (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP):
            raise
        return False
    return True


def _holder(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")[:200].strip() or "unknown process"
    except OSError:
        return "unknown process"


def _name_holder(path: Path) -> None:
    with suppress(OSError):  # Windows lets nobody write to a locked file
        path.write_text(f"process {os.getpid()} on {socket.gethostname()}", encoding="utf-8")
