"""What this slide cannot show, and why: margins, nodes, stage, size, history, stains that are not on it.

The words are in :mod:`pathflip.text.cues`, by language. A clause without a subject of its own shares the fate of the
clause before it ("The nodes are reactive, without malignancy").
"""

import re
import unicodedata
from collections.abc import Callable
from functools import lru_cache

from pathflip.text.cues import LANGUAGES, cues_of

__all__ = [
    "kinds_of",
    "names_a_finding",
    "not_visual_kind",
    "says_nothing",
    "visible_rest",
    "weighs_the_case",
    "without_asides",
]

# In brackets, or (stage) at the end behind a comma, these kinds are cut away from an otherwise visible sentence.
_ASIDES = ("stage", "size", "nodes", "receptors", "margins")


@lru_cache(maxsize=len(LANGUAGES))
def _compiled(language: str) -> tuple[list[tuple[str, re.Pattern[str]]], re.Pattern[str], re.Pattern[str]]:
    cues = cues_of(language)
    kinds = [(kind, re.compile(pattern)) for kind, pattern in cues.not_visual_cased.items()]
    kinds += [(kind, re.compile("|".join(patterns), re.IGNORECASE)) for kind, patterns in cues.not_visual.items()]
    anyway = re.compile("|".join(cues.visible_anyway) or r"(?!)", re.IGNORECASE)
    return kinds, anyway, re.compile(cues.dependent, re.IGNORECASE)


_FULL_WIDTH = re.compile(r"[！-～]")  # "Ｌｙ０" is a stage, too


@lru_cache(maxsize=65536)
def not_visual_kind(text: str, language: str = "en") -> str | None:
    """Why a slide cannot show ``text`` ("margins", "nodes", "stage", …), or None if it can."""
    kinds, anyway, _ = _compiled(language if language in LANGUAGES else "en")
    rest = anyway.sub(" ", unicodedata.normalize("NFKC", text) if _FULL_WIDTH.search(text) else text)
    kind = next((kind for kind, pattern in kinds if pattern.search(rest)), None)
    return kind or _empty_kind(text, language)


def says_nothing(text: str, language: str = "en") -> bool:
    """Whether a text says that something is not known ("margins and invasion are not specified")."""
    rules = _compiled(language if language in LANGUAGES else "en")[0]
    return any(kind == "no information" and pattern.search(text) for kind, pattern in rules)


# What sums a case up: "Overall, …", "In summary, …"; "These findings / This pathology …" but for what they list; "The
# findings support …". "The pathological findings indicate a diagnosis of …" opens a report and states the diagnosis.
_ADVERBS = (
    r"additionally|notably|importantly|thus|hence|therefore|consequently|accordingly|ultimately|moreover|"
    r"furthermore|in addition"
)
_FINDINGS_NOUN = (
    r"(?:findings?|features|results|observations?|characteristics|data|evidence|summary|assessments?|pathology"
    r"|evaluations?|"
    r"analys[ie]s|report|profile|picture|constellation|combination|details?|information|case(?! (?:involves"
    r"|shows|demonstrates|reveals))|examination|conclusions?)"
)
_FILLER = r"(?: (?!(?:exhibit|show|display|reveal|demonstrat|ha[sd]|have|is|are|was|were|contain)\w*\b)[\w-]+)"
_WEIGHED = re.compile(
    rf"\W*(?:(?:{_ADVERBS}),?\s+)*(?:"
    r"(?:overall|collectively|taken together|altogether|in (?:summary|conclusion|aggregate|sum|short)|to "
    r"(?:summarize|conclude))\b,?\s+"
    r"(?!(?:\w+ )?(?:grade|score|architect\w+|cellular\w*)\b)|"
    rf"this overall \w+\b|the overall (?=[^.;]*\b(?:underscor|emphasi[sz]|highlight)(?:e|s|es|ed|ing)?\b)|"
    rf"(?:all |all of )?(?:these|this|such"
    rf"|those){_FILLER}{{0,4}}? {_FINDINGS_NOUN}\b(?! includ\w*\b)(?! (?:\w+ )?(?:is|are|was|were) "
    r"(?:seen|present|found|noted|located|accompanied))|"
    rf"(?:the|an?){_FILLER}{{0,4}}? {_FINDINGS_NOUN}(?: \w+ly| collectively| together| documented| observed"
    rf"| above)? (?:support|suggest|underscor|highlight|emphasi[sz]|"
    r"meet|align|corroborat|summari[sz]|delineat|establish|characteri(?:[sz]e|zing|sing)|depict|portray"
    r"|illustrat|reflect|denot|point|"
    r"substantiat|consolidat|reinforc|represent|warrant|necessitat|provid)\w*|"
    rf"(?:the|an?)(?= (?:[\w-]+ ){{0,4}}(?:overall|collectiv\w*|cumulative"
    rf"|combined)){_FILLER}{{0,5}} {_FINDINGS_NOUN}\b)",
    re.IGNORECASE,
)


