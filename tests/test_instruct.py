"""From files to a trained assistant: reading, packing, both stages, resuming."""

import json
import os
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

import tiny_assistant
from pathflip.assistant import VisualTokenizer, build_prompt, generate, load_assistant, option_probabilities
from pathflip.checkpoint import load_checkpoint, save_checkpoint
from pathflip.cli import app
from pathflip.data.instruct import InstructDataset, InstructSpec, pack, rows_to_batch, with_slides
from pathflip.data.instruct_examples import InstructExample, read_examples
from pathflip.errors import CaptionError, ConfigError, ContractError, TrainingError
from pathflip.features import read_features
from pathflip.models import measurements
from pathflip.models.assistant import Assistant, attention_bias
from pathflip.recipes.instruct import (
    INSTRUCTION_RECIPES,
    find_instruction_recipe,
    instruct_small_stage1,
    instruct_small_stage2,
    instruct_stage1,
    instruct_stage2,
)
from pathflip.text.chat import Turn
from pathflip.train import InstructStep, read_metrics
from pathflip.train.instruct_run import key_phrases, split_examples, train_instruct
from pathflip.types import IGNORED
from tiny_assistant import assemble, save_aligned, save_cohort, save_language_model, small_recipe


@pytest.fixture(scope="module")
def cohort(tmp_path_factory):
    folder = save_cohort(tmp_path_factory.mktemp("cohort"))
    save_aligned(folder / "aligned")
    save_language_model(folder / "lm")
    return folder


def examples_of(cohort):
    return read_examples(cohort / "captions.jsonl") + read_examples(cohort / "questions.jsonl")


def files_of(cohort):
    return sorted((cohort / "features").glob("*.h5"))


def dataset(assistant, cohort, **spec):
    visual_tokenizer = VisualTokenizer(
        assistant.aligned, assistant.model.config, lambda s: read_features(cohort / "features" / f"{s}.h5")
    )
    return InstructDataset(examples_of(cohort), visual_tokenizer, assistant.template, InstructSpec(**spec), 8)


# ------------------------------------------------------------------------------------------------ reading


def test_own_files_are_read(cohort):
    captions, questions = read_examples(cohort / "captions.jsonl"), read_examples(cohort / "questions.jsonl")
    assert captions[1].slide_ids == ("slide-1",)
    assert captions[1].turns[1].text.endswith("No necrosis is identified.")
    assert questions[1].options[questions[1].answer] == "lower right"
    assert (questions[0].needs_slide, questions[1].needs_slide) == (False, True)


