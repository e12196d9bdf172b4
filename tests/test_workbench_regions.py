"""Drawn regions: kept through crashes, never overwritten unseen, and the same in QuPath."""

import json
import os
import signal
import sqlite3
import subprocess
import sys
import threading
from pathlib import Path

import httpx
import pytest
import shapely

from pathflip.errors import ConfigError, FeatureError, OutputError
from pathflip.geometry import Box, SlideInfo
from pathflip.workbench.annotations import DATABASE_NAME, Annotations, ChangedElsewhereError, Region
from pathflip.workbench.region_geojson import export_regions, import_regions, valid_geometry
from slide_files import smooth_picture, write_pyramid
from workbench_server import client, key_of, served

BOX = {"type": "Polygon", "coordinates": [[[10, 10], [90, 10], [90, 60], [10, 60], [10, 10]]]}
BOW_TIE = {"type": "Polygon", "coordinates": [[[0, 0], [10, 10], [10, 0], [0, 10], [0, 0]]]}
HOLE = {
    "type": "Polygon",
    "coordinates": [
        [[0, 0], [100, 0], [100, 100], [0, 100], [0, 0]],
        [[20, 20], [20, 40], [40, 40], [40, 20], [20, 20]],
    ],
}
INFO = SlideInfo("s", (1000, 800), 0.5)
WITH_BOUNDS = SlideInfo("s", (1000, 800), 0.5, bounds0=Box(100, 50, 600, 500))


@pytest.fixture
def slides(tmp_path) -> Path:
    (tmp_path / "slides").mkdir()
    for number, name in enumerate(("a", "b")):
        write_pyramid(tmp_path / "slides" / f"{name}.tif", [smooth_picture(300, 400, seed=number)])
    return tmp_path / "slides"


# --- The database ----------------------------------------------------------------------------------------------------


def test_nothing_is_written_before_the_first_region(tmp_path):
    store = Annotations(tmp_path / "r.sqlite")
    assert store.of("a.tif") == []
    assert not (tmp_path / "r.sqlite").exists()
    store.add("a.tif", [Region("", BOX)])
    assert (tmp_path / "r.sqlite").exists()


def test_regions_are_kept_by_slide_and_come_back(tmp_path):
    store = Annotations(tmp_path / "r.sqlite")
    made = store.add("a.tif", [Region("", BOX, "nest", "Tumor", "#00ff00"), Region("", HOLE)])
    store.add("b.tif", [Region("", BOX)])
    store.close()
    again = Annotations(tmp_path / "r.sqlite")
    assert again.of("a.tif") == made
    assert len(again.of("b.tif")) == 1


def test_a_change_made_on_an_old_version_is_refused_with_the_current_one(tmp_path):
    ours, theirs = Annotations(tmp_path / "r.sqlite"), Annotations(tmp_path / "r.sqlite")
    region = ours.add("a.tif", [Region("", BOX, "first")])[0]
    changed = theirs.change("a.tif", Region(region.id, HOLE, "second", version=region.version))
    with pytest.raises(ChangedElsewhereError) as refused:
        ours.change("a.tif", Region(region.id, BOX, "third", version=region.version))
    assert refused.value.current == changed
    with pytest.raises(ChangedElsewhereError):
        ours.delete("a.tif", region.id, region.version)
    with pytest.raises(ChangedElsewhereError) as elsewhere:
        ours.delete("b.tif", region.id, changed.version)
    assert elsewhere.value.current is None
    theirs.delete("a.tif", region.id, changed.version)
    assert ours.of("a.tif") == []


