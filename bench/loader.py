"""How fast training gets its batches: the packed store against reading whole feature files, and against the limit.

    python bench/loader.py                 400 slides of 10,000 patches × 1,024 (21 GB in --folder, made once; minutes)
    python bench/loader.py --quick         40 slides, under a minute
    python bench/loader.py --json          ends with one object

Batches of 32 slides, 128 patches drawn of each with their neighbourhood means, texts included, **cold**: before every
batch the pages of its files are dropped from memory (and the bytes then read from the disk are counted, to see that
they were). In every round three ways load as many slides, each its own; a ratio is the median of the rounds' ratios:

- *today*: how training loaded before there was a store: each feature file whole, and the means of all its
  neighbourhoods, to draw 128 (fewer rounds: it takes a second a slide);
- *whole files*: ``WholeFiles``, the reader without a store as it is now: each file whole, means of the rows drawn;
- *ours*: ``PackedStore``;
- *limit*: a plain numpy memory map of the packed file that copies the rows needed and does nothing else, with the
  system's read-ahead or without, whichever is faster.

``wait_share``: the fraction of the time that steps of ``align_base`` wait for data, all batches cold, with the loop's
own prefetching. ``peak_gb``: the most memory that a process which only loads held, libraries included.

Only 100 feature files are distinct, the others are links to them under other names (every packed slide is a file of its
own); *today* reads distinct ones.
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
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

BATCH, DRAWN, DISTINCT, MEMORY_ROUNDS = 32, 128, 100, 30
FIRST_STEPS = 3
"""Training steps not counted: until batches are prepared ahead and memory is warm."""
FINDINGS = ("necrosis", "keratin pearls", "mucin pools", "foamy macrophages", "calcification", "a lymphoid infiltrate",
            "mitoses", "clear cells", "papillary fronds", "a desmoplastic stroma")  # fmt: skip
PLACES = ("in the upper left", "at the margin", "throughout", "in the stroma", "focally")


def main() -> None:
    """Make the cohort, measure in processes of their own, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="40 slides")
    parser.add_argument("--json", action="store_true", help="end with one JSON object")
    parser.add_argument("--folder", type=Path, help="where to make the cohort, and keep it; else it is removed")
    parser.add_argument("--slides", type=int, default=400)
    parser.add_argument("--patches", type=int, default=10_000)
    parser.add_argument("--dim", type=int, default=1024)
    parser.add_argument("--no-context", action="store_true", help="a store without means: they are computed each step")
    parser.add_argument("--rounds", type=int, default=0)
    parser.add_argument("--steps", type=int, default=0, help="of training, for the time it waits")
    parser.add_argument("--train-only", action="store_true", help="only the time that training waits")
    parser.add_argument("--part", choices=["load", "memory", "train"], help=argparse.SUPPRESS)
    options = parser.parse_args()
    options.slides = min(options.slides, 40) if options.quick else options.slides
    options.rounds = options.rounds or (3 if options.quick else 7)
    options.steps = max(options.steps or (8 if options.quick else 24), FIRST_STEPS + 2)
    if options.part:
        print(json.dumps({"load": load, "memory": memory, "train": train}[options.part](options)))
        return
    with ExitStack() as stack:
        if options.folder is None:
            options.folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="pathflip-loader-")))
        print(f"load before: {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores", flush=True)
        result = make(options)
        for part in ("train",) if options.train_only else ("load", "memory", "train"):
            result |= measured(part, options)
    show(result, options)
    if options.json:
        print(json.dumps(result))


def show(result: dict[str, Any], options: argparse.Namespace) -> None:
    """For people."""
    print(f"{options.slides} slides × {options.patches} × {options.dim}, batch {BATCH}, {DRAWN} patches drawn")
    if result["packed"]:
        print(f"packing: {result['pack_s_a_slide']:.2f} s a slide, {result['pack_mb_a_slide']:.1f} MB a slide")
    if not options.train_only:
        show_loading(result)
    print(f"align_base: {result['step_s']:.3f} s a step, {result['wait_share']:.1%} of it waiting for data")


