"""Results go where the user said, or nowhere: inputs survive, terminals are not steered, a full disk is one line."""

import csv
import errno
import importlib
import io
import json
import multiprocessing
import os
import time
from pathlib import Path

import pytest

from pathflip.cli import main
from pathflip.errors import ConfigError, OutputError
from pathflip.features import extract_cohort
from pathflip.features.outcomes import FailureList
from pathflip.geometry import TileSpec
from pathflip.io.files import check_target, check_writable
from pathflip.io.locks import only_writer
from pathflip.io.tables import plain_cell
from pathflip.slide.quality import SlideQuality, _table
from pathflip.text.captions import read_captions
from pathflip.text.decompose.job import Decomposed, write_decomposed

cli_app = importlib.import_module("pathflip.cli.app")  # the package has the application itself under that name


def run(monkeypatch, *words):
    monkeypatch.setattr("sys.argv", ["pathflip", *map(str, words)])
    with pytest.raises(SystemExit) as ended:
        main()
    return int(ended.value.code or 0)


# ---------------------------------------------------------------- decompose


def reports(path, text="Necrosis is seen."):
    path.write_text(f"slide,text\ns1,{text}\n", encoding="utf-8")
    return path


def test_decompose_does_not_write_over_what_it_reads(tmp_path, monkeypatch, capsys):
    source = reports(tmp_path / "r.csv")
    before = source.read_bytes()
    (tmp_path / "link.csv").symlink_to(source)
    os.link(source, tmp_path / "hard.csv")
    for out in ("r.csv", "link.csv", "hard.csv", "../" + tmp_path.name + "/r.csv"):
        assert run(monkeypatch, "decompose", source, "--out", tmp_path / out) == 2
        assert "is the file that is read, and would be lost" in capsys.readouterr().err
    beside = tmp_path / "a.failures.jsonl"
    beside.write_text('{"slide": "s1", "text": "Necrosis is seen."}\n')
    assert run(monkeypatch, "decompose", beside, "--out", tmp_path / "a.jsonl") == 2
    assert source.read_bytes() == before
    assert beside.exists()
    assert run(monkeypatch, "decompose", source, "--out", tmp_path / "o" / "out.jsonl") == 0
    assert read_captions(tmp_path / "o" / "out.jsonl")[0].slide_id == "s1"


def test_a_run_that_fails_leaves_an_earlier_result(tmp_path):
    out = tmp_path / "out.jsonl"
    write_decomposed(out, [Decomposed("s1", "p", "Necrosis is seen.")])
    good = out.read_bytes()
    assert write_decomposed(out, [Decomposed("s1", "p", "x", error="no answer")])["failed"] == 1
    assert out.read_bytes() == good
    assert json.loads((tmp_path / "out.failures.jsonl").read_text())["error"] == "no answer"


def test_columns_and_encoding_on_the_command_line(tmp_path, monkeypatch):
    source = tmp_path / "r.csv"
    source.write_bytes("Barcode;report, final;text\ns1;Größe 2 cm. Nekrose.;old\n".encode("cp1252"))
    out = tmp_path / "o.jsonl"
    names = ("--slide-column", "barcode", "--text-column", "report, final", "--encoding", "cp1252")
    assert run(monkeypatch, "decompose", source, "--out", out, *names) == 0
    assert read_captions(out)[0].text == "Größe 2 cm. Nekrose."
    assert run(monkeypatch, "decompose", source, "--out", out, "--encoding", "klingon") == 2


# ---------------------------------------------------------------- where nothing can be written


VERBS = [
    ("ground", "--model", "no", "--features", "no.h5", "--text", "x"),
    ("verify", "no.h5", "no.txt", "--model", "no"),
    ("ask", "--assistant", "no", "--features", "no.h5", "--question", "x"),
    ("caption", "--assistant", "no", "--features", "no.h5"),
    ("train", "align_base", "--features", "no.h5", "--captions", "no.csv"),
    ("convert", "no.h5", "--to", "clam"),
]


@pytest.mark.parametrize("verb", VERBS, ids=lambda verb: verb[0])
def test_an_out_that_cannot_be_written_is_one_line_before_the_work(tmp_path, monkeypatch, capsys, verb):
    (tmp_path / "file").write_text("x")
    assert run(monkeypatch, *verb, "--out", tmp_path / "file" / "x") == 1
    message = capsys.readouterr().err
    assert message.startswith("pathflip: cannot write to '")
    assert message.count("\n") == 1


def test_decompose_into_a_folder_or_nowhere(tmp_path, monkeypatch, capsys):
    source = reports(tmp_path / "r.csv")
    (tmp_path / "dir").mkdir()
    for out, message in ((tmp_path / "dir", "is a folder"), (source / "x.jsonl", "cannot write to")):
        assert run(monkeypatch, "decompose", source, "--out", out) == 1
        assert message in capsys.readouterr().err


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EROFS, errno.EACCES, errno.EDQUOT, errno.EIO])
def test_errors_of_the_system_are_one_line(tmp_path, monkeypatch, capsys, code):
    def fails():
        raise OSError(code, os.strerror(code), str(tmp_path / "x"))

    monkeypatch.setattr(cli_app, "app", fails)
    assert run(monkeypatch) == 1
    assert capsys.readouterr().err.startswith(f"pathflip: '{tmp_path / 'x'}': {os.strerror(code)}")

    def full(*_, **__):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(OutputError, match=f"cannot write to .*{os.strerror(code)}"):
        check_writable(tmp_path / "new")


