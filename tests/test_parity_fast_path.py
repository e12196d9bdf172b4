"""Every shortcut equals the plain computation it replaces, in values and in gradients."""

import gc
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from parity import assert_close, encode
from pathflip.errors import ConfigError
from pathflip.models import build_config, build_model
from pathflip.models import cpu as product_module
from pathflip.models.cpu import Linear, MatrixStack, keep_laid_out, on_onednn, products
from pathflip.models.layers import (
    MultiHeadAttention,
    attend,
    dropout,
    feed_forward,
    pick_rows,
    place_rows,
)
from pathflip.models.text_tower import FeedForward, Packing, Pooling, TextConfig, TextEncoder
from pathflip.published import qformer
from pathflip.published.patch_attention import ChunkReader, PatchReader
from pathflip.published.qformer import PatchCrossAttention
from pathflip.published.qformer_model import PublishedConfig

TINY = TextConfig(vocab_size=50, width=16, num_layers=3, num_heads=4, ffn_width=32, max_tokens=40, dropout=0.0)


@pytest.fixture
def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def gradients(run: Callable[[], Tensor], *leaves: Tensor) -> list[Tensor]:
    """Value of ``run`` and the gradients of a random projection of it."""
    out = run()
    weights = torch.randn(out.shape, generator=torch.Generator().manual_seed(9))
    return [out.detach(), *torch.autograd.grad((out.float() * weights).sum(), leaves)]


def texts(generator: torch.Generator, lengths: list[int], width: int) -> tuple[Tensor, Tensor]:
    mask = torch.arange(width) < torch.tensor(lengths).unsqueeze(1)
    return torch.randint(1, 50, mask.shape, generator=generator), mask


# ------------------------------------------------------------------------------------------ text


@pytest.mark.parametrize("pooling", ["cls", "mean"])
def test_packed_texts_equal_padded_ones(generator: torch.Generator, pooling: Pooling) -> None:
    encoder = TextEncoder(TINY)
    for layer in encoder.layers:  # large weights, so that attention is not flat
        for parameter in layer.parameters():
            nn.init.normal_(parameter, std=0.3)
    blocks = [texts(generator, [30, 17, 16, 3], 33), texts(generator, [1, 9, 8, 0, 12, 12], 14)]
    blocks[0][1][1, 4:7] = False  # a hole
    parameters = list(encoder.parameters())[:-1]
    packed = gradients(lambda: torch.cat(encoder(blocks, pooling)), *parameters)

    def padded() -> Tensor:
        rows = []
        for ids, mask in blocks:
            mask = mask.clone()
            mask[:, 0] = True
            x = encoder.embeddings(ids, torch.arange(ids.shape[1]).expand_as(ids))
            for layer in encoder.layers:
                x = layer.text(x, mask)
            mean = (x * mask.unsqueeze(-1)).sum(1) / mask.sum(1, keepdim=True)
            rows.append(x[:, 0] if pooling == "cls" else mean)
        return torch.cat(rows)

    for ours, plain in zip(packed, gradients(padded, *parameters), strict=True):
        torch.testing.assert_close(ours, plain, rtol=1e-4, atol=2e-5)


def test_packing_keeps_every_token_once(generator: torch.Generator) -> None:
    blocks = [texts(generator, [5, 9, 1], 9), texts(generator, [7, 2], 7)]
    packing = Packing([mask for _, mask in blocks])
    tokens = packing.tokens([ids for ids, _ in blocks])
    assert packing.sizes.tolist() == [9, 7, 5, 2, 1]
    expected = torch.cat([blocks[0][0][1], blocks[1][0][0], blocks[0][0][0, :5], blocks[1][0][1, :2]])
    assert torch.equal(tokens[:-1], expected)
    rows = tokens[packing.starts].float().unsqueeze(1)
    first = torch.cat([ids[:, 0] for ids, _ in blocks])
    assert torch.equal(packing.unsort(rows).squeeze(1).long(), first)


