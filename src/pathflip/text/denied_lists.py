"""Of a denied list, the items that a slide can show: "no nodal metastasis, vascular invasion or necrosis".

One thing in the list that cannot be seen would set the whole clause aside, and the denial of the others with it. The
items are held against the tables one by one; where an item may be the place of the one before it ("no tumour in the
nodes or the muscularis"), nothing is taken out.
"""

import re

from pathflip.text.cues import LANGUAGES, cues_of
from pathflip.text.polarity import first_denial
from pathflip.text.visibility import not_visual_kind

__all__ = ["visible_items"]

_BREAK = re.compile(
    r"\s*,\s*(?:(?:and|or|nor|und|oder|noch|et|ou|ni|y|e|o)\s+)?|\s+(?:and|or|nor|und|oder|noch|et|ou|ni|y|o)\s+|"
    r"\s*[・、]\s*",
    re.IGNORECASE,
)
_PREPOSITION = re.compile(
    r"\b(?:in|of|at|from|to|into|within|on|through|by|beyond|im|in|an|der|des|von|aus|auf|dans|de|du|des|en|del"
    r"|al)\s",
    re.IGNORECASE,
)
# Nouns that name something that happens or grows, never the place of something else.
_EVENT = re.compile(
    r"\b(?:\w*invasion\w*|\w*infiltrat\w*|\w*necros[ie]s|\w*nekrose\w*|nécrose\w*|dysplas\w+|\w*dysplasie\w*"
    r"|displasia|"
    r"\w*carcinom\w*|malignan\w+|atyp\w+|\w*ulcerat\w*|\w*ulzeration\w*|deposits?|granulom\w*|embol\w*|mitos\w+|"
    r"ha?emorrhage|calcificat\w*|inflammation|\w*involvement|perforation|extension)\b",
    re.IGNORECASE,
)
_OR = re.compile(r"\b(?:or|nor|oder|noch|ou|ni|o|u)\b|または|あるいは", re.IGNORECASE)
_OF_PLACES = re.compile(
    r"\b(?:invol\w+|invasion|infiltration|extension|tumou?r|carcinoma) (?:of|in|into|by|to|within)\b", re.IGNORECASE
)
# "stains showed invasion, and Congo red was negative": a clause of its own and no item.
_SAYS = re.compile(r"\b(?:show|reveal|demonstrat|exhibit|confirm|display|contain)(?:e?s|e?d)\b", re.IGNORECASE)
_EVIDENCE = re.compile(r"^(?:\w+ )?(?:evidence|signs?|indication) of\b", re.IGNORECASE)
# Said of a place, and not of what was looked for there.
_OF_PLACE = re.compile(
    r"\b(?:of|for|from)\W*$|\b(?:negative|clear|free|uninvolved|unaffected|spared|unremarkable)\b", re.IGNORECASE
)
_LONGEST_ITEM = 9  # words; a longer stretch is a clause and no item


def visible_items(clause: str, language: str = "en") -> str | None:
    """The clause with the items alone that a slide can show; None where there are none, or nothing is to be left out.

    Args:
        clause: a clause that denies.
        language: its two-letter code.
    """
    denial = first_denial(clause, language) if language in LANGUAGES else None
    if denial is None:
        return None
    start, end = denial
    verb = re.compile(cues_of(language).verbs, re.IGNORECASE)
    behind = _items(clause[end:])
    if len(behind) > 1:  # "no evidence of A, B or C (is seen)"
        visible_items = _visible(behind, _OR.search(clause[end:]) is not None, language)
        rest = f"{clause[:end].rstrip()} {', '.join(visible_items)}"
    elif re.search(cues_of(language).findings if language == "en" else _EVENT.pattern, clause[end:], re.IGNORECASE):
        return None  # "A, B and the margins are free of tumour cells": a list of places
    elif _OF_PLACE.search(clause[start:end]):
        return None  # "the margins for the invasive tumour and the DCIS are negative"
    else:  # "A, B and C are absent"
        tail = verb.search(clause)
        place = min(start, tail.start()) if tail is not None else start
        before = _items(clause[:place])
        visible_items = _visible(before, True, language) if len(before) > 1 else []
        rest = f"{', '.join(visible_items)} {clause[place:]}"
    return rest if visible_items and not_visual_kind(rest, language) is None else None


def _items(text: str) -> list[str]:
    return [item.strip() for item in _BREAK.split(text) if item.strip(" .;:")]


def _visible(items: list[str], one_denial: bool, language: str) -> list[str]:
    """The visible items of a list of which some cannot be seen; none where that cannot be told apart.

    Args:
        items: the list.
        one_denial: it ends with "or", so that the denial surely reaches its end.
        language: a two-letter code.
    """
    finding = re.compile(cues_of(language).findings if language == "en" else _EVENT.pattern, re.IGNORECASE)
    of_places = _OF_PLACES.search(items[0]) is not None  # "no involvement of the nipple, the margins or the skin"
    visible_items: list[str] = []
    dropped = places = False
    for item in items:
        if len(item.split()) > _LONGEST_ITEM or _SAYS.search(item):
            return []
        if not_visual_kind(item, language) is not None:
            if visible_items and _PREPOSITION.search(_EVIDENCE.sub("", visible_items[-1])) and not _EVENT.search(item):
                return []  # "no carcinoma at the ureteric or urethral margins": a place of the one before
            dropped, places = True, places or _PREPOSITION.search(_EVIDENCE.sub("", item)) is not None
        elif dropped and not one_denial:  # "without nodal spread, a stage of T2 and lymphatic invasion"
            break
        elif (of_places and not places) or (_EVENT if places else finding).search(item):
            visible_items.append(item)
        else:
            return []
    # "invasion into the bronchial or vascular margins"
    last_is_a_place = of_places and not_visual_kind(items[-1], language) is not None
    return visible_items if dropped and not last_is_a_place else []
