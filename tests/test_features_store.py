"""Feature files: round trip, TRIDENT's readers, and everything that can be wrong with a file."""

from dataclasses import replace

import h5py
import numpy as np
import pytest

from pathflip.errors import FeatureError
from pathflip.features import read_features, write_features
from pathflip.features.store import FeatureKind, check_cohort, features_path, read_kind, read_settings
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


def test_files_made_elsewhere_are_sent_through_convert(tmp_path):
    path = tmp_path / "theirs.h5"
    with h5py.File(path, "w") as file:
        file["features"], file["coords"] = np.zeros((2, 3), np.float32), np.zeros((2, 2), np.int32)
    for reader in (read_features, read_kind):
        with pytest.raises(FeatureError, match=r"made elsewhere .*pathflip convert .*theirs.h5 --to pathflip"):
            reader(path)


def test_a_cohort_is_of_one_kind(sample, tmp_path):
    spec = sample.spec
    paths = {}
    for name, changes in {
        "a": {},
        "b": {"spec": replace(spec, mpp=spec.mpp * 1.015)},  # within the tolerance of a resolution
        "c": {"spec": replace(spec, mpp=spec.mpp * 1.04)},
        "d": {"encoder": "other"},
        "e": {"spec": replace(spec, tile_px=224)},
        "g": {"spec": replace(spec, stride_px=256)},
        "f": {"features": sample.features[:, :4]},
    }.items():
        paths[name] = tmp_path / f"{name}.h5"
        write_features(paths[name], replace(sample, **changes))
    assert check_cohort([paths["a"], paths["b"]]) == FeatureKind("stain_texture", 5, 256, 0.5, 128)
    for odd in "cdefg":
        with pytest.raises(FeatureError) as error:
            check_cohort([paths["a"], paths[odd], paths["b"]])
        text = str(error.value)
        assert text.startswith("3 feature files of 2 kinds (")
        assert text.index(f"{odd}.h5") < text.index("a.h5") < text.index("b.h5")  # the odd one first
    with pytest.raises(FeatureError, match="expected at least one"):
        check_cohort([])
    with pytest.raises(FeatureError, match="no such file"):
        check_cohort([tmp_path / "absent.h5"])


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
    with pytest.raises(FeatureError, match=r"in 2 rows \(2, 4\) of 7"):
        read_features(path)
    sample.features[1] = np.nan
    with pytest.raises(FeatureError, match=r"1 row \(1\)"):
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
