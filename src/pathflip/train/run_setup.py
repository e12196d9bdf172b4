"""What a training run consists of, and how it is begun: devices, processes, resuming, signals, random state.

What happens in it, step by step, is in :mod:`pathflip.train.loop`.
"""

import os
import signal
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.utils import DistributedDataParallelKwargs, DistributedType
from torch import Tensor, nn

from pathflip.errors import ConfigError, TrainingError
from pathflip.train import deepspeed
from pathflip.train.batches import Batch
from pathflip.train.optim import build_optimizer
from pathflip.train.run_folder import refuse_lost_state, same_data
from pathflip.train.state import latest_state, load_state
from pathflip.train.train_config import TrainConfig, refuse_other_settings
from pathflip.train.train_step import TrainStep
from pathflip.train.training_log import MetricsLog
from pathflip.train.weight_mean import WeightMean

__all__ = [
    "Evaluator",
    "PendingStep",
    "Run",
    "Save",
    "StopRequest",
    "make_accelerator",
    "own_random_state",
    "prepare_run",
    "start_or_resume",
    "stop_request",
]

Evaluator = Callable[[nn.Module], Mapping[str, float]]
"""Measures a model (in eval mode, without gradients). Every process calls it, on the same data."""

Save = Callable[[Path, Mapping[str, float]], None]
"""Writes a checkpoint directory; gets the path, and the step with the latest evaluation."""


@dataclass
class StopRequest:
    """Ctrl-C or SIGTERM: requested on one process, then agreed by all, so that each stops after the same step."""

    requested: bool = False
    agreed: bool = False


@dataclass
class PendingStep:
    """A step whose numbers are still on their way from the device. They are read one step late, so that
    the device never waits for Python; a bad step has not touched the weights by then (see ``_update``)."""

    step: int
    lr: float
    names: list[str]
    values: Tensor  # losses…, gradient norm, bad, stop; may still be on its way to the host
    bad: Tensor  # 1.0 where the weights must not move; on the device
    batches: list[Batch]
    seconds: float = 0.0
    arrived: Any = None  # CUDA event

    def numbers(self) -> list[float]:
        if self.arrived is not None:
            self.arrived.synchronize()
        numbers: list[float] = self.values.tolist()
        return numbers


@dataclass
class Run:
    """A training run under way."""

    accelerator: Accelerator
    config: TrainConfig
    out: Path
    bare: TrainStep  # the step as its author wrote it
    wrapped: nn.Module  # the same, watched by DDP or FSDP
    optimizer: Any
    log: MetricsLog
    evaluators: Mapping[str, Evaluator]
    save: Save | None
    stop: StopRequest
    done: int = 0
    metrics: dict[str, float] = field(default_factory=dict)
    best: float | None = None
    pending: PendingStep | None = None
    by_deepspeed: bool = False
    mean: WeightMean | None = None
    clock: float = 0.0
    seconds: float = 0.0  # training time and slides since the last line of the log
    slides: int = 0
    data: dict[str, str] = field(default_factory=dict)  # digests of what it learns from


def make_accelerator(config: TrainConfig) -> Accelerator:
    """Devices, precision and processes, as found or as ``accelerate launch`` / ``torchrun`` says."""
    cpu = config.device == "cpu" or not (torch.cuda.is_available() or torch.backends.mps.is_available())
    if config.precision == "fp16" and cpu:
        raise ConfigError("precision: got 'fp16' on a CPU; expected 'bf16' or 'no', or a GPU")
    # accelerate keeps one state a process and refuses a second precision; a process may train several models.
    AcceleratorState._reset_state(reset_partial_state=not torch.distributed.is_initialized())
    ddp = DistributedDataParallelKwargs(find_unused_parameters=config.unused_parameters)
    # Under DeepSpeed "bf16" would turn the weights themselves into it; deepspeed.configure asks for autocast instead.
    deepspeed = os.environ.get("ACCELERATE_USE_DEEPSPEED", "false") == "true" and not cpu
    precision = "no" if deepspeed else config.precision
    return Accelerator(mixed_precision=precision, cpu=cpu, kwargs_handlers=[ddp])


