"""The training loop. There is one; what a step does comes from outside, and so do data, evaluation and checkpoints.

Its promise: the same configuration gives the same weights, bit for bit on one machine, whether the run went through,
was killed and resumed, or prefetched its data. It keeps it by having nothing to remember: learning rate, data order
and dropout of step t are functions of (seed, t).
"""

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.utils import DistributedDataParallelKwargs, DistributedType, gather_object
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn

from pathflip.errors import ConfigError, TrainingError
from pathflip.processes import freed_memory_is_reused
from pathflip.train import deepspeed
from pathflip.train.batches import Batches, Prefetcher, pinned
from pathflip.train.optim import OptimConfig, build_optimizer, learning_rate, set_learning_rate
from pathflip.train.run_folder import only_training_here, refuse_lost_state, same_data
from pathflip.train.state import is_sharded, latest_state, load_state, save_state, whole_weights
from pathflip.train.training_log import MetricsLog

__all__ = ["Evaluator", "Save", "TrainConfig", "TrainResult", "fit"]

Evaluator = Callable[[nn.Module], Mapping[str, float]]
"""Measures a model (in eval mode, without gradients). Every process calls it, on the same data."""

Save = Callable[[Path, Mapping[str, float]], None]
"""Writes a checkpoint directory; gets the path, and the step with the latest evaluation."""


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


@dataclass(frozen=True)
class TrainResult:
    """What a run ends with: steps done, the last evaluation, the best value of ``TrainConfig.best``."""

    step: int
    metrics: dict[str, float]
    best: float | None


@dataclass
class _Pending:
    """A step whose numbers are still on their way from the device. They are read one step late, so that
    the device never waits for Python; a bad step has not touched the weights by then (see ``_update``)."""

    step: int
    lr: float
    names: list[str]
    values: Tensor  # losses…, gradient norm, bad, stop; may still be on its way to the host
    bad: Tensor  # 1.0 where the weights must not move; on the device
    batches: list[Any]
    seconds: float = 0.0
    arrived: Any = None  # CUDA event

    def numbers(self) -> list[float]:
        if self.arrived is not None:
            self.arrived.synchronize()
        numbers: list[float] = self.values.tolist()
        return numbers


@dataclass
class _Run:
    """A run under way."""

    accelerator: Accelerator
    config: TrainConfig
    out: Path
    bare: nn.Module  # the step as its author wrote it
    wrapped: nn.Module  # the same, watched by DDP or FSDP
    optimizer: Any
    log: MetricsLog
    evaluators: Mapping[str, Evaluator]
    save: Save | None
    stop: "_StopRequest"
    done: int = 0
    metrics: dict[str, float] = field(default_factory=dict)
    best: float | None = None
    pending: _Pending | None = None
    by_deepspeed: bool = False
    clock: float = 0.0
    seconds: float = 0.0  # training time and slides since the last line of the log
    slides: int = 0
    data: dict[str, str] = field(default_factory=dict)  # digests of what it learns from


def fit(
    step: nn.Module,
    batches: Batches,
    *,
    config: TrainConfig,
    out: Path,
    evaluators: Mapping[str, Evaluator] | None = None,
    save: Save | None = None,
    resume: bool = False,
    on_step: Callable[[Mapping[str, float]], None] | None = None,
    data: Mapping[str, str] | None = None,
) -> TrainResult:
    """Train ``step.model`` and leave checkpoints, metrics and a resumable state under ``out``.

    Writes ``metrics.jsonl`` (one line a logged step), ``state/`` (to resume), ``last/`` and ``best/`` (by ``save``).

    Args:
        step: a module with an attribute ``model`` whose ``forward(batch)`` returns named scalar losses;
            ``AlignStep``, for example. On many processes it is what DDP or FSDP wraps.
        batches: micro-batches by index; see :class:`~pathflip.train.batches.Batches`.
        config: see :class:`TrainConfig`.
        out: the run's directory.
        evaluators: by name; their metrics are logged as "name/metric".
        save: writes a checkpoint of the model (normally ``save_checkpoint`` with the run's facts filled in).
        resume: go on from ``out/state`` if it is there.
        data: digests of what the run learns from (captions, tokenizer, …); going on with others is refused.
        on_step: called with every line of ``metrics.jsonl`` as it is written (a progress bar, a tracker).

    Raises:
        TrainingError: a loss or gradient was not finite (weights stay as before that step, and nothing is saved);
            ``out`` holds a run and ``resume`` is False, or checkpoints without a state, or another training writes
            there; the stored run had other settings or data.
        ConfigError: settings that cannot be met here.
        KeyboardInterrupt: after Ctrl-C or SIGTERM, once the state is saved.
    """
    accelerator = _accelerator(config)
    reuse = freed_memory_is_reused() if accelerator.device.type == "cpu" else nullcontext()
    alone = only_training_here(Path(out), accelerator.is_main_process)
    with alone, _own_random_state(accelerator, config), _stop_request() as stop, reuse:
        run = _prepare(accelerator, step, config, Path(out), evaluators or {}, save, stop, on_step)
        run.data = dict(data or {})
        _start_or_resume(run, resume)
        try:
            _train(run, batches)
        finally:
            run.log.close()
            accelerator.unwrap_model(run.wrapped, keep_fp32_wrapper=False)
            accelerator.free_memory()
    return TrainResult(run.done, dict(run.metrics), run.best)


