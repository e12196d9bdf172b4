"""What a new user meets in an afternoon: version, tables in and out, short reprs, files where folders belong."""

import csv
import inspect
import json
import warnings

import numpy as np
import pytest
from typer.testing import CliRunner

import pathflip
from benchmark_files import save_features, slides, write_csv
from pathflip.cli import app
from pathflip.cli.app import how_to_go_on, main
from pathflip.cli.model_verbs import evaluate
from pathflip.errors import ConfigError, PathFLIPError
from pathflip.io.write_tables import write_table
from pathflip.processes import CountedWarning, counted_notes, warnings_are_notes
from pathflip.slide.resolution_table import ResolutionTable, read_slide_mpp
from slide_files import write_pyramid
from tiny_assistant import save_aligned, tiny_slide

NAMES = slides(6)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return save_aligned(tmp_path_factory.mktemp("model") / "aligned")


@pytest.fixture(scope="module")
def features(tmp_path_factory):
    return save_features(tmp_path_factory.mktemp("features"), NAMES)


def cli(*words):
    return CliRunner().invoke(app, [str(word) for word in words])


def table(path):
    with open(path, newline="", encoding="utf-8") as handle:
        return list(csv.DictReader(handle))


def test_version():
    done = cli("--version")
    assert (done.exit_code, done.stdout.strip()) == (0, f"pathflip {pathflip.__version__}")


def test_zero_shot_takes_a_list_of_names(model):
    loaded = pathflip.load(model)
    listed = pathflip.zero_shot(loaded, [tiny_slide("a")], ["melanoma", "naevus"])
    mapped = pathflip.zero_shot(loaded, [tiny_slide("a")], {"melanoma": "melanoma", "naevus": "naevus"})
    np.testing.assert_array_equal(listed.scores, mapped.scores)
    with pytest.raises(ConfigError, match="stands twice"):
        pathflip.zero_shot(loaded, [tiny_slide("a")], ["naevus", "naevus"])
    with pytest.raises(TypeError, match="or a list of names"):
        pathflip.zero_shot(loaded, [tiny_slide("a")], "melanoma")


def labels(folder, **change):
    rows = [
        {"slide": name, "label": ("naevus", "melanoma")[i % 2], "patient": f"p{i // 2}"} for i, name in enumerate(NAMES)
    ]
    return write_csv(folder / "labels.csv", [*rows, change] if change else rows)


def test_zero_shot_with_labels_scores_itself(tmp_path, model, features):
    words = ["--model", model, "--features", features, "--labels", labels(tmp_path), "--resamples", 30]
    done = cli("zero-shot", *words, "--out", tmp_path / "z.csv")
    assert done.exit_code == 0, done.output
    for measure in ("balanced accuracy", "weighted F1", "AUROC one-vs-rest", "(rows: truth)"):
        assert measure in done.stdout
    rows = table(tmp_path / "z.csv")
    assert len(rows) == 6
    right = {kind: [r["class"] == kind for r in rows if r["label"] == kind] for kind in ("naevus", "melanoma")}
    expected = np.mean([np.mean(values) for values in right.values()])
    printed = cli("zero-shot", *words, "--json").stdout
    entries = [json.loads(line) for line in printed.splitlines()]
    value = next(e for e in entries if e.get("measure") == "balanced accuracy")
    assert value["value"] == pytest.approx(expected)
    assert (value["scored"], value["labelled"], value["chance"]) == (6, 6, 0.5)
    counts = next(e for e in entries if e.get("measure") == "confusion")["rows_are_truth"]
    assert np.sum(counts) == 6


def test_labels_of_unknown_slides_are_counted_and_unknown_classes_refused(tmp_path, model, features):
    stray = labels(tmp_path, slide="elsewhere", label="naevus", patient="q")
    done = cli("zero-shot", "--model", model, "--features", features, "--labels", stray, "--resamples", 10)
    assert "1 labelled slides are not here" in done.stderr or "1 labels have no slide" in done.stderr
    words = ["--classname", "naevus", "--classname", "wart"]
    done = cli("zero-shot", "--model", model, "--features", features, "--labels", labels(tmp_path), *words)
    assert "label 'melanoma' is none of the classes naevus, wart" in str(done.exception)


