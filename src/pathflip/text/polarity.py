"""What a clause says of its finding: affirmed, denied or undecided; and where a sentence falls into clauses.

Polarity belongs to a clause, not to a sentence: "Glands are present but no necrosis" affirms one thing and denies
another. What may mean either, or is put in doubt, is undecided, so that nothing is read as its opposite. The words are
in :mod:`pathflip.text.cues`; the method is that of NegEx and ConText (cue words, what looks like one and is none, and
where the reach of a cue ends).
"""

import re
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal, NamedTuple

from pathflip.text.cues import LANGUAGES, Cues, cues_of

__all__ = [
    "Clause",
    "Polarity",
    "affirmative_form",
    "clauses_of",
    "first_denial",
    "is_request",
    "only_looks_denied",
    "polarity_of",
    "value_polarity",
]

Polarity = Literal["affirmed", "denied", "undecided"]

# An answer behind its question: "Necrosis: absent", "Necrosis = none", "Necrosis ..... not seen", "Necrosis | no".
_VALUE = re.compile(
    r"^(?P<label>[^:：=|\t]{2,90}?)\s*(?:[:：=|\t]|\.{3,}|…+|_{3,}|\s[-–—]\s)\s*(?P<value>\S.*?)[\s.。;,]*$"
)
_ITEM_BREAK = re.compile(r",\s+(?:and\s+|und\s+|et\s+|y\s+)?|\s+(?:and|und|et|y)\s+|\s+(?:with|mit|avec|con)\s+")
_LISTED = re.compile(r"\b(?:or|nor|and|oder|noch|und|ou|ni|et|o|u|y)\b|/", re.IGNORECASE)
# Adjectives that begin a finding of its own: "no granulomas, chronic inflammation" may or may not deny the second.
_DESCRIPTOR = re.compile(
    r"(?:with )?(?:chronic|acute|mild|moderate|marked|severe|focal|multifocal|diffuse|extensive|scattered|few|numerous|"
    r"prominent|brisk|dense|abundant|occasional|rare|patchy|many|some|grade|high[- ]grade|low[- ]grade|only|"
    r"chronische?|akute?|mäßige?|ausgeprägte?|herdförmige?|vereinzelte?|zahlreiche?|mit|"
    r"inflammation chronique|rares|nombreuses?|quelques|discr[eè]te?|inflamación crónica|escas[oa]s?|numeros[oa]s?)\b",
    re.IGNORECASE,
)
# What stands before the comma is a clause of its own: "Without necrosis, the tumour shows atypia".
_FRONTED = re.compile(
    r"\W*(?:apart from|aside from|other than|except for|with the exception of|without|in the absence of|with no|"
    r"lacking|ohne|bei fehlende[rmn]?|sans|en l['’]absence d|sin|en ausencia de)\b[^,]+,\s+",
    re.IGNORECASE,
)
_CONCESSION = re.compile(r"\W*(?:while|although|though|whereas|während|obwohl|bien que|alors que|aunque|mientras que)\b", re.I)
# The same between commas: "The gingiva, apart from chronic inflammation, does not contain tumour".
_EXCEPTION = re.compile(
    r",\s+(?:apart from|aside from|other than|except(?:ing)?(?: for)?|with the exception of|besides|in addition to|"
    r"abgesehen von|neben|außer|hormis|sauf|en dehors d\w*|salvo|excepto|aparte de|además de)\b[^,]+(?P<comma>,\s+)",
    re.IGNORECASE,
)
# What still belongs to its verb: "the glands were also | free of carcinoma".
_OPEN_VERB = re.compile(
    r"\b(?:is|are|was|were|be|been|being|remains?|remained|appears?|appeared)(?: (?:also|all|both|otherwise|again|still|each|now|thus|\w+ly))*$",
    re.IGNORECASE,
)
_FIRST_EXCEPT = re.compile(
    r"\W*(?:apart from|aside from|other than|except for|abgesehen von|bis auf|außer|hormis|en dehors d|salvo|excepto)\b", re.IGNORECASE
)
_WITH = re.compile(r"\s+(?:with|mit|avec|con)\s+", re.IGNORECASE)
# "not associated with", "no continuity with": what follows is part of what is denied.
_ASSOCIATED = frozenset(
    """associated association continuity connection contact consistent compatible compared correlated communication along
    together relation zusammenhang verbindung vereinbar continuité contact compatible continuidad contacto relación""".split()
)
_LACK = re.compile(r"\b(?:lack|absence|loss|fehlen|ausencia) (?:of|von|de|d['’])|\bfehlende\w*\b|\w{4}freie?[nmrs]?\b", re.IGNORECASE)
_PLURAL = re.compile(r"\b(?:are|were|have|do|sind|waren|werden|wurden|fehlen|sont|ont|son|están)\b", re.IGNORECASE)
_NEXT_LABEL = re.compile(r",\s*(?=[^,:;=]{2,50}[:=]\s*\S)")
# "Necrosis was searched for" tells nothing until it is said what was found.
_SOUGHT = re.compile(r"\b(?:looked|searched|screened|tested|sought|hunted)\b(?: for)?\W*$", re.IGNORECASE)
# "… has been looked for and is ruled out": the denial is of what came before.
_SAME_SUBJECT = re.compile(
    r"(?:is|are|was|were|has been|have been|ist|sind|wurde|wurden|est|sont|es|son)\b", re.IGNORECASE
)
_RELATIVE = re.compile(r"(?:which|that|who|whose|where|der|die|das|welche[rs]?|qui|dont|que|cuyo)\b", re.IGNORECASE)
_SEEN_AT_END = re.compile(
    r"\b(?:seen|identified|noted|observed|found|present|evident|vorhanden|nachweisbar|presentes?|présente?s?)\W*$", re.I
)