def weighs_the_case(sentence: str) -> bool:
    """Whether a sentence weighs the case as a whole: it repeats what others state ("These findings collectively …")."""
    return _WEIGHED.match(sentence) is not None


def names_a_finding(text: str) -> bool:
    """Whether an English text holds a word for something that sections show."""
    return re.search(cues_of("en").findings, text, re.IGNORECASE) is not None


def _empty_kind(text: str, language: str) -> str | None:
    """Why a text states no finding ("site", "interpretation"), None where it names one."""
    cues = cues_of(language)
    if not cues.empty or re.search(cues.findings, text, re.IGNORECASE):
        return None
    return next((kind for kind, pattern in cues.empty.items() if re.search(pattern, text, re.IGNORECASE)), None)


_SEGMENT = re.compile(
    r"(?<!associated)(?<!contact)(?<!continuity)(?<!continuous)(?<!contiguous)\s+with\s+(?=an? )|"
    r"\s+and\s+(?=an? (?:\w+ )?(?:size|diameter|thickness|weight|length|depth|resection)\b|the resection\b|"
    r"[a-z]+ing the (?:\w+ ){0,3}margins?\b|the presence of\b|(?:\w+ly )?close to\b)|"
    r",\s+(?:and\s+|with\s+)?|\s+(?:and|but|with|while)\s+(?=(?:is|are|was|were|has|have|measur\w+|no|negative|clear|"
    r"lymph|margins?|stag\w+|metasta\w+|both|one|two|three|positive|involv\w+)\b)|,?\s+(?=(?:alongside"
    r"|along with|together with|indicative of)\b)|\s+with\s+(?=[^,;]{0,60}\bmargins?\b)|\s+(?=(?:measuring|staged|"
    r"classified as p?T\d|identified in|confirmed (?:through|by)|discovered during)\b)",
    re.IGNORECASE,
)
_DIAGNOSIS = re.compile(
    r"\b(?:diagnos(?:is|es) (?:of|is|was)|diagnosed (?:with|as)|found to have|graded as|"
    r"(?:indicating|signifying|denoting|confirming) (?=an? (?:poorly|well|moderately))|"
    r"(?:categori[sz]|classify|identify)ing (?:it|this|the \w+) as (?=an? ))\s*",
    re.IGNORECASE,
)
_REVEALED = re.compile(r"\b(?:revealed|reveals|confirmed|showed|shows)\s+", re.IGNORECASE)
_DESCRIBED_BY = re.compile(r"\bcharacteri[sz]ed by (?=an? )", re.IGNORECASE)
# "… of the margins, which included skeletal muscle": of what stands before it, which this slide does not show.
_OF_ANOTHER = re.compile(
    r"\W*(?:which|that) (?:includ|contain|compris|consist|show|exhibit|reveal|demonstrat)", re.IGNORECASE
)
# "The DCIS, exhibiting a cribriform pattern, (is at the margin)": a subject that says what was seen of it.
_DESCRIBED = re.compile(
    r",\s+(?:\w+ly )?(?:exhibiting|showing|demonstrating|displaying|containing|composed of|characteri[sz]ed by|"
    r"identified as|classified as|described as|graded as)\s",
    re.IGNORECASE,
)
_CUT_SHORT = re.compile(
    r"\b(?:an?|the|\w+-grade|invasive|moderately|poorly|well|of|and|with|is|are|was|were)\W*$", re.IGNORECASE
)
_SPREAD = re.compile(r"\bmetasta\w+|\bnod(?:e|al|es)\b|\blymph\b|\bspread\b", re.IGNORECASE)


