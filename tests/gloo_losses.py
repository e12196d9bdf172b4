"""What each of several gloo processes computes in test_losses_distributed.py: losses and gradients of its own inputs.

Started as processes, so it stands in a module of its own and hands its results back as a safetensors file.
"""

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from safetensors.torch import save_file
from torch import Tensor, nn

from parity import align_batch, tensors
from pathflip import losses
from pathflip.published import region_losses
from pathflip.published.latent_model import AS_RELEASED as PERCEIVER_RELEASED
from pathflip.published.latent_model import PerceiverConfig, PerceiverPathFLIP
from pathflip.published.qformer_model import AS_RELEASED, PublishedConfig, PublishedPathFLIP
from pathflip.types import AlignBatch, AlignOutput

SLIDES, SUBS, WIDTH, TOP_K = 2, 3, 16, 2
TINY: dict[str, Any] = {"feature_dim": 4, "vocab_size": 8, "embed_dim": WIDTH, "max_tokens": 4}


def run(rank: int, folder: Path) -> None:
    """Entry point of one of three processes, which meet as groups of 1, 2 and 3 in turn (to start up once)."""
    torch.set_num_threads(1)
    for world_size in range(rank + 1, 4):
        meeting = f"file://{folder}/meet{world_size}"
        dist.init_process_group("gloo", init_method=meeting, rank=rank, world_size=world_size)
        rows = slice(rank * SLIDES, (rank + 1) * SLIDES)
        results = released_losses(rank, world_size) | {"gathered.grad": gathered_gradient(rank)}
        for name, model in ours().items():
            results |= {f"ours.{name}.{key}": value for key, value in our_losses(model, world_size, rows).items()}
        save_file(results, folder / f"group{world_size}-rank{rank}.safetensors")
        dist.destroy_process_group()


def gathered_gradient(rank: int) -> Tensor:
    """What a product with the joined rows, transposed, sends back to this process's rows."""
    x = torch.ones(2, 3, requires_grad=True)
    product = probe(rank) @ losses.gather_with_grad(x).T
    product.backward(torch.arange(float(product.numel())).view_as(product))
    assert x.grad is not None
    return x.grad


def probe(rank: int) -> Tensor:
    return torch.arange(12.0).view(4, 3) + 100 * rank


def released_losses(rank: int, world_size: int) -> dict[str, Tensor]:
    """Everything losses_distributed/ holds, for one rank."""
    results: dict[str, Tensor] = {}
    for variant, model in (("pf1", released_published()), ("pf2", released_perceiver())):
        data = tensors("losses_distributed", f"{variant}_ws{world_size}")
        load_head(model, data)
        parts = {key.removeprefix("in."): value[rank] for key, value in data.items() if key.startswith("in.")}
        index = region_losses.sort_candidates(parts["caption_offsets"], SUBS)
        for name, loss in released_parts(variant, model):
            results |= {f"{variant}.{key}": value for key, value in measured(name, loss, model, parts, index).items()}
    return results


def released_published() -> PublishedPathFLIP:
    sizes = {"width": 8, "num_layers": 1, "num_heads": 1, "ffn_width": 8, "num_queries": 1}
    return PublishedPathFLIP(PublishedConfig(**TINY, **sizes, **AS_RELEASED)).eval()


def released_perceiver(**settings: Any) -> PerceiverPathFLIP:
    sizes = {"text_width": 8, "text_layers": 1, "text_heads": 1, "text_ffn_width": 8, "num_heads": 8, "top_k": TOP_K}
    choices = {**PERCEIVER_RELEASED, "normalize": "positives", "region_loss": "text_conditioned", **settings}
    return PerceiverPathFLIP(PerceiverConfig(**TINY, **sizes, **choices)).eval()


def load_head(model: nn.Module, data: dict[str, Tensor]) -> None:
    """Fixture weights into the region head; scale 7 and (variant 2) bias -2, raw."""
    head: Any = model.region_head
    head.attention.load_state_dict({k[10:]: v for k, v in data.items() if k.startswith("head.attn.")})
    for role in ("query", "key", "value"):
        source = f"head.{'w' if head.kind == 'projected' else 'ln'}_{role[0]}"
        weights = {k.removeprefix(f"{source}."): v for k, v in data.items() if k.startswith(f"{source}.")}
        head.get_submodule(f"{head.kind}_{role}").load_state_dict(weights)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.startswith("logit_"):
                parameter.fill_(7.0 if "scale" in name else -2.0)


