"""The archive: filled bit by bit, searched in two stages, against the exhaustive scores it stands for."""

import json
import os
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from archive_model import write_model, write_slide_features
from pathflip.archive import Searcher, index_features, open_archive, read_facts
from pathflip.archive.covering import cover, from_int8, to_int8
from pathflip.archive.where import condition
from pathflip.errors import CaptionError, ConfigError, ContractError, FeatureError, OutputError
from pathflip.features import read_features
from pathflip.geometry import Box
from pathflip.inference import encode_slide, encode_text, load, retrieve
from pathflip.types import SlideCode

pytest.importorskip("lancedb")

QUERY = "Keratin pearls are seen in the upper left. No necrosis is identified."


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return load(write_model(tmp_path_factory.mktemp("model") / "m"), "cpu")


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("features")
    return [write_slide_features(folder, f"slide-{n}", 20 + 3 * n, seed=n) for n in range(6)]


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    path = tmp_path_factory.mktemp("labels") / "labels.csv"
    rows = ["slide,patient,organ,age"]
    rows += [f"slide-{n},P{n // 2},{'lung' if n % 2 else chr(39) + 's colon'},{50 + 10 * n}" for n in range(5)]
    path.write_text("\n".join(rows))
    return path


@pytest.fixture(scope="module")
def archive(model, files, table, tmp_path_factory):
    folder = tmp_path_factory.mktemp("archive") / "a"
    facts = read_facts([f.stem for f in files], labels=table)
    index_features(model, files, folder, facts=facts, patches_a_slide=40)
    return open_archive(folder)


# --- Covering patches ------------------------------------------------------------------------------------------------


def test_covering_patches_stand_for_all():
    rng = np.random.default_rng(0)
    kinds = rng.normal(size=(4, 16))
    patches = np.concatenate([kinds[np.repeat([0, 1, 2], 100)], kinds[3:]]) + 0.01 * rng.normal(size=(301, 16))
    chosen = cover(patches, 4)
    assert sorted(chosen.weight.tolist()) == [1, 100, 100, 100]  # the one patch of its kind is not lost
    assert chosen.weight.sum() == len(patches)
    unit = patches / np.linalg.norm(patches, axis=1, keepdims=True)
    cosine = (unit @ unit[chosen.rows].T).max(axis=1)
    assert chosen.mean_cosine == pytest.approx(cosine.mean(), abs=1e-6)
    assert chosen.min_cosine == pytest.approx(cosine.min(), abs=1e-6)


def test_covering_few_or_equal_patches():
    few = cover(np.eye(3), 5)
    assert few.rows.tolist() == [0, 1, 2]
    assert few.mean_cosine == few.min_cosine == 1
    equal = cover(np.ones((50, 4)), 8)
    assert equal.weight.sum() == 50
    assert equal.min_cosine == pytest.approx(1)


def test_int8_is_close():
    vectors = np.random.default_rng(0).normal(size=(30, 12)).astype(np.float32)
    error = np.abs(from_int8(*to_int8(vectors)) - vectors).max(axis=1)
    assert (error <= np.abs(vectors).max(axis=1) / 254 + 1e-6).all()


def test_a_weight_counts_as_so_many_patches(model):
    patches = F.normalize(torch.randn(3, 8, generator=torch.Generator().manual_seed(0)), dim=-1)
    times = torch.tensor([1, 5, 2])
    slide = torch.ones(1, 8)
    repeated = SlideCode(slide, patches.repeat_interleave(times, 0)[None], torch.ones(1, 8, dtype=torch.bool))
    weighted = SlideCode(slide, patches[None], torch.ones(1, 3, dtype=torch.bool), times[None].float())
    code = encode_text(model, ["Keratin pearls.", "No necrosis."])
    torch.testing.assert_close(model.net.presence(weighted, code), model.net.presence(repeated, code))
    similarity = model.net.patch_similarity(weighted, code)
    torch.testing.assert_close(model.net.presence(weighted, code, similarity), model.net.presence(repeated, code))


# --- Two stages against all patches ----------------------------------------------------------------------------------


def test_a_text_scores_as_in_exhaustive_retrieval(model, files, archive):
    slides = [encode_slide(model, read_features(path)) for path in files]
    scores = retrieve(model, slides, [QUERY]).gallery_normalised[:, 0]
    expected = {slide.slide_id: score for slide, score in zip(slides, scores, strict=True)}
    hits = Searcher(archive, model).by_text(QUERY)
    assert [hit.slide_id for hit in hits] == sorted(expected, key=lambda name: -expected[name])
    for hit in hits:  # all patches are stored: only the rounding to int8 differs
        assert hit.score == pytest.approx(expected[hit.slide_id], abs=0.05)
        assert len(hit.places) == 3
        assert hit.places[0].text.startswith("Keratin")  # where the denied thing is not is nowhere


