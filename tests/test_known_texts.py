"""Texts in words of no training text are moved towards the nearest training texts; all others stay as they are."""

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from pathflip.checkpoint import load_checkpoint, save_checkpoint
from pathflip.inference import encode_text, load
from pathflip.models import build_config
from pathflip.models.known_texts import NEAREST, SHARE, SHARPNESS, KnownTexts
from pathflip.train import align_run, fit
from pathflip.train.align_run import train_align
from small_cohort import WORDS, short, small_cohort

SIZES = {"width": 16, "embed_dim": 8, "text_width": 16, "text_heads": 2, "text_ffn": 16, "known_texts": 12}


def vectors(count, width=16, seed=0):
    return torch.from_numpy(np.random.default_rng(seed).normal(size=(count, width)).astype(np.float32))


def moved_by_hand(text, known):
    """The formula of docs/method.md, one text at a time."""
    centre = known.mean(0)
    cosines = np.array(
        [(text - centre) @ (k - centre) / np.linalg.norm(text - centre) / np.linalg.norm(k - centre) for k in known]
    )
    nearest = np.argsort(-cosines)[:NEAREST]
    weights = np.exp(SHARPNESS * cosines[nearest])
    return (1 - SHARE) * text + SHARE * (weights / weights.sum()) @ known[nearest]


@pytest.mark.parametrize("count", [3, 40])
def test_an_unknown_text_is_moved_towards_its_nearest_ones_and_no_other(count):
    known, texts = KnownTexts(64, 16), vectors(5, seed=1)
    known.remember(vectors(count))
    unknown = torch.tensor([True, False, True, False, False])
    out = known(texts, unknown)
    assert torch.equal(out[~unknown], texts[~unknown])
    for row in (0, 2):
        expected = moved_by_hand(texts[row].double().numpy(), vectors(count).double().numpy())
        np.testing.assert_allclose(out[row], expected, atol=1e-5)


def test_without_training_texts_nothing_moves():
    texts = vectors(3)
    assert torch.equal(KnownTexts(4, 16)(texts, torch.ones(3, dtype=torch.bool)), texts)


def test_more_texts_than_places_become_centres_of_like_ones():
    groups = 20 * vectors(8)
    texts = (groups[:, None] + 0.01 * vectors(800).view(8, 100, 16)).flatten(0, 1)
    known = KnownTexts(60, 16)
    known.remember(texts)
    nearest = torch.cdist(groups, known.vectors).min(1).values
    assert bool((nearest < 0.1).all()), "a group has no centre"
    again = KnownTexts(60, 16)
    again.remember(texts)
    assert torch.equal(known.vectors, again.vectors)


@pytest.fixture(scope="module", params=["align_base", "clip"])
def run(request, tmp_path_factory):
    """A trained run of either model."""
    folder = tmp_path_factory.mktemp("known")
    sizes = {f"model__{key}": value for key, value in SIZES.items()}
    steps = {"train__seed": 5, "train__save_every": 1, "train__eval_every": 0, "train__average_last": 0}
    recipe = short(text__pretrained="", **steps, **sizes)
    if request.param == "clip":
        recipe = recipe.model_copy(update={"model": {**recipe.model, "kind": "clip"}})
    train_align(recipe, *small_cohort(folder, np.random.default_rng(0)), folder / "run")
    return folder / "run"


@pytest.mark.slow
def test_a_checkpoint_holds_the_vectors_of_its_own_weights_and_training_never_sees_them(run):
    """Eight reports say four sentences; saved after every step, the last state is written after two checkpoints."""
    model = load(run / "last")
    texts = [sentence.lower().rstrip(".") for sentence in WORDS]
    texts += [] if model.net.captions_are_sub_captions else WORDS  # a baseline reads whole reports, too
    ids = model.checkpoint.tokenizer.encode(texts, 64)
    with torch.no_grad():
        expected = model.net.text_vectors(ids.ids, ids.mask, None)
    stored = model.net.known_texts.vectors
    stored = stored[stored.abs().sum(1) > 0]
    assert len(stored) == len(texts)
    torch.testing.assert_close(torch.cdist(expected, stored).min(1).values, torch.zeros(len(texts)), atol=1e-4, rtol=0)
    (state,) = (run / "state").glob("step-*/model.safetensors")
    (trained_with,) = (value for name, value in load_file(state).items() if name.endswith("known_texts.vectors"))
    assert not trained_with.any()


@pytest.mark.slow
def test_only_texts_with_unknown_words_are_read_otherwise(run, tmp_path):
    """Against the same weights in a checkpoint as it was before, which has no such vectors."""
    model = load(run / "last")
    before = load_checkpoint(run / "last")
    config = build_config({**before.config["model"], "known_texts": 0})
    plain = type(before.model)(config)
    plain.load_state_dict({k: v for k, v in before.model.state_dict().items() if not k.startswith("known_texts")})
    older = {name: value for name, value in config.model_dump(mode="json").items() if name != "known_texts"}
    words = {"tokenizer": before.tokenizer, "text": before.config["text"], "recipe": before.config["recipe"]}
    save_checkpoint(tmp_path / "older", plain, contract=before.contract, model_config=older, **words)
    texts = ["Necrosis is seen.", "Pools of gritty calcification are seen."]
    now, then = (encode_text(one, texts).local for one in (model, load(tmp_path / "older")))
    assert torch.equal(now[0], then[0])
    assert not torch.allclose(now[1], then[1], atol=1e-3)


@pytest.mark.slow
def test_a_start_leaves_its_training_texts_behind(run, tmp_path, monkeypatch):
    """The new run has other reports: it begins without any, and ends with its own."""
    begun = []

    def watched(step, *arguments, **options):
        begun.append(step.model.known_texts.vectors.abs().sum().item())
        return fit(step, *arguments, **options)

    monkeypatch.setattr(align_run, "fit", watched)
    files, captions = small_cohort(tmp_path, np.random.default_rng(1))
    recipe = load_checkpoint(run / "last").config["recipe"]
    sizes = {f"model__{key}": value for key, value in SIZES.items()}
    new = short(text__pretrained="", train__seed=6, train__steps=1, train__eval_every=0, train__save_every=0, **sizes)
    new = new.model_copy(update={"model": {**new.model, "kind": recipe["model"]["kind"]}})
    train_align(new, files[:2], captions[:2], tmp_path / "run", start=run)
    trained = load_checkpoint(tmp_path / "run" / "last").model
    assert begun == [0]
    stored = trained.known_texts.vectors
    assert int((stored.abs().sum(1) > 0).sum()) == (2 if trained.captions_are_sub_captions else 4)
