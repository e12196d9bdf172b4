"""Steps of ``align_base``'s model on one process and on two (gloo DDP, one thread each): slides a second.

    python bench/scaling.py [--json] [--slides 32] [--steps 6]

The global batch is the same, so two processes do half of it each and exchange embeddings and gradients. Features are
random. Times are the best of several steps, on the wall: run it on an otherwise idle machine; it prints the load.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from dataclasses import fields, replace
from pathlib import Path
from typing import Any


def main() -> None:
    """Measure one and two processes and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="end with one JSON object")
    parser.add_argument("--slides", type=int, default=32, help="in a global batch")
    parser.add_argument("--steps", type=int, default=6, help="a measurement takes the best of")
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.worker:
        worker(args.slides, args.steps)
        return
    print(f"load before: {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores")
    by_world = {world: measured(world, args) for world in (1, 2)}
    print(f"{'processes':>9}{'s a step':>10}{'slides/s':>10}{'speed-up':>10}{'loss':>12}")
    for world, one in by_world.items():
        gain = by_world[1]["seconds"] / one["seconds"]
        print(f"{world:9d}{one['seconds']:10.3f}{args.slides / one['seconds']:10.1f}{gain:10.2f}{one['loss']:12.6f}")
    gap = abs(by_world[1]["loss"] - by_world[2]["loss"]) / abs(by_world[1]["loss"])
    if not gap < 1e-5:
        raise SystemExit(f"the losses differ by {gap:.1e} of their value: not the same step")
    if args.json:
        speed_up = round(by_world[1]["seconds"] / by_world[2]["seconds"], 2)
        print(json.dumps({"speedup_2_processes": speed_up, "loss_gap": gap, "load": os.getloadavg()[0]}))


def measured(world: int, args: argparse.Namespace) -> dict[str, float]:
    """What ``world`` processes need for a step."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(world), __file__]
    command += ["--worker", "--slides", str(args.slides), "--steps", str(args.steps)]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{world} processes failed:\n{done.stderr[-2000:]}")
    answer: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return answer


def worker(slides: int, steps: int) -> None:
    """This process's share of every step."""
    import torch
    import torch.distributed as dist
    from torch.nn.parallel import DistributedDataParallel

    from align_step import Case, prepared_base
    from pathflip.processes import freed_memory_is_reused
    from pathflip.train import AlignStep

    dist.init_process_group("gloo")
    rank, world = dist.get_rank(), dist.get_world_size()
    torch.manual_seed(0)
    model, batch, _ = prepared_base(Case("ours", job="base", B=slides, L=320, S=1, K=8))
    model.eval()  # without noise, so that one and two processes compute the same loss
    step, batch = DistributedDataParallel(AlignStep(model)), share(batch, rank, world)
    optimizer = torch.optim.AdamW(step.parameters(), lr=1e-3, fused=True)
    seconds, losses = [], []
    with freed_memory_is_reused():
        for _ in range(steps + 1):
            start = time.perf_counter()
            optimizer.zero_grad()
            loss = torch.stack(list(step(batch).values())).sum()
            loss.backward()
            optimizer.step()
            seconds.append(time.perf_counter() - start)
            losses.append(loss.detach())
    first = losses[0] / world
    dist.all_reduce(first)
    if rank == 0:
        print(json.dumps({"seconds": min(seconds[1:]), "loss": first.item()}), flush=True)
    dist.destroy_process_group()


def share(batch: Any, rank: int, world: int) -> Any:
    """Consecutive slides of a batch."""
    size = len(batch.slide_ids) // world
    rows = slice(rank * size, (rank + 1) * size)
    values = {f.name: getattr(batch, f.name) for f in fields(batch)}
    return replace(batch, **{name: None if value is None else value[rows] for name, value in values.items()})


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parent))
    main()