def test_the_best_thousand_are_looked_at_again(model, archive):
    every = [hit.slide_id for hit in Searcher(archive, model).by_text(QUERY, k=6)]
    searcher = Searcher(archive, model, candidates=2)
    hits = searcher.by_text(QUERY, k=2)
    assert len(hits) == 2
    assert hits[0].slide_id == every[0]
    assert len(searcher.by_text(QUERY, k=5)) == 5


def test_a_slide_and_its_feature_file_find_the_same(model, files, archive):
    searcher = Searcher(archive, model)
    by_name, by_file = searcher.by_slide("slide-2"), searcher.by_slide(files[2])
    assert [hit.slide_id for hit in by_name] == [hit.slide_id for hit in by_file]
    assert len(by_name) == 5
    unit = {}
    for path in files:
        vector = encode_slide(model, read_features(path)).code.slide[0].numpy()
        unit[path.stem] = vector / np.linalg.norm(vector)
    for hit in by_file:
        assert hit.score <= (1 + unit[hit.slide_id] @ unit["slide-2"]) / 2 + 1e-3


def test_a_region_finds_the_slide_that_holds_it_again(model, files, archive, tmp_path):
    patches = {p.stem: encode_slide(model, read_features(p)).code.patches[0].numpy() for p in files}
    hits = Searcher(archive, model).by_region(files[3], Box(0, 0, 128, 128))
    wanted = patches["slide-3"][0]
    expected = {n: np.sort(v @ wanted)[-3:].mean() for n, v in patches.items() if n != "slide-3"}
    assert [hit.slide_id for hit in hits] == sorted(expected, key=lambda name: -expected[name])
    for hit in hits:
        assert hit.score == pytest.approx(expected[hit.slide_id], abs=0.01)
        best = int((patches[hit.slide_id] @ wanted).argmax())
        assert (hit.places[0].box.x, hit.places[0].box.y) == (best % 10 * 128, best // 10 * 128)
    assert [h.slide_id for h in Searcher(archive).by_region("slide-3", Box(0, 0, 128, 128))] == [
        h.slide_id for h in hits
    ]
    with pytest.raises(FeatureError, match="no patch there"):
        Searcher(archive, model).by_region("slide-3", Box(39000, 0, 100, 100))


# --- Conditions ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("where", "numbers"),
    [
        ("organ = 'lung'", {1, 3}),
        ("organ = '''s colon'", {0, 2, 4}),
        ("organ = 'lung' or age > 65 and not age >= 90", {1, 2, 3}),
        ("(organ = 'lung' or age > 65) and age < 75", {1, 2}),
        ("organ in ('lung', 'liver') and patient = 'P1'", {3}),
        ("organ not in ('lung')", {0, 2, 4}),
        ("organ is null", {5}),
        ("organ IS NOT NULL AND organ LIKE 'l%'", {1, 3}),
        ("age != 50 and \"organ\" <> 'lung'", {2, 4}),
        ("slide_id = 'slide-0'", {0}),
        ("organ > 5", set()),
        ("organ = 'lung''; DROP TABLE slides; --'", set()),
    ],
)
def test_conditions_choose_slides(archive, where, numbers):
    hits = Searcher(archive).by_slide("slide-5", where=f"{where}")
    assert {int(hit.slide_id[-1]) for hit in hits} == numbers - {5}


@pytest.mark.parametrize(
    "where",
    [
        "nosuch = 1", "organ = lung", "organ", "organ =", "organ = 'lung' age", "read_csv('/etc/passwd')", "1 = 1",
        "organ = 'lung'; delete from slides", "organ = (select 1)", "upper(organ) = 'LUNG'", "organ = 'lung' --",
        "(organ = 'lung'", "organ not = 'x'", "organ in ()", "label_1 = 'lung'", "vector is null", "organ = \"lung\"",
        "not " * 60 + "organ = 'x'", "organ = 'l" + "u" * 5000 + "'", "organ = 'unclosed",
    ],
)  # fmt: skip
def test_what_is_no_condition_is_refused(archive, where):
    with pytest.raises(ConfigError, match="--where"):
        condition(where, archive.columns)


