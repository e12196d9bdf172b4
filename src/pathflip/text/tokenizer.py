"""Texts to token ids: a small word-piece tokenizer trained on the cohort's captions, or any Hugging Face fast one.

A tokenizer is a folder with ``tokenizer.json`` (all of it) and ``tokenizer_config.json`` (so that
``transformers.AutoTokenizer`` opens it too); no pickle anywhere.
"""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import NamedTuple

import torch
from jaxtyping import Bool, Int
from tokenizers import Encoding, models, normalizers, pre_tokenizers, processors, trainers
from tokenizers import Tokenizer as Backend
from torch import Tensor

from pathflip.arguments import as_texts
from pathflip.errors import CaptionError, ConfigError
from pathflip.io.files import write_json, write_text
from pathflip.io.model_folder import check_model_folder
from pathflip.text.privacy import without_private_words

__all__ = ["TokenBatch", "Tokenizer", "load_tokenizer", "train_tokenizer"]

PAD, UNK, CLS, SEP = SPECIALS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]")
WORDS_FILE = "words.json"
"""Beside ``tokenizer.json``: the words of the training texts."""
_PAD_NAMES = (PAD, "<pad>", "<|endoftext|>", "</s>", "<|end_of_text|>")
_CACHED_TEXTS = 200_000
"""Texts whose ids are kept in memory, some hundred bytes each."""


class TokenBatch(NamedTuple):
    """Token ids padded to the longest text of the batch, the mask of real tokens, and how many texts were cut."""

    ids: Int[Tensor, "C T"]
    mask: Bool[Tensor, "C T"]
    num_truncated: int


@dataclass(frozen=True, eq=False)
class Tokenizer:
    """A tokenizer and the id that pads. Made by :func:`train_tokenizer` or :func:`load_tokenizer`.

    Attributes:
        words: every word of the texts it was trained on, lower case; None where that is not known.
    """

    backend: Backend
    pad_id: int
    words: frozenset[str] | None = None
    _known: dict[str, "_Ids"] = field(default_factory=dict, init=False, repr=False)

    @property
    def vocab_size(self) -> int:
        """Number of token ids, special tokens included: rows an embedding table needs."""
        return max(self.backend.get_vocab(with_added_tokens=True).values()) + 1

    def encode(self, texts: Sequence[str], max_length: int | None = None) -> TokenBatch:
        """Encode texts, special tokens included.

        Args:
            texts: any number of texts.
            max_length: longest sequence; longer ones lose their tail (never their closing special token).
        """
        if isinstance(texts, str):
            raise ConfigError(f"encode: got one text ({texts[:30]!r}), expected a sequence of texts")
        if max_length is not None and max_length < 3:
            raise ConfigError(f"max_length: got {max_length}, expected at least 3 (two special tokens and a word)")
        encoded = self._encoded(texts)
        rows = [one.ids if max_length is None else one.cut(max_length) for one in encoded]
        longest = max(map(len, rows), default=0)
        ids = torch.tensor([[*row, *[self.pad_id] * (longest - len(row))] for row in rows], dtype=torch.int64).reshape(
            len(rows), longest
        )
        mask = torch.arange(longest) < torch.tensor([len(row) for row in rows], dtype=torch.int64).unsqueeze(1)
        return TokenBatch(ids, mask, sum(len(row) < len(one.ids) for row, one in zip(rows, encoded, strict=True)))

    def _encoded(self, texts: Sequence[str]) -> list["_Ids"]:
        """Ids of every text; those of an earlier call come from memory (training reads the same texts every epoch)."""
        known = self._known if len(self._known) + len(texts) <= _CACHED_TEXTS else {}
        missing = list(dict.fromkeys(text for text in texts if text not in known))
        encoded = self.backend.encode_batch(missing)
        fresh = {text: _Ids.of(one) for text, one in zip(missing, encoded, strict=True)}
        known.update(fresh)
        return [known[text] for text in texts]

    def known_part(self, text: str) -> str:
        """The text without the words that no training text holds; numbers and signs stay.

        A network trained from scratch knows such a word only as pieces of other words, and its guess is worse than
        silence (docs/log.md). The text as it is where the training words are not known.
        """
        if self.words is None:
            return text
        unknown = set(self.unknown_words(text))
        return " ".join(word for word in self._split(text) if word not in unknown)

    def unknown_words(self, text: str) -> list[str]:
        """The words of a text that no training text holds; none where the training words are not known."""
        words = self.words
        if words is None:
            return []
        return [word for word in self._split(text) if word not in words and any(map(str.isalpha, word))]

    def _split(self, text: str) -> list[str]:
        normal = self.backend.normalizer.normalize_str(text)
        return [word for word, _ in self.backend.pre_tokenizer.pre_tokenize_str(normal)]

    def decode(self, ids: Sequence[int]) -> str:
        """The text of ids, special tokens left out."""
        return str(self.backend.decode(list(ids), skip_special_tokens=True))

    def save(self, folder: str | Path) -> None:
        """Write ``tokenizer.json``, ``tokenizer_config.json`` and, where there are words, ``words.json``."""
        vocabulary = self.backend.get_vocab(with_added_tokens=True)
        names = {"pad_token": str(self.backend.id_to_token(self.pad_id))}
        for key, token in (("unk_token", UNK), ("cls_token", CLS), ("sep_token", SEP)):
            if token in vocabulary:
                names[key] = token
        write_text(Path(folder) / "tokenizer.json", self.backend.to_str(pretty=True))
        write_json(Path(folder) / "tokenizer_config.json", {"tokenizer_class": "PreTrainedTokenizerFast", **names})
        if self.words is not None:
            write_json(Path(folder) / WORDS_FILE, sorted(self.words))


