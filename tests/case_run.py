"""Cases of two slides, a table of them, and a model trained on some for a moment: what tests of cases start from."""

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np

from feature_grids import make_features, scattered_cells
from pathflip.cli import main
from pathflip.data.splits import read_split
from pathflip.features import write_features
from pathflip.train import TrainConfig
from pathflip.train.align_run import AlignRecipe, train_align

TEXTS = ("Necrosis is present.", "Mucin pools are seen.", "No keratin pearls are identified.")


def feature_file(path, tiles=30, seed=0, shift=0.0):
    """A feature file whose features are around ``shift``."""
    features = make_features(scattered_cells(np.random.default_rng(seed), tiles), seed=seed)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_features(path, replace(features, slide_id=path.stem, features=features.features + np.float32(shift)))
    return path


def trained_on_cases(folder: Path) -> Path:
    """Six cases of two slides (``F/``, ``cases.csv``, ``splits.csv``), and a model (``run/``) of the first four."""
    rows, splits = ["case,patient,slides,report"], ["case,split"]
    for i in range(6):
        for name in "ab":
            feature_file(folder / "F" / f"c{i}{name}.h5", seed=10 * i + ord(name), shift=i)
        rows.append(f"c{i},p{i},c{i}a.svs; c{i}b.svs,{TEXTS[i % 3]}")
        splits.append(f"c{i},{'train' if i < 4 else 'test'}")
    (folder / "cases.csv").write_text("\n".join(rows) + "\n")
    (folder / "splits.csv").write_text("\n".join(splits) + "\n")
    files = sorted((folder / "F").glob("*.h5"))
    model = {"kind": "pathflip", "width": 16, "embed_dim": 8, "text_width": 16, "text_heads": 2}
    recipe = AlignRecipe(name="r", model=model, max_patches=8, vocab_size=100, train=TrainConfig(steps=2, batch_size=4))
    parts = read_split(files, folder / "cases.csv", folder / "splits.csv")
    train_align(recipe, *parts["train"], folder / "run")
    return folder


def runner(folder, monkeypatch, capsys):
    """A function that runs a command in the folder: exit status, what it printed, messages."""

    def run(command: str):
        monkeypatch.chdir(folder)
        monkeypatch.setattr(sys, "argv", ["pathflip", *command.split()])
        status = 0
        try:
            main()
        except SystemExit as exit_of_main:
            status = int(exit_of_main.code or 0)
        printed = capsys.readouterr()
        assert "Traceback" not in printed.err
        return status, printed.out, printed.err

    return run
