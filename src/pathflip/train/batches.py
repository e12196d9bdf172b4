"""Which slides a step sees. Everything here is a pure function of (seed, step), so a resumed run, or one on another
number of processes, sees what the uninterrupted one saw.
"""

from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import fields, is_dataclass, replace
from types import TracebackType
from typing import Any, Protocol, runtime_checkable

import numpy as np
from torch import Tensor

from pathflip.errors import ConfigError

__all__ = ["Batch", "BatchSampler", "Batches", "Prefetcher", "SampledBatches", "pinned"]


@runtime_checkable
class Batch(Protocol):
    """What the training loop asks of a micro-batch."""

    @property
    def slide_ids(self) -> tuple[str, ...]:
        """Its slides, for messages and for the speed that is logged."""
        ...

    def to(self, device: Any, non_blocking: bool = False) -> Any:
        """The same batch on another device."""
        ...


@runtime_checkable
class Batches(Protocol):
    """Where the training loop gets its data."""

    def __call__(self, index: int, rank: int, world: int) -> Batch:
        """Micro-batch ``index`` (from 0), the share of process ``rank`` of ``world``.

        Must depend on its arguments only.
        """
        ...


class BatchSampler:
    """Indices of every global batch: each epoch a fresh permutation, whole batches only.

    No slide stands twice in a batch. What an epoch leaves over comes early or late in the next one by chance.

    Args:
        num_items: number of slides.
        batch_size: slides in a global batch; where there are fewer slides, a batch is all of them.
        seed: of the permutations.
    """

    def __init__(self, num_items: int, batch_size: int, seed: int) -> None:
        if num_items < 1 or batch_size < 1:
            raise ConfigError(f"got {num_items} slides and a batch of {batch_size}; expected at least one of each")
        self.num_items, self.batch_size, self.seed = num_items, min(batch_size, num_items), seed
        self.steps_per_epoch = num_items // self.batch_size

    def indices(self, index: int) -> list[int]:
        """Slides of global batch ``index``."""
        epoch, place = divmod(index, self.steps_per_epoch)
        order = np.random.default_rng([self.seed, epoch]).permutation(self.num_items)
        return [int(i) for i in order[place * self.batch_size : (place + 1) * self.batch_size]]

    def share(self, index: int, rank: int, world: int) -> list[int]:
        """The part of global batch ``index`` that process ``rank`` of ``world`` encodes.

        Shares are consecutive, so that gathering them in rank order gives the global batch back.

        Raises:
            ConfigError: the batch cannot be divided evenly.
        """
        everything = self.indices(index)
        if len(everything) % world:
            raise ConfigError(
                f"batch_size: got {len(everything)} for {world} processes; expected a multiple of {world} "
                "(batch_size counts slides over all processes)"
            )
        size = len(everything) // world
        return everything[rank * size : (rank + 1) * size]


class SampledBatches:
    """A dataset and a sampler joined into :class:`Batches`.

    Args:
        make_batch: ``AlignDataset.batch`` or the like: ``(indices, rng) -> batch``. Every process hands it the same
            generator state for the same step; a dataset that derives each slide's own generator from it and
            the slide's index makes results independent of the number of processes.
        sampler: which slides.
        seed: of the generators.
    """

    def __init__(
        self, make_batch: Callable[[Sequence[int], np.random.Generator], Batch], sampler: BatchSampler, seed: int = 0
    ) -> None:
        self.make_batch, self.sampler, self.seed = make_batch, sampler, seed

    def __call__(self, index: int, rank: int = 0, world: int = 1) -> Batch:
        """See :class:`Batches`."""
        rng = np.random.default_rng([self.seed, index, 1])
        return self.make_batch(self.sampler.share(index, rank, world), rng)


class Prefetcher:
    """Prepare the next batches on one background thread; the order and the content do not change.

    Args:
        make: batch by index.
        start, stop: first index, and the one after the last.
        depth: batches prepared ahead; 0 prepares each when it is asked for.
    """

    def __init__(self, make: Callable[[int], Any], start: int, stop: int, depth: int) -> None:
        self._make, self._next, self._stop, self._depth = make, start, stop, depth
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="batches") if depth else None
        self._waiting: deque[Future[Any]] = deque()

    def take(self) -> Any:
        """Take the next batch."""
        if self._pool is None:
            self._next += 1
            return self._make(self._next - 1)
        while len(self._waiting) <= self._depth and self._next < self._stop:
            self._waiting.append(self._pool.submit(self._make, self._next))
            self._next += 1
        return self._waiting.popleft().result()

    def __enter__(self) -> "Prefetcher":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._pool is not None:
            self._pool.shutdown(wait=True, cancel_futures=True)


def pinned(batch: Any) -> Any:
    """A dataclass of tensors in page-locked memory, from where the GPU copies while it computes."""
    if not is_dataclass(batch) or isinstance(batch, type):
        return batch
    values = {f.name: getattr(batch, f.name) for f in fields(batch)}
    return replace(batch, **{name: value.pin_memory() for name, value in values.items() if isinstance(value, Tensor)})
