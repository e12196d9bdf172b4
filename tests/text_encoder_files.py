"""Folders of small pretrained text encoders with random weights, as Hugging Face writes them."""

import json

import torch
from transformers import (
    BertConfig,
    BertModel,
    ModernBertConfig,
    ModernBertModel,
    MPNetConfig,
    MPNetModel,
    RobertaConfig,
    RobertaModel,
)

from pathflip.text.tokenizer import train_tokenizer

TEXTS = ["Areas of necrosis are seen.", "Keratin pearls.", "No mitoses in ten fields of view, none at all."]
SMALL = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "vocab_size": 120,
}
FAMILIES = {
    "bert": (BertModel, BertConfig(**SMALL, max_position_embeddings=40)),
    "roberta": (RobertaModel, RobertaConfig(**SMALL, max_position_embeddings=40)),
    "mpnet": (MPNetModel, MPNetConfig(**SMALL, max_position_embeddings=40)),
    "modernbert": (
        ModernBertModel,
        ModernBertConfig(**SMALL, max_position_embeddings=40, pad_token_id=0, cls_token_id=2, sep_token_id=3),
    ),
}


def encoder_folder(folder, family="bert", pooling=None):
    torch.manual_seed(0)
    kind, config = FAMILIES[family]
    kind(config).save_pretrained(folder)
    train_tokenizer(TEXTS * 3, 100).save(folder)
    if pooling is not None:
        (folder / "1_Pooling").mkdir()
        modes = {f"pooling_mode_{name}": name == pooling for name in ("cls_token", "mean_tokens", "max_tokens")}
        (folder / "1_Pooling" / "config.json").write_text(json.dumps({"word_embedding_dimension": 32, **modes}))
    return folder
