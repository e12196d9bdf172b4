"""Questions about slides from disk: one reader for training, asking and measuring.

A row names its slide and asks a question; a multiple-choice question also has options (columns A, B, …, or a list in
``options``) and a key, written as a letter, as the option's text, or as both.
"""

import ast
import json
import re
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import isnan
from pathlib import Path
from string import ascii_uppercase
from typing import Any

from pathflip.errors import CaptionError
from pathflip.io.tables import PLAIN, TableOptions, TableRow, first_of, is_empty, read_rows, text_of
from pathflip.text.captions import PATIENT_KEYS, SLIDE_KEYS, slides_of_row
from pathflip.text.case_tables import case_of_row

__all__ = [
    "ID_KEYS",
    "QUESTION_KEYS",
    "QUESTION_SLIDE_KEYS",
    "QuestionRow",
    "empty_letters",
    "option_text",
    "options_of_row",
    "plain_option",
    "question_rows",
    "read_question_rows",
    "why_no_answer",
]

QUESTION_SLIDE_KEYS = tuple(key for key in SLIDE_KEYS if key != "id")  # here "id" names the question
QUESTION_KEYS = ("question", "prompt", "query")
ID_KEYS = ("question_id", "qid", "id", "benchmark_id")
ANSWER_KEYS = ("answer", "key", "label", "correct_answer", "gold")
MOST_LETTERS = len(ascii_uppercase)
_PREFIXES = ("", "option_", "choice_", "opt_")
_NO_OPTION = frozenset(("", "nan", "<na>", "null", "#n/a"))
"""Cells that hold no option; "None" and "N/A" may be options."""
_LONGEST_LIST = 100_000
_SHOWN = 5


@dataclass(frozen=True)
class QuestionRow:
    """A question as its file has it.

    Attributes:
        number: of the row, as an editor counts. question_id, patient: "" where the file does not say.
        slide_ids: the slides it is about, one or more.
        options: by letter, "" for a letter without an option; empty for an open question.
        answer: place of the right option from 0; -1 where the file does not say, or there are no options.
        answer_text: the answer to an open question, "" where the file does not say.
        problem: why options or key cannot be used, "" where they can; only where such rows were asked for.
        empty_options: letters whose cell or place in the list is empty.
    """

    number: int
    question_id: str
    slide_ids: tuple[str, ...]
    patient: str
    question: str
    options: tuple[str, ...]
    answer: int
    answer_text: str
    category: str
    subcategory: str
    answerable: bool
    needs_slide: bool
    problem: str = ""
    empty_options: tuple[str, ...] = ()


def read_question_rows(
    path: str | Path, options: TableOptions = PLAIN, *, with_problems: bool = False
) -> list[QuestionRow]:
    """Questions of a CSV, TSV, JSON or JSON-lines file.

    Args:
        options: columns and encoding, where the file does not say.
        with_problems: questions whose options or key cannot be used are rows, too, with what is wrong in ``problem``.

    Raises:
        CaptionError: the file cannot be read, holds no question, or a row is none (all are named).
    """
    rows = read_rows(path, options, expected="a file of questions")
    if options.text_column:  # of a table of questions it is the one with the question
        rows = [replace(row, fields={**row.fields, "question": row.fields.get("text")}) for row in rows]
    return question_rows(Path(path).name, rows, with_problems=with_problems)


def question_rows(name: str, rows: Sequence[TableRow], *, with_problems: bool = False) -> list[QuestionRow]:
    """Rows of a table as questions; see :func:`read_question_rows`. ``name`` is the file's, for messages."""
    first = _numbers_count_from(rows)
    questions, problems = [], []
    for row in rows:
        try:
            if row.problem:
                raise CaptionError(row.problem)
            question = _question(row, first)
            if question.problem and not with_problems:
                raise CaptionError(question.problem)
            questions.append(question)
        except CaptionError as error:
            problems.append(f"row {row.number}: {error}")
    if problems:
        more = f"; and {len(problems) - _SHOWN} more" if problems[_SHOWN:] else ""
        raise CaptionError(f"{name}: {'; '.join(problems[:_SHOWN])}{more}")
    if not questions:
        raise CaptionError(f"{name}: no question; expected the columns slide and question")
    return questions


