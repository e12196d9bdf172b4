"""Multiple-choice answers: how they are read, counted, compared, and what one gets without looking."""

import csv
import json
import time
from collections import Counter
from pathlib import Path
from string import ascii_uppercase

import numpy as np
import pytest

from pathflip.data.question_files import VQAQuestion, read_questions
from pathflip.errors import CaptionError
from pathflip.evaluate.answer_parsing import parse_answer
from pathflip.evaluate.predictions import VQAPrediction, match_predictions, read_predictions
from pathflip.evaluate.vqa import letter_baselines, vqa_measures
from pathflip.text.refusals import CANNOT_TELL

OPTIONS = ("squamous cell carcinoma", "small cell carcinoma", "papillary adenocarcinoma", "adenocarcinoma")
STAGES = ("Stage I", "Stage II", "Stage IIIA", "Stage IV")
YES = ("Yes", "No")
TELL = ("upper left", CANNOT_TELL, "central", "lower right")
NUMBERS = ("1", "2", "3", "10")

READ = [
    ("C", "C"), ("C.", "C"), ("c", "C"), ("(c)", "C"), ("c)", "C"), ("[D]", "D"), ("**C**", "C"), ("`B`", "B"),
    ("“B”", "B"), ("$C$", "C"), ("C)", "C"), (" C \n", "C"), ("\\boxed{C}", "C"), ("\\boxed{\\text{C}}", "C"),
    ("<answer>B</answer>", "B"), ("a", "A"), ("A", "A"), ("A.", "A"), ("The answer is C", "C"),
    ("the answer is c.", "C"), ("Answer: C", "C"), ("ANSWER: c", "C"), ("answer=C", "C"),
    ("Answer: C) papillary adenocarcinoma", "C"), ("Final answer: D", "D"), ("The correct answer is **(C)**.", "C"),
    ("The best answer is option D: adenocarcinoma.", "D"), ("Choice: D", "D"),
    ("The most likely diagnosis is C", "C"), ("C: papillary adenocarcinoma", "C"),
    ("C - papillary adenocarcinoma", "C"), ("C. Papillary adenocarcinoma, because of fronds.", "C"),
    ("D adenocarcinoma", "D"), ("Option C", "C"), ("I would choose B.", "B"), ("I'd go with C", "C"),
    ("C is the correct answer", "C"), ("B is the answer", "B"), ("The answer is C, not B", "C"),
    ("Not A, but C", "C"), ("A is incorrect; B is correct", "B"), ("C, because B is unlikely", "C"),
    ("D\n\nExplanation: A is wrong", "D"), ("I think it is B because of the keratin", "B"),
    ("<think>maybe A, or B</think> C", "C"), ("reasoning about A</think>The answer is D.", "D"),
    ("Papillary adenocarcinoma", "C"), ("papillary adenocarcinoma.", "C"), ("It is a papillary adenocarcinoma.", "C"),
    ("A papillary adenocarcinoma is seen", "C"), ("The answer is a papillary adenocarcinoma", "C"),
    ("adenocarcinoma", "D"), ("A squamous cell carcinoma", "A"), ("A, squamous cell carcinoma", "A"),
    ("not squamous cell carcinoma but small cell carcinoma", "B"), ("C C C", "C"),
    ("Based on the image, the answer is C. papillary", "C"),
]  # fmt: skip
REFUSED = [
    ("", "empty"), ("   ", "empty"), ("<think>C</think>", "empty"), ("A or C", "ambiguous"), ("A and C", "ambiguous"),
    ("B/C", "ambiguous"), ("either B or C", "ambiguous"), ("Both B and C", "ambiguous"), ("A. B. C. D.", "ambiguous"),
    ("(A) (B)", "ambiguous"), ("The answer is A or C", "ambiguous"),
    ("The answer is A. No, the answer is B.", "ambiguous"),
    ("Squamous cell carcinoma or adenocarcinoma", "ambiguous"), ("C: squamous cell carcinoma", "conflict"),
    ("I cannot determine this", "declined"), ("none of the above", "declined"), ("E", "none"),
    ("The answer is E", "none"), ("The answer is not A.", "none"), ("Vitamin C level", "none"),
    ("grade C disease", "none"), ("keratin pearls", "none"), ("A tumour is present", "none"),
]  # fmt: skip


