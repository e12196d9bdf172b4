"""What the language models read, and say, equals the released code.

The README of tests/fixtures/pf1_llm and pf2_vlm is the specification.
"""

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import pad
from transformers import Qwen3Config, Qwen3ForCausalLM

from parity import LOSS, assert_close, assert_gradients, encode, numbers, tensors
from pathflip.errors import ConfigError
from pathflip.published.latent_model import AS_RELEASED as PERCEIVER_AS_RELEASED
from pathflip.published.latent_model import PerceiverConfig, PerceiverPathFLIP
from pathflip.published.parameter_names import from_published, published_name, to_published
from pathflip.published.qformer_model import PublishedConfig, PublishedPathFLIP
from pathflip.published.splice import (
    AS_RELEASED,
    IGNORED,
    LatentPrefix,
    SlidePrefix,
    Spliced,
    attention_scores,
    cosine_scores,
    prompt_prefix,
    select_patches,
    splice_caption,
    splice_visual,
)
from pathflip.types import SlideCode

IN1, OUT1, W1 = (tensors("pf1_llm", name) for name in ("inputs", "expected", "weights"))
IN2, OUT2, W2 = (tensors("pf2_vlm", name) for name in ("inputs", "expected", "weights"))
IMAGE1, IMAGE2 = int(IN1["image_token_id"]), numbers("pf2_vlm", "config")["image_token_id"]
LOGITS = 2e-4  # absolute, where the mask is 1
END = 2  # eos_token_id of both tiny language models
TAGS = ["cosine", "attn"]
LORA_PREFIX = "llm_model.base_model.model."


class LowRank(nn.Module):
    """A linear layer with LoRA, by hand: W + 2 B A. Parameter names are the released ones."""

    def __init__(self, base: nn.Linear) -> None:
        super().__init__()
        self.base_layer = base.requires_grad_(False)
        self.lora_A = nn.ModuleDict({"default": nn.Linear(base.in_features, 16, bias=False)})
        self.lora_B = nn.ModuleDict({"default": nn.Linear(16, base.out_features, bias=False)})

    def forward(self, x: Tensor) -> Tensor:
        return self.base_layer(x) + 2.0 * self.lora_B["default"](self.lora_A["default"](x))


def language_model(fixture: str, prefix: str, weights: dict[str, Tensor]) -> Qwen3ForCausalLM:
    config = numbers(fixture, "config")
    llm = Qwen3ForCausalLM(Qwen3Config(**config["llm"])).eval()
    if "lora" in config:
        llm.requires_grad_(False)
        targets = config["lora"]["targets"]
        for name, layer in [(n, m) for n, m in llm.named_modules() if n.split(".")[-1] in targets]:
            parent, _, leaf = name.rpartition(".")
            setattr(llm.get_submodule(parent), leaf, LowRank(layer))
    llm.load_state_dict({k.removeprefix(prefix): v for k, v in weights.items() if k.startswith(prefix)})
    return llm