def _question(row: TableRow, first: int | None) -> QuestionRow:
    fields = row.fields
    question = text_of(first_of(fields, QUESTION_KEYS), "question")
    if not question:
        raise CaptionError(f"no question; expected one of the fields {', '.join(QUESTION_KEYS)}")
    options: tuple[str, ...] = ()
    empty: tuple[str, ...] = ()
    answer_key, place, problem = None, -1, ""
    try:
        places = options_of_row(fields)
        empty, options = empty_letters(places), _offered(places)
        answer_key = _key(fields, options)
        place = -1 if answer_key is None or not options else _place(answer_key, options, first)
        problem = why_no_answer(options, place) if place >= 0 else ""
    except CaptionError as error:
        problem = str(error)
    return QuestionRow(
        number=row.number,
        question_id="" if (name := first_of(fields, ID_KEYS)) is None else str(name).strip(),
        slide_ids=_slides_or_case(fields),
        patient=str(first_of(fields, PATIENT_KEYS) or "").strip(),
        question=question,
        options=options,
        answer=-1 if problem else place,
        answer_text="" if answer_key is None or options else str(answer_key).strip(),
        category=str(first_of(fields, ("category", "broad_category")) or ""),
        subcategory=str(first_of(fields, ("narrow_category", "subcategory")) or ""),
        answerable=_flag(fields, "answerable"),
        needs_slide=_flag(fields, "needs_slide"),
        problem=problem,
        empty_options=empty,
    )


def _slides_or_case(fields: Mapping[str, Any]) -> tuple[str, ...]:
    """The slides a question is about; its case, where the row names no slide."""
    named = any(not is_empty(fields[key]) for key in QUESTION_SLIDE_KEYS if key in fields)
    case = "" if named else case_of_row(fields)
    return (case,) if case else slides_of_row(fields, QUESTION_SLIDE_KEYS)


def _key(fields: Mapping[str, Any], options: Sequence[str]) -> Any:
    """The key as written; None where there is none. "None" and "N/A" may be the text of an option."""
    answer_key = next((fields[key] for key in ANSWER_KEYS if key in fields), None)
    return (
        answer_key
        if not is_empty(answer_key) or plain_option(str(answer_key)) in map(plain_option, filter(None, options))
        else None
    )


def _flag(fields: Mapping[str, Any], name: str) -> bool:
    return str(fields.get(name, True)).strip().lower() not in ("false", "0", "no")


# --- Options ---------------------------------------------------------------------------------------------------------


def options_of_row(fields: Mapping[str, Any]) -> list[str]:
    """The text in each place for an option, "" where it is empty; no place for an open question.

    Raises:
        CaptionError: what stands there is no list of texts.
    """
    value = first_of(fields, ("options", "choices"))
    if value is None:
        value = _lettered_columns(fields)
    if isinstance(value, str):
        value = _list_in_a_cell(value)
    if isinstance(value, dict):
        value = _by_letter([(str(key).strip().upper().strip("()."), one) for key, one in value.items()])
    if not isinstance(value, list):
        raise CaptionError(f"the options are {str(value)[:40]!r}, expected a list, or columns A, B, …")
    return _without_letters([option_text(one) for one in value])


def _offered(places: Sequence[str]) -> tuple[str, ...]:
    """Options by letter, as far as the last one; none of them for an open question.

    Raises:
        CaptionError: there is one, or more than letters.
    """
    texts = list(places)
    while texts and not texts[-1]:
        texts.pop()
    if texts and sum(bool(text) for text in texts) < 2:
        raise CaptionError("there is one option, expected two or more, or none for an open question")
    if len(texts) > len(ascii_uppercase):
        raise CaptionError(f"there are {len(texts)} options, expected at most {len(ascii_uppercase)}")
    return tuple(texts)


def empty_letters(places: Sequence[str]) -> tuple[str, ...]:
    """The letters of empty places, where others are not; a row without any option asks an open question."""
    return tuple(ascii_uppercase[i] for i, text in enumerate(places[:MOST_LETTERS]) if not text) if any(places) else ()


def why_no_answer(options: Sequence[str], answer: int) -> str:
    """Why the option that is said to be right is not the only right one; "" where it is.

    Args:
        options: texts, "" for a place without an option. answer: the right one's place.
    """
    same = [i for i, text in enumerate(options) if text and plain_option(text) == plain_option(options[answer])]
    if len(same) < 2:
        return ""
    names = [ascii_uppercase[i] if i < MOST_LETTERS else str(i + 1) for i in same]
    return f"options {', '.join(names[:-1])} and {names[-1]} are the same text, and one of them is the answer"


def _lettered_columns(fields: Mapping[str, Any]) -> list[Any]:
    for prefix in _PREFIXES:
        columns = []
        for letter in ascii_uppercase.lower():
            if prefix + letter not in fields:
                break
            columns.append(fields[prefix + letter])
        if len(columns) > 1:
            return columns
    return []


