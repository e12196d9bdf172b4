"""Which device a worker takes, in which precision a network runs there, and how many tiles it can take at once."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pathflip.errors import ConfigError, FeatureError

__all__ = ["PRECISIONS", "FittingBatches", "autocast", "device_named", "precision_for", "take_device", "worker_device"]

PRECISIONS = ("auto", "float32", "bfloat16", "float16")


def worker_device(worker: int, device: str | None, gpus: int) -> str | None:
    """The device of one of several workers that each take whole slides: GPUs in turn.

    Args:
        worker: its number, from 0.
        device: what was asked for: None or "cuda" spreads workers over the GPUs, anything else is taken as it is.
        gpus: how many this machine has.

    Returns:
        A device as :func:`~pathflip.features.load_encoder` takes it; None where there is no GPU to take.

    Raises:
        ConfigError: a GPU was asked for and there is none.
    """
    if device not in (None, "cuda"):
        return device
    if gpus == 0:
        if device == "cuda":
            raise ConfigError("device 'cuda': this machine shows no GPU to torch; expected 'cpu', or a CUDA build")
        return None
    return f"cuda:{worker % gpus}"


def device_named(name: str | torch.device | None) -> torch.device:
    """The device of a name ("cpu", "cuda", "cuda:1"); None takes the GPU if there is one.

    Raises:
        ConfigError: no such kind of device, or not on this machine.
    """
    if isinstance(name, torch.device):
        return name
    if name is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise ConfigError(f"device '{name}': is none; expected cpu, cuda, cuda:1, …") from None
    if device.type not in ("cpu", "cuda", "mps") or (device.type == "mps" and not torch.backends.mps.is_available()):
        raise ConfigError(f"device '{name}': torch cannot run there on this machine; expected cpu, cuda, cuda:1, …")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        have = torch.cuda.device_count()
        raise ConfigError(
            f"device '{name}': torch sees {have} GPU{'' if have == 1 else 's'} on this machine; expected "
            f"{'cpu' if not have else f'cuda:0 to cuda:{have - 1}' if have > 1 else 'cuda:0'}, or a CUDA build"
        )
    return device


def take_device(name: str) -> str:
    """The kind of the device named; a GPU becomes the one this process takes where none is named.

    Raises:
        ConfigError: as :func:`device_named`.
    """
    device = device_named(name)
    if device.type == "cuda":
        torch.cuda.set_device(device)
    return device.type


def precision_for(precision: str, recommended: str, device: torch.device) -> str:
    """The precision to run in: what was asked for, or by default the recommended one on a GPU and float32 elsewhere.

    Raises:
        ConfigError: no such precision, or not on this device.
    """
    if precision not in PRECISIONS:
        raise ConfigError(f"precision: got '{precision}', expected one of {', '.join(PRECISIONS)}")
    if precision == "float16" and device.type == "cpu":
        raise ConfigError("precision 'float16' is for GPUs; expected float32 or bfloat16 on a CPU")
    if precision != "auto":
        return precision
    return recommended if device.type == "cuda" else "float32"


def autocast(precision: str, device: torch.device) -> AbstractContextManager[object]:
    """Mixed precision: weights and sums stay in float32, products run in ``precision``."""
    if precision == "float32":
        return nullcontext()
    return torch.autocast(device.type, getattr(torch, precision))


class FittingBatches:
    """Runs a function over tiles in batches that fit in memory: halved whenever memory runs out, and kept so.

    Attributes:
        size: the most tiles at once from now on; None, all that a call is given, until memory first runs out. It
            never grows again.
    """

    def __init__(self) -> None:
        self.size: int | None = None

    def run(
        self, function: Callable[[NDArray[np.uint8] | Tensor], NDArray[np.float32]], tiles: NDArray[np.uint8] | Tensor
    ) -> NDArray[np.float32]:
        """Rows of ``function`` over all tiles, in order.

        Raises:
            FeatureError: one tile alone does not fit.
        """
        rows: list[NDArray[np.float32]] = []
        start = 0
        while start < len(tiles):
            part = tiles[start : start + (self.size or len(tiles))]
            try:
                rows.append(function(part))
                start += len(part)
                continue
            except torch.OutOfMemoryError as error:
                if len(part) == 1:
                    raise FeatureError(
                        "out of memory with a single tile; expected room for one: end what else runs on the device, "
                        "use another (device 'cpu'), or a smaller encoder"
                    ) from error
            # Only here, after the exception and what its frames held are gone, is the memory free.
            self.size = len(part) // 2
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
        return np.concatenate(rows)
