"""Find cases: slides that fit a text, or look like a slide or a region, among those whose features are at hand.

:class:`CaseSearch` is what the page needs; :class:`FolderCases` answers from a folder of features held in memory,
:class:`~pathflip.workbench.archive_cases.ArchiveCases` from an archive on disk.
"""

import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from pathflip.errors import CaptionError, FeatureError, PathFLIPError
from pathflip.geometry import Box
from pathflip.io.slide_id import join_ids, slide_id
from pathflip.io.tables import read_table
from pathflip.workbench.events import Events

if TYPE_CHECKING:
    from pathflip.inference import EncodedSlide
    from pathflip.workbench.service import ModelService

__all__ = [
    "MOST_LABELS",
    "MOST_VALUES",
    "CaseSearch",
    "FolderCases",
    "Labels",
    "Match",
    "NotIndexedError",
    "read_labels",
]

MOST_CASES = 3000
"""Slides a folder may hold: their embeddings are kept in memory."""
TOP_TILES = 3
"""A slide is as similar to a region as the mean of so many of its tiles."""
MOST_VALUES = 40
MOST_LABELS = 6
"""Labels shown of a slide that was found."""
_SLIDE_COLUMNS = ("slide", "slide_id", "slide name", "filename", "file", "image", "id")


class NotIndexedError(FeatureError):
    """The slides are still being encoded."""


@dataclass(frozen=True)
class Match:
    """A slide that fits. ``box`` is the place that fits best, level-0 pixels; ``size0`` that of its level 0;
    ``picture``: whether :meth:`CaseSearch.picture` has one."""

    slide_id: str
    score: float
    box: Box | None
    size0: tuple[int, int]
    labels: Mapping[str, str] = field(default_factory=dict)
    picture: bool = False


@runtime_checkable
class CaseSearch(Protocol):
    """What the page asks of a collection of slides. Results come best first; ``filters`` are values of columns."""

    def progress(self) -> dict[str, Any]:
        """state (absent, running, ready, failed), done, total, message."""
        ...

    def begin(self) -> None:
        """Make the search ready in a thread of its own."""
        ...

    def columns(self) -> Mapping[str, Sequence[str]]:
        """The columns that can filter, and their values."""
        ...

    def by_text(self, text: str, filters: Mapping[str, str]) -> list[Match]:
        """Slides that show what a text says. Places may be left to :meth:`place`."""
        ...

    def by_slide(self, name: str, filters: Mapping[str, str]) -> list[Match]:
        """Slides like another one."""
        ...

    def by_region(self, name: str, box: Box, filters: Mapping[str, str]) -> list[Match]:
        """Slides with a place like a region of another one."""
        ...

    def place(self, match: Match, text: str) -> Match:
        """The match with the place on it that fits the text best."""
        ...

    def picture(self, name: str) -> bytes | None:
        """A small JPEG of a slide whose file is not at hand; None where there is none."""
        ...


