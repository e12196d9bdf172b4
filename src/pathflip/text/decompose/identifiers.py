"""What in a report may tell who the patient is: a guard before text leaves the machine.

Patterns for those of the 18 identifiers of the HIPAA Safe Harbor rule (45 CFR 164.514(b)(2)) that reports hold and
patterns can find: dates, record and accession numbers, names behind a title or a label, telephone numbers, e-mail
addresses, web addresses, social-security numbers, ages over 89. It warns; it does not de-identify: a name without a
title passes.
"""

import re
from dataclasses import dataclass

__all__ = ["Identifier", "find_identifiers", "redact"]

_MONTH = (
    r"(?:jan(?:uary)?|feb(?:ruary)?|mar(?:ch)?|apr(?:il)?|may|june?|july?|aug(?:ust)?|sept?(?:ember)?|oct(?:ober)?|"
)
_MONTH += r"nov(?:ember)?|dec(?:ember)?)\.?"
_YEAR = r"(?:19|20)\d\d"
_NAME = r"[A-ZÄÖÜÉ][\w'’\-]+|[A-Z]\."
_NAMES = rf"(?:{_NAME})(?:[ ,]+(?:{_NAME})){{0,3}}"
_LABEL = r"(?i:patient(?:'s)?(?: name)?|name|surname|physician|surgeon|pathologist|clinician|referr(?:er|ed by)|"
_LABEL += r"signed(?: out)? by|dictated by|reported by|attending|next of kin)"

_PATTERNS: tuple[tuple[str, str], ...] = (
    ("e-mail", r"\b[\w.+-]+@[\w-]+(?:\.[\w-]+)+\b"),
    ("web address", r"\b(?:https?://|www\.)\S+"),
    ("social security number", r"(?<![\d-])\d{3}-\d{2}-\d{4}(?![\d-])"),
    ("date", rf"(?<![\d./-])(?:{_YEAR}([-/.])(?:0?[1-9]|1[0-2])\1(?:0?[1-9]|[12]\d|3[01]))(?![\d-])"),
    (
        "date",
        r"(?<![\d./-])(?:(?:0?[1-9]|[12]\d|3[01])([-/.])(?:0?[1-9]|1[0-2])|(?:0?[1-9]|1[0-2])([-/])"
        r"(?:0?[1-9]|[12]\d|3[01]))[-/.](?:19|20)?\d\d(?![\d/-]|\.\d|\s*(?:cm|mm)\b)",
    ),
    ("date", rf"\b(?:\d{{1,2}}(?:st|nd|rd|th)?[ -])?(?i:{_MONTH})[ -](?:\d{{1,2}}(?:st|nd|rd|th)?,? ?)?{_YEAR}\b"),
    (
        "date",
        rf"\b(?:\d{{1,2}}(?:st|nd|rd|th)? (?:of )?(?i:{_MONTH})"
        rf"|(?=[A-Z])(?i:{_MONTH}) \d{{1,2}}(?:st|nd|rd|th)?)(?=[ ,.;)]|$)",
    ),
    (
        "record number",
        r"\b(?i:MRN|medical record(?: (?:no|number))?|record (?:no|number)|accession(?: (?:no|number))?|"
        r"case (?:no|number)|patient id(?:entifier)?|hospital (?:no|number)|specimen (?:no|number|id)|"
        r"account (?:no|number)|policy (?:no|number)|NHS (?:no|number))"
        r"\.?\s*(?:is|:|#|=)?\s*#?\s*(?=[A-Z\d-]*\d)[A-Z\d][A-Z\d\-/]{3,}",
    ),
    # Behind such a number "/3" makes it a morphology code ("M-8140/3").
    ("record number", r"\b[A-Z]{1,3}\d{0,2}[-:](?:\d{2}[-:])?\d{4,7}\b(?!/\d)"),
    ("telephone number", r"(?i:\b(?:tel|phone|telephone|fax|pager|ext|call)\b)\.?:?\s*\+?[\d(][\d()\-. /]{4,}\d"),
    ("telephone number", r"(?<![\w.-])(?:\+\d{1,3}[ .-]?)?(?:\(\d{3}\)[ ]?|\d{3}[-.])\d{3}[-.]\d{4}(?![\d-])"),
    ("telephone number", r"(?<![\w.])\+\d{2}[ .-]?\(?\d{1,4}\)?(?:[ .-]?\d{2,4}){2,4}(?!\d)"),
    ("name", rf"\b(?:Drs?|Mr|Mrs|Ms|Miss|Prof|Doz)\.?\s+(?:(?:med|Dr)\.\s+)*{_NAMES}"),
    ("name", rf"\b(?i:doctor|professor|surgeon|pathologist)\s+{_NAMES}"),
    ("name", rf"\b{_LABEL}\s*:\s*{_NAMES}"),
    ("name", rf"\b{_NAMES},?\s+(?:M\.?D\.?|Ph\.?D\.?|D\.O\.|MBBS|FRCPath)(?![A-Za-z])"),
    ("age over 89", r"\b(?:9\d|1[01]\d)(?=[ -]?(?:years?|yrs?|y)[ -]?(?:old|of age|o\b)|[ -]?y/?o\b)"),
    ("age over 89", r"(?i:\b(?:aged?|age of|age:)\s*)(?:9\d|1[01]\d)\b"),
)
_COMPILED = tuple((kind, re.compile(pattern)) for kind, pattern in _PATTERNS)
# What follows a label or a title and is no name.
_NOT_NAMES = re.compile(r"(?:^|[:.]\s*)(?:Not|None|Unknown|Unspecified|The|This|No)\b|M\.?D\.? Anderson")


@dataclass(frozen=True)
class Identifier:
    """A stretch of text that may identify somebody."""

    kind: str
    text: str
    start: int
    end: int


def find_identifiers(text: str) -> list[Identifier]:
    """Identifiers in reading order; where two overlap, the longer one."""
    found = [
        Identifier(kind, match.group(), match.start(), match.end())
        for kind, pattern in _COMPILED
        for match in pattern.finditer(text)
        if not (kind == "name" and _NOT_NAMES.search(match.group()))
    ]
    kept: list[Identifier] = []
    for item in sorted(found, key=lambda i: (i.start - i.end, i.start)):
        if all(item.end <= other.start or item.start >= other.end for other in kept):
            kept.append(item)
    return sorted(kept, key=lambda i: i.start)


def redact(text: str) -> str:
    """The text with every identifier found replaced by its kind in brackets, for example ``[date]``."""
    for item in reversed(find_identifiers(text)):
        text = f"{text[: item.start]}[{item.kind}]{text[item.end :]}"
    return text
