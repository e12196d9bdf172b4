"""Every real slide down the whole road, and the right refusal for those that must be refused."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

import pathflip
from pathflip.checkpoint import InputContract, save_checkpoint
from pathflip.data.align import TextSpec
from pathflip.features import extract_cohort
from pathflip.geometry import TileSpec
from pathflip.inference import ground_to_files
from pathflip.models import build_model
from pathflip.slide import slide_info_row, tile_cohort
from pathflip.text.tokenizer import train_tokenizer

pytestmark = [pytest.mark.real, pytest.mark.slow]

SPEC = TileSpec(64, 2.0)
GOOD = {
    "cmu-1-small-region", "duodenum-giardiasis", "lung-squamous-cell-carcinoma", "pancreas-ductal-adenocarcinoma",
    "colon-crohn-disease", "esophagus-eosinophilic-esophagitis",
}  # fmt: skip
NO_MPP = {"colon-submucosal-lipoma", "head-neck-frozen-section-no-mpp"}


@pytest.fixture(scope="module")
def slides(real_data) -> dict[str, Path]:
    return {path.stem: path for path in sorted((real_data / "slides").iterdir())}


@pytest.fixture(scope="module")
def extracted(slides, tmp_path_factory):
    out = tmp_path_factory.mktemp("real")
    known = [path for name, path in slides.items() if name not in NO_MPP]
    rows = extract_cohort(known, SPEC, "stain_texture", out, num_workers=1)
    with_mpp = extract_cohort(
        [slides[name] for name in NO_MPP], SPEC, "stain_texture", out, slide_mpp=0.5, num_workers=1
    )
    return out, {row.slide_id: row for row in rows + with_mpp}


def test_info_reads_every_slide_but_the_broken_one(slides):
    rows = {name: slide_info_row(path) for name, path in slides.items()}
    assert {name for name, row in rows.items() if "error" in row} == {"broken"}
    for name in GOOD:
        assert 0.2 < rows[name]["mpp0"] < 1.1
    for name in NO_MPP:
        assert rows[name]["mpp0"] is None
    assert all(row["reader"] for name, row in rows.items() if name != "broken")


def test_tiling_refuses_what_it_must(slides, tmp_path):
    rows = {row.slide_id: row for row in tile_cohort(list(slides.values()), SPEC, tmp_path)}
    assert {name for name, row in rows.items() if row.ok and row.num_tiles} == GOOD
    for name in NO_MPP:
        assert "--slide-mpp" in rows[name].error
    assert "28.97" in rows["lymph-node-overview"].error
    assert rows["fluorescence"].num_tiles == 0
    assert rows["fluorescence"].warnings
    failed = {json.loads(line)["slide_id"] for line in (tmp_path / "failures.jsonl").read_text().splitlines()}
    assert failed == {"broken", "lymph-node-overview", *NO_MPP}
    for name in GOOD:
        assert (tmp_path / "qc" / f"{name}.png").stat().st_size > 10_000


def test_extraction_does_what_can_be_done(extracted):
    _, rows = extracted
    assert {name for name, row in rows.items() if row.status == "done"} == GOOD | NO_MPP
    assert rows["fluorescence"].status == "empty"
    assert rows["broken"].status == rows["lymph-node-overview"].status == "failed"


def test_features_of_real_tissue_are_finite_and_tell_slides_apart(extracted):
    _, rows = extracted
    features_of = {name: pathflip.read_features(rows[name].path) for name in GOOD | NO_MPP}
    for features in features_of.values():
        assert features.valid.mean() > 0.99
        assert np.isfinite(features.features).all()
        assert features.features[features.valid].std(0).mean() > 0.01


def test_every_slide_can_be_grounded_and_the_picture_says_what_it_is_not(slides, extracted, tmp_path):
    _, rows = extracted
    tokenizer = train_tokenizer(["Glands and lymphocytes are seen."], 100)
    first = pathflip.read_features(rows["cmu-1-small-region"].path)
    torch.manual_seed(0)
    net = build_model(
        {"kind": "pathflip", "feature_dim": first.features.shape[1], "vocab_size": tokenizer.vocab_size, "width": 32}
    )
    save_checkpoint(
        tmp_path / "untrained",
        net,
        contract=InputContract.of(first),
        tokenizer=tokenizer,
        text=TextSpec(),
        recipe={"note": "An untrained model: the picture shows that drawing works."},
    )
    model = pathflip.load(tmp_path / "untrained")
    for name in sorted(GOOD | NO_MPP):
        encoded = pathflip.encode_slide(model, pathflip.read_features(rows[name].path))
        mpp = 0.5 if name in NO_MPP else None
        (row,) = ground_to_files(
            model, encoded, ["glands"], tmp_path / name, slide_file=slides[name], slide_mpp=mpp, tiles=3
        )
        assert "untrained" in row["note"]
        assert all(Path(file).stat().st_size > 500 for file in row["files"])
        width, height = encoded.grid.info.size0
        assert all(0 <= tile["x"] < width and 0 <= tile["y"] < height for tile in row["tiles"])
