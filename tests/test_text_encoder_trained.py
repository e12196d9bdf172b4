"""Pretrained text encoders that are trained along, kept in the checkpoint, or begin a published model's text layers."""

import json
import shutil

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import BertConfig, BertModel

from pathflip.checkpoint import load_checkpoint
from pathflip.errors import ConfigError
from pathflip.features import read_features
from pathflip.inference import encode_slide, ground, load
from pathflip.models import build_model
from pathflip.models.text_tower import encode
from pathflip.published.bert_start import start_from_bert
from pathflip.recipes.align import find_recipe
from pathflip.recipes.settings import with_settings
from pathflip.text.pretrained import open_pretrained_text
from pathflip.text.tokenizer import load_tokenizer
from pathflip.train.align_run import train_align
from pathflip.train.optim import OptimConfig, build_optimizer, set_learning_rate
from small_cohort import small_cohort
from text_encoder_files import FAMILIES, TEXTS, encoder_folder

SIZES = {"width": 16, "embed_dim": 8, "text_width": 16, "text_heads": 2, "text_ffn": 16}


@pytest.fixture(scope="module")
def cohort(tmp_path_factory):
    return small_cohort(tmp_path_factory.mktemp("cohort"), np.random.default_rng(0))


def recipe_of(name, folder, train, **settings):
    sets = {**{f"model.{key}": value for key, value in SIZES.items()}, "text.pretrained": folder}
    sets |= {"text.pretrained_train": train, "train.steps": 3, "train.batch_size": 4, "train.eval_every": 0}
    sets |= {"train.save_every": 0, "vocab_size": 80, "train.optim.encoder_lr": 1e-2, **settings}
    return with_settings(find_recipe(name), [f"{key}={value}" for key, value in sets.items()])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "train", "family"),
    [
        ("align_base", "lora", "bert"),
        ("clip_best", "full", "roberta"),
        ("align_base", "full", "mpnet"),
        ("clip_best", "lora", "modernbert"),
    ],
)
def test_a_trained_encoder_moves_and_is_opened_from_the_checkpoint(name, train, family, cohort, tmp_path):
    folder = encoder_folder(tmp_path / "encoder", family, "cls_token")
    files, captions = cohort
    run = tmp_path / "run"
    halves = {"val_files": files[:4], "val_captions": captions[:4]}
    train_align(recipe_of(name, folder, train), files[4:], captions[4:], run, **halves)
    before = open_pretrained_text(str(folder))
    shutil.rmtree(folder)  # the checkpoint holds what it needs
    model = load(run)
    assert model.pretrained.pooling == "cls"
    assert model.pretrained.digest == model.text.pretrained_digest != before.digest
    moved = (model.pretrained.embed(TEXTS) - before.embed(TEXTS)).abs().max()
    assert moved > 1e-4
    names = dict(before.network.named_parameters())
    stored = dict(model.pretrained.network.named_parameters())
    assert stored.keys() == names.keys()
    changed = {n for n in names if not torch.equal(names[n], stored[n])}
    assert any("attention" in n or "attn" in n for n in changed)
    if train == "lora":  # adapters stand in linear layers alone
        assert not any("norm" in n.lower() or "embedding" in n for n in changed)
    slide = encode_slide(model, read_features(files[0]))
    assert np.isfinite(ground(model, slide, "necrosis").scores).all()
    kept = load_file(run / "last" / "model.safetensors")
    assert not any("text_encoder" in n or "lora" in n for n in kept)