def _accelerator(config: TrainConfig) -> Accelerator:
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


def _prepare(
    accelerator: Accelerator,
    step: nn.Module,
    config: TrainConfig,
    out: Path,
    evaluators: Mapping[str, Evaluator],
    save: Save | None,
    stop: "_StopRequest",
    on_step: Callable[[Mapping[str, float]], None] | None,
) -> _Run:
    step.to(accelerator.device).train()
    if config.compile:
        step.model.compile()  # type: ignore[union-attr]
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
    return _Run(*parts, by_deepspeed=by_deepspeed)


def _refuse_what_cannot_be(accelerator: Accelerator, step: nn.Module) -> None:
    kind = accelerator.distributed_type
    scalars = [name for name, parameter in step.named_parameters() if parameter.ndim == 0]
    if kind == DistributedType.DEEPSPEED and scalars:
        raise ConfigError(f"DeepSpeed: got the scalar parameter {scalars[0]}; expected at least one axis; use DDP")
    if kind == DistributedType.FSDP and (not accelerator.is_fsdp2 or scalars):
        got = f"the scalar parameter {scalars[0]}" if scalars else "FSDP version 1"
        raise ConfigError(f"FSDP: got {got}; expected fsdp_version: 2 and parameters of at least one axis; use DDP")


def _start_or_resume(run: _Run, resume: bool) -> None:
    found = latest_state(run.out / "state")
    if found is None:
        if run.accelerator.is_main_process:
            refuse_lost_state(run.out)
        run.log.open(keep_until=0)
        return
    if not resume:
        raise TrainingError(
            f"{run.out} holds a run ({found.name}); expected an empty directory; "
            "add --resume to go on with it, or choose another --out"
        )
    record = load_state(found, run.bare, run.optimizer.optimizer)
    _same_settings(run.config, record["config"])
    same_data(run.out, record.get("data"), run.data)
    run.done, run.best, run.metrics = record["step"], record["best"], record["metrics"]
    if run.accelerator.scaler is not None and record["scaler"]:
        run.accelerator.scaler.load_state_dict(record["scaler"])
    run.log.open(keep_until=run.done)


def _same_settings(config: TrainConfig, stored: Mapping[str, Any]) -> None:
    given = config.model_dump(mode="json")
    changed = [name for name in given if name not in _FREE_TO_CHANGE and given[name] != stored.get(name)]
    if changed:
        name = changed[0]
        raise TrainingError(
            f"resume: setting '{name}' was {stored.get(name)} when the run began, got {given[name]}; "
            "expected the same settings; choose another --out to start a new run"
        )


def _train(run: _Run, batches: Batches) -> None:
    config, accelerator = run.config, run.accelerator
    rank, world = accelerator.process_index, accelerator.num_processes
    first, last = run.done * config.accumulation, config.steps * config.accumulation
    on_gpu = accelerator.device.type == "cuda"

    def make(index: int) -> Any:
        batch = batches(index, rank, world)
        return pinned(batch) if on_gpu else batch

    run.clock = time.perf_counter()
    with Prefetcher(make, first, last, config.prefetch) as source:
        for index in range(run.done, config.steps):
            pending = _compute(run, source, index)
            _settle(run)
            if run.stop.agreed or (world == 1 and run.stop.asked):
                _stop(run)
            _update(run, pending)
            if _due(config, index + 1):
                _settle(run, write=False)
                _evaluate_and_save(run)


