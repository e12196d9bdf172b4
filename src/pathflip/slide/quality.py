"""Is a slide fit for use? One row of measurements a slide, and in words what speaks against it.

A slide that cannot be opened, or fails half-way, is a row too: with the error, and whatever was measured before it.
"""

import csv
import io
import os
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass, field, fields, replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pathflip.arguments import Paths, as_paths
from pathflip.errors import ConfigError, PathFLIPError
from pathflip.geometry import TileGrid, TileSpec
from pathflip.io.files import write_text
from pathflip.io.slide_id import slide_id
from pathflip.io.tables import plain_cell
from pathflip.processes import follow_parent
from pathflip.slide.artefacts import ArtefactMask, ArtefactSpec, find_artefacts
from pathflip.slide.contact import draw_thumbnail, write_sheets
from pathflip.slide.paths import slide_names
from pathflip.slide.reader import Slide, open_slide
from pathflip.slide.resolution_table import SlideResolution
from pathflip.slide.stain import measure_stains
from pathflip.slide.tiling import exclude_artefacts, tile_slide
from pathflip.slide.tissue import DOUBTS, TissueMask, find_tissue

__all__ = ["COLUMNS", "QualitySpec", "SlideQuality", "check_cohort", "check_slide"]


@dataclass(frozen=True)
class QualitySpec:
    """From where on a slide is flagged (``docs/quality.md`` says why), and how closely it is looked at.

    Attributes:
        least_tissue_mm2: less tissue than this.
        least_sharpness: median sharpness below this.
        blurred, folded: fractions of the tissue.
        pen, bubble, dark: fractions of the slide's area.
        unreadable: fraction of the tiles read.
        pale: mean haematoxylin and eosin below this optical density.
        stain_degrees: a stain vector further than this from haematoxylin's or eosin's.
        read_tiles: tiles read, evenly over the slide, to find unreadable ones and measure stains; 0 reads all.
    """

    least_tissue_mm2: float = 0.5
    least_sharpness: float = 1.3
    blurred: float = 0.1
    folded: float = 0.05
    pen: float = 0.005
    bubble: float = 0.01
    dark: float = 0.01
    unreadable: float = 0.0
    pale: float = 0.08
    stain_degrees: float = 30.0
    read_tiles: int = 64

    def __post_init__(self) -> None:
        if self.read_tiles < 0:
            raise ConfigError(f"QualitySpec.read_tiles: got {self.read_tiles}, expected 0 (all) or more")


@dataclass(frozen=True)
class SlideQuality:
    """What was measured on one slide; None where it could not be.

    Attributes:
        flags: what speaks against the slide, in words; empty where nothing does.
        tissue_mm2: tissue area.
        tiles: tiles with enough tissue; ``tiles_spoilt`` of them ``--exclude-artefacts`` would leave out.
        sharpness: median over the tissue; 1 is the limit of blur.
        blurred, folded: fractions of the tissue.
        pen, bubble, dark, dust: fractions of the slide's area.
        haematoxylin, eosin: mean optical density over stained pixels of the tiles read.
        haematoxylin_rgb, eosin_rgb: stain vectors, unit length.
        stain_degrees: the larger angle between these and the reference vectors.
        tiles_read, tiles_invalid: tiles read as a check, and how many of them could not be.
        reader: how pixels are read, and why that way.
        error: one line, where the slide could not be measured to the end.
    """

    slide_id: str
    path: str
    flags: tuple[str, ...] = ()
    tissue_mm2: float | None = None
    tissue_share: float | None = None
    tiles: int | None = None
    tiles_spoilt: int | None = None
    sharpness: float | None = None
    blurred: float | None = None
    folded: float | None = None
    pen: float | None = None
    bubble: float | None = None
    dark: float | None = None
    dust: float | None = None
    haematoxylin: float | None = None
    eosin: float | None = None
    haematoxylin_rgb: tuple[float, ...] | None = None
    eosin_rgb: tuple[float, ...] | None = None
    stain_degrees: float | None = None
    tiles_read: int | None = None
    tiles_invalid: int | None = None
    width0: int | None = None
    height0: int | None = None
    mpp0: float | None = None
    vendor: str = ""
    reader: str = ""
    warnings: tuple[str, ...] = ()
    seconds: float = 0.0
    error: str = ""


