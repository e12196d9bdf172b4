"""docs/large.md: its commands as written, at sixty slides, from features to a search whose hits hold what was asked."""

import csv
import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("lancedb")

ROOT = Path(__file__).resolve().parents[1]


def commands() -> list[str]:
    """Every command of the page's blocks of shell, continued lines joined."""
    blocks = re.findall(r"```bash\n(.*?)```", (ROOT / "docs" / "large.md").read_text(encoding="utf-8"), re.DOTALL)
    lines = [line for block in blocks for line in re.sub(r"[ \t]*\\\n[ \t]*", " ", block).splitlines()]
    return [line for line in lines if line.startswith(("pathflip ", "python "))]


@pytest.mark.slow
def test_the_pages_commands_lead_from_features_to_a_search(tmp_path):
    program = [sys.executable, "-c", "from pathflip.cli import main; main()"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    hits = []
    for command in commands():
        words = shlex.split(command)
        if words[0] == "python":
            line = [sys.executable, str(ROOT / words[1]), *words[2:], "--slides", "60"]
        else:
            line = [*program, *words[1:], *(["--json"] if words[1] == "search" else [])]
            if words[1] == "train":
                line += ["--set", "train.steps=40"]
        done = subprocess.run(line, cwd=tmp_path, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, f"{command}\n{done.stderr[-2000:]}"
        if words[1] == "search":
            hits.append([json.loads(row) for row in done.stdout.splitlines()])
    assert all(hits)
    with open(tmp_path / "large" / "labels.csv", encoding="utf-8") as handle:
        truth = {row["slide"]: row for row in csv.DictReader(handle)}
    asked = next(iter(hits))
    assert {truth[hit["slide_id"]]["split"] for hit in asked} == {"test"}
    assert all(hit["labels"]["findings"] == truth[hit["slide_id"]]["findings"] for hit in asked)