def visible_rest(clause: str, language: str = "en", accepted: Callable[[str], bool] = lambda _: True) -> str | None:
    """The part of a clause that a slide can show although the clause as a whole also speaks of what it cannot.

    The diagnosis ("… a 67-year-old woman diagnosed with *invasive carcinoma, grade 2*, stage II") or what stands before
    the first thing that cannot be seen ("*Carcinoma of ductal type*, measuring 3 cm"). None where there is no such
    part, or ``accepted`` takes none. English only.
    """
    if language != "en" or _OF_ANOTHER.match(clause) or _is_of_a_stain(clause):
        return None
    verb = re.compile(cues_of(language).verbs, re.IGNORECASE)
    diagnosis = _DIAGNOSIS.search(clause) if not re.search(r"\b(?:pre-?operative|clinical) diagnos", clause) else None
    described = _DESCRIBED_BY.search(clause)
    candidates = [clause[diagnosis.end() :], clause] if diagnosis else [clause]
    candidates += [clause[described.end() :]] if described else []
    revealed = _REVEALED.search(clause) if not_visual_kind(clause) == "clinical" else None
    candidates += [clause[revealed.end() :]] if revealed else []
    for candidate in candidates:
        cuts = [match.start() for match in _SEGMENT.finditer(candidate)]
        ends = [*([len(candidate)] if candidate != clause else []), *reversed(cuts)]
        for end in ends:
            head = candidate[:end].strip(" ,;")
            whole = candidate == clause
            says = verb.search(head) or _SAYS.search(head)
            if whole and (verb.search(clause) or _SAYS.search(clause)) and not says and not _DESCRIBED.search(head):
                continue  # the subject alone of something that cannot be seen
            if not_visual_kind(head, language) is None and _states_a_finding(head, whole) and accepted(head):
                return head
    return None


# "Special stains confirmed TTF-1 in the cells, supporting the diagnosis of carcinoma": of the stain to its end.
_SAYS = re.compile(
    r"\b(?:is|are|was|were|(?:show|reveal|confirm|demonstrat|highlight|indicat|support|exhibit|display|identif"
    r"|express|prov|"
    r"suggest|label|mark)(?:e|e?s|y|ies|e?d|ied|ing)?)\b",
    re.IGNORECASE,
)


def _is_of_a_stain(clause: str) -> bool:
    """Whether the subject of an English clause is a stain or a test."""
    verb = _SAYS.search(clause)
    subject = clause[: verb.start()] if verb is not None else ""
    stain = re.search(r"\b(?:immuno\w+ )?(?:stains?|staining)\W*$", subject, re.IGNORECASE)
    return stain is not None or not_visual_kind(subject) in ("receptors", "molecular")


def _states_a_finding(head: str, whole: bool) -> bool:
    """Whether the head of a clause is a sub-caption by itself, and not of spread to elsewhere."""
    if _SPREAD.search(head) or len(head.split()) < 2 or _CUT_SHORT.search(head):
        return False
    return re.search(cues_of("en").findings, head, re.IGNORECASE) is not None and (not whole or len(head.split()) > 2)


def kinds_of(clauses: list[str], language: str = "en") -> list[str | None]:
    """Why each clause cannot be seen; one without a subject inherits from the clause before it."""
    dependent = _compiled(language if language in LANGUAGES else "en")[2]
    verb = re.compile(cues_of(language).verbs, re.IGNORECASE)
    kinds: list[str | None] = []
    for clause in clauses:
        kind = not_visual_kind(clause, language)
        if kind is None and kinds:
            kind = _inherited(kinds[-1], clause, dependent, verb)
            listed = re.match(r"both\b", clause, re.IGNORECASE) and not verb.search(clauses[len(kinds) - 1])
            if kind is None and kinds[-1] in ("margins", "nodes") and listed and not names_a_finding(clause):
                kind = kinds[-1]  # "the margins of the urethra, | and both ureters are free": one list
            if kind is None and _IS_THERE.match(clause) and _EXPLAINED.search(clauses[len(kinds) - 1]):
                kind = kinds[-1]  # "pT2 L1, indicating spread to nodes, | presence of lymphatic invasion"
            if kind in _ELSEWHERE and _of_the_tumour(clauses[: len(kinds)], clause, verb):
                kind = None
        kinds.append(kind)
    return kinds


