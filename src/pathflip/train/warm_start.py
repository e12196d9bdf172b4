"""Begin an alignment run from the weights of an earlier one, or of an imported checkpoint: ``train … --start RUN``.

Weights are taken where names and shapes agree *and* mean the same: word embeddings only with the same tokenizer, the
head on a pretrained text encoder only with the same encoder. Whatever is left out is counted and named in one line.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from pathflip.checkpoint import Checkpoint, InputContract, load_checkpoint
from pathflip.errors import ConfigError, ContractError
from pathflip.features.store import FeatureKind
from pathflip.train.run_folder import digest_of

__all__ = ["WarmStart", "open_start", "start_from"]

WORDS = "embeddings.word.weight"
"""End of the name of the weights that have one row a token."""
PRETRAINED_HEAD = "pretrained_text."
"""Start of the names of the weights that read a pretrained text encoder's vectors."""


@dataclass(frozen=True)
class WarmStart:
    """What a run began with.

    Attributes:
        path: the checkpoint. digest: of the weights taken from it.
        loaded: names of the weights taken. line: what was taken and what was left out, in one line.
    """

    path: str
    digest: str
    loaded: frozenset[str]
    line: str

    def has(self, end: str) -> bool:
        """Whether a weight whose name ends so was taken."""
        return any(name.endswith(end) for name in self.loaded)

    def record(self) -> dict[str, Any]:
        """What the checkpoint keeps of it."""
        return {"path": self.path, "digest": self.digest, "loaded": len(self.loaded), "what": self.line}


def open_start(start: str | Path, contract: InputContract) -> Checkpoint:
    """The checkpoint to begin from.

    Args:
        start: a checkpoint's directory, or a run's (then its ``best/`` or ``last/``).
        contract: the features of the new run.

    Raises:
        CheckpointError: none is there, or it is damaged.
        ContractError: it was trained on other features.
    """
    checkpoint = load_checkpoint(start)
    own, before = (FeatureKind(**one.model_dump()) for one in (contract, checkpoint.contract))
    if (name := own.difference(before)) is not None:
        trained = checkpoint.contract
        raise ContractError(
            f"--start {start}: {name} of the features is {getattr(own, name)!r}, it was trained on "
            f"{getattr(before, name)!r}; expected encoder {trained.encoder!r}, dim {trained.dim}, tile_px "
            f"{trained.tile_px}, mpp {trained.mpp:g}; extract such features, or start from another run, or from none"
        )
    return checkpoint


def start_from(model: nn.Module, start: Checkpoint, *, same_words: bool, same_text_encoder: bool) -> WarmStart:
    """Give a new model the weights of an earlier one, in place.

    Args:
        same_words: the new run reads words by the earlier one's tokenizer.
        same_text_encoder: the new run has the earlier one's pretrained text encoder.

    Raises:
        ConfigError: no weight fits: it is a model of another kind or size.
    """
    own, before = model.state_dict(), start.model.state_dict()
    reasons = {name: _reason(name, own, before, same_words, same_text_encoder) for name in own.keys() | before.keys()}
    taken = {name: before[name] for name, reason in reasons.items() if not reason}
    trainable = [name for name, _ in model.named_parameters()]
    if not any(name in taken for name in trainable):
        raise ConfigError(f"--start {start.path}: none of its weights fits: {_difference(model, start)}")
    model.load_state_dict(taken, strict=False)
    left_out = [f"{len(names)} {why} ({_some(names)})" for why, names in _by_reason(reasons)]
    line = f"start {start.path}: {len(taken)} of its {len(before)} weights are taken"
    if left_out:
        line += f"; left out or begun anew: {'; '.join(left_out)}"
    return WarmStart(str(start.path), _digest(taken), frozenset(taken), line)


def _reason(
    name: str, own: dict[str, Tensor], before: dict[str, Tensor], same_words: bool, same_text_encoder: bool
) -> str:
    """Why a weight is not taken; empty where it is."""
    if name not in before:
        return "only of the new model"
    if name not in own:
        return "without a place in the new model"
    if own[name].shape != before[name].shape:
        return "of another shape"
    if name.endswith(WORDS) and not same_words:
        return "of another tokenizer"
    if name.startswith(PRETRAINED_HEAD) and not same_text_encoder:
        return "of another text encoder"
    return ""


def _by_reason(reasons: dict[str, str]) -> list[tuple[str, list[str]]]:
    kinds = sorted({reason for reason in reasons.values() if reason})
    return [(kind, sorted(name for name, reason in reasons.items() if reason == kind)) for kind in kinds]


def _difference(model: nn.Module, start: Checkpoint) -> str:
    """Up to three settings in which the two models differ."""
    settings: Any = model.config
    own, before = settings.model_dump(mode="json"), start.config["model"]
    names = sorted((name for name in own if own[name] != before.get(name)), key=lambda name: name != "kind")
    differences = [f"{name} is {before.get(name)!r} there, {own[name]!r} here" for name in names[:3]]
    return "; ".join(differences) + "; take the recipe of that kind, and --set model.NAME=VALUE"


def _some(names: list[str]) -> str:
    return ", ".join(names[:2]) + (", …" if len(names) > 2 else "")


def _digest(weights: dict[str, Tensor]) -> str:
    """Of names, shapes and the sum of each: enough to tell another start when a run is gone on with."""

    def numbers(value: Tensor) -> Iterable[float]:
        flat = value.detach().double().flatten()
        return [float(flat.sum()), float(flat.square().sum())] if flat.numel() else []

    with torch.no_grad():
        return digest_of([[name, list(value.shape), list(numbers(value))] for name, value in sorted(weights.items())])
