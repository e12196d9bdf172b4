"""Feature files and outlines as other pipelines leave them: read rightly, or refused in a line that names why."""

import os
import re
import shutil
import warnings
from pathlib import Path

import h5py
import numpy as np
import pytest

from pathflip.cli import main
from pathflip.errors import ConfigError, FeatureError, OutputError
from pathflip.features import read_features, write_features
from pathflip.features.store import read_kind, read_settings
from pathflip.geometry import SlideInfo, TileGrid, TileSpec
from pathflip.interop import ReadOptions, convert, read_regions, read_tiles
from pathflip.interop.conversion import TARGETS, find_inputs
from pathflip.io import hdf5
from pathflip.io.files import path_inside
from pathflip.io.hdf5_reads import WholeReads
from pathflip.slide import read_coords
from pathflip.slide.tiling import write_coords
from pathflip.types import SlideFeatures

CASES = Path(__file__).parent / "fixtures" / "cases"
FEATURES = CASES / "features"
KNOWN = ReadOptions(mpp=0.5, encoder=None)


def features(name="s", encoder="uni_v1", rows=6, dim=4):
    info = SlideInfo(name, (4000, 3000), 0.25, (1.0,), "aperio", "")
    coords = np.stack([np.arange(rows) * 512, np.zeros(rows)], axis=1).astype(np.int64)
    matrix = np.random.default_rng(0).normal(size=(rows, dim)).astype(np.float32)
    return SlideFeatures(name, matrix, coords, np.ones(rows, bool), info, TileSpec(256, 0.5), encoder)


@pytest.fixture
def ours(tmp_path):
    write_features(tmp_path / "in" / "s.h5", features())
    return tmp_path / "in" / "s.h5"


def plain():
    return read_tiles(FEATURES / "plain_for_comparison.h5", KNOWN)[1]


def files_of(folder):
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file())


# ---------------------------------------------------------------- what others call things


@pytest.mark.parametrize("name", ["tile_embeds", "embeddings"])
def test_features_under_other_names(name):
    kind, tiles = read_tiles(FEATURES / f"features_called_{name}.h5", ReadOptions(mpp=0.5, encoder="uni_v1"))
    assert kind == "trident"
    np.testing.assert_array_equal(tiles.features, plain().features)
    np.testing.assert_array_equal(tiles.grid.coords, plain().grid.coords)


def test_features_under_a_name_nobody_knows(tmp_path):
    path = tmp_path / "s.h5"
    shutil.copy(FEATURES / "plain_for_comparison.h5", path)
    with h5py.File(path, "a") as file:
        file.move("features", "vectors")
    with pytest.raises(
        FeatureError, match=r"holds 'vectors' \(12, 8\) beside its coordinates.*expected one of features, fe"
    ):
        read_tiles(path, KNOWN)
    with h5py.File(path, "a") as file:
        file["feats"], file["embeddings"] = file["vectors"][:], file["vectors"][:]
    with pytest.raises(FeatureError, match="holds 'feats' and 'embeddings'"):
        read_tiles(path, KNOWN)


@pytest.mark.parametrize("axis", [0, 1])
def test_batch_axes(tmp_path, axis):
    path = tmp_path / "s.h5"
    shutil.copy(FEATURES / "plain_for_comparison.h5", path)
    with h5py.File(path, "a") as file:
        matrix, coords, attributes = file["features"][:], file["coords"][:], dict(file["coords"].attrs)
        del file["features"], file["coords"]
        file["features"] = np.expand_dims(matrix, axis)
        file["coords"] = coords[None]
        file["coords"].attrs.update(attributes)
    _, tiles = read_tiles(path, ReadOptions(mpp=0.5, encoder="uni_v1"))
    np.testing.assert_array_equal(tiles.features, matrix)
    np.testing.assert_array_equal(tiles.grid.coords, coords)


