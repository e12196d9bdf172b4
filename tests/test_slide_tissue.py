"""Tissue masks: by rule on drawn slides, by eye (points checked on screen) on the real ones."""

import json
from pathlib import Path

import cv2
import numpy as np
import pytest

from pathflip.geometry import SlideInfo
from pathflip.slide import TissueMask, find_tissue, open_slide
from pathflip.slide.tissue import TissueSpec, _doubts, _tissue, glass_colour
from slide_files import write_pyramid

GLASS = (243, 241, 243)
EOSIN, HAEMATOXYLIN, PALE = (225, 150, 190), (120, 80, 160), (248, 228, 240)


def masked(tmp_path, picture, mpp=2.0):
    path = write_pyramid(tmp_path / "drawn.tif", [picture], mpp=mpp, compression="zlib")
    with open_slide(path) as slide:
        return find_tissue(slide)


def glass(side=1024, seed=0):
    noise = np.random.default_rng(seed).normal(0, 1.5, (side, side, 3))
    return np.clip(np.array(GLASS) + noise, 0, 255).astype(np.uint8)


def at(mask, x0, y0):
    return bool(mask.mask[int(y0 / mask.downsample), int(x0 / mask.downsample)])


def test_pale_and_dark_tissue_but_nothing_grey(tmp_path):
    picture = glass()
    for x, color in ((150, EOSIN), (400, HAEMATOXYLIN), (650, PALE)):
        cv2.circle(picture, (x, 300), 90, color, -1)
    picture[:40] = (33, 35, 38)  # a scanner band, near black: a few grey levels of tint are much optical density
    picture[40:80] = np.linspace(35, 240, 40)[:, None, None].astype(np.uint8)  # and its shadow
    cv2.circle(picture, (200, 700), 60, (170, 170, 172), -1)  # an out-of-focus speck
    cv2.circle(picture, (400, 700), 6, EOSIN, -1)  # dust, 24 µm
    cv2.circle(picture, (700, 700), 80, (205, 206, 208), 5)  # an air bubble
    cv2.line(picture, (100, 900), (500, 930), (28, 60, 165), 40)  # blue pen
    cv2.line(picture, (600, 900), (950, 930), (25, 120, 60), 40)  # green pen
    cv2.line(picture, (900, 200), (930, 800), (215, 25, 45), 40)  # red pen
    mask = masked(tmp_path, picture)
    assert all(at(mask, x, 300) for x in (150, 400, 650))
    assert not mask.mask[: int(100 / mask.downsample)].any()
    assert not mask.mask[int(420 / mask.downsample) :].any()
    assert mask.fraction == pytest.approx(3 * np.pi * 90**2 / 1024**2, rel=0.1)
    assert len(mask.polygons) == 3
    assert mask.warnings == ()


def test_fat_is_tissue_and_a_lumen_is_not(tmp_path):
    picture = glass()
    cv2.circle(picture, (500, 500), 400, EOSIN, -1)
    cv2.circle(picture, (500, 330), 180, GLASS, -1)
    for x in range(330, 680, 34):  # fat cells of 68 µm with faint walls: 0.04 on average, the lipoma has 0.05 to 0.08
        cv2.line(picture, (x, 160), (x, 500), (218, 170, 200), 3)
        cv2.line(picture, (330, x - 170), (670, x - 170), (218, 170, 200), 3)
    cv2.circle(picture, (500, 720), 120, GLASS, -1)  # empty, 480 µm across
    mask = masked(tmp_path, picture)
    assert all(at(mask, x, y) for x, y in ((420, 300), (500, 330), (560, 400)))
    assert not at(mask, 500, 720)
    assert len(mask.polygons) == 1
    assert len(mask.polygons[0].interiors) == 1


@pytest.mark.parametrize("fill", [(0, 0, 0), (4, 4, 40)])
def test_fluorescence_warns(tmp_path, fill):
    picture = np.zeros((600, 600, 3), np.uint8) + np.array(fill, np.uint8)
    for x in range(30, 600, 60):
        cv2.circle(picture, (x, x), 12, (0, 0, 255), -1)
    mask = masked(tmp_path, picture)
    assert mask.fraction == 0
    assert "brightfield" in mask.warnings[0]
    assert mask.polygons == ()


