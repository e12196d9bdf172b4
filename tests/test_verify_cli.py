"""``pathflip calibrate`` and ``pathflip verify`` on an untrained model: files, refusals, lines."""

import csv
import json
import shutil
import sys
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from keyword_world import AXES, keyword_cohort
from pathflip.checkpoint import InputContract, save_checkpoint
from pathflip.cli import main
from pathflip.data.align import TextSpec
from pathflip.features import load_encoder, write_features
from pathflip.models import build_model
from pathflip.text.captions import write_captions
from pathflip.text.tokenizer import train_tokenizer
from pathflip.verify.slide_features import features_of_slide
from slide_files import smooth_picture, write_pyramid


@pytest.fixture
def run(monkeypatch, capsys):
    """The command line in this process: what a person would see, without paying for torch each time."""

    def command(*words: str) -> SimpleNamespace:
        monkeypatch.setattr(sys, "argv", ["pathflip", *words])
        code = 0
        try:
            main()
        except SystemExit as left:
            code = left.code or 0
        printed = capsys.readouterr()
        return SimpleNamespace(returncode=code, stdout=printed.out, stderr=printed.err)

    return command


@pytest.fixture(scope="module")
def bench(tmp_path_factory):
    folder = tmp_path_factory.mktemp("verify")
    parts = keyword_cohort(60)
    captions = [caption for _, own, _ in parts.values() for caption in own]
    write_captions(folder / "captions.jsonl", captions)
    with open(folder / "splits.csv", "w", newline="") as handle:
        rows = [(c.slide_id, split) for split, (_, own, _) in parts.items() for c in own]
        csv.writer(handle).writerows([("slide", "split"), *rows])
    for _, _, features in parts.values():
        for one in features:
            write_features(folder / "features" / f"{one.slide_id}.h5", one)
    tokenizer = train_tokenizer([caption.text for caption in captions], 300)
    torch.manual_seed(0)
    sizes = {"width": 16, "embed_dim": 8, "text_width": 16, "text_heads": 2}
    net = build_model({"kind": "pathflip", "feature_dim": len(AXES), "vocab_size": tokenizer.vocab_size, **sizes})
    contract = InputContract.of(parts["train"][2][0])
    save_checkpoint(folder / "model", net, contract=contract, tokenizer=tokenizer, text=TextSpec())
    write_features(folder / "other" / "foreign.h5", replace(parts["test"][2][0], encoder="uni_v1", slide_id="foreign"))
    return folder, parts["test"][1][0]


def test_from_captions_to_a_verified_report(bench, run, tmp_path):
    folder, caption = bench
    model, slide = ["--model", str(folder / "model")], str(folder / "features" / f"{caption.slide_id}.h5")
    before = run("verify", slide, str(folder / "captions.jsonl"), *model, "--out", str(tmp_path), "--json")
    assert before.returncode == 0, before.stderr
    row = json.loads(before.stdout)
    assert {s["verdict"] for s in row["sentences"]} <= {"uncertain", "not visible"}
    assert "pathflip calibrate" in row["notes"][0]

    cohort = ["--captions", str(folder / "captions.jsonl"), "--splits", str(folder / "splits.csv")]
    wrong = run("calibrate", *model, "--features", str(folder / "features"), *cohort, "--split", "train")
    assert wrong.returncode == 2
    assert "too sure" in wrong.stderr
    done = run("calibrate", *model, "--features", str(folder / "features"), *cohort, "--split", "test", "--json")
    assert done.returncode == 0, done.stderr
    fitted = json.loads(done.stdout)
    assert fitted["slides"] == 12
    assert fitted["sentences"]["ece_after"] < 0.2

    (tmp_path / "report.txt").write_text("\ufeffNo necrosis is seen. Stage pT2 N0.", encoding="utf-8")
    after = run("verify", slide, str(tmp_path / "report.txt"), *model, "--out", str(tmp_path), "--json")
    row = json.loads(after.stdout)
    assert [s["probability"] is None for s in row["sentences"]] == [False, True]
    assert row["calibration"]["sub_captions"]["ece_after"] == fitted["sentences"]["ece_after"]
    assert (tmp_path / f"{caption.slide_id}.verify.html").read_text(encoding="utf-8").count("No necrosis is seen.") >= 2
    people = run("verify", slide, str(tmp_path / "report.txt"), *model, "--out", str(tmp_path))
    assert "not a medical device" in people.stdout