def _compute(run: _Run, source: Prefetcher, index: int) -> _Pending:
    """Forward and backward of one step; nothing is updated, and nothing waits for the device."""
    config, accelerator = run.config, run.accelerator
    lr = learning_rate(config.optim, index, config.steps)
    run.optimizer.zero_grad(set_to_none=True)
    sums: dict[str, Tensor] = {}
    seen = []
    for part in range(config.accumulation):
        micro = index * config.accumulation + part
        batch = source.take()
        seen.append(batch)
        torch.manual_seed(_seed(config.seed, micro, accelerator.process_index))
        more_to_come = part + 1 < config.accumulation
        with accelerator.no_sync(run.wrapped) if more_to_come and not run.by_deepspeed else nullcontext():
            losses = run.wrapped(batch.to(accelerator.device, non_blocking=True))
            total = torch.stack([loss.float() for loss in losses.values()]).sum()
            if run.by_deepspeed:
                deepspeed.backward(run.wrapped, total, last=not more_to_come)
            else:
                accelerator.backward(total / config.accumulation)
        for name, loss in {"loss": total, **losses}.items():
            sums[name] = sums.get(name, 0.0) + loss.detach().float() / config.accumulation
    norm: Any = 0.0  # DeepSpeed tells it after its step
    if not run.by_deepspeed:
        norm = accelerator.clip_grad_norm_(run.wrapped.parameters(), config.optim.clip or float("inf"))
    return _measure(run, index, lr, sums, norm, seen)


def _seed(*numbers: int) -> int:
    """Mix numbers into one 63-bit seed."""
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0] >> 1)


def _measure(run: _Run, index: int, lr: float, losses: dict[str, Tensor], norm: Any, batches: list[Any]) -> _Pending:
    """Pack what the host wants to know into one vector, agree on it over processes, and send it on its way."""
    device = run.accelerator.device
    grad_norm = torch.as_tensor(norm.full_tensor() if hasattr(norm, "full_tensor") else norm, device=device).float()
    values = torch.stack([*losses.values(), grad_norm])
    # Under fp16 the loss scaler expects gradients to overflow now and then, and skips such steps itself.
    checked = values[:-1] if run.accelerator.scaler is not None else values
    bad = (~torch.isfinite(checked)).any().float()
    stop = torch.full_like(bad, float(run.stop.asked))  # torch.tensor(…, device=…) would wait for the device
    values = torch.cat([values, torch.stack([bad, stop])])
    if run.accelerator.num_processes > 1:
        torch.distributed.all_reduce(values)
        values = values / run.accelerator.num_processes
    bad = (values[-2] != 0).float()
    pending = _Pending(index + 1, lr, [*losses, "grad_norm"], values, bad, batches)
    if device.type == "cuda":
        pending.values = values.to("cpu", non_blocking=True)
        pending.arrived = torch.cuda.Event()
        pending.arrived.record()
    return pending


def _update(run: _Run, pending: _Pending) -> None:
    """Move the weights, unless the step was bad: then the fused kernel itself leaves them alone."""
    set_learning_rate(run.optimizer, pending.lr)
    if run.by_deepspeed:
        _update_by_deepspeed(run, pending)
    else:
        if run.accelerator.scaler is None:
            run.optimizer.optimizer.found_inf = pending.bad
        run.optimizer.step()
    run.pending, run.done = pending, pending.step
    now = time.perf_counter()
    pending.seconds, run.clock = now - run.clock, now


def _update_by_deepspeed(run: _Run, pending: _Pending) -> None:
    """Its engine has no kernel that leaves the weights alone: look at the loss first, which waits for the device."""
    if pending.bad.item():
        return
    norm = deepspeed.take_step(run.wrapped)
    if pending.arrived is not None:
        pending.arrived.synchronize()
    pending.values[len(pending.names) - 1] = norm
    if not np.isfinite(norm):
        raise TrainingError(
            f"step {pending.step}: the loss is finite but its gradient is not, and DeepSpeed has moved the weights; "
            "go on with --resume from the last saved state, with a lower optim.lr, or without DeepSpeed"
        )


def _settle(run: _Run, write: bool = True) -> None:
    """Read the numbers of the last step: stop if they are not finite, log them otherwise."""
    pending, run.pending = run.pending, None
    if pending is None:
        return
    *values, bad, stop = pending.numbers()
    if bad:
        _refuse(run, pending, dict(zip(pending.names, values, strict=True)))
    run.stop.agreed = stop > 0
    config = run.config
    run.seconds += pending.seconds
    run.slides += sum(len(getattr(batch, "slide_ids", ())) for batch in pending.batches)
    if pending.step % config.log_every == 0 or pending.step == config.steps:
        speed = run.slides * run.accelerator.num_processes / max(1e-9, run.seconds)
        record = {"step": pending.step, **dict(zip(pending.names, values, strict=True)), "lr": pending.lr}
        run.log.hold({**record, "samples_per_s": round(speed, 3)})
        run.seconds, run.slides = 0.0, 0
        if write:
            run.log.flush()