@pytest.mark.parametrize(("answer", "letter"), READ)
def test_answers_that_name_an_option(answer, letter):
    assert parse_answer(answer, OPTIONS).letter == letter


@pytest.mark.parametrize(("answer", "why"), REFUSED)
def test_answers_that_name_none_or_two_are_refused(answer, why):
    assert parse_answer(answer, OPTIONS) == (None, why)


@pytest.mark.parametrize(
    ("answer", "options"),
    [
        ("The answer is either B or C.", STAGES), ("The correct options are between B and C", STAGES),
        ("The answer is B, or possibly C", STAGES), ("The result is non-positive.", ("Positive", "Negative")),
    ],
)  # fmt: skip
def test_two_letters_and_denied_words_name_no_option(answer, options):
    assert parse_answer(answer, options).letter in (None, "B" if options[0] == "Positive" else None)


@pytest.mark.parametrize(("file", "most_unread"), [("parse.json", 4), ("more_answers.json", 5)])
def test_written_answers_of_all_kinds(file, most_unread):
    """Answers as models write them, each with the letter it names, or none, or a second right reading."""
    held = json.loads((Path(__file__).parent / "fixtures" / "answers" / file).read_text(encoding="utf-8"))
    unread = 0
    for entry in held["answers"]:
        letter = parse_answer(entry["text"], held["options"][entry["options"]]).letter
        assert letter in (entry["letter"], entry.get("also_right"), None), entry
        unread += letter is None and entry["letter"] is not None
    assert unread <= most_unread