class FolderCases:
    """Every feature file at hand, encoded once by the model and kept in memory."""

    def __init__(
        self, service: "ModelService", files: Mapping[str, Path], events: Events, labels: "Labels | None" = None
    ) -> None:
        self._service = service
        self._labels = labels or Labels()
        self._files = {slide_id(path): path for path in dict.fromkeys(files.values())}
        self._events = events
        self._lock = threading.Lock()
        self._state: dict[str, Any] = {"state": "absent", "done": 0, "total": len(self._files)}
        self._slides: dict[str, EncodedSlide] = {}
        self._means: dict[str, NDArray[np.float32]] = {}
        self.left_out: dict[str, str] = {}

    def progress(self) -> dict[str, Any]:
        """See :class:`CaseSearch`."""
        with self._lock:
            return dict(self._state)

    def begin(self) -> None:
        """Encode the slides in a thread, unless that is done or under way."""
        with self._lock:
            if self._state["state"] in ("running", "ready"):
                return
            self._state["state"] = "running"
        threading.Thread(target=self._encode_all, name="pathflip-cases", daemon=True).start()

    def _encode_all(self) -> None:
        from pathflip.features import read_features
        from pathflip.inference import encode_slide

        try:
            if len(self._files) > MOST_CASES:
                raise FeatureError(f"{len(self._files)} feature files, expected at most {MOST_CASES} in memory")
            model = self._service.aligned
            for done, (name, path) in enumerate(self._files.items(), start=1):
                try:
                    encoded = encode_slide(model, read_features(path))
                except PathFLIPError as error:
                    self.left_out[name] = str(error)
                else:
                    self._slides[name] = encoded
                    self._means[name] = _unit(_patches(encoded).mean(axis=0))
                self._tell(state="running", done=done, total=len(self._files))
            if not self._slides:
                reason = next(iter(self.left_out.values()), "no feature files")
                raise FeatureError(f"none of {len(self._files)} feature files can be searched: {reason}")
        except Exception as error:  # said on the page: a thread has nobody to raise to
            self._tell(state="failed", message=str(error) or type(error).__name__)
        else:
            self._tell(state="ready", done=len(self._files), total=len(self._files), left_out=len(self.left_out))

    def _tell(self, **state: Any) -> None:
        with self._lock:
            self._state = state
        self._events.publish("cases", **state)

    def _ready(self) -> None:
        state = self.progress()
        if state["state"] == "failed":
            raise FeatureError(state["message"])
        if state["state"] != "ready":
            raise NotIndexedError("the slides are still being encoded")

    def columns(self) -> Mapping[str, Sequence[str]]:
        """See :class:`CaseSearch`."""
        return self._labels.columns

    def picture(self, name: str) -> bytes | None:
        """None: features hold no picture."""
        return None

    def _allowed(self, filters: Mapping[str, str]) -> list[str]:
        self._ready()
        allowed = self._labels.allowed(filters)
        return [name for name in self._slides if allowed is None or name in allowed]

    def _slide(self, name: str) -> "EncodedSlide":
        self._ready()
        if name not in self._slides:
            why = self.left_out.get(name, "there are no features of it")
            raise FeatureError(f"slide '{name}': cannot be searched with: {why}")
        return self._slides[name]

    def by_text(self, text: str, filters: Mapping[str, str]) -> list[Match]:
        """Scores are those of :func:`pathflip.inference.retrieve` over the slides allowed."""
        from pathflip.inference import retrieve

        names = self._allowed(filters)
        if not names:
            return []
        if not text.strip():
            raise CaptionError("find cases: got nothing, expected words")
        scores = retrieve(self._service.aligned, [self._slides[name] for name in names], [text]).scores[:, 0]
        return [self._match(names[row], float(scores[row])) for row in np.argsort(-scores, kind="stable")]

    def by_slide(self, name: str, filters: Mapping[str, str]) -> list[Match]:
        """Cosine of the slides' own embeddings."""
        query = self._slide(name)
        names = [other for other in self._allowed(filters) if other != name]
        own = _unit(query.code.slide[0].float().cpu().numpy())
        scores = [float(_unit(self._slides[other].code.slide[0].float().cpu().numpy()) @ own) for other in names]
        mean = self._means[name]
        order = np.argsort(-np.array(scores), kind="stable")
        return [self._match(names[row], scores[row], self._best_tile(names[row], mean)) for row in order]

    def by_region(self, name: str, box: Box, filters: Mapping[str, str]) -> list[Match]:
        """Mean cosine of a slide's best tiles with the mean of the tiles in the region."""
        query = self._slide(name)
        wanted = _unit(_patches(query)[_rows_in(query, box)].mean(axis=0))
        matches = []
        for other in self._allowed(filters):
            if other == name:
                continue
            cosines = _patches(self._slides[other]) @ wanted
            top = np.sort(cosines)[-TOP_TILES:]
            matches.append(self._match(other, float(top.mean()), self._best_tile(other, wanted)))
        return sorted(matches, key=lambda match: -match.score)

    def place(self, match: Match, text: str) -> Match:
        """The best tile of the text's heatmap."""
        from pathflip.inference import ground
        from pathflip.plots import top_tiles

        heatmap = ground(self._service.aligned, self._slide(match.slide_id), text)
        best = top_tiles(heatmap, 1)
        return replace(match, box=best[0][0] if best else None)

    def _match(self, name: str, score: float, box: Box | None = None) -> Match:
        labels = dict(list(self._labels.rows.get(name, {}).items())[:MOST_LABELS])
        return Match(name, score, box, self._slides[name].grid.info.size0, labels)

    def _best_tile(self, name: str, direction: NDArray[np.float32]) -> Box | None:
        encoded = self._slides[name]
        best = int(np.argmax(_patches(encoded) @ direction))
        tiles = np.flatnonzero(encoded.row_of_tile == best)
        return encoded.grid.box(int(tiles[0])) if len(tiles) else None


