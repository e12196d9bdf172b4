"""Yes-or-no questions: thresholds fitted on slides whose answer is known, used wherever such a question is asked."""

import csv
import json
from dataclasses import replace

import numpy as np
import pytest
from typer.testing import CliRunner

from pathflip import assistant as package
from pathflip.assistant import (
    UNDECIDED,
    AnswerCalibration,
    Conversation,
    Writing,
    YesOrNoCalibration,
    YesOrNoScores,
    ask,
    build_prompt,
    decide,
    log_likelihood,
    prepare_slide,
    save_assistant,
    verdicts,
    yes_or_no_scores,
)
from pathflip.assistant import yes_or_no as module
from pathflip.cli import app
from pathflip.data.question_files import VQAQuestion
from pathflip.errors import CaptionError, CheckpointError, ConfigError
from pathflip.evaluate import yes_or_no_calibration as fitting
from pathflip.evaluate.answering import answer_questions
from pathflip.evaluate.yes_or_no_calibration import (
    PresenceQuestion,
    calibrate_yes_or_no,
    read_presence_questions,
    thresholds,
)
from pathflip.features import write_features
from tiny_assistant import assemble, tiny_slide

QUESTION = "Is there necrosis?"
SHORT = Writing(max_new_tokens=3)


@pytest.fixture
def assistant(tmp_path):
    return assemble(tmp_path)


@pytest.fixture
def view(assistant):
    return prepare_slide(assistant.aligned, tiny_slide("a"))


def thresholds_at(yes_from, no_below, **weights):
    known = {"presence": 1.0, "gate": 0.0, "margin": 0.0, "evidence_intercept": 0.0, "words": 0.0, "evidence": 1.0}
    known |= {"intercept": 0.0, "fitted_on": "a test", "yes_from": yes_from, "no_below": no_below, **weights}
    return YesOrNoCalibration(**known)


def fitted(assistant, yes_from, no_below, **weights):
    calibration = AnswerCalibration(refuse_above=1.0, yes_or_no=thresholds_at(yes_from, no_below, **weights))
    return replace(assistant, calibration=calibration)


@pytest.fixture
def answers_so(monkeypatch):
    """An untrained language model that begins with yes or no."""
    monkeypatch.setattr(module, "LEAST_ANSWERED_SO", 0.0)


def test_the_scores_are_the_odds_of_the_words_and_what_was_measured(assistant, view):
    prompts = [build_prompt(assistant, question, view) for question in (QUESTION, "Are keratin pearls seen?")]
    for prompt, scores in zip(prompts, yes_or_no_scores(assistant, prompts), strict=True):
        yes, no = log_likelihood(assistant, prompt, ["Yes", "No"], ended=False).tolist()
        tokens = [assistant.template.answer_ids(word, ended=False) for word in ("Yes", "No")]
        if all(len(one) == 1 for one in tokens):
            assert scores.words == pytest.approx(yes - no, abs=1e-4)
        query = prompt.slides[0].numbers[prompt.slides[0].kind == 1][0]
        assert (scores.presence, scores.gate, scores.margin) == pytest.approx(query[:3].tolist())


@pytest.mark.usefixtures("answers_so")
def test_yes_no_and_undecided_are_said_by_the_thresholds(assistant, view):
    presence = yes_or_no_scores(assistant, [build_prompt(assistant, QUESTION, view)])[0].presence
    yes = ask(fitted(assistant, presence - 0.1, presence - 0.1), QUESTION, view, writing=SHORT)
    no = ask(fitted(assistant, presence + 0.1, presence + 0.1), QUESTION, view, writing=SHORT)
    unsure = ask(fitted(assistant, presence + 0.1, presence - 0.1), QUESTION, view)
    assert yes.text.startswith("Yes")
    assert no.text.startswith("No")
    assert (unsure.text, unsure.abstained, unsure.confidence) == (UNDECIDED, True, None)
    assert "a test" in unsure.note
    assert unsure.evidence, "the places to look at"
    chance = 1 / (1 + np.exp(-presence))
    assert (yes.confidence, no.confidence) == pytest.approx((chance, 1 - chance))


@pytest.mark.usefixtures("answers_so")
def test_a_yes_points_at_what_is_there_and_what_was_said_before_changes_nothing(assistant, view, monkeypatch):
    monkeypatch.setattr("pathflip.assistant.answers.generate", lambda *_, begin, **__: f"{begin}, necrosis is present.")
    own = fitted(assistant, -99.0, -99.0)
    yes = ask(own, QUESTION, view)
    assert {one.text for one in yes.evidence} == {"necrosis is present."}
    assert ask(fitted(assistant, 99.0, 99.0), QUESTION, view).evidence == ()
    talk = Conversation.about(own, view)
    talk.say("Where is the calcification?")
    assert talk.say(QUESTION) == yes


