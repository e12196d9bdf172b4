"""A training store on disk: what it was made with, which slides it holds, and their patches by the row."""

import json
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from hashlib import file_digest, sha256
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int

from pathflip.data.packed.slide_file import (
    FORMAT,
    FORMAT_VERSION,
    DType,
    PackedSlide,
    Source,
    mean_of_neighbours,
    read_packed_header,
)
from pathflip.data.patches import FeatureSums, PatchRows
from pathflip.data.regions import RegionSpec, group_regions
from pathflip.errors import ConfigError, FeatureError
from pathflip.features.store import FeatureKind
from pathflip.io.byte_ranges import announce_rows, read_rows
from pathflip.io.files import write_json
from pathflip.io.slide_id import slide_id
from pathflip.io.storage import (
    as_url,
    exists,
    list_folder,
    local_copy,
    local_path,
    read_bytes,
    shown,
    state,
    write_bytes,
)
from pathflip.types import RegionGrid, SlideFeatures

__all__ = [
    "PackedStore",
    "StoreSettings",
    "current_slides",
    "open_store",
    "packed_files",
    "packed_name",
    "put_json",
    "sha256_of",
]

_SETTINGS, _COPIES, _ENDING = "store.json", "copies.json", ".safetensors"
_REGION_GRIDS = 512
"""Slides whose regions are kept in memory, about 100 kB each."""
_HEADER_THREADS = 8


@dataclass(frozen=True)
class StoreSettings:
    """What all slides of a store have in common: number format, whether neighbourhood means are stored, kind."""

    dtype: DType
    context: bool
    kind: FeatureKind

    @classmethod
    def read(cls, store: Path) -> "StoreSettings | None":
        """Of a store; None where there is none yet.

        Raises:
            ConfigError: another version, or not readable.
        """
        path = store / _SETTINGS
        if not exists(path):
            return None
        try:
            written = json.loads(read_bytes(path))
            if written["format"] != FORMAT:
                raise ValueError(f"format '{written['format']}'")
            if str(written["format_version"]).split(".")[0] != FORMAT_VERSION.split(".")[0]:
                raise ValueError(
                    f"format_version is '{written['format_version']}', this PathFLIP reads {FORMAT_VERSION}"
                )
            if written["dtype"] not in ("float16", "float32"):
                raise ValueError(f"dtype '{written['dtype']}'")
            return cls(written["dtype"], bool(written["context"]), FeatureKind(**written["kind"]))
        except (OSError, ValueError, KeyError, TypeError) as error:
            reason = " ".join(str(error).split()) or type(error).__name__
            raise ConfigError(
                f"{shown(path)}: no training store of this version ({reason}); choose another folder, or delete this "
                "one: it is made again from the feature files"
            ) from None

    def write(self, store: Path) -> None:
        """Write these settings into a store."""
        kind = asdict(self.kind)
        words = {"dtype": self.dtype, "context": self.context, "kind": kind}
        put_json(store / _SETTINGS, {"format": FORMAT, "format_version": FORMAT_VERSION, **words})


def put_json(path: Path, value: Any) -> None:
    """Write JSON whole, to this machine or an object store."""
    if url := as_url(path):
        write_bytes(url, json.dumps(value).encode())
    else:
        write_json(path, value)


def packed_name(slide: str, digest: str) -> str:
    """File name of a packed slide: another feature file gives another name, so nobody reads what was replaced."""
    return f"{_prefix(slide)}{sha256(f'{slide}|{digest}'.encode()).hexdigest()[:16]}{_ENDING}"


def _prefix(slide: str) -> str:
    return f"{slide[:50]}-"


def packed_files(store: Path, slides: Iterable[str]) -> list[Path]:
    """Files of a store that may be of these slides, by their names."""
    prefixes, rest = {_prefix(slide) for slide in slides}, 16 + len(_ENDING)
    return [p for p in list_folder(store) if p.suffix == _ENDING and p.name[:-rest] in prefixes]


def sha256_of(file: Path) -> str:
    """SHA-256 of a feature file's bytes."""
    with local_copy(file) as local, open(local, "rb") as handle:
        return file_digest(handle, "sha256").hexdigest()