def _by_letter(pairs: Sequence[tuple[str, Any]]) -> list[Any]:
    named = dict(pairs)
    if len(named) < len(pairs):
        raise CaptionError(f"two options are named alike: {', '.join(key for key, _ in pairs)}")
    if not all(len(key) == 1 and key in ascii_uppercase for key in named):
        raise CaptionError(f"the options are named {', '.join(list(named)[:4])}, expected letters")
    last = max(map(ascii_uppercase.index, named), default=-1)
    return [named.get(letter) for letter in ascii_uppercase[: last + 1]]


def _list_in_a_cell(text: str) -> Any:
    """A list written into a cell, as JSON or as Python writes it. Nothing is run."""
    if len(text) > _LONGEST_LIST:
        raise CaptionError(f"the options are a text of {len(text)} characters, expected a short list")
    for parse in (json.loads, ast.literal_eval):
        try:
            return parse(text.strip())
        except (ValueError, SyntaxError, RecursionError, MemoryError):
            continue
    return text


def option_text(value: Any) -> str:
    """An option as text, "" where the cell holds none.

    Raises:
        CaptionError: it is neither text nor a number.
    """
    if value is None or (isinstance(value, float) and isnan(value)):
        return ""
    if not isinstance(value, str | int | float):
        raise CaptionError(f"an option is a {type(value).__name__}, expected text")
    text = str(value).strip()
    return "" if text.lower() in _NO_OPTION else text


def _without_letters(texts: Sequence[str]) -> list[str]:
    """Texts without the letters in front of them ("A. solid"), where every one has its own."""
    bare = [
        re.match(rf"\(?{letter}\s*[).:]\s*(\S.*)$", text, re.IGNORECASE | re.DOTALL)
        for letter, text in zip(ascii_uppercase, texts, strict=False)
        if text
    ]
    if not bare or not all(bare):
        return list(texts)
    rest = iter(match[1] for match in bare if match)
    return [next(rest) if text else "" for text in texts]


# --- Keys ------------------------------------------------------------------------------------------------------------


def plain_option(text: str) -> str:
    """An option's text as it is compared: whatever case, spaces, width of letters, and full stop."""
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split()).rstrip(".")


def _number(value: Any) -> int | None:
    """A key that is a whole number, however it is written (pandas writes 2.0)."""
    match = re.fullmatch(r"\s*\(?(\d{1,3})(?:\.0)?[.)]?\s*", str(value))
    return int(match[1]) if match else None


def _numbers_count_from(rows: Sequence[TableRow]) -> int | None:
    """1 or 0, where all keys of a file are numbers and one of them tells what they count from; else None."""
    keys = []
    for row in rows:
        answer_key = first_of(row.fields, ANSWER_KEYS)
        if answer_key is None:
            continue
        number = _number(answer_key)
        try:
            count = len(_offered(options_of_row(row.fields)))
        except CaptionError:
            continue
        if number is None or not count:
            return None
        keys.append((number, count))
    last, none = any(n == count for n, count in keys), any(n == 0 for n, _ in keys)
    return None if last == none else int(last)


def _place(answer_key: Any, options: Sequence[str], first: int | None) -> int:
    """The option a key means.

    Args:
        answer_key: the right answer. options: by letter. first: what numbers count from, where the file tells.

    Raises:
        CaptionError: none, a letter without an option, a contradiction, or a number that may count from 0 or 1.
    """
    text = str(answer_key).strip()
    by_text = [place for place, option in enumerate(options) if option and plain_option(option) == plain_option(text)]
    number = _number(answer_key)
    if number is not None:
        if first is None:
            raise CaptionError(
                f"the answer is the number {text}, which may count from 0 or from 1; expected the letter of an option"
            )
        place = number - first
    elif match := re.fullmatch(r"(?:(?:answer|option|choice)\s*:?\s*)?[(\[]?([A-Z])[)\]]?[.:]?", text, re.IGNORECASE):
        place = ascii_uppercase.index(match[1].upper())
    elif match := re.fullmatch(r"[(\[]?([A-Z])(?:[)\]]\s*[.:]?|\s*[.:])\s*(\S.*)", text, re.IGNORECASE | re.DOTALL):
        place = ascii_uppercase.index(match[1].upper())
        if not by_text and (place >= len(options) or plain_option(options[place]) != plain_option(match[2])):
            raise CaptionError(f"the answer is {text[:60]!r}, but that is not what option {match[1].upper()} says")
    elif by_text:
        return by_text[0]
    else:
        raise CaptionError(f"the answer is {text[:60]!r}, expected the letter or the text of one of the options")
    if not (0 <= place < len(options) and options[place]):
        raise CaptionError(f"the answer is {text[:60]!r}, but there is no such option of {len(options)}")
    if by_text and place not in by_text:
        raise CaptionError(f"the answer is {text[:60]!r}, which is the text of another option; expected a letter")
    return place
