"""Cut the tissue of slides into tiles, and write down where they are.

The coordinate files are laid out as TRIDENT writes them (dataset ``coords`` and its attributes), so that its readers
open them; our own attributes beside them hold what that layout cannot say, in microns.
"""

import csv
import hashlib
import io
import json
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pathflip.arguments import Paths, as_paths
from pathflip.errors import FeatureError, PathFLIPError, SlideError
from pathflip.geometry import SlideInfo, TileGrid, TileSpec
from pathflip.io.files import atomic_hdf5, atomic_path, write_text
from pathflip.io.geojson import feature, write_features
from pathflip.io.grid_attributes import grid_attributes, read_grid_attributes, trident_attributes
from pathflip.io.hdf5 import dataset, opened, plain_attributes, read_array
from pathflip.slide.artefacts import KINDS, ArtefactMask, ArtefactSpec, find_artefacts
from pathflip.slide.paths import slide_names
from pathflip.slide.reader import Slide, open_slide
from pathflip.slide.resolution_table import SlideResolution
from pathflip.slide.tissue import TissueMask, TissueSpec, area_fractions, find_tissue

__all__ = [
    "ExcludedTiles",
    "SlideOutcome",
    "exclude_artefacts",
    "read_coords",
    "settings_hash",
    "tile_cohort",
    "tile_slide",
    "write_coords",
    "write_excluded",
]

FORMAT_VERSION = 1
_QC_PX = 1600


def tile_slide(slide: Slide | SlideInfo, tissue: TissueMask, spec: TileSpec) -> TileGrid:
    """The tiles of a slide that hold enough tissue.

    Tiles lie on a lattice anchored at level-0 pixel (0, 0), so the same slide and settings give the same tiles
    whatever the tissue mask does elsewhere. A tile is kept when at least ``spec.min_tissue`` of its area is tissue
    (area beyond the slide counts as glass), by the exact integral of the mask; a tile without any tissue never is.

    Raises:
        MissingMPPError: the slide's own resolution is unknown.
        ResolutionError: the tiles are finer than the slide.
    """
    info = slide if isinstance(slide, SlideInfo) else slide.info
    side0, stride0 = spec.tile_px0(info), spec.stride_px0(info)
    xs = np.arange(0, info.size0[0], stride0, dtype=np.int64)
    corners = [np.zeros((0, 2), np.int64)]
    for y in range(0, info.size0[1], stride0):  # row by row: memory stays flat however small the tiles
        row = np.stack([xs, np.full_like(xs, y)], axis=1)
        share = tissue.fractions(row, side0)
        corners.append(row[(share >= spec.min_tissue - 1e-9) & (share > 0)])
    return TileGrid(info, spec, np.concatenate(corners))


@dataclass(frozen=True, eq=False)
class ExcludedTiles:
    """Tiles with enough tissue that an artefact has spoilt.

    Attributes:
        coords: int64 (M, 2), level-0 top-left corners.
        reasons: the artefact that covers most of each (a name of ``artefacts.KINDS``).
        shares: how much of what lies on each tile's glass is artefact, (M,).
    """

    coords: NDArray[np.int64] = field(repr=False)
    reasons: tuple[str, ...] = field(repr=False)
    shares: NDArray[np.float64] = field(repr=False)

    @property
    def counts(self) -> dict[str, int]:
        """How many tiles by reason, most first."""
        return dict(Counter(self.reasons).most_common())


def exclude_artefacts(
    grid: TileGrid, tissue: TissueMask, artefacts: ArtefactMask, max_share: float = ArtefactSpec.max_share
) -> tuple[TileGrid, ExcludedTiles]:
    """Part a slide's tiles into those to keep and those that artefacts have spoilt.

    A tile is spoilt when artefacts cover more than ``max_share`` of what lies on its glass (tissue and artefacts
    together). Dust does not count: it is small, and the tissue around it is sound.
    """
    bad = artefacts.kinds > KINDS.index("dust")
    corners, side0 = grid.coords, grid.tile_px0
    covered = area_fractions(bad, artefacts.downsample, corners, side0)
    anything = area_fractions(bad | tissue.mask, artefacts.downsample, corners, side0)
    shares = covered / np.maximum(anything, 1e-9)
    out = shares > max_share + 1e-9
    kinds = KINDS[KINDS.index("dust") + 1 :]
    by_kind = [area_fractions(artefacts.mask(kind), artefacts.downsample, corners[out], side0) for kind in kinds]
    reasons = tuple(kinds[i] for i in np.stack(by_kind).argmax(axis=0)) if out.any() else ()
    return replace(grid, coords=corners[~out]), ExcludedTiles(corners[out], reasons, shares[out])


