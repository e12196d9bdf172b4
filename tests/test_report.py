"""The HTML page: one file, every number on it, hostile text harmless, pictures the right way round."""

import base64
import io
import math
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pathflip.errors import ConfigError
from pathflip.evaluate.estimates import Estimate
from pathflip.evaluate.report.content import (
    CaseExample,
    CasePhrase,
    CaseSlideMap,
    Confusion,
    FindingRow,
    GroundingExample,
    ModelNote,
    ReportContent,
    ReportSentence,
    RetrievalExample,
    RetrievedSlide,
)
from pathflip.evaluate.report.page import write_report
from pathflip.geometry import Box, SlideInfo, TileGrid, TileSpec
from pathflip.types import Heatmap

MODELS = ("PathFLIP", "mean-pool CLIP", "ABMIL CLIP", "published PathFLIP")
SIDE, TILE = 2048, 64


def blob(x: float, y: float, radius: float, side: int = 256) -> np.ndarray:
    """A wobbly disc, True inside; centre and radius as fractions of the side."""
    rows, columns = np.mgrid[:side, :side] / side
    angle = np.arctan2(rows - y, columns - x)
    return np.hypot(columns - x, rows - y) < radius * (1 + 0.18 * np.sin(3 * angle) + 0.08 * np.cos(7 * angle))


