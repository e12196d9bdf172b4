"""The clauses of a sentence: where polarity may change within it ("…, but …", "… without …", "…; …")."""

import re

from pathflip.text.cues import LANGUAGES
from pathflip.text.finding_words import names_a_finding
from pathflip.text.polarity import LanguageRules, blanked, is_answer_line, polarity_of, rules_of, value_polarity
from pathflip.text.reach import RELATIVE, Clause, is_event, items_of, japanese_items

__all__ = ["clauses_of", "is_request"]

# What stands before the comma is a clause of its own: "Without necrosis, the tumour shows atypia".
_FRONTED = re.compile(
    r"\W*(?:despite|in spite of|apart from|aside from|other than|except for|with the exception of|without|"
    r"in the absence of|(?:confirming|demonstrating|showing|given|due to|owing to|because of|in view of) "
    r"(?:the )?(?:absence|lack) of|with no|lacking|ohne|bei fehlende[rmn]?|sans|en l['’]absence d|sin"
    r"|en ausencia de)\b[^,]+,\s+",
    re.IGNORECASE,
)
_OF_ITS_EXTENT = re.compile(
    r"\W*(?:despite|in spite of) (?:the |its )?(?:\w+ ){0,2}(?:nature|extent|size|presence|location"
    r"|proximity)(?: of (?:the |this )?(?:\w+ )?"
    r"(?:carcinoma|tumou?r|disease|neoplasm|lesion))?\W*$",
    re.IGNORECASE,
)
_DESPITE = re.compile(r"\W*(?:despite|in spite of)\b", re.IGNORECASE)
# "Despite marked atypia there is no invasion": the comma is missing.
_THERE_IS_NO = re.compile(
    r"\W*(?:despite|in spite of|although|though|while|whereas)\b[^,;]+?(?P<gap>\s+)"
    r"there (?:is|are|was|were) (?:no|neither)\b",
    re.IGNORECASE,
)
_DASH = re.compile(r"\s+(?:[-–—•]|--)\s+(?=[^\W\d_]{2})")
_DENIAL_FIRST = re.compile(
    r"(?:no|without|negative for|free of|absence of|kein\w*|ohne|pas|sans|aucune?|absence d|sin|ausencia de)\b",
    re.IGNORECASE,
)
_WITHOUT_FIRST = re.compile(
    r"\W*(?:without|with no|in the absence of|lacking|ohne|sans|sin|en ausencia de)\b", re.IGNORECASE
)
_ARTICLE = re.compile(r"(?:the|an?|this|these|der|die|das|eine?|l[ea]s?|une?|el|los|las|una?)\s", re.IGNORECASE)
_CONCESSION = re.compile(
    r"\W*(?:while|although|though|whereas|während|obwohl|bien que|alors que|aunque|mientras que)\b", re.I
)
# The same between commas: "The gingiva, apart from chronic inflammation, does not contain tumour".
_EXCEPTION = re.compile(
    r",\s+(?:apart from|aside from|other than|except(?:ing)?(?: for)?|with the exception of|besides|in addition to|"
    r"abgesehen von|neben|außer|hormis|sauf|en dehors d\w*|salvo|excepto|aparte de|además de)\b[^,]+(?P<comma>,\s+)",
    re.IGNORECASE,
)
# What still belongs to its verb: "the glands were also | free of carcinoma".
_OPEN_VERB = {
    "en": re.compile(
        r"\b(?:is|are|was|were|be|been|being|remains?|remained|appears?|appeared)(?: (?:also|all|both|otherwise"
        r"|again|"
        r"still|each|now|thus|\w+ly))*$",
        re.IGNORECASE,
    ),
    "de": re.compile(
        r"\b(?:ist|sind|war|waren|wird|werden|wurden?|bleibt|bleiben|liegt|liegen|lässt|lassen|findet|finden|"
        r"zeigt|zeigen|"
        r"stellt|stellen|kommt|kommen|ergibt|ergeben|sieht|kann|können|konnte|konnten)(?: (?:sich|man|auch|hier))*$",
        re.IGNORECASE,
    ),
    "fr": re.compile(r"\b(?:est|sont|était|étaient|reste|restent|semble|semblent|paraît|paraissent|ne|n['’])$", re.I),
    "es": re.compile(r"\b(?:es|son|está|están|era|eran|queda|quedan|parece|parecen|se)$", re.IGNORECASE),
}
# A thought between a subject and its verb: "hobnailing, although sought, was not encountered".
_PARENTHESIS = re.compile(
    r",\s+(?:(?:although|though|albeit|even (?:if|though)|if|when|while|wherever|whenever|obwohl|wenngleich|"
    r"bien que|quoique|"
    r"aunque)\s+(?:[^\W\d_]+\s+){0,4}[^\W\d_]+|(?:which|that|who|die|der|das|welche[rs]?|qui|que)\s+[^,;]{3,60}),\s+"
    r"(?=(?:is|are|was|were|has|have|had|could|can|cannot|do|does|did|fails?|failed|ist|sind|war|waren|wurden?|"
    r"konnten?|lässt|"
    r"lassen|fehl\w+|est|sont|n['’]|ne|es|son|no|se)\b)",
    re.IGNORECASE,
)
# A relative clause that says of what stands before it that it is not there: "invasion, which is absent".
_NOT_THERE = re.compile(
    r"(?:which|that)\s+(?:(?:we|one|i)\s+)?(?:(?:is|are|was|were|do|does|did|can|could|has been|have been)\s+)?"
    r"(?:not|never|absent|lacking|missing|cannot)\b(?:\s+(?:be|been|see|seen|find|found|present|identified|"
    r"observed|evident|"
    r"detected|noted|here|demonstrated|recogni[sz]ed|identifiable))*\W*$|"
    r"(?:die|der|das|welche[rs]?)\s+(?:\w+\s+)?(?:nicht\s+\w+(?:\s+(?:ist|sind|werden|wird))?|fehl(?:t|en))\W*$|"
    r"qui (?:est absente?|sont absente?s|n['’]est pas (?:vue?|retrouvée?|identifiée?)|fait défaut)\W*$|"
    r"que no se (?:observa|identifica|encuentra|ve)n?\W*$",
    re.IGNORECASE,
)
# "invasion into, but not through, the muscularis propria": two statements of one layer.
_NOT_THROUGH = re.compile(
    r"\b(?P<event>invasion|invad\w+|infiltrat\w+|extend\w*|extension|penetrat\w+"
    r"|grow\w*)\b(?P<reached>[^,;.]{0,40}?\s"
    r"(?:into|to|up to|close to|within|in)),?\s+but\s+(?P<limit>not\s+(?:\w+ly )?(?:through|beyond|across|past),?\s+"
    r"(?P<layer>[^,;.]{3,60}?))(?=[,;.]|\s+(?:with|and|while|but)\b|$)",
    re.IGNORECASE,
)
# What a title denies beside its finding: "Tubular adenoma, | negative for dysplasia". Nodes and margins are what
# the denial is about.
_NEGATIVE_FOR = {
    language: re.compile(rf",?\s+(?={first}\b)", re.IGNORECASE)
    for language, first in {
        "en": r"(?:and )?(?:negative for|free of)",
        "de": r"(?:negativ für|frei von|[a-zäöü]{4,}frei)",
        "fr": r"(?:négati(?:f|ve)s? pour|indemnes? d[e'’])",
        "es": r"(?:negativ[oa]s? para|libres? de|exent[oa]s? de)",
    }.items()
}
_THE_TUMOUR = re.compile(r"tum(?:ou?r|eur)|malign|[ck]ar[cz]in|neoplas|néoplas|cancer|metast|métast", re.IGNORECASE)
_NEGATIVE_PLACE = re.compile(
    r"\b(?:nod(?:e|es|al)|margins?|rings?|do(?:ugh)?nuts?|edges?|resection|\w*lymphknoten|\w*r[aä]nd(?:er|ern|es)?|absetz\w*|"
    r"ganglions?|ganglionnaires?|marges?|limites?|tranches?|résection|ganglios?|ganglionar\w*|m[aá]rgen(?:es)?|bordes?|resección)\b",
    re.IGNORECASE,
)
_FIRST_EXCEPT = re.compile(
    r"\W*(?:apart from|aside from|other than|except for|abgesehen von|bis auf|außer|hormis|en dehors d|salvo|"
    r"excepto)\b",
    re.IGNORECASE,
)
_NEXT_LABEL = re.compile(r",\s*(?=[^,:;=]{2,50}[:=]\s*\S)")