def test_too_long_a_text_is_refused(generator: torch.Generator) -> None:
    with pytest.raises(ConfigError, match="texts of 41 tokens, expected at most 40"):
        TextEncoder(TINY)([texts(generator, [41], 41)])


# ------------------------------------------------------------------------------------------ attention over patches


@pytest.mark.parametrize("masked", [False, True])
def test_patches_need_no_projection(generator: torch.Generator, masked: bool) -> None:
    """Folding the projections into the queries equals projecting every patch."""
    block = PatchCrossAttention(width=12, key_dim=7, num_heads=3, dropout=0.0, eps=1e-5)
    for parameter in block.parameters():
        nn.init.normal_(parameter, std=0.5, generator=generator)
    h = torch.randn(2, 5, 3, 12, generator=generator, requires_grad=True)
    x = torch.randn(2, 4, 6, 7, generator=generator, requires_grad=True)
    mask = torch.ones(2, 4, 6, dtype=torch.bool)
    if masked:
        mask[0, 1, 2:] = mask[1, 3, 5:] = False

    def projected() -> Tensor:
        def over(queries: Tensor, patches: Tensor, real: Tensor) -> Tensor:
            heads = [
                rows.unflatten(-1, (3, 4)).transpose(-2, -3)
                for rows in (block.query(queries), block.key(patches), block.value(patches))
            ]
            scores = (heads[0] @ heads[1].mT / 2.0).masked_fill(~real[..., None, None, :], float("-inf"))
            return (scores.softmax(-1) @ heads[2]).transpose(-2, -3).flatten(-2)

        slide = over(h[:, :1], x.flatten(1, 2).unsqueeze(1), mask.flatten(1).unsqueeze(1))
        return block.norm(h + block.out(torch.cat([slide, over(h[:, 1:], x, mask)], dim=1)))

    leaves = [h, x, *block.parameters()]
    ours = gradients(lambda: block(h, x, mask if masked else None), *leaves)
    for a, b in zip(ours, gradients(projected, *leaves), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=2e-5)


def test_dropped_weights_scale_the_value_bias(generator: torch.Generator) -> None:
    """With all values equal to the value bias, what is found is the bias times what dropout left of the weights."""
    block = PatchCrossAttention(width=4, key_dim=3, num_heads=1, dropout=0.5, eps=1e-5).train()
    nn.init.zeros_(block.value.weight)
    nn.init.ones_(block.value.bias)
    mass = torch.tensor([[[0.0, 2.0]]])
    assert_close(block._apply_values(torch.zeros(1, 1, 2, 3), mass)[0, 0], torch.tensor([[0.0] * 4, [2.0] * 4]))


@pytest.mark.parametrize("masked", [False, True])
def test_dropped_reading_equals_plain_autograd(generator: torch.Generator, masked: bool) -> None:
    """The hand-written backward of reading with dropout, against autograd of the same formula and the same draws."""
    u = torch.randn(2, 4, 6, 5, generator=generator, requires_grad=True)
    x = torch.randn(2, 3, 7, 5, generator=generator, requires_grad=True)
    mask = None
    if masked:
        mask = torch.rand(2, 3, 7, generator=generator) < 0.6
        mask[0, 1] = False  # a region without any patch
        mask[:, 0, 0] = True

    def joined(found: Tensor, mass: Tensor | None) -> Tensor:
        assert mass is not None
        return torch.cat([found, mass.unsqueeze(-1)], dim=-1)

    def ours() -> Tensor:
        torch.manual_seed(3)
        return joined(*qformer._read(u, x, mask, 0.3))

    def plain() -> Tensor:
        torch.manual_seed(3)
        parts = [qformer._read_plainly(*part, 0.3) for part in qformer._slide_and_regions(u, x, mask)]
        slide, regions = [joined(*part) for part in parts]
        return torch.cat([slide.unsqueeze(1), regions], dim=1)

    for a, b in zip(gradients(ours, u, x), gradients(plain, u, x), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)
    assert_close(qformer._read(u[:, 1:], x, mask, 0.0)[0], qformer._read(u, x, mask, 0.0)[0][:, 1:], 1e-6)