class _Ids(NamedTuple):
    """A text's ids, and how many of them are the closing special tokens."""

    ids: list[int]
    closing: int

    @classmethod
    def of(cls, encoded: Encoding) -> "_Ids":
        closing = next((n for n, special in enumerate(reversed(encoded.special_tokens_mask)) if not special), 0)
        return cls(encoded.ids, closing)

    def cut(self, max_length: int) -> list[int]:
        """The ids, shortened before the closing special tokens. (The library's own truncation is a setting of the
        shared tokenizer, which threads would change under each other.)"""
        ids = self.ids
        if len(ids) <= max_length:
            return ids
        return [*ids[: max_length - self.closing], *ids[len(ids) - self.closing :]]


def train_tokenizer(texts: Iterable[str], vocab_size: int = 2000) -> Tokenizer:
    """Train a lower-case word-piece tokenizer: the same texts give the same vocabulary, on any machine.

    Args:
        texts: captions and sentences; order does not matter. Names, dates and numbers of persons, and words of one text
            among twenty or more, do not become tokens (:mod:`pathflip.text.privacy`).
        vocab_size: number of tokens aimed at; small corpora give fewer.

    Raises:
        CaptionError: no text holds a word.
    """
    if vocab_size < len(SPECIALS) + 1:
        raise ConfigError(f"vocab_size: got {vocab_size}, expected more than the {len(SPECIALS)} special tokens")
    corpus = sorted(without_private_words([text] for text in as_texts(texts, "texts")))
    learner = _word_piece(None)
    # The trainer numbers the characters it finds in the order of a randomly seeded hash map, and ties between merges
    # follow those numbers. Fixing the characters (as "special" tokens of a throw-away tokenizer) makes it repeatable.
    alphabet = sorted({character for text in corpus for word in _words(learner, text) for character in word})
    if not alphabet:
        raise CaptionError("cannot train a tokenizer: none of the texts holds a word")
    fixed = [*SPECIALS, *alphabet, *(f"##{character}" for character in alphabet)]
    learner.train_from_iterator(
        corpus,
        trainers.WordPieceTrainer(
            vocab_size=max(vocab_size, len(fixed)), min_frequency=2, special_tokens=fixed, show_progress=False
        ),
    )
    backend = _word_piece(learner.get_vocab(with_added_tokens=True))
    backend.add_special_tokens(list(SPECIALS))
    backend.post_processor = processors.TemplateProcessing(
        single=f"{CLS} $A {SEP}",
        pair=f"{CLS} $A {SEP} $B {SEP}",
        special_tokens=[(token, backend.token_to_id(token)) for token in (CLS, SEP)],
    )
    words = frozenset(word for text in corpus for word in _words(backend, text))
    return Tokenizer(backend, pad_id=SPECIALS.index(PAD), words=words)


