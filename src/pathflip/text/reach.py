"""Where the reach of a denial ends within a list: "mitoses frequent, necrosis absent", "no necrosis or haemorrhage".

The items of a stretch that denies are joined as long as one denial surely holds for them; an item of which that cannot
be told is *unclear*, and stays undecided.
"""

import re
from typing import Literal, NamedTuple

from pathflip.text.polarity import LanguageRules, blanked, polarity_of

__all__ = ["RELATIVE", "Clause", "is_event", "items_of", "japanese_items"]

_ITEM_BREAK = re.compile(r",\s+(?:and\s+|und\s+|et\s+|y\s+)?|\s+(?:and|und|et|y)\s+|\s+(?:with|mit|avec|con)\s+")
_WITHOUT = re.compile(r"\W*(?:without|with no|ohne|sans|sin)\b", re.IGNORECASE)
_TUMOUR = re.compile(
    r"\w*(?:carcinom|karzinom|sarcom|sarkom|lymphom|linfom|melanom|gliom|blastom|tumou?r|tumeur|neoplasm"
    r"|neoplasi|seminom)\w*",
    re.IGNORECASE,
)
_GRAVE_WORDS = (
    r"necros[ie]s|\w*nekrosen?|nécroses?|\w*invasion|invasión|\w*invasionen|mitos[ei]s|mitosen|"
    r"mitoses|mitotic figures|malignan\w+|"
    r"malignité|malignidad|\w*dysplas\w+|displasia|granulom\w*|emboli|emboles?|emboloses?|carcinoma|karzinom"
    r"|metasta\w+"
)
_EVENT_WORDS = (
    _GRAVE_WORDS
    + r"|ha?emorrhages?|\w*blutung(?:en)?|hémorragies?|hemorragias?|calcifi[ck]ations?|calcificación(?:es)?|"
    r"\w*verkalkung(?:en)?|ulcerations?|ulceración|\w*ulzeration(?:en)?|inflammation|entzündung|inflamación"
    r"|atypia|atypien?|atypies|"
    r"atipia|keratini[sz]ation|verhornung|kératinisation|queratinización|mucin(?: production)?|"
    r"\w*infiltrat\w*|desmoplasia|"
    r"hyperplasia|pleomorphism"
)
# Whole items: a count or a word of degree ("3 mitoses", "chronic inflammation") makes it a finding of its own.
_OF_WHAT = (
    r"(?:any|lympho-?vascular|vascular|perineural|neural|tumou?r|tumoral|venous|lymphatic|angio\w*|comedo"
    r"|vasculaires?|"
    r"périnerveu\w+|perineurale?|vaskuläre|lymphatische|perineurale|linfática|linfovascular|lymphatiques?|tumorales?)"
)
_GRAVE, _OF_TUMOURS = (
    re.compile(rf"(?:{_OF_WHAT} ){{0,2}}(?:{words})(?: {_OF_WHAT}){{0,2}}", re.IGNORECASE)
    for words in (_GRAVE_WORDS, _EVENT_WORDS)
)
_LISTED_OR = re.compile(r"\b(?:or|nor|oder|noch|ou|ni|o|u)\b", re.IGNORECASE)
_LISTED = re.compile(r"\b(?:or|nor|and|oder|noch|und|ou|ni|et|o|u|y)\b|/", re.IGNORECASE)
# Adjectives that begin a finding of its own: "no granulomas, chronic inflammation" may or may not deny the second.
_DESCRIPTOR = re.compile(
    r"(?:with )?(?:chronic|acute|mild|moderate|marked|severe|focal|multifocal|diffuse|extensive|scattered|few"
    r"|numerous|"
    r"prominent|reactive|benign|normal|unremarkable|brisk|dense|abundant|occasional|rare|patchy|many|some|grade"
    r"|high[- ]grade|low[- ]grade|only|"
    r"chronische?|akute?|mäßige?|ausgeprägte?|herdförmige?|vereinzelte?|zahlreiche?|mit|"
    r"inflammation chronique|rares|nombreuses?|quelques|discr[eè]te?|inflamación crónica|escas[oa]s?"
    r"|numeros[oa]s?)\b",
    re.IGNORECASE,
)
_WITH = re.compile(r"\s+(?:with|mit|avec|con)\s+", re.IGNORECASE)
# "not associated with", "no continuity with": what follows is part of what is denied.
_ASSOCIATED = frozenset(
    """associated association continuity connection contact consistent compatible compared correlated communication
    along together relation zusammenhang verbindung vereinbar continuité continuidad contacto relación""".split()  # noqa: SIM905
)
_LACK = re.compile(
    r"\b(?:lack|absence|loss|fehlen|ausencia) (?:of|von|de|d['’])|\bfehlende\w*\b|\w{4}freie?[nmrs]?\b", re.IGNORECASE
)
_PLURAL = re.compile(r"\b(?:are|were|have|do|sind|waren|werden|wurden|fehlen|sont|ont|son|están)\b", re.IGNORECASE)
# "… has been looked for and is ruled out": the denial is of what came before.
_SAME_SUBJECT = re.compile(
    r"(?:as (?:is|are|was|were)|is|are|was|were|has been|have been|ist|sind|wurde|wurden|est|sont|es|son)\b",
    re.IGNORECASE,
)
RELATIVE = re.compile(r"(?:which|that|who|whose|where|der|die|das|welche[rs]?|qui|dont|que|cuyo)\b", re.IGNORECASE)
_SEEN_AT_END = re.compile(
    r"\b(?:seen|identified|noted|observed|found|present|evident|vorhanden|nachweisbar|presentes?"
    r"|présente?s?)\W*$",
    re.I,
)


