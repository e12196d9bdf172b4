"""One text or one path where a list belongs is taken as one, or refused: never walked through letter by letter."""

import inspect
import re
from pathlib import Path

import numpy as np
import pytest
import torch

import pathflip
from feature_grids import make_features, scattered_cells
from pathflip import inference
from pathflip.arguments import as_paths, as_texts, refuse_text
from pathflip.assistant import ask, build_prompt, log_likelihood, prepare_slide
from pathflip.checkpoint import InputContract, save_checkpoint
from pathflip.data.align import TextSpec
from pathflip.evaluate.answer_parsing import parse_answer
from pathflip.evaluate.caption_baselines import bag_of_words, constant_caption
from pathflip.features import write_features
from pathflip.features.store import check_cohort as features_of_one_kind
from pathflip.interop.conversion import find_inputs
from pathflip.io.slide_id import paths_by_id
from pathflip.models import build_model
from pathflip.recipes.align import find_recipe
from pathflip.recipes.settings import with_settings
from pathflip.slide import find_slides
from pathflip.slide.tiling import _distinct
from pathflip.text.questions import format_question, query_texts
from pathflip.text.tokenizer import train_tokenizer
from pathflip.train.align_run import read_split
from pathflip.verify.heatmaps import heatmaps
from tiny_assistant import assemble, tiny_slide

WORDS = ["Keratin pearls are seen in the upper left.", "No necrosis is identified.", "Mucin pools are present."]


def slide(name: str = "a", seed: int = 0):
    made = make_features(scattered_cells(np.random.default_rng(seed), 40), seed=seed)
    return pathflip.SlideFeatures(name, made.features, made.coords, made.valid, made.info, made.spec, made.encoder)


@pytest.fixture
def model(tmp_path):
    tokenizer = train_tokenizer(WORDS, 200)
    torch.manual_seed(0)
    small = {"width": 16, "embed_dim": 8, "text_width": 16, "text_heads": 2}
    net = build_model({"kind": "pathflip", "feature_dim": 5, "vocab_size": tokenizer.vocab_size, **small})
    contract = InputContract.of(slide())
    save_checkpoint(tmp_path / "model", net, contract=contract, tokenizer=tokenizer, text=TextSpec(), recipe={})
    return pathflip.load(tmp_path / "model")


@pytest.mark.usefixtures("annotations_off")
def test_texts_and_paths_alone_are_lists_of_one():
    assert as_texts("necrosis", "texts") == ["necrosis"]
    assert as_texts(("a", "b"), "texts") == ["a", "b"]
    assert as_paths("slides/x.svs", "paths") == [Path("slides/x.svs")] == as_paths(Path("slides/x.svs"), "paths")
    assert as_paths((one for one in ["a", Path("b")]), "paths") == [Path("a"), Path("b")]
    for wrong in (b"necrosis", 3, None, ["necrosis", 3], [b"x"]):
        with pytest.raises(TypeError, match="expected a text"):
            as_texts(wrong, "texts")
        with pytest.raises(TypeError, match="expected a path"):
            as_paths(wrong, "paths")
    with pytest.raises(TypeError, match="options: got the text 'A'"):
        refuse_text("A", "options")


def test_grounding_one_phrase_writes_files_of_one(model, tmp_path):
    encoded = pathflip.encode_slide(model, slide())
    rows = inference.ground_to_files(model, encoded, "necrosis", tmp_path / "out")
    assert [row["text"] for row in rows] == ["necrosis"]
    assert len(list((tmp_path / "out").iterdir())) == 2
    assert [one.text for one in heatmaps(model, encoded, "necrosis")] == ["necrosis"]


def test_one_slide_is_a_gallery_of_one(model):
    one, many = slide(), [slide()]
    names = {"keratin": "keratin pearls", "mucin": "mucin"}
    for score in (
        lambda slides: pathflip.retrieve(model, slides, WORDS).scores,
        lambda slides: pathflip.zero_shot(model, slides, names).scores,
        lambda slides: inference.presence_scores(model, slides, WORDS[0]),
    ):
        np.testing.assert_array_equal(score(one), score(many))


