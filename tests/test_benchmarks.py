"""Benchmarks as such: the list, a result's file and page, missing items, wrong files. Their rows are tested apart."""

import json

import pytest
from typer.testing import CliRunner

from benchmark_files import answer_rows, question_rows, write_csv, write_lines
from pathflip import __version__
from pathflip.benchmarks import PROTOCOLS, read_result, run_benchmark
from pathflip.benchmarks.protocol import Inputs
from pathflip.benchmarks.result import digest_of_path
from pathflip.benchmarks.result_page import verdict
from pathflip.benchmarks.test_sets import KnownSet, content_hash, recognise
from pathflip.cli import app
from pathflip.errors import CaptionError, ConfigError, OutputError

VQA = "slidebench-vqa-tcga"


def cli(*words):
    return CliRunner().invoke(app, [str(word) for word in words])


@pytest.fixture
def files(tmp_path):
    questions = question_rows()
    data = write_csv(tmp_path / "vqa.csv", questions)
    return data, write_csv(tmp_path / "said.csv", answer_rows(questions, 9)), tmp_path


def inputs(data, predictions, **more):
    return Inputs(**{"data": data, "predictions": predictions, "other_set": True, "resamples": 50, **more})


def test_the_list_names_protocol_metric_needs_and_published_values():
    done = cli("benchmark", "--json")
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert [row["name"] for row in rows] == list(PROTOCOLS)
    assert all({"name", "protocol", "metric", "needs", "published"} <= row.keys() for row in rows)
    assert next(r for r in rows if r["name"] == VQA)["published"][0]["value"] == 0.8611


def test_a_result_says_all_that_is_needed_to_trust_it(files):
    data, predictions, folder = files
    result = run_benchmark(VQA, inputs(data, predictions), folder / "out")
    assert result == json.loads((folder / "out" / "result.json").read_text()) == read_result(folder / "out")
    assert result["metric"]["value"] == 9 / 12
    assert result["metric"]["low"] <= 9 / 12 <= result["metric"]["high"]
    assert result["chance_level"] == 0.25
    assert result["text_only"] is None
    assert (result["scored"], result["total"], result["skipped"]["number"]) == (12, 12, 0)
    assert result["test_set"]["sha256"] == digest_of_path(data)
    assert result["model"]["sha256"] == digest_of_path(predictions)
    assert result["pathflip_version"] == __version__
    page = (folder / "out" / "result.html").read_text()
    assert "0.750" in page
    assert "not run here" in page
    assert "<script" not in page
    assert "of other items than those scored here" in page


def test_predictions_as_json_lines_score_the_same(files):
    data, predictions, folder = files
    lines = [{"id": row["ID"], "output": row["Output"]} for row in answer_rows(question_rows(), 9)]
    first = run_benchmark(VQA, inputs(data, predictions), folder / "a")
    again = run_benchmark(VQA, inputs(data, write_lines(folder / "said.jsonl", lines)), folder / "b")
    assert first["scores"] == again["scores"]


def test_missing_predictions_never_shrink_the_set_in_silence(files):
    data, _, folder = files
    some = write_csv(folder / "some.csv", answer_rows(question_rows(), 9)[:8])
    with pytest.raises(ConfigError, match=r"4 of 12 questions cannot be scored \(no prediction.*--allow-missing"):
        run_benchmark(VQA, inputs(data, some), folder / "out")
    assert not (folder / "out").exists()
    result = run_benchmark(VQA, inputs(data, some, allow_missing=True), folder / "out")
    assert (result["scored"], result["total"]) == (8, 12)
    assert result["skipped"]["reasons"] == {"no prediction": 4}
    assert result["scores"][1]["group"] == "all, missing counted as wrong"
    assert result["scores"][1]["value"] == pytest.approx(8 / 12)
    assert "9,no prediction" in (folder / "out" / "skipped.csv").read_text()


def test_unread_answers_count_as_wrong_and_are_given_apart(files):
    data, _, folder = files
    rows = answer_rows(question_rows(), 12)
    rows[0]["Output"] = "A or B"
    result = run_benchmark(VQA, inputs(data, write_csv(folder / "u.csv", rows)), folder / "out")
    assert result["metric"]["value"] == pytest.approx(11 / 12)
    parsed = next(s for s in result["scores"] if "parsed only" in s["measure"])
    assert (parsed["value"], parsed["number"]) == (1.0, 11)
    assert "1 ambiguous" in result["scores"][0]["note"]