_IS_THERE = re.compile(r"(?:the )?(?:presence|absence) of\b", re.IGNORECASE)
_EXPLAINED = re.compile(r"\b(?:indicating|reflecting|signifying|denoting)\b", re.IGNORECASE)
_VERB_FIRST = re.compile(
    r"(?:is|are|was|were|shows?|showed|exhibit(?:s|ed)?|has|have|demonstrate[sd]?|reveal(?:s|ed)?|display(?:s"
    r"|ed)?)\b",
    re.IGNORECASE,
)
_THE_TUMOUR = re.compile(
    r"^\W*(?:[\w-]+ ){0,6}(?:tumou?rs?|carcinomas?|neoplasms?|lesions?|\w+omas?)\W*$", re.IGNORECASE
)


def _of_the_tumour(before: list[str], clause: str, verb: re.Pattern[str]) -> bool:
    """Whether a clause goes on with the tumour: "the tumour invades a node | and exhibits vascular invasion"."""
    if not _VERB_FIRST.match(clause) or not names_a_finding(clause):
        return False
    subject = next((text for text in reversed(before) if not _VERB_FIRST.match(text)), "")
    ends = verb.search(subject)
    return ends is not None and _THE_TUMOUR.match(subject[: ends.start()]) is not None


def _inherited(before: str | None, clause: str, dependent: re.Pattern[str], verb: re.Pattern[str]) -> str | None:
    """The reason that a clause shares with the one before it; None where it may be seen."""
    if re.match(r"(?:alongside|accompanied by)\b", clause, re.IGNORECASE):
        return None if re.search(cues_of("en").findings, clause, re.IGNORECASE) else before
    if dependent.match(clause):
        if before == "margins" and (_OF_ITS_OWN_PLACE.search(clause) or _DOES_NOT_INVADE.match(clause)):
            return None
        # "It measures 3 cm and shows necrosis": what is measured may be seen, a margin's findings may not
        may_be_seen = before in ("size", "stage", "site") or (before in _PROCEDURES and _REVEALS.match(clause))
        own = may_be_seen and re.search(cues_of("en").findings, clause, re.IGNORECASE)
        own = own or (before == "gross" and _MICROSCOPIC.search(clause)) or _MORE_FINDINGS.match(clause)
        own = own or re.match(r"(?:is|was) (?:\w+ly )?(?:classified|graded|accompanied)\b", clause)
        return None if own else before
    goes_on = (
        _IN_OTHER_WORDS.match(clause)
        or (before in _ELSEWHERE and _GOES_ON.match(clause))
        or (before in ("stage", "interpretation") and _OF_THE_CASE.match(clause))
        or (before == "stage" and _IS_THERE.match(clause))
        or (
            before == "receptors"
            and re.match(r"(?:positive|negative|being|(?:an?|the) (?:lack|absence|loss) of)\b", clause)
        )
        or (before == "nodes" and _OF_A_NODE.match(clause))
        or (before in _ELSEWHERE and not verb.search(clause) and not names_a_finding(clause))
        or (before == "nodes" and re.match(r"(?:invad|infiltrat|penetrat|extend)ing\b", clause))
        or (before == "interpretation" and not verb.search(clause))
        or (before == "gross" and re.match(r"(?:\w+ly )?[a-z]+ing\b|consistent with\b", clause))
    )
    return before if goes_on else None