def test_a_compression_that_is_not_here_is_named(monkeypatch):
    path = FEATURES / "compressed_with_blosc.h5"
    monkeypatch.setattr(hdf5.h5py.h5z, "filter_avail", lambda code: code != 32001)
    monkeypatch.setattr(hdf5, "_load_plugins", lambda: False)
    with pytest.raises(
        FeatureError, match=r"blosc \(HDF5 filter 32001\).*pip install 'pathflip\[hdf5\]'.*hdf5plugin"
    ) as error:
        read_tiles(path, KNOWN)
    assert "damaged" not in str(error.value)
    assert "not readable" not in str(error.value)


def test_blosc_is_read_with_its_plugin():
    pytest.importorskip("hdf5plugin")
    _, tiles = read_tiles(FEATURES / "compressed_with_blosc.h5", KNOWN)
    np.testing.assert_array_equal(tiles.features, np.repeat(plain().features, 64, axis=1))


# ---------------------------------------------------------------- numbers that contradict each other


def test_microns_that_are_pixels():
    path = FEATURES / "stamp_says_um_but_coords_are_pixels.h5"
    with pytest.raises(FeatureError, match=r"tiles of 128 µm stand 512 apart, which is 128 µm in pixels of 0.25 µm"):
        read_tiles(path, ReadOptions(slide_mpp=0.25))


def test_a_step_that_is_half_the_tile():
    _, tiles = read_tiles(FEATURES / "stamp_step_is_half_the_tile.h5", ReadOptions(slide_mpp=0.25))
    assert "its tiles are 256 µm wide but stand 128 µm apart" in " ".join(tiles.warnings)


def test_rows_that_are_not_finite(tmp_path):
    path = FEATURES / "rows_3_and_7_not_finite.h5"
    with pytest.raises(FeatureError, match=r"NaN or infinity in 2 rows \(3, 7\) of 12;.*--drop-invalid"):
        read_tiles(path, KNOWN)
    (row,) = convert([path], "pathflip", tmp_path / "o", ReadOptions(mpp=0.5, drop_invalid=True))
    assert row.error is None
    assert "left out, not finite: 2 rows (3, 7) of 12" in row.warnings
    got, finite = read_features(row.files[0]), [i for i in range(12) if i not in (3, 7)]
    np.testing.assert_array_equal(got.features, plain().features[finite])
    np.testing.assert_array_equal(got.coords, plain().grid.coords[finite])


def test_our_own_rows_that_are_not_finite(ours, tmp_path):
    with h5py.File(ours, "a") as file:
        matrix = file["features"][:]
        matrix[2] = np.inf
        del file["features"]
        file["features"] = matrix
    with pytest.raises(FeatureError, match=r"1 row \(2\) of 6"):
        read_features(ours)
    with pytest.warns(UserWarning, match=r"1 row \(2\) not finite: taken as invalid"):
        got = read_features(ours, drop_invalid=True)
    assert got.valid.tolist() == [True, True, False, True, True, True]
    assert (got.features[2] == 0).all()
    (row,) = convert([ours], "trident", tmp_path / "o", ReadOptions(drop_invalid=True))
    assert (row.tiles, row.error) == (5, None)


@pytest.mark.parametrize(
    ("row", "message"),
    [((-512, 0), r"row 3 lies at \[-512, 0\]"), ((512, 0), r"1 of 6 tiles stand there twice .*\[512, 0\]")],
)
def test_corners_no_slide_has(ours, row, message):
    with h5py.File(ours, "a") as file:
        coords = file["coords"][:]
        coords[3] = row
        attributes = dict(file["coords"].attrs)
        del file["coords"]
        file["coords"] = coords
        file["coords"].attrs.update(attributes)
    with pytest.raises(FeatureError, match=message):
        read_features(ours)


# ---------------------------------------------------------------- encoders


def test_the_caller_does_not_overrule_the_file(ours, tmp_path):
    for path in (FEATURES / "plain_for_comparison.h5", ours):
        with pytest.raises(FeatureError, match="says its encoder is 'uni_v1', --encoder says 'conch_v1'"):
            read_tiles(path, ReadOptions(mpp=0.5, encoder="conch_v1"))
        assert read_tiles(path, ReadOptions(mpp=0.5, encoder="uni_v1"))[1].encoder == "uni_v1"
    stamp = FEATURES / "stamp_step_is_half_the_tile.h5"
    with pytest.raises(FeatureError, match="says its encoder is 'ctranspath', --encoder says 'uni_v1'"):
        read_tiles(stamp, ReadOptions(slide_mpp=0.25, encoder="uni_v1"))
    (row,) = convert([ours], "trident", tmp_path / "t")
    with h5py.File(row.files[1], "a") as file:
        file["features"].attrs["encoder"] = "conch_v1"
    with pytest.raises(FeatureError, match="says its encoder is 'uni_v1', and 'conch_v1'"):
        read_tiles(row.files[1])


