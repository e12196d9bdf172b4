"""The painter, the slide writer and the truth: what is planned is painted, what is painted is what the truth says."""

import csv
import hashlib
import json
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import openslide
import pytest

from pathflip.errors import ConfigError, SlideError
from pathflip.geometry import SlideInfo, TileGrid, TileSpec
from pathflip.simulate import World, simulate
from pathflip.simulate.cases import plan_cases
from pathflip.simulate.fields import cells, noise, scatter, stamp
from pathflip.simulate.paint import paint
from pathflip.simulate.swatches import FINDING_SWATCHES, Brush
from pathflip.simulate.truth import (
    concept_fractions,
    concept_mask,
    evidence_boxes,
    measure,
    polygons,
    read_labels,
    tile_fractions,
    tissue_mask,
    write_labels,
)
from pathflip.simulate.world import CONCEPTS, FINDINGS, LABELS, SCATTERED, CasePlan, PlacedFinding
from pathflip.simulate.write import write_slide

SMALL = World("paint test", seed=3, num_cases=4, slide_px=768)


def case(findings: tuple[PlacedFinding, ...], seed: int = 5, tumour: str | None = "melanoma") -> CasePlan:
    grade, pattern, share = (2, "solid_nests", 0.35) if tumour else (0, None, 0.0)
    return CasePlan("one", "P1", "train", tumour, grade, pattern, share, findings, seed)


