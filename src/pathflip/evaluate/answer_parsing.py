"""Which option a free answer names, read by rule; an answer that names none, or two, is refused and says so.

A wrong reading is worse than none: it turns the writing of a model into its accuracy, either way. So whatever could
mean two things is refused and counted apart.
"""

import re
from collections.abc import Sequence
from string import ascii_uppercase
from typing import Literal, NamedTuple

from pathflip.arguments import refuse_text

__all__ = ["ParsedAnswer", "parse_answer"]

Why = Literal["letter", "text", "empty", "ambiguous", "conflict", "declined", "none"]


class ParsedAnswer(NamedTuple):
    """The option's letter, or None; and what it was read from, or why it could not be."""

    letter: str | None
    why: Why


_THOUGHTS = re.compile(r"<think>.*?</think>|^.*</think>", re.DOTALL | re.IGNORECASE)
_MARKUP = re.compile(r"\\(?:boxed|text|textbf|mathrm)\s*\{([^{}]*)\}|[*_`$\"“”]|</?\w+>")
_BRACKETED = r"[(\[{{<]?\s*([{letters}])\s*[)\]}}>]?"
_SAYS = (
    r"(?:the\s+|my\s+)?(?:(?:most\s+|best\s+|final\s+|single\s+)?(?:likely|correct|right|best|appropriate|final|probable)\s+)*"
    r"(?:answer|option|choice|response|selection|prediction)\s*(?:is|would be|should be|must be|:|=|-|–|→)+"
    r"\s*(?:clearly|probably|likely|therefore|either|between|both|:)?\s*(?:option|choice|answer|letter)?s?\s*:?\s*"
)
_PICKS = (
    r"(?:i\s+(?:would\s+)?(?:choose|pick|select|go\s+with|answer)|option|choice|select)\s*:?\s*(?:option|choice)?\s*"
)
_DECLINES = re.compile(
    r"\b(?:can(?:not|['’]t| not)|unable to|not possible to|impossible to|insufficient|not enough information|"
    r"i do(?: not|n['’]t) know|none of (?:the above|these))\b",
    re.IGNORECASE,
)
_NO_ANSWER = re.compile(
    r"(?:i\s+have\s+|there\s+is\s+|sorry,?\s+)?no\s+(?:idea|clue|answer|opinion|comment|response|way\s+to\s+\w+)\b.*|"
    r"n\s*/\s*a\b\.?|nan|null",
    re.IGNORECASE | re.DOTALL,
)
"""Answers that only look like "No" or like the letter A."""
_DENIALS = (
    r"\bnot|\bnon|\bneither|\bnor|\brather than|\binstead of|\bexclud\w+|\brul\w+ out|\bunlike|\beliminat\w+|"
    r"\bexcept|\b(?:unlikely|not likely|less likely)(?:\s+to be)?|\b\w+n['’]t(?:\s+be)?|\bcannot be|"
    r"\bnicht|\bkeine?|\bweder|\bnoch|\bpas|\bni|\bno es|\bnon è|\bnão é|\bniet|不是|并非|不选"
)
_DENIED = re.compile(rf"(?:{_DENIALS})\s*(?:(?<=\W)(?:option|choice|a|an|the|die|la)\s+)?$", re.IGNORECASE)
_OR = r"(?:or|nor|and|oder|noch|und|bzw\.?|ou|et|ni|o|y|e|of|en)\b|[/&]|或|和|または|や"
_DENIED_LIST = rf"(?:{_DENIALS})\s*(?:options?\s+)?({{one}}(?:\s*(?:,\s*(?:{_OR})?|{_OR})\s*{{one}})+)(?!\w)"
_DENIED_AFTER = re.compile(
    r"^\s*[)\]]?\s*(?:(?:is|are|was|were|can be|seems|ist|est|es|è)\s+(?:not|incorrect|wrong|unlikely|excluded|"
    r"ruled out|less likely|nicht|falsch|faux|fausse|incorrecta?|sbagliata)\b|ではな|じゃな|不对|不正确|错)",
    re.IGNORECASE,
)

_LETTER = r"[A-Za-z](?!\w)"
_CJK = "\u3040-\u30ff\u4e00-\u9fff\uac00-\ud7af"
_BESIDE_CJK = re.compile(rf"(?<=[{_CJK}])(?=[A-Za-z])|(?<=[A-Za-z])(?=[{_CJK}])")
"""Where a Latin letter stands against a character of a script that is written without spaces."""
_NEAR = 60
"""Characters between a mention and what denies it, at most."""
_CLASS_OF = re.compile(
    r"\b(?:vitamin|grade|type|pattern|hepatitis|stage|class|group|category|level|influenza|immunoglobulin|ig)\s+$",
    re.IGNORECASE,
)


