"""Batches: the pixels of single reads, in order, each stored tile decoded once, memory bounded."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from pathflip.errors import ConfigError, SlideError
from pathflip.geometry import TileSpec
from pathflip.slide import batch, open_slide
from pathflip.slide.sources.source import BatchReader, Rectangle
from pathflip.slide.sources.tile_cache import TileCache
from pathflip.slide.sources.tiled_tiff import TiledTIFFSource
from slide_files import halved, smooth_picture, write_pyramid

JPEG = {"compression": "jpeg", "compressionargs": {"level": 90}}


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    picture = smooth_picture(720, 1008)
    return write_pyramid(tmp_path_factory.mktemp("batch") / "a.tif", [picture, halved(picture, 4)], **JPEG)


@pytest.fixture
def decoded(monkeypatch):
    """The stored tiles that were decoded, in order."""
    keys, lock, inner = [], threading.Lock(), TiledTIFFSource._decoded

    def counted(self, *arguments):
        with lock:
            keys.append(arguments[:3])
        return inner(self, *arguments)

    monkeypatch.setattr(TiledTIFFSource, "_decoded", counted)
    return keys


@pytest.mark.parametrize("workers", [None, 1, 2, 5])
@pytest.mark.parametrize("mpp", [0.25, 0.3, 0.5, 1.0])
def test_tiles_of_a_batch_are_those_read_one_by_one(path, rng, workers, mpp):
    spec = TileSpec(40, mpp)
    corners = [(int(x), int(y)) for x, y in zip(rng.integers(-90, 1000, 150), rng.integers(-90, 700, 150), strict=True)]
    with open_slide(path) as slide, open_slide(path) as other:
        want = [other.read_tile(*corner, spec) for corner in corners]
        got = list(slide.read_tiles(corners, spec, workers=workers))
        again = list(slide.read_tiles(np.array(corners), spec, workers=workers))
    assert len(got) == len(again) == 150
    for one, two, three in zip(want, got, again, strict=True):
        assert np.array_equal(one, two)
        assert np.array_equal(one, three)


@pytest.mark.parametrize("reader", ["auto", "openslide"])
def test_regions_of_a_batch_are_those_read_one_by_one(path, rng, reader):
    corners = rng.integers(-60, 230, (60, 2))
    with open_slide(path, reader=reader) as slide:
        want = [slide.read_region_px(1, int(x), int(y), 50, 30) for x, y in corners]
        got = list(slide.read_regions(1, corners, 50, 30, workers=3))
    assert all(np.array_equal(a, b) for a, b in zip(want, got, strict=True))
    assert got[0].shape == (30, 50, 3)


@pytest.mark.parametrize("workers", [1, 4])
def test_each_stored_tile_is_decoded_once_and_forgotten_when_read(path, decoded, workers):
    corners = [(x, y) for y in range(0, 720, 60) for x in range(0, 1008, 60)]
    with open_slide(path) as slide:
        decoded.clear()  # a glance at the levels when the slide was opened
        assert sum(1 for _ in slide.read_tiles(corners, TileSpec(60, 0.25), workers=workers)) == len(corners)
        assert len(decoded) == len(set(decoded)) == 8 * 6
        assert len(slide._source._cache) == 0


def test_what_a_batch_read_of_a_tile_in_part_waits_for_the_next(path, decoded):
    spec = TileSpec(50, 0.25)
    with open_slide(path) as slide:
        decoded.clear()
        for y in range(0, 700, 50):
            list(slide.read_tiles([(x, y) for x in range(0, 1000, 50)], spec, workers=2))
    assert len(decoded) == len(set(decoded)) == 8 * 6


def test_images_before_a_damaged_tile_come_first(tmp_path):
    path = write_pyramid(tmp_path / "a.tif", [smooth_picture(256, 2048)], **JPEG)
    with open_slide(path) as slide:
        offset, count = int(slide._source._levels[0].offsets[0, 24]), int(slide._source._levels[0].counts[0, 24])
    data = bytearray(path.read_bytes())
    data[offset : offset + count] = bytes(count)
    path.write_bytes(data)
    corners = [(x, y) for y in (0, 128) for x in range(0, 2048, 64)]  # tile 24: x 1024, y 128
    for workers in (1, 3):
        with open_slide(path) as slide:
            images = []
            regions = slide.read_regions(0, corners, 64, 64, workers=workers)
            with pytest.raises(SlideError, match="tile 24 of level 0"):
                images.extend(image for image in regions)
        assert len(images) == 32 + 16


def test_a_batch_left_early_ends_its_threads(path):
    corners = [(x, y) for y in range(0, 650, 64) for x in range(0, 900, 64)]
    before = threading.active_count()
    with open_slide(path) as slide:
        images = slide.read_regions(0, corners, 64, 64, workers=3)
        next(images)
        assert threading.active_count() > before
        images.close()
        assert threading.active_count() == before


def test_a_batch_takes_any_iterable_and_reads_no_further_than_it_must(path):
    taken = []

    def endless():
        number = 0
        while True:
            taken.append(number)
            yield (number % 900, number % 600)
            number += 1

    with open_slide(path) as slide:
        images = slide.read_regions(0, endless(), 64, 64, workers=2)
        for _ in range(10):
            next(images)
        images.close()
        assert list(slide.read_regions(0, [], 64, 64)) == []
    assert len(taken) <= 512


@pytest.mark.parametrize(("step", "threads"), [(64, True), (3, False)])
def test_threads_share_decoding_but_not_mere_copies(path, step, threads):
    """Copies out of decoded tiles wait for one another, so a batch of little else is left to one thread."""
    corners = [(x, y) for y in range(0, 12 * step, step) for x in range(0, 12 * step, step)]
    before = threading.active_count()
    with open_slide(path) as slide:
        images = slide.read_regions(0, corners, 64, 64, workers=3)
        next(images)
        assert (threading.active_count() > before) == threads
        images.close()


@pytest.mark.parametrize(("processors", "alone"), [(1.0, True), (1.9, False), (0.1, False)])
def test_threads_that_only_take_turns_are_given_up(monkeypatch, processors, alone):
    """One processor in use: the threads wait for one another. Two: they pay. A tenth: they wait for a disk, and pay."""
    monkeypatch.setattr(batch.time, "process_time", lambda: time.perf_counter() * processors)
    here, readers = threading.current_thread(), []

    def read(rectangle):
        readers.append(threading.current_thread())
        time.sleep(0.002)
        return np.zeros((8, 8, 3), np.uint8), 0.0, 0.0

    jobs = [batch.Job(Rectangle(0, x, 0, 8, 8), None, (8, 8)) for x in range(400)]
    images = list(batch.images_in_order(jobs, lambda rectangles: BatchReader(read, shared=True), 2))
    assert len(images) == len(readers) == 400
    assert (here in readers) == alone
    assert set(readers) != {here}


def test_a_batch_of_a_few_tiles_starts_no_threads(path):
    before = threading.active_count()
    with open_slide(path) as slide:
        images = slide.read_tiles([(0, 0), (200, 200), (400, 400)], TileSpec(50, 0.25), workers=4)
        next(images)
        assert threading.active_count() == before
        assert sum(1 for _ in images) == 2


def test_fewer_than_one_worker_is_refused(path):
    with open_slide(path) as slide, pytest.raises(ConfigError, match="workers: got 0, expected 1 or more"):
        slide.read_tiles([(0, 0)], TileSpec(50, 0.25), workers=0)


def _filled_with(value):
    def decode(out):
        out[:] = value

    return decode


def test_a_tile_that_is_being_read_keeps_its_memory():
    cache = TileCache(64 * 100 * 3)
    held = cache.hold("held", (8, 8, 3), _filled_with(7))
    for number in range(1000):
        cache.let_go(cache.hold(number, (8, 8, 3), _filled_with(number % 256)))
    assert (held.pixels == 7).all()
    cache.let_go(held)
    again = cache.hold("held", (8, 8, 3), _filled_with(9))
    assert (again.pixels == 9).all()  # it had been forgotten meanwhile


def test_memory_is_bounded_and_serves_other_shapes():
    capacity = 10 * 2**20
    cache = TileCache(capacity)
    shapes = [(256, 256, 3), (128, 128, 3), (64, 512, 3), (240, 240, 3)]
    for number in range(2000):
        shape = shapes[number // 7 % 4]
        tile = cache.hold(number, shape, _filled_with(number % 256))
        assert tile.pixels.shape == shape
        cache.let_go(tile, forget=number % 3 == 0)
        assert cache.bytes <= capacity or len(cache) <= 16
    assert cache.bytes > capacity / 2
    cache.clear()
    assert len(cache) == cache.bytes == 0


def test_threads_share_one_decoding_and_its_failure_is_tried_again():
    cache, calls, lock = TileCache(2**20), [], threading.Lock()

    def decode(out):
        with lock:
            calls.append(1)
            first = len(calls) == 1
        if first:
            raise OSError("the share is away")
        out[:] = 5

    def read(_):
        try:
            tile = cache.hold("a", (16, 16, 3), decode)
        except OSError:
            return None
        try:
            return int(tile.pixels.min())
        finally:
            cache.let_go(tile)

    with ThreadPoolExecutor(8) as pool:
        values = list(pool.map(read, range(64)))
    assert values.count(None) == 1
    assert values.count(5) == 63
    assert len(calls) == 2