def test_what_cannot_be_used_is_one_line_and_the_rest_goes_on(bench, run, tmp_path):
    folder, caption = bench
    model = ["--model", str(folder / "model"), "--out", str(tmp_path)]
    (tmp_path / "empty.txt").write_text(" \n")
    (tmp_path / "others.csv").write_text("slide,text\nanother,No necrosis is seen.\n")
    mine = str(folder / "features" / f"{caption.slide_id}.h5")
    for words, message in (
        ([mine, str(tmp_path / "empty.txt")], "is empty"),
        ([mine, str(tmp_path / "none.txt")], "cannot be read"),
        ([mine, str(tmp_path / "others.csv")], f"no report of slide '{caption.slide_id}'"),
    ):
        done = run("verify", *words, *model)
        assert done.returncode == 1
        assert message in done.stdout + done.stderr
        assert "Traceback" not in done.stderr
    (tmp_path / "report.txt").write_text("No necrosis is seen.")
    done = run("verify", str(folder / "other"), str(tmp_path / "report.txt"), *model, "--json")
    assert done.returncode == 1
    assert "uni_v1" in json.loads(done.stdout)["error"]


def test_the_same_from_a_table_with_other_columns_and_another_encoding(bench, run, tmp_path):
    """verify, calibrate and retrieve: the columns are named on the command line."""
    folder, caption = bench
    entries = [json.loads(line) for line in (folder / "captions.jsonl").read_text(encoding="utf-8").splitlines()]
    table = tmp_path / "reports.csv"
    with open(table, "w", newline="", encoding="utf-16-le") as handle:
        rows = [(e["slide"], e["patient"], e["text"], "Nothing is seen.") for e in entries]
        csv.writer(handle).writerows([("Scan", "patient", "Befund", "text"), *rows])
    columns = ["--slide-column", "scan", "--text-column", "Befund", "--encoding", "utf-16-le"]
    model, slide = ["--model", str(folder / "model")], str(folder / "features" / f"{caption.slide_id}.h5")
    plain = tmp_path / "plain.jsonl"
    plain.write_text("".join(json.dumps({"slide": e["slide"], "text": e["text"]}) + "\n" for e in entries))
    usual = run("verify", slide, str(plain), *model, "--out", str(tmp_path), "--json")
    named = run("verify", slide, str(table), *model, "--out", str(tmp_path), *columns, "--json")
    assert named.returncode == 0, named.stderr
    assert json.loads(named.stdout)["sentences"] == json.loads(usual.stdout)["sentences"]
    cohort = ["--features", str(folder / "features"), "--splits", str(folder / "splits.csv"), "--split", "test"]
    fitted = run("calibrate", *model, *cohort, "--captions", str(table), *columns, "--json")
    assert fitted.returncode == 0, fitted.stderr
    assert json.loads(fitted.stdout)["slides"] == 12
    query = ["retrieve", *model, "--features", slide, "--json", "--captions"]
    ranked = run(*query, str(table), *columns)
    assert ranked.returncode == 0, ranked.stderr
    assert ranked.stdout == run(*query, str(plain)).stdout


def test_a_slide_is_cut_at_the_stride_the_model_was_trained_at(tmp_path, annotations_off):
    """Its own tile size, stride and resolution, not the defaults of ``tile``: another stride means other neighbours."""
    path = write_pyramid(tmp_path / "s.tif", [smooth_picture(1024, 1280)], mpp=0.5)
    kind = {"encoder": "colour_histogram", "dim": load_encoder("colour_histogram").dim, "tile_px": 64, "mpp": 1.0}
    for stride, expected in ((32, 32), (64, 64), (None, 64)):
        contract = InputContract(**kind, stride_px=stride)
        made = features_of_slide(SimpleNamespace(checkpoint=SimpleNamespace(contract=contract)), path)
        assert (made.spec.tile_px, made.spec.stride_px, made.spec.mpp) == (64, expected, 1.0)
        steps = np.diff(np.unique(made.coords[:, 0]))
        assert len(steps) > 0
        assert steps.min() == 2 * expected  # level-0 pixels
        contract.check(made)


