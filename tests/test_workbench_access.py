"""The workbench's page against WCAG 2.1 A and AA, by axe-core in a real browser: contrast, names, roles, keyboard."""

from pathlib import Path

import pytest

from workbench_model import write_model, write_slide_features, write_slides
from workbench_server import browser_page, served

pytest.importorskip("axe_playwright_python", reason="axe-playwright-python is not installed")

from pathflip.workbench.service import Models

RULES = {"runOnly": ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa"]}


@pytest.fixture(scope="module")
def running(tmp_path_factory):
    """Two slides, one broken file, a model, features of both slides, so that every part of the page is there."""
    world: Path = tmp_path_factory.mktemp("access")
    write_slides(world / "slides", ("first", "second"))
    (world / "slides" / "broken.svs").write_bytes(b"II*\0 this is no slide")
    write_model(world / "model")
    for name in ("first", "second"):
        write_slide_features(world / "slides" / f"{name}.tif", world / "features")
    (world / "labels.csv").write_text("slide,organ\nfirst,lung\nsecond,colon\n")
    models = Models(model=world / "model", features=(world / "features",))
    with served(world / "slides", models=models, labels=world / "labels.csv") as bench:
        yield bench


def violations(page) -> list[str]:
    """What axe-core finds, one line a rule: its name and the first element."""
    from axe_playwright_python.sync_playwright import Axe

    access = Axe().run(page, options=RULES).response
    assert len(access["passes"]) > 10, "axe-core looked at nothing"
    return [f"{v['id']} × {len(v['nodes'])}: {v['nodes'][0]['html'][:120]}" for v in access["violations"]]


@pytest.mark.parametrize(("width", "height"), [(1280, 800), (390, 780)])
def test_every_part_of_the_page_passes_wcag_aa(running, width, height):
    seen = {}
    with browser_page(width, height) as page:

        def job(name: str) -> None:
            if not page.locator(f"#job-{name}-tab").is_visible():
                page.click("[aria-label=Panel]")
            page.click(f"#job-{name}-tab")

        page.goto(running.url)
        page.wait_for_selector(".card.broken")
        page.wait_for_selector(".thumb img")
        seen["grid"] = violations(page)
        page.click(".card:has-text('first')")
        page.wait_for_selector(".pane[data-state=shown]")
        job("where")
        for phrase in ("keratin pearls", "no mucin pools", "Verhornungszwiebeln"):
            page.fill("#job-where .ask input", phrase)
            page.keyboard.press("Enter")
            page.wait_for_selector(f".result:has-text('{phrase}') p")
        page.wait_for_timeout(300)
        seen["where"] = violations(page)
        job("check")
        page.fill("[aria-label=Report]", "Keratin pearls are seen. Surgical margins are free. No mucin pools.")
        page.click("#job-check button.primary")
        page.wait_for_selector(".verdict")
        seen["check"] = violations(page)
        job("cases")
        page.fill("[aria-label='Text to find cases by']", "keratin pearls")
        page.click("#job-cases button.primary")
        page.wait_for_selector(".case")
        seen["cases"] = violations(page)
        job("regions")
        seen["regions"] = violations(page)
        page.locator(".pane .stage").focus()
        page.keyboard.press("?")
        page.wait_for_selector("dialog.help")
        seen["keys"] = violations(page)
    assert {name: access for name, access in seen.items() if access} == {}