# "… a gross ulcerating appearance and exhibits infiltrative borders of thick cords of cells"
_MICROSCOPIC = re.compile(
    r"\b(?:cells?|cellular\w*|mitos[ie]s|mitotic|nucle\w+|differentiat\w+|grade|\w*invasion|invad\w+"
    r"|infiltrat\w+|cords|glands|"
    r"\w+plasia|atypia)\b",
    re.IGNORECASE,
)
_MORE_FINDINGS = re.compile(r"with (?:additional|other|further|associated|incidental) findings?\b", re.IGNORECASE)
# "The margins are free, with no carcinoma in the overlying skin": a place that is no margin.
_OF_ITS_OWN_PLACE = re.compile(
    r"^(?:with|without)\b.*\b(?:in|of|involving) the "
    r"(?:overlying |adjacent |surrounding |underlying |background )?(?:skin|nipple|epidermis|dermis|muscle|mucosa|"
    r"pleura|bone|parenchyma|cartilage|stroma|epithelium)\b",
    re.IGNORECASE,
)
# "… is close to the margin but does not involve the bone"
_DOES_NOT_INVADE = re.compile(
    r"(?:do|does|did) not (?:\w+ly )?(?:involve|invade|infiltrate|extend|penetrate)\b(?!\W*(?:it|them|this"
    r"|these|those)\b)",
    re.IGNORECASE,
)
# "… underwent a craniotomy, which revealed an astrocytoma"
_PROCEDURES = ("clinical", "no information", "site", "administration", "gross")
_REVEALS = re.compile(
    r"which (?:\w+ly )?(?:reveal|show|demonstrat|confirm)|(?:reveal|show|exhibit|demonstrat|display)ing\b",
    re.IGNORECASE,
)
# "The nodes show reactive changes, but no carcinoma": what follows is still of the nodes.
_ELSEWHERE = ("nodes", "margins", "receptors", "molecular")
_GOES_ON = re.compile(
    r"(?:they|these|some|others?|the (?:latter|former|others?))\b|(?:suggesting|indicating|suspected|showing"
    r"|confirming|affirming|solidifying|supporting|excluding|ruling out|"
    r"establishing|reinforcing|verifying|corroborating|favou?ring|revealing|identifying|consistent with)\b|"
    r"not \w+ing\b|(?:no|without|all|none|both(?= (?:are|were|is|was|of|margins?|nodes?)\b)"
    r"|reactive)\b(?!.*\b(?:vascular|(?:angio)?lymphatic invasion|angio\w+|"
    r"lympho\w*|perineural|necrosis|in situ|dysplasia|mitos\w+|atypia|granuloma\w*|abnormalit\w+|"
    r"(?:micro-?)?calcif\w+|"
    r"fibrosis|mucin\w*|polyps?|cyst\w*|ulcer\w*|skin|nipple|pleura\w*|muscle|muscularis|bone|parenchyma|mucosa"
    r"|capsule)\b)",
    re.IGNORECASE,
)
# "No metastasis, although there are findings of fibrosis": of the nodes, unless it names a place.
_OF_A_NODE = re.compile(
    r"there (?:is|are|was|were) (?:[\w-]+ ){0,4}(?:fibrosis|lipomatosis|histiocytosis|anthracosis|hyperplasia"
    r"|reactive|granulom\w+)\b"
    r"(?!.*\b(?:in|of|within) the\b)",
    re.IGNORECASE,
)
# "pT2b, signifying a tumour of …", "4.2 %, reflecting …", "…, not extensively advanced": the same once more.
_IN_OTHER_WORDS = re.compile(
    r"(?:indicating|signifying|denoting|reflecting|confirming|affirming)\b|not (?:\w+ly )?\w+ed\W*$", re.IGNORECASE
)
# "… staged as pN0, suggesting localized disease" is of the stage; "… pT3, showing evidence of vessel invasion" is not.
_OF_THE_CASE = re.compile(r"(?:suggesting|indicating|supporting|reflecting|favou?ring)\b", re.IGNORECASE)