@pytest.mark.parametrize(
    "part", ["A ", "not ", "A, ", "the answer is ", "no ", "(A", "A: 0.1, ", "Luminal A or ", "{", "n't ", '"A":']
)
def test_answers_that_never_end_are_read_in_a_moment(part):
    start = time.perf_counter()
    parse_answer(part * (20_000 // len(part)), (*OPTIONS, "Luminal A", "Luminal B"))
    assert time.perf_counter() - start < 5


@pytest.mark.parametrize(
    ("answer", "options", "letter"),
    [
        ("Stage II", STAGES, "B"), ("The stage is IIIA: Stage IIIA", STAGES, "C"), ("stage i", STAGES, "A"),
        ("Yes", YES, "A"), ("No.", YES, "B"), ("no, it is not", YES, "B"), ("C", YES, None), ("10", NUMBERS, "D"),
        ("There are 2.", NUMBERS, "B"), ("It cannot be determined from this slide.", TELL, "B"),
        (CANNOT_TELL, TELL, "B"),
        ("B: cannot be determined from this slide", TELL, "B"), ("upper left", TELL, "A"),
    ],
)  # fmt: skip
def test_other_options(answer, options, letter):
    assert parse_answer(answer, options).letter == letter


def test_every_option_of_the_cohort_is_read_as_itself(rng):
    letters = ascii_uppercase[:4]
    pool = [
        "adenocarcinoma",
        "melanoma",
        "grade 1",
        "grade 2",
        "none",
        "one",
        "two",
        "three",
        CANNOT_TELL,
        "upper left",
    ]
    for _ in range(100):
        options = tuple(pool[i] for i in rng.permutation(len(pool))[:4])
        for letter, option in zip(letters, options, strict=True):
            for text in (
                letter,
                f"({letter})",
                f"{letter}. {option}",
                option,
                f"The answer is {letter}.",
                option.upper(),
            ):
                assert parse_answer(text, options).letter == letter, (text, options)


def question(i, answer="A", **more):
    more = {"options": OPTIONS, "category": "type", "patient": f"p{i // 2}", **more}
    return VQAQuestion(question_id=str(i), slide_id=f"s{i // 2}", question="What?", answer=answer, **more)


def prediction(i, text=None, probabilities=None):
    return VQAPrediction(text=text, probabilities=probabilities, question_id=str(i))


def row_of(rows, **wanted):
    return next(row for row in rows if all(row[key] == value for key, value in wanted.items()))


def test_accuracy_counts_what_cannot_be_read_as_wrong_and_apart():
    questions = [question(i, "AABB"[i]) for i in range(4)]
    rows = vqa_measures(questions, [prediction(0, "A"), prediction(1, "A or B"), prediction(2, "B. Because.")], num=50)
    row = row_of(rows, category="all")
    assert row["value"] == 0.5
    assert row["unread"] == {"ambiguous": 1, "unanswered": 1}
    assert row["baselines"] == {"constant": 0.5, "longest": 0.0, "chance": 0.25}
    assert row["wilson_low"] < 0.5 < row["wilson_high"]
    assert [r["how"] for r in rows if r["category"] == "all"] == ["generation"]


def test_writing_and_likelihood_are_both_measured():
    questions = [question(i, "B") for i in range(4)]
    predictions = [prediction(i, "A", (0.1, 0.7, 0.1, 0.1)) for i in range(3)] + [
        prediction(3, "B", (0.4, 0.4, 0.1, 0.1))
    ]
    rows = vqa_measures(questions, predictions, num=50)
    assert row_of(rows, how="generation", category="all")["value"] == 0.25
    assert row_of(rows, how="likelihood", category="all")["value"] == pytest.approx((3 + 0.5) / 4)  # a tie is half


def test_difference_to_the_text_only_baseline_is_paired_over_patients():
    rng = np.random.default_rng(3)
    questions = [question(i, "ABCD"[int(rng.integers(4))]) for i in range(200)]
    right = [prediction(i, q.answer) if i % 4 else prediction(i, "Z") for i, q in enumerate(questions)]
    text_only = [prediction(i, "B") for i in range(200)]
    row = row_of(vqa_measures(questions, right, text_only=text_only, num=400), category="all")
    text_only_fraction = np.mean([q.answer == "B" for q in questions])
    assert row["text_only"] == pytest.approx(text_only_fraction)
    assert row["difference"] == pytest.approx(0.75 - text_only_fraction)
    # Independent: resample patients by hand and compare the bounds.
    gain = np.array([float(bool(i % 4)) - (q.answer == "B") for i, q in enumerate(questions)]).reshape(100, 2)
    drawn = [gain[rng.integers(100, size=100)].mean() for _ in range(4000)]
    low, high = np.percentile(drawn, [2.5, 97.5])
    assert (row["difference_low"], row["difference_high"]) == pytest.approx((low, high), abs=0.02)
    same = row_of(vqa_measures(questions, right, text_only=right, num=50), category="all")
    assert same["difference"] == same["difference_low"] == same["difference_high"] == 0


def test_abstention_is_measured_where_it_is_offered():
    unanswerable = [question(i, "B", options=TELL, answerable=False, needs_slide=False) for i in range(10)]
    answerable = [question(i, "A", options=TELL) for i in range(10, 20)]
    plain = [question(i, "A") for i in range(20, 24)]
    sure = (0.1, 0.8, 0.05, 0.05)
    predictions = [prediction(i, "B" if i < 8 else "A", sure) for i in range(10)]
    predictions += [prediction(i, "B" if i < 12 else "A", (0.8, 0.1, 0.05, 0.05)) for i in range(10, 20)]
    predictions += [prediction(i, "A", sure) for i in range(20, 24)]
    rows = vqa_measures([*unanswerable, *answerable, *plain], predictions, num=50)
    assert row_of(rows, measure="abstained, rightly", how="generation")["value"] == pytest.approx(0.8)
    assert row_of(rows, measure="abstained, wrongly", how="generation")["value"] == pytest.approx(0.2)
    assert row_of(rows, measure="abstention AUROC")["value"] == 1.0
    assert row_of(rows, measure="abstention AUROC")["questions"] == 20
    assert row_of(rows, category="answerable, needs the slide", how="generation")["questions"] == 14
    assert not [row for row in vqa_measures(plain, predictions[20:], num=10) if "abst" in row["measure"]]


def test_the_constant_letter_can_be_chosen_elsewhere():
    questions, train = [question(i, "B") for i in range(4)], [question(i, "D") for i in range(3)]
    assert letter_baselines(questions)["constant"].mean() == 1
    assert letter_baselines(questions, train)["constant"].mean() == 0


def test_files_of_the_cohort(tmp_path):
    rows = [
        {"slide": f"s{i}", "question": "What?", "options": list(OPTIONS), "answer": "C", "category": "type",
         "needs_slide": True, "answerable": i != 1, "evidence": None}
        for i in (0, 0, 1)
    ]  # fmt: skip
    path = tmp_path / "questions.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert [q.question_id for q in read_questions(path)] == ["s0#1", "s0#2", "s1#1"]
    with pytest.raises(CaptionError, match="splits"):
        read_questions(path, "test")
    (tmp_path / "splits.csv").write_text("slide,patient,split\ns0,P7,test\ns1,P8,train\n")
    questions = read_questions(path, "test")
    assert [(q.patient, q.answerable) for q in questions] == [("P7", True)] * 2
    predictions_path = tmp_path / "said.jsonl"
    predictions_path.write_text(
        "".join(json.dumps({"slide": "s0", "question": "What?", "answer": a}) + "\n" for a in ("C", "(a)"))
    )
    row = row_of(vqa_measures(questions, read_predictions(predictions_path), num=20), category="all")
    assert row["value"] == 0.5  # two of the same words are told apart by their order


def test_files_of_slidechat(tmp_path):
    path = tmp_path / "vqa.csv"
    path.write_text(
        "\ufeffID,Slide,Tumor,Broad Category,Narrow Category,Question,A,B,C,D,Answer,Output\n"
        '7,datasets/x/TCGA-AA-0001-01Z.h5,LUAD,Microscopy,Tumor,"What, here?",a b,c d,e f,g h,C,"C. e f"\n'
        "8,datasets/x/TCGA-AA-0001-02Z.h5,LUAD,Diagnosis,Grading,Grade?,G1,G2,G3,,B,The answer is A\n",
        encoding="utf-8",
    )
    questions = read_questions(path)
    assert [(q.question_id, q.slide_id, q.patient, len(q.options)) for q in questions] == [
        ("7", "TCGA-AA-0001-01Z", "TCGA-AA-0001", 4), ("8", "TCGA-AA-0001-02Z", "TCGA-AA-0001", 3),
    ]  # fmt: skip
    rows = vqa_measures(questions, read_predictions(path), num=20)
    assert row_of(rows, category="all")["value"] == 0.5
    assert row_of(rows, category="Microscopy: Tumor")["value"] == 1
    assert row_of(rows, category="Diagnosis")["value"] == 0


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([{"id": 1, "slide": "s", "question": "q", "options": ["a", "b"], "answer": "C"}], "no such option of 2"),
        ([{"id": 1, "slide": "s", "question": "q", "answer": "A"}], "no options"),
        ([{"id": 1, "question": "q", "options": ["a", "b"], "answer": "A", "slide": ""}], "no slide"),
        ([{"id": 1, "slide": "s", "question": "q", "options": ["a", "b"], "answer": "A"}] * 2, "same id"),
        ([{"id": 1, "slide": "s", "options": ["a", "b"], "answer": "A"}], "no question"),
    ],
)
def test_bad_questions_are_one_line(tmp_path, rows, message):
    path = tmp_path / "q.json"
    path.write_text(json.dumps(rows))
    with pytest.raises(CaptionError, match=message) as error:
        read_questions(path)
    assert "\n" not in str(error.value)


