"""Deletion, pointing, overlap and the assistant's calibration, against cases worked by hand."""

from dataclasses import replace

import numpy as np
import pytest

from pathflip.assistant import prepare_slide
from pathflip.data.question_files import VQAQuestion
from pathflip.evaluate import answering as assistant_module
from pathflip.evaluate import faithfulness
from pathflip.evaluate.answering import answer_questions, calibrate_assistant
from pathflip.evaluate.estimates import estimate_all
from pathflip.evaluate.faithfulness import (
    Deletion,
    delete_evidence,
    deletion_measures,
    point_at,
    pointing_measures,
)
from pathflip.features import write_features
from pathflip.types import Answer, Evidence
from tiny_assistant import assemble, tiny_slide


def answer_at(view, rows, text="yes"):
    grid = view.features.grid
    return Answer(text, tuple(Evidence(grid.box(r), 1.0 - i / 10, text, view.slide_id) for i, r in enumerate(rows)))


@pytest.fixture
def view(tmp_path):
    return prepare_slide(assemble(tmp_path).aligned, tiny_slide("a"))


@pytest.mark.usefixtures("annotations_off")
def test_deletion_sees_evidence_that_matters(view, monkeypatch):
    """A language model that likes an answer by how many of tiles 3, 4 and 5 it is shown."""
    counted = []
    monkeypatch.setattr(faithfulness, "build_prompt", lambda *_, keep, **__: keep[0])
    monkeypatch.setattr(
        faithfulness, "log_likelihood", lambda _, keep, reply: counted.append(keep) or [keep[3:6].sum()]
    )
    lost = delete_evidence(None, view, "?", (), answer_at(view, [3, 4, 5]), "p", np.random.default_rng(0), draws=4)
    assert lost == Deletion("p", 3.0, 0.0)
    assert [int((~keep).sum()) for keep in counted] == [0, 3, 3, 3, 3, 3]
    assert all(keep[3:6].all() for keep in counted[2:])
    wrong = delete_evidence(None, view, "?", (), answer_at(view, [10, 11]), "p", np.random.default_rng(0))
    assert wrong.evidence == 0


def test_deletion_weighs_the_letter_of_the_option_with_the_tiles_really_gone(tmp_path):
    assistant = assemble(tmp_path)
    view = prepare_slide(assistant.aligned, tiny_slide("a"))
    options, rows = ("left", "right"), [3, 7]
    lost = delete_evidence(
        assistant, view, "Where?", options, answer_at(view, rows, "right"), "p", np.random.default_rng(0)
    )

    def likely(removed):
        keep = np.ones(len(view.features.valid), bool)
        keep[removed] = False
        prompt = faithfulness.build_prompt(assistant, "Where?", view.features, options, keep=[keep])
        return float(faithfulness.log_likelihood(assistant, prompt, ["B"])[0])

    assert lost.evidence == pytest.approx(likely([]) - likely(rows), abs=1e-5)
    assert abs(lost.evidence) > 1e-6


@pytest.mark.usefixtures("annotations_off")
def test_no_evidence_no_deletion(view):
    assert delete_evidence(None, view, "?", (), Answer("x"), "p", np.random.default_rng(0)) is None


def test_pointing_and_overlap_by_hand(view):
    fractions = np.zeros(len(view.features.valid))
    fractions[[3, 4, 8, 20]] = 0.5
    fractions[2] = 0.9  # not readable (see tiny_slide): it does not count
    pointing = point_at(answer_at(view, [4, 3, 30]), view, fractions, "p")
    assert pointing.hit == 1
    assert pointing.overlap == pytest.approx(2 / 5)
    valid = int(view.features.valid.sum())
    assert pointing.chance == pytest.approx(4 / valid)
    assert point_at(answer_at(view, [30, 3]), view, fractions, "p").hit == 0
    assert point_at(answer_at(view, [3]), view, np.zeros_like(fractions), "p") is None


