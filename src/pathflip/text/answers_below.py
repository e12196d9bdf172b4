"""Answers on the line below their question: "Lymphovascular invasion" and then "Not identified".

Exports of forms and of tables with a cell a line write so. Read by itself the question would affirm its finding.
"""

import re
from collections.abc import Iterable
from dataclasses import replace

from pathflip.text.choices import is_bare_answer
from pathflip.text.cues import LANGUAGES, cues_of
from pathflip.text.polarity import value_polarity
from pathflip.text.sub_captions import sub_captions_of
from pathflip.types import SubCaption

__all__ = ["with_answers"]

_GENERIC = re.compile(
    r"^(?:results?|values?|status|answer|response|finding status|ergebnis|wert|antwort|résultat|"
    r"valeur|réponse|resultado|valor|"
    r"respuesta|結果|判定)\s*[:：=]\s*",
    re.IGNORECASE,
)
_FINDING = re.compile(
    r"^(?:findings?|parameters?|items?|features?|questions?|befund|merkmal|frage|élément|question|hallazgo|pregunta|項目)\s*[:：=]\s*",
    re.IGNORECASE,
)
_BULLET = re.compile(r"^[+*•>–-]\s+")
_LONGEST_QUESTION = 8  # words


def with_answers(sub_captions: Iterable[SubCaption]) -> list[SubCaption]:
    """The sub-captions of a report with every bare answer joined to the question above it."""
    joined: list[SubCaption] = []
    for one in sub_captions:
        answer = _BULLET.sub("", _GENERIC.sub("", one.text))
        if joined and _is_answer(answer, one) and _is_question(joined[-1]) and joined[-1].part == one.part:
            joined[-1] = _answered(joined[-1], one, answer)
        else:
            joined.append(one)
    return joined


def _is_answer(text: str, one: SubCaption) -> bool:
    if _GENERIC.match(one.text):
        return any(value_polarity(text, name) for name in LANGUAGES)
    return is_bare_answer(text) or value_polarity(text, one.language or "en") is not None


def _is_question(one: SubCaption) -> bool:
    """Whether a sub-caption may be a question alone: a few words without a verb, a stop or an answer."""
    text = _FINDING.sub("", one.text).rstrip()
    heading = one.reason == "no information" and text.endswith((":", "："))
    if one.negated or not (one.visual or heading):
        return False
    if len(text.split()) > _LONGEST_QUESTION or text.endswith((".", "!", "。")):
        return False
    if re.search(r"[:：=]\s*\S", text):
        return False
    return not any(re.search(cues_of(name).verbs, text, re.IGNORECASE) for name in LANGUAGES)


def _answered(question: SubCaption, answer: SubCaption, value: str) -> SubCaption:
    label = _FINDING.sub("", question.text).rstrip(" :：?")
    stated = sub_captions_of(f"{label}: {value}", question.language)
    one = stated[0] if len(stated) == 1 else replace(question, undecided=True, negated=False, reason="doubt")
    place = (question.place[0], answer.place[1]) if question.place and answer.place else question.place
    return replace(
        one, text=f"{question.text} {answer.text}", part=question.part, section=question.section, place=place
    )