@pytest.fixture(scope="module")
def cohort(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("cohort")
    simulate(SMALL, out, num_workers=1)
    return out


def digests(folder: Path) -> dict[str, str]:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


# --- fields -----------------------------------------------------------------------------------------------------------


def test_noise_is_standardised_and_seamless(rng: np.random.Generator) -> None:
    field = noise(rng, 240, 30)
    assert abs(float(field.mean())) < 1e-3
    assert float(field.std()) == pytest.approx(1, abs=1e-3)
    across_seam = np.abs(field[:, 0] - field[:, -1]).max()
    assert across_seam <= 1.2 * np.abs(np.diff(field, axis=1)).max()


def test_cells_match_a_naive_nearest_point_search(rng: np.random.Generator) -> None:
    tessellation = cells(rng, 120, 24)
    columns, rows = tessellation.x.astype(int), tessellation.y.astype(int)
    for y, x in rng.integers(0, 120, (60, 2)):
        dx = np.minimum(np.abs(columns - x), 120 - np.abs(columns - x))
        dy = np.minimum(np.abs(rows - y), 120 - np.abs(rows - y))
        distance = np.hypot(dx, dy)
        assert tessellation.reach[y, x] == pytest.approx(distance.min(), rel=0.05, abs=0.5)  # OpenCV's 5×5 chamfer
        assert distance[tessellation.ids[y, x] - 1] <= distance.min() * 1.05 + 0.5


def test_stamped_ellipses_have_their_area_and_wrap(rng: np.random.Generator) -> None:
    plane = stamp(120, np.array([0.3]), np.array([60.0]), 8.0, 4.0, 0.7)
    assert float(plane.sum()) == pytest.approx(np.pi * 8 * 4, rel=0.05)
    assert plane[:, -4:].max() > 0.5  # wraps over the edge
    x, y = scatter(rng, 120, 12)
    assert len(x) == 100
    assert max(x.max(), y.max()) < 120


# --- painting ---------------------------------------------------------------------------------------------------------


def test_paint_is_deterministic_and_seeded() -> None:
    plan = case((PlacedFinding("necrosis", 0.08, "central"),))
    one, two = paint(plan, SMALL), paint(plan, SMALL)
    assert np.array_equal(one.rgb, two.rgb)
    assert np.array_equal(one.labels, two.labels)
    other = paint(replace(plan, seed=6), SMALL)
    assert not np.array_equal(one.labels, other.labels)


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_findings_have_their_planned_share_and_place(seed: int) -> None:
    planned = (
        PlacedFinding("keratin_pearls", 0.02, "upper left"),
        PlacedFinding("adipose_tissue", 0.06, "right"),
        PlacedFinding("haemorrhage", 0.10, "lower"),
    )
    world = replace(SMALL, slide_px=1536)
    labels = paint(case(planned, seed), world).labels
    measured = measure(labels)
    tissue = tissue_mask(labels).sum()
    for finding in planned:
        share = (labels == LABELS.index(finding.name)).sum() / tissue
        assert share == pytest.approx(finding.fraction, rel=0.1, abs=0.002)
        assert measured[finding.name].present
        assert measured[finding.name].fraction == pytest.approx(share, abs=1e-4)
    agree = [measured[finding.name].place == finding.place for finding in planned]
    assert sum(agree) >= 2  # tissue need not reach into the cell a plan names
    assert measured["tumour"].fraction == pytest.approx(0.35 + measured["keratin_pearls"].fraction, rel=0.15)
    assert not measured["necrosis"].present
    assert set(measured) == set(CONCEPTS)


def test_scattered_findings_are_measured_as_scattered() -> None:
    planned = (PlacedFinding("calcification", 0.08, SCATTERED),)
    world = replace(SMALL, slide_px=1536)
    places = [measure(paint(case(planned, seed, None), world).labels)["calcification"].place for seed in range(3)]
    assert places.count(SCATTERED) >= 2


def test_a_finding_changes_the_picture_where_the_labels_say() -> None:
    planned = (PlacedFinding("haemosiderin_pigment", 0.15, "central"),)
    painting = paint(case(planned, tumour=None), SMALL)
    inside = cv2.resize(
        concept_mask(painting.labels, "haemosiderin_pigment").astype(np.uint8),
        (768, 768),
        interpolation=cv2.INTER_NEAREST,
    )
    tissue = cv2.resize(tissue_mask(painting.labels).astype(np.uint8), (768, 768), interpolation=cv2.INTER_NEAREST)
    red, blue = painting.rgb[..., 0].astype(int), painting.rgb[..., 2].astype(int)
    brown = red - blue > 40
    assert brown[inside > 0].mean() > 0.15
    assert brown[(tissue > 0) & (inside == 0)].mean() < 0.03


def test_labels_and_glass_agree() -> None:
    painting = paint(case(()), SMALL)
    labels = cv2.resize(painting.labels, (768, 768), interpolation=cv2.INTER_NEAREST)
    brightness = painting.rgb.min(axis=2)
    assert np.median(brightness[labels == 0]) > 215
    assert np.median(brightness[labels > 0]) < 200


@pytest.mark.parametrize("finding", FINDINGS)
def test_every_finding_paints_at_other_resolutions(finding: str) -> None:
    swatch = FINDING_SWATCHES[finding](Brush(np.random.default_rng(0), 240, 4.0))
    assert swatch.stains.shape == (240, 240, 4)
    assert swatch.stains.max() > 20
    if swatch.objects is not None:
        assert 0.05 < (swatch.objects > 0).mean() < 0.95


def test_paint_refuses_sides_that_do_not_fit_the_label_map() -> None:
    with pytest.raises(ConfigError, match="multiple of label_px"):
        paint(case(()), replace(SMALL, slide_px=1000))


# --- writing ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mpp", [2.0, 0.2528])
def test_openslide_reads_the_pyramid_and_its_mpp(tmp_path: Path, mpp: float) -> None:
    rgb = paint(case(()), SMALL).rgb
    write_slide(tmp_path / "a.tif", rgb, mpp)
    with openslide.OpenSlide(tmp_path / "a.tif") as slide:
        assert slide.properties["openslide.vendor"] == "generic-tiff"
        assert float(slide.properties["openslide.mpp-x"]) == pytest.approx(mpp, rel=1e-4)
        assert float(slide.properties["openslide.mpp-y"]) == pytest.approx(mpp, rel=1e-4)
        assert slide.level_dimensions == ((768, 768), (384, 384))
        read = np.asarray(slide.read_region((0, 0), 0, (768, 768)).convert("RGB"), int)
        half = np.asarray(slide.read_region((0, 0), 1, (384, 384)).convert("RGB"), int)
    assert np.abs(read - rgb).mean() < 5
    assert np.abs(half - cv2.resize(rgb, (384, 384), interpolation=cv2.INTER_AREA)).mean() < 5


# --- truth ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def labels(rng: np.random.Generator) -> np.ndarray:
    field = noise(rng, 120, 20)[:96, :64]
    return np.where(field > 0.8, 6, np.where(field > 0, 2, np.where(field > -0.8, 1, 0))).astype(np.uint8)


def test_tile_fractions_match_a_loop_over_pixels(labels: np.ndarray, rng: np.random.Generator) -> None:
    size0, tile = (64 * 16, 96 * 16), 50
    coords = np.concatenate([rng.integers(0, 900, (30, 2)), [[1000, 1500]]]).astype(np.int64)
    fractions = tile_fractions(labels, coords, tile, size0)
    large = np.kron(labels, np.ones((16, 16), np.uint8))
    for (x, y), row in zip(coords, fractions, strict=True):
        square = np.zeros((tile, tile), np.uint8)
        part = large[y : y + tile, x : x + tile]
        square[: part.shape[0], : part.shape[1]] = part
        naive = np.bincount(square.ravel(), minlength=len(LABELS)) / tile**2
        np.testing.assert_allclose(row, naive, atol=1e-6)
    tumour = [LABELS.index(name) for name in CONCEPTS["tumour"]]
    grid = TileGrid(SlideInfo("a", size0, 2.0), TileSpec(tile_px=tile, mpp=2.0), coords)
    np.testing.assert_allclose(
        concept_fractions(labels, grid, ["tumour"])[:, 0], fractions[:, tumour].sum(1), atol=1e-6
    )


def test_polygons_fill_to_the_label_map(labels: np.ndarray) -> None:
    from shapely.geometry import Polygon

    labels[10, 10] = labels[11, 11] = 6  # pieces that touch at a corner, a single pixel
    labels[40:50, 20:30], labels[44:46, 24:26] = 6, 0  # a hole
    concept = next(c for c in FINDINGS if CONCEPTS[c] == (LABELS[6],))
    mask = concept_mask(labels, concept)
    canvas = np.zeros_like(mask)
    area = 0.0
    for rings in polygons(labels, concept, 16):
        shape = Polygon(rings[0], rings[1:])
        assert shape.is_valid
        area += shape.area
        for y, x in np.argwhere(mask):
            canvas[y, x] |= shape.contains(Polygon([(x * 16 + i, y * 16 + j) for i, j in ((4, 4), (12, 4), (12, 12))]))
    assert area == mask.sum() * 256
    assert np.array_equal(canvas, mask)


def test_label_maps_survive_the_file_and_damage_is_named(labels: np.ndarray, tmp_path: Path) -> None:
    write_labels(tmp_path / "a.png", labels)
    assert np.array_equal(read_labels(tmp_path / "a.png"), labels)
    write_labels(tmp_path / "b.png", np.full_like(labels, 200))
    with pytest.raises(SlideError, match="no label map"):
        read_labels(tmp_path / "b.png")
    with pytest.raises(ConfigError, match="unknown concept 'oedema'"):
        concept_mask(labels, "oedema")


def test_evidence_boxes_hold_the_largest_pieces(labels: np.ndarray) -> None:
    labels[:] = 1
    labels[2:10, 4:20], labels[60:62, 30:33] = 5, 5
    boxes = evidence_boxes(labels, LABELS[5], 16)
    assert [(b.x, b.y, b.width, b.height) for b in boxes] == [(64, 32, 256, 128), (480, 960, 48, 32)]


# --- cohort -----------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_two_workers_write_the_same_bytes_as_one(cohort: Path, tmp_path: Path) -> None:
    progress: list[tuple[int, int]] = []
    simulate(SMALL, tmp_path, num_workers=2, progress=lambda done, total: progress.append((done, total)))
    assert digests(tmp_path) == digests(cohort)
    assert progress[0] == (0, 4)
    assert progress[-1] == (4, 4)


def test_cohort_tables_agree_with_the_truth(cohort: Path) -> None:
    plans = {plan.slide_id: plan for plan in plan_cases(SMALL)}
    with open(cohort / "labels.csv", newline="", encoding="utf-8") as handle:
        rows = list(csv.DictReader(handle))
    assert [row["slide"] for row in rows] == list(plans)
    for row in rows:
        labels = read_labels(cohort / "truth" / f"{row['slide']}.png")
        record = json.loads((cohort / "truth" / f"{row['slide']}.json").read_text())
        assert (row["patient"], row["split"]) == (plans[row["slide"]].patient, plans[row["slide"]].split)
        for finding in FINDINGS:
            measures = measure(labels)[finding]
            assert row[finding] == str(int(measures.present))
            assert record["measured"][finding]["fraction"] == measures.fraction
        outlines = json.loads((cohort / "truth" / f"{row['slide']}.geojson").read_text())
        named = {feature["properties"]["classification"]["name"] for feature in outlines["features"]}
        assert named >= {name for name in FINDINGS if row[name] == "1"}
    captions = [json.loads(line) for line in (cohort / "captions.jsonl").read_text().splitlines()]
    assert [caption["slide"] for caption in captions] == list(plans)
    assert all(caption["text"] for caption in captions)
    questions = [json.loads(line) for line in (cohort / "questions.jsonl").read_text().splitlines()]
    assert {question["slide"] for question in questions} == set(plans)
    assert any(question["evidence_boxes"] for question in questions)


def test_an_interrupted_cohort_is_continued_and_another_world_refused(cohort: Path) -> None:
    before = digests(cohort)
    first, second = sorted((cohort / "truth").glob("*.json"))[:2]
    first.unlink()
    stamp = second.stat().st_mtime_ns
    counts: list[int] = []
    simulate(SMALL, cohort, num_workers=1, progress=lambda done, total: counts.append(done))
    assert counts == [3, 4]
    assert second.stat().st_mtime_ns == stamp
    assert digests(cohort) == before
    with pytest.raises(ConfigError, match=r"another world: seed 3 \(asked: 4\)"):
        simulate(replace(SMALL, seed=4), cohort)
