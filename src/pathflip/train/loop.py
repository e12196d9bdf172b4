"""The training loop. There is one; what a step does comes from outside, and so do data, evaluation and checkpoints.

Its promise: the same configuration gives the same weights, bit for bit on one machine, whether the run went through,
was killed and resumed, or prefetched its data. It keeps it by having nothing to remember: learning rate, data order
and dropout of step t are functions of (seed, t).
"""

import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate.utils import gather_object
from torch import Tensor

from pathflip.errors import ConfigError, TrainingError
from pathflip.processes import freed_memory_is_reused
from pathflip.train import deepspeed
from pathflip.train.batches import Batch, Batches, Prefetcher, pinned
from pathflip.train.optim import learning_rate, set_learning_rate
from pathflip.train.run_folder import only_training_here
from pathflip.train.run_setup import (
    Evaluator,
    PendingStep,
    Run,
    Save,
    make_accelerator,
    own_random_state,
    prepare_run,
    start_or_resume,
    stop_request,
)
from pathflip.train.state import is_sharded, save_state, whole_weights
from pathflip.train.train_config import TrainConfig
from pathflip.train.train_step import TrainStep
from pathflip.train.weight_mean import MEAN_FILE

__all__ = ["TrainResult", "fit"]


@dataclass(frozen=True)
class TrainResult:
    """What a run ends with: steps done, the last evaluation, the best value of ``TrainConfig.best``."""

    step: int
    metrics: dict[str, float]
    best: float | None


