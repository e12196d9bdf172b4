"""Verbs of the alignment model: train, eval, zero-shot, retrieve, ground, import, export, demo."""

import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from pathflip.cli.app import (
    AllowMissing,
    CaseColumn,
    Cases,
    Device,
    Encoding,
    Features,
    Json,
    Model,
    Out,
    PartColumn,
    ReportColumn,
    SlideColumn,
    SlideMPP,
    TrainDevice,
    app,
    as_row,
    encoded_items,
    files_in,
    finish,
    numbers_line,
    print_rows,
    progress_bar,
    say,
    training_device,
)
from pathflip.errors import ConfigError


@app.command()
def train(
    recipe: Annotated[
        str,
        typer.Argument(
            help="align_base, align_published, clip_mean, clip_abmil, or FILE.py:FUNCTION; for an assistant "
            "instruct_stage1, instruct_stage2; at the size of two cores language_small, instruct_small_stage1, "
            "instruct_small_stage2."
        ),
    ],
    out: Out,
    features: Annotated[list[Path] | None, typer.Option(help="Feature files, or folders (not for language_…).")] = None,
    captions: Annotated[Path | None, typer.Option(help="JSON lines or CSV: slide, patient, text.")] = None,
    questions: Annotated[Path | None, typer.Option(help="Assistant: multiple-choice questions.")] = None,
    conversations: Annotated[Path | None, typer.Option(help="Assistant: JSON as SlideInstruct or LLaVA.")] = None,
    aligned: Annotated[Path | None, typer.Option(help="Assistant: the alignment model it answers from.")] = None,
    start: Annotated[Path | None, typer.Option(help="An earlier run, or an imported model, to begin from.")] = None,
    language_model: Annotated[Path | None, typer.Option(help="Assistant: folder of the language model.")] = None,
    splits: Annotated[Path | None, typer.Option(help="CSV: slide, split (train / val / test).")] = None,
    settings: Annotated[
        list[str] | None, typer.Option("--set", help="KEY=VALUE, for example train.optim.lr=5e-4.")
    ] = None,
    store: Annotated[
        Path | None, typer.Option(help="Training store (see pack), made if absent; OUT/packed if not given.")
    ] = None,
    store_dtype: Annotated[
        str | None, typer.Option(help="Of a new store: float16 (default) or float32.", show_default=False)
    ] = None,
    split: Annotated[str, typer.Option(help="Which split of --splits to train on.")] = "train",
    allow_missing: AllowMissing = False,
    resume: Annotated[bool, typer.Option(help="Go on where a killed run stopped.")] = False,
    slide_column: SlideColumn = None,
    text_column: ReportColumn = None,
    part_column: PartColumn = None,
    case_column: CaseColumn = None,
    encoding: Encoding = None,
    device: TrainDevice = None,
    json: Json = False,
) -> None:
    """Train an alignment model on slides and their reports, or an assistant on captions, questions, conversations."""
    from pathflip.io.files import check_writable
    from pathflip.io.tables import TableOptions

    options = TableOptions(slide_column, text_column, part_column, encoding, case_column)
    settings = [*(settings or []), *training_device(device)]
    check_writable(out)
    texts = [path for path in (captions, questions, conversations) if path is not None]
    if recipe.startswith("language_"):
        from pathflip.cli.train_assistant import train_words

        print_rows([train_words(recipe, texts, out, splits, settings, resume, options)], json, numbers_line)
        return
    if not features:
        raise ConfigError("train: give --features, the feature files of the slides (or folders of them)")
    if recipe.startswith("instruct_"):
        from pathflip.cli.train_assistant import train_assistant

        words: dict[str, Any] = {
            "splits": splits,
            "aligned": aligned,
            "start": start,
            "resume": resume,
            "options": options,
        }
        row = train_assistant(recipe, features, texts, out, language_model=language_model, settings=settings, **words)
        print_rows([row], json, numbers_line)
        return
    from pathflip.cli.pack import number_format
    from pathflip.data.splits import named_splits
    from pathflip.recipes.align import find_recipe
    from pathflip.recipes.settings import with_settings
    from pathflip.train.align_run import read_split, train_align

    if captions is None:
        raise ConfigError("train: give --captions, a JSON lines or CSV file with slide, patient, text")
    chosen = with_settings(find_recipe(recipe), settings)
    if split != "train" and splits is None:
        raise ConfigError(f"--split {split}: give --splits, the table that says which slide is in it")
    parts = read_split(files_in(features, {".h5"}), captions, splits, options, asked=split)
    if splits is not None and not parts[split][1]:
        raise ConfigError(
            f"'{splits.name}' has no report of '{captions.name}' in the split '{split}'; it names "
            f"{named_splits(splits)}"
        )
    held = parts["val"] if split != "val" else ([], [])
    say(_counts(parts[split], held, split))
    with progress_bar(f"training {chosen.name}") as advance:
        result = train_align(
            chosen,
            *parts[split],
            out,
            val_files=held[0],
            val_captions=held[1],
            allow_missing=allow_missing,
            store=store,
            store_dtype=number_format(store_dtype),
            start=start,
            resume=resume,
            on_step=lambda row: advance(row["step"], chosen.train.steps, _loss_note(row)),
            on_pack=lambda done, slides: advance(done, slides, "slides packed"),
        )
    row = {"out": str(out), "step": result.step, "best": result.best, **result.metrics}
    print_rows([row], json, numbers_line)