@pytest.mark.usefixtures("answers_so")
def test_python_chat_options_and_benchmarks_decide_alike(assistant, view, tmp_path):
    presence = yes_or_no_scores(assistant, [build_prompt(assistant, QUESTION, view)])[0].presence
    write_features(tmp_path / "a.h5", tiny_slide("a"))
    options = ("No", "Yes")
    one = VQAQuestion("q", "a", "p", QUESTION, options, "A", "presence")
    for cut, side in ((presence - 0.1, "Yes"), (presence + 0.1, "No")):
        # The even odds of the sum lie at the cut, so that the likelier option is the side decided.
        own = fitted(assistant, 0.0, 0.0, evidence_intercept=-cut)
        assert ask(own, QUESTION, view, writing=SHORT).text.startswith(side)
        assert Conversation.about(own, view).say(QUESTION, writing=SHORT).text.startswith(side)
        assert ask(own, QUESTION, view, options).text == side
        (answer,) = answer_questions(own, [one], {"a": tmp_path / "a.h5"})
        assert options[int(np.argmax(answer.probabilities))] == side
    unsure = fitted(assistant, presence + 0.1, presence - 0.1)
    assert ask(unsure, QUESTION, view, options).text == UNDECIDED


@pytest.mark.usefixtures("answers_so")
def test_without_a_threshold_that_is_said(assistant, view, monkeypatch):
    monkeypatch.setattr("pathflip.assistant.answers.generate", lambda *_, **__: "Yes, necrosis is present.")
    plain = replace(assistant, calibration=AnswerCalibration(refuse_above=1.0))
    assert "no threshold" in ask(plain, QUESTION, view).note
    assert ask(plain, "Where is the necrosis?", view).note == ""
    assert "no threshold" not in ask(fitted(assistant, -99.0, -99.0), QUESTION, view, writing=SHORT).note


@pytest.mark.usefixtures("answers_so")
def test_a_question_that_denies_is_not_answered_by_thresholds_for_presence(assistant, view):
    own = fitted(assistant, -99.0, -99.0)  # yes to everything
    for question in ("Is necrosis absent?", "Is there no necrosis?", "Is the slide free of necrosis?"):
        answer = ask(own, question, view)
        assert (answer.text, answer.abstained) == (UNDECIDED, True)
        assert "ask whether it is there" in answer.note


def test_what_is_not_answered_with_yes_or_no_stays_open(assistant, view, monkeypatch):
    own = fitted(assistant, -99.0, -99.0)
    monkeypatch.setattr(module, "LEAST_ANSWERED_SO", 2.0)
    prompts = [build_prompt(own, question, view) for question in (QUESTION, "Where is the necrosis?")]
    assert verdicts(own, prompts) == [None, None]


def test_a_contradiction_between_words_and_slide_is_said():
    yes = thresholds_at(0.0, 0.0, words=1.0)
    assert decide(yes, YesOrNoScores(2.0, 1.0, 0, 0)).note == ""
    assert "speaks for no (yes at 27%)" in decide(yes, YesOrNoScores(2.0, -1.0, 0, 0)).note
    assert "alone would have said no" in decide(yes, YesOrNoScores(-1.0, 2.0, 0, 0)).note
    assert "speaks for yes" in decide(yes, YesOrNoScores(-2.0, 1.0, 0, 0)).note


def test_thresholds_bound_both_errors_by_themselves():
    rng = np.random.default_rng(0)
    for distance in (0.5, 2.0, 6.0):
        present = rng.random(2000) < 0.2
        odds = rng.normal(0, 1, 2000) + distance * present
        no_below, yes_from = thresholds(odds, present)
        assert no_below <= yes_from
        assert (odds[present] < no_below).mean() <= 0.05
        assert (odds[~present] >= yes_from).mean() <= 0.05
        assert (no_below < yes_from) == (distance < 3.5)
        fresh, truth = rng.normal(0, 1, 4000), rng.random(4000) < 0.2
        fresh = fresh + distance * truth
        assert (fresh[truth] < no_below).mean() < 0.08
        assert (fresh[~truth] >= yes_from).mean() < 0.07


def scored(monkeypatch, scores):
    monkeypatch.setattr(fitting, "_weighed", lambda *_: scores)


def questions_of(present):
    return [PresenceQuestion(f"s{i}", f"p{i % 20}", QUESTION, bool(one)) for i, one in enumerate(present)]


