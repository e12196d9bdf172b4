"""What a clause says of its finding: affirmed, denied or undecided.

Polarity belongs to a clause, not to a sentence: "Glands are present but no necrosis" affirms one thing and denies
another (:mod:`pathflip.text.clauses`). What may mean either, or is put in doubt, is undecided, so that nothing is read
as its opposite. The words are in :mod:`pathflip.text.cues`; the method is that of NegEx and ConText (cue words, what
looks like one and is none).
"""

import re
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

from pathflip.text.cues import LANGUAGES, Cues, cues_of

__all__ = [
    "LanguageRules",
    "Polarity",
    "affirmative_form",
    "blanked",
    "first_denial",
    "is_answer_line",
    "only_looks_denied",
    "polarity_of",
    "rules_of",
    "value_polarity",
]

Polarity = Literal["affirmed", "denied", "undecided"]

# An answer behind its question: "Necrosis: absent", "Necrosis = none", "Necrosis ..... not seen", "Necrosis | no".
_VALUE = re.compile(
    r"^(?P<label>[^:：=|\t?]{2,90}?)\s*(?:[:：=|\t?]|\.{3,}|…+|_{3,}|\s[-–—]\s)\s*(?P<value>\S.*?)[\s.。;,]*$"
)
_BRACKETED = re.compile(
    r"^(?P<label>[^:=()\[\]]{2,60}?)\s*[(\[]\s*(?P<value>[^\W\d_][^()\[\]]{1,25}?)\s*[)\]][\s.;,]*$"
)
# Ticked or ruled out, present or absent: nobody can tell. "regression -" at the end may be a dash.
_CROSS = re.compile(
    r"[✗✘❌☓±]|[+＋]\s*/\s*[-−–]|[-−–]\s*/\s*[+＋]|[:=]\s*\[\s*[-−–]\s*\]|[a-z]{3}\s?[-−–]\s*[.;,]?\s*$"
)
# "NECROSIS: No / ULCERATION: Yes", "PNI: + LVI: -" in one stretch: which answer is whose was not told before.
_YES_AND_NO = tuple(
    (re.compile(yes, re.IGNORECASE), re.compile(no, re.IGNORECASE))
    for yes, no in (
        (r"\byes\b", r"\bno\b"), (r"\bja\b", r"\bnein\b"), (r"\boui\b", r"\bnon\b"), (r"\bsí\b", r"\bno\b"),
        (r"(?<!not )(?<!\bis )(?<!are )\bpresent\b(?! (?:in|on|at|section|material|biops|specimen|case|tissue))",
         r":.*\babsent\b"),  # "Nephrogenic rests: intralobar present, perilobar absent"
        (r"あり|有り|[:：]\s*有(?!無)", r"なし|無し|[:：]\s*無(?=\s|$|[。、])"),
        (r"[:(（]\s*[+＋]", r"[:(（]\s*[-−–－]\s*(?:$|[\s)）;,.])"),
    )
)  # fmt: skip
# "Granulomas 0": none, or a grade, a score, a stage.
_ZERO = re.compile(r"^\W*(?:[^\W\d_]+[ -]){0,4}[^\W\d_]{3,}\s+0\W*$")
# "Airway inflammation: B0", "Tubulitis: grade 0", "glomerulitis g0": none, by a code of its own.
_ZERO_CODE = re.compile(
    r"[:：=]\s*(?:(?:grade|score|class|grad|グレード)\s*)?[A-Za-zＡ-Ｚａ-ｚ]{0,4}\s?[0０]\s*(?:\([^()]*\))?[\s.;,。]*$|"
    r"\b\w*(?:itis|inflammation|fibrosis|atrophy|rejection|crescents|hyalinosis|steatosis|invasion) "
    r"(?:grade )?[A-Za-z]{1,4}0\b",
    re.IGNORECASE,
)
# "Necrosis was searched for" tells nothing until it is said what was found.
_SOUGHT = re.compile(r"\b(?:looked|searched|screened|tested|sought|hunted)\b(?: for)?\W*$", re.IGNORECASE)


# Words that deny and mean nothing else in the other languages listed here, the tables' and their neighbours'.
_DENIAL_WORDS = {
    "en": "no not non without absent neither nor none nil lacks lacking free negative never cannot",
    "de": r"keine?[nmrs]? nicht ohne weder fehl(?:en|end|ende[rmns]?|"
    r"t) \w{4,}frei(?:e[rnms]?)? negativ nie nirgends ausgeschlossen",
    "fr": r"pas sans aucune? absente?s? ni négati(?:f|ve)s? non n'est jamais",
    "es": r"no sin ning(?:ún|una|uno) ausencia ausentes? ni negativ[oa]s? tampoco carecen? nul[oa]s?",
    "ja": "",
    "other": r"non senza nessun[oa]? assen(?:za|te|ti) sem não nenhum[a]? ausência geen niet zonder afwezig ikke ingen "
    r"inget inga utan uten uden ej saknas brak nie bez není žádné ei ilman yok değil nincs nem nélkül fără",
}  # fmt: skip


