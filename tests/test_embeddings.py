"""embed, few-shot and curve: what is written, what must be found, and what is refused."""

import json
from fractions import Fraction

import numpy as np
import pytest
from typer.testing import CliRunner

import pathflip
from benchmark_files import save_features, save_telling_features, slides, write_csv
from pathflip.benchmarks.curve_page import write_curve
from pathflip.benchmarks.few_shot import BASELINE, MODEL, Bags, FewShotSpec, _draw, few_shot
from pathflip.benchmarks.learning_curve import (
    CurveData,
    compare_recipes,
    curve_rows,
    nested_patients,
    parse_fraction,
)
from pathflip.cli import app
from pathflip.errors import CaptionError, ConfigError, PathFLIPError
from pathflip.evaluate.labels import SlideLabel
from pathflip.features import read_features
from pathflip.inference import encode_slide
from pathflip.inference.embedding import Embeddings, pooled
from pathflip.types import Caption
from tiny_assistant import save_aligned, save_cohort

NAMES = slides(4)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return save_aligned(tmp_path_factory.mktemp("model") / "aligned")


@pytest.fixture(scope="module")
def features(tmp_path_factory):
    return save_features(tmp_path_factory.mktemp("features"), NAMES)


def cli(*words):
    return CliRunner().invoke(app, [str(word) for word in words])


def embeddings(model, features):
    return np.stack(
        [encode_slide(pathflip.load(model), read_features(features / f"{n}.h5")).code.slide[0].numpy() for n in NAMES]
    )


def test_slides_as_numpy_with_a_table_beside(tmp_path, model, features):
    done = cli("embed", "--model", model, "--features", features, "--out", tmp_path / "e.npy", "--json")
    assert json.loads(done.stdout)["rows"] == 4
    np.testing.assert_allclose(np.load(tmp_path / "e.npy"), embeddings(model, features), atol=1e-6)
    assert (tmp_path / "e.csv").read_text().splitlines()[1].startswith("s00,")


def test_slides_as_parquet(tmp_path, model, features):
    pandas = pytest.importorskip("pandas")
    pytest.importorskip("pyarrow")
    assert cli("embed", "--model", model, "--features", features, "--out", tmp_path / "e.parquet").exit_code == 0
    table = pandas.read_parquet(tmp_path / "e.parquet")
    assert list(table["slide"]) == NAMES
    np.testing.assert_allclose(np.stack(table["embedding"]), embeddings(model, features), atol=1e-6)


def test_patches_as_anndata_with_their_places(tmp_path, model, features):
    anndata = pytest.importorskip("anndata")
    done = cli("embed", "--model", model, "--features", features, "--patches", "--out", tmp_path / "p.h5ad")
    assert done.exit_code == 0, done.output
    data = anndata.read_h5ad(tmp_path / "p.h5ad")
    first = read_features(features / "s00.h5")
    own = data[data.obs["slide"] == "s00"]
    assert len(own) == int(first.valid.sum())
    assert own.obsm["spatial"].tolist() == first.coords[first.valid].tolist()
    assert "medical device" in str(data.uns["pathflip"]["note"])


def test_a_patient_is_the_mean_of_its_slides(tmp_path, model, features):
    table = write_csv(tmp_path / "t.csv", [{"slide": n, "patient": f"p{i // 2}"} for i, n in enumerate(NAMES)])
    done = cli("embed", "--model", model, "--features", features, "--pool", table, "--out", tmp_path / "e.npy")
    assert done.exit_code == 0, done.output
    vectors, each = np.load(tmp_path / "e.npy"), embeddings(model, features)
    mean = (each[0] + each[1]) / 2
    np.testing.assert_allclose(vectors[0], mean, atol=1e-5)
    assert len(vectors) == 2


