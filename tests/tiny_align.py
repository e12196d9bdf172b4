"""A tiny alignment model and its data: enough to train with, small enough to check by hand.

Runs as a script too (``python tests/tiny_align.py OUT '{"steps": 9, "kill_at": 5}'``), so that a test can kill it.
"""

import json
import os
import signal
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pathflip.losses import gather_with_grad, info_nce
from pathflip.train import AlignStep, BatchSampler, SampledBatches, TrainConfig, fit
from pathflip.types import AlignBatch, AlignOutput

DIM, VOCABULARY, WIDTH = 6, 20, 8


class TinyAlign(nn.Module):
    """Mean-pooled patches against mean-pooled tokens, with a norm, a bias, a scale and dropout to train."""

    def __init__(self, dropout: float = 0.0, seed: int = 0) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            self.patch = nn.Sequential(nn.Linear(DIM, WIDTH), nn.LayerNorm(WIDTH), nn.GELU(), nn.Linear(WIDTH, WIDTH))
            self.words = nn.Embedding(VOCABULARY, WIDTH)
            self.text = nn.Linear(WIDTH, WIDTH)
        self.dropout = nn.Dropout(dropout)
        self.logit_scale = nn.Parameter(torch.tensor(2.0))

    def forward(self, batch: AlignBatch) -> AlignOutput:
        patches = self.dropout(self.patch(batch.patches))
        mask = batch.patch_mask
        slide = (patches * mask[..., None]).sum(1) / mask.sum(1, keepdim=True)
        return AlignOutput(slide, self._read(batch.caption_ids), patches, mask, self._read(batch.sub_caption_ids))

    def _read(self, ids: Tensor) -> Tensor:
        return self.text(self.dropout(self.words(ids).mean(-2)))

    def losses(self, output: AlignOutput, batch: AlignBatch) -> dict[str, Tensor]:
        slide = info_nce(output.slide, output.caption, self.logit_scale.exp())
        subs = F.normalize(gather_with_grad(output.sub_captions).mean(1), dim=-1)
        region = info_nce(output.patches.mean(1), output.sub_captions.mean(1), self.logit_scale.exp())
        return {"slide": slide, "region": region + 0.1 * subs.square().sum(-1).mean()}


def make_batch(indices: list[int], rng: np.random.Generator) -> AlignBatch:
    """Slides whose features and words are functions of their index, with a little noise drawn per step and slide."""
    root = int(rng.integers(2**62))
    rows = [_slide(i, root) for i in indices]
    columns = {name: torch.stack([row[name] for row in rows]) for name in rows[0]}
    size, subs = len(indices), columns["sub_caption_ids"].shape[1]
    flags = torch.zeros(size, subs, dtype=torch.bool)
    return AlignBatch(
        slide_ids=tuple(f"slide-{i:02d}" for i in indices),
        patch_mask=columns.pop("patch_mask"),
        context=None,
        position=None,
        caption_mask=torch.ones_like(columns["caption_ids"], dtype=torch.bool),
        sub_caption_token_mask=torch.ones_like(columns["sub_caption_ids"], dtype=torch.bool),
        sub_caption_mask=~flags,
        sub_caption_negated=flags,
        sub_caption_false=flags,
        sub_caption_keys=torch.ones(size, subs, dtype=torch.long),
        caption_keys=torch.ones(size, 2, dtype=torch.long),
        **columns,
    )


def _slide(index: int, root: int) -> dict[str, Tensor]:
    own, noise = np.random.default_rng([7, index]), np.random.default_rng([root, index])
    patches = own.standard_normal((6, DIM)) + 0.1 * noise.standard_normal((6, DIM))
    mask = own.random(6) < 0.7
    mask[0] = True
    return {
        "patches": torch.from_numpy(patches * mask[..., None]).float(),
        "patch_mask": torch.from_numpy(mask),
        "caption_ids": torch.from_numpy(own.integers(0, VOCABULARY, 5)),
        "sub_caption_ids": torch.from_numpy(own.integers(0, VOCABULARY, (2, 4))),
    }


def batches(num_slides: int = 13, batch_size: int = 4, seed: int = 0) -> SampledBatches:
    return SampledBatches(make_batch, BatchSampler(num_slides, batch_size, seed), seed)


def evaluate(model: nn.Module) -> dict[str, float]:
    """A measurement that draws random numbers, to show that it cannot disturb training."""
    torch.rand(3)
    batch = make_batch([0, 1, 2, 3], np.random.default_rng(0))
    output = model(batch)
    # Every process evaluates the same slides, so nothing may be gathered.
    return {"slide": float(info_nce(output.slide, output.caption, model.logit_scale.exp(), gather=lambda own: own))}


def save(path: Path, metrics: dict[str, float]) -> None:
    path.mkdir(parents=True, exist_ok=True)
    (path / "metrics.json").write_text(json.dumps(dict(metrics)))


def poison(batch: AlignBatch, row: int) -> AlignBatch:
    """NaN in one slide's features."""
    patches = batch.patches.clone()
    patches[row, 0, 0] = float("nan")
    return replace(batch, patches=patches)


def main(out: str, settings: str) -> None:
    """Train, and kill this process without warning when micro-batch ``kill_at`` is asked for."""
    options = json.loads(settings)
    kill_at = options.pop("kill_at")
    config = TrainConfig(device="cpu", **options)
    source = batches(batch_size=config.batch_size, seed=config.seed)

    def watched(index: int, rank: int, world: int) -> AlignBatch:
        if index == kill_at:
            os.kill(os.getpid(), signal.SIGKILL)
        return source(index, rank, world)

    fit(AlignStep(TinyAlign(0.2)), watched, config=config, out=Path(out), evaluators={"val": evaluate}, save=save)


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(*sys.argv[1:])
