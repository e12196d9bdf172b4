"""Verbs on frozen embeddings: embed, few-shot, curve."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from pathflip.cli.app import (
    CaseColumn,
    Cases,
    Device,
    Features,
    Json,
    Model,
    TrainDevice,
    app,
    files_in,
    files_of_items,
    numbers_line,
    print_rows,
    progress_bar,
    say,
    training_device,
)
from pathflip.errors import ConfigError

Labels = Annotated[Path, typer.Option(help="Table with the columns slide, label and, optional, patient.")]
Splits = Annotated[Path | None, typer.Option(help="CSV: slide, split (train / val / test).")]


@app.command()
def embed(
    model: Model,
    features: Features,
    out: Annotated[Path, typer.Option(help=".parquet, .npy (with a .csv beside it) or .h5ad (AnnData).")],
    patches: Annotated[bool, typer.Option("--patches", help="A row a patch instead of a row a slide.")] = False,
    pool: Annotated[
        Path | None, typer.Option(help="Table slide, patient (or case): a row a patient, the mean of its slides.")
    ] = None,
    cases: Cases = None,
    device: Device = None,
    json: Json = False,
) -> None:
    """Slide (or patch) embeddings of a folder as a table for other tools."""
    from pathflip.inference import load
    from pathflip.inference.embedding import EMBEDDING_SUFFIXES, embed_cohort, pooled, write_embeddings
    from pathflip.io.files import check_target
    from pathflip.io.slide_id import paths_by_id

    if out.suffix.lower() not in EMBEDDING_SUFFIXES:
        raise ConfigError(f"embed: --out is '{out}', expected a name that ends in {', '.join(EMBEDDING_SUFFIXES)}")
    if patches and pool is not None:
        raise ConfigError("embed: --pool takes the mean over slides, --patches a row a patch; give one of them")
    if cases is not None and (patches or pool is not None):
        raise ConfigError("embed: --cases gives a row a case; leave out --pool and --patches")
    check_target(out)
    files = paths_by_id(files_in(features, {".h5"}))
    items = dict(files_of_items(list(files.values()), cases)) if cases is not None else files
    groups = _patients(pool, list(files)) if pool is not None else {}
    loaded = load(model, device)
    failures: list[dict[str, Any]] = []
    with progress_bar("embedding") as advance:
        embeddings = embed_cohort(loaded, items, patches=patches, failures=failures, progress=advance)
    if pool is not None:
        embeddings = pooled(embeddings, groups)
    row = {
        "rows": len(embeddings), "width": embeddings.vectors.shape[1],
        "files": write_embeddings(out, embeddings, note=loaded.note), "failed": len(failures), "caution": loaded.note,
    }  # fmt: skip
    print_rows([row], json, lambda r: f"{r['rows']} rows of {r['width']} numbers → {', '.join(r['files'])}")
    if not json:
        say(loaded.note)
    for failure in failures:
        say(f"{failure['slide_id']}: FAILED {failure['error']}")
    if failures:
        raise typer.Exit(1)


def _patients(table: Path, slides: list[str]) -> dict[str, str]:
    from pathflip.io.slide_id import join_ids
    from pathflip.io.tables import read_table
    from pathflip.text.captions import patient_of_row, slide_of_row

    own = {(slide := slide_of_row(row)): patient_of_row(row, slide) for row in read_table(table)}
    slide_of = join_ids(own, slides)
    return {slide_of[name]: patient for name, patient in own.items() if name in slide_of}


@app.command(name="few-shot")
def few_shot(
    model: Model,
    features: Features,
    labels: Labels,
    splits: Splits = None,
    label_column: Annotated[str | None, typer.Option(help="Column of the label, where it bears another name.")] = None,
    shots: Annotated[list[int] | None, typer.Option(help="Slides a class; 1, 2, 4, … 32 if not given.")] = None,
    seeds: Annotated[int, typer.Option(help="Draws of the labelled slides.", min=2)] = 10,
    cases: Cases = None,
    against: Annotated[
        list[Path] | None,
        typer.Option(
            help="A baseline to compare with: another model's directory (of the same features), or slide embeddings "
            "as `pathflip embed` writes them (.parquet, .npy with its .csv, .h5ad). Several times."
        ),
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Table to write: .csv, .jsonl, .parquet.")] = None,
    seed: Annotated[int, typer.Option(help="Of the split and the draws.")] = 0,
    resamples: Annotated[int, typer.Option(help="Bootstrap cohorts of test patients.", min=2)] = 1000,
    device: Device = None,
    json: Json = False,
) -> None:
    """A classifier from a few labelled slides, on the model's embeddings and on the encoder's features."""
    from pathflip.benchmarks.few_shot import MODEL, SHOTS, FewShotSpec, bags_of, bags_of_embeddings
    from pathflip.benchmarks.few_shot import few_shot as measure
    from pathflip.data.splits import read_splits
    from pathflip.evaluate.labels import match_labels, read_labels
    from pathflip.inference import load
    from pathflip.io.files import check_target
    from pathflip.io.slide_id import join_ids, paths_by_id
    from pathflip.io.write_tables import is_table, write_table

    if out is not None:
        if not is_table(out):
            raise ConfigError(f"few-shot: --out is '{out}', expected a name that ends in .csv, .jsonl or .parquet")
        check_target(out, [labels])
    if shots and min(shots) < 1:
        raise ConfigError(f"few-shot: --shots {min(shots)}, expected 1 or more slides a class")
    known_labels = read_labels(labels, label_column)
    whole = {one.slide_id for one in known_labels}
    files = dict(files_of_items(list(paths_by_id(files_in(features, {".h5"})).values()), cases, whole))
    by_slide, unlabelled, absent = match_labels(known_labels, list(files), labels.name)
    own = [type(one)(slide, one.patient, one.label) for slide, one in by_slide.items()]
    split_of = None
    if splits is not None:
        known = read_splits(splits)
        split_of = {slide: known[name] for name, slide in join_ids(known, list(files)).items()}
    spec = FewShotSpec(shots=tuple(sorted(set(shots or SHOTS))), seeds=seeds, resamples=resamples)
    wanted = {one.slide_id: files[one.slide_id] for one in own}
    tables = {path: bags_of_embeddings(path, list(wanted)) for path in against or () if not path.is_dir()}
    loaded = load(model, device)
    with progress_bar("encoding") as advance:
        bags = bags_of(loaded, wanted, spec, seed, advance)
        for path in against or ():
            bags[_new_name(path, bags)] = (
                tables[path] if path in tables else bags_of(load(path, device), wanted, spec, seed, advance)[MODEL]
            )
    with progress_bar("few-shot") as advance:
        rows, notes = measure(bags, own, spec=spec, split_of=split_of, seed=seed, progress=advance)
    rows = [row | {"caution": loaded.note} for row in rows]
    if out is not None:
        write_table(out, rows)
    print_rows(rows, json, _few_shot_line)
    if not json:
        say(loaded.note)
    if unlabelled or absent:
        notes.append(
            f"{len(unlabelled)} feature files have no label, {len(absent)} labelled slides no features: left out"
        )
    for note in notes:
        say(f"note: {note}")


def _new_name(path: Path, known: Mapping[str, Any]) -> str:
    """A baseline's name in the rows; with its folder where the name is taken."""
    name = path.name if path.name not in ("best", "last", "state") else f"{path.parent.name}/{path.name}"
    if name in known:
        name = str(path)
    if name in known:
        raise ConfigError(f"few-shot: --against '{path}' is given twice; expected each once")
    return name


