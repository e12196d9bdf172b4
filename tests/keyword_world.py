"""A painted cohort without paint, and a model that knows its words: verification with a known best answer.

Tiles are one-hot vectors of the finding they show, placed as a case plan says; the model looks a finding's name up in
a text and compares. So it is right about findings, their place and their number, and deaf to a tumour's type.
"""

from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import nn

from pathflip.checkpoint import Checkpoint, InputContract
from pathflip.data.align import TextSpec
from pathflip.evaluate.simulated.planted_errors import SlideTruth
from pathflip.geometry import SlideInfo, TileSpec
from pathflip.inference import Aligned, encode_slide
from pathflip.simulate.cases import plan_cases
from pathflip.simulate.phrases import NAMES
from pathflip.simulate.report_writer import write_report
from pathflip.simulate.world import FINDINGS, PLACES, SCATTERED, CasePlan, Measured, World
from pathflip.text.sentences import split_sentences
from pathflip.text.sub_captions import parse_sub_caption
from pathflip.text.tokenizer import train_tokenizer
from pathflip.types import Caption, SlideCode, SlideFeatures, TextCode

AXES = (*FINDINGS, "other")
SIDE = 24
NAMES_OF = {wording: concept for concept in FINDINGS for wording in NAMES[concept].wording.seen}


class KeywordNet(nn.Module):
    """Finds the longest finding's name in a text; a patch's cosine with it is 1 where the tile shows it."""

    reads_context = False
    reads_regions = False
    captions_are_sub_captions = True

    def encode_slide(self, chunks):
        patches = torch.cat([chunk.patches for chunk in chunks()])[None]
        return SlideCode(patches.mean(1), patches, torch.ones(patches.shape[:2], dtype=torch.bool))

    def encode_texts(self, texts, ids, mask, negated, vectors=None, unknown=None):
        local = torch.zeros(len(texts), len(AXES))
        for row, text in enumerate(texts):
            finding = max((name for name in NAMES_OF if name in text.lower()), key=len, default="")
            local[row, AXES.index(NAMES_OF.get(finding, "other"))] = 1
        return TextCode(texts, local, local, negated)

    def similarity(self, slides, texts):
        return slides.slide @ texts.caption.T

    def presence(self, slides, texts, patch_similarity=None):
        top = self.patch_similarity(slides, texts).topk(3, dim=-1).values.mean(-1)
        return (8 * top - 4) * (1 - 2 * texts.negated.float())

    def patch_similarity(self, slides, texts):
        return torch.einsum("bme,ce->bcm", slides.patches, texts.local)

    def losses(self, output, batch):
        return {}  # there is nothing to learn

    def set_feature_statistics(self, mean, std):
        """Tiles are taken as they are."""


def as_planned(plan: CasePlan) -> dict[str, Measured]:
    """What a perfect painter would leave to measure: concept -> :class:`Measured`, absent ones included."""
    absent = Measured(0.0, SCATTERED, False)
    measured = dict.fromkeys(FINDINGS, absent)
    measured |= {f.name: Measured(f.fraction, f.place, True) for f in plan.findings}
    inside = ("keratin_pearls", "tumour_infiltrating_lymphocytes", "vascular_invasion", "perineural_invasion")
    tumour = plan.tumour_fraction + sum(measured[name].fraction for name in inside)
    measured["tumour"] = Measured(tumour, "central", True) if plan.tumour else absent
    rest = 1.0 - plan.tumour_fraction - sum(f.fraction for f in plan.findings)
    measured["fibrous_stroma"] = Measured(rest, SCATTERED, rest > 0)
    return measured


def features_of(plan, noise: float = 0.2) -> SlideFeatures:
    """Tiles of a plan: every finding on its share of the tiles around the middle of its place."""
    rng = np.random.default_rng(plan.seed)
    cells = np.stack(np.meshgrid(np.arange(SIDE), np.arange(SIDE)), -1).reshape(-1, 2)
    shown = np.full(len(cells), len(AXES) - 1)
    for finding in plan.findings:
        number = max(4, round(finding.fraction * len(cells)))
        if finding.place == "scattered":
            rows = rng.permutation(len(cells))[:number]
        else:
            place = PLACES.index(finding.place)
            middle = (np.array([place % 3, place // 3]) + 0.5) * SIDE / 3 - 0.5
            rows = np.argsort(((cells - middle) ** 2).sum(1), kind="stable")[:number]
        shown[rows] = AXES.index(finding.name)
    values = np.eye(len(AXES), dtype=np.float32)[shown] + noise * rng.standard_normal((len(cells), len(AXES)))
    info, spec = SlideInfo(plan.slide_id, (SIDE * 64, SIDE * 64), 2.0), TileSpec(64, 2.0)
    coords = (cells * 64).astype(np.int64)
    return SlideFeatures(
        plan.slide_id, values.astype(np.float32), coords, np.ones(len(cells), bool), info, spec, "words"
    )


def keyword_cohort(num: int = 160, seed: int = 3):
    """Truth, captions and features of every slide by split."""
    world = World("words", seed, num)
    parts = {split: ([], [], []) for split in ("train", "val", "test")}
    for plan in plan_cases(world):
        measured = as_planned(plan)
        report = replace(write_report(plan, measured, world.rng("report", plan.slide_id)), paraphrase="")
        sub_captions = tuple(parse_sub_caption(s) for s in split_sentences(report.text))
        truths, captions, slides = parts[plan.split]
        truths.append(SlideTruth(plan.slide_id, plan.patient, plan, measured, report))
        captions.append(Caption(plan.slide_id, plan.patient, report.text, sub_captions))
        slides.append(features_of(plan))
    return parts


def keyword_model(captions, features: SlideFeatures, folder: Path) -> Aligned:
    """The model, with a directory to keep a calibration in."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "model.safetensors").write_bytes(b"no weights: this model looks words up")
    tokenizer = train_tokenizer([caption.text for caption in captions], 400)
    checkpoint = Checkpoint(KeywordNet(), tokenizer, InputContract.of(features), {"recipe": {}}, folder)
    return Aligned(checkpoint, TextSpec(), None, torch.device("cpu"))


def encoded(model: Aligned, features) -> list:
    return [encode_slide(model, one) for one in features]
