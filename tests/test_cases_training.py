"""A case as one item: joined with the files of its slides, drawn evenly from them, scored over all of them at once."""

import warnings
from dataclasses import replace

import numpy as np
import pytest
import torch

from case_run import TEXTS, feature_file, trained_on_cases
from pathflip.data.align import AlignDataset, TextSpec
from pathflip.data.case_items import by_part, cases_of_folders, join_reports, pair_reports, with_findings
from pathflip.data.regions import RegionSpec
from pathflip.data.splits import read_split
from pathflip.data.whole_files import WholeFiles
from pathflip.errors import CaptionError, ConfigError
from pathflip.evaluate import metrics
from pathflip.evaluate.alignment import evaluate_checkpoint
from pathflip.features import read_features
from pathflip.inference import encode_case, encode_slide, encode_text, load, presence_scores, retrieve, zero_shot
from pathflip.text.captions import read_captions
from pathflip.text.case_tables import slides_of
from pathflip.text.sub_captions import parse_sub_caption
from pathflip.text.tokenizer import train_tokenizer
from pathflip.train import TrainConfig
from pathflip.train.align_run import AlignRecipe, train_align
from pathflip.types import Caption, Case, CaseSlide, SlideCode


def case(name, slides, text=TEXTS[0], patient="p", parts=()):
    slides = tuple(CaseSlide(one) if isinstance(one, str) else one for one in slides)
    return Case(name, patient, text, (parse_sub_caption(text),), case_id=name, slides=slides, parts=parts)


def caption(name, text=TEXTS[1]):
    return Caption(name, f"patient of {name}", text, (parse_sub_caption(text),))


# --- Joining ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("files", "slides", "expected"),
    [
        (["a.h5", "b.h5", "z.h5"], ["a", "b"], ["a", "b"]),
        (["K__a.h5", "L__a.h5"], [CaseSlide("a", folder="K")], ["K__a"]),
        (["K__a.h5", "L__a.h5"], [CaseSlide("K__a", folder="K")], ["K__a"]),
        (["K/a.h5", "L/b.h5"], [CaseSlide("K__a", folder="K")], ["a"]),
        (["K__a.h5", "K__b.h5", "L__a.h5"], [], ["K__a", "K__b"]),
        (["K/a.h5", "K/b.h5", "L/c.h5"], [], ["a", "b"]),
        (["K.h5", "Kb.h5"], [], ["K"]),
    ],
)
def test_the_slides_of_a_case_are_found_by_name_or_folder(tmp_path, files, slides, expected):
    paths = [feature_file(tmp_path / file) for file in files]
    joined = join_reports(paths, [case("K", slides)])
    assert [file.stem for file in joined.items[0].files] == expected
    assert [one.slide_id for one in slides_of(joined.items[0].caption)] == expected
    assert len(joined.lonely_files) == len(files) - len(expected)


def test_a_tcga_patient_without_named_slides_has_all_of_hers(tmp_path):
    names = ("TCGA-AA-0001-01Z-00-DX1", "TCGA-AA-0001-01Z-00-DX2", "TCGA-AA-00012-01Z-00-DX1")
    files = [feature_file(tmp_path / f"{name}.h5") for name in names]
    (item,) = join_reports(files, [case("TCGA-AA-0001", [])]).items
    assert [file.stem for file in item.files] == list(names[:2])


def test_two_reports_of_one_slide_are_refused(tmp_path):
    files = [feature_file(tmp_path / "a.h5")]
    with pytest.raises(CaptionError, match="'K' and 'L' both mean slide 'a'"):
        join_reports(files, [case("K", ["a"]), case("L", ["a"])])


def test_what_has_no_partner_is_counted_and_refused_or_passed_over(tmp_path):
    files = [feature_file(tmp_path / f"{name}.h5") for name in "abc"]
    captions = [case("K", ["a", "gone"]), caption("b"), caption("lost")]
    line = r"1 \(c\) without a caption, 1 \(lost\) without features, 1 \(K\) with features of some of their slides only"
    with pytest.raises(CaptionError, match=line + ".*--allow-missing") as raised:
        pair_reports(files, captions)
    assert "\n" not in str(raised.value)
    with pytest.warns(UserWarning, match=line):
        items = pair_reports(files, captions, allow_missing=True)
    assert [item.name for item in items] == ["K", "b"]
    with pytest.raises(CaptionError, match="0 without a caption, 1"):
        pair_reports([], [caption("lost")], allow_missing=True)