# --- Queries that cannot be answered ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("Es findet sich kein Nachweis einer Nekrose, no necrosis.", "knows 2 of|several languages"),
        ("qwzzk xxqjv", "knows none"),
        ("壊死は認められない", "knows none"),
        ("1234 !?", "no word"),
        ("", "no word"),
    ],
)
def test_a_text_the_model_cannot_read_is_refused(model, archive, text, message):
    with pytest.raises(CaptionError, match=message):
        Searcher(archive, model).by_text(text)


def test_what_is_not_there_is_said(model, archive, tmp_path):
    with pytest.raises(ConfigError, match="neither a slide"):
        Searcher(archive).by_slide("nosuch")
    with pytest.raises(ConfigError, match="give --model"):
        Searcher(archive).by_text("Necrosis.")
    with pytest.raises(ConfigError, match="no archive there"):
        open_archive(tmp_path)
    with pytest.raises(ConfigError, match="k: got 0"):
        Searcher(archive).by_slide("slide-1", k=0)


# --- Writing ---------------------------------------------------------------------------------------------------------


def statuses(outcomes):
    return [outcome.status for outcome in outcomes]


def test_only_what_changed_is_encoded_and_labels_stay(model, table, tmp_path):
    files = [write_slide_features(tmp_path / "f", f"slide-{n}", 25, seed=n) for n in range(3)]
    (tmp_path / "f" / "broken.h5").write_bytes(b"no features")
    every, folder = [*files, tmp_path / "f" / "broken.h5"], tmp_path / "a"
    facts = read_facts([f.stem for f in every], labels=table)
    first = index_features(model, every, folder, facts=facts, patches_a_slide=8)
    assert statuses(first) == ["indexed"] * 3 + ["failed"]
    assert first[0].stored == 8
    assert first[0].min_cosine < first[0].mean_cosine < 1
    assert statuses(index_features(model, files, folder, patches_a_slide=8)) == ["unchanged"] * 3
    assert statuses(index_features(model, files, folder, facts=facts, patches_a_slide=8)) == ["unchanged"] * 3
    before = Searcher(open_archive(folder)).by_slide("slide-0")
    write_slide_features(tmp_path / "f", "slide-1", 26, seed=9)
    again = index_features(model, files, folder, patches_a_slide=8)
    assert statuses(again) == ["unchanged", "indexed", "unchanged"]
    after = {hit.slide_id: hit for hit in Searcher(open_archive(folder)).by_slide("slide-0")}
    assert after["slide-1"].labels == {"organ": "lung", "age": "60"}
    assert after["slide-1"].patient == "P0"
    assert after["slide-1"].score != next(hit for hit in before if hit.slide_id == "slide-1").score
    assert len(open_archive(folder)) == 3


def test_new_labels_are_added_later(model, files, tmp_path):
    folder, more = tmp_path / "a", tmp_path / "more.csv"
    index_features(model, files[:2], folder)
    more.write_text("slide,stain\nslide-1,HE\n")
    facts = read_facts(["slide-0", "slide-1"], labels=more)
    assert statuses(index_features(model, files[:2], folder, facts=facts)) == ["indexed"] * 2
    (hit,) = Searcher(open_archive(folder)).by_slide("slide-0", where="stain = 'HE'")
    assert hit.labels == {"stain": "HE"}


def test_vectors_of_another_model_are_refused(model, files, archive, tmp_path):
    other = load(write_model(tmp_path / "other", seed=1), "cpu")
    before = len(open_archive(archive.folder))
    with pytest.raises(ContractError, match="holds vectors of the model"):
        index_features(other, files, archive.folder, patches_a_slide=40)
    with pytest.raises(ContractError, match="holds vectors of the model"):
        Searcher(archive, other)
    with pytest.raises(ConfigError, match="keeps 40 patches"):
        index_features(model, files, archive.folder, patches_a_slide=41)
    assert len(open_archive(archive.folder)) == before


def test_a_folder_of_something_else_or_of_another_version_is_refused(model, files, tmp_path):
    (tmp_path / "report.txt").write_text("mine")
    with pytest.raises(ConfigError, match=r"holds 'report.txt'"):
        index_features(model, files, tmp_path)
    folder = tmp_path / "a"
    index_features(model, files[:1], folder)
    settings = json.loads((folder / "archive.json").read_text())
    (folder / "archive.json").write_text(json.dumps(settings | {"format_version": 9}))
    with pytest.raises(ConfigError, match="version 9"):
        open_archive(folder)
    (folder / "archive.json").write_text("{")
    with pytest.raises(FeatureError, match="damaged"):
        open_archive(folder)
    (folder / "archive.json").write_text(json.dumps(settings))
    manifests = {path: path.read_bytes() for path in (folder / "slides.lance").rglob("*.manifest")}
    for path in manifests:
        path.write_bytes(b"\0" * 50)
    with pytest.raises(FeatureError, match="damaged"):
        open_archive(folder)
    for path, whole in manifests.items():
        path.write_bytes(whole)
    for path in (folder / "slides.lance").rglob("*.lance"):
        path.write_bytes(b"\0" * path.stat().st_size)
    with pytest.raises(FeatureError, match="cannot be read"):
        Searcher(open_archive(folder)).by_slide("slide-0")