def painted(mask: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A pink slide on white glass with the masked region in purple."""
    tissue = blob(0.5, 0.52, 0.4)
    color = np.where(mask[..., None], (120, 70, 150), np.where(tissue[..., None], (226, 150, 186), (245, 244, 246)))
    grain = rng.normal(0, 14, (256, 256, 1)) * (tissue | mask)[..., None]
    return np.asarray(Image.fromarray(np.clip(color + grain, 0, 255).astype(np.uint8)).resize((700, 700)))


def heatmap(mask: np.ndarray, noise: float, rng: np.random.Generator, text: str, **kind) -> Heatmap:
    """Scores that follow the mask, tile by tile, where there is tissue."""
    lattice = np.stack(np.meshgrid(np.arange(32), np.arange(32)), axis=-1).reshape(-1, 2)
    tissue = blob(0.5, 0.52, 0.4)[lattice[:, 1] * 8 + 4, lattice[:, 0] * 8 + 4]
    coords = lattice[tissue].astype(np.int64) * TILE
    fraction = mask.reshape(32, 8, 32, 8).mean((1, 3))[lattice[tissue][:, 1], lattice[tissue][:, 0]]
    grid = TileGrid(SlideInfo("s", (SIDE, SIDE), 2.0), TileSpec(TILE, 2.0), coords)
    scores = (0.1 + 0.5 * fraction + noise * rng.normal(size=len(fraction))).astype(np.float32)
    return Heatmap(grid, scores, text, presence=1.0, **kind)


def grounding(phrase: str, mask: np.ndarray, rng: np.random.Generator, place: int, **changed) -> GroundingExample:
    negated = phrase.lower().startswith("no ")
    return GroundingExample(
        f"case_{place:04d}",
        phrase,
        negated,
        painted(mask, rng),
        heatmap(mask, 0.08, rng, phrase, negated=negated),
        heatmap(mask, 0.4, rng, phrase, negated=negated),
        mask,
        **{"average_precision": 0.8123, "presence": 2.314, "baseline_average_precision": 0.3456, **changed},
    )


def retrieval(rng: np.random.Generator, own: int | None) -> RetrievalExample:
    thumbs = [painted(blob(*rng.uniform(0.3, 0.7, 2), 0.1), rng) for _ in range(6)]
    ranked = [
        RetrievedSlide(f"case_{1000 + i}", thumbs[i], 4.25 - 0.61 * i, i == own, "Squamous cell carcinoma, grade 2.")
        for i in range(5)
    ]
    text = (
        "Sections show a moderately differentiated squamous cell carcinoma arranged in solid nests. Focal necrosis "
        "is seen in the upper left. There is no vascular invasion. Lymphoid aggregates lie along the right edge. "
        "Desmoplastic stroma surrounds the nests. No mucin pools are found. Margins are clear; two of 11 "
        "nodes, the larger 1.5 cm, hold tumour. Oestrogen receptor was not tested."
    )
    return RetrievalExample(text, "case_1002", thumbs[5], ranked)


def estimates(rng: np.random.Generator) -> dict[str, dict[str, Estimate]]:
    kinds = {
        "R@1 whole slide": (0.41, 1 / 80, "mean of both directions"),
        "R@1 sub-captions": (0.78, 1 / 80, "mean of both directions"),
        "R@1 combined": (0.87, 1 / 80, "mean of both directions"),
        "R@1 combined, held-out wording": (0.46, 1 / 80, "mean of both directions"),
        "presence AUROC": (0.85, 0.5, "20 findings"),
        "absence AUROC": (0.77, 0.5, "prompts that deny"),
        "presence AUROC, held-out wording": (0.71, 0.5, "20 findings"),
        "absence AUROC, held-out wording": (0.69, 0.5, "prompts that deny"),
        "grounding AP": (0.72, 0.08, "251 slide-finding pairs"),
        "grounding AP, small findings": (0.45, 0.013, "48 pairs under 2% of the tissue"),
        "type, balanced accuracy": (0.94, 0.2, "zero-shot, tumour slides"),
        "grade, balanced accuracy": (0.66, 1 / 3, "zero-shot, tumour slides"),
        "pattern, balanced accuracy": (0.81, 0.25, "zero-shot, tumour slides"),
    }
    out: dict[str, dict[str, Estimate]] = {}
    for name, (best, floor, note) in kinds.items():
        row = out[name] = {}
        for place, model in enumerate(MODELS):
            value = best - place * rng.uniform(-0.01, 0.12)
            half = rng.uniform(0.03, 0.07)
            gap = best - value
            paired = (gap, gap - half, gap + half) if place else (None, None, None)
            row[model] = Estimate(value, value - half, value + half, floor, note, *paired)
    return out


def finding_rows(rng: np.random.Generator) -> list[FindingRow]:
    names = ("keratin_pearls", "mucin_pools", "necrosis", "vascular_invasion", "calcification", "cystic_spaces")
    rows = [
        FindingRow(name, 9 + 3 * i, *rng.uniform(0.7, 0.95, 2), rng.uniform(0.5, 0.9), rng.uniform(0.02, 0.1))
        for i, name in enumerate(names)
    ]
    rows += [
        FindingRow("perineural_invasion", 14, 0.553, 0.571, 0.0213, 0.0142),
        FindingRow("haemosiderin_pigment", 3, 0.91, 0.9, 0.4, 0.012),
        FindingRow("eosinophil_infiltrate", 0, math.nan, math.nan, math.nan, math.nan),
    ]
    return rows


def made_up(seed: int = 0) -> ReportContent:
    """A complete page of invented values; tests/test_report.py only."""
    rng = np.random.default_rng(seed)
    types = (
        "adenocarcinoma",
        "squamous_cell_carcinoma",
        "small_cell_carcinoma",
        "clear_cell_carcinoma",
        "melanoma",
    )
    none = np.zeros((256, 256), bool)
    two = blob(0.38, 0.36, 0.1) | blob(0.66, 0.7, 0.06) & ~blob(0.66, 0.7, 0.02)
    return ReportContent(
        world="World 'demo', seed 0: 400 painted H&E-like slides with reports.\n  findings  20, two to five a slide",
        splits={"train": 280, "val": 40, "test": 80},
        reference="PathFLIP",
        models=[
            ModelNote("PathFLIP", "patch keys, gate and margin, late interaction", 812_345, 95.4),
            ModelNote("mean-pool CLIP", "mean of the patches against the caption", 512_001, 41.0),
            ModelNote("ABMIL CLIP", "attention-pooled patches against the caption", 530_777, 44.2),
            ModelNote("published PathFLIP", "slide and region Q-Former", 2_345_678, 3723.0),
        ],
        groundings=[
            grounding("Keratin pearls are seen in the upper left.", two, rng, 17),
            grounding("necrosis", blob(0.6, 0.45, 0.14), rng, 101),
            grounding("No necrosis.", none, rng, 55, average_precision=math.nan, baseline_average_precision=math.nan),
            grounding("No mucin pools.", blob(0.5, 0.7, 0.07), rng, 31, presence=0.42),
        ],
        retrievals=[retrieval(rng, 0), retrieval(rng, 2), retrieval(rng, None)],
        confusions=[
            Confusion("type", types, np.diag([15, 12, 14, 11, 13]) + rng.integers(0, 2, (5, 5))),
            Confusion("grade", ("1", "2", "3"), np.array([[17, 4, 1], [11, 8, 5], [1, 3, 18]])),
            Confusion("pattern", ("glandular", "papillary", "solid_nests"), np.diag([20, 19, 23]) + 2),
        ],
        estimates=estimates(rng),
        upper_bounds={"grounding AP": 0.968, "grounding AP, small findings": 0.931, "presence AUROC": 0.994},
        findings=finding_rows(rng),
        timings={"paint slides": 141.2, "extract features": 63.8, "train PathFLIP": 95.4, "evaluate": 20.04},
        command="pathflip demo --out runs/demo --seed 0",
        versions={"pathflip": "0.1.0", "python": "3.11.9", "torch": "2.13.0"},
    )


class Page(HTMLParser):
    """Tags, attributes and text of a page, as a browser would take them."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str]]] = []
        self.words: list[str] = []
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, {name: value or "" for name, value in attrs}))

    def handle_data(self, data):
        self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())

    def pictures(self, alt: str) -> list[np.ndarray]:
        """Decoded images whose alternative text holds ``alt``."""
        sources = [a["src"] for tag, a in self.tags if tag == "img" and alt in a["alt"]]
        return [
            np.asarray(Image.open(io.BytesIO(base64.b64decode(s.split(",", 1)[1]))).convert("RGB")) for s in sources
        ]


