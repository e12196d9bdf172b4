"""The published models' text layers begin with the weights of a BERT, as published (there: BioBERT)."""

from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from pathflip.errors import ConfigError
from pathflip.published.parameter_names import published_name

__all__ = ["start_from_bert"]

_PREFIX = {"published": "Qformer.bert.", "perceiver": "text_encoder."}
"""Where the released parameters of each kind hold their BERT."""


@torch.no_grad()
def start_from_bert(model: nn.Module, folder: Path) -> int:
    """Give the text layers of a published model the weights of a BERT, in place.

    Cross-attention, which BERT has none of, stays as it is; the feed-forward layers of the queries begin as copies of
    the text's, as published. The released Q-Former has no token types: a BERT's are left out there.

    Args:
        model: of kind "published" or "perceiver".
        folder: a BERT in Hugging Face's layout (``model.safetensors``).

    Returns:
        How many tensors were taken.

    Raises:
        ConfigError: another kind of model, no such weights, or weights of another size.
    """
    kind = getattr(model.config, "kind", "")
    if kind not in _PREFIX:
        raise ConfigError(
            f"bert: got a model of kind '{kind}', expected published or perceiver (text.pretrained is ours)"
        )
    weights = _weights(folder)
    own = {key: value for key, value in model.state_dict().items() if _bert_name(key, kind) is not None}
    for key, value in own.items():
        name = _bert_name(key, kind)
        assert name is not None
        if name not in weights:
            raise ConfigError(f"bert: '{folder}' has no weight '{name}'; expected a BERT of at least as many layers")
        start = weights[name][: len(value)] if name.endswith("embeddings.weight") else weights[name]
        if start.shape != value.shape:
            raise ConfigError(
                f"bert: '{name}' has shape {tuple(weights[name].shape)} in '{folder}', the model has "
                f"{tuple(value.shape)}; set model.width, model.ffn_width, model.max_tokens and the tokenizer to fit"
            )
        value.copy_(start)
    return len(own)


def _bert_name(key: str, kind: str) -> str | None:
    """A parameter's name in a BERT; None for one that BERT has none of."""
    name = published_name(key, kind)
    if not name.startswith(_PREFIX[kind]) or ".crossattention." in name:
        return None
    return name.removeprefix(_PREFIX[kind]).replace("_query.", ".")


def _weights(folder: Path) -> dict[str, Tensor]:
    file = folder / "model.safetensors"
    try:
        weights = load_file(file)
    except (OSError, SafetensorError) as error:
        raise ConfigError(
            f"bert: '{file}' cannot be read ({' '.join(str(error).split())[:120]}); expected a BERT as Hugging Face "
            "writes it (pickled weights are never loaded: convert them to safetensors)"
        ) from None
    names = {
        name: name.removeprefix("bert.").replace(".gamma", ".weight").replace(".beta", ".bias") for name in weights
    }
    return {names[name]: value.float() for name, value in weights.items()}
