"""What the workbench's server holds over hundreds of requests: it has a limit, and the rest is let go."""

import asyncio
import gc
import sys
from types import BuiltinFunctionType, FunctionType, ModuleType

import httpx
import numpy as np
import pytest

pytest.importorskip("starlette", reason="the extra 'workbench' is not installed")

from pathflip.slide.sources import stored_tiles
from pathflip.text import tokenizer
from pathflip.workbench import library as workbench_library
from pathflip.workbench.deepzoom_tiles import ByteCache, DeepZoom
from pathflip.workbench.guard import Access
from pathflip.workbench.library import Library
from pathflip.workbench.running_workbench import Workbench
from pathflip.workbench.service import Models, ModelService
from pathflip.workbench.web_app import create_app
from slide_files import smooth_picture, write_pyramid
from workbench_model import write_model, write_slide_features, write_slides

pytestmark = pytest.mark.usefixtures("annotations_off")

SLIDES, MOST_OPEN, CACHE_BYTES = 5, 3, 150_000
MOST_GROWTH = 30_000
"""Bytes. A cache of tiles without a limit grows by ten times as much in the rounds that are measured."""
MOST_GROWTH_OF_PHRASES = 5_000
"""A map that is kept of every phrase takes three times as much."""


def held(root):
    """Bytes of everything that can be reached from an object, but for modules, classes and functions."""
    seen, waiting, total = set(), [root], 0
    while waiting:
        one = waiting.pop()
        if id(one) in seen or isinstance(one, (type, ModuleType, FunctionType, BuiltinFunctionType)):
            continue
        seen.add(id(one))
        total += one.nbytes if isinstance(one, np.ndarray) else sys.getsizeof(one)
        waiting += gc.get_referents(one)
    return total


def asked(bench, requests):
    """The statuses of so many requests to the application itself, in order."""

    async def ask():
        transport = httpx.ASGITransport(app=create_app(bench))
        headers = {"X-PathFLIP": "1", "Cookie": f"{bench.access.cookie}={bench.access.token}"}
        async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1", headers=headers) as client:
            return [(await client.request(*request[:2], json=request[2])).status_code for request in requests]

    return asyncio.run(ask())


@pytest.fixture
def bench(tmp_path, monkeypatch):
    """More slides than are kept open, and caches that a few requests fill."""
    monkeypatch.setattr(workbench_library, "MOST_OPEN", MOST_OPEN)
    monkeypatch.setattr(stored_tiles, "CACHE_BYTES", 100_000)
    for number in range(SLIDES):
        write_pyramid(tmp_path / f"s{number}.tif", [smooth_picture(1024, 1024, seed=number)], tile=256)
    library = Library([tmp_path])
    yield Workbench(library, Access(), tiles=ByteCache(CACHE_BYTES), thumbnails=ByteCache(CACHE_BYTES))
    library.close()


def test_hundreds_of_tiles_of_many_slides_leave_nothing_behind(bench):
    files = list(bench.library.files.values())
    sizes, count = [], 0
    for column in range(4):  # other tiles in each round
        tiles = [
            ("GET", f"/api/slides/{file.key}/{file.version()}_files/10/{column}_{row}.jpeg", None)
            for file in files
            for row in range(4)
        ]
        ends = ("", "/thumbnail.jpg", "/maps", "/x.dzi")
        others = [("GET", f"/api/slides/{file.key}{end}", None) for file in files for end in ends]
        nothing = [("GET", f"/api/slides/{column}/nothing/{index}", None) for index in range(40)]
        assert asked(bench, tiles + others + nothing) == [200] * (len(tiles) + len(others)) + [404] * 40
        sizes.append(held(bench))
        count += len(tiles + others + nothing)
    assert count == 320
    assert sizes[-1] - sizes[1] < MOST_GROWTH, sizes
    for cache in (bench.tiles, bench.thumbnails):
        assert 0 < sum(map(len, cache._entries.values())) == cache._size <= CACHE_BYTES
    assert len(bench.library._open) == MOST_OPEN
    gc.collect()
    assert sum(type(one) is DeepZoom for one in gc.get_objects()) == MOST_OPEN
    assert bench.events._listeners == {}


def test_phrases_leave_nothing_behind(tmp_path, monkeypatch):
    monkeypatch.setattr(tokenizer, "_CACHED_TEXTS", 20)
    write_slides(tmp_path / "slides", ("first",))
    write_model(tmp_path / "model")
    write_slide_features(tmp_path / "slides" / "first.tif", tmp_path / "features")
    library = Library([tmp_path / "slides"])
    models = Models(model=tmp_path / "model", features=(tmp_path / "features",))
    bench = Workbench(library, Access())
    bench.service = ModelService(models, library, bench.events)
    bench.service.start()
    key, sizes = next(iter(library.files)), []
    for number in range(3):
        phrases = [f"keratin pearls {'and necrosis ' * (index % 5)}{number * 40 + index}" for index in range(40)]
        assert set(asked(bench, [("POST", f"/api/slides/{key}/where", {"text": text}) for text in phrases])) == {200}
        sizes.append(held(bench))
    assert sizes[2] - sizes[1] < MOST_GROWTH_OF_PHRASES, sizes
    assert len(bench.service._views) == 1
    library.close()