def written(tmp_path: Path, content: ReportContent) -> tuple[str, Page]:
    target = tmp_path / "report.html"
    write_report(target, content)
    html = target.read_text(encoding="utf-8")
    assert [p.name for p in tmp_path.iterdir()] == ["report.html"]
    return html, Page(html)


@pytest.fixture(scope="module")
def content() -> ReportContent:
    return made_up()


@pytest.fixture(scope="module")
def bare(content) -> ReportContent:
    """The same without pictures."""
    return replace(content, groundings=[], retrievals=[])


def shown(value: float, digits: int = 3, sign: str = "") -> str:
    """The way the page writes a number, said independently of it."""
    return format(value, f"{sign}.{digits}f").replace("-", "−")


def test_one_file_that_fetches_nothing(tmp_path, content):
    html, page = written(tmp_path, content)
    assert re.findall(r"https?://[^\s\"'<]+", html) == ["https://arxiv.org/abs/2512.17621"]
    assert not {"script", "link", "iframe", "object", "embed", "base"} & {tag for tag, _ in page.tags}
    assert all(a["src"].startswith("data:image/") for tag, a in page.tags if tag == "img")
    assert "url(" not in html
    assert "@import" not in html
    assert len(html) < 8e6


def test_pictures_have_words_and_tables_have_headers(tmp_path, content):
    html, page = written(tmp_path, content)
    assert all(a.get("alt") for tag, a in page.tags if tag == "img")
    assert all(a.get("scope") in ("col", "row", "rowgroup") for tag, a in page.tags if tag == "th")
    ids = {a["id"] for _, a in page.tags if "id" in a}
    assert {a["href"][1:] for tag, a in page.tags if tag == "a" and a["href"].startswith("#")} <= ids
    assert html.count("Not a medical device") == 1


def test_opens_with_slides_and_ends_with_how(tmp_path, content):
    _, page = written(tmp_path, content)
    order = [a["id"] for tag, a in page.tags if tag == "section"]
    assert order == ["where", "retrieved", "classes", "numbers", "chance", "findings", "limits", "made"]


