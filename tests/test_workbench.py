"""The workbench's server: tiles against the slide's own pixels, and who is kept out."""

import io
import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import httpx
import numpy as np
import pytest
from PIL import Image

from pathflip.errors import ConfigError
from pathflip.slide import open_slide
from pathflip.workbench.deepzoom_tiles import ByteCache, DeepZoom
from slide_files import halved, smooth_picture, write_pyramid
from workbench_server import client, key_of, served

WIDTH, HEIGHT = 1000, 776


@pytest.fixture(scope="module")
def picture():
    return smooth_picture(HEIGHT, WIDTH, seed=3)


@pytest.fixture(scope="module")
def slides(tmp_path_factory, picture) -> Path:
    folder = tmp_path_factory.mktemp("slides")
    write_pyramid(folder / "lossless.tif", [picture, halved(picture, 4)])
    write_pyramid(folder / "jpeg.tif", [picture, halved(picture, 2)], compression="jpeg", mpp=0.5)
    (folder / "case").mkdir()
    write_pyramid(folder / "case" / "no-mpp.tif", [picture], mpp=None)
    (folder / "broken.svs").write_bytes(b"II*\0 this is no slide")
    (folder / "notes.txt").write_text("not a slide")
    return folder


@pytest.fixture(scope="module")
def running(slides):
    with served(slides) as bench:
        yield bench


@pytest.fixture
def visitor(running):
    with client(running) as opened:
        yield opened


