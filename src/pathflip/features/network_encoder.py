"""A neural network behind the encoder interface: resizes, crops, normalises and runs it in batches that fit."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from pathflip.features.devices import FittingBatches, autocast, precision_for
from pathflip.features.foundation import IMAGENET, FoundationEncoder, Statistics

__all__ = ["NetworkEncoder", "to_input"]


class NetworkEncoder:
    """A neural network behind the encoder interface.

    Args:
        name: of the encoder.
        revision: digest of its weights.
        network: maps float (n, 3, px, px) to features (n, dim).
        dim: their width.
        resize_px: side tiles are resized to; None leaves them as they are.
        input_px: side of the central crop the network sees; None: all.
        normalisation: channel means and deviations the network was trained with, for values 0..1.
        interpolation: of the resize.
        device: where to run; None takes the GPU if there is one.
        precision: "auto" (``recommended`` on a GPU, float32 elsewhere), "float32", "bfloat16" or "float16".
        recommended: the precision its authors use.
        row: its row of the table of foundation encoders, if it has one.

    Raises:
        ConfigError: no such precision, or not on this device.
    """

    sample_tiles = 0

    def __init__(
        self,
        name: str,
        revision: str,
        network: Callable[[Tensor], Tensor],
        dim: int,
        *,
        resize_px: int | None = None,
        input_px: int | None = None,
        normalisation: Statistics = IMAGENET,
        interpolation: str = "bicubic",
        device: torch.device | str | None = None,
        precision: str = "auto",
        recommended: str = "float32",
        row: FoundationEncoder | None = None,
    ) -> None:
        self.device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        self.precision = precision_for(precision, recommended, self.device)
        # Other rounding is other numbers: files of two precisions must not pass for the same.
        self.revision = revision if self.precision == "float32" else f"{revision}-{self.precision}"
        self.name, self.dim, self.row = name, dim, row
        self.resize_px, self.input_px, self.interpolation = resize_px, input_px, interpolation
        self.tile_px: int | None = row.tile_px if row else None
        self.mpp: float | None = row.mpp[0] if row and row.mpp else None
        self._batches = FittingBatches()
        self._network = network.eval().to(self.device) if isinstance(network, nn.Module) else network
        self._mean, self._std = (torch.tensor(v, device=self.device)[:, None, None] * 255 for v in normalisation)

    def prepare(self, sample: NDArray[np.uint8]) -> None:
        """Nothing to measure."""

    def encode(self, tiles: NDArray[np.uint8] | Tensor, state: Any = None) -> NDArray[np.float32]:
        """Run the network on tiles uint8 (n, px, px, 3); float32 (n, dim). Halves the batch when memory runs out.

        Raises:
            FeatureError: not even one tile fits in memory.
        """
        if len(tiles) == 0:
            return np.zeros((0, self.dim), np.float32)
        return self._batches.run(self._encode, tiles)

    @torch.inference_mode()
    def _encode(self, tiles: NDArray[np.uint8] | Tensor) -> NDArray[np.float32]:
        x = to_input(torch.as_tensor(tiles).to(self.device), self.resize_px, self.input_px, self.interpolation)
        x = (x - self._mean) / self._std
        with autocast(self.precision, self.device):
            features = self._network(x)
        return features.float().cpu().numpy()


def to_input(tiles: Tensor, resize_px: int | None, input_px: int | None, interpolation: str) -> Tensor:
    """Tiles uint8 (n, px, px, 3) to float (n, 3, px, px) of 0..255: resized as pictures are, then cropped.

    Values are rounded after the resize, because the published preprocessing resizes 8-bit pictures.
    """
    x = tiles.permute(0, 3, 1, 2).float()
    if resize_px is not None and tuple(x.shape[2:]) != (resize_px, resize_px):
        x = F.interpolate(x, (resize_px, resize_px), mode=interpolation, antialias=True).round_().clamp_(0, 255)
    if input_px is not None and x.shape[2] > input_px:
        start = round((x.shape[2] - input_px) / 2)
        x = x[:, :, start : start + input_px, start : start + input_px]
    return x
