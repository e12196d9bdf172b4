"""Find cases over an archive: the page's questions against the archive's own answers."""

import json
import re
import shutil
from pathlib import Path

import httpx
import pytest
from typer.testing import CliRunner

import pathflip
from pathflip.cli import app
from pathflip.errors import ConfigError
from pathflip.geometry import Box
from pathflip.inference import encode_slide
from pathflip.workbench.service import Models
from workbench_model import write_model, write_slide_features, write_slides
from workbench_server import browser_page, client, key_of, served

pytest.importorskip("lancedb")

from pathflip.archive import Searcher, index_features, open_archive, read_facts

NAMES = ("a", "b", "c", "d")
TEXT = "keratin pearls are seen"


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> Path:
    """An archive of four slides; "d" is not at hand any more, and "new" is not in the archive."""
    folder = tmp_path_factory.mktemp("archive")
    write_slides(folder / "slides", (*NAMES, "new"))
    model = write_model(folder / "model")
    files = [write_slide_features(folder / "slides" / f"{name}.tif", folder / "features") for name in (*NAMES, "new")]
    (folder / "labels.csv").write_text('slide,organ,site "x"\na,lung,1\nb,colon,2\nc,lung,1\nd,lung,2\n')
    facts = read_facts(NAMES, labels=folder / "labels.csv")
    slides = {name: folder / "slides" / f"{name}.tif" for name in NAMES}
    index_features(pathflip.load(model), files[:4], folder / "archive", facts=facts, slides=slides)
    (folder / "slides" / "d.tif").unlink()
    return folder


@pytest.fixture(scope="module")
def visitor(world):
    models = Models(model=world / "model", features=(world / "features" / "a.h5", world / "features" / "new.h5"))
    with served(world / "slides", models=models, archive=world / "archive") as running, client(running) as opened:
        yield opened


@pytest.fixture(scope="module")
def searcher(world):
    return Searcher(open_archive(world / "archive"), pathflip.load(world / "model"))


def find(visitor: httpx.Client, **query) -> dict:
    answer = visitor.post("/api/cases/find", json=query)
    assert answer.status_code == 200, answer.text
    return answer.json()


def same(page: dict, hits) -> None:
    """What the page is told are the archive's hits, each with its best place."""
    assert [match["id"] for match in page["matches"]] == [hit.slide_id for hit in hits]
    for match, hit in zip(page["matches"], hits, strict=True):
        assert match["score"] == pytest.approx(hit.score, abs=1e-3)
        box = hit.places[0].box
        assert match["box"] == {"x": box.x, "y": box.y, "width": box.width, "height": box.height}
        assert match["size"] == list(hit.size0)


def test_a_text_finds_what_the_archive_finds(visitor, searcher):
    page = find(visitor, text=TEXT)
    same(page, searcher.by_text(TEXT))
    assert page["total"] == 4
    absent = next(match for match in page["matches"] if match["id"] == "d")
    assert absent["key"] is None
    assert absent["picture"]
    assert absent["labels"] == {"organ": "lung", 'site_"x"': "2"}


def test_a_slide_and_a_region_are_searched_with_all_patches_where_they_are_at_hand(visitor, searcher, world):
    same(find(visitor, slide=key_of(visitor, "a")), searcher.by_slide(world / "features" / "a.h5"))
    same(find(visitor, slide=key_of(visitor, "b")), searcher.by_slide("b"))  # the few the archive keeps
    encoded = encode_slide(searcher.model, pathflip.read_features(world / "features" / "new.h5"))
    same(find(visitor, slide=key_of(visitor, "new")), searcher.by_slide(encoded))
    box = encoded.grid.box(3)
    small = Box(box.x + 10, box.y + 10, 5, 5)  # within one tile, beside its middle
    region = {"x": small.x, "y": small.y, "width": small.width, "height": small.height}
    page = find(visitor, slide=key_of(visitor, "new"), region=region)
    same(page, searcher.by_region(world / "features" / "new.h5", small))
    same(page, searcher.by_region(world / "features" / "new.h5", box))
    glass = {"x": 900_000, "y": 9, "width": 5, "height": 5}
    answer = visitor.post("/api/cases/find", json={"slide": key_of(visitor, "new"), "region": glass})
    assert answer.status_code == 422
    assert "no patch there" in answer.json()["error"]


def test_labels_of_the_archive_filter(visitor, searcher):
    state = visitor.get("/api/cases").json()
    assert state["state"] == "ready"
    assert state["total"] == 4
    assert state["columns"] == {"organ": ["colon", "lung"]}  # a name with quotes cannot stand in a condition
    same(find(visitor, text=TEXT, filters={"organ": "lung"}), searcher.by_text(TEXT, where="organ = 'lung'"))
    assert find(visitor, text=TEXT, filters={"organ": "lu'ng"})["total"] == 0
    answer = visitor.post("/api/cases/find", json={"text": TEXT, "filters": {"nothing": "1"}})
    assert answer.status_code == 422
    assert answer.json()["error"].startswith("filter 'nothing': no such column")