def test_retrieval_as_a_table(tmp_path, model, features):
    words = ["--model", model, "--features", features, "--text", "keratin pearls", "--k", 3]
    done = cli("retrieve", *words, "--out", tmp_path / "r.csv", "--json")
    assert done.exit_code == 0, done.output
    rows = table(tmp_path / "r.csv")
    assert [row["rank"] for row in rows] == ["1", "2", "3"]
    assert [row["slide_id"] for row in rows] == [s["slide_id"] for s in json.loads(done.stdout)["slides"]]


def test_the_scores_of_a_text_do_not_depend_on_the_others_asked(model, features):
    words = ["retrieve", "--model", model, "--features", features, "--json", "--text", "keratin pearls"]
    alone = json.loads(cli(*words).stdout)
    beside = json.loads(cli(*words, "--text", "There is no necrosis in the stroma.").stdout.splitlines()[0])
    assert [hit["slide_id"] for hit in beside["slides"]] == [hit["slide_id"] for hit in alone["slides"]]
    assert [hit["score"] for hit in beside["slides"]] == pytest.approx(
        [hit["score"] for hit in alone["slides"]], abs=2e-3
    )


def test_notes_of_many_files_are_counted(monkeypatch, capsys):
    monkeypatch.setattr(warnings, "showwarning", warnings.showwarning)
    warnings_are_notes()
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        for name in ("a", "b", "c"):
            warnings.warn(CountedWarning(f"{name}.h5 is odd", "odd files"), stacklevel=1)
    assert capsys.readouterr().err == "note: a.h5 is odd\n"
    assert counted_notes() == ["and 2 more odd files"]
    assert counted_notes() == []


def test_verify_as_a_table(tmp_path, model, features):
    (tmp_path / "report.txt").write_text("Keratin pearls are seen. No necrosis is identified.")
    done = cli("verify", features / "s00.h5", tmp_path / "report.txt", "--model", model, "--out", tmp_path / "v.csv")
    assert done.exit_code == 0, (done.output, done.exception)
    rows = table(tmp_path / "v.csv")
    assert [row["sentence"] for row in rows if row["kind"] == "sentence"] == [
        "Keratin pearls are seen.",
        "No necrosis is identified.",
    ]
    assert not (tmp_path / "v").exists()


@pytest.mark.parametrize("name", ["t.csv", "t.tsv", "t.jsonl", "t.json", "t.parquet"])
def test_every_kind_of_table_holds_the_rows(tmp_path, name):
    pytest.importorskip("pyarrow")
    pandas = pytest.importorskip("pandas")
    write_table(tmp_path / name, [{"a": 1, "b": "x, y"}, {"a": 2, "b": "é"}])
    read = {
        ".csv": pandas.read_csv, ".tsv": lambda p: pandas.read_csv(p, sep="\t"), ".json": pandas.read_json,
        ".jsonl": lambda p: pandas.read_json(p, lines=True), ".parquet": pandas.read_parquet,
    }[(tmp_path / name).suffix]  # fmt: skip
    assert read(tmp_path / name).to_dict("records") == [{"a": 1, "b": "x, y"}, {"a": 2, "b": "é"}]


def test_a_table_goes_to_a_table(tmp_path, model, features):
    done = cli("retrieve", "--model", model, "--features", features, "--text", "x", "--out", tmp_path / "r.docx")
    assert "ends in .csv" in str(done.exception)
    (tmp_path / "d.csv").mkdir()
    done = cli("retrieve", "--model", model, "--features", features, "--text", "x", "--out", tmp_path / "d.csv")
    assert "is a folder, expected the name of a file" in str(done.exception)


def test_a_resolution_a_slide(tmp_path):
    plain = np.full((256, 256, 3), 230, np.uint8)
    for name in ("a", "b", "c"):
        write_pyramid(tmp_path / f"{name}.tif", [plain], mpp=None)
    resolution_file = write_csv(tmp_path / "mpp.csv", [{"slide": "a.tif", "mpp": "0.5"}, {"slide": "b", "mpp": "0.25"}])
    done = cli(
        "info", tmp_path / "a.tif", tmp_path / "b.tif", tmp_path / "c.tif", "--slide-mpp", resolution_file, "--json"
    )
    assert [json.loads(line)["mpp0"] for line in done.stdout.splitlines()] == [0.5, 0.25, None]
    resolutions = read_slide_mpp(str(resolution_file))
    assert isinstance(resolutions, ResolutionTable)
    with pathflip.open_slide(tmp_path / "b.tif", slide_mpp=resolutions) as slide:
        assert slide.info.mpp0 == 0.25
    assert resolutions.of("folder__a") == 0.5
    assert read_slide_mpp("0.5") == 0.5