def test_the_mean_of_unit_vectors_is_one():
    two = Embeddings(np.array([[1, 0], [0, 1]], np.float32), {"slide": ["a", "b"]})
    np.testing.assert_allclose(pooled(two, {"a": "p", "b": "p"}).vectors, [[0.5**0.5] * 2], rtol=1e-6)
    with pytest.raises(ConfigError, match="slide 'b' has no patient"):
        pooled(two, {"a": "p"})


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--out", "e.xlsx"], "ends in .parquet, .npy, .h5ad"),
        (["--out", "e.npy", "--patches", "--pool", "t.csv"], "give one of them"),
        (["--out", "e.npy", "--device", "cuda:7"], "device 'cuda:7': torch sees 0 GPUs"),
        (["--out", "e.npy", "--device", "warp"], "device 'warp': is none"),
    ],
)
def test_what_embed_refuses(words, says, model, features, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    done = cli("embed", "--model", model, "--features", features, *words)
    assert isinstance(done.exception, ConfigError)
    assert says in str(done.exception)
    assert not list(tmp_path.glob("e.*"))


# --- Few-shot --------------------------------------------------------------------------------------------------------


def labelled(num=40, classes=2):
    return [SlideLabel(f"s{i:02d}", f"p{i // 2}", "AB"[i // 2 % classes]) for i in range(num)]


def bags(labels, shift):
    rng = np.random.default_rng(0)
    patches = {
        one.slide_id: (rng.normal(size=(12, 4)) + shift * (one.label == "B")).astype(np.float32) for one in labels
    }
    return Bags({name: rows.mean(0) for name, rows in patches.items()}, patches)


def test_few_shot_finds_what_is_there_and_nothing_where_nothing_is():
    labels = labelled()
    rows, _ = few_shot(
        {MODEL: bags(labels, 3.0), BASELINE: bags(labels, 0.0)},
        labels,
        spec=FewShotSpec(shots=(4,), seeds=3, epochs=20, resamples=50),
    )
    by_name = {(row["system"], row["classifier"]): row for row in rows}
    for classifier in ("logistic regression", "ABMIL"):
        ours, plain = by_name[MODEL, classifier], by_name[BASELINE, classifier]
        assert ours["balanced_accuracy"] > 0.95
        assert plain["low"] < 0.5 + 0.15
        assert plain["model_minus_this"] == pytest.approx(ours["balanced_accuracy"] - plain["balanced_accuracy"])
        assert plain["difference_low"] > 0
        assert plain["mcnemar_p"] < 0.05
        assert ours["chance"] == 0.5


def test_few_shot_draws_patients_and_not_slides_of_one():
    chosen = _draw(labelled(), ["A", "B"], 5, [0])
    assert len({one.patient for one in chosen}) == 10


def test_more_shots_than_there_are_slides_are_left_out_and_said():
    labels = labelled(16)
    rows, notes = few_shot({MODEL: bags(labels, 1.0)}, labels, spec=FewShotSpec((1, 32), 2, epochs=2, resamples=10))
    assert {row["shots"] for row in rows} == {1}
    assert "32 slides a class: left out" in notes[0]


def test_a_class_of_one_slide_is_refused():
    labels = [*labelled(8, classes=1), SlideLabel("x", "px", "B")]
    with pytest.raises(CaptionError, match="class 'B' has 1 slides and none to train"):
        few_shot({MODEL: bags(labels, 1.0)}, labels, spec=FewShotSpec((1,), 2, resamples=10))


def test_few_shot_on_the_command_line(tmp_path, model):
    labels = {name: i % 2 for i, name in enumerate(slides(12))}
    stored = save_telling_features(tmp_path / "f", labels)
    table = write_csv(tmp_path / "l.csv", [{"slide": n, "label": "AB"[y]} for n, y in labels.items()])
    words = ["--shots", 1, "--shots", 2, "--seeds", 2, "--resamples", 20, "--out", tmp_path / "o.csv"]
    done = cli("few-shot", "--model", model, "--features", stored, "--labels", table, *words)
    assert done.exit_code == 0, done.output
    assert "2 a class  ABMIL" in done.stdout
    assert len((tmp_path / "o.csv").read_text().splitlines()) == 1 + 2 * 2 * 2


def test_few_shot_against_another_models_embeddings(tmp_path, model):
    labels = {name: i % 2 for i, name in enumerate(slides(12))}
    stored = save_telling_features(tmp_path / "f", labels)
    table = write_csv(tmp_path / "l.csv", [{"slide": n, "label": "AB"[y]} for n, y in labels.items()])
    shared = ["--model", model, "--features", stored]
    words = ["few-shot", *shared, "--labels", table, "--shots", 2, "--seeds", 2, "--resamples", 20, "--json"]
    for ending in ("npy", "parquet", "h5ad"):
        made = cli("embed", *shared, "--out", tmp_path / f"e.{ending}")
        assert made.exit_code == 0, made.output
        rows = [json.loads(line) for line in cli(*words, "--against", tmp_path / f"e.{ending}").stdout.splitlines()]
        own = [row for row in rows if row["system"] == f"e.{ending}"]
        assert [row["classifier"] for row in own] == ["logistic regression"]  # no patches, no attention over them
        assert own[0]["model_minus_this"] == 0  # its own embeddings
        assert own[0]["mcnemar_p"] == 1
    rows = [json.loads(line) for line in cli(*words, "--against", model).stdout.splitlines()]
    assert [r["model_minus_this"] for r in rows if r["system"] == model.name] == [0, 0]
    lost = write_csv(tmp_path / "e.csv", [{"slide": name} for name in labels if name != "s03"])
    np.save(tmp_path / "e.npy", np.zeros((11, 3), np.float32))
    done = cli(*words, "--against", lost.with_suffix(".npy"))
    assert "1 of 12 labelled slides have no embedding in it (the first: 's03')" in str(done.exception)
    (tmp_path / "x.npy").write_bytes(b"no array")
    done = cli(*words, "--against", tmp_path / "x.npy")
    assert isinstance(done.exception, PathFLIPError)
    assert "\n" not in str(done.exception)


# --- Learning curve --------------------------------------------------------------------------------------------------


def test_parts_are_nested_and_of_patients():
    patients = [f"p{i % 40}" for i in range(100)]
    sizes = []
    larger = set(nested_patients(patients, Fraction(1), 3))
    for fraction in (Fraction(1, 2), Fraction(1, 4), Fraction(1, 16)):
        own = set(nested_patients(patients, fraction, 3))
        assert own < larger
        sizes.append(len(own))
        larger = own
    assert sizes == [20, 10, 3]
    assert nested_patients(patients, Fraction(1, 4), 3) != nested_patients(patients, Fraction(1, 4), 4)


@pytest.mark.parametrize("text", ["0", "2", "a", "1/0", "-1/2"])
def test_what_is_no_fraction(text):
    with pytest.raises(ConfigError, match="--fraction"):
        parse_fraction(text)


def test_means_and_standard_deviations_of_a_curve(tmp_path):
    points = [
        {"recipe": r, "fraction": f, "patients": n, "seed": s, "test_r1": v + 0.1 * s, "chance_r1": 0.1}
        for r, v in (("ours", 0.4), ("clip", 0.2)) for f, n in (("1/2", 5), ("1", 10)) for s in (0, 1)
    ]  # fmt: skip
    rows = curve_rows(points)
    assert rows[0]["test_r1"] == pytest.approx(0.45)
    assert rows[0]["test_r1_sd"] == pytest.approx(np.std([0.4, 0.5], ddof=1))
    write_curve(tmp_path, rows, points)
    page = (tmp_path / "curve.html").read_text()
    assert "data:image/svg+xml" in page
    assert "0.450" in page
    assert json.loads((tmp_path / "curve.json").read_text())["means"][0]["patients"] == 5


def test_recipes_of_a_curve_are_compared_on_the_same_test_patients(tmp_path):
    names = [f"s{i}" for i in range(20)]
    captions = [Caption(name, f"p{i // 2}", "Glands are fused.", ()) for i, name in enumerate(names)]
    labels = {name: SlideLabel(name, f"p{i // 2}", "AB"[i % 2]) for i, name in enumerate(names)}
    test = ([tmp_path / f"{name}.h5" for name in names], captions)
    data = CurveData(([], []), ([], []), test, labels)
    right, wrong = ["AB"[i % 2] for i in range(20)], ["AB"[(i < 10) ^ (i % 2)] for i in range(20)]
    points = [
        {"recipe": name, "fraction": "1", "seed": seed, "test_hits": [hit] * 20, "test_classes": classes}
        for name, hit, classes in (("ours", 1.0, right), ("clip", 0.5, wrong)) for seed in (0, 1, 2)
    ]  # fmt: skip
    recall, accuracy = compare_recipes(points, data, num=50)
    assert (recall["first"], recall["second"], recall["measure"]) == ("ours", "clip", "test_r1")
    assert (recall["difference"], recall["low"], recall["high"]) == (0.5, 0.5, 0.5)
    assert accuracy["difference"] == pytest.approx(0.5)
    assert accuracy["p_value"] == pytest.approx(2 * 0.5**10)  # ten slides won, none lost
    rows = [{"recipe": "ours", "fraction": "1", "seeds": 3, "patients": 9, "test_r1": 1.0, "test_r1_sd": 0.0,
             "chance_r1": 0.1}]  # fmt: skip
    write_curve(tmp_path / "out", rows, points, [recall, accuracy])
    assert "Compared on the same test patients" in (tmp_path / "out" / "curve.html").read_text()


@pytest.mark.slow
def test_a_curve_is_trained_measured_and_goes_on(tmp_path):
    cohort = save_cohort(tmp_path / "c", 12)
    splits = [
        {"slide": f"slide-{i}", "split": ("train", "train", "train", "test", "val", "train")[i % 6]} for i in range(12)
    ]
    table = write_csv(tmp_path / "s.csv", splits)
    short = ["--set", "train.steps=2", "--set", "train.batch_size=4", "--set", "train.eval_every=0"]
    files = ["--features", cohort / "features", "--captions", cohort / "captions.jsonl", "--splits", table]
    words = ["curve", "clip_mean", *files, "--out", tmp_path / "curve", "--seeds", 2, *short]
    words += ["--fraction", "1/2", "--fraction", "1"]
    done = cli(*words)
    assert done.exit_code == 0, (done.output, done.exception)
    before = {p: p.stat().st_mtime_ns for p in (tmp_path / "curve").rglob("*") if "points" in p.parts}
    assert sum(p.name == "point.json" for p in before) == 4
    stop = tmp_path / "curve" / "points" / "clip_mean" / "1" / "seed1_lr0.0025" / "point.json"
    stop.unlink()  # as if it had been stopped before the last point
    again = cli(*words)
    assert again.exit_code == 0, again.output
    assert again.stdout == done.stdout
    assert stop.is_file()
    points = [p for p in before if p.name == "point.json" and p != stop]
    assert all(p.stat().st_mtime_ns == before[p] for p in points)
    other = cli(*words, "--set", "train.steps=3")
    assert isinstance(other.exception, ConfigError)
    assert "other settings or data" in str(other.exception)


def test_one_slide_as_a_vector(model, features):
    loaded = pathflip.load(model)
    vector = pathflip.embed_slide(loaded, read_features(features / "s01.h5"))
    assert vector.dtype == np.float32
    np.testing.assert_allclose(vector, embeddings(model, features)[1], atol=1e-6)