_REACHES = re.compile(r"(?:invading|infiltrating|penetrating|extending)\b(?! only\b)", re.IGNORECASE)


def clauses_of(text: str, language: str = "en") -> list[Clause]:
    """The clauses of a sentence that state something, in order.

    A bare denial ("…; none was found") or a scrap ("…, but focal") stays with what it is about.
    """
    if is_request(text) or _answers_between_dashes(text):
        return [Clause(text, unclear=True)]
    rules = rules_of(language if language in LANGUAGES else "en")
    if language == "en" and (depth := _NOT_THROUGH.search(text)) is not None:
        reached = f"{text[: depth.end('reached')]} {depth['layer']}{text[depth.end() :]}"
        return [*clauses_of(reached, language), Clause(f"{depth['event']} {depth['limit']}")]
    clauses: list[Clause] = []
    for piece in _pieces(text, rules, language):
        if not piece.text.strip(" .,;:。、") or (piece.text != text and _is_empty_concession(piece.text, rules)):
            continue
        words = re.findall(r"[^\W_]+", piece.text.lower())
        polarity = polarity_of(piece.text, language)
        frame = bool(words) and all(word in rules.cues.frame or word.endswith("ly") for word in words)
        degree = len(words) > 1 and words[0] in ("not", "nicht", "pas", "no") and words[-1] in rules.cues.degrees
        short = 0 < len(words) < 3 and words[0] not in rules.cues.frame and not re.search(r"[:=]", piece.text)
        before = polarity_of(clauses[-1].text, language) if clauses else None
        bare = (language == "en" and _BARE_DENIAL.match(piece.text)) or value_polarity(piece.text, language) == "denied"
        if clauses and degree and len(words) < 4:  # "necrosis is seen, but not extensive" affirms necrosis
            continue
        if clauses and _BARE_NOT.match(piece.text) and before == "affirmed" and "," in clauses[-1].text:
            told, topic = clauses.pop().text.rsplit(",", 1)  # "invasion ist nachweisbar, Nekrosen hingegen | nicht"
            clauses += [Clause(told), Clause(f"{topic.strip()} {piece.text.strip()}")]
        elif clauses and before == "affirmed" and _NOT_THERE.match(piece.text.lstrip(" ,")):
            clauses[-1] = Clause(
                f"{clauses[-1].text}, {piece.text.lstrip(' ,')}", rules.verb.search(clauses[-1].text) is not None
            )
        elif clauses and (bare or (short and polarity == "affirmed" == before)):
            clauses[-1] = _with_answer(clauses[-1], piece.text, bool(bare), language)
        elif (
            polarity != "affirmed" or not frame
        ):  # "no vascular invasion, | extending to the pleura": denied, too, maybe
            reaches = before == "denied" and _REACHES.match(piece.text) is not None
            clauses.append(Clause(piece.text, piece.unclear or reaches))
    if len(clauses) == 1 and "," in text and _CONCESSION.match(text):  # "While no blasts cluster, islands abound"
        clauses = [Clause(clauses[0].text, unclear=polarity_of(clauses[0].text, language) == "denied")]
    return clauses or [Clause(text)]


