"""Verbs from pixels to features: simulate, info, qc, tile, encoders, extract, convert."""

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

from pathflip.cli.app import (
    MPP,
    Device,
    Json,
    MinTissue,
    Out,
    Recursive,
    SlideMPP,
    Slides,
    StridePx,
    TilePx,
    app,
    finish,
    print_rows,
    progress_bar,
    say,
)
from pathflip.errors import ConfigError

ExcludeArtefacts = Annotated[
    bool,
    typer.Option("--exclude-artefacts", help="Leave out tiles that blur, folds, pen, bubbles or bands spoil."),
]


@app.command()
def simulate(
    out: Out,
    world: Annotated[
        str, typer.Argument(help="quick, demo, study; hospital, quick-hospital: with messy reports.")
    ] = "demo",
    seed: Annotated[int, typer.Option(help="A world is a name and a seed.")] = 0,
    kind: Annotated[str, typer.Option(help="painted; mosaic: composed of the real images in --classes.")] = "painted",
    classes: Annotated[Path | None, typer.Option(help="Mosaic: folder with a sub-folder a tissue class.")] = None,
    classes_mpp: Annotated[float | None, typer.Option(help="Mosaic: µm a pixel of these images.")] = None,
    mpp: Annotated[float, typer.Option(help="Mosaic: µm a pixel of the slides.")] = 1.0,
    class_map: Annotated[Path | None, typer.Option(help="Mosaic: CSV with the columns folder, label.")] = None,
    donor_pattern: Annotated[str | None, typer.Option(help="Mosaic: donor in a file's path, a group.")] = None,
    donors: Annotated[Path | None, typer.Option(help="Mosaic: CSV with the columns image, donor.")] = None,
    workers: Annotated[int, typer.Option(help="Processes.", min=1)] = 2,
    json: Json = False,
) -> None:
    """Make a synthetic cohort: slides, reports, questions, truth; painted, or composed of real tissue."""
    from pathflip.simulate import World
    from pathflip.simulate import simulate as run

    if kind not in ("painted", "mosaic"):
        raise ConfigError(f"--kind: got '{kind}', expected painted or mosaic")
    if kind == "mosaic":
        if classes is None or classes_mpp is None:
            raise ConfigError(
                "simulate --kind mosaic: give --classes FOLDER and --classes-mpp, µm a pixel of its images"
            )
        chosen = World.named(world, seed)
        row = _mosaic(chosen, out, workers, (classes, classes_mpp, mpp), (class_map, donor_pattern, donors))
        print_rows([row], json, lambda r: f"{r['slides']} slides in {r['out']}")
        return
    if mosaic_options := [
        name
        for name, value in {"--classes": classes, "--class-map": class_map, "--donors": donors}.items()
        if value is not None
    ]:
        raise ConfigError(f"{mosaic_options[0]} goes with --kind mosaic")
    chosen = World.named(world, seed)
    say(chosen.describe())
    with progress_bar("painting") as advance:
        run(chosen, out, num_workers=workers, progress=advance)
    row = {"world": world, "seed": seed, "slides": chosen.num_cases, "out": str(out)}
    print_rows([row], json, lambda r: f"{r['slides']} slides in {r['out']}")


def _mosaic(world: Any, out: Path, workers: int, images: tuple[Any, ...], options: tuple[Any, ...]) -> dict[str, Any]:
    """Compose a cohort of real tissue, say of what, and return the row to print."""
    from dataclasses import replace

    from pathflip.simulate.mosaic import mosaic
    from pathflip.simulate.tissue_classes import find_tissue_images, read_class_map

    (folder, images_mpp, mpp), (class_map, donor_pattern, donors) = images, options
    chosen = replace(world, name=f"mosaic_{world.name}", mpp=mpp)
    tissue = find_tissue_images(
        folder,
        class_map=None if class_map is None else read_class_map(class_map),
        donor_pattern=donor_pattern,
        donors=donors,
    )
    for one, own in tissue.images.items():
        say(f"{one.tumour or one.label}: {len(own)} images of {len({donor for _, donor in own})} donors")
    if tissue.left_out:
        say(f"left out: {', '.join(tissue.left_out)}")
    if not tissue.donors_known:
        say("note: no donors are told (--donor-pattern, --donors): images of one donor may be in training and testing")
    with progress_bar("composing") as advance:
        mosaic(chosen, tissue, out, mpp=images_mpp, num_workers=workers, progress=advance)
    return {"world": chosen.name, "seed": chosen.seed, "slides": chosen.num_cases, "out": str(out)}