def test_a_file_of_questions_is_no_file_of_answers(tmp_path):
    """Its key would be read as what a model said: all right."""
    rows = [{"id": i, "slide": "s", "question": "q", "options": list(OPTIONS), "answer": "A"} for i in range(3)]
    (tmp_path / "q.json").write_text(json.dumps(rows))
    with pytest.raises(CaptionError, match="the key of a file of questions"):
        read_predictions(tmp_path / "q.json")
    (tmp_path / "p.json").write_text(json.dumps([row | {"output": "B"} for row in rows]))
    assert [one.text for one in read_predictions(tmp_path / "p.json")] == ["B"] * 3
    (tmp_path / "a.json").write_text(json.dumps([{"id": 1, "answer": "C"}]))
    assert read_predictions(tmp_path / "a.json")[0].text == "C"


def test_null_is_an_empty_answer_and_ids_may_be_written_as_fractions(tmp_path):
    rows = [{"id": 1.0, "output": None}, {"id": 2.0, "output": float("nan")}, {"id": "3", "output": "C"}]
    (tmp_path / "p.json").write_text(json.dumps(rows))
    matched, strays = match_predictions([question(i) for i in (1, 2, 3)], read_predictions(tmp_path / "p.json"))
    assert strays == 0
    assert [parse_answer(one.text, OPTIONS).letter for one in matched] == [None, None, "C"]