def test_a_folder_that_names_another_encoder(tmp_path):
    folder = tmp_path / "features_conch_v1"
    folder.mkdir()
    shutil.copy(FEATURES / "plain_for_comparison.h5", folder / "s.h5")
    _, tiles = read_tiles(folder / "s.h5", KNOWN)
    assert tiles.encoder == "uni_v1"
    assert "its folder 'features_conch_v1'; the file's is used" in " ".join(tiles.warnings)


# ---------------------------------------------------------------- names choose no place


HOSTILE = ["../../escaped", "/tmp/escaped", "..", "a/b", "a\\b", "a\x1b[2Jb", "a\nb", "", "x" * 300]


@pytest.mark.parametrize("attribute", ["slide_id", "encoder"])
@pytest.mark.parametrize("name", HOSTILE)
def test_names_inside_files_cannot_lead_out(ours, tmp_path, attribute, name):
    with h5py.File(ours, "a") as file:
        file.attrs[attribute] = name
    for read in (read_features, read_kind) if attribute == "encoder" else (read_features,):
        with pytest.raises(FeatureError, match=f"its {attribute} ") as error:
            read(ours)
        assert str(error.value).isprintable()
    out = tmp_path / "deep" / "er" / "out"
    before = files_of(tmp_path)
    for target in TARGETS:
        if target != "lazyslide":
            (row,) = convert([ours], target, out / target)
            assert f"its {attribute} " in row.error
    new = [f for f in files_of(tmp_path) if f not in before]
    assert all(f.endswith("failures.jsonl") and f.startswith("deep/er/out/") for f in new)


@pytest.mark.parametrize("name", HOSTILE[:4])
def test_names_inside_our_attribute_cannot_lead_out(ours, tmp_path, name):
    import json

    for target, key in (("trident", "encoder"), ("stamp", "slide_id"), ("clam", "encoder")):
        (row,) = convert([ours], target, tmp_path / target)
        path = next(f for f in row.files if f.endswith(".h5") and "patches" not in f)
        with h5py.File(path, "a") as file:
            file.attrs["pathflip"] = json.dumps(json.loads(file.attrs["pathflip"]) | {key: name})
        (row,) = convert([path], "pathflip", tmp_path / "o" / target)
        assert f"its {key} " in row.error
    stamp = tmp_path / "stamp" / "uni_v1" / "s.h5"
    with h5py.File(stamp, "a") as file:
        del file.attrs["pathflip"]
        file.attrs["extractor"] = name
    (row,) = convert([stamp], "pathflip", tmp_path / "o" / "x", ReadOptions(slide_mpp=0.25))
    assert "its encoder " in row.error
    assert not list((tmp_path / "o").rglob("*.h5"))


def test_nothing_is_written_through_a_link_that_leads_out(ours, tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "features_uni_v1").symlink_to(tmp_path / "elsewhere")
    (row,) = convert([ours], "pathflip", tmp_path / "out")
    assert "would lie outside the folder" in row.error
    assert files_of(tmp_path / "elsewhere") == []
    for parts in (("..", "x"), ("a", "..", "..", "x"), ("..",), ("/etc/x",), ("",)):
        with pytest.raises(OutputError, match="outside the folder"):
            path_inside(tmp_path / "out", *parts)
    assert path_inside(tmp_path / "out", "a", "b.h5") == tmp_path / "out" / "a" / "b.h5"


