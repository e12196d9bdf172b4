"""Columns and encoding named on the command line: every verb that reads a table of slides and texts takes them."""

import json
import sys

import pytest
import typer

from pathflip.cli import app, main

READERS = {
    "decompose": {"slide_column", "text_column", "part_column", "encoding"},
    "train": {"slide_column", "text_column", "part_column", "encoding"},
    "retrieve": {"slide_column", "text_column", "part_column", "encoding"},
    "calibrate": {"slide_column", "text_column", "part_column", "encoding"},
    "verify": {"slide_column", "text_column", "part_column", "encoding"},
    "ask": {"slide_column", "text_column", "encoding"},
    "eval": {"slide_column", "text_column", "part_column", "encoding"},
    "eval caption": {"slide_column", "text_column", "part_column", "encoding"},
    "eval vqa": {"slide_column", "text_column", "encoding"},
}


def commands():
    whole = typer.main.get_command(app)
    for name, command in whole.commands.items():
        yield name, command
        for inner, below in getattr(command, "commands", {}).items():
            yield f"{name} {inner}", below


def test_every_verb_that_reads_a_table_takes_its_columns():
    options = {name: {one.name for one in command.params} for name, command in commands()}
    assert {name: wanted - options[name] for name, wanted in READERS.items() if wanted - options[name]} == {}


@pytest.fixture
def run(monkeypatch, capsys):
    def command(*words):
        monkeypatch.setattr(sys, "argv", ["pathflip", *map(str, words)])
        with pytest.raises(SystemExit) as left:
            main()
        return left.value.code, capsys.readouterr()

    return command


def test_captions_under_other_names(run, tmp_path):
    references, predictions = tmp_path / "reports.csv", tmp_path / "said.csv"
    texts = [f"Größe {n}: Nekrose mit soliden Nestern." for n in range(4)]
    references.write_bytes(
        ("Scan;Befund;text\n" + "".join(f"s{n};{text};old\n" for n, text in enumerate(texts))).encode("cp1252")
    )
    predictions.write_bytes(
        ("Scan;output\n" + "".join(f"s{n};{text}\n" for n, text in enumerate(texts))).encode("cp1252")
    )
    words = ["eval", "caption", "--predictions", predictions, "--references", references, "--resamples", 5, "--json"]
    columns = ["--slide-column", "scan", "--text-column", "befund", "--encoding", "cp1252"]
    code, printed = run(*words, *columns)
    assert code in (0, None), printed.err
    assert json.loads(printed.out.splitlines()[0])["value"] == pytest.approx(1, abs=1e-6)
    code, printed = run(*words, "--slide-column", "nothing")
    assert code == 1
    assert "no column 'nothing'" in printed.err
    predictions.write_text(
        "slide,output\n" + "".join(f"s{n},{text}\n" for n, text in enumerate(texts)), encoding="cp1252"
    )
    code, printed = run(*words, *columns)  # the answers keep to the usual names
    assert code in (0, None), printed.err
    assert json.loads(printed.out.splitlines()[0])["value"] == pytest.approx(1, abs=1e-6)


def test_questions_under_other_names(run, tmp_path):
    questions, predictions = tmp_path / "questions.csv", tmp_path / "said.csv"
    rows = [(f"s{n}", f"Größe {n}?") for n in range(4)]
    questions.write_bytes(
        ("Scan;id;Frage;question;A;B;answer\n" + "".join(f"{s};{s};{q};old;klein;groß;B\n" for s, q in rows)).encode(
            "cp1252"
        )
    )
    predictions.write_bytes(("Scan;id;output\n" + "".join(f"{s};{s};groß\n" for s, _ in rows)).encode("cp1252"))
    words = ["eval", "vqa", "--predictions", predictions, "--questions", questions, "--resamples", 5, "--json"]
    columns = ["--slide-column", "scan", "--text-column", "frage", "--encoding", "cp1252"]
    code, printed = run(*words, *columns)
    assert code in (0, None), printed.err
    assert json.loads(printed.out.splitlines()[0])["value"] == 1
