"""The commands of README.md, docs/guide.md and docs/hospital.md, run as they are written, on a few tiny slides.

Only what no test can have is exchanged: the folder of a language model of billions of parameters, and the number of
training steps. Everything else stands in the working directory under the names that the documents use.
"""

import glob
import json
import re
import shlex
import shutil
import time
from pathlib import Path

import cv2
import httpx
import numpy as np
import pytest
from typer.testing import CliRunner

from pathflip.assistant import answers, generate
from pathflip.cli import app
from pathflip.workbench.web_server import Running
from slide_files import write_pyramid
from tiny_assistant import save_language_model

ROOT = Path(__file__).resolve().parents[1]
FINDINGS = ("necrosis", "keratin pearls", "mucin pools", "calcification", "lymphocytes", "vascular invasion")
SHORT = ["--set", "train.steps=2", "--set", "train.batch_size=4", "--set", "train.eval_every=0"]
LANGUAGE_MODEL = "/models/Qwen3-4B-Instruct-2507"


def documented(path: Path) -> list[str]:
    """Every ``pathflip …`` command of a document's code blocks, continued lines joined, in order."""
    commands = []
    for block in re.findall(r"```(?:bash|text)\n(.*?)```", path.read_text(encoding="utf-8"), re.DOTALL):
        lines = re.sub(r"[ \t]*\\\n[ \t]*", " ", block).splitlines()
        commands += [line.removeprefix("$ ") for line in lines if re.match(r"(\$ )?pathflip +[a-z]", line)]
    return commands


