"""What a training run can be told: how long, how large, how precise; and which of it a resumed run may change."""

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from pathflip.errors import TrainingError
from pathflip.train.optim import OptimConfig

__all__ = ["TrainConfig", "refuse_other_settings"]


class TrainConfig(BaseModel):
    """How long, how large, how precise.

    Attributes:
        steps: optimiser steps.
        batch_size: slides in a micro-batch, over all processes. Contrastive losses see all of it.
        accumulation: micro-batches whose gradients are averaged into one step. Unlike gradient caching this does
            not show a contrastive loss more slides.
        grad_cache_chunk: slides encoded at a time; 0 encodes a batch at once. See ``AlignStep``.
        precision: "no" is float32; "bf16" and "fp16" are autocast (fp16 needs a GPU).
        eval_every, save_every: steps between evaluations and between saved states; 0 means at the end only.
        log_every: steps between lines of ``metrics.jsonl``.
        average_last: fraction of the steps, counted from the end, over which weights are averaged; their mean is what
            is evaluated and saved (:mod:`pathflip.train.weight_mean`). 0 keeps the weights of the last step.
        best: "evaluator/metric" that decides which checkpoint is kept as ``best/``; empty keeps none.
        best_mode: whether larger or smaller is better.
        seed: of data order and dropout. (Weights are initialised by whoever builds the model.)
        prefetch: batches prepared ahead on a background thread; changes no result.
        device: "auto" takes a GPU if there is one.
        compile: ``torch.compile`` the model's forward; losses stay as they are.
        deterministic: on a GPU, choose reproducible kernels where they exist (slower); the CPU needs nothing.
        unused_parameters: on many processes, allow steps that leave some parameters out (a small search each step).
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    steps: int = Field(default=400, ge=1)
    batch_size: int = Field(default=32, ge=1)
    accumulation: int = Field(default=1, ge=1)
    grad_cache_chunk: int = Field(default=0, ge=0)
    optim: OptimConfig = OptimConfig()
    precision: Literal["no", "bf16", "fp16"] = "no"
    eval_every: int = Field(default=0, ge=0)
    save_every: int = Field(default=0, ge=0)
    log_every: int = Field(default=1, ge=1)
    average_last: float = Field(default=0.0, ge=0, le=1)
    best: str = ""
    best_mode: Literal["max", "min"] = "max"
    seed: int = Field(default=0, ge=0)
    prefetch: int = Field(default=2, ge=0)
    device: Literal["auto", "cpu"] = "auto"
    compile: bool = False
    deterministic: bool = False
    unused_parameters: bool = True


_FREE_TO_CHANGE = {"eval_every", "save_every", "log_every", "prefetch", "device", "compile", "unused_parameters"}
"""Settings a resumed run may change without becoming another run."""


def refuse_other_settings(config: TrainConfig, stored: Mapping[str, Any]) -> None:
    """Refuse to go on with a run under settings that would make it another run.

    Raises:
        TrainingError: the first setting that changed, by name.
    """
    settings = config.model_dump(mode="json")
    stored = {"average_last": 0.0, **stored}  # runs of older versions lack newer fields
    if isinstance(stored.get("optim"), Mapping):
        stored = {**stored, "optim": {**OptimConfig().model_dump(mode="json"), **stored["optim"]}}
    changed = [name for name in settings if name not in _FREE_TO_CHANGE and settings[name] != stored.get(name)]
    if changed:
        name = changed[0]
        raise TrainingError(
            f"resume: setting '{name}' was {stored.get(name)} when the run began, got {settings[name]}; "
            "expected the same settings; choose another --out to start a new run"
        )