def released_parts(variant: str, model: Any) -> list[tuple[str, Any]]:
    """(fixture name, function of output, batch and candidate index) of every published loss."""
    if variant == "pf1":
        return [
            ("itc", lambda out, batch, index: model.losses(out, batch, index)["slide"]),
            ("fg", lambda out, batch, index: model.losses(out, batch, index)["region"]),
        ]

    def soft(positives: Any) -> Any:
        def loss(out: AlignOutput, batch: AlignBatch, index: Tensor) -> Tensor:
            pooled, _ = region_losses.soft_top_k_pool(out.sub_captions, out.patches, out.patch_mask, TOP_K)
            scale, bias = model._scaling()
            return region_losses.soft_top_k(pooled, out.sub_captions, scale, bias, "entries", positives=positives)

        return loss

    return [
        ("flair", lambda out, batch, index: model.losses(out, batch, index)["region"]),
        ("global_siglip", lambda out, batch, index: model.losses(out, batch, index)["slide"]),
        ("global_infonce", lambda out, batch, index: losses.info_nce(out.slide, out.caption, 10.0, 0.1)),
        ("softtopk_official", soft("process")),
        ("softtopk_diagonal", soft("own")),
    ]


def measured(name: str, loss: Any, model: Any, parts: dict[str, Tensor], index: Tensor) -> dict[str, Tensor]:
    """The loss and its gradients on this process's inputs and scale."""
    leaves = {key: parts[key].clone().requires_grad_() for key in ("slide", "text", "regions", "subtext")}
    output = AlignOutput(
        slide=leaves["slide"],
        caption=leaves["text"],
        patches=leaves["regions"],
        patch_mask=torch.ones(leaves["regions"].shape[:2], dtype=torch.bool),
        sub_captions=leaves["subtext"].unflatten(0, (SLIDES, SUBS)),
    )
    model.zero_grad()
    value = loss(output, blank_batch(SLIDES), index)
    value.backward()
    results = {f"out.{name}": value.detach()}
    for key, leaf in leaves.items():
        if leaf.grad is not None:
            results[f"out.{name}.grad_{key}"] = leaf.grad
    for parameter in (model.logit_scale, getattr(model, "logit_scale_global", None)):
        if parameter is not None and parameter.grad is not None:
            results[f"out.{name}.grad_scale"] = parameter.grad.clone()
    return results


def blank_batch(num_slides: int) -> AlignBatch:
    token = torch.ones(num_slides, 1, dtype=torch.long)
    sub_caption = torch.ones(num_slides, SUBS, 1, dtype=torch.long)
    return align_batch(torch.zeros(num_slides, 1, 1, 4), (token, token), (sub_caption, sub_caption))


# ------------------------------------------------------------------------------------------ our defaults


def ours() -> dict[str, Any]:
    """One model of each variant and loss, seeded, with the repository's defaults."""
    torch.manual_seed(0)
    right = {key: PerceiverConfig.model_fields[key].default for key in PERCEIVER_RELEASED}
    sizes = {"width": 8, "num_layers": 1, "num_heads": 1, "ffn_width": 8, "num_queries": 1}
    return {
        "published": PublishedPathFLIP(PublishedConfig(**TINY, **sizes)).eval(),
        "published_all": PublishedPathFLIP(PublishedConfig(**TINY, **sizes, candidates="all")).eval(),
        "perceiver": released_perceiver(**right).eval(),
        "soft_top_k": released_perceiver(**right, region_loss="soft_top_k", slide_loss="info_nce").eval(),
    }


def our_losses(model: Any, world_size: int, rows: slice) -> dict[str, Tensor]:
    """Losses and gradients of ``rows`` of one global batch of world_size · SLIDES slides."""
    count = world_size * SLIDES
    generator = torch.Generator().manual_seed(7)
    whole = {
        "slide": torch.randn(count, WIDTH, generator=generator),
        "caption": torch.randn(count, WIDTH, generator=generator),
        "patches": torch.randn(count, 5, WIDTH, generator=generator),
        "sub_captions": torch.randn(count, SUBS, WIDTH, generator=generator),
    }
    sub_caption_mask = torch.ones(count, SUBS, dtype=torch.bool)
    sub_caption_mask[-1, 1:] = False  # so that processes hold different numbers of pairs
    keys = torch.randint(0, 5, (count, SUBS), generator=generator)
    batch = replace(blank_batch(count), sub_caption_mask=sub_caption_mask, sub_caption_keys=keys, caption_keys=keys)
    index = region_losses.published_candidates(sub_caption_mask, generator)
    local = replace(
        blank_batch(rows.stop - rows.start),
        **{name: getattr(batch, name)[rows] for name in ("sub_caption_mask", "sub_caption_keys", "caption_keys")},
    )
    leaves = {key: value[rows].clone().requires_grad_() for key, value in whole.items()}
    patch_mask = torch.ones(leaves["patches"].shape[:2], dtype=torch.bool)
    everything = getattr(model.config, "candidates", "sampled") == "all"
    model.zero_grad()
    parts = model.losses(AlignOutput(**leaves, patch_mask=patch_mask), local, None if everything else index[rows])
    sum(parts.values()).backward()
    results = {name: value.detach() for name, value in parts.items()}
    results |= {f"grad.{key}": leaf.grad for key, leaf in leaves.items() if leaf.grad is not None}
    results |= {f"param.{key}": p.grad for key, p in model.named_parameters() if p.grad is not None}
    return results
