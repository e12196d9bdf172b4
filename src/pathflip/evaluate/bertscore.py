"""BERTScore (Zhang et al. 2020, arXiv 1904.09675) with a language model from a folder of this machine."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from pathflip.errors import ConfigError
from pathflip.io.model_folder import check_model_folder, refuse_missing_weights
from pathflip.processes import transformers_are_quiet

__all__ = ["BertScorer", "greedy_matching"]

_CACHE_BYTES = 2**29
"""References meet several sets of captions: their vectors are kept up to this much."""
_BYTES = ("gpt2", "roberta")
"""Models whose tokenizers code a word otherwise at the very beginning of a text."""


def greedy_matching(
    generated: Float[Tensor, "n W"],
    truth: Float[Tensor, "m W"],
    generated_counts: Sequence[bool],
    truth_counts: Sequence[bool],
) -> tuple[float, float, float]:
    """Precision, recall and F of two texts' token vectors, without inverse document frequency.

    Each token of ``generated`` that counts is worth its best cosine to any token of ``truth``; precision is the mean.
    Recall is the same with the two exchanged. As in the authors' program, begin and end marks do not count but may be
    what another token is nearest to, and a text without a token that counts scores 0.
    """
    ours, theirs = torch.tensor(generated_counts, dtype=torch.bool), torch.tensor(truth_counts, dtype=torch.bool)
    if not ours.any() or not theirs.any():
        return 0.0, 0.0, 0.0
    unit = torch.nn.functional.normalize
    cosines = unit(generated.double(), dim=1) @ unit(truth.double(), dim=1).T
    precision = float(cosines.max(dim=1).values[ours].mean())
    recall = float(cosines.max(dim=0).values[theirs].mean())
    both = precision + recall
    return precision, recall, 2 * precision * recall / both if both else 0.0


class BertScorer:
    """Scores captions with the hidden states of one layer.

    Args:
        folder: a Hugging Face encoder with its tokenizer; weights as safetensors. Nothing is downloaded.
        layer: whose output is compared, from 1; None takes the last. The authors chose layers by correlation with
            human judgement: 9 for bert-base-uncased, 17 for roberta-large, 8 for scibert_scivocab_uncased.
        device: where to run; None takes the GPU if there is one.

    Attributes:
        model_name: the folder's name. layer: the one used. num_layers: how many there are.

    Raises:
        ConfigError: no such folder or layer, or no model that can be read.
    """

    def __init__(self, folder: Path, layer: int | None = None, device: torch.device | str | None = None) -> None:
        self.model_name = folder.resolve().name
        self.device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        self.tokenizer, model = _load(folder)
        self.model = model.to(self.device).eval()
        self.num_layers = int(model.config.num_hidden_layers)
        self.layer = self.num_layers if layer is None else layer
        if not 1 <= self.layer <= self.num_layers:
            raise ConfigError(f"BERTScore layer: got {layer}, expected 1 to {self.num_layers} ('{folder}')")
        self.max_tokens = _longest(self.tokenizer, model.config)
        self._truncated: set[str] = set()
        self._vectors_of: dict[str, tuple[Tensor, list[bool]]] = {}
        self._room = _CACHE_BYTES

    @property
    def truncated(self) -> int:
        """Texts so far that were longer than the model reads: their ends were not compared."""
        return len(self._truncated)

    def __call__(self, hypotheses: Sequence[str], references: Sequence[Sequence[str]]) -> Float[np.ndarray, "n 3"]:
        """Precision, recall and F of each caption; of several references the best of each, as the authors do."""
        rows = []
        for hypothesis, segment in zip(hypotheses, references, strict=True):
            ours, our_counts = self._vectors(hypothesis)
            pairs = [(ours, theirs, our_counts, counts) for theirs, counts in map(self._vectors, segment)]
            rows.append(np.max([greedy_matching(*pair) for pair in pairs], axis=0))
        return np.array(rows)

    @torch.inference_mode()
    def _vectors(self, text: str) -> tuple[Float[Tensor, "n W"], list[bool]]:
        """Hidden states of a text's tokens, begin and end marks included, and which tokens count."""
        if text in self._vectors_of:
            return self._vectors_of[text]
        coded = self._coded(text)
        states = self.model(
            input_ids=torch.tensor([coded["input_ids"]], device=self.device),
            attention_mask=torch.ones(1, len(coded["input_ids"]), dtype=torch.long, device=self.device),
            output_hidden_states=True,
        ).hidden_states
        vectors = states[self.layer][0].float().cpu(), [not special for special in coded["special_tokens_mask"]]
        self._room -= vectors[0].nbytes
        if self._room > 0:
            self._vectors_of[text] = vectors
        return vectors

    def _coded(self, text: str) -> Any:
        words = text.strip()
        if words and self.model.config.model_type in _BYTES:
            words = f" {words}"  # so that the first word is coded as any other, as the authors do
        coded = self.tokenizer(words, truncation=False, return_special_tokens_mask=True)
        if len(coded["input_ids"]) <= self.max_tokens:
            return coded
        self._truncated.add(text)
        return self.tokenizer(words, truncation=True, max_length=self.max_tokens, return_special_tokens_mask=True)


def _longest(tokenizer: Any, config: Any) -> int:
    """Tokens the model reads at most, begin and end marks included."""
    positions = int(getattr(config, "max_position_embeddings", 0) or 512)
    if "roberta" in config.model_type:  # its positions start behind the padding token's number
        positions -= int(config.pad_token_id or 0) + 1
    return min(int(tokenizer.model_max_length), positions)


def _load(folder: Path) -> tuple[Any, Any]:
    from transformers import AutoModel, AutoTokenizer

    if not (folder / "config.json").is_file():
        raise ConfigError(
            f"BERTScore: '{folder}' holds no config.json; expected the folder of a Hugging Face encoder "
            "(fetch one with  hf download google-bert/bert-base-uncased --local-dir FOLDER)"
        )
    check_model_folder(Path(folder), f"BERTScore: '{folder}'")
    options: dict[str, Any] = {"use_safetensors": True, "dtype": torch.float32, "output_loading_info": True}
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        with transformers_are_quiet():
            model, loading = AutoModel.from_pretrained(
                folder, local_files_only=True, trust_remote_code=False, **options
            )
    except Exception as error:  # transformers raises many kinds on damage
        line = " ".join(str(error).split())[:200]
        raise ConfigError(f"BERTScore: '{folder}' cannot be opened: {line}") from None
    refuse_missing_weights(f"BERTScore: '{folder}'", loading)
    if model.config.is_encoder_decoder:
        raise ConfigError(f"BERTScore: '{folder}' is an encoder with a decoder; expected an encoder such as BERT")
    return tokenizer, model
