"""``pathflip``: one verb a job, each a thin call into the library function behind it.

Nothing heavy is imported until a verb runs. ``--json`` prints one object a line on standard output and nothing else
there; messages and progress go to standard error. Exit status: 0 all done, 1 something failed (the rest was done),
2 wrong usage.
"""

import json as json_module
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer

from pathflip.errors import ConfigError, PathFLIPError

__all__ = ["app", "main"]

app = typer.Typer(
    name="pathflip",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Whole slides and words: simulate, tile, extract, train, evaluate, classify, retrieve, ground. "
    "Research software, not a medical device.",
)

Json = Annotated[bool, typer.Option("--json", help="One JSON object a line on standard output.")]
Slides = Annotated[list[Path], typer.Argument(help="Slide files, or folders of them.", show_default=False)]
SlideMPP = Annotated[
    float | None, typer.Option(help="The slides' own resolution (µm per level-0 pixel), where files do not say.")
]
TilePx = Annotated[int, typer.Option(help="Side of a tile, pixels at --mpp.")]
MPP = Annotated[float, typer.Option(help="Resolution to tile at, µm per pixel.")]
StridePx = Annotated[int, typer.Option(help="Step between tiles, pixels at --mpp; 0 means --tile-px.")]
MinTissue = Annotated[float, typer.Option(help="Smallest share of a tile that must be tissue.")]
Out = Annotated[Path, typer.Option(help="Folder to write to.")]
Model = Annotated[Path, typer.Option(help="Checkpoint directory, for example runs/base/last.")]
Features = Annotated[list[Path], typer.Option("--features", help="Feature files, or folders of them.")]

SLIDE_SUFFIXES = {
    ".svs", ".ndpi", ".mrxs", ".scn", ".bif", ".vms", ".vmu", ".svslide", ".czi", ".dcm", ".tif", ".tiff",
    ".png", ".jpg", ".jpeg",
}  # fmt: skip


def main() -> None:
    """Run the command line; errors PathFLIP raises on purpose become one line and exit status 1."""
    try:
        app()
    except PathFLIPError as error:
        print(f"pathflip: {' '.join(str(error).split())}", file=sys.stderr)
        sys.exit(2 if isinstance(error, ConfigError) else 1)
    except KeyboardInterrupt as error:
        print(f"pathflip: stopped. {error}", file=sys.stderr)
        sys.exit(130)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(141)


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _print(rows: Sequence[Mapping[str, Any]], json: bool, line: Callable[[Mapping[str, Any]], str]) -> None:
    for row in rows:
        print(json_module.dumps(row, ensure_ascii=False) if json else line(row), flush=True)


def _files(paths: Sequence[Path], suffixes: set[str]) -> list[Path]:
    """Files as given, folders as the files in them (sorted, not recursive)."""
    found: list[Path] = []
    for path in paths:
        if path.is_dir() and path.suffix.lower() not in suffixes:
            inside = sorted(p for p in path.iterdir() if p.suffix.lower() in suffixes and not p.name.startswith("."))
            if not inside:
                raise ConfigError(f"'{path}': no {'/'.join(sorted(suffixes)[:4])}… file in this folder")
            found += inside
        else:
            found.append(path)
    return found


@contextmanager
def _bar(title: str) -> Iterator[Callable[..., None]]:
    """A progress bar with rate and time left; yields ``advance(done, total, note="")``."""
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    console = Console(file=sys.stderr)
    columns = (
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[note]}"),
        TimeElapsedColumn(), TextColumn("left"), TimeRemainingColumn(),
    )  # fmt: skip
    progress = Progress(*columns, console=console, refresh_per_second=4)
    task = progress.add_task(title, total=None, note="")

    def advance(done: float, total: float, note: str = "") -> None:
        progress.start()  # on the first step only: a refusal before it stays a single line
        progress.update(task, completed=done, total=total, note=note)

    try:
        yield advance
    finally:
        progress.stop()


