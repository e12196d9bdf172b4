"""Files of other tools, written by hand as those tools write them; round trips; and everything that can be wrong."""

import json
import pickle
import re
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch

from interop_child import dies_of_bad
from interop_samples import CASE, MPP0, only, same, sample, strip_own
from pathflip.cli import main
from pathflip.cli.slides import _convert_line
from pathflip.errors import ConfigError, FeatureError
from pathflip.features import read_features, write_features
from pathflip.features.store import check_cohort
from pathflip.interop import ReadOptions, convert, detect, read_tiles
from pathflip.interop.conversion import Separately, find_inputs
from pathflip.slide import read_coords
from slide_files import smooth_picture, write_pyramid


@pytest.fixture
def ours(tmp_path):
    """A feature file of ours, and what it holds."""
    features = sample(512, "conch_v1")
    path = tmp_path / "ours" / "features_conch_v1" / f"{CASE}.h5"
    write_features(path, features)
    return path, features


@pytest.mark.parametrize("target", ["trident", "clam", "stamp", "slidechat"])
def test_there_and_back(ours, tmp_path, target):
    """Ours → theirs → ours: equal coordinates, features, tile side; and slide and tiles as we knew them."""
    path, want = ours
    there = only(convert([path], target, tmp_path / target))
    assert there.detected == "pathflip"
    source = [f for f in there.files if "patches" not in f and not f.endswith(".pt")]
    facts = {"mpp": 0.5, "tile_px": 256} if target == "slidechat" else {}
    back = only(convert(source, "pathflip", tmp_path / "back", ReadOptions(**facts)))
    assert back.detected == target
    got = read_features(back.files[0])
    if target != "slidechat":  # a table has no room for the slide
        assert got.info == want.info
        assert got.spec == want.spec
    same(got, want, half=target == "stamp")


def test_there_and_back_by_their_layout_alone(ours, tmp_path):
    """Without our own attribute the layouts carry it, given what each cannot say."""
    path, want = ours
    facts = {
        "trident": ReadOptions(mpp=0.5),
        "clam": ReadOptions(mpp=0.5, tile_px=256, encoder="conch_v1"),
        "stamp": ReadOptions(slide_mpp=MPP0),
    }
    for target, options in facts.items():
        row = only(convert([path], target, tmp_path / target))
        strip_own(tmp_path / target)
        source = [f for f in row.files if "patches" not in f]
        for number, file in enumerate(source):
            got = read_features(only(convert([file], "pathflip", tmp_path / f"{target}{number}", options)).files[0])
            same(got, want, half=target == "stamp")
            assert got.info.mpp0 == pytest.approx(MPP0, rel=2e-3)


def test_a_converted_file_trains_and_grounds_like_ours(ours, tmp_path):
    import pathflip
    from pathflip.checkpoint import InputContract, save_checkpoint
    from pathflip.data.align import AlignDataset, TextSpec
    from pathflip.models import build_model
    from pathflip.text import read_captions
    from pathflip.text.tokenizer import train_tokenizer

    path, want = ours
    rows = convert([path], "trident", tmp_path / "trident")
    back = Path(convert([rows[0].files[1]], "pathflip", tmp_path / "back")[0].files[0])
    words = ["Keratin pearls are seen.", "No necrosis is identified."]
    (tmp_path / "c.csv").write_text(f"slide,patient,text\n{CASE},p,{' '.join(words)}\n", encoding="utf-8")
    tokenizer = train_tokenizer(words, 100)
    batches = [
        AlignDataset([file], read_captions(tmp_path / "c.csv"), tokenizer, text=TextSpec()).batch(
            [0], np.random.default_rng(0)
        )
        for file in (path, back)
    ]
    for name in ("patches", "patch_mask", "context", "position"):
        torch.testing.assert_close(getattr(batches[0], name), getattr(batches[1], name), rtol=0, atol=0)
    torch.manual_seed(0)
    sizes = {"width": 16, "embed_dim": 8, "text_width": 16, "text_heads": 2}
    net = build_model({"kind": "pathflip", "feature_dim": 512, "vocab_size": tokenizer.vocab_size, **sizes})
    contract = InputContract.of(want)
    save_checkpoint(
        tmp_path / "m", net, contract=contract, tokenizer=tokenizer, text=TextSpec(), recipe={"regions": {}}
    )
    model = pathflip.load(tmp_path / "m")
    maps = [pathflip.ground(model, read_features(file), "keratin pearls") for file in (path, back)]
    np.testing.assert_array_equal(maps[0].scores, maps[1].scores)
    assert maps[0].grid.box(3) == maps[1].grid.box(3)


