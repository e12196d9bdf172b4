"""Slides composed of real tissue: exact masks, donors kept apart, seams, and what cannot be composed."""

import csv
import json

import cv2
import numpy as np
import pytest
from typer.testing import CliRunner

from pathflip.cli import app
from pathflip.errors import ConfigError
from pathflip.geometry import TileSpec
from pathflip.simulate import World
from pathflip.simulate.mosaic import mosaic
from pathflip.simulate.quilt import alike, quilt
from pathflip.simulate.tissue_classes import TissueClass, find_tissue_images, split_donors
from pathflip.simulate.truth import measure, read_labels
from pathflip.simulate.world import LABELS, SPLITS
from pathflip.slide import find_tissue, open_slide, tile_slide

CLASSES = {
    "STR": ("fibrous_stroma", (220, 150, 190)),
    "TUM": ("tumour", (120, 60, 150)),
    "LYM": ("lymphoid_aggregates", (70, 50, 130)),
    "ADI": ("adipose_tissue", (235, 225, 200)),
    "MUC": ("mucin_pools", (170, 200, 220)),
}
COLOURS = {name: colour for name, (_, colour) in CLASSES.items()}
NAMED = {name: label for name, (label, _) in CLASSES.items()}
DONORS = 8


def save_classes(folder, names=tuple(COLOURS), side=48, shade=6):
    """Even tiles, one colour a class; each donor's a little darker, so that a pixel tells class and donor."""
    for name in names:
        (folder / name).mkdir(parents=True)
        for donor in range(DONORS):
            tile = np.full((side, side, 3), np.array(COLOURS[name]) - shade * donor, np.uint8)
            cv2.imwrite(str(folder / name / f"d{donor}_0.png"), tile[..., ::-1])
    return folder


def small_world(cases=6, **changes):
    return World("mosaic_test", 0, **{"num_cases": cases, "slide_px": 512, "mpp": 1.0, **changes})


@pytest.fixture(scope="module")
def cohort(tmp_path_factory):
    folder = tmp_path_factory.mktemp("mosaic")
    images = find_tissue_images(save_classes(folder / "classes"), donor_pattern=r"/(d\d)_")
    facts = mosaic(small_world(), images, folder / "out", mpp=0.5, num_workers=1)
    return folder / "out", images, facts


def slides_of(out):
    with (out / "splits.csv").open(encoding="utf-8") as handle:
        return list(csv.DictReader(handle))


def pixels(out, slide):
    with open_slide(out / "slides" / f"{slide}.tif") as opened:
        assert opened.info.mpp0 == pytest.approx(1.0, rel=1e-3)
        return np.asarray(opened.thumbnail(512)).astype(int)


def test_every_pixel_is_of_the_class_that_its_mask_says(cohort):
    out, _, _ = cohort
    for row in slides_of(out):
        labels = np.kron(read_labels(out / "truth" / f"{row['slide']}.png"), np.ones((16, 16), np.uint8))
        picture = pixels(out, row["slide"])
        own = {LABELS.index(NAMED[name]): np.array(colour) for name, colour in COLOURS.items()}
        own[0] = np.array((243, 242, 244))
        ids = list(own)
        # the nearest class colour, whatever the donor's shade (which lies along the grey axis)
        grey = np.ones(3) / np.sqrt(3)
        flat = {i: c - (c @ grey) * grey for i, c in own.items()}
        seen = picture - (picture @ grey)[..., None] * grey
        nearest = np.array(ids)[np.argmin([np.linalg.norm(seen - flat[i], axis=-1) for i in ids], axis=0)]
        tissue = cv2.erode((labels > 0).astype(np.uint8), np.ones((9, 9))) > 0
        whole = [cv2.erode((labels == i).astype(np.uint8), np.ones((21, 21))) > 0 for i in ids]
        inner = tissue & np.array(whole).any(0)
        assert inner.mean() > 0.05
        assert (nearest == labels)[inner].mean() > 0.995


