"""The assistant against naive computation: what it sees, what it says, what it keeps on disk."""

import json
from dataclasses import fields, replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file

from pathflip.assistant import (
    LanguageModelSpec,
    LoraSpec,
    VisualTokenizer,
    build_prompt,
    generate,
    generate_many,
    load_assistant,
    log_likelihood,
    open_language_model,
    option_probabilities,
    prepare_slide,
    save_assistant,
    slide_tokens,
)
from pathflip.errors import CaptionError, CheckpointError, ConfigError, ContractError, MissingExtraError
from pathflip.inference import encode_slide, encode_text
from pathflip.models.measurements import (
    NUM_MEASURES,
    NUM_NUMBERS,
    OPTION,
    PATCH,
    QUESTION,
    SLIDE,
    Measures,
    compare_options,
    compare_with_absence,
)
from pathflip.text.chat import Turn
from pathflip.text.questions import QueryText, format_question, query_texts, question_content
from pathflip.text.refusals import CANNOT_TELL
from pathflip.types import SlideFeatures
from tiny_assistant import assemble, save_language_model, tiny_slide

COLUMNS = [
    f"{f.name} {i}" if width > 1 else f.name
    for f in fields(Measures)
    for width in [getattr(Measures.zeros(1), f.name).numel()]
    for i in range(width)
]
QUESTION_TEXT, OPTIONS = "Where is the necrosis?", ("upper left", "lower right", "everywhere")


@pytest.fixture
def assistant(tmp_path):
    return assemble(tmp_path)


# ------------------------------------------------------------------------------------------------ visual tokens


def test_visual_tokens_equal_a_naive_computation(assistant):
    features = tiny_slide("a")
    seen = slide_tokens(assistant, features, QUESTION_TEXT, OPTIONS)
    assert seen.kind.tolist() == [SLIDE, QUESTION, *[OPTION] * 3, *[3] * 3, *[PATCH] * 5]
    assert seen.slot.tolist()[:8] == [0, 0, 1, 2, 3, 1, 2, 3]
    net, slide = assistant.aligned.net, encode_slide(assistant.aligned, features)
    code = encode_text(assistant.aligned, ["upper left"])
    similarity = net.patch_similarity(slide.code, code)[0, 0].numpy()
    rows = np.flatnonzero(features.valid)
    best = rows[np.argsort(-similarity, kind="stable")[:3]]
    assert seen.tiles[2].tolist() == best.tolist()
    np.testing.assert_allclose(seen.scores[2], np.sort(similarity)[::-1][:3], rtol=1e-6)
    assert seen.texts[2] == "upper left"
    z = (similarity - similarity.mean()) / similarity.std()
    weight = np.exp(2.5 * z) / np.exp(2.5 * z).sum()
    keys = F.normalize(slide.code.patches[0], dim=-1).numpy()
    pooled = weight @ keys
    expected = pooled / np.linalg.norm(pooled) * np.sqrt(8)
    np.testing.assert_allclose(seen.vectors[2].numpy(), expected, rtol=1e-4, atol=1e-5)
    local = code.local[0].detach().numpy()
    np.testing.assert_allclose(
        seen.text_vectors[2].numpy(), local / np.linalg.norm(local) * np.sqrt(8), rtol=1e-4, atol=1e-5
    )
    assert not seen.text_vectors[0].any()
    numbers = seen.numbers[:, :NUM_MEASURES].double()
    upper_left = dict(zip(COLUMNS, numbers[2].tolist(), strict=True))
    assert upper_left["presence"] == pytest.approx(float(net.presence(slide.code, code).detach()), abs=1e-5)
    assert upper_left["fraction"] == pytest.approx((similarity > float(code.margin)).mean())
    corner = features.coords[features.valid].min(0)
    size = features.coords[features.valid].max(0) + features.grid.tile_px0 - corner
    place = (features.coords[rows] + features.grid.tile_px0 / 2 - corner) / size
    np.testing.assert_allclose([upper_left["place 0"], upper_left["place 1"]], weight @ place, rtol=1e-4)
    right_third = (place[:, 0] >= 2 / 3) & (place[:, 1] < 1 / 3)
    assert upper_left["ninths 2"] == pytest.approx(weight[right_third].sum(), abs=1e-5)
    presence = seen.numbers[2:5, COLUMNS.index("presence")]
    assert upper_left["ahead"] == pytest.approx(float(presence[0] - presence[1:].max()), abs=1e-5)
    assert torch.allclose(seen.numbers[2:5, COLUMNS.index("among")], presence.softmax(0))
    question = seen.numbers[1, :NUM_MEASURES]
    assert all(torch.equal(row[NUM_MEASURES:], question) for row in seen.numbers[2:8])
    assert not seen.numbers[1, NUM_MEASURES:].any()