def current_slides(store: Path, files: Sequence[Path]) -> dict[Path, PackedSlide]:
    """The packed slide of every feature file that has one made from it as it is now.

    Size and time decide; where the time alone differs (a copied folder) the bytes do, once: what was found is kept in
    ``copies.json``.
    """
    by_slide: dict[str, list[PackedSlide]] = {}
    candidates = packed_files(store, [slide_id(file) for file in files])
    with ThreadPoolExecutor(_HEADER_THREADS) as pool:
        for packed in pool.map(_header_or_none, candidates):
            if packed is not None:
                by_slide.setdefault(packed.slide_id, []).append(packed)
    copies = _copies(store)
    before = dict(copies)
    current: dict[Path, PackedSlide] = {}
    for file in files:
        for packed in by_slide.get(slide_id(file), ()):
            if _made_from(packed, file, copies):
                current[file] = packed
    if copies != before and not as_url(store):
        put_json(store / _COPIES, copies)
    return current


def _header_or_none(path: Path) -> PackedSlide | None:
    """None for a file that is torn or of another version: it is packed anew."""
    try:
        return read_packed_header(path)
    except FeatureError:
        return None


def _copies(store: Path) -> dict[str, list[Any]]:
    """By slide: size, time and SHA-256 of feature files that are copies of those that were packed."""
    try:
        known = json.loads(read_bytes(store / _COPIES))
        return {str(name): [int(size), str(time), str(sha)] for name, (size, time, sha) in known.items()}
    except (OSError, ValueError, TypeError, AttributeError):
        return {}


def _made_from(packed: PackedSlide, file: Path, copies: dict[str, list[Any]]) -> bool:
    seen = state(file)
    if seen is None or seen[0] != packed.source.size:
        return False
    if packed.source.same_state(seen):
        return True
    known = copies.get(packed.slide_id)
    if known is None or not Source(*known).same_state(seen):
        copies[packed.slide_id] = known = [*seen, sha256_of(file)]
    return bool(known[2] == packed.source.sha256)


class PackedStore:
    """A :class:`~pathflip.data.patches.PatchReader` of packed slides. It holds no patches in memory.

    Args:
        slides: packed slides by feature file.
        regions: how patches form regions, for models that read these.
    """

    def __init__(self, slides: Mapping[Path, PackedSlide], regions: RegionSpec | None = None) -> None:
        self.slides, self.region_spec = dict(slides), regions
        self._grid = lru_cache(_REGION_GRIDS)(self._group)

    def digest(self) -> str:
        """Of what it reads: the slides' feature files by their bytes, and the number format."""
        lines = sorted(f"{slide.slide_id}|{slide.source.sha256}|{slide.dtype}" for slide in self.slides.values())
        return sha256("\n".join(lines).encode()).hexdigest()[:16]

    def count(self, file: Path) -> int:
        """See :class:`~pathflip.data.patches.PatchReader`."""
        return self.slides[file].rows

    def sums(self, file: Path) -> FeatureSums:
        """See :class:`~pathflip.data.patches.PatchReader`; of the features before they were rounded."""
        return self.slides[file].sums()

    def regions(self, file: Path) -> RegionGrid | None:
        """See :class:`~pathflip.data.patches.PatchReader`."""
        return None if self.region_spec is None else self._grid(file)

    def _group(self, file: Path) -> RegionGrid:
        slide = self.slides[file]
        coords, file_row = slide.whole("coords", "file_row")
        order = np.argsort(file_row[:, 0])  # regions may be runs in the order of the feature file
        valid, nothing = np.ones(slide.rows, bool), np.zeros((slide.rows, 0), np.float32)
        features = SlideFeatures(slide.slide_id, nothing, coords[order], valid, slide.info, slide.spec, slide.encoder)
        grid = group_regions(features, self.region_spec)
        return replace(grid, index=np.where(grid.mask, order[grid.index], 0))

    def announce(self, wanted: Sequence[tuple[Path, Int[np.ndarray, " _"]]]) -> None:
        """See :class:`~pathflip.data.patches.PatchReader`."""
        requests = []
        for file, places in wanted:
            slide, rows = self.slides[file], np.unique(places)
            names = ("patches", "position") if slide.parts == 2 else ("neighbours", "position")
            requests += [slide.request(name, rows) for name in names]
        announce_rows(requests)

    def read(self, wanted: Sequence[tuple[Path, Int[np.ndarray, " _"]]], context: bool) -> list[PatchRows]:
        """See :class:`~pathflip.data.patches.PatchReader`. Reads of all slides are under way at once."""
        slides = [self.slides[file] for file, _ in wanted]
        places = [np.unique(rows, return_inverse=True) for _, rows in wanted]
        tables = _neighbour_tables(slides, [unique for unique, _ in places]) if context else [None] * len(slides)
        needed = [
            unique if table is None else np.union1d(unique, table[table >= 0])
            for (unique, _), table in zip(places, tables, strict=True)
        ]
        requests = [slide.request("patches", rows) for slide, rows in zip(slides, needed, strict=True)]
        requests += [slide.request("position", unique) for slide, (unique, _) in zip(slides, places, strict=True)]
        data = read_rows(requests)
        out = []
        for i, (slide, (unique, inverse)) in enumerate(zip(slides, places, strict=True)):
            patches, position = slide.array("patches", data[i]), slide.array("position", data[len(slides) + i])
            table = tables[i]
            if table is None:
                rows = PatchRows(patches[:, 0], position, patches[:, 1] if context else None)
            else:
                rows = _with_means(patches[:, 0], needed[i], unique, table, position)
            out.append(_in_order(rows, inverse))
        return out


