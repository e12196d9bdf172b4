"""PathFLIP: fine-grained language-image pretraining for whole slides.

Public names are imported on first use, so that ``import pathflip`` and ``pathflip --help`` do not pay for torch.
"""

from importlib import import_module
from typing import Any

__version__ = "0.1.0"

_WHERE = {
    "Box": "geometry",
    "SlideInfo": "geometry",
    "TileGrid": "geometry",
    "TileSpec": "geometry",
    "PathFLIPError": "errors",
    "Caption": "types",
    "Heatmap": "types",
    "SlideFeatures": "types",
    "SubCaption": "types",
    "open_slide": "slide",
    "find_tissue": "slide",
    "tile_slide": "slide",
    "extract": "features",
    "load_encoder": "features",
    "read_features": "features",
    "write_features": "features",
    "split_sentences": "text.sentences",
    "read_captions": "text.captions",
    "PathFLIP": "models.pathflip",
    "group_regions": "data.regions",
    "load": "inference",
    "embed_slide": "inference",
    "encode_slide": "inference",
    "encode_text": "inference",
    "zero_shot": "inference",
    "retrieve": "inference",
    "ground": "inference",
    "load_assistant": "assistant",
    "ask": "assistant",
    "verify_report": "verify",
    "train_align": "train.align_run",
    "view": "workbench.notebook",
}

__all__ = ["__version__", *sorted(_WHERE)]


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"module 'pathflip' has no attribute '{name}'")
    return getattr(import_module(f"pathflip.{_WHERE[name]}"), name)


def __dir__() -> list[str]:
    return list(__all__)
