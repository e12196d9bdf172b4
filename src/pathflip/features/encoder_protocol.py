"""What extraction asks of an encoder."""

from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

__all__ = ["Encoder"]


@runtime_checkable
class Encoder(Protocol):
    """What extraction asks of an encoder.

    Attributes:
        name: stands in the feature files and in every model's input contract.
        revision: changes whenever the same tile would give other numbers (formula, weights).
        dim: width of a feature vector.
        tile_px: tile side it was trained at, pixels; None takes any.
        mpp: resolution it was trained at, microns per pixel; None takes any.
        sample_tiles: how many tiles of a slide :meth:`prepare` wants to see; 0 where there is nothing to measure.

    An encoder with a true attribute ``reentrant`` may be called by several threads at once; on one slide they then read
    and encode side by side.
    """

    name: str
    revision: str
    dim: int
    tile_px: int | None
    mpp: float | None
    sample_tiles: int

    def prepare(self, sample: NDArray[np.uint8]) -> Any:
        """Measure a slide (its staining, say) on a sample of its tiles, uint8 (n, px, px, 3)."""
        ...

    def encode(self, tiles: NDArray[np.uint8] | Tensor, state: Any = None) -> NDArray[np.float32]:
        """Tiles uint8 (n, px, px, 3) to features float32 (n, dim). ``state`` is what ``prepare`` returned."""
        ...
