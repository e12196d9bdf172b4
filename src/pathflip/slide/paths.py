"""Which slides the user names: files, folders, or whole trees of folders; and what each is called."""

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from pathflip.arguments import Paths, as_paths
from pathflip.errors import ConfigError
from pathflip.io.slide_id import normal_name, slide_id
from pathflip.io.storage import as_url, list_folder, local_path
from pathflip.slide.reader import SLIDE_SUFFIXES
from pathflip.slide.sources.dicom_series import dicom_slides
from pathflip.slide.sources.through_fastslide import is_ome_zarr

__all__ = ["SLIDE_SUFFIXES", "find_slides", "slide_names"]

MAX_FOLDERS = 100_000


def find_slides(paths: Paths, *, recursive: bool = False) -> list[Path]:
    """Files as given, and the slides in folders, sorted.

    A DICOM series is one slide: the path of its folder, or of its finest level where the folder holds other slides. An
    OME-Zarr, which is a folder, is a slide.

    Args:
        paths: slide files, folders, or addresses of an object store.
        recursive: look into the folders inside folders too; hidden ones are left out.

    Raises:
        ConfigError: a path does not exist, or a folder holds no slide.
    """
    slides: list[Path] = []
    by_folder: dict[Path, list[Path]] = {}
    for path in map(local_path, as_paths(paths, "paths")):
        if as_url(path) and path.suffix.lower() not in SLIDE_SUFFIXES:
            slides += _or_refuse(path, [p for p in _listed(path) if p.suffix.lower() in SLIDE_SUFFIXES])
        elif not as_url(path) and is_ome_zarr(path):
            slides.append(path)
        elif not as_url(path) and path.is_dir():
            slides += _or_refuse(path, [s for folder in _folders(path, recursive) for s in _slides_in(folder)])
        elif path.suffix.lower() not in SLIDE_SUFFIXES and not as_url(path) and not os.path.lexists(path):
            raise ConfigError(f"'{path}': no such file or folder; check the path")
        elif path.suffix.lower() in (".dcm", ".dicom"):
            by_folder.setdefault(path.absolute().parent, []).append(path)
        else:
            slides.append(path)
    for files in by_folder.values():
        slides += (dicom_slides(files) or files) if len(files) > 1 else files
    return slides


def _or_refuse(folder: Path, slides: list[Path]) -> list[Path]:
    if slides:
        return slides
    kinds = "/".join(sorted(SLIDE_SUFFIXES)[:4])
    raise ConfigError(f"'{folder}': no {kinds}… file in this folder; for folders in it, give --recursive")


def _listed(folder: Path) -> list[Path]:
    try:
        return [path for path in list_folder(folder) if path.name[:1] != "."]
    except OSError as error:
        raise ConfigError(f"'{folder}': this folder cannot be read: {error.strerror or error}") from None


def _folders(folder: Path, recursive: bool) -> Iterator[Path]:
    """A folder, and those in it that are no slides; one that links lead back to is visited once."""
    seen: set[str] = set()
    waiting = [folder]
    while waiting:
        folder = waiting.pop(0)
        real = os.path.realpath(folder)
        if real in seen:
            continue
        seen.add(real)
        if len(seen) > MAX_FOLDERS:
            raise ConfigError(f"'{folder}': more than {MAX_FOLDERS} folders; name a smaller part")
        yield folder
        if recursive:
            waiting = [p for p in _listed(folder) if p.is_dir() and not is_ome_zarr(p)] + waiting


def _slides_in(folder: Path) -> list[Path]:
    listed = _listed(folder)
    files = [p for p in listed if not p.is_dir()]
    named = [p for p in files if p.suffix.lower() in SLIDE_SUFFIXES] + [p for p in listed if is_ome_zarr(p)]
    bare = [p for p in files if not p.suffix and _is_dicom(p)]
    maybe = [p for p in named if p.suffix.lower() in (".dcm", ".dicom")] + bare
    if not maybe:
        return sorted(named)
    return dicom_slides(sorted([*named, *bare]))


def _is_dicom(path: Path) -> bool:
    try:
        with open(path, "rb") as file:
            return file.read(132)[128:] == b"DICM"
    except OSError:
        return False


def slide_names(paths: Sequence[Path], names: str = "auto") -> dict[Path, str]:
    """What each slide is called: its file's name; or, with its folder's in front, ``FOLDER__NAME``.

    Args:
        paths: slide files.
        names: "stem" for the file's name, "folder" for both, "auto" for both only where file names repeat.
    """
    short = {path: slide_id(path.absolute()) for path in paths}
    long = {path: slide_id(f"{normal_name(path.absolute().parent.name)}__{name}") for path, name in short.items()}
    if names == "folder":
        return long
    if names == "stem":
        return short
    paths_of: dict[str, set[str]] = {}
    for path, name in short.items():
        paths_of.setdefault(name, set()).add(os.path.realpath(path))
    return {path: long[path] if len(paths_of[name]) > 1 else name for path, name in short.items()}
