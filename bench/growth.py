"""What a training step costs as slides, cohorts, vectors and processes grow: ``python bench/growth.py [--json]``.

One of patches a slide, slides, width and processes changes at a time, from 10,000 patches, 400 slides, 1,024 numbers
and one process. Every setting is measured in processes of its own:

- ``open_s``: opening the store (a header a slide, and a look at every feature file);
- ``load_ms``: a batch of 32 slides, 128 patches drawn of each, put together from the store (median of ten);
- ``read_mb``: what of the store that reads; ``store_gb``: its size;
- ``step_ms``: forward, backward and update of ``align_base``'s model on that batch (median of three);
- ``peak_gb``: the most memory a process held.

Packed slides are made **sparse**: headers are written, patches are holes of the file. So nothing comes from a disk
here: ``load_ms`` is what the processor does (bench/loader.py measures cold disks). With two processes each loads its
half of every batch at the same time, and ``step_ms`` is left out (bench/scaling.py).
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
import warnings
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

BATCH, DRAWN = 32, 128


@dataclass(frozen=True)
class Setting:
    """One row of the table."""

    patches: int = 10_000
    slides: int = 400
    width: int = 1024
    processes: int = 1

    def __str__(self) -> str:
        return f"{self.patches:>9,} {self.slides:>8,} {self.width:>7,} {self.processes:>5}"


def settings(quick: bool, tiny: bool) -> list[Setting]:
    """The rows: one number changes at a time."""
    if tiny:
        return [Setting(300, 40, 64), Setting(300, 40, 64, 2)]
    base = Setting(slides=64) if quick else Setting()
    rows = [replace(base, patches=n) for n in (1_000, 10_000, 50_000, 200_000)]
    rows += [replace(base, slides=n) for n in ((64, 400) if quick else (100, 1_000, 10_000))]
    rows += [replace(base, width=n) for n in (256, 512, 1_536, 2_560)]
    return [*rows, replace(base, processes=2)]


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="cohorts of 64 slides")
    parser.add_argument("--tiny", action="store_true", help="two small rows: does it run?")
    parser.add_argument("--json", action="store_true", help="end with one JSON object: a list of rows")
    parser.add_argument("--folder", type=Path, help="where the sparse stores are made (removed afterwards)")
    parser.add_argument("--measure", type=json.loads, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure is not None:
        print(json.dumps(measure(options.folder, Setting(**options.measure["setting"]), options.measure["rank"])))
        return
    print(f"load before: {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores")
    print("  patches   slides   width procs |  open_s  load_ms  read_mb  step_ms  peak_gb  store_gb")
    rows = []
    for setting in settings(options.quick, options.tiny):
        with tempfile.TemporaryDirectory(dir=options.folder, prefix="pathflip-growth-") as folder:
            row = measured(Path(folder), setting)
        rows.append({**vars(setting), **row})
        step = f"{row['step_ms']:8.1f}" if row["step_ms"] else "       –"
        print(f"{setting} | {row['open_s']:7.2f} {row['load_ms']:8.1f} {row['read_mb']:8.1f} {step} "
              f"{row['peak_gb']:8.2f} {row['store_gb']:9.1f}", flush=True)  # fmt: skip
    if options.json:
        print(json.dumps({"rows": rows}))


def measured(folder: Path, setting: Setting) -> dict[str, Any]:
    """One setting: its store made, its processes run at once."""
    make(folder, setting)
    children = []
    for rank in range(setting.processes):
        words = json.dumps({"setting": vars(setting), "rank": rank})
        command = [sys.executable, __file__, "--folder", str(folder), "--measure", words]
        children.append(subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True))
    answers = []
    for child in children:
        out, errors = child.communicate()
        if child.returncode:
            raise SystemExit(f"{setting} failed:\n{errors[-3000:]}")
        answers.append(json.loads(out.splitlines()[-1]))
    return {key: round(max(one[key] for one in answers), 3) for key in answers[0]}


def make(folder: Path, setting: Setting) -> None:
    """Packed slides of holes, and stand-ins of their feature files with the size and time the headers name."""
    from pathflip.data.packed import slide_file
    from pathflip.data.packed.packed_store import StoreSettings, packed_name
    from pathflip.features.store import FeatureKind
    from pathflip.geometry import SlideInfo, TileSpec
    from pathflip.types import SlideFeatures

    (folder / "features").mkdir()
    (folder / "store").mkdir()
    StoreSettings("float16", True, FeatureKind("bench", setting.width, 256, 0.5, 256)).write(folder / "store")
    for i in range(setting.slides):
        file = folder / "features" / f"slide-{i:05d}.h5"
        file.touch()
        info = SlideInfo(file.stem, (100_000, 100_000), 0.5, (1.0,), "bench", "bench")
        nothing = np.zeros((0, setting.width), np.float32)
        coords, valid = np.zeros((0, 2), np.int64), np.zeros(0, bool)
        features = SlideFeatures(file.stem, nothing, coords, valid, info, TileSpec(256, 0.5, 256), "bench")
        source = slide_file.Source(0, str(file.stat().st_mtime_ns), f"{i:064x}")
        tensors = slide_file._tensors(setting.patches, setting.width, 2, 9, "float16")
        header = slide_file._header(features, source, tensors)
        path = folder / "store" / packed_name(file.stem, source.sha256)
        path.write_bytes(header)
        os.truncate(path, len(header) + max(end for _, end in slide_file._offsets(tensors).values()))


def measure(folder: Path, setting: Setting, rank: int) -> dict[str, float]:
    """One process's share."""
    import torch

    from loader import captions_of
    from pathflip.data.align import AlignDataset, TextSpec
    from pathflip.data.packed import open_store
    from pathflip.io import byte_ranges
    from pathflip.processes import keep_memory
    from pathflip.text.tokenizer import train_tokenizer
    from pathflip.train import BatchSampler

    warnings.simplefilter("ignore")
    keep_memory()
    files = sorted((folder / "features").glob("*.h5"))
    started = time.perf_counter()
    store = open_store(folder / "store", files)
    open_s = time.perf_counter() - started
    captions = captions_of(files)
    tokenizer = train_tokenizer([caption.text for caption in captions[:400]], 300)
    data = AlignDataset(files, captions, tokenizer, text=TextSpec(), reader=store, max_patches=DRAWN)
    read, fill = [0], byte_ranges._fill

    def counted(plan: Any, handle: Any) -> None:
        read[0] += plan.buffer.size
        fill(plan, handle)

    byte_ranges._fill = counted
    sampler, seconds = BatchSampler(len(data), BATCH, 0), []
    for index in range(12):
        started = time.perf_counter()
        batch = data.batch(sampler.share(index, rank, setting.processes), np.random.default_rng(index))
        seconds.append(time.perf_counter() - started)
    step = step_seconds(torch, batch, setting.width) if setting.processes == 1 else 0.0
    return {
        "open_s": open_s,
        "load_ms": 1e3 * median(seconds[2:]),
        "read_mb": read[0] / 12e6,
        "step_ms": 1e3 * step,
        "peak_gb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20,
        "store_gb": sum(path.stat().st_size for path in (folder / "store").glob("*.safetensors")) / 1e9,
    }


def step_seconds(torch: Any, batch: Any, width: int) -> float:
    """Median of three steps of ``align_base``'s model (without the pretrained text path)."""
    from pathflip.models import build_model
    from pathflip.models.cpu import accelerate_for_cpu
    from pathflip.recipes.align import align_base
    from pathflip.train import AlignStep

    torch.manual_seed(0)
    step = AlignStep(accelerate_for_cpu(build_model({**align_base().model, "feature_dim": width, "vocab_size": 300})))
    batch = replace(batch, patches=torch.randn_like(batch.patches), context=torch.randn_like(batch.context))
    optimizer = torch.optim.AdamW(step.parameters(), lr=1e-4, fused=True)
    seconds = []
    for _ in range(4):
        started = time.perf_counter()
        optimizer.zero_grad()
        sum(step(batch).values()).backward()
        optimizer.step()
        seconds.append(time.perf_counter() - started)
    return median(seconds[1:])


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parent))
    main()
