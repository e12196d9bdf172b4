"""What a GPU makes of this code, within ten minutes: ``python bench/gpu.py [SLIDE…] [--json]``.

    python bench/gpu.py --tiny       the same script at a size for a processor (under a minute): does it run?

Sections, each left out (and named) when the time is up:

- ``matmul``: the card's bfloat16 rate on 8,192³ products; the yardstick of all "share of peak" below;
- ``align_base``: a training step in bfloat16 at 32 and 256 slides × 128 patches × 1,024: seconds, slides/s, memory,
  share of the matmul rate (operations counted by torch), what makes the host wait for the device inside the step
  (profiler: values read by Python, boolean indices, explicit waits; should be none but one), attention kernels seen;
- ``grad_cache``: the step of 256 slides encoded 32 at a time: memory and seconds beside the plain one;
- ``published``: the published model at the paper's size, its released schedule beside ours;
- ``loader``: training steps fed by the packed store, and the fraction of time they wait for data;
- ``extraction``: a ViT-L with random weights fed by our reader: tiles/s, and the fraction of time the network waits.
  SLIDE: real slides; else a painted one (JPEG, 40,000 tiles' worth of pixels);
- ``search``: 1,000,000 slide vectors × 128 in bfloat16, then 1,000 slides re-ranked by 64 regions each.

Every section says what it measured and nothing else; ``--json`` ends with one object of all of it.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).parent))


class Bench:
    """Device, sizes, and how much time is left."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.device = torch.device("cuda" if torch.cuda.is_available() and not options.cpu else "cpu")
        self.tiny, self.slides = options.tiny, options.slides
        self.ends = time.monotonic() + 60 * options.minutes
        self.peak = 0.0
        self.autocast = lambda: torch.autocast(self.device.type, torch.bfloat16)

    def sync(self) -> None:
        """Wait for the device."""
        if self.device.type == "cuda":
            torch.cuda.synchronize()

    def seconds(self, job: Callable[[], Any], times: int = 5) -> float:
        """Best of several, after one to warm up; each waits for the device at its end only."""
        best = float("inf")
        for index in range(2 if self.tiny else times + 1):
            self.sync()
            started = time.perf_counter()
            job()
            self.sync()
            best = min(best, time.perf_counter() - started) if index else best
        return best

    def memory_gb(self, job: Callable[[], Any]) -> float:
        """Most memory of the card while a job runs; 0 without one."""
        if self.device.type != "cuda":
            job()
            return 0.0
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        job()
        self.sync()
        return torch.cuda.max_memory_allocated() / 2**30


