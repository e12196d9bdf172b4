"""What a language model is asked, and how its answer is read: one prompt, one schema, one reader."""

import json
import re
from functools import lru_cache
from importlib.resources import files
from typing import Any, Literal, NamedTuple

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

__all__ = ["SCHEMA", "Prompt", "ReplyError", "ReplySubCaption", "messages", "prompt", "read_reply"]


class ReplyError(ValueError):
    """An answer that is not what was asked for; the message is said back to the model and, at last, to the user."""


class ReplySubCaption(BaseModel):
    """One sub-caption as a model gives it."""

    model_config = ConfigDict(frozen=True, extra="ignore", strict=True, str_strip_whitespace=True)

    text: str = Field(min_length=2, max_length=2000)
    concept: str = Field(default="", max_length=200)
    visual: bool
    polarity: Literal["present", "absent"]

    @field_validator("text")
    @classmethod
    def _says_something(cls, text: str) -> str:
        """A small model repeats the example of the prompt, whose text is three dots."""
        if not any(character.isalpha() for character in text):
            raise ValueError(f"'{text}' holds no word")
        return text


class _Reply(BaseModel):
    """A whole answer. A language model reads ``statements``, a word it knows, for sub-captions (``prompt.txt``).

    The prompt is part of every cache key, so another word would have every report asked (and paid for) again.
    """

    model_config = ConfigDict(frozen=True, extra="ignore", strict=True)

    statements: list[ReplySubCaption] = Field(min_length=1, max_length=500)


SCHEMA: dict[str, Any] = {
    "type": "object",
    "additionalProperties": False,
    "required": ["statements"],
    "properties": {
        "statements": {
            "type": "array",
            "items": {
                "type": "object",
                "additionalProperties": False,
                "required": ["text", "concept", "visual", "polarity"],
                "properties": {
                    "text": {"type": "string"},
                    "concept": {"type": "string"},
                    "visual": {"type": "boolean"},
                    "polarity": {"type": "string", "enum": ["present", "absent"]},
                },
            },
        }
    },
}


class Prompt(NamedTuple):
    """The instruction and its version, which is part of every cache key."""

    version: str
    text: str


@lru_cache(maxsize=1)
def prompt() -> Prompt:
    """The instruction in ``prompt.txt``."""
    first, _, rest = files(__package__).joinpath("prompt.txt").read_text(encoding="utf-8").partition("\n")
    return Prompt(first.partition(":")[2].strip(), rest.strip())


def messages(report: str, failed: tuple[str, str] | None = None) -> list[dict[str, str]]:
    """The conversation that asks for a report's sub-captions; ``failed`` is a bad answer and what was wrong with it."""
    conversation = [{"role": "system", "content": prompt().text}, {"role": "user", "content": f"Report:\n{report}"}]
    if failed:
        answer, wrong = failed
        conversation += [
            {"role": "assistant", "content": answer or "(empty)"},
            {
                "role": "user",
                "content": f"That is not what was asked for: {wrong}. Answer again with the JSON object alone.",
            },
        ]
    return conversation


def read_reply(answer: str) -> list[ReplySubCaption]:
    """The sub-captions of a model's answer, which may be fenced, or follow its thoughts.

    Raises:
        ReplyError: no JSON, cut-off JSON, or JSON of another shape. Nothing is guessed: half an answer is no answer.
    """
    text = re.sub(r"<think>.*?</think>", "", answer, flags=re.DOTALL)
    start = min((place for place in (text.find("{"), text.find("[")) if place >= 0), default=-1)
    if start < 0:
        raise ReplyError("no JSON in the answer")
    try:
        value, _ = json.JSONDecoder().raw_decode(text[start:])
    except RecursionError:
        raise ReplyError("the JSON is nested too deep") from None
    except ValueError as error:
        raise ReplyError(f"the JSON is broken or cut off ({error})") from None
    if isinstance(value, list):  # the list without its object is a common slip and says the same
        value = {"statements": value}
    try:
        return _Reply.model_validate(value).statements
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"]) or "answer"
        raise ReplyError(f"{place}: {first['msg']}") from None
