"""Resampling against its definition: exact area means, nothing moved."""

import numpy as np
import pytest

from pathflip.slide.resample import area_weights, resample
from slide_files import exact_box, smooth_picture


@pytest.mark.parametrize(
    ("corners", "out"),
    [
        ((0, 0, 90, 70), (30, 20)),
        ((3, 5, 81, 60), (32, 32)),
        ((0.25, 0.75, 60.5, 50.3), (25, 25)),
        ((10.5, 3.5, 40.0, 39.0), (33, 33)),
        ((7.9, 1.1, 79.1, 65.2), (40, 11)),
    ],
)
def test_shrinking_is_the_exact_area_mean(corners, out):
    picture = np.random.default_rng(1).integers(0, 256, (70, 90, 3), np.uint8)
    got = resample(picture, *corners, out).astype(int)
    want = exact_box(picture, *corners, out).astype(int)
    assert np.abs(got - want).max() <= 1


def test_same_size_at_whole_pixels_is_a_copy(rng):
    picture = rng.integers(0, 256, (40, 50, 3), np.uint8)
    got = resample(picture, 4, 6, 20, 10, (20, 10))
    assert np.array_equal(got, picture[6:16, 4:24])
    assert got.base is None or not np.shares_memory(got, picture)


@pytest.mark.parametrize("shift", [0.0, 0.3])
def test_enlarging_keeps_every_point_in_its_place(shift):
    x = np.arange(64)
    ramp = np.repeat(np.broadcast_to((x * 3.0)[None, :, None], (64, 64, 1)), 3, axis=2)
    got = resample(np.rint(ramp).astype(np.uint8), 10 + shift, 10, 30.0, 30.0, (32, 32)).astype(float)
    centres = 10 + shift + (np.arange(32) + 0.5) * 30 / 32 - 0.5
    assert np.abs(got[:, :, 0] - centres * 3.0).max() < 1.0


def test_mean_colour_is_kept():
    picture = smooth_picture(300, 300)
    got = resample(picture, 10.5, 20.25, 200, 200, (64, 64))
    assert np.abs(got.mean(axis=(0, 1)) - picture[20:220, 10:210].mean(axis=(0, 1))).max() < 1.0


def test_weights_sum_to_one_and_repeat_the_border():
    weights = area_weights(-3.0, 20.0, 10, 12)
    assert np.allclose(weights.sum(axis=1), 1)
    assert weights[0].argmax() == 0
    assert weights[-1].argmax() == 11