def main() -> None:
    """Run the sections in turn."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("slides", nargs="*", type=Path, help="real slides for the extraction")
    parser.add_argument("--tiny", action="store_true", help="a size for a processor")
    parser.add_argument("--cpu", action="store_true", help="leave the GPU alone")
    parser.add_argument("--minutes", type=float, default=9.0, help="begin no section after this")
    parser.add_argument("--json", action="store_true", help="end with one JSON object")
    options = parser.parse_args()
    bench = Bench(options)
    if bench.device.type == "cpu" and not options.tiny:
        raise SystemExit("no GPU here; --tiny runs the script at a size for a processor")
    name = torch.cuda.get_device_name() if bench.device.type == "cuda" else "processor"
    print(f"{name}, torch {torch.__version__}")
    result: dict[str, Any] = {"device": name, "torch": torch.__version__, "tiny": options.tiny}
    for section in (matmul, align_base, grad_cache, published, loader, extraction, search):
        if time.monotonic() > bench.ends:
            print(f"{section.__name__}: left out, the time is up")
            result[section.__name__] = None
            continue
        started = time.monotonic()
        numbers = section(bench)
        result[section.__name__] = numbers
        words = "  ".join(
            f"{key} {value:.4g}" if isinstance(value, float) else f"{key} {value}" for key, value in numbers.items()
        )
        print(f"{section.__name__} ({time.monotonic() - started:.0f} s): {words}", flush=True)
    if options.json:
        print(json.dumps(result))


def matmul(bench: Bench) -> dict[str, Any]:
    """The bfloat16 rate; kept for the shares of the other sections."""
    side = 512 if bench.tiny else 8192
    a, b = (torch.randn(side, side, device=bench.device, dtype=torch.bfloat16) for _ in range(2))
    bench.peak = 2 * side**3 / bench.seconds(lambda: a @ b)
    return {"tflops": bench.peak / 1e12}


# ------------------------------------------------------------------------------------------------ training steps


def base_step(bench: Bench, slides: int, chunk: int = 0) -> tuple[Any, Any, Any]:
    """``align_base``'s step on the device, a batch, and an optimiser."""
    from align_step import Case, prepared_base
    from pathflip.models import build_model
    from pathflip.recipes.align import align_base as recipe
    from pathflip.train import AlignStep

    width, patches = (64, 16) if bench.tiny else (1024, 128)
    _, batch, _ = prepared_base(Case("ours", job="base", B=slides, L=patches, S=1, K=8))
    shape = (*batch.patches.shape[:2], width)
    batch = replace(batch, patches=torch.randn(shape), context=torch.randn(shape))
    torch.manual_seed(0)
    step = AlignStep(build_model({**recipe().model, "feature_dim": width, "vocab_size": 2000}), chunk)
    step.to(bench.device).train()
    return step, batch.to(bench.device), torch.optim.AdamW(step.parameters(), lr=1e-4, fused=True)


def one_step(bench: Bench, step: Any, batch: Any, optimizer: Any) -> None:
    """Forward, backward, update; nothing waits for the device."""
    optimizer.zero_grad(set_to_none=True)
    gradients(bench, step, batch)
    optimizer.step()


def gradients(bench: Bench, step: Any, batch: Any) -> None:
    """Forward and backward: what is our code of a step."""
    with bench.autocast():
        losses = step(batch)
    torch.stack([loss.float() for loss in losses.values()]).sum().backward()


def align_base(bench: Bench) -> dict[str, Any]:
    """Two batch sizes, the share of the matmul rate, and what the profiler saw."""
    from torch.utils.flop_counter import FlopCounterMode

    out: dict[str, Any] = {}
    for slides in (4, 8) if bench.tiny else (32, 256):
        parts = base_step(bench, slides)
        seconds = bench.seconds(lambda parts=parts: one_step(bench, *parts))
        with FlopCounterMode(display=False) as counter:
            one_step(bench, *parts)
        out[f"b{slides}_s"], out[f"b{slides}_slides_per_s"] = seconds, slides / seconds
        out[f"b{slides}_share_of_matmul"] = counter.get_total_flops() / seconds / bench.peak
        out[f"b{slides}_gb"] = bench.memory_gb(lambda parts=parts: one_step(bench, *parts))
    step, batch, optimizer = parts
    update = profiled(bench, optimizer.step)  # AdamW on a processor reads its own step counters, on a GPU it does not
    return out | profiled(bench, lambda: gradients(bench, step, batch)) | {"update_values_read": update["values_read"]}


def profiled(bench: Bench, job: Callable[[], Any]) -> dict[str, Any]:
    """Host syncs inside a step, and the attention kernels it used."""
    from torch.profiler import ProfilerActivity, profile

    activities = [ProfilerActivity.CPU] + [ProfilerActivity.CUDA] * (bench.device.type == "cuda")
    bench.sync()
    with profile(activities=activities) as seen:
        job()
    counts = {event.key: event.count for event in seen.key_averages()}
    waits = {"values_read": "aten::_local_scalar_dense", "boolean_indices": "aten::nonzero"}
    waits["stream_waits"] = "cudaStreamSynchronize"
    syncs = {name: counts.get(key, 0) for name, key in waits.items()}
    attention = sorted({word for key in counts for word in ("flash", "fmha", "mem_efficient") if word in key.lower()})
    return {**syncs, "attention_kernels": ",".join(attention) or "none"}


