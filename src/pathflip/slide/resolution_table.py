"""The resolution of every slide from a table, for slides whose files do not say it."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from pathflip.errors import CaptionError, ConfigError
from pathflip.io.slide_id import join_ids, slide_id
from pathflip.io.tables import first_of, read_table

__all__ = ["ResolutionTable", "SlideResolution", "mpp_of", "read_slide_mpp"]

_MPP_KEYS = ("mpp", "slide_mpp", "mpp0", "microns_per_pixel", "um_per_px", "resolution")
_SLIDE_KEYS = ("slide", "slide_id", "slide_name", "wsi", "filename", "file_name", "file", "image", "id")
LOW, HIGH = 0.01, 1000.0


@dataclass(frozen=True)
class ResolutionTable:
    """µm per level-0 pixel by slide id; a slide that is not in it is taken as its file says."""

    by_slide: Mapping[str, float]

    def of(self, name: str) -> float | None:
        """The resolution of one slide, by its id, or by the last part of ``FOLDER__STEM``."""
        for own in (name, name.rpartition("__")[2]):
            if own in self.by_slide:
                return self.by_slide[own]
            joined = join_ids([own], self.by_slide)
            if own in joined:
                return self.by_slide[joined[own]]
        return None


SlideResolution = float | ResolutionTable
"""One number for all slides, or a table."""


def mpp_of(slide_mpp: SlideResolution | None, name: str) -> float | None:
    """What is said of one slide; None where nothing is."""
    return slide_mpp.of(name) if isinstance(slide_mpp, ResolutionTable) else slide_mpp


def read_slide_mpp(value: str) -> SlideResolution:
    """A number, or the name of a table with the columns slide and mpp.

    Raises:
        ConfigError: neither; or a row without a slide or with no number from 0.01 to 1000, or a slide twice.
    """
    try:
        return float(value)
    except ValueError:
        pass
    path = Path(value)
    if not path.exists():
        raise ConfigError(
            f"--slide-mpp: got '{value}', expected a number (µm per level-0 pixel), or a table slide, mpp"
        )
    by_slide: dict[str, float] = {}
    try:
        rows = read_table(path, expected="a table with the columns slide and mpp")
        for number, row in enumerate(rows, start=1):
            name, mpp = first_of(row, _SLIDE_KEYS), first_of(row, _MPP_KEYS)
            if name is None or mpp is None:
                raise CaptionError(f"{path.name}: row {number}: expected the columns slide and mpp, both with a value")
            try:
                number_of = float(mpp)
            except (TypeError, ValueError):
                number_of = 0.0
            if not LOW <= number_of <= HIGH:
                raise CaptionError(f"{path.name}: row {number}: mpp is {mpp!r}, expected {LOW:g} to {HIGH:g}")
            if by_slide.setdefault(slide_id(name), number_of) != number_of:
                raise CaptionError(f"{path.name}: row {number}: slide '{slide_id(name)}' has two resolutions")
    except CaptionError as error:
        raise ConfigError(f"--slide-mpp: {error}") from None
    return ResolutionTable(by_slide)
