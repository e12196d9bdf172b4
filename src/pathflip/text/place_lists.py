"""Of a list of places, those that are no margin and no lymph node: "the margins, nipple and skin are free of tumour".

One margin or node among the places would set the whole clause aside, and what it says of the others with it. The list
is the subject ("the margins, nipple and skin are free of …") or stands behind a preposition ("no tumour in the nodes or
the fallopian tube"). Where places may be those of the margins or nodes themselves ("the margins of the bladder and
ureter", "the skin and deep margins", "hilar and mediastinal nodes"), nothing is taken out. English only.
"""

import re
from itertools import pairwise

from pathflip.text.cues import cues_of
from pathflip.text.visibility import not_visual_kind

__all__ = ["other_places"]

_HIDDEN = ("margins", "nodes")
_BREAK = re.compile(r"\s*,\s*(?:(?:and|or|nor|as well as)\s+)?|\s+(?:and|or|nor|as well as)\s+", re.IGNORECASE)
_PREPOSITION = re.compile(
    r"\b(?:in|within|into|to|at|from|on|of|by|involv(?:es|ed|ing)|invad(?:es|ed|ing)|infiltrat(?:es|ed|ing))\s+",
    re.IGNORECASE,
)
_EXAMINED = re.compile(
    r"\W*(?!(?:on|in|upon|after|at|by)\b)(?:[\w-]+ ){0,4}(?:examinations?|evaluations?|analys[ie]s|assessments?"
    r"|sections?|review|biops(?:y|ies)|samples?|"
    r"specimens?|tissues?) (?:of|from)\s+",
    re.IGNORECASE,
)
_VERB = re.compile(
    r"\s(?:is|are|was|were|has|have|had|remain(?:s|ed)?|appear(?:s|ed)?|lacks?|lacked|do|does|did|cannot|"
    r"(?:show|reveal|"
    r"exhibit|demonstrate|contain|display)(?:s|e?d)?)\s",
    re.IGNORECASE,
)
# What ends a list of places: a verb, or what hangs behind it.
_TAIL = re.compile(
    rf"{_VERB.pattern}|,?\s+(?:with|which|that|while|although|but|where)\b|,\s+(?:\w+ly )?[a-z]+ing\b|;|\.\s|"
    r"\s+(?:indicating|suggesting|confirming|showing|consistent)\b",
    re.IGNORECASE,
)
# Words that name what is found, never where.
_FOUND = re.compile(
    r"\b(?:\w*carcinoma\w*|\w*omas?|tumou?rs?|neoplas\w+|malignan\w+|cancer|metasta\w+|\w*invasion|invasive"
    r"|\w*infiltrat\w*|"
    r"involvement|extension|extent of|spread|\w*necros[ie]s|necrotic|\w*plasia|\w*osis|\w*itis|inflammat\w+"
    r"|changes?|atypi\w+|"
    r"mitos[ie]s|mitotic|ha?emorrhage|calcificat\w*|mucin|grade|differentiat\w+|cells?|findings?|features?|"
    r"abnormalit\w+|disease|lesions?|evidence|patterns?|components?|effects?|status|size|stage|deposits?|foci"
    r"|focus)\b",
    re.IGNORECASE,
)
_ADJECTIVE = re.compile(
    r"\b(?:deep|superficial|(?:non)?sentinel|iliac|bony|left|right|upper|lower|inner|outer|new|all|both|closest"
    r"|nearest|inked|final|true|tracheo\w*|"
    r"(?!ovary\b|canal\b|adrenal\b|capillary\b|urinal\b|sampled\b|examined\b|submitted\b|tested\b"
    r"|evaluated\b)[\w-]+(?:al|ar|ic|ior|ous|ine|ary|ory|eal|ial|ed|ing|ive)|"
    r"levels?|stations?|[\dIVX]+\w?|neck|axilla|one|two|three|four|five|six|seven|eight|nine|ten)\W*$",
    re.IGNORECASE,
)
_OF_ITS_OWN = re.compile(
    r"\b(?:nodes?|margins?|edges?|lines?)\b.*\b(?:of|from|for|in|at|along|around|near|surrounding|includ\w+"
    r"|specific\w*|"
    r"labell?ed|adjacent)\b|\b(?:number|group|set) of\b",
    re.IGNORECASE,
)
_FRONT = re.compile(r"\W*(?:on|in|upon|after|during|at|with|following|despite)\b[^,]*,\s*", re.IGNORECASE)
_REGION = re.compile(r"\b(?:regions?|areas?|levels?|stations?|basins?|groups?)\b", re.IGNORECASE)
_EXPLAINS = re.compile(
    r"\W*(?:including|specifically|such as|namely|particularly|especially|composed|consisting|made|which|that"
    r"|e\.g)\b",
    re.IGNORECASE,
)
_ANY_MARGIN = re.compile(
    r"\W*(?:the |all |its |other |their |any |examined |respective |final |inked |true )*(?:surgical "
    r"|resection |excision |"
    r"specimen )*(?:margins?|edges?)(?:\W*$| (?:of|from|at|for)\b)|\W*(?:the|all|any)\b|.*\bmargin(?: lines?"
    r"| biops(?:y|ies)| specimens?)?\W*$",
    re.IGNORECASE,
)
# "Fortunately, the margins …", "on the right side, one node …", "nodes, all of which …": no place of the list.
_NO_PLACE = re.compile(
    r"^\W*(?:[\w-]+ly|again|meanwhile|however|also|thus|then|further\w*)\W*$|^\W*(?:on|in|within|at|upon|after"
    r"|during|despite|with|"
    r"along|following|for|by|which|that|removed|taken|among)\b|\b(?:of|in|to|from|at|with|the|an?)\W*$|\w{3}ly\W*$",
    re.IGNORECASE,
)
_LONGEST_PLACE, _LONGEST_HIDDEN = 9, 16  # words