def under(weights: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {key.removeprefix(prefix): value for key, value in weights.items() if key.startswith(prefix)}


def run(llm: Qwen3ForCausalLM, x: Spliced, positions: bool = False, labels: bool = False) -> Any:
    return llm(
        inputs_embeds=x.embeds,
        attention_mask=x.mask,
        position_ids=x.position_ids if positions else None,
        labels=x.labels if labels else None,
        use_cache=False,
    )


@torch.no_grad()
def greedy(llm: Qwen3ForCausalLM, x: Spliced, steps: int = 6) -> Tensor:
    """The naive loop: the whole sequence again for every token. Rows end with a real position."""
    tokens = []
    for _ in range(steps):
        token = run(llm, x, positions=True).logits[:, -1:].argmax(dim=-1)
        tokens.append(token)
        embeds = torch.cat([x.embeds, llm.get_input_embeddings()(token)], dim=1)
        x = Spliced(embeds, pad(x.mask, (0, 1), value=True), pad(x.labels, (0, 1)))
    return torch.cat(tokens, dim=1)


# ------------------------------------------------------------------------------------------ variant 1


class CaptionTuning(nn.Module):
    """Variant 1's parts with the fixture's weights."""

    def __init__(self) -> None:
        super().__init__()
        sizes = {"feature_dim": 48, "vocab_size": 201, "embed_dim": 32, "width": 64, "num_layers": 4}
        more = {"num_heads": 4, "ffn_width": 128, "max_tokens": 64, "num_queries": 4}
        self.visual = PublishedPathFLIP(PublishedConfig(**sizes, **more)).eval()  # type: ignore[arg-type]
        seen = {k: v for k, v in W1.items() if not k.startswith(("llm_model.", "path_proj_llm."))}
        unseen = {k: v for k, v in to_published(self.visual, "published").items() if k not in seen}
        assert all(name.startswith(("fg_head.", "logit_scale")) for name in unseen)  # no part in this stage
        self.visual.load_state_dict(from_published(seen | unseen, self.visual, "published"))
        self.prefix = SlidePrefix(32, 64)
        self.prefix.proj.load_state_dict(under(W1, "path_proj_llm."))
        self.llm = language_model("pf1_llm", LORA_PREFIX, W1)

    def slides(self) -> SlideCode:
        return encode(self.visual, IN1["path"])

    def embeds(self) -> Tensor:
        code = self.slides()
        return self.prefix(code.slide, code.patches)

    def splice(self, **settings: Any) -> Spliced:
        texts = IN1["text_ids"], IN1["text_mask"].bool()
        table = self.llm.get_input_embeddings()
        return splice_caption(self.embeds(), IN1["prompt_ids"][0], *texts, IMAGE1, table, **settings)

    def grads(self) -> dict[str, Tensor | None]:
        named = {published_name(n, "published"): p.grad for n, p in self.visual.named_parameters()}
        named |= {f"path_proj_llm.{n}": p.grad for n, p in self.prefix.proj.named_parameters()}
        return named | {LORA_PREFIX + n: p.grad for n, p in self.llm.named_parameters() if p.requires_grad}


@pytest.fixture(scope="module")
def tuning() -> CaptionTuning:
    return CaptionTuning()


@torch.no_grad()
def test_variant_1_sequence(tuning: CaptionTuning) -> None:
    code = tuning.slides()
    feats = torch.cat([code.slide.unsqueeze(1), code.patches], dim=1)
    assert_close(feats, OUT1["path_feats"], name="path_feats")
    assert_close(tuning.embeds(), OUT1["image_embeds"], name="image_embeds")
    spliced = tuning.splice(**AS_RELEASED)
    assert_close(spliced.embeds, OUT1["inputs_embeds"], name="inputs_embeds")
    assert torch.equal(spliced.mask.long(), OUT1["attention_mask"])
    assert torch.equal(spliced.labels, OUT1["labels"])


def test_variant_1_logits_loss_and_every_gradient(tuning: CaptionTuning) -> None:
    tuning.zero_grad()
    spliced = tuning.splice(**AS_RELEASED)
    out = run(tuning.llm, spliced, labels=True)
    assert_close(out.logits[spliced.mask], OUT1["logits"][spliced.mask], LOGITS, "logits")
    torch.testing.assert_close(out.loss, OUT1["loss"], rtol=LOSS, atol=0)
    out.loss.backward()
    norms = numbers("pf1_llm", "grad_norms")
    assert {name for name in norms if name.startswith("llm_model.")} == {n for n in tuning.grads() if "lora" in n}
    assert_gradients(tuning.grads(), norms)


@torch.no_grad()
def test_variant_1_greedy_tokens(tuning: CaptionTuning) -> None:
    table = tuning.llm.get_input_embeddings()
    prefix = prompt_prefix(tuning.embeds(), IN1["prompt_ids"][0], IMAGE1, table, keep_prompt_before=False)
    assert prefix.embeds.shape[1] == OUT1["greedy_prefix_len"]
    assert torch.equal(greedy(tuning.llm, prefix), OUT1["greedy_ids"])


@torch.no_grad()
def test_instruction_is_read_unless_released(tuning: CaptionTuning) -> None:
    """39 of the prompt's 51 tokens stand before the image token; the release drops them."""
    table, prompt = tuning.llm.get_input_embeddings(), IN1["prompt_ids"][0]
    right, released = tuning.splice(end_token=None), tuning.splice(**AS_RELEASED)
    assert right.embeds.shape[1] == released.embeds.shape[1] + 39
    assert torch.equal(right.embeds[:, :40], table(prompt[:40]).expand(3, -1, -1))
    assert torch.equal(right.embeds[:, 39:], released.embeds)
    last = [run(tuning.llm, x).logits[:, -25] for x in (right, released)]  # the position that predicts the first word
    assert (last[0] - last[1]).abs().max() > 0.01


@torch.no_grad()
def test_end_is_learned_unless_released(tuning: CaptionTuning) -> None:
    released, right = tuning.splice(**AS_RELEASED), tuning.splice(end_token=END, keep_prompt_before=False)
    lengths = IN1["text_mask"].sum(dim=1).tolist()
    for i, n in enumerate(lengths):
        assert right.labels[i, 18:].tolist() == IN1["text_ids"][i, :n].tolist() + [END] + [IGNORED] * (24 - n)
        assert right.mask[i].sum() == 18 + n + 1
        assert torch.equal(right.embeds[i, 18 + n], tuning.llm.get_input_embeddings().weight[END])
    assert not (released.labels == END).any()
    assert (right.labels != IGNORED).sum() == (released.labels != IGNORED).sum() + 3
    assert run(tuning.llm, right, labels=True).loss != run(tuning.llm, released, labels=True).loss


def test_end_is_not_put_twice() -> None:
    ids = torch.tensor([[5, END, 0], [5, 6, 7], [0, 0, 0]])
    mask = torch.tensor([[1, 1, 0], [1, 1, 1], [0, 0, 0]]).bool()
    table = nn.Embedding(10, 4)
    spliced = splice_caption(torch.ones(3, 2, 4), torch.tensor([3, 9]), ids, mask, 9, table, end_token=END)
    assert spliced.labels[:, 4:].tolist() == [[5, END, -100, -100], [5, 6, 7, END], [END, -100, -100, -100]]


@torch.no_grad()
def test_padded_regions_are_not_read(tuning: CaptionTuning) -> None:
    """A slide of 3 regions gives the same logits alone and beside slides of 5, whatever its padding holds."""
    table, prompt = tuning.llm.get_input_embeddings(), IN1["prompt_ids"][0]
    visual, mask = tuning.embeds(), torch.ones(3, 6, dtype=torch.bool)
    mask[1, 4:] = False
    alone = run(tuning.llm, prompt_prefix(visual[1:2, :4], prompt, IMAGE1, table)).logits
    dirty = visual.masked_fill(~mask.unsqueeze(-1), float("nan"))
    beside = prompt_prefix(dirty, prompt, IMAGE1, table, visual_mask=mask)
    logits = run(tuning.llm, beside, positions=True).logits[1:2]
    assert_close(logits[:, beside.mask[1]], alone, 1e-5, "logits beside padding")


@pytest.mark.parametrize("prompt", [[1, 2, 3], [9, 1, 9]])
def test_prompt_without_one_image_token(prompt: list[int]) -> None:
    with pytest.raises(ConfigError, match=r"image token 9 (0|2) times, expected once"):
        prompt_prefix(torch.zeros(1, 2, 4), torch.tensor(prompt), 9, nn.Embedding(10, 4))


def test_captions_padded_on_the_left_are_refused() -> None:
    ids, mask = torch.tensor([[0, 5]]), torch.tensor([[False, True]])
    with pytest.raises(ConfigError, match="on the right"):
        splice_caption(torch.zeros(1, 2, 4), torch.tensor([9]), ids, mask, 9, nn.Embedding(10, 4), end_token=END)


# ------------------------------------------------------------------------------------------ variant 2


class Assistant(nn.Module):
    """Variant 2's parts with the fixture's weights."""

    def __init__(self) -> None:
        super().__init__()
        sizes = {"feature_dim": 48, "vocab_size": 200, "embed_dim": 32, "num_heads": 4, "text_width": 64}
        more = {"text_layers": 2, "text_heads": 4, "text_ffn_width": 128, "max_tokens": 64}
        choices = {**PERCEIVER_AS_RELEASED, "pooling": "cls", "region_loss": "text_conditioned"}
        self.visual = PerceiverPathFLIP(PerceiverConfig(**sizes, **more, **choices)).eval()  # type: ignore[arg-type]
        seen = {k: v for k, v in W2.items() if not k.startswith(("llm.", "image_proj_llm"))}
        # the release gives the head another name here than in alignment, and so never loads what alignment trained
        seen = {k.replace("fine_gained_head.", "fine_gained_loss_head."): v for k, v in seen.items()}
        unseen = {k: v for k, v in to_published(self.visual, "perceiver").items() if k not in seen}
        assert all("_global." in name or "logit" in name for name in unseen)  # no part in this stage
        self.visual.load_state_dict(from_published(seen | unseen, self.visual, "perceiver"))
        self.prefix = LatentPrefix(32, 64)
        self.prefix.local.load_state_dict(under(W2, "image_proj_llm_local."))
        self.prefix.latent.load_state_dict(under(W2, "image_proj_llm_latten."))
        self.llm = language_model("pf2_vlm", "llm.", W2)

    def encode(self) -> tuple[Tensor, Tensor, Tensor]:
        """Question, patches, latents."""
        tokens, features = self.visual.encode_patches(IN2["image"], torch.ones(3, 20, dtype=torch.bool))
        texts = ("", "", ""), IN2["input_ids_query"], IN2["attn_mask_query"].bool()
        query = self.visual.encode_texts(*texts, torch.zeros(3, dtype=torch.bool)).local
        return query, self.visual.key_head(features), tokens[:, 1:]

    def scores(self, tag: str, query: Tensor, patches: Tensor) -> Tensor:
        if tag == "cosine":
            return cosine_scores(query, patches)
        assert self.visual.region_head is not None
        return attention_scores(self.visual.region_head, query, patches)

    def embeds(self, tag: str) -> Tensor:
        query, patches, latents = self.encode()
        selected, _, _ = select_patches(patches, self.scores(tag, query, patches), 5)
        return self.prefix(selected, latents)

    def splice(self, visual: Tensor, ids: str = "input_ids", labels: bool = True, **settings: Any) -> Spliced:
        return splice_visual(
            visual,
            IN2[ids],
            IN2["attn_mask"].bool(),
            IMAGE2,
            self.llm.get_input_embeddings(),
            labels=IN2["labels"] if labels else None,
            **settings,
        )

    def grads(self) -> dict[str, Tensor | None]:
        named = {published_name(n, "perceiver"): p.grad for n, p in self.visual.named_parameters()}
        named = {k.replace("fine_gained_loss_head.", "fine_gained_head."): v for k, v in named.items()}
        names = {"local": "image_proj_llm_local", "latent": "image_proj_llm_latten"}
        for ours, theirs in names.items():
            named |= {f"{theirs}.{n}": p.grad for n, p in self.prefix.get_submodule(ours).named_parameters()}
        return named | {f"llm.{n}": p.grad for n, p in self.llm.named_parameters()}


@pytest.fixture(scope="module")
def assistant() -> Assistant:
    return Assistant()


@torch.no_grad()
@pytest.mark.parametrize("tag", TAGS)
def test_variant_2_selection(assistant: Assistant, tag: str) -> None:
    query, patches, latents = assistant.encode()
    assert_close(query, OUT2["query"], name="query")
    assert_close(patches, OUT2["patch_local"], name="patch_local")
    assert_close(latents, OUT2["latents"], name="latents")
    scores = assistant.scores(tag, query, patches)
    assert_close(scores, OUT2[f"scores.{tag}"], name="scores")
    selected, index, real = select_patches(patches, scores, 5)
    assert torch.equal(index, OUT2[f"topk_indices.{tag}"])
    assert_close(selected, OUT2[f"selected.{tag}"], name="selected")
    assert real.all()


@torch.no_grad()
@pytest.mark.parametrize("tag", TAGS)
def test_variant_2_sequence(assistant: Assistant, tag: str) -> None:
    visual = assistant.embeds(tag)
    assert_close(visual, OUT2[f"image_embeds.{tag}"], name="image_embeds")
    spliced = assistant.splice(visual)
    assert_close(spliced.embeds, OUT2[f"inputs_embeds.{tag}"], name="inputs_embeds")
    assert torch.equal(spliced.mask.long(), OUT2["spliced_attention_mask"])
    assert torch.equal(spliced.labels, OUT2["spliced_labels"])


@pytest.mark.parametrize("tag", TAGS)
def test_variant_2_logits_loss_and_every_gradient(assistant: Assistant, tag: str) -> None:
    assistant.zero_grad()
    spliced = assistant.splice(assistant.embeds(tag))
    out = run(assistant.llm, spliced, labels=True)
    assert_close(out.logits[spliced.mask], OUT2[f"logits.{tag}"][spliced.mask], LOGITS, "logits")
    torch.testing.assert_close(out.loss, OUT2[f"loss.{tag}"], rtol=LOSS, atol=0)
    out.loss.backward()
    grads = assistant.grads()
    assert_gradients(grads, numbers("pf2_vlm", f"grad_norms_{tag}"))
    without = numbers("pf2_vlm", f"params_without_grad_{tag}")
    assert len(without) == 52
    assert all(grads.get(name) is None for name in without)  # a hard choice trains neither question nor head


@torch.no_grad()
def test_variant_2_row_without_image(assistant: Assistant) -> None:
    spliced = assistant.splice(
        assistant.embeds("attn"), "input_ids_noimg"
    )  # the fixture's choice; its README is silent
    assert_close(spliced.embeds, OUT2["noimg.inputs_embeds"], name="noimg.inputs_embeds")
    assert torch.equal(spliced.mask.long(), OUT2["noimg.attention_mask"])
    assert torch.equal(spliced.labels, OUT2["noimg.labels"])
    assert torch.equal(spliced.position_ids, OUT2["noimg.position_ids"])
    plain, with_positions = (run(assistant.llm, spliced, positions=p).logits[spliced.mask] for p in (False, True))
    assert_close(with_positions, plain, 1e-5, "with and without position ids")


@torch.no_grad()
def test_variant_2_greedy_tokens_alone_and_in_a_batch(assistant: Assistant) -> None:
    """The release pads prompts on the right when it generates; here the batch says what each row says alone."""
    visual = assistant.embeds("cosine")
    table, mask = assistant.llm.get_input_embeddings(), IN2["attn_mask"].bool()
    rows = [
        splice_visual(visual[i : i + 1], IN2["input_ids"][i : i + 1], mask[i : i + 1], IMAGE2, table) for i in range(3)
    ]
    assert torch.equal(torch.cat([greedy(assistant.llm, row) for row in rows]), OUT2["greedy_ids.cosine"])
    batch = assistant.splice(visual, labels=False, padding="left")
    assert (batch.labels == IGNORED).all()
    assert batch.mask[:, -1].all()
    assert torch.equal(greedy(assistant.llm, batch), OUT2["greedy_ids.cosine"])
    right = assistant.splice(visual, labels=False)
    assert not torch.equal(greedy(assistant.llm, right), OUT2["greedy_ids.cosine"])


@pytest.mark.parametrize(("last", "expected"), [(9, 12.0), (2, 0.0)])
def test_row_without_image_has_zero_gradients_not_none(last: int, expected: float) -> None:
    """A batch of text alone too. Token 9 is not in the vocabulary."""
    visual = torch.ones(2, 3, 4, requires_grad=True)
    ids, mask = torch.tensor([[1, 2], [1, last]]), torch.ones(2, 2, dtype=torch.bool)
    splice_visual(visual, ids, mask, 9, nn.Embedding(5, 4)).embeds.sum().backward()
    assert visual.grad is not None
    assert visual.grad.sum(dim=(1, 2)).tolist() == [0.0, expected]


def test_several_image_tokens_are_refused() -> None:
    ids, mask = torch.tensor([[1, 9, 2], [9, 1, 9]]), torch.ones(2, 3, dtype=torch.bool)
    with pytest.raises(ConfigError, match="row 1: got 2 image tokens"):
        splice_visual(torch.zeros(2, 1, 4), ids, mask, 9, nn.Embedding(10, 4))
    mask[1, 2] = False
    assert splice_visual(torch.zeros(2, 1, 4), ids, mask, 9, nn.Embedding(10, 4)).mask.sum(dim=1).tolist() == [3, 2]


def test_selection_of_short_slides_and_padding() -> None:
    """More asked for than there are: all are taken (the release crashes); padding is never shown, nor its NaN."""
    patches = torch.arange(8.0).view(2, 4, 1)
    patches[1, 2:] = float("nan")
    patches.requires_grad_()
    mask = torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0]]).bool()
    scores = torch.tensor([[0.1, 0.4, 0.3, 0.2], [0.5, 0.6, 9.0, 8.0]], requires_grad=True)
    rows, index, chosen_real = select_patches(patches, scores, 10, mask)
    assert index.tolist()[0] == [1, 2, 3, 0]
    assert chosen_real.sum(dim=1).tolist() == [4, 2]
    prefix = LatentPrefix(1, 4)
    visual, real = prefix(rows, torch.ones(2, 2, 1)), torch.nn.functional.pad(chosen_real, (0, 2), value=True)
    ids = torch.tensor([[1, 9], [9, 1]])
    spliced = splice_visual(visual, ids, torch.ones_like(ids).bool(), 9, nn.Embedding(5, 4), visual_mask=real)
    assert spliced.mask.sum(dim=1).tolist() == [7, 5]
    spliced.embeds.sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in prefix.parameters())
    assert scores.grad is None
    with pytest.raises(ConfigError, match="k: got 0"):
        select_patches(patches, scores, 0)


def test_position_ids_follow_the_mask() -> None:
    mask = torch.tensor([[0, 1, 1, 1], [1, 0, 1, 0]]).bool()
    spliced = Spliced(torch.zeros(2, 4, 1), mask, torch.zeros(2, 4, dtype=torch.long))
    assert spliced.position_ids.tolist() == [[0, 0, 1, 2], [0, 0, 1, 0]]
    assert replace(spliced, mask=torch.ones_like(mask)).position_ids.tolist() == [[0, 1, 2, 3]] * 2