def test_a_renamed_file_is_of_the_slide_it_is_named_after(ours, tmp_path):
    renamed = ours.rename(tmp_path / "patient-17.h5")
    with pytest.warns(
        UserWarning, match=r"patient-17.h5: .*of another slide than its name.*'patient-17' is used"
    ) as warned:
        got = read_features(renamed)
    assert (got.slide_id, got.info.slide_id, got.grid.info.slide_id) == ("patient-17",) * 3
    assert len(warned) == 1
    (row,) = convert([renamed], "trident", tmp_path / "t")
    assert row.slide_id == "patient-17"
    assert "of another slide" in row.warnings[0]


def test_a_uuid_behind_the_name_is_no_other_slide():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for path in FEATURES.glob("TCGA-*.h5"):
            assert read_features(path).slide_id == path.name.removesuffix(".h5")


# ---------------------------------------------------------------- data that lie elsewhere, and files that are none


def link(file, name, how, target):
    """Replace a dataset by one whose data lie in another file."""
    attributes = dict(file[name].attrs)
    shape, dtype = file[name].shape, file[name].dtype
    del file[name]
    if how == "external link":
        file[name] = h5py.ExternalLink(str(target), "/secret")
        return
    if how == "soft link":
        file["hidden"] = np.zeros(shape, dtype)
        file[name] = h5py.SoftLink("/hidden")
        return
    if how == "external storage":
        file.create_dataset(name, shape, dtype, external=[(str(target), 0, h5py.h5f.UNLIMITED)])
    else:
        layout = h5py.VirtualLayout(shape, dtype)
        layout[:] = h5py.VirtualSource(str(target), "secret", shape)
        file.create_virtual_dataset(name, layout)
    file[name].attrs.update(attributes)


@pytest.mark.parametrize("how", ["external link", "soft link", "external storage", "virtual dataset"])
@pytest.mark.parametrize("name", ["features", "coords"])
def test_data_in_other_files_are_never_followed(ours, tmp_path, how, name):
    secret = tmp_path / "secret.h5"
    with h5py.File(secret, "w") as file:
        file["secret"] = np.full((6, 4), 42.0)
    theirs = tmp_path / "theirs" / "s.h5"
    theirs.parent.mkdir()
    shutil.copy(FEATURES / "plain_for_comparison.h5", theirs)
    grid = tmp_path / "coords" / "s.h5"
    write_coords(grid, TileGrid(features().info, features().spec, features().coords))
    for path in (ours, theirs, grid):
        with h5py.File(path, "a") as file:
            if name in file:
                link(file, name, how, secret)
    reads = [(read_features, ours), (lambda p: read_tiles(p, KNOWN), ours), (lambda p: read_tiles(p, KNOWN), theirs)]
    reads += [(read_coords, grid), (lambda p: read_tiles(p, KNOWN), grid)] if name == "coords" else [(read_kind, ours)]
    for read, path in reads:
        with pytest.raises(FeatureError, match=rf"'{name}' (is a link|lies in other files).*refused"):
            read(path)
    for path in (ours, theirs):
        (row,) = convert([path], "stamp", tmp_path / "o", KNOWN)
        assert "refused" in row.error
    assert files_of(tmp_path / "o") == ["failures.jsonl"]


@pytest.mark.timeout(60)
def test_pipes_do_not_hang(ours, tmp_path):
    pipe = tmp_path / "p.h5"
    os.mkfifo(pipe)
    for read in (read_features, read_coords, read_kind, read_settings, read_tiles):
        with pytest.raises(FeatureError, match="a pipe or device"):
            read(pipe)
    for suffix in (".pt", ".csv", ".geojson"):
        os.mkfifo(tmp_path / f"p{suffix}")
        with pytest.raises(FeatureError):
            read_tiles(tmp_path / f"p{suffix}")
    with h5py.File(ours, "a") as file:
        del file["features"]
        file["features"] = h5py.ExternalLink(str(pipe), "/x")
    for read in (read_features, read_tiles):
        with pytest.raises(FeatureError, match="is a link"):
            read(ours)


# ---------------------------------------------------------------- folders of others