@app.command()
def simulate(
    out: Out,
    world: Annotated[str, typer.Argument(help="quick, demo or study.")] = "demo",
    seed: Annotated[int, typer.Option(help="A world is a name and a seed.")] = 0,
    workers: Annotated[int, typer.Option(help="Processes.")] = 2,
    json: Json = False,
) -> None:
    """Paint a synthetic cohort: slides, reports, questions, truth."""
    from pathflip.simulate import World
    from pathflip.simulate import simulate as run

    chosen = World.named(world, seed)
    _say(chosen.describe())
    with _bar("painting") as advance:
        run(chosen, out, num_workers=workers, progress=advance)
    row = {"world": world, "seed": seed, "slides": chosen.num_cases, "out": str(out)}
    _print([row], json, lambda r: f"{r['slides']} slides in {r['out']}")


@app.command()
def info(slides: Slides, slide_mpp: SlideMPP = None, json: Json = False) -> None:
    """What a slide is: size, resolution, levels, and how its pixels are read."""
    from pathflip.slide import slide_info_row

    failed = False
    for path in _files(slides, SLIDE_SUFFIXES):
        row = slide_info_row(path, slide_mpp=slide_mpp)
        failed |= "error" in row
        _print([row], json, _info_line)
    if failed:
        raise typer.Exit(1)


def _info_line(row: Mapping[str, Any]) -> str:
    if "error" in row:
        return f"{row['slide_id']}: FAILED {row['error']}"
    mpp = "unknown mpp (give --slide-mpp)" if row["mpp0"] is None else f"{row['mpp0']:.4g} mpp"
    width, height = row["size0"]
    size = f"{width} × {height} px, {mpp}, {len(row['levels'])} levels"
    return f"{row['slide_id']}: {row['vendor']}, {size}; {row['reader']}"


@app.command()
def tile(
    slides: Slides,
    out: Out,
    tile_px: TilePx = 256,
    mpp: MPP = 0.5,
    stride_px: StridePx = 0,
    min_tissue: MinTissue = 0.25,
    slide_mpp: SlideMPP = None,
    json: Json = False,
) -> None:
    """Find tissue and cut tiles: coordinates, mask polygons for QuPath, and a picture to check."""
    from pathflip.geometry import TileSpec
    from pathflip.slide import tile_cohort

    spec = TileSpec(tile_px, mpp, stride_px, min_tissue)
    with _bar("tiling") as advance:
        rows = tile_cohort(
            _files(slides, SLIDE_SUFFIXES),
            spec,
            out,
            slide_mpp=slide_mpp,
            progress=lambda done, total, outcome: advance(done, total, outcome.slide_id),
        )
    _finish(rows, json, lambda r: f"{r['slide_id']}: {r['num_tiles']} tiles, tissue {r['tissue_fraction']:.1%}")


def _finish(rows: Sequence[Any], json: bool, line: Callable[[Mapping[str, Any]], str]) -> None:
    """Print outcomes (errors too) and leave with status 1 if any failed."""
    plain = [row if isinstance(row, dict) else _plain(row) for row in rows]

    def either(row: Mapping[str, Any]) -> str:
        text = f"{row['slide_id']}: FAILED {row['error']}" if row.get("error") else line(row)
        return text + "".join(f"\n  note: {warning}" for warning in row.get("warnings") or ())

    _print(plain, json, either)
    if any(row.get("error") for row in plain):
        raise typer.Exit(1)


def _plain(outcome: Any) -> dict[str, Any]:
    """A dataclass as JSON can hold it."""
    from dataclasses import asdict

    return {key: str(value) if isinstance(value, Path) else value for key, value in asdict(outcome).items()}