def _refuse(run: _Run, pending: _Pending, values: dict[str, float]) -> None:
    """Name what was not finite and the slides behind it."""
    broken = [name for name, value in values.items() if not np.isfinite(value)]
    # The sum and the gradient of a bad loss are bad too: name the loss itself where there is one.
    broken = [name for name in broken if name not in ("loss", "grad_norm")] or broken
    found: dict[str, str] = {}
    for batch in pending.batches:
        if hasattr(run.bare, "suspects"):
            deep = not is_sharded(run.bare)
            found |= run.bare.suspects(batch.to(run.accelerator.device), deep)  # type: ignore[operator]
    everyone = [slide for batch in pending.batches for slide in getattr(batch, "slide_ids", ())]
    if run.accelerator.num_processes > 1:
        found = dict(gather_object(list(found.items())))
        everyone = gather_object(everyone)
    if found:
        cause = "slides that caused it: " + "; ".join(f"{slide}: {where}" for slide, where in found.items())
    else:
        cause = f"no slide by itself; the batch was {', '.join(everyone)}"
    what = ", ".join(f"{name} = {values[name]}" for name in broken)
    raise TrainingError(
        f"step {pending.step}: not finite: {what}; {cause}; the weights are as before this step; "
        "look at these slides' features, or lower optim.lr"
    )


def _due(config: TrainConfig, done: int) -> bool:
    return done == config.steps or any(every and done % every == 0 for every in (config.eval_every, config.save_every))


def _evaluate_and_save(run: _Run) -> None:
    config = run.config
    last = run.done == config.steps
    improved = False
    if run.evaluators and (last or (config.eval_every and run.done % config.eval_every == 0)):
        run.metrics = _evaluate(run)
        run.log.hold({"step": run.done, **run.metrics})
        improved = _improves(run)
    run.log.flush()
    if improved:
        _save_checkpoint(run, "best")
    if last or (config.save_every and run.done % config.save_every == 0):
        _save_all(run)
    run.clock = time.perf_counter()


def _evaluate(run: _Run) -> dict[str, float]:
    model = run.bare.model
    run.bare.eval()
    metrics: dict[str, float] = {}
    with torch.no_grad(), whole_weights(run.bare):
        for name, evaluator in run.evaluators.items():
            metrics |= {f"{name}/{key}": float(value) for key, value in evaluator(model).items()}  # type: ignore[arg-type]
    run.bare.train()
    return metrics


def _improves(run: _Run) -> bool:
    config = run.config
    if not config.best:
        return False
    if config.best not in run.metrics:
        raise ConfigError(f"best: got '{config.best}', expected one of {', '.join(sorted(run.metrics))}")
    value = run.metrics[config.best]
    better = run.best is None or (value > run.best if config.best_mode == "max" else value < run.best)
    if better and np.isfinite(value):
        run.best = value
        return True
    return False


def _save_checkpoint(run: _Run, name: str) -> None:
    """Sharded weights take every process to collect, so then all call ``save``."""
    if run.save is not None and (run.accelerator.is_main_process or is_sharded(run.bare)):
        run.save(run.out / name, {"step": float(run.done), **run.metrics})


def _save_all(run: _Run) -> None:
    scaler = run.accelerator.scaler
    record = {
        "step": run.done,
        "config": run.config.model_dump(mode="json"),
        "data": run.data,
        "best": run.best,
        "metrics": run.metrics,
        "scaler": scaler.state_dict() if scaler is not None else None,
    }
    main = run.accelerator.is_main_process
    if main or is_sharded(run.bare) or run.by_deepspeed:
        save_state(run.out / "state", run.bare, run.optimizer.optimizer, record, write=main)
    _save_checkpoint(run, "last")


def _stop(run: _Run) -> None:
    run.log.flush()
    _save_all(run)
    raise KeyboardInterrupt(f"stopped after step {run.done}; the state is saved in {run.out / 'state'}")


@dataclass
class _StopRequest:
    """Ctrl-C or SIGTERM: asked on this process, then agreed by all, so that every process stops after the same step."""

    asked: bool = False
    agreed: bool = False


@contextmanager
def _stop_request() -> Iterator[_StopRequest]:
    """Finish the step under way when a signal comes; a second Ctrl-C stops at once."""
    request = _StopRequest()
    if threading.current_thread() is not threading.main_thread():
        yield request
        return

    def ask(number: int, frame: Any) -> None:
        if request.asked:
            raise KeyboardInterrupt
        request.asked = True

    before = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield request
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def _own_random_state(accelerator: Accelerator, config: TrainConfig) -> Iterator[None]:
    """Seed freely inside; leave torch's generators and switches as they were."""
    devices = [accelerator.device.index or 0] if accelerator.device.type == "cuda" else []
    deterministic = torch.are_deterministic_algorithms_enabled()
    with torch.random.fork_rng(devices=devices):
        torch.use_deterministic_algorithms(config.deterministic or deterministic, warn_only=True)
        try:
            yield
        finally:
            torch.use_deterministic_algorithms(deterministic)