# ------------------------------------------------------------------------------------------ small parts


def test_linear_and_feed_forward(generator: torch.Generator) -> None:
    up, down, plain = Linear(6, 10), nn.Linear(10, 6), nn.Linear(6, 10)
    plain.load_state_dict(up.state_dict())
    x = torch.randn(3, 5, 6, generator=generator, requires_grad=True)
    leaves = (x, up.weight, up.bias)
    for a, b in zip(
        gradients(lambda: up(x), *leaves), gradients(lambda: plain(x), x, *plain.parameters()), strict=True
    ):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)
    leaves = (*leaves, *down.parameters())
    ours = gradients(lambda: feed_forward(x, up, down), *leaves)
    for a, b in zip(ours, gradients(lambda: down(F.gelu(F.linear(x, up.weight, up.bias))), *leaves), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_feed_forward_under_autocast(generator: torch.Generator, dtype: torch.dtype) -> None:
    up, down = nn.Linear(16, 32), nn.Linear(32, 16)
    x = torch.randn(4, 16, generator=generator)
    with torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16):
        ours, plain = feed_forward(x, up, down), down(F.gelu(up(x)))
    assert ours.dtype == plain.dtype == dtype
    assert_close(ours.float(), plain.float(), 1e-2)
    ours.float().sum().backward()
    assert up.weight.grad is not None
    assert up.weight.grad.dtype == torch.float32


def test_dropout_keeps_the_mean_and_follows_the_seed() -> None:
    x = torch.ones(401, 997, requires_grad=True)
    torch.manual_seed(1)
    a = dropout(x, 0.1)
    torch.manual_seed(1)
    assert torch.equal(a, dropout(x, 0.1))
    assert (a == 0).float().mean().item() == pytest.approx(0.1, abs=0.003)
    assert a.mean().item() == pytest.approx(1.0, abs=0.003)
    for start in range(4):  # four draws out of one integer: each fair, and none the copy of another
        assert (a.flatten()[start::4] == 0).float().mean().item() == pytest.approx(0.1, abs=0.005)
    dropped = (a == 0).flatten()[: 4 * 99000].view(-1, 4).float()
    assert torch.corrcoef(dropped.T).fill_diagonal_(0).abs().max() < 0.02
    a.sum().backward()
    assert x.grad is not None
    assert torch.equal(x.grad, a.detach())
    assert dropout(x, 0.1, training=False) is x
    assert dropout(x, 0.0) is x


def test_rows_placed_and_picked(generator: torch.Generator) -> None:
    rows = torch.randn(4, 3, generator=generator, requires_grad=True)
    index = torch.tensor([5, 0, 2, 6])
    plain = gradients(lambda: torch.zeros(8, 3).index_put((index,), rows), rows)
    for a, b in zip(gradients(lambda: place_rows(rows, index, 8), rows), plain, strict=True):
        assert torch.equal(a, b)
    some = torch.tensor([3, 1])
    for a, b in zip(gradients(lambda: pick_rows(rows, some), rows), gradients(lambda: rows[some], rows), strict=True):
        assert torch.equal(a, b)


def test_fused_and_explicit_attention_agree(generator: torch.Generator) -> None:
    q, k, v = (torch.randn(2, 3, n, 8, generator=generator) for n in (4, 6, 6))
    mask = torch.rand(2, 1, 1, 6, generator=generator) < 0.7
    mask[..., 0] = True
    explicit = ((q @ k.mT / 8**0.5).masked_fill(~mask, float("-inf")).softmax(-1)) @ v
    assert_close(attend(q, k, v, mask), explicit, 1e-6)
    kept = torch.stack([attend(q, k, v, mask, drop=0.2) for _ in range(500)]).mean(0)
    assert_close(kept, explicit, 0.3)