COLUMNS = tuple(item.name for item in fields(SlideQuality))
"""Columns of qc.csv, in order."""


def check_slide(
    path: str | Path,
    spec: TileSpec | None = None,
    *,
    slide_mpp: SlideResolution | None = None,
    quality: QualitySpec | None = None,
    artefacts: ArtefactSpec | None = None,
    name: str | None = None,
) -> tuple[SlideQuality, NDArray[np.uint8] | None]:
    """Measure one slide.

    Args:
        path: the slide.
        spec: the tiles it is meant for.
        slide_mpp: its own resolution, where the file does not say.
        quality: thresholds.
        artefacts: how artefacts are sought.
        name: the slide's name, where it is not the file's.

    Returns:
        Its row, and a thumbnail (RGB, 480 px or less) with tissue outlined and artefacts coloured; None where the slide
        has no pixels to show. Never raises for what is wrong with the slide.
    """
    quality = quality or QualitySpec()
    start = time.perf_counter()
    name = name or slide_id(Path(path).absolute())
    parts = _Parts(SlideQuality(name, _printable(path)))
    try:
        with open_slide(path, slide_mpp=slide_mpp, name=name) as slide:
            _measure(slide, spec or TileSpec(), quality, artefacts, parts)
    except PathFLIPError as error:
        parts.add(error=" ".join(str(error).split()))
    except Exception as error:  # one slide must not stop ten thousand
        parts.add(error=f"{type(error).__name__}: {' '.join(str(error).split())}")
    row = replace(parts.row, seconds=round(time.perf_counter() - start, 2))
    return replace(row, flags=_flags(row, quality)), parts.picture


class _Parts:
    """What has been measured so far."""

    def __init__(self, row: SlideQuality) -> None:
        self.row = row
        self.picture: NDArray[np.uint8] | None = None

    def add(self, **values: Any) -> None:
        self.row = replace(self.row, **values)


def _measure(slide: Slide, spec: TileSpec, quality: QualitySpec, artefacts: ArtefactSpec | None, parts: _Parts) -> None:
    info = slide.info
    parts.add(width0=info.size0[0], height0=info.size0[1], mpp0=_short(info.mpp0), vendor=info.vendor)
    parts.add(reader=info.reader)
    parts.picture = draw_thumbnail(slide, None, None)
    if info.mpp0 is not None:
        spec.downsample(info)  # too coarse a slide is refused before minutes go into measuring it
    tissue = find_tissue(slide)
    parts.add(tissue_mm2=_short(tissue.area_mm2), tissue_share=_short(tissue.fraction), warnings=tissue.warnings)
    parts.picture = draw_thumbnail(slide, tissue, None)
    mask = find_artefacts(slide, tissue, artefacts)
    parts.picture = draw_thumbnail(slide, tissue, mask)
    parts.add(**_artefact_numbers(mask, tissue), warnings=(*tissue.warnings, *mask.warnings))
    grid = tile_slide(slide, tissue, spec)
    clean, _ = exclude_artefacts(grid, tissue, mask, (artefacts or ArtefactSpec()).max_share)
    parts.add(tiles=len(grid), tiles_spoilt=len(grid) - len(clean))
    _read_sample(slide, grid, quality, parts)


def _artefact_numbers(mask: ArtefactMask, tissue: TissueMask) -> dict[str, Any]:
    judged = mask.sharpness[np.isfinite(mask.sharpness)]
    folded = _short(mask.share_of_tissue("fold", tissue)) if tissue.mask.any() else None
    return {
        "sharpness": _short(float(np.median(judged))) if len(judged) else None,
        "blurred": _short(mask.share_of_tissue("blur", tissue)) if len(judged) else None,
        "folded": folded,
        **{kind: _short(float(mask.mask(kind).mean())) for kind in ("pen", "bubble", "dark", "dust")},
    }