def test_bare_glass_and_tissue_from_edge_to_edge(tmp_path):
    assert "no tissue" in masked(tmp_path, glass()).warnings[0]
    full = np.clip(np.array(EOSIN) + np.random.default_rng(0).normal(0, 12, (512, 512, 3)), 0, 255).astype(np.uint8)
    assert masked(tmp_path, full).fraction > 0.99


def test_an_unknown_resolution_is_said(tmp_path):
    picture = glass()
    cv2.circle(picture, (500, 500), 300, EOSIN, -1)
    mask = masked(tmp_path, picture, mpp=None)
    assert "resolution unknown" in mask.warnings[0]
    assert at(mask, 500, 500)
    assert mask.area_mm2 is None


def test_the_scale_of_the_scan_does_not_matter(tmp_path):
    """The same drawing at 1 and at 2 µm per pixel gives the same area."""
    fine = cv2.circle(glass(2048), (900, 900), 500, EOSIN, -1)
    areas = [masked(tmp_path, p, m).area_mm2 for p, m in ((fine, 1.0), (cv2.resize(fine, (1024, 1024)), 2.0))]
    assert areas[0] == pytest.approx(areas[1], rel=0.02)
    assert areas[0] == pytest.approx(np.pi * 0.5**2, rel=0.05)


def test_polygons_have_the_area_of_the_mask(tmp_path):
    shapes = cv2.GaussianBlur(np.random.default_rng(3).normal(size=(200, 200)), (0, 0), 8)
    mask = TissueMask(SlideInfo("s", (2000, 2000), 1.0), shapes > 0.01, 10.0)
    area = sum(polygon.area for polygon in mask.polygons)
    assert area == pytest.approx(mask.mask.sum() * 100, rel=0.01)
    assert all(polygon.is_valid for polygon in mask.polygons)


def test_fractions_are_the_exact_integral(rng):
    mask = TissueMask(SlideInfo("s", (400, 300), 1.0), rng.random((31, 41)) > 0.5, 10.0)
    corners = rng.integers(0, 380, (40, 2))
    fine = np.repeat(np.repeat(mask.mask, 10, axis=0), 10, axis=1)
    for side in (1, 37, 130):
        padded = np.pad(fine, ((0, 600), (0, 600)))
        want = [padded[y : y + side, x : x + side].mean() for x, y in corners]
        assert mask.fractions(corners, side) == pytest.approx(want, abs=1e-9)


# Real slides: bounds of the tissue fraction, and level-0 points seen on screen to be tissue or not.
REAL = {
    "cmu-1-small-region.svs": (
        0.38,
        0.48,
        [(900, 1700), (1050, 400), (250, 1080)],
        [(200, 200), (2090, 610), (300, 2500)],
    ),
    "colon-crohn-disease.tif": (
        0.17,
        0.21,
        [(4800, 2800), (9000, 4400), (1250, 2100), (11100, 4850), (6500, 9000)],
        [(6400, 300), (2000, 4000), (11000, 9000), (600, 3800), (7700, 150)],
    ),
    "colon-submucosal-lipoma.tif": (
        0.45,
        0.54,
        [(10000, 3000), (11000, 5000), (12500, 3000), (9500, 4500), (10500, 1800), (2500, 6500), (3800, 1500)],
        [(7500, 700), (6900, 4000), (500, 500), (1900, 4450), (7200, 7500)],
    ),
    "duodenum-giardiasis.svs": (
        0.24,
        0.30,
        [(6000, 4500), (9300, 2000), (7000, 12800), (11000, 10850), (5700, 2950)],
        [(14200, 2060), (11750, 3360), (13000, 450), (2280, 5980), (2970, 15850), (800, 6660), (7000, 8500)],
    ),
    "esophagus-eosinophilic-esophagitis.tif": (
        0.07,
        0.10,
        [(1300, 1000), (4700, 2100), (14000, 800), (17100, 2900), (3400, 5400), (15800, 5900)],
        [(3500, 20), (6000, 40), (9000, 30), (200, 200), (12500, 450), (8400, 4100), (17000, 60)],
    ),
    "lung-squamous-cell-carcinoma.svs": (
        0.19,
        0.23,
        [(5000, 3500), (3400, 10500), (10200, 8000), (14500, 8300), (2250, 14250)],
        [(600, 6200), (15150, 6480), (9000, 2000), (9000, 13000), (7000, 8700)],
    ),
    "pancreas-ductal-adenocarcinoma.svs": (
        0.08,
        0.11,
        [(6500, 5000), (2500, 9500), (1500, 8100), (9200, 5500), (6650, 7600), (8200, 3180), (10150, 7150)],
        [(6500, 1550), (1020, 1900), (3780, 2800), (9000, 1000), (3400, 11300), (4500, 9000)],
    ),
    "head-neck-frozen-section-no-mpp.svs": (
        0.62,
        0.70,
        [(1500, 1500), (3500, 2500), (3300, 300), (4300, 2100)],
        [(300, 300), (460, 660), (4300, 300), (600, 3300), (100, 2500)],
    ),
    "lymph-node-overview.dcm": (
        0.25,
        0.34,
        [(150, 150), (180, 400), (480, 200), (740, 400), (120, 365)],
        [(380, 10), (325, 312), (528, 310), (30, 600), (620, 212)],
    ),
}


