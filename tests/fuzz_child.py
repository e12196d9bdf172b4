"""Reads damaged files in a process of its own: what kills or hangs it is seen from outside.

Protocol: a line ``KIND PATH`` on standard input, an answer in JSON on standard output: "ok", "refused" (a
PathFLIPError) or "escaped" (anything else, with its trace).
"""

import json
import resource
import sys
import traceback
from pathlib import Path

import cv2
import h5py  # noqa: F401  # loaded before memory is limited
import openslide  # noqa: F401
import tifffile  # noqa: F401

from pathflip.errors import PathFLIPError
from pathflip.features.store import read_features, read_settings
from pathflip.geometry import TileSpec
from pathflip.slide import find_tissue, open_slide, tile_slide
from pathflip.slide.tiling import read_coords

MORE_BYTES = 2 * 2**30


def read_slide(path):
    """Everything extraction does with a slide, but for its encoder."""
    with open_slide(path, slide_mpp=2.0) as slide:
        grid = tile_slide(slide, find_tissue(slide), TileSpec(64, 2.0))
        for x, y in grid.coords[:: max(1, len(grid) // 4)][:6].tolist():
            try:
                slide.read_tile(x, y, grid.spec)
            except PathFLIPError:
                continue  # a damaged tile; the next may be fine


def read_feature_file(path):
    """Everything that reads feature files."""
    for read in (read_settings, read_coords):
        try:
            read(path)
        except PathFLIPError:
            continue
    read_features(path)


READ = {"slide": read_slide, "features": read_feature_file}


def peak_kb():
    """Not ru_maxrss: a new program inherits that from whoever started it."""
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    return int(status.split("VmHWM:")[1].split()[0])


def answer(line):
    """What became of one file."""
    kind, path = line.rstrip("\n").split(" ", 1)
    try:
        READ[kind](path)
    except PathFLIPError as error:
        found = {"verdict": "refused", "message": str(error)}
    except BaseException as error:
        found = {"verdict": "escaped", "message": repr(error), "trace": traceback.format_exc()}
    else:
        found = {"verdict": "ok"}
    return {**found, "peak_mb": peak_kb() / 1024}


def main():
    """Answer until the input ends."""
    cv2.setNumThreads(1)
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + MORE_BYTES, used + MORE_BYTES))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    print(json.dumps({"verdict": "ready"}), flush=True)
    for line in sys.stdin:
        print(json.dumps(answer(line)), flush=True)


if __name__ == "__main__":
    main()
