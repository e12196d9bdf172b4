"""Losses equal loops that follow their definitions one pair at a time; masks and options do what they say."""

import math

import pytest
import torch
from torch import Tensor

from parity import assert_close, tensors
from pathflip import losses
from pathflip.errors import ConfigError
from pathflip.published import region_losses


@pytest.fixture
def generator() -> torch.Generator:
    return torch.Generator().manual_seed(3)


def randn(generator: torch.Generator, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=generator, dtype=torch.float32)


def unit(x: Tensor) -> Tensor:
    return x / x.norm()


def log_sigmoid(x: float) -> float:
    return -math.log1p(math.exp(-x)) if x > 0 else x - math.log1p(math.exp(x))


def naive_pairs(logits: Tensor, labels: Tensor, weights: Tensor | None = None) -> dict[str, float]:
    """Every normalisation of the sum of -log sigmoid(label · logit), by loops."""
    sums = {1: 0.0, -1: 0.0}
    mass = {1: 0.0, -1: 0.0}
    positives = 0
    for i in range(logits.shape[0]):
        for c in range(logits.shape[1]):
            label, weight = int(labels[i, c]), 1.0 if weights is None else float(weights[i, c])
            if label:
                sums[label] -= weight * log_sigmoid(label * float(logits[i, c]))
                mass[label] += weight
                positives += label > 0
    halves = [sums[s] / mass[s] if mass[s] else 0.0 for s in (1, -1)]
    total = sums[1] + sums[-1]
    return {
        "balanced": 0.5 * sum(halves),
        "entries": total / max(mass[1] + mass[-1], 1e-12),
        "candidates": total / logits.shape[1],
        "positives": total / max(positives, 1),
    }


def candidate_labels(index: Tensor, num_sub_captions: int) -> Tensor:
    """+1 where a candidate belongs to the row's own slide, else -1."""
    return 2 * (index // num_sub_captions == torch.arange(len(index)).unsqueeze(1)).long() - 1


# ------------------------------------------------------------------------------------------ slide and caption


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_info_nce_is_two_cross_entropies(generator: torch.Generator, smoothing: float) -> None:
    image, text = randn(generator, 5, 7), randn(generator, 5, 7)
    total = 0.0
    for a, b in ((image, text), (text, image)):
        for i in range(5):
            row = torch.stack([4.0 * unit(a[i]) @ unit(b[j]) for j in range(5)])
            log_prob = row - row.exp().sum().log()
            total -= float((1 - smoothing) * log_prob[i] + smoothing * log_prob.mean())
    ours = losses.info_nce(image, text, 4.0, smoothing)
    assert ours.item() == pytest.approx(total / 10, rel=1e-5)


def test_info_nce_with_several_true_captions(generator: torch.Generator) -> None:
    """Two slides with one caption: neither is the other's negative."""
    image, text = randn(generator, 4, 7), randn(generator, 4, 7)
    labels = torch.eye(4)
    labels[0, 1] = labels[1, 0] = 1.0
    log_prob = [(4.0 * losses.cosine(a, b)).log_softmax(-1) for a, b in ((image, text), (text, image))]
    expected = 0.0
    for table in log_prob:
        expected -= (table[0, 0] + table[0, 1]) / 2 + (table[1, 0] + table[1, 1]) / 2 + table[2, 2] + table[3, 3]
    assert losses.info_nce(image, text, 4.0, labels=labels).item() == pytest.approx(expected.item() / 8, rel=1e-5)


def test_sigmoid_asks_every_pair(generator: torch.Generator) -> None:
    image, text = randn(generator, 4, 6), randn(generator, 4, 6)
    total = 0.0
    for i in range(4):
        for j in range(4):
            logit = 10.0 * float(unit(image[i]) @ unit(text[j])) - 2.0
            total -= log_sigmoid(logit if i == j else -logit)
    assert region_losses.sigmoid(image, text, 10.0, -2.0).item() == pytest.approx(total / 4, rel=1e-5)


# ------------------------------------------------------------------------------------------ pairs


@pytest.mark.parametrize("normalize", ["balanced", "entries", "candidates", "positives"])
@pytest.mark.parametrize("weighted", [False, True])
def test_pair_sigmoid_equals_loops(
    generator: torch.Generator, normalize: region_losses.Normalize, weighted: bool
) -> None:
    logits = 3 * randn(generator, 4, 9)
    labels = torch.randint(-1, 2, (4, 9), generator=generator)
    weights = torch.rand(4, 9, generator=generator) if weighted else None
    ours = region_losses.pair_sigmoid(logits, labels, normalize, weights)
    assert ours.item() == pytest.approx(naive_pairs(logits, labels, weights)[normalize], rel=1e-5)


@pytest.mark.parametrize("only", [-1, 0, 1])
def test_balanced_sigmoid_without_one_class(generator: torch.Generator, only: int) -> None:
    logits = randn(generator, 3, 4)
    labels = torch.full((3, 4), only)
    assert losses.balanced_sigmoid(logits, labels).item() == pytest.approx(naive_pairs(logits, labels)["balanced"])


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1e30])
def test_ignored_pairs_reach_neither_loss_nor_gradient(generator: torch.Generator, value: float) -> None:
    logits = randn(generator, 3, 4)
    labels = torch.ones(3, 4, dtype=torch.long)
    labels[1, 2] = 0
    clean = losses.balanced_sigmoid(logits, labels)
    dirty = logits.clone()
    dirty[1, 2] = value
    dirty.requires_grad_()
    loss = losses.balanced_sigmoid(dirty, labels)
    loss.backward()
    assert torch.equal(loss, clean)
    assert dirty.grad is not None
    assert dirty.grad.isfinite().all()
    assert dirty.grad[1, 2] == 0