def test_attention_without_any_key_is_finite(generator: torch.Generator) -> None:
    attention, x = MultiHeadAttention(8, 2), torch.randn(2, 3, 8, generator=generator)
    mask = torch.tensor([[True, False, True], [False, False, False]])
    assert attention(x, x, x, mask).isfinite().all()
    assert attention.weights(x, x, mask)[1].abs().sum() == 0


def test_bfloat16_is_close_to_float32() -> None:
    torch.manual_seed(0)
    model = build_model(
        PublishedConfig(feature_dim=8, vocab_size=50, embed_dim=16, width=32, num_layers=2, num_heads=4)
    )
    model.eval()
    patches, mask = torch.randn(2, 3, 5, 8), torch.ones(2, 3, 5, dtype=torch.bool)
    plain = encode(model, patches, mask).slide
    with torch.autocast("cpu", torch.bfloat16):
        assert_close(encode(model, patches, mask).slide.float(), plain, 0.1)


# ------------------------------------------------------------------------------------------ configs


def test_configs_are_built_by_kind_and_refused_by_name() -> None:
    sizes = {"feature_dim": 8, "vocab_size": 50, "embed_dim": 16}
    small = {"width": 32, "num_layers": 1, "num_heads": 4, "ffn_width": 64}
    model = build_model({"kind": "published", **sizes, **small})
    assert build_model(model.config.model_dump()).config == model.config
    with pytest.raises(ConfigError, match="model kind: got 'nonsense', expected one of pathflip, published"):
        build_model({"kind": "nonsense"})
    with pytest.raises(ConfigError, match="model published, setting depth"):
        build_config({"kind": "published", **sizes, "depth": 3})
    with pytest.raises(ConfigError, match=r"embed_dim: got 20, expected a multiple of mixing_heads 8"):
        build_model({"kind": "published", **sizes, **small, "embed_dim": 20})
    with pytest.raises(ConfigError, match="patch features are 9 wide, expected 8"):
        encode(model, torch.zeros(1, 1, 2, 9))


# ------------------------------------------------------------------------------------------ the whole step


def test_published_schedule_gives_the_same_step(monkeypatch: pytest.MonkeyPatch) -> None:
    """The bench's published schedule and the model: same outputs, losses and gradients at a small size."""
    monkeypatch.syspath_prepend(str(Path(__file__).parents[1] / "bench"))
    sizes = {"width": 32, "num_layers": 3, "num_heads": 4, "ffn_width": 64, "feature_dim": 16, "vocab_size": 99}
    import align_step

    monkeypatch.setitem(align_step.SIZES, "tiny", {**sizes, "embed_dim": 16})
    case = align_step.Case("ours", job="equal", size="tiny", B=3, L=4, S=6, K=3, padded=(128, 64))
    torch.manual_seed(0)
    assert align_step.difference(case, *align_step.prepared(case)) < 1e-5
    sys.modules.pop("align_step")


# ------------------------------------------------------------------------------------------ pre-norm towers, products


def test_a_pre_norm_tower_is_torchs_own_encoder(generator: torch.Generator) -> None:
    config = TINY.model_copy(update={"norm_first": True, "token_types": False, "eps": 1e-5})
    tower = TextEncoder(config).eval()
    reference = nn.ModuleList(
        nn.TransformerEncoderLayer(16, 4, 32, 0.0, activation="gelu", batch_first=True, norm_first=True)
        for _ in range(config.num_layers)
    )
    for ours, theirs in zip(tower.layers, reference, strict=True):
        attention, ffn = ours.self_attention, ours.ffn
        parts = (attention.query, attention.key, attention.value)
        theirs.self_attn.in_proj_weight.data = torch.cat([part.weight for part in parts]).detach()
        theirs.self_attn.in_proj_bias.data = torch.cat([part.bias for part in parts]).detach()
        theirs.self_attn.out_proj.load_state_dict(attention.out.state_dict())
        theirs.norm1.load_state_dict(attention.norm.state_dict())
        theirs.norm2.load_state_dict(ffn.norm.state_dict())
        theirs.linear1.load_state_dict(ffn.up.state_dict())
        theirs.linear2.load_state_dict(ffn.down.state_dict())
    ids, mask = texts(generator, [9, 30, 12, 1], 31)
    hidden = tower.embeddings.word(ids) + tower.embeddings.position.weight[:31]
    for layer in reference:
        hidden = layer(hidden, src_key_padding_mask=~mask)
    hidden = torch.where(mask[..., None], tower.norm(hidden), 0)
    (pooled,) = tower([(ids, mask)], "mean")
    assert_close(pooled, hidden.sum(1) / mask.sum(1, keepdim=True), 1e-6)
    (first,) = tower([(ids, mask)], "cls")
    assert_close(first, hidden[:, 0], 1e-6)