def test_the_fit_knows_that_some_texts_score_high_on_every_slide(assistant, monkeypatch):
    """Presence alone cannot tell them apart; with what depends on the text alone it can."""
    rng = np.random.default_rng(1)
    present, height = rng.random(600) < 0.3, rng.choice([0.0, 3.0], 600)
    presence = 2.0 * present + height + rng.normal(0, 0.5, 600)
    scores = [YesOrNoScores(float(rng.normal()), p, h, 0.0) for p, h in zip(presence.tolist(), height, strict=True)]
    scored(monkeypatch, scores)
    calibration = calibrate_yes_or_no(assistant, questions_of(present), {}, "a test")
    assert calibration.measured["auroc"] > 0.97
    assert calibration.measured["yes_said_of_no"] <= 0.05
    assert calibration.gate < 0 < calibration.presence
    sides = [calibration.decide(one) for one in scores]
    assert np.mean([(side == "yes") == one for side, one in zip(sides, present, strict=True)]) > 0.9


def test_too_few_questions_are_one_line(assistant, monkeypatch):
    with pytest.raises(CaptionError, match=r"3 questions answered with yes and 0 with no.*at least 10 of each"):
        calibrate_yes_or_no(assistant, questions_of([True] * 3), {}, "a test")
    blind = replace(assistant, model=assistant.model)
    monkeypatch.setattr(blind.model, "config", assistant.model.config.model_copy(update={"text_only": True}))
    with pytest.raises(ConfigError, match="shown no slide"):
        calibrate_yes_or_no(blind, questions_of([True, False]), {}, "a test")


def test_questions_of_a_file(tmp_path):
    rows = [
        ("a", QUESTION, "Yes, necrosis is present."), ("b", QUESTION, "no"), ("b", "Is necrosis absent?", "yes"),
        ("b", "Where is it?", "No idea"), ("c", QUESTION, "yes"), ("a", "Is it graded?", "perhaps"),
    ]  # fmt: skip
    with (tmp_path / "q.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("slide", "question", "answer"), *rows])
    (tmp_path / "s.csv").write_text("slide,patient,split\na.svs,P1,val\nb,P2,val\nc,P3,train\n")
    asked = read_presence_questions(tmp_path / "q.csv", tmp_path / "s.csv")
    assert [(one.slide_id, one.patient, one.present) for one in asked] == [("a", "P1", True), ("b", "P2", False)]
    assert len(read_presence_questions(tmp_path / "q.csv")) == 3


@pytest.fixture
def saved(tmp_path, assistant):
    parts = {"language": assistant.language, "template": assistant.template, "aligned": tmp_path / "aligned"}
    return save_assistant(tmp_path / "saved", assistant.model, **parts)


def test_thresholds_are_kept_with_the_weights_they_were_fitted_for(saved):
    AnswerCalibration(yes_or_no=thresholds_at(1.0, -1.0)).write(saved)
    assert package.load_assistant(saved).calibration.yes_or_no == thresholds_at(1.0, -1.0)
    weights = saved / "assistant.safetensors"
    weights.write_bytes(weights.read_bytes()[:-4] + b"\x00\x00\x00?")
    with pytest.raises(CheckpointError, match="fitted for other weights"):
        package.load_assistant(saved)


def test_calibrate_on_files_and_ask(saved, tmp_path, monkeypatch):
    """The verb fits what the files allow, says what it could not fit, and `ask` uses it."""
    for i in range(10):
        write_features(tmp_path / "features" / f"s{i}.h5", tiny_slide(f"s{i}", seed=i))
    rows = [{"slide": f"s{i % 10}", "question": QUESTION, "answer": ("yes", "no")[i // 10 % 2]} for i in range(40)]
    (tmp_path / "q.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "s.csv").write_text("slide,patient,split\n" + "".join(f"s{i},P{i},val\n" for i in range(10)))
    base = ["calibrate", "--assistant", saved, "--features", tmp_path / "features", "--splits", tmp_path / "s.csv"]
    done = CliRunner().invoke(app, [str(w) for w in [*base, "--questions", tmp_path / "q.jsonl", "--json"]])
    assert done.exit_code == 0, done.output
    row = json.loads(done.stdout.splitlines()[-1])
    assert row["yes_or_no"]["questions"] == 40
    assert "cannot be answered" in row["not_fitted"][0]
    calibration = package.load_assistant(saved).calibration
    assert "q.jsonl" in calibration.yes_or_no.fitted_on
    wide = calibration.yes_or_no.model_copy(update={"yes_from": 99.0, "no_below": -99.0})
    calibration.model_copy(update={"yes_or_no": wide, "refuse_above": 1.0}).write(saved)
    monkeypatch.setattr(module, "LEAST_ANSWERED_SO", 0.0)
    words = ["ask", "--assistant", saved, "--features", tmp_path / "features" / "s1.h5", "--question", QUESTION]
    done = CliRunner().invoke(app, [str(word) for word in words])
    assert f"{UNDECIDED}\n    note: yes at" in done.stdout
    done = CliRunner().invoke(app, [str(w) for w in [*base, "--questions", tmp_path / "q.jsonl", "--split", "train"]])
    assert done.exit_code == 2 or "too sure" in str(done.exception)