class Clause(NamedTuple):
    """A stretch of a sentence of one polarity. ``unclear``: whether a denial before it reaches it cannot be told."""

    text: str
    unclear: bool = False


@dataclass(frozen=True)
class _Compiled:
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
def _compiled(language: str) -> _Compiled:
    cues = cues_of(language)
    denial = "|".join(f"(?P<c{i}>{pattern})" for i, (pattern, _) in enumerate(cues.denials))
    degrees = "|".join(sorted(cues.degrees, key=len, reverse=True)) or r"(?!)"
    measures = "extensive|marked|diffuse|severe|widespread|frequent|numerous|abundant|brisk|striking|pronounced"
    degree = rf"\b(?:not|n['’]t|cannot be called) (?:so |very |all )?(?:{degrees})\b(?! (?:absent|free|without))"
    degree += rf"|\b(?:no|without) (?:{measures})\b" if language == "en" else ""
    return _Compiled(
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


def _only_in_brackets(rules: "_Compiled", clause: str) -> bool:
    """Whether a clause denies within brackets alone, and says something outside them."""
    outside = re.sub(r"\([^()]*\)", "()", clause)
    inside = re.search(r"\([^()]*[^\W\d_]{2,}[^()]*\)", clause)
    return inside is not None and rules.denial.search(rules.pseudo.sub(_blank, outside)) is None


@lru_cache(maxsize=65536)
def polarity_of(clause: str, language: str = "en") -> Polarity:
    """What a clause says of its finding. Text in a language without tables is undecided."""
    if language not in LANGUAGES:
        return "undecided"
    answer = _answer(clause, language)
    if answer is not None:
        return answer
    rules = _compiled(language)
    if rules.doubt.search(clause) or rules.degree.search(rules.pseudo.sub(_blank, clause)):
        return "undecided"
    denial = rules.denial.search(rules.pseudo.sub(_blank, clause))
    if denial is not None and _only_in_brackets(rules, clause):
        return "undecided"  # "Ulceration present (no necrosis)"
    hedge = rules.hedge.search(clause)
    if hedge is not None:
        return "denied" if denial is not None and denial.start() < hedge.start() else "undecided"
    if denial is None and language == "en" and _SOUGHT.search(clause):
        return "undecided"
    return "denied" if denial is not None else "affirmed"


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
    line = _VALUE.match(clause.strip())
    if line is None:
        return None
    stated = value_polarity(line["value"], language)
    if stated is None:  # answers of one word are met in the wrong language ("Necrosis: nein")
        stated = next((other for name in LANGUAGES if (other := value_polarity(line["value"], name))), None)
    if stated in (None, "blank"):
        return "undecided" if stated else None
    label = _compiled(language)
    if stated == "affirmed" and label.denial.search(label.pseudo.sub(_blank, line["label"])):
        return "denied" if re.match(r"no\b|not\b|absen", line["label"], re.IGNORECASE) else "undecided"
    if stated == "denied" and label.denial.search(label.pseudo.sub(_blank, line["label"])):
        return "undecided"  # "Absence of necrosis: no"
    return stated  # type: ignore[return-value]


def first_denial(clause: str, language: str) -> tuple[int, int] | None:
    """Where the first wording that denies stands in a clause; None where there is none."""
    rules = _compiled(language)
    denial = rules.denial.search(rules.pseudo.sub(_blank, clause))
    return denial.span() if denial is not None else None


def only_looks_denied(text: str, language: str = "en") -> bool:
    """Whether the text holds a pseudo-negation, a double denial or a doubt: no sentence to turn round by rule."""
    rules = _compiled(language)
    return rules.pseudo.search(text) is not None or rules.doubt.search(text) is not None


def _blank(match: re.Match[str]) -> str:
    return "\0" * len(match.group())


# --- Clauses ---------------------------------------------------------------------------------------------------------


def clauses_of(text: str, language: str = "en") -> list[Clause]:
    """The clauses of a sentence that state something, in order.

    A bare denial ("…; none was found") or a scrap ("…, but focal") stays with what it is about.
    """
    if is_request(text):
        return [Clause(text, unclear=True)]
    rules = _compiled(language if language in LANGUAGES else "en")
    clauses: list[Clause] = []
    for piece in _pieces(text, rules, language):
        if not piece.text.strip(" .,;:。、"):
            continue
        words = re.findall(r"[^\W_]+", piece.text.lower())
        polarity = polarity_of(piece.text, language)
        frame = bool(words) and all(word in rules.cues.frame or word.endswith("ly") for word in words)
        degree = len(words) > 1 and words[0] in ("not", "nicht", "pas", "no") and words[-1] in rules.cues.degrees
        short = 0 < len(words) < 3 and words[0] not in rules.cues.frame and not re.search(r"[:=]", piece.text)
        before = polarity_of(clauses[-1].text, language) if clauses else None
        bare = language == "en" and _BARE_DENIAL.match(piece.text)
        if clauses and degree and len(words) < 4:  # "necrosis is seen, but not extensive" affirms necrosis
            continue
        if clauses and (bare or (short and polarity == "affirmed" == before)):
            clauses[-1] = Clause(f"{clauses[-1].text}, {piece.text}", clauses[-1].unclear)
        elif polarity != "affirmed" or not frame:
            clauses.append(piece)
    return clauses or [Clause(text)]


def is_request(text: str) -> bool:
    """Whether a text asks instead of stating: "Rule out carcinoma", "exclude malignancy"."""
    return _REQUEST.match(text) is not None


_REQUEST = re.compile(
    r"\W*(?:rule out|r/o|exclude|please|query|ausschluss|z\.? ?a\.|éliminer|descartar)\b", re.IGNORECASE
)
_BARE_DENIAL = re.compile(
    r"(?:(?:is|are|was|were|has been|have been) )?(?:none|not|nothing|absent|lacking|ruled out|excluded)"
    r"(?: (?:is|are|was|were|be|been|being))?(?: (?:identified|seen|present|observed|noted|detected|found|evident|"
    r"demonstrated|appreciated|visible|visuali[sz]ed|recogni[sz]ed|apparent|shown|encountered|discernible|"
    r"recogni[sz]able|involved|infiltrated|invaded))?\W*$",
    re.IGNORECASE,
)


def _pieces(text: str, rules: _Compiled, language: str) -> list[Clause]:
    """The sentence cut at every break of its language, and where a denial's reach may end."""
    masked = rules.pseudo.sub(_blank, text)
    parts, start = [], 0
    front = _FRONTED.match(text)
    cuts = [match.span() for match in rules.breaks.finditer(masked)]
    if front:
        comma = text.rindex(",", 0, front.end())
        cuts = sorted({*cuts, (comma, front.end())})
    cuts = sorted({*cuts, *_concession_ends(text, rules)})
    denial = rules.denial.search(masked) if _FIRST_EXCEPT.match(text) else None
    if denial is not None and not _FRONTED.match(text):  # "Abgesehen von einer Fibrose keine Auffälligkeiten"
        cuts = sorted({*cuts, (denial.start(), denial.start())})
    cuts = sorted({*cuts, *(match.span("comma") for match in _EXCEPTION.finditer(masked))})
    if len(re.findall(r"[:=]\s", text)) > 1:  # "Mitoses: rare, necrosis: none"
        cuts = sorted({*cuts, *(match.span() for match in _NEXT_LABEL.finditer(masked))})
    for begin, end in cuts:
        if begin < start or (language == "en" and _OPEN_VERB.search(text[start:begin])):
            continue
        parts.append(text[start:begin])
        start = end
    parts.append(text[start:])
    pieces: list[Clause] = []
    for part in parts:
        if part and language in LANGUAGES and polarity_of(part, language) != "affirmed" and not _VALUE.match(part):
            pieces += _japanese_items(part) if language == "ja" else _items(part, rules, language)
        elif part:
            pieces.append(Clause(part))
    return pieces


def _concession_ends(text: str, rules: _Compiled) -> list[tuple[int, int]]:
    """The comma behind "While the tumour is small, …": the first that a stretch with a verb of its own follows."""
    if not _CONCESSION.match(text):
        return []
    commas = [*re.finditer(r",\s+", text)]
    for place, comma in enumerate(commas):
        stop = commas[place + 1].start() if place + 1 < len(commas) else len(text)
        behind = text[comma.end() : stop]
        if rules.verb.search(behind) and not _RELATIVE.match(behind):
            return [comma.span()] if len(text[: comma.start()].split()) > 3 else []
    return []


_JAPANESE_LIST = re.compile(
    r"(?P<left>(?:(?!いずれ|とも|または|および|及び|ならびに|[やも]).)+)、(?P<last>[^、]{1,20}(?:なし|無し|陰性|[(（]\s*[-－−]\s*[)）])[。\s]*)$"
)


def _japanese_items(part: str) -> list[Clause]:
    """慢性胃炎、活動性なし: whether the denial at the end reaches back cannot be told."""
    listed = _JAPANESE_LIST.match(part)
    if listed is None:
        return [Clause(part)]
    return [Clause(listed["left"], unclear=polarity_of(listed["left"], "ja") == "affirmed"), Clause(listed["last"])]


def _items(part: str, rules: _Compiled, language: str) -> list[Clause]:
    """A stretch that denies, cut where a new clause or a new item of telegraphic style begins.

    "Mitoses frequent, necrosis absent" are two sub-captions; "no necrosis, haemorrhage or calcification" is one.
    """
    cuts = [match.span() for match in _ITEM_BREAK.finditer(rules.pseudo.sub(_blank, part))]
    bounds = [0, *[position for span in cuts for position in span], len(part)]
    items = [part[bounds[i] : bounds[i + 1]] for i in range(0, len(bounds), 2)]
    links = [part[a:b] for a, b in cuts]
    groups, unclear = [items[0]], [False]
    for place, item in enumerate(items[1:]):
        left, rest = groups[-1], "".join(items[place + 1 :])
        own = rules.verb.search(left) and rules.verb.search(item) and not _SAME_SUBJECT.match(item)
        if own and not _RELATIVE.match(item):
            groups[-1], item = _shared_predicate(left, item, links[place], rules)
            groups.append(item)
            unclear.append(False)
            continue
        denies = polarity_of(left, language) != "affirmed"
        ends = _last_word(left) in rules.cues.predicates and len(left.split()) > 1 and not rules.verb.search(_but_last(left))
        is_predicate = _last_word(item) in rules.cues.predicates and len(item.split()) > 1 and not _LISTED.search(rest)
        comma = links[place].startswith(",")
        if comma and (ends or (is_predicate and denies and not rules.verb.search(_but_last(item)))):
            groups.append(item)
            unclear.append(bool(is_predicate and not ends and _SEEN_AT_END.search(item)))
        elif comma and len(items) == 2 and is_predicate and not denies and not rules.verb.search(_but_last(part)):
            groups.append(item)  # "Chronic gastritis, Helicobacter absent": the denial may reach back
            unclear[-1] = True
            unclear.append(False)
        elif denies and (apart := _beyond_the_denial(left, links[place], item, len(items), rules)) is not None:
            groups.append(f"{links[place].strip(' ,')} {item}" if _WITH.match(links[place]) else item)
            unclear.append(apart == "unclear")
        elif denies and _DESCRIPTOR.match(item) and not _or_follows(part, item) and not rules.verb.search(rest):
            groups.append(item)
            unclear.append(True)
        else:
            groups[-1] = f"{left}{links[place]}{item}"
    return [Clause(text, flag) for text, flag in zip(groups, unclear, strict=True)]


def _beyond_the_denial(
    left: str, link: str, item: str, count: int, rules: _Compiled
) -> Literal["clear", "unclear"] | None:
    """Whether an item behind a denial is surely, or maybe, none of what is denied; None where it belongs to it.

    "Necrosis is absent with many mitoses"; "a lack of glands with solid sheets"; "no granulomas, and lymphoid follicles".
    """
    if not _WITH.match(link):
        return "unclear" if link.startswith(",") and len(link.split()) > 1 and count == 2 else None
    if _last_word(left) in _ASSOCIATED:
        return None
    if _last_word(left) in rules.cues.predicates:
        return "clear" if rules.cues.findings == r"(?!)" or re.search(rules.cues.findings, item, re.IGNORECASE) else None
    return "unclear" if _DESCRIPTOR.match(item) or _LACK.search(left) else None


def _shared_predicate(left: str, item: str, link: str, rules: _Compiled) -> tuple[str, str]:
    """Two clauses, with the subject that stands before the second's own given back to it.

    "A component is seen, and skin involvement | and multicentricity are not observed": a verb of the plural denies both.
    """
    breaks = list(_ITEM_BREAK.finditer(left))
    if not breaks or not _PLURAL.search(item):
        return left, item
    last = breaks[-1]
    subject, before = left[last.end() :], left[: last.start()]
    if rules.verb.search(subject) or not rules.verb.search(before) or "," in link:
        return left, item
    closed = last.group().startswith(",") or _last_word(before) in rules.cues.predicates
    return (before, f"{subject}{link}{item}") if closed else (left, item)


def _or_follows(part: str, item: str) -> bool:
    """Whether the list that holds ``item`` ends with "or", which makes it one denial."""
    return re.search(r"\b(?:or|nor|oder|noch|ou|ni|o|u)\b", part[part.find(item) - 4 :], re.IGNORECASE) is not None


def _but_last(text: str) -> str:
    """The text without its last word, which may be a verb or an adjective ("présente")."""
    return re.sub(r"\w+\W*$", "", text)


def _last_word(text: str) -> str:
    words = re.findall(r"[^\W_]+", text.lower())
    return words[-1] if words else ""


# --- The positive counterpart ----------------------------------------------------------------------------------------


def affirmative_form(clause: str, language: str = "en") -> str:
    """The clause with every denial replaced by its positive counterpart."""
    rules = _compiled(language if language in LANGUAGES else "en")
    masked, pieces, position = rules.doubt.sub(_blank, rules.pseudo.sub(_blank, clause)), [], 0
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