def test_a_case_shows_its_report_and_its_findings_on_every_slide(tmp_path, bare):
    rng = np.random.default_rng(3)
    there, nowhere = blob(0.6, 0.45, 0.14), np.zeros((256, 256), bool)
    maps = tuple(
        CaseSlideMap(name, part, painted(mask, rng), heatmap(mask, 0.02, rng, "necrosis"), mask, logit)
        for name, part, mask, logit in (("s1", "A", there, 3.25), ("s2", "B", nowhere, -1.5))
    )
    report = (
        ReportSentence("MICROSCOPY\n"), ReportSentence("A. "), ReportSentence("Necrosis <b>.", "affirmed", "part A"),
        ReportSentence("No mucin.", "denied", "part B"), ReportSentence("A mass.", "not visible", "gross"),
    )  # fmt: skip
    phrase = CasePhrase("Necrosis <b>.", "A", maps, (("s1", Box(1216, 896, 64, 64), 0.61),))
    html, page = written(tmp_path, replace(bare, case=CaseExample("H-17", "P1", ("A", "B"), report, (phrase,))))
    assert "Necrosis &lt;b&gt;." in html
    assert "s1 at (1216, 896), 64 × 64 px similarity 0.610" in page.text
    kinds = [a["class"] for tag, a in page.tags if tag == "span" and a.get("title")]
    assert kinds == ["read affirmed", "read denied", "read not-visible"]
    for words in (
        "s1, part A",
        "s2, part B",
        "presence logit +3.25",
        "truth: none on this slide; presence logit −1.50",
    ):
        assert words in page.text
    first, second = page.pictures("Heatmap of 'Necrosis <b>.'")
    assert first[300, 400].sum() > second[300, 400].sum()  # bright where it is, on shared colours


def test_every_number_given_is_on_the_page(tmp_path, content):
    _, page = written(tmp_path, content)
    expected = [shown(v) for v in content.upper_bounds.values()]
    for by_model in content.estimates.values():
        for entry in by_model.values():
            expected += [shown(entry.value), f"[{shown(entry.low)}, {shown(entry.high)}]", shown(entry.chance)]
            if entry.difference is not None:
                low, high = shown(entry.difference_low, 3, "+"), shown(entry.difference_high, 3, "+")
                expected.append(f"{shown(entry.difference, 3, '+')} [{low}, {high}]")
    for row in content.findings:
        values = (row.presence_auroc, row.absence_auroc, row.average_precision, row.prevalence)
        expected += [str(row.present), *(shown(v) for v in values if math.isfinite(v))]
    for table in content.confusions:
        expected += [str(int(n)) for n in (*table.counts.ravel(), *table.counts.sum(1))]
    expected += ["AP 0.812", "AP 0.346", "+2.31", "+4.25", "812,345", "2,345,678", "1 h 02 min", "1 min 35 s"]
    expected += ["2 min 21 s", "20.0 s", "280 slides", "80 slides", content.command, "2.13.0", "5 min 20 s"]
    assert [words for words in expected if words not in page.text] == []


def test_confusion_rows_are_the_truth_with_their_counts(tmp_path, bare):
    html, _ = written(tmp_path, bare)
    row = re.search(r'<th scope="row" class="row">2</th>(.*?)</tr>', html, re.S)
    assert re.findall(r">([\d %]+)</td>", row[1]) == ["11", "8", "5", "24", "33 %"]


def test_hostile_text_stays_text(tmp_path, content):
    attack = "<script>alert(1)</script>\"' onerror=x &amp; {{ 7 * 7 }}"
    rng = np.random.default_rng(1)
    calm = content
    content = replace(
        calm,
        world=attack,
        reference=attack,
        baseline=attack,
        command=attack,
        notes=[attack],
        selection=attack,
        models=[ModelNote(attack, attack, 1, 1.0)],
        groundings=[grounding(attack, blob(0.5, 0.5, 0.1), rng, 1)],
        retrievals=[
            replace(calm.retrievals[0], text=attack, ranked=[replace(calm.retrievals[0].ranked[0], excerpt=attack)])
        ],
        confusions=[Confusion(attack, (attack, "b"), np.eye(2, dtype=np.int64) * 9)],
        estimates={attack: {attack: Estimate(0.5, 0.4, 0.6, 0.1, attack)}},
        findings=[FindingRow(attack, 9, 0.5, 0.5, 0.1, 0.1)],
        timings={attack: 1.0},
        versions={attack: attack},
        splits={attack: 3},
    )
    html, page = written(tmp_path, content)
    assert "<script" not in html
    assert not [a for _, a in page.tags if "onerror" in a]
    assert page.text.count("<script>alert(1)</script>\"' onerror=x &amp; {{ 7 * 7 }}") > 12
    assert " 49 }}" not in page.text


