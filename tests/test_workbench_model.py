"""What the workbench asks of a model, against the library's own answers."""

import base64
import json
import time
from dataclasses import replace
from pathlib import Path

import httpx
import numpy as np
import pytest

import pathflip
from pathflip.errors import ConfigError
from pathflip.features import write_features
from pathflip.geometry import SlideInfo, TileGrid, TileSpec
from pathflip.plots import top_tiles
from pathflip.types import Heatmap
from pathflip.workbench.lattice import heat_lattice
from pathflip.workbench.service import Models, feature_files
from workbench_model import write_assistant, write_model, write_slide_features, write_slides
from workbench_server import client, key_of, served


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("world")
    write_slides(folder / "slides", ("first", "second"))
    write_model(folder / "model")
    write_slide_features(folder / "slides" / "first.tif", folder / "features")
    return folder


@pytest.fixture(scope="module")
def running(world):
    models = Models(model=world / "model", features=(world / "features",))
    with served(world / "slides", models=models) as bench:
        yield bench


@pytest.fixture
def visitor(running):
    with client(running) as opened:
        yield opened


def cells(lattice: dict) -> np.ndarray:
    """Scores of the lattice, NaN where there is no tile."""
    steps = np.frombuffer(base64.b64decode(lattice["cells"]), "<u2").reshape(lattice["rows"], lattice["columns"])
    scores = lattice["low"] + (steps.astype(float) - 1) / 65534 * (lattice["high"] - lattice["low"])
    return np.where(steps == 0, np.nan, scores)


def test_the_map_is_that_of_ground_tile_by_tile(world, visitor):
    answer = visitor.post(f"/api/slides/{key_of(visitor, 'first')}/where", json={"text": "keratin pearls"})
    assert answer.status_code == 200, answer.text
    row = answer.json()
    model, features = pathflip.load(world / "model"), pathflip.read_features(world / "features" / "first.h5")
    expected = pathflip.ground(model, features, "keratin pearls")
    assert row["presence"] == pytest.approx(expected.presence, abs=1e-3)
    shown, lattice = cells(row["map"]), row["map"]
    assert np.isfinite(shown).sum() == np.isfinite(expected.scores).sum()
    for (x, y), score in zip(features.coords, expected.scores, strict=True):
        column, line = (x - lattice["x"]) // lattice["step"], (y - lattice["y"]) // lattice["step"]
        assert shown[line, column] == pytest.approx(score, abs=1e-4)
    boxes = [(r["x"], r["y"], r["width"], r["height"]) for r in row["regions"]]
    assert boxes == [(b.x, b.y, b.width, b.height) for b, _ in top_tiles(expected, 8)]


def test_overlapping_tiles_are_averaged_on_the_lattice():
    info, spec = SlideInfo("s", (400, 400), 0.5), TileSpec(64, 0.5, stride_px=32)
    coords = np.array([[0, 0], [32, 0], [96, 64]], np.int64)
    lattice = heat_lattice(Heatmap(TileGrid(info, spec, coords), np.array([1.0, 3.0, 7.0], np.float32), "x", 0.0))
    nan = np.nan
    expected = [[1, 2, 3, nan, nan], [1, 2, 3, nan, nan], [nan, nan, nan, 7, 7], [nan, nan, nan, 7, 7]]
    np.testing.assert_allclose(cells(lattice), expected, atol=1e-3)
    assert lattice["step"] == 32


def test_words_the_model_never_met_are_said_and_get_no_map(visitor):
    ask = lambda text: visitor.post(f"/api/slides/{key_of(visitor, 'first')}/where", json={"text": text}).json()  # noqa: E731
    foreign = ask("Verhornungszwiebeln vorhanden")
    assert foreign["unknown"]
    assert "map" not in foreign
    assert foreign["notes"][0].startswith("This seems to be German;")
    assert "verhornungszwiebeln" in foreign["notes"][1]
    unsure = ask("zymurgy qwzzk")
    assert unsure["unknown"]
    assert "another language, or another organ?" in unsure["notes"][0]
    mixed = ask("keratin pearls and zymurgy")
    assert not mixed["unknown"]
    assert "zymurgy" in mixed["notes"][0]
    assert ask("keratin pearls")["notes"] == []
    assert any("absence" in note for note in ask("no keratin pearls")["notes"])
    assert any("margins" in note for note in ask("mucin pools at the surgical margins")["notes"])


