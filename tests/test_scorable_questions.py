"""Questions whose right answer cannot be told are named, counted and not scored, in every protocol with options."""

import json

import pytest
from typer.testing import CliRunner

from benchmark_files import answer_rows, question_rows, write_csv, write_lines
from pathflip.benchmarks import run_benchmark
from pathflip.benchmarks.protocol import Inputs
from pathflip.cli import app
from pathflip.data.question_files import read_questions
from pathflip.errors import CaptionError
from pathflip.evaluate.predictions import match_predictions, read_predictions
from pathflip.evaluate.scorable import scorable

AGAIN = {**question_rows()[2], "ID": 4}
NOT_SCORED = {
    "empty option is the answer": ({"C": ""}, "no such option"),
    "nan option is the answer": ({"C": "nan"}, "no such option"),
    "equal options": ({"A": "mucin"}, "options A and C are the same text"),
    "equal but for case and space": ({"D": " MUCIN."}, "options C and D are the same text"),
    "equal to the answer's text": ({"A": "mucin", "Answer": "mucin"}, "options A and C are the same text"),
    "letter outside": ({"Answer": "E"}, "no such option of 4"),
    "two letters": ({"Answer": "A, C"}, "expected the letter or the text of one"),
    "no answer": ({"Answer": ""}, "no answer"),
    "no option": (dict.fromkeys("ABCD", ""), "no options"),
    "one option": (dict.fromkeys("ABD", ""), "there is one option"),
}


def odd_row(change, place=2):
    rows = question_rows()
    rows[place] |= change
    return rows


def outcome(folder, protocol, rows, predictions):
    """Result of a run, its folder, and standard error."""
    data, answers = write_csv(folder / "q.csv", rows), write_lines(folder / "a.jsonl", predictions)
    words = ["--predictions", answers, "--data", data, "--out", folder / "out", "--other-set", "--resamples", "20"]
    done = CliRunner().invoke(app, [str(word) for word in ("benchmark", protocol, *words)])
    assert done.exception is None, done.exception
    return json.loads((folder / "out" / "result.json").read_text()), folder / "out", done.stderr


def said(rows):
    return [{"id": row["ID"], "output": row["Output"]} for row in answer_rows(rows, 12)]


@pytest.mark.parametrize("protocol", ["slidebench-vqa-tcga", "slidebench-vqa-bcnb"])
@pytest.mark.parametrize("change", ["equal options", "letter outside", "empty option is the answer"])
def test_it_is_skipped_and_said_in_result_file_and_terminal(change, protocol, tmp_path):
    change, why = NOT_SCORED[change]
    result, folder, stderr = outcome(tmp_path, protocol, odd_row(change), said(question_rows()))
    assert (result["scored"], result["total"], result["skipped"]["number"]) == (11, 12, 1)
    assert result["skipped"]["first"] == ["3"]
    assert why in next(iter(result["skipped"]["reasons"]))
    assert why in (folder / "skipped.csv").read_text()
    assert why in " ".join(result["notes"])
    assert "1 of 12 questions are not scored" in stderr
    assert result["metric"]["value"] == 1  # its own prediction counts neither way
    assert not any("belong to no question" in note for note in result["notes"])


@pytest.mark.parametrize("change", NOT_SCORED)
def test_why_the_answer_cannot_be_told(change, tmp_path):
    change, why = NOT_SCORED[change]
    path = write_csv(tmp_path / "q.csv", odd_row(change))
    known = scorable("q.csv", read_questions(path, with_problems=True))
    assert (len(known.questions), [one.question_id for one in known.others]) == (11, ["3"])
    assert why in known.why_not["3"]
    with pytest.raises(CaptionError, match="row 3"):  # who trains on it is told
        read_questions(path)


@pytest.mark.parametrize(
    ("change", "note"),
    [
        ({"B": ""}, "1 questions have an empty option, which counts as not offered ('3': B)"),
        ({"B": "", "D": "nan"}, "('3': B, D)"),
        ({"A": "x", "B": "X"}, "1 questions have two options of the same text beside the right one ('3')"),
    ],
)
def test_an_odd_option_beside_the_right_one_is_said(change, note, tmp_path):
    known = scorable("q.csv", read_questions(write_csv(tmp_path / "q.csv", odd_row(change)), with_problems=True))
    assert len(known.questions) == 12
    assert any(note in one for one in known.notes)


@pytest.mark.parametrize("again", [{"Answer": "A"}, {"A": "mucin", "C": "glands", "Answer": "C"}])
def test_the_same_question_with_two_answers_is_not_scored(again, tmp_path):
    rows = odd_row({**AGAIN, **again}, place=3)
    result, _, stderr = outcome(tmp_path, "slidebench-vqa-tcga", rows, said(rows))
    assert (result["scored"], result["skipped"]["first"]) == (10, ["3", "4"])
    assert "stands there twice, with different answers" in stderr


def test_of_a_file_that_is_no_benchmark_it_is_noted_and_counts(tmp_path):
    path = write_csv(tmp_path / "q.csv", odd_row({**AGAIN, "Answer": "A"}, place=3))
    known = scorable("q.csv", read_questions(path), published=False)
    assert len(known.questions) == 12
    assert "2 questions stand there more than once" in known.notes[0]


