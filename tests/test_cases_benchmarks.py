"""Cases where numbers are published: benchmarks, few-shot, curve, and what retrieve and zero-shot do with parts."""

import json
from pathlib import Path

import numpy as np
import pytest

from case_run import TEXTS, runner, trained_on_cases
from pathflip.benchmarks.few_shot import BASELINE, MODEL, FewShotSpec, bags_of
from pathflip.benchmarks.prompts import CLASS_NAMES, WAYS
from pathflip.features import read_features
from pathflip.inference import encode_case, load, zero_shot

PARTS = "Part A: Necrosis is present. Part B: No necrosis is identified."


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    return trained_on_cases(tmp_path_factory.mktemp("cases"))


@pytest.fixture
def pathflip(monkeypatch, capsys, trained):
    """Runs a command in the folder of the cases: exit status, what it printed, messages."""
    return runner(trained, monkeypatch, capsys)


@pytest.fixture
def labels(tmp_path):
    """Labels of cases: all their slides are one item."""
    table = tmp_path / "labels.csv"
    table.write_text("slide,label\n" + "\n".join(f"c{i},{'LUAD' if i % 2 else 'LUSC'}" for i in range(6)) + "\n")
    return table


def result_of(folder):
    return json.loads((folder / "result.json").read_text())


def test_a_benchmark_of_cases_pools_their_slides(pathflip, labels, tmp_path):
    base = f"benchmark cptac-nsclc-zero-shot --data {labels} --model run/last --features F --other-set --resamples 2"
    status, _, messages = pathflip(f"{base} --out {tmp_path / 'o'}")
    assert (status, messages.count("\n")) == (2, 1)
    assert "none of its 6 slides has a feature file" in messages
    status, _, messages = pathflip(f"{base} --cases cases.csv --out {tmp_path / 'o'}")
    assert status == 0, messages
    assert "not a medical device" in messages
    assert (result_of(tmp_path / "o")["scored"], result_of(tmp_path / "o")["total"]) == (6, 6)
    items = (tmp_path / "o" / "items.csv").read_text().splitlines()
    model = load("run/last")
    encoded = encode_case(model, [read_features(f"F/c0{name}.h5") for name in "ab"], "c0")
    header, first = items[0].split(","), items[1].split(",")
    row = dict(zip(header, first, strict=True))
    classes = [name for name in header if name in ("LUAD", "LUSC")]
    answer = zero_shot(model, [encoded], {name: CLASS_NAMES["nsclc"][name] for name in classes}, WAYS[row["way"]])
    assert row["slide"] == "c0"
    assert [float(row[name]) for name in classes] == pytest.approx(answer.probabilities[0].tolist(), abs=2e-6)


def test_retrieval_of_cases_as_a_benchmark(pathflip, tmp_path):
    """The file's own cases, or those of --cases; a part a slide where slides are of several parts."""
    base = "benchmark slidebench-retrieval --model run/last --features F --other-set --resamples 2"
    status, out, messages = pathflip(f"{base} --data cases.csv --out {tmp_path / 'o'} --json")
    assert status == 0, messages
    assert result_of(tmp_path / "o")["scored"] == 6
    assert "not a medical device" in out
    rows = "".join(f"K{i};c{i}a;A;{PARTS}\nK{i};c{i}b;B;{PARTS}\n" for i in range(2))
    (tmp_path / "parts.csv").write_text(f"case;slide;part;report\n{rows}")
    status, _, messages = pathflip(f"{base} --data {tmp_path / 'parts.csv'} --out {tmp_path / 'p'}")
    assert status == 0, messages
    items = (tmp_path / "p" / "items.csv").read_text().splitlines()[1:]
    assert [item.split(",")[0] for item in items] == ["K0__A", "K0__B", "K1__A", "K1__B"]


def test_where_items_are_slides_cases_are_refused(pathflip, tmp_path):
    (tmp_path / "q.csv").write_text("Slide,Question,A,B,C,D,Answer\nc0a,Is it?,a,b,c,d,A\n")
    command = f"benchmark slidebench-vqa-tcga --data {tmp_path / 'q.csv'} --assistant run/last --features F --other-set"
    status, _, messages = pathflip(f"{command} --cases cases.csv --out {tmp_path / 'o'}")
    assert status != 0
    assert messages.count("\n") == 1
    assert not (tmp_path / "o").exists()


