"""Patches read from feature files as they are: each file whole, once, and kept in memory while there is room."""

from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from threading import Lock

import numpy as np
from jaxtyping import Float, Int

from pathflip.data.patches import FeatureSums, Neighbourhood, PatchRows, relative_positions, rows_in_reading_order
from pathflip.data.regions import RegionSpec, group_regions
from pathflip.errors import FeatureError
from pathflip.features.store import read_features
from pathflip.types import RegionGrid, SlideFeatures

__all__ = ["SlidePatches", "WholeFiles", "slide_patches"]


@dataclass(frozen=True, eq=False)
class SlidePatches:
    """One slide, ready to draw patches from.

    Attributes:
        features: of all tiles, as read.
        rows: valid tiles in reading order: what is drawn from.
        neighbourhood, position: of all tiles.
        regions: blocks of valid tiles, where the model reads these; their indices are places in ``rows``.
    """

    features: Float[np.ndarray, "N D"]
    rows: Int[np.ndarray, " V"]
    neighbourhood: Neighbourhood
    position: Float[np.ndarray, "N 2"]
    regions: RegionGrid | None

    @property
    def nbytes(self) -> int:
        """What it takes in memory, but for a few numbers a tile."""
        return self.features.nbytes


def slide_patches(features: SlideFeatures, regions: RegionSpec | None = None) -> SlidePatches:
    """What of a slide's geometry does not depend on the rows drawn, computed once.

    Raises:
        FeatureError: no valid patch.
    """
    rows = rows_in_reading_order(features)
    if not np.isfinite(features.features[rows]).all():
        raise FeatureError(f"slide '{features.slide_id}': features hold NaN or infinity; extract it again")
    return SlidePatches(
        features=features.features,
        rows=rows,
        neighbourhood=Neighbourhood(features.grid.cells(), features.valid),
        position=relative_positions(features.coords, features.valid, features.grid.tile_px0),
        regions=None if regions is None else _by_place(group_regions(features, regions), rows),
    )


def _by_place(grid: RegionGrid, rows: Int[np.ndarray, " V"]) -> RegionGrid:
    """Regions that index places in ``rows`` instead of rows of the file."""
    place = np.zeros(int(rows.max()) + 1, np.int64)
    place[rows] = np.arange(len(rows))
    return replace(grid, index=np.where(grid.mask, place[np.where(grid.mask, grid.index, rows[0])], 0))


class WholeFiles:
    """A :class:`~pathflip.data.patches.PatchReader` of plain feature files, for cohorts that fit in memory.

    Args:
        check: called with the features of every slide as it is read; raises what it does not like (mixed encoders).
        regions: how patches form regions, for models that read these.
        cache_bytes: slides are kept in memory up to this size, least recently used ones leave.
    """

    def __init__(
        self,
        check: Callable[[SlideFeatures], None] | None = None,
        regions: RegionSpec | None = None,
        cache_bytes: int = 6 << 30,
    ) -> None:
        self.check, self.region_spec, self.cache_bytes = check, regions, cache_bytes
        self._cache: OrderedDict[Path, SlidePatches] = OrderedDict()
        self._lock = Lock()

    def slide(self, file: Path) -> SlidePatches:
        """One slide, read once and cached."""
        with self._lock:
            if file in self._cache:
                self._cache.move_to_end(file)
                return self._cache[file]
        features = read_features(file)
        if self.check is not None:
            self.check(features)
        loaded = slide_patches(features, self.region_spec)
        with self._lock:
            self._cache[file] = loaded
            while sum(entry.nbytes for entry in self._cache.values()) > self.cache_bytes and len(self._cache) > 1:
                self._cache.popitem(last=False)
        return loaded

    def count(self, file: Path) -> int:
        """See :class:`~pathflip.data.patches.PatchReader`."""
        return len(self.slide(file).rows)

    def regions(self, file: Path) -> RegionGrid | None:
        """See :class:`~pathflip.data.patches.PatchReader`."""
        return self.slide(file).regions

    def announce(self, wanted: Sequence[tuple[Path, Int[np.ndarray, " _"]]]) -> None:
        """See :class:`~pathflip.data.patches.PatchReader`; nothing to gain here."""

    def read(self, wanted: Sequence[tuple[Path, Int[np.ndarray, " _"]]], context: bool) -> list[PatchRows]:
        """See :class:`~pathflip.data.patches.PatchReader`."""
        return [_rows_of(self.slide(file), places, context) for file, places in wanted]

    def sums(self, file: Path) -> FeatureSums:
        """See :class:`~pathflip.data.patches.PatchReader`."""
        slide = self.slide(file)
        return FeatureSums.of(slide.features[slide.rows])


def _rows_of(slide: SlidePatches, places: Int[np.ndarray, " n"], context: bool) -> PatchRows:
    rows = slide.rows[places]
    around = slide.neighbourhood.mean(slide.features, rows) if context else None
    return PatchRows(slide.features[rows], slide.position[rows], around)