def test_measures_are_stacked_in_the_order_that_trained_projectors_know():
    """The order of the first release: an assistant would misread any other."""
    assert [
        "presence", "gate", "margin", "sign", "similarity", "fraction", "log_fraction",
        *(f"quantiles {i}" for i in range(6)), "place 0", "place 1", "deviation 0", "deviation 1",
        *(f"ninths {i}" for i in range(9)), "ahead", "among", "log_num_patches",
    ] == COLUMNS  # fmt: skip
    counting = {
        f.name: torch.tensor([[float(i) for i, name in enumerate(COLUMNS) if name.split()[0] == f.name]])
        for f in fields(Measures)
    }
    flat = {name: value[0] if name in COLUMNS else value for name, value in counting.items()}
    assert Measures(**flat).stack()[0].tolist() == list(range(29))
    assert NUM_NUMBERS == 2 * NUM_MEASURES == 58


def test_patches_are_the_most_similar_ones_taken_in_turn_and_know_their_place(assistant):
    features = tiny_slide("a")
    seen = slide_tokens(assistant, features, QUESTION_TEXT, OPTIONS)
    patches = (seen.kind == PATCH).nonzero()[:, 0].tolist()
    tiles = [int(seen.tiles[i][0]) for i in patches]
    assert len(set(tiles)) == 5
    assert tiles[0] == seen.tiles[1][0]  # the tile most like the question comes first
    slide = encode_slide(assistant.aligned, features)
    for i, tile in zip(patches, tiles, strict=True):
        key = F.normalize(slide.code.patches[0, slide.row_of_tile[tile]], dim=-1) * 8**0.5
        assert torch.allclose(seen.vectors[i], key, atol=1e-5)
    corner = features.coords[features.valid].min(0)
    size = features.coords[features.valid].max(0) + features.grid.tile_px0 - corner
    for i, tile in zip(patches, tiles, strict=True):
        expected = (features.coords[tile] + features.grid.tile_px0 / 2 - corner) / size
        np.testing.assert_allclose(seen.numbers[i, COLUMNS.index("place 0") :][:2], expected, rtol=1e-5)


def test_models_whose_keys_are_regions_stand_for_all_tiles_of_the_region(tmp_path):
    assistant = assemble(tmp_path, "published")
    features = tiny_slide("a")
    seen = slide_tokens(assistant, features, QUESTION_TEXT)
    slide = encode_slide(assistant.aligned, features)
    similarity = assistant.aligned.net.patch_similarity(slide.code, encode_text(assistant.aligned, ["necrosis"]))[0, 0]
    best = int(similarity.argmax())
    assert (
        sorted(seen.tiles[1][: (slide.row_of_tile == best).sum()]) == np.flatnonzero(slide.row_of_tile == best).tolist()
    )


