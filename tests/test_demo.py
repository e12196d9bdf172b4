"""The road end to end: the quick demo, and every verb on what it leaves behind."""

import json
import re
import runpy
import shutil
import subprocess
import sys
from contextlib import redirect_stderr, redirect_stdout
from io import StringIO
from pathlib import Path
from unittest.mock import patch

import numpy as np
import pytest
from sklearn.metrics import average_precision_score

from command_line import run_here
from pathflip.data.splits import read_splits
from pathflip.demo.stages import BASELINE, REFERENCE, Demo
from pathflip.evaluate.simulated.measures import TILE_FRACTION, read_cohort
from pathflip.inference import encode_slide, ground, load
from pathflip.io.tables import read_table
from pathflip.recipes.settings import with_settings
from pathflip.simulate.phrases import prompts
from pathflip.simulate.world import FINDINGS
from pathflip.train.align_run import read_split, train_align

pytestmark = pytest.mark.slow

WORLDS = Path(__file__).resolve().parents[1] / "bench" / "worlds.py"


def run_apart(*words: str) -> list[dict]:
    """A command as a person would type it, in a process of its own; its JSON lines."""
    command = [sys.executable, "-c", "from pathflip.cli import main; main()", *words, "--json"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


@pytest.fixture(scope="module")
def demo(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("demo")
    (result,) = run_apart("demo", "--quick", "--device", "cpu", "--out", str(out))
    assert result["report"] == str(out / "report.html")
    return out


def test_the_demo_leaves_a_report_and_numbers(demo):
    page = (demo / "report.html").read_text(encoding="utf-8")
    assert "not a medical device" in page.lower()
    assert f"pathflip demo --out {demo.name} --seed 0 --quick --device cpu" in page
    assert re.search(r'<th scope="row">device</th><td>cpu</td>', page)
    assert re.search(r"late interaction</td><td>[1-9]", page)  # parameters of PathFLIP
    results = json.loads((demo / "results.json").read_text(encoding="utf-8"))
    assert set(results["measures"]["grounding AP"]) == {"PathFLIP", "mean-pool CLIP", "published, repaired"}
    assert set(results["job_seconds"]) >= {"PathFLIP", "scores of PathFLIP", "upper_bound"}
    for name, by_model in results["measures"].items():
        for entry in by_model.values():
            assert 0 <= entry["low"] <= entry["value"] <= entry["high"] <= 1, name  # none is missing
            assert 0 < entry["chance"] < 1
    assert results["upper_bounds"]["grounding AP"] > 0.3


def test_pathflip_shows_where_and_mean_pool_clip_does_not(demo):
    """The headline of the demo, on its small world, 70 steps each (seed 0: 0.32 against 0.12)."""
    trained = Demo(demo, steps=70, assistant_steps=0)
    short = ["train.eval_every=70", "train.save_every=70", "train.optim.lr=4e-3", "max_patches=64"]
    parts = read_split(list(trained.files().values()), trained.cohort / "captions.jsonl", trained.cohort / "splits.csv")
    cohort = read_cohort(trained.cohort, trained.features, "test")
    precision = {}
    for name in (REFERENCE, BASELINE):
        recipe = with_settings(trained.recipes()[name], [*short, "text.caption_tokens=128"])
        train_align(recipe, *parts["train"], demo / "shown_where" / recipe.name)
        model = load(demo / "shown_where" / recipe.name)
        precisions = []
        for slide in cohort.slides:
            encoded, valid = encode_slide(model, slide.features), slide.features.valid
            for finding in np.flatnonzero(slide.present):
                truth = slide.fractions[valid, finding] >= TILE_FRACTION
                if truth.any() and not truth.all():
                    heatmap = ground(model, encoded, prompts(FINDINGS[finding], "train")[0][0])
                    precisions.append(average_precision_score(truth, heatmap.scores[valid]))
        precision[name] = np.mean(precisions)
    assert precision[REFERENCE] > precision[BASELINE]


def test_every_verb_works_on_what_the_demo_left(demo, tmp_path):
    features, model = demo / "features_stain_texture", demo / "runs" / "align_base"
    slides = sorted((demo / "cohort" / "slides").glob("*.tif"))[:2]
    names = [slide.stem for slide in slides]
    files = [str(features / f"{name}.h5") for name in names]

    rows = run_here("info", *map(str, slides))
    assert [row["slide_id"] for row in rows] == names
    assert rows[0]["mpp0"] == pytest.approx(2.0, rel=1e-3)
    tiled = run_here("tile", *map(str, slides), "--tile-px", "64", "--mpp", "2", "--out", str(tmp_path / "tiles"))
    assert all(row["num_tiles"] > 20 for row in tiled)

    two = [word for file in files for word in ("--features", file)]
    answer = run_here(
        "zero-shot", "--model", str(model), *two, "--classname", "melanoma", "--classname", "adenocarcinoma"
    )
    assert all(sum(row["probabilities"].values()) == pytest.approx(1, abs=1e-3) for row in answer)
    retrieved = run_here("retrieve", "--model", str(model), "--features", str(features), "--text", "There is necrosis.")
    assert len(retrieved[0]["slides"]) == 5
    command = ["ground", "--model", str(model), "--features", files[0], "--slide", str(slides[0])]
    (ground,) = run_here(*command, "--text", "necrosis", "--out", str(tmp_path / "heat"))
    assert all(Path(file).stat().st_size > 200 for file in ground["files"])
    assert "painted" in ground["note"]
    measured = run_here("eval", "--model", str(model), "--features", str(features), "--cohort", str(demo / "cohort"))
    assert {row["measure"] for row in measured} >= {"presence AUROC", "grounding AP", "R@1 combined"}


def test_training_and_retrieval_from_captions_alone(demo, tmp_path):
    features = demo / "features_stain_texture"
    captions = demo / "cohort" / "captions.jsonl"
    (row,) = run_here(
        "train", "align_base", "--features", str(features), "--captions", str(captions),
        "--splits", str(demo / "cohort" / "splits.csv"), "--out", str(tmp_path / "run"),
        "--set", "train.steps=2", "--set", "train.batch_size=4", "--set", "model.width=32", "--set", "text.pretrained=",
    )  # fmt: skip
    assert row["step"] == 2
    words = json.loads((tmp_path / "run" / "last" / "tokenizer" / "tokenizer.json").read_text())["model"]["vocab"]
    (row,) = run_here(
        "train", "clip_mean", "--features", str(features), "--captions", str(captions),
        "--out", str(tmp_path / "second"),
        "--set", "train.steps=1", "--set", "train.batch_size=2", "--set", "vocab_size=100",
        "--set", f"tokenizer={tmp_path / 'run' / 'last' / 'tokenizer'}",
    )  # fmt: skip
    again = json.loads((tmp_path / "second" / "last" / "tokenizer" / "tokenizer.json").read_text())["model"]["vocab"]
    assert words == again
    measured = run_here(
        "eval", "--model", str(tmp_path / "run"), "--features", str(features), "--captions", str(captions)
    )
    assert {row["measure"] for row in measured} >= {"R@1 slide → text", "R@10 text → slide"}


def test_a_model_refuses_features_of_another_resolution(demo, tmp_path):
    slide = sorted((demo / "cohort" / "slides").glob("*.tif"))[0]
    run_here("extract", str(slide), "--tile-px", "64", "--mpp", "4", "--out", str(tmp_path))
    other = tmp_path / "features_stain_texture" / f"{slide.stem}.h5"
    (row,) = run_here(
        "zero-shot", "--model", str(demo / "runs" / "align_base"), "--features", str(other),
        "--classname", "a", "--classname", "b", status=1,
    )  # fmt: skip
    assert "mpp" in row["error"]
    assert "4" in row["error"]
    assert "2" in row["error"]


def test_the_assistant_and_the_verifier_stand_on_the_page_and_nothing_is_redone(demo):
    """What the full demo adds, on the quick one's cohort, features and models, with a handful of steps."""
    from pathflip.demo import Demo, play
    from pathflip.simulate import World

    made = [*(demo / "features_stain_texture").glob("*.h5"), *(demo / "runs").rglob("last/model.safetensors")]
    before = {file: file.stat().st_mtime_ns for file in made}
    messages: list[str] = []
    speaking = Demo(demo, steps=16, assistant_steps=6, resamples=50, explained=8, captions=1)
    result = play(speaking, World.named("quick-hospital", 0), "a test", [], messages.append, lambda *_, **__: None)
    assert before == {file: file.stat().st_mtime_ns for file in made}
    by_category = {(row["measure"], row["how"], row["category"]): row for row in result["questions"]}
    accuracy = by_category["accuracy", "likelihood", "all"]
    assert 0 <= accuracy["low"] <= accuracy["value"] <= accuracy["high"] <= 1
    assert "text_only" in accuracy
    assert by_category["accuracy", "generation", "all"]["questions"] == accuracy["questions"] > 30
    answered = result["yes_or_no"]  # necrosis is on none of these slides
    assert set(answered) == {
        "a finding that is there: yes",
        "a finding that is not there: no",
        "necrosis that is not there: no",
    }
    assert all(0 <= entry["value"] <= 1 for entry in answered.values())
    assert result["faithfulness"]["pointing game"]["chance"] > 0
    assert result["calibration"]["fitted_on"]
    assert {row["kind"] for row in result["verification"]["rows"]} >= {"attribute_swapped", "finding_omitted"}
    page = (demo / "report.html").read_text(encoding="utf-8")
    assert all(f'id="{section}"' in page for section in ("answers", "verified", "numbers"))
    assert list((demo / "verified").glob("*.verify.html"))


def test_worlds_are_measured_once_and_told_as_one_object(demo, tmp_path):
    """``bench/worlds.py`` on the demo's world, painted and extracted already; run again, in this process."""
    short = "+train.steps=2+train.eval_every=2+train.save_every=2+train.batch_size=8+text.pretrained="
    models = [f"align_base{short}", f"clip_mean{short}@1/2"]
    words = ["--seeds", "0", "--world", "quick", "--models", ",".join(models), "--out", str(tmp_path), "--json"]
    words += ["--workers", "1"]
    for part in ("cohort", "features_stain_texture"):
        shutil.copytree(demo / part, tmp_path / "0" / part)

    first = subprocess.run([sys.executable, str(WORLDS), *words], capture_output=True, text=True, check=True)
    values = json.loads(first.stdout.splitlines()[-1])
    assert set(values["grounding AP"]) == set(models)
    assert all(len(by_seed) == 1 for by_model in values.values() for by_seed in by_model.values())
    weights = sorted((tmp_path / "0" / "runs").rglob("model.safetensors"))
    stamps = [file.stat().st_mtime_ns for file in weights]
    out, err = StringIO(), StringIO()
    with redirect_stdout(out), redirect_stderr(err), patch.object(sys, "argv", [str(WORLDS), *words]):
        runpy.run_path(str(WORLDS), run_name="__main__")
    assert out.getvalue() == first.stdout
    assert [file.stat().st_mtime_ns for file in weights] == stamps
    assert "0 models trained, 2 kept" in err.getvalue()
    # Half of the patients trained the second.
    patients = {row["slide"]: row["patient"] for row in read_table(demo / "cohort" / "labels.csv")}
    split = read_splits(demo / "cohort" / "splits.csv")
    everyone = {patients[slide] for slide, part in split.items() if part == "train"}
    runs = [next((tmp_path / "0" / "runs").glob(f"{kind}*")) for kind in ("align_base", "clip_mean")]
    recipes = [json.loads((run / "last" / "config.json").read_text())["recipe"] for run in runs]
    numbers = [len(recipe["trained_on"]["patients"]) for recipe in recipes]
    assert numbers == [len(everyone), -(-len(everyone) // 2)]
    # The table's mean is the mean of the object's values.
    row = next(line for line in first.stdout.splitlines() if line.startswith("| grounding AP |"))
    mean = np.mean(values["grounding AP"][models[0]])
    assert row.split("|")[2].split()[0] == f"{mean:.2f}"
