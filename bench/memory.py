"""Memory of one extraction process over many slides: ``python bench/memory.py [--slides 1000] [--json]``.

Extracts tiny slides one after the other and samples the memory held in RAM after each. ``growth_mb`` is the mean of the
last hundred samples minus that of the second hundred.
"""

import argparse
import json
import os
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

from cohort_run import resident_bytes, write_slide
from pathflip.features import ExtractProgress, extract_cohort
from pathflip.geometry import TileSpec


def measure(folder: Path, count: int) -> dict[str, float]:
    """Resident megabytes along the run, and how long a slide took."""
    (folder / "slides").mkdir()
    write_slide(folder / "s.tif", px=256)
    paths = [folder / "slides" / f"{i:06d}.tif" for i in range(count)]
    for path in paths:
        os.link(folder / "s.tif", path)
    memory: list[float] = []

    def show(step: ExtractProgress) -> None:
        if step.outcome is not None:
            assert step.outcome.status == "done", step.outcome
            memory.append(resident_bytes() / 2**20)

    started = time.monotonic()
    extract_cohort(paths, TileSpec(64, 2.0), "colour_histogram", folder / "out", num_workers=1, progress=show)
    seconds = time.monotonic() - started
    growth = sum(memory[-100:]) / 100 - sum(memory[100:200]) / 100
    result = {f"mb_after_{n}": round(memory[n - 1], 1) for n in (100, count // 2, count)}
    return {"slides": count, **result, "growth_mb": round(growth, 2), "ms_a_slide": round(1e3 * seconds / count, 1)}


def main() -> None:
    """Parse, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--slides", type=int, default=1000)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        result = measure(Path(folder), options.slides)
    print(json.dumps(result) if options.json else "\n".join(f"{key:14} {value}" for key, value in result.items()))


if __name__ == "__main__":
    main()