def write_excluded(target: str | Path, excluded: ExcludedTiles) -> None:
    """Write the excluded tiles as CSV (x0, y0, reason, share), atomically; the header alone where there are none."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(("x0", "y0", "reason", "share"))
    for (x0, y0), reason, share in zip(excluded.coords.tolist(), excluded.reasons, excluded.shares, strict=True):
        writer.writerow((x0, y0, reason, f"{share:.3f}"))
    write_text(target, text.getvalue())


@dataclass(frozen=True)
class SlideOutcome:
    """What became of one slide of a cohort.

    Attributes:
        slide_id: the slide.
        path: its file.
        ok: whether its tiles were written.
        num_tiles: how many.
        tissue_fraction: tissue as a share of the slide's area.
        reader: how its pixels were read.
        warnings: what a person should know although it went well.
        error: one line, where it did not.
        seconds: how long it took.
        excluded: tiles left out for artefacts, by reason; empty where that was not asked for.
    """

    slide_id: str
    path: str
    ok: bool
    num_tiles: int = 0
    tissue_fraction: float = 0.0
    reader: str = ""
    warnings: tuple[str, ...] = ()
    error: str | None = None
    seconds: float = 0.0
    excluded: dict[str, int] = field(default_factory=dict)


Progress = Callable[[int, int, SlideOutcome], None]


def tile_cohort(
    paths: Iterable[str | Path],
    spec: TileSpec,
    out: str | Path,
    *,
    slide_mpp: SlideResolution | None = None,
    tissue: TissueSpec | None = None,
    exclude: ArtefactSpec | None = None,
    progress: Progress | None = None,
) -> list[SlideOutcome]:
    """Find the tissue of every slide and write its tiles. One bad slide never stops the others.

    Writes, under ``out``: ``coords/<slide>.h5`` (:func:`write_coords`), ``tissue/<slide>.geojson`` (polygons, opened
    by QuPath), ``qc/<slide>.png`` (thumbnail with the tiles drawn), and ``failures.jsonl`` (one line a failed slide;
    absent when all went well). With ``exclude`` also ``excluded/<slide>.csv`` (:func:`write_excluded`).

    Args:
        paths: slide files; a file named twice is done once. Where file names repeat, as in archives with a folder a
            case, the folder's name is put in front: ``FOLDER__NAME``.
        spec: which tiles.
        out: folder, created where absent; files of an earlier run are replaced.
        slide_mpp: the slides' own resolution, where files do not say; applies to all of them.
        tissue: how tissue is searched for.
        exclude: leave out tiles that artefacts found in this way have spoilt; None keeps all.
        progress: called after every slide with the number done, the total, and the outcome.

    Returns:
        One outcome a slide, in the order given.
    """
    out = Path(out)
    files = _distinct(paths)
    names = slide_names(files)
    clashes = _equal_names(names)
    outcomes: list[SlideOutcome] = []
    for path in files:
        start = time.perf_counter()
        try:
            if path in clashes:
                raise SlideError(clashes[path])
            outcome = _tile_one(path, names[path], spec, out, slide_mpp, tissue, exclude, start)
        except Exception as error:
            line = _one_line(error)
            seconds = round(time.perf_counter() - start, 3)
            outcome = SlideOutcome(names[path], str(path), ok=False, error=line, seconds=seconds)
        outcomes.append(outcome)
        if progress is not None:
            progress(len(outcomes), len(files), outcome)
    _write_failures(out / "failures.jsonl", outcomes)
    return outcomes


def _tile_one(
    path: Path,
    name: str,
    spec: TileSpec,
    out: Path,
    slide_mpp: SlideResolution | None,
    tissue: TissueSpec | None,
    exclude: ArtefactSpec | None,
    start: float,
) -> SlideOutcome:
    with open_slide(path, slide_mpp=slide_mpp, name=name) as slide:
        spec.downsample(slide.info)  # refuse before any pixel is read
        mask = find_tissue(slide, tissue)
        grid = tile_slide(slide, mask, spec)
        info = slide.info
        excluded = None
        if exclude is not None:
            grid, excluded = exclude_artefacts(grid, mask, find_artefacts(slide, mask, exclude), exclude.max_share)
            write_excluded(out / "excluded" / f"{info.slide_id}.csv", excluded)
        write_coords(out / "coords" / f"{info.slide_id}.h5", grid, tissue or TissueSpec(), exclude)
        _write_tissue(out / "tissue" / f"{info.slide_id}.geojson", mask)
        _write_qc(out / "qc" / f"{info.slide_id}.png", slide, mask, grid)
    return SlideOutcome(
        slide_id=info.slide_id,
        path=str(path),
        ok=True,
        num_tiles=len(grid),
        tissue_fraction=round(mask.fraction, 6),
        reader=info.reader,
        warnings=mask.warnings,
        seconds=round(time.perf_counter() - start, 3),
        excluded=excluded.counts if excluded is not None else {},
    )


def _distinct(paths: Paths) -> list[Path]:
    seen: dict[Path, Path] = {}
    for path in as_paths(paths, "paths"):
        seen.setdefault(Path(path).absolute(), path)
    return list(seen.values())


def _equal_names(names: Mapping[Path, str]) -> dict[Path, str]:
    """Files whose outputs would overwrite each other, with the line that says so."""
    by_id: dict[str, list[Path]] = {}
    for path, name in names.items():
        by_id.setdefault(name, []).append(path)
    return {
        path: f"slide '{name}': {len(group)} files share this name ({', '.join(map(str, group))}); names join slides "
        "with features and captions: rename all but one, or use separate output folders"
        for name, group in by_id.items()
        if len(group) > 1
        for path in group
    }


def _one_line(error: Exception) -> str:
    text = " ".join(str(error).split())
    return text if isinstance(error, PathFLIPError) else f"{type(error).__name__}: {text}"


def _write_failures(target: Path, outcomes: Sequence[SlideOutcome]) -> None:
    failed = [{"slide_id": o.slide_id, "path": o.path, "error": o.error} for o in outcomes if not o.ok]
    if failed:
        write_text(target, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in failed))
    else:
        target.unlink(missing_ok=True)


def settings_hash(*settings: Any) -> str:
    """Sixteen hexadecimal digits that change when any of these dataclasses or plain values does."""
    plain = [asdict(s) if hasattr(s, "__dataclass_fields__") else s for s in settings]
    return hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()[:16]


def write_coords(
    target: str | Path, grid: TileGrid, tissue: TissueSpec | None = None, exclude: ArtefactSpec | None = None
) -> None:
    """Write a tile grid as one HDF5 file that TRIDENT's readers open, atomically.

    ``coords`` is int64 (N, 2), level-0 top-left corners. Its attributes are TRIDENT's nine, then ours; those with
    unit px0 are level-0 pixels.
    """
    info, spec, target = grid.info, grid.spec, Path(target)
    excluding = () if exclude is None else (exclude,)
    ours = {
        **grid_attributes(info, spec),
        "format_version": FORMAT_VERSION,
        "settings_hash": settings_hash(spec, tissue, info.require_mpp(), *excluding),
    }
    with atomic_hdf5(target) as file:
        dataset = file.create_dataset("coords", data=grid.coords)
        dataset.attrs.update({**trident_attributes(info, spec, target.parent), **ours})


def read_coords(path: str | Path) -> TileGrid:
    """Read a coordinate file written by :func:`write_coords`.

    Raises:
        FeatureError: not such a file; the message names what is missing or cannot be true.
    """
    path = Path(path)
    with opened(path) as file:
        item = dataset(path, file, "coords")
        if item is None or item.ndim != 2 or item.shape[1] != 2 or item.dtype.kind not in "iu":
            raise FeatureError(f"'{path}': no dataset 'coords' of shape (N, 2) (found {sorted(file)})")
        attributes = plain_attributes(path, item)
        coords = read_array(path, file, "coords")
    info, spec = read_grid_attributes(path, attributes, "was it written by pathflip? Cut the slide into tiles again")
    return TileGrid(info, spec, coords.astype(np.int64))


def _write_tissue(target: Path, tissue: TissueMask) -> None:
    rows = [
        feature(
            [list(polygon.exterior.coords), *(list(ring.coords) for ring in polygon.interiors)],
            name=f"tissue {number}",
            info=tissue.info,
            classification="Tissue",
            color=(0, 160, 0),
        )
        for number, polygon in enumerate(tissue.polygons, 1)
    ]
    write_features(target, rows)


def _write_qc(target: Path, slide: Slide, tissue: TissueMask, grid: TileGrid) -> None:
    """The slide's thumbnail with tissue outlined in green, tiles in blue, and one line saying what they are."""
    from matplotlib import get_data_path  # for its font: Pillow's own has no µ and few scripts
    from PIL import Image, ImageDraw, ImageFont

    picture = slide.thumbnail(_QC_PX)
    scale = picture.shape[1] / slide.info.size0[0]
    picture = _drawn(picture, tissue, grid, scale)
    bar = 30
    canvas = Image.new("RGB", (max(640, picture.shape[1]), picture.shape[0] + bar), "white")
    canvas.paste(Image.fromarray(picture), (0, bar))
    spec, info = grid.spec, slide.info
    legend = (
        f"{info.slide_id}   {info.require_mpp():.4g} mpp   {len(grid)} tiles of {spec.tile_px} px at {spec.mpp:g} mpp "
        f"({spec.tile_um:g} µm)   tissue {tissue.fraction:.1%}"
    )
    font = ImageFont.truetype(str(Path(get_data_path()) / "fonts/ttf/DejaVuSans.ttf"), 15)
    ImageDraw.Draw(canvas).text((8, 5), "   ".join([legend, *tissue.warnings]), fill="black", font=font)
    with atomic_path(target) as temporary:
        canvas.save(temporary)


def _drawn(picture: NDArray[np.uint8], tissue: TissueMask, grid: TileGrid, scale: float) -> NDArray[np.uint8]:
    import cv2

    drawn = picture.copy()
    for x, y in grid.coords:
        low = (round(x * scale), round(y * scale))
        high = (round((x + grid.tile_px0) * scale), round((y + grid.tile_px0) * scale))
        cv2.rectangle(drawn, low, high, (40, 90, 230), 1)
    mixed = cv2.addWeighted(drawn, 0.7, picture, 0.3, 0)
    for polygon in tissue.polygons:
        for ring in (polygon.exterior, *polygon.interiors):
            points = np.rint(np.asarray(ring.coords) * scale).astype(np.int32)
            cv2.polylines(mixed, [points], True, (0, 150, 0), 2, cv2.LINE_AA)
    return np.asarray(mixed, np.uint8)