def grad_cache(bench: Bench) -> dict[str, Any]:
    """Chunks against the whole batch."""
    slides, chunk = (8, 2) if bench.tiny else (256, 32)
    out: dict[str, Any] = {}
    for name, size in (("plain", 0), ("cached", chunk)):
        parts = base_step(bench, slides, size)
        out[f"{name}_s"] = bench.seconds(lambda parts=parts: one_step(bench, *parts), 3)
        out[f"{name}_gb"] = bench.memory_gb(lambda parts=parts: one_step(bench, *parts))
    return out


def published(bench: Bench) -> dict[str, Any]:
    """The released schedule and ours, same weights, bfloat16."""
    import align_step

    size = "small" if bench.tiny else "paper"
    layout = {"L": 2, "S": 4, "K": 2} if bench.tiny else align_step.LAYOUT["paper"]
    out: dict[str, Any] = {}
    for schedule in ("published", "ours"):
        case = align_step.Case(schedule, size=size, B=2 if bench.tiny else 4, **layout)
        torch.manual_seed(0)
        model, batch, index = align_step.prepared(case)
        model.to(bench.device).train()
        batch, index = on_device(batch, bench), index.to(bench.device) if torch.is_tensor(index) else index
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5, fused=True)

        def job(
            case: Any = case, model: Any = model, batch: Any = batch, index: Any = index, opt: Any = optimizer
        ) -> None:
            opt.zero_grad(set_to_none=True)
            with bench.autocast():
                loss = align_step.total_loss(case, model, batch, index)
            loss.float().backward()
            opt.step()

        out[f"{schedule}_s"] = bench.seconds(job, 3)
        out[f"{schedule}_gb"] = bench.memory_gb(job)
        del model, optimizer, job
    return out | {"ratio": out["published_s"] / out["ours_s"]}


def on_device(batch: Any, bench: Bench) -> Any:
    """A batch's tensors on the device."""
    values = {f.name: getattr(batch, f.name) for f in fields(batch)}
    return replace(batch, **{name: value.to(bench.device) for name, value in values.items() if torch.is_tensor(value)})


# ------------------------------------------------------------------------------------------------ data


def loader(bench: Bench) -> dict[str, Any]:
    """bench/loader.py's training part, on a cohort that is made in seconds; the loop takes the GPU by itself."""
    slides, patches, width, steps = (40, 300, 64, 6) if bench.tiny else (64, 4000, 1024, 60)
    sizes = ["--slides", str(slides), "--patches", str(patches), "--dim", str(width), "--steps", str(steps)]
    with tempfile.TemporaryDirectory(prefix="pathflip-gpu-") as folder:
        command = [sys.executable, str(Path(__file__).with_name("loader.py")), "--folder", folder, *sizes]
        done = subprocess.run([*command, "--train-only", "--json"], capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"loader failed:\n{done.stderr[-3000:]}")
    numbers = json.loads(done.stdout.splitlines()[-1])
    return {key: numbers[key] for key in ("step_s", "wait_share")}


def extraction(bench: Bench) -> dict[str, Any]:
    """ViT-L (random weights) over the tiles of slides; how long the network had nothing to do."""
    from pathflip.features import extract
    from pathflip.geometry import TileSpec
    from pathflip.slide import find_tissue, open_slide, tile_slide

    encoder = vit_large(bench)
    busy, encode = [0.0], encoder.encode

    def watched(tiles: Any, state: Any = None) -> Any:
        started = time.perf_counter()
        vectors = encode(tiles, state)
        busy[0] += time.perf_counter() - started
        return vectors

    encoder.encode = watched
    spec = TileSpec(64, 2.0) if bench.tiny else TileSpec(224, 0.5)
    tiles, total, idle = 0, 0.0, 0.0
    with tempfile.TemporaryDirectory(prefix="pathflip-gpu-") as folder:
        paths = bench.slides or [painted(Path(folder), bench)]
        for path in paths:
            with open_slide(path) as slide:
                grid = tile_slide(slide, find_tissue(slide), spec)
                most = 32 if bench.tiny else 20_000
                grid = replace(grid, coords=grid.coords[:most])
                encoder.encode(np.zeros((8, spec.tile_px, spec.tile_px, 3), np.uint8))  # warm
                busy[0], started = 0.0, time.perf_counter()
                extract(slide, grid, encoder, batch_size=256, readers=4)
                seconds = time.perf_counter() - started
                tiles, total, idle = tiles + len(grid), total + seconds, idle + seconds - busy[0]
            if time.monotonic() > bench.ends:
                break
    return {"tiles": tiles, "tiles_per_s": tiles / total, "wait_share": idle / total}


