"""Cases on the command line: trained on, measured, retrieved, classified, verified; what is left out is counted."""

import json
import shutil

import numpy as np
import pytest

from case_run import TEXTS, runner, trained_on_cases


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    return trained_on_cases(tmp_path_factory.mktemp("cases"))


@pytest.fixture
def pathflip(monkeypatch, capsys, trained):
    """Runs a command in the folder of the cases: exit status, rows, messages."""
    printed_by = runner(trained, monkeypatch, capsys)

    def run(command: str):
        status, out, messages = printed_by(command)
        return status, [json.loads(line) for line in out.splitlines()] if "--json" in command else out, messages

    return run


def test_eval_counts_what_it_measures(pathflip):
    base = "eval --model run/last --features F --captions cases.csv"
    status, rows, printed = pathflip(f"{base} --splits splits.csv --split test")
    assert status == 0
    assert "2 slides or cases of 2 patients, 2 distinct texts" in printed
    assert "trained on" not in printed
    status, rows, printed = pathflip(f"{base} --json")
    assert "8 of 12 slides and 4 of 6 patients were trained on" in printed
    assert "not a medical device" in rows[0].pop("caution")
    assert rows[0] | {"value": 0, "low": 0, "high": 0} == {
        "measure": "R@1 slide → text", "value": 0, "low": 0, "high": 0, "chance": pytest.approx(1 / 3),
        "note": "6 reports are 3 distinct texts: equal ones count as right", "slides": 6, "patients": 6, "texts": 3,
    }  # fmt: skip
    status, _, printed = pathflip(f"{base} --split test")
    assert (status, printed.count("\n")) == (2, 1)
    assert "give --splits" in printed


def test_what_has_no_partner_is_refused_in_one_line_or_passed_over(pathflip, trained, tmp_path):
    features = tmp_path / "some"
    features.mkdir()
    for name in ("c0a", "c0b", "c1a", "c2a", "c2b"):
        shutil.copy(trained / "F" / f"{name}.h5", features)
    shutil.copy(trained / "F" / "c5a.h5", features / "stray.h5")
    command = f"eval --model run/last --features {features} --captions cases.csv"
    status, _, printed = pathflip(command)
    assert (status, printed.count("\n")) == (1, 1)
    for words in ("1 (stray) without a caption", "3 (c3, c4, c5) without features", "1 (c1) with features of some"):
        assert words in printed
    status, rows, printed = pathflip(f"{command} --allow-missing --json")
    assert (status, rows[0]["slides"]) == (0, 3)
    assert "passed over" in printed
    sets = "--set train.steps=1 --set train.batch_size=2 --set text.pretrained= --set max_patches=4"
    train = f"train align_base --features {features} --captions cases.csv --out {tmp_path / 'out'} {sets}"
    status, _, printed = pathflip(train)
    assert status == 1
    for words in ("1 (stray) without a caption", "1 (c1) with features of some of their slides only"):
        assert words in printed
    status, _, printed = pathflip(f"{train} --allow-missing")
    assert status == 0
    assert "3 (c3, c4, c5) without features" in printed


def test_train_says_on_what(pathflip, tmp_path):
    sets = "--set train.steps=1 --set train.batch_size=2 --set text.pretrained= --set max_patches=4"
    train = f"train align_base --features F --captions cases.csv --splits splits.csv --out {tmp_path / 'out'} {sets}"
    status, _, printed = pathflip(f"{train} --split test")
    assert status == 0
    assert "test: 4 slides, 2 reports (2 distinct texts)" in printed


def test_retrieval_and_zero_shot_of_cases(pathflip, trained, tmp_path):
    status, rows, _ = pathflip("retrieve --model run/last --features F --captions cases.csv --json")
    assert status == 0
    assert [row["slide_id"] for row in rows[6:]] == [f"c{i}" for i in range(6)]
    assert len(rows[0]["slides"]) == 5
    command = "zero-shot --model run/last --features F --classname necrosis --classname mucin --json"
    status, rows, _ = pathflip(f"{command} --cases cases.csv")
    assert [(row["slide_id"], row["slides_of_case"]) for row in rows][:2] == [
        ("c0", ["c0a", "c0b"]), ("c1", ["c1a", "c1b"]),
    ]  # fmt: skip
    (tmp_path / "two.csv").write_text("case,slide\nK,c0a\nK,c1a\n")
    status, rows, printed = pathflip(f"{command} --cases {tmp_path / 'two.csv'}")
    assert [row["slide_id"] for row in rows][:2] == ["K", "c0b"]
    assert "10 slides are of no case" in printed
    for i in range(2):
        (tmp_path / f"k{i}").mkdir()
        for name in "ab":
            shutil.copy(trained / "F" / f"c{i}{name}.h5", tmp_path / f"k{i}")
    folders = f"--features {tmp_path / 'k0'} --features {tmp_path / 'k1'}"
    _, rows, _ = pathflip(f"zero-shot --model run/last {folders} --classname a --classname b --cases folders --json")
    assert [row["slide_id"] for row in rows] == ["k0", "k1"]
    status, _, printed = pathflip(f"{command} --cases {trained / 'splits.csv'}")
    assert status == 2
    assert "names none of the slides" in printed