def test_llava_conversations_are_read(tmp_path):
    rows = [
        {
            "image": ["TCGA/a.b.csv", "c.h5"],
            "conversations": [
                {"from": "human", "value": "<image>\n<image>\nCompare."},
                {"from": "gpt", "value": "Alike."},
                {"from": "human", "value": "Sure?"},
                {"from": "gpt", "value": "Yes."},
            ],
        },
        {"image": "x/y.pt", "caption": "Necrosis.", "fine_grained_concepts": [{"visual_description": "ghosts"}]},
    ]
    (tmp_path / "i.json").write_text(json.dumps(rows))
    talk, caption = read_examples(tmp_path / "i.json")
    assert talk.slide_ids == ("a.b", "c")
    assert [turn.role for turn in talk.turns] == ["user", "assistant", "user", "assistant"]
    assert talk.turns[0].text == "<slide>\n<slide>\nCompare."
    assert (caption.slide_ids, caption.turns[1].text) == (("y",), "Necrosis.")


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.json", "{}", "got a JSON dict, expected a list"),
        ("a.json", '[{"conversations": []}]', "row 1: no slide named"),
        ("a.json", '[{"image": "x"}]', "neither conversations nor caption"),
        ("a.json", '[{"image": "x", "conversations": [{"from": "cat", "value": "m"}]}]', "a turn is from 'cat'"),
        ("a.json", '[{"image": "x", "conversations": [{"from": "gpt", "value": "m"}]}]', "row 1: nobody asks"),
        ("a.json", '[{"image": "x", "conversations": [{"from": "human", "value": "m"}]}]', "row 1: nobody answers"),
        ("a.json", '[{"image": "x", "conversations": "hello"}]', "conversations are a str"),
        ("a.json", '[{"image": "x", "conversations": ["hello"]}]', "a turn is a str"),
        ("a.json", '[{"image": "x", "conversations": [{"from": "human"}]}]', "a turn of human holds a NoneType"),
        ("a.json", '[{"image": "x", "conversations": [{"from": "system"}]}]', "a turn of system holds a NoneType"),
        ("a.json", '[{"image": [[3]], "conversations": [{"from": "human", "value": "m"}]}]', "the slide is "),
        (
            "a.json",
            '[{"image": "x", "conversations": [{"from": "gpt", "value": "m"}, {"from": "human", "value": "m"}]}]',
            "the first turn is an answer",
        ),
        ("a.json", "[", "not JSON"),
        ("a.jsonl", '["hello"]', "row 1: a JSON list"),
        ("a.jsonl", '{"slide": "s", "question": "q", "options": {"foo": "x"}, "answer": "A"}', "options are named FOO"),
        ("a.jsonl", '{"slide": "s", "question": "q", "options": ["a", ""], "answer": "A"}', "there is one option"),
        ("a.csv", "Slide,Question,A,B,C,Answer\ns,q,x,,y,B\n", "no such option"),
        ("a.jsonl", '{"slide": "s", "question": "q", "options": ["a", "b"], "answer": "F"}', "the answer is 'F'"),
        ("a.jsonl", '{"slide": "s", "question": "q", "options": []}', "row 1: no answer"),
    ],
)
def test_bad_files_are_one_clear_line(tmp_path, name, text, message):
    (tmp_path / name).write_text(text)
    with pytest.raises(CaptionError, match=message):
        read_examples(tmp_path / name)


@pytest.mark.real
def test_slidebench_is_read_whole(real_data):
    questions = read_examples(real_data / "slidebench" / "SlideBench-VQA-TCGA.csv")
    captions = read_examples(real_data / "slidebench" / "SlideBench-Caption-TCGA.csv")
    assert (len(questions), len(captions)) == (1489, 732)
    assert len({q.slide_ids for q in questions}) == 589
    assert questions[0].slide_ids[0].startswith("TCGA-05-4244-01Z-00-DX1.")
    assert questions[0].options[questions[0].answer] == "Papillary adenocarcinoma"


def test_a_conversation_without_question_or_answer_is_refused_before_training(tmp_path, cohort):
    assistant = assemble(tmp_path)
    for turns, who in (((Turn("assistant", "B"),), "asks"), ((Turn("user", "Q"),), "answers"), ((), "asks")):
        with pytest.raises(CaptionError, match=f"lonely: nobody {who}"):
            InstructDataset(
                [InstructExample("lonely", ("slide-0",), turns)], pytest.fail, assistant.template, InstructSpec(), 8
            )


def test_marks_of_slides():
    assert with_slides("Q", 1) == "Q\n<slide>"
    assert with_slides("a <slide> b <slide>", 2) == "a <slide> b <slide>"
    with pytest.raises(CaptionError, match="1 times <slide> for 2 slides"):
        with_slides("<slide> Q", 2)


# ------------------------------------------------------------------------------------------------ rows and packing


def test_options_are_shuffled_by_seed_and_the_answer_follows(tmp_path, cohort):
    assistant = assemble(tmp_path)
    data = dataset(assistant, cohort, open_fraction=0)
    place = next(i for i, e in enumerate(data.examples) if e.options)
    right = data.examples[place].options[data.examples[place].answer]
    letters = set()
    for seed in range(8):
        row = data.row(data.examples[place], np.random.default_rng(seed))
        again = data.row(data.examples[place], np.random.default_rng(seed))
        assert (row.ids == again.ids).all()
        text = assistant.template.tokenizer.decode(row.ids[row.visual < 0])
        letter = assistant.template.tokenizer.decode(row.labels[row.labels != IGNORED], skip_special_tokens=True)
        assert f"{letter}. {right}" in text
        letters.add(letter)
    assert letters == {"A", "B"}