@pytest.mark.real
@pytest.mark.parametrize("name", REAL)
def test_real_slides(real_data, name):
    low, high, tissue, empty = REAL[name]
    with open_slide(real_data / "slides" / name) as slide:
        mask = find_tissue(slide)
    assert low < mask.fraction < high
    assert [point for point in tissue if not at(mask, *point)] == []
    assert [point for point in empty if at(mask, *point)] == []


@pytest.mark.real
def test_the_fat_of_the_lipoma_is_whole(real_data):
    with open_slide(real_data / "slides" / "colon-submucosal-lipoma.tif", slide_mpp=0.5) as slide:
        mask = find_tissue(slide)
    assert mask.warnings == ()
    inside = [(10950 + 2300 * np.cos(a), 3900 + 2300 * np.sin(a)) for a in np.linspace(0, 6.28, 60)]
    assert all(at(mask, *point) for point in inside)
    assert len(mask.polygons[0].interiors) == 0  # the largest fragment is the lipoma, without a hole


@pytest.mark.real
def test_the_scanner_band_is_empty(real_data):
    """The band's rows hold the one fragment that reaches into it, and nothing else."""
    with open_slide(real_data / "slides" / "esophagus-eosinophilic-esophagitis.tif") as slide:
        mask = find_tissue(slide)
    rows = mask.mask[: int(90 / mask.downsample)]
    assert not rows[:, : int(950 / mask.downsample)].any()
    assert not rows[:, int(2200 / mask.downsample) :].any()


@pytest.mark.real
def test_fluorescence_is_empty_and_said(real_data):
    with open_slide(real_data / "slides" / "fluorescence.ndpi") as slide:
        mask = find_tissue(slide)
    assert not mask.mask.any()
    assert "fluorescence" in mask.warnings[0]