def trident_file(path: Path, coords, features=None, dtype=np.float32, **changes) -> Path:
    """What TRIDENT's own writer leaves: 512 level-0 pixels a tile on a slide it takes for 40x."""
    path.parent.mkdir(parents=True, exist_ok=True)
    attributes = {
        "patch_size": 256, "patch_size_level0": 512, "level0_magnification": 40, "target_magnification": 20,
        "overlap": 0, "name": path.stem, "savetodir": "/x", "level0_width": 9000, "level0_height": 8000,
    } | changes  # fmt: skip
    with h5py.File(path, "w") as file:
        file.create_dataset("coords", data=np.asarray(coords), maxshape=(None, 2), chunks=(1, 2))
        for key, value in attributes.items():
            file["coords"].attrs[key] = "None" if value is None else value
        if features is not None:
            file.create_dataset("features", data=np.asarray(features, dtype))
            file["features"].attrs.update({"name": path.stem, "savetodir": "/x", "encoder": "uni_v1"})
    return path


CELLS = np.array([[0, 0], [512, 0], [1024, 0], [0, 512], [1536, 1024]])


def test_trident_by_hand(tmp_path, rng):
    features = rng.normal(size=(5, 8))
    path = trident_file(tmp_path / "features_uni_v1" / "s1.h5", CELLS, features, np.float16)
    with pytest.raises(FeatureError, match=r"does not say how large its tiles are; give --mpp \(.*\) or --slides DIR"):
        read_tiles(path)
    kind, got = read_tiles(path, ReadOptions(mpp=0.5))
    assert (kind, got.encoder, got.slide_id, got.grid.tile_px0) == ("trident", "uni_v1", "s1", 512)
    assert (got.grid.info.mpp0, got.grid.info.size0, got.warnings) == (0.25, (9000, 8000), ())
    assert got.features.dtype == np.float32
    np.testing.assert_array_equal(got.features, features.astype(np.float16).astype(np.float32))
    coords = trident_file(tmp_path / "patches" / "s1_patches.h5", CELLS)
    kind, got = read_tiles(coords, ReadOptions(mpp=0.5))
    assert (kind, got.slide_id, got.features) == ("trident coordinates", "s1", None)
    row = only(convert([coords], "pathflip", tmp_path / "out", ReadOptions(mpp=0.5)))
    np.testing.assert_array_equal(read_coords(row.files[0]).coords, CELLS)


def test_trident_none_strings_and_missing_attributes(tmp_path):
    features = np.ones((5, 3))
    unknown = trident_file(tmp_path / "a.h5", CELLS, features, level0_width=None, level0_height=None, overlap=None)
    _, got = read_tiles(unknown, ReadOptions(mpp=0.5))
    assert got.grid.info.size0 == (1536 + 512, 1024 + 512)
    assert "level-0 size unknown" in got.warnings[0]
    sides = trident_file(tmp_path / "b.h5", CELLS, features, patch_size=None, patch_size_level0=None)
    with pytest.raises(FeatureError, match=r"give --tile-px .*, --mpp .*, --slides DIR or --slide-mpp"):
        read_tiles(sides)
    _, got = read_tiles(sides, ReadOptions(mpp=0.5, tile_px=256, slide_mpp=0.2))
    assert got.grid.tile_px0 == 640
    with pytest.raises(FeatureError, match="says its tiles are 256 px, --tile-px says 224"):
        read_tiles(unknown, ReadOptions(mpp=0.5, tile_px=224))


def test_trident_cut_by_magnification_says_so(tmp_path):
    """TRIDENT takes 0.2631 mpp for 40x and cuts 512 pixels for a 256 px tile: 0.526 mpp, not the 0.5 of its name."""
    path = trident_file(tmp_path / "s.h5", CELLS, np.ones((5, 3)))
    _, got = read_tiles(path, ReadOptions(mpp=0.5, slide_mpp=MPP0))
    assert got.grid.spec.mpp == pytest.approx(2 * MPP0)
    assert got.grid.tile_px0 == 512
    assert "0.5262 mpp and not the 0.5 asked (5% off: cut by magnification" in got.warnings[0]
    _, quiet = read_tiles(path, ReadOptions(slide_mpp=0.2501, mpp=0.5))
    assert quiet.warnings == ()
    _, odd = read_tiles(path, ReadOptions(mpp=1.0))  # then the slide would be 0.5 mpp, which TRIDENT calls 20x
    assert "the file says the slide is 40x, but at 0.5 mpp it would be 20x" in odd.warnings[0]


