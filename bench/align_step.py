"""One training step of variant 1, the published schedule against ours: same weights, same outputs, same gradients.

    python bench/align_step.py            the paper's size (tens of minutes on two cores), and the table
    python bench/align_step.py --quick    the small size, under a minute
    python bench/align_step.py --json     ends with one JSON object

Every measurement runs in a process of its own (the fork of one that has only imported torch), so that its peak memory
is its own. Times are the best of several steps. On a busy machine ``--threads 1 --clock cpu`` compares processor time
instead of time on the wall. Captions are random tokens of the lengths of the 732 SlideBench-TCGA captions and of
sub-captions drawn from them. Our steps run as training runs them and our encoding as ``pathflip ground`` does: freed
memory is reused (pathflip.processes), and linear layers are oneDNN's (pathflip.models.cpu).

The model of ``align_base`` has no published schedule; it is compared with a direct implementation (naive_base.py).
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import time
import traceback
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

SIZES: dict[str, dict[str, int]] = {
    "paper": {},
    "small": {"width": 256, "num_layers": 4, "num_heads": 4, "ffn_width": 1024},
}
LAYOUT = {"paper": {"L": 24, "S": 256, "K": 8}, "small": {"L": 24, "S": 64, "K": 8}}
PADDED = (512, 256)  # what the released code pads captions and sub-captions to
# What the published schedule needs: once (weights, gradients, optimiser state, torch), and for each slide of the batch.
NEEDS_GB = {"paper": (3.0, 4.4), "small": (0.7, 0.5)}
SHORT = (128, 64)  # and the fair lower bound, where hardly anything is padding
# Token counts at 0, 5, ..., 100 % of SlideBench's captions (mean 171) and of the sampler's sub-captions (mean 45).
CAPTION_TOKENS = (
    82,
    114,
    122,
    130,
    137,
    145,
    150,
    155,
    159,
    163,
    168,
    173,
    178,
    184,
    189,
    197,
    205,
    213,
    221,
    237,
    308,
)
SUB_TOKENS = (6, 15, 19, 22, 25, 28, 30, 33, 37, 40, 43, 47, 50, 53, 57, 60, 64, 68, 73, 82, 121)


@dataclass(frozen=True)
class Case:
    """What one process measures."""

    schedule: str  # "published" or "ours"
    job: str = "step"  # "step", "infer", "equal"; of align_base's model "base" or "base_equal"
    size: str = "paper"
    B: int = 2
    L: int = 24
    S: int = 256
    K: int = 8
    padded: tuple[int, int] = PADDED
    bf16: bool = False
    steps: int = 3


def main() -> None:
    """Measure, print a table, and with --json one object last."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="the small size only, under a minute")
    parser.add_argument("--json", action="store_true", help="end with one JSON object")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--clock", choices=["wall", "cpu"], default="wall")
    parser.add_argument("--steps", type=int, default=0, help="steps a measurement takes the best of")
    parser.add_argument("--no-table", action="store_true", help="leave out the table over B, L, S, K")
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.serve:
        serve(args.clock)
        return
    run = Runner(args.threads, args.clock)
    size = "small" if args.quick else "paper"
    steps = args.steps or 2
    numbers = headline(run, size, steps)
    numbers |= inference(run, size)
    numbers |= base_model(run, steps, batch=16 if args.quick else 32)
    if not args.quick and not args.no_table:
        table(run)
    if args.json:
        print(json.dumps(numbers))