def test_removed_tiles_leave_no_trace(assistant):
    features = tiny_slide("a")
    keep = np.ones(len(features.valid), bool)
    keep[slide_tokens(assistant, features, QUESTION_TEXT).tiles[1]] = False
    seen = slide_tokens(assistant, features, QUESTION_TEXT, OPTIONS, keep=keep)
    assert keep[np.concatenate(seen.tiles)].all()
    spoiled = replace(features, features=np.where(keep[:, None], features.features, 1e6).astype(np.float32))
    again = slide_tokens(assistant, spoiled, QUESTION_TEXT, OPTIONS, keep=keep)
    assert torch.equal(seen.vectors, again.vectors)
    assert torch.equal(seen.numbers, again.numbers)
    whole = slide_tokens(assistant, features, QUESTION_TEXT, OPTIONS)
    assert not torch.allclose(whole.vectors[0], seen.vectors[0])  # the slide's own token too


def test_a_slide_of_200_000_patches_costs_400_tokens_at_most(tmp_path):
    assistant = assemble(tmp_path, num_patches=1000, max_texts=64)
    side = 450
    cells = np.stack(np.meshgrid(np.arange(side), np.arange(side)), -1).reshape(-1, 2)[:200_000]
    small = tiny_slide("big")
    coords = cells * small.spec.stride_px0(small.info)
    info = replace(small.info, size0=(400_000, 400_000))
    features = np.random.default_rng(0).normal(size=(len(cells), 5)).astype(np.float16)
    big = SlideFeatures("big", features, coords, np.ones(len(cells), bool), info, small.spec, "test")
    prompt = build_prompt(assistant, QUESTION_TEXT, big, OPTIONS)
    assert 300 < prompt.num_visual <= 400
    assert np.isfinite(option_probabilities(assistant, [prompt])[0]).all()


def test_several_slides_share_the_tokens_and_too_many_are_refused(assistant):
    config = assistant.model.config.model_copy(update={"max_tokens": 24, "num_patches": 100})
    assistant = replace(assistant, visual_tokenizer=VisualTokenizer(assistant.aligned, config))
    slides = [tiny_slide(name, seed=i) for i, name in enumerate("abc")]
    prompt = build_prompt(assistant, QUESTION_TEXT, slides, OPTIONS)
    assert prompt.slide_ids == ("a", "b", "c")
    assert 20 < prompt.num_visual <= 24
    assert prompt.turns[0].text.endswith("C. everywhere\nSlide 1: <slide>\nSlide 2: <slide>\nSlide 3: <slide>")
    with pytest.raises(ConfigError, match="got 13 slides, expected at most 12"):
        build_prompt(assistant, QUESTION_TEXT, slides * 4 + slides[:1])
    with pytest.raises(ConfigError, match="got no slide"):
        build_prompt(assistant, QUESTION_TEXT, [])


def test_a_slide_named_by_its_id_is_encoded_once_and_gives_the_same_tokens(assistant):
    read = []

    def reader(name):
        read.append(name)
        return tiny_slide(name, seed=3)

    visual_tokenizer = VisualTokenizer(assistant.aligned, assistant.model.config, reader)
    visual_tokenizer.expect({"a": ["mucin pools", "upper left"]})
    one = visual_tokenizer("a", [QUESTION_TEXT], OPTIONS)
    two = visual_tokenizer("a", [QUESTION_TEXT], OPTIONS[::-1])
    direct = assistant.visual_tokenizer(
        prepare_slide(assistant.aligned, tiny_slide("a", seed=3)), [QUESTION_TEXT], OPTIONS
    )
    assert read == ["a"]
    torch.testing.assert_close(one.numbers, direct.numbers)
    torch.testing.assert_close(one.numbers[2:5], two.numbers[[4, 3, 2]])


def test_text_only_shows_nothing(tmp_path):
    assistant = assemble(tmp_path, text_only=True)
    one, two = (build_prompt(assistant, QUESTION_TEXT, tiny_slide("a", seed=s), OPTIONS) for s in (0, 1))
    assert one.num_visual == 7  # question, options, both together: what was asked for, nothing of the slide
    assert not one.slides[0].vectors.any()
    assert not one.slides[0].numbers.any()
    assert (option_probabilities(assistant, [one])[0] == option_probabilities(assistant, [two])[0]).all()