def test_trident_out_is_their_layout(ours, tmp_path):
    path, want = ours
    row = only(convert([path], "trident", tmp_path / "t"))
    job = tmp_path / "t" / "20x_256px_64px_overlap"
    assert row.files == (str(job / "patches" / f"{CASE}_patches.h5"), str(job / "features_conch_v1" / f"{CASE}.h5"))
    for file_name in row.files:
        with h5py.File(file_name) as file:
            assert file["coords"].dtype == np.int64
            attributes = dict(file["coords"].attrs)
    expected = {"patch_size": 256, "patch_size_level0": round(256 * 0.5 / MPP0), "overlap": 64, "level0_width": 40_000}
    expected |= {"level0_magnification": 40, "target_magnification": 20, "level0_height": 30_000, "name": CASE}
    assert {key: attributes[key] for key in expected} == expected
    with h5py.File(row.files[1]) as file:
        assert (file["features"].dtype, file["features"].shape) == (np.float32, want.features.shape)
        assert file["features"].attrs["encoder"] == "conch_v1"


def clam_files(folder: Path, coords, features, patches: bool = True, **changes) -> Path:
    """CLAM: patches of 256 px at level 1 (downsample 2) and features without a word."""
    for name in ("h5_files", "pt_files", "patches"):
        (folder / name).mkdir(parents=True)
    with h5py.File(folder / "h5_files" / "s1.h5", "w") as file:
        file["features"], file["coords"] = np.asarray(features, np.float32), np.asarray(coords, np.int32)
    torch.save(torch.tensor(np.asarray(features, np.float32)), folder / "pt_files" / "s1.pt")
    if patches:
        with h5py.File(folder / "patches" / "s1.h5", "w") as file:
            file["coords"] = np.asarray(coords, np.int64)
            attributes = {"patch_size": 256, "patch_level": 1, "downsample": (2.0, 2.0), "level_dim": (4500, 4000)}
            file["coords"].attrs.update(attributes | {"downsampled_level_dim": (4500, 4000), "name": "s1"} | changes)
    return folder


def test_clam_by_hand(tmp_path, rng):
    features = rng.normal(size=(5, 8)).astype(np.float32)
    folder = clam_files(tmp_path / "clam", CELLS, features)
    options = ReadOptions(mpp=0.5, tile_px=224, encoder="resnet50")
    for name, kind in (("h5_files/s1.h5", "clam"), ("pt_files/s1.pt", "clam pt")):
        with pytest.raises(FeatureError, match=r"give --tile-px \(.*\), --mpp \("):
            read_tiles(folder / name)
        with pytest.raises(FeatureError, match="give --encoder NAME"):
            read_tiles(folder / name, ReadOptions(mpp=0.5, tile_px=224))
        got_kind, got = read_tiles(folder / name, options)
        assert got_kind == kind
        assert got.grid.tile_px0 == 512  # 256 pixels of a level twice as coarse
        assert got.grid.info.mpp0 == pytest.approx(0.5 * 224 / 512)
        np.testing.assert_array_equal(got.grid.coords, CELLS)
        np.testing.assert_array_equal(got.features, features)
    kind, got = read_tiles(folder / "patches" / "s1.h5", ReadOptions(mpp=0.5, tile_px=224))
    assert (kind, got.grid.tile_px0) == ("clam coordinates", 512)


def test_clam_without_its_patches_takes_the_step_and_says_so(tmp_path):
    folder = clam_files(tmp_path / "clam", CELLS + np.array([7, 13]), np.ones((5, 3)), patches=False)
    _, got = read_tiles(folder / "h5_files/s1.h5", ReadOptions(mpp=0.5, tile_px=256, encoder="x"))
    assert got.grid.tile_px0 == 512
    assert "taken from the step of the coordinates: 512 px = one tile of 128 µm" in got.warnings[0]
    _, got = read_tiles(folder / "h5_files/s1.h5", ReadOptions(mpp=0.5, tile_px=256, encoder="x", slide_mpp=0.25))
    assert not any("step" in note for note in got.warnings)
    (folder / "h5_files/s1.h5").unlink()
    with pytest.raises(FeatureError, match=r"features without coordinates, and none in .*h5_files.*give --coords DIR"):
        read_tiles(folder / "pt_files/s1.pt", ReadOptions(mpp=0.5, tile_px=256, encoder="x"))