class Runner:
    """Has cases measured, one at a time, each in a process of its own."""

    def __init__(self, threads: int, clock: str) -> None:
        environment = os.environ | {"OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads)}
        command = [sys.executable, __file__, "--clock", clock, "--serve"]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
        self.server = subprocess.Popen(command, text=True, env=environment, **pipes)  # type: ignore[call-overload]

    def __call__(self, case: Case) -> dict[str, float]:
        """Seconds, peak GB and (for equality) what the process measured."""
        self.server.stdin.write(json.dumps(case.__dict__) + "\n")
        self.server.stdin.flush()
        reply = json.loads(self.server.stdout.readline())
        if "error" in reply:
            raise SystemExit(f"measuring {case} failed:\n{reply['error']}")
        return reply

    def both(self, case: Case) -> tuple[dict[str, float], dict[str, float]]:
        """The published schedule and ours."""
        return self(replace(case, schedule="published")), self(replace(case, schedule="ours"))


def headline(run: Runner, size: str, steps: int) -> dict[str, float]:
    """The ratios the project promises, at the paper's size or the small one."""
    base = Case("ours", size=size, steps=steps, **LAYOUT[size])
    cases = {
        "speedup_b2": base,
        "speedup_b4": replace(base, B=4),
        "speedup_short_texts": replace(base, padded=SHORT),
        "speedup_bf16": replace(base, bf16=True),
    }
    equal = run(replace(base, job="equal", B=2))
    print(f"largest difference of any output or relative gradient: {equal['difference']:.1e}")
    numbers: dict[str, float] = {}
    print(f"{'':22}{'B':>3}{'published s':>13}{'ours s':>9}{'ratio':>7}{'published GB':>14}{'ours GB':>9}{'ratio':>7}")
    for name, case in cases.items():
        if (short_of := missing_gb(case)) > 0:
            print(f"{name:22}left out: the published schedule needs {short_of:.1f} GB more than is free", flush=True)
            continue
        theirs, ours = run.both(case)
        numbers[name] = round(theirs["seconds"] / ours["seconds"], 2)
        if name == "speedup_b4":
            numbers["memory_ratio_b4"] = round(ours["peak_gb"] / theirs["peak_gb"], 3)
        print(row(name, case.B, theirs, ours), flush=True)
    return numbers | {"max_abs_diff": equal["difference"]}


def missing_gb(case: Case) -> float:
    """How much memory the published schedule lacks here; 0 or less where it has enough (or nobody can tell)."""
    try:
        known = Path("/proc/meminfo").read_text(encoding="ascii").split()
        free = int(known[known.index("MemAvailable:") + 1]) / 2**20
    except (OSError, ValueError):
        return 0.0
    once, each = NEEDS_GB[case.size]
    return once + each * case.B - free


def row(name: str, batch: int, theirs: dict[str, float], ours: dict[str, float]) -> str:
    """One line of a table."""
    seconds, memory = theirs["seconds"] / ours["seconds"], ours["peak_gb"] / theirs["peak_gb"]
    return (
        f"{name:22}{batch:3d}{theirs['seconds']:13.3f}{ours['seconds']:9.3f}{seconds:7.2f}"
        f"{theirs['peak_gb']:14.2f}{ours['peak_gb']:9.2f}{memory:7.2f}"
    )


def inference(run: Runner, size: str) -> dict[str, float]:
    """Encoding a slide, and one phrase on an encoded slide."""
    layout = {"L": 64, "S": 256, "K": 1} if size == "paper" else LAYOUT[size]
    theirs, ours = run.both(Case("ours", job="infer", size=size, B=1, steps=3, **layout))
    numbers = {}
    for job in ("encode", "ground"):
        numbers[f"speedup_{job}"] = round(theirs[job] / ours[job], 1)
        pair = ({**numbers_of, "seconds": numbers_of[job]} for numbers_of in (theirs, ours))
        print(row(f"speedup_{job}", 1, *pair), flush=True)
    numbers["ground_beside_text_ms"] = round(1000 * ours["beside_text"], 2)
    print(f"{'':22}a phrase on an encoded slide, all but the text encoder: {numbers['ground_beside_text_ms']} ms")
    return numbers


def base_model(run: Runner, steps: int, batch: int) -> dict[str, float]:
    """A step of align_base's model against a direct implementation of its formulas."""
    case = Case("ours", job="base", B=batch, L=320, S=1, K=8, steps=steps)
    equal = run(replace(case, job="base_equal", B=4))["difference"]
    naive, ours = run.both(case)
    print(row("align_base (naive)", batch, naive, ours), flush=True)
    return {
        "speedup_align_base": round(naive["seconds"] / ours["seconds"], 2),
        "memory_ratio_align_base": round(ours["peak_gb"] / naive["peak_gb"], 3),
        "max_abs_diff_align_base": equal,
    }


def table(run: Runner) -> None:
    """How the cost of a step grows, at the small size: one of B, L, S, K at a time."""
    base = Case("ours", size="small", B=4, steps=2, **LAYOUT["small"])
    print(f"\n{'small size':22}{'B':>3}{'published s':>13}{'ours s':>9}{'ratio':>7}{'published GB':>14}{'ours GB':>9}")
    for letter, values in (("B", (2, 4, 8, 16)), ("L", (8, 24, 64)), ("S", (16, 64, 256)), ("K", (4, 8, 16))):
        for value in values:
            case = replace(base, **{letter: value})
            print(row(f"{letter} = {value}", case.B, *run.both(case)), flush=True)


# ---------------------------------------------------------------------------------------------- one process


def serve(clock: str) -> None:
    """Measure the cases that come in as lines, each in a fork; one line of JSON goes out for each."""
    import torch  # noqa: F401  (once, for all)

    import pathflip.models  # noqa: F401

    for line in sys.stdin:
        reading, writing = os.pipe()
        child = os.fork()
        if child == 0:
            try:
                answer = worker(Case(**json.loads(line)), clock)
            except BaseException:
                answer = {"error": traceback.format_exc()[-2000:]}
            os.write(writing, json.dumps(answer).encode())
            os._exit(0)
        os.close(writing)
        with os.fdopen(reading) as pipe:
            answer = pipe.read()
        _, status = os.waitpid(child, 0)
        print(answer or json.dumps({"error": f"ended with status {status}: out of memory?"}), flush=True)


def worker(case: Case, clock: str) -> dict[str, float]:
    """Measure one case in this process."""
    import torch

    from pathflip.models.cpu import accelerate_for_cpu
    from pathflip.processes import freed_memory_is_reused

    torch.manual_seed(0)
    if case.job == "base_equal":
        return {"difference": base_difference(case)}
    model, batch, index = prepared_base(case) if case.job == "base" else prepared(case)
    if case.schedule == "ours":
        accelerate_for_cpu(model)
    if case.job == "equal":
        return {"difference": difference(case, model, batch, index)}
    if case.job == "infer":
        return inferred(case, model, batch, clock)
    model.train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-6, weight_decay=0.05, fused=case.schedule == "ours" or None)

    def step() -> None:
        optimizer.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=case.bf16):
            loss = total_loss(case, model, batch, index)
        loss.backward()
        optimizer.step()

    with freed_memory_is_reused() if case.schedule == "ours" else nullcontext():
        return {"seconds": best(step, case.steps, clock), "peak_gb": peak_gb()}


