"""Twenty steps of training must not change by a bit when code is rearranged.

``tests/golden/loss_curve.json`` holds the curve as hexadecimal floats, and the machine it was written on. On the same
torch version and processor the comparison is exact. Elsewhere vector widths and math libraries round differently, so
the curve may differ by 1e-4 relative: enough to notice a changed loss, schedule, order of data or initialisation. The
curve with dropout is compared only on the same architecture, since torch draws its masks differently on others.

A deliberate change is written down with  python tests/test_train_golden.py --write  and a line in docs/log.md.
"""

import json
import platform
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
import torch

from pathflip.models.cpu import accelerate_for_cpu
from pathflip.train import AlignStep, OptimConfig, TrainConfig, fit, read_metrics
from tiny_align import TinyAlign, batches
from tiny_pathflip import make_batch, tiny

GOLDEN = Path(__file__).parent / "golden" / "loss_curve.json"


def machine() -> dict[str, str]:
    """What decides the last bits: torch, the processor, the instructions torch chose."""
    try:
        first = Path("/proc/cpuinfo").read_text().split("\n\n")[0]
        known = dict(line.split("\t", 1) for line in first.splitlines() if "\t" in line)
        processor = " ".join(
            known.get(key, "").strip(" \t:") for key in ("model name", "cpu family", "model", "stepping")
        )
    except OSError:
        processor = platform.processor()
    return {
        "torch": torch.__version__,
        "architecture": platform.machine(),
        "processor": processor,
        "instructions": torch.backends.cpu.get_cpu_capability(),
    }


def curves() -> dict[str, list[float]]:
    """Loss of every step: plain; with dropout, accumulation and gradient caching; and of the default model."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    plain = TrainConfig(steps=20, batch_size=4, device="cpu", optim=OptimConfig(lr=0.01, warmup_steps=4))
    rich = plain.model_copy(update={"accumulation": 2, "grad_cache_chunk": 3})
    out = {}
    runs = {
        "plain": (plain, TinyAlign(0.0), batches()),
        "rich": (rich, TinyAlign(0.2), batches()),
        "pathflip": (plain, accelerate_for_cpu(tiny("pathflip")), lambda index, rank, world: make_batch(index)),
    }
    for name, (config, model, source) in runs.items():
        with TemporaryDirectory() as folder:
            fit(AlignStep(model, config.grad_cache_chunk), source, config=config, out=Path(folder))
            out[name] = [line["loss"] for line in read_metrics(Path(folder) / "metrics.jsonl")]
    torch.set_num_threads(threads)
    return out


def test_loss_curve_is_golden():
    golden = json.loads(GOLDEN.read_text())
    here, there = machine(), golden["machine"]
    exact = here == there
    for name, curve in curves().items():
        if name == "rich" and here["architecture"] != there["architecture"]:
            continue
        expected = [float.fromhex(value) for value in golden["curves"][name]]
        assert len(curve) == 20
        if exact:
            assert curve == expected, f"the '{name}' curve changed (step {_first_difference(curve, expected)})"
        else:
            assert curve == pytest.approx(expected, rel=1e-4), f"the '{name}' curve changed"


def _first_difference(a: list[float], b: list[float]) -> int:
    return next(i + 1 for i, (x, y) in enumerate(zip(a, b, strict=True)) if x != y)


if __name__ == "__main__" and "--write" in sys.argv:
    hexadecimal = {name: [value.hex() for value in curve] for name, curve in curves().items()}
    GOLDEN.parent.mkdir(exist_ok=True)
    GOLDEN.write_text(json.dumps({"machine": machine(), "curves": hexadecimal}, indent=1) + "\n")