def test_comparison_of_options_by_hand():
    measures = replace(Measures.zeros(4), presence=torch.tensor([1.0, 9.0, 3.0, 2.0]))
    compared = compare_options(measures, [0, 2, 3])
    assert compared.ahead.tolist() == [-2.0, 0.0, 1.0, -1.0]
    torch.testing.assert_close(compared.among[[0, 2, 3]], torch.tensor([1.0, 3.0, 2.0]).softmax(0))
    assert compare_options(measures, [1]) is measures


def test_comparison_with_absence_tells_how_much_of_a_list_is_there():
    presence = torch.tensor([3.0, -2.0, 1.0])
    measures = replace(Measures.zeros(3), presence=presence)
    assert compare_with_absence(measures, []) is measures
    both = compare_with_absence(measures, [0, 1])
    torch.testing.assert_close(both.among, torch.tensor([1 / (1 + np.exp(-3)), 1 / (1 + np.exp(2)), 0.0]).float())
    assert both.ahead.tolist() == [3.0, -2.0, 0.0]


def test_what_a_list_holds_stands_in_the_tokens_of_its_counts(assistant):
    seen = slide_tokens(assistant, tiny_slide("a"), "How many of these: necrosis, mucin?", ["one", "two"])
    listed = torch.sigmoid(seen.numbers[seen.kind == QUESTION, COLUMNS.index("presence")])
    assert len(listed) == 2
    of_options = seen.numbers[seen.kind == OPTION, NUM_MEASURES + COLUMNS.index("among")]
    torch.testing.assert_close(of_options, listed.mean().expand(2))


def test_a_yes_or_no_question_is_answered_without_probes(tmp_path):
    tokenizer = assemble(tmp_path).visual_tokenizer
    tokenizer.config = tokenizer.config.model_copy(update={"probes": ("keratin pearls",)})
    assert [one.text for one in tokenizer.queries("Is there any necrosis?")] == ["necrosis"]
    for open_question in ("Where is the necrosis?", "Describe this slide.", "Is it?"):
        assert tokenizer.queries(open_question)[-1].probe, open_question


@pytest.mark.parametrize(
    ("question", "content"),
    [
        ("Where in the tissue are the mucin pools?", "mucin pools"),
        ("What is the grade of the tumour?", "grade tumour"),
        ("Describe this slide.", ""),
    ],
)
def test_what_a_question_speaks_of(question, content):
    assert question_content(question) == content


def test_texts_asked_for():
    assert query_texts("How many of these: a b, c and d?", ("one", "two")) == [
        QueryText("one", 1), QueryText("two", 2), QueryText("a b"), QueryText("c"), QueryText("d"),
    ]  # fmt: skip
    for denying in ("Which of these is absent from the slide?", "Which of these is not seen?"):
        options = ("mucin", CANNOT_TELL, "keratin pearls")
        assert query_texts(denying, options) == [
            QueryText("no mucin", 1), QueryText(CANNOT_TELL, 2), QueryText("no keratin pearls", 3),
        ]  # fmt: skip
    assert query_texts("Which of these is present?", ("mucin", "fat")) == [QueryText("mucin", 1), QueryText("fat", 2)]
    assert query_texts("Is it not malignant?", ("yes", "no"))[1] == QueryText("yes", 1)
    assert query_texts("Describe this slide.") == [QueryText("Describe this slide.")]
    assert len(query_texts("Which?", tuple("abcdefgh"), limit=3)) == 3
    assert format_question(" Which? ", ("x", "y")) == "Which?\nA. x\nB. y"
    for wrong in (("", ()), ("Which?", ("x",)), ("Which?", ("x", " "))):
        with pytest.raises(CaptionError):
            format_question(*wrong)


# ------------------------------------------------------------------------------------------------ talking