def prepared_base(case: Case) -> tuple[Any, Any, None]:
    """``align_base``'s model and a batch: a tenth of the patch slots empty, sub-captions of usual length."""
    import torch

    from naive_base import NaivePathFLIP
    from pathflip.data.align import TextSpec
    from pathflip.models.pathflip import PathFLIP, PathFLIPConfig
    from pathflip.recipes.align import align_base
    from pathflip.types import AlignBatch

    config = PathFLIPConfig(**align_base().model, feature_dim=255, vocab_size=2000)
    model = (PathFLIP if case.schedule == "ours" else NaivePathFLIP)(config)
    draw = torch.Generator().manual_seed(0)
    shape, limit = (case.B, case.K), TextSpec().sub_caption_tokens
    lengths = torch.tensor(SUB_TOKENS)[torch.randint(len(SUB_TOKENS), shape, generator=draw)].clamp(max=limit)
    mask = torch.arange(int(lengths.max())) < lengths.unsqueeze(-1)
    ids = torch.randint(1, 2000, mask.shape, generator=draw) * mask
    if case.schedule != "ours":
        ids, mask = (torch.nn.functional.pad(part, (0, limit - part.shape[-1])) for part in (ids, mask))
    real = torch.arange(case.L) < torch.randint(int(0.8 * case.L), case.L + 1, (case.B, 1), generator=draw)
    slots = (case.B, case.L * case.S)
    flag = torch.zeros(shape, dtype=torch.bool)
    keys = torch.arange(1, 1 + case.B * case.K).view(shape)
    batch = AlignBatch(
        slide_ids=tuple(str(i) for i in range(case.B)),
        patches=torch.randn(*slots, 255, generator=draw),
        patch_mask=real,
        context=torch.randn(*slots, 255, generator=draw),
        position=torch.rand(*slots, 2, generator=draw),
        caption_ids=ids[:, 0],
        caption_mask=mask[:, 0],
        sub_caption_ids=ids,
        sub_caption_token_mask=mask,
        sub_caption_mask=~flag,
        sub_caption_negated=torch.rand(shape, generator=draw) < 0.2,
        sub_caption_false=torch.rand(shape, generator=draw) < 0.2,
        sub_caption_keys=keys,
        caption_keys=keys,
    )
    return model, batch, None