def test_a_part_whose_slide_is_missing_is_not_learned(tmp_path):
    sub_captions = tuple(replace(parse_sub_caption(text), part=part) for text, part in zip(TEXTS, "ABC", strict=True))
    slides = tuple(CaseSlide(name, part) for name, part in zip("abc", "ABC", strict=True))
    whole = replace(case("K", slides, parts=("A", "B", "C")), sub_captions=sub_captions)
    joined = join_reports([feature_file(tmp_path / "a.h5"), feature_file(tmp_path / "c.h5")], [whole])
    assert [one.text for one in joined.items[0].caption.sub_captions if one.decided] == [TEXTS[0], TEXTS[2]]
    assert joined.incomplete == ["K"]
    assert joined.items[0].caption.text == f"{TEXTS[0]} {TEXTS[2]}"
    assert joined.items[0].as_read is whole


@pytest.mark.parametrize(
    ("parts_of_slides", "expected"),
    [
        (("A", "B"), {"K__A": (["a"], TEXTS[0]), "K__B": (["b"], TEXTS[2])}),
        (("A", "B2"), {"K__A": (["a"], TEXTS[0]), "K__B": (["b"], TEXTS[2])}),
        (("A1", "A2"), {"K": (["a", "b"], TEXTS[0])}),
        (("A", None), {"K": (["a", "b"], TEXTS[0])}),
        ((None, None), {"K": (["a", "b"], TEXTS[0])}),
        (("A", "A, B"), {"K": (["a", "b"], TEXTS[0])}),
    ],
)
def test_the_parts_of_a_case_are_learned_apart(tmp_path, parts_of_slides, expected):
    """A denial of part B says nothing of the slides of part A."""
    table = tmp_path / "cases.csv"
    report = f"Part A: {TEXTS[0]} Part B: {TEXTS[2]}"
    rows = [f"K;{slide};{part or ''};{report}" for slide, part in zip("ab", parts_of_slides, strict=True)]
    table.write_text("\n".join(["case;slide;part;report", *rows]) + "\n")
    files = [feature_file(tmp_path / f"{name}.h5") for name in "ab"]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        items = by_part(pair_reports(files, read_captions(table)))
    decided = {
        i.name: ([f.stem for f in i.files], " ".join(s.text for s in i.caption.sub_captions if s.decided))
        for i in items
    }
    assert decided == expected


def test_a_case_found_by_folder_with_fewer_slides_than_parts_is_undecided(tmp_path):
    files = [feature_file(tmp_path / f"K__{name}.h5") for name in "ab"]
    sub_captions = tuple(replace(parse_sub_caption(text), part=part) for text, part in zip(TEXTS, "ABC", strict=True))
    three = replace(case("K", [], parts=("A", "B", "C")), sub_captions=sub_captions)
    assert all(one.undecided for one in join_reports(files, [three]).items[0].caption.sub_captions)
    two = replace(three, parts=("A", "B"), sub_captions=sub_captions[:2])
    assert not any(one.undecided for one in join_reports(files, [two]).items[0].caption.sub_captions)


def test_reports_that_show_nothing_are_named_and_left_out(tmp_path):
    files = [feature_file(tmp_path / f"{name}.h5") for name in "ab"]
    history = replace(parse_sub_caption("A lump for two weeks."), visual=False, section="clinical")
    items = join_reports(files, [caption("a"), replace(caption("b"), sub_captions=(history,))]).items
    with pytest.warns(UserWarning, match=r"left out of training, .*only: clinical\): 1 \(b\)"):
        assert [item.name for item in with_findings(items, "training")] == ["a"]
    with pytest.raises(CaptionError, match="no report states anything its slides can show"):
        with_findings(items[1:], "training")


def test_folders_are_cases(tmp_path):
    files = [feature_file(tmp_path / name) for name in ("K/a.h5", "K/b.h5", "L/c.h5", "M__d.h5", "M__e.h5")]
    assert {one.case_id: [s.slide_id for s in one.slides] for one in cases_of_folders(files)} == {
        "K": ["a", "b"], "L": ["c"], "M": ["M__d", "M__e"],
    }  # fmt: skip
    flat = [feature_file(tmp_path / "flat" / name) for name in ("x.h5", "y.h5")]
    assert [one.slide_id for one in cases_of_folders(flat)] == ["x", "y"]


# --- Splits ----------------------------------------------------------------------------------------------------------