def test_job_folders_of_trident_and_stamp(ours, tmp_path):
    convert([ours], "trident", tmp_path / "job")
    assert [p.name for p in find_inputs([tmp_path / "job"])] == ["s.h5"]
    assert find_inputs([tmp_path / "job"])[0].parent.name == "features_uni_v1"
    convert([ours], "stamp", tmp_path / "stamp")
    assert find_inputs([tmp_path / "stamp"]) == [tmp_path / "stamp" / "uni_v1" / "s.h5"]
    write_features(tmp_path / "in2" / "s.h5", features(encoder="conch_v1"))
    convert([tmp_path / "in2" / "s.h5"], "trident", tmp_path / "job")
    with pytest.raises(ConfigError, match=r"holds features of 2 kinds \(.*features_conch_v1, .*features_uni_v1\)"):
        find_inputs([tmp_path / "job"])
    (tmp_path / "empty").mkdir()
    with pytest.raises(ConfigError, match="in this folder"):
        find_inputs([tmp_path / "empty"])


def test_folders_of_cases_are_one_cohort(tmp_path):
    for name in ("c1/a", "c1/b", "c2/d"):
        write_features(tmp_path / "F" / f"{name}.h5", features())
    assert [p.name for p in find_inputs([tmp_path / "F"])] == ["a.h5", "b.h5", "d.h5"]
    for name in ("c1/HE_0", "c2/HE_0"):
        write_features(tmp_path / "G" / f"{name}.h5", features())
    with pytest.raises(ConfigError, match=r"have one name; .* call them c1__HE_0.h5 and c2__HE_0.h5"):
        find_inputs([tmp_path / "G"])
    for name in ("one/a", "one/b", "two/a", "two/b"):  # of two extractors
        write_features(tmp_path / "H" / f"{name}.h5", features())
    with pytest.raises(ConfigError, match=r"features of 2 kinds \(one, two\)"):
        find_inputs([tmp_path / "H"])


def test_convert_says_where_it_wrote(ours, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("sys.argv", ["pathflip", "convert", str(ours), "--to", "clam", "--out", str(tmp_path / "o")])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 0
    assert f"level-0 px; {tmp_path}/o/patches/s.h5 and 2 more" in capsys.readouterr().out


def test_a_foreign_store_is_not_replaced(ours, tmp_path):
    pytest.importorskip("spatialdata")
    store = tmp_path / "out" / "s.zarr"
    store.mkdir(parents=True)
    (store / "zarr.json").write_text('{"attributes": {"name": "a collaborator\'s"}}')
    (store / "data").write_text("years of work")
    (row,) = convert([ours], "lazyslide", tmp_path / "out")
    assert "not written by pathflip convert; it is not replaced" in row.error
    assert (store / "data").read_text() == "years of work"
    for _ in range(2):  # ours may be
        (row,) = convert([ours], "lazyslide", tmp_path / "own")
        assert row.error is None


# ---------------------------------------------------------------- outlines


@pytest.mark.parametrize(
    ("name", "expected"), [("derived_class_is_a_list", "Tumor: Positive"), ("class_is_a_string", "Stroma")]
)
def test_classes(name, expected):
    (region,) = read_regions(CASES / "geojson" / f"{name}.geojson")
    assert region.classification == expected


def test_objects_without_a_geometry_are_skipped():
    (region,) = read_regions(CASES / "geojson" / "geometry_null.geojson")
    assert (region.name, region.classification) == ("kept", "Tumor")


@pytest.mark.parametrize("name", ["ring_with_nan", "ring_of_two_points"])
def test_broken_rings_name_their_object(name):
    with pytest.raises(FeatureError, match=r"object 1 \('broken'\) has a ") as error:
        read_regions(CASES / "geojson" / f"{name}.geojson")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "geometry",
    [
        '{"type": "Polygon", "coordinates": [[[0, 0], [1e999, 0], [5, 5], [0, 0]]]}',
        '{"type": "Polygon", "coordinates": [[[0, 0], [null, 0], [5, 5], [0, 0]]]}',
        '{"type": "Polygon", "coordinates": [[["a", 0], [1, 0], [5, 5], [0, 0]]]}',
        '{"type": "Polygon", "coordinates": [[[0, 0], [1, 1], [2, 2], [0, 0]]]}',
        '{"type": "Polygon", "coordinates": {}}',
        '{"type": "MultiPolygon", "coordinates": [[[[0, 0], [1, 1]]]]}',
        '{"type": 5}',
        '"a polygon"',
        "[" * 2000 + "]" * 2000,
    ],
)
def test_other_broken_geometries(tmp_path, geometry):
    path = tmp_path / "s.geojson"
    path.write_text(f'[{{"type": "Feature", "geometry": {geometry}, "properties": {{"name": "broken"}}}}]')
    with pytest.raises(FeatureError, match=r"object 0 \('broken'\)|nested too deeply") as error:
        read_regions(path)
    assert "\n" not in str(error.value)
    assert re.search(r"Traceback", str(error.value)) is None


