"""Find cases in an archive on disk: the page's questions as those of :class:`pathflip.archive.Searcher`."""

import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pathflip.errors import ConfigError, PathFLIPError
from pathflip.geometry import Box
from pathflip.workbench.case_search import MOST_LABELS, MOST_VALUES, Match
from pathflip.workbench.library import Library

if TYPE_CHECKING:
    from pathflip.archive import Hit, Searcher
    from pathflip.inference import EncodedSlide
    from pathflip.workbench.service import ModelService

__all__ = ["ArchiveCases"]

MOST_HITS = 200
"""Slides found at most: ten pages."""


class ArchiveCases:
    """A :class:`~pathflip.workbench.case_search.CaseSearch` over an archive. Nothing of it is kept in memory.

    Args:
        folder: the archive's. service: the model, which must be the one that filled it; without one only slides of the
            archive can be searched with. library: the slides shown.

    Raises:
        ConfigError: there is no archive, or no slide in it.
    """

    def __init__(self, folder: Path, service: "ModelService | None", library: Library) -> None:
        from pathflip.archive import Searcher, open_archive

        self._service, self._library = service, library
        self._archive = open_archive(folder)
        self._without_model = Searcher(self._archive)
        self._with_model: Searcher | None = None
        self._columns: dict[str, list[str]] | None = None
        self._lock = threading.Lock()

    def progress(self) -> dict[str, Any]:
        """Always ready."""
        return {"state": "ready", "done": len(self._archive), "total": len(self._archive)}

    def begin(self) -> None:
        """Nothing to do: the archive is made by ``pathflip index``."""

    def columns(self) -> Mapping[str, Sequence[str]]:
        """Labels with 2 to 40 values, but for names that no condition can hold."""
        with self._lock:
            if self._columns is None:
                values = self._archive.label_values(MOST_VALUES)
                self._columns = {name: some for name, some in values.items() if len(some) > 1 and '"' not in name}
        return self._columns

    def by_text(self, text: str, filters: Mapping[str, str]) -> list[Match]:
        """See :meth:`pathflip.archive.Searcher.by_text`; a text the model cannot read is refused."""
        if self._service is None:
            raise ConfigError("find cases by a text: only the model can read it; start with --model")
        return self._matches(self._searcher().by_text(text, MOST_HITS, self._condition(filters)))

    def by_slide(self, name: str, filters: Mapping[str, str]) -> list[Match]:
        """See :meth:`pathflip.archive.Searcher.by_slide`."""
        searcher, query = self._query(name)
        return self._matches(searcher.by_slide(query, MOST_HITS, self._condition(filters)))

    def by_region(self, name: str, box: Box, filters: Mapping[str, str]) -> list[Match]:
        """See :meth:`pathflip.archive.Searcher.by_region`."""
        searcher, query = self._query(name)
        return self._matches(searcher.by_region(query, box, MOST_HITS, self._condition(filters)))

    def place(self, match: Match, text: str) -> Match:
        """As it is: a hit names its places."""
        return match

    def picture(self, name: str) -> bytes | None:
        """The thumbnail that the archive keeps."""
        return self._archive.thumbnail(name)

    def _searcher(self) -> "Searcher":
        """With the model.

        Raises:
            ContractError: the archive holds another model's vectors.
        """
        from pathflip.archive import Searcher

        if self._service is None:
            return self._without_model
        model = self._service.aligned
        with self._lock:
            if self._with_model is None:
                self._with_model = Searcher(self._archive, model)
        return self._with_model

    def _query(self, name: str) -> "tuple[Searcher, str | EncodedSlide]":
        """All patches of a slide the model has read; of another the few that the archive keeps."""
        file = self._library.by_slide_id(name)
        if self._service is not None and file is not None and self._service.reading(file)["state"] == "ready":
            try:
                searcher = self._searcher()
                return searcher, self._service.encoded(file)
            except PathFLIPError:
                if not self._archive.holds(name):
                    raise
        if not self._archive.holds(name):
            raise ConfigError(
                f"slide '{name}': neither in the archive nor read by the model; read it first (ask where on it), or "
                "add it with  pathflip index"
            )
        return self._without_model, name

    def _condition(self, filters: Mapping[str, str]) -> str:
        """Filters as a condition of the archive."""
        from pathflip.archive.where import quoted

        if unknown := [name for name in filters if name not in self._archive.columns]:
            raise ConfigError(
                f"filter '{unknown[0]}': no such column; expected one of {', '.join(self._archive.columns)}"
            )
        return " and ".join(f'"{name}" = {quoted(value)}' for name, value in filters.items())

    def _matches(self, hits: "Sequence[Hit]") -> list[Match]:
        pictures = self._archive.with_thumbnail([hit.slide_id for hit in hits])
        return [
            Match(
                hit.slide_id,
                hit.score,
                hit.places[0].box if hit.places else None,
                hit.size0,
                dict(list(hit.labels.items())[:MOST_LABELS]),
                hit.slide_id in pictures,
            )
            for hit in hits
        ]
