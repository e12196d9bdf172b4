"""What ``bench/read.py`` and ``bench/region.py`` share: readers beside each other, rounds, medians, ratios.

A *way* of reading is a library in one setting. In every round each way reads the same places once, from a freshly
opened slide (opening is not counted), and the order of the ways turns by one from round to round; a ratio is taken
within a round, and its median over the rounds is reported. So a machine that is busy for a while slows all alike.
Times are the wall clock, and the processor seconds of the whole process, whatever threads spent them.
"""

import os
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from math import exp, log
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pathflip.errors import PathFLIPError
from pathflip.slide import open_slide

Corner = tuple[int, int]
Pixels = NDArray[np.uint8]
ReadMany = Callable[[Sequence[Corner], int], Iterable[Pixels]]
"""Corners and a number of threads → images, in order or not."""
CHUNK = 16
CACHE_BYTES = 96 * 2**20
"""Cache handed to fastslide where it is measured with one: as much as ours."""


@dataclass
class Way:
    """A library in one setting: how to open a slide and read from it."""

    name: str
    open: Callable[[], tuple[ReadMany, Callable[[], None]]]
    workers: Sequence[int]


@dataclass
class Times:
    """Seconds of every round."""

    wall: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)


Key = tuple[str, int]
"""Name of a way, number of workers."""


def by_threads(read_one: Callable[[Corner], Pixels]) -> ReadMany:
    """Many reads from one: ``workers`` threads on runs of neighbours."""

    def read_some(corners: Sequence[Corner]) -> None:
        for corner in corners:
            read_one(corner)

    def read_many(corners: Sequence[Corner], workers: int) -> Iterable[Pixels]:
        if workers == 1:
            read_some(corners)
        else:
            with ThreadPoolExecutor(workers) as pool:
                list(pool.map(read_some, [corners[i : i + CHUNK] for i in range(0, len(corners), CHUNK)]))
        return ()

    return read_many


def one_round(way: Way, corners: Sequence[Corner], workers: int, times: Times) -> None:
    """Open, read all, close; the reading is timed."""
    read_many, close = way.open()
    wall, cpu = time.perf_counter(), time.process_time()
    for _ in read_many(corners, workers):
        pass
    times.cpu.append(time.process_time() - cpu)
    times.wall.append(time.perf_counter() - wall)
    close()


def measure(ways: Sequence[Way], corners: Sequence[Corner], rounds: int) -> dict[Key, Times]:
    """All ways in all their numbers of workers, ``rounds`` times in turn after one that is not counted."""
    runs = [(way, count) for way in ways for count in way.workers]
    times = {(way.name, count): Times() for way, count in runs}
    for number in range(-1, rounds):
        turn = number % len(runs)
        for way, count in runs[turn:] + runs[:turn]:
            one_round(way, corners, count, times[way.name, count] if number >= 0 else Times())
    return times


def ratio(times: dict[Key, Times], other: Key, ours: Key, what: str = "wall") -> float:
    """How many times longer ``other`` takes than ``ours``: the median of the rounds' ratios."""
    return median(b / a for a, b in zip(getattr(times[ours], what), getattr(times[other], what), strict=True))


def best(times: dict[Key, Times], library: str, what: str = "wall") -> Key | None:
    """The setting of a library (names begin with its name) with the smallest median, or None where it did not read."""
    keys = [key for key in times if key[0].split(" ")[0] == library]
    return min(keys, key=lambda key: median(getattr(times[key], what))) if keys else None


def geometric_mean(values: Iterable[float | None]) -> float | None:
    """Of the values that are there."""
    logs = [log(value) for value in values if value is not None]
    return round(exp(sum(logs) / len(logs)), 3) if logs else None


def summary(times: dict[Key, Times], count: int, workers: Sequence[int]) -> dict[str, Any]:
    """One slide's rates and ratios.

    ``vs_LIBRARY``: the library's fastest setting at any number of workers, over ours at the most workers.
    ``cpu_vs_LIBRARY``: processor seconds of its most frugal setting over ours at the most workers.
    """
    ours = ("pathflip", max(workers))
    row: dict[str, Any] = {"images": count}
    for library in ("fastslide", "openslide", "tiffslide"):
        wall, cpu = best(times, library), best(times, library, "cpu")
        row[f"vs_{library}"] = round(ratio(times, wall, ours), 3) if wall else None
        row[f"cpu_vs_{library}"] = round(ratio(times, cpu, ours, "cpu"), 3) if cpu else None
    row["per_s"] = {f"{name} × {n}": round(count / median(t.wall), 1) for (name, n), t in times.items()}
    row["per_cpu_s"] = {f"{name} × {n}": round(count / median(t.cpu), 1) for (name, n), t in times.items()}
    return row