def _patches(encoded: "EncodedSlide") -> NDArray[np.float32]:
    """Patch embeddings of unit length, (rows, E)."""
    patches = encoded.code.patches[0].float().cpu().numpy()
    return np.asarray(patches / np.maximum(np.linalg.norm(patches, axis=1, keepdims=True), 1e-9), np.float32)


def _unit(vector: NDArray[np.float32]) -> NDArray[np.float32]:
    return np.asarray(vector / max(float(np.linalg.norm(vector)), 1e-9), np.float32)


def _rows_in(encoded: "EncodedSlide", box: Box) -> NDArray[np.int64]:
    """Rows of the tiles whose middle lies in a region; of the nearest tile, where none does."""
    valid = np.flatnonzero(encoded.row_of_tile >= 0)
    middles = encoded.grid.coords[valid] + encoded.grid.tile_px0 / 2
    low, high = np.array([box.x, box.y]), np.array([box.x + box.width, box.y + box.height])
    inside = ((middles >= low) & (middles <= high)).all(axis=1)
    if not inside.any():
        distance = np.abs(middles - (low + high) / 2).max(axis=1)
        if distance.min() > encoded.grid.tile_px0 + max(box.width, box.height) / 2:
            raise FeatureError("the region holds no tissue that the model has read; choose another")
        inside = distance == distance.min()
    return np.asarray(encoded.row_of_tile[valid[inside]], np.int64)


@dataclass(frozen=True)
class Labels:
    """What a table says of the slides: ``rows`` by slide id, and the values each column that can filter has."""

    rows: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    columns: Mapping[str, Sequence[str]] = field(default_factory=dict)

    def allowed(self, filters: Mapping[str, str]) -> set[str] | None:
        """Slides whose row has all these values; None without filters.

        Raises:
            CaptionError: there is no such column.
        """
        if not filters:
            return None
        if unknown := [column for column in filters if column not in self.columns]:
            raise CaptionError(f"filter '{unknown[0]}': no such column; expected one of {', '.join(self.columns)}")
        return {
            name
            for name, row in self.rows.items()
            if all(row.get(column) == value for column, value in filters.items())
        }


def read_labels(path: Path, slide_ids: Sequence[str]) -> Labels:
    """Read a table with a column of slides; columns with 2 to 40 values can filter.

    Raises:
        CaptionError: it cannot be read, has no column of slides, or names none of these slides.
    """
    rows = read_table(path)
    column = next((name for name in _SLIDE_COLUMNS if name in rows[0]), None)
    if column is None:
        raise CaptionError(f"{path.name}: no column of slides; expected one of {', '.join(_SLIDE_COLUMNS)}")
    named = [(slide_id(row[column]), row) for row in rows if row.get(column) not in (None, "")]
    joined = join_ids([name for name, _ in named], slide_ids)
    by_slide = {
        joined[name]: {key: str(value) for key, value in row.items() if key != column and value not in (None, "")}
        for name, row in named
        if name in joined
    }
    if not by_slide:
        raise CaptionError(f"{path.name}: none of its {len(named)} slides is among those shown")
    values: dict[str, set[str]] = {}
    for row in by_slide.values():
        for key, value in row.items():
            values.setdefault(key, set()).add(value)
    columns = {key: sorted(held) for key, held in values.items() if 2 <= len(held) <= MOST_VALUES}
    return Labels(by_slide, columns)
