"""Captions, questions and conversations about slides, read from files: what an assistant learns from."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from string import ascii_uppercase
from typing import Any

from pathflip.data.questions import SLIDE_KEYS, VQAQuestion, read_questions
from pathflip.errors import CaptionError
from pathflip.io.tables import first_of, read_table
from pathflip.text.captions import read_captions, slide_id_of
from pathflip.text.chat import SLIDE_MARK, Role, Turn

__all__ = ["Example", "captions_as_examples", "read_examples"]

_ROLES: dict[str, Role] = {
    "human": "user",
    "user": "user",
    "gpt": "assistant",
    "assistant": "assistant",
    "system": "system",
}


@dataclass(frozen=True)
class Example:
    """Something to learn about one slide or several.

    Attributes:
        name: for messages. slide_ids: in the order of their marks.
        turns: a conversation; empty for a multiple-choice question, whose turns are made when it is asked.
        question, options, answer: of a multiple-choice question; ``answer`` counts from 0.
        category, needs_slide, answerable: for measuring.
    """

    name: str
    slide_ids: tuple[str, ...]
    turns: tuple[Turn, ...] = ()
    question: str = ""
    options: tuple[str, ...] = ()
    answer: int = -1
    category: str = ""
    needs_slide: bool = True
    answerable: bool = True


def captions_as_examples(rows: Iterable[tuple[str, str]]) -> list[Example]:
    """(slide id, caption) pairs as answers to a request for one."""
    return [
        Example(f"caption of {slide_id}", (slide_id,), (Turn("user", ""), Turn("assistant", text)), category="caption")
        for slide_id, text in rows
        if text.strip()
    ]


def read_examples(path: str | Path) -> list[Example]:
    """Examples from a file, whatever kind it is; the first row tells the kind.

    - Captions: columns or keys slide, patient, text (:func:`~pathflip.text.captions.read_captions`).
    - Questions: question, options (a list, or columns A, B, …), answer (a letter) and slide
      (:func:`~pathflip.data.questions.read_questions`).
    - Conversations in the style of LLaVA and SlideInstruct: image, conversations; ``<image>`` marks the slides.
    - SlideBench's captions: columns Slide, Question and Caption.

    Raises:
        CaptionError: none of these, or a row that lacks something; the row is named.
    """
    path = Path(path)
    rows = read_table(path)
    keys = rows[0].keys()
    if any("conversations" in row for row in rows) or (path.suffix.lower() == ".json" and {"image", "images"} & keys):
        found = [_from_llava(row, f"'{path.name}' entry {number}") for number, row in enumerate(rows, 1)]
        return [example for entry in found for example in entry]
    if "question" in keys and "caption" in keys:
        return [_requested_caption(row, f"'{path.name}' row {number}") for number, row in enumerate(rows, 1)]
    if "question" in keys:
        return [_from_question(one, path.name) for one in read_questions(path)]
    return captions_as_examples((c.slide_id, c.text) for c in read_captions(path))


def _from_question(one: VQAQuestion, file: str) -> Example:
    return Example(
        name=f"{file}, question {one.question_id}",
        slide_ids=(one.slide_id,),
        question=one.question,
        options=one.options,
        answer=ascii_uppercase.index(one.answer),
        category=one.subcategory or one.category,
        needs_slide=one.needs_slide,
        answerable=one.answerable,
    )


def _requested_caption(row: Mapping[str, Any], where: str) -> Example:
    question, caption = (str(row.get(key) or "").strip() for key in ("question", "caption"))
    if not caption:
        raise CaptionError(f"{where}: no caption; expected its text")
    slide_id = _slide_id(first_of(row, SLIDE_KEYS), where)
    return Example(where, (slide_id,), (Turn("user", question), Turn("assistant", caption)), category="caption")


def _from_llava(row: Mapping[str, Any], where: str) -> list[Example]:
    """A conversation, or the caption an entry holds instead."""
    images = first_of(row, ("image", "images"))
    slide_ids = tuple(_slide_id(one, where) for one in (images if isinstance(images, list) else [images]) if one)
    if not slide_ids:
        raise CaptionError(f"{where}: no image; expected the path of a slide, or a list of them")
    if row.get("conversations"):
        return [Example(where, slide_ids, _llava_turns(row["conversations"], where), category="conversation")]
    if isinstance(row.get("caption"), str) and row["caption"].strip():
        return [replace(e, name=where) for e in captions_as_examples([(slide_ids[0], row["caption"])])]
    raise CaptionError(f"{where}: neither conversations nor caption")


def _llava_turns(conversation: Sequence[Any], where: str) -> tuple[Turn, ...]:
    if not isinstance(conversation, list):
        raise CaptionError(f"{where}: conversations are a {type(conversation).__name__}, expected a list of turns")
    turns = []
    for entry in conversation:
        if not isinstance(entry, dict):
            raise CaptionError(f"{where}: a turn is a {type(entry).__name__}, expected an object with from and value")
        speaker, text = first_of(entry, ("from", "role")), entry.get("value", entry.get("content"))
        if speaker not in _ROLES:
            raise CaptionError(f"{where}: a turn is from {speaker!r}; expected human or gpt")
        if not isinstance(text, str):
            raise CaptionError(f"{where}: a turn of {speaker} holds a {type(text).__name__}, expected text")
        turns.append(Turn(_ROLES[speaker], text.replace("<image>", SLIDE_MARK)))
    said = [turn.role for turn in turns if turn.role != "system"]
    if "user" not in said:
        raise CaptionError(f"{where}: nobody asks; expected a turn from human")
    if "assistant" not in said:
        raise CaptionError(f"{where}: nobody answers; expected a turn from gpt")
    if said[0] != "user":
        raise CaptionError(f"{where}: the first turn is an answer; expected a turn from human first")
    return tuple(turns)


def _slide_id(path: Any, where: str) -> str:
    if not isinstance(path, str):
        raise CaptionError(f"{where}: the slide is a {type(path).__name__}, expected the path of a file")
    try:
        return slide_id_of(path)
    except CaptionError as error:
        raise CaptionError(f"{where}: {error}") from None