def table(rows: dict[str, dict[str, Any]], unit: str, workers: Sequence[int]) -> None:
    """Print rates and ratios, a line a slide, and the geometric means."""
    one, many = min(workers), max(workers)
    print(
        f"\n{unit}/s of the wall clock (of processor time); ×: fastest setting of the other over ours at {many} workers"
    )
    heads = (f"ours × {one}", f"ours × {many}", "fastslide", "openslide", "tiffslide")
    print(f"{'slide':<34} " + " ".join(f"{head:>13}" for head in heads))
    for name, row in rows.items():
        cells = [_cell(row, f"pathflip × {count}") for count in (one, many)]
        for library in ("fastslide", "openslide", "tiffslide"):
            settings = [key for key in row["per_s"] if key.split(" ")[0] == library]
            cells.append(_cell(row, max(settings, key=row["per_s"].__getitem__)) if settings else "–")
        print(f"{name[:34]:<34} " + " ".join(f"{cell:>13}" for cell in cells))
    names = [f"{kind}{library}" for library in ("fastslide", "openslide", "tiffslide") for kind in ("vs_", "cpu_vs_")]
    print(f"\n{'ratio':<34} " + " ".join(f"{name.replace('_vs_', ' × ').replace('vs_', '× '):>15}" for name in names))
    means = {name: geometric_mean(row[name] for row in rows.values()) for name in names}
    for name, row in [*rows.items(), ("geometric mean", means)]:
        print(f"{name[:34]:<34} " + " ".join(f"{row[n]:>15.2f}" if row[n] else f"{'–':>15}" for n in names))


def _cell(row: dict[str, Any], key: str) -> str:
    return f"{row['per_s'][key]:.0f} ({row['per_cpu_s'][key]:.0f})" if key in row["per_s"] else "–"


def totals(rows: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """Geometric and smallest ratios over the slides, and what the machine was doing."""
    result: dict[str, Any] = {}
    for library in ("fastslide", "openslide", "tiffslide"):
        for kind in ("vs", "cpu_vs"):
            values = [row[f"{kind}_{library}"] for row in rows.values() if row[f"{kind}_{library}"] is not None]
            result[f"{kind}_{library}"] = geometric_mean(values)
            result[f"smallest_{kind}_{library}"] = min(values, default=None)
    load = [round(value, 2) for value in os.getloadavg()]
    return {**result, "load": load, "processors": len(os.sched_getaffinity(0)), "slides": rows}


def slides_in(paths: Sequence[Path]) -> list[Path]:
    """Files, and the files of folders, that can be opened; the others are named."""
    files = [file for path in paths for file in (sorted(path.iterdir()) if path.is_dir() else [path])]
    readable = []
    for file in files:
        try:
            with open_slide(file):
                readable.append(file)
        except PathFLIPError as error:
            print(f"left out: {error}", file=sys.stderr)
    return readable


def other_libraries(path: Path) -> dict[str, Callable[[], Any]]:
    """Those that read the slide: name of a setting → opens it."""
    import openslide

    openers: dict[str, Callable[[], Any]] = {"openslide": lambda: openslide.OpenSlide(str(path))}
    try:
        import tiffslide

        openers["tiffslide"] = lambda: tiffslide.TiffSlide(str(path))
    except ImportError:
        pass
    try:
        from fastslide import FastSlide

        openers["fastslide"] = lambda: FastSlide.from_file_path(str(path))
        openers["fastslide with cache"] = lambda: FastSlide.from_file_path(str(path), cache=CACHE_BYTES)
    except ImportError:
        pass
    reading = {}
    for name, opener in openers.items():
        reason = _why_not(opener)
        if reason:
            print(f"left out: {name} does not read {path.name} ({reason})", file=sys.stderr)
        else:
            reading[name] = opener
    return reading


def _why_not(opener: Callable[[], Any]) -> str:
    """Why a library does not read a slide; "" where it does."""
    try:
        handle = opener()
        handle.read_region((0, 0), 0, (64, 64))
        handle.close()
    except Exception as error:
        return " ".join(f"{type(error).__name__}: {error}".split())[:120]
    return ""