@torch.no_grad()
def naive_logits(assistant, prompt, more=()):
    """The whole sequence put together by hand: words, and projected tokens at the slide's mark."""
    table, parts = assistant.model.lm.get_input_embeddings(), []
    for piece in prompt.pieces:
        if piece.slide is None:
            parts.append(table(torch.tensor(piece.ids)))
        else:
            one = prompt.slides[piece.slide]
            parts.append(assistant.model.projector(one.vectors, one.text_vectors, one.numbers, one.kind))
            for row, slot in enumerate(one.slot.tolist()):
                if slot:  # its letter
                    letter = assistant.template.answer_ids("ABC"[slot - 1], ended=False)[-1]
                    parts[-1][row] += table(torch.tensor(letter))
    if len(more):
        parts.append(table(torch.tensor(more)))
    return assistant.model.lm(inputs_embeds=torch.cat(parts)[None]).logits[0]


@pytest.mark.parametrize("template", ["chatml", "mistral", "none"])
def test_likelihood_equals_a_loop_over_tokens(tmp_path, template):
    assistant = assemble(tmp_path, template=template)
    prompt = build_prompt(assistant, QUESTION_TEXT, tiny_slide("a"), OPTIONS)
    answers = ["A", "lower right", "It is focal."]
    got = log_likelihood(assistant, prompt, answers)
    per_token = log_likelihood(assistant, prompt, answers, per_token=True)
    for i, answer in enumerate(answers):
        ids = assistant.template.answer_ids(answer)
        expected = sum(
            float(naive_logits(assistant, prompt, ids[:n])[-1].log_softmax(-1)[token]) for n, token in enumerate(ids)
        )
        assert float(got[i]) == pytest.approx(expected, rel=1e-4)
        assert float(per_token[i]) == pytest.approx(expected / len(ids), rel=1e-4)


@pytest.mark.parametrize("template", ["chatml", "mistral"])
def test_option_probabilities_are_a_softmax_over_the_likelihood_of_letters(tmp_path, template):
    assistant = assemble(tmp_path, template=template)
    slides = [tiny_slide("a"), tiny_slide("b", seed=1)]
    prompts = [
        build_prompt(assistant, QUESTION_TEXT, slides[0], OPTIONS),
        build_prompt(assistant, "Which?", slides[1], ("x", "y")),
    ]
    for prompt, got in zip(prompts, option_probabilities(assistant, prompts), strict=True):
        letters = "ABC"[: len(prompt.options)]
        expected = log_likelihood(assistant, prompt, list(letters), ended=False).softmax(0)
        np.testing.assert_allclose(got, expected, rtol=1e-4)
    with pytest.raises(ConfigError, match="without options"):
        option_probabilities(assistant, [build_prompt(assistant, "Which?", slides[0])])


def test_greedy_writing_equals_a_loop_and_streams_what_it_returns(assistant):
    prompt = build_prompt(assistant, QUESTION_TEXT, tiny_slide("a"), OPTIONS)
    ids: list[int] = []
    while len(ids) < 12 and not (ids and ids[-1] in assistant.template.end_ids):
        ids.append(int(naive_logits(assistant, prompt, ids)[-1].argmax()))
    streamed: list[str] = []
    reply = generate(assistant, prompt, max_new_tokens=12, stream=streamed.append)
    assert reply == assistant.template.tokenizer.decode(ids, skip_special_tokens=True).strip()
    assert "".join(streamed).strip() == reply


def test_many_answers_at_a_time_are_those_given_one_by_one(assistant):
    slide = tiny_slide("a")
    prompts = [
        build_prompt(assistant, QUESTION_TEXT, slide, OPTIONS),
        build_prompt(assistant, "How extensive is the necrosis?", slide, ["focal", "in nearly all of the tissue"]),
        build_prompt(assistant, "Is there necrosis?", slide),
    ]
    assert len({sum(len(piece.ids) for piece in one.pieces) + one.num_visual for one in prompts}) == 3
    assert generate_many(assistant, prompts, 12) == [generate(assistant, one, max_new_tokens=12) for one in prompts]