def test_missing_and_nan_values_become_dashes(tmp_path, content):
    nan, calm = math.nan, content
    content = replace(
        calm,
        estimates={
            "R@1 combined": {
                "PathFLIP": Estimate(nan, nan, nan, nan, ""),
                "mean-pool CLIP": Estimate(0.25, nan, nan, 0.0, "", nan, nan, nan),
            },
            "presence AUROC": {"PathFLIP": Estimate(0.7, 0.6, 0.8, 0.5, "")},
        },
        upper_bounds={"R@1 combined": nan, "something else": 0.77},
        groundings=[replace(calm.groundings[0], average_precision=nan, presence=nan, baseline=None)],
        confusions=[Confusion("grade", ("1", "2"), np.array([[0, 0], [2, 5]]))],
        findings=[FindingRow("necrosis", 0, nan, nan, nan, nan)],
        timings={"evaluate": nan},
        retrievals=[],
    )
    _, page = written(tmp_path, content)
    assert not re.search(r"\b(nan|inf|None)\b", page.text)
    assert "0.770" in page.text
    assert "–" in page.text
    assert "AP 0.812" not in page.text


def test_an_empty_run_still_makes_a_page(tmp_path):
    empty = ReportContent("", {}, "m", [ModelNote("m", "", 1, 0.0)], [], [], [], {}, {}, [], {}, "", {})
    _, page = written(tmp_path, empty)
    assert "No failure met these rules" in page.text


@pytest.mark.parametrize(("column", "row"), [(24, 5), (3, 5), (3, 28)])
def test_a_single_hot_tile_lights_its_own_place(tmp_path, bare, column, row):
    """On a wide slide (x and y cannot be swapped unseen) of grey glass."""
    columns, rows = 32, 32
    info = SlideInfo("wide", (columns * 128, rows * 64), 2.0)
    coords = np.stack(np.meshgrid(np.arange(columns) * 128, np.arange(rows) * 64), axis=-1).reshape(-1, 2)
    hot = (coords == (column * 128, row * 64)).all(1)
    heatmap = Heatmap(TileGrid(info, TileSpec(64, 2.0), coords), hot.astype(np.float32) * 3, "spot", 1.0)
    truth = np.zeros((rows, columns), bool)
    truth[row, column] = True
    slide = np.full((400, 800, 3), 230, np.uint8)
    example = GroundingExample("wide", "spot", False, slide, heatmap, None, truth, 1.0, 1.0)
    _, page = written(tmp_path, replace(bare, groundings=[example]))
    (picture,) = page.pictures("Heatmap of PathFLIP")
    assert picture.shape == (280, 560, 3)
    warm = picture[..., 0].astype(int) - picture[..., 2]
    y, x = (float(v.mean()) for v in np.nonzero(warm > warm.max() * 0.8))
    assert abs(x - (column + 0.25) * 560 / columns) < 9  # a tile is 64 of 128 px wide
    assert abs(y - (row + 0.5) * 280 / rows) < 5
    (path,) = {a["d"] for tag, a in page.tags if tag == "path" and a.get("class") == "line"}
    corners = np.array([[float(v) for v in pair.split()] for pair in re.findall(r"[\d.-]+ [\d.-]+", path)])
    middle = (corners.min(0) + corners.max(0)) / 2
    np.testing.assert_allclose(middle, [(column + 0.5) * 560 / columns, (row + 0.5) * 280 / rows], atol=1.5)