@pytest.mark.usefixtures("annotations_off")
def test_unknown_normalisation_is_refused() -> None:
    with pytest.raises((ConfigError, TypeError), match="normalize"):
        region_losses.pair_sigmoid(torch.zeros(1, 1), torch.ones(1, 1, dtype=torch.long), "mean")  # type: ignore[arg-type]


def test_published_sum_grows_with_the_batch_and_ours_does_not() -> None:
    """Zero logits: the released region loss is B ln 2."""
    for num_slides in (1, 4, 16):
        index = region_losses.published_candidates(torch.ones(num_slides, 8, dtype=torch.bool))
        labels = candidate_labels(index, 8)
        logits = torch.zeros(index.shape)
        assert region_losses.pair_sigmoid(logits, labels, "candidates").item() == pytest.approx(
            num_slides * math.log(2)
        )
        assert region_losses.pair_sigmoid(logits, labels).item() == pytest.approx(math.log(2))


# ------------------------------------------------------------------------------------------ candidates and labels


def test_candidates_are_own_texts_and_one_of_each_other_slide(generator: torch.Generator) -> None:
    mask = torch.rand(5, 4, generator=generator) < 0.6
    mask[:, 1] = True
    counts = torch.zeros(20)
    for _ in range(50):
        index = region_losses.published_candidates(mask, generator)
        assert index.shape == (5, 8)
        for i, row in enumerate(index.tolist()):
            assert row == sorted(set(row))
            assert [x for x in row if x // 4 == i] == [4 * i + k for k in range(4)]
            others = [x for x in row if x // 4 != i]
            assert [x // 4 for x in others] == [j for j in range(5) if j != i]
            assert all(mask.flatten()[x] for x in others)
            counts[others] += 1
    assert bool(((counts > 0) == mask.flatten()).all())


def test_candidates_follow_the_generator() -> None:
    mask = torch.ones(6, 3, dtype=torch.bool)
    draws = [region_losses.published_candidates(mask, torch.Generator().manual_seed(s)) for s in (1, 1, 2)]
    assert torch.equal(draws[0], draws[1])
    assert not torch.equal(draws[0], draws[2])
    assert region_losses.published_candidates(mask[:1]).tolist() == [[0, 1, 2]]


@pytest.mark.parametrize("variant", ["pf1_align", "pf2_align"])
def test_candidates_of_the_released_code(variant: str) -> None:
    expected = tensors(variant, "expected")
    index = region_losses.sort_candidates(expected["caption_offsets"], 4)
    assert torch.equal(index, expected["caption_indices"])
    if variant == "pf1_align":
        assert torch.equal(candidate_labels(index, 4), expected["fg_labels"].long())


def test_sub_caption_labels_equal_loops(generator: torch.Generator) -> None:
    captions = torch.randint(0, 9, (3, 5), generator=generator)
    keys = torch.randint(0, 9, (4, 3), generator=generator)
    mask = torch.rand(4, 3, generator=generator) < 0.8
    false = torch.rand(4, 3, generator=generator) < 0.3
    labels = losses.sub_caption_labels(captions, keys, mask, false, first_slide=1)
    for row in range(3):
        for slide in range(4):
            for k in range(3):
                key = int(keys[slide, k])
                true = not false[slide, k] if slide == row + 1 else key != 0 and key in captions[row].tolist()
                expected = (1 if true else -1) if mask[slide, k] else 0
                assert labels[row, slide * 3 + k] == expected


def test_text_conditioned_with_one_table_or_own_candidates(generator: torch.Generator) -> None:
    attended, texts = randn(generator, 3, 6, 5), randn(generator, 6, 5)
    labels = torch.randint(-1, 2, (3, 6), generator=generator)
    logits = torch.stack([torch.stack([unit(attended[b, c]) @ unit(texts[c]) for c in range(6)]) for b in range(3)])
    expected = naive_pairs(5.0 * logits - 1.0, labels)
    ours = region_losses.text_conditioned(attended, texts, labels, 5.0, -1.0)
    assert ours.item() == pytest.approx(expected["entries"], rel=1e-5)
    own = region_losses.text_conditioned(attended, texts.expand(3, -1, -1), labels, 5.0, -1.0, "positives")
    assert own.item() == pytest.approx(expected["positives"], rel=1e-5)


# ------------------------------------------------------------------------------------------ soft top-k


def test_soft_top_k_pool_equals_loops(generator: torch.Generator) -> None:
    texts, keys = randn(generator, 2, 3, 4), randn(generator, 2, 7, 4)
    mask = torch.ones(2, 7, dtype=torch.bool)
    mask[1, 4:] = False
    pooled, weights = region_losses.soft_top_k_pool(texts, keys, mask, top_k=3, temperature=0.5)
    for b in range(2):
        real = [j for j in range(7) if mask[b, j]]
        for k in range(3):
            scores = {j: math.exp(float(unit(texts[b, k]) @ unit(keys[b, j])) / 0.5) for j in real}
            soft = {j: s / sum(scores.values()) for j, s in scores.items()}
            best = sorted(soft, key=lambda j: -soft[j])[:3]
            expected = sum(soft[j] * keys[b, j] for j in best) / sum(soft[j] for j in best)
            assert_close(pooled[b, k], expected, 1e-5)
            assert_close(weights[b, k], torch.tensor([soft.get(j, 0.0) for j in range(7)]), 1e-6)


def test_soft_top_k_pool_never_reads_padding(generator: torch.Generator) -> None:
    texts, keys = randn(generator, 1, 2, 4), randn(generator, 1, 5, 4)
    mask = torch.tensor([[True, True, False, True, False]])
    clean = region_losses.soft_top_k_pool(texts, keys, mask, top_k=4)
    other = keys.masked_fill(~mask.unsqueeze(-1), 9e3)
    for a, b in zip(clean, region_losses.soft_top_k_pool(texts, other, mask, top_k=4), strict=True):
        assert torch.equal(a, b)
    few, _ = region_losses.soft_top_k_pool(texts, keys[:, :2], mask[:, :2], top_k=128)  # released code crashes here
    assert few.isfinite().all()


@pytest.mark.parametrize("normalize", ["balanced", "entries"])
def test_soft_top_k_equals_loops(generator: torch.Generator, normalize: region_losses.Normalize) -> None:
    pooled, texts = randn(generator, 2, 3, 4), randn(generator, 2, 3, 4)
    mask = torch.tensor([[True, True, True], [True, True, False]])
    keys = torch.tensor([[5, 1, 0], [5, 2, 0]])
    labels = 2 * torch.eye(6, dtype=torch.long) - 1
    labels[0, 3] = labels[3, 0] = 0  # the same sub-caption of both slides
    labels[5] = labels[:, 5] = 0
    logits = torch.zeros(6, 6)
    for i in range(6):
        for j in range(6):
            logits[i, j] = 10.0 * float(unit(pooled.view(6, 4)[i]) @ unit(texts.view(6, 4)[j])) - 2.0
    expected = 0.5 * (naive_pairs(logits, labels)[normalize] + naive_pairs(logits.T, labels)[normalize])
    ours = region_losses.soft_top_k(pooled, texts, 10.0, -2.0, normalize, sub_caption_mask=mask, sub_caption_keys=keys)
    assert ours.item() == pytest.approx(expected, rel=1e-5)


def test_soft_top_k_keeps_its_positives_as_the_batch_grows(generator: torch.Generator) -> None:
    """Released: the initial loss falls towards 0 as slides are added, for positives drown; ours does not."""
    values: dict[str, list[float]] = {"entries": [], "balanced": []}
    for num_slides in (4, 16):
        pooled, texts = randn(generator, num_slides, 8, 64), randn(generator, num_slides, 8, 64)
        for normalize, seen in values.items():
            seen.append(region_losses.soft_top_k(pooled, texts, 10.0, -10.0, normalize).item())  # type: ignore[arg-type]
    assert values["entries"][1] < 0.5 * values["entries"][0]
    assert values["balanced"][1] == pytest.approx(values["balanced"][0], rel=0.1)


# ------------------------------------------------------------------------------------------ precision


def test_similarities_are_float32_under_autocast(generator: torch.Generator) -> None:
    image, text = randn(generator, 4, 64), randn(generator, 4, 64)
    plain = losses.info_nce(image, text, 10.0)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(losses.info_nce(image, text, 10.0), plain)


def test_without_processes_gathering_is_the_identity(generator: torch.Generator) -> None:
    x = randn(generator, 3, 2).requires_grad_()
    assert losses.gather_with_grad(x) is x
    assert region_losses.gather_detached(x) is x
    assert losses.local_rows(3, 3) == slice(0, 3)
