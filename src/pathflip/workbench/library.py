"""The slides a workbench may show: found under the folders named at start, and under no others.

A slide is known to the browser by a key that is a hash of its path, so that no request can name a file. Links are
followed only where they end inside the same folder; the check is repeated every time a file is opened.
"""

import hashlib
import os
import threading
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from pathflip.arguments import as_paths
from pathflip.errors import ConfigError, SlideError
from pathflip.io.storage import as_url
from pathflip.slide import find_slides, open_slide
from pathflip.slide.paths import slide_names
from pathflip.slide.resolution_table import SlideResolution
from pathflip.workbench.deepzoom_tiles import DeepZoom

__all__ = ["Library", "SlideFile"]

MOST_OPEN = 6
"""Slides kept open. Each may hold 96 MB of decoded tiles."""


@dataclass(frozen=True)
class SlideFile:
    """One slide file. ``key`` stands for it in addresses; ``folder`` is its place below the folder named."""

    key: str
    slide_id: str
    path: Path = field(repr=False)
    root: Path = field(repr=False)
    folder: str = ""

    @property
    def name(self) -> str:
        """Its place below the folder named: what regions are kept under, so that the folder can be moved."""
        return os.fsencode(os.path.relpath(self.path, self.root)).decode("utf-8", "backslashreplace")

    def check(self) -> None:
        """Refuse a file that is reached through a link out of the folder named at start.

        Raises:
            SlideError: it lies elsewhere.
        """
        if not Path(os.path.realpath(self.path)).is_relative_to(os.path.realpath(self.root)):
            raise SlideError(
                f"slide '{self.path.name}': a link to a file outside the folder that was named; name that folder too"
            )

    def version(self) -> str:
        """Changes when the file does, so that a browser never shows tiles of the file it replaced."""
        try:
            state = self.path.stat()
        except OSError as error:
            raise SlideError(f"slide '{self.path.name}': cannot be reached: {error.strerror or error}") from None
        return hashlib.sha256(f"{state.st_size}/{state.st_mtime_ns}".encode()).hexdigest()[:10]


class _OpenSlide:
    """An open slide, the requests reading from it, and whether it is to be closed after them."""

    def __init__(self, zoom: DeepZoom) -> None:
        self.zoom = zoom
        self.readers = 0
        self.retired = False


class Library:
    """Slides under the folders and files named.

    Args:
        paths: slide files, or folders of them (searched with their subfolders).
        slide_mpp: microns per level-0 pixel for files that do not say.

    Raises:
        ConfigError: a path does not exist, lies in an object store, or holds no slide.
    """

    def __init__(self, paths: Sequence[Path], slide_mpp: SlideResolution | None = None) -> None:
        self._slide_mpp = slide_mpp
        self._lock = threading.Lock()
        self._opening: dict[str, threading.Lock] = {}
        self._open: OrderedDict[tuple[str, str], _OpenSlide] = OrderedDict()
        root_of: dict[Path, Path] = {}
        for path in as_paths(paths, "slides"):
            if url := as_url(path):
                raise ConfigError(f"'{url}': the workbench shows slides of this machine's disks; copy them here first")
            slides = find_slides([path], recursive=True)
            root = path if path.is_dir() and slides != [path] else path.parent  # a DICOM folder is one slide
            root_of |= {slide: root for slide in slides if slide not in root_of}
        names = slide_names(list(root_of))
        files = [_slide_file(path, root, names[path]) for path, root in root_of.items()]
        self.files = {file.key: file for file in files}
        self.roots = tuple(dict.fromkeys(root_of.values()))

    def __len__(self) -> int:
        return len(self.files)

    def by_slide_id(self, name: str) -> SlideFile | None:
        """The first slide of that name."""
        return next((file for file in self.files.values() if file.slide_id == name), None)

    @contextmanager
    def opened(self, file: SlideFile) -> Iterator[DeepZoom]:
        """The slide as a pyramid (``.slide`` is the slide itself); it stays open until others were used more recently.

        Raises:
            SlideError: it cannot be opened, or lies outside the folders named.
        """
        entry = self._acquire(file)
        try:
            yield entry.zoom
        finally:
            with self._lock:
                entry.readers -= 1
                done = entry.retired and entry.readers == 0
            if done:
                entry.zoom.slide.close()

    def _acquire(self, file: SlideFile) -> _OpenSlide:
        file.check()
        key = (file.key, file.version())
        with self._lock:
            opening = self._opening.setdefault(file.key, threading.Lock())
        with opening:  # many requests for a new slide open it once
            with self._lock:
                entry = self._open.get(key)
                if entry is not None:
                    self._open.move_to_end(key)
                    entry.readers += 1
                    return entry
            entry = _OpenSlide(DeepZoom(open_slide(file.path, slide_mpp=self._slide_mpp)))
            entry.readers = 1
            with self._lock:
                self._open[key] = entry
                self._retire_oldest()
            return entry

    def _retire_oldest(self) -> None:
        while len(self._open) > MOST_OPEN:
            _, oldest = self._open.popitem(last=False)
            oldest.retired = True
            if oldest.readers == 0:
                oldest.zoom.slide.close()

    def close(self) -> None:
        """Close every slide that nobody reads."""
        with self._lock:
            entries = list(self._open.values())
            self._open.clear()
            for entry in entries:
                entry.retired = True
        for entry in entries:
            if entry.readers == 0:
                entry.zoom.slide.close()


def _slide_file(path: Path, root: Path, name: str) -> SlideFile:
    place = os.fsencode(os.path.relpath(path, root)) + b"\0" + os.fsencode(os.path.abspath(root))
    folder = os.path.relpath(path.parent, root)
    return SlideFile(
        key=hashlib.sha256(place).hexdigest()[:16],
        slide_id=name,
        path=path,
        root=root,
        folder="" if folder == "." else folder,
    )
