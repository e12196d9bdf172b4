"""The README's pictures, taken from a finished demo in a real browser.

    python bench/pictures.py DEMO [--out docs/images] [--slide demo-0181] [--phrase "lymphoid aggregates"]

``grounding.jpg``: the upper three phrases of the demo's report. ``workbench.jpg``: the demo's cohort in the workbench,
one phrase asked of one slide.
"""

import argparse
import os
import sys
import tempfile
from io import BytesIO
from pathlib import Path
from typing import Any

from PIL import Image
from playwright.sync_api import Error, sync_playwright

from view import BROWSERS, measures, workbench

UPPER = 3
WAIT_S = 180
MARGIN_PX = 4
REPORT_PX, WORKBENCH_PX = {"width": 1000, "height": 800}, {"width": 1180, "height": 720}


def main() -> None:
    """Take both pictures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("demo", type=Path, help="the folder of a finished demo")
    parser.add_argument("--out", type=Path, default=Path("docs/images"))
    parser.add_argument("--slide", default="demo-0181")
    parser.add_argument("--phrase", default="lymphoid aggregates")
    arguments = parser.parse_args()
    browser_path = os.environ.get("PATHFLIP_BROWSER") or next((p for p in BROWSERS if Path(p).exists()), None)
    if browser_path is None:
        sys.exit("no Chromium found: apt-get install chromium, or set PATHFLIP_BROWSER")
    demo: Path = arguments.demo.resolve()
    arguments.out.mkdir(parents=True, exist_ok=True)
    with sync_playwright() as tools, tempfile.TemporaryDirectory() as folder:
        browser = tools.chromium.launch(executable_path=browser_path, args=["--no-sandbox"])
        save(upper_phrases(browser.new_page(viewport=REPORT_PX), demo), arguments.out / "grounding.jpg")
        parts = [demo / "cohort" / "slides" / f"{arguments.slide}.tif"], demo / "runs" / "align_base"
        with workbench(*parts, demo / "features_stain_texture", Path(folder)) as (url, _):
            page = browser.new_page(viewport=WORKBENCH_PX)
            save(asked_where(page, url, arguments.phrase), arguments.out / "workbench.jpg")
        browser.close()


def upper_phrases(page: Any, demo: Path) -> bytes:
    """The first phrases of the report, best first."""
    page.goto((demo / "report.html").as_uri())
    cases = page.locator("#where article.case")
    first, last = cases.nth(0).bounding_box(), cases.nth(UPPER - 1).bounding_box()
    clip = {
        "x": first["x"] - MARGIN_PX,
        "y": first["y"] - MARGIN_PX,
        "width": first["width"] + 2 * MARGIN_PX,
        "height": last["y"] + last["height"] - first["y"] + 2 * MARGIN_PX,
    }
    picture: bytes = page.screenshot(clip=clip, full_page=True)
    return picture


def asked_where(page: Any, url: str, phrase: str) -> bytes:
    """The one slide, opened at once, with the similarity to a phrase over it."""
    page.set_default_timeout(1000 * WAIT_S)
    open_when_it_answers(page, url)
    page.wait_for_selector(".pane[data-state=shown]")
    page.wait_for_selector("#job-where .ask input")
    page.get_by_text("The model is being loaded").wait_for(state="hidden")
    page.fill("#job-where .ask input", phrase)
    page.keyboard.press("Enter")
    for _ in range(2 * WAIT_S):  # the page's policy lets nothing wait inside it
        if measures(page, "heat"):
            break
        page.wait_for_timeout(500)
    page.wait_for_timeout(1500)
    picture: bytes = page.screenshot()
    return picture


def open_when_it_answers(page: Any, url: str) -> None:
    """The address is printed before the model is open."""
    for _ in range(WAIT_S):
        try:
            page.goto(url)
            return
        except Error:
            page.wait_for_timeout(1000)
    sys.exit(f"the workbench did not answer within {WAIT_S} s")


def save(picture: bytes, file: Path) -> None:
    """As JPEG: small enough for a repository."""
    Image.open(BytesIO(picture)).convert("RGB").save(file, quality=88, optimize=True)
    print(f"{file}: {file.stat().st_size // 1000} kB")


if __name__ == "__main__":
    main()
