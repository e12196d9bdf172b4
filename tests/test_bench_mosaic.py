"""bench/mosaic.py: its regions lie on their slides, and what is a gap is left out (trained by nobody here:
it takes twenty minutes)."""

import importlib.util
import sys
from pathlib import Path

import numpy as np
import pytest

from pathflip.slide import open_slide

BENCH = Path(__file__).resolve().parents[1] / "bench" / "mosaic.py"
SPLITS = 3


@pytest.fixture(scope="module")
def bench():
    spec = importlib.util.spec_from_file_location("bench_mosaic", BENCH)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def test_a_gap_is_no_tissue(bench):
    image = np.full((64, 64, 3), 180, np.uint8)
    image[:19] = 250  # just under .3 of it
    assert not bench.is_white(image)
    image[:20] = 250
    assert bench.is_white(image)
    image[..., 1] = 200  # as bright, but pink
    assert not bench.is_white(image)


@pytest.mark.real
def test_regions_lie_on_their_slides_and_every_class_has_places_for_all_splits(bench, real_data):
    slides = {slide for regions in bench.REGIONS.values() for _, slide, _ in regions}
    info = {}
    for file, mpp in slides:
        with open_slide(real_data / "slides" / file, slide_mpp=mpp) as slide:
            info[file] = slide.info
    for name, regions in bench.REGIONS.items():
        assert len({place for place, _, _ in regions}) >= SPLITS, name
        for _, (file, _), (x, y, width, height) in regions:
            assert x + width <= info[file].size0[0]
            assert y + height <= info[file].size0[1]
            assert bench.IMAGE_PX * bench.MPP / info[file].mpp0 <= min(width, height), (name, file)


def test_a_tile_is_encoded_once_whatever_it_is_asked_for_with(bench):
    class Counted:
        name, revision, dim, tile_px, mpp, sample_tiles, tiles = "counted", "1", 1, None, None, 0, 0

        def encode(self, tiles, state=None):
            self.tiles += len(tiles)
            return tiles.reshape(len(tiles), -1)[:, :1].astype(np.float32)

    counted = Counted()
    encoder = bench.Remembered(counted)
    tiles = np.arange(5, dtype=np.uint8)[:, None, None, None] * np.ones((2, 2, 3), np.uint8)
    assert encoder.encode(tiles[:3])[:, 0].tolist() == [0, 1, 2]
    assert encoder.encode(tiles[[4, 1, 3]])[:, 0].tolist() == [4, 1, 3]
    assert counted.tiles == 5
