"""Conversations as a language model reads them: its own chat template, slides marked, and what of it is to be learned.

A conversation is rendered once with marks in the place of its turns, so the template is asked only for its markup,
and answers are found by construction and not by searching for them. What a user writes cannot forge markup: special
tokens in it are broken up.
"""

import re
import threading
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from string import ascii_uppercase
from typing import Any, Literal

from pathflip.arguments import as_texts
from pathflip.errors import CaptionError, ConfigError

__all__ = [
    "FALLBACK_TEMPLATE",
    "SLIDE_MARK",
    "ChatPiece",
    "ChatTemplate",
    "Turn",
    "train_chat_tokenizer",
]

SLIDE_MARK = "<slide>"
"""Stands in a turn where the visual tokens of a slide go; several are filled in the order of the slides."""

FALLBACK_TEMPLATE = (
    "{% for m in messages %}{% if m['role'] == 'system' %}{{ m['content'] }}\n\n"
    "{% elif m['role'] == 'user' %}User: {{ m['content'] }}\n"
    "{% else %}Assistant: {{ m['content'] }}{{ eos_token }}\n{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}Assistant:{% endif %}"
)
"""Used, and said so, where a language model has no chat template of its own."""

CHATML = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
"""The markup of Qwen's models, for tokenizers trained here."""

TEMPLATE_SECONDS = 20.0
"""What a chat template may take: it is a program that came with somebody's model."""

Role = Literal["system", "user", "assistant"]
_OPEN, _CLOSE = "\ue000", "\ue001"  # private use: in no template and no report
_MARK = re.compile(f"{_OPEN}(\\d+){_CLOSE}")


@dataclass(frozen=True)
class Turn:
    """What one side says."""

    role: Role
    text: str


@dataclass(frozen=True)
class ChatPiece:
    """A stretch of tokens, or the place of a slide (then ``slide`` is its number and ``ids`` is empty)."""

    ids: tuple[int, ...]
    learned: bool = False
    slide: int | None = None


class ChatTemplate:
    """A tokenizer with its template.

    Args:
        tokenizer: a fast Hugging Face tokenizer. Without a template it gets :data:`FALLBACK_TEMPLATE`, and
            ``is_fallback`` says so.
        options: handed to the template, for example ``{"enable_thinking": False}``.

    Raises:
        ConfigError: the tokenizer has no end token, or the template refuses a question and an answer.
    """

    def __init__(self, tokenizer: Any, options: dict[str, Any] | None = None) -> None:
        self.tokenizer, self.options = tokenizer, dict(options or {})
        self.is_fallback = not tokenizer.chat_template
        if tokenizer.eos_token is None:
            raise ConfigError("the language model's tokenizer has no end token (eos_token); set one in its config")
        self._backend = tokenizer.backend_tokenizer
        self._backend.no_padding()
        self._backend.no_truncation()
        if self.is_fallback:
            tokenizer.chat_template = FALLBACK_TEMPLATE
        self._markup: dict[tuple[tuple[Role, ...], bool], list[str]] = {}
        self._special = sorted(_markup_tokens(tokenizer), key=len, reverse=True)
        self.end_ids = self._find_end_ids()

    def pieces(self, turns: Sequence[Turn], *, answer_next: bool = False) -> list[ChatPiece]:
        """Tokens of a conversation.

        An assistant's turn is learned with the token that ends it. Text of the template and of the user is not.
        Prompt and answer are tokenized apart, as they are when an answer is generated.

        Args:
            turns: who says what. :data:`SLIDE_MARK` in a user's turn becomes a piece of its own.
            answer_next: end with the template's opening of an answer.
        """
        roles = tuple(turn.role for turn in turns)
        if not roles or (answer_next and roles[-1] == "assistant"):
            raise CaptionError("conversation: got an answer last (or nothing), expected a question last")
        markup = self._render(roles, answer_next)
        out: list[ChatPiece] = []
        context, between, slides = "", markup[0], 0
        for i, turn in enumerate(turns):
            if turn.role != "assistant":
                context, between = context + between + self._defused(turn.text), markup[i + 1]
                continue
            opening = self._render(roles[:i], True)[i]
            if not between.startswith(opening):
                opening = between
            pieces, slides = self._split(context + opening, slides)
            wording = between[len(opening) :] + self._defused(turn.text.replace(SLIDE_MARK, "slide"))
            end, between = self._cut_end(markup[i + 1])
            out += [*pieces, ChatPiece(self._ids(wording + end), learned=True)]
            context = ""
        if roles[-1] != "assistant":
            out += self._split(context + between, slides)[0]
        return out

    def answer_ids(self, text: str, *, ended: bool = True) -> tuple[int, ...]:
        """Tokens of an answer as they follow a prompt, with the token that ends it."""
        markup = self._render(("user", "assistant"), False)
        opening = self._render(("user",), True)[1]
        before = markup[1][len(opening) :] if markup[1].startswith(opening) else ""
        end, _ = self._cut_end(markup[2])
        return self._ids(before + self._defused(text) + (end if ended else ""))

    def letter_ids(self, count: int) -> list[tuple[int, ...]]:
        """Tokens of the answers "A", "B", …, without an end; the last token of each is its letter.

        Raises:
            ConfigError: the tokenizer does not tell letters apart.
        """
        ids = [self.answer_ids(letter, ended=False) for letter in ascii_uppercase[:count]]
        if len({one[-1] for one in ids}) != count:
            raise ConfigError("the language model's tokenizer does not tell the letters A to Z apart")
        return ids

    def _render(self, roles: tuple[Role, ...], answer_next: bool) -> list[str]:
        """Markup before, between and after the turns."""
        if (roles, answer_next) not in self._markup:
            messages = [{"role": role, "content": f"{_OPEN}{i}{_CLOSE}"} for i, role in enumerate(roles)]
            try:
                text = _within_seconds(
                    TEMPLATE_SECONDS,
                    lambda: self.tokenizer.apply_chat_template(
                        messages, tokenize=False, add_generation_prompt=answer_next, **self.options
                    ),
                )
            except Exception as error:  # jinja errors, and what a template raises itself
                raise ConfigError(
                    f"chat template refuses {'/'.join(roles)}: {' '.join(str(error).split())[:160]}"
                ) from None
            parts = _MARK.split(text)
            if parts[1::2] != [str(i) for i in range(len(roles))]:
                raise ConfigError(f"chat template does not write every turn of {'/'.join(roles)} once and in order")
            self._markup[roles, answer_next] = parts[0::2]
        return self._markup[roles, answer_next]

    def _find_end_ids(self) -> tuple[int, ...]:
        end, _ = self._cut_end(self._render(("user", "assistant"), False)[2])
        ids = self._ids(end)
        return tuple(dict.fromkeys([*ids[-1:], self.tokenizer.eos_token_id]))

    def _cut_end(self, markup: str) -> tuple[str, str]:
        """Split what follows an answer: up to the special token that ends it, and the rest. The end token is added
        where the template has none, for a model that never saw an end never stops."""
        ends = [(markup.index(token), token) for token in self._special if token in markup]
        if ends:
            place, token = min(ends, key=lambda entry: (entry[0], -len(entry[1])))
            if not markup[:place].strip():
                return markup[: place + len(token)], markup[place + len(token) :]
        return self.tokenizer.eos_token, markup

    def _split(self, text: str, slides: int) -> tuple[list[ChatPiece], int]:
        """Context to pieces, with a piece for each slide."""
        out = []
        for i, part in enumerate(text.split(SLIDE_MARK)):
            if i:
                out.append(ChatPiece((), slide=slides))
                slides += 1
            if part:
                out.append(ChatPiece(self._ids(part)))
        return out, slides

    def _ids(self, text: str) -> tuple[int, ...]:
        # The backend itself: transformers' wrapper takes several times as long, and training does this all the time.
        return tuple(self._backend.encode(text, add_special_tokens=False).ids)

    def _defused(self, text: str) -> str:
        """What a person wrote, without special tokens of the model in it.

        Our own marks go first: taken out afterwards, they could leave a token that was broken up by them.
        """
        text = text.replace(_OPEN, "").replace(_CLOSE, "").strip()
        while any(token in text for token in self._special):
            for token in self._special:
                text = text.replace(token, f"{token[0]} {token[1:]}" if len(token) > 1 else " ")
        return text