def test_few_shot_of_cases(pathflip, labels, tmp_path):
    base = f"few-shot --model run/last --features F --labels {labels} --shots 1 --seeds 2 --resamples 2"
    status, out, messages = pathflip(f"{base} --cases cases.csv --out {tmp_path / 'few.csv'}")
    assert status == 0, messages
    assert "not a medical device" in messages
    assert "1 a class" in out
    assert (tmp_path / "few.csv").read_text().count("not a medical device") == 4
    model = load("run/last")
    files = [Path(f"F/c0{name}.h5") for name in "ab"]
    bags = bags_of(model, {"c0": files}, FewShotSpec(patches=5), 0, lambda *_: None)
    read = [read_features(file) for file in files]
    together = encode_case(model, read, "c0").code.slide[0].numpy()
    np.testing.assert_allclose(bags[MODEL].slide["c0"], together, rtol=1e-5)
    every = np.concatenate([one.features[one.valid] for one in read])
    np.testing.assert_allclose(bags[BASELINE].slide["c0"], every.mean(0), rtol=1e-4)
    assert bags[MODEL].patches["c0"].shape[0] == bags[BASELINE].patches["c0"].shape[0] == 5


@pytest.mark.parametrize("told", ["by the captions", "by --cases"])
def test_a_curve_of_cases(pathflip, labels, tmp_path, told):
    short = "--seeds 1 --fraction 1 --set train.steps=1 --set train.batch_size=2 --set max_patches=4"
    files = f"--features F --splits splits.csv --out {tmp_path / 'curve'} --labels {labels} --json"
    captions = "cases.csv"
    if told == "by --cases":
        captions = tmp_path / "alone.csv"
        captions.write_text("slide,patient,text\n" + "".join(f"c{i},p{i},{TEXTS[i % 3]}\n" for i in range(6)))
        files += " --cases cases.csv"
    status, _, messages = pathflip(f"curve clip_mean --captions {captions} {files} {short}")
    assert status == 0, messages
    point = json.loads(next((tmp_path / "curve").rglob("point.json")).read_text())["row"]
    assert (point["patients"], point["slides"], len(point["test_hits"])) == (4, 8, 2)
    assert len(point["test_classes"]) == 2
    assert point["chance_r1"] == 0.5


def test_zero_shot_and_retrieve_take_parts_apart(pathflip, tmp_path):
    """As training and evaluation do: what part B denies is no caption of part A's slide."""
    (tmp_path / "parts.csv").write_text(f"case;slide;part;report\nK;c0a;A;{PARTS}\nK;c0b;B;{PARTS}\n")
    classes = "--classname necrosis --classname mucin"
    command = f"zero-shot --model run/last --features F {classes} --cases {tmp_path / 'parts.csv'}"
    status, out, messages = pathflip(f"{command} --json")
    rows = [json.loads(line) for line in out.splitlines()]
    assert status == 0, messages
    assert [(row["slide_id"], row["slides_of_case"]) for row in rows[:2]] == [("K__A", ["c0a"]), ("K__B", ["c0b"])]
    (tmp_path / "labels.csv").write_text("slide,label\nK,necrosis\nc1a,mucin\nc2a,mucin\nc3a,necrosis\n")
    status, out, messages = pathflip(f"{command} --labels {tmp_path / 'labels.csv'} --json")
    assert [json.loads(line)["slide_id"] for line in out.splitlines()[:1]] == ["K"], (
        messages
    )  # labels name the case as a whole
    _, out, messages = pathflip(f"{command} --labels {tmp_path / 'labels.csv'}")
    assert "not a medical device" in messages
    command = f"retrieve --model run/last --features F --captions {tmp_path / 'parts.csv'}"
    status, out, messages = pathflip(f"{command} --json")
    rows = [json.loads(line) for line in out.splitlines()]
    assert [(row["slide_id"], row["text"]) for row in rows[:2]] == [
        ("K__A", "Necrosis is present."), ("K__B", "No necrosis is identified."),
    ]  # fmt: skip
    assert {"K__A", "K__B"} <= {row["slide_id"] for row in rows[2:]}


def test_words_no_model_knows_and_the_caution_are_said_in_every_format(pathflip, tmp_path):
    (tmp_path / "odd.csv").write_text("slide,text\nc0a,Necrosis is present.\nc1a,Qwertz uiop.\n")
    base = f"retrieve --model run/last --features F --captions {tmp_path / 'odd.csv'}"
    _, out, messages = pathflip(f"{base} --out {tmp_path / 'r.csv'}")
    assert "no word of it" in out + messages or "unknown words" in out
    assert "unknown words" in out
    assert "not a medical device" in messages
    assert "not a medical device" in (tmp_path / "r.csv").read_text()
    _, out, _ = pathflip(f"{base} --json")
    rows = [json.loads(line) for line in out.splitlines()]
    assert rows[1]["warnings"]
    assert all(row["caution"] for row in rows)
    assert [hit.get("unknown_words", False) for hit in rows[-1]["captions"]] == [False, True]
    _, out, messages = pathflip(f"embed --model run/last --features F --out {tmp_path / 'e.npy'}")
    assert "not a medical device" in messages