def test_predictions_must_belong_to_the_questions():
    questions = [question(i) for i in range(2)]
    with pytest.raises(CaptionError, match="no prediction belongs"):
        match_predictions(questions, [prediction(9, "A")])
    with pytest.raises(CaptionError, match="two predictions"):
        match_predictions(questions, [prediction(0, "A"), prediction(0, "B")])
    with pytest.raises(CaptionError, match="3 probabilities"):
        match_predictions(questions, [prediction(0, None, (0.2, 0.3, 0.5))])
    with pytest.raises(CaptionError, match="these very questions"):
        match_predictions(questions, [VQAPrediction(text="A", question_id="0", slide_id="other")])
    assert match_predictions(questions, [prediction(0, "A"), prediction(9, "A")])[1] == 1


@pytest.mark.real
def test_floors_of_slidebench(real_data):
    """Known from the file: 1,489 questions; always B 41.4 %; longest option 40.8 % (the first of equally long ones)."""
    path = real_data / "slidebench" / "SlideBench-VQA-TCGA.csv"
    questions = read_questions(path)
    assert len(questions) == 1489
    assert len({q.slide_id for q in questions}) == 589
    assert Counter(q.answer for q in questions) == {"B": 616, "C": 537, "A": 224, "D": 112}
    with open(path, encoding="utf-8-sig") as handle:  # counted here without the code under test
        rows = list(csv.DictReader(handle))
    first_longest = np.mean([max("ABCD", key=lambda x: len(row[x].strip())) == row["Answer"] for row in rows])
    assert first_longest == pytest.approx(0.408, abs=0.001)
    baselines = {name: credit.mean() for name, credit in letter_baselines(questions).items()}
    assert baselines["constant"] == pytest.approx(0.414, abs=0.0005)
    assert baselines["chance"] == 0.25
    assert baselines["longest"] == pytest.approx(0.434, abs=0.001)  # equally long ones share the credit
    perfect = [
        VQAPrediction(text=f"{q.answer}. {q.options['ABCD'.index(q.answer)]}", question_id=q.question_id)
        for q in questions
    ]
    rows = vqa_measures(questions, perfect, num=20)
    assert row_of(rows, category="all")["value"] == 1.0
    assert row_of(rows, category="Microscopy")["questions"] == 389
    texts = [VQAPrediction(text=q.options["ABCD".index(q.answer)], question_id=q.question_id) for q in questions]
    row = row_of(vqa_measures(questions, texts, num=20), category="all")
    assert row["value"] > 0.99  # the option's text alone; a few options are the same or hold one another


COMMAND = ["eval", "vqa"]


def test_the_command_prints_floors_beside_scores(tmp_path, capsys):
    from pathflip.cli import app

    path = tmp_path / "q.json"
    rows = [
        {"id": i, "slide": f"s{i}", "question": "q", "options": list(OPTIONS), "answer": "ABCD"[i % 4]}
        for i in range(8)
    ]
    path.write_text(json.dumps(rows))
    predictions = tmp_path / "p.json"
    predictions.write_text(json.dumps([{"id": i, "output": "A"} for i in range(8)]))
    words = [*COMMAND, "--questions", str(path), "--predictions", str(predictions), "--text-only", str(predictions)]
    app(words, standalone_mode=False)
    said_text = capsys.readouterr().out
    assert "accuracy" in said_text
    assert "constant 0.250" in said_text
    assert "text only 0.250, difference +0.000" in said_text
    app([*words, "--json"], standalone_mode=False)
    row = json.loads(capsys.readouterr().out.splitlines()[0])
    assert (row["value"], row["difference"]) == (0.25, 0)
