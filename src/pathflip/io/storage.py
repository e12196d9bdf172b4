"""Object stores (``s3://``, ``gs://``, ``az://``, ``memory://``) through fsspec, beside ordinary paths.

A ``Path`` made from a URL keeps working: pathlib folds ``s3://bucket/a.svs`` into ``s3:/bucket/a.svs``, and
:func:`as_url` puts the slash back, so names, parents and joins are those of any path. An object appears in a store
whole or not at all, which is what renaming does for files.
"""

import os
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pathflip.errors import MissingExtraError

__all__ = ["as_url", "exists", "filesystem", "list_folder", "local_copy", "local_path", "read_bytes", "remove", "shown",
           "state", "write_bytes", "written_to"]  # fmt: skip

_PACKAGES = {
    "s3": "s3fs", "s3a": "s3fs", "gs": "gcsfs", "gcs": "gcsfs", "az": "adlfs", "abfs": "adlfs", "memory": "fsspec",
}  # fmt: skip
"""Schemes that are understood, and the package each needs beside fsspec."""
_URL = re.compile(rf"({'|'.join(_PACKAGES)}):/{{1,2}}(?=[^/])")
_FILE = re.compile(r"file:/{1,3}")


def as_url(path: str | Path) -> str | None:
    """The URL a path stands for; None for paths of this machine."""
    text = str(path)
    match = _URL.match(text)
    return f"{match[1]}://{text[match.end() :]}" if match else None


def local_path(path: str | Path) -> Path:
    """A path without the prefix ``file://``, which says nothing."""
    text = str(path)
    match = _FILE.match(text)
    return Path("/" + text[match.end() :]) if match else Path(text)


def shown(path: str | Path) -> str:
    """A path as a person would type it."""
    return as_url(path) or str(path)


def filesystem(url: str) -> Any:
    """The fsspec file system of a URL; credentials come from the environment, as its package documents.

    Raises:
        MissingExtraError: the package for this kind of store is absent.
    """
    scheme = url.split(":", 1)[0]
    try:
        import fsspec

        return fsspec.filesystem(scheme)
    except ImportError:
        raise MissingExtraError(_PACKAGES[scheme], "cloud", f"'{url}'") from None


@contextmanager
def local_copy(path: str | Path) -> Iterator[Path]:
    """A file of this machine with the path's content: itself, or a download that is removed afterwards.

    Raises:
        OSError: there is no such object, or the store cannot be reached.
    """
    url = as_url(path)
    if url is None:
        yield local_path(path)
        return
    with tempfile.TemporaryDirectory(prefix="pathflip-") as folder:
        target = Path(folder) / Path(path).name
        filesystem(url).get_file(url, str(target))
        yield target


def state(path: str | Path) -> tuple[int, str] | None:
    """Size, and what changes when a file is written to; None where it cannot be reached."""
    url = as_url(path)
    try:
        if url is None:
            status = os.stat(path)
            return status.st_size, str(status.st_mtime_ns)
        info = filesystem(url).info(url)
    except OSError:
        return None
    return int(info["size"]), str(info.get("ETag") or info.get("etag") or info.get("mtime") or info.get("created"))


def exists(path: str | Path) -> bool:
    """Whether there is a file."""
    url = as_url(path)
    return os.path.isfile(path) if url is None else bool(filesystem(url).isfile(url))


def list_folder(path: str | Path) -> list[Path]:
    """What a folder holds, sorted; nothing where there is no such folder."""
    url = as_url(path)
    if url is None:
        return sorted(Path(path).iterdir()) if os.path.isdir(path) else []
    store = filesystem(url)
    store.invalidate_cache()
    try:
        names = store.ls(url, detail=False)
    except FileNotFoundError:
        return []
    return sorted(Path(path) / name.rstrip("/").rsplit("/", 1)[-1] for name in names)


def read_bytes(path: str | Path) -> bytes:
    """The whole content.

    Raises:
        OSError: there is none, or it cannot be reached.
    """
    url = as_url(path)
    return Path(path).read_bytes() if url is None else bytes(filesystem(url).cat_file(url))


@contextmanager
def written_to(target: str | Path) -> Iterator[Path]:
    """Where to write a result and what lies beside it: ``target`` itself, or a folder of this machine.

    From there all files go to the store when the block ends well, ``target`` last.

    Raises:
        OSError: the store refuses or cannot be reached.
    """
    if as_url(target) is None:
        yield Path(target)
        return
    with tempfile.TemporaryDirectory(prefix="pathflip-") as folder:
        local = Path(folder) / Path(target).name
        yield local
        for path in sorted(Path(folder).iterdir(), key=lambda path: path == local):
            url = as_url(Path(target).with_name(path.name)) or ""
            filesystem(url).put_file(str(path), url)


def remove(path: str | Path) -> None:
    """Delete a file if it is there."""
    url = as_url(path)
    if url is None:
        Path(path).unlink(missing_ok=True)
    elif exists(path):
        filesystem(url).rm_file(url)


def write_bytes(url: str, data: bytes | memoryview) -> None:
    """One object, whole.

    Raises:
        OSError: the store refuses or cannot be reached.
    """
    filesystem(url).pipe_file(url, bytes(data))
