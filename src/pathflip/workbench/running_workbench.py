"""What a running workbench holds, and its routes work on."""

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from starlette.exceptions import HTTPException

from pathflip import __version__
from pathflip.workbench.annotations import Annotations
from pathflip.workbench.case_search import CaseSearch
from pathflip.workbench.deepzoom_tiles import ByteCache
from pathflip.workbench.events import Events
from pathflip.workbench.guard import Access
from pathflip.workbench.library import Library, SlideFile
from pathflip.workbench.service import ModelService

__all__ = ["Workbench", "shown_text"]

TILE_CACHE_BYTES = 64 * 2**20
THUMBNAIL_CACHE_BYTES = 32 * 2**20
CAUTION = "Research software, not a medical device."


@dataclass(eq=False)
class Workbench:
    """The state that the routes work on."""

    library: Library
    access: Access
    title: str = "PathFLIP"
    note: str = CAUTION
    events: Events = field(default_factory=Events)
    service: ModelService | None = None
    cases: CaseSearch | None = None
    maps: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    """Answers to "where" that were made elsewhere (a notebook), by slide key."""
    annotations: dict[Path, Annotations] = field(default_factory=dict)
    tiles: ByteCache = field(default_factory=lambda: ByteCache(TILE_CACHE_BYTES))
    thumbnails: ByteCache = field(default_factory=lambda: ByteCache(THUMBNAIL_CACHE_BYTES))

    def file(self, key: str) -> SlideFile:
        """The slide a key stands for; 404 where there is none."""
        try:
            return self.library.files[key]
        except KeyError:
            raise HTTPException(404, "no such slide") from None

    def model(self) -> ModelService:
        """The model; 404 where the workbench was started without one."""
        if self.service is None:
            raise HTTPException(404, "no model: start with  pathflip view … --model DIR")
        return self.service

    def state(self) -> dict[str, Any]:
        """What a page needs to begin: the slides, and what can be done with them."""
        return {
            "title": self.title,
            "version": __version__,
            "note": self.note,
            "maps": bool(self.maps),
            "cases": self.cases is not None,
            "model": None if self.service is None else self.service.state(),
            "slides": [
                {"key": file.key, "id": shown_text(file.slide_id), "folder": shown_text(file.folder)}
                for file in self.library.files.values()
            ],
        }


def shown_text(name: str) -> str:
    """A file name as JSON can hold it: bytes that are no UTF-8 become visible escapes."""
    return os.fsencode(name).decode("utf-8", "backslashreplace")
