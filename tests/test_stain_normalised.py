"""Stain normalisation in front of an encoder: against the library on one large image, and between laboratories."""

import builtins
from dataclasses import replace

import cv2
import numpy as np
import pytest
import torch

from pathflip.errors import ConfigError, MissingExtraError, SlideError
from pathflip.features import Encoder, extract_cohort, load_encoder, read_features
from pathflip.features.stain_normalised import StainNormalised
from pathflip.geometry import TileSpec
from pathflip.simulate.fields import noise
from pathflip.simulate.scanner import develop, draw_scan
from slide_files import write_pyramid


class Pixels:
    """An encoder that keeps the pixels themselves, and what it was shown to measure."""

    name, revision, dim, tile_px, mpp, sample_tiles = "pixels", "1", 64 * 64 * 3, 64, 0.5, 3

    def prepare(self, sample):
        self.sample = sample
        return len(sample)

    def encode(self, tiles, state=None):
        self.state = state
        return np.asarray(tiles).reshape(len(tiles), -1).astype(np.float32)


def tiles_of(picture):
    side = picture.shape[0] // 64
    return picture.reshape(side, 64, side, 64, 3).swapaxes(1, 2).reshape(-1, 64, 64, 3)


@pytest.fixture(scope="module")
def laboratories():
    """The same tissue (nuclei on eosin of several densities) in two laboratories: weak and bluish, strong and red."""
    rng = np.random.default_rng(4)
    amounts = np.zeros((512, 512, 4), np.uint8)
    field = cv2.resize(noise(rng, 512, 60), (512, 512))
    amounts[..., 1] = np.clip(55 + 25 * field, 10, 130)
    nuclei = cv2.resize(noise(rng, 512, 8), (512, 512)) + 0.8 * np.roll(field, 150, axis=1) > 1
    amounts[..., 0] = cv2.GaussianBlur(np.where(nuclei, 110, 4).astype(np.uint8), (0, 0), 1)
    scan = draw_scan(np.random.default_rng(0), np.random.default_rng(1))
    weak = (
        scan.stains
        * np.array([[0.75], [0.6], [1], [1]])
        * np.array([[0.92, 1.0, 1.1], [1.2, 0.95, 1.1], *[[1] * 3] * 2])
    )
    strong = scan.stains * np.array([[1.25], [1.35], [1], [1]])
    return [
        tiles_of(develop(amounts, replace(scan, stains=stains.astype(np.float32)), np.random.default_rng(2)))
        for stains in (weak, strong)
    ]


def test_equals_the_library_on_the_whole_sample_as_one_image(laboratories):
    from torchstain.base.normalizers import MacenkoNormalizer

    for tiles in laboratories:
        want, _, _ = MacenkoNormalizer(backend="numpy").normalize(tiles.reshape(-1, 64, 3))
        inner = Pixels()
        encoder = StainNormalised(inner)
        state = encoder.prepare(tiles)
        got = np.concatenate([encoder.encode(part, state) for part in (tiles[:5], tiles[5:])])
        # The library cuts decimals off where a rounded value is nearer.
        difference = got.reshape(-1, 64, 3) - want
        assert difference.min() >= 0
        assert difference.max() <= 1
        assert inner.state == 64
        np.testing.assert_array_equal(inner.sample, encoder.encode(tiles, state).reshape(tiles.shape))


def density(tiles):
    return -np.log((tiles.astype(np.float64) + 1) / 240).mean(axis=(1, 2))


def test_two_laboratories_come_closer(laboratories):
    """In units of their spread, mean densities come to a fifth of their distance and histograms to half."""
    normalise = StainNormalised(Pixels())
    normal = [
        normalise.encode(tiles, normalise.prepare(tiles)).reshape(tiles.shape).astype(np.uint8)
        for tiles in laboratories
    ]

    def apart(values):
        spread = np.mean([np.linalg.norm(v - v.mean(axis=0), axis=1).mean() for v in values])
        return np.linalg.norm(values[0] - values[1], axis=1).mean() / spread

    before, after = (apart([density(t) for t in pair]) for pair in (laboratories, normal))
    assert after < before / 5
    plain, encoder = load_encoder("colour_histogram"), load_encoder("colour_histogram+macenko")
    before = apart([plain.encode(tiles) for tiles in laboratories])
    after = apart([encoder.encode(tiles, encoder.prepare(tiles)) for tiles in laboratories])
    assert after < before / 2


def test_white_stays_white_and_blank_tiles_stay_finite(laboratories):
    encoder = StainNormalised(Pixels())
    for tiles in laboratories:
        state = encoder.prepare(tiles)
        blank = np.stack([np.full((64, 64, 3), grey, np.uint8) for grey in (0, 239, 245, 255)])
        features = encoder.encode(blank, state)
        assert np.isfinite(features).all()
        assert (features[1:] >= 235).all()
    texture = load_encoder("stain_texture+macenko", "cpu")
    features = texture.encode(blank, texture.prepare(laboratories[0]))
    assert np.isfinite(features).all()


