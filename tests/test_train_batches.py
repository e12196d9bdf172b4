import threading

import numpy as np
import pytest

from pathflip.errors import ConfigError
from pathflip.train import BatchSampler
from pathflip.train.batches import Prefetcher
from tiny_align import batches, make_batch


def test_an_epoch_shows_every_slide_at_most_once_and_all_over_time():
    sampler = BatchSampler(13, 4, seed=3)
    assert sampler.steps_per_epoch == 3
    for epoch in range(5):
        shown = [i for step in range(3) for i in sampler.indices(3 * epoch + step)]
        assert len(shown) == len(set(shown)) == 12
    assert {i for step in range(15) for i in sampler.indices(step)} == set(range(13))
    assert sampler.indices(0) != sampler.indices(3)
    assert BatchSampler(13, 4, seed=4).indices(0) != sampler.indices(0)


def test_order_depends_on_nothing_but_the_index():
    forward = [BatchSampler(50, 8, 1).indices(i) for i in range(20)]
    sampler = BatchSampler(50, 8, 1)
    assert [sampler.indices(i) for i in reversed(range(20))] == forward[::-1]


@pytest.mark.parametrize("world", [1, 2, 4])
def test_shares_join_to_the_global_batch(world):
    sampler = BatchSampler(30, 8, 0)
    assert [i for rank in range(world) for i in sampler.share(5, rank, world)] == sampler.indices(5)


def test_uneven_share_is_refused():
    with pytest.raises(ConfigError, match="batch_size: got 8 for 3 processes; expected a multiple of 3"):
        BatchSampler(30, 8, 0).share(0, 0, 3)


def test_fewer_slides_than_a_batch():
    assert sorted(BatchSampler(3, 8, 0).indices(7)) == [0, 1, 2]
    with pytest.raises(ConfigError):
        BatchSampler(0, 8, 0)


def test_draws_do_not_depend_on_the_number_of_processes():
    source = batches()
    whole = source(2)
    halves = [source(2, rank, 2) for rank in range(2)]
    assert whole.slide_ids == halves[0].slide_ids + halves[1].slide_ids
    assert np.array_equal(whole.patches, np.concatenate([half.patches for half in halves]))
    assert not np.array_equal(source(3).patches, source(0).patches)


@pytest.mark.parametrize("depth", [0, 1, 5])
def test_prefetching_changes_neither_order_nor_errors(depth):
    def make(index: int) -> int:
        if index == 9:
            raise ValueError("slide 9")
        return index * index

    with Prefetcher(make, 4, 12, depth) as source:
        assert [source.take() for _ in range(5)] == [16, 25, 36, 49, 64]
        with pytest.raises(ValueError, match="slide 9"):
            source.take()
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("batches")]


def test_prefetcher_stops_at_the_end():
    indices = []
    with Prefetcher(lambda index: indices.append(index), 0, 3, 8) as source:
        for _ in range(3):
            source.take()
    assert indices == [0, 1, 2]
    assert make_batch([0], np.random.default_rng(0)).slide_ids == ("slide-00",)