def parse_answer(answer: str, options: Sequence[str]) -> ParsedAnswer:
    """Read an answer to a multiple-choice question.

    Args:
        answer: whatever a model wrote: "C", "c.", "(C)", "**C**", "The answer is C", "C: papillary …", the option.
        options: texts of options A, B, …

    Refused are two letters, a letter beside the text of another option, and a letter that may be the article "A".
    """
    refuse_text(options, "options")
    text = _plain(answer)
    if not text:
        return ParsedAnswer(None, "empty")
    letters = ascii_uppercase[: len(options)]
    whole = re.fullmatch(rf"{_BRACKETED.format(letters=letters)}\s*[.:,;!)]*", text, re.IGNORECASE)
    if whole:
        return ParsedAnswer(whole.group(1).upper(), "letter")
    exact = [letters[i] for i, option in enumerate(options) if _norm(option) and _norm(option) == _norm(text)]
    if len(exact) == 1:
        return ParsedAnswer(exact[0], "text")
    if _NO_ANSWER.fullmatch(text):
        return ParsedAnswer(None, "declined")
    if _states_probabilities(text, letters):
        return ParsedAnswer(None, "ambiguous")
    named = _letters(_without_options(text, options), letters)
    by_text = _texts(text, options, letters)
    if len(named) > 1:
        return ParsedAnswer(None, "ambiguous")
    if named:
        letter = next(iter(named))
        return ParsedAnswer(None, "conflict") if by_text and letter not in by_text else ParsedAnswer(letter, "letter")
    if len(by_text) == 1:
        return ParsedAnswer(next(iter(by_text)), "text")
    if by_text:
        return ParsedAnswer(None, "ambiguous")
    return ParsedAnswer(None, "declined" if _DECLINES.search(text) else "none")


def _plain(answer: str) -> str:
    """Without thoughts, markup and outer white space."""
    text = _THOUGHTS.sub(" ", answer)
    for _ in range(2):  # \boxed{\text{C}}
        text = _MARKUP.sub(lambda match: match.group(1) or "", text)
    text = _BESIDE_CJK.sub(" ", text)
    return " ".join(text.split()).strip("'‘’ ")


def _states_probabilities(text: str, letters: str) -> bool:
    """Whether the answer is numbers of several letters and nothing else ("A: 0.4, B: 0.6"): it commits to none."""
    entry = rf"(?<!\w)[{letters}]\s?[:=]\s?(?:\d+(?:\.\d+)?|\.\d+)\s?%?"
    return len(re.findall(entry, text)) > 1 and not re.sub(entry, "", text).strip("{}[],; ")


def _without_options(text: str, options: Sequence[str]) -> str:
    """The text with every letter that is part of an option's own words made a dash ("Luminal A" names no letter)."""
    for option in sorted(options, key=len, reverse=True):
        words = " ".join(option.split())
        if len(words) < 2 or not re.search(rf"(?<!\w){_LETTER}", words):
            continue
        more = rf"(?:\s*(?:{_OR}|to\b|[-–])\s*{_LETTER})*" if re.search(rf"\s{_LETTER}$", words) else ""
        pattern = rf"(?<!\w){re.escape(words)}(?!\w){more}"
        text = re.sub(pattern, lambda match: re.sub(rf"(?<!\w){_LETTER}", "-", match[0]), text, flags=re.IGNORECASE)
    return text


def _norm(text: str) -> str:
    """Letters and digits in lower case, one space between words."""
    return " ".join(re.findall(r"[^\W_]+(?:\.\d+)?|[<>≤≥+]", text.lower()))