def test_a_case_is_in_the_split_of_its_slides_or_its_name(tmp_path):
    files = [feature_file(tmp_path / f"{name}.h5") for name in "abcd"]
    table, splits = tmp_path / "c.csv", tmp_path / "s.csv"
    table.write_text(f"case,slides,text\nK,a;b,{TEXTS[0]}\nL,c;d,{TEXTS[1]}\n")
    splits.write_text("slide,split\na,train\nb,train\nc,test\n")
    parts = read_split(files, table, splits)
    assert [file.stem for file in parts["train"][0]] == ["a", "b"]
    assert [one.slide_id for one in parts["test"][1]] == ["L"]
    splits.write_text("case,split\nK,val\nL,test\n")
    assert [one.slide_id for one in read_split(files, table, splits)["val"][1]] == ["K"]
    splits.write_text("slide,split\na,train\nb,test\n")
    with pytest.raises(ConfigError, match="case 'K' has slides in test and train"):
        read_split(files, table, splits)


# --- Training --------------------------------------------------------------------------------------------------------


def dataset(tmp_path, sizes, max_patches, **kwargs):
    """One case whose slide number i holds features around 100 · i, beside a case of one slide."""
    files = [feature_file(tmp_path / f"s{i}.h5", tiles=tiles, seed=i, shift=100.0 * i) for i, tiles in enumerate(sizes)]
    single = feature_file(tmp_path / "z.h5", seed=9)
    captions = [case("K", [file.stem for file in files]), caption("z")]
    tokenizer = train_tokenizer([one.text for one in captions], 300)
    text = TextSpec(num_sub_captions=1)
    return AlignDataset([*files, single], captions, tokenizer, text=text, max_patches=max_patches, **kwargs), files


