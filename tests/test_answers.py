"""Asking: answers, refusals, the places behind them, and the verbs."""

import csv
import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from pathflip import assistant as package
from pathflip.assistant import (
    AnswerCalibration,
    Conversation,
    answer,
    ask,
    build_prompt,
    caption,
    evidence_to_files,
    generate,
    log_likelihood,
    option_probabilities,
    prepare_slide,
    refusal_logit,
    save_assistant,
    tiles_of,
)
from pathflip.assistant import answers as answers_module
from pathflip.checkpoint import stored_caution
from pathflip.cli import app
from pathflip.errors import CaptionError, CheckpointError, ConfigError
from pathflip.features import write_features
from pathflip.geometry import Box
from pathflip.inference import ground
from pathflip.text.known_words import UNKNOWN_WORDS
from pathflip.text.refusals import CANNOT_TELL, cannot_tell
from pathflip.types import Answer, Evidence
from tiny_assistant import assemble, tiny_slide

QUESTION, OPTIONS = "Where is the necrosis?", ("upper left", "lower right", "everywhere")


@pytest.fixture(autouse=True)
def a_few_words(monkeypatch):
    """A language model without training does not end by itself."""
    short = {"max_new_tokens": 8}
    monkeypatch.setattr(answers_module, "generate", lambda *words, **how: generate(*words, **how | short))


@pytest.fixture
def assistant(tmp_path):
    return assemble(tmp_path)


@pytest.fixture
def saved(tmp_path, assistant):
    folder = tmp_path / "saved"
    save_assistant(
        folder, assistant.model, language=assistant.language, template=assistant.template, aligned=tmp_path / "aligned"
    )
    return folder


def calibrated(assistant, **values):
    return replace(assistant, calibration=AnswerCalibration(**values))


@pytest.mark.parametrize(
    ("text", "refused"),
    [
        (CANNOT_TELL, True),
        ("This cannot be seen here.", True),
        ("Margins are not visible on this slide", True),
        ("It is not possible to determine the stage.", True),
        ("No necrosis is seen.", False),
        ("upper left", False),
        ("Necrosis is seen; it cannot be missed.", False),
    ],
)
def test_refusals_are_recognised(text, refused):
    assert cannot_tell(text) is refused


def test_a_choice_is_the_likeliest_letter_at_the_calibrated_temperature(assistant):
    assistant = calibrated(assistant, temperature=2.5, refuse_above=1.0)
    view = prepare_slide(assistant.aligned, tiny_slide("a"))
    answer = ask(assistant, QUESTION, view, OPTIONS)
    letters = log_likelihood(assistant, build_prompt(assistant, QUESTION, view, OPTIONS), ["A", "B", "C"], ended=False)
    expected = (letters / 2.5).softmax(0).numpy()
    np.testing.assert_allclose(answer.probabilities, expected, atol=1e-4)
    assert answer.text == OPTIONS[int(expected.argmax())]
    assert answer.confidence == pytest.approx(expected.max(), abs=1e-4)
    assert not answer.abstained


def test_evidence_of_a_choice_is_what_was_shown_for_it(assistant):
    assistant = calibrated(assistant, refuse_above=1.0)
    view = prepare_slide(assistant.aligned, tiny_slide("a"))
    prompt = build_prompt(assistant, QUESTION, view, OPTIONS)
    reply = answer(assistant, prompt, (view,), refusal=0.0, most_evidence=4)
    slot = 1 + OPTIONS.index(reply.text)
    tokens = prompt.slides[0]
    shown = {
        t for s, tiles in zip(tokens.slot.tolist(), tokens.tiles, strict=True) if s == slot for t in tiles.tolist()
    }
    chosen = set(np.flatnonzero(tiles_of(reply, view)))
    assert chosen
    assert chosen <= shown
    assert [e.score for e in reply.evidence] == sorted((e.score for e in reply.evidence), reverse=True)
    corners = np.array([(e.box.x, e.box.y) for e in reply.evidence])
    gaps = np.abs(corners[:, None] - corners[None]).max(-1) + 10**9 * np.eye(len(corners))
    assert gaps.min() >= 1.5 * view.features.grid.tile_px0


def test_a_yes_or_no_question_of_unknown_words_is_refused(assistant):
    """A yes or no would be about something else that the language model did learn."""
    assistant = calibrated(assistant, refuse_above=1.0)
    view = prepare_slide(assistant.aligned, tiny_slide("a"))
    assert ask(assistant, "Is there a fracture?", view) == Answer(CANNOT_TELL, abstained=True)
    assert ask(assistant, "Is there necrosis?", view).confidence is not None
    assert ask(assistant, "What is seen?", view).confidence is not None


