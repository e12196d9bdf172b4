"""Reports whose specimen is a lymph node: there, and nowhere else, a slide shows what is said of nodes."""

import re
from collections.abc import Sequence
from dataclasses import replace

from pathflip.text.finding_words import names_a_finding
from pathflip.types import SubCaption

__all__ = ["parts_that_are_nodes", "seen_in_a_node"]

_PART_TITLE = re.compile(
    r"(?:^|\n|[.;]\s)\W*(?:part |specimen )?\(?(?P<part>[A-Z]|\d{1,2})[.):]\s+(?P<title>[^:\n]{3,100})", re.IGNORECASE
)
_FIRST_TITLE = re.compile(
    r"\W*(?:(?:final |pathologic(?:al)? |histologic(?:al)? )?diagnosis\W+)?(?:\(?(?:A|1)[.)]\s+)?"
    r"(?P<title>[^:\n]{3,100}):",
    re.IGNORECASE,
)
# "Lymph node, left axilla, excision"; "Lymph nodes: no malignancy" may be a line of a tumour's report.
_NODE_TITLE = re.compile(
    r"(?:\w+[ ,]+){0,3}lymph nodes?\b(?=.*\b(?:excision\w*|biops\w+|dissection|resection|sampling|lymphadenectomy)\b)"
    r"(?!.*\b(?:margins?|and (?!node))\b)",
    re.IGNORECASE,
)


def parts_that_are_nodes(text: str, parts: Sequence[str]) -> frozenset[str | None]:
    """The parts whose title names a lymph node and how it was taken; None among them: the whole report is of one."""
    if len(parts) > 1:
        titles = {match["part"]: match["title"] for match in _PART_TITLE.finditer(text)}
        return frozenset(part for part in parts if _NODE_TITLE.match(titles.get(part, "")))
    first = _FIRST_TITLE.match(text)
    return frozenset({None, *parts}) if first is not None and _NODE_TITLE.match(first["title"]) else frozenset()


def seen_in_a_node(one: SubCaption) -> SubCaption:
    """A finding that was set aside because it is a node's, as it stands to a slide of that node."""
    metastasis = one.reason == "size" and "metasta" in one.text.lower()
    set_aside = not one.visual and (one.reason == "nodes" or metastasis)
    return replace(one, visual=True, reason=None) if set_aside and names_a_finding(one.text) else one