@app.command()
def info(slides: Slides, slide_mpp: SlideMPP = None, recursive: Recursive = False, json: Json = False) -> None:
    """What a slide is: size, resolution, levels, and how its pixels are read."""
    from pathflip.slide import find_slides, slide_info_row
    from pathflip.slide.paths import slide_names

    failed = False
    for path, name in slide_names(find_slides(slides, recursive=recursive)).items():
        row = slide_info_row(path, slide_mpp=slide_mpp, name=name)
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
    return f"{row['slide_id']}: {row['vendor']}, {size}; {'; '.join([row['reader'], *row['notes']])}"


@app.command()
def qc(
    slides: Slides,
    out: Out,
    tile_px: TilePx = 256,
    mpp: MPP = 0.5,
    min_tissue: MinTissue = 0.25,
    slide_mpp: SlideMPP = None,
    workers: Annotated[int, typer.Option(help="Processes.", min=1)] = 2,
    read_tiles: Annotated[int, typer.Option(help="Tiles read a slide as a check; 0 reads all.")] = 64,
    recursive: Recursive = False,
    json: Json = False,
) -> None:
    """Quality of slides: qc.csv, and a contact sheet (qc.html) with flagged slides first. A bad slide is a row too."""
    from pathflip.geometry import TileSpec
    from pathflip.slide import QualitySpec, check_cohort, find_slides

    with progress_bar("checking") as advance:
        rows = check_cohort(
            find_slides(slides, recursive=recursive),
            out,
            TileSpec(tile_px, mpp, min_tissue=min_tissue),
            slide_mpp=slide_mpp,
            quality=QualitySpec(read_tiles=read_tiles),
            num_workers=workers,
            progress=lambda done, total, row: advance(done, total, row.slide_id),
        )
    say(f"{sum(bool(row.flags) for row in rows)} of {len(rows)} slides flagged; {out / 'qc.csv'}, {out / 'qc.html'}")
    finish(rows, json, _qc_line)


def _qc_line(row: Mapping[str, Any]) -> str:
    return f"{row['slide_id']}: {'; '.join(row['flags']) or 'nothing speaks against it'}"


@app.command()
def tile(
    slides: Slides,
    out: Out,
    tile_px: TilePx = 256,
    mpp: MPP = 0.5,
    stride_px: StridePx = 0,
    min_tissue: MinTissue = 0.25,
    slide_mpp: SlideMPP = None,
    exclude_artefacts: ExcludeArtefacts = False,
    recursive: Recursive = False,
    json: Json = False,
) -> None:
    """Find tissue and cut tiles: coordinates, mask polygons for QuPath, and a picture to check."""
    from pathflip.geometry import TileSpec
    from pathflip.slide import ArtefactSpec, find_slides, tile_cohort

    spec = TileSpec(tile_px, mpp, stride_px, min_tissue)
    with progress_bar("tiling") as advance:
        rows = tile_cohort(
            find_slides(slides, recursive=recursive),
            spec,
            out,
            slide_mpp=slide_mpp,
            exclude=ArtefactSpec() if exclude_artefacts else None,
            progress=lambda done, total, outcome: advance(done, total, outcome.slide_id),
        )
    finish(rows, json, _tile_line)


def _tile_line(row: Mapping[str, Any]) -> str:
    excluded = "".join(f", {count} excluded for {kind}" for kind, count in row["excluded"].items())
    return f"{row['slide_id']}: {row['num_tiles']} tiles{excluded}, tissue {row['tissue_fraction']:.1%}"


@app.command()
def encoders(json: Json = False) -> None:
    """The table of encoders: width, tile size and resolution each is meant for, licence, and whether it is here."""
    from pathflip.features import encoder_table

    print_rows(encoder_table(), json, _encoder_line)


