"""Whether a line of a report names what was sent, states a finding, or answers a question of a form."""

import re

from pathflip.text.checkboxes import has_boxes
from pathflip.text.choices import is_bare_answer
from pathflip.text.cues import LANGUAGES, cues_of
from pathflip.text.finding_words import names_a_finding
from pathflip.text.polarity import is_answer_line, value_polarity

__all__ = [
    "PROCEDURE",
    "answers_a_finding",
    "is_prose",
    "is_specimen_label",
    "is_title",
    "states_a_finding",
    "title_length",
]

PROCEDURE = re.compile(
    r"\b(?:biops\w+|excisions?|resections?|\w+ectom\w+|\w+otom\w+|curett\w+|cores?|chips|aspirat\w+|brushings?|TUR\w*|shave|punch|"
    r"specimen|exzis\w+|resektat\w*|resektion\w*|biopsie\w*|résection|exérèse|biopsia\w*|resección|pieza)\b|生検|切除",
    re.IGNORECASE,
)
"""What is done to take a specimen."""
# "Previous carcinoma: yes" stands in the head of a letter and says nothing of this specimen.
_OF_THE_PATIENT = re.compile(
    r"\b(?:previous|prior|known|past|history|family|clinical\w*|suspect\w*|suspicion|patient\w*|requested|bekannt\w*|"
    r"vorbekannt\w*|früher\w*|anamnes\w*|klinisch\w*|verdacht\w*|zustand nach|antécédents?|connue?s?|clinique\w*|"
    r"suspicion|previ[oa]s?|conocid[oa]s?|antecedentes?|clínic[oa]s?|sospecha)\b|既往|臨床|家族歴|疑い",
    re.IGNORECASE,
)


def states_a_finding(line: str) -> bool:
    """Whether a line above every heading states a finding, and does not name a hospital or what was sent."""
    return names_a_finding(line) or has_boxes(line) or is_answer_line(line) or is_bare_answer(line)


def answers_a_finding(line: str) -> bool:
    """Whether a line of a form says of a finding whether it is there, with a box or a plain yes or no."""
    if not names_a_finding(line) or _OF_THE_PATIENT.search(line):
        return False
    value = re.split(r"[:：=]", line, maxsplit=1)[-1]
    return has_boxes(line) or any(value_polarity(value, name) in ("affirmed", "denied") for name in LANGUAGES)


def title_length(text: str) -> int:
    """How much of a text behind "B." names the specimen: "Node: " of "Node: No melanoma."."""
    colon = re.search(r"[:：]\s*", text[:100])
    return (
        colon.end()
        if colon and text[colon.end() :].strip() and is_title(text[: colon.start()], text[colon.end() :])
        else 0
    )


def is_title(label: str, answer: str) -> bool:
    """Whether what stands before a colon names a specimen and not a finding that is answered."""
    if re.search(r"[.!?。]\s", label) or names_a_finding(label):
        return False
    if has_boxes(answer[:4]) or re.match(r"\W*\[|\W*_", answer):
        return False
    return all(value_polarity(answer.split(".")[0], name) is None for name in LANGUAGES)


def is_prose(text: str) -> bool:
    """Whether a text is a sentence and not a title."""
    if text.rstrip().endswith("。"):
        return True
    return (len(text.split()) > 3 and text.rstrip().endswith((".", "!"))) or any(
        len(text.split()) > 3 and re.search(cues_of(name).verbs, text, re.IGNORECASE) is not None for name in LANGUAGES
    )


def is_specimen_label(text: str) -> bool:
    """ "Skin, back, excision": what was sent, and nothing that is seen in it."""
    if len(text.split()) > 10 or has_boxes(text) or names_a_finding(text):
        return False
    return PROCEDURE.search(text) is not None and not any(
        re.search(cues_of(name).verbs, text, re.IGNORECASE) for name in ("en", "de", "fr")
    )