def test_an_open_question_is_refused_from_the_threshold_on(assistant, monkeypatch):
    view = prepare_slide(assistant.aligned, tiny_slide("a"))
    soft = {"refusal_slope": 0.01}  # brings the odds of an untrained model into reach
    chance = AnswerCalibration(**soft).refusal(refusal_logit(assistant, build_prompt(assistant, QUESTION, view)))
    assert 0.05 < chance < 0.95
    assistant = calibrated(assistant, **soft, refuse_above=chance - 1e-9)
    refused = ask(assistant, QUESTION, view)
    assert refused.abstained
    assert refused.text == CANNOT_TELL
    assert refused.evidence == ()
    assert refused.confidence == pytest.approx(chance)
    assistant = calibrated(assistant, **soft, refuse_above=chance + 1e-6)
    monkeypatch.setattr(answers_module, "generate", lambda *_, **__: "upper left")
    answer = ask(assistant, QUESTION, view)
    assert (answer.text, answer.abstained) == ("upper left", False)
    assert {e.text for e in answer.evidence} == {"necrosis upper left"}


def test_the_log_odds_of_refusing_are_those_of_the_words(assistant):
    prompt = build_prompt(assistant, QUESTION, tiny_slide("a"))
    chance = math.exp(float(log_likelihood(assistant, prompt, [CANNOT_TELL])[0]))
    assert refusal_logit(assistant, prompt) == pytest.approx(math.log(chance) - math.log1p(-chance), rel=1e-5)


def test_where_refusing_is_an_option_the_options_decide(assistant):
    assistant = calibrated(assistant, refuse_above=0.0)  # would refuse everything
    view = prepare_slide(assistant.aligned, tiny_slide("a"))
    answer = ask(assistant, QUESTION, view, (*OPTIONS, CANNOT_TELL))
    chances = option_probabilities(assistant, [build_prompt(assistant, QUESTION, view, (*OPTIONS, CANNOT_TELL))])[0]
    assert answer.text == (*OPTIONS, CANNOT_TELL)[int(chances.argmax())]
    assert answer.abstained == (answer.text == CANNOT_TELL)


def test_every_sentence_of_a_caption_names_its_places(assistant, monkeypatch):
    caption_text = "Keratin pearls are seen in the upper left. No necrosis is identified."
    monkeypatch.setattr(answers_module, "generate", lambda *_, **__: caption_text)
    view = prepare_slide(assistant.aligned, tiny_slide("a"))
    answer = caption(assistant, view, most_evidence=2)
    assert answer.text == caption_text
    assert {e.text for e in answer.evidence} == {"Keratin pearls are seen in the upper left."}
    best = np.nanargmax(ground(assistant.aligned, view.encoded, answer.evidence[0].text).scores)
    assert (answer.evidence[0].box.x, answer.evidence[0].box.y) == tuple(view.features.coords[best])


def test_a_sentence_that_no_slide_can_show_has_no_places_and_is_named(assistant, monkeypatch):
    caption_text = "Keratin pearls are seen. The patient was referred by Dr. Meyer. HER2 is negative."
    monkeypatch.setattr(answers_module, "generate", lambda *_, **__: caption_text)
    answer = caption(assistant, tiny_slide("a"))
    assert {e.text for e in answer.evidence} == {"Keratin pearls are seen."}
    assert "2 of 3 sentences" in answer.note
    assert "The patient was referred by Dr. Meyer." in answer.note
    monkeypatch.setattr(answers_module, "generate", lambda *_, **__: "Keratin pearls are seen.")
    assert caption(assistant, tiny_slide("a")).note == ""


def test_a_conversation_remembers_and_forgets(assistant, monkeypatch):
    heard = []
    assistant = calibrated(assistant, refuse_above=1.0)
    monkeypatch.setattr(
        answers_module, "generate", lambda _, prompt, **__: heard.append(prompt) or f"reply {len(heard)}"
    )
    talk = replace(Conversation.about(assistant, tiny_slide("a")), most_turns=2)
    for question in ("One?", "Two?", "Three?", "Four?"):
        talk.say(question)
    questions = [turn.text.replace("<slide>", "").strip() for turn in heard[-1].turns]
    assert questions == ["Two?", "reply 2", "Three?", "reply 3", "Four?"]