@pytest.mark.parametrize(
    ("rows", "says"),
    [
        ([{"slide": "a", "mpp": "x"}], "row 1: mpp is 'x', expected 0.01 to 1000"),
        ([{"slide": "a", "mpp": "0.5"}, {"slide": "a.svs", "mpp": "0.25"}], "row 2: slide 'a' has two resolutions"),
        ([{"slide": "a", "um": "0.5"}], "row 1: expected the columns slide and mpp"),
    ],
)
def test_tables_of_resolutions_that_cannot_be_used(tmp_path, rows, says):
    with pytest.raises(ConfigError, match=says):
        read_slide_mpp(str(write_csv(tmp_path / "m.csv", rows)))


def test_no_number_and_no_table_of_resolutions():
    with pytest.raises(ConfigError, match="expected a number"):
        read_slide_mpp("half")


def test_short_reprs_and_tables_and_pictures():
    pytest.importorskip("pandas")
    slide = tiny_slide("case")
    assert repr(slide) == (
        f"SlideFeatures('case': {len(slide.valid)} tiles × 5 of 'test', 2 invalid, 64 px at 0.5 mpp)"
    )
    made = slide.to_dataframe()
    assert list(made.columns) == ["x", "y", "width", "height", "valid", "f0", "f1", "f2", "f3", "f4"]
    np.testing.assert_array_equal(made[["x", "y"]].to_numpy(), slide.coords)
    picture = np.asarray(slide.to_image(200))
    assert picture.shape == (200, 200, 4)
    assert set(np.unique(picture[..., 3])) == {0, 255}


def test_a_heatmap_in_one_line(model):
    heatmap = pathflip.ground(pathflip.load(model), tiny_slide("case"), "keratin pearls")
    assert repr(heatmap).startswith("Heatmap('keratin pearls' on 'case': ")
    assert "\n" not in repr(heatmap)
    assert len(repr(heatmap)) < 160


@pytest.mark.parametrize(
    "words",
    [
        ["retrieve", "--features", "FILES", "--text", "x", "--model", "TABLE"],
        ["ground", "--model", "MODEL", "--features", "TABLE", "--text", "x", "--out", "o"],
        ["retrieve", "--model", "MODEL", "--features", "FILES", "--captions", "FILES"],
        ["zero-shot", "--model", "MODEL", "--features", "FILES", "--labels", "FILES"],
        ["embed", "--model", "MODEL", "--features", "TABLE", "--out", "e.npy"],
        ["verify", "FILE", "FILES", "--model", "MODEL", "--out", "v"],
        [
            "benchmark",
            "slidebench-retrieval",
            "--data",
            "FILES",
            "--model",
            "MODEL",
            "--features",
            "FILES",
            "--out",
            "b",
        ],
        ["benchmark", "report", "TABLE", "--out", "r.html"],
        ["info", "TABLE"],
    ],
)
def test_a_folder_where_a_file_belongs_and_the_reverse_is_one_line(words, tmp_path, model, features, monkeypatch):
    monkeypatch.chdir(tmp_path)
    values = {"MODEL": model, "FILES": features, "FILE": features / "s00.h5", "TABLE": labels(tmp_path)}
    done = cli(*(values.get(word, word) for word in words))
    assert done.exit_code != 0
    assert isinstance(done.exception, PathFLIPError | SystemExit), repr(done.exception)
    text = str(done.exception) + done.output
    assert "expected" in text or "no such" in text or "cannot" in text, text


