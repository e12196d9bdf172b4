"""The stain-and-texture descriptor against naive loops and against what it claims to ignore."""

import math

import numpy as np
import pytest
import torch

from pathflip.errors import ConfigError
from pathflip.features import texture
from pathflip.features.texture import REFERENCE_STAINS, StainTexture, derivatives, describe, estimate_stains
from pathflip.features.texture_scale import CENTRE, SPREAD

EOSIN = (0.07, 0.99, 0.11)


def tissue_like(rng, count: int, px: int, strength: float = 1.0, eosin: tuple[float, ...] = EOSIN) -> np.ndarray:
    """Eosin ground with round haematoxylin nuclei and some glass, by Beer-Lambert."""
    y, x = np.mgrid[:px, :px]
    tiles = []
    for _ in range(count):
        h = np.zeros((px, px))
        for cx, cy in rng.uniform(0, px, (px // 8, 2)):
            h = np.maximum(h, 0.9 * (np.hypot(x - cx, y - cy) < 3.5))
        e = np.where(x < px * rng.uniform(0.7, 1.0), 0.5 + 0.1 * np.sin(y / 3), 0.0)
        density = strength * (h[..., None] * [0.65, 0.70, 0.29] + e[..., None] * eosin)
        tiles.append(245 * np.exp(-density) + rng.normal(0, 1, (px, px, 3)))
    return np.clip(np.stack(tiles), 0, 255).astype(np.uint8)


def test_derivatives_equal_a_naive_correlation(rng):
    image = torch.tensor(rng.normal(size=(1, 9, 11, 2)), dtype=torch.float64)
    smooth, first, second = np.array([1, 2, 1]) / 4, np.array([-1, 0, 1]) / 2, np.array([1, -2, 1])
    stencils = [(smooth, first), (first, smooth), (smooth, second), (second, smooth), (first, first)]
    for got, (rows, columns) in zip(derivatives(image), stencils, strict=True):
        for tile in range(2):
            for j in range(7):
                for i in range(9):
                    patch = image[0, j : j + 3, i : i + 3, tile].numpy()
                    want = sum(rows[a] * columns[b] * patch[a, b] for a in range(3) for b in range(3))
                    assert got[0, j, i, tile] == pytest.approx(want, abs=1e-12)


def test_energies_and_blobs_equal_a_naive_loop(rng):
    tiles = tissue_like(rng, 1, 40)
    groups = describe(torch.as_tensor(tiles), REFERENCE_STAINS)
    od = np.log(246.0) - np.log(tiles[0].astype(np.float64) + 1)
    h = (od @ REFERENCE_STAINS.unmix.numpy().astype(np.float64))[..., 0]
    size = 38
    power, laplace = np.zeros((size, size)), np.zeros((size, size))
    for j in range(size):
        for i in range(size):
            p = h[j : j + 3, i : i + 3]
            gx = sum(w * (p[r, 2] - p[r, 0]) for r, w in enumerate((1, 2, 1))) / 8
            gy = sum(w * (p[2, c] - p[0, c]) for c, w in enumerate((1, 2, 1))) / 8
            power[j, i] = gx * gx + gy * gy
            laplace[j, i] = sum(w * (p[r, 0] - 2 * p[r, 1] + p[r, 2]) for r, w in enumerate((1, 2, 1))) / 4
            laplace[j, i] += sum(w * (p[0, c] - 2 * p[1, c] + p[2, c]) for c, w in enumerate((1, 2, 1))) / 4
    energy = groups["energy_0"][:, 0].numpy()  # per kind: haematoxylin, eosin
    dark = np.maximum(-laplace, 0)
    assert energy[0] == pytest.approx(math.log(np.sqrt(power).mean() + 0.02), abs=1e-4)
    assert energy[2] == pytest.approx(math.log(math.sqrt(power.mean()) + 0.02), abs=1e-4)
    assert energy[10] == pytest.approx(math.log(dark.mean() + 0.02), abs=1e-4)
    peaks = [
        dark[j, i]
        for j in range(1, size - 1)
        for i in range(1, size - 1)
        if dark[j, i] > 0.06 and dark[j, i] == dark[j - 1 : j + 2, i - 1 : i + 2].max()
    ]
    inner = (size - 2) ** 2
    assert groups["blobs_0"][0, 0] == pytest.approx(math.sqrt(100 * len(peaks) / inner), rel=1e-4)
    assert groups["blobs_0"][1, 0] == pytest.approx(sum(peaks) / (len(peaks) + 0.5), rel=1e-3)


def test_joint_histogram_equals_a_naive_loop(rng):
    tiles = tissue_like(rng, 1, 32)
    od = np.log(246.0) - np.log(tiles[0].astype(np.float64) + 1)
    half = od.reshape(16, 2, 16, 2, 3).mean(axis=(1, 3)) @ REFERENCE_STAINS.unmix.numpy().astype(np.float64)
    want = np.zeros((6, 6))
    for h, e, _ in half.reshape(-1, 3):
        a, b = min(max(h * 5, 0), 5), min(max(e * 5, 0), 5)
        for i in range(6):
            for j in range(6):
                want[i, j] += max(0, 1 - abs(a - i)) * max(0, 1 - abs(b - j)) / 256
    # white of the reference state is the absolute white: nothing to convert
    got = describe(torch.as_tensor(tiles), REFERENCE_STAINS)["joint_he"][:, 0].reshape(6, 6).numpy()
    np.testing.assert_allclose(got**2, want, atol=1e-5)
    assert want.sum() == pytest.approx(1)


def test_a_large_odd_tile_of_a_measured_slide_equals_a_naive_loop(rng):
    """The working size is a half here, the last row and column fill no square, and white is not the reference's."""
    tiles = tissue_like(rng, 1, 193)
    state = estimate_stains(tissue_like(rng, 8, 64, strength=0.7))
    groups = {name: values[:, 0].numpy() for name, values in describe(torch.as_tensor(tiles), state).items()}
    white = state.white.numpy().astype(np.float64)
    stains = (np.log(white + 1) - np.log(tiles[0, :192, :192].astype(np.float64) + 1)) @ state.unmix.numpy()
    np.testing.assert_allclose(groups["mean"][:3], stains.mean(axis=(0, 1)), atol=1e-5)
    power, diagonal = [], []
    for j in range(0, 192, 2):
        for i in range(0, 192, 2):
            (a, b), (c, d) = stains[j : j + 2, i : i + 2, 0]
            power.append((a - d) ** 2 + (c - b) ** 2)
            diagonal.append(abs(a + d - b - c))
    energies = [np.sqrt(power).mean(), np.mean(power) ** 0.5, np.mean(diagonal), np.square(diagonal).mean() ** 0.5]
    np.testing.assert_allclose(groups["fine"], np.log(np.array(energies) + 0.02), atol=1e-4)


@pytest.mark.parametrize("px", [32, 33, 64, 224, 256])
def test_any_tile_size_same_width_finite_and_alone_as_in_a_batch(rng, px):
    encoder = StainTexture("cpu")
    tiles = np.concatenate([tissue_like(rng, 3, px), np.full((1, px, px, 3), 255, np.uint8)])
    tiles = np.concatenate([tiles, np.zeros((1, px, px, 3), np.uint8)])
    together = encoder.encode(tiles, encoder.prepare(tiles))
    assert together.shape == (5, encoder.dim)
    assert together.dtype == np.float32
    assert np.isfinite(together).all()
    alone = np.concatenate([encoder.encode(tile[None], encoder.prepare(tiles)) for tile in tiles])
    np.testing.assert_allclose(alone, together, atol=2e-3)


def test_features_ignore_rotation_and_reflection(rng):
    tiles = tissue_like(rng, 2, 64)
    groups = describe(torch.as_tensor(tiles), REFERENCE_STAINS)
    for turned in (np.rot90(tiles, axes=(1, 2)), tiles[:, :, ::-1], tiles.transpose(0, 2, 1, 3)):
        again = describe(torch.as_tensor(turned.copy()), REFERENCE_STAINS)
        for name, values in groups.items():
            torch.testing.assert_close(again[name], values, atol=2e-3, rtol=2e-3, msg=name)


def test_weaker_staining_moves_texture_less_when_measured(rng):
    encoder = StainTexture("cpu")
    strong = tissue_like(np.random.default_rng(1), 6, 64)
    weak = tissue_like(np.random.default_rng(1), 6, 64, strength=0.6)
    fixed = np.abs(encoder.encode(weak) - encoder.encode(strong)).mean()
    measured = np.abs(encoder.encode(weak, encoder.prepare(weak)) - encoder.encode(strong, encoder.prepare(strong)))
    assert measured.mean() < 0.8 * fixed


def test_stain_vectors_are_recovered_and_nonsense_falls_back(rng):
    eosin = np.array([0.36, 0.88, 0.31])  # a real scanner's: more red than Ruifrok's
    sample = tissue_like(rng, 8, 64, eosin=tuple(eosin))
    unmix = np.linalg.inv(estimate_stains(sample, shrink=0.0).unmix.numpy())
    vectors = unmix[:2] / np.linalg.norm(unmix[:2], axis=1, keepdims=True)
    assert vectors[0] @ [0.65, 0.70, 0.29] > 0.97
    assert vectors[1] @ eosin > 0.98
    for odd in (np.full((4, 32, 32, 3), 255, np.uint8), np.zeros((4, 32, 32, 3), np.uint8), np.zeros((0, 32, 32, 3))):
        assert torch.isfinite(estimate_stains(odd.astype(np.uint8)).unmix).all()


def test_calibration_fits_the_descriptor():
    groups = describe(torch.zeros((1, 32, 32, 3), dtype=torch.uint8), REFERENCE_STAINS)
    assert sum(len(values) for values in groups.values()) == len(CENTRE) == len(SPREAD) == StainTexture.dim
    assert min(SPREAD) > 0


@pytest.mark.usefixtures("annotations_off")
def test_bad_tiles_are_refused():
    encoder = StainTexture("cpu")
    for bad in (
        np.zeros((1, 16, 16, 3), np.uint8),
        np.zeros((1, 64, 64, 3), np.float32),
        np.zeros((64, 64, 3), np.uint8),
    ):
        with pytest.raises(ConfigError, match=r"expected uint8 \(n, px, px, 3\)"):
            encoder.encode(bad)
    assert encoder.encode(np.zeros((0, 64, 64, 3), np.uint8)).shape == (0, texture.StainTexture.dim)
