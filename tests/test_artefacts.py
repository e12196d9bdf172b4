"""Artefacts: planted ones are found, on painted slides by the painter's truth, on real slides by blurring them."""

import cv2
import numpy as np
import pytest

import pathflip.simulate.artefact_painting as painter
import pathflip.simulate.paint as painting
from pathflip.errors import ConfigError
from pathflip.geometry import TileGrid, TileSpec
from pathflip.simulate import World
from pathflip.simulate.cases import plan_cases
from pathflip.simulate.write import write_slide
from pathflip.slide import ArtefactSpec, exclude_artefacts, find_artefacts, find_tissue, open_slide, tile_slide
from pathflip.slide.artefacts import KINDS
from slide_files import write_pyramid

WORLD = World("artefacts", 11, 40, slide_px=1536)


class Always(np.random.Generator):
    """A generator whose bare ``random()`` is 0: every artefact the painter may draw is drawn."""

    def __init__(self, rng):
        super().__init__(rng.bit_generator)

    def random(self, *size):
        return super().random(*size) if size else 0.0


@pytest.fixture(scope="module")
def painted(tmp_path_factory):
    """Slides of several laboratories with every artefact drawn: path, and truth by kind at level 0 (or label cells)."""
    folder, slides = tmp_path_factory.mktemp("painted"), []
    real = {name: getattr(painter, name) for name in ("_fold", "_out_of_focus", "_pen", "_bubble")}
    tissue, glass = painter.spoil_tissue, painter.spoil_glass
    truth = {}

    def on_tissue(name):
        def draw(*args):
            truth[name] = real[name](*args)
            return truth[name]

        return draw

    def on_glass(name):
        def draw(rgb, *args):
            before = rgb.copy()
            real[name](rgb, *args)
            truth[name] = (np.abs(before.astype(int) - rgb).max(axis=2) > 8).astype(np.uint8)

        return draw

    with pytest.MonkeyPatch.context() as patch:
        for name in ("_fold", "_out_of_focus"):
            patch.setattr(painter, name, on_tissue(name))
        for name in ("_pen", "_bubble"):
            patch.setattr(painter, name, on_glass(name))
        patch.setattr(painting, "spoil_tissue", lambda a, b, c, rng: tissue(a, b, c, Always(rng)))
        patch.setattr(painting, "spoil_glass", lambda a, b, c, d, rng: glass(a, b, c, d, Always(rng)))
        for plan in plan_cases(WORLD)[:5]:
            truth.clear()
            picture = painting.paint(plan, WORLD).rgb
            write_slide(folder / f"{plan.slide_id}.tif", picture, WORLD.mpp)
            contours, _ = cv2.findContours(truth["_bubble"], cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
            cv2.drawContours(truth["_bubble"], contours, -1, 1, -1)
            slides.append((folder / f"{plan.slide_id}.tif", dict(truth)))
    return slides


@pytest.fixture(scope="module")
def scores(painted):
    """Over all slides, by kind: recall, precision (with 40 µm of slack), and how much clean tissue was flagged."""
    names = {"_fold": "fold", "_out_of_focus": "blur", "_pen": "pen", "_bubble": "bubble"}
    counts = {kind: np.zeros(4) for kind in names.values()}
    clean = np.zeros(2)
    for path, truth in painted:
        with open_slide(path) as slide:
            tissue = find_tissue(slide)
            artefacts = find_artefacts(slide, tissue)
        spoilt = np.zeros(tissue.mask.shape, bool)
        for name, kind in names.items():
            size = tissue.mask.shape[::-1]
            true = cv2.resize(truth[name].astype(np.float32), size, interpolation=cv2.INTER_AREA) > 0.5
            true &= tissue.mask if kind in ("fold", "blur") else True
            spoilt |= true
            near, mask = cv2.dilate(true.astype(np.uint8), np.ones((11, 11))) > 0, artefacts.mask(kind)
            counts[kind] += (true & mask).sum(), true.sum(), (near & mask).sum(), mask.sum()
        sound = tissue.mask & ~(cv2.dilate(spoilt.astype(np.uint8), np.ones((11, 11))) > 0)
        clean += (artefacts.mask("any") & sound).sum(), sound.sum()
    return {kind: (a / b, c / d) for kind, (a, b, c, d) in counts.items()}, clean[0] / clean[1]


@pytest.mark.parametrize(
    ("kind", "recall", "precision"), [("fold", 0.6, 0.9), ("blur", 0.4, 0.6), ("pen", 0.55, 0.9), ("bubble", 0.7, 0.9)]
)
def test_painted_artefacts_are_found(scores, kind, recall, precision):
    score = scores[0][kind]
    assert score[0] > recall, f"{kind}: {score}"
    assert score[1] > precision, f"{kind}: {score}"


def test_sound_painted_tissue_is_left_alone(scores):
    assert scores[1] < 0.01


def glass(height=1000, width=1000):
    noise = np.random.default_rng(0).normal(0, 1.2, (height, width, 3))
    return np.clip(np.array((243, 241, 243)) + noise, 0, 255).astype(np.uint8)


def test_what_lies_on_the_glass_is_told_apart(tmp_path):
    picture = glass()
    cv2.circle(picture, (500, 500), 120, (205, 140, 185), -1)
    picture[:40] = (60, 62, 63)  # a band along the edge
    cv2.line(picture, (150, 850), (500, 850), (30, 60, 165), 40)  # blue pen
    cv2.line(picture, (600, 850), (900, 850), (35, 35, 38), 40)  # black pen
    cv2.circle(picture, (800, 300), 70, (200, 201, 202), 6)  # an air bubble
    cv2.circle(picture, (150, 300), 9, (90, 92, 95), -1)  # dust
    path = write_pyramid(tmp_path / "drawn.tif", [picture], mpp=2.0)
    with open_slide(path) as slide:
        artefacts = find_artefacts(slide, find_tissue(slide))
    at = {point: KINDS[artefacts.kinds[int(y / artefacts.downsample), int(x / artefacts.downsample)]] for point in (
        (500, 20), (300, 850), (750, 850), (800, 300), (150, 300), (500, 500), (500, 200)
    ) for x, y in [point]}  # fmt: skip
    assert at == {
        (500, 20): "dark", (300, 850): "pen", (750, 850): "pen", (800, 300): "bubble", (150, 300): "dust",
        (500, 500): "clean", (500, 200): "clean",
    }  # fmt: skip


@pytest.mark.real
@pytest.mark.parametrize(("name", "folded"), [("morphea_HE", (0, 0.001)), ("glycogenstorage_HE", (0, 0.001)),
                                              ("celiac-disease_HE", (0.001, 0.004))])  # fmt: skip
def test_epidermis_and_portal_tracts_are_no_folds(real_data, name, folded):
    """The biopsy of the gut has a fold, seen by eye; skin and liver have none but one crushed spot."""
    with open_slide(real_data / "slides_tissue" / f"{name}.tif") as slide:
        tissue = find_tissue(slide)
        share = find_artefacts(slide, tissue).share_of_tissue("fold", tissue)
    assert folded[0] <= share <= folded[1]


def test_a_fluorescence_slide_is_left_alone(tmp_path):
    path = write_pyramid(tmp_path / "dark.tif", [np.zeros((400, 400, 3), np.uint8)], mpp=1.0)
    with open_slide(path) as slide:
        artefacts = find_artefacts(slide, find_tissue(slide))
    assert not artefacts.mask("any").any()
    assert "brightfield" in artefacts.warnings[0]


def test_excluded_tiles_and_their_reasons(painted):
    path, truth = painted[0]
    with open_slide(path) as slide:
        tissue = find_tissue(slide)
        grid = tile_slide(slide, tissue, TileSpec(32, 2.0))
        artefacts = find_artefacts(slide, tissue)
    clean, out = exclude_artefacts(grid, tissue, artefacts, 0.5)
    together = {tuple(c) for c in clean.coords.tolist()} | {tuple(c) for c in out.coords.tolist()}
    assert len(clean) + len(out.coords) == len(grid)
    assert together == {tuple(c) for c in grid.coords.tolist()}
    assert sum(out.counts.values()) == len(out.reasons) > 0
    step = artefacts.downsample
    for (x, y), reason, share in zip(out.coords.tolist(), out.reasons, out.shares, strict=True):
        rows, columns = (slice(round(v / step), round((v + 32) / step)) for v in (y, x))  # whole mask pixels here
        bad = artefacts.kinds[rows, columns] > KINDS.index("dust")
        counts = np.bincount(artefacts.kinds[rows, columns].ravel(), minlength=len(KINDS))
        counts[: KINDS.index("dust") + 1] = 0
        assert counts[KINDS.index(reason)] == counts.max()
        assert share == pytest.approx(bad.sum() / (bad | tissue.mask[rows, columns]).sum())
        assert share > 0.5
    folds = cv2.resize(truth["_fold"].astype(np.uint8), (1536, 1536), interpolation=cv2.INTER_NEAREST)
    folded = [folds[y : y + 32, x : x + 32].mean() for (x, y), why in zip(out.coords, out.reasons, strict=True)
              if why == "fold"]  # fmt: skip
    assert np.mean(folded) > 0.6


def test_nothing_to_exclude(painted):
    path, _ = painted[0]
    with open_slide(path) as slide:
        tissue = find_tissue(slide)
        artefacts = find_artefacts(slide, tissue)
        empty = TileGrid(slide.info, TileSpec(32, 2.0), np.zeros((0, 2), np.int64))
    clean, out = exclude_artefacts(empty, tissue, artefacts)
    assert len(clean) == 0
    assert out.counts == {}
    with pytest.raises(ConfigError, match="max_share"):
        ArtefactSpec(max_share=1.0)


@pytest.mark.real
@pytest.mark.parametrize("name", ["duodenum-giardiasis.svs", "lung-squamous-cell-carcinoma.svs"])
def test_real_tissue_is_kept_and_blur_planted_in_it_found(real_data, tmp_path, name):
    """One half of a real slide is defocused by 4 µm; the other half is as the scanner made it."""
    with open_slide(real_data / "slides" / name) as slide:
        mpp = slide.info.downsamples[1] * slide.info.mpp0
        width, height = slide.level_sizes[1]
        picture = slide.read_region_px(1, 0, 0, width, height)
    half = height // 2
    picture[half:] = cv2.GaussianBlur(picture, (0, 0), 4 / mpp)[half:]
    path = write_pyramid(tmp_path / "half.tif", [np.ascontiguousarray(picture)], mpp=mpp, compression="deflate")
    with open_slide(path) as slide:
        tissue = find_tissue(slide)
        artefacts = find_artefacts(slide, tissue)
    blur = artefacts.mask("blur")
    border = round(half / artefacts.downsample)
    sharp, soft = tissue.mask[: border - 12], tissue.mask[border + 12 :]
    assert blur[: border - 12][sharp].mean() < 0.01
    assert artefacts.kinds[: border - 12][sharp].astype(bool).mean() < 0.01
    assert blur[border + 12 :][soft].mean() > 0.9