def test_drawing_is_seeded_and_leaves_the_generator_alone(assistant):
    prompt = build_prompt(assistant, QUESTION_TEXT, tiny_slide("a"))
    torch.manual_seed(5)
    before = torch.random.get_rng_state()
    one, two, other = (generate(assistant, prompt, max_new_tokens=20, temperature=2.0, seed=s) for s in (1, 1, 2))
    assert one == two != other
    assert torch.equal(before, torch.random.get_rng_state())


def test_a_conversation_goes_on_about_the_same_slide(assistant):
    history = [Turn("user", "Describe this slide."), Turn("assistant", "It is focal.")]
    prompt = build_prompt(assistant, "How extensive is it?", tiny_slide("a"), history=history, system="Be brief.")
    text = assistant.template.tokenizer.decode([t for piece in prompt.pieces for t in piece.ids])
    assert text.index("Be brief.") < text.index("Describe") < text.index("It is focal.") < text.index("How extensive")
    assert [piece.slide for piece in prompt.pieces if piece.slide is not None] == [0]
    assert isinstance(generate(assistant, prompt, max_new_tokens=3), str)


def test_bad_questions_and_foreign_features_are_one_clear_line(assistant):
    with pytest.raises(CaptionError, match="question: got an empty text"):
        build_prompt(assistant, "  ", tiny_slide("a"))
    with pytest.raises(ContractError, match="encoder"):
        build_prompt(assistant, QUESTION_TEXT, replace(tiny_slide("a"), encoder="other"))
    prompt = build_prompt(assistant, QUESTION_TEXT, tiny_slide("a"))
    with pytest.raises(CaptionError, match="none of them empty"):
        log_likelihood(assistant, prompt, ["A", ""])
    with pytest.raises(ConfigError, match="2 masks for 1 slides"):
        build_prompt(assistant, QUESTION_TEXT, tiny_slide("a"), keep=[None, None])


# ------------------------------------------------------------------------------------------------ on disk


@pytest.mark.parametrize("train", ["frozen", "lora", "full"])
def test_what_is_saved_comes_back(tmp_path, train):
    assistant = assemble(tmp_path, train=train)
    with torch.no_grad():
        for parameter in assistant.model.parameters():
            if parameter.requires_grad:
                parameter += 0.05 * torch.randn_like(parameter)
    out = save_assistant(
        tmp_path / "saved", assistant.model, language=assistant.language, template=assistant.template,
        aligned=tmp_path / "aligned",
    )  # fmt: skip
    if train == "full":
        (tmp_path / "lm").rename(tmp_path / "gone")  # nothing but the checkpoint is needed
    back = load_assistant(out)
    prompt = build_prompt(assistant, QUESTION_TEXT, tiny_slide("a"), OPTIONS)
    again = build_prompt(back, QUESTION_TEXT, tiny_slide("a"), OPTIONS)
    assert torch.equal(naive_logits(assistant, prompt), naive_logits(back, again))
    size = (out / "assistant.safetensors").stat().st_size
    whole = sum(p.numel() * 4 for p in assistant.model.parameters())
    assert (size > 0.9 * whole) if train == "full" else (size < 0.8 * whole)


def test_a_language_model_that_moved_is_found_where_it_is_said_to_be(tmp_path):
    assistant = assemble(tmp_path)
    save_assistant(
        tmp_path / "saved", assistant.model, language=assistant.language, template=assistant.template,
        aligned=tmp_path / "aligned",
    )  # fmt: skip
    (tmp_path / "lm").rename(tmp_path / "moved")
    with pytest.raises(ConfigError, match=r"nothing is downloaded at run time: fetch it once with  hf download"):
        load_assistant(tmp_path / "saved")
    assert load_assistant(tmp_path / "saved", language_model=tmp_path / "moved").language.train == "frozen"