def base_difference(case: Case) -> float:
    """Largest difference of losses, or of gradients relative to their largest entry, between the two schedules."""
    import torch

    results = []
    for schedule in ("ours", "naive"):
        torch.manual_seed(0)
        model, batch, _ = prepared_base(replace(case, schedule=schedule))
        parts = model.eval().losses(model(batch), batch)
        sum(parts.values()).backward()
        results.append((parts, {name: p.grad for name, p in model.named_parameters() if p.grad is not None}))
    (ours, our_grads), (naive, their_grads) = results
    gaps = [abs(ours[name].item() - naive[name].item()) for name in naive]
    for name, theirs in their_grads.items():
        gaps.append((our_grads[name] - theirs).abs().max().item() / max(theirs.abs().max().item(), 1e-3))
    if not max(gaps) < 5e-5:
        raise SystemExit(f"align_base: the schedules differ by {max(gaps):.1e}: not the same model")
    return max(gaps)


def prepared(case: Case) -> tuple[Any, Any, Any]:
    """The model, and a batch as that schedule's loader would pad it."""
    import torch

    from pathflip.published.qformer_model import AS_RELEASED, PublishedConfig, PublishedPathFLIP
    from pathflip.published.region_losses import published_candidates
    from pathflip.types import AlignBatch

    model = PublishedPathFLIP(PublishedConfig(**SIZES[case.size], **AS_RELEASED))
    generator = torch.Generator().manual_seed(0)

    def texts(count: int, quantiles: tuple[int, ...], padded: int) -> tuple[Any, Any]:
        places = (torch.arange(count) + 0.5) / count * (len(quantiles) - 1)
        lengths = torch.tensor(quantiles)[places.round().long()].clamp(max=padded)
        lengths = lengths[torch.randperm(count, generator=generator)]
        width = padded if case.schedule == "published" else int(lengths.max())
        mask = torch.arange(width) < lengths.unsqueeze(1)
        ids = torch.zeros(count, width, dtype=torch.long)
        ids[mask] = torch.randint(1, model.config.vocab_size, (int(lengths.sum()),), generator=generator)
        return ids, mask

    caption_ids, caption_mask = texts(case.B, CAPTION_TOKENS, case.padded[0])
    sub_caption_ids, sub_caption_token_mask = texts(case.B * case.K, SUB_TOKENS, case.padded[1])
    flag, num_patches = torch.zeros(case.B, case.K, dtype=torch.bool), case.L * case.S
    batch = AlignBatch(
        slide_ids=tuple(str(i) for i in range(case.B)),
        patches=torch.randn(case.B, num_patches, model.config.feature_dim, generator=generator),
        patch_mask=torch.ones(case.B, num_patches, dtype=torch.bool),
        context=None,
        position=None,
        caption_ids=caption_ids,
        caption_mask=caption_mask,
        sub_caption_ids=sub_caption_ids.unflatten(0, (case.B, case.K)),
        sub_caption_token_mask=sub_caption_token_mask.unflatten(0, (case.B, case.K)),
        sub_caption_mask=~flag,
        sub_caption_negated=flag,
        sub_caption_false=flag,
        sub_caption_keys=torch.zeros(case.B, case.K, dtype=torch.long),
        caption_keys=torch.zeros(case.B, 1, dtype=torch.long),
        regions=torch.arange(num_patches).view(case.L, case.S).expand(case.B, -1, -1),
    )
    return model, batch, published_candidates(batch.sub_caption_mask, generator)