@pytest.mark.slow
def test_chunks_and_resuming_change_nothing(cohort, tmp_path):
    folder = encoder_folder(tmp_path / "encoder")
    files, captions = cohort
    still = {"model.dropout": 0, "model.feature_noise": 0, "model.slide_noise": 0, "model.word_dropout": 0}
    still |= {"model.pretrained": '{"noise": 0, "only_scratch": 0, "only_pretrained": 0}'}
    config = json.loads((folder / "config.json").read_text())
    config |= {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    (folder / "config.json").write_text(json.dumps(config))

    def run(name, **settings):
        train_align(recipe_of("align_base", folder, "full", **still, **settings), files, captions, tmp_path / name)
        return load(tmp_path / name).pretrained.embed(TEXTS)

    torch.testing.assert_close(run("whole"), run("chunks", **{"train.grad_cache_chunk": 2}), atol=1e-4, rtol=1e-3)
    lora = recipe_of("align_base", folder, "lora", **{"train.steps": 4, "train.save_every": 2})

    def stop(row):
        if row["step"] == 3:  # after the state of step 2
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train_align(lora, files, captions, tmp_path / "parts", on_step=stop)
    state = next((tmp_path / "parts" / "state").glob("step-*"))
    names = load_file(state / "model.safetensors").keys()
    assert {n.split(".")[-2] for n in names if n.startswith("text_encoder.")} == {"default"}  # adapters alone
    train_align(lora, files, captions, tmp_path / "parts", resume=True)
    train_align(lora, files, captions, tmp_path / "through")
    one, two = (load(tmp_path / name).pretrained.embed(TEXTS) for name in ("parts", "through"))
    assert torch.equal(one, two)


@pytest.mark.slow
def test_a_frozen_encoder_is_kept_where_asked(cohort, tmp_path):
    folder = encoder_folder(tmp_path / "encoder", pooling="mean_tokens")
    recipe = recipe_of("align_base", folder, "frozen", **{"text.pretrained_stored": "true"})
    train_align(recipe, *cohort, tmp_path / "run")
    before = open_pretrained_text(str(folder)).embed(TEXTS)
    digest = open_pretrained_text(str(folder)).digest
    shutil.rmtree(folder)
    model = load(tmp_path / "run")
    assert model.pretrained.digest == digest
    torch.testing.assert_close(model.pretrained.embed(TEXTS), before)


class Step(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.model = torch.nn.Linear(3, 3)
        self.text_encoder = BertModel(BertConfig(**{**FAMILIES["bert"][1].to_dict(), "num_hidden_layers": 3}))


def test_learning_rates_fall_layer_by_layer():
    step = Step()
    config = OptimConfig(lr=1e-3, encoder_lr=1e-4, layer_decay=0.5)
    optimizer = build_optimizer(step, config)
    set_learning_rate(optimizer, 2e-3)  # the curve stands at twice its base here
    rates = {id(p): group["lr"] for group in optimizer.param_groups for p in group["params"]}
    decays = {id(p): group["weight_decay"] for group in optimizer.param_groups for p in group["params"]}
    names = dict(step.named_parameters())
    assert rates.keys() == {id(p) for p in names.values()}
    wanted = {"model.weight": 2e-3, "text_encoder.embeddings.word_embeddings.weight": 2e-4 / 8}
    for layer, rate in ((2, 2e-4), (1, 1e-4), (0, 5e-5)):
        wanted[f"text_encoder.encoder.layer.{layer}.output.dense.weight"] = rate
    for name, rate in wanted.items():
        assert rates[id(names[name])] == pytest.approx(rate), name
    assert decays[id(names["model.bias"])] == 0 < decays[id(names["model.weight"])]


# --- pooling and projections as sentence-transformers writes them ---


def add_dense(folder, activation="torch.nn.modules.activation.Tanh", **more):
    torch.manual_seed(5)
    linear = torch.nn.Linear(32, 12)
    (folder / "2_Dense").mkdir()
    stated = {"in_features": 32, "out_features": 12, "bias": True, "activation_function": activation, **more}
    (folder / "2_Dense" / "config.json").write_text(json.dumps(stated))
    state = {"linear.weight": linear.weight.detach(), "linear.bias": linear.bias.detach()}
    save_file(state, folder / "2_Dense" / "model.safetensors")
    kinds = ("Transformer", ""), ("Pooling", "1_Pooling"), ("Dense", "2_Dense")
    modules = [
        {"idx": i, "name": str(i), "path": path, "type": f"sentence_transformers.models.{kind}"}
        for i, (kind, path) in enumerate(kinds)
    ]
    (folder / "modules.json").write_text(json.dumps(modules))
    return linear


@pytest.mark.parametrize("written", ["old", "new"])
def test_vectors_equal_sentence_transformers(written, tmp_path):
    sentence_transformers = pytest.importorskip("sentence_transformers")
    folder = encoder_folder(tmp_path, "bert", "cls_token")
    if written == "new":
        (folder / "1_Pooling" / "config.json").write_text('{"embedding_dimension": 32, "pooling_mode": "cls"}')
    add_dense(folder)
    encoder = open_pretrained_text(str(folder))
    assert encoder.width == 12
    reference = sentence_transformers.SentenceTransformer(str(folder), device="cpu", local_files_only=True)
    wanted = torch.nn.functional.normalize(torch.tensor(reference.encode(TEXTS)), dim=-1)
    torch.testing.assert_close(encoder.embed(TEXTS), wanted, atol=1e-5, rtol=1e-4)


def test_projections_count_in_the_digest_and_bad_ones_are_one_line(tmp_path):
    folder = encoder_folder(tmp_path / "a", "bert", "mean_tokens")
    plain = open_pretrained_text(str(folder)).digest
    linear = add_dense(folder)
    digest = open_pretrained_text(str(folder)).digest
    assert digest != plain
    state = {"linear.weight": linear.weight.detach() + 1, "linear.bias": linear.bias.detach()}
    save_file(state, folder / "2_Dense" / "model.safetensors")
    assert open_pretrained_text(str(folder)).digest != digest
    for change, message in (
        ({"activation_function": "evil.Module"}, "the activation 'Module', expected one of Tanh"),
        ({"use_residual": True}, "a residual connection"),
        ({"in_features": 7}, "its projection cannot be read"),
    ):
        stated = json.loads((folder / "2_Dense" / "config.json").read_text())
        (folder / "2_Dense" / "config.json").write_text(json.dumps(stated | change))
        with pytest.raises(ConfigError, match=message):
            open_pretrained_text(str(folder))
        (folder / "2_Dense" / "config.json").write_text(json.dumps(stated))
    (folder / "modules.json").write_text('[{"path": "../elsewhere", "type": "x.Dense"}]')
    with pytest.raises(ConfigError, match="which lies outside"):
        open_pretrained_text(str(folder))


# --- a published model's text layers ---


def published_model(kind, vocab_size, **changes):
    sizes = {"published": {"width": 32, "num_layers": 2, "num_heads": 4, "ffn_width": 48, "region_heads": 2}}
    sizes["perceiver"] = {"width": 32, "text_width": 32, "text_layers": 2, "text_heads": 4, "text_ffn": 48}
    settings = {"kind": kind, "feature_dim": 8, "vocab_size": vocab_size, "max_tokens": 40, "embed_dim": 16}
    return build_model({**settings, **sizes[kind], "mixing_heads": 2, **changes})


def test_the_q_former_begins_as_the_bert(tmp_path):
    folder = encoder_folder(tmp_path)
    tokenizer = load_tokenizer(folder)
    model = published_model("published", tokenizer.vocab_size).eval()
    number = start_from_bert(model, folder)
    assert (
        number
        == 3 + 1 + 2 * (16 + 6)
        == len([n for n in model.state_dict() if n.startswith("qformer.") and "cross" not in n])
    )
    bert = BertModel.from_pretrained(folder).eval()
    with torch.no_grad():
        bert.embeddings.token_type_embeddings.weight.zero_()  # the released Q-Former has none
        tokens = tokenizer.encode(TEXTS)
        wanted = bert(input_ids=tokens.ids, attention_mask=tokens.mask.long()).last_hidden_state[:, 0]
        layers = list(model.qformer.layers)
        got = encode(model.qformer.embeddings, layers, [(tokens.ids, tokens.mask)])[0]
    torch.testing.assert_close(got, wanted, atol=1e-5, rtol=1e-4)
    first = model.qformer.layers[0]
    assert torch.equal(first.query_ffn.up.weight, first.ffn.up.weight)


def test_a_bert_that_does_not_fit_is_one_line(tmp_path):
    folder = encoder_folder(tmp_path / "bert")
    size = load_tokenizer(folder).vocab_size
    with pytest.raises(ConfigError, match=r"set model.width, model.ffn_width"):
        start_from_bert(published_model("published", size, ffn_width=64), folder)
    with pytest.raises(ConfigError, match=r"no weight .*expected a BERT of at least as many layers"):
        start_from_bert(published_model("published", size, num_layers=3), folder)
    with pytest.raises(ConfigError, match=r"cannot be read .*never loaded"):
        start_from_bert(published_model("published", size), tmp_path)
    with pytest.raises(ConfigError, match="got a model of kind 'pathflip', expected published or perceiver"):
        start_from_bert(build_model({"kind": "pathflip", "feature_dim": 8, "vocab_size": size, **SIZES}), folder)


@pytest.mark.slow
def test_a_published_recipe_takes_the_berts_weights_and_words(cohort, tmp_path):
    folder = encoder_folder(tmp_path / "bert")
    sizes = {"width": 32, "num_layers": 2, "num_heads": 4, "ffn_width": 48, "max_tokens": 40, "embed_dim": 16}
    sets = [f"model.{key}={value}" for key, value in {**sizes, "region_heads": 2, "mixing_heads": 2}.items()]
    few = ["train.steps=1", "train.batch_size=4", "train.eval_every=0", "train.save_every=0", "train.optim.lr=1e-12"]
    few += ["text.caption_tokens=32", "text.sub_caption_tokens=16", "regions.side=2", f"bert={folder}"]
    recipe = with_settings(find_recipe("align_published_small"), [*sets, *few])
    train_align(recipe, *cohort, tmp_path / "run")
    checkpoint = load_checkpoint(tmp_path / "run" / "last")
    assert checkpoint.tokenizer.vocab_size == load_tokenizer(folder).vocab_size
    own = checkpoint.model.state_dict()["qformer.layers.1.self_attention.query.weight"]
    wanted = load_file(folder / "model.safetensors")["encoder.layer.1.attention.self.query.weight"]
    torch.testing.assert_close(own, wanted, atol=1e-5, rtol=0)