def test_two_programs_may_write_at_once(tmp_path):
    stores = [Annotations(tmp_path / "r.sqlite") for _ in range(4)]
    threads = [
        threading.Thread(target=lambda s=store: [s.add("a.tif", [Region("", BOX)]) for _ in range(10)])
        for store in stores
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(Annotations(tmp_path / "r.sqlite").of("a.tif")) == 40


def test_programs_that_make_the_file_at_the_same_moment_share_it(tmp_path):
    """Twenty times, because what must not happen is a matter of a moment."""
    for number in range(20):
        path, failures = tmp_path / f"{number}.sqlite", []
        start = threading.Barrier(4)

        def draw(path=path, failures=failures, start=start):
            store = Annotations(path)
            start.wait()
            try:
                store.add("a.tif", [Region("", BOX)])
            except Exception as error:
                failures.append(error)

        threads = [threading.Thread(target=draw) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert failures == []
        assert len(Annotations(path).of("a.tif")) == 4


def test_a_change_by_another_program_is_noticed(tmp_path):
    ours, theirs = Annotations(tmp_path / "r.sqlite"), Annotations(tmp_path / "r.sqlite")
    ours.add("a.tif", [Region("", BOX)])
    before = ours.data_version()
    assert ours.data_version() == before
    theirs.add("a.tif", [Region("", BOX)])
    assert ours.data_version() != before


def test_a_killed_server_has_lost_nothing_it_answered(tmp_path, slides):
    command = [
        sys.executable,
        "-c",
        "from pathflip.cli import main; main()",
        "view",
        str(slides),
        "--no-browser",
        "--json",
    ]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    try:
        assert process.stdout is not None
        url = httpx.URL(json.loads(process.stdout.readline())["url"])
        with httpx.Client(base_url=f"http://{url.host}:{url.port}", headers={"X-PathFLIP": "1"}) as visitor:
            while True:
                try:
                    visitor.get("/", params=url.params)
                    break
                except httpx.TransportError:
                    continue
            path = f"/api/slides/{key_of(visitor, 'a')}/regions"
            answered = [visitor.post(path, json={"geometry": BOX}).json()["id"] for _ in range(5)]
    finally:
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
    stored = Annotations(slides / DATABASE_NAME).of("a.tif")
    assert [region.id for region in stored] == answered


def test_other_databases_and_places_that_cannot_be_written_are_refused(tmp_path):
    (tmp_path / "text.sqlite").write_text("this is no database, but long enough to look at" * 40)
    with pytest.raises(ConfigError, match="not a database"):
        Annotations(tmp_path / "text.sqlite")
    other = sqlite3.connect(tmp_path / "other.sqlite")
    other.execute("CREATE TABLE mine (x)")
    other.commit()
    other.close()
    with pytest.raises(ConfigError, match="another program"):
        Annotations(tmp_path / "other.sqlite")
    with pytest.raises(OutputError, match="no such folder"):
        Annotations(tmp_path / "absent" / "r.sqlite").add("a.tif", [Region("", BOX)])
    (tmp_path / "folder.sqlite").mkdir()
    with pytest.raises(OutputError, match="--annotations"):
        Annotations(tmp_path / "folder.sqlite")


# --- GeoJSON ---------------------------------------------------------------------------------------------------------


def test_an_outline_that_crosses_itself_becomes_its_parts():
    mended = shapely.geometry.shape(valid_geometry(BOW_TIE))
    assert mended.is_valid
    assert mended.area == pytest.approx(50)
    assert valid_geometry(HOLE)["coordinates"][1]
    unclosed = {"type": "Polygon", "coordinates": [BOX["coordinates"][0][:-1]]}
    assert shapely.geometry.shape(valid_geometry(unclosed)).equals(shapely.geometry.shape(BOX))


@pytest.mark.parametrize(
    "geometry",
    [
        None, 7, {}, {"type": "Polygon"}, {"type": "Polygon", "coordinates": []}, {"type": "Point", "coordinates": []},
        {"type": "Polygon", "coordinates": [[[0, 0], [1, 1]]]},
        {"type": "Polygon", "coordinates": [[[0, 0], [5, 0], [10, 0], [0, 0]]]},
        {"type": "Polygon", "coordinates": [[[0, 0], [float("nan"), 0], [1, 1], [0, 0]]]},
        {"type": "Polygon", "coordinates": [[["a", 0], [1, 0], [1, 1], [0, 0]]]},
        {"type": "Point", "coordinates": [1e300, 0]}, {"type": "LineString", "coordinates": [[0, 0], [1, 1]]},
        {"type": "GeometryCollection", "geometries": []}, {"type": ["x"], "coordinates": [0, 0]},
    ],
)  # fmt: skip
def test_what_is_no_region_is_refused_in_one_line(geometry):
    with pytest.raises(FeatureError, match=r"^nest (has|is) "):
        valid_geometry(geometry, "nest")


def test_export_and_import_bring_the_same_regions_back_past_the_bounds():
    point = {"type": "Point", "coordinates": [120.0, 70.0]}
    regions = [Region("1", HOLE, "hole", "Stroma", "#102030"), Region("2", point, "here", "", "#a0b0c0")]
    exported = export_regions(regions, WITH_BOUNDS)
    assert exported["type"] == "FeatureCollection"
    first = exported["features"][0]
    assert first["geometry"]["coordinates"][0][0] == [-100, -50], "QuPath's origin is the corner of the bounds"
    assert first["properties"]["classification"] == {"name": "Stroma", "color": [16, 32, 48]}
    back, left_out = import_regions(json.dumps(exported), WITH_BOUNDS)
    assert left_out == 0
    for was, now in zip(regions, back, strict=True):
        assert shapely.geometry.shape(now.geometry).equals(shapely.geometry.shape(was.geometry))
        assert (now.name, now.classification, now.color) == (was.name, was.classification, was.color)


def feature(geometry, **properties):
    return {"type": "Feature", "geometry": geometry, "properties": properties}


def test_other_writers_classes_are_understood_and_lines_are_counted():
    text = json.dumps(
        [
            feature(BOX, classification={"names": ["Tumor", "Positive"]}),
            feature(BOX, classification="Stroma"),
            feature(BOX, classification={"name": "Immune cells", "color": [1, 2, 3]}),
            feature(BOX, classification={"name": "Tumor", "colorRGB": -3670016}),
            feature(None, name="nothing"),
            feature({"type": "LineString", "coordinates": [[0, 0], [5, 5]]}),
            {"type": "Feature", "geometry": BOX, "properties": None},
        ]
    )
    regions, left_out = import_regions(text, INFO)
    assert [region.classification for region in regions] == ["Tumor: Positive", "Stroma", "Immune cells", "Tumor", ""]
    assert [region.color for region in regions[2:4]] == ["#010203", "#c80000"]
    assert left_out == 2


@pytest.mark.parametrize("text", ["", "{", "[1]", '{"type": "FeatureCollection", "features": 3}', "[" * 100_000])
def test_what_is_no_geojson_is_refused(text):
    with pytest.raises(FeatureError, match="GeoJSON"):
        import_regions(text, INFO)


def test_a_broken_object_is_named():
    text = json.dumps([feature(BOX), feature({"type": "Polygon", "coordinates": [[[0, 0], [1, 1]]]}, name="broken")])
    with pytest.raises(FeatureError, match=r"^object 1 \('broken'\) has"):
        import_regions(text, INFO)


# --- Over HTTP -------------------------------------------------------------------------------------------------------


def test_regions_are_drawn_changed_deleted_and_exchanged(slides):
    with served(slides) as running, client(running) as visitor:
        path = f"/api/slides/{key_of(visitor, 'a')}/regions"
        made = visitor.post(path, json={"geometry": BOW_TIE, "name": "<b>nest</b>"}).json()
        assert made["geometry"]["type"] == "MultiPolygon"
        fields = {"geometry": BOX, "name": "nest", "color": "#00ff00", "version": 1}
        changed = visitor.put(f"{path}/{made['id']}", json=fields)
        assert changed.json()["version"] == 2
        late = visitor.put(f"{path}/{made['id']}", json=fields)
        assert late.status_code == 409
        assert late.json()["current"]["version"] == 2
        assert visitor.delete(f"{path}/{made['id']}?version=1").status_code == 409
        for version in ("", "-1", "²", "9" * 40):
            assert visitor.delete(f"{path}/{made['id']}", params={"version": version}).status_code == 400
        exported = visitor.get(f"{path}.geojson")
        assert 'filename="a.geojson"' in exported.headers["Content-Disposition"]
        assert visitor.delete(f"{path}/{made['id']}?version=2").status_code == 200
        assert visitor.post(f"{path}.geojson", content=exported.content).json() == {"imported": 1, "left_out": 0}
        assert [region["name"] for region in visitor.get(path).json()["regions"]] == ["nest"]
        other = f"/api/slides/{key_of(visitor, 'b')}/regions"
        assert visitor.get(other).json()["regions"] == []


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ({"geometry": BOX, "color": "red; background: url(x)"}, 400),
        ({"geometry": BOX, "name": "x" * 501}, 400),
        ({"geometry": BOX, "slide": "../b"}, 400),
        ({"geometry": {"type": "Point", "coordinates": [None, 1]}}, 422),
        ({"geometry": []}, 400),
    ],
)
def test_regions_that_are_none_are_refused(slides, body, status):
    with served(slides) as running, client(running) as visitor:
        path = f"/api/slides/{key_of(visitor, 'a')}/regions"
        assert visitor.post(path, json=body).status_code == status
        assert visitor.get(path).json()["regions"] == []
    assert not (slides / DATABASE_NAME).exists()


def test_regions_go_to_the_file_that_was_named_and_two_servers_see_each_other(slides, tmp_path):
    database = tmp_path / "kept.sqlite"
    with (
        served(slides, annotations=database) as one, served(slides, annotations=database) as two,
        client(one) as first, client(two) as second,
    ):  # fmt: skip
        path = f"/api/slides/{key_of(first, 'a')}/regions"
        heard = []
        ready = threading.Event()

        def listen() -> None:
            with second.stream("GET", "/api/events", timeout=10) as events:
                for line in events.iter_lines():
                    ready.set()
                    if line.startswith("event: regions"):
                        heard.append(line)
                        return

        thread = threading.Thread(target=listen, daemon=True)
        thread.start()
        ready.wait(5)
        first.post(path, json={"geometry": BOX})
        thread.join(8)
        assert heard, "the other server's pages are told"
        assert len(second.get(path).json()["regions"]) == 1
    assert database.exists()
    assert not (slides / DATABASE_NAME).exists()