def fit(
    step: TrainStep,
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
        step: see :class:`~pathflip.train.train_step.TrainStep`; ``AlignStep``, for example.
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
    accelerator = make_accelerator(config)
    reuse = freed_memory_is_reused() if accelerator.device.type == "cpu" else nullcontext()
    alone = only_training_here(Path(out), accelerator.is_main_process)
    with alone, own_random_state(accelerator, config), stop_request() as stop, reuse:
        run = prepare_run(accelerator, step, config, Path(out), evaluators or {}, save, stop, on_step)
        run.data = dict(data or {})
        start_or_resume(run, resume)
        try:
            _train(run, batches)
        finally:
            run.log.close()
            accelerator.unwrap_model(run.wrapped, keep_fp32_wrapper=False)
            accelerator.free_memory()
    return TrainResult(run.done, dict(run.metrics), run.best)


def _train(run: Run, batches: Batches) -> None:
    config, accelerator = run.config, run.accelerator
    rank, world = accelerator.process_index, accelerator.num_processes
    first, last = run.done * config.accumulation, config.steps * config.accumulation
    on_gpu = accelerator.device.type == "cuda"

    def make(index: int) -> Batch:
        batch = batches(index, rank, world)
        return pinned(batch) if on_gpu else batch

    run.clock = time.perf_counter()
    with Prefetcher(make, first, last, config.prefetch) as source:
        for index in range(run.done, config.steps):
            pending = _compute(run, source, index)
            _settle(run)
            if run.stop.agreed or (world == 1 and run.stop.requested):
                _stop(run)
            _update(run, pending)
            if _due(config, index + 1):
                _settle(run, write=False)
                _evaluate_and_save(run)


def _compute(run: Run, source: Prefetcher, index: int) -> PendingStep:
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


def _measure(
    run: Run, index: int, lr: float, losses: dict[str, Tensor], norm: Any, batches: list[Batch]
) -> PendingStep:
    """Pack what the host wants to know into one vector, agree on it over processes, and send it on its way."""
    device = run.accelerator.device
    grad_norm = torch.as_tensor(norm.full_tensor() if hasattr(norm, "full_tensor") else norm, device=device).float()
    values = torch.stack([*losses.values(), grad_norm])
    # Under fp16 the loss scaler expects gradients to overflow now and then, and skips such steps itself.
    checked = values[:-1] if run.accelerator.scaler is not None else values
    bad = (~torch.isfinite(checked)).any().float()
    stop = torch.full_like(bad, float(run.stop.requested))  # torch.tensor(…, device=…) would wait for the device
    values = torch.cat([values, torch.stack([bad, stop])])
    if run.accelerator.num_processes > 1:
        torch.distributed.all_reduce(values)
        values = values / run.accelerator.num_processes
    bad = (values[-2] != 0).float()
    pending = PendingStep(index + 1, lr, [*losses, "grad_norm"], values, bad, batches)
    if device.type == "cuda":
        pending.values = values.to("cpu", non_blocking=True)
        pending.arrived = torch.cuda.Event()
        pending.arrived.record()
    return pending


def _update(run: Run, pending: PendingStep) -> None:
    """Move the weights, unless the step was bad: then the fused kernel itself leaves them alone."""
    set_learning_rate(run.optimizer, pending.lr)
    if run.by_deepspeed:
        _update_by_deepspeed(run, pending)
    else:
        if run.accelerator.scaler is None:
            run.optimizer.optimizer.found_inf = pending.bad
        run.optimizer.step()
    if run.mean is not None:
        run.mean.add(pending.step)
    run.pending, run.done = pending, pending.step
    now = time.perf_counter()
    pending.seconds, run.clock = now - run.clock, now


def _update_by_deepspeed(run: Run, pending: PendingStep) -> None:
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


def _settle(run: Run, write: bool = True) -> None:
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
    run.slides += sum(len(batch.slide_ids) for batch in pending.batches)
    if pending.step % config.log_every == 0 or pending.step == config.steps:
        speed = run.slides * run.accelerator.num_processes / max(1e-9, run.seconds)
        record = {"step": pending.step, **dict(zip(pending.names, values, strict=True)), "lr": pending.lr}
        run.log.hold({**record, "samples_per_s": round(speed, 3)})
        run.seconds, run.slides = 0.0, 0
        if write:
            run.log.flush()


def _refuse(run: Run, pending: PendingStep, values: dict[str, float]) -> None:
    """Name what was not finite and the slides behind it."""
    broken = [name for name, value in values.items() if not np.isfinite(value)]
    # The sum and the gradient of a bad loss are bad too: name the loss itself where there is one.
    broken = [name for name in broken if name not in ("loss", "grad_norm")] or broken
    reasons: dict[str, str] = {}
    for batch in pending.batches:
        reasons |= run.bare.suspects(batch.to(run.accelerator.device), not is_sharded(run.bare))
    everyone = [slide for batch in pending.batches for slide in batch.slide_ids]
    if run.accelerator.num_processes > 1:
        reasons = dict(gather_object(list(reasons.items())))
        everyone = gather_object(everyone)
    if reasons:
        cause = "slides that caused it: " + "; ".join(f"{slide}: {where}" for slide, where in reasons.items())
    else:
        cause = f"no slide by itself; the batch was {', '.join(everyone)}"
    what = ", ".join(f"{name} = {values[name]}" for name in broken)
    raise TrainingError(
        f"step {pending.step}: not finite: {what}; {cause}; the weights are as before this step; "
        "look at these slides' features, or lower optim.lr"
    )


def _due(config: TrainConfig, done: int) -> bool:
    return done == config.steps or any(every and done % every == 0 for every in (config.eval_every, config.save_every))


def _evaluate_and_save(run: Run) -> None:
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


def _evaluate(run: Run) -> dict[str, float]:
    model = run.bare.model
    run.bare.eval()
    metrics: dict[str, float] = {}
    with torch.no_grad(), _weights_to_keep(run), whole_weights(run.bare):
        for name, evaluator in run.evaluators.items():
            metrics |= {f"{name}/{key}": float(value) for key, value in evaluator(model).items()}
    run.bare.train()
    return metrics


def _improves(run: Run) -> bool:
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


def _weights_to_keep(run: Run) -> AbstractContextManager[None]:
    """The model with the weights that are evaluated and saved: the mean of some steps', where it is asked for."""
    return nullcontext() if run.mean is None else run.mean.in_place()


def _save_checkpoint(run: Run, name: str) -> None:
    """Sharded weights take every process to collect, so then all call ``save``."""
    if run.save is not None and (run.accelerator.is_main_process or is_sharded(run.bare)):
        with _weights_to_keep(run), whole_weights(run.bare):
            run.save(run.out / name, {"step": float(run.done), **run.metrics})


def _save_all(run: Run) -> None:
    scaler = run.accelerator.scaler
    record = {
        "step": run.done,
        "config": run.config.model_dump(mode="json"),
        "data": run.data,
        "best": run.best,
        "metrics": run.metrics,
        "scaler": scaler.state_dict() if scaler is not None else None,
        "averaged": 0 if run.mean is None else run.mean.count,
    }
    more = {} if run.mean is None else {MEAN_FILE: run.mean.mean}
    main = run.accelerator.is_main_process
    if main or is_sharded(run.bare) or run.by_deepspeed:
        save_state(run.out / "state", run.bare, run.optimizer.optimizer, record, write=main, more=more)
    _save_checkpoint(run, "last")


def _stop(run: Run) -> None:
    run.log.flush()
    _save_all(run)
    raise KeyboardInterrupt(f"stopped after step {run.done}; the state is saved in {run.out / 'state'}")
