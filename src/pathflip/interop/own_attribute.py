"""What a neighbour's layout cannot say of slide and tiles, in an attribute that its readers do not look at."""

import json
from pathlib import Path
from typing import Any

from pathflip.errors import FeatureError
from pathflip.features.store import describe, read_description
from pathflip.geometry import SlideInfo, TileGrid, TileSpec
from pathflip.io.hdf5 import attribute_json
from pathflip.io.slide_id import check_name

__all__ = ["OWN", "own_attribute", "read_own"]

OWN = "pathflip"
"""Name of the attribute, on the file or store."""


def own_attribute(grid: TileGrid, encoder: str | None) -> str:
    """Slide and tiles in full, as JSON."""
    return json.dumps({**describe(grid.info, grid.spec), "encoder": encoder or ""}, sort_keys=True)


def read_own(path: Path, text: Any) -> tuple[tuple[SlideInfo, TileSpec], str | None] | tuple[None, None]:
    """What :func:`own_attribute` wrote, and the encoder; (None, None) where the file was made elsewhere.

    Raises:
        FeatureError: it is damaged, or a name in it could lead out of a folder.
    """
    if text is None:
        return None, None
    root = attribute_json(path, text, OWN)
    if not isinstance(root, dict):
        raise FeatureError(f"{path}: attribute '{OWN}' is no JSON object; delete it, or convert again")
    encoder = str(root.get("encoder", ""))
    return read_description(path, root), check_name(encoder, "encoder", path) if encoder else None
