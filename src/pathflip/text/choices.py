"""Answers of forms that offer yes and no at once: which was meant is lost, or was never said.

"Necrosis: present / absent", "Necrosis: PRESENT absent" (the mark was a colour), "Nekrose: ja nein".
"""

import re
from functools import lru_cache

from pathflip.text.cues import LANGUAGES, cues_of

__all__ = ["is_bare_answer", "offers_both", "without_offer"]

_LABEL = re.compile(r"^[^:：=|?]{2,90}[:：=|?]\s*")
_QUALIFIER = re.compile(r"[(（][^()（）]*\w{2}[^()（）]*[)）]")
_YES = r"(?:present|yes|positive|identified|vorhanden|nachweisbar|ja|oui|présente?s?|sí|presentes?|あり|有り?|陽性)"
_NO = (
    r"(?:absent|no|none|negative|not (?:present|identified|seen|detected)|nein|nicht (?:vorhanden|nachweisbar)|non|"
    r"absente?s?|ausentes?|なし|無し?|陰性)"
)
_BETWEEN = r"(?:[^\w()?:：=]|(?<!\w)\w(?!\w))*"
# At the end of a line, where the label is not set off: "Necrosis Present Absent".
_AT_END = re.compile(
    rf"(?<!\bnot )(?<!\bno )(?<!\w){_YES}(?!\w){_BETWEEN}[^\w()?:：=]{_BETWEEN}(?<!\w){_NO}\W*$|"
    rf"(?<!\w){_NO}(?!\w){_BETWEEN}[^\w()?:：=]{_BETWEEN}(?<!\w)(?:yes|ja|oui|sí|present|vorhanden|presente|あり|有)\W*$",
    re.IGNORECASE,
)
_NOT_ANSWERED = re.compile(r"\b(?:no|non|not)\W+(?:identified|pr[eé]sent|presente|vorhanden)\w*\W*$", re.IGNORECASE)
_OFFER = re.compile(rf"\s*[\[(]\s*(?:{_YES}|y)\s*[/|,]\s*(?:{_NO}|n)\s*[\])](?=\s*[:：=?]\s*\S)", re.IGNORECASE)


@lru_cache(maxsize=1)
def _answers() -> re.Pattern[str]:
    def any_of(words: set[str]) -> str:
        return "|".join(sorted(map(re.escape, words), key=len, reverse=True))

    no = {word for name in LANGUAGES for word in cues_of(name).no if re.search(r"[^\W\d_]", word)}
    yes = {word for name in LANGUAGES for word in cues_of(name).yes if re.search(r"[^\W\d_]", word)}
    spaced = rf"(?<!\w)(?:(?P<no>{any_of(no)})|(?P<yes>{any_of(yes - no)})|\w)(?!\w)"
    return re.compile(rf"{spaced}|(?P<other>\w+)", re.IGNORECASE)


def offers_both(text: str) -> bool:
    """Whether a form's answer names yes and no, so that nobody can tell which was meant."""
    label = _LABEL.match(text)
    if label is not None:
        answers = [match.lastgroup for match in _answers().finditer(_QUALIFIER.sub(" ", text[label.end() :]))]
        if "other" not in answers and "yes" in answers and "no" in answers:
            return True
    return _AT_END.search(text) is not None and _NOT_ANSWERED.search(text) is None


def is_bare_answer(text: str) -> bool:
    """Whether a text is an answer without its question ("Not identified.")."""
    answers = [match.lastgroup for match in _answers().finditer(text)]
    return bool(answers) and set(answers) <= {"yes", "no"}


def without_offer(text: str) -> str:
    """The text without the choice that its label offers: "Necrosis (yes/no): no"."""
    return _OFFER.sub("", text)