def test_donors_of_training_and_testing_stay_apart(cohort):
    out, images, facts = cohort
    split_of = split_donors(images, small_world().rng("donors"))
    assert {split: sum(s == split for s in split_of.values()) for split in SPLITS} == {"train": 5, "val": 1, "test": 2}
    shades = {split: [6 * int(d[1:]) for d, s in split_of.items() if s == split] for split in SPLITS}
    for row in slides_of(out):
        labels = np.kron(read_labels(out / "truth" / f"{row['slide']}.png"), np.ones((16, 16), np.uint8))
        stroma = cv2.erode((labels == 1).astype(np.uint8), np.ones((21, 21))) > 0
        darker = np.array(COLOURS["STR"]).mean() - pixels(out, row["slide"]).mean(-1)[stroma]
        off = np.abs(darker[:, None] - np.array(shades[row["split"]])).min(1)
        assert np.quantile(off, 0.98) < 3, row  # donors are 6 apart
    assert facts["donors_known"] is True
    assert {one["label"] for one in facts["classes"]} == set(NAMED.values())
    assert {sum(one[f"{split}_images"] for split in SPLITS) for one in facts["classes"]} == {DONORS}


def test_reports_questions_and_tables_speak_of_what_is_there(cohort):
    out, _, _ = cohort
    rows = [json.loads(line) for line in (out / "captions.jsonl").read_text().splitlines()]
    assert len(rows) == 6
    with (out / "labels.csv").open(encoding="utf-8") as handle:
        labels = {row["slide"]: row for row in csv.DictReader(handle)}
    for row in rows:
        record = json.loads((out / "truth" / f"{row['slide']}.json").read_text())
        measured = measure(read_labels(out / "truth" / f"{row['slide']}.png"))
        assert {k: v["present"] for k, v in record["measured"].items()} == {k: v.present for k, v in measured.items()}
        assert labels[row["slide"]]["grade"] == labels[row["slide"]]["pattern"] == ""
        assert labels[row["slide"]]["tumour"] in ("", "adenocarcinoma")
        kinds = {s["kind"] for s in record["report"]["sub_captions"]}
        assert not kinds & {"diagnosis", "grade_pattern", "type_grade", "pattern", "nuclei"}
        assert ("type" in kinds) == (labels[row["slide"]]["tumour"] != "")
        assert not {q["category"] for q in record["questions"]} & {"grade", "pattern"}
        shown = {name for name, here in labels[row["slide"]].items() if here == "1"} - {"benign"}
        assert shown <= set(NAMED.values())
    with open_slide(out / "slides" / f"{rows[0]['slide']}.tif") as slide:
        assert len(tile_slide(slide, find_tissue(slide), TileSpec(64, 1.0))) > 5


def test_the_same_world_gives_the_same_bytes_and_other_images_are_refused(cohort, tmp_path):
    out, images, _ = cohort
    mosaic(small_world(), images, tmp_path / "again", mpp=0.5, num_workers=1)
    for row in slides_of(out)[:2]:
        names = (f"slides/{row['slide']}.tif", f"truth/{row['slide']}.png")
        assert all((tmp_path / "again" / name).read_bytes() == (out / name).read_bytes() for name in names)
    with pytest.raises(ConfigError, match="already holds a mosaic of other images"):
        mosaic(small_world(), images, tmp_path / "again", mpp=0.6, num_workers=1)
    with pytest.raises(ConfigError, match="holds another world"):
        mosaic(small_world(7), images, tmp_path / "again", mpp=0.5, num_workers=1)


# --- the quilt ---


def test_a_quilt_of_one_even_tile_is_even_and_every_pixel_is_laid(rng):
    tile = np.full((24, 24, 3), (200, 120, 160), np.uint8)
    assert (quilt([tile], np.ones((97, 60), bool), rng) == tile[0, 0]).all()


def test_cuts_are_cheaper_than_straight_ones(rng):
    """Over the seams of differing textures pixels jump less than where tiles are just put side by side."""
    tiles = [cv2.GaussianBlur(rng.integers(0, 256, (48, 48, 3), dtype=np.uint8), (0, 0), 2) for _ in range(6)]
    made = quilt(tiles, np.ones((256, 256), bool), np.random.default_rng(1)).astype(float)
    step = 48 - round(48 / 6)
    rows = [[tiles[int(i)][:step, :step] for i in rng.integers(6, size=7)] for _ in range(7)]
    put = np.concatenate([np.concatenate(row, 1) for row in rows])
    put = put[:256, :256].astype(float)
    jumps = np.abs(np.diff(put, axis=1)).mean((0, 2))
    seams = [k * step - 1 for k in range(1, 6)]
    by_hand, inside = jumps[seams].mean(), np.delete(jumps, seams).mean()
    assert by_hand > 2 * inside
    assert np.abs(np.diff(made, axis=1)).mean((0, 2)).max() < 0.75 * by_hand