class Clause(NamedTuple):
    """A stretch of a sentence of one polarity. ``unclear``: whether a denial before it reaches it cannot be told."""

    text: str
    unclear: bool = False


def items_of(part: str, rules: LanguageRules, language: str, before: str = "") -> list[Clause]:
    """A stretch that denies, cut where a new clause or a new item of telegraphic style begins.

    "Mitoses frequent, necrosis absent" are two sub-captions; "no necrosis, haemorrhage or calcification" is one.

    Args:
        part: the stretch.
        rules: of its language.
        language: its two-letter code.
        before: the stretch before it in the sentence ("carcinoma" of "carcinoma without necrosis, …").
    """
    cuts = [match.span() for match in _ITEM_BREAK.finditer(rules.pseudo.sub(blanked, part))]
    bounds = [0, *[position for span in cuts for position in span], len(part)]
    items = [part[bounds[i] : bounds[i + 1]] for i in range(0, len(bounds), 2)]
    links = [part[a:b] for a, b in cuts]
    if len(items) > 1 and _WITHOUT.match(part) and not _LISTED_OR.search(part):
        reach = _reach_of_without(items, before, rules)
        if reach == "all":
            return [Clause(part)]
        if reach == "first":
            return [Clause(items[0]), Clause(part[len(items[0]) :].lstrip(" ,"), unclear=True)]
    groups, unclear = [items[0]], [False]
    for place, item in enumerate(items[1:]):
        left, rest = groups[-1], "".join(items[place + 1 :])
        own = rules.verb.search(_behind_that(left)) and rules.verb.search(item) and not _SAME_SUBJECT.match(item)
        if own and not RELATIVE.match(item):
            groups[-1], item = _shared_predicate(left, item, links[place], rules)
            groups.append(item)
            unclear.append(False)
            continue
        denies = polarity_of(left, language) != "affirmed"
        ends = (
            _last_word(left) in rules.cues.predicates
            and len(left.split()) > 1
            and not rules.verb.search(_but_last(left))
        )
        is_predicate = _last_word(item) in rules.cues.predicates and len(item.split()) > 1 and not _LISTED.search(rest)
        comma = links[place].startswith(",")
        if comma and (ends or (is_predicate and denies and not rules.verb.search(_but_last(item)))):
            groups.append(item)
            unclear.append(bool(is_predicate and not ends and _SEEN_AT_END.search(item)))
        elif (
            comma
            and is_predicate
            and not denies
            and not rules.verb.search(_but_last(part))
            and (
                len(items) == 2 or _WITH.search(left)  # "Arteries with sclerosis, thrombi absent"
            )
        ):
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