@app.command()
def extract(
    slides: Slides,
    out: Out,
    encoder: Annotated[
        str, typer.Option(help="Name from the encoder table, or a local model folder.")
    ] = "stain_texture",
    tile_px: TilePx = 256,
    mpp: MPP = 0.5,
    stride_px: StridePx = 0,
    min_tissue: MinTissue = 0.25,
    slide_mpp: SlideMPP = None,
    workers: Annotated[int, typer.Option(help="Processes.")] = 2,
    overwrite: Annotated[bool, typer.Option(help="Make files again that were made with other settings.")] = False,
    json: Json = False,
) -> None:
    """Tiles to feature vectors: one HDF5 file a slide, resumable, failures listed in failures.jsonl."""
    from pathflip.features import extract_cohort
    from pathflip.geometry import TileSpec

    spec = TileSpec(tile_px, mpp, stride_px, min_tissue)
    files = _files(slides, SLIDE_SUFFIXES)
    with _bar("extracting") as advance:
        rows = extract_cohort(
            files,
            spec,
            encoder,
            out,
            slide_mpp=slide_mpp,
            num_workers=workers,
            overwrite=overwrite,
            progress=lambda p: advance(p.slides_done, p.slides, f"{p.tiles_per_s:.0f} tiles/s"),
        )
    _finish(rows, json, _extract_line)


def _extract_line(row: Mapping[str, Any]) -> str:
    invalid = f", {row['invalid']} unreadable" if row["invalid"] else ""
    what = row["message"] if row["status"] == "empty" else f"{row['tiles']} tiles{invalid} → {row['path']}"
    return f"{row['slide_id']}: {row['status']}, {what}"


@app.command()
def train(
    recipe: Annotated[
        str, typer.Argument(help="align_base, align_published, clip_mean, clip_abmil, or FILE.py:FUNCTION.")
    ],
    features: Features,
    captions: Annotated[Path, typer.Option(help="JSON lines or CSV: slide, patient, text.")],
    out: Out,
    splits: Annotated[Path | None, typer.Option(help="CSV: slide, split (train / val / test).")] = None,
    settings: Annotated[
        list[str] | None, typer.Option("--set", help="KEY=VALUE, for example train.optim.lr=5e-4.")
    ] = None,
    resume: Annotated[bool, typer.Option(help="Go on where a killed run stopped.")] = False,
    json: Json = False,
) -> None:
    """Train an alignment model on slides and their reports."""
    from pathflip.recipes import find_recipe, read_split, train_align, with_settings

    chosen = with_settings(find_recipe(recipe), settings or [])
    parts = read_split(_files(features, {".h5"}), captions, splits)
    with _bar(f"training {chosen.name}") as advance:
        result = train_align(
            chosen,
            *parts["train"],
            out,
            val_files=parts["val"][0],
            val_captions=parts["val"][1],
            resume=resume,
            on_step=lambda row: advance(row["step"], chosen.train.steps, _loss_note(row)),
        )
    row = {"out": str(out), "step": result.step, "best": result.best, **result.metrics}
    _print(
        [row], json, lambda r: "  ".join(f"{k} {v:.4g}" if isinstance(v, float) else f"{k} {v}" for k, v in r.items())
    )


def _numbers_line(row: Mapping[str, Any]) -> str:
    return "  ".join(
        f"{key} {value:.4g}" if isinstance(value, float) else f"{key} {value}" for key, value in row.items()
    )


def _loss_note(row: Mapping[str, float]) -> str:
    return f"loss {row['loss']:.3f}" if "loss" in row else ""


@app.command(name="eval")
def evaluate(
    model: Model,
    features: Features,
    cohort: Annotated[Path | None, typer.Option(help="A simulated cohort: everything its truth allows.")] = None,
    captions: Annotated[Path | None, typer.Option(help="Captions of real slides: retrieval only.")] = None,
    split: Annotated[str, typer.Option(help="Which split of the cohort.")] = "test",
    json: Json = False,
) -> None:
    """Measure a model on slides it never saw, with intervals and floors."""
    from pathflip.evaluate.checkpoint import evaluate_checkpoint

    rows = evaluate_checkpoint(model, _files(features, {".h5"}), cohort=cohort, captions=captions, split=split)
    _print(
        rows,
        json,
        lambda r: f"{r['measure']:<42} {r['value']:.3f}  [{r['low']:.3f}, {r['high']:.3f}]  chance {r['floor']:.3f}",
    )