def _few_shot_line(row: Mapping[str, Any]) -> str:
    text = f"{row['shots']:>3} a class  {row['classifier']:<20} {row['system']:<17} {row['balanced_accuracy']:.3f}"
    text += f" ± {row['sd_over_seeds']:.3f} over {row['seeds']} seeds"
    if row["low"] is not None:
        text += f"  [{row['low']:.3f}, {row['high']:.3f}] over patients"
    text += f"  chance {row['chance']:.3f}"
    if row.get("model_minus_this") is not None:
        interval = (
            "" if row["difference_low"] is None else f" [{row['difference_low']:+.3f}, {row['difference_high']:+.3f}]"
        )
        p_value = f", McNemar p {row['mcnemar_p']:.2g}" if row["mcnemar_p"] is not None else ""
        text += f"  model minus this {row['model_minus_this']:+.3f}{interval}{p_value}"
    return text


@app.command()
def curve(
    recipes: Annotated[
        list[str], typer.Argument(help="Recipes to compare: align_base, clip_mean, …, FILE.py:FUNCTION.")
    ],
    features: Features,
    captions: Annotated[Path, typer.Option(help="JSON lines or CSV: slide, patient, text.")],
    splits: Annotated[Path, typer.Option(help="CSV: slide, split (train / val / test).")],
    out: Annotated[Path, typer.Option(help="Folder of the points, curve.json and curve.html.")],
    fraction: Annotated[list[str] | None, typer.Option(help="Of the training patients: 1/16 … 1 if not given.")] = None,
    seeds: Annotated[int, typer.Option(help="Trainings a point.", min=1)] = 3,
    tune: Annotated[
        list[float] | None, typer.Option(help="A learning rate to try, for every recipe alike; several times.")
    ] = None,
    labels: Annotated[Path | None, typer.Option(help="Table slide, label: zero-shot of the names, too.")] = None,
    cases: Cases = None,
    case_column: CaseColumn = None,
    settings: Annotated[list[str] | None, typer.Option("--set", help="KEY=VALUE for all recipes.")] = None,
    device: TrainDevice = None,
    json: Json = False,
) -> None:
    """The learning curve: train on 1/16 … all of the patients, ours and baselines; goes on where it stopped."""
    from pathflip.benchmarks.curve_page import write_curve
    from pathflip.benchmarks.learning_curve import (
        FRACTIONS,
        CurveData,
        compare_recipes,
        curve_rows,
        items_to_measure,
        parse_fraction,
        run_curve,
    )
    from pathflip.evaluate.labels import match_labels, read_labels
    from pathflip.io.files import check_writable
    from pathflip.io.tables import TableOptions
    from pathflip.recipes.align import find_recipe
    from pathflip.recipes.settings import with_settings
    from pathflip.train.align_run import read_split

    files = files_in(features, {".h5"})
    parts = read_split(files, captions, splits, TableOptions(case_column=case_column), cases=_cases(files, cases))
    settings = [*(settings or []), *training_device(device)]
    chosen = {name.rpartition(":")[2]: with_settings(find_recipe(name), settings) for name in recipes}
    if len(chosen) < len(recipes):
        raise ConfigError("curve: two recipes of one name; expected each once")
    known = None
    if labels is not None:
        named = read_labels(labels)
        items = items_to_measure(parts["test"], {one.slide_id for one in named})
        known = match_labels(named, [item.name for item in items], labels.name)[0]
    data = CurveData(parts["train"], parts["val"], parts["test"], known)
    fractions = [parse_fraction(text) for text in fraction] if fraction else list(FRACTIONS)
    check_writable(out)
    try:
        with progress_bar("learning curve") as advance:
            points = run_curve(
                chosen, data, out, fractions=sorted(set(fractions)), seeds=seeds, learning_rates=tune or (),
                device=device, progress=advance,
            )  # fmt: skip
    except KeyboardInterrupt:
        raise KeyboardInterrupt(f"points so far are in '{out}'; the same command goes on from there") from None
    rows = curve_rows(points)
    comparisons = compare_recipes(points, data)
    write_curve(out, rows, points, comparisons)
    print_rows(rows, json, numbers_line)
    print_rows(comparisons, json, _curve_comparison_line)
    say(f"{out / 'curve.html'}, {out / 'curve.json'}")


def _cases(files: list[Path], cases: str | None) -> list[Any]:
    """The cases that --cases tells of; none where it is not given."""
    from pathflip.data.case_items import cases_of_folders
    from pathflip.text.case_tables import read_cases

    if cases is None:
        return []
    return list(cases_of_folders(files) if cases == "folders" else read_cases(Path(cases)))


def _curve_comparison_line(row: Mapping[str, Any]) -> str:
    interval = "" if row["low"] is None else f" [{row['low']:+.3f}, {row['high']:+.3f}]"
    p_value = "" if row["p_value"] is None else f", McNemar p {row['p_value']:.2g}"
    named = f"{row['first']} minus {row['second']}, {row['fraction']} of the patients, {row['measure']}"
    return f"{named}: {row['difference']:+.3f}{interval}{p_value}"