def test_text_only_answers_give_a_paired_difference_and_mcnemar(files):
    data, predictions, folder = files
    blind = write_csv(folder / "blind.csv", answer_rows(question_rows(), 3))
    headline = run_benchmark(VQA, inputs(data, predictions, text_only=blind), folder / "out")["scores"][0]
    assert headline["text_only"] == 0.25
    assert headline["difference"] == 0.5
    assert headline["p_value"] == pytest.approx(2 * 0.5**6)  # six questions won, none lost


def test_two_systems_on_the_same_items_are_compared_pair_by_pair(files):
    data, predictions, folder = files
    worse = write_csv(folder / "worse.csv", answer_rows(question_rows(), 3))
    result = run_benchmark(VQA, inputs(data, predictions, against=worse), folder / "out")
    row = result["scores"][0]["paired"]["worse.csv"]
    assert (row["value"], row["difference"]) == (0.25, 0.5)
    assert row["p_value"] == pytest.approx(2 * 0.5**6)  # six questions won, none lost
    assert 0 < row["low"] <= 0.5 <= row["high"]
    assert result["against"]["sha256"] == digest_of_path(worse)
    assert "worse.csv: <b" in (folder / "out" / "result.html").read_text()
    both = run_benchmark(VQA, inputs(data, worse, against=folder / "out"), folder / "reverse")
    back = both["scores"][0]["paired"]["said.csv"]
    assert back["difference"] == -0.5
    assert (back["low"], back["high"]) == pytest.approx((-row["high"], -row["low"]))
    done = cli("benchmark", VQA, "--data", data, "--predictions", predictions, "--against", worse, "--other-set",
               "--resamples", 50, "--out", folder / "out")  # fmt: skip
    assert "minus worse.csv +0.500" in done.stdout
    assert "McNemar p 0.031" in done.stdout


def test_the_verdict_is_by_the_paired_interval_where_there_is_one():
    plain = {"value": 0.6, "low": 0.5, "high": 0.7, "baselines": {"constant": 0.55}, "text_only": None}
    assert verdict(plain, 0.25) == "not above answering without the slide"
    assert verdict(plain | {"paired": {"constant": {"low": 0.01}}}, 0.25) == ""
    assert verdict(plain | {"low": 0.58, "paired": {"constant": {"low": -0.01}}}, 0.25).startswith("not above")
    unaware = {"baselines": {}, "text_only": 0.3, "difference_low": -0.1}
    assert verdict(plain | unaware, 0.25).startswith("not above")
    assert verdict(plain | unaware | {"difference_low": 0.1}, 0.25) == ""
    assert verdict(plain | {"low": 0.2}, 0.25) == "at chance"


def test_every_accuracy_is_compared_with_the_baselines_that_look_at_nothing(files):
    data, predictions, folder = files
    score = run_benchmark(VQA, inputs(data, predictions), folder / "out")["scores"][0]
    assert score["paired"].keys() == {"constant", "longest"}
    assert score["paired"]["constant"]["difference"] == pytest.approx(9 / 12 - 0.25)


@pytest.mark.parametrize(
    ("rows", "says"),
    [
        (slice(0, 8), "--against: slidebench-vqa-tcga: 4 of 12 questions cannot be scored"),
        (None, "expected a file of predictions, the directory of a model or assistant"),
    ],
)
def test_what_cannot_be_compared_is_refused_and_nothing_is_written(files, rows, says):
    data, predictions, folder = files
    other = folder / "empty"
    other.mkdir()
    if rows is not None:
        other = write_csv(folder / "some.csv", answer_rows(question_rows(), 9)[rows])
    with pytest.raises(ConfigError, match=says):
        run_benchmark(VQA, inputs(data, predictions, against=other), folder / "out")
    assert not (folder / "out").exists()


def test_results_of_other_items_or_another_bootstrap_are_not_paired(files):
    data, predictions, folder = files
    some = write_csv(folder / "some.csv", answer_rows(question_rows(), 9)[:8])
    run_benchmark(VQA, inputs(data, some, allow_missing=True), folder / "some")
    with pytest.raises(CaptionError, match="scored 8 items, this one 12, and they are not the same; '9' is in one"):
        run_benchmark(VQA, inputs(data, predictions, against=folder / "some"), folder / "out")
    run_benchmark(VQA, inputs(data, predictions, resamples=20), folder / "twenty")
    with pytest.raises(ConfigError, match="give --resamples 20 --seed 0"):
        run_benchmark(VQA, inputs(data, predictions, against=folder / "twenty"), folder / "out")
    (folder / "twenty" / "comparison.npz").write_bytes(b"PK rest")
    with pytest.raises(CaptionError, match="is damaged"):
        run_benchmark(VQA, inputs(data, predictions, against=folder / "twenty"), folder / "out")