def _markup_tokens(tokenizer: Any) -> set[str]:
    """Every special token: those with a role, and those that the vocabulary only marks as special."""
    added = getattr(tokenizer, "added_tokens_decoder", {}).values()
    tokens = {str(token) for token in tokenizer.all_special_tokens} | {t.content for t in added if t.special}
    return {token for token in tokens if token.strip()}


def _within_seconds(seconds: float, work: Callable[[], Any]) -> Any:
    """What ``work`` returns, or TimeoutError: a chat template is a program and may loop for hours."""
    outcome: list[Any] = []
    failure: list[BaseException] = []

    def run() -> None:
        try:
            outcome.append(work())
        except BaseException as error:  # handed over to the caller's thread
            failure.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(seconds)
    if failure:
        raise failure[0]
    if not outcome:
        raise TimeoutError(f"the template did not end within {seconds:g} s")
    return outcome[0]


def train_chat_tokenizer(texts: Iterable[str], vocab_size: int = 1500) -> Any:
    """A byte-level BPE tokenizer with ChatML markup: the same texts give the same vocabulary.

    Returns:
        A ``transformers.PreTrainedTokenizerFast``.

    Raises:
        CaptionError: no text holds a word.
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    corpus = sorted(set(as_texts(texts, "texts")))
    if not any(text.strip() for text in corpus):
        raise CaptionError("cannot train a tokenizer: none of the texts holds a word")
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    # Fixing the alphabet's order (as "special" tokens of the trainer) makes ties between merges repeatable.
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(
        vocab_size=max(vocab_size, len(special) + len(alphabet)),
        special_tokens=[*special, *alphabet],
        show_progress=False,
        min_frequency=2,
    )
    backend.train_from_iterator(corpus, trainer)
    trained = PreTrainedTokenizerFast(
        tokenizer_object=_without_alphabet_as_special(backend, special),
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        additional_special_tokens=["<|im_start|>"],
    )
    trained.chat_template = CHATML
    return trained


def _without_alphabet_as_special(backend: Any, special: list[str]) -> Any:
    """The same vocabulary and merges in a tokenizer where only the markup is special."""
    import json

    from tokenizers import Tokenizer

    settings = json.loads(backend.to_str())
    settings["added_tokens"] = [entry for entry in settings["added_tokens"] if entry["content"] in special]
    return Tokenizer.from_str(json.dumps(settings))
