"""The default model against naive loops, and its promise that padding is never seen."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from pathflip.models.pathflip import caption_scores, matrix_nce, sub_caption_nce
from pathflip.types import AlignBatch, TextCode
from tiny_pathflip import B, K, make_batch, tiny


@pytest.fixture(params=["pathflip", "clip"])
def model(request):
    return tiny(request.param)


@pytest.fixture
def flip():
    return tiny("pathflip")


def test_padded_values_are_never_seen(model):
    batch = make_batch()
    hidden = ~batch.patch_mask[..., None]
    noisy = replace(
        batch,
        patches=torch.where(hidden, 1e3 * torch.randn_like(batch.patches), batch.patches),
        context=torch.where(hidden, -1e3, batch.context),
        position=torch.where(hidden, 7.0, batch.position),
        caption_ids=torch.where(batch.caption_mask, batch.caption_ids, 3),
        sub_caption_ids=torch.where(batch.sub_caption_token_mask, batch.sub_caption_ids, 3),
        sub_caption_keys=torch.where(batch.sub_caption_mask, batch.sub_caption_keys, 6),
    )
    first, second = model(batch), model(noisy)
    for name in ("slide", "caption"):
        torch.testing.assert_close(getattr(first, name), getattr(second, name))
    torch.testing.assert_close(first.patches[first.patch_mask], second.patches[second.patch_mask])
    torch.testing.assert_close(first.sub_captions[batch.sub_caption_mask], second.sub_captions[batch.sub_caption_mask])
    for name, loss in model.losses(first, batch).items():
        torch.testing.assert_close(loss, model.losses(second, noisy)[name], msg=name)


def test_wider_padding_changes_nothing(model):
    batch = make_batch()
    wider = replace(
        batch,
        patches=F.pad(batch.patches, (0, 0, 0, 5)),
        patch_mask=F.pad(batch.patch_mask, (0, 5)),
        context=F.pad(batch.context, (0, 0, 0, 5)),
        position=F.pad(batch.position, (0, 0, 0, 5)),
        caption_ids=F.pad(batch.caption_ids, (0, 4)),
        caption_mask=F.pad(batch.caption_mask, (0, 4)),
        sub_caption_ids=F.pad(batch.sub_caption_ids, (0, 4)),
        sub_caption_token_mask=F.pad(batch.sub_caption_token_mask, (0, 4)),
    )
    first, second = model.losses(model(batch), batch), model.losses(model(wider), wider)
    for name in first:
        torch.testing.assert_close(first[name], second[name], msg=name)


def test_a_slide_does_not_depend_on_its_company(model):
    batch = make_batch()
    together = model.encode_slides(batch.patches, batch.patch_mask, batch.context, batch.position)
    alone = model.encode_slides(batch.patches[1:2], batch.patch_mask[1:2], batch.context[1:2], batch.position[1:2])
    torch.testing.assert_close(together.slide[1:2], alone.slide)
    torch.testing.assert_close(together.patches[1:2], alone.patches)


def texts_of(model, batch, negated=False) -> TextCode:
    ids, mask = batch.caption_ids, batch.caption_mask
    return model.encode_texts(tuple("xyz"), ids, mask, torch.full((B,), negated))


def test_presence_equals_a_naive_loop(flip):
    batch = make_batch()
    slides = flip.encode_slides(batch.patches, batch.patch_mask, batch.context, batch.position)
    texts = texts_of(flip, batch)
    got = flip.presence(slides, texts)
    scale, sharpness = flip.logit_scale.exp().item(), flip.log_sharpness.exp().item()
    for b in range(B):
        keys = slides.patches[b][slides.patch_mask[b]]
        torch.testing.assert_close(keys.norm(dim=-1), torch.ones(len(keys)))
        for c in range(B):
            text = F.normalize(texts.local[c], dim=0)
            weight = torch.softmax(sharpness * (keys @ text), 0)
            pooled = sum(w * k for w, k in zip(weight, keys, strict=True))
            expected = texts.gate[c] * scale * (F.cosine_similarity(pooled, text, dim=0) - texts.margin[c])
            torch.testing.assert_close(got[b, c], expected, atol=1e-5, rtol=1e-5)
    again = flip.presence(slides, texts, flip.patch_similarity(slides, texts))
    torch.testing.assert_close(again, got, atol=1e-5, rtol=1e-5)


def test_patch_similarity_is_the_cosine_of_each_patch_and_hides_padding(flip):
    batch = make_batch()
    slides = flip.encode_slides(batch.patches, batch.patch_mask, batch.context, batch.position)
    similarity = flip.patch_similarity(slides, texts_of(flip, batch))
    assert torch.isinf(similarity[(~slides.patch_mask)[:, None].expand_as(similarity)]).all()
    expected = F.cosine_similarity(slides.patches[2, 0], texts_of(flip, batch).local[1], dim=0)
    torch.testing.assert_close(similarity[2, 1, 0], expected)


def test_negation_is_a_sign(flip):
    batch = make_batch()
    slides = flip.encode_slides(batch.patches, batch.patch_mask, batch.context, batch.position)
    torch.testing.assert_close(
        flip.presence(slides, texts_of(flip, batch)), -flip.presence(slides, texts_of(flip, batch, negated=True))
    )


def test_a_closed_gate_says_nothing(flip):
    batch = make_batch()
    with torch.no_grad():
        flip.text_gate.bias[0] = -100
    slides = flip.encode_slides(batch.patches, batch.patch_mask, batch.context, batch.position)
    assert flip.presence(slides, texts_of(flip, batch)).abs().max() < 1e-6


def test_region_loss_knows_what_is_true_of_whom(flip):
    batch = make_batch()
    output = flip(batch)
    texts = TextCode(
        (), output.sub_captions.flatten(0, 1), output.sub_captions.flatten(0, 1), batch.sub_caption_negated.flatten(),
        output.gate.flatten(), output.margin.flatten(),
    )  # fmt: skip
    logits = flip._logits(output.patches, output.patch_mask, texts)
    positive, negative = [], []
    for b in range(B):
        for owner in range(B):
            for k in range(K):
                if not batch.sub_caption_mask[owner, k]:
                    continue
                stated = bool((batch.caption_keys[b] == batch.sub_caption_keys[owner, k]).any())
                true = (not batch.sub_caption_false[owner, k]) if owner == b else stated
                logit = logits[b, owner * K + k]
                (positive if true else negative).append(F.softplus(-logit if true else logit))
    expected = (torch.stack(positive).mean() + torch.stack(negative).mean()) / 2
    torch.testing.assert_close(flip.losses(output, batch)["region"], expected)


def test_caption_scores_and_contrast_equal_naive_loops():
    g = torch.Generator().manual_seed(1)
    logits, counted = torch.randn(B, B * K, generator=g), torch.rand(B, K, generator=g) > 0.3
    got = caption_scores(logits, counted)
    for b in range(B):
        for c in range(B):
            counted_logits = [logits[b, c * K + k] for k in range(K) if counted[c, k]]
            torch.testing.assert_close(got[b, c], sum(counted_logits) / len(counted_logits))
    rows = -torch.stack([torch.log_softmax(got[i], 0)[i] for i in range(B)]).mean()
    columns = -torch.stack([torch.log_softmax(got[:, i], 0)[i] for i in range(B)]).mean()
    torch.testing.assert_close(matrix_nce(got, slice(0, B)), (rows + columns) / 2)


def test_sub_caption_contrast_equals_a_naive_loop():
    g = torch.Generator().manual_seed(2)
    logits = torch.randn(4, 6, generator=g)
    truth = torch.tensor([[1, 1, -1, 1, 0, -1], [-1, 1, -1, 1, 1, -1], [-1, -1, -1, 1, -1, -1], [-1, 1, 1, 1, 0, -1]])
    losses = []
    for c in range(6):
        known = [b for b in range(4) if truth[b, c] != 0]
        true = [b for b in known if truth[b, c] > 0]
        if true and len(true) < len(known):  # column 3 is true of all, column 5 of none: both silent
            log_prob = torch.log_softmax(logits[known, c], 0)
            losses.append(-sum(log_prob[known.index(b)] for b in true) / len(true))
    torch.testing.assert_close(sub_caption_nce(logits, truth), torch.stack(losses).mean())
    assert len(losses) == 4


def test_slide_noise_shifts_whole_slides_and_only_in_training(flip):
    mask = make_batch().patch_mask
    noisy = tiny("pathflip", slide_noise=0.5)
    assert noisy.eval().stem.draw_shift(mask) is None
    assert flip.train().stem.draw_shift(mask) is None
    shift = noisy.train().stem.draw_shift(mask)
    owner = mask.nonzero()[:, 0]
    for slide in range(B):
        assert shift[owner == slide].unique(dim=0).shape[0] == 1
    assert shift.unique(dim=0).shape[0] == B


def test_a_batch_of_one_trains(flip):
    batch = make_batch()
    one = AlignBatch(**{
        name: value[:1] if value is not None else None for name, value in vars(batch).items()
    })  # fmt: skip
    losses = flip.losses(flip(one), one)
    total = sum(losses.values())
    total.backward()
    assert torch.isfinite(total)
    assert all(torch.isfinite(p.grad).all() for p in flip.parameters() if p.grad is not None)


def test_gradients_reach_every_trainable_parameter(model):
    batch = make_batch()
    sum(model.losses(model(batch), batch).values()).backward()
    without = [n for n, p in model.named_parameters() if p.requires_grad and p.grad is None]
    assert without == []
