"""Writing files so that a kill at any moment leaves either the old file or the new one, never half of one."""

import ctypes
import io
import json
import os
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from pathflip.errors import ConfigError, OutputError

if TYPE_CHECKING:
    import h5py

__all__ = [
    "atomic_directory",
    "atomic_hdf5",
    "atomic_path",
    "check_target",
    "check_writable",
    "page_template",
    "path_inside",
    "write_json",
    "write_text",
]


@contextmanager
def atomic_path(target: str | Path) -> Iterator[Path]:
    """Yield a temporary name beside ``target`` to write to; rename it onto ``target`` when the block ends well.

    The temporary name keeps the suffix (writers choose formats by it), starts with a dot and is unique, so two
    jobs on one folder never share it. If the block raises, the temporary file is removed and ``target`` is as before.
    """
    target = Path(target)
    target.parent.mkdir(parents=True, exist_ok=True)
    stem = target.stem.encode("utf-8", "surrogateescape")[:80].decode("utf-8", "ignore")  # names end at 255 bytes
    temporary = target.with_name(f".{stem}.{uuid4().hex[:8]}.tmp{target.suffix}")
    try:
        yield temporary
        with open(temporary, "rb") as handle:
            os.fsync(handle.fileno())
        os.replace(temporary, target)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def atomic_hdf5(target: str | Path) -> Iterator["h5py.File"]:
    """Yield an HDF5 file to fill; it appears at ``target`` whole when the block ends well.

    It is built in memory: where a disk fills up under HDF5 itself, handles stay behind that crash the process later.

    Raises:
        OSError: it cannot be written; ``target`` is as before.
    """
    import h5py

    image = io.BytesIO()
    with h5py.File(image, "w") as file:
        yield file
    with atomic_path(target) as temporary, open(temporary, "wb") as handle:
        handle.write(image.getbuffer())


@contextmanager
def atomic_directory(target: str | Path) -> Iterator[Path]:
    """Yield a fresh directory beside ``target`` to fill; it takes ``target``'s place when the block ends well.

    What ``target`` held before is removed afterwards. On Linux file systems that can exchange two names in one
    call there is no moment without a whole ``target``; elsewhere there is one between two renames, and never a
    half-written one. If the block raises, ``target`` is as before.
    """
    target = Path(target)
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f".{target.name[:80]}.{uuid4().hex[:8]}.tmp")
    temporary.mkdir()
    try:
        yield temporary
        for path in (p for p in temporary.rglob("*") if p.is_file()):
            with open(path, "rb") as handle:
                os.fsync(handle.fileno())
        if not target.exists():
            os.rename(temporary, target)
        elif not _exchange(temporary, target):
            old = target.with_name(f".{target.name[:80]}.{uuid4().hex[:8]}.old.tmp")
            os.rename(target, old)
            os.rename(temporary, target)
            shutil.rmtree(old, ignore_errors=True)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)  # after an exchange this name holds the old content


def _exchange(first: Path, second: Path) -> bool:
    """Swap two names in one system call; False where the system or the file system cannot."""
    try:
        renameat2 = ctypes.CDLL(None, use_errno=True).renameat2
    except (AttributeError, OSError, TypeError):
        return False
    here, exchange = -100, 2  # AT_FDCWD, RENAME_EXCHANGE (linux/fs.h)
    return bool(renameat2(here, os.fsencode(first), here, os.fsencode(second), exchange) == 0)


def path_inside(folder: str | Path, *parts: str) -> Path:
    """A path in a folder, to write to; names that come from files cannot lead out of it.

    Raises:
        OutputError: it would lie elsewhere, by its own words or through a symbolic link.
    """
    root, target = Path(folder), Path(folder).joinpath(*parts)
    home = root.resolve()
    if not target.parent.resolve().is_relative_to(home) or target.name in ("", ".", "..") or target == root:
        raise OutputError(f"'{target}' would lie outside the folder '{folder}': nothing is written there")
    return target


def check_writable(folder: str | Path) -> None:
    """Make a folder and write to it for a moment, before work is done whose result could then not be kept.

    Raises:
        OutputError: it cannot be made or written to.
    """
    folder = Path(folder)
    probe = folder / f".{uuid4().hex[:8]}.tmp"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe.write_bytes(b"\0")
    except OSError as error:
        raise OutputError(
            f"cannot write to '{folder}': {error.strerror or error}; expected a folder that may be written to: check "
            "its permissions and the disk, or choose another --out"
        ) from error
    finally:
        with suppress(OSError):
            probe.unlink()


def check_target(target: str | Path, sources: Iterable[str | Path] = ()) -> None:
    """Refuse a file to write that cannot be written, or that is one of those to be read.

    Raises:
        ConfigError: it is one of ``sources``, which would be lost. OutputError: it is a folder, or cannot be written.
    """
    target = Path(target)
    for source in map(Path, sources):
        if source.resolve() == target.resolve() or (source.exists() and target.exists() and source.samefile(target)):
            raise ConfigError(f"'{target}' is the file that is read, and would be lost; expected another --out")
    if target.is_dir():
        raise OutputError(f"'{target}' is a folder, expected the name of a file to write")
    check_writable(target.parent)


def write_text(target: str | Path, text: str) -> None:
    """Write UTF-8 text atomically."""
    with atomic_path(target) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(target: str | Path, value: Any, indent: int | None = 2) -> None:
    """Write JSON atomically; non-ASCII characters stay readable."""
    write_text(target, json.dumps(value, ensure_ascii=False, indent=indent, allow_nan=False) + "\n")


def page_template(path: Path) -> Any:
    """The HTML template at ``path``: what is put in is escaped, and a name it does not get is an error."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(path.parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(path.name)
