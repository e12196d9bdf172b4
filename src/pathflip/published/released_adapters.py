"""Adapters the released checkpoints may still carry: merged into the layers they adapt."""

import json
import math
import re
from collections.abc import Callable, Mapping
from pathlib import Path

from torch import Tensor

from pathflip.errors import CheckpointError, ConfigError

__all__ = ["merge_adapters", "merge_lora"]

_LORA = re.compile(r"^(?P<layer>.+)\.lora_(?P<side>[AB])(?:\.(?P<adapter>\w+))?\.weight$")
_PUBLISHED_LORA = (16, 64.0)
"""Rank and alpha of the text encoder's LoRA in variant 2's training script."""


def merge_lora(tensors: Mapping[str, Tensor], scale: Callable[[int], float]) -> tuple[dict[str, Tensor], list[str]]:
    """W + scale(r) · B A (LoRA, arXiv 2106.09685) for every adapted layer, under the layer's own name.

    Args:
        tensors: with ``LAYER.base_layer.weight``, ``LAYER.lora_A.default.weight`` (r, in) and ``….lora_B.…`` (out, r).
        scale: from the rank to what the product is multiplied by.

    Returns:
        The merged parameters, and the adapted layers.

    Raises:
        CheckpointError: half of a pair is missing, sizes do not fit, or a layer has several adapters.
    """
    pairs: dict[str, dict[str, Tensor]] = {}
    merged: dict[str, Tensor] = {}
    for name, value in tensors.items():
        part = _LORA.match(name)
        if part is None:
            merged[name.replace(".base_layer.", ".")] = value
        elif part["side"] in pairs.setdefault(part["layer"], {}):
            raise CheckpointError(f"{part['layer']}: two LoRA adapters; merge the one that counts before")
        else:
            pairs[part["layer"]][part["side"]] = value
    for layer, pair in pairs.items():
        weight, down, up = merged.get(f"{layer}.weight"), pair.get("A"), pair.get("B")
        if weight is None or down is None or up is None:
            raise CheckpointError(f"{layer}: LoRA without {'its base weight' if weight is None else 'its other half'}")
        if down.ndim != 2 or up.ndim != 2 or up.shape[1] != down.shape[0] or weight.shape != (len(up), down.shape[1]):
            shapes = ", ".join(str(tuple(t.shape)) for t in (weight, down, up))
            raise CheckpointError(f"{layer}: LoRA does not fit: weight, A and B are {shapes}")
        product = scale(len(down)) * (up.double() @ down.double())
        merged[f"{layer}.weight"] = (weight.double() + product).to(weight.dtype)
    return merged, sorted(pairs)


def merge_adapters(
    source: Path, tensors: dict[str, Tensor], kind: str, alpha: float | None, assumed: list[str]
) -> tuple[dict[str, Tensor], int]:
    """The parameters with any LoRA merged, and of how many layers; what was used for alpha joins ``assumed``."""
    ranks = {len(value) for name, value in tensors.items() if (part := _LORA.match(name)) and part["side"] == "A"}
    if not ranks:
        if alpha is not None:
            raise ConfigError(f"lora_alpha: {source} holds no unmerged LoRA; leave it out")
        return tensors, 0
    alpha, origin, root = _alpha(source, kind, ranks, alpha)

    def scale(rank: int) -> float:
        return alpha / (math.sqrt(rank) if root else rank)

    try:
        merged, layers = merge_lora(tensors, scale)
    except CheckpointError as error:
        raise CheckpointError(f"{source}: {error}") from None
    rank = "/".join(map(str, sorted(ranks)))
    assumed.append(f"LoRA of {len(layers)} layers merged with alpha {alpha:g} ({origin}), rank {rank}")
    return merged, len(layers)


def _alpha(source: Path, kind: str, ranks: set[int], alpha: float | None) -> tuple[float, str, bool]:
    """LoRA's alpha, where it is from, and whether it is divided by the root of the rank (rsLoRA)."""
    if alpha is not None:
        return alpha, "given", False
    file = (source if source.is_dir() else source.parent) / "adapter_config.json"
    if file.is_file():
        try:
            config = json.loads(file.read_text(encoding="utf-8"))
            alpha_of_file, odd = float(config["lora_alpha"]), {"alpha_pattern", "fan_in_fan_out", "use_dora"}
        except (ValueError, KeyError, TypeError) as error:
            raise CheckpointError(f"{file}: no lora_alpha in it ({type(error).__name__}); give --lora-alpha") from error
        if used := sorted(name for name in odd if config.get(name)):
            raise CheckpointError(f"{file}: {', '.join(used)} cannot be merged here; merge with PEFT before")
        return alpha_of_file, file.name, bool(config.get("use_rslora"))
    if kind == "perceiver" and ranks == {_PUBLISHED_LORA[0]}:
        return _PUBLISHED_LORA[1], "assumed: the published script's", False
    raise CheckpointError(
        f"{source}: unmerged LoRA of rank {', '.join(map(str, sorted(ranks)))} and no adapter_config.json beside it; "
        "give its alpha with --lora-alpha"
    )
