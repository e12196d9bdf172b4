"""A heatmap taken away as table, picture and GeoJSON, and shown in a notebook's frame."""

import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import httpx
import numpy as np
import pytest

import pathflip
from pathflip.errors import ContractError, MissingExtraError
from pathflip.geometry import SlideInfo, TileGrid, TileSpec
from pathflip.types import Heatmap
from slide_files import smooth_picture, write_pyramid
from workbench_server import browser_page


@pytest.fixture
def heatmap() -> Heatmap:
    coords = np.array([[0, 0], [256, 0], [512, 256]], np.int64)
    grid = TileGrid(SlideInfo("shown", (800, 600), 0.5), TileSpec(128, 1.0), coords)
    return Heatmap(grid, np.array([0.0, 1.0, np.nan], np.float32), "keratin pearls", float("nan"))


@pytest.fixture
def slide_file(tmp_path) -> Path:
    return write_pyramid(tmp_path / "shown.tif", [smooth_picture(600, 800)], mpp=0.5)


def test_a_table_has_every_tile_and_says_what_of(heatmap):
    pytest.importorskip("pandas")
    table = heatmap.to_dataframe()
    assert list(table.columns) == ["x", "y", "width", "height", "similarity"]
    assert table[["x", "y", "width"]].to_numpy().tolist() == [[0, 0, 256], [256, 0, 256], [512, 256, 256]]
    assert table["similarity"].tolist()[:2] == [0.0, 1.0]
    assert np.isnan(table["similarity"][2])
    assert table.attrs == {"slide_id": "shown", "text": "keratin pearls", "negated": False}


def test_without_pandas_the_install_command_is_in_the_error(heatmap, monkeypatch):
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(MissingExtraError, match=r"pathflip\[notebook\]"):
        heatmap.to_dataframe()


def test_a_picture_is_coloured_where_tiles_are_and_clear_elsewhere(heatmap):
    picture = np.asarray(heatmap.to_image(400))
    assert picture.shape == (300, 400, 4)
    assert (picture[:128, :256, 3] == 255).all()
    assert (picture[130:, :, 3] == 0).all(), "no valid tile is there"
    assert picture[10, 10, :3].sum() < picture[10, 200, :3].sum(), "the higher, the brighter"


def test_geojson_holds_the_valid_tiles_with_their_scores(heatmap):
    features = heatmap.to_geojson()["features"]
    assert [feature["properties"]["measurements"]["similarity"] for feature in features] == [0.0, 1.0]
    assert features[1]["geometry"]["coordinates"][0][0] == [256, 0]
    assert features[1]["properties"]["objectType"] == "tile"


@contextmanager
def notebook_server(body: str) -> Iterator[str]:
    """A page of another origin on this machine, as a notebook's is."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "text/html; charset=utf-8")
            self.end_headers()
            self.wfile.write(f"<!doctype html><title>notebook</title>{body}".encode())

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://localhost:{server.server_port}/"
    finally:
        server.shutdown()


def test_a_notebook_shows_the_slide_with_its_heatmap_in_a_frame(heatmap, slide_file):
    shown = pathflip.view(slide_file, heatmap)
    try:
        code = shown._repr_html_()
        assert code.startswith("<iframe src=")
        assert "&amp;embed=1" in code
        with notebook_server(code) as address, browser_page() as page:
            page.goto(address)
            frame = page.frame_locator("iframe")
            frame.locator(".pane[data-state=shown]").wait_for()
            frame.locator(".finding").first.wait_for()
            assert frame.locator(".heat-canvas").first.get_attribute("data-maps") == "1"
            assert frame.locator(".phrase").inner_text() == "keratin pearls"
            assert frame.locator("#job-where .ask").count() == 0, "without a model nothing can be asked"
        policy = httpx.get(f"{shown.url}&embed=1").headers["Content-Security-Policy"]
        assert "http://localhost:*" in policy
        assert "unsafe" not in policy
    finally:
        shown.close()


def test_an_open_slide_is_shown_and_a_heatmap_of_another_refused(heatmap, tmp_path):
    other = write_pyramid(tmp_path / "other.tif", [smooth_picture(300, 400)], mpp=0.5)
    with pathflip.open_slide(other) as slide, pytest.raises(ContractError, match=r"800.*400"):
        pathflip.view(slide, heatmap)
    with pathflip.open_slide(other) as slide:
        shown = pathflip.view(slide)
        shown.close()