def test_some_questions_are_asked_openly_unless_they_speak_of_their_options(tmp_path, cohort):
    assistant = assemble(tmp_path)
    data = dataset(assistant, cohort, open_fraction=1)
    question = next(e for e in data.examples if e.options)
    rng = np.random.default_rng(0)
    decode = assistant.template.tokenizer.decode
    row = data.row(question, rng)
    learned_text = decode(row.labels[row.labels != IGNORED], skip_special_tokens=True)
    assert learned_text == question.options[question.answer]
    row = data.row(replace(question, question="Which of these is there?"), rng)
    assert len(decode(row.labels[row.labels != IGNORED], skip_special_tokens=True)) == 1


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(1, 120), min_size=1, max_size=30), st.integers(1, 100))
def test_packing_loses_nothing_and_keeps_the_limit(lengths, limit):
    groups = pack(lengths, limit)
    assert sorted(i for group in groups for i in group) == list(range(len(lengths)))
    assert all(sum(lengths[i] for i in group) <= limit or len(group) == 1 for group in groups)


@pytest.mark.parametrize("template", ["chatml", "llama3", "mistral"])
def test_packed_loss_is_the_mean_of_separate_losses_and_so_are_its_gradients(tmp_path, cohort, template):
    assistant = assemble(tmp_path, template=template)
    step = InstructStep(assistant.model)
    data = dataset(assistant, cohort)
    rows = [data.row(example, np.random.default_rng(0)) for example in data.examples[::3]]
    packed = rows_to_batch(rows, 8, pack_tokens=150)
    assert len(packed.ids) < len(rows)
    step(packed)["answer"].backward()
    got = [p.grad.clone() for p in assistant.model.projector.parameters()]
    assistant.model.zero_grad()
    separate = [step(rows_to_batch([row], 8))["answer"] for row in rows]
    torch.stack(separate).mean().backward()
    with torch.no_grad():
        assert float(step(packed)["answer"]) == pytest.approx(float(torch.stack(separate).mean()), rel=1e-5)
    for a, b in zip(got, assistant.model.projector.parameters(), strict=True):
        torch.testing.assert_close(a, b.grad, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("template", ["chatml", "mistral"])
def test_the_last_feed_forward_layer_is_left_out_only_where_nobody_reads_it(tmp_path, cohort, template):
    assistant = assemble(tmp_path, template=template)
    data = dataset(assistant, cohort, pack_tokens=150)
    batch = data.batch(list(range(8)), np.random.default_rng(0))
    model, network = assistant.model, assistant.model.lm.get_decoder().layers[-1].mlp
    rows: list[int] = []
    handle = network.gate_proj.register_forward_hook(lambda module, inputs, output: rows.append(inputs[0].shape[-2]))
    losses, gradients = [], []
    for whole in (False, True):
        if whole:  # as gradient checkpointing would have it
            model.lm.gradient_checkpointing_enable()
            model.lm.train()
        model.zero_grad()
        loss = model(batch)
        loss.sum().backward()
        losses.append(loss.detach())
        gradients.append({name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None})
    handle.remove()
    learned = int((batch.labels[:, 1:] != IGNORED).sum())
    assert rows[0] == -(-learned // 64) * 64 < batch.ids.numel()
    assert "forward" not in vars(network)
    torch.testing.assert_close(losses[0], losses[1])
    assert gradients[0].keys() == gradients[1].keys()
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradient, gradients[1][name], rtol=1e-4, atol=1e-6, msg=name)


def test_the_second_loss_reads_the_right_option_off_its_tokens(tmp_path, cohort):
    assistant = assemble(tmp_path)
    data = dataset(assistant, cohort)
    assert set(InstructStep(assistant.model)(data.batch([0, 1], np.random.default_rng(0)))) == {"answer"}
    model = Assistant(
        assistant.model.config.model_copy(update={"option_loss": 0.5}),
        assistant.model.lm,
        assistant.model.letter_ids.tolist(),
    )
    rows = [data.row(example, np.random.default_rng(1)) for example in data.examples]
    batch = rows_to_batch(rows, 8, 150)
    losses, start = [], 0
    seen = model.projector(batch.vectors, batch.text_vectors, batch.numbers, batch.kind)
    scores = model.option_score(seen)[:, 0]
    letters = {int(token): place for place, token in enumerate(model.letter_ids)}
    for row in rows:
        own = torch.cat([slide.slot for slide in row.slides])
        part = scores[start : start + len(own)]
        start += len(own)
        said = [letters[token] for token in row.labels.tolist() if token in letters]
        if own.any():
            means = torch.stack([part[own == slot].mean() for slot in range(1, int(own.max()) + 1)])
            losses.append(-means.log_softmax(0)[said[0]])
    assert 1 < len(losses) < len(rows)  # captions ask for no option
    got = InstructStep(model)(batch)
    torch.testing.assert_close(got["option"], 0.5 * torch.stack(losses).sum() / len(rows))
    torch.testing.assert_close(got["answer"], model(batch).mean())
    captions = [row for row in rows if not any(slide.slot.any() for slide in row.slides)]
    silent = InstructStep(model)(rows_to_batch(captions[:1], 8))["option"]
    silent.backward()
    assert silent.item() == 0.0
    assert not model.option_score.weight.grad.any()


def test_a_conversations_loss_is_the_librarys_own(tmp_path, cohort):
    """transformers' loss on the same row, with a plain causal mask."""
    assistant = assemble(tmp_path)
    data = dataset(assistant, cohort)
    batch = rows_to_batch([data.row(data.examples[0], np.random.default_rng(0))], 8)
    with torch.no_grad():
        expected = assistant.model.lm(inputs_embeds=assistant.model.embed(batch), labels=batch.labels).loss
        assert float(assistant.model(batch)) == pytest.approx(float(expected), rel=1e-5)


def test_what_may_be_attended_by_hand():
    bias = attention_bias(torch.tensor([[0, 0, 1, 1, -1]]), torch.float32)[0, 0]
    assert (bias == 0).int().tolist() == [
        [1, 0, 0, 0, 0], [1, 1, 0, 0, 0], [0, 0, 1, 0, 0], [0, 0, 1, 1, 0], [0, 0, 0, 0, 1],
    ]  # fmt: skip


def test_long_conversations_lose_their_end_and_hopeless_ones_are_named(tmp_path, cohort):
    assistant = assemble(tmp_path)
    data = dataset(assistant, cohort, max_length=60)
    rng = np.random.default_rng(0)
    row = data.row(InstructExample("x", ("slide-0",), (Turn("user", "Q"), Turn("assistant", "word " * 200))), rng)
    assert len(row.ids) == 60
    assert (row.labels != IGNORED).any()
    assert row.cut > 100
    assert (row.visual >= 0).sum() == sum(len(slide.kind) for slide in row.slides)  # no visual token is cut
    assert data.cut == set()
    data.examples.append(InstructExample("x", ("slide-0",), (Turn("user", "Q"), Turn("assistant", "word " * 200))))
    data.batch([0, len(data) - 1], rng)
    assert data.cut == {"x"}
    with pytest.raises(ConfigError, match="long one: its visual tokens do not fit into max_length 60"):
        data.row(InstructExample("long one", ("slide-0",), (Turn("user", "why " * 90), Turn("assistant", "B"))), rng)


def test_a_slide_that_breaks_the_loss_is_named(tmp_path, cohort):
    assistant = assemble(tmp_path)
    data = dataset(assistant, cohort)
    batch = data.batch([0, 7], np.random.default_rng(0))
    vectors = batch.vectors.clone()
    vectors[batch.visual[1].max()] = float("nan")
    step = InstructStep(assistant.model)
    assert list(step.suspects(replace(batch, vectors=vectors))) == [batch.slide_ids[1]]
    assert step.suspects(batch) == {}


# ------------------------------------------------------------------------------------------------ training


def shortened(recipe, cohort, steps=2, **train):
    """The published recipe on the tiny model: everything stays (bfloat16 too) but the number of steps."""
    language = recipe.language.model_copy(update={"source": str(cohort / "lm")})
    changes = {"steps": steps, "accumulation": 2, **train}
    return recipe.model_copy(
        update={"language": language, "epochs": 0, "train": recipe.train.model_copy(update=changes)}
    )


@pytest.mark.slow
def test_both_published_stages_end_to_end_on_a_shrunk_qwen3_4b(tmp_path, cohort):
    """Stage 1 moves the projector alone, stage 2 the projector and the adapters; the result loads and writes."""
    files, learned = files_of(cohort), examples_of(cohort)
    one, two = tmp_path / "one", tmp_path / "two"
    train_instruct(shortened(instruct_stage1(), cohort), learned, files, one, aligned=cohort / "aligned")
    train_instruct(shortened(instruct_stage2(), cohort, batch_size=2), learned, files, two, start=one)
    stage1, stage2 = load_assistant(one), load_assistant(two)
    start = load_assistant_weights(cohort / "lm")
    for name, value in stage1.model.lm.state_dict().items():
        assert torch.equal(value, start[name].bfloat16()), name
    adapted = {n.replace(".base_layer", ""): v for n, v in stage2.model.lm.state_dict().items()}
    lora = [n for n in adapted if "lora_B" in n]
    assert len(lora) == 2 * 7  # q, k, v, o, gate, up, down of two layers
    assert any(adapted[n].abs().max() > 0 for n in lora)
    for name, value in start.items():
        assert torch.equal(adapted[name], value.bfloat16()), name
    assert not torch.equal(stage1.model.projector.vector.weight, stage2.model.projector.vector.weight)
    assert stage2.model.lm.model.layers[0].self_attn.q_proj.r["default"] == 64
    prompt = build_prompt(stage2, "Where is the necrosis?", read_features(files[0]), ("upper left", "lower right"))
    assert isinstance(generate(stage2, prompt, max_new_tokens=4), str)
    assert option_probabilities(stage2, [prompt])[0].sum() == pytest.approx(1)
    assert json.loads((two / "last" / "config.json").read_text())["recipe"]["name"] == "instruct_stage2"
    assert not list((two / "last").rglob("*.bin"))


def load_assistant_weights(folder):
    from transformers import AutoModelForCausalLM

    return {k: v.clone() for k, v in AutoModelForCausalLM.from_pretrained(folder).state_dict().items()}


@pytest.mark.slow
def test_both_small_stages(tmp_path, cohort):
    """Stage 1 leaves the language model as it was; stage 2 changes it, keeps what stage 1 standardised, and adds what
    stage 1 never met (options)."""
    files, learned, one, two = files_of(cohort), examples_of(cohort), tmp_path / "one", tmp_path / "two"
    first, second = (
        make().model_copy(update={"train": make().train.model_copy(update={"steps": 3, "batch_size": 4})})
        for make in (instruct_small_stage1, instruct_small_stage2)
    )
    train_instruct(first, learned, files, one, aligned=cohort / "aligned", language_model=cohort / "lm")
    train_instruct(second, learned, files, two, start=one)
    before, after = load_assistant(one).model, load_assistant(two).model
    start = load_assistant_weights(cohort / "lm")
    assert all(torch.equal(value, start[name]) for name, value in before.lm.state_dict().items())
    assert any(not torch.equal(value, start[name]) for name, value in after.lm.state_dict().items())
    met = (before.projector.std != 1).any(1)
    assert not met[measurements.OPTION]
    assert met[measurements.PROBE]
    assert torch.equal(after.projector.std[met], before.projector.std[met])
    assert (after.projector.std[measurements.OPTION] != 1).any()


@pytest.mark.slow
def test_a_stopped_run_goes_on_as_if_it_had_not_stopped(tmp_path, cohort):
    files, learned = files_of(cohort), examples_of(cohort)
    words = {"aligned": cohort / "aligned", "language_model": cohort / "lm", "val_examples": learned[-4:]}
    train_instruct(small_recipe(), learned, files, tmp_path / "whole", **words)

    def stop(row):
        if row["step"] == 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train_instruct(small_recipe(), learned, files, tmp_path / "parts", on_step=stop, **words)
    with pytest.raises(TrainingError, match="holds a run"):
        train_instruct(small_recipe(), learned, files, tmp_path / "parts", **words)
    result = train_instruct(small_recipe(), learned, files, tmp_path / "parts", resume=True, **words)
    assert set(result.metrics) == {"val/accuracy", "val/needs_slide"}
    one, two = (load_assistant(tmp_path / name / "last").model.state_dict() for name in ("whole", "parts"))
    assert all(torch.equal(one[name], two[name]) for name in one)
    losses = [row["answer"] for row in read_metrics(tmp_path / "whole" / "metrics.jsonl") if "answer" in row]
    assert len(losses) == 6
    assert losses[-1] < losses[0]


@pytest.mark.slow
def test_two_processes_train_as_one(tmp_path, cohort):
    script = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "1"}
    done = subprocess.run(
        [*script, tiny_assistant.__file__, str(cohort), str(tmp_path / "two")],
        env=environment, capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    tiny_assistant.train(cohort, tmp_path / "one")
    one, two = (load_assistant(tmp_path / name / "last").model.state_dict() for name in ("one", "two"))
    for name, value in one.items():
        torch.testing.assert_close(two[name], value, rtol=1e-4, atol=1e-5, msg=name)


@pytest.mark.slow
def test_a_later_stage_keeps_how_slides_are_shown_and_may_stand_on_another_alignment_model(tmp_path, cohort):
    files, learned = files_of(cohort), examples_of(cohort)
    recipe, one = small_recipe(steps=1), tmp_path / "one"
    train_instruct(recipe, learned, files, one, aligned=cohort / "aligned", language_model=cohort / "lm")
    other = recipe.model_copy(update={"assistant": {**recipe.assistant, "num_patches": 7}})
    with pytest.warns(UserWarning, match=r"as in the earlier stage: assistant\.num_patches 4 \(not 7\)"):
        train_instruct(other, learned, files, tmp_path / "two", start=one)
    assert load_assistant(tmp_path / "two").model.config.num_patches == 4
    checkpoint = load_checkpoint(cohort / "aligned")
    words = {"tokenizer": checkpoint.tokenizer, "text": checkpoint.config["text"]}
    with torch.no_grad():
        checkpoint.model.key_head.weight += 1
    save_checkpoint(tmp_path / "newer", checkpoint.model, contract=checkpoint.contract, **words)
    with pytest.warns(UserWarning, match="trained on another alignment model"):
        train_instruct(recipe, learned, files, tmp_path / "three", start=one, aligned=tmp_path / "newer")
    used = load_assistant(tmp_path / "three").aligned.checkpoint.model.key_head.weight
    assert torch.equal(used, checkpoint.model.key_head.weight)
    contract = checkpoint.contract.model_copy(update={"encoder": "uni_v1"})
    save_checkpoint(tmp_path / "foreign", checkpoint.model, contract=contract, **words)
    with pytest.raises(ContractError, match=r"'uni_v1'.* was trained on .*'test'"):
        train_instruct(recipe, learned, files, tmp_path / "four", start=one, aligned=tmp_path / "foreign")


def test_training_on_slides_without_features_or_without_questions_is_refused(tmp_path, cohort):
    words = {"aligned": cohort / "aligned", "language_model": cohort / "lm"}
    with pytest.raises(CaptionError, match=r"6 slides without features \(slide-0"):
        train_instruct(small_recipe(), examples_of(cohort), [], tmp_path, **words)
    stage1 = shortened(instruct_stage1(), cohort)
    with pytest.raises(CaptionError, match="none of 18 examples is a caption"):
        train_instruct(stage1, read_examples(cohort / "questions.jsonl"), files_of(cohort), tmp_path, **words)
    with pytest.raises(ConfigError, match="--aligned"):
        train_instruct(small_recipe(), examples_of(cohort), files_of(cohort), tmp_path)
    with pytest.raises(ConfigError, match="pathflip train language_small"):
        train_instruct(small_recipe(), examples_of(cohort), files_of(cohort), tmp_path, aligned=cohort / "aligned")


def test_recipes_carry_the_published_hyper_parameters():
    one, two = instruct_stage1(), instruct_stage2()
    assert (one.train.optim.lr, one.train.optim.weight_decay, one.epochs, one.learn) == (1e-3, 0, 5, ("caption",))
    assert (two.train.optim.lr, two.train.optim.weight_decay, two.epochs) == (1e-4, 0.05, 2)
    assert (two.train.batch_size, two.train.accumulation) == (1, 16)
    assert (two.language.lora.rank, two.language.lora.alpha, two.language.lora.dropout) == (64, 128, 0.05)
    assert "Qwen3-4B-Instruct" in one.language.source == two.language.source
    assert set(INSTRUCTION_RECIPES) == {
        "instruct_stage1", "instruct_stage2", "instruct_small_stage1", "instruct_small_stage2",
    }  # fmt: skip
    assert find_instruction_recipe("instruct_stage1") == one
    with pytest.raises(ConfigError, match="did you mean 'instruct_stage1'"):
        find_instruction_recipe("instruct_stag1")


def test_key_phrases_are_frequent_whole_and_without_grammar():
    texts = ["Keratin pearls are seen in the upper left.", "No keratin pearls.", "Mucin and stroma."] * 3
    assert key_phrases(texts, 5) == ("keratin pearls", "mucin", "stroma", "upper left")


def test_splits_keep_patients_apart(tmp_path):
    examples = [InstructExample("e", (f"s{i}",), (Turn("user", "Q"), Turn("assistant", "B"))) for i in range(4)]
    splits = tmp_path / "splits.csv"
    splits.write_text("slide,patient,split\ns0,p,train\ns1,q,val\ns2,r,test\n")
    parts = split_examples(examples, splits)
    assert {name: [e.slide_ids[0] for e in part] for name, part in parts.items()} == {
        "train": ["s0"], "val": ["s1"], "test": ["s2"],
    }  # fmt: skip
    with pytest.raises(ConfigError, match="its slides are in different splits"):
        split_examples([replace(examples[0], slide_ids=("s0", "s1"))], splits)
    splits.write_text("slide,patient,split\ns0,p,train\ns1,p,val\n")
    with pytest.raises(ConfigError, match="patient 'p' has slides in train and val"):
        split_examples(examples, splits)


@pytest.mark.slow
def test_the_command_line_trains_words_and_an_assistant(tmp_path, cohort):
    texts = ["--captions", str(cohort / "captions.jsonl"), "--questions", str(cohort / "questions.jsonl")]
    arguments = [
        "train", "language_small", *texts, "--out", str(tmp_path / "words"), "--set", "train.steps=2", "--set",
        "built.hidden_size=32", "--set", "built.head_dim=8", "--json",
    ]  # fmt: skip
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 0, done.output
    words = json.loads(done.stdout.strip().splitlines()[-1])["language_model"]
    (tmp_path / "splits.csv").write_text(
        "slide,split\n" + "".join(f"slide-{i},{'val' if i == 5 else 'train'}\n" for i in range(6))
    )
    arguments = [
        "train", "instruct_small_stage1", "--features", str(cohort / "features"), *texts, "--aligned",
        str(cohort / "aligned"), "--language-model", words, "--splits", str(tmp_path / "splits.csv"), "--out",
        str(tmp_path / "run"), "--set", "train.steps=2", "--set", "assistant.num_patches=2", "--set",
        "train.batch_size=4", "--json",
    ]  # fmt: skip
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 0, done.output
    row = json.loads(done.stdout.strip().splitlines()[-1])
    assert row["step"] == 2
    assert 0 <= row["val/accuracy"] <= 1
    assert load_assistant(tmp_path / "run").model.config.num_patches == 2
    wrong = CliRunner().invoke(app, [*arguments[:-1], "--set", "assistant.num_patchs=2"])
    assert isinstance(wrong.exception, ConfigError)
    assert "did you mean 'assistant.num_patches'" in str(wrong.exception)