@dataclass(frozen=True)
class LanguageRules:
    """The tables of one language as patterns."""

    cues: Cues
    pseudo: re.Pattern[str]
    doubt: re.Pattern[str]
    hedge: re.Pattern[str]
    denial: re.Pattern[str]
    breaks: re.Pattern[str]
    verb: re.Pattern[str]
    degree: re.Pattern[str]


@lru_cache(maxsize=len(LANGUAGES))
def rules_of(language: str) -> LanguageRules:
    """The tables of a language with tables, as patterns."""
    cues = cues_of(language)
    denial = "|".join(f"(?P<c{i}>{pattern})" for i, (pattern, _) in enumerate(cues.denials))
    degrees = "|".join(sorted(cues.degrees, key=len, reverse=True)) or r"(?!)"
    measures = "extensive|marked|diffuse|severe|widespread|frequent|numerous|abundant|brisk|striking|pronounced"
    degree = rf"\b(?:not|n['’]t|cannot be called) (?:so |very |all )?(?:{degrees})\b"
    degree += r"(?! (?:absent|free|without|through|beyond|across))"
    degree += rf"|\b(?:no|without) (?:{measures})\b" if language == "en" else ""
    return LanguageRules(
        cues=cues,
        pseudo=_any_of(cues.pseudo),
        doubt=_any_of(cues.doubts),
        hedge=_any_of(cues.hedges),
        denial=re.compile(denial, re.IGNORECASE),
        breaks=_any_of(cues.breaks),
        verb=re.compile(cues.verbs, re.IGNORECASE),
        degree=re.compile(degree, re.IGNORECASE),
    )


def _any_of(patterns: tuple[str, ...]) -> re.Pattern[str]:
    return re.compile("|".join(patterns) or r"(?!)", re.IGNORECASE)


# --- Polarity of a clause --------------------------------------------------------------------------------------------


def _only_in_brackets(rules: LanguageRules, clause: str) -> bool:
    """Whether a clause denies within brackets alone, and says something outside them."""
    outside = re.sub(r"\([^()]*\)|\[[^\[\]]*\]", "()", clause)
    inside = re.search(r"\([^()]*[^\W\d_]{2,}[^()]*\)|\[[^\[\]]*[^\W\d_]{2,}[^\[\]]*\]", clause)
    return inside is not None and rules.denial.search(rules.pseudo.sub(blanked, outside)) is None


@lru_cache(maxsize=65536)
def polarity_of(clause: str, language: str = "en") -> Polarity:
    """What a clause says of its finding. Text in a language without tables is undecided."""
    if language not in LANGUAGES or any(yes.search(clause) and no.search(clause) for yes, no in _YES_AND_NO):
        return "undecided"
    answer = _answer(clause, language)
    if answer is not None:
        return answer
    rules = rules_of(language)
    if _CROSS.search(clause) or _ZERO.search(clause) or _ZERO_CODE.search(clause):
        return "undecided"
    if rules.doubt.search(clause) or rules.degree.search(rules.pseudo.sub(blanked, clause)):
        return "undecided"
    denial = rules.denial.search(rules.pseudo.sub(blanked, clause))
    if denial is not None and _only_in_brackets(rules, clause):
        return "undecided"  # "Ulceration present (no necrosis)"
    hedge = rules.hedge.search(clause)
    if hedge is not None:
        return "denied" if denial is not None and denial.start() < hedge.start() else "undecided"
    if denial is None and language == "en" and _SOUGHT.search(clause):
        return "undecided"
    if denial is None and denies_in_another_language(clause, language):
        return "undecided"
    return "denied" if denial is not None else "affirmed"


def denies_in_another_language(clause: str, language: str) -> bool:
    """Whether a clause holds a word that denies in a language it is not read in: "No necrosis." in a German report."""
    foreign, own = _foreign_denials(language)
    return any(own.fullmatch(match.group()) is None for match in foreign.finditer(clause))