def test_a_copy_with_its_options_in_another_order_is_refused(tmp_path):
    rows = odd_row({**AGAIN, "A": "mucin", "C": "glands", "Answer": "A"}, place=3)
    with pytest.raises(CaptionError, match="'3' and '4', same slide, words and options"):
        scorable("q.csv", read_questions(write_csv(tmp_path / "q.csv", rows), with_problems=True))


def test_a_file_without_a_question_that_can_be_scored_leaves_nothing(tmp_path):
    data = write_csv(tmp_path / "q.csv", [row | {"Answer": "E"} for row in question_rows()])
    answers = write_lines(tmp_path / "a.jsonl", said(question_rows()))
    with pytest.raises(CaptionError, match="of none of 12 can the right answer be told"):
        run_benchmark("slidebench-vqa-tcga", Inputs(data, predictions=answers, other_set=True), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_the_command_eval_vqa_says_it_too(tmp_path, capsys):
    data = write_csv(tmp_path / "q.csv", odd_row(NOT_SCORED["equal options"][0]))
    answers = write_lines(tmp_path / "a.jsonl", [*said(question_rows()), {"id": "stray", "output": "A"}])
    words = ["eval", "vqa", "--questions", str(data), "--predictions", str(answers), "--json", "--resamples", "20"]
    app(words, standalone_mode=False)
    out, err = capsys.readouterr()
    row = json.loads(out.splitlines()[0])
    assert (row["questions"], row["not_scored"], row["value"]) == (11, 1, 1)
    assert "1 of 12 questions are not scored" in err
    assert "1 predictions belong to no question" in err


MULTIPATHQA = {
    "equal": ({"options": "['glands', 'Glands', 'mucin']"}, "options A and B are the same text"),
    "equal, by text": ({"options": "['mucin', 'mucin', 'x']", "answer": "mucin"}, "options A and B are the same text"),
    "empty": ({"options": "['', 'mucin', 'x']"}, "an empty option"),
    "null": ({"options": "[None, 'mucin', 'x']"}, "an empty option"),
    "number outside": ({"answer": 9}, "none of its 2 options"),
    "no answer": ({"answer": ""}, "no answer"),
    "one option": ({"options": "['glands']"}, "not two options"),
}


def multipathqa(change):
    expert = {"benchmark_name": "tcga_expert_vqa", "options": "['glands', 'mucin']", "is_valid": "True"}
    rows = [
        expert | {"benchmark_id": i, "image_path": f"a{i}.svs", "answer": 1 + i % 2, "prompt": "Why?"} for i in range(4)
    ]
    return [rows[0] | change, *rows[1:]]


@pytest.mark.parametrize("change", MULTIPATHQA)
def test_multipathqa(change, tmp_path):
    change, why = MULTIPATHQA[change]
    predictions = [{"benchmark_id": row["benchmark_id"], "output": str(row["answer"])} for row in multipathqa({})]
    result, _, stderr = outcome(tmp_path, "multipathqa", multipathqa(change), predictions)
    assert (result["scored"], result["total"], result["metric"]["value"]) == (3, 4, 1)
    assert why in next(iter(result["skipped"]["reasons"]))
    assert why in stderr


def test_multipathqa_counts_rows_that_are_not_valid_and_refuses_equal_ids(tmp_path):
    predictions = [{"benchmark_id": i, "output": str(1 + i % 2)} for i in range(1, 4)]
    result, _, _ = outcome(tmp_path, "multipathqa", multipathqa({"is_valid": "False"}), predictions)
    assert "1 rows are marked is_valid False" in " ".join(result["notes"])
    data = write_csv(tmp_path / "ids.csv", multipathqa({"benchmark_id": 1}))
    inputs = Inputs(data, predictions=tmp_path / "a.jsonl", other_set=True)
    with pytest.raises(CaptionError, match="2 questions bear the id 'tcga_expert_vqa:1'"):
        run_benchmark("multipathqa", inputs, tmp_path / "ids")


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"question": "Who?"}, "answers 'Who\\?', the question of this id is"),
        ({"a": "necrosis", "b": "glands"}, "was given options necrosis, glands, mucin, keratin"),
        ({"slide": "other"}, "is of slide 'other'"),
    ],
)
def test_answers_given_to_something_else_under_the_same_id_are_refused(change, says, tmp_path):
    rows = [{key.lower(): value for key, value in row.items()} for row in answer_rows(question_rows(), 9)]
    questions = read_questions(write_csv(tmp_path / "q.csv", question_rows()))
    longer = [row | {"question": f"<image>\n{row['question']}\nA. glands\nB. necrosis"} for row in rows]
    assert match_predictions(questions, read_predictions(write_lines(tmp_path / "a.jsonl", longer)))[1] == 0
    rows[0] |= change
    with pytest.raises(CaptionError, match=says):
        match_predictions(questions, read_predictions(write_lines(tmp_path / "b.jsonl", rows)))