def test_evidence_goes_to_qupath_in_the_coordinates_of_the_scanned_bounds(assistant, tmp_path):
    features = tiny_slide("a")
    features = replace(features, info=replace(features.info, bounds0=Box(100, 40, 5000, 5000)))
    view = prepare_slide(assistant.aligned, features)
    box = view.features.grid.box(3)
    answer = Answer("yes", (Evidence(box, 0.5, "yes", "a"), Evidence(box, 0.4, "other slide", "b")))
    picture = np.full((300, 400, 3), 250, np.uint8)
    files = evidence_to_files(answer, view, tmp_path / "a", thumbnail=picture, note="Not a medical device.")
    (feature,) = json.loads((tmp_path / "a.evidence.geojson").read_text())["features"]
    assert feature["geometry"]["coordinates"][0][0] == [box.x - 100, box.y - 40]
    assert feature["properties"]["measurements"] == {"similarity": 0.5}
    assert (tmp_path / "a.evidence.png").stat().st_size > 1000
    assert len(files) == 2


def test_bad_questions_and_calibrations_get_one_line(assistant, saved):
    with pytest.raises(CaptionError, match="empty"):
        ask(assistant, "  ", tiny_slide("a"))
    with pytest.raises(CaptionError, match="401 words, expected at most 400"):
        ask(assistant, "word " * 401, tiny_slide("a"))
    (saved / "calibration.json").write_text('{"temperature": -1}')
    with pytest.raises(CheckpointError, match="damaged"):
        package.load_assistant(saved)


def test_a_calibration_is_read_beside_the_weights(saved):
    AnswerCalibration(refuse_above=0.0, fitted_on="a test").write(saved)
    answer = ask(package.load_assistant(saved), QUESTION, tiny_slide("a"))
    assert answer.abstained


def test_the_calibration_is_read_once_and_not_for_each_answer(saved):
    AnswerCalibration(refuse_above=1.0).write(saved)
    loaded = package.load_assistant(saved)
    AnswerCalibration(refuse_above=0.0).write(saved)
    assert not ask(loaded, QUESTION, tiny_slide("a"), OPTIONS).abstained
    (saved / "calibration.json").write_text("{")
    ask(loaded, QUESTION, tiny_slide("a"), OPTIONS)


def test_out_of_memory_is_one_line(assistant, monkeypatch):
    def exhausted(*_, **__):
        raise torch.OutOfMemoryError("tried to allocate")

    monkeypatch.setattr(answers_module, "generate", exhausted)
    with pytest.raises(ConfigError, match=r"out of memory.*visual tokens"):
        caption(assistant, tiny_slide("a"))


# ------------------------------------------------------------------------------------------------ verbs


@pytest.fixture
def features(tmp_path):
    folder = tmp_path / "features"
    for name in ("a", "b"):
        write_features(folder / f"{name}.h5", tiny_slide(name))
    return folder


def rows_of(*words, **kwargs):
    done = CliRunner().invoke(app, [str(word) for word in words], **kwargs)
    return done.exit_code, [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]


def test_ask_prints_answer_and_evidence_and_writes_them(saved, features, tmp_path):
    options = [word for option in OPTIONS for word in ("--option", option)]
    out = tmp_path / "out"
    status, (row,) = rows_of(
        "ask", "--assistant", saved, "--features", features / "a.h5", "--question", QUESTION, *options,
        "--out", out, "--json",
    )  # fmt: skip
    assert status == 0
    assert row["options"] == list(OPTIONS)
    assert sum(row["probabilities"]) == pytest.approx(1, abs=1e-3)
    assert (out / "a.evidence.geojson").is_file()


def test_a_file_of_questions_goes_on_after_a_bad_one(saved, features, tmp_path):
    questions = [{"slide": slide, "question": QUESTION, "options": list(OPTIONS), "answer": "A"} for slide in "axb"]
    (tmp_path / "q.jsonl").write_text("".join(json.dumps(one) + "\n" for one in questions))
    words = ["ask", "--assistant", saved, "--features", features, "--questions", tmp_path / "q.jsonl", "--json"]
    status, rows = rows_of(*words)
    assert status == 1
    assert [(row["slide_id"], "error" in row) for row in rows] == [("a", False), ("b", False), ("x", True)]