def _counts(own: tuple[list[Path], list[Any]], held: tuple[list[Path], list[Any]], split: str) -> str:
    """One line: what is trained on."""
    texts = len({" ".join(caption.text.casefold().split()) for caption in own[1]})
    line = f"{split}: {len(own[0])} slides, {len(own[1])} reports ({texts} distinct texts)"
    return line + (f"; looked at meanwhile: {len(held[0])} slides, {len(held[1])} reports" if held[1] else "")


def _loss_note(row: Mapping[str, float]) -> str:
    return f"loss {row['loss']:.3f}" if "loss" in row else ""


evaluations = typer.Typer(invoke_without_command=True, help="Measure a model on slides it never saw.")
app.add_typer(evaluations, name="eval")


@evaluations.callback()
def evaluate(
    context: typer.Context,
    model: Annotated[Path | None, typer.Option(help="Checkpoint directory, for example runs/base/last.")] = None,
    features: Annotated[list[Path] | None, typer.Option(help="Feature files, or folders of them.")] = None,
    cohort: Annotated[Path | None, typer.Option(help="A simulated cohort: everything its truth allows.")] = None,
    captions: Annotated[Path | None, typer.Option(help="Captions of real slides: retrieval only.")] = None,
    splits: Annotated[Path | None, typer.Option(help="CSV: slide (or case), split (train / val / test).")] = None,
    split: Annotated[
        str | None, typer.Option(help="Which split of --splits, or of the cohort; test if not given.")
    ] = None,
    allow_missing: AllowMissing = False,
    slide_column: SlideColumn = None,
    text_column: ReportColumn = None,
    part_column: PartColumn = None,
    case_column: CaseColumn = None,
    encoding: Encoding = None,
    device: Device = None,
    json: Json = False,
) -> None:
    """Measure an alignment model (--model, --features), or captions and answers (the commands below)."""
    if context.invoked_subcommand is not None:
        return
    if model is None or not features:
        raise ConfigError("eval: give --model and --features, or one of the commands caption and vqa")
    from pathflip.checkpoint import stored_caution
    from pathflip.evaluate.alignment import evaluate_checkpoint
    from pathflip.io.tables import TableOptions

    options = TableOptions(slide_column, text_column, part_column, encoding, case_column)
    files = files_in(features, {".h5"})
    rows = evaluate_checkpoint(
        model,
        files,
        cohort=cohort,
        captions=captions,
        split=split,
        options=options,
        splits=splits,
        allow_missing=allow_missing,
        device=device,
    )
    if rows and not json:
        counts = rows[0]
        items, texts, patients = counts["slides"], counts["texts"], counts["patients"]
        say(f"{items} slides or cases of {patients} patients, {texts} distinct texts; intervals over patients")
    caution = stored_caution(model)
    print_rows(
        [row | {"caution": caution} for row in rows],
        json,
        lambda r: f"{r['measure']:<42} {r['value']:.3f}  [{r['low']:.3f}, {r['high']:.3f}]  chance {r['chance']:.3f}",
    )
    for note in dict.fromkeys(row["note"] for row in rows if "distinct texts" in row["note"]):
        say(f"note: {note}")
    if not json:
        say(caution)