def show_loading(result: dict[str, Any]) -> None:
    """The part that loads without training."""
    for name in ("today", "whole_files", "ours", "limit"):
        cold, warm = result[f"{name}_cold_s"], result[f"{name}_warm_s"]
        print(f"{name:11} cold {cold:7.3f} s a batch ({BATCH / cold:7.1f} slides/s), warm {warm:7.3f} s", end="")
        print(f", {result[f'{name}_mb']:8.1f} MB from the disk")
    print(f"ours, without texts, warm: {result['patches_warm_s']:.3f} s a batch")
    ratios = [result[name] for name in ("vs_today", "vs_whole_files", "vs_limit")]
    print("vs today {:.1f} ×, vs whole files {:.1f} ×, of the limit {:.2f}".format(*ratios))
    print(
        f"memory of a process that loads: {result['peak_gb']:.2f} GB, of which {result['libraries_gb']:.2f} libraries"
    )


def measured(part: str, options: argparse.Namespace) -> dict[str, Any]:
    """One part, in a process of its own: its memory is its own."""
    words = ["--folder", str(options.folder), "--slides", str(options.slides), "--patches", str(options.patches)]
    words += ["--dim", str(options.dim), "--rounds", str(options.rounds), "--steps", str(options.steps)]
    words += ["--part", part, *(["--no-context"] if options.no_context else [])]
    done = subprocess.run([sys.executable, __file__, *words], capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"measuring '{part}' failed:\n{done.stderr[-3000:]}")
    answer: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return answer


# ------------------------------------------------------------------------------------------------ the cohort


def features_of(options: argparse.Namespace) -> list[Path]:
    """Feature files of the cohort."""
    folder = options.folder / f"features_{options.patches}x{options.dim}"
    return [folder / f"slide-{i:05d}.h5" for i in range(options.slides)]


def store_of(options: argparse.Namespace) -> Path:
    """Its training store."""
    kind = "means" if not options.no_context else "plain"
    return Path(options.folder / f"packed_{kind}_{options.patches}x{options.dim}")


def make(options: argparse.Namespace) -> dict[str, float]:
    """Feature files and store, where they are not there yet."""
    from pathflip.data.packed import pack_features
    from pathflip.features import write_features

    files = features_of(options)
    files[0].parent.mkdir(parents=True, exist_ok=True)
    for i, file in enumerate(files):
        if file.exists():
            continue
        if i < DISTINCT:
            write_features(file, slide(file.stem, options.patches, options.dim, i))
        else:
            os.link(files[i % DISTINCT], file)
    started = time.perf_counter()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # linked files name another slide inside
        outcomes = pack_features(files, store_of(options), context=not options.no_context)
    seconds = time.perf_counter() - started
    done = [one for one in outcomes if one.status == "done"]
    assert all(one.status in ("done", "skipped") for one in outcomes), outcomes
    size = sum(one.path.stat().st_size for one in outcomes if one.path) / len(outcomes)
    each = seconds / max(1, len(done))
    return {"packed": len(done), "pack_s_a_slide": round(each, 3), "pack_mb_a_slide": round(size / 1e6, 1)}


def slide(name: str, patches: int, dim: int, seed: int) -> Any:
    """A slide of random features on a square piece of tissue."""
    from pathflip.geometry import SlideInfo, TileSpec
    from pathflip.types import SlideFeatures

    side = int(np.ceil(np.sqrt(patches)))
    y, x = np.divmod(np.arange(patches), side)
    info = SlideInfo(name, (side * 256 + 256, side * 256 + 256), 0.5, (1.0,), "bench", "bench")
    matrix = np.random.default_rng(seed).standard_normal((patches, dim), dtype=np.float32)
    coords = np.stack([x, y], axis=1).astype(np.int64) * 256
    return SlideFeatures(name, matrix, coords, np.ones(patches, bool), info, TileSpec(256, 0.5), "bench")


def captions_of(files: Sequence[Path]) -> list[Any]:
    """A report of eight sub-captions a slide."""
    from pathflip.text.sub_captions import parse_sub_caption
    from pathflip.types import Caption

    out = []
    for i, file in enumerate(files):
        rng = np.random.default_rng([1, i])
        picked = rng.choice(len(FINDINGS), 8, replace=False)
        text = [f"There is {FINDINGS[j]} {PLACES[int(rng.integers(len(PLACES)))]}." for j in picked]
        out.append(Caption(file.stem, f"patient-{i}", " ".join(text), tuple(parse_sub_caption(line) for line in text)))
    return out