# Said of how a finding was come by, not of what it is.
_ASIDE_PHRASES = re.compile(
    r", which (?:is|was) (?:grossly|macroscopically) \w+(?=,)|"
    r",? (?:submitted|received|provided|taken) for (?:\w+ )?(?:evaluation|examination|analysis|assessment)\b|"
    r",(?: (?:all|these|the))?(?: findings?)? (?:as |which (?:is|was|were) )?(?:confirmed|supported|"
    r"corroborated) (?:by|on|in|with|through) (?:\w+ ){0,3}(?:frozen sections?|(?:immuno)?stain\w*|immuno\w+)\b[^,;]*"
    r"(?:, as well as [^,;]*)?",
    re.IGNORECASE,
)
_CONFIRMED = re.compile(
    r"(?: (?:is|was|were|are)(?: \w+ly| further)?| as)? confirmed (?:by|on|in|with|through) (?:\w+ ){0,3}"
    r"(?:(?:immuno)?stain\w*|immuno\w+)\b[^,;]*$",
    re.IGNORECASE,
)
# "Ulceration: absent (see comment)" sends the reader on and takes nothing back.
_POINTER = re.compile(
    r"\s*[(\[](?:please )?(?:see|cf\.?|s\.|siehe|vgl\.?|voir|cf|ver|véase)\s[^()\[\]]{1,40}[)\]]", re.IGNORECASE
)
# "The tumour, a lobulated friable mass, shows invasion": seen by eye, said by the way.
_APPOSITION = re.compile(
    r",\s+an?\s[^,;:.()]{3,60}(?:,(?=\s+(?:is|are|was|were|has|have|shows?|showed|exhibits?|reveals?)\b))"
)
_INCLUDING = re.compile(
    r", including\b[^.;]{0,160}?(?=, (?:is|are|was|were|show(?:s|ed)?|exhibit(?:s|ed)?|reveal(?:s|ed)?|"
    r"demonstrate[sd]?|contain(?:s|ed)?)\b)",
    re.IGNORECASE,
)
_STATES = re.compile(r"\b(?:is|are|was|were|correspond)\b", re.IGNORECASE)
_SIZE = r"(?:\b(?:up to |about |approximately )?\d[\d.,]*\s*(?:[x×]\s*\d[\d.,]*\s*)*[- ]?(?:cm|mm)\b\s+)"


@lru_cache(maxsize=1)
def _sized_finding() -> re.Pattern[str]:
    procedure = r"(?:(?:punch|core|needle|shave|excision\w*) )*(?:punch|core|shave|excision|biops(?:y|ies)|specimen)\b"
    other = r"(?!(?:and|with|shows?|is|are|was|were|from|of|in|to|deep|margins?|which|that|away|wide|thick|long)\b)"
    noun = rf"(?:{other}[\w-]+\s+){{0,4}}{other}(?:{cues_of('en').findings})"
    return re.compile(
        rf"{_SIZE}(?={noun}|{procedure})|,\s+(?:measuring|estimated|measured"
        rf"|spanning)\b[^,;]{{0,40}}\d[^,;]{{0,30}}\b[cm]m\b[^,;]{{0,30}}(?=,\s)",
        re.IGNORECASE,
    )


def without_asides(text: str, language: str = "en") -> str:
    """The sentence without bracketed or trailing stage, size and count fragments, or a size before its noun."""
    text = _POINTER.sub("", text)
    if language == "en":
        text = _APPOSITION.sub(lambda m: "" if not_visual_kind(m.group()) == "gross" else m.group(), text)
        text = _INCLUDING.sub(
            lambda m: m.group() if not_visual_kind(m.group()) in ("receptors", "molecular") else "", text
        )
        text = _ASIDE_PHRASES.sub("", _sized_finding().sub("", text))
        shorter = _CONFIRMED.sub("", text)
        text = shorter if names_a_finding(shorter) else text

    def aside(match: re.Match[str]) -> str:
        return "" if not_visual_kind(match.group(), language) in _ASIDES else match.group()

    parts = re.split(r"(,\s+)", re.sub(r"\s*\([^()]*\)", aside, text))
    trailing = ("stage",) if language == "en" else ("stage", "size")
    # "chorioamnionitis, stage 2; macrophages absent": what stands behind the semicolon is no aside
    while (
        len(parts) > 2
        and ";" not in parts[-1]
        and not_visual_kind(parts[-1], language) in trailing
        and len(parts[-1].split()) <= 6
        and not _STATES.search(parts[-1])
    ):
        del parts[-2:]
    return "".join(parts)