@app.command(name="zero-shot")
def zero_shot(
    model: Model,
    features: Features,
    classname: Annotated[list[str], typer.Option(help="A class: NAME or NAME=SYNONYM|SYNONYM. Twice at least.")],
    template: Annotated[list[str] | None, typer.Option(help="A sentence with {} for the name.")] = None,
    json: Json = False,
) -> None:
    """Classify slides by words alone."""
    from pathflip import inference

    names = {c.partition("=")[0]: (c.partition("=")[2] or c).split("|") for c in classname}
    rows: list[dict[str, Any]] = []
    loaded = inference.load(model)
    for slide in _encoded(loaded, features, rows):
        answer = inference.zero_shot(loaded, [slide], names, template or inference.TEMPLATES)
        chances = {c: round(float(p), 4) for c, p in zip(answer.classes, answer.probabilities[0], strict=True)}
        rows.append({"slide_id": slide.slide_id, "class": answer.best[0], "probabilities": chances})
    _finish(rows, json, lambda r: f"{r['slide_id']}: {r['class']}  {r['probabilities']}")


def _encoded(model: Any, features: Sequence[Path], failures: list[dict[str, Any]]) -> Iterator[Any]:
    """Encode feature files one by one; a bad file becomes a row of ``failures``, the rest goes on."""
    from pathflip.features import read_features
    from pathflip.inference import encode_slide

    for path in _files(features, {".h5"}):
        try:
            slide = encode_slide(model, read_features(path))
        except PathFLIPError as error:
            failures.append({"slide_id": path.stem, "error": str(error)})
            continue
        yield slide


@app.command()
def retrieve(
    model: Model,
    features: Features,
    text: Annotated[list[str] | None, typer.Option(help="A sentence or report to find slides for.")] = None,
    captions: Annotated[
        Path | None, typer.Option(help="Captions to rank for every slide, and slides for every caption.")
    ] = None,
    k: Annotated[int, typer.Option(help="How many.")] = 5,
    json: Json = False,
) -> None:
    """Find slides for words, and words for slides."""
    from pathflip import inference
    from pathflip.text import read_captions

    if bool(text) == bool(captions):
        raise ConfigError("retrieve: give either --text or --captions")
    rows: list[dict[str, Any]] = []
    loaded = inference.load(model)
    slides = list(_encoded(loaded, features, rows))
    known = read_captions(captions) if captions else []
    asked = [c.text for c in known] if captions else list(text or ())
    found = inference.retrieve(loaded, slides, asked)
    for column, query in enumerate(asked):
        ranked = [{"slide_id": s, "score": round(v, 4)} for s, v in found.slides_for(column, k)]
        rows.append({"slide_id": known[column].slide_id if known else "", "text": query, "slides": ranked})
    if captions:
        for place, slide_id in enumerate(found.slide_ids):
            ranked = [{"caption_of": known[i].slide_id, "score": round(v, 4)} for i, v in found.captions_for(place, k)]
            rows.append({"slide_id": slide_id, "captions": ranked})
    _finish(rows, json, _retrieval_line)


def _retrieval_line(row: Mapping[str, Any]) -> str:
    if "captions" in row:
        return f"{row['slide_id']} ← captions of " + ", ".join(
            f"{c['caption_of']} ({c['score']:.2f})" for c in row["captions"]
        )
    return f"“{row['text'][:70]}” → " + ", ".join(f"{s['slide_id']} ({s['score']:.2f})" for s in row["slides"])


