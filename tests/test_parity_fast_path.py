"""Every shortcut equals the plain computation it replaces, in values and in gradients."""

import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from parity import assert_close, encode
from pathflip.errors import ConfigError
from pathflip.models import build_config, build_model
from pathflip.models.cpu import accelerate_for_cpu
from pathflip.models.layers import MultiHeadAttention, attend
from pathflip.models.text_tower import Packing, Pooling, TextConfig, TextEncoder
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


# ------------------------------------------------------------------------------------------ small parts


def test_fused_and_explicit_attention_agree(generator: torch.Generator) -> None:
    q, k, v = (torch.randn(2, 3, n, 8, generator=generator) for n in (4, 6, 6))
    mask = torch.rand(2, 1, 1, 6, generator=generator) < 0.7
    mask[..., 0] = True
    explicit = ((q @ k.mT / 8**0.5).masked_fill(~mask, float("-inf")).softmax(-1)) @ v
    assert_close(attend(q, k, v, mask), explicit, 1e-6)
    mean = torch.stack([attend(q, k, v, mask, drop=0.2) for _ in range(500)]).mean(0)
    assert_close(mean, explicit, 0.3)


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


# ------------------------------------------------------------------------------------------ pre-norm towers, answers


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


def test_accelerated_layers_give_the_same_values_and_gradients(generator: torch.Generator) -> None:
    model = nn.Sequential(nn.Linear(96, 200, bias=False), nn.GELU(), nn.Linear(200, 3))
    x = torch.randn(5, 40, 96, generator=generator, requires_grad=True)
    before, names = gradients(lambda: model(x), x, *model.parameters()), list(model.state_dict())
    assert accelerate_for_cpu(model) is model
    assert type(model[0]) is not nn.Linear
    assert list(model.state_dict()) == names
    for ours, plain in zip(gradients(lambda: model(x), x, *model.parameters()), before, strict=True):
        torch.testing.assert_close(ours, plain, rtol=1e-4, atol=1e-4)
    with torch.no_grad():
        torch.testing.assert_close(model(x), before[0], rtol=1e-4, atol=1e-4)
        assert model(x[:, :0]).shape == (5, 0, 3)
    with torch.autocast("cpu", torch.bfloat16):
        assert model(x).dtype == torch.bfloat16
