"""Helpers of the parity tests: fixture files, and batches made of fixture inputs."""

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from pathflip.types import AlignBatch, SlideCode

FIXTURES = Path(__file__).parent / "fixtures"
ACTIVATION = 5e-5  # absolute; attention maps too
LOSS = 1e-5  # relative
GRADIENT = 1e-4  # relative, of norms


def tensors(*path: str) -> dict[str, Tensor]:
    return load_file(FIXTURES.joinpath(*path).with_suffix(".safetensors"))


def numbers(*path: str) -> Any:
    return json.loads(FIXTURES.joinpath(*path).with_suffix(".json").read_text())


def flat(patches: Tensor, mask: Tensor | None = None) -> dict[str, Tensor]:
    """Patches by region (B, L, S, D) as a batch holds them: in one run, their mask, and the regions as an index."""
    mask = torch.ones(patches.shape[:3], dtype=torch.bool) if mask is None else mask
    places = torch.arange(mask[0].numel()).view(mask.shape[1:]).expand(mask.shape)
    return {"patches": patches.flatten(1, 2), "patch_mask": mask.flatten(1), "regions": places}


def encode(model: Any, patches: Tensor, mask: Tensor | None = None) -> SlideCode:
    """Slides whose patches come by region, as variant 1 encodes them."""
    parts = flat(patches, mask)
    return model.encode_slides(parts["patches"], parts["patch_mask"], parts["regions"])


def align_batch(
    patches: Tensor, caption: tuple[Tensor, Tensor], subs: tuple[Tensor, Tensor], patch_mask: Tensor | None = None
) -> AlignBatch:
    """Patches by region (B, L, S, D); captions (B, T) and sub-captions (B, K, U) as (ids, mask)."""
    num_slides, num_subs = subs[0].shape[:2]
    flag = torch.zeros(num_slides, num_subs, dtype=torch.bool)
    return AlignBatch(
        slide_ids=tuple(f"slide-{i}" for i in range(num_slides)),
        **flat(patches, patch_mask),
        context=None,
        position=None,
        caption_ids=caption[0],
        caption_mask=caption[1].bool(),
        sub_caption_ids=subs[0],
        sub_caption_token_mask=subs[1].bool(),
        sub_caption_mask=~flag,
        sub_caption_negated=flag,
        sub_caption_false=flag,
        sub_caption_keys=torch.zeros(num_slides, num_subs, dtype=torch.long),
        caption_keys=torch.zeros(num_slides, 1, dtype=torch.long),
    )


def assert_close(actual: Tensor, expected: Tensor, tolerance: float = ACTIVATION, name: str = "") -> None:
    assert actual.shape == expected.shape, f"{name}: {tuple(actual.shape)} instead of {tuple(expected.shape)}"
    worst = (actual - expected).abs().max().item()
    assert worst <= tolerance, f"{name}: off by {worst:.2e}, allowed {tolerance:.0e}"


def assert_gradients(named: dict[str, Tensor | None], norms: dict[str, float]) -> None:
    """Norms of all gradients; norms under 1e-6 are rounding noise around 0 (biases that softmax cancels)."""
    assert set(named) >= set(norms)
    for name, norm in norms.items():
        grad = named[name]
        own = 0.0 if grad is None else grad.norm().item()
        assert abs(own - norm) <= GRADIENT * norm + 1e-6, f"{name}: gradient norm {own:.6e} instead of {norm:.6e}"