# ---------------------------------------------------------------- what ends the HDF5 library


def without_a_type(path):
    """The first text of variable length in the file gets a kind of variable length that does not exist."""
    data = path.read_bytes()
    at = data.index(bytes.fromhex("1901010010000000"))  # class 9, text, UTF-8
    path.write_bytes(data[: at + 1] + b"\x0c" + data[at + 2 :])


def test_a_type_that_does_not_exist_is_refused_unread(ours, tmp_path):
    """HDF5 2.0.0 ends the process that reads such an attribute: it has functions for two kinds of sixteen."""
    shutil.copy(FEATURES / "plain_for_comparison.h5", tmp_path / "theirs.h5")
    with h5py.File(tmp_path / "theirs.h5", "a") as file:
        file.attrs["note"] = "a text"
    for path in (tmp_path / "theirs.h5", ours):
        without_a_type(path)
        for read in (lambda path: read_tiles(path, KNOWN), read_features, read_settings, read_coords):
            with pytest.raises(FeatureError, match="has no type of HDF5; copy it again"):
                read(path)


def test_types_inside_types(tmp_path):
    """A kind of variable length inside a compound; what exists passes."""
    path = tmp_path / "a.h5"
    shutil.copy(FEATURES / "plain_for_comparison.h5", path)
    inside = np.dtype([("n", "i4"), ("t", h5py.string_dtype())])
    with h5py.File(path, "a") as file:
        file.attrs["pair"] = np.array((1, "x"), inside)
        file.attrs["lists"] = np.array([np.arange(2), np.arange(3)], dtype=object).astype(h5py.vlen_dtype("i4"))
    assert read_tiles(path, ReadOptions(mpp=0.5, encoder="uni_v1"))[1].features is not None
    without_a_type(path)
    with pytest.raises(FeatureError, match="has no type of HDF5"):
        read_tiles(path, KNOWN)


def test_a_file_whose_end_is_missing_is_never_filled_up_with_memory(tmp_path):
    """h5py hands on what a short read leaves in memory; here a short read is an error."""
    path = tmp_path / "a.bin"
    path.write_bytes(b"0123456789")
    with path.open("rb") as handle:
        whole = WholeReads(handle)
        buffer = bytearray(6)
        assert whole.readinto(buffer) == 6
        assert bytes(buffer) == b"012345"
        with pytest.raises(EOFError, match="2 bytes before"):
            whole.readinto(buffer)


@pytest.mark.parametrize("count", [3, 30])
@pytest.mark.parametrize("options", [{}, {"userblock_size": 512}])
@pytest.mark.parametrize("where", ["root", "coords"])
def test_a_text_longer_than_its_file_takes_no_memory(tmp_path, options, where, count):
    """HDF5 asks for the length that stands beside a text, and fills it with zeros, before it looks for the text."""
    path = tmp_path / "s.h5"
    with h5py.File(path, "w", **options) as file:
        file["features"], file["coords"] = np.zeros((4, 8), np.float32), np.arange(8).reshape(4, 2) * 512
        holder = file if where == "root" else file["coords"]
        for number in range(count):  # thirty do not fit into one header
            holder.attrs[f"note {number}"] = f"{number:020}"
    with hdf5.opened(path) as file:
        assert hdf5.plain_attributes(path, file if where == "root" else file["coords"])["note 2"] == f"{2:020}"
    data = bytearray(path.read_bytes())
    begin = options.get("userblock_size", 0)
    place = data.index((20).to_bytes(4, "little") + (data.index(b"GCOL") - begin).to_bytes(8, "little"))
    data[place : place + 4] = (0xFFFFFF00).to_bytes(4, "little")
    path.write_bytes(data)
    with pytest.raises(FeatureError, match=r"'note \d+' of .* claims a text of 4294967040 bytes in a file of \d+"):
        read_tiles(path, KNOWN)


