"""Reads damaged files in a process of its own: what kills or hangs it is seen from outside.

Protocol: a line ``KIND PATH`` on standard input, an answer in JSON on standard output: "ok", "refused" (a
PathFLIPError) or "escaped" (anything else, with its trace).
"""

import json
import logging
import resource
import sys
import traceback
from pathlib import Path

import cv2
import h5py  # noqa: F401  # loaded before memory is limited
import numpy as np
import openslide
import tifffile

from pathflip.data.instruct_examples import read_examples
from pathflip.data.splits import read_splits
from pathflip.errors import PathFLIPError
from pathflip.evaluate.captioning import read_generated
from pathflip.evaluate.predictions import read_predictions
from pathflip.features.store import read_features, read_settings
from pathflip.geometry import TileSpec
from pathflip.interop import ReadOptions, read_tiles
from pathflip.slide import find_tissue, open_slide, tile_slide
from pathflip.slide.tiling import read_coords
from pathflip.text.captions import check_captions
from pathflip.text.question_tables import read_question_rows

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


REGION_PX = 256
"""Side of the square from the corner of level 0 that is compared."""


def read_pixels(path):
    """The corner of level 0, written beside the file for a comparison, and what the header said of it."""
    with open_slide(path, slide_mpp=2.0) as slide:
        width, height = slide.info.size0
        pixels = slide.read_region_px(0, 0, 0, min(width, REGION_PX), min(height, REGION_PX))
        np.save(f"{path}.npy", pixels)
        return {"size0": [width, height], "notes": list(slide.info.notes), "reader": slide.info.reader}


def reference_pixels(path):
    """The same corner by OpenSlide and by tifffile, where they read it without a word; nothing of ours takes part."""
    pixels_of = {}
    for name, read in (("openslide", _by_openslide), ("tifffile", _by_tifffile)):
        try:
            for size, pixels in read(path):
                np.save(f"{path}.{name}.{len(pixels_of)}.npy", pixels)
                pixels_of[f"{name}.{len(pixels_of)}"] = list(size)
        except Exception as error:
            pixels_of.setdefault("errors", []).append(f"{name}: {type(error).__name__}: {str(error)[:100]}")
    return {"pictures": pixels_of}


def _by_openslide(path):
    with openslide.OpenSlide(path) as slide:
        width, height = slide.dimensions
        rgba = np.asarray(slide.read_region((0, 0), 0, (min(width, REGION_PX), min(height, REGION_PX)))).astype(float)
        yield slide.dimensions, (rgba[..., :3] * rgba[..., 3:] / 255 + 255 - rgba[..., 3:]).astype(np.uint8)


def _by_tifffile(path):
    """Every page of 8-bit RGB, or JPEG that is handed out as such."""
    logged = logging.getLogger("tifffile")
    with tifffile.TiffFile(path) as file:
        for page in list(file.pages)[:8]:
            plain = page.bitspersample == 8 and page.samplesperpixel == 3 and int(page.photometric) in (2, 6)
            direct = int(page.photometric) == 2 or int(page.compression) == 7
            if not (plain and direct and page.imagewidth * page.imagelength < 2**24) or page.imagedepth != 1:
                continue
            if int(page.compression) == 7 and _contradicts(path, page):
                continue
            with _Silence(logged) as silence:
                pixels = page.asarray()
            if pixels.ndim != 3 or silence.spoke:
                continue
            pixels = np.moveaxis(pixels, 0, -1) if pixels.shape[0] == 3 and pixels.shape[-1] != 3 else pixels
            yield (page.imagewidth, page.imagelength), pixels[:REGION_PX, :REGION_PX]


def _contradicts(path, page):
    """Whether the JPEGs' own marker names another colour space than the TIFF, which then decides (as in OpenSlide)."""
    with open(path, "rb") as file:
        file.seek(page.dataoffsets[0])
        head = file.read(2000)
    at = head.find(b"Adobe\x00")
    return at > 0 and (head[at + 11] == 0) == (int(page.photometric) == 6)


class _Silence(logging.Handler):
    """Whether a logger said anything meanwhile: tifffile goes on after damage, with a remark."""

    def __init__(self, logger):
        super().__init__()
        self.spoke = False
        self._logger = logger

    def emit(self, record):
        self.spoke = True

    def __enter__(self):
        self._logger.addHandler(self)
        return self

    def __exit__(self, *_):
        self._logger.removeHandler(self)


def read_feature_file(path):
    """Everything that reads feature files."""
    for read in (read_settings, read_coords):
        try:
            read(path)
        except PathFLIPError:
            continue
    read_features(path)


def read_foreign_file(path):
    """Everything that conversion does with a feature file, but for writing."""
    for options in (
        ReadOptions(mpp=0.5, tile_px=256),
        ReadOptions(mpp=0.5, slide_mpp=0.25, encoder="e", drop_invalid=True),
    ):
        try:
            read_tiles(path, options)
        except PathFLIPError:
            continue
    read_feature_file(path)


def read_any_table(path):
    """Everything that reads tables; the first refusal must not hide another reader's crash."""
    refusals = []
    readers = (check_captions, read_question_rows, read_examples, read_splits, read_predictions, read_generated)
    for read in readers:
        try:
            read(Path(path))
        except PathFLIPError as error:
            refusals.append(error)
    if refusals:
        raise refusals[0]


READ = {
    "slide": read_slide,
    "foreign": read_foreign_file,
    "table": read_any_table,
    "features": read_feature_file,
    "pixels": read_pixels,
    "reference": reference_pixels,
}


def peak_kb():
    """Not ru_maxrss: a new program inherits that from whoever started it."""
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    return int(status.split("VmHWM:")[1].split()[0])


def answer(line):
    """What became of one file."""
    kind, path = line.rstrip("\n").split(" ", 1)
    try:
        more = READ[kind](path) or {}
    except PathFLIPError as error:
        verdict = {"verdict": "refused", "message": str(error)}
    except BaseException as error:
        verdict = {"verdict": "escaped", "message": repr(error), "trace": traceback.format_exc()}
    else:
        verdict = {"verdict": "ok", **more}
    return {**verdict, "peak_mb": peak_kb() / 1024}


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
