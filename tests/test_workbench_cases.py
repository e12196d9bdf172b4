"""Finding cases: the order against the library's own scores, places against naive search, filters and pages."""

import time
from pathlib import Path

import httpx
import numpy as np
import pytest

import pathflip
from pathflip.errors import CaptionError, ConfigError
from pathflip.inference import encode_slide, retrieve
from pathflip.workbench.case_search import read_labels
from pathflip.workbench.service import Models
from workbench_model import write_model, write_slide_features, write_slides
from workbench_server import client, key_of, served

NAMES = ("a", "b", "c", "d")
TEXT = "keratin pearls"


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("cases")
    write_slides(folder / "slides", NAMES)
    write_model(folder / "model")
    for name in NAMES:
        write_slide_features(folder / "slides" / f"{name}.tif", folder / "features")
    (folder / "features" / "damaged.h5").write_bytes(b"no feature file")
    (folder / "labels.csv").write_text(
        "slide,organ,grade,number\na.tif,lung,1,10\nb,colon,2,11\nc,lung,2,12\nd,lung,1,13\n"
    )
    (folder / "slides" / "d.tif").unlink()  # features of a slide that is not at hand
    return folder


@pytest.fixture(scope="module")
def running(world):
    models = Models(model=world / "model", features=(world / "features",))
    with served(world / "slides", models=models, labels=world / "labels.csv") as bench:
        yield bench


@pytest.fixture(scope="module")
def visitor(running):
    with client(running) as opened:
        first = opened.post("/api/cases/find", json={"text": TEXT})
        assert first.json()["reason"] == "not indexed"
        opened.post("/api/cases")
        for _ in range(1200):
            state = opened.get("/api/cases").json()
            if state["state"] != "running":
                break
            time.sleep(0.1)
        assert state["state"] == "ready"
        assert state["left_out"] == 1, "a damaged feature file does not stop the others"
        yield opened


@pytest.fixture(scope="module")
def encoded(world):
    model = pathflip.load(world / "model")
    return model, {n: encode_slide(model, pathflip.read_features(world / "features" / f"{n}.h5")) for n in NAMES}


def find(visitor: httpx.Client, **query) -> dict:
    answer = visitor.post("/api/cases/find", json=query)
    assert answer.status_code == 200, answer.text
    return answer.json()


def unit(rows: np.ndarray) -> np.ndarray:
    return rows / np.linalg.norm(rows, axis=-1, keepdims=True)


def test_a_text_finds_slides_in_the_order_of_retrieve_each_with_its_best_tile(visitor, encoded):
    model, slides = encoded
    expected = retrieve(model, list(slides.values()), [TEXT]).slides_for(0, len(NAMES))
    page = find(visitor, text=TEXT)
    assert [(m["id"], m["score"]) for m in page["matches"]] == [(n, pytest.approx(s, abs=2e-3)) for n, s in expected]
    for match in page["matches"]:
        heatmap = pathflip.ground(model, slides[match["id"]], TEXT)
        box = heatmap.grid.box(int(np.nanargmax(heatmap.scores)))
        assert match["box"] == {"x": box.x, "y": box.y, "width": box.width, "height": box.height}
    assert next(m for m in page["matches"] if m["id"] == "d")["key"] is None


def test_slides_like_a_slide_by_the_cosine_of_their_embeddings(visitor, encoded):
    _, slides = encoded
    vectors = {name: unit(slide.code.slide[0].numpy()) for name, slide in slides.items()}
    expected = sorted("bcd", key=lambda name: -float(vectors[name] @ vectors["a"]))
    page = find(visitor, slide=key_of(visitor, "a"))
    assert [match["id"] for match in page["matches"]] == expected
    assert page["matches"][0]["score"] == pytest.approx(float(vectors[expected[0]] @ vectors["a"]), abs=1e-3)


def test_slides_like_a_region_by_their_best_tiles(visitor, encoded):
    _, slides = encoded
    grid = slides["a"].grid
    region = grid.box(3)
    query = unit(unit(slides["a"].code.patches[0].numpy())[slides["a"].row_of_tile[3]])
    naive = {n: np.sort(unit(slides[n].code.patches[0].numpy()) @ query)[-3:].mean() for n in "bcd"}
    box = {"x": region.x, "y": region.y, "width": region.width, "height": region.height}
    page = find(visitor, slide=key_of(visitor, "a"), region=box)
    assert [match["id"] for match in page["matches"]] == sorted("bcd", key=lambda name: -naive[name])
    best = page["matches"][0]
    assert best["score"] == pytest.approx(naive[best["id"]], abs=1e-3)
    row = int(np.argmax(unit(slides[best["id"]].code.patches[0].numpy()) @ query))
    tile = slides[best["id"]].grid.box(int(np.flatnonzero(slides[best["id"]].row_of_tile == row)[0]))
    assert (best["box"]["x"], best["box"]["y"]) == (tile.x, tile.y)
    glass = {"x": 90_000, "y": 90_000, "width": 10, "height": 10}
    answer = visitor.post("/api/cases/find", json={"slide": key_of(visitor, "a"), "region": glass})
    assert answer.status_code == 422
    assert "no tissue" in answer.json()["error"]


def test_labels_filter_and_are_shown(visitor):
    columns = visitor.get("/api/cases").json()["columns"]
    assert columns["organ"] == ["colon", "lung"]
    page = find(visitor, text=TEXT, filters={"organ": "lung", "grade": "1"})
    assert sorted(match["id"] for match in page["matches"]) == ["a", "d"]
    assert page["matches"][0]["labels"]["organ"] == "lung"
    assert find(visitor, text=TEXT, filters={"organ": "colon", "grade": "1"})["total"] == 0
    answer = visitor.post("/api/cases/find", json={"text": TEXT, "filters": {"nothing": "1"}})
    assert answer.status_code == 422


def test_results_come_in_pages(visitor, monkeypatch):
    from pathflip.workbench import case_routes

    monkeypatch.setattr(case_routes, "PAGE", 3)
    whole = [match["id"] for number in (0, 1) for match in find(visitor, text=TEXT, page=number)["matches"]]
    assert sorted(whole) == list(NAMES)
    assert find(visitor, text=TEXT, page=9)["page"] == 1


@pytest.mark.parametrize(
    "query", [{}, {"text": " "}, {"text": "a", "page": -1}, {"slide": "x"}, {"text": "a", "filters": [1]}]
)
def test_queries_that_are_none_are_refused(visitor, query):
    assert visitor.post("/api/cases/find", json=query).status_code in (400, 404, 422)


def test_tables_without_these_slides_are_refused(tmp_path):
    (tmp_path / "other.csv").write_text("slide,x\nq,1\n")
    (tmp_path / "no.csv").write_text("x,y\n1,2\n")
    for name, reason in (("other", "none of its 1 slides"), ("no", "no column of slides")):
        with pytest.raises(CaptionError, match=reason):
            read_labels(tmp_path / f"{name}.csv", ["a"])


def test_without_features_there_is_nothing_to_search(world):
    with served(world / "slides") as running, client(running) as visitor:
        assert not visitor.get("/api/state").json()["cases"]
        assert visitor.post("/api/cases/find", json={"text": TEXT}).status_code == 404
    with pytest.raises(ConfigError, match="--labels"), served(world / "slides", labels=world / "labels.csv"):
        pass
