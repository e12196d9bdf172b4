"""A small untrained model, and feature files it reads: for the archive's tests. Runs as a script that may be killed.

``python tests/archive_model.py MODEL FEATURES ARCHIVE '{"kill_at": 5, "file_size": 20000}'``
"""

import json
import os
import resource
import signal
import sys
from pathlib import Path

import numpy as np
import torch

from pathflip.checkpoint import InputContract, save_checkpoint
from pathflip.data.align import TextSpec
from pathflip.errors import PathFLIPError
from pathflip.features import write_features
from pathflip.geometry import SlideInfo, TileSpec
from pathflip.models import build_model
from pathflip.text.tokenizer import train_tokenizer
from pathflip.types import SlideFeatures

DIM = 5
WORDS = ["Keratin pearls are seen in the upper left.", "No necrosis is identified.", "Mucin pools are present."]


def write_model(folder: Path, seed: int = 0) -> Path:
    """An untrained model; another seed is another model."""
    tokenizer = train_tokenizer(WORDS * 3, 300)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        sizes = {"feature_dim": DIM, "vocab_size": tokenizer.vocab_size, "width": 16, "embed_dim": 8, "text_width": 16}
        net = build_model({"kind": "pathflip", **sizes, "text_heads": 2})
    contract = InputContract(encoder="test", dim=DIM, tile_px=64, mpp=0.5)
    save_checkpoint(folder, net, contract=contract, tokenizer=tokenizer, text=TextSpec(), recipe={})
    return folder


def write_slide_features(folder: Path, name: str, tiles: int = 30, seed: int = 0) -> Path:
    """A feature file of tiles on a line of ten a row."""
    rng = np.random.default_rng(seed)
    cells = np.stack([np.arange(tiles) % 10, np.arange(tiles) // 10], axis=1)
    info = SlideInfo(name, (40000, 30000), 0.25)
    features = rng.normal(size=(tiles, DIM)).astype(np.float32) + rng.normal(size=DIM).astype(np.float32)
    slide = SlideFeatures(name, features, cells * 128, np.ones(tiles, bool), info, TileSpec(64, 0.5), "test")
    write_features(folder / f"{name}.h5", slide)
    return folder / f"{name}.h5"


def run(model: str, features: str, archive: str, options: dict) -> None:
    """Index, one slide a write, and be killed or run out of room on the way."""
    from pathflip.archive import indexing
    from pathflip.inference import load

    loaded = load(model)
    indexing.SLIDES_A_WRITE = 1

    def progress(done: int, total: int) -> None:
        if done == options.get("kill_at"):
            os.kill(os.getpid(), signal.SIGKILL)

    indexing.TextProbe.of(loaded)  # what languages are told by is unpacked to a file, which the limit would forbid
    if "file_size" in options:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (options["file_size"],) * 2)
    try:
        indexing.index_features(loaded, sorted(Path(features).glob("*.h5")), Path(archive), progress=progress)
    except PathFLIPError as error:
        print(f"{type(error).__name__}: {error}")
        sys.exit(3)


if __name__ == "__main__":
    run(*sys.argv[1:4], json.loads(sys.argv[4]))