def test_a_case_is_verified_over_its_slides_and_every_region_names_its_own(pathflip, tmp_path):
    status, rows, _ = pathflip(f"verify F cases.csv --model run/last --out {tmp_path / 'o'} --json")
    assert status == 0
    assert [row["slide_id"] for row in rows] == [f"c{i}" for i in range(6)]
    (sentence,) = rows[0]["sentences"]
    assert sentence["sentence"] == TEXTS[0]
    assert {region["slide"] for region in sentence["regions"]} <= {"c0a", "c0b"}
    scores = [region["score"] for region in sentence["regions"]]
    assert scores == sorted(scores, reverse=True)
    names = [file.rpartition("/")[2] for file in rows[0]["files"]]
    assert names == ["c0.verify.html", "c0.verify.json", "c0.verify.c0a.geojson", "c0.verify.c0b.geojson"]
    drawn = [len(json.loads((tmp_path / "o" / name).read_text())["features"]) for name in names[2:]]
    assert sum(drawn) == len(sentence["regions"])
    assert "slide c0" in (tmp_path / "o" / names[0]).read_text()


def test_a_phrase_is_shown_on_every_slide_of_a_case(pathflip, tmp_path):
    command = f"ground --model run/last --features F --out {tmp_path / 'g'}"
    status, rows, _ = pathflip(f"{command} --cases cases.csv --text necrosis --text mucin --json")
    assert status == 0
    assert [(row["case"], row["slide_id"], row["text"]) for row in rows[:4]] == [
        ("c0", "c0a", "necrosis"), ("c0", "c0a", "mucin"), ("c0", "c0b", "necrosis"), ("c0", "c0b", "mucin"),
    ]  # fmt: skip
    assert rows[0]["presence_in_case"] == rows[2]["presence_in_case"]
    assert len({file for row in rows for file in row["files"]}) == 12 * 2 * 2
    status, _, printed = pathflip(f"{command} --text a --slide x.svs")
    assert (status, printed.count("\n")) == (2, 1)
    assert "12 feature files" in printed


def test_embeddings_of_cases(pathflip, tmp_path):
    """A case's row is the vector that zero-shot and retrieval compare: of the patches of all its slides."""
    from pathflip.features import read_features
    from pathflip.inference import encode_case, load

    out = tmp_path / "e.npy"
    status, rows, _ = pathflip(f"embed --model run/last --features F --cases cases.csv --out {out} --json")
    assert (status, rows[0]["rows"]) == (0, 6)
    slides = [read_features(f"F/c0{name}.h5") for name in "ab"]
    patches = sum(int(one.valid.sum()) for one in slides)
    assert (tmp_path / "e.csv").read_text().splitlines()[:2] == ["case,slides,patches", f'c0,"c0a, c0b",{patches}']
    encoded = encode_case(load("run/last"), slides, "c0")
    np.testing.assert_allclose(np.load(out)[0], encoded.code.slide[0].numpy(), rtol=1e-5)
    status, _, printed = pathflip(f"embed --model run/last --features F --cases cases.csv --patches --out {out}")
    assert status == 2
    assert "--cases gives a row a case" in printed


def test_each_part_is_held_against_its_own_slides(pathflip, tmp_path):
    """What part B denies is not asked of part A, whose report affirms it."""
    report = "Part A: Necrosis is present. Part B: No necrosis is identified."
    (tmp_path / "parts.csv").write_text(f"case;slide;part;report\nK;c0a;A;{report}\nK;c0b;B;{report}\n")
    status, rows, _ = pathflip(f"verify F {tmp_path / 'parts.csv'} --model run/last --out {tmp_path / 'o'} --json")
    assert status == 1  # the slides without a report are named
    by_name = {row["slide_id"]: row for row in rows if "sentences" in row}
    assert by_name.keys() == {"K__A", "K__B"}
    for name, own, other in (("K__A", "c0a", "No necrosis is identified."), ("K__B", "c0b", "Necrosis is present.")):
        judged = {one["sentence"]: one for one in by_name[name]["sentences"]}
        assert judged[other]["verdict"] == "not visible"
        regions = [region["slide"] for one in judged.values() for region in one["regions"]]
        assert set(regions) <= {own}