def dataset(files: Sequence[Path], reader: Any) -> Any:
    """What training draws batches from."""
    from pathflip.data.align import AlignDataset, TextSpec
    from pathflip.text.tokenizer import train_tokenizer

    captions = captions_of(files)
    tokenizer = train_tokenizer([caption.text for caption in captions], 300)
    return AlignDataset(files, captions, tokenizer, text=TextSpec(), reader=reader, max_patches=DRAWN)


# ------------------------------------------------------------------------------------------------ measuring


def drop(paths: Sequence[Path]) -> None:
    """Take the pages of files out of memory."""
    for path in paths:
        handle = os.open(path, os.O_RDONLY)
        os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(handle)


def disk_mb() -> float:
    """Megabytes this process has had read from the disk so far."""
    words = Path("/proc/self/io").read_text(encoding="ascii").split()
    return int(words[words.index("read_bytes:") + 1]) / 1e6


def timed(job: Callable[[], Any]) -> tuple[float, float]:
    """Seconds, and megabytes from the disk."""
    before, started = disk_mb(), time.perf_counter()
    job()
    return time.perf_counter() - started, disk_mb() - before


def load(options: argparse.Namespace) -> dict[str, Any]:
    """Seconds a batch, cold and warm, of the three ways."""
    from pathflip.data.packed import open_store
    from pathflip.data.whole_files import WholeFiles
    from pathflip.processes import keep_memory

    warnings.simplefilter("ignore")
    keep_memory()  # as the command line does: freed memory is used again, for all three ways
    files = features_of(options)
    store = open_store(store_of(options), files)
    ours, rng = dataset(files, store), np.random.default_rng(0)
    times: dict[str, list[tuple[float, float, float]]] = {
        name: [] for name in ("today", "whole_files", "ours", "limit")
    }
    only_patches = []
    for index in range(options.rounds + 1):
        distinct = rng.permutation(min(options.slides, DISTINCT))[:BATCH].tolist()
        fresh = dataset(files[:DISTINCT], WholeFiles())  # nothing kept from another round
        whole = [files[i] for i in distinct]
        jobs = {"whole_files": (whole, lambda d=distinct, t=fresh, i=index: t.batch(d, generator(i)))}
        if 1 <= index <= options.rounds // 3:
            jobs["today"] = (whole, lambda paths=whole, i=index: whole_slides(paths, generator(i)))
        # Every way reads slides and rows of its own: what one has read, a disk with memory gives the next one faster.
        for turn, name in enumerate(("ours", "limit None", "limit MADV_RANDOM")):
            items, seed = rng.permutation(options.slides)[:BATCH].tolist(), 10 * index + turn
            wanted = drawn(ours, items, seed)
            if name == "ours":
                our_rows, job = wanted, (lambda items=items, seed=seed: ours.batch(items, generator(seed)))
            else:
                advice = None if name.endswith("None") else "MADV_RANDOM"
                job = lambda w=wanted, a=advice: memory_map(store, w, a)  # noqa: E731
            jobs[name] = ([store.slides[file].path for file, _ in wanted], job)
        measured_now = {name: both(paths, job) for name, (paths, job) in jobs.items()}
        measured_now["limit"] = min(measured_now.pop("limit None"), measured_now.pop("limit MADV_RANDOM"))
        if index:  # the first round imports and allocates
            for name, values in measured_now.items():
                times[name].append(values)
            only_patches.append(timed(lambda w=our_rows: store.read(w, True))[0])
    out: dict[str, Any] = {}
    for name, values in times.items():
        out[f"{name}_cold_s"], out[f"{name}_warm_s"], out[f"{name}_mb"] = (
            round(median(one[i] for one in values), 4) for i in range(3)
        )
    cold = {name: [one[0] for one in values] for name, values in times.items()}
    return {
        "samples_per_s": round(BATCH / median(cold["ours"]), 1),
        "vs_today": round(median(a / b for a, b in zip(cold["today"], cold["ours"], strict=False)), 1),
        "vs_whole_files": round(median(a / b for a, b in zip(cold["whole_files"], cold["ours"], strict=True)), 1),
        "vs_limit": round(median(a / b for a, b in zip(cold["limit"], cold["ours"], strict=True)), 2),
        "patches_warm_s": round(median(only_patches), 4),
        **out,
    }


def generator(seed: int) -> np.random.Generator:
    """The generator a batch is drawn with."""
    return np.random.default_rng(seed)