def tissue(seed: int, side: int = 1024) -> np.ndarray:
    """A pink and purple patch of cells on white glass."""
    rng = np.random.default_rng(seed)
    rows, columns = np.mgrid[:side, :side] / side - 0.5
    cells = cv2.resize(rng.random((side // 8, side // 8)), (side, side), interpolation=cv2.INTER_CUBIC)
    stain = np.where(cells[..., None] > 0.6, (105, 60, 140), (215, 130, 175)) + rng.integers(-12, 12, (side, side, 3))
    glass = (243, 242, 244)
    return np.where((np.hypot(rows, columns) < 0.45)[..., None], stain, glass).clip(0, 255).astype(np.uint8)


def report(number: int) -> str:
    rng = np.random.default_rng(number)
    order = rng.permutation(len(FINDINGS))
    present = [f"{FINDINGS[i].capitalize()} {'is' if i in (0, 3, 5) else 'are'} present." for i in order[:3]]
    absent = [f"No {FINDINGS[i]} {'is' if i in (0, 3, 5) else 'are'} identified." for i in order[3:]]
    return " ".join([*present, *absent])


def table(path: Path, rows: list[dict[str, str]]) -> None:
    lines = [",".join(rows[0]), *(",".join(f'"{value}"' for value in row.values()) for row in rows)]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


@pytest.fixture(scope="module")
def workplace(tmp_path_factory) -> Path:
    """A folder with everything the documents name."""
    folder = tmp_path_factory.mktemp("workplace")
    names = [f"s{i:02d}" for i in range(13)] + ["case"]
    (folder / "slides").mkdir()
    for number, name in enumerate(names):
        write_pyramid(folder / "slides" / f"{name}.svs", [tissue(number)], mpp=0.5)
    for name in ("duodenum-giardiasis",):
        shutil.copy(folder / "slides" / "s00.svs", folder / "slides" / f"{name}.svs")
    (folder / "slides" / "broken.svs").write_bytes(b"II*\0 this is no slide")
    shutil.copy(folder / "slides" / "case.svs", folder / "case.svs")
    splits = dict(zip(names, ["train"] * 6 + ["val"] * 4 + ["test"] * 4, strict=True))
    captions = [{"slide": name, "patient": name, "text": report(i)} for i, name in enumerate(names)]
    table(folder / "captions.csv", captions)
    table(folder / "reports.csv", captions)
    table(folder / "test.csv", [row for row in captions if splits[row["slide"]] == "test"])
    table(folder / "splits.csv", [{"slide": name, "split": split} for name, split in splits.items()])
    options = {"A": "necrosis", "B": "mucin pools"}
    questions = [
        {"Slide": n, "Question": "What is present?", **options, "Answer": "AB"[i % 2]} for i, n in enumerate(names)
    ]
    table(folder / "vqa.csv", questions)
    table(folder / "labels.csv", [{"slide": name, "organ": "skin"} for name in names])
    (folder / "report.txt").write_text(report(13), encoding="utf-8")
    for file, text in (("written", "caption"), ("answers", "output"), ("text_only", "output")):
        rows = [
            {
                "slide": row["slide"],
                "question": "What is present?",
                text: "Necrosis is present." if text == "caption" else "A",
            }
            for row in captions
        ]
        (folder / f"{file}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    save_language_model(folder / "language_model")
    return folder


def part_report(number: int) -> str:
    """A report of two parts, as a hospital writes it."""
    first, second = report(2 * number), report(2 * number + 1)
    return (
        "CLINICAL HISTORY\nPatient: Placeholder, Petra. A mass.\n\nMICROSCOPIC DESCRIPTION\n"
        f"A. Skin, left: {first}\nB. Skin, right: {second}"
    )


@pytest.fixture(scope="module")
def hospital(tmp_path_factory) -> Path:
    """An archive with a folder a case, in which file names repeat, its export, and a table of splits."""
    folder = tmp_path_factory.mktemp("hospital")
    lines, splits = ["Accession;Patient;Slide;Part;Stain;Report"], ["case;split"]
    for number in range(12):
        case, patient = f"S24-{number:04d}", f"P{number // 2:02d}"
        (folder / "archive" / case).mkdir(parents=True)
        for part in "AB" if number else "A":  # of the first case one slide was never scanned
            write_pyramid(folder / "archive" / case / f"{part}1_HE.svs", [tissue(2 * number + ord(part))], mpp=0.5)
        for part in "AB":
            text = part_report(number) if part == "A" else ""
            lines.append(f'{case};{patient};archive/{case}/{part}1_HE.svs;{part};H&E;"{text}"')
        splits.append(f"{case};{'train' if number < 6 else 'val' if number < 8 else 'test'}")
    lines.append('S24-0900;P90;archive/S24-0900/A1_HE.svs;A;H&E;"CLINICAL HISTORY\nA mass.\n"')
    lines.append('S24-0901;P91;archive/S24-0901/A1_HE.svs;A;H&E;""')
    (folder / "export.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    (folder / "splits.csv").write_text("\n".join(splits) + "\n", encoding="utf-8")
    return folder


def run(command: str, folder: Path) -> None:
    """One command, in the folder; what may fail, fails in one line."""
    words = []
    for word in shlex.split(command, comments=True)[1:]:
        paths = sorted(glob.glob(word)) if "*" in word else [word]
        assert paths, f"nothing is called {word}"
        words += [str(folder / "language_model") if one == LANGUAGE_MODEL else one for one in paths]
    if words[0] == "train":
        words += SHORT + (["--set", "epochs=0"] if words[1].startswith("instruct_stage") else [])
    done = CliRunner().invoke(app, words, input="\n")
    outcome = f"{command}\n{done.output}\n{done.exception!r}"
    unread = any(path.endswith(("broken.svs", "slides", "slides/")) for path in words)
    assert done.exit_code in ((0, 1) if unread else (0,)), outcome
    assert done.exception is None or isinstance(done.exception, SystemExit), outcome
    if done.exit_code == 1:  # the slide that is none
        assert "broken" in done.output, outcome


def prepare(folder: Path) -> None:
    """What the reader of README.md has beside slides and tables: features under shorter names, and another tool's."""
    made = folder / "features" / "features_stain_texture"
    if made.is_dir() and not (folder / "F").exists():
        shutil.copytree(made, folder / "F")
        shutil.copy(made / "case.h5", folder / "case.h5")
        run("pathflip convert F --to trident --out trident_job", folder)
        shutil.move(str(next((folder / "trident_job").rglob("features_*"))), folder / "trident_job" / "features_uni_v1")


@pytest.fixture
def served_for_a_moment(monkeypatch):
    """``pathflip view`` serves until it is interrupted; here it is asked for its page, and ended."""

    def serve(running: Running) -> None:
        running.start()
        for _ in range(100):
            try:
                answer = httpx.get(running.url, follow_redirects=True, timeout=10)
                break
            except httpx.ConnectError:
                time.sleep(0.1)
        assert answer.status_code == 200
        running.stop()

    monkeypatch.setattr(Running, "serve", serve)
    monkeypatch.setattr("pathflip.workbench.web_server.show_page", lambda url: None)


@pytest.fixture
def a_few_words(monkeypatch):
    """A language model without training does not end by itself."""
    monkeypatch.setattr(answers, "generate", lambda *words, **how: generate(*words, **how | {"max_new_tokens": 8}))


@pytest.mark.slow
@pytest.mark.usefixtures("served_for_a_moment", "a_few_words")
def test_the_readmes_commands_run_as_written(workplace, monkeypatch):
    monkeypatch.chdir(workplace)
    commands = documented(ROOT / "README.md")
    assert len(commands) > 18
    for command in commands:
        if command.startswith(("pathflip convert", "pathflip view")):
            continue  # these need another tool's features, and an assistant, which are made below
        prepare(workplace)
        run(command, workplace)
    for command in commands:
        if command.startswith(("pathflip convert", "pathflip view")):
            run(command.replace("--out features ", "--out converted "), workplace)
    shutil.copytree(workplace / "runs" / "mine", workplace / "runs" / "align_base")
    (lines,) = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), re.DOTALL)
    names: dict = {}
    exec(compile(lines, "README.md", "exec"), names)
    assert names["heatmap"].scores.shape == names["features"].valid.shape
    assert np.linalg.norm(names["vector"]) > 0


@pytest.mark.slow
def test_the_guides_commands_run_as_written(workplace, monkeypatch):
    monkeypatch.chdir(workplace)
    commands = documented(ROOT / "docs" / "guide.md")
    assert {command.split()[1] for command in commands} >= {"info", "qc", "extract", "convert"}
    for folder in ("features", "F"):
        shutil.rmtree(workplace / folder, ignore_errors=True)
    for command in commands:
        run(command, workplace)


@pytest.mark.slow
def test_the_commands_from_a_hospitals_export_to_a_model_run_as_written(hospital, monkeypatch):
    monkeypatch.chdir(hospital)
    commands = documented(ROOT / "docs" / "hospital.md")
    wanted = {"extract", "decompose", "train", "eval", "retrieve", "zero-shot", "calibrate", "verify"}
    assert {command.split()[1] for command in commands} == wanted
    for command in commands:
        if command.startswith("pathflip decompose"):  # rows that cannot be used are named, and the status says so
            done = CliRunner().invoke(app, shlex.split(command, comments=True)[1:])
            assert (done.exit_code, "empty caption" in done.output) == (1, True), done.output
        else:
            run(command, hospital)
