"""Verbs from pixels to features: simulate, info, tile, extract."""

from collections.abc import Mapping
from typing import Annotated, Any

import typer

from pathflip.cli.app import (
    MPP,
    SLIDE_SUFFIXES,
    Json,
    MinTissue,
    Out,
    SlideMPP,
    Slides,
    StridePx,
    TilePx,
    app,
    files_in,
    finish,
    print_rows,
    progress_bar,
    say,
)


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
    say(chosen.describe())
    with progress_bar("painting") as advance:
        run(chosen, out, num_workers=workers, progress=advance)
    row = {"world": world, "seed": seed, "slides": chosen.num_cases, "out": str(out)}
    print_rows([row], json, lambda r: f"{r['slides']} slides in {r['out']}")


@app.command()
def info(slides: Slides, slide_mpp: SlideMPP = None, json: Json = False) -> None:
    """What a slide is: size, resolution, levels, and how its pixels are read."""
    from pathflip.slide import slide_info_row

    failed = False
    for path in files_in(slides, SLIDE_SUFFIXES):
        row = slide_info_row(path, slide_mpp=slide_mpp)
        failed |= "error" in row
        print_rows([row], json, _info_line)
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
    with progress_bar("tiling") as advance:
        rows = tile_cohort(
            files_in(slides, SLIDE_SUFFIXES),
            spec,
            out,
            slide_mpp=slide_mpp,
            progress=lambda done, total, outcome: advance(done, total, outcome.slide_id),
        )
    finish(rows, json, lambda r: f"{r['slide_id']}: {r['num_tiles']} tiles, tissue {r['tissue_fraction']:.1%}")


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
    files = files_in(slides, SLIDE_SUFFIXES)
    with progress_bar("extracting") as advance:
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
    finish(rows, json, _extract_line)


def _extract_line(row: Mapping[str, Any]) -> str:
    invalid = f", {row['invalid']} unreadable" if row["invalid"] else ""
    what = row["message"] if row["status"] == "empty" else f"{row['tiles']} tiles{invalid} → {row['path']}"
    return f"{row['slide_id']}: {row['status']}, {what}"
