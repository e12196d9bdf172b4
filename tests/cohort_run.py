"""Tissue slides small enough to extract in milliseconds, and cohort runs in processes that may be killed."""

import json
import multiprocessing
import os
import resource
import traceback
from pathlib import Path

import cv2
import numpy as np

from slide_files import halved, write_pyramid

CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(["pathflip.features.cohort", "cv2", "openslide", "tifffile"])


def tissue_picture(seed=0, px=640):
    """Pink tissue with purple nuclei on glass, 2 mpp."""
    rng = np.random.default_rng(seed)
    picture = np.full((px, px, 3), 244, np.uint8)
    cv2.ellipse(picture, (px // 2, px // 2), (px // 3, px // 4), 20, 0, 360, (225, 150, 190), -1)
    for x, y in rng.integers(px // 3, 2 * px // 3, (200, 2)):
        cv2.circle(picture, (int(x), int(y)), 3, (90, 60, 140), -1)
    return picture


def write_slide(path, seed=0, px=640, **options):
    """A tissue slide as a tiled TIFF of two levels; tissue is found on the second."""
    picture = tissue_picture(seed, px)
    return write_pyramid(Path(path), [picture, halved(picture, 4)], mpp=2.0, **options)


def run_cohort(paths, out, log, *, file_size=None, memory_log=None, **options):
    """Extract in this process; one JSON line an outcome goes to ``log``, at last "finished" or the error."""
    from pathflip.features import extract_cohort
    from pathflip.geometry import TileSpec

    if file_size is not None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (file_size, file_size))
    memory = []

    def show(step):
        if step.outcome is not None:
            say(log, {"slide": step.outcome.slide_id, "status": step.outcome.status, "message": step.outcome.message})
            memory.append(resident_bytes())

    try:
        extract_cohort(paths, TileSpec(64, 2.0), "colour_histogram", out, num_workers=1, progress=show, **options)
        say(log, {"finished": True, "memory": memory if memory_log else None})
    except Exception as error:
        say(log, {"error": type(error).__name__, "message": str(error), "trace": traceback.format_exc()})


def say(log, row):
    """Append a line in one write."""
    with open(log, "a", encoding="utf-8") as handle:
        handle.write(json.dumps(row) + "\n")


def logged_rows(log):
    """The lines of a log so far."""
    return [json.loads(line) for line in Path(log).read_text().splitlines()] if Path(log).exists() else []


def start(paths, out, log, **options):
    """:func:`run_cohort` in a process of its own."""
    process = CONTEXT.Process(target=run_cohort, args=(paths, out, log), kwargs=options)
    process.start()
    return process


def resident_bytes():
    """Memory of this process held in RAM."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")
