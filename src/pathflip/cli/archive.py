"""Verbs of the archive: index, search."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pathflip.cli.app import (
    Device,
    Encoding,
    Json,
    Model,
    ReportColumn,
    SlideColumn,
    app,
    as_row,
    files_in,
    finish,
    print_rows,
    progress_bar,
    say,
    unknown_words,
)
from pathflip.errors import ConfigError

if TYPE_CHECKING:
    from pathflip.geometry import Box

__all__ = ["index", "search"]

ArchiveFolder = Annotated[Path, typer.Option("--archive", help="The archive's folder.")]


@app.command()
def index(
    features: Annotated[list[Path], typer.Argument(help="Feature files, or folders of them.", show_default=False)],
    model: Model,
    archive: ArchiveFolder,
    captions: Annotated[Path | None, typer.Option(help="Captions: the case and patient of a slide.")] = None,
    labels: Annotated[Path | None, typer.Option(help="Table with a column 'slide': others become labels.")] = None,
    slides: Annotated[list[Path] | None, typer.Option(help="Slide files or folders, for thumbnails.")] = None,
    patches: Annotated[int, typer.Option(help="Patch embeddings kept of a slide.", min=1)] = 64,
    cluster: Annotated[str, typer.Option(help="Ray cluster: auto, HOST:PORT or ray://HOST:PORT (docs/scale.md).")] = "",
    gpus_per_slide: Annotated[float, typer.Option(help="GPU share of a slide on the cluster.", min=0)] = 0.0,
    slide_column: SlideColumn = None,
    text_column: ReportColumn = None,
    encoding: Encoding = None,
    device: Device = None,
    json: Json = False,
) -> None:
    """Put slides into a searchable archive; only what is new or changed is encoded, and a killed run goes on."""
    from pathflip import inference
    from pathflip.archive import index_features, read_facts
    from pathflip.archive.indexing import RunIndexJobs
    from pathflip.io.slide_id import paths_by_id
    from pathflip.io.tables import TableOptions

    files = files_in(features, {".h5"})
    options = TableOptions(slide_column, text_column, encoding=encoding)
    facts = read_facts(list(paths_by_id(files)), captions, labels, options)
    pictures = None
    if slides:
        from pathflip.slide.paths import find_slides

        pictures = paths_by_id(find_slides(slides))
    run_jobs: RunIndexJobs | None = None
    if cluster:
        from pathflip.archive.cluster_indexing import index_on_cluster
        from pathflip.features.cluster import ClusterSpec

        run_jobs = index_on_cluster(ClusterSpec(cluster, gpus=gpus_per_slide), model, say)
    loaded = inference.load(model, device)
    with progress_bar("indexing") as advance:
        outcomes = index_features(
            loaded,
            files,
            archive,
            facts=facts,
            slides=pictures,
            patches_a_slide=patches,
            run_jobs=run_jobs,
            progress=advance,
        )
    finish([as_row(outcome) | {"caution": loaded.note} for outcome in outcomes], json, _index_line)


def _index_line(row: Mapping[str, Any]) -> str:
    if row["status"] == "unchanged":
        return f"{row['slide_id']}: unchanged"
    return (
        f"{row['slide_id']}: {row['stored']} of {row['patches']} patches stand for all, cosine "
        f"{row['mean_cosine']:.3f} on average, {row['min_cosine']:.3f} at worst"
    )


@app.command()
def search(
    archive: ArchiveFolder,
    text: Annotated[str | None, typer.Option(help="Slides that show this.")] = None,
    slide: Annotated[str | None, typer.Option(help="Slides like this one: a name, or a feature file.")] = None,
    region: Annotated[
        str | None, typer.Option(help="Slides with a place like SLIDE:X,Y,WIDTH,HEIGHT (level-0 pixels).")
    ] = None,
    where: Annotated[str, typer.Option(help="For example  organ = 'lung' and age > 60")] = "",
    k: Annotated[int, typer.Option(help="How many.", min=1)] = 20,
    candidates: Annotated[int, typer.Option(help="Slides the second stage looks at.", min=1)] = 1000,
    model: Annotated[
        Path | None, typer.Option(help="Checkpoint directory; the one that filled the archive if absent.")
    ] = None,
    device: Device = None,
    json: Json = False,
) -> None:
    """Find slides in an archive by a text, a slide or a region; each hit names its regions."""
    from pathflip.archive import Searcher, open_archive
    from pathflip.checkpoint import stored_caution

    if sum(query is not None for query in (text, slide, region)) != 1:
        raise ConfigError("search: give one of --text, --slide and --region")
    name, box = _region(region) if region is not None else (slide or "", None)
    opened = open_archive(archive)
    aligned = None
    if text is not None or name.lower().endswith(".h5"):
        from pathflip import inference

        aligned = inference.load(model or Path(opened.model.path), device)
    searcher = Searcher(opened, aligned, candidates=candidates)
    if text is not None:
        hits = searcher.by_text(text, k, where)
    elif box is not None:
        hits = searcher.by_region(name, box, k, where)
    else:
        hits = searcher.by_slide(name, k, where)
    caution = aligned.note if aligned is not None else stored_caution(model or Path(opened.model.path))
    warnings = unknown_words(aligned, text) if aligned is not None and text is not None else []
    beside = {"warnings": warnings, "caution": caution}
    rows = [as_row(hit) | {"rank": rank, "score": round(hit.score, 4)} for rank, hit in enumerate(hits, start=1)]
    print_rows([row | beside for row in rows], json, _hit_line)
    for line in [] if json else [*(f"note: {one}" for one in warnings), caution]:
        say(line)


def _region(text: str) -> "tuple[str, Box]":
    from pathflip.geometry import Box

    name, _, numbers = text.rpartition(":")
    try:
        x, y, width, height = (int(value) for value in numbers.split(","))
    except ValueError:
        raise ConfigError(f"--region: got '{text}', expected SLIDE:X,Y,WIDTH,HEIGHT in level-0 pixels") from None
    if not name or width < 1 or height < 1:
        raise ConfigError(f"--region: got '{text}', expected SLIDE:X,Y,WIDTH,HEIGHT with a width and height above 0")
    return name, Box(x, y, width, height)


def _hit_line(row: Mapping[str, Any]) -> str:
    labels = "".join(f"  {name}={value}" for name, value in row["labels"].items())
    lines = [f"{row['rank']:>3}  {row['slide_id']}  {row['score']:.3f}{labels}"]
    for place in row["places"]:
        box = place["box"]
        text = f"  {place['text']}" if place["text"] else ""
        lines.append(f"       {place['score']:.3f} at {box['x']},{box['y']},{box['width']},{box['height']}{text}")
    return "\n".join(lines)