def test_ground_takes_files_and_folders_and_none_is_passed_over(bench, run, tmp_path):
    bench, _ = bench
    folder = bench / "features"
    files = sorted(folder.glob("*.h5"))[:3]
    words = ("ground", "--model", str(bench / "model"), "--text", "pearls", "--out", str(tmp_path / "o"), "--json")
    several = run(*words, *(word for file in files for word in ("--features", str(file))))
    assert [json.loads(line)["slide_id"] for line in several.stdout.splitlines()] == [file.stem for file in files]
    whole = run(*words, "--features", str(folder))
    assert len(whole.stdout.splitlines()) == len(list(folder.glob("*.h5")))
    foreign = bench / "other" / "foreign.h5"
    mixed = run(*words, "--features", str(files[0]), "--features", str(foreign))
    assert mixed.returncode == 1
    assert "error" in json.loads(mixed.stdout.splitlines()[1])
    drawn = run(*words, "--features", str(folder), "--slide", "s.svs")
    assert (drawn.returncode, drawn.stderr.count("\n")) == (2, 1)
    assert "--slide is one slide" in drawn.stderr


def test_a_slide_finds_its_features_in_a_folder(bench, run, tmp_path):
    bench, _ = bench
    (tmp_path / "r.txt").write_text("Pearls are seen.")
    own = sorted((bench / "features").glob("*.h5"))[0]
    picture = write_pyramid(tmp_path / f"{own.stem}.tif", [smooth_picture(300, 400)], mpp=0.5)
    words = (str(tmp_path / "r.txt"), "--model", str(bench / "model"), "--out", str(tmp_path / "o.jsonl"))
    seen = run("verify", str(picture), *words, "--features", str(bench / "features"))
    assert (seen.returncode, "note: the slide is" in seen.stderr) == (0, False), seen.stderr
    other = picture.rename(tmp_path / "another.tif")
    none = run("verify", str(other), *words, "--features", str(bench / "features"))
    assert (none.returncode, "holds no features of slide 'another'" in none.stderr + none.stdout) == (1, True)
    told = run("verify", str(other), *words, "--features", str(own))
    assert f"the slide is 'another', but the features are those of '{own.stem}'" in told.stderr
    twice = run("verify", str(bench / "features"), *words, "--slide", str(other))
    assert twice.returncode == 2
    assert "--slide is one slide, got" in twice.stderr


def _calibrated_with_sentences(folder, run):
    """A copy of the model with a calibration that calls everything supported, and a bank of the training reports."""
    place = folder / "composing"
    model = place / "model"
    if model.is_dir():
        return model, place / "bank.json"
    shutil.copytree(folder / "model", model)
    cohort = ["--captions", str(folder / "captions.jsonl"), "--splits", str(folder / "splits.csv"), "--split", "test"]
    features = ["--features", str(folder / "features")]
    wrong = run("calibrate", "--model", str(model), *features, *cohort, "--sentences", str(place / "bank.csv"))
    assert wrong.returncode == 2
    assert ".json" in wrong.stderr
    done = run(
        "calibrate", "--model", str(model), *features, *cohort, "--sentences", str(place / "bank.json"), "--json"
    )
    assert done.returncode == 0, done.stderr
    row = json.loads(done.stdout)
    assert row["bank"]["reports"] == 42
    assert row["bank"]["sentences"] > 20
    file = model / "calibration.json"
    values = json.loads(file.read_text())
    values["findings"] = None  # an untrained model tells nothing: let it call what it sees supported
    values["sub_captions"]["high"] = 0.51
    values["sub_captions"]["logistic"]["bias"] = 9.0
    file.write_text(json.dumps(values))
    return model, place / "bank.json"


