"""Equal reports, and equal sub-captions, are never negatives of each other: in every loss of every model."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from feature_grids import make_features, scattered_cells
from pathflip import losses
from pathflip.data.align import AlignDataset, TextSpec
from pathflip.features import write_features
from pathflip.losses import equal_captions, sub_caption_labels, true_captions
from pathflip.models import build_model
from pathflip.published.negatives import met_by_blocks, met_in_global_batch
from pathflip.text.sub_captions import parse_sub_caption
from pathflip.text.tokenizer import train_tokenizer
from pathflip.types import AlignOutput, Caption

TEMPLATE = ["Benign tissue is present.", "No necrosis is identified.", "Margins are free of tumour."]
REPORTS = {
    "a": TEMPLATE,
    "b": [TEMPLATE[1], TEMPLATE[0], "Margins are involved by tumour."],  # the visible part is a's
    "c": ["Mucin pools are seen.", "Keratin pearls are present."],
    "d": ["Necrosis is present.", "Foamy macrophages are seen."],
}
E = 8
SIZES = {"feature_dim": 5, "vocab_size": 300, "embed_dim": E}
SMALL = {**SIZES, "width": 16, "text_width": 16, "text_heads": 2}
QFORMER = {**SIZES, "width": 16, "num_layers": 2, "num_heads": 2, "ffn_width": 16, "num_queries": 2, "mixing_heads": 2}
LATENT = {**SIZES, "num_latents": 3, "num_heads": 2, "text_width": 16, "text_layers": 1, "text_heads": 2,
          "text_ffn_width": 16, "top_k": 3}  # fmt: skip
MODELS = {
    "align": {"kind": "pathflip", **SMALL},
    "clip": {"kind": "clip", **SMALL},
    "clip, sub-captions": {"kind": "clip", **SMALL, "sub_caption_weight": 1.0},
    "published": {"kind": "published", **QFORMER, "region_heads": 2},
    "sigmoid, soft top-k": {"kind": "perceiver", **LATENT},
    "info_nce, text-conditioned": {"kind": "perceiver", **LATENT, "slide_loss": "info_nce",
                                   "region_loss": "text_conditioned", "slide_term": True},
}  # fmt: skip


@pytest.fixture
def batch_of(tmp_path):
    """Makes a batch of the slides named, with what the text specification says."""
    captions = []
    for seed, (slide_id, sentences) in enumerate(REPORTS.items()):
        features = make_features(scattered_cells(np.random.default_rng(seed), 12), seed=seed)
        write_features(tmp_path / f"{slide_id}.h5", replace(features, slide_id=slide_id))
        sub_captions = tuple(parse_sub_caption(sentence) for sentence in sentences)
        captions.append(Caption(slide_id, slide_id, " ".join(sentences), sub_captions))
    tokenizer = train_tokenizer([c.text for c in captions], 300)

    def make(slides, **text):
        spec = TextSpec(**{"num_sub_captions": 2, **text})
        data = AlignDataset(sorted(tmp_path.glob("*.h5")), captions, tokenizer, text=spec)
        return data.batch(["abcd".index(one) for one in slides], np.random.default_rng(1))

    return make


def random_output(batch, seed=0):
    """Embeddings of both sides that no model made, as leaves."""
    generator = torch.Generator().manual_seed(seed)
    size, subs = batch.sub_caption_mask.shape

    def leaf(*shape):
        return torch.randn(*shape, generator=generator).requires_grad_()

    patches = batch.patches.shape[1]
    gate, margin = leaf(size, subs), leaf(size, subs)
    mask = torch.ones(size, patches, dtype=torch.bool)
    return AlignOutput(leaf(size, E), leaf(size, E), leaf(size, patches, E), mask, leaf(size, subs, E), gate, margin)


def pull_on_first_slide(model, batch, output, caption):
    """Gradient of the slide loss for slide 0, where slide 1 has another caption embedding."""
    captions = torch.cat([output.caption[:1], caption[None], output.caption[2:]])
    loss = model.losses(replace(output, caption=captions), batch)["slide"]
    return torch.autograd.grad(loss, output.slide)[0][0]


@pytest.mark.parametrize("name", MODELS)
def test_an_equal_caption_pushes_no_slide_away(batch_of, name):
    model = build_model(MODELS[name]).eval()
    batch = batch_of("abcd")
    output = random_output(batch)
    one, other = torch.randn(2, E, generator=torch.Generator().manual_seed(9))
    pulls = [pull_on_first_slide(model, batch, output, caption) for caption in (one, other)]
    torch.testing.assert_close(*pulls)
    apart = replace(
        batch, caption_key=torch.tensor([1, 2, 3, 4]), caption_keys=batch.caption_keys + torch.arange(1, 5)[:, None]
    )
    assert not torch.allclose(*(pull_on_first_slide(model, apart, output, caption) for caption in (one, other)))


@pytest.mark.parametrize("name", MODELS)
def test_a_batch_of_one_report_has_no_negative_captions(batch_of, name):
    """What is left of contrasts between slides is nothing; of yes and no, only the yes."""
    model = build_model(MODELS[name]).eval()
    batch = batch_of("ab", num_sub_captions=1 if "top-k" in name else 2)
    batch = (
        replace(batch, sub_caption_keys=batch.sub_caption_keys[:1].expand_as(batch.sub_caption_keys))
        if "top-k" in name
        else batch
    )
    output = random_output(batch)
    parts = model.losses(output, batch)
    contrasts = {key for key in parts if key in ("slide", "late", "sub_caption")}
    for key in contrasts - ({"slide"} if "sigmoid" in name else set()):
        assert parts[key].item() == pytest.approx(0, abs=1e-6), key
    if "sigmoid" in name:
        scale, bias = model._scaling("_global")
        own = scale * losses.cosine(output.slide, output.caption).diagonal() + bias
        assert parts["slide"].item() == pytest.approx(torch.nn.functional.softplus(-own).mean().item(), rel=1e-5)


def test_labels_of_equal_reports_hold_no_false_pair(batch_of):
    batch = batch_of("ab")
    equal = equal_captions(batch.caption_key)
    assert equal.tolist() == [[False, True], [True, False]]
    labels = sub_caption_labels(
        batch.caption_keys, batch.sub_caption_keys, batch.sub_caption_mask, batch.sub_caption_false, 0, equal
    )
    assert (labels == 1).all()
    assert true_captions(labels, batch.sub_caption_mask, equal).tolist() == [[False, True], [True, False]]
    different = batch_of("acd")
    assert not equal_captions(different.caption_key).any()
    assert different.caption_key.unique().numel() == 3


def test_a_shorter_report_that_is_true_of_a_slide_is_not_its_negative():
    keys, counted = torch.tensor([[1, 2, 3], [1, 2, 0]]), torch.tensor([[True] * 3, [True, True, False]])
    labels = sub_caption_labels(keys, keys, counted, torch.zeros_like(counted))
    assert true_captions(labels, counted).tolist() == [[False, True], [False, False]]


@pytest.mark.parametrize("blocks", [False, True])
def test_merged_sentences_of_an_equal_report_are_true_of_it(batch_of, blocks):
    """The published sampler merges sentences: "A. B." of one slide is true of another whose report says A and B."""
    text = {"sampler": "published", "polarity": False, "visual_only": False, "num_sub_captions": 8}
    batch = batch_of("ac", **text)
    same = replace(
        batch, caption_keys=batch.caption_keys[:1].expand(2, -1), caption_key=None
    )  # all that a says, c says
    output = random_output(batch)
    index = torch.arange(16).expand(2, -1)
    if blocks:
        labels = met_by_blocks(output, same, index, False)[1]
    else:
        labels = met_in_global_batch(output, same, index, False, False)[1]
    assert (labels[1, :8] == 1).all()  # the merges of a are true of the second slide
    released = met_in_global_batch(output, same, index, False, True)[1]
    assert (released[1, :8] == -1).all()
    apart = replace(batch, caption_key=None)
    assert (met_in_global_batch(output, apart, index, False, False)[1][1, :8] == -1).all()


def test_the_order_of_merged_sentences_makes_no_other_sub_caption(batch_of):
    batch = batch_of("a", sampler="published", polarity=False, visual_only=False, num_sub_captions=64)
    by_parts = {}
    for key, parts in zip(batch.sub_caption_keys[0].tolist(), batch.sub_caption_part_keys[0].tolist(), strict=True):
        by_parts.setdefault(tuple(parts), set()).add(key)
    assert len(by_parts) > 3
    assert all(len(keys) == 1 for keys in by_parts.values())


def test_without_equal_reports_nothing_changes(batch_of):
    batch = batch_of("acd")
    for settings in MODELS.values():
        torch.manual_seed(0)
        model = build_model(settings).eval()
        output = random_output(batch)
        losses_with, losses_without = [], []
        for values, one in ((losses_with, batch), (losses_without, replace(batch, caption_key=None))):
            torch.manual_seed(3)
            values += [value.item() for value in model.losses(output, one).values()]
        assert losses_with == losses_without


def test_the_baseline_on_sub_captions_contrasts_slides_for_each(batch_of):
    """Cross-entropy over slides, a sub-caption at a time, by hand; a text of two slides asks for both."""
    model = build_model({"kind": "clip", **SMALL, "sub_caption_weight": 0.5}).eval()
    batch = batch_of("abcd")
    output = model(batch)
    slides = torch.nn.functional.normalize(output.slide, dim=-1)
    texts = torch.nn.functional.normalize(output.sub_captions, dim=-1)
    each = []
    for slide, k in zip(*batch.sub_caption_mask.nonzero(as_tuple=True), strict=True):
        stands_in = (batch.caption_keys == batch.sub_caption_keys[slide, k]).any(dim=1)
        stands_in |= batch.caption_key == batch.caption_key[slide]
        log_share = (model.logit_scale.exp() * slides @ texts[slide, k]).log_softmax(0)
        each.append(-log_share[stands_in].mean())
    got = model.losses(output, batch)["sub_caption"]
    torch.testing.assert_close(got, 0.5 * torch.stack(each).mean())
    got.backward()
    assert model.caption_head.weight.grad.abs().sum() > 0
