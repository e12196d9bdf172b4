"""Pixels to tiles: open a slide, find its tissue, cut it into tiles of one physical size. Never imports torch."""

from importlib import import_module
from typing import Any

_WHERE = {
    "Slide": "reader",
    "find_slides": "paths",
    "open_slide": "reader",
    "slide_info_row": "reader",
    "TissueMask": "tissue",
    "find_tissue": "tissue",
    "KINDS": "artefacts",
    "ArtefactMask": "artefacts",
    "ArtefactSpec": "artefacts",
    "find_artefacts": "artefacts",
    "QualitySpec": "quality",
    "SlideQuality": "quality",
    "check_cohort": "quality",
    "check_slide": "quality",
    "ExcludedTiles": "tiling",
    "SlideOutcome": "tiling",
    "exclude_artefacts": "tiling",
    "read_coords": "tiling",
    "tile_cohort": "tiling",
    "tile_slide": "tiling",
}

__all__ = [
    "KINDS",
    "ArtefactMask",
    "ArtefactSpec",
    "ExcludedTiles",
    "QualitySpec",
    "Slide",
    "SlideOutcome",
    "SlideQuality",
    "TissueMask",
    "check_cohort",
    "check_slide",
    "exclude_artefacts",
    "find_artefacts",
    "find_slides",
    "find_tissue",
    "open_slide",
    "read_coords",
    "slide_info_row",
    "tile_cohort",
    "tile_slide",
]


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"module 'pathflip.slide' has no attribute '{name}'")
    return getattr(import_module(f"pathflip.slide.{_WHERE[name]}"), name)