def test_word_dropout_hides_whole_words_in_training_alone(generator: torch.Generator) -> None:
    config = TINY.model_copy(update={"norm_first": True, "token_types": False, "word_dropout": 0.5})
    embeddings = TextEncoder(config).embeddings
    ids = torch.randint(1, 50, (400,), generator=generator)
    places = torch.zeros_like(ids)
    shown = (embeddings(ids, places) - embeddings.position.weight[0]).abs().amax(1) > 0
    assert 0.35 < shown.float().mean() < 0.65
    assert ((embeddings.eval()(ids, places) - embeddings.position.weight[0]).abs().amax(1) > 0).all()


@pytest.mark.parametrize(("rows", "inner"), [(3, 5), (96, 130)], ids=["small", "oneDNN"])
def test_products_of_stacked_matrices(generator: torch.Generator, rows: int, inner: int) -> None:
    a = torch.randn(2, 3, rows, inner, generator=generator, requires_grad=True)
    b = torch.randn(2, 3, 140, inner, generator=generator, requires_grad=True)
    for ours, plain in zip(gradients(lambda: products(a, b.mT), a, b), gradients(lambda: a @ b.mT, a, b), strict=True):
        assert_close(ours, plain, 1e-4)


def test_linear_layers_of_others_are_sped_up_in_place(generator: torch.Generator) -> None:
    other = nn.Sequential(nn.Linear(8, 8, bias=False), nn.GELU(), nn.Linear(8, 3))
    x = torch.randn(5, 2, 8, generator=generator, requires_grad=True)
    before, names = gradients(lambda: other(x), x, *other.parameters()), list(other.state_dict())
    on_onednn(other)
    assert [type(part) for part in other] == [Linear, nn.GELU, Linear]
    assert list(other.state_dict()) == names
    for ours, plain in zip(gradients(lambda: other(x), x, *other.parameters()), before, strict=True):
        assert_close(ours, plain, 1e-6)


@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("slide", [False, True])
def test_answers_are_what_training_computes(generator: torch.Generator, padded: bool, slide: bool) -> None:
    block = PatchCrossAttention(16, 6, 4, 0.0, 1e-12)
    x = torch.randn(2, 3, 5, 6, generator=generator)
    mask = None
    if padded:
        mask = torch.rand(2, 3, 5, generator=generator) < 0.6
        mask[0, 1], mask[1, 2, :] = False, True
        x = x * mask.unsqueeze(-1)
    reader = PatchReader(x, mask, slide)
    one = torch.randn(1, 1, 4, 16, generator=generator)
    many = torch.randn(2, 3 + int(slide), 4, 16, generator=generator)
    for h in (one, many):
        with torch.no_grad():
            assert_close(block.answer(h, reader), block(h.expand_as(many), x, mask), 1e-5)


def test_a_slide_in_chunks_is_read_as_a_whole(generator: torch.Generator) -> None:
    block = PatchCrossAttention(16, 6, 4, 0.0, 1e-12)
    x = 3 * torch.randn(2, 1, 12, 6, generator=generator)
    mask = torch.rand(2, 1, 12, generator=generator) < 0.6
    mask[:, :, :4], mask[:, :, 9:] = False, True  # one chunk without any patch, one of real ones only
    x = x * mask.unsqueeze(-1)
    parts = [(x[:, 0, a:b], None if a == 9 else mask[:, 0, a:b]) for a, b in ((0, 4), (4, 9), (9, 12))]
    h = torch.randn(2, 1, 4, 16, generator=generator)
    with torch.no_grad():
        assert_close(block.answer(h, ChunkReader(parts)), block(h, x, mask), 1e-5)
        assert_close(block.answer(h[:1], ChunkReader(parts)), block(h[:1].expand_as(h), x, mask), 1e-5)