@app.command()
def ground(
    model: Model,
    features: Annotated[Path, typer.Option("--features", help="Feature file of the slide.")],
    text: Annotated[list[str], typer.Option(help="What to look for.")],
    out: Out,
    slide: Annotated[Path | None, typer.Option(help="The slide itself, to draw the heatmap over it.")] = None,
    slide_mpp: SlideMPP = None,
    tiles: Annotated[int, typer.Option(help="How many of the best tiles to report.")] = 5,
    json: Json = False,
) -> None:
    """Show where on a slide a phrase is: heatmap over the slide, best tiles, QuPath GeoJSON."""
    from pathflip.features import read_features
    from pathflip.inference import encode_slide, ground_to_files, load

    loaded = load(model)
    encoded = encode_slide(loaded, read_features(features))
    rows = ground_to_files(loaded, encoded, text, out, slide_file=slide, slide_mpp=slide_mpp, tiles=tiles)
    _print(
        rows,
        json,
        lambda r: f"“{r['text']}”: presence logit {r['presence']:.2f}; {', '.join(r['files'])}\n  {r['note']}",
    )


@app.command()
def demo(
    out: Out = Path("demo"),
    quick: Annotated[bool, typer.Option(help="A small world, under a minute: for checking an installation.")] = False,
    seed: Annotated[int, typer.Option(help="Of the world and of training.")] = 0,
    workers: Annotated[int, typer.Option(help="Processes.")] = 2,
    json: Json = False,
) -> None:
    """Everything, end to end, on a synthetic cohort; ends with one HTML report."""
    from pathflip.demo import run_demo

    with _bar("demo") as advance:
        result = run_demo(out, quick=quick, seed=seed, num_workers=workers, say=_say, progress=advance)
    _print([result], json, lambda r: f"report: {r['report']}")


@app.command(name="import")
def import_(
    checkpoint: Annotated[
        Path, typer.Argument(help="The authors' checkpoint: .safetensors, .bin, .ckpt, or a folder of shards.")
    ],
    out: Out,
    encoder: Annotated[
        str | None, typer.Option(help="Encoder of the features it was trained on; the file cannot say.")
    ] = None,
    tile_px: Annotated[int | None, typer.Option(help="Side of their tiles, pixels at --mpp.")] = None,
    mpp: Annotated[float | None, typer.Option(help="Their resolution, µm per pixel.")] = None,
    kind: Annotated[str | None, typer.Option(help="published (the paper's) or perceiver (the later release).")] = None,
    tokenizer: Annotated[Path | None, typer.Option(help="Folder of its tokenizer.")] = None,
    settings: Annotated[list[str] | None, typer.Option("--set", help="KEY=VALUE, for example num_heads=12.")] = None,
    drop: Annotated[list[str] | None, typer.Option(help="Leave out unknown parameters that begin so.")] = None,
    lora_alpha: Annotated[float | None, typer.Option(help="Alpha of unmerged LoRA.")] = None,
    json: Json = False,
) -> None:
    """Make a checkpoint directory of what the authors released."""
    from pathflip.released import import_released

    row = import_released(
        checkpoint,
        out,
        encoder=encoder,
        tile_px=tile_px,
        mpp=mpp,
        kind=kind,
        tokenizer=tokenizer,
        settings=settings or [],
        drop=drop or [],
        lora_alpha=lora_alpha,
    )
    _print([_plain(row)], json, _imported_line)


def _imported_line(row: Mapping[str, Any]) -> str:
    lines = [f"{row['source']} → {row['out']}: {row['kind']}, {row['parameters']} tensors"]
    lines += [f"  assumed: {text}" for text in row["assumed"]]
    for what in ("ignored", "dropped"):
        lines += [f"  {what}: {', '.join(row[what])}"] if row[what] else []
    return "\n".join(lines)


@app.command()
def export(
    model: Annotated[Path, typer.Argument(help="Checkpoint directory of a published or perceiver model.")],
    out: Annotated[Path, typer.Option(help="File to write: .safetensors or .bin.")],
    json: Json = False,
) -> None:
    """Write a model under the authors' parameter names, for the authors' code."""
    from pathflip.released import export_released

    row = export_released(model, out)
    _print(
        [_plain(row)],
        json,
        lambda r: f"{r['out']}: {r['tensors']} tensors" + "".join(f"\n  note: {note}" for note in r["notes"]),
    )