def test_tiles_of_a_slide_are_alike():
    tiles = [np.full((8, 8, 3), 20 * i, np.uint8) for i in range(12)]
    chosen = sorted(int(tile[0, 0, 0]) for tile in alike(tiles, 4, np.random.default_rng(0)))
    assert chosen[-1] - chosen[0] <= 80


# --- folders ---


def save_empty_classes(folder, names):
    for name in names:
        (folder / name).mkdir(parents=True)
        cv2.imwrite(str(folder / name / "a.png"), np.zeros((32, 32, 3), np.uint8))
    return folder


COLLECTIONS = {
    "NCT-CRC-HE": (
        "ADI BACK DEB LYM MUC MUS NORM STR TUM",
        "adipose_tissue glass necrosis lymphoid_aggregates mucin_pools smooth_muscle normal_glands fibrous_stroma "
        "adenocarcinoma",
    ),
    "Kather 2016": (
        "01_TUMOR 02_STROMA 03_COMPLEX 04_LYMPHO 05_DEBRIS 06_MUCOSA 07_ADIPOSE 08_EMPTY",
        "adenocarcinoma fibrous_stroma lymphoid_aggregates necrosis normal_glands adipose_tissue glass",
    ),
    "LC25000": ("c/colon_aca c/colon_n l/lung_scc l/lung_n", "adenocarcinoma normal_glands squamous_cell_carcinoma"),
    "GlaS": ("benign malignant Smooth-muscle", "normal_glands adenocarcinoma smooth_muscle"),
}


@pytest.mark.parametrize("collection", COLLECTIONS)
def test_the_public_collections_are_known_by_their_folders(collection, tmp_path):
    names, labels = (words.split() for words in COLLECTIONS[collection])
    images = find_tissue_images(save_empty_classes(tmp_path, names))
    assert sorted(one.tumour or one.label for one in images.images) == sorted(labels)
    assert images.donors_known is False


def test_a_map_of_ones_own_comes_first(tmp_path):
    save_empty_classes(tmp_path, ["STR", "mine", "junk"])
    images = find_tissue_images(tmp_path, class_map={"mine": "melanoma", "junk": "", "STR": "desmoplastic_stroma"})
    assert set(images.images) == {TissueClass("tumour", "melanoma"), TissueClass("desmoplastic_stroma")}
    assert images.left_out == ("junk",)
    with pytest.raises(ConfigError, match=r"folder 'junk' is no known tissue class; .*--class-map"):
        find_tissue_images(tmp_path)
    with pytest.raises(ConfigError, match="no image"):
        find_tissue_images(tmp_path / "absent")
    (tmp_path / "loose").mkdir()
    cv2.imwrite(str(tmp_path / "loose" / "loose.png"), np.zeros((8, 8, 3), np.uint8))
    with pytest.raises(ConfigError, match="in no sub-folder"):
        find_tissue_images(tmp_path / "loose")


def test_donors_by_pattern_and_table(tmp_path):
    save_classes(tmp_path / "c", ("STR", "TUM"))
    with pytest.raises(ConfigError, match="finds no donor in 16 of 16 images"):
        find_tissue_images(tmp_path / "c", donor_pattern=r"patient(\d+)")
    with pytest.raises(ConfigError, match="unterminated"):
        find_tissue_images(tmp_path / "c", donor_pattern="(")
    table = tmp_path / "donors.csv"
    table.write_text("image;donor\n" + "".join(f"STR/d{i}_0.png;p{i // 2}\n" for i in range(DONORS)))
    with pytest.raises(ConfigError, match=r"names no donor for 8 images \(first 'TUM/d0_0.png'\)"):
        find_tissue_images(tmp_path / "c", donors=table)
    table.write_text("image,donor\n" + "".join(f"d{i}_0.png,p{i // 2}\n" for i in range(DONORS)))
    images = find_tissue_images(tmp_path / "c", donors=table)
    split_of = split_donors(images, np.random.default_rng(0))
    assert sorted(split_of) == ["p0", "p1", "p2", "p3"]


