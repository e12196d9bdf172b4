"""A few slides of twelve patches with a report each, and a recipe that takes them in three steps."""

import numpy as np

from pathflip.features import write_features
from pathflip.geometry import SlideInfo, TileSpec
from pathflip.recipes.align import align_base
from pathflip.recipes.settings import with_settings
from pathflip.text.sub_captions import parse_sub_caption
from pathflip.types import Caption, SlideFeatures

WORDS = ("Necrosis is seen.", "Keratin pearls are present.", "Mucin pools are seen.", "Calcification is noted.")


def small_cohort(folder, rng, count=8):
    """Slides of twelve patches with a report each."""
    captions, files = [], []
    coords = np.array([(x * 256, y * 256) for y in range(3) for x in range(4)])
    for i in range(count):
        name, text = f"slide-{i}", WORDS[i % 4]
        info = SlideInfo(name, (1024, 768), 0.5, (1.0,), "test", "test")
        features = rng.normal(size=(12, 8)).astype(np.float32)
        slide = SlideFeatures(name, features, coords, np.ones(12, bool), info, TileSpec(256, 0.5), "e")
        files.append(folder / f"{name}.h5")
        write_features(files[-1], slide)
        captions.append(Caption(name, f"patient-{i}", text, (parse_sub_caption(text),)))
    return files, captions


def short(**settings):
    sets = ["train.steps=3", "train.batch_size=4", "train.eval_every=3", "train.save_every=3", "vocab_size=80"]
    named = [f"{key.replace('__', '.')}={value}" for key, value in settings.items()]
    return with_settings(align_base(), [*sets, *named])