def _with_answer(clause: Clause, answer: str, denies: bool, language: str) -> Clause:
    """A clause with the scrap behind it ("LVI, no"); unclear where the scrap denies and the whole does not."""
    joined = f"{clause.text}, {answer}"
    if denies and polarity_of(joined, language) == "affirmed":
        label = f"{clause.text.rstrip(' ,;:')}: {answer}"
        return Clause(label, polarity_of(label, language) != "denied")
    return Clause(joined, clause.unclear)


def is_request(text: str) -> bool:
    """Whether a text asks instead of stating: "Rule out carcinoma", "exclude malignancy"."""
    return _REQUEST.match(text) is not None


_REQUEST = re.compile(
    r"\W*(?:rule out|r/o|exclude|please|query|ausschluss|z\.? ?a\.|éliminer|descartar)\b", re.IGNORECASE
)
_BARE_NOT = re.compile(r"\W*(?:nicht|pas|non|no|not)\W*$", re.IGNORECASE)
_BARE_DENIAL = re.compile(
    r"(?:(?:is|are|was|were|has been|have been) )?(?:none|not|nothing|absent|lacking|ruled out|excluded)"
    r"(?: (?:is|are|was|were|be|been|being))?(?: (?:identified|seen|present|observed|noted|detected|found|evident|"
    r"demonstrated|appreciated|visible|visuali[sz]ed|recogni[sz]ed|apparent|shown|encountered|discernible|"
    r"recogni[sz]able|involved|infiltrated|invaded))?\W*$",
    re.IGNORECASE,
)