def test_ctrl_c_in_training_says_where_it_goes_on():
    words = ["train", "align_base", "--out", "runs/my run"]
    text = how_to_go_on("stopped after step 4; the state is saved in runs/my run/state", words)
    assert text.endswith("Go on with:  pathflip train align_base --out 'runs/my run' --resume")
    assert how_to_go_on("x; the state is saved in y", [*words, "--resume"]).count("--resume") == 1
    assert "Nothing was trained yet" in how_to_go_on("", words)


def test_ctrl_c_reaches_the_person_who_pressed_it(tmp_path, features, monkeypatch, capsys):
    """Through the whole command line: typer of itself ends the process without a word."""

    def stopped(*_, **__):
        raise KeyboardInterrupt("stopped after step 4; the state is saved in o/state")

    reports = write_csv(tmp_path / "r.csv", [{"slide": n, "patient": n, "text": "Glands are fused."} for n in NAMES])
    words = ["train", "clip_mean", "--features", features, "--captions", reports, "--out", tmp_path / "o"]
    monkeypatch.setattr("sys.argv", ["pathflip", *map(str, words)])
    monkeypatch.setattr("pathflip.train.align_run.train_align", stopped)
    monkeypatch.setitem(main.__globals__, "keep_memory", lambda: None)
    monkeypatch.setattr("warnings.showwarning", warnings.showwarning)
    with pytest.raises(SystemExit) as end:
        main()
    assert end.value.code == 130
    assert "the state is saved in o/state. Go on with:  pathflip train clip_mean" in capsys.readouterr().err


def test_rows_that_are_left_out_are_written_down(tmp_path):
    rows = [{"slide": "a", "text": "Necrosis is present."}, {"slide": "b", "text": "N/A"}, {"slide": "", "text": "x y"}]
    done = cli("decompose", write_csv(tmp_path / "r.csv", rows), "--out", tmp_path / "o.jsonl")
    assert done.exit_code == 1  # something was left out
    lost = table(tmp_path / "o.left_out.csv")
    assert [row["row"] for row in lost] == ["2", "3"]
    assert "the first below it is 1" in done.stderr


RUN_A_MODEL = (
    "train", "extract", "curve", "few-shot", "embed", "benchmark", "zero-shot", "retrieve", "ground", "calibrate",
    "verify", "ask", "caption", "chat", "index", "search", "view",
)  # fmt: skip


def test_every_verb_that_runs_a_model_takes_a_device():
    verbs = {verb.name or verb.callback.__name__: verb.callback for verb in app.registered_commands}
    assert [name for name in RUN_A_MODEL if "device" not in inspect.signature(verbs[name]).parameters] == []
    assert "device" in inspect.signature(evaluate).parameters


@pytest.mark.parametrize(
    "words",
    [
        ["train", "align_base", "--features", "FILES", "--captions", "TABLE", "--out", "o"],
        ["extract", "FILES", "--out", "o"],
        ["eval", "--model", "MODEL", "--features", "FILES", "--captions", "TABLE"],
        ["curve", "align_base", "--features", "FILES", "--captions", "REPORTS", "--splits", "SPLITS", "--out", "o"],
        ["few-shot", "--model", "MODEL", "--features", "FILES", "--labels", "TABLE"],
        ["index", "FILES", "--model", "MODEL", "--archive", "o"],
        ["benchmark", "slidebench-retrieval", "--data", "REPORTS", "--model", "MODEL", "--features", "FILES",
         "--other-set", "--out", "o"],
    ],
)  # fmt: skip
def test_a_gpu_that_is_not_there_is_one_line_and_nothing_is_written(words, tmp_path, model, features, monkeypatch):
    monkeypatch.chdir(tmp_path)
    reports = write_csv(tmp_path / "r.csv", [{"slide": n, "patient": n, "text": "Glands are fused."} for n in NAMES])
    parts = [{"slide": n, "split": ("train", "train", "val", "test")[i % 4]} for i, n in enumerate(NAMES)]
    splits = write_csv(tmp_path / "s.csv", parts)
    paths = {"MODEL": model, "FILES": features, "TABLE": labels(tmp_path), "REPORTS": reports, "SPLITS": splits}
    done = cli(*(paths.get(word, word) for word in words), "--device", "cuda:7")
    assert isinstance(done.exception, ConfigError), (done.output, done.exception)
    assert "device 'cuda:7': torch sees" in str(done.exception)
    assert not (tmp_path / "o").exists()