def test_the_whole_slide_takes_one_map(laboratories):
    """Pale tiles stay pale: fitted alone they would be stretched to full staining."""
    encoder, tiles = StainNormalised(Pixels()), laboratories[1]
    state = encoder.prepare(tiles)
    order = np.argsort(density(tiles).sum(axis=1))
    palest, darkest = tiles[order[:4]], tiles[order[-4:]]

    def mean_density(tiles, state=None):
        return density(encoder.encode(tiles, state).reshape(tiles.shape)).mean()

    assert mean_density(palest, state) < 0.8 * mean_density(darkest, state)
    assert mean_density(palest) > 1.1 * mean_density(palest, state)
    np.testing.assert_array_equal(encoder.encode(tiles, state)[order[:4]], encoder.encode(palest, state))


def test_samples_without_two_stains_are_refused(laboratories, rng):
    encoder = StainNormalised(Pixels())
    glass = np.full((8, 64, 64, 3), 243, np.uint8)
    for sample in (glass, glass[:0]):
        with pytest.raises(SlideError, match=r"0 stained pixels in a sample of \d tiles, expected at least 500"):
            encoder.prepare(sample)
    grey = np.repeat(rng.integers(60, 200, (8, 64, 64, 1), dtype=np.uint8), 3, axis=3)
    with pytest.raises(SlideError, match="a slide of one stain cannot be normalised"):
        encoder.prepare(grey)


def test_the_name_says_so(laboratories):
    plain, encoder = load_encoder("stain_texture", "cpu"), load_encoder("stain_texture+macenko", "cpu")
    assert isinstance(encoder, Encoder)
    assert encoder.name == "stain_texture+macenko"
    assert encoder.revision.startswith(f"{plain.revision}+1-torchstain")
    assert (encoder.dim, encoder.tile_px, encoder.mpp) == (plain.dim, plain.tile_px, plain.mpp)
    assert encoder.sample_tiles == 64
    assert encoder.encode(np.zeros((0, 64, 64, 3), np.uint8)).shape == (0, plain.dim)
    state = encoder.prepare(laboratories[0])
    np.testing.assert_array_equal(
        encoder.encode(torch.as_tensor(laboratories[0]), state), encoder.encode(laboratories[0], state)
    )
    with pytest.raises(ConfigError, match="no stain normalisation 'vahadane'; expected macenko"):
        load_encoder("uni_v1+vahadane")
    with pytest.raises(ConfigError, match="did you mean 'stain_texture'"):
        load_encoder("stain_textur+macenko")
    with pytest.raises(ConfigError, match="expected one of macenko"):
        StainNormalised(Pixels(), "vahadane")


def test_without_the_library_the_install_line_is_named(monkeypatch):
    real = builtins.__import__

    def without(name, *args, **kwargs):
        if name.startswith("torchstain"):
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(MissingExtraError, match=r"pip install 'pathflip\[stain\]'"):
        load_encoder("colour_histogram+macenko")


def test_extraction_keeps_normalised_features_apart(laboratories, tmp_path):
    """Folders, names and settings differ; a slide with no second stain fails with a line, and the other is done."""
    rows = laboratories[1].reshape(8, 8, 64, 64, 3).swapaxes(1, 2).reshape(512, 512, 3)
    picture = np.full((768, 768, 3), 243, np.uint8)
    picture[128:640, 128:640] = rows
    write_pyramid(tmp_path / "stained.tif", [picture], mpp=0.5)
    amount = -np.log(picture.mean(axis=2, keepdims=True) / 243)
    single = np.rint(243 * np.exp(-amount * np.array([0.7, 1.4, 0.9]))).astype(np.uint8)
    write_pyramid(tmp_path / "single.tif", [single], mpp=0.5)
    paths, spec = sorted(tmp_path.glob("*.tif")), TileSpec(64, 0.5)
    plain = extract_cohort(paths, spec, "colour_histogram", tmp_path / "o", num_workers=1)
    single, stained = extract_cohort(paths, spec, "colour_histogram+macenko", tmp_path / "o", num_workers=1)
    assert [outcome.status for outcome in plain] == ["done", "done"]
    assert (single.status, single.error) == ("failed", "SlideError")
    assert "a slide of one stain" in single.message
    assert stained.path == tmp_path / "o" / "features_colour_histogram+macenko" / "stained.h5"
    normalised, raw = read_features(stained.path), read_features(plain[1].path)
    assert normalised.encoder == "colour_histogram+macenko"
    np.testing.assert_array_equal(normalised.coords, raw.coords)
    assert np.abs(normalised.features - raw.features).max() > 0.1