def prepare_run(
    accelerator: Accelerator,
    step: TrainStep,
    config: TrainConfig,
    out: Path,
    evaluators: Mapping[str, Evaluator],
    save: Save | None,
    stop: StopRequest,
    on_step: Callable[[Mapping[str, float]], None] | None,
) -> Run:
    """Put the step on its device, wrap it for many processes, and build its optimiser.

    Raises:
        ConfigError: the processes are set up in a way this step cannot be trained.
    """
    step.to(accelerator.device).train()
    if config.compile:
        step.model.compile()
    _refuse_what_cannot_be(accelerator, step)
    by_deepspeed = accelerator.distributed_type == DistributedType.DEEPSPEED
    if by_deepspeed:
        settings = accelerator.state.deepspeed_plugin.deepspeed_config
        share = config.batch_size // accelerator.num_processes
        deepspeed.configure(settings, share, config.accumulation, config.optim.clip, config.precision)
    wrapped, optimizer = accelerator.prepare(step, build_optimizer(step, config.optim))
    bare = accelerator.unwrap_model(wrapped)
    log = MetricsLog(out / "metrics.jsonl", accelerator.is_main_process, on_step)
    parts = (accelerator, config, out, bare, wrapped, optimizer, log, evaluators, save, stop)
    first = config.steps - round(config.average_last * config.steps) + 1
    return Run(*parts, by_deepspeed=by_deepspeed, mean=WeightMean(bare, first) if config.average_last else None)


def _refuse_what_cannot_be(accelerator: Accelerator, step: TrainStep) -> None:
    kind = accelerator.distributed_type
    scalars = [name for name, parameter in step.named_parameters() if parameter.ndim == 0]
    if kind == DistributedType.DEEPSPEED and scalars:
        raise ConfigError(f"DeepSpeed: got the scalar parameter {scalars[0]}; expected at least one axis; use DDP")
    if kind == DistributedType.FSDP and (not accelerator.is_fsdp2 or scalars):
        got = f"the scalar parameter {scalars[0]}" if scalars else "FSDP version 1"
        raise ConfigError(f"FSDP: got {got}; expected fsdp_version: 2 and parameters of at least one axis; use DDP")


def start_or_resume(run: Run, resume: bool) -> None:
    """Begin an empty folder's run, or go on from the state it holds.

    Raises:
        TrainingError: a state is there and ``resume`` is False; it is damaged or of other settings, data or model;
            checkpoints are there without one.
    """
    state = latest_state(run.out / "state")
    if state is None:
        if run.accelerator.is_main_process:
            refuse_lost_state(run.out)
        run.log.open(keep_until=0)
        return
    if not resume:
        raise TrainingError(
            f"{run.out} holds a run ({state.name}); expected an empty directory; "
            "add --resume to go on with it, or choose another --out"
        )
    record = load_state(state, run.bare, run.optimizer.optimizer)
    refuse_other_settings(run.config, record["config"])
    same_data(run.out, record.get("data"), run.data)
    run.done, run.best, run.metrics = record["step"], record["best"], record["metrics"]
    if run.mean is not None:
        run.mean.restore(state, record["averaged"])
    if run.accelerator.scaler is not None and record["scaler"]:
        run.accelerator.scaler.load_state_dict(record["scaler"])
    run.log.open(keep_until=run.done)


@contextmanager
def stop_request() -> Iterator[StopRequest]:
    """Finish the step under way when a signal comes; a second Ctrl-C stops at once."""
    request = StopRequest()
    if threading.current_thread() is not threading.main_thread():
        yield request
        return

    def ask(number: int, frame: Any) -> None:
        if request.requested:
            raise KeyboardInterrupt
        request.requested = True

    before = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield request
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def own_random_state(accelerator: Accelerator, config: TrainConfig) -> Iterator[None]:
    """Seed freely inside; leave torch's generators and switches as they were."""
    devices = [accelerator.device.index or 0] if accelerator.device.type == "cuda" else []
    deterministic = torch.are_deterministic_algorithms_enabled()
    with torch.random.fork_rng(devices=devices):
        torch.use_deterministic_algorithms(config.deterministic or deterministic, warn_only=True)
        try:
            yield
        finally:
            torch.use_deterministic_algorithms(deterministic)