def _read_sample(slide: Slide, grid: TileGrid, quality: QualitySpec, parts: _Parts) -> None:
    """Read tiles evenly over the slide: which fail, and how they are stained."""
    count = len(grid) if quality.read_tiles == 0 else min(len(grid), quality.read_tiles)
    rows = np.unique(np.linspace(0, len(grid) - 1, count).astype(int)) if count else np.zeros(0, int)
    every = max(1, len(rows) * grid.spec.tile_px**2 // 200_000)
    pixels, invalid = [], 0
    for x0, y0 in grid.coords[rows].tolist():
        try:
            pixels.append(slide.read_tile(x0, y0, grid.spec).reshape(-1, 3)[::every])
        except PathFLIPError:
            invalid += 1
    parts.add(tiles_read=len(rows), tiles_invalid=invalid)
    stains = measure_stains(np.concatenate(pixels)) if pixels else None
    if stains is not None:
        haematoxylin, eosin = (tuple(round(float(v), 3) for v in row) for row in stains.vectors)
        parts.add(
            haematoxylin=_short(stains.amounts[0]),
            eosin=_short(stains.amounts[1]),
            haematoxylin_rgb=haematoxylin,
            eosin_rgb=eosin,
            stain_degrees=round(stains.degrees_off, 1),
        )


def _flags(row: SlideQuality, spec: QualitySpec) -> tuple[str, ...]:
    """What speaks against the slide, in words."""
    flags = [f"not measured to the end: {row.error}"] if row.error else []

    def over(value: float | None, limit: float, words: str) -> None:
        if value is not None and value > limit:
            flags.append(words.format(value))

    if row.tissue_share == 0:
        flags.append("no tissue found" if row.vendor else "nothing found")
    elif row.tissue_mm2 is not None and row.tissue_mm2 < spec.least_tissue_mm2:
        flags.append(f"little tissue: {row.tissue_mm2:.2g} mm²")
    flags += [warning for warning in row.warnings if warning.startswith(DOUBTS)]
    if row.tissue_share and row.tiles == 0:
        flags.append("no tile holds enough tissue")
    if row.sharpness is not None and row.sharpness < spec.least_sharpness:
        flags.append(f"out of focus: median sharpness {row.sharpness:.2g} (1 is the limit, 1.5 and more usual)")
    over(row.blurred, spec.blurred, "{:.0%} of the tissue out of focus")
    over(row.folded, spec.folded, "{:.0%} of the tissue folded or crushed")
    over(row.pen, spec.pen, "pen on {:.1%} of the slide")
    over(row.bubble, spec.bubble, "air bubbles on {:.1%} of the slide")
    over(row.dark, spec.dark, "dark bands or shadows on {:.1%} of the slide")
    if row.tiles_read and row.tiles_invalid is not None and row.tiles_invalid > spec.unreadable * row.tiles_read:
        flags.append(f"{row.tiles_invalid} of {row.tiles_read} tiles cannot be read: the file is damaged")
    over(row.stain_degrees, spec.stain_degrees, "colours {:.0f}° off haematoxylin and eosin: another stain, or pigment")
    if row.haematoxylin is not None and row.eosin is not None and row.haematoxylin + row.eosin < spec.pale:
        flags.append(f"pale: mean optical density {row.haematoxylin + row.eosin:.2f}")
    return tuple(flags)


@dataclass(frozen=True)
class _Job:
    path: Path
    picture: Path
    options: dict[str, Any] = field(default_factory=dict)


def check_cohort(
    paths: Paths,
    out: str | Path,
    spec: TileSpec | None = None,
    *,
    slide_mpp: SlideResolution | None = None,
    quality: QualitySpec | None = None,
    artefacts: ArtefactSpec | None = None,
    num_workers: int = 1,
    progress: Callable[[int, int, SlideQuality], None] | None = None,
) -> list[SlideQuality]:
    """Measure slides and write ``out/qc.csv`` (one row a slide) and ``out/qc.html`` (contact sheet, flagged first).

    A bad slide is a row with an error; one that kills the process reading it is tried once more, alone, then
    recorded. The sheet holds 300 slides a page: ``qc-2.html`` and so on follow.

    Args:
        paths: slide files; one named twice is measured once.
        out: folder, created where absent.
        spec, slide_mpp, quality, artefacts: as for :func:`check_slide`.
        num_workers: processes; 0 or 1 measures in this one.
        progress: called after every slide with the number done, the total, and the row.

    Returns:
        One row a slide, in the order given.
    """
    out = Path(out)
    pictures = out / "thumbnails"
    pictures.mkdir(parents=True, exist_ok=True)
    options = {"spec": spec, "slide_mpp": slide_mpp, "quality": quality, "artefacts": artefacts}
    files = list(dict.fromkeys(Path(os.path.abspath(path)) for path in as_paths(paths, "paths")))
    names = slide_names(files)
    jobs = [_Job(p, pictures / f"{i:06d}.jpg", {**options, "name": names[p]}) for i, p in enumerate(files, start=1)]
    rows: dict[int, SlideQuality] = {}
    for index, row in _measured(jobs, num_workers):
        rows[index] = row
        if progress is not None:
            progress(len(rows), len(jobs), row)
    ordered = [rows[i] for i in range(len(jobs))]
    write_text(out / "qc.csv", _table(ordered))
    write_sheets(out, [asdict(row) for row in ordered], [job.picture for job in jobs])
    return ordered


def _measured(jobs: Sequence[_Job], workers: int) -> Iterator[tuple[int, SlideQuality]]:
    if workers <= 1 or len(jobs) <= 1:
        for index, job in enumerate(jobs):
            yield index, _work(job)
        return
    left = dict(enumerate(jobs))
    for index, row in _in_processes(left, min(workers, len(jobs))):
        del left[index]
        yield index, row
    for index, job in left.items():  # a process died; nobody knows of which slide
        alone = dict(_in_processes({index: job}, 1))
        died = "the process reading it died (out of memory, or a damaged file)"
        row = SlideQuality(job.options["name"], _printable(job.path), (f"not measured to the end: {died}",), error=died)
        yield index, alone.get(index, row)


def _in_processes(jobs: dict[int, _Job], workers: int) -> Iterator[tuple[int, SlideQuality]]:
    """Rows as they come; ends early when a process dies."""
    with ProcessPoolExecutor(workers, get_context("spawn"), initializer=_start_worker) as pool:
        waiting: dict[Future[SlideQuality], int] = {pool.submit(_work, job): index for index, job in jobs.items()}
        try:
            while waiting:
                for future in wait(waiting, return_when=FIRST_COMPLETED).done:
                    row = future.result()
                    yield waiting.pop(future), row
        except BrokenProcessPool:
            return
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def _start_worker() -> None:
    import cv2

    follow_parent()
    cv2.setNumThreads(1)


def _work(job: _Job) -> SlideQuality:
    from pathflip.slide.contact import save_picture

    row, picture = check_slide(job.path, **job.options)
    if picture is None:
        job.picture.unlink(missing_ok=True)  # of an earlier run
    else:
        save_picture(job.picture, picture)
    return row


def _table(rows: Sequence[SlideQuality]) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    writer.writeheader()
    for row in rows:
        writer.writerow({name: _cell(value) for name, value in asdict(row).items()})
    return text.getvalue()


def _cell(value: Any) -> Any:
    if isinstance(value, tuple):
        numbers = all(isinstance(v, float) for v in value)
        text = (" " if numbers else "; ").join(map(str, value))
        return text if numbers else plain_cell(text)
    return "" if value is None else plain_cell(value)


def _short(value: float | None) -> float | None:
    return None if value is None else float(f"{value:.4g}")


def _printable(path: str | Path) -> str:
    """A path as text, whatever bytes its name holds."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")