def test_the_overlap_floor_is_what_random_tiles_get(view):
    rng = np.random.default_rng(0)
    fractions = np.zeros(len(view.features.valid))
    fractions[np.flatnonzero(view.features.valid)[:20]] = 1
    floor = point_at(answer_at(view, [5, 6, 7]), view, fractions, "p").random_overlap
    rows = np.flatnonzero(view.features.valid)
    drawn = [point_at(answer_at(view, rng.choice(rows, 3, replace=False)), view, fractions, "p") for _ in range(300)]
    assert np.mean([one.overlap for one in drawn]) == pytest.approx(floor, abs=0.01)


def test_measures_go_through_the_bootstrap_over_patients():
    deletions = [Deletion(f"p{i % 5}", 1.0 + i / 20, 0.5) for i in range(20)]
    patients = np.array([one.patient for one in deletions])
    estimates = estimate_all({"x": deletion_measures(deletions)}, patients, "x", num=100)
    gain = estimates["deletion: nats lost beyond random tiles"]["x"]
    assert gain.value == pytest.approx(0.5 + 19 / 40)
    assert gain.low < gain.value < gain.high
    assert pointing_measures([faithfulness.Pointing("p", 1.0, 0.2, 0.4, 0.1)])[0].chance == 0.2


# ------------------------------------------------------------------------------------------------ calibration


def question(i, answer, answerable=True, slide="a"):
    return VQAQuestion(f"q{i}", slide, f"p{i % 7}", "Where?", ("l", "r", "u"), answer, "location", "", answerable)


def calibrate_assistant_on(monkeypatch, refusing, chances, right, questions):
    monkeypatch.setattr(assistant_module, "_weighed", lambda *_: (refusing, list(chances), right))
    return calibrate_assistant(None, questions, {}, "a test")


@pytest.mark.usefixtures("annotations_off")
def test_calibration_finds_the_temperature_and_tells_the_unanswerable(monkeypatch):
    """Confidences three times too sharp, and log-odds of refusing that overlap."""
    rng = np.random.default_rng(0)
    logits = rng.normal(0, 1.2, (600, 3))
    honest = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    truth = [int(rng.choice(3, p=row)) for row in honest]
    sharp = np.exp(3 * logits) / np.exp(3 * logits).sum(1, keepdims=True)
    lost = rng.random(600) < 0.2
    refusing = np.where(lost, 2.0, -4.0) + rng.normal(0, 1.5, 600)
    questions = [question(i, "ABC"[t], not gone) for i, (t, gone) in enumerate(zip(truth, lost, strict=True))]
    right = sharp.argmax(1) == truth
    calibration = calibrate_assistant_on(monkeypatch, refusing, sharp, right, questions)
    assert calibration.temperature == pytest.approx(3, rel=0.15)
    assert calibration.measured["calibration_error_after"] < 0.4 * calibration.measured["calibration_error_before"]
    assert calibration.measured["withheld_of_unanswerable"] > 0.9
    assert calibration.measured["withheld_of_answerable"] < 0.1
    muddled = calibrate_assistant_on(monkeypatch, rng.normal(0, 1, 600) + lost, sharp, right, questions)
    assert muddled.measured["withheld_of_answerable"] <= 0.1 + 1 / (~lost).sum()
    assert muddled.refuse_above > 0.5
    assert -calibration.refusal_intercept / calibration.refusal_slope == pytest.approx(
        -1, abs=0.4
    )  # midway between the kinds


def test_answers_come_in_the_order_of_the_questions_with_both_ways(tmp_path):
    assistant = assemble(tmp_path)
    files = {}
    for name in "ab":
        files[name] = tmp_path / f"{name}.h5"
        write_features(files[name], tiny_slide(name, seed=ord(name)))
    questions = [question(i, "A", slide="ba"[i % 2]) for i in range(4)]
    predictions = answer_questions(assistant, questions, files)
    assert [one.question_id for one in predictions] == ["q0", "q1", "q2", "q3"]
    assert predictions[0].probabilities != predictions[1].probabilities
    assert predictions[0].probabilities == predictions[2].probabilities
    assert all(sum(one.probabilities) == pytest.approx(1, abs=1e-5) and one.text is not None for one in predictions)
    with pytest.raises(assistant_module.CaptionError, match="no feature file"):
        answer_questions(assistant, [replace(questions[0], slide_id="z")], files)