def _word_piece(vocabulary: dict[str, int] | None) -> Backend:
    from tokenizers import decoders

    model = models.WordPiece(vocabulary, unk_token=UNK) if vocabulary else models.WordPiece(unk_token=UNK)
    backend = Backend(model)
    backend.normalizer = normalizers.BertNormalizer(lowercase=True)
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    backend.decoder = decoders.WordPiece()
    return backend


def _words(backend: Backend, text: str) -> list[str]:
    return [word for word, _ in backend.pre_tokenizer.pre_tokenize_str(backend.normalizer.normalize_str(text))]


def load_tokenizer(name: str | Path) -> Tokenizer:
    """A tokenizer from a folder, or a Hugging Face one by name from the local cache; nothing is downloaded.

    Raises:
        ConfigError: there is none, or it is not a fast tokenizer; the message says how to get it.
    """
    folder = Path(name)
    if (folder / "tokenizer.json").is_file():
        return _from_folder(folder)
    return _from_transformers(str(name), is_folder=folder.is_dir())


def _from_folder(folder: Path) -> Tokenizer:
    try:
        backend = Backend.from_file(str(folder / "tokenizer.json"))
    except Exception as error:  # the library raises bare Exception
        raise ConfigError(f"{folder / 'tokenizer.json'}: not a tokenizer file ({error})") from None
    pad = None
    if (folder / "tokenizer_config.json").is_file():
        try:
            pad = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8")).get("pad_token")
        except ValueError as error:
            raise ConfigError(f"{folder / 'tokenizer_config.json'}: not JSON ({error})") from None
    if isinstance(pad, dict):  # Hugging Face writes an added token as an object
        pad = pad.get("content")
    return replace(_ready(backend, pad, str(folder)), words=_read_words(folder / WORDS_FILE))


def _read_words(file: Path) -> frozenset[str] | None:
    if not file.is_file():
        return None
    try:
        words = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ConfigError(f"{file}: not JSON ({error})") from None
    if not isinstance(words, list) or not all(isinstance(word, str) for word in words):
        raise ConfigError(f"{file}: expected a list of words; remove the file, and every word counts as known")
    return frozenset(words)


def _from_transformers(name: str, is_folder: bool) -> Tokenizer:
    from transformers import AutoTokenizer

    if is_folder and (Path(name) / "config.json").is_file():  # it is read for the tokenizer as well
        check_model_folder(Path(name), f"tokenizer folder '{name}'")
    try:
        loaded = AutoTokenizer.from_pretrained(name, local_files_only=True, trust_remote_code=False)
    except Exception as error:  # a missing, gated or damaged tokenizer raises OSError, ValueError, KeyError, …
        reason = str(error).strip().split("\n")[0][:160]
        if is_folder:
            raise ConfigError(f"tokenizer folder '{name}': no tokenizer.json, and not readable ({reason})") from None
        raise ConfigError(
            f"tokenizer '{name}': no such folder, and not in the local Hugging Face cache; nothing is downloaded at "
            f"run time: fetch it once with  hf download {name}  or give a folder with a tokenizer.json"
        ) from None
    backend = getattr(loaded, "backend_tokenizer", None)
    if not isinstance(backend, Backend):
        raise ConfigError(f"tokenizer '{name}': not a fast tokenizer; expected one with a tokenizer.json")
    return _ready(backend, loaded.pad_token, name)


def _ready(backend: Backend, pad: str | None, name: str) -> Tokenizer:
    """Drop stored padding and find the padding id."""
    backend.no_padding()
    backend.no_truncation()
    for token in (pad, *_PAD_NAMES):
        if token is not None and (pad_id := backend.token_to_id(token)) is not None:
            return Tokenizer(backend, pad_id=pad_id)
    raise ConfigError(f"tokenizer '{name}': no padding token; expected 'pad_token' in its tokenizer_config.json")