def test_a_report_may_be_a_list_of_its_sentences(model):
    encoded = pathflip.encode_slide(model, slide())
    whole = pathflip.verify_report(model, encoded, " ".join(WORDS), None)
    by_sentence = pathflip.verify_report(model, encoded, WORDS, None)
    assert [j.sentence for j in by_sentence.judgements] == [j.sentence for j in whole.judgements] == WORDS


@pytest.mark.usefixtures("annotations_off")
def test_options_and_history_are_lists(tmp_path):
    assistant = assemble(tmp_path)
    view = prepare_slide(assistant.aligned, tiny_slide("a"))
    for call in (
        lambda: ask(assistant, "Which grade?", view, "AB"),
        lambda: ask(assistant, "Which grade?", view, options="AB"),
        lambda: build_prompt(assistant, "Which grade?", view, options="AB"),
        lambda: format_question("Which grade?", "AB"),
        lambda: query_texts("Which grade?", "AB"),
        lambda: parse_answer("B", "high, low"),
    ):
        with pytest.raises(TypeError, match=r"options: got the text"):
            call()
    with pytest.raises(TypeError, match="history: got the text"):
        ask(assistant, "Which grade?", view, history="What is it?")
    prompt = build_prompt(assistant, "Which grade?", view)
    torch.testing.assert_close(log_likelihood(assistant, prompt, "high"), log_likelihood(assistant, prompt, ["high"]))


def test_one_file_is_a_cohort_of_one(tmp_path):
    path = tmp_path / "a.h5"
    write_features(path, slide())
    for named in (str(path), path):
        assert features_of_one_kind(named).dim == 5
        assert list(paths_by_id(named)) == ["a"]
        assert find_inputs(named) == [path]
        assert find_slides(named) == [path]
        assert _distinct(named) == [path]
    captions = tmp_path / "captions.csv"
    captions.write_text(f"slide,text\na,{WORDS[0]}\n")
    assert read_split(str(path), captions, None)["train"][0] == [path]


@pytest.mark.usefixtures("annotations_off")
def test_training_refuses_texts_for_captions(tmp_path):
    with pytest.raises(TypeError, match="captions: got the text"):
        pathflip.train_align(find_recipe("align_base"), [tmp_path / "a.h5"], "captions.csv", tmp_path / "out")
    with pytest.raises(Exception, match=r"no such|cannot|no file"):  # the file, not its first letter
        pathflip.train_align(find_recipe("align_base"), str(tmp_path / "nothing.h5"), [], tmp_path / "out")


def test_settings_words_and_corpora():
    recipe = find_recipe("align_base")
    assert with_settings(recipe, "max_patches=7").max_patches == 7
    vocabularies = [train_tokenizer(texts, 200).backend.get_vocab() for texts in (WORDS[0], WORDS[:1])]
    assert vocabularies[0] == vocabularies[1]
    assert constant_caption(WORDS[0]) == WORDS[0]
    assert "keratin" in bag_of_words(WORDS[0])


@pytest.mark.usefixtures("annotations_off")
def test_a_path_is_no_heatmap():
    with pytest.raises(TypeError, match="heatmap: got the text"):
        pathflip.view("slide.svs", "heatmap.png")


LISTS = {
    "ask": "slides options history",
    "encode_text": "texts",
    "open_slide": "path",
    "retrieve": "slides captions",
    "train_align": "files captions val_files val_captions",
    "verify_report": "report",
    "view": "heatmap",
    "zero_shot": "slides classnames templates",
}
"""Public functions and those of their arguments that may be lists: each is tried above."""


def test_no_public_function_with_a_list_is_forgotten():
    """A new argument that is a list must be added to the table, and to the tests above."""
    lists = {}
    for name in pathflip.__all__:
        function = getattr(pathflip, name)
        if not inspect.isfunction(function):
            continue
        kinds = {arg: str(one.annotation) for arg, one in inspect.signature(function).parameters.items()}
        listed = [arg for arg, kind in kinds.items() if re.search(r"Sequence\[|Iterable\[|list\[", kind)]
        lists |= {name: " ".join(listed)} if listed else {}
    assert lists == LISTS