def _pieces(text: str, rules: LanguageRules, language: str) -> list[Clause]:
    """The sentence cut at every break of its language, and where a denial's reach may end."""
    masked = rules.pseudo.sub(blanked, text)
    parts, start = [], 0
    front = _fronted(text, rules)
    cuts = [match.span() for match in rules.breaks.finditer(masked)]
    if front:
        comma = text.rindex(",", 0, front.end())
        if not _WITHOUT_FIRST.match(text) or _is_main_clause(text[front.end() :], rules):
            cuts = sorted({*cuts, (comma, front.end())})
    cuts = sorted({*cuts, *_concession_ends(text, rules)})
    cuts = sorted({*cuts, *_denials_beside_a_finding(text, rules, language)})
    if (start_of_main := _THERE_IS_NO.match(text)) is not None:
        cuts = sorted({*cuts, start_of_main.span("gap")})
    denial = rules.denial.search(masked) if _FIRST_EXCEPT.match(text) else None
    if denial is not None and front is None:  # "Abgesehen von einer Fibrose keine Auffälligkeiten"
        cuts = sorted({*cuts, (denial.start(), denial.start())})
    cuts = sorted({*cuts, *(match.span("comma") for match in _EXCEPTION.finditer(masked))})
    if len(re.findall(r"[:=]\s|(?<=[^\W\d_])=(?=[^\W\d_])", text)) > 1:  # "Mitoses: rare, necrosis: none"
        cuts = sorted({*cuts, *(match.span() for match in _NEXT_LABEL.finditer(masked))})
    dashes = _dashes(text)
    cuts = sorted({*cuts, *dashes})
    parentheses = [match.span() for match in _PARENTHESIS.finditer(text)]
    for begin, end in cuts:
        if begin < start or (language in _OPEN_VERB and _OPEN_VERB[language].search(text[start:begin])):
            continue
        if any(first <= begin and end <= last for first, last in parentheses):
            continue
        parts.append(text[start:begin])
        start = end
    parts.append(text[start:])
    pieces: list[Clause] = []
    for place, part in enumerate(parts):
        if part and language in LANGUAGES and polarity_of(part, language) != "affirmed" and not is_answer_line(part):
            before = parts[place - 1] if place else ""
            pieces += japanese_items(part) if language == "ja" else items_of(part, rules, language, before)
        elif part:
            pieces.append(Clause(part))
    return _topics_unclear(pieces) if dashes else pieces