def run_script(model, features: Path, archive: Path, **options):
    script = Path(__file__).with_name("archive_model.py")
    words = [str(model.checkpoint.path), str(features), str(archive), json.dumps(options)]
    return subprocess.run([sys.executable, str(script), *words], capture_output=True, text=True)


def test_a_killed_run_goes_on(model, files, tmp_path):
    folder = tmp_path / "a"
    assert run_script(model, files[0].parent, folder, kill_at=4).returncode == -9
    written = len(open_archive(folder))
    assert written == 4
    outcomes = index_features(model, files, folder)
    assert statuses(outcomes) == ["unchanged"] * 4 + ["indexed"] * 2
    assert len(open_archive(folder)) == 6


def test_a_full_disk_loses_nothing(model, files, tmp_path):
    folder = tmp_path / "a"
    index_features(model, files[:2], folder)
    done = run_script(model, files[0].parent, folder, file_size=1500)
    assert done.returncode == 3, done.stderr
    assert done.stdout.startswith("OutputError")
    assert done.stdout.count("\n") == 1
    assert len(open_archive(folder)) == 2
    assert len(Searcher(open_archive(folder)).by_slide("slide-0")) == 1
    assert statuses(index_features(model, files, folder)) == ["unchanged"] * 2 + ["indexed"] * 4


def test_two_writers_lose_and_double_nothing(model, files, table, tmp_path, monkeypatch):
    monkeypatch.setattr("pathflip.archive.indexing.SLIDES_A_WRITE", 1)
    facts = read_facts([f.stem for f in files], labels=table)
    problems: list[Exception] = []

    def write(some):
        try:
            index_features(model, some, tmp_path / "a", facts=facts)
        except Exception as error:
            problems.append(error)

    threads = [threading.Thread(target=write, args=(part,)) for part in (files[:4], files[:1:-1])]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert problems == []
    held = open_archive(tmp_path / "a").rows(["slide_id"])["slide_id"]
    assert sorted(held) == [path.stem for path in files]


def test_a_folder_that_cannot_be_written_to(model, files, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError):
        index_features(model, files, tmp_path / "file" / "a")


def test_the_index_is_made_and_answers_as_a_scan(model, tmp_path, monkeypatch):
    monkeypatch.setattr("pathflip.archive.vector_tables.INDEX_FROM", 64)
    files = [write_slide_features(tmp_path / "f", f"s{n:03d}", 4, seed=n) for n in range(80)]
    index_features(model, files, tmp_path / "a")
    archive = open_archive(tmp_path / "a")
    indexed = {column for index in archive.table.list_indices() for column in index.columns}
    assert indexed == {"vector", "patch_vector", "text_vector"}
    query = np.zeros(8, np.float32)
    query[0] = 1
    exact, cosine = archive.nearest("vector", query, 10, exact=True)
    assert set(archive.nearest("vector", query, 10)[0]) == set(exact)  # 200 probes read all partitions
    stored = np.array(archive.rows(["vector"])["vector"], np.float32) @ query
    assert cosine == pytest.approx(np.sort(stored)[::-1][:10], abs=1e-5)


# --- The command line ------------------------------------------------------------------------------------------------


def test_index_and_search_from_the_command_line(model, files, table, tmp_path):
    def run(*words):
        command = [sys.executable, "-c", "from pathflip.cli import main; main()", *map(str, words)]
        return subprocess.run(command, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})

    folder = tmp_path / "a"
    done = run("index", files[0].parent, "--model", model.checkpoint.path, "--archive", folder, "--labels", table)
    assert done.returncode == 0, done.stderr
    assert "stand for all" in done.stdout
    done = run("search", "--archive", folder, "--text", QUERY, "--where", "organ = 'lung'", "--json")
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert {row["slide_id"] for row in rows} == {"slide-1", "slide-3"}
    assert rows[0]["rank"] == 1
    assert rows[0]["places"][0]["box"]["width"] == 128
    done = run("search", "--archive", folder, "--region", "slide-0:0,0,256,x")
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert "expected SLIDE:X,Y,WIDTH,HEIGHT" in done.stderr