@pytest.mark.parametrize("version", [1, 2, 3])
@pytest.mark.parametrize("place_bytes", [4, 8])
def test_lengths_of_texts_by_hand(tmp_path, version, place_bytes):
    """An attribute message of each version, read in pieces and in any order."""
    message = bytes([version, 0, 5, 0, 3, 0, 2, 0]) + (b"\0" if version == 3 else b"")
    for part in (b"name\0", b"typ", b"sh"):
        message += part.ljust(8, b"\0") if version == 1 else part
    place = (900).to_bytes(place_bytes, "little") + bytes(4)
    texts = [length.to_bytes(4, "little") + place for length in (7, 50_000)]
    path = tmp_path / "a.bin"
    path.write_bytes(b"name\0".ljust(30, b"\1") + message + b"".join(texts) + bytes(90))
    with path.open("rb") as handle:
        reads = WholeReads(handle)
        for place, size in ((35, 25), (0, 33), (30, 9), (60, 40)):
            reads.seek(place)
            reads.readinto(bytearray(size))
        size = 2 * (8 + place_bytes)
        assert reads.texts(b"name", size, place_bytes) == [(7, 900), (50_000, 900)]
        assert reads.texts(b"name", size // 2, place_bytes) == [(7, 900)]
        assert reads.texts(b"ame", size, place_bytes) == []


@pytest.mark.parametrize("begin", [0, 512])
def test_a_collection_of_texts_with_a_gap_of_no_size_does_not_hang(tmp_path, begin):
    """HDF5 2.0.0 walks on by the size of the gap, for ever."""
    path = tmp_path / "s.h5"
    with h5py.File(path, "w", userblock_size=begin) as file:
        file["features"], file["coords"] = np.zeros((4, 8), np.float32), np.arange(8).reshape(4, 2) * 512
        file["coords"].attrs["name"] = "slide"
    data = bytearray(path.read_bytes())
    gap = data.index(b"GCOL") + 16 + 16 + 8
    assert data[gap : gap + 2] == b"\0\0"
    data[gap + 8 : gap + 16] = bytes(8)
    path.write_bytes(data)
    with pytest.raises(FeatureError, match=r"the text of attribute 'name' of '/coords' is damaged"):
        read_tiles(path, KNOWN)


def test_attributes_that_are_no_numbers_or_texts_are_left_out(tmp_path):
    """The lengths inside records and lists of texts cannot be looked at before they are read."""
    path = tmp_path / "a.h5"
    shutil.copy(FEATURES / "plain_for_comparison.h5", path)
    with h5py.File(path, "a") as file:
        kind = h5py.h5t.vlen_create(h5py.h5t.py_create(h5py.string_dtype(), logical=True))
        h5py.h5a.create(file.id, b"names", kind, h5py.h5s.create(h5py.h5s.SCALAR))
        file.attrs["place"] = file.ref
        file.attrs["pair"] = np.array((1, "x"), np.dtype([("n", "i4"), ("t", h5py.string_dtype())]))
        file.attrs["lists"] = np.array([np.arange(2), np.arange(3)], dtype=object).astype(h5py.vlen_dtype("i4"))
        file.attrs.update({"texts": ["a", "bc"], "fixed": np.bytes_(b"ab"), "flag": True, "pixels": [1, 2]})
    with hdf5.opened(path) as file:
        assert set(hdf5.plain_attributes(path, file)) == {"lists", "texts", "fixed", "flag", "pixels"}
    assert read_tiles(path, ReadOptions(mpp=0.5, encoder="uni_v1"))[1].features is not None


def test_datasets_of_texts_are_no_numbers(tmp_path):
    path = tmp_path / "a.h5"
    with h5py.File(path, "w") as file:
        file["features"], file["coords"] = ["a", "b"], np.arange(4).reshape(2, 2) * 512
    with pytest.raises(FeatureError, match=r"'features'.*expected"):
        read_tiles(path, KNOWN)