@app.command()
def ground(
    model: Model,
    features: Features,
    text: Annotated[list[str], typer.Option(help="What to look for.")],
    out: Out,
    cases: Cases = None,
    slide: Annotated[Path | None, typer.Option(help="The slide itself, to draw the heatmap over it.")] = None,
    slide_mpp: SlideMPP = None,
    tiles: Annotated[int, typer.Option(help="How many of the best tiles to report.")] = 5,
    device: Device = None,
    json: Json = False,
) -> None:
    """Show where on a slide, or on which slide of a case, a phrase is: heatmap, best tiles, QuPath GeoJSON."""
    from pathflip.inference import ground_to_files, load, presence_scores, slides_in
    from pathflip.io.files import check_writable

    check_writable(out)
    if slide is not None and (count := len(files_in(features, {".h5"}))) > 1:
        raise ConfigError(f"ground: --slide is one slide, but there are {count} feature files; expected its own alone")
    loaded = load(model, device)
    rows: list[dict[str, Any]] = []
    for encoded in encoded_items(loaded, features, rows, cases):
        own = slides_in(encoded)
        logits = presence_scores(loaded, [encoded], text)[0].tolist() if len(own) > 1 else []
        for one in own:
            drawn = ground_to_files(loaded, one, text, out, slide_file=slide, slide_mpp=slide_mpp, tiles=tiles)
            for place, logit in enumerate(logits):
                drawn[place] |= {"case": encoded.slide_id, "presence_in_case": round(logit, 4)}
            rows += drawn
    finish(rows, json, _ground_line)


def _ground_line(row: Mapping[str, Any]) -> str:
    of_case = f" (case {row['case']}: {row['presence_in_case']:.2f})" if "case" in row else ""
    logit = f"presence logit {row['presence']:.2f}{of_case}"
    return f"“{row['text']}” on {row['slide_id']}: {logit}; {', '.join(row['files'])}\n  {row['note']}"


@app.command()
def demo(
    out: Out = Path("demo"),
    quick: Annotated[bool, typer.Option(help="A small world, under a minute: for checking an installation.")] = False,
    seed: Annotated[int, typer.Option(help="Of the world and of training.")] = 0,
    workers: Annotated[int, typer.Option(help="Processes.")] = 2,
    device: Device = None,
    json: Json = False,
) -> None:
    """Everything, end to end, on a synthetic cohort; ends with one HTML report."""
    from pathflip.demo import run_demo

    with progress_bar("demo") as advance:
        result = run_demo(out, quick=quick, seed=seed, num_workers=workers, device=device, say=say, progress=advance)
    row = {**result, "view": _view_command(out)}
    print_rows([row], json, lambda r: f"report: {r['report']}\nlook:   {r['view']}")


def _view_command(out: Path) -> str:
    """The command that opens the demo's cohort in the browser, with its model and its assistant, if it has one."""
    parts = [
        "pathflip", "view", out / "cohort" / "slides", "--model", out / "runs" / "align_base",
        "--features", out / "features_stain_texture", "--labels", out / "cohort" / "labels.csv",
    ]  # fmt: skip
    if (out / "runs" / "assistant").is_dir():
        parts += ["--assistant", out / "runs" / "assistant"]
    return shlex.join(map(str, parts))


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
    from pathflip.published.import_export import import_released

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
    print_rows([as_row(row)], json, _imported_line)


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
    from pathflip.published.import_export import export_released

    row = export_released(model, out)
    print_rows(
        [as_row(row)],
        json,
        lambda r: f"{r['out']}: {r['tensors']} tensors" + "".join(f"\n  note: {note}" for note in r["notes"]),
    )
