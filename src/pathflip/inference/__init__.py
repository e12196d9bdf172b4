"""What people do with a trained model: encode slides and texts, classify, retrieve, ground.

Everything takes an :class:`Aligned` model (``load``), slide features (``read_features``) and words. Features of
another encoder, tile size or resolution than the model was trained on are refused, both named.
"""

from pathflip.inference.aligned import Aligned, load
from pathflip.inference.classification import ZeroShot, zero_shot
from pathflip.inference.embedding import embed_slide
from pathflip.inference.encoding import (
    EncodedCase,
    EncodedSlide,
    encode_case,
    encode_files,
    encode_slide,
    encode_text,
    presence_scores,
    slides_in,
)
from pathflip.inference.grounding import ground, ground_to_files
from pathflip.inference.retrieval import Retrieval, encode_caption, retrieval_scores, retrieve

__all__ = [
    "Aligned",
    "EncodedCase",
    "EncodedSlide",
    "Retrieval",
    "ZeroShot",
    "embed_slide",
    "encode_caption",
    "encode_case",
    "encode_files",
    "encode_slide",
    "encode_text",
    "ground",
    "ground_to_files",
    "load",
    "presence_scores",
    "retrieval_scores",
    "retrieve",
    "slides_in",
    "zero_shot",
]
