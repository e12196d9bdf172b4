"""Captions, questions and conversations about slides, read from files: what an assistant learns from."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pathflip.errors import CaptionError
from pathflip.io.tables import PLAIN, TableOptions, TableRow, first_of, read_rows, text_of
from pathflip.text.captions import TEXT_KEYS, read_captions, slides_of_row
from pathflip.text.case_tables import slides_of
from pathflip.text.chat import SLIDE_MARK, Role, Turn
from pathflip.text.question_tables import QUESTION_KEYS, QUESTION_SLIDE_KEYS, QuestionRow, question_rows
from pathflip.types import Caption

__all__ = ["InstructExample", "captions_as_examples", "read_examples"]

_ROLES: dict[str, Role] = {
    "human": "user",
    "user": "user",
    "gpt": "assistant",
    "assistant": "assistant",
    "system": "system",
}


@dataclass(frozen=True)
class InstructExample:
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


def captions_as_examples(rows: Iterable[tuple[str, Sequence[str], str]]) -> list[InstructExample]:
    """(name, slides, caption) rows as answers to a request for one; the slides of a case are shown together."""
    return [
        InstructExample(
            f"caption of {name}", tuple(slides), (Turn("user", ""), Turn("assistant", text)), category="caption"
        )
        for name, slides, text in rows
        if text.strip()
    ]


def read_examples(path: str | Path, options: TableOptions = PLAIN) -> list[InstructExample]:
    """Examples from a file, whatever kind it is; the first row tells the kind.

    - Captions: columns or keys slide, patient, text (:func:`~pathflip.text.captions.read_captions`).
    - Questions: slide, question, options (a list, or columns A, B, …) and the key; without options the answer's text
      (:mod:`pathflip.text.question_tables`).
    - Conversations in the style of LLaVA and SlideInstruct: image, conversations; ``<image>`` marks the slides.
    - SlideBench's captions: columns Slide, Question and Caption.

    Args:
        options: columns and encoding, where the file does not say.

    Raises:
        CaptionError: none of these, or a row that lacks something; the row is named.
    """
    path = Path(path)
    rows = read_rows(path, options, expected="a file of captions, questions or conversations")
    keys: set[str] = next((set(row.fields) for row in rows if not row.problem), set())
    images = path.suffix.lower() == ".json" and {"image", "images"} & keys
    if any("conversations" in row.fields for row in rows) or (images and not keys & set(QUESTION_KEYS)):
        return [example for row in rows for example in _from_llava(row, f"'{path.name}' row {row.number}")]
    if not keys & set(QUESTION_KEYS):
        return captions_as_examples(_caption_rows(read_captions(path, options=options), path.name))
    if "caption" in keys:
        return [_requested_caption(row, f"'{path.name}' row {row.number}") for row in rows]
    return [_from_question(one, path.name) for one in question_rows(path.name, rows)]


def _caption_rows(captions: Sequence[Caption], file: str) -> Iterator[tuple[str, tuple[str, ...], str]]:
    """Name, slides and text of every report."""
    for caption in captions:
        slides = tuple(slide.slide_id for slide in slides_of(caption))
        if not slides:
            raise CaptionError(f"{file}: case '{caption.slide_id}' names no slide; expected a column with its slides")
        yield caption.slide_id, slides, caption.text


def _from_question(row: QuestionRow, file: str) -> InstructExample:
    """A question to learn from. Its letters are made anew when it is asked, so those without an option go."""
    if row.answer < 0 and not row.answer_text:
        raise CaptionError(f"{file}: row {row.number}: no answer; expected one for every question")
    offered = [place for place, option in enumerate(row.options) if option]
    turns = () if offered else (Turn("user", row.question), Turn("assistant", row.answer_text))
    return InstructExample(
        name=f"{file}, question {row.question_id or row.number}",
        slide_ids=row.slide_ids,
        turns=turns,
        question=row.question,
        options=tuple(row.options[place] for place in offered),
        answer=offered.index(row.answer) if offered else -1,
        category=row.subcategory or row.category or "all questions",
        needs_slide=row.needs_slide,
        answerable=row.answerable,
    )


def _requested_caption(row: TableRow, where: str) -> InstructExample:
    question = _text(row, QUESTION_KEYS, "question", where)
    caption = _text(row, ("caption",), "caption", where)
    turns = (Turn("user", question), Turn("assistant", caption))
    return InstructExample(where, _slides(row, where), turns, category="caption")


def _from_llava(row: TableRow, where: str) -> list[InstructExample]:
    """A conversation, or the caption an entry holds instead."""
    slide_ids = _slides(row, where)
    if "conversations" in row.fields:
        turns = _llava_turns(row.fields["conversations"], where)
        return [InstructExample(where, slide_ids, turns, category="conversation")]
    if not any(key in row.fields for key in TEXT_KEYS):
        raise CaptionError(f"{where}: neither conversations nor caption")
    caption = _text(row, TEXT_KEYS, "caption", where)
    return [replace(one, name=where) for one in captions_as_examples([(slide_ids[0], slide_ids, caption)])]


def _slides(row: TableRow, where: str) -> tuple[str, ...]:
    try:
        if row.problem:
            raise CaptionError(row.problem)
        return slides_of_row(row.fields, QUESTION_SLIDE_KEYS)
    except CaptionError as error:
        raise CaptionError(f"{where}: {error}") from None


def _text(row: TableRow, keys: Sequence[str], what: str, where: str) -> str:
    try:
        if row.problem:
            raise CaptionError(row.problem)
        text = text_of(first_of(row.fields, keys), what)
    except CaptionError as error:
        raise CaptionError(f"{where}: {error}") from None
    if not text:
        raise CaptionError(f"{where}: no {what}; expected its text")
    return text


def _llava_turns(conversation: Sequence[Any], where: str) -> tuple[Turn, ...]:
    if not isinstance(conversation, list):
        raise CaptionError(f"{where}: conversations are a {type(conversation).__name__}, expected a list of turns")
    turns = []
    for entry in conversation:
        if not isinstance(entry, dict):
            raise CaptionError(f"{where}: a turn is a {type(entry).__name__}, expected an object with from and value")
        speaker, text = first_of(entry, ("from", "role")), entry.get("value", entry.get("content"))
        if not isinstance(speaker, str) or speaker not in _ROLES:
            raise CaptionError(f"{where}: a turn is from {speaker!r}; expected human or gpt")
        if not isinstance(text, str):
            raise CaptionError(f"{where}: a turn of {speaker} holds a {type(text).__name__}, expected text")
        turns.append(Turn(_ROLES[speaker], text.replace("<image>", SLIDE_MARK)))
    roles = [turn.role for turn in turns if turn.role != "system"]
    if "user" not in roles:
        raise CaptionError(f"{where}: nobody asks; expected a turn from human")
    if "assistant" not in roles:
        raise CaptionError(f"{where}: nobody answers; expected a turn from gpt")
    if roles[0] != "user":
        raise CaptionError(f"{where}: the first turn is an answer; expected a turn from human first")
    return tuple(turns)