def _neighbour_tables(
    slides: Sequence[PackedSlide], places: Sequence[Int[np.ndarray, " _"]]
) -> list[Int[np.ndarray, "_ K"] | None]:
    """Neighbours of the places of every slide that does not store their mean; None for the others."""
    lacking = [i for i, slide in enumerate(slides) if slide.parts == 1]
    data = read_rows([slides[i].request("neighbours", places[i]) for i in lacking])
    tables: list[Int[np.ndarray, "_ K"] | None] = [None] * len(slides)
    for i, part in zip(lacking, data, strict=True):
        tables[i] = slides[i].array("neighbours", part)
    return tables


def _with_means(
    patches: Float[np.ndarray, "m D"],
    needed: Int[np.ndarray, " m"],
    unique: Int[np.ndarray, " u"],
    table: Int[np.ndarray, "u K"],
    position: Float[np.ndarray, "u 2"],
) -> PatchRows:
    """Patches and the means over their neighbours, out of all that were read."""
    # numpy converts from float16 a number at a time; torch takes the processor's instructions for it.
    exact = torch.from_numpy(np.ascontiguousarray(patches)).float().numpy()
    local = np.where(table >= 0, np.searchsorted(needed, table), -1)
    return PatchRows(exact[np.searchsorted(needed, unique)], position, mean_of_neighbours(exact, local))


def _in_order(rows: PatchRows, inverse: Int[np.ndarray, " n"]) -> PatchRows:
    """In the order they were asked for."""
    if len(inverse) == len(rows.features) and (np.diff(inverse) > 0).all():
        return rows
    context = None if rows.context is None else rows.context[inverse]
    return PatchRows(rows.features[inverse], rows.position[inverse], context)


def open_store(store: str | Path, files: Sequence[Path], regions: RegionSpec | None = None) -> PackedStore:
    """The training store of some feature files.

    Args:
        store: its folder, or an object store (``s3://…``). files: the feature files; each must be packed.
        regions: how patches form regions, for models that read these.

    Raises:
        ConfigError: there is no store, or one of another version.
        FeatureError: feature files that were not packed, or changed since (named).
    """
    folder = local_path(store)
    if StoreSettings.read(folder) is None:
        raise ConfigError(f"'{shown(folder)}' is no training store; make it with  pathflip pack FEATURES --out {store}")
    current = current_slides(folder, files)
    missing = [file for file in files if file not in current]
    if missing:
        listed = ", ".join(slide_id(file) for file in missing[:3]) + (", …" if len(missing) > 3 else "")
        raise FeatureError(
            f"training store '{shown(folder)}': {len(missing)} of {len(files)} feature files were changed since, or "
            f"never packed ({listed}); run  pathflip pack FEATURES --out {store}  again"
        )
    return PackedStore(current, regions)