def test_the_outline_follows_the_mask_and_its_hole(tmp_path, bare):
    """Area inside the path, by the shoelace formula, against the mask's; border-touching parts included."""
    mask = np.zeros((64, 64), bool)
    mask[:, 48:] = True
    mask[8:40, 8:40] = True
    mask[16:24, 16:32] = False
    example = replace(grounding("x", blob(0.5, 0.5, 0.1), np.random.default_rng(0), 1), truth=mask)
    _, page = written(tmp_path, replace(bare, groundings=[example]))
    path = next(a["d"] for tag, a in page.tags if tag == "path" and a.get("class") == "line")
    areas = []
    for ring in path.strip("MZ").split("ZM"):
        x, y = np.array([[float(v) for v in pair.split()] for pair in ring.split("L")]).T
        areas.append(abs(np.dot(x, np.roll(y, 1)) - np.dot(y, np.roll(x, 1))) / 2)
    tile = (560 / 64) ** 2
    assert sorted(round(area / tile) for area in areas) == pytest.approx([128, 1024, 1024], rel=0.05)


def test_limits_are_read_from_the_numbers(tmp_path, bare):
    _, page = written(tmp_path, bare)
    weak = page.text[page.text.index("What this model cannot do Small") :]
    assert "grounding AP, small findings: 0.450, against 0.720 over all findings (chance 0.013" in weak
    assert "R@1 combined from 0.870 to 0.460 (47 % lower)" in weak
    assert weak.count("perineural invasion") == 3
    assert "Fewer than 5 test slides show: haemosiderin pigment; eosinophil infiltrate." in weak
    assert "grade 2 (33 % of 24 slides, most often taken for 1)" in weak


def test_limits_vanish_with_their_cause(tmp_path, bare):
    good = {
        "grounding AP": {"PathFLIP": Estimate(0.7, 0.6, 0.8, 0.1, "")},
        "grounding AP, small findings": {"PathFLIP": Estimate(0.9, 0.8, 1.0, 0.1, "")},
    }
    fine = FindingRow("necrosis", 20, 0.9, 0.9, 0.9, 0.1)
    _, page = written(tmp_path, replace(bare, estimates=good, upper_bounds={}, findings=[fine], confusions=[]))
    assert "No failure met these rules" in page.text
    assert "less well" not in page.text


def test_paired_differences_are_marked_by_their_interval(tmp_path, bare):
    def row(low: float, high: float) -> dict[str, Estimate]:
        return {
            "PathFLIP": Estimate(0.8, 0.7, 0.9, 0.1, ""),
            "other": Estimate(0.7, 0.6, 0.8, 0.1, "", 0.1, low, high),
        }

    measured = {"R@1 a": row(0.01, 0.2), "R@1 b": row(-0.2, -0.01), "R@1 c": row(-0.1, 0.2), "R@1 d": row(0.05, 0.2)}
    models = [ModelNote("other", "", 1, 1.0), ModelNote("PathFLIP", "", 1, 1.0)]
    html, page = written(tmp_path, replace(bare, estimates=measured, models=models))
    assert "better on 2 of 4 measures, worse on 1, not told apart on 1" in page.text
    marks = re.findall(r'<small class="(better|worse|unclear)">(.)', html)
    assert marks == [("better", "▲"), ("worse", "▼"), ("unclear", "○"), ("better", "▲")]
    assert "other is better at some things. R@1 b." in page.text


def test_an_excerpt_ends_after_a_whole_word(tmp_path, content):
    example = content.retrievals[0]
    ranked = [replace(example.ranked[0], excerpt=text) for text in ("Necrosis is pres", "No necrosis.")]
    html, _ = written(tmp_path, replace(content, groundings=[], retrievals=[replace(example, ranked=ranked)]))
    assert re.findall("<q>(.*?)</q>", html) == ["Necrosis is …", "No necrosis."]


@pytest.mark.usefixtures("annotations_off")
def test_wrong_input_is_refused_in_one_line(content):
    example = content.groundings[0]
    with pytest.raises(ConfigError, match=r"thumbnail is float64 .* expected uint8"):
        replace(example, thumbnail=example.thumbnail / 255)
    with pytest.raises(ConfigError, match="expected a boolean"):
        replace(example, truth=example.truth.astype(float))
    with pytest.raises(ConfigError, match="one row and one column for each of 2"):
        Confusion("grade", ("1", "2"), np.zeros((3, 3), np.int64))
    with pytest.raises(ConfigError, match=r"reference: got 'nobody', expected one of PathFLIP"):
        replace(content, reference="nobody")
