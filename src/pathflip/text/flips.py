"""Sub-captions made false by rule: the denial of an assertion, or the reverse; hard negatives for training."""

import re
from dataclasses import replace

import numpy as np

from pathflip.text.checkboxes import has_boxes
from pathflip.text.clauses import clauses_of
from pathflip.text.cues.en import SEEN
from pathflip.text.polarity import affirmative_form, only_looks_denied, polarity_of
from pathflip.text.sub_captions import bare_sentence, parse_sub_caption
from pathflip.text.visibility import kinds_of
from pathflip.types import SubCaption

__all__ = ["flip_sub_caption", "flipped_sub_caption"]

# Where a "not" can be put, in the order tried: existence, detection, possession, being.
_EXISTS = re.compile(
    r"\b(there (?:is|are|was|were)) (?:also )?(?:an? |some )?(?:(?:definite )?evidence of )?(?=\w)", re.IGNORECASE
)
_DETECTED = re.compile(rf"\b(is|are|was|were|can be) (?:also )?((?:\w+ly )?{SEEN})\b", re.IGNORECASE)
_VERBS = {
    "shows": "show", "reveals": "reveal", "demonstrates": "demonstrate", "exhibits": "exhibit", "displays": "display",
    "contains": "contain", "has": "have", "invades": "invade", "infiltrates": "infiltrate", "involves": "involve",
    "forms": "form", "produces": "produce", "includes": "include", "extends": "extend", "grows": "grow",
    "consists": "consist", "occupies": "occupy", "represents": "represent",
}  # fmt: skip
_SINGULAR = re.compile(r"\b(?:\w+ly |also )?(" + "|".join(_VERBS) + r")\b(?! (?:\w+ed|been)\b)", re.IGNORECASE)
_PLURAL = re.compile(
    r"\b(?:\w+ly |also )?(show|reveal|demonstrate|exhibit|display|contain|have|invade|infiltrate|involve)\b"
    r"(?! (?:\w+ed|been)\b)",
    re.IGNORECASE,
)
_IS = re.compile(r"\b(is|are|was|were) (only )?", re.IGNORECASE)
# Openings and synoptic answers that turn by a word.
_TURNS = (
    (re.compile(r"^positive for\b", re.IGNORECASE), "negative for"),
    (re.compile(r"^presence of\b", re.IGNORECASE), "absence of"),
    (re.compile(r"^with\b", re.IGNORECASE), "without"),
    (re.compile(rf"(?<=: )(?={SEEN}$)", re.IGNORECASE), "not "),
)
_NO_NOUN_PHRASE = re.compile(r"[,:;]|^(?:the|this|these|it|its|we|all|there|in|on|at)\b", re.IGNORECASE)
_ABSENCE_FRAMES = ("No {} is identified.", "{} is absent.", "There is no evidence of {}.", "No {} is seen.")


def flip_sub_caption(sub_caption: SubCaption | str, rng: np.random.Generator) -> str | None:
    """A sentence that is false of every slide the sub-caption is true of: the denial of an assertion, or the reverse.

    None where the rules cannot be sure: sub-captions a slide cannot show, sentences of mixed polarity or several
    clauses, pseudo-negations, and sentences without a place for a "not". ``rng`` chooses among wordings.
    """
    parsed = parse_sub_caption(sub_caption) if isinstance(sub_caption, str) else sub_caption
    if not parsed.visual or parsed.undecided or parsed.language not in (None, "en") or has_boxes(parsed.text):
        return None
    text = bare_sentence(parsed.text).rstrip(" .;!")
    clauses = clauses_of(text)
    if any(kinds_of([clause.text for clause in clauses])) or only_looks_denied(text) or text.endswith(":"):
        return None
    if len({polarity_of(clause.text) for clause in clauses}) != 1:
        return None
    if parsed.negated:
        return _sentence(affirmative_form(text))
    return _deny(text, rng) if len(clauses) == 1 else None


def flipped_sub_caption(sub_caption: SubCaption, rng: np.random.Generator) -> SubCaption | None:
    """The flip as a sub-caption of the opposite sign.

    Its sign is known and not read from its words: "mitoses are not frequent" leaves open whether there are any, and is
    still the denial of "mitoses are frequent".
    """
    text = flip_sub_caption(sub_caption, rng)
    if text is None:
        return None
    parsed = parse_sub_caption(text)
    return (
        replace(parsed, negated=not sub_caption.negated, undecided=False, reason=None) if parsed.undecided else parsed
    )


def _deny(text: str, rng: np.random.Generator) -> str | None:
    if match := _EXISTS.search(text):
        return _sentence(f"{text[: match.end(1)]} no {text[match.end() :]}")
    if match := _DETECTED.search(text):
        word = match.group(2).lower()
        auxiliary = match.group(1)
        if auxiliary.lower() == "can be":
            denied = f"cannot be {word}"
        else:
            denied = f"{auxiliary} absent" if word == "present" and int(rng.integers(2)) else f"{auxiliary} not {word}"
        return _sentence(text[: match.start()] + denied + text[match.end() :])
    if (match := _SINGULAR.search(text)) and match.start() > 0:
        return _sentence(f"{text[: match.start()]}does not {_VERBS[match.group(1).lower()]}{text[match.end() :]}")
    if (match := _PLURAL.search(text)) and match.start() > 0:
        return _sentence(f"{text[: match.start()]}do not {match.group(1)}{text[match.end() :]}")
    if (match := _IS.search(text)) and match.start() > 0:
        return _sentence(f"{text[: match.end(1)]} not {text[match.end() :]}")
    for pattern, turn in _TURNS:
        if pattern.search(text):
            return _sentence(pattern.sub(turn, text))
    if len(text.split()) <= 8 and not _NO_NOUN_PHRASE.search(text):  # "Focal necrosis"
        noun = re.sub(r"^an? ", "", _lower_first(text))
        return _sentence(_ABSENCE_FRAMES[int(rng.integers(len(_ABSENCE_FRAMES)))].format(noun))
    return None


def _lower_first(text: str) -> str:
    """Lower the first letter unless the word is an acronym."""
    return text if text[:2].isupper() and len(text.split()[0]) > 1 else text[:1].lower() + text[1:]


def _sentence(text: str) -> str:
    """One sentence: single spaces, a capital, a full stop."""
    text = re.sub(r"\s+([,.;:)])", r"\1", " ".join(text.split())).rstrip(" .,;") + "."
    return text[:1].upper() + text[1:]