def honeycomb(side, cell, color, width=1, seed=0):
    """Fat: irregular cells of about ``cell`` pixels, walls of ``color``, on glass; and where it is."""
    rng = np.random.default_rng(seed)
    picture = glass(side)
    points = np.stack(np.meshgrid(*[np.arange(-cell, side + cell, cell)] * 2), axis=-1).reshape(-1, 2)
    points = points + rng.uniform(-0.3, 0.3, points.shape) * cell
    nearest = cv2.Subdiv2D((-2 * cell, -2 * cell, side + 4 * cell, side + 4 * cell))
    nearest.insert([(float(x), float(y)) for x, y in points])
    facets, _ = nearest.getVoronoiFacetList([])
    walls = np.zeros((side, side), np.uint8)
    for facet in facets:
        cv2.polylines(walls, [np.rint(facet).astype(np.int32)], True, 1, width)
    where = np.zeros((side, side), np.uint8)
    cv2.circle(where, (side // 2, side // 2), side // 3, 1, -1)
    cv2.circle(walls, (side // 2, side // 2), side // 3, 1, width)  # and a thin capsule
    picture[(walls & where) > 0] = color
    return picture, where > 0


def share_of(mask, where):
    small = cv2.resize(where.astype(np.float32), mask.mask.shape[::-1], interpolation=cv2.INTER_AREA) > 0.99
    return float(mask.mask[small].mean())


@pytest.mark.parametrize(("cell", "width"), [(12, 1), (25, 1), (45, 2)])  # 48, 100 and 180 µm
def test_fat_stands_by_its_walls_alone(tmp_path, cell, width):
    picture, where = honeycomb(512, cell, (214, 196, 212), width)  # a wall's shade in the overview of a real slide
    mask = masked(tmp_path, picture, mpp=4.0)
    assert share_of(mask, where) > 0.95
    assert mask.fraction < 1.15 * where.mean()


def test_grey_lines_specks_and_scratches_are_no_fat(tmp_path):
    net, _ = honeycomb(512, 25, (205, 205, 206))
    assert masked(tmp_path, net, mpp=4.0).fraction == 0
    rng = np.random.default_rng(1)
    picture = glass(512)
    for x, y in rng.integers(10, 500, (250, 2)):  # specks of stain, 100 µm apart or so
        cv2.circle(picture, (int(x), int(y)), 1, (190, 140, 175), -1)
    for x in range(40, 500, 45):  # scratches
        cv2.line(picture, (x, 0), (x + 20, 511), (214, 196, 212), 1)
    assert masked(tmp_path, picture, mpp=4.0).fraction == 0


def test_smears_and_flakes_are_no_tissue(tmp_path):
    picture = glass(600).astype(np.float32)
    tissue = np.zeros((600, 600), np.uint8)
    cv2.ellipse(tissue, (300, 430), (200, 100), 0, 0, 360, 1, -1)
    rng = np.random.default_rng(2)
    texture = cv2.GaussianBlur(rng.normal(size=(600, 600)).astype(np.float32), (0, 0), 1.5)[..., None]
    picture = np.where(tissue[..., None] > 0, np.array((205, 140, 185)) + 90 * texture, picture)
    smear = np.zeros((600, 600), np.float32)
    cv2.circle(smear, (120, 120), 45, 1, -1)
    picture -= cv2.GaussianBlur(smear, (0, 0), 9)[..., None] * np.array((0, 16, 5))
    cv2.rectangle(picture, (300, 100), (340, 125), (38, 8, 52), -1)
    pale = np.zeros((600, 600), np.uint8)
    cv2.circle(pale, (480, 120), 40, 1, -1)
    picture = np.where(pale[..., None] > 0, np.array((236, 216, 230)) + 40 * texture, picture)
    mask = masked(tmp_path, np.clip(picture, 0, 255).astype(np.uint8), mpp=4.0)
    assert at(mask, 300, 430)
    assert at(mask, 480, 120)
    assert not at(mask, 120, 120)
    assert not at(mask, 320, 112)


@pytest.mark.parametrize("tint", [(1, 1, 1), (0.97, 0.91, 0.95), (0.8, 0.8, 0.8), (0.99, 0.97, 0.9)])
def test_the_glass_is_the_slides_own(tmp_path, tint):
    """Pinkish, grey and yellowish glass, half of the file never scanned (white)."""
    picture, where = honeycomb(512, 25, (214, 196, 212))
    cv2.circle(picture, (80, 80), 40, EOSIN, -1)
    cv2.circle(where_too := where.astype(np.uint8), (80, 80), 40, 1, -1)
    tinted = np.clip(picture * np.array(tint), 0, 255).astype(np.uint8)
    wide = np.full((512, 1100, 3), 255, np.uint8)
    wide[:, :512] = tinted
    mask = masked(tmp_path, wide, mpp=4.0)
    assert share_of(mask, np.pad(where_too > 0, ((0, 0), (0, 588)))) > 0.9
    assert not mask.mask[:, int(540 * 4 / 8) :].any()


def hardly_stained():
    picture, _ = honeycomb(512, 12, (214, 196, 212))
    return np.clip(243 * (picture / 243.0) ** 0.3, 0, 255).round().astype(np.uint8)


def scattered(color, count, side):
    picture = np.full((600, 600, 3), 243, np.uint8)
    for x, y in np.random.default_rng(4).integers(0, 600 - side, (count, 2)):
        picture[y : y + side, x : x + side] = color
    return picture


@pytest.mark.parametrize(
    ("picture", "words"),
    [
        (hardly_stained(), "very pale: tissue may be missed"),
        (scattered((170, 140, 195), 900, 4), "very pale: tissue may be missed"),  # cells of 16 µm
        (scattered((120, 121, 122), 300, 4), "only dust"),
        (np.full((600, 600, 3), 243, np.uint8), "looks empty"),
    ],
    ids=["pale", "cytology", "dust", "empty"],
)
def test_what_may_be_missed_is_said(tmp_path, picture, words):
    warnings = masked(tmp_path, picture, mpp=4.0).warnings
    assert any(words in warning for warning in warnings), warnings


def test_stained_tissue_raises_no_doubt(tmp_path):
    picture = glass()
    texture = cv2.GaussianBlur(np.random.default_rng(5).normal(size=(1024, 1024)), (0, 0), 2)[..., None]
    disk = cv2.circle(np.zeros((1024, 1024), np.uint8), (500, 500), 300, 1, -1)[..., None] > 0
    picture = np.where(disk, np.clip(np.array(EOSIN) + 200 * texture, 0, 255), picture).astype(np.uint8)
    assert masked(tmp_path, picture).warnings == ()


OUTLINED = Path(__file__).parent / "fixtures" / "tissue_masks"


def drawn(name, mask, um):
    """The tissue and fat drawn by hand (fixtures/tissue_masks/README.md), as masks."""
    rows = json.loads((OUTLINED / f"{name}.geojson").read_text(encoding="utf-8"))["features"]
    layers = np.zeros((2, *mask.shape), np.uint8)
    for kind, layer, value in (("tissue", 0, 1), ("glass", 0, 0), ("inside", 0, 1), ("fat", 1, 1)):
        for row in rows:
            if row["properties"]["kind"] == kind:
                ring = np.array(row["geometry"]["coordinates"][0]) / um - 0.5
                cv2.fillPoly(layers[layer], [np.rint(ring).astype(np.int32)], value)
    return layers[0] > 0, (layers[0] & layers[1]) > 0


@pytest.mark.real
@pytest.mark.parametrize("name", sorted(path.stem for path in OUTLINED.glob("*.geojson")))
def test_outlines_drawn_by_hand(real_data, name):
    with open_slide(real_data / "slides_tissue" / f"{name}.tif") as slide:
        found_tissue = find_tissue(slide)
    um = found_tissue.downsample * found_tissue.info.mpp0
    tissue, fat = drawn(name, found_tissue.mask, um)
    assert 2 * (tissue & found_tissue.mask).sum() / (tissue.sum() + found_tissue.mask.sum()) > 0.92
    if fat.any():
        assert (fat & ~found_tissue.mask).sum() / fat.sum() < 0.06
    if name in ("celiac-disease_HE", "erosion_HE", "kidneyoncocytoma_HE", "BS3_HE"):
        before = json.loads((OUTLINED / "before.json").read_text(encoding="utf-8"))[name]
        assert found_tissue.area_mm2 == pytest.approx(before, rel=0.05)
    if name in ("parasite_HE", "BS17_HE"):
        smears = {"parasite_HE": [(1080, 2030), (30, 685), (180, 105), (85, 1953)], "BS17_HE": [(94, 120), (463, 20)]}
        assert not any(found_tissue.mask[int(y * 8 / um), int(x * 8 / um)] for x, y in smears[name])


def degraded(picture, kind):
    """A picture as a poor overview shows it."""
    if kind == "blurred":
        return cv2.GaussianBlur(picture, (0, 0), 1)
    if kind == "noisy":
        return np.clip(picture + np.random.default_rng(6).normal(0, 4, picture.shape), 0, 255).round().astype(np.uint8)
    return cv2.imdecode(cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, 50])[1], cv2.IMREAD_COLOR)


@pytest.mark.parametrize("kind", ["blurred", "noisy", "strongly compressed"])
def test_an_overview_too_poor_for_pale_tissue_is_said(tmp_path, kind):
    """Fat is lost on it without a trace in the mask."""
    fat, _ = honeycomb(600, 12, (214, 196, 212))
    texture = cv2.GaussianBlur(np.random.default_rng(5).normal(size=(600, 600)), (0, 0), 0.8)[..., None]
    disk = cv2.circle(np.zeros((600, 600), np.uint8), (300, 300), 150, 1, -1)[..., None] > 0
    picture = np.where(disk, np.clip(np.array(EOSIN) + 60 * texture, 0, 255), fat).astype(np.uint8)
    (tmp_path / "good").mkdir()
    assert masked(tmp_path / "good", picture, mpp=8.0).warnings == ()
    warnings = masked(tmp_path, degraded(picture, kind), mpp=8.0).warnings
    assert any(f"overview too poor: pale tissue may be missed ({kind})" == one for one in warnings), warnings


def with_colour(picture, share, glass=243.0):
    """The picture with a share of its colour: of how much the densities of the three channels differ."""
    density = -np.log(np.maximum(picture, 1) / glass)
    grey = density.mean(axis=-1, keepdims=True)
    return np.clip(glass * np.exp(-(grey + (density - grey) * share)), 0, 255).round().astype(np.uint8)


HARDLY_ANY = "hardly any colour: pale tissue may be missed"


def test_tissue_that_lost_its_colour_is_said(tmp_path):
    picture = glass()
    texture = cv2.GaussianBlur(np.random.default_rng(5).normal(size=(1024, 1024)), (0, 0), 2)[..., None]
    disk = cv2.circle(np.zeros((1024, 1024), np.uint8), (500, 500), 300, 1, -1)[..., None] > 0
    picture = np.where(disk, np.clip(np.array(EOSIN) + 200 * texture, 0, 255), picture).astype(np.uint8)
    warned = [HARDLY_ANY in masked(tmp_path, with_colour(picture, share)).warnings for share in (1, 0.6, 0.25, 0.15)]
    assert warned == [False, False, True, True]


@pytest.mark.real
@pytest.mark.parametrize("name", ["BS30_HE", "fat-necrosis_HE", "insidious-lymph-node-metastasis_HE"])
def test_half_of_the_colour_gone_is_said_of_real_slides(real_data, name):
    with open_slide(real_data / "slides_tissue" / f"{name}.tif") as slide:
        overview = slide.overview(8.0 / slide.info.require_mpp())
    white = glass_colour(overview)[0]
    for share in (1.0, 0.5):
        picture = with_colour(overview, share, white)
        doubts = _doubts(picture, _tissue(picture, 8.0, TissueSpec()), 8.0, TissueSpec())
        assert (HARDLY_ANY in doubts) == (share == 0.5), (name, share, doubts)


def test_pixels_too_coarse_for_walls_are_said(tmp_path):
    picture = cv2.circle(glass(300), (150, 150), 60, EOSIN, -1)
    assert (
        "overview too poor: pale tissue may be missed (pixels of 20 µm)" in masked(tmp_path, picture, mpp=20.0).warnings
    )


@pytest.mark.real
@pytest.mark.parametrize("kind", ["", "blurred", "noisy", "strongly compressed"])
def test_real_slides_are_poor_only_where_they_were_made_so(real_data, kind):
    for name in ("BS30_HE", "fat-necrosis_HE", "celiac-disease_HE", "erosion_HE"):
        with open_slide(real_data / "slides_tissue" / f"{name}.tif") as slide:
            um = 8.0
            overview = slide.overview(um / slide.info.require_mpp())
        picture = np.ascontiguousarray(degraded(overview, kind) if kind else overview)
        spec = TissueSpec()
        doubts = _doubts(picture, _tissue(picture, um, spec), um, spec)
        poor = [one for one in doubts if one.startswith("overview too poor")]
        assert poor == ([f"overview too poor: pale tissue may be missed ({kind})"] if kind else []), (name, doubts)