def is_event(text: str) -> bool:
    """Whether a text is no more than the name of something that reports affirm or deny ("Vascular invasion")."""
    return _OF_TUMOURS.fullmatch(text.strip(" .;,:-–—")) is not None


def _reach_of_without(items: list[str], before: str, rules: LanguageRules) -> Literal["all", "first"] | None:
    """How far "without A, B, and C" reaches; None where the rules of every other list tell.

    Of a tumour, events that reports deny ("without necrosis, haemorrhage, and calcification") are denied together. Of a
    change of another kind ("hyperplasia without atypia, adenosis, and cysts") the list may go on with what is there,
    unless all of its items are such as nobody lists beside it (necrosis, invasion, malignancy).
    """
    events = _OF_TUMOURS if _TUMOUR.search(before) else _GRAVE
    if all(events.fullmatch(item.strip(" .;,")) for item in items[1:]):
        return "all"
    if len(items) > 2 or not before:
        rest = ", ".join(items[1:])
        named = rules.cues.findings == r"(?!)" or re.search(rules.cues.findings, rest, re.IGNORECASE)
        return "first" if named or not before else None
    return None


def _beyond_the_denial(
    left: str, link: str, item: str, count: int, rules: LanguageRules
) -> Literal["clear", "unclear"] | None:
    """Whether an item behind a denial is surely, or maybe, none of what is denied; None where it belongs to it.

    "Necrosis is absent with many mitoses"; "a lack of glands with solid sheets"; "no granulomas, and lymphocytes".
    """
    if not _WITH.match(link):
        return "unclear" if link.startswith(",") and len(link.split()) > 1 and count == 2 else None
    if _last_word(left) in _ASSOCIATED:
        return None
    if _last_word(left) in rules.cues.predicates:
        return (
            "clear" if rules.cues.findings == r"(?!)" or re.search(rules.cues.findings, item, re.IGNORECASE) else None
        )
    return "unclear" if _DESCRIPTOR.match(item) or _LACK.search(left) else None


def _shared_predicate(left: str, item: str, link: str, rules: LanguageRules) -> tuple[str, str]:
    """Two clauses, with the subject that stands before the second's own given back to it.

    "A component is seen, and skin involvement | and multicentricity are not observed": a plural verb denies both.
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


def _behind_that(text: str) -> str:
    """What stands behind "it was noted that", whose verb is none of the list's."""
    return re.split(r"\b(?:that|dass|que)\s", text)[-1]


def _but_last(text: str) -> str:
    """The text without its last word, which may be a verb or an adjective ("présente")."""
    return re.sub(r"\w+\W*$", "", text)


def _last_word(text: str) -> str:
    words = re.findall(r"[^\W_]+", text.lower())
    return words[-1] if words else ""


_JAPANESE_LIST = re.compile(
    r"(?P<left>(?:(?!いずれ|とも|または|および|及び|ならびに|[やも]).)+)、(?P<last>[^、]{1,20}(?:なし|無し|陰性|[(（]\s*[-－−]\s*[)）])[。\s]*)$"
)


def japanese_items(part: str) -> list[Clause]:
    """慢性胃炎、活動性なし: whether the denial at the end reaches back cannot be told."""
    listed = _JAPANESE_LIST.match(part)
    if listed is None:
        return [Clause(part)]
    return [Clause(listed["left"], unclear=polarity_of(listed["left"], "ja") == "affirmed"), Clause(listed["last"])]