def other_places(clause: str) -> str | None:
    """The clause without the margins and nodes of its list of places; None where there is no such list."""
    adverb = re.match(
        r"\W*(?:[\w-]+ly|again|meanwhile|however|furthermore|moreover|also|in addition),\s+", clause, re.IGNORECASE
    )
    verb, front = _VERB.search(clause), _FRONT.match(clause)
    if verb is not None:
        openings = (_EXAMINED.match(clause), adverb, front)
        start = next((one.end() for one in openings if one is not None and one.end() < verb.start()), 0)
        shorter = _without_hidden(clause, start, verb.start())
        if shorter is not None:
            return shorter
    for that in re.finditer(r"\bthat\s+", clause):
        verb = _VERB.search(clause, that.end())
        shorter = _without_hidden(clause, that.end(), verb.start()) if verb is not None else None
        if shorter is not None:
            return shorter
    for preposition in _PREPOSITION.finditer(clause, front.end() if front else 0):
        tail = _TAIL.search(clause, preposition.end())
        shorter = _without_hidden(clause, preposition.end(), tail.start() if tail else len(clause))
        if shorter is not None:
            return shorter
    return None


def _without_hidden(clause: str, start: int, end: int) -> str | None:
    """The clause with its list at start..end cut to the places a slide can show."""
    listed = clause[start:end]
    cuts = [match.span() for match in _BREAK.finditer(listed)]
    bounds = [0, *[position for cut in cuts for position in cut], len(listed)]
    items = [listed[bounds[i] : bounds[i + 1]] for i in range(0, len(bounds), 2)]
    items = [item for item in items if item.strip(" ,.")]
    hidden = _hidden(items, [listed[start:stop] for start, stop in cuts])
    if len(items) < 2 or not any(hidden) or all(hidden) or not all(map(_is_place, items)):
        return None
    for place in range(len(items) - 2, -1, -1):  # "deep and lateral margins", "involved and uninvolved nodes"
        hidden[place] = hidden[place] or (
            hidden[place + 1] and _ADJECTIVE.search(items[place].strip(" ,.")) is not None
        )
    if all(hidden):
        return None
    for (left, left_hidden), (right, right_hidden) in pairwise(zip(items, hidden, strict=True)):
        if right_hidden and not left_hidden and _may_be_of(left, right):
            return None
    shown = [place for place, is_hidden in enumerate(hidden) if not is_hidden]
    explained = any(_EXPLAINS.match(item) and (not place or hidden[place - 1]) for place, item in enumerate(items))
    if explained or any(_is_open(items, hidden, place) for place in shown):
        return None
    places = ", ".join(items[place].strip(" ,") for place in shown)
    return f"{clause[:start]}{re.sub(r'^both ', '', places, flags=re.IGNORECASE)}{clause[end:]}"


def _hidden(items: list[str], links: list[str]) -> list[bool]:
    """Which items are margins or nodes, or places of those before them ("margins of the bronchus and vessels")."""
    hidden: list[bool] = []
    owns = False
    for place, item in enumerate(items):
        kind = not_visual_kind(item) in _HIDDEN
        if place and "as well as" in links[place - 1] and not _REGION.search(item):
            owns = False
        hidden.append(kind or owns)
        owns = owns or (kind and _OF_ITS_OWN.search(item) is not None)
    return hidden


def _is_open(items: list[str], hidden: list[bool], place: int) -> bool:
    """Whether an item names no place by itself: an adjective that no shown item behind it completes."""
    item = items[place].strip(" ,.")
    if re.search(r"[a-z]{3}", item) is None:
        return True
    goes_on = place + 1 < len(items) and not hidden[place + 1]
    return _ADJECTIVE.search(item) is not None and not goes_on


def _is_place(item: str) -> bool:
    return (
        len(item.split()) <= (_LONGEST_HIDDEN if not_visual_kind(item) in _HIDDEN else _LONGEST_PLACE)
        and _FOUND.search(re.sub(r"\blymph nodes?\b", "", item)) is None
        and re.search(cues_of("en").verbs, item, re.IGNORECASE) is None
        and _NO_PLACE.search(item) is None
        and item.count("(") == item.count(")")
        and re.search(r"\b(?:no|not|without|free|negative|absent|clear)\b", item, re.IGNORECASE) is None
    )


def _may_be_of(left: str, right: str) -> bool:
    """Whether a place may be that of the margins behind it: "the skin and deep margins"."""
    return not_visual_kind(right) != "nodes" and _ANY_MARGIN.match(right) is None