def vit_large(bench: Bench) -> Any:
    """A ViT-L/16 of random weights behind the encoder interface."""
    from transformers import ViTConfig, ViTModel

    from pathflip.features.network_encoder import NetworkEncoder

    large = {"hidden_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 16, "intermediate_size": 4096}
    small = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
    px = 64 if bench.tiny else 224
    torch.manual_seed(0)
    net = ViTModel(ViTConfig(**(small if bench.tiny else large), image_size=px), add_pooling_layer=False)

    class ClassToken(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = net

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.net(x).last_hidden_state[:, 0]

    dim, precision = net.config.hidden_size, "float32" if bench.device.type == "cpu" else "bfloat16"
    return NetworkEncoder("vit_l_random", "0", ClassToken(), dim, device=bench.device, precision=precision)


def painted(folder: Path, bench: Bench) -> Path:
    """A JPEG slide of noise on tissue colours."""
    import tifffile

    px = 1024 if bench.tiny else 32_768
    rng = np.random.default_rng(0)
    block = np.clip(rng.normal((190, 120, 160), 25, (1024, 1024, 3)), 0, 255).astype(np.uint8)
    path = folder / "painted.tif"
    mpp = 2.0 if bench.tiny else 0.5
    words = {"tile": (256, 256), "compression": "jpeg", "photometric": "rgb", "resolution": (1e4 / mpp, 1e4 / mpp)}

    def tiles() -> Any:
        for index in range((px // 256) ** 2):
            y, x = divmod(index % 16, 4)
            yield block[y * 256 : y * 256 + 256, x * 256 : x * 256 + 256]

    with tifffile.TiffWriter(path, bigtiff=True) as writer:
        writer.write(tiles(), shape=(px, px, 3), dtype=np.uint8, resolutionunit="CENTIMETER", subifds=0, **words)
        side = px // 16
        small = np.tile(block[::16, ::16], (px // 1024, px // 1024, 1))[:side, :side]
        words["resolution"] = (1e4 / mpp / 16, 1e4 / mpp / 16)
        words["tile"] = (64, 64) if bench.tiny else (256, 256)
        writer.write(small, resolutionunit="CENTIMETER", subfiletype=1, **words)
    return path


def search(bench: Bench) -> dict[str, Any]:
    """Slide vectors first, then the best slides by their regions: exact, on the device."""
    slides, candidates, regions, dim = (2000, 50, 8, 128) if bench.tiny else (1_000_000, 1000, 64, 128)
    norm = torch.nn.functional.normalize
    vectors = norm(torch.randn(slides, dim, device=bench.device), dim=1).bfloat16()
    own = norm(torch.randn(candidates, regions, dim, device=bench.device), dim=2).bfloat16()
    query = norm(torch.randn(1, dim, device=bench.device), dim=1).bfloat16()

    def first() -> Any:
        return (vectors @ query.T).squeeze(1).topk(candidates)

    def second() -> Any:
        return (own @ query[0]).amax(dim=1).topk(20)

    return {"slides": slides, "vectors_ms": 1e3 * bench.seconds(first), "rerank_ms": 1e3 * bench.seconds(second)}


if __name__ == "__main__":
    main()
