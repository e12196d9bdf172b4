"""What sentence-transformers writes beside an encoder: how token states become one vector, and projections after it."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from pathflip.errors import ConfigError

__all__ = ["Pooling", "TextNetwork", "dense_folders", "dense_layers", "pooled_states", "token_pooling"]

Pooling = Literal["cls", "mean"]
_ACTIVATIONS = {"Tanh": nn.Tanh, "Identity": nn.Identity, "ReLU": nn.ReLU, "GELU": nn.GELU, "Sigmoid": nn.Sigmoid}


class TextNetwork(nn.Module):
    """An encoder, its pooling and, where its authors have one, their projection: token ids to unit vectors.

    Args:
        network: a transformers encoder. projection: after pooling, or None.
    """

    def __init__(self, network: nn.Module, pooling: Pooling, projection: nn.Module | None) -> None:
        super().__init__()
        self.network, self.pooling, self.projection = network, pooling, projection

    def forward(self, ids: Tensor, mask: Tensor) -> Float[Tensor, "C P"]:
        """Unit vectors of texts; a text without a real token gets a vector that nothing should look at."""
        first = torch.arange(mask.shape[1], device=mask.device) == 0
        mask = mask.bool() | (first & ~mask.bool().any(1, keepdim=True))
        states = self.network(input_ids=ids, attention_mask=mask.to(torch.int64)).last_hidden_state.float()
        pooled = pooled_states(states, mask, self.pooling)
        return F.normalize(pooled if self.projection is None else self.projection(pooled), dim=-1)


def pooled_states(states: Float[Tensor, "C T W"], mask: Tensor, pooling: Pooling) -> Float[Tensor, "C W"]:
    """One vector a text: its first token's state, or the mean over its real tokens."""
    if pooling == "cls":
        return states[:, 0]
    real = mask.to(states.dtype)[..., None]
    return (states * real).sum(1) / real.sum(1).clamp(min=1)


def token_pooling(folder: Path) -> Pooling:
    """How this folder's authors make a vector of a text: as sentence-transformers wrote it down, else the mean.

    Raises:
        ConfigError: in a way that is not known here (max pooling, several at once).
    """
    file = folder / "1_Pooling" / "config.json"
    if not file.is_file():
        return "mean"
    stated = _object(file)
    modes = {key.removeprefix("pooling_mode_") for key, on in stated.items() if key.startswith("pooling_mode_") and on}
    newer = stated.get("pooling_mode")  # one name, or several, since release 5.6
    modes |= {newer} if isinstance(newer, str) else set(newer or ())
    names = {"cls": "cls", "cls_token": "cls", "mean": "mean", "mean_tokens": "mean"}
    chosen = {names.get(mode, "") for mode in modes}
    if chosen == {"cls"}:
        return "cls"
    if chosen == {"mean"}:
        return "mean"
    listed = ", ".join(sorted(f"pooling_mode_{mode}" for mode in modes)) or "nothing"
    raise ConfigError(f"'{file}': pools by {listed}, expected first token or mean")


def dense_folders(folder: Path) -> list[Path]:
    """The folders of an encoder's projections, in the order they are applied."""
    file = folder / "modules.json"
    if not file.is_file():
        return []
    try:
        modules = json.loads(file.read_text(encoding="utf-8"))
        folders = [folder / one["path"] for one in modules if str(one["type"]).rpartition(".")[2] == "Dense"]
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise ConfigError(f"'{file}': not a list of modules ({type(error).__name__}); copy the folder again") from None
    outside = [path for path in folders if folder.resolve() not in path.resolve().parents]
    if outside:
        raise ConfigError(f"'{file}': names the folder '{outside[0]}', which lies outside; copy the encoder whole")
    return folders


def dense_layers(folder: Path) -> nn.Sequential | None:
    """An encoder's own projection (sentence-transformers' Dense modules); None where it has none.

    Raises:
        ConfigError: one cannot be read, or computes what is not known here.
    """
    layers: list[nn.Module] = []
    for path in dense_folders(folder):
        layers += _dense(path)
    return nn.Sequential(*layers).requires_grad_(False) if layers else None


def _dense(path: Path) -> list[nn.Module]:
    stated = _object(path / "config.json")
    activation = str(stated.get("activation_function", "Identity")).rpartition(".")[2]
    if activation not in _ACTIVATIONS or stated.get("use_residual"):
        what = "a residual connection" if stated.get("use_residual") else f"the activation '{activation}'"
        raise ConfigError(f"'{path}': has {what}, expected one of {', '.join(_ACTIVATIONS)} and no residual")
    try:
        linear = nn.Linear(int(stated["in_features"]), int(stated["out_features"]), bool(stated.get("bias", True)))
        weights = load_file(path / "model.safetensors")
        linear.load_state_dict({name.removeprefix("linear."): value.float() for name, value in weights.items()})
    except (OSError, SafetensorError, KeyError, TypeError, ValueError, RuntimeError) as error:
        reason = " ".join(str(error).split())[:120]
        raise ConfigError(f"'{path}': its projection cannot be read ({reason}); copy the folder again") from None
    return [linear, _ACTIVATIONS[activation]()]


def _object(file: Path) -> Mapping[str, Any]:
    try:
        stated = json.loads(file.read_text(encoding="utf-8"))
        stated.items()
    except (OSError, ValueError, AttributeError, RecursionError) as error:
        raise ConfigError(f"'{file}': not a JSON object ({type(error).__name__}); copy the folder again") from None
    return dict(stated)
