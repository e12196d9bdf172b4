"""A pretrained text encoder that is trained along with a model, by LoRA or whole; and how a checkpoint keeps it.

While it trains it stands beside the model, in the training step. A checkpoint holds it as a folder in Hugging Face's
layout, adapters added into its weights, so that everything afterwards opens it like any other frozen encoder.
"""

import copy
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from pathflip.assistant.language_model import LoraSpec, add_lora
from pathflip.data.align import TextSpec
from pathflip.text.pretrained import PretrainedText, weights_digest

__all__ = ["stored_text_encoder", "trained_text_encoder"]

NOT_COPIED = ("*.safetensors", "*.bin", "*.pt", "*.pth", "*.h5", "*.onnx", "*.msgpack", "*.ot", ".git*", "*.py")


def trained_text_encoder(pretrained: PretrainedText | None, text: TextSpec, seed: int) -> nn.Module | None:
    """The encoder as the training step takes it, ready to learn; None where it stays frozen. In place.

    ``seed`` is of the adapters' first values.
    """
    if pretrained is None or text.pretrained_train == "frozen":
        return None
    network = pretrained.network
    if text.pretrained_train == "lora":
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            add_lora(network, LoraSpec(rank=text.pretrained_rank, alpha=2 * text.pretrained_rank))
    else:
        for name, parameter in network.named_parameters():
            parameter.requires_grad_("pooler." not in name)  # the pooler has no part in the vectors
    return pretrained.module


def stored_text_encoder(pretrained: PretrainedText, folder: Path, text: TextSpec) -> TextSpec:
    """Write the encoder as it is now into ``folder``, and return the text settings that name it by its new digest."""
    shutil.copytree(pretrained.folder, folder, ignore=shutil.ignore_patterns(*NOT_COPIED))
    for path in pretrained.folder.rglob("model.safetensors"):  # those of projections are not trained
        if path.parent != pretrained.folder or text.pretrained_train == "frozen":
            shutil.copy2(path, folder / path.relative_to(pretrained.folder))
    if text.pretrained_train != "frozen":
        save_file(_merged(pretrained.network), folder / "model.safetensors", metadata={"format": "pt"})
    return text.model_copy(update={"pretrained_digest": weights_digest(folder)})


def _merged(network: nn.Module) -> dict[str, Tensor]:
    """The encoder's weights under their own names, adapters added."""
    whole = copy.deepcopy(network).to("cpu")
    adapted: list[Any] = [one for one in whole.modules() if hasattr(one, "base_layer") and hasattr(one, "merge")]
    for layer in adapted:
        layer.merge()
    weights = {n.replace(".base_layer.", "."): v for n, v in whole.state_dict().items() if "lora_" not in n}
    return {name: value.detach().contiguous().clone() for name, value in weights.items()}