def _encoder_line(row: Mapping[str, Any]) -> str:
    here = "here  " if row["here"] else "absent"
    line = f"{row['name']:<34}{here}  {row['dim']:>4} wide"
    if "source" in row:
        tile = f"{row['tile_px']} px" if row["tile_px"] else "any size"
        mpp = "/".join(f"{mpp:g}" for mpp in row["mpp"]) + " mpp" if row["mpp"] else "any mpp"
        gate = ", gated" if row["gated"] else ""
        line += f"  {tile} at {mpp}; {row['licence']}{gate}; {row['source']}"
    return line + (f"  ({row['what']})" if row["what"] else "")


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
    exclude_artefacts: ExcludeArtefacts = False,
    workers: Annotated[
        int | None, typer.Option(help="Processes; as many as processor cores, or GPUs, if not given.", min=1)
    ] = None,
    precision: Annotated[
        str, typer.Option(help="Of networks: auto, float32, bfloat16 or float16; auto is float32 without a GPU.")
    ] = "auto",
    overwrite: Annotated[bool, typer.Option(help="Make files again that were made with other settings.")] = False,
    names: Annotated[
        str, typer.Option(help="stem, folder (FOLDER__STEM), or auto: folder only where names repeat.")
    ] = "auto",
    cluster: Annotated[str, typer.Option(help="Ray cluster: auto, HOST:PORT or ray://HOST:PORT (docs/scale.md).")] = "",
    gpus_per_slide: Annotated[float, typer.Option(help="With --cluster: GPUs a slide takes; fractions share.")] = 0.0,
    recursive: Recursive = False,
    device: Device = None,
    json: Json = False,
) -> None:
    """Tiles to feature vectors: one HDF5 file a slide, resumable, failures listed in failures.jsonl."""
    from pathflip.features import extract_cohort
    from pathflip.geometry import TileSpec
    from pathflip.slide import ArtefactSpec, find_slides

    spec = TileSpec(tile_px, mpp, stride_px, min_tissue)
    if device is not None:
        from pathflip.features.devices import device_named

        device_named(device)  # a device that is not there is said before any work
        if cluster:
            raise ConfigError("extract: with --cluster Ray places the slides; expected no --device")
    files = find_slides(slides, recursive=recursive)
    run: Callable[..., Any] = extract_cohort
    if cluster:
        from pathflip.features.cluster import ClusterSpec, extract_on_cluster

        run = partial(extract_on_cluster, cluster=ClusterSpec(cluster, gpus=gpus_per_slide), say=say)
    with progress_bar("extracting") as advance:
        rows = run(
            files,
            spec,
            encoder,
            out,
            slide_mpp=slide_mpp,
            exclude=ArtefactSpec() if exclude_artefacts else None,
            **({} if cluster else {"num_workers": workers, "warn": say, "device": device}),
            precision=precision,
            overwrite=overwrite,
            names=names,
            progress=lambda p: advance(p.slides_done, p.slides, f"{p.tiles_per_s:.0f} tiles/s"),
        )
    finish(rows, json, _extract_line)


def _extract_line(row: Mapping[str, Any]) -> str:
    invalid = f", {row['invalid']} unreadable" if row["invalid"] else ""
    what = row["message"] if row["status"] == "empty" else f"{row['tiles']} tiles{invalid} → {row['path']}"
    return f"{row['slide_id']}: {row['status']}, {what}"


@app.command()
def convert(
    inputs: Annotated[
        list[Path], typer.Argument(help="Feature files of any known tool, or folders of them.", show_default=False)
    ],
    to: Annotated[str, typer.Option(help="pathflip, trident, clam, stamp, lazyslide, slidechat or qupath.")],
    out: Out,
    mpp: Annotated[float | None, typer.Option(help="µm per pixel of the tiles, where files do not say.")] = None,
    tile_px: Annotated[int | None, typer.Option(help="Side of the tiles at --mpp, where files do not say.")] = None,
    slide_mpp: SlideMPP = None,
    encoder: Annotated[str | None, typer.Option(help="Name of the encoder, where files do not say.")] = None,
    slides: Annotated[Path | None, typer.Option(help="Folder of the slides: level-0 size, resolution, bounds.")] = None,
    coords: Annotated[Path | None, typer.Option(help="Folder of coordinate files, for features without any.")] = None,
    drop_invalid: Annotated[bool, typer.Option("--drop-invalid", help="Leave out rows with NaN or infinity.")] = False,
    json: Json = False,
) -> None:
    """Features and tiles of TRIDENT, CLAM, STAMP, LazySlide, SlideChat or QuPath, in and out."""
    from pathflip.interop import ReadOptions
    from pathflip.interop import convert as run
    from pathflip.io.files import check_writable

    check_writable(out)
    options = ReadOptions(mpp, tile_px, slide_mpp, encoder, slides, coords, drop_invalid)
    with progress_bar("converting") as advance:
        rows = run(
            inputs,
            to,
            out,
            options,
            isolated=True,
            progress=lambda done, total, row: advance(done, total, row.slide_id),
        )
    finish(rows, json, _convert_line)


def _convert_line(row: Mapping[str, Any]) -> str:
    what = f"{row['encoder']}, {row['dim']} wide" if row["dim"] else "coordinates"
    size = f"{row['tile_px']} px at {row['mpp']:.4g} mpp = {row['tile_px0']} level-0 px"
    where = row["files"][0] + (f" and {len(row['files']) - 1} more" if len(row["files"]) > 1 else "")
    return f"{row['slide_id']}: {row['detected']} → {row['to']}, {row['tiles']} tiles, {what}, {size}; {where}"
