"""What one of several processes does in test_train_distributed.py; started by torchrun."""

import json
import sys
from contextlib import suppress
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
from accelerate import Accelerator, FullyShardedDataParallelPlugin
from accelerate.utils import DistributedType
from torch.nn.parallel import DistributedDataParallel

from pathflip.checkpoint import InputContract, save_checkpoint
from pathflip.errors import ConfigError, TrainingError
from pathflip.train import AlignStep, OptimConfig, TrainConfig, fit, loop
from pathflip.train.align_run import train_align
from small_cohort import short, small_cohort
from tiny_align import TinyAlign, batches, evaluate, poison, save
from tiny_pathflip import make_batch, tiny

ACCELERATOR = loop.make_accelerator

CONFIG = TrainConfig(steps=6, batch_size=4, device="cpu", optim=OptimConfig(lr=0.01, warmup_steps=2), save_every=2)
SCENARIOS = {"plain": CONFIG, "cached": CONFIG.model_copy(update={"grad_cache_chunk": 1, "accumulation": 2})}


class KilledError(Exception):
    """Stands in for a kill: nothing in the loop catches it."""


def killed_at(index_of_kill: int):
    source = batches()

    def make(index, rank, world):
        if index == index_of_kill:
            raise KilledError
        return source(index, rank, world)

    return make


def poisoned(index, rank, world):
    """The last process gets a bad slide at step 4."""
    batch = batches()(index, rank, world)
    return poison(batch, 0) if index == 3 and rank == world - 1 else batch


def gradients(rank: int, world: int) -> dict[str, torch.Tensor]:
    """Gradients of one plain step, averaged by DDP where there are several processes."""
    step = AlignStep(TinyAlign())
    wrapped = DistributedDataParallel(step) if world > 1 else step
    sum(wrapped(batches()(0, rank, world)).values()).backward()
    return {name: parameter.grad for name, parameter in step.model.named_parameters()}


def pathflip_losses(rank: int, world: int) -> dict[str, torch.Tensor]:
    """This process's losses and gradients of the default model where the halves of the batch have unlike numbers of
    sub-captions that tell slides apart.
    """
    model, whole = tiny("pathflip"), make_batch()
    rows = [0, 0, 1, 2]  # four slides of three: the third sub-caption of the first is false twice
    picked = {f.name: getattr(whole, f.name) for f in fields(whole)}
    own = rows[rank * 4 // world : (rank + 1) * 4 // world]
    batch = replace(
        whole,
        **{name: value[own] for name, value in picked.items() if isinstance(value, torch.Tensor)},
        slide_ids=tuple(str(i) for i in own),
    )
    parts = model.losses(model(batch), batch)
    sum(parts.values()).backward()
    values = {name: loss.detach() for name, loss in parts.items()}
    return values | {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


class Flat(TinyAlign):
    """FSDP2 cannot shard scalars."""

    def __init__(self) -> None:
        super().__init__()
        self.logit_scale = torch.nn.Parameter(self.logit_scale.detach().reshape(1))

    def losses(self, output, batch):
        return {name: loss.squeeze() for name, loss in super().losses(output, batch).items()}


def with_fsdp(config: TrainConfig) -> Accelerator:
    """accelerate offers FSDP2 on GPUs only; the code it then runs works with gloo as well."""
    accelerator = ACCELERATOR(config)
    accelerator.state.fsdp_plugin = FullyShardedDataParallelPlugin(fsdp_version=2, cpu_ram_efficient_loading=False)
    accelerator.state.distributed_type = DistributedType.FSDP
    return accelerator


def sharded(out: Path) -> None:
    """The plain scenario with FSDP2: killed, resumed, evaluated, saved as a checkpoint; and a scalar refused."""
    loop.make_accelerator = with_fsdp
    contract = InputContract(encoder="none", dim=6, tile_px=64, mpp=2.0)
    for source in (killed_at(5), batches()):
        step = AlignStep(Flat())
        with suppress(KilledError):
            fit(
                step,
                source,
                config=CONFIG,
                out=out / "sharded",
                evaluators={"val": evaluate},
                save=lambda path, metrics, model=step.model: save_checkpoint(
                    path, model, contract=contract, model_config={"kind": "flat"}, metrics=metrics
                ),
                resume=True,
            )
        dist.barrier()
    try:
        fit(AlignStep(TinyAlign()), batches(), config=CONFIG, out=out / "scalar")
    except ConfigError as error:
        (out / f"scalar-{dist.get_rank()}.json").write_text(json.dumps(str(error)))
    loop.make_accelerator = ACCELERATOR


def sharded_alignment(out: Path) -> None:
    """A run of the default recipe with FSDP2, whose checkpoint holds the vectors of its training texts."""
    loop.make_accelerator = with_fsdp
    own = out / f"cohort-{dist.get_rank()}"
    own.mkdir()
    sizes = {"width": 16, "embed_dim": 8, "text_width": 16, "text_heads": 2, "text_ffn": 16, "known_texts": 12}
    recipe = short(text__pretrained="", train__eval_every=0, **{f"model__{key}": size for key, size in sizes.items()})
    train_align(recipe, *small_cohort(own, np.random.default_rng(0)), out / "alignment", store=own / "packed")
    loop.make_accelerator = ACCELERATOR


def main(out: Path) -> None:
    """Every scenario, one after another."""
    if (out / "begun-on-one").exists():  # by the test that finishes on two what one process began
        fit(AlignStep(TinyAlign()), batches(), config=CONFIG, out=out / "begun-on-one", save=save, resume=True)
    for name, config in SCENARIOS.items():
        step = AlignStep(TinyAlign(), config.grad_cache_chunk)
        fit(step, batches(), config=config, out=out / name, save=save)
        if dist.get_rank() == 0:
            torch.save(step.model.state_dict(), out / name / "weights.pt")
    grads = gradients(dist.get_rank(), dist.get_world_size())
    if dist.get_rank() == 0:
        torch.save(grads, out / "gradients.pt")
    losses = pathflip_losses(dist.get_rank(), dist.get_world_size())
    for value in losses.values():
        dist.all_reduce(value)
        value /= dist.get_world_size()
    if dist.get_rank() == 0:
        torch.save(losses, out / "pathflip.pt")
    try:
        fit(AlignStep(TinyAlign()), killed_at(5), config=CONFIG, out=out / "killed", save=save)
    except KilledError:
        dist.barrier()
    try:
        fit(AlignStep(TinyAlign()), poisoned, config=CONFIG, out=out / "poisoned", save=save)
    except TrainingError as error:
        (out / f"error-{dist.get_rank()}.json").write_text(json.dumps(str(error)))
    sharded(out)
    sharded_alignment(out)


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(Path(sys.argv[1]))
    dist.destroy_process_group()
