"""The workbench's page in a real browser: what a person does, and what they must then see."""

import json
from pathlib import Path

import numpy as np
import pytest

from pathflip.workbench.service import Models
from slide_files import halved, smooth_picture, write_pyramid
from workbench_model import write_assistant, write_model, write_slide_features, write_slides
from workbench_server import browser_page, served

MPP = 0.5


@pytest.fixture(scope="module")
def slides(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("slides")
    for number, name in enumerate(("first", "second")):
        picture = smooth_picture(1536, 2048, seed=number)
        write_pyramid(folder / f"{name}.tif", [picture, halved(picture, 4)], compression="jpeg", mpp=MPP)
    (folder / "broken.svs").write_bytes(b"II*\0 this is no slide")
    return folder


@pytest.fixture(scope="module")
def running(slides):
    with served(slides) as bench:
        yield bench


@pytest.fixture
def page(running):
    with browser_page() as opened:
        opened.goto(running.url)
        yield opened


def open_slide_card(page, name: str) -> None:
    page.click(f".card:has-text('{name}')")
    page.wait_for_selector(".pane[data-state=shown]")


def canvas_mean(page) -> list[float]:
    """The mean colour of what the viewer shows."""
    return page.evaluate("""() => {
        const canvas = document.querySelector(".pane .openseadragon-canvas canvas");
        const { data } = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
        const sum = [0, 0, 0];
        for (let i = 0; i < data.length; i += 4) for (let c = 0; c < 3; c++) sum[c] += data[i + c];
        return sum.map((s) => s / (data.length / 4));
    }""")


def scale(page) -> float:
    """Microns a screen pixel spans, from the bar: its label over its length."""
    label, px = page.evaluate("""() => {
        const bar = document.querySelector(".pane .scale-bar");
        return [bar.innerText, bar.querySelector(".scale-line").getBoundingClientRect().width];
    }""")
    value, unit = label.split()
    return float(value) * {"µm": 1, "mm": 1000}[unit] / px


def test_a_slide_opens_and_is_looked_at_with_the_keyboard_alone(page):
    page.wait_for_selector(".card .thumb img")
    page.keyboard.press("Tab")
    while "first" not in (page.evaluate("document.activeElement.innerText") or ""):
        page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    page.wait_for_selector(".pane[data-state=shown]")
    whole = scale(page)
    assert 2048 * MPP / 1280 * 0.9 < whole < 2048 * MPP / 500, "the whole slide fits"
    for _ in range(3):
        page.keyboard.press("+")
    page.wait_for_timeout(600)
    assert scale(page) == pytest.approx(whole / 1.5**3, rel=0.05)
    before = canvas_mean(page)
    page.keyboard.press("Shift+ArrowRight")
    page.wait_for_timeout(900)
    assert np.abs(np.subtract(canvas_mean(page), before)).max() > 1, "another field shows other colours"
    page.keyboard.press("r")
    page.wait_for_timeout(600)
    assert "15°" in page.inner_text(".pane .status")
    page.keyboard.press("0")
    page.wait_for_timeout(900)
    assert scale(page) == pytest.approx(whole, rel=0.05)


def test_two_slides_beside_each_other_move_together_until_unlinked(page):
    open_slide_card(page, "first")
    page.keyboard.press("s")
    page.wait_for_selector(".pane[data-state=shown] >> nth=1")
    page.wait_for_timeout(500)
    bars = lambda: page.evaluate("[...document.querySelectorAll('.pane .status')].map(s => s.innerText)")  # noqa: E731
    page.click(".pane:first-child .stage")
    page.keyboard.press("+")
    page.keyboard.press("r")
    page.wait_for_timeout(900)
    left, right = bars()
    assert left == right
    assert "15°" in right
    page.uncheck(".link input")
    page.click(".pane:first-child .stage")
    page.keyboard.press("+")
    page.wait_for_timeout(900)
    left, right = bars()
    assert left != right


def test_a_broken_slide_is_a_card_with_the_reason_and_the_rest_works(page):
    card = page.wait_for_selector(".card.broken")
    assert "broken.svs" in card.inner_text()
    card.click()
    page.wait_for_selector(".pane[data-state=failed]")
    assert "broken.svs" in page.inner_text(".card-error")
    page.keyboard.press("g")
    open_slide_card(page, "first")
    assert page.locator(".tab").count() == 2


def test_the_address_brings_a_slide_back_after_a_reload(page):
    open_slide_card(page, "second")
    assert "token" not in page.url
    page.reload()
    page.wait_for_selector(".pane[data-state=shown]")
    assert "second" in page.title()


def test_nothing_is_cut_off_on_a_phone(running):
    with browser_page(390, 780) as page:
        page.goto(running.url)
        open_slide_card(page, "first")
        assert page.evaluate("document.documentElement.scrollWidth") <= 390
        assert page.locator(".pane .scale-bar").is_visible()


# --- With a model ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def server_with_model(tmp_path_factory):
    """A workbench with a model, and features of one of its two slides."""
    world = tmp_path_factory.mktemp("world")
    write_slides(world / "slides", ("first", "second"))
    write_model(world / "model")
    write_slide_features(world / "slides" / "first.tif", world / "features")
    models = Models(model=world / "model", features=(world / "features",))
    with served(world / "slides", models=models) as running:
        yield running


def heat_pixels(page) -> int:
    """Pixels of the layer over the slide that hold a colour."""
    return page.evaluate("""() => {
        const canvas = document.querySelector(".pane .heat-canvas");
        const { data } = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
        let shown = 0;
        for (let i = 3; i < data.length; i += 4) shown += data[i] > 0;
        return shown;
    }""")


def ask(page, phrase: str) -> None:
    page.fill(".ask input", phrase)
    page.keyboard.press("Enter")
    page.wait_for_selector(f".result:has-text('{phrase}') p")
    page.wait_for_timeout(300)


def test_a_phrase_lays_heat_over_the_slide_and_its_regions_jump(server_with_model):
    with browser_page() as page:
        page.goto(server_with_model.url)
        open_slide_card(page, "first")
        assert heat_pixels(page) == 0
        page.keyboard.press("/")
        page.keyboard.type("keratin pearls")
        page.keyboard.press("Enter")
        page.wait_for_selector(".finding")
        page.wait_for_timeout(300)
        half = heat_pixels(page)
        assert half > 1000
        ticks = page.locator(".ticks").inner_text().split()
        assert float(ticks[0]) < float(ticks[1]) < float(ticks[2])
        page.locator(".slider input").first.fill("0")
        page.wait_for_timeout(200)
        assert heat_pixels(page) > half, "a lower threshold shows more"
        before = scale(page)
        page.locator(".finding").nth(1).click()
        page.wait_for_timeout(900)
        assert scale(page) < before / 1.5, "it zooms to the region"
        assert "current" in page.locator(".finding").nth(1).get_attribute("class")
        page.locator(".pane .stage").focus()
        page.keyboard.press("n")
        assert "current" in page.locator(".finding").nth(2).get_attribute("class")


def test_several_phrases_have_colours_and_unknown_ones_say_so(server_with_model):
    with browser_page() as page:
        page.goto(server_with_model.url)
        open_slide_card(page, "first")
        ask(page, "keratin pearls")
        ask(page, "mucin pools")
        colors = page.evaluate(
            "[...document.querySelectorAll('.phrase')].map(p => p.style.getPropertyValue('--color'))"
        )
        assert len(set(colors)) == 2
        assert page.locator(".heat-canvas").first.get_attribute("data-maps") == "2"
        ask(page, "Verhornungszwiebeln")
        assert "another language" in page.locator(".result").nth(2).inner_text()
        assert page.locator(".heat-canvas").first.get_attribute("data-maps") == "2"
        page.click("[aria-label='Remove mucin pools']")
        assert page.locator(".result").count() == 2


def test_a_slide_not_read_yet_is_read_with_progress_while_it_can_be_moved(server_with_model):
    with browser_page() as page:
        page.goto(server_with_model.url)
        open_slide_card(page, "second")
        page.fill(".ask input", "mucin pools")
        page.keyboard.press("Enter")
        page.wait_for_selector(".reading progress, .finding")
        page.locator(".pane .stage").focus()
        page.keyboard.press("+")
        page.wait_for_selector(".finding")
        assert heat_pixels(page) > 0


def test_what_a_person_types_is_text_and_never_html(server_with_model):
    with browser_page() as page:
        page.goto(server_with_model.url)
        open_slide_card(page, "first")
        page.fill(".ask input", "<img src=x onerror=document.title='broken'> pearls")
        page.keyboard.press("Enter")
        page.wait_for_selector(".result .note")
        assert page.locator(".result img").count() == 0
        assert "broken" not in page.title()


# --- Regions ---------------------------------------------------------------------------------------------------------


def test_a_drawn_region_is_there_after_a_reload_and_in_another_browser(running):
    with browser_page() as page, page.context.browser.new_context() as other_visitor:
        page.goto(running.url)
        open_slide_card(page, "second")
        other = other_visitor.new_page()
        other.goto(running.url)
        open_slide_card(other, "second")
        other.keyboard.press("b")
        other.keyboard.press("Escape")
        page.keyboard.press("b")
        page.mouse.move(300, 250)
        page.mouse.down()
        page.mouse.move(400, 300)
        page.mouse.move(500, 400)
        page.mouse.up()
        page.wait_for_selector("#region-name:focus")
        page.keyboard.type("nest of <b>cells</b>")
        page.keyboard.press("Tab")
        page.wait_for_selector(".finding:has-text('nest of <b>cells</b>')")
        other.wait_for_selector(".finding:has-text('nest of <b>cells</b>')")
        assert "mm²" in page.inner_text(".regions .finding") or "µm²" in page.inner_text(".regions .finding")
        page.reload()
        page.wait_for_selector(".pane[data-state=shown]")
        page.wait_for_selector(".shape.clickable")
        page.click("#job-regions-tab") if page.is_visible("#job-regions-tab") else page.click("[aria-label=Panel]")
        page.click(".regions .finding")
        page.wait_for_timeout(700)
        page.focus(".pane .stage")
        page.keyboard.press("Delete")
        other.wait_for_selector(".regions .finding", state="detached")


def test_a_polygon_and_a_point_are_drawn_with_the_keyboard_alone(running):
    with browser_page() as page:
        page.goto(running.url)
        open_slide_card(page, "first")
        page.keyboard.press("y")
        for key in ("Enter", "ArrowRight", "Enter", "ArrowDown", "Enter"):
            page.keyboard.press(key)
            page.wait_for_timeout(600)
        page.keyboard.press("f")
        page.wait_for_selector(".regions .finding")
        page.focus(".pane .stage")
        page.keyboard.press("t")
        page.keyboard.press("Enter")
        page.wait_for_selector(".regions .finding >> nth=1")
        for _ in range(2):
            page.click(".regions .finding >> nth=0")
            page.click(".region-form >> text=Delete")
            page.wait_for_timeout(400)
        assert page.locator(".regions .finding").count() == 0


def test_the_view_is_saved_as_a_picture_with_bar_and_note(running, tmp_path):
    from PIL import Image

    with browser_page() as page:
        page.goto(running.url)
        open_slide_card(page, "first")
        page.click("[aria-label=Panel]")
        page.wait_for_timeout(300)
        with page.expect_download() as saved:
            page.click("text=Save view as PNG")
        saved.value.save_as(tmp_path / "view.png")
    picture = np.asarray(Image.open(tmp_path / "view.png").convert("RGB")).astype(int)
    foot = picture[-46:]
    assert (foot[:, :200].sum(2) < 300).sum() > 100, "a dark bar"
    assert (foot[:, 400:].sum(2) < 500).sum() > 100, "words beside it"
    assert picture[:-46].std() > 20, "and the slide above"


# --- Check and talk --------------------------------------------------------------------------------------------------


def test_a_report_is_checked_sentence_by_sentence_and_each_lights_its_places(server_with_model):
    with browser_page() as page:
        page.goto(server_with_model.url)
        open_slide_card(page, "first")
        page.click("#job-check-tab")
        page.fill("[aria-label=Report]", "Keratin pearls are seen. Surgical margins are free. <i>Mucin</i> pools.")
        page.click("text=Check >> nth=-1")
        page.wait_for_selector(".verdict")
        verdicts = page.locator(".verdict-word").all_inner_texts()
        assert verdicts[0].startswith("uncertain")
        assert verdicts[1].startswith("not visible")
        assert page.locator(".verdict i").count() == 0
        assert "calibrat" in page.inner_text(".note")
        places = page.locator(".shape.clickable").count()
        assert places == page.locator(".verdict .place").count() > 0
        page.hover(".verdict >> nth=0")
        assert page.locator(".shape.lit").count() == 3, "the places of that sentence"
        page.click("#job-where-tab")
        assert page.locator(".shape.clickable").count() == 0, "another job, other places"


def test_an_answer_and_its_places_light_each_other(server_with_assistant):
    with browser_page() as page:
        page.goto(server_with_assistant.url)
        open_slide_card(page, "first")
        key = page.url.split("slide=")[1]
        page.click("#job-talk-tab")
        nothing = {"text": "", "sentences": [], "abstained": False, "confidence": None, "evidence": []}
        page.route("**/api/talk*", lambda route: route.fulfill(body=stream_of(nothing), content_type=EVENTS))
        page.click("text=Describe the slide >> nth=0")
        turn = page.locator(".said.theirs")
        turn.locator("p").wait_for(timeout=60_000)
        assert "nothing" in turn.inner_text()
        page.unroute("**/api/talk*")
        box = {"width": 256, "height": 256, "score": 0.5, "slide": key}
        sentences = ["Keratin pearls are <b>seen</b>.", "Mucin pools are present."]
        evidence = [box | {"x": 0, "y": 0, "text": sentences[0]}, box | {"x": 512, "y": 512, "text": sentences[1]}]
        answer = {
            "text": " ".join(sentences), "sentences": sentences, "abstained": False, "confidence": 0.7,
            "evidence": evidence,
        }  # fmt: skip
        page.route("**/api/talk*", lambda route: route.fulfill(body=stream_of(answer), content_type=EVENTS))
        page.fill("[aria-label=Question]", "What is seen?")
        page.keyboard.press("Enter")
        page.wait_for_selector(".said.theirs >> nth=1 >> .place >> nth=1")
        assert page.locator(".said.ours").last.inner_text() == "What is seen?"
        assert "70 %" in turn.nth(1).inner_text()
        assert turn.locator("b").count() == 0
        page.locator(".place").nth(1).hover()
        assert page.locator(".shape.lit").count() == 1
        assert page.locator(".sentence.lit").inner_text().startswith("Mucin")
        page.mouse.move(5, 300)
        page.locator(".shape.clickable").first.hover(force=True)
        assert page.locator(".sentence.lit").inner_text().startswith("Keratin")
        page.unroute("**/api/talk*")
        page.fill("[aria-label=Question]", "And what else?")
        page.keyboard.press("Enter")
        page.wait_for_selector(".said.theirs >> nth=2 >> p", timeout=60_000)  # the server's own, of an untrained model
        assert turn.nth(2).inner_text().strip()


EVENTS = "text/event-stream"


def stream_of(answer):
    """What the server sends: first words, then the whole answer."""
    return f'event: words\ndata: {{"text": "Keratin"}}\n\nevent: answer\ndata: {json.dumps(answer)}\n\n'


@pytest.fixture(scope="module")
def server_with_assistant(tmp_path_factory):
    """A workbench with an assistant."""
    world = tmp_path_factory.mktemp("aloud")
    write_slides(world / "slides", ("first", "second"))
    write_model(world / "model")
    write_slide_features(world / "slides" / "first.tif", world / "features")
    assistant = write_assistant(world, world / "model")
    with served(world / "slides", models=Models(assistant=assistant, features=(world / "features",))) as running:
        yield running