def test_results_come_in_pages(visitor, searcher, monkeypatch):
    monkeypatch.setattr("pathflip.workbench.case_routes.PAGE", 3)
    pages = [find(visitor, text=TEXT, page=number) for number in (0, 1)]
    assert [len(page["matches"]) for page in pages] == [3, 1]
    assert [m["id"] for page in pages for m in page["matches"]] == [hit.slide_id for hit in searcher.by_text(TEXT)]


def test_a_slide_that_is_not_at_hand_shows_the_archives_picture(visitor, world):
    picture = visitor.get("/api/cases/picture.jpg", params={"id": "d"})
    assert picture.content == open_archive(world / "archive").thumbnail("d")
    assert picture.content[:2] == b"\xff\xd8"
    for unknown in ("nobody", "' OR 1=1 --", ""):
        assert visitor.get("/api/cases/picture.jpg", params={"id": unknown}).status_code == 404


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("Es ist kein Karzinom nachweisbar, keratin", "German|several languages"),
        ("qwzzk", "knows none"),
        (" ", "words"),
    ],
)
def test_what_the_model_cannot_read_is_refused_in_one_line(visitor, text, reason):
    answer = visitor.post("/api/cases/find", json={"text": text})
    assert answer.status_code == 422
    assert re.search(reason, answer.json()["error"])
    assert "\n" not in answer.json()["error"]


def test_another_models_archive_is_refused_and_the_slides_stay(world, tmp_path):
    other = write_model(tmp_path / "other")
    settings = json.loads((other / "config.json").read_text())
    settings["text"]["visual_only"] = not settings["text"]["visual_only"]
    (other / "config.json").write_text(json.dumps(settings))
    bench = served(world / "slides", models=Models(model=other), archive=world / "archive")
    with bench as running, client(running) as opened:
        answer = opened.post("/api/cases/find", json={"text": TEXT})
        assert answer.status_code == 422
        assert "holds vectors of the model" in answer.json()["error"]
        assert opened.get(f"/api/slides/{key_of(opened, 'a')}").status_code == 200


def test_the_archive_brings_its_own_model_and_no_archive_is_one_line(world, tmp_path, monkeypatch):
    seen = {}

    def stop(settings):
        seen.update(models=settings.models, archive=settings.archive)
        raise ConfigError("enough seen")

    monkeypatch.setattr("pathflip.workbench.web_server.open_workbench", stop)
    slides = str(world / "slides")
    result = CliRunner().invoke(app, ["view", slides, "--archive", str(world / "archive"), "--no-browser"])
    assert str(result.exception) == "enough seen"
    assert seen["models"].model == world / "model"
    assert seen["archive"] == world / "archive"
    result = CliRunner().invoke(app, ["view", slides, "--archive", str(tmp_path), "--no-browser"])
    assert isinstance(result.exception, ConfigError)
    assert "no archive there" in str(result.exception)
    monkeypatch.undo()
    bench = served(world / "slides", archive=world / "archive", labels=world / "labels.csv")
    with pytest.raises(ConfigError, match="an archive has its own"), bench:
        pass


def test_without_a_model_slides_of_the_archive_are_found_and_a_text_says_why_not(world):
    with served(world / "slides", archive=world / "archive") as running, client(running) as opened:
        same(find(opened, slide=key_of(opened, "b")), Searcher(open_archive(world / "archive")).by_slide("b"))
        answer = opened.post("/api/cases/find", json={"text": TEXT})
        assert answer.status_code == 422
        assert "--model" in answer.json()["error"]
        answer = opened.post("/api/cases/find", json={"slide": key_of(opened, "new")})
        assert answer.status_code == 422
        assert "neither in the archive" in answer.json()["error"]


def test_cases_are_found_in_the_page(world, tmp_path):
    slides = tmp_path / "slides"
    shutil.copytree(world / "slides", slides)
    models = Models(model=world / "model")
    with served(slides, models=models, archive=world / "archive") as running, browser_page() as page:
        from playwright.sync_api import expect

        page.goto(running.url)
        page.click(".card:has-text('b')")
        page.wait_for_selector(".pane[data-state=shown]")
        page.click("#job-cases-tab")
        page.click("text=More like this slide")
        page.wait_for_selector(".case")
        assert page.locator(".case").count() == 3
        assert page.locator(".case-box").count() == 3
        absent = page.locator(".case", has_text="not among the slides opened here")
        assert absent.count() == 1
        assert absent.is_disabled()
        for picture in page.locator(".case img").all():
            picture.scroll_into_view_if_needed()
            assert picture.evaluate("async (image) => (await image.decode(), image.naturalWidth)") > 0
        first = page.locator(".case:enabled").first
        name = first.locator("strong").inner_text()
        first.click()
        expect(page).to_have_title(re.compile(rf"\b{name}\b"))
        page.fill("[aria-label='Text to find cases by']", TEXT)
        page.keyboard.press("Enter")
        page.wait_for_selector("text=4 slides, “keratin")
        assert page.locator(".case").count() == 4
        page.select_option("[aria-label='Column to filter by']", "organ")
        page.select_option("[aria-label='Value to filter by']", "colon")
        page.wait_for_selector("text=1 slide, “keratin")
        assert page.locator(".case strong").inner_text() == "b"