def both(paths: Sequence[Path], job: Callable[[], Any]) -> tuple[float, float, float]:
    """Seconds cold, seconds warm, megabytes read when cold."""
    drop(paths)
    cold, megabytes = timed(job)
    if megabytes < 1:
        raise SystemExit("nothing was read from the disk: this file system keeps pages, so nothing is cold here")
    return cold, min(timed(job)[0] for _ in range(2)), megabytes


def drawn(data: Any, items: Sequence[int], index: int) -> list[tuple[Path, Any]]:
    """The patches that ``data.batch(items, generator(index))`` draws."""
    seed = int(generator(index).integers(2**62))
    files = [data.items[i].files for i in items]
    draws = [
        data._draw_patches(own, np.random.default_rng([seed, i]))[0].rows for own, i in zip(files, items, strict=True)
    ]
    return [(own[0], rows) for own, rows in zip(files, draws, strict=True)]


def whole_slides(paths: Sequence[Path], rng: np.random.Generator) -> list[tuple[Any, Any]]:
    """Patches drawn of every slide and their neighbourhood means, out of the means of all its patches."""
    from pathflip.data.whole_files import slide_patches
    from pathflip.features import read_features

    out = []
    for path in paths:
        slide = slide_patches(read_features(path))
        means = slide.neighbourhood.mean(slide.features, slide.rows)
        some = np.sort(rng.choice(len(slide.rows), DRAWN, replace=False))
        out.append((slide.features[slide.rows[some]], means[some]))
    return out


def memory_map(store: Any, wanted: Sequence[tuple[Path, Any]], advice: str | None) -> int:
    """Copy the rows needed out of a memory map; how many there are."""
    import mmap

    count = 0
    for file, places in wanted:
        packed = store.slides[file]
        shape = (packed.rows, packed.parts, packed.dim)
        rows = np.memmap(packed.path, packed.dtype, "r", packed.start["patches"], shape)
        if packed.parts == 1:
            table = np.memmap(
                packed.path, np.int32, "r", packed.start["neighbours"], (packed.rows, packed.most_neighbours)
            )
            near = table[places]
            places = np.unique(near[near >= 0])
        if advice is not None:
            rows._mmap.madvise(getattr(mmap, advice))
        count += len(rows[places])
    return count


def memory(options: argparse.Namespace) -> dict[str, Any]:
    """Peak memory of a process that only loads batches."""
    import torch  # noqa: F401

    from pathflip.data.packed import open_store

    warnings.simplefilter("ignore")
    libraries = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    files = features_of(options)
    data = dataset(files, open_store(store_of(options), files))
    for index in range(MEMORY_ROUNDS):
        data.batch(
            np.random.default_rng(index).permutation(options.slides)[:BATCH].tolist(), np.random.default_rng(index)
        )
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    return {"peak_gb": round(peak, 3), "libraries_gb": round(libraries, 3)}


def train(options: argparse.Namespace) -> dict[str, Any]:
    """Steps of ``align_base`` by the training loop, every batch cold; how long it waited for them."""
    from pathflip.data.packed import PackedStore
    from pathflip.recipes.align import align_base
    from pathflip.train import loop
    from pathflip.train.align_run import train_align

    warnings.simplefilter("ignore")
    waited, steps = [], []
    announce, fetcher = PackedStore.announce, loop.Prefetcher

    def announce_cold(self: Any, wanted: Sequence[tuple[Path, Any]]) -> None:
        drop([self.slides[file].path for file, _ in wanted])  # before a batch is announced: its reads begin then
        announce(self, wanted)

    class Timed(fetcher):  # type: ignore[misc, valid-type]
        def take(self) -> Any:
            started = time.perf_counter()
            steps.append(started)
            batch = super().take()
            waited.append(time.perf_counter() - started)
            return batch

    PackedStore.announce, loop.Prefetcher = announce_cold, Timed  # type: ignore[method-assign, misc]
    recipe, files = align_base(), features_of(options)
    config = recipe.train.model_copy(update={"steps": options.steps, "eval_every": 0, "save_every": 0})
    with tempfile.TemporaryDirectory(dir=options.folder) as out:
        recipe = recipe.model_copy(update={"train": config})
        train_align(recipe, files, captions_of(files), Path(out), store=store_of(options))
    total, count = steps[-1] - steps[FIRST_STEPS], len(steps) - 1 - FIRST_STEPS
    return {"wait_share": round(sum(waited[FIRST_STEPS:-1]) / total, 4), "step_s": round(total / count, 4)}


if __name__ == "__main__":
    main()
