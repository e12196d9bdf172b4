"""docs/large.md: its commands as written, at 160 slides, from features to a search; and what two stages lose there."""

import csv
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from command_line import run_here
from pathflip.archive import Searcher, open_archive
from pathflip.features import read_features
from pathflip.inference import encode_caption, encode_slide, load, retrieve
from pathflip.text.captions import read_captions

pytest.importorskip("lancedb")

SLIDES = 160
ROOT = Path(__file__).resolve().parents[1]


def commands() -> list[str]:
    """Every command of the page's blocks of shell, continued lines joined."""
    blocks = re.findall(r"```bash\n(.*?)```", (ROOT / "docs" / "large.md").read_text(encoding="utf-8"), re.DOTALL)
    lines = [line for block in blocks for line in re.sub(r"[ \t]*\\\n[ \t]*", " ", block).splitlines()]
    return [line for line in lines if line.startswith(("pathflip ", "python "))]


@pytest.fixture(scope="module")
def large(tmp_path_factory) -> tuple[Path, list[list[dict]]]:
    """The folder in which the page's commands have run, and the hits of its searches."""
    folder = tmp_path_factory.mktemp("large")
    hits = []
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for command in commands():
            first, *words = shlex.split(command)
            if first == "python":
                script = [sys.executable, str(ROOT / words[0]), *words[1:], "--slides", str(SLIDES)]
                subprocess.run(script, env=os.environ | {"OMP_NUM_THREADS": "1"}, check=True, capture_output=True)
                continue
            words += ["--set", "train.steps=60", "--set", "train.average_last=0"] if words[0] == "train" else []
            printed = run_here(*words)
            if words[0] == "search":
                hits.append(printed)
    return folder / "large", hits


@pytest.mark.slow
def test_the_pages_commands_lead_from_features_to_a_search(large):
    folder, hits = large
    assert all(hits)
    with open(folder / "labels.csv", encoding="utf-8") as handle:
        truth = {row["slide"]: row for row in csv.DictReader(handle)}
    assert {truth[hit["slide_id"]]["split"] for hit in hits[0]} == {"test"}
    assert all(hit["labels"]["findings"] == truth[hit["slide_id"]]["findings"] for found in hits for hit in found)


@pytest.mark.slow
def test_two_stages_find_what_an_exhaustive_search_finds(large, monkeypatch):
    """R@1 of reports to slides with a tenth of the slides as candidates, its direction fitted on a third of them."""
    folder, _ = large
    model = load(folder / "runs" / "base" / "last")
    captions = {caption.slide_id: caption.text for caption in read_captions(folder / "captions.csv")}
    slides = [encode_slide(model, read_features(folder / "features" / f"{name}.h5")) for name in captions]
    exhaustive = retrieve(model, slides, list(captions.values())).gallery_normalised.argmax(0) == np.arange(SLIDES)
    monkeypatch.setattr("pathflip.archive.search.REFERENCES", SLIDES // 3)
    searcher = Searcher(open_archive(folder / "archive"), model, candidates=SLIDES // 10)
    hits = [searcher.by_codes(*encode_caption(model, text), 1)[0].slide_id for text in captions.values()]
    two_stages = np.array(hits) == np.array(list(captions))
    assert exhaustive.mean() > 10 / SLIDES, "the model has learned something"
    assert two_stages.mean() >= exhaustive.mean() - 0.02