def test_captions_are_composed_of_training_sentences(bench, run, tmp_path):
    folder, caption = bench
    model, bank = _calibrated_with_sentences(folder, run)
    slide = str(folder / "features" / f"{caption.slide_id}.h5")
    composing = ["--model", str(model), "--sentences", str(bank)]
    done = run("caption", *composing, "--features", slide, "--out", str(tmp_path / "out"), "--json")
    assert done.returncode == 0, done.stderr
    row = json.loads(done.stdout)
    known = {one["text"] for one in json.loads(bank.read_text())["sentences"]}
    assert row["sentences"]
    assert {one["sentence"] for one in row["sentences"]} <= known
    assert row["answer"] == " ".join(one["sentence"] for one in row["sentences"])
    assert row["counts"]["taken"] == len(row["sentences"])
    affirmed = {one["sentence"] for one in row["sentences"] if not one["negated"]}
    assert {one["text"] for one in row["evidence"]} == affirmed
    assert json.loads((tmp_path / "out" / f"{caption.slide_id}.evidence.geojson").read_text())["features"]
    table = run("caption", *composing, "--features", slide, "--out", str(tmp_path / "captions.csv"))
    assert table.returncode == 0, table.stderr
    assert "left undecided" in table.stdout
    with open(tmp_path / "captions.csv", newline="") as handle:
        assert next(csv.DictReader(handle))["answer"] == row["answer"]
    foreign = run("caption", *composing, "--features", str(folder / "other"))
    assert foreign.returncode != 0
    bare = tmp_path / "bare"
    shutil.copytree(model, bare, ignore=shutil.ignore_patterns("calibration.json"))
    for words, line in (
        (["--model", str(model)], "--model and --sentences"),
        (["--assistant", str(model), *composing], "--model and --sentences"),
        ([*composing, "--temperature", "0.5"], "an assistant's"),
        (["--model", str(model), "--sentences", str(folder / "captions.jsonl")], "is no bank of sentences"),
        (["--model", str(bare), "--sentences", str(bank)], "pathflip calibrate"),
        ([*composing, "--at-least", "0.2"], "above 0.5"),
    ):
        refused = run("caption", *words, "--features", slide)
        assert refused.returncode in (1, 2)
        assert line in refused.stderr, refused.stderr
        assert refused.stderr.count("\n") == 1


def test_the_captioning_benchmark_composes_and_refuses_a_bank_of_its_own_reports(bench, run, tmp_path):
    folder, _ = bench
    model, bank = _calibrated_with_sentences(folder, run)
    with open(folder / "splits.csv", newline="") as handle:
        splits = dict(csv.reader(handle))
    rows = [json.loads(line) for line in (folder / "captions.jsonl").read_text().splitlines()]
    for part in ("train", "test"):
        own = [json.dumps(row) for row in rows if splits[row["slide"]] == part]
        (tmp_path / f"{part}.jsonl").write_text("\n".join(own) + "\n")

    def scored(part, *words):
        return run(
            "benchmark", "slidebench-captioning", "--data", str(tmp_path / f"{part}.jsonl"), "--model", str(model),
            "--features", str(folder / "features"), "--other-set", "--resamples", "20", "--out", str(tmp_path / part),
            *words,
        )  # fmt: skip

    assert "--set sentences=FILE" in scored("test").stderr
    own = scored("train", "--set", f"sentences={bank}")
    assert own.returncode == 1
    assert "42 of the 42 slides tested are of patients" in own.stderr
    assert not (tmp_path / "train").exists()
    done = scored("test", "--set", f"sentences={bank}", "--set", f"train={tmp_path / 'train.jsonl'}")
    assert done.returncode == 0, done.stderr
    result = json.loads((tmp_path / "test" / "result.json").read_text())
    assert result["scored"] == result["total"] == 12
    assert "constant" in result["scores"][0]["baselines"]
    assert any("composed of training sentences" in note for note in result["notes"])