def test_answers_as_a_table(saved, features, tmp_path):
    """A row a question: answer, confidence, the note on unknown words and the caution; nothing else is written."""
    questions = [{"slide": slide, "question": QUESTION, "options": list(OPTIONS)} for slide in "ab"]
    questions += [{"slide": "a", "question": "Qwertz uiop?"}, {"slide": "gone", "question": QUESTION}]
    (tmp_path / "q.jsonl").write_text("".join(json.dumps(one) + "\n" for one in questions))
    out = tmp_path / "answers.csv"
    words = ["ask", "--assistant", saved, "--features", features, "--questions", tmp_path / "q.jsonl", "--out", out]
    status, printed = rows_of(*words, "--json")
    assert status == 1  # one slide has no features
    rows = list(csv.DictReader(out.open(encoding="utf-8", newline="")))
    assert [row["slide_id"] for row in rows] == [row["slide_id"] for row in printed]
    of = {(row["slide_id"], row["question"]): row for row in rows}
    assert of["a", QUESTION]["answer"] == next(r["answer"] for r in printed if r["slide_id"] == "a")
    assert "none of these words" in of["a", "Qwertz uiop?"]["warnings"]
    assert all("not a medical device" in row["caution"] for row in rows if not row["error"])
    assert "no feature file" in next(row["error"] for row in rows if row["slide_id"] == "gone")
    assert not list(tmp_path.glob("*.geojson"))


def test_questions_nobody_has_answered_can_be_asked(saved, features, tmp_path):
    rows = [{"slide": "a", "question": "What is seen?"}, {"slide": "b", "question": QUESTION, "options": list(OPTIONS)}]
    (tmp_path / "q.jsonl").write_text("".join(json.dumps(one) + "\n" for one in rows))
    words = ["ask", "--assistant", saved, "--features", features, "--questions", tmp_path / "q.jsonl", "--json"]
    status, rows = rows_of(*words)
    assert status == 0
    assert ["options" in row for row in rows] == [False, True]


def test_cases_are_asked_and_described(saved, features, tmp_path):
    """Both slides of a case are shown together; a slide of no case is asked alone."""
    (tmp_path / "cases.csv").write_text("case,slide\nK,a.svs\nK,b.svs\n")
    base = ("--assistant", saved, "--features", features, "--json")
    cases = ("--cases", tmp_path / "cases.csv")
    for verb in (("ask", "--question", "What is seen?"), ("caption",)):
        status, rows = rows_of(verb[0], *base, *verb[1:], *cases, "--out", tmp_path / "out")
        assert status == 0
        assert (rows[0]["slide_id"], rows[0]["slides_of_case"]) == ("K", ["a", "b"])
        names = {file.rpartition("/")[2] for file in rows[0]["files"]}
        assert names == {"a.evidence.geojson", "b.evidence.geojson"}
    (tmp_path / "q.csv").write_text("case,question\nK,What is seen?\nZ,What is seen?\n")
    status, rows = rows_of("ask", *base, *cases, "--questions", tmp_path / "q.csv")
    assert status == 1
    assert [(row["slide_id"], "error" in row) for row in rows] == [("K", False), ("Z", True)]
    assert "--cases" in rows[1]["error"]
    status, rows = rows_of("chat", *base, *cases, "--case", "K", input="What is seen?\n")
    assert (status, len(rows)) == (0, 1)
    (tmp_path / "two.csv").write_text("case,slide\nK,a.svs\nL,b.svs\n")
    status, _ = rows_of("chat", *base, "--cases", tmp_path / "two.csv", input="What is seen?\n")
    assert status != 0


def test_chat_answers_line_by_line(saved, features):
    status, rows = rows_of(
        "chat", "--assistant", saved, "--features", features / "a.h5", "--json", input="What is seen?\nWhere?\n\n"
    )
    assert status == 0
    assert [row["question"] for row in rows] == ["What is seen?", "Where?"]


def test_chat_says_the_models_caution_and_words_it_never_saw(saved, features):
    words = ("chat", "--assistant", saved, "--features", features / "a.h5")
    done = CliRunner().invoke(app, [str(word) for word in words], input="Is there a zebrafish?\n")
    assert done.exit_code == 0
    assert stored_caution(saved / "aligned") in done.stderr
    assert done.stderr.count(UNKNOWN_WORDS) == 1


def test_captions_of_a_folder(saved, features):
    status, rows = rows_of("caption", "--assistant", saved, "--features", features, "--json")
    assert status == 0
    assert [row["slide_id"] for row in rows] == ["a", "b"]
