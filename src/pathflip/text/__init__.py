"""Words: captions read, split into sentences, parsed into sub-captions, sampled, tokenised.

Names are imported on first use; :mod:`pathflip.text.sentences` and :mod:`pathflip.text.sampling` need no torch.
"""

from importlib import import_module
from typing import Any

_WHERE = {
    "TokenBatch": "tokenizer",
    "Tokenizer": "tokenizer",
    "check_captions": "captions",
    "flip_sub_caption": "flips",
    "load_tokenizer": "tokenizer",
    "merge_sentences": "sampling",
    "parse_sub_caption": "sub_captions",
    "read_captions": "captions",
    "read_report": "reports",
    "sample_merges": "sampling",
    "sample_published": "sampling",
    "sample_sentences": "sampling",
    "split_sentences": "sentences",
    "sub_captions_of": "sub_captions",
    "train_tokenizer": "tokenizer",
    "write_captions": "captions",
}

__all__ = sorted(_WHERE)


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"module 'pathflip.text' has no attribute '{name}'")
    return getattr(import_module(f"pathflip.text.{_WHERE[name]}"), name)


def __dir__() -> list[str]:
    return list(__all__)