@pytest.mark.parametrize("train", ["frozen", "lora"])
def test_another_language_model_of_the_same_shape_is_refused(tmp_path, train):
    """Adapters on a foreign base answer fluently and mean nothing."""
    assistant = assemble(tmp_path, train=train)
    save_assistant(
        tmp_path / "saved", assistant.model, language=assistant.language, template=assistant.template,
        aligned=tmp_path / "aligned",
    )  # fmt: skip
    load_assistant(tmp_path / "saved")
    file = tmp_path / "lm" / "model.safetensors"
    save_file({name: value + 0.01 for name, value in load_file(file).items()}, file, {"format": "pt"})
    with pytest.raises(CheckpointError, match="was trained on a language model with digest"):
        load_assistant(tmp_path / "saved")


def test_a_checkpoint_of_the_first_release_loads(tmp_path):
    assistant = assemble(tmp_path)
    words = {"language": assistant.language, "template": assistant.template, "aligned": tmp_path / "aligned"}
    out = save_assistant(tmp_path / "saved", assistant.model, **words)
    weights = load_file(out / "assistant.safetensors")
    weights["projector.asked.weight"] = weights.pop("projector.text.weight")
    save_file(weights, out / "assistant.safetensors")
    config = json.loads((out / "config.json").read_text())
    config["looking"] = config.pop("measures")
    config["assistant"]["blind"] = not config["assistant"].pop("text_only")
    (out / "config.json").write_text(json.dumps(config))
    again = load_assistant(out)
    assert again.model.config.text_only
    assert torch.equal(again.model.projector.text.weight, assistant.model.projector.text.weight)


def test_damaged_and_foreign_directories_are_refused(tmp_path):
    assistant = assemble(tmp_path)
    words = {"language": assistant.language, "template": assistant.template, "aligned": tmp_path / "aligned"}
    out = save_assistant(tmp_path / "saved", assistant.model, **words)
    with pytest.raises(CheckpointError, match="no assistant here"):
        load_assistant(tmp_path / "aligned")
    (out / "assistant.safetensors").write_bytes(b"x" * 50)
    with pytest.raises(CheckpointError, match="cannot be read"):
        load_assistant(out)
    config = json.loads((out / "config.json").read_text())
    (out / "config.json").write_text(json.dumps({**config, "format_version": 99}))
    with pytest.raises(CheckpointError, match="version 99"):
        load_assistant(out)
    (out / "config.json").write_text(json.dumps({**config, "measures": 0}))
    with pytest.raises(CheckpointError, match="other measures of slides"):
        load_assistant(out)
    with pytest.raises(CheckpointError, match="not an assistant"):
        save_assistant(tmp_path / "aligned", assistant.model, **words)
    with torch.no_grad():
        assistant.model.projector.norm.weight[0] = float("nan")
    with pytest.raises(CheckpointError, match=r"projector\.norm\.weight holds NaN"):
        save_assistant(tmp_path / "bad", assistant.model, **words)


def test_language_models_that_cannot_be_had_say_what_to_do(tmp_path):
    with pytest.raises(ConfigError, match="language model 'nobody/nothing'"):
        open_language_model(LanguageModelSpec(source="nobody/nothing"))
    (tmp_path / "empty").mkdir()
    with pytest.raises(ConfigError, match="cannot be read"):
        open_language_model(LanguageModelSpec(source=str(tmp_path / "empty")))
    source = str(save_language_model(tmp_path / "lm"))
    with pytest.raises(MissingExtraError, match=r"pip install 'pathflip\[quantise\]'"):
        open_language_model(LanguageModelSpec(source=source, quantise="4bit"))
    with pytest.raises(ConfigError, match="cannot be trained in full"):
        open_language_model(LanguageModelSpec(source=source, quantise="8bit", train="full"))
    with pytest.raises(ConfigError, match=r"language\.lora\.targets"):
        open_language_model(LanguageModelSpec(source=source, train="lora", lora=LoraSpec(targets=("nothing",))))