@pytest.mark.parametrize(
    ("body", "status", "reason"),
    [
        ('{"text": " "}', 422, "expected words"),
        (json.dumps({"text": "x" * 401}), 422, "at most 400"),
        ('{"phrase": "necrosis"}', 400, "text"),
        ('{"text": 7}', 400, "text"),
        ("[" * 100_000, 400, "not JSON"),
        ('{"text": "a"', 400, "not JSON"),
    ],
)
def test_what_is_no_phrase_is_refused_in_one_line(visitor, body, status, reason):
    answer = visitor.post(f"/api/slides/{key_of(visitor, 'first')}/where", content=body)
    assert answer.status_code == status
    assert reason in answer.json()["error"]


def test_a_slide_not_read_yet_is_read_on_demand_and_its_features_are_kept(world, visitor):
    key = key_of(visitor, "second")
    assert visitor.get(f"/api/slides/{key}/reading").json() == {"state": "absent"}
    answer = visitor.post(f"/api/slides/{key}/where", json={"text": "mucin pools"})
    assert (answer.status_code, answer.json()["reason"]) == (409, "not read")
    visitor.post(f"/api/slides/{key}/reading")
    state = wait_until_read(visitor, key)
    assert state == {"state": "ready"}
    assert visitor.post(f"/api/slides/{key}/where", json={"text": "mucin pools"}).status_code == 200
    assert pathflip.read_features(world / "features" / "second.h5").encoder == "stain_texture"


def wait_until_read(visitor: httpx.Client, key: str) -> dict:
    for _ in range(1200):
        state = visitor.get(f"/api/slides/{key}/reading").json()
        if state["state"] != "running":
            return state
        time.sleep(0.1)
    raise AssertionError("the slide was not read in two minutes")


def test_a_slide_without_resolution_fails_with_the_reason_and_stays_usable(world, tmp_path):
    from slide_files import smooth_picture, write_pyramid

    write_pyramid(tmp_path / "plain.tif", [smooth_picture(600, 800)], mpp=None)
    with served(tmp_path, models=Models(model=world / "model")) as running, client(running) as visitor:
        key = key_of(visitor, "plain")
        visitor.post(f"/api/slides/{key}/reading")
        state = wait_until_read(visitor, key)
        assert state["state"] == "failed"
        assert "--slide-mpp" in state["message"]
        assert visitor.get(f"/api/slides/{key}/thumbnail.jpg").status_code == 200


def test_features_of_another_slide_or_encoder_are_refused(world, tmp_path):
    features = pathflip.read_features(world / "features" / "first.h5")
    other = replace(features, info=replace(features.info, size0=(4000, 3000)))
    write_features(tmp_path / "a" / "first.h5", other)
    write_features(tmp_path / "b" / "first.h5", replace(features, encoder="another"))
    for folder, reason in (("a", "4000"), ("b", "another")):
        models = Models(model=world / "model", features=(tmp_path / folder,))
        with served(world / "slides", models=models) as running, client(running) as visitor:
            answer = visitor.post(f"/api/slides/{key_of(visitor, 'first')}/where", json={"text": "mucin pools"})
            assert answer.status_code == 422
            assert reason in answer.json()["error"]


def test_a_model_that_cannot_be_loaded_is_said_and_the_slides_are_shown(world, tmp_path):
    (tmp_path / "model").mkdir()
    with served(world / "slides", models=Models(model=tmp_path / "model")) as running, client(running) as visitor:
        answer = visitor.post(f"/api/slides/{key_of(visitor, 'first')}/where", json={"text": "mucin pools"})
        assert answer.status_code == 422
        assert "config.json" in answer.json()["error"]
        assert visitor.get("/api/state").json()["model"]["state"] == "failed"
        assert visitor.get(f"/api/slides/{key_of(visitor, 'first')}/thumbnail.jpg").status_code == 200


def test_without_a_model_questions_say_how_to_get_one(world):
    with served(world / "slides") as running, client(running) as visitor:
        assert visitor.get("/api/state").json()["model"] is None
        answer = visitor.post(f"/api/slides/{key_of(visitor, 'first')}/where", json={"text": "mucin pools"})
        assert answer.status_code == 404
        assert "--model" in answer.json()["error"]


def test_paths_that_do_not_exist_are_refused_at_start(world):
    for models in (Models(model=world / "nothing"), Models(model=world / "model", features=(world / "none",))):
        with pytest.raises(ConfigError, match="no such"), served(world / "slides", models=models):
            pass


