"""How fast the workbench shows slides, in a real browser; and what forty viewers do to its server.

    python bench/view.py SLIDES... [--model M --features F] [--viewers 40 --seconds 60] [--json]

Starts ``pathflip view`` and headless Chromium with a viewport of 1,024 px. For every slide: the time from the click
until the whole slide is sharp; then, zoomed in five-fold, from the key until the next field is sharp, for fields not
seen yet. For slides with features: from the phrase until the heat is painted (a phrase asked for the first time).
Without --model an untrained model of the default size reads the last slide first: how long a map takes does not depend
on its weights.
With --viewers, instead: that many clients, each six requests at a time, a second between fields.
"""

import argparse
import asyncio
import json
import os
import random
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx

FIELDS = 12
FIELD_PX = 1024
SERPENTINE = ("Right", "Right", "Down", "Left", "Left", "Down")
PHRASES = ("necrosis", "keratin pearls", "mucin pools", "no necrosis", "glands", "lymphocytes")
BROWSERS = ("/usr/bin/chromium", "/usr/bin/chromium-browser", "/usr/bin/google-chrome")


def main() -> None:
    """Measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("slides", nargs="+", type=Path)
    parser.add_argument("--model", type=Path)
    parser.add_argument("--features", type=Path)
    parser.add_argument("--viewers", type=int, default=0)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--json", action="store_true", help="one object a line; the last one sums up")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        model, features = arguments.model, arguments.features
        if model is None and not arguments.viewers:
            model, features = untrained_model(Path(folder), arguments.slides[-1])
        with workbench(arguments.slides, model, features, Path(folder)) as (url, process):
            if arguments.viewers:
                result = asyncio.run(crowd(url, process.pid, arguments.viewers, arguments.seconds))
            else:
                result = in_browser(url, arguments.json)
    print(json.dumps(result) if arguments.json else "  ".join(f"{key} {value}" for key, value in result.items()))


def untrained_model(folder: Path, slide_file: Path) -> tuple[Path, Path]:
    """A model of the default size with random weights, and features of one slide."""
    import torch

    from pathflip.checkpoint import InputContract, save_checkpoint
    from pathflip.data.align import TextSpec
    from pathflip.features import extract, load_encoder, write_features
    from pathflip.geometry import TileSpec
    from pathflip.models import build_model
    from pathflip.slide import find_tissue, open_slide, tile_slide
    from pathflip.text.tokenizer import train_tokenizer

    torch.manual_seed(0)
    encoder, spec = load_encoder("stain_texture"), TileSpec(64, 1.0, min_tissue=0.1)
    tokenizer = train_tokenizer([f"{phrase} is seen" for phrase in PHRASES * 4], 400)
    net = build_model({"kind": "pathflip", "feature_dim": encoder.dim, "vocab_size": tokenizer.vocab_size})
    contract = InputContract(encoder=encoder.name, dim=encoder.dim, tile_px=spec.tile_px, mpp=spec.mpp)
    save_checkpoint(folder / "model", net, contract=contract, tokenizer=tokenizer, text=TextSpec(), recipe={})
    with open_slide(slide_file) as slide:
        features = extract(slide, tile_slide(slide, find_tissue(slide), spec), encoder)
    write_features(folder / "features" / f"{features.slide_id}.h5", features)
    return folder / "model", folder / "features"


@contextmanager
def workbench(
    slides: list[Path], model: Path | None, features: Path | None, folder: Path
) -> Iterator[tuple[str, subprocess.Popen[str]]]:
    """The server, in a process of its own."""
    command = [sys.executable, "-c", "from pathflip.cli import main; main()", "view", *map(str, slides), "--no-browser"]
    command += ["--json", "--annotations", str(folder / "regions.sqlite")]
    command += [] if model is None else ["--model", str(model)]
    command += [] if features is None else ["--features", str(features)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        yield json.loads(process.stdout.readline())["url"], process
    finally:
        process.send_signal(signal.SIGINT)
        process.wait(20)


def visitor_of(url: str) -> httpx.Client:
    """A client that has opened the address."""
    address = httpx.URL(url)
    client = httpx.Client(base_url=f"http://{address.host}:{address.port}", headers={"X-PathFLIP": "1"}, timeout=120)
    for _ in range(100):
        try:
            client.get("/", params=address.params)
            break
        except httpx.TransportError:
            time.sleep(0.1)
    return client


# --- In a browser ----------------------------------------------------------------------------------------------------


def in_browser(url: str, as_json: bool) -> dict[str, Any]:
    """First views, next fields and heat, slide by slide."""
    from playwright.sync_api import sync_playwright

    browser_path = os.environ.get("PATHFLIP_BROWSER") or next((p for p in BROWSERS if Path(p).exists()), None)
    if browser_path is None:
        sys.exit("no Chromium found: apt-get install chromium, or set PATHFLIP_BROWSER")
    slides = visitor_of(url).get("/api/state").json()["slides"]
    first_views, next_fields, heats = [], [], []
    with sync_playwright() as tools:
        browser = tools.chromium.launch(executable_path=browser_path, args=["--no-sandbox"])
        for slide in slides:
            page = browser.new_page(viewport={"width": FIELD_PX, "height": FIELD_PX + 48})
            row = one_slide(page, url, slide)
            page.close()
            if row is None:
                continue
            first_views.append(row["first_view_s"])
            next_fields += row["next_field_s"]
            heats += row.pop("heat_ms")
            row["next_field_s"] = round(statistics.median(row["next_field_s"]), 3)
            print(json.dumps(row) if as_json else f"{row}", flush=True)
        browser.close()
    return {
        "first_view_s": round(statistics.median(first_views), 3),
        "first_view_max_s": round(max(first_views), 3),
        "next_field_s": round(statistics.median(next_fields), 3),
        "next_field_p95_s": round(sorted(next_fields)[int(0.95 * len(next_fields))], 3),
        "heat_ms": round(statistics.median(heats), 1) if heats else None,
    }


def one_slide(page: Any, url: str, slide: dict[str, str]) -> dict[str, Any] | None:
    """What one slide takes; None for one that cannot be opened."""
    page.goto(url)
    page.evaluate("localStorage.clear()")
    page.wait_for_selector(".grid-page:not([hidden]), .desk:not([hidden])")
    if not page.locator("input[type=search]").is_visible():  # a single slide is opened at once
        page.click("[aria-label^='All slides']")
        page.click(".tab .tool")
    page.fill("input[type=search]", slide["id"])  # only its own thumbnail is asked for
    page.wait_for_selector(".thumb img, .card.broken")
    page.wait_for_timeout(400)
    if page.locator(f".card.broken[data-key='{slide['key']}']").count():
        return None
    page.click("[aria-label=Panel]")  # the slide has the whole viewport
    page.click(f".card[data-key='{slide['key']}']")
    page.wait_for_selector(".pane[data-state=shown]", timeout=60_000)
    first = measures(page, "first view")[0] / 1000
    fields = next_fields(page)
    return {"slide": slide["id"], "first_view_s": round(first, 3), "next_field_s": fields, "heat_ms": heat(page)}


def measures(page: Any, name: str) -> list[float]:
    """What the page measured, ms."""
    return page.evaluate(f"performance.getEntriesByName('{name}').map((entry) => entry.duration)")


def next_fields(page: Any) -> list[float]:
    """Field after field through the middle of the slide, near 1 µm a pixel."""
    page.focus(".pane .stage")
    for _ in range(4):
        page.keyboard.press("+")
        page.wait_for_timeout(450)
    page.wait_for_timeout(800)
    for number in range(FIELDS):
        done = len(measures(page, "next field"))
        page.keyboard.press(
            "Shift+ArrowRight" if number % 4 < 2 else "Shift+ArrowDown" if number % 4 == 2 else "Shift+ArrowLeft"
        )
        while len(measures(page, "next field")) == done:
            page.wait_for_timeout(5)
        page.wait_for_timeout(150)
    return [value / 1000 for value in measures(page, "next field")]


def heat(page: Any) -> list[float]:
    """Phrases asked of a slide whose features are cached; the very first one (which encodes the slide) is left out."""
    page.click("[aria-label=Panel]")
    page.wait_for_timeout(300)
    if not page.locator("#job-where .ask input").is_visible() or page.locator(".reading p").count():
        return []
    for phrase in PHRASES:
        before = len(measures(page, "heat"))
        page.fill("#job-where .ask input", phrase)
        page.keyboard.press("Enter")
        while len(measures(page, "heat")) == before:
            page.wait_for_timeout(5)
    return measures(page, "heat")[1:]


# --- Forty viewers ---------------------------------------------------------------------------------------------------


async def crowd(url: str, pid: int, viewers: int, seconds: float) -> dict[str, Any]:
    """Clients that pan at random; errors, times, and the server's memory."""
    state = visitor_of(url)
    slides = [
        s
        for s in (state.get(f"/api/slides/{e['key']}") for e in state.get("/api/state").json()["slides"])
        if s.is_success
    ]
    infos = [slide.json() for slide in slides]
    times: list[float] = []
    errors: list[str] = []
    memory: list[float] = []
    until = time.monotonic() + seconds
    limits = httpx.Limits(max_connections=6)
    tasks = []
    for number in range(viewers):
        client = httpx.AsyncClient(base_url=state.base_url, cookies=state.cookies, limits=limits, timeout=60)
        tasks.append(viewer(client, infos, random.Random(number), until, times, errors))
    await asyncio.gather(*tasks, watch_memory(pid, until, memory))
    ordered = sorted(times)
    return {
        "viewers": viewers,
        "requests": len(times),
        "errors": len(errors),
        "first_error": errors[0] if errors else None,
        "p50_ms": round(1000 * ordered[len(ordered) // 2], 1),
        "p95_ms": round(1000 * ordered[int(0.95 * len(ordered))], 1),
        "memory_mb_after_third": round(memory[len(memory) // 3]),
        "memory_mb_at_end": round(memory[-1]),
    }


async def viewer(
    client: httpx.AsyncClient,
    infos: list[dict[str, Any]],
    rng: random.Random,
    until: float,
    times: list[float],
    errors: list[str],
) -> None:
    """Open a slide, look at a few fields, take another."""
    async with client:
        while time.monotonic() < until:
            info = rng.choice(infos)
            top = (max(info["width"], info["height"]) - 1).bit_length()
            for _ in range(5):
                level = rng.randint(max(0, top - 5), top)
                shrink = 2 ** (top - level)
                columns, rows = (-(-info[side] // (shrink * info["tile"])) for side in ("width", "height"))
                left, up = rng.randrange(columns), rng.randrange(rows)
                paths = [
                    f"/api/slides/{info['key']}/{info['version']}_files/{level}/{x}_{y}.jpeg"
                    for x in range(left, min(columns, left + 4))
                    for y in range(up, min(rows, up + 4))
                ]
                await asyncio.gather(*(fetch(client, path, times, errors) for path in paths))
                await asyncio.sleep(1)
                if time.monotonic() > until:
                    return


async def fetch(client: httpx.AsyncClient, path: str, times: list[float], errors: list[str]) -> None:
    """One tile."""
    began = time.monotonic()
    try:
        answer = await client.get(path)
        if not answer.is_success or answer.content[:2] != b"\xff\xd8":
            errors.append(f"{answer.status_code} {path}")
    except httpx.HTTPError as error:
        errors.append(f"{type(error).__name__} {path}")
    times.append(time.monotonic() - began)


async def watch_memory(pid: int, until: float, memory: list[float]) -> None:
    """Resident memory of the server, MB, once a second."""
    while time.monotonic() < until:
        status = Path(f"/proc/{pid}/status").read_text()
        memory.append(int(status.split("VmRSS:")[1].split()[0]) / 1024)
        await asyncio.sleep(1)


if __name__ == "__main__":
    main()