@pytest.mark.parametrize("shape", [(3, 2, 4, 5), (40, 6, 33, 90), (1, 1, 1024, 1030)], ids=str)
def test_matrices_meet_rows_of_their_own(generator: torch.Generator, shape: tuple[int, int, int, int]) -> None:
    num_rows, groups, width, inner = shape
    matrices = torch.randn(groups, width, inner, generator=generator)
    for stored in (matrices, matrices.mT.contiguous().mT):
        stack = MatrixStack(stored)
        for count in (num_rows, num_rows, num_rows + 7):
            rows = torch.randn(count, groups, inner, generator=generator)
            assert_close(stack(rows), torch.einsum("mgk,gnk->mgn", rows, matrices), 2e-4)
        spread = torch.randn(groups, num_rows, inner, generator=generator).transpose(0, 1)
        assert_close(stack(spread), torch.einsum("mgk,gnk->mgn", spread, matrices), 2e-4)


@pytest.mark.parametrize("rows", [1, 9, 300])
def test_a_kept_layout_changes_no_product(generator: torch.Generator, rows: int) -> None:
    block = FeedForward(96, 200, 0.0, 1e-12).requires_grad_(False)
    layers, x = nn.Sequential(Linear(96, 96), block), torch.randn(rows, 96, generator=generator)
    layers.requires_grad_(False)
    before = layers(x)
    keep_laid_out(layers)
    for _ in range(2):  # laid out, and from what was kept
        assert_close(layers(x), before, 1e-5)
    assert product_module._laid_out[block.up.weight] is not None
    assert_close(F.linear(x, layers[0].weight), x @ layers[0].weight.T, 1e-5)  # the weights themselves are as they were


@pytest.mark.parametrize("how", ["in place", "load_state_dict", "to", "other data"])
def test_a_weight_that_changed_is_laid_out_anew(generator: torch.Generator, how: str) -> None:
    layer, other = (Linear(64, 64).requires_grad_(False) for _ in range(2))
    x = torch.randn(50, 64, generator=generator)
    keep_laid_out(layer)
    layer(x)
    if how == "in place":
        layer.weight.mul_(0.5)
    elif how == "load_state_dict":
        layer.load_state_dict(other.state_dict())
    elif how == "to":
        layer.to(torch.bfloat16).to(torch.float32)  # most often to the same address
    else:
        layer.weight.data = other.weight.data
    assert_close(layer(x), x @ layer.weight.T + layer.bias, 1e-5)


def test_training_does_not_see_kept_layouts(generator: torch.Generator) -> None:
    layer, x = Linear(64, 64).requires_grad_(False), torch.randn(50, 64, generator=generator)
    keep_laid_out(layer)
    layer(x)
    layer.requires_grad_(True)
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.1)
    for _ in range(2):
        optimizer.zero_grad()
        layer(x).square().mean().backward()
        ours = layer.weight.grad.clone()
        layer.zero_grad()
        F.linear(x, layer.weight, layer.bias).square().mean().backward()
        assert_close(ours, layer.weight.grad, 1e-5)
        optimizer.step()
        layer.requires_grad_(False)
        assert_close(layer(x), x @ layer.weight.T + layer.bias, 1e-5)
        layer.requires_grad_(True)


def test_kept_layouts_go_with_their_weights() -> None:
    layer = Linear(64, 64).requires_grad_(False)
    keep_laid_out(layer)
    layer(torch.ones(2, 64))
    gc.collect()  # what other tests left
    count = len(product_module._laid_out)
    del layer
    gc.collect()
    assert len(product_module._laid_out) == count - 1