@lru_cache(maxsize=len(LANGUAGES))
def _foreign_denials(language: str) -> tuple[re.Pattern[str], re.Pattern[str]]:
    """What denies in other languages, and what does in this one ("absent" is English and French)."""
    words = [word for name, listed in _DENIAL_WORDS.items() if name != language for word in listed.split()]
    foreign = "|".join(sorted({*words}, key=len, reverse=True))
    own = "|".join(_DENIAL_WORDS.get(language, "").split()) or r"(?!)"
    # Capitals alone are stains and genes ("PAS"), a hyphen joins words ("non-keratinizing", "Pas-de-Calais").
    pattern = rf"(?<![\w-])(?![A-Z]{{2,}}\b)(?i:{foreign})(?![\w-])|未[见見]|[无没沒]|無(?![しいく])(?=.*壞)"
    return re.compile(pattern), re.compile(own, re.IGNORECASE)


def value_polarity(value: str, language: str = "en") -> Polarity | Literal["blank"] | None:
    """What an answer of a form says ("not identified", "ja", "(-)"), None where it is no plain yes or no."""
    cues = cues_of(language)
    plain = " ".join(value.lower().replace("’", "'").split()).strip(" .;,:。、")
    head = re.split(r"\s*(?:[,;(（。、]|\s[-–—]\s)", plain)[0] if not plain.startswith(("(", "（")) else plain
    for words, meaning in (
        (cues.blank, "blank"),
        (cues.open, "undecided"),
        (cues.no, "denied"),
        (cues.yes, "affirmed"),
    ):
        if plain in words or head in words:
            return meaning  # type: ignore[return-value]
    return None


def _answer(clause: str, language: str) -> Polarity | None:
    """The polarity of "finding: answer", None where the clause is no such line or its answer no plain yes or no."""
    line = _VALUE.match(clause.strip()) or _BRACKETED.match(clause.strip())
    if line is None:
        return None
    stated = value_polarity(line["value"], language)
    if stated is None:  # answers of one word are met in the wrong language ("Necrosis: nein")
        stated = next((other for name in LANGUAGES if (other := value_polarity(line["value"], name))), None)
    if stated in (None, "blank"):
        return "undecided" if stated else None
    label = rules_of(language)
    if stated == "affirmed" and label.denial.search(label.pseudo.sub(blanked, line["label"])):
        return "denied" if re.match(r"no\b|not\b|absen", line["label"], re.IGNORECASE) else "undecided"
    if stated == "denied" and label.denial.search(label.pseudo.sub(blanked, line["label"])):
        return "undecided"  # "Absence of necrosis: no"
    return stated  # type: ignore[return-value]


def is_answer_line(text: str) -> bool:
    """Whether a text has the form "finding: answer"."""
    return _VALUE.match(text) is not None


def first_denial(clause: str, language: str) -> tuple[int, int] | None:
    """Where the first wording that denies stands in a clause; None where there is none."""
    rules = rules_of(language)
    denial = rules.denial.search(rules.pseudo.sub(blanked, clause))
    return denial.span() if denial is not None else None


def only_looks_denied(text: str, language: str = "en") -> bool:
    """Whether the text holds a pseudo-negation, a double denial or a doubt: no sentence to turn round by rule."""
    rules = rules_of(language)
    return rules.pseudo.search(text) is not None or rules.doubt.search(text) is not None


def blanked(match: re.Match[str]) -> str:
    """As many zero characters as the match has: for masking words without moving the others."""
    return "\0" * len(match.group())


# --- The positive counterpart ----------------------------------------------------------------------------------------


def affirmative_form(clause: str, language: str = "en") -> str:
    """The clause with every denial replaced by its positive counterpart."""
    rules = rules_of(language if language in LANGUAGES else "en")
    masked, pieces, position = rules.doubt.sub(blanked, rules.pseudo.sub(blanked, clause)), [], 0
    for match in rules.denial.finditer(masked):
        if match.start() < position:
            continue
        be = re.split(r"\s|n['’]t", match.group())[0]
        counterpart = rules.cues.denials[int(str(match.lastgroup)[1:])][1]
        counterpart = counterpart.replace("{be}", be).replace("{s}", "s" if be.lower() in ("is", "was") else "")
        pieces.append(clause[position : match.start()])
        position = match.end()
        if counterpart == "<verb>":
            verb = re.match(r"\w+", clause[position:])
            if verb and not re.match(r"do\b|did\b|fail(?:ed|ing)?\b", match.group(), re.IGNORECASE):
                counterpart, position = _third_person(verb.group()), position + verb.end()
            else:
                counterpart = ""
        pieces.append(counterpart)
    changed = "".join([*pieces, clause[position:]])
    return re.sub(r"\bany\s+", "", changed, flags=re.IGNORECASE) if pieces else changed


def _third_person(verb: str) -> str:
    """``show`` → ``shows``, ``carry`` → ``carries``: what follows "does not"."""
    if re.search(r"(?:s|sh|ch|x|z|o)$", verb):
        return verb + "es"
    return re.sub(r"(?<=[^aeiou])y$", "ie", verb) + "s"