def _letters(text: str, letters: str) -> set[str]:
    """Option letters the answer commits itself to; the strongest kind of mention that is there decides."""
    if re.fullmatch(
        rf"(?:[\s(\[]*[{letters}](?![A-Za-z])[\s)\].,:;/&+]*(?:and|or)?)+", text
    ):  # letters and nothing else
        return set(re.findall(rf"[{letters}]", text))
    one = _BRACKETED.format(letters=letters)
    end = r"(?![\w'’]|-\w)"
    joint = rf"(?:,\s*or|,\s*and|,|{_OR})\s*(?:possibly|maybe|perhaps|even)?"
    denied = {
        match.start(1) + place.start()
        for match in re.finditer(_DENIED_LIST.format(one=one), text, re.IGNORECASE)
        if re.search(_OR, re.sub(rf"(?<!\w)[{letters}](?!\w)", " ", match.group(1)), re.IGNORECASE)
        for place in re.finditer(rf"(?<!\w)[{letters}](?!\w)", match.group(1), re.IGNORECASE)
    }
    text = "".join("-" if place in denied else character for place, character in enumerate(text))
    alternatives = rf"(?:{one}{end}\s*{joint}\s*)*{one}{end}"
    for lead, flags in ((_SAYS, re.IGNORECASE), (r"^\s*", re.IGNORECASE), (_PICKS, re.IGNORECASE)):
        named: set[str] = set()
        for match in re.finditer(rf"(?:{lead})({alternatives})", text, flags):
            # the article: "the answer is a papillary carcinoma"
            group = match.group(1)
            if not _is_article(group, text[match.end() :], leading=lead == r"^\s*"):
                named |= {letter.upper() for letter in re.findall(rf"(?<!\w)[{letters}](?!\w)", group, flags)}
        named = {letter for letter in named if not _refused(text, letter)}
        if named:
            return named
    marked = re.finditer(rf"[(\[]\s*([{letters}])\s*[)\]]|(?<![\w'’.-])([{letters}])(?=[.):](?:\s|$))", text)
    loose = re.finditer(rf"(?<![\w'’.-])([{letters}])(?![\w'’-])", text)
    for mentions in (marked, loose):
        named = {next(group for group in match.groups() if group) for match in mentions if _is_mention(text, match)}
        if named:
            return named
    return set()


def _is_mention(text: str, match: re.Match[str]) -> bool:
    """Whether a letter stands for its option: not denied, not the article, not the class of something ("grade C")."""
    before, after = _around(text, match)
    if _DENIED.search(before) or _DENIED_AFTER.search(after) or _CLASS_OF.search(before):
        return False
    return match.group() != "A" or not re.match(r"\s+(?!(?:or|and|is|because|since|as|but)\b)[a-z]", after)


def _around(text: str, match: re.Match[str]) -> tuple[str, str]:
    """What stands before and after a mention, as far as a denial may stand apart from it."""
    return text[max(0, match.start() - _NEAR) : match.start()], text[match.end() : match.end() + _NEAR]


def _is_denied(text: str, match: re.Match[str]) -> bool:
    before, after = _around(text, match)
    return bool(_DENIED.search(before) or _DENIED_AFTER.search(after))


def _is_article(group: str, rest: str, leading: bool) -> bool:
    """Whether a bare "a" is the article: a word follows without punctuation between."""
    if group.strip().lower() != "a":
        return False
    return bool(re.match(r"\s+[a-z]", rest)) or (leading and bool(re.match(r"\s+\w", rest)))


def _refused(text: str, letter: str) -> bool:
    """Whether every mention of a letter denies it."""
    mentions = list(re.finditer(rf"(?<![\w'’]){letter}(?![\w'’])", text))
    return bool(mentions) and all(_is_denied(text, mention) for mention in mentions)


def _texts(text: str, options: Sequence[str], letters: str) -> set[str]:
    """Options whose text the answer holds; one inside a longer option's text counts only where it stands alone."""
    ranged = _ranges(text, options)
    normalised = f" {_norm(text)} "
    order = sorted(range(len(options)), key=lambda i: -len(_norm(options[i])))
    named = set()
    for i in order:
        wanted = _norm(options[i])
        if len(wanted) < 2 and not wanted.isdigit():
            continue
        hit = False
        for match in re.finditer(rf"(?<= ){re.escape(wanted)}(?= )", normalised):
            hit |= not _is_denied(normalised, match)
        if hit:
            named |= {letters[i], *(letters[j] for j in ranged.get(i, ()))}
        normalised = re.sub(rf"(?<= ){re.escape(wanted)}(?= )", "\0", normalised)
    return named


def _ranges(text: str, options: Sequence[str]) -> dict[int, set[int]]:
    """Options that are named by their last word alone after another: "Grade 2 or 3", "Luminal A/B", "T2–T3"."""
    beside: dict[int, set[int]] = {}
    words = [option.split() for option in options]
    for i, first in enumerate(words):
        for j, second in enumerate(words):
            if i == j or len(first) < 2 or first[:-1] != second[:-1]:
                continue
            joint = rf"\s*(?:{_OR}|to\b|through\b|bis\b|[-–])\s*"
            if re.search(rf"(?<!\w){re.escape(' '.join(first))}{joint}{re.escape(second[-1])}(?!\w)", text, re.I):
                beside.setdefault(i, set()).add(j)
    return beside
