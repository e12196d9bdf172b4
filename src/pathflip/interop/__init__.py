"""Features, tiles and regions made with other tools, in and out: TRIDENT, CLAM, STAMP, LazySlide, SlideChat, QuPath.

Exact layouts, and what each loses, are in ``docs/formats.md``. Names are imported on first use.
"""

from importlib import import_module
from typing import Any

_WHERE = {
    "TARGETS": "conversion",
    "ReadOptions": "tiles",
    "Converted": "conversion",
    "Region": "qupath",
    "Tiles": "tiles",
    "convert": "conversion",
    "detect": "conversion",
    "read_regions": "qupath",
    "read_tiles": "conversion",
    "tiles_inside": "qupath",
}

__all__ = sorted(_WHERE)


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"module 'pathflip.interop' has no attribute '{name}'")
    return getattr(import_module(f"pathflip.interop.{_WHERE[name]}"), name)


def __dir__() -> list[str]:
    return list(__all__)
