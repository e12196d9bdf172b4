"""Random weights in the layouts encoders are published in, and references that share no code with the loaders."""

import re
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor, nn


def randomise(model: nn.Module, seed: int = 0) -> nn.Module:
    """Every weight drawn anew (norms, scales and biases too), so that none can be left out unnoticed."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        running = [(name, value) for name, value in model.named_buffers() if "running_" in name]
        for name, value in [*model.named_parameters(), *running]:
            low, high = (0.5, 1.5) if "running_var" in name or (value.ndim == 1 and "weight" in name) else (-0.1, 0.1)
            value.copy_(torch.rand(value.shape, generator=generator) * (high - low) + low)
    return model.eval()


def save(folder: Path, state: dict[str, Tensor], name: str = "model.safetensors") -> Path:
    """Write weights as published: safetensors, or torch's pickle for other suffixes."""
    folder.mkdir(parents=True, exist_ok=True)
    if name.endswith(".safetensors"):
        save_file({key: value.contiguous().clone() for key, value in state.items()}, folder / name)
    else:
        torch.save(state, folder / name)
    return folder


def hf_vit_as_timm(model: nn.Module) -> dict[str, Tensor]:
    """A Hugging Face ViT or DINOv2's published weights under timm's names, written out by hand."""
    from transformers import PreTrainedModel

    assert isinstance(model, PreTrainedModel)
    old = published(model)
    new = {
        "cls_token": old["embeddings.cls_token"],
        "pos_embed": old["embeddings.position_embeddings"],
        "patch_embed.proj.weight": old["embeddings.patch_embeddings.projection.weight"],
        "patch_embed.proj.bias": old["embeddings.patch_embeddings.projection.bias"],
        "norm.weight": old["layernorm.weight"],
        "norm.bias": old["layernorm.bias"],
    }
    if "embeddings.register_tokens" in old:
        new["reg_token"] = old["embeddings.register_tokens"]
    names = {
        "norm1": ["layernorm_before", "norm1"], "norm2": ["layernorm_after", "norm2"],
        "attn.proj": ["attention.output.dense"], "mlp.fc1": ["intermediate.dense", "mlp.fc1", "mlp.weights_in"],
        "mlp.fc2": ["output.dense", "mlp.fc2", "mlp.weights_out"],
    }  # fmt: skip
    for i in range(model.config.num_hidden_layers):
        layer, block = f"encoder.layer.{i}.", f"blocks.{i}."
        for kind in ("weight", "bias"):
            parts = [old[f"{layer}attention.attention.{part}.{kind}"] for part in ("query", "key", "value")]
            new[f"{block}attn.qkv.{kind}"] = torch.cat(parts)
            for ours, theirs in names.items():
                (value,) = [old[key] for name in theirs if (key := f"{layer}{name}.{kind}") in old]
                new[f"{block}{ours}.{kind}"] = value
        for which in "12":
            if f"{layer}layer_scale{which}.lambda1" in old:
                new[f"{block}ls{which}.gamma"] = old[f"{layer}layer_scale{which}.lambda1"]
    return new


def published(model: nn.Module) -> dict[str, Tensor]:
    """The weights as ``save_pretrained`` writes them: the names that published files carry."""
    import tempfile

    from safetensors.torch import load_file

    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        return load_file(Path(folder) / "model.safetensors")


def swin_as_timm(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Hugging Face's published Swin weights under timm 0.5's names (the reverse of what the loader does)."""
    new: dict[str, Tensor] = {}
    for key, value in state.items():
        if key.startswith("embeddings.patch_embeddings"):
            continue
        key = key.replace("embeddings.norm.", "patch_embed.norm.").replace("encoder.layers.", "layers.")
        key = re.sub(r"^layernorm\.", "norm.", key)
        key = key.replace("layernorm_before", "norm1").replace("layernorm_after", "norm2")
        key = key.replace("attention.output.dense", "attn.proj").replace("intermediate.dense", "mlp.fc1")
        key = key.replace(".output.dense", ".mlp.fc2").replace("attention.self.", "attn.")
        if match := re.match(r"(.+\.attn)\.(query|key|value)\.(weight|bias)$", key):
            if match[2] == "query":
                base = key.replace(f"{match[1]}.query", "")
                assert base == f".{match[3]}"
                new[f"{match[1]}.qkv.{match[3]}"] = torch.cat(
                    [_part(state, match[1], which, match[3]) for which in ("query", "key", "value")]
                )
            continue
        new[key] = value
    return new


def _part(state: dict[str, Tensor], attention: str, which: str, kind: str) -> Tensor:
    return state[f"encoder.{attention.removesuffix('.attn')}.attention.self.{which}.{kind}"]