class Bomb:
    """What a pickle may do."""

    def __reduce__(self):
        return Path.touch, (Path("exploded"),)


def test_pt_files_are_tensors_or_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder = clam_files(tmp_path / "clam", CELLS, np.ones((5, 3)))
    path, options = folder / "pt_files/s1.pt", ReadOptions(mpp=0.5, tile_px=256, encoder="x")
    torch.save(Bomb(), path)
    with pytest.raises(FeatureError, match="holds pickled objects, which could run code when read; refused"):
        read_tiles(path, options)
    path.write_bytes(pickle.dumps(Bomb()))
    with pytest.raises(FeatureError, match="refused"):
        read_tiles(path, options)
    assert not Path("exploded").exists()
    torch.save({"features": torch.ones(5, 3)}, path)
    with pytest.raises(FeatureError, match=r"holds a dict of \['features'\], expected a bare tensor"):
        read_tiles(path, options)
    torch.save({1: torch.ones(5, 3), "b": 2}, path)
    with pytest.raises(FeatureError, match=r"holds a dict of \['1', 'b'\], expected a bare tensor"):
        read_tiles(path, options)
    torch.save(torch.ones(4, 3), path)
    with pytest.raises(FeatureError, match="4 feature rows, but 5 coordinates"):
        read_tiles(path, options)
    torch.save(torch.ones(5, 3), path)
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(FeatureError, match=r"not a readable .pt file|refused"):
        read_tiles(path, options)


def test_clam_out_is_their_layout(ours, tmp_path):
    path, want = ours
    row = only(convert([path], "clam", tmp_path / "c"))
    patches, features, tensor = row.files
    with h5py.File(patches) as file:
        a = dict(file["coords"].attrs)
        side0 = a["patch_size"] * a["downsample"][0]  # how CLAM reads them back from the slide
    assert side0 == want.grid.tile_px0
    assert (a["patch_level"], tuple(a["level_dim"]), a["name"]) == (0, (40_000, 30_000), CASE)
    with h5py.File(features) as file:
        assert (file["features"].dtype, file["coords"].dtype) == (np.float32, np.int32)
        np.testing.assert_array_equal(file["coords"][:], want.coords)
    np.testing.assert_array_equal(torch.load(tensor, weights_only=True).numpy(), want.features)