def _denials_beside_a_finding(text: str, rules: LanguageRules, language: str) -> list[tuple[int, int]]:
    """The gap before "negative for" in a stretch without a verb that names a finding first."""
    match = _NEGATIVE_FOR[language].search(text) if language in _NEGATIVE_FOR else None
    if match is None:
        return []
    head = text[: match.start()]
    names = re.search(rules.cues.findings, head, re.I) is not None if language == "en" else names_a_finding(head)
    whole = rules.verb.search(head) or rules.denial.search(head) or _NEGATIVE_PLACE.search(head) or is_answer_line(text)
    if not names or whole:
        return []
    before, comma, place = head.rpartition(",")
    if comma and "," not in match.group() and _THE_TUMOUR.search(text[match.end() :]):
        return [(len(before), len(head) - len(place.lstrip()))]  # "Adenocarcinoma, | pleura negative for tumour"
    return [match.span()]


def _fronted(text: str, rules: LanguageRules) -> re.Match[str] | None:
    """What stands before a sentence's subject and comma; a "despite" only where it names a finding of this slide."""
    front = _FRONTED.match(text)
    return None if front is not None and _is_empty_concession(front.group(), rules) else front


def _is_empty_concession(text: str, rules: LanguageRules) -> bool:
    """Whether a text is a "despite" that names no finding of this slide ("despite careful search", "… metastases")."""
    if not _DESPITE.match(text):
        return False
    if _OF_ITS_EXTENT.match(text):
        return True
    return re.search(rules.cues.findings, text, re.IGNORECASE) is None or "metasta" in text.lower()


def _dashes(text: str) -> list[tuple[int, int]]:
    """Dashes that set items apart: "CARCINOMA IN SITU - NO NECROSIS - GRADE 2"; none of "necrosis - absent"."""
    answers = any(is_answer_line(line) and _is_answer(line) for line in re.split(r"[;.]\s", text))
    dashes = [] if answers else [match.span() for match in _DASH.finditer(text)]
    denial = bool(dashes) and (_DENIAL_FIRST.match(text) or _DENIAL_FIRST.match(text[dashes[0][1] :]))
    return dashes if len(dashes) > 1 or denial else []


def _is_answer(line: str) -> bool:
    """Whether what stands behind the dash of a line is a plain answer ("LVI - not seen")."""
    behind = _DASH.split(line)[-1].strip(" .;,")
    return any(value_polarity(behind, name) for name in LANGUAGES)


def _answers_between_dashes(text: str) -> bool:
    """Whether a line of dashes is "Necrosis - absent - LVI - present", of which nobody can tell what answers what."""
    lines = [[item.strip(" .,") for item in _DASH.split(line)] for line in re.split(r"[;.]\s", text)]
    return any(
        len(items) > 2 and any(value_polarity(item, name) for item in items[1:] for name in LANGUAGES)
        for items in lines
    )


def _topics_unclear(pieces: list[Clause]) -> list[Clause]:
    """ "Invasion - no glands in the stroma": what stands before the dash may be the question alone."""
    around = zip([Clause(""), *pieces], pieces, [*pieces[1:], Clause("")], strict=False)
    return [
        Clause(
            piece.text,
            piece.unclear
            or (bool(_DENIAL_FIRST.match(before.text) or _DENIAL_FIRST.match(after.text)) and is_event(piece.text)),
        )
        for before, piece, after in around
    ]


def _is_main_clause(text: str, rules: LanguageRules) -> bool:
    """Whether what follows "Without necrosis, …" is a clause ("the tumour is solid") and no further item."""
    return rules.verb.search(text) is not None or _ARTICLE.match(text) is not None


def _concession_ends(text: str, rules: LanguageRules) -> list[tuple[int, int]]:
    """The comma behind "While the tumour is small, …": the first that a stretch with a verb of its own follows."""
    if not _CONCESSION.match(text):
        return []
    commas = [*re.finditer(r",\s+", text)]
    for place, comma in enumerate(commas):
        stop = commas[place + 1].start() if place + 1 < len(commas) else len(text)
        behind = text[comma.end() : stop]
        if rules.verb.search(behind) and not RELATIVE.match(behind):
            return [comma.span()] if len(text[: comma.start()].split()) > 3 else []
    return []