def test_checking_leaves_nothing(tmp_path):
    check_writable(tmp_path / "a" / "b")
    check_target(tmp_path / "a" / "b" / "c.jsonl", [tmp_path / "x"])
    assert [p.name for p in tmp_path.rglob("*")] == ["a", "b"]


# ---------------------------------------------------------------- locks


def test_a_lock_that_is_a_link_does_not_empty_its_target(tmp_path):
    from cohort_run import write_slide

    slide = write_slide(tmp_path / "s.tif")

    def extract(slide):
        return extract_cohort([slide], TileSpec(64, 2.0), "colour_histogram", tmp_path / "o", num_workers=1)

    precious = tmp_path / "precious.txt"
    precious.write_text("years of work")
    folder = tmp_path / "o" / "features_colour_histogram"
    folder.mkdir(parents=True)
    for name in (folder / ".lock", tmp_path / "o" / ".failures.lock", tmp_path / "o" / "failures.jsonl"):
        name.symlink_to(precious)
        with pytest.raises(OutputError, match="cannot write"):
            extract(slide) if name.parent == folder else FailureList(tmp_path / "o" / "failures.jsonl", "e").forget({})
        name.unlink()
        assert precious.read_text() == "years of work"
    assert extract(slide)[0].status == "done"


def hold(folder, held, done):
    with only_writer(Path(folder), "training"):
        held.set()
        done.wait(30)
    time.sleep(0.01)


def test_one_writer_at_a_time(tmp_path):
    context = multiprocessing.get_context("spawn")
    held, done = context.Event(), context.Event()
    other = context.Process(target=hold, args=(tmp_path, held, done))
    other.start()
    assert held.wait(30)
    with (
        pytest.raises(ConfigError, match=rf"another training \(process {other.pid} on "),
        only_writer(tmp_path, "training"),
    ):
        pass
    other.kill()  # the system lets go
    other.join()
    with only_writer(tmp_path, "training") as locked:
        assert locked


# ---------------------------------------------------------------- spreadsheets and terminals


@pytest.mark.parametrize("text", ["=cmd|' /C calc'!A0", "+1+1", "-2+3", "@SUM(1)", "\t=1", " =1"])
def test_formulas_are_text(text):
    assert plain_cell(text) == f"'{text}"
    rows = list(
        csv.DictReader(
            io.StringIO(newline="", initial_value=_table([SlideQuality(text, f"/x/{text}", (text, "pen"), error=text)]))
        )
    )
    assert rows[0]["slide_id"] == rows[0]["error"] == f"'{text}"
    assert rows[0]["flags"].startswith("'")


def test_a_cell_is_one_line():
    assert plain_cell("a\r\n=1\rb\x85c") == "a =1 b c"
    assert plain_cell("\n=1") == "' =1"


def test_numbers_stay_numbers():
    assert [plain_cell(v) for v in (-1.5, 3, "a", "", None)] == [-1.5, 3, "a", "", None]


@pytest.mark.parametrize("char", ["\x1b", "\x07", "\x08", "\r", "\x7f", "\x9b", "\u202e", "\u2066"])
def test_names_do_not_steer_the_terminal(tmp_path, monkeypatch, capsys, char):
    name = f"a{char}[2Jb"
    cli_app.say(f"note: {name}")
    cli_app.print_rows([{"slide_id": name}], False, lambda row: row["slide_id"])
    cli_app.print_rows([{"slide_id": name}], True, str)
    (tmp_path / f"{name}.svs").write_text("no slide")
    assert run(monkeypatch, "info", tmp_path) == 1
    assert run(monkeypatch, "convert", tmp_path / f"{name}.h5", "--to", "clam", "--out", tmp_path / "o") == 1
    captured = capsys.readouterr()
    assert char not in captured.out + captured.err
    assert f"\\u{ord(char):04x}" in captured.err
    assert json.loads(captured.out.splitlines()[1])["slide_id"] == name
    with cli_app.progress_bar("x") as advance:
        advance(1, 2, f"[/red]{name}[bold]")
    assert char == "\x1b" or char not in capsys.readouterr().err


def test_warnings_are_notes_of_one_line(tmp_path, monkeypatch, capsys):
    import warnings

    def warns():
        warnings.warn("two\nlines", stacklevel=1)
        warnings.warn("a library's own", FutureWarning, stacklevel=1)
        raise SystemExit(0)

    monkeypatch.setattr(cli_app, "app", warns)
    before = warnings.showwarning
    with warnings.catch_warnings():
        warnings.simplefilter("default")
        run(monkeypatch)
    warnings.showwarning = before
    assert capsys.readouterr().err == "note: two lines\n"