def test_what_cannot_be_composed_is_one_line(tmp_path):
    images = find_tissue_images(save_classes(tmp_path / "c", ("STR", "TUM")))
    with pytest.raises(ConfigError, match="never enlarged"):
        mosaic(small_world(mpp=0.25), images, tmp_path / "out", mpp=0.5)
    with pytest.raises(ConfigError, match="expected one of fibrous_stroma"):
        mosaic(small_world(), find_tissue_images(save_classes(tmp_path / "t", ("TUM",))), tmp_path / "out", mpp=0.5)
    few = find_tissue_images(save_empty_classes(tmp_path / "few", ("STR", "TUM")))
    with pytest.raises(ConfigError, match="has images of 1 donors; every class needs its own in training"):
        mosaic(small_world(), few, tmp_path / "out", mpp=0.5)
    for file in (tmp_path / "c" / "TUM").iterdir():
        file.write_bytes(b"no image")
    with pytest.raises(ConfigError, match=r"none of .* images can be read"):
        mosaic(small_world(), images, tmp_path / "out", mpp=0.5, num_workers=1)


def test_the_command(tmp_path):
    folder = save_classes(tmp_path / "classes", ("STR", "TUM", "LYM", "ADI"))
    words = ["simulate", "quick", "--kind", "mosaic", "--classes", str(folder), "--out", str(tmp_path / "out")]
    refused = CliRunner().invoke(app, words)
    assert "--classes-mpp" in str(refused.exception)
    assert "expected painted or mosaic" in str(CliRunner().invoke(app, [*words[:3], "oil", *words[4:]]).exception)
    painted = CliRunner().invoke(app, ["simulate", "quick", "--classes", str(folder), "--out", str(tmp_path / "p")])
    assert "--classes goes with --kind mosaic" in str(painted.exception)


# --- crops of real slides, marked by hand (x, y, width, height at level 0) ---

REGIONS = {
    "adipose_tissue": ("colon-submucosal-lipoma.tif", 0.5, (9300, 2400, 3400, 3400)),
    "normal_glands": ("colon-crohn-disease.tif", None, (4450, 1650, 850, 2100)),
    "lymphoid_aggregates": ("colon-crohn-disease.tif", None, (3300, 5050, 720, 620)),
    "squamous_cell_carcinoma": ("lung-squamous-cell-carcinoma.svs", None, (9200, 6750, 2600, 2000)),
    "fibrous_stroma": ("lung-squamous-cell-carcinoma.svs", None, (3500, 3200, 2100, 2800)),
}


@pytest.mark.real
@pytest.mark.slow
def test_a_mosaic_of_real_slides(real_data, tmp_path):
    """Regions marked by hand, cut at 1.1 µm; classes keep their own look, and tissue is found on the slides."""
    rng = np.random.default_rng(0)
    for name, (file, mpp, (x, y, width, height)) in REGIONS.items():
        (tmp_path / "classes" / name).mkdir(parents=True)
        with open_slide(real_data / "slides" / file, slide_mpp=mpp) as slide:
            side = 64 * 1.1 / slide.info.mpp0
            for i in range(9):
                corner = (x + rng.uniform(0, width - side), y + rng.uniform(0, height - side))
                tile = slide.read_box(*corner, side, side, (64, 64))
                cv2.imwrite(str(tmp_path / "classes" / name / f"{i}.png"), tile[..., ::-1])
    out = tmp_path / "out"
    mosaic(small_world(5, mpp=1.1), find_tissue_images(tmp_path / "classes"), out, mpp=1.1, num_workers=1)
    means = {}
    for row in slides_of(out):
        labels = np.kron(read_labels(out / "truth" / f"{row['slide']}.png"), np.ones((16, 16), np.uint8))
        with open_slide(out / "slides" / f"{row['slide']}.tif") as slide:
            picture = np.asarray(slide.thumbnail(512)).astype(float)
            assert len(tile_slide(slide, find_tissue(slide), TileSpec(64, 1.1))) > 3
        for label in np.unique(labels):
            if (labels == label).sum() > 2000:
                means.setdefault(LABELS[label], []).append(picture[labels == label].mean(0))
    dark = {name: np.mean(values) for name, values in means.items()}
    assert dark["tumour"] < dark["fibrous_stroma"] < dark["glass"]
    assert dark.get("lymphoid_aggregates", 0) < dark.get("adipose_tissue", 255)