def test_the_joined_report_compares_results_of_the_same_items(files):
    data, predictions, folder = files
    worse = write_csv(folder / "worse.csv", answer_rows(question_rows(), 3))
    run_benchmark(VQA, inputs(data, predictions), folder / "a")
    run_benchmark(VQA, inputs(data, worse), folder / "b")
    run_benchmark(VQA, inputs(data, worse, seed=7), folder / "c")
    run_benchmark("slidebench-vqa-bcnb", inputs(data, worse), folder / "d")
    done = cli("benchmark", "report", *(folder / name for name in "abcd"), "--out", folder / "all.html", "--json")
    rows = [row for row in map(json.loads, done.stdout.splitlines()) if "first" in row]
    assert [(row["first"], row["second"]) for row in rows] == [("said.csv", "worse.csv (b)")]
    assert rows[0]["difference"] == 0.5
    assert "'worse.csv (c)' not compared" in done.stderr
    page = (folder / "all.html").read_text()
    assert "Two systems on the same items" in page
    assert "+0.500" in page


def test_answers_to_other_questions_are_refused(files):
    data, _, folder = files
    other = [{"Slide": "x", "Question": "Who?", "Output": "A"}]
    with pytest.raises(CaptionError, match="no prediction belongs to these questions"):
        run_benchmark(VQA, inputs(data, write_csv(folder / "o.csv", other)), folder / "out")
    assert not (folder / "out").exists()


def test_a_question_that_stands_twice_is_refused(files):
    _, predictions, folder = files
    rows = question_rows()
    rows[5] = {**rows[4], "ID": 77}
    with pytest.raises(CaptionError, match=r"1 questions stand there twice .*'5' and '77'"):
        run_benchmark(VQA, inputs(write_csv(folder / "twice.csv", rows), predictions), folder / "out")


def test_a_set_of_another_size_needs_to_be_asked_for(files):
    data, predictions, folder = files
    with pytest.raises(CaptionError, match=r"has 12 rows; the published sets have 1,489 .*--other-set"):
        run_benchmark(VQA, inputs(data, predictions, other_set=False), folder / "out")


def test_a_set_of_the_right_size_that_says_other_things_is_refused():
    rows = [("s1", "What?"), ("s2", "Where?")]
    known = (KnownSet(2, "the pair", content_hash(rows)), KnownSet(3, "the three"))
    assert recognise("f.csv", list(reversed(rows)), known, False) == ("the pair (2 rows, content verified)", True)
    with pytest.raises(CaptionError, match="2 rows like the pair, but says other things"):
        recognise("f.csv", [("s1", "What?"), ("s2", "When?")], known, False)
    assert not recognise("f.csv", [("s1", "What?"), ("s2", "When?")], known, True)[1]
    assert recognise("f.csv", [*rows, ("s3", "Who?")], known, False)[1]  # told by its number alone


def test_a_folder_with_other_files_is_left_alone(files):
    data, predictions, folder = files
    (folder / "mine").mkdir()
    (folder / "mine" / "thesis.txt").write_text("years of work")
    with pytest.raises(OutputError, match="would be replaced"):
        run_benchmark(VQA, inputs(data, predictions), folder / "mine")
    assert (folder / "mine" / "thesis.txt").read_text() == "years of work"


def test_report_joins_results_and_marks_published_values(files):
    data, predictions, folder = files
    run_benchmark(VQA, inputs(data, predictions), folder / "a")
    run_benchmark("slidebench-vqa-bcnb", inputs(data, predictions), folder / "b")
    done = cli("benchmark", "report", folder / "a", folder / "b", "--out", folder / "all.html")
    assert done.exit_code == 0, done.output
    assert "not run here: PathFLIP 0.8611" in done.stdout
    page = (folder / "all.html").read_text()
    assert page.count("<h2>SlideBench VQA") == 2
    (folder / "a" / "result.json").write_text('{"format": "other"}')
    with pytest.raises(CaptionError, match="no result of a benchmark"):
        read_result(folder / "a")


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["slidebench"], "did you mean 'slidebench"), ([VQA], "give --data and --out"), (["report"], "got no folder"),
        ([VQA, "x"], "one benchmark at a time"),
        ([VQA, "--data", "absent.csv", "--out", "o"], "no such file"),
        ([VQA, "--data", ".", "--out", "o", "--set", "colour=blue"], "expected KEY=VALUE"),
    ],
)  # fmt: skip
def test_wrong_use_is_one_line(words, says, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    done = cli("benchmark", *words)
    assert isinstance(done.exception, ConfigError)
    assert says in str(done.exception)
    assert list(tmp_path.iterdir()) == []