def total_loss(case: Case, model: Any, batch: Any, index: Any) -> Any:
    """The sum of the losses by the schedule of the case."""
    import published_schedule as published

    if case.job == "base":
        return sum(model.losses(model(batch), batch).values())
    if case.schedule == "published":
        parts, _ = published.losses(model, batch, index)
    else:
        parts = model.losses(model(batch), batch, index)
    return parts["slide"] + parts["region"]


def difference(case: Case, model: Any, batch: Any, index: Any) -> float:
    """Largest absolute difference of embeddings and losses, or of gradients relative to their largest entry."""

    import published_schedule as published

    model.eval()
    wide = replace(case, schedule="published")
    _, padded, _ = prepared(wide)
    output = model(batch)
    ours = model.losses(output, batch, index)
    sum(ours.values()).backward()
    grads = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    theirs, code = published.losses(model, padded, index)
    sum(theirs.values()).backward()
    differences = [(output.slide - code.slide), (output.patches - code.regions)]
    differences += [ours[name] - theirs[name] for name in theirs]
    worst = max(x.abs().max().item() for x in differences)
    for name, parameter in model.named_parameters():
        largest = parameter.grad.abs().max().item()
        gap = (parameter.grad - grads[name]).abs().max().item()
        worst = max(worst, gap / max(largest, 1e-3))
    if not worst < 5e-5:
        raise SystemExit(f"the schedules differ by {worst:.1e}: not the same model")
    return worst


def inferred(case: Case, model: Any, batch: Any, clock: str) -> dict[str, float]:
    """Encode a slide; or answer one phrase on a slide (encoded before, in ours)."""
    import torch

    import published_schedule as published
    from pathflip.processes import keep_memory
    from pathflip.types import TextCode

    model.eval()
    ids, mask = (
        batch.sub_caption_ids[0, :1, :12],
        torch.ones(1, min(12, batch.sub_caption_ids.shape[-1]), dtype=torch.bool),
    )
    with torch.inference_mode():
        if case.schedule == "published":
            wide = published.pad_texts(ids, mask, case.padded[1])
            by_regions = batch.patches.unflatten(1, (case.L, case.S))
            encode = best(lambda: published.encode_slides(model, by_regions), case.steps, clock)
            ground = best(lambda: published.ground(model, by_regions, *wide), case.steps, clock)
            return {"encode": encode, "ground": ground, "peak_gb": peak_gb()}
        keep_memory()
        model.requires_grad_(False)
        slide = (batch.patches, batch.patch_mask, batch.regions)
        code, negated = model.encode_slides(*slide), torch.zeros(1, dtype=torch.bool)
        text = model.encode_texts(("",), ids, mask, negated)

        def answer(words: TextCode) -> None:
            model.presence(code, words)
            model.patch_similarity(code, words)

        encode = best(lambda: model.encode_slides(*slide), 2 * case.steps, clock)
        ground = best(lambda: answer(model.encode_texts(("",), ids, mask, negated)), 5 * case.steps, clock)
        beside = best(lambda: answer(text), 20, clock)
        return {"encode": encode, "ground": ground, "beside_text": beside, "peak_gb": peak_gb()}


def best(job: Callable[[], object], times: int, clock: str) -> float:
    """Seconds of the fastest of several runs, after one to warm up."""
    now = time.process_time if clock == "cpu" else time.perf_counter
    job()
    seconds = []
    for _ in range(times):
        start = now()
        job()
        seconds.append(now() - start)
    return min(seconds)


def peak_gb() -> float:
    """This process's peak resident memory."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parent))
    main()