@pytest.mark.parametrize(
    ("sizes", "most", "expected"),
    [((60, 60, 60), 12, [4, 4, 4]), ((60, 5, 60), 30, None), ((60, 60), None, None), ((60, 60, 60), 2, [0, 1, 1])],
)
def test_patches_come_evenly_from_all_slides_of_a_case(tmp_path, sizes, most, expected):
    data, files = dataset(tmp_path, sizes, most)
    batch = data.batch([0], np.random.default_rng(3))
    patches = batch.patches[0][batch.patch_mask[0]].numpy()
    counts = [int((np.round(patches.mean(1) / 100) == i).sum()) for i in range(len(sizes))]
    available = [int(read_features(file).valid.sum()) for file in files]
    if expected is None and most is None:
        expected = available
    elif expected is None:  # the small slide gives all it has, the others share the rest
        rest = most - available[1]
        assert sorted([counts[0], counts[2]]) == [rest // 2, rest - rest // 2]
        expected = [counts[0], available[1], counts[2]]
    assert (sorted(counts) if most == 2 else counts) == expected
    again = data.batch([1, 0], np.random.default_rng(3)).patches[1, : len(patches)]
    assert torch.equal(again, batch.patches[0, : len(patches)])


def test_neighbours_and_places_are_those_of_each_slide(tmp_path):
    data, files = dataset(tmp_path, (40, 40), 10)
    batch = data.batch([0], np.random.default_rng(0))
    for patch, near, place in zip(batch.patches[0], batch.context[0], batch.position[0], strict=True):
        i = round(float(patch.mean()) / 100)
        slide = WholeFiles().slide(files[i])
        row = int(np.abs(slide.features - patch.numpy()).sum(1).argmin())
        np.testing.assert_allclose(near, slide.neighbourhood.mean(slide.features, np.array([row]))[0], rtol=1e-5)
        np.testing.assert_allclose(place, slide.position[row], rtol=1e-6)


def test_regions_of_several_slides_index_one_run(tmp_path):
    spec = RegionSpec(side=2)
    data, _ = dataset(tmp_path, (50, 50), None, regions=True, max_regions=6, reader=WholeFiles(regions=spec))
    batch = data.batch([0], np.random.default_rng(0))
    used = batch.regions[0][batch.regions[0] >= 0]
    assert sorted(used.tolist()) == list(range(int(batch.patch_mask[0].sum())))
    slides = [{round(float(batch.patches[0, i].mean()) / 100) for i in row[row >= 0]} for row in batch.regions[0]]
    assert sorted(tuple(one) for one in slides) == [(0,)] * 3 + [(1,)] * 3


def test_one_slide_is_drawn_as_it_was_before_there_were_cases(tmp_path):
    """The same random numbers, so that curves stay what they were."""
    data, _ = dataset(tmp_path, (40,), 7)
    plain = AlignDataset(
        sorted(tmp_path.glob("*.h5")),
        [caption("s0", TEXTS[0]), caption("z")],
        data.tokenizer,
        text=data.text,
        max_patches=7,
    )
    first, second = (one.batch([0, 1], np.random.default_rng(5)) for one in (data, plain))
    assert torch.equal(first.patches, second.patches)
    rng = np.random.default_rng([int(np.random.default_rng(5).integers(2**62)), 1])
    slide = WholeFiles().slide(tmp_path / "z.h5")
    rows = slide.rows[np.sort(rng.choice(len(slide.rows), 7, replace=False))]
    assert np.array_equal(second.patches[1], slide.features[rows])


# --- In use ----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    return trained_on_cases(tmp_path_factory.mktemp("cases"))


def test_a_case_is_scored_over_the_patches_of_all_its_slides(trained):
    model = load(trained / "run" / "last")
    slides = [read_features(trained / "F" / f"c0{name}.h5") for name in "ab"]
    whole = encode_case(model, slides, "c0")
    alone = [encode_slide(model, one) for one in slides]
    assert [one.slide_id for one in whole.slides] == ["c0a", "c0b"]
    joined = torch.cat([one.code.patches for one in alone], dim=1)
    torch.testing.assert_close(whole.code.patches, joined)
    got = presence_scores(model, [whole], TEXTS)[0]
    joint = SlideCode(alone[0].code.slide, joined, torch.ones(joined.shape[:2], dtype=torch.bool))
    np.testing.assert_allclose(got, model.net.presence(joint, encode_text(model, TEXTS))[0].numpy(), rtol=1e-5)
    assert retrieve(model, [whole, alone[0]], list(TEXTS)).slide_ids == ("c0", "c0a")
    assert zero_shot(model, [whole], {"a": "necrosis", "b": "mucin"}).slide_ids == ("c0",)
    one = encode_case(model, slides[:1], "c0")
    np.testing.assert_allclose(
        presence_scores(model, [one], TEXTS), presence_scores(model, alone[:1], TEXTS), rtol=1e-5
    )


def test_evaluation_counts_texts_patients_and_what_was_trained_on(trained):
    files = sorted((trained / "F").glob("*.h5"))
    run = trained / "run" / "last"
    with pytest.warns(UserWarning, match=r"8 of 12 slides and 4 of 6 patients were trained on"):
        rows = evaluate_checkpoint(run, files, captions=trained / "cases.csv")
    assert {(row["slides"], row["patients"], row["texts"]) for row in rows} == {(6, 6, 3)}
    assert rows[0]["chance"] == pytest.approx(1 / 3)  # every text is of two of the six
    rows = evaluate_checkpoint(run, files, captions=trained / "cases.csv", splits=trained / "splits.csv", split="test")
    assert rows[0]["slides"] == 2
    with pytest.raises(ConfigError, match="--split test: give --splits"):
        evaluate_checkpoint(run, files, captions=trained / "cases.csv", split="test")


def test_sixteen_equal_reports_give_chance_one():
    same = metrics.positives_from_keys(["x"] * 16, ["x"] * 16)
    assert metrics.chance_of_hits(1, same) == 1.0
    mixed = metrics.positives_from_keys(list("aabc"), list("aabc"))
    assert metrics.chance_of_hits(1, mixed) == pytest.approx((0.5 + 0.5 + 0.25 + 0.25) / 4)


def test_captions_of_a_table_train_with_what_is_there(trained, tmp_path):
    files = sorted((trained / "F").glob("*.h5"))[:-1]
    captions = read_captions(trained / "cases.csv")
    recipe = AlignRecipe(
        name="r", model={"kind": "clip", "width": 16, "embed_dim": 8, "text_width": 16, "text_heads": 2}, max_patches=4,
        vocab_size=100, train=TrainConfig(steps=1, batch_size=2),
    )  # fmt: skip
    with pytest.raises(CaptionError, match=r"1 \(c5\) with features of some of their slides only"):
        train_align(recipe, files, captions, tmp_path / "r")
    with pytest.warns(UserWarning, match=r"1 \(c5\) with features of some"):
        assert train_align(recipe, files, captions, tmp_path / "r", allow_missing=True).step == 1
