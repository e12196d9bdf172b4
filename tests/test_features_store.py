"""Feature files: round trip, TRIDENT's readers, and everything that can be wrong with a file."""

import h5py
import numpy as np
import pytest

from pathflip.errors import FeatureError
from pathflip.features import read_features, write_features
from pathflip.features.store import features_path, read_settings
from pathflip.geometry import Box, SlideInfo, TileSpec
from pathflip.types import SlideFeatures


@pytest.fixture
def sample(rng) -> SlideFeatures:
    info = SlideInfo("case é 1", (4000, 3000), 0.25, (1.0, 4.0), "aperio", "openslide", Box(10, 20, 3000, 2000))
    coords = np.stack([np.arange(7) * 512, np.arange(7) * 256], axis=1).astype(np.int64)
    valid = np.array([True] * 6 + [False])
    features = rng.normal(size=(7, 5)).astype(np.float32)
    features[6] = 0
    return SlideFeatures(info.slide_id, features, coords, valid, info, TileSpec(256, 0.5, 128, 0.3), "stain_texture")


def trident_reader(path):
    """What TRIDENT does with a feature file: whole datasets, attributes of coords."""
    with h5py.File(path, "r") as file:
        assets = {key: file[key][:] for key in ("features", "coords")}
        return assets, dict(file["coords"].attrs), dict(file["features"].attrs)


def test_round_trip(sample, tmp_path):
    path = features_path(tmp_path, sample.encoder, sample.slide_id)
    write_features(path, sample, settings={"mpp": 0.5})
    assert path == tmp_path / "features_stain_texture" / "case é 1.h5"
    again = read_features(path)
    for name in ("features", "coords", "valid"):
        np.testing.assert_array_equal(getattr(again, name), getattr(sample, name))
    assert (again.info, again.spec, again.encoder, again.slide_id) == (
        sample.info, sample.spec, sample.encoder, sample.slide_id,
    )  # fmt: skip
    assert read_settings(path) == {"mpp": 0.5}
    assert [p.name for p in path.parent.iterdir()] == [path.name]


def test_trident_reads_it(sample, tmp_path):
    path = tmp_path / "a.h5"
    write_features(path, sample)
    assets, on_coords, on_features = trident_reader(path)
    assert assets["features"].shape == (7, 5)
    assert assets["coords"].dtype == np.int64
    want = {"patch_size": 256, "patch_size_level0": 512, "overlap": 128, "level0_width": 4000, "level0_height": 3000}
    want |= {"level0_magnification": 40, "target_magnification": 20, "name": "case é 1", "savetodir": str(tmp_path)}
    assert {key: on_coords[key] for key in want} == want
    assert on_features["encoder"] == "stain_texture"


def test_plain_trident_file(tmp_path, rng):
    folder = tmp_path / "features_uni_v1"
    folder.mkdir()
    with h5py.File(folder / "s1.h5", "w") as file:
        file["features"] = rng.normal(size=(4, 8)).astype(np.float16)
        file["coords"] = np.arange(8).reshape(4, 2) * 1024
        file["coords"].attrs.update(
            {"patch_size": 256, "patch_size_level0": 512, "overlap": 0, "level0_width": "None", "level0_height": 9000}
        )
    with pytest.raises(FeatureError, match=r"does not say how large its tiles are; give --mpp \("):
        read_features(folder / "s1.h5")
    got = read_features(folder / "s1.h5", mpp=0.5)
    assert (got.encoder, got.slide_id, got.spec.tile_px, got.info.mpp0) == ("uni_v1", "s1", 256, 0.25)
    assert got.features.dtype == np.float32
    assert got.valid.all()
    assert got.grid.tile_px0 == 512
    assert got.info.size0 == (7 * 1024 - 1024 + 512, 9000)


def test_file_without_any_attributes_needs_three_numbers(tmp_path):
    path = tmp_path / "clam.h5"
    with h5py.File(path, "w") as file:
        file["features"], file["coords"] = np.zeros((2, 3), np.float32), np.zeros((2, 2), np.int32)
    with pytest.raises(FeatureError, match="give --mpp, --tile-px, --slide-mpp"):
        read_features(path)
    with pytest.raises(FeatureError, match="give --encoder NAME"):
        read_features(path, mpp=0.5, tile_px=256, slide_mpp=0.25)
    assert read_features(path, mpp=0.5, tile_px=256, slide_mpp=0.25, encoder="x").grid.tile_px0 == 512


@pytest.mark.parametrize(
    ("key", "values", "message"),
    [
        ("coords", None, "no dataset 'coords'"),
        ("features", None, "no dataset 'features'"),
        ("features", np.zeros((1, 7, 5)), r"'features' is float64 \(1, 7, 5\)"),
        ("coords", np.zeros((7, 3)), r"'coords' is float64 \(7, 3\)"),
        ("coords", np.zeros((6, 2)), "'coords' 6"),
        ("features", np.zeros((7, 4)), "attribute 'dim' is 5"),
    ],
)
def test_bad_datasets_are_named(sample, tmp_path, key, values, message):
    path = tmp_path / "a.h5"
    write_features(path, sample)
    with h5py.File(path, "a") as file:
        attributes = dict(file[key].attrs)
        del file[key]
        if values is not None:
            file[key] = values
            file[key].attrs.update(attributes)
    with pytest.raises(FeatureError, match=message):
        read_features(path)


def test_non_finite_rows_are_named_unless_invalid(sample, tmp_path):
    path = tmp_path / "a.h5"
    write_features(path, sample)
    with h5py.File(path, "a") as file:
        file["features"][6, 0] = np.nan
    assert (read_features(path).features[6] == 0).all()  # marked invalid: comes back as zeros
    with h5py.File(path, "a") as file:
        file["features"][2, 1] = np.inf
        file["features"][4, 1] = np.nan
    with pytest.raises(FeatureError, match=r"in 2 of 7 rows \(2, 4\)"):
        read_features(path)
    sample.features[1] = np.nan
    with pytest.raises(FeatureError, match=r"rows \(1\)"):
        write_features(tmp_path / "b.h5", sample)
    assert not (tmp_path / "b.h5").exists()


def test_damage_is_noticed(sample, tmp_path):
    path = tmp_path / "a.h5"
    write_features(path, sample)
    good = path.read_bytes()
    at = good.find(sample.features.tobytes())
    for bad in (good[:-200], b"not hdf5 at all", b"", good[:at] + b"\xff" + good[at + 1 :]):
        path.write_bytes(bad)
        with pytest.raises(FeatureError, match="extract it again"):
            read_features(path)
    with pytest.raises(FeatureError, match="no such feature file"):
        read_features(tmp_path / "absent.h5")


def test_newer_format_is_refused(sample, tmp_path):
    path = tmp_path / "a.h5"
    write_features(path, sample)
    with h5py.File(path, "a") as file:
        file.attrs["format_version"] = "2.0"
    with pytest.raises(FeatureError, match=r"format_version is '2.0', this PathFLIP reads 1.x"):
        read_features(path)


def test_no_rows(sample, tmp_path):
    empty = SlideFeatures(
        "e", np.zeros((0, 5), np.float32), np.zeros((0, 2), np.int64), np.zeros(0, bool), sample.info, sample.spec, "x"
    )
    write_features(tmp_path / "e.h5", empty)
    assert read_features(tmp_path / "e.h5").features.shape == (0, 5)