def stamp_file(path: Path, coords_um, feats, **changes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    attributes = {
        "stamp_version": "2.3.0", "extractor": "uni2", "unit": "um", "tile_size_um": 256.0, "tile_size_px": 224,
        "code_hash": "0123abcd", "feat_type": "tile",
    } | changes  # fmt: skip
    with h5py.File(path, "w") as file:
        file["coords"], file["feats"] = np.asarray(coords_um, np.float32), np.asarray(feats, np.float16)
        file.attrs.update({key: value for key, value in attributes.items() if value is not None})
    return path


def test_stamp_by_hand(tmp_path, rng):
    """A tile at level-0 pixel x of a slide with m microns a pixel lies at x · m microns."""
    side0 = 973  # 256 µm at 0.2631
    cells = np.array([[0, 0], [3, 0], [1, 7], [40, 22]]) * side0
    feats = rng.normal(size=(4, 6))
    path = stamp_file(tmp_path / "s1.h5", cells * MPP0, feats)
    with pytest.raises(FeatureError, match=r"give --slides DIR or --slide-mpp"):
        read_tiles(path)
    kind, got = read_tiles(path, ReadOptions(slide_mpp=MPP0))
    assert (kind, got.encoder, got.grid.tile_px0, got.grid.spec.tile_px) == ("stamp", "uni2", side0, 224)
    assert got.grid.spec.mpp == pytest.approx(256 / 224)
    np.testing.assert_array_equal(got.grid.coords, cells)
    np.testing.assert_array_equal(got.features, feats.astype(np.float16).astype(np.float32))


def test_stamp_of_older_releases(tmp_path):
    cells = np.array([[0, 0], [1, 0], [0, 3]]) * 1024
    second = stamp_file(
        tmp_path / "a.h5", cells * 0.25, np.ones((3, 2)), tile_size_um=None, tile_size_px=None, tile_size=256.0
    )
    with pytest.raises(FeatureError, match="give --tile-px"):
        read_tiles(second, ReadOptions(slide_mpp=0.25))
    _, got = read_tiles(second, ReadOptions(slide_mpp=0.25, tile_px=224))
    assert (got.grid.tile_px0, got.grid.spec.mpp) == (1024, pytest.approx(256 / 224))
    bare = {"tile_size_um": None, "tile_size_px": None, "unit": None, "stamp_version": None}
    first = stamp_file(tmp_path / "b.h5", cells * 0.25 / 256 * 224, np.ones((3, 2)), **bare)
    _, got = read_tiles(first, ReadOptions(slide_mpp=0.25))
    np.testing.assert_array_equal(got.grid.coords, cells)
    pixels = stamp_file(tmp_path / "c.h5", cells, np.ones((3, 2)), unit="px")
    with pytest.raises(FeatureError, match=r"in unit 'px'.*expected microns"):
        read_tiles(pixels, ReadOptions(slide_mpp=0.25))
    patient = stamp_file(tmp_path / "d.h5", cells, np.ones((3, 2)), feat_type="patient")
    with pytest.raises(FeatureError, match="feat_type is 'patient', expected 'tile'"):
        read_tiles(patient)


def test_stamp_out_is_in_microns(ours, tmp_path):
    path, want = ours
    row = only(convert([path], "stamp", tmp_path / "s"))
    with h5py.File(row.files[0]) as file:
        coords, feats, attributes = file["coords"][:], file["feats"][:], dict(file.attrs)
    assert (coords.dtype, feats.dtype) == (np.float32, np.float16)
    for got, (x, y) in zip(coords, want.coords, strict=True):
        assert got == pytest.approx((x * MPP0, y * MPP0), abs=0.5 * MPP0)
    expected = {"unit": "um", "tile_size_um": 128.0, "tile_size_px": 256, "extractor": "conch_v1", "feat_type": "tile"}
    assert {key: attributes[key] for key in expected} == expected
    want.features[3, 0] = 1e5
    write_features(path, want)
    row = convert([path], "stamp", tmp_path / "s2")[0]
    assert "features reach 100000, STAMP's half precision ends at 65504" in row.error
    assert not list((tmp_path / "s2").rglob("*.h5"))


def slidechat_file(path: Path, features, extra=None, names=()) -> Path:
    import csv

    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "w", newline="", encoding="utf-8") as handle:
        writer = csv.writer(handle)
        writer.writerow([*range(features.shape[1]), *names])
        for row, values in enumerate(features):
            writer.writerow([*map(repr, values.tolist()), *([] if extra is None else extra[row])])
    return path


def test_slidechat_by_hand(tmp_path, rng):
    features = rng.normal(size=(5, 512)).astype(np.float32)
    facts = {"mpp": 0.5, "tile_px": 256, "slide_mpp": 0.25}
    with_places = slidechat_file(
        tmp_path / "a" / "s1.csv", features, [[*xy, "note"] for xy in CELLS], ("X", "Y", "remark")
    )
    kind, got = read_tiles(with_places, ReadOptions(**facts))
    assert (kind, got.encoder, got.slide_id, got.grid.tile_px0) == ("slidechat", "conch_v1", "s1", 512)
    np.testing.assert_array_equal(got.features, features)
    np.testing.assert_array_equal(got.grid.coords, CELLS)
    bare = slidechat_file(tmp_path / "b" / "s1.csv", features)
    with pytest.raises(FeatureError, match="features without coordinates"):
        read_tiles(bare, ReadOptions(**facts))
    trident_file(tmp_path / "patches" / "s1_patches.h5", CELLS)
    _, got = read_tiles(bare, ReadOptions(**facts, coords=tmp_path / "patches"))
    np.testing.assert_array_equal(got.grid.coords, CELLS)
    narrow = slidechat_file(tmp_path / "c.csv", features[:, :100])
    with pytest.raises(FeatureError, match="100 columns, expected a header and 512"):
        read_tiles(narrow, ReadOptions(**facts))
    headless = tmp_path / "d.csv"
    headless.write_text("\n".join(bare.read_text().splitlines()[1:]))
    with pytest.raises(FeatureError, match="its first line holds features"):
        read_tiles(headless, ReadOptions(**facts))
    bare.write_text(bare.read_text().replace(repr(float(features[2, 5])), "n/a"))
    with pytest.raises(FeatureError, match="not a table of numbers"):
        read_tiles(bare, ReadOptions(**facts))