def pixels(data: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB")).astype(int)


def stitched(visitor: httpx.Client, slide_id: str, shrink: int) -> np.ndarray:
    """A whole level, put together from its tiles."""
    info = visitor.get(f"/api/slides/{key_of(visitor, slide_id)}").json()
    side, top = info["tile"], (max(info["width"], info["height"]) - 1).bit_length()
    level = top - shrink.bit_length() + 1
    width, height = -(-info["width"] // shrink), -(-info["height"] // shrink)
    whole = np.zeros((height, width, 3), int)
    prefix = f"/api/slides/{info['key']}/{info['version']}_files/{level}"
    for row in range(-(-height // side)):
        for column in range(-(-width // side)):
            answer = visitor.get(f"{prefix}/{column}_{row}.jpeg")
            assert answer.status_code == 200
            tile = pixels(answer.content)
            whole[row * side : row * side + tile.shape[0], column * side : column * side + tile.shape[1]] = tile
    return whole


@pytest.mark.parametrize("shrink", [1, 2, 4, 8])
@pytest.mark.parametrize("slide_id", ["lossless", "jpeg"])
def test_every_level_shows_the_slide_in_place(visitor, picture, slide_id, shrink):
    level = stitched(visitor, slide_id, shrink)
    expected = halved(picture, shrink) if shrink > 1 else picture
    shown = level[: expected.shape[0], : expected.shape[1]]
    difference = np.abs(shown - expected.astype(int)).mean()
    assert difference < 5  # JPEG, of blobs that at 1/8 are three pixels wide
    assert difference < np.abs(shown[:, 1:] - expected[:, :-1].astype(int)).mean() / 2, "a pixel to the side"


def test_stored_jpeg_tiles_are_handed_on_without_compressing_them_again(slides):
    with open_slide(slides / "jpeg.tif") as slide:
        zoom = DeepZoom(slide)
        data, is_stored = zoom.tile(zoom.levels - 1, 2, 1)
        assert is_stored
        assert zoom.tile_px == 128
        own = slide.read_region_px(0, 256, 128, 128, 128).astype(int)
        assert np.abs(pixels(data) - own).max() <= 2  # two JPEG decoders
        assert not zoom.tile(zoom.levels - 1, WIDTH // 128, 0)[1], "padded tiles of the edge are not handed on"
    with open_slide(slides / "lossless.tif") as slide:
        assert not DeepZoom(slide).tile(10, 0, 0)[1]


def test_a_tile_that_cannot_be_read_is_hatched_and_its_neighbours_are_not(tmp_path, picture):
    path = write_pyramid(tmp_path / "hurt.tif", [picture], compression="jpeg")
    data = bytearray(path.read_bytes())
    import tifffile

    with tifffile.TiffFile(path) as file:
        start, count = file.pages[0].dataoffsets[9], file.pages[0].databytecounts[9]  # column 1, row 1
    data[start : start + count] = bytes(count)
    path.write_bytes(data)
    with served(tmp_path) as running, client(running) as visitor:
        info = visitor.get(f"/api/slides/{key_of(visitor, 'hurt')}").json()
        prefix = f"/api/slides/{info['key']}/{info['version']}_files/10"
        hurt, beside = visitor.get(f"{prefix}/1_1.jpeg"), visitor.get(f"{prefix}/2_1.jpeg")
    assert hurt.status_code == 200
    assert hurt.headers["X-Unreadable"] == "1"
    assert "immutable" not in hurt.headers["Cache-Control"]
    assert "X-Unreadable" not in beside.headers
    assert np.abs(pixels(beside.content) - picture[128:256, 256:384]).mean() < 3


def test_a_slide_says_its_size_and_resolution_or_that_it_is_unknown(visitor):
    known = visitor.get(f"/api/slides/{key_of(visitor, 'lossless')}").json()
    assert (known["width"], known["height"]) == (WIDTH, HEIGHT)
    assert known["mpp"] == pytest.approx(0.25, rel=1e-3)
    assert visitor.get(f"/api/slides/{key_of(visitor, 'no-mpp')}").json()["mpp"] is None
    described = visitor.get(f"/api/slides/{known['key']}/{known['version']}.dzi").text
    assert f'Width="{WIDTH}" Height="{HEIGHT}"' in described
    thumbnail = pixels(visitor.get(f"/api/slides/{known['key']}/thumbnail.jpg").content)
    assert thumbnail.shape == (round(HEIGHT * 320 / WIDTH), 320, 3)


def test_a_broken_slide_is_an_error_of_its_own_in_one_line(visitor):
    assert len(visitor.get("/api/state").json()["slides"]) == 4
    answer = visitor.get(f"/api/slides/{key_of(visitor, 'broken')}")
    assert answer.status_code == 422
    assert "broken.svs" in answer.json()["error"]
    assert "\n" not in answer.json()["error"]


def test_a_replaced_file_is_not_shown_under_the_old_address(tmp_path, picture):
    path = write_pyramid(tmp_path / "a.tif", [picture])
    with served(path) as running, client(running) as visitor:
        key = key_of(visitor, "a")
        old = visitor.get(f"/api/slides/{key}").json()["version"]
        tile = f"/api/slides/{key}/{{}}_files/10/0_0.jpeg"
        assert visitor.get(tile.format(old)).status_code == 200
        other = smooth_picture(HEIGHT, WIDTH, seed=9)
        write_pyramid(tmp_path / "new.tif", [other])
        os.replace(tmp_path / "new.tif", path)
        assert visitor.get(tile.format(old)).status_code == 409
        new = visitor.get(f"/api/slides/{key}").json()["version"]
        shown = pixels(visitor.get(tile.format(new)).content)
        assert np.abs(shown - other[: shown.shape[0], : shown.shape[1]]).mean() < 3


# --- Who is kept out -------------------------------------------------------------------------------------------------


def plain(running) -> str:
    address = httpx.URL(running.url)
    return f"http://{address.host}:{address.port}"


def test_nothing_is_shown_without_the_token(running):
    for path in ("/", "/api/state", "/api/events", "/api/slides/x"):
        assert httpx.get(plain(running) + path).status_code == 401, path
    assert httpx.get(plain(running) + "/?token=wrong").status_code == 401
    assert httpx.get(plain(running) + "/api/state", cookies={"pathflip_0": "wrong"}).status_code == 401


def test_the_token_leaves_the_address_and_the_cookie_is_kept_from_scripts(running):
    answer = httpx.get(running.url)
    assert answer.headers["location"] == "/"
    cookie = answer.headers["set-cookie"].lower()
    assert "httponly" in cookie
    assert "samesite=strict" in cookie


def test_other_hosts_and_pages_are_refused(running, visitor):
    port = httpx.URL(running.url).port
    state = "/api/state"
    for host in (f"evil.example:{port}", "evil.example", f"127.0.0.1.evil.example:{port}", f"127.0.0.1:{port + 1}", ""):
        assert visitor.get(state, headers={"Host": host}).status_code in (400, 421), host
    assert visitor.get(state, headers={"Host": f"localhost:{port}"}).status_code == 200
    for origin in ("https://evil.example", "null", f"http://127.0.0.1:{port + 1}"):
        assert visitor.get(state, headers={"Origin": origin}).status_code == 403, origin
    assert visitor.get(state, headers={"Origin": f"http://127.0.0.1:{port}"}).status_code == 200
    assert visitor.get(state, headers={"Sec-Fetch-Site": "cross-site"}).status_code == 403
    assert visitor.get(state, headers={"Sec-Fetch-Site": "same-site"}).status_code == 403


def test_a_form_on_another_page_cannot_change_anything(running, visitor):
    del visitor.headers["X-PathFLIP"]
    assert visitor.post("/api/state").status_code == 403


def test_uploads_are_limited_also_when_their_length_is_not_told(visitor):
    too_long = 21 * 2**20
    assert visitor.post("/api/state", content=b"x" * too_long).status_code == 413

    def pieces():
        for _ in range(21):
            yield b"x" * 2**20

    answer = visitor.post("/login", content=pieces())
    assert answer.status_code in (404, 413)


def test_answers_carry_a_policy_without_inline_script(visitor):
    for path in ("/", "/api/state", "/api/slides/none", "/assets/index.js"):
        headers = visitor.get(path).headers
        policy = headers["Content-Security-Policy"]
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy
        assert "frame-ancestors 'none'" in policy
        assert headers["X-Content-Type-Options"] == "nosniff"


@pytest.mark.parametrize(
    "path",
    [
        "/../pyproject.toml", "/assets/../../app.py", "/assets/..%2f..%2fapp.py", "/%2e%2e/app.py",
        "/api/slides/..%2f..%2fetc%2fpasswd", "/api/slides//etc/passwd", "/assets/%00", "/app.py",
    ],
)  # fmt: skip
def test_no_address_reaches_another_file(running, visitor, path):
    address = httpx.URL(running.url)
    request = f"GET {path} HTTP/1.1\r\nHost: {address.host}:{address.port}\r\nCookie: {_cookie(visitor)}\r\n"
    with socket.create_connection((address.host, address.port)) as wire:  # httpx would tidy the path
        wire.sendall(f"{request}Connection: close\r\n\r\n".encode())
        answer = b""
        while part := wire.recv(65536):
            answer += part
    assert int(answer.split(b" ")[1]) in (400, 404), answer[:200]


def _cookie(visitor: httpx.Client) -> str:
    return "; ".join(f"{name}={value}" for name, value in visitor.cookies.items())


def test_a_link_out_of_the_folder_is_a_card_with_the_reason(tmp_path, picture):
    secret = write_pyramid(tmp_path / "secret.tif", [picture])
    (tmp_path / "shown").mkdir()
    write_pyramid(tmp_path / "shown" / "own.tif", [picture])
    (tmp_path / "shown" / "outside.tif").symlink_to(secret)
    (tmp_path / "shown" / "inside.tif").symlink_to("own.tif")
    with served(tmp_path / "shown") as running, client(running) as visitor:
        refused = visitor.get(f"/api/slides/{key_of(visitor, 'outside')}")
        assert refused.status_code == 422
        assert "outside the folder" in refused.json()["error"]
        assert visitor.get(f"/api/slides/{key_of(visitor, 'outside')}/thumbnail.jpg").status_code == 422
        assert visitor.get(f"/api/slides/{key_of(visitor, 'inside')}").status_code == 200


def test_other_machines_need_a_password(slides):
    with pytest.raises(ConfigError, match="PATHFLIP_PASSWORD"), served(slides, host="0.0.0.0"):
        pass
    with pytest.raises(ConfigError, match="12 or more"), served(slides, host="0.0.0.0", password="short"):
        pass
    with served(slides, host="127.0.0.1", password="a long password") as running:
        assert "token" not in running.url
        base = plain(running)
        assert httpx.get(base + "/").headers["location"] == "/login"
        assert httpx.get(base + "/api/state").status_code == 401
        with httpx.Client(base_url=base) as visitor:
            assert visitor.post("/login", data={"password": "wrong"}).headers["location"] == "/login?wrong"
            assert visitor.get("/api/state").status_code == 401
            assert visitor.post("/login", data={"password": "a long password"}).headers["location"] == "/"
            assert visitor.get("/api/state").status_code == 200


# --- Starting --------------------------------------------------------------------------------------------------------


def test_what_cannot_be_shown_is_said_before_anything_is_served(tmp_path, slides):
    (tmp_path / "empty").mkdir()
    for path, reason in ((tmp_path / "absent", "no such file"), (tmp_path / "empty", "file in this folder")):
        with pytest.raises(ConfigError, match=reason), served(path):
            pass
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(ConfigError, match="cannot listen"), served(slides, port=taken.getsockname()[1]):
            pass


def test_the_verb_prints_its_address_and_ends_on_interrupt(slides):
    command = [sys.executable, "-c", "from pathflip.cli import main; main()", "view", str(slides), "--no-browser"]
    process = subprocess.Popen([*command, "--json"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        row = json.loads(process.stdout.readline())
        assert row["slides"] == 4
        for _ in range(100):
            try:
                assert httpx.get(row["url"]).status_code == 303
                break
            except httpx.TransportError:
                continue
    finally:
        process.send_signal(2)
        _, errors = process.communicate(timeout=20)
    assert "Traceback" not in errors


def test_the_bytes_kept_stay_below_their_limit():
    cache = ByteCache(100)
    for number in range(10):
        cache.put((number,), bytes(30))
        cache.get((0,))
    held = [number for number in range(10) if cache.get((number,)) is not None]
    assert held == [0, 8, 9], "what was used last stays"
    cache.put((9,), bytes(10))
    assert cache.get((8,)) is not None


def test_the_built_page_is_that_of_its_sources():
    import hashlib

    from pathflip.workbench.web_app import STATIC

    sources = Path(__file__).resolve().parents[1] / "workbench"
    if not sources.is_dir():
        pytest.skip("the page's sources are not beside the tests")
    names = ["index.html", "package-lock.json", "vite.config.ts"]
    names += [f"{folder}/{path.name}" for folder in ("src", "public") for path in (sources / folder).iterdir()]
    digest = hashlib.sha256()
    for name in sorted(names):
        digest.update(f"{name}\n".encode() + (sources / name).read_bytes())
    assert (STATIC / "sources.sha256").read_text().strip() == digest.hexdigest(), "run  make workbench"


def test_equal_names_in_two_folders_are_two_slides_and_an_ending_is_no_part_of_a_name(tmp_path, picture):
    for case, name in (("case_1", "same.tif"), ("case_2", "same.tif"), ("case_2", "other.ome.tif")):
        (tmp_path / case).mkdir(exist_ok=True)
        write_pyramid(tmp_path / case / name, [picture])
    with served(tmp_path) as running, client(running) as visitor:
        slides = visitor.get("/api/state").json()["slides"]
        assert sorted(slide["id"] for slide in slides) == ["case_1__same", "case_2__same", "other"]
        assert sorted(slide["folder"] for slide in slides) == ["case_1", "case_2", "case_2"]
        assert len({slide["key"] for slide in slides}) == 3


def test_slides_of_an_object_store_are_refused_in_one_line(tmp_path):
    with pytest.raises(ConfigError, match="copy them here"), served(Path("s3:/bucket/slides")):
        pass