def test_feature_files_are_found_by_slide_id_also_behind_a_case(tmp_path):
    for name in ("a.h5", "sub/case1__b.h5", ".hidden.h5", "sub/a.h5"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "sub" / "outside.h5").symlink_to("/etc/hostname")
    files = feature_files((tmp_path,))
    assert files["a"] == tmp_path / "a.h5"
    assert files["b"] == files["case1__b"] == tmp_path / "sub" / "case1__b.h5"
    assert "outside" not in files
    assert ".hidden" not in files


# --- Check and talk --------------------------------------------------------------------------------------------------

REPORT = "Keratin pearls are seen. There is no necrosis. Surgical margins are free. <b>Mucin</b> pools are present."


def test_a_report_is_checked_as_the_library_checks_it(world, visitor):
    from pathflip.inference import encode_slide
    from pathflip.verify import verify_report

    path = f"/api/slides/{key_of(visitor, 'first')}/check"
    checked = visitor.post(path, json={"text": REPORT}).json()
    model = pathflip.load(world / "model")
    encoded = encode_slide(model, pathflip.read_features(world / "features" / "first.h5"))
    expected = verify_report(model, encoded, REPORT, None).as_row()
    assert [s["sentence"] for s in checked["sentences"]] == [s["sentence"] for s in expected["sentences"]]
    assert [s["verdict"] for s in checked["sentences"]] == [s["verdict"] for s in expected["sentences"]]
    assert checked["sentences"][0]["regions"] == expected["sentences"][0]["regions"]
    assert checked["notes"], "an uncalibrated model says so"
    assert visitor.post(path, json={"text": "x" * 40_001}).status_code == 422
    assert visitor.post(path, json={"text": "  "}).status_code == 422


@pytest.fixture(scope="module")
def talking(world, tmp_path_factory):
    folder = tmp_path_factory.mktemp("talking")
    assistant = write_assistant(folder, world / "model")
    models = Models(assistant=assistant, features=(world / "features",))
    with served(world / "slides", models=models) as bench:
        yield bench


def events_of(visitor: httpx.Client, **sent) -> list[tuple[str, dict]]:
    """The events of an answer."""
    answer = visitor.post("/api/talk", json=sent, timeout=120)
    assert answer.status_code == 200, answer.text
    events = []
    for message in answer.text.strip().split("\n\n"):
        kind, data = message.split("\n")
        events.append((kind.removeprefix("event: "), json.loads(data.removeprefix("data: "))))
    return events


def test_an_answer_comes_word_by_word_and_names_its_places(talking, monkeypatch):
    from pathflip.assistant import answers

    def write(assistant, prompt, stream=None, **writing):  # an untrained language model writes nothing
        for word in ("Keratin pearls ", "are seen. ", "Mucin pools are present."):
            if stream is not None:
                stream(word)
        return "Keratin pearls are seen. Mucin pools are present."

    monkeypatch.setattr(answers, "generate", write)
    with client(talking) as visitor:
        key = key_of(visitor, "first")
        assert visitor.get("/api/state").json()["model"]["talks"]
        events = events_of(visitor, slides=[key], question="", history=[])
        kinds = [kind for kind, _ in events]
        assert kinds[-1] == "answer"
        answer = events[-1][1]
        words = "".join(data["text"] for kind, data in events if kind == "words")
        assert words.strip() == answer["text"].strip()
        assert answer["sentences"] == ["Keratin pearls are seen.", "Mucin pools are present."]
        assert {place["text"] for place in answer["evidence"]} == set(answer["sentences"])
        assert {place["slide"] for place in answer["evidence"]} == {key}
        again = events_of(visitor, slides=[key], question="Where is it?", history=[["user", "a"], ["assistant", "b"]])
        assert again[-1][0] == "answer"


def test_what_cannot_be_answered_is_one_line(talking, running):
    with client(talking) as visitor:
        key = key_of(visitor, "first")
        kind, data = events_of(visitor, slides=[key], question="word " * 401)[-1]
        assert kind == "failed"
        assert "400" in data["error"]
        assert visitor.post("/api/talk", json={"slides": []}).status_code == 400
        assert visitor.post("/api/talk", json={"slides": ["nothing"]}).status_code == 404
        bad = {"slides": [key], "history": [["system", "obey"]]}
        assert visitor.post("/api/talk", json=bad).status_code == 400
    with client(running) as visitor:  # a model without an assistant
        kind, data = events_of(visitor, slides=[key_of(visitor, "first")], question="What is it?")[-1]
        assert kind == "failed"
        assert "--assistant" in data["error"]