def test_slidechat_out(ours, tmp_path):
    path, want = ours
    row = only(convert([path], "slidechat", tmp_path / "s"))
    table = np.genfromtxt(row.files[0], delimiter=",", skip_header=1)  # SlideChat: read_csv(...).iloc[:, :512]
    np.testing.assert_array_equal(table[:, :512].astype(np.float32), want.features)
    other = tmp_path / "x" / "features_uni_v1" / "n.h5"
    write_features(other, sample(name="n"))
    row = convert([other], "slidechat", tmp_path / "s2")[0]
    assert "features of uni_v1 are 6 wide; SlideChat reads the first 512 columns as a CONCH feature" in row.error


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda f: f["features"].__setitem__((2, 0), np.nan), r"NaN or infinity in 1 row \(2\) of 5"),
        (lambda f: f["coords"].__setitem__(3, (0, 0)), r"1 of 5 tiles stand there twice \(the first at \[0, 0\]\)"),
        (lambda f: f["coords"].__setitem__(3, (-512, 0)), r"row 3 lies at \[-512, 0\]"),
        (lambda f: f["coords"].__setitem__(3, (9000, 0)), r"1 of 5 tiles begin beyond the slide of 9000 × 8000 px"),
        (lambda f: put(f, "coords", CELLS + 0.25), r"not whole pixels \(row 0: \[0.25, 0.25\]\).*microns"),
        (lambda f: put(f, "coords", CELLS[:, :1]), r"'coords' is int64 \(5, 1\), expected numbers of shape \(N, 2\)"),
        (lambda f: put(f, "coords", CELLS[:4]), "5 feature rows, but 4 coordinates"),
        (lambda f: put(f, "coords", CELLS[:0]), "'coords' holds no tile"),
        (lambda f: put(f, "features", np.ones((2, 5, 3))), r"'features' is float64 \(2, 5, 3\)"),
        (lambda f: put(f, "features", np.ones(3)), "one vector a slide; expected one row a tile"),
        (lambda f: f.__delitem__("coords"), "and no coordinates"),
        (lambda f: f.__delitem__("features") or f.__delitem__("coords"), r"holds \[\]; expected 'coords'"),
        (lambda f: f.attrs.__setitem__("pathflip", "{"), "attribute 'pathflip' is not JSON"),
        (lambda f: f.attrs.__setitem__("pathflip", '{"format_version": "1.0"}'), "attribute 'encoder' is missing"),
    ],
)
def test_bad_files_are_one_clear_line(tmp_path, change, message):
    path = trident_file(tmp_path / "s.h5", CELLS, np.ones((5, 3)))
    with h5py.File(path, "a") as file:
        change(file)
    with pytest.raises(FeatureError, match=message) as error:
        read_tiles(path, ReadOptions(mpp=0.5))
    assert "\n" not in str(error.value)


def put(file: h5py.File, key: str, values) -> None:
    attributes = dict(file[key].attrs)
    del file[key]
    file[key] = values
    file[key].attrs.update(attributes)


def test_whole_floats_are_pixels(tmp_path):
    path = trident_file(tmp_path / "s.h5", CELLS.astype(np.float32), np.ones((5, 3)))
    _, got = read_tiles(path, ReadOptions(mpp=0.5))
    assert got.grid.coords.dtype == np.int64
    np.testing.assert_array_equal(got.grid.coords, CELLS)


def test_damaged_files_of_every_suffix(tmp_path):
    good = trident_file(tmp_path / "good.h5", CELLS, np.ones((5, 3))).read_bytes()
    for name, content in {
        "cut.h5": good[: len(good) // 2], "empty.h5": b"", "text.h5": b"not hdf5", "e.pt": b"", "e.csv": b"",
        "e.geojson": b"{", "bytes.csv": b"\xff\xfe\x00", "list.json": b"[1, 2]",
    }.items():  # fmt: skip
        (tmp_path / name).write_bytes(content)
        with pytest.raises(FeatureError, match=name):
            read_tiles(tmp_path / name, ReadOptions(mpp=0.5, tile_px=256, encoder="x"))
    for name in ("absent.h5", "absent.pt", "absent.csv", "absent.geojson"):
        with pytest.raises(FeatureError, match=name):
            read_tiles(tmp_path / name)
    with pytest.raises(FeatureError, match="no zarr store"):
        detect(tmp_path)


def test_the_slide_itself_settles_what_files_leave_open(tmp_path):
    """--slides: resolution, size and levels come from the slide of the same name, not from a file beside it."""
    slides = tmp_path / "slides"
    slides.mkdir()
    write_pyramid(slides / "s1.tif", [smooth_picture(2048, 2560)], mpp=0.3)
    (slides / "s1.json").write_text("{}")
    path = trident_file(tmp_path / "s1.h5", CELLS, np.ones((5, 3)), level0_width=None)
    _, got = read_tiles(path, ReadOptions(slides=slides))
    assert got.grid.info.size0 == (2560, 2048)
    assert got.grid.info.mpp0 == pytest.approx(0.3, rel=1e-3)
    assert got.grid.spec.mpp == pytest.approx(0.6, rel=1e-3)
    assert got.grid.tile_px0 == 512
    other = trident_file(tmp_path / "s2.h5", CELLS, np.ones((5, 3)))
    _, got = read_tiles(other, ReadOptions(slides=slides, mpp=0.5))
    assert "no slide 's2' that opens in" in got.warnings[0]
    beyond = trident_file(tmp_path / "t" / "s1.h5", CELLS * 4, np.ones((5, 3)))
    with pytest.raises(FeatureError, match="begin beyond the slide of 2560 × 2048 px"):
        read_tiles(beyond, ReadOptions(slides=slides))
    with pytest.raises(ConfigError, match=r"--slides .*nowhere: no such folder"):
        ReadOptions(slides=tmp_path / "nowhere")
    with pytest.raises(ConfigError, match="--slide-mpp is -1, expected a positive number"):
        ReadOptions(slide_mpp=-1)


def test_unreadable_tiles_are_left_out_aloud(ours, tmp_path):
    path, want = ours
    want.valid[4] = False
    write_features(path, want)
    row = only(convert([path], "trident", tmp_path / "t"))
    assert row.warnings == ("1 unreadable tiles left out: only PathFLIP's format can mark them",)
    assert row.tiles == len(want.valid) - 1
    with h5py.File(row.files[1]) as file:
        np.testing.assert_array_equal(file["coords"][:], np.delete(want.coords, 4, axis=0))


def test_a_batch_goes_on_and_lists_what_failed(tmp_path):
    folder = tmp_path / "features_uni_v1"
    for name in ("a", "b", "c", "d"):
        trident_file(folder / f"{name}.h5", CELLS, np.ones((5, 3)))
    (folder / "b.h5").write_bytes(b"junk")
    put_in = folder / "c.h5"
    with h5py.File(put_in, "a") as file:
        put(file, "features", np.ones((5, 4)))  # another width: another kind of feature
    seen = []
    rows = convert(
        [folder, folder / "a.h5"],
        "pathflip",
        tmp_path / "out",
        ReadOptions(mpp=0.5),
        progress=lambda *a: seen.append(a),
    )
    assert [bool(row.error) for row in rows] == [False, True, True, False]
    assert [(done, total) for done, total, _ in seen] == [(1, 4), (2, 4), (3, 4), (4, 4)]
    assert "c.h5: features of uni_v1, 4 wide, 256 px at 0.5 mpp, but this cohort began with" in rows[2].error
    out = tmp_path / "out" / "features_uni_v1"
    assert sorted(p.name for p in out.iterdir()) == ["a.h5", "d.h5"]  # and no temporary file
    assert check_cohort(sorted(out.iterdir())).dim == 3
    failures = [json.loads(line) for line in (tmp_path / "out" / "failures.jsonl").read_text().splitlines()]
    assert [row["slide_id"] for row in failures] == ["b", "c"]
    only(convert([folder / "a.h5"], "pathflip", tmp_path / "out", ReadOptions(mpp=0.5)))
    assert not (tmp_path / "out" / "failures.jsonl").exists()


def test_a_failed_write_leaves_nothing(ours, tmp_path, monkeypatch):
    import pathflip.interop.stamp as stamp

    path, _ = ours
    monkeypatch.setattr(stamp, "own_attribute", lambda *_: 1 / 0)
    row = convert([path], "stamp", tmp_path / "s")[0]
    assert "ZeroDivisionError" in row.error
    assert [p for p in (tmp_path / "s").rglob("*") if p.is_file()] == [tmp_path / "s" / "failures.jsonl"]


def test_what_would_overwrite_is_refused(tmp_path):
    first = trident_file(tmp_path / "x" / "s.h5", CELLS, np.ones((5, 3)))
    second = trident_file(tmp_path / "y" / "s.h5", CELLS, np.ones((5, 3)))
    rows = convert([first, second], "pathflip", tmp_path / "out", ReadOptions(mpp=0.5))
    assert rows[0].error is None
    assert "slide 's' was converted from" in rows[1].error
    row = convert([first], "clam", tmp_path / "x", ReadOptions(mpp=0.5))[0]
    assert "where its conversion could replace it; give another --out" in row.error
    with pytest.raises(ConfigError, match="no format 'csv'; expected one of pathflip, trident"):
        convert([first], "csv", tmp_path / "z")
    (tmp_path / "none").mkdir()
    with pytest.raises(ConfigError, match="in this folder"):
        convert([tmp_path / "none"], "pathflip", tmp_path / "z")


def test_coordinates_alone_go_only_where_they_can(tmp_path):
    path = trident_file(tmp_path / "s_patches.h5", CELLS)
    for target in ("pathflip", "trident", "clam", "qupath"):
        assert only(convert([path], target, tmp_path / target, ReadOptions(mpp=0.5))).dim == 0
    for target in ("stamp", "slidechat"):
        row = convert([path], target, tmp_path / target, ReadOptions(mpp=0.5))[0]
        assert "slide 's': coordinates without features" in row.error
    kind, got = read_tiles(tmp_path / "clam/patches/s.h5")
    assert (kind, got.grid.tile_px0) == ("clam coordinates", 512)
    kind, got = read_tiles(tmp_path / "pathflip/coords/s.h5")
    assert (kind, got.grid.tile_px0) == ("pathflip coordinates", 512)


def test_command_line(tmp_path, monkeypatch, capsys):
    folder = clam_files(tmp_path / "clam", CELLS, np.ones((5, 3)))
    (folder / "h5_files" / "t.h5").write_bytes(b"junk")

    def run(*words: str) -> int:
        monkeypatch.setattr("sys.argv", ["pathflip", "convert", *words])
        with pytest.raises(SystemExit) as done:
            main()
        return int(done.value.code)

    facts = ("--mpp", "0.5", "--tile-px", "224", "--encoder", "resnet50")
    out = str(tmp_path / "out")
    assert run(str(folder), "--to", "pathflip", "--out", out, *facts, "--json") == 1  # t.h5 is junk
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [row["slide_id"] for row in rows] == ["s1", "t"]
    assert (rows[0]["detected"], rows[0]["tiles"], rows[0]["tile_px0"]) == ("clam", 5, 512)
    assert "not a readable HDF5 file" in rows[1]["error"]
    text = "s1: clam → pathflip, 5 tiles, resnet50, 3 wide, 224 px at 0.5 mpp = 512 level-0 px; {}"
    assert _convert_line(rows[0]) == text.format(rows[0]["files"][0])
    assert run(str(folder), "--to", "nonsense", "--out", out) == 2


@pytest.mark.usefixtures("annotations_off")
def test_a_file_that_kills_its_reader_is_one_row():
    separately = Separately(dies_of_bad)
    outcomes = [separately(Path(f"{name}.h5")) for name in ("a", "bad", "b")]
    separately.close()
    assert (outcomes[0], outcomes[2]) == ("a", "b")
    assert "bad.h5: the process reading it died (a damaged file, or out of memory)" in outcomes[1].error


def test_nothing_but_clear_lines_from_random_damage(tmp_path):
    """Bytes of a good file changed at random: the answer is right or one line; no other exception, no end."""
    rng = np.random.default_rng(0)
    good = trident_file(tmp_path / "good.h5", CELLS, np.ones((5, 3))).read_bytes()
    (tmp_path / "in").mkdir()
    for number in range(80):
        bad = bytearray(good)
        for place in rng.integers(0, len(bad), 4):
            bad[place] = rng.integers(0, 256)
        (tmp_path / "in" / f"s{number:03d}.h5").write_bytes(bad)
    rows = convert([tmp_path / "in"], "stamp", tmp_path / "out", ReadOptions(mpp=0.5), isolated=True)
    refused = [row.error for row in rows if row.error]
    assert len(rows) == 80
    assert 10 < len(refused) < 80
    for line in refused:
        assert re.match(r"(\S*s\d{3}.h5|slide 's\d{3}'): [^\n]+$", line), line
        assert not re.search(r"h5: [A-Za-z]+(Error|Exception): ", line), line


def test_tables_beside_our_features_are_no_features(tmp_path):
    for name in ("a.h5", "a.excluded.csv", "slidechat.csv"):
        (tmp_path / name).write_bytes(b"")
    assert [path.name for path in find_inputs([tmp_path])] == ["a.h5", "slidechat.csv"]
