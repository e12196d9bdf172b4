"""What a sentence of a report states: can this slide show it, does it deny it, and what is it about.

Rules one can read, in tables at the top: what a slide cannot show, what denies, and what only looks like a denial.
A model may do better some day; these are transparent, need no training, and are the same in training and at
inference, which matters more: nothing learns negation by itself.
"""

import re
from functools import lru_cache

import numpy as np

from pathflip.errors import CaptionError
from pathflip.types import SubCaption

__all__ = ["flip_statement", "not_visual_kind", "parse_statement", "polar_clauses"]

# --- What this slide cannot show -------------------------------------------------------------------------------------
# The kinds follow the headings of the College of American Pathologists' cancer protocols that a slide does not answer
# (procedure, size, margins, regional nodes, pTNM, special studies, clinical history); the wordings are those met in
# the SlideBench captions (TCGA reports retold). Regular expressions, any case.
_COUNTED = r"(?:\d+|one|two|three|four|five|six|seven|eight|nine|ten|twelve|none|all|both|several|multiple)"
_NODE_WORDS = (
    r"(?:analys[ie]s|assessments?|examination|evaluation|involvement|metastas[ie]s|status|dissections?|biops\w+|"
)
_NODE_WORDS += r"sampling|excisions?|specimens?|positivity|negativity)"
_NOT_VISUAL: dict[str, tuple[str, ...]] = {
    "margins": (
        r"\bmargins?\b",
        r"\b(?:resection|surgical|excision|inked) (?:\w+ )?(?:edges?|lines?|planes?)\b",
        r"\bstaple line\b|\binked\b",
        r"\bresidual (?:tumou?r|disease|carcinoma)\b",
        r"\bcomplete(?:ly)? (?:resect|excis|remov)\w*",
        r"\b(?:resect|excis|remov)\w+ (?:is |was |were )?(?:in)?complete(?:ly)?\b",
        r"\bcompleteness of (?:excision|resection)\b",
    ),
    "nodes": (
        r"\bnodes\b|\bnodal\b|\blymphadenectomy\b|\bextra(?:nodal|capsular)\b",
        rf"\bnode (?:\w+ )?{_NODE_WORDS}\b|\bnode[- ](?:positive|negative)\b",
        r"\b(?:sentinel|regional|axillary|hilar|pelvic|inguinal|mediastinal|cervical|peribronchial|intrapulmonary|para-?aortic|examined|"
        r"sampled) (?:\w+ )?node\b",
        rf"\b{_COUNTED} (?:(?:/|of|out of) ?(?:the )?\w+ )?(?:\w+ )?(?:lymph )?node\b|\bneck dissection\b",
        r"\(\d+/\d+\)",
    ),
    "stage": (r"\bstag(?:e|ed|es|ing)\b", r"\b(?:TNM|AJCC|UICC|FIGO|Dukes)\b", r"\bdistant metasta\w+"),
    "size": (
        r"\d\s*(?:cm|centimet\w+|mm|millimet\w+|g|gm|grams?|kg|ml|cc)\b(?!\s*(?:2|²|\^2))",
        r"\bweigh(?:s|ed|t|ing)\b|\bmeasur(?:es|ed|ing|ement)\b",
        r"\b(?:greatest|largest|maxim(?:um|al)) (?:dimension|diameter|extent)\b",
    ),
    "gross": (
        r"\bgross(?:ly)?\b|\bmacroscop\w+|\bformalin\b|\bfixed in\b|\breceived (?:fresh|in|for|and|as)\b",
        r"\bcassettes?\b|\bsubmitted\b|\bbisected\b|\bserially\b|\blabel+ed\b|\bblocks?\b",
        r"\b(?:rubbery|friable|firm|tan|soft-elastic)\b",
        r"\bfrozen sections?\b|\bintra-?operativ\w+",
    ),
    "clinical": (
        r"\bclinical(?:ly)?\b|\bhistory of\b|\b(?:medical|family|past|surgical|smoking) history\b",
        r"\bpatients?\b(?!['’]s)|\b\d+[- ]year[- ]old\b|\bsmok(?:er|ing)\b|\bsymptom\w*",
        r"\bpresent(?:s|ed) with (?:an? )?(?:pain|cough|fever|bleeding|mass|lump)\b|\bunderwent\b",
        r"\b(?:\w*therap(?:y|ies|eutic\w*)|chemoradi\w+|neo-?adjuvant|adjuvant|treatments?|management)\b",
        r"\b(?:pre|post)-?operativ\w+|\bfollow[- ]?up\b|\brecommend\w*|\bcorrelat\w+|\bprogno\w+|\bsurviv\w+",
        r"\brecurrence\b|\brecurrent (?:tumou?r|disease|carcinoma)\b|\bradiolog\w+|\bimaging\b|\bMRI\b|\bmammogra\w+",
    ),
    "receptors": (
        r"\b(?:o?estrogen|progesterone|hormone|androgen)\b|\breceptors?\b|\bHER-?2\b|\bERBB2\b",
        r"\btriple[- ]negative\b|\bluminal [AB]\b|\bimmuno-?(?:histo)?(?:chem|stain|reactiv|pheno|positiv)\w*",
        r"\bKi-?67\b|\bMIB-?1\b|\bp(?:16|40|53|57|63|120)\b|\bTTF-?1\b|\bCK ?\d+|\bcytokeratins?\b|\bCD ?\d+\w?\b",
        r"\bGFAP\b|\bS-?100\b|\bsynaptophysin\b|\bchromogranin\b|\bPD-?L1\b|\bCDX-?2\b|\bHMB-?45\b|\bMelan-?A\b",
        r"\bNapsin\b|\bNeuN\b|\bGATA-?3\b|\bE-cadherin\b|\bstain(?:s|ed|ing)? (?:positive|negative|for|with)\b",
        r"\b(?:mucin|special|gram|GMS|AFB|Congo red|Ziehl\W+Neelsen) stain\w*",
    ),
    "molecular": (
        r"\bmolecular\b|\bgen(?:e|es|etic|etics|omic)\b|\bmutat(?:ed|ions?|ional)\b|\bmutant\b|\bwild[- ]?type\b",
        r"\bamplifi\w+|\b(?:un|hyper)?methylat\w+|\b(?:co-?)?delet(?:ed|ions?)\b|\brearrange\w+|\b1p\b|\b19q\b",
        r"\bheterozygo\w+|\bmicrosatellite\b|\bmismatch repair\b|\b[dp]MMR\b|\bM(?:LH1|SH[26])\b|\bPMS2\b",
        r"\bMSI-[HL]\b",
        r"\bin situ hybridi[sz]ation\b|\bIDH[- ]?[12]?\b|\bEGFR\b|\b[KN]-?RAS\b|\bBRAF\b|\bROS-?1\b|\bPIK3CA\b",
        r"\bBRCA[12]\b|\bTP53\b|\bHPV\b|\bEBV\b|\bEBER\b|\boverexpress\w*|\bflow cytometry\b",
    ),
    "administration": (
        r"\b\d{1,2}[/.-]\d{1,2}[/.-](?:19|20)?\d\d\b|\b(?:19|20)\d\d-\d\d-\d\d\b|\bdated\b|\breceived on\b",
        r"\b(?:dr|prof)\. |\b(?:previous|prior|earlier) (?:report|biops\w+|specimen)\b|\bcopy of\b|\bby telephone\b",
        r"\bdiscussed with\b|\b(?:informed|notified) (?:of|about|by)\b",
        r"\bsigned\b|\bpathologist\b|\bsurgeon\b|\baccession\b|\breport(?:ed)? (?:by|date)\b|\bICD-?O?\b|\bSNOMED\b",
    ),
    "no information": (
        r"\bnot (?:\w+ly )?(?:applicable|performed|assessed|assessable|evaluated|reported|specified|provided|mentioned|"
        r"stated|given|submitted|available|detailed|documented|done|known|discussed|addressed)\b",
        r"\b(?:do|does|did) not (?:\w+ly )?(?:specify|mention|state|report|describe|detail|address|provide)\b",
        r"\bun(?:known|specified)\b|\bindeterminate\b|\bpending\b",
        r"\bcannot be (?:\w+ly )?(?:assessed|determined|evaluated|graded)\b",
        r"\bno (?:\w+ )?(?:mention|information|details?|data|comment)\b",
    ),
    "interpretation": (
        r"\b(?:these|the|such)(?: \w+)? (?:findings?|features|results|characteristics) (?:\w+ly )?(?:highlight|"
        r"underscore|underline|emphasi[sz]e|support|suggest|provide|warrant|necessitate|reflect|contribute|align|point)\w*",
        r"\b(?:aggressive|malignant) (?:nature|behaviou?r|potential)\b|\bcritical (?:for|in|to)\b",
        r"\bfurther (?:evaluation|investigation|assessment|stud(?:y|ies)|workup)\b",
    ),
}
# The same, told from ordinary words by their capitals: "ER" but not "er", "pT2b N0", "(L1)", "V0"; "T cell" is none.
_STAGE_TOKEN = (
    r"[ycrma]{0,2}p?s?(?:T(?:[0-4][a-d]?|is|[Xx])|N(?:[0-3][a-c]?|[Xx])|M[01Xx])|L[01]|V[012]|Pn[01]|R[012Xx]"
)
_NOT_VISUAL_CASED: dict[str, str] = {
    "stage": rf"(?<![\w-])(?:{_STAGE_TOKEN})(?:\(\w+\))?(?:p?[NMLVR][0-3OXx][a-c]?)*\b(?!-)",
    "receptors": r"\b(?:ERs?|PR|PAS|PSA|IHC)\b",
    "molecular": r"\b(?:ALK|FISH|MSI|MSS)\b",
}
# These hold a word of the tables above and are visible all the same.
_VISIBLE_ANYWAY = (
    r"\b(?:ill|poorly|well|sharply)[- ](?:defined|circumscribed|demarcated) (?:\w+ )?margins?\b",
    r"\b(?:infiltrat\w+|invasive|pushing|irregular|smooth|scalloped|expansile|circumscribed|tumou?r)(?: tumou?r)? "
    r"(?:margins?|edges?|borders?)\b(?! (?:is|are|was|were) (?:free|clear|negative|positive|involved|uninvolved))",
    r"\bmargins? of the (?:nests?|islands?|glands?|section|tissue|slide|fragments?)\b",
    r"\bper (?:\d+ ?)?(?:mm|square mm)\b|\b(?:H ?& ?E|ha?ematoxylin)[- ]stain\w*|\bgrossly cystic\b",
    r"\bpatient (?:was|is|has been) diagnosed with\b|\bdisease stage of maturation\b",
)
# In brackets, or (stage) at the end behind a comma, these kinds are cut away from an otherwise visible sentence.
_ASIDES = ("stage", "size", "nodes", "receptors", "margins")

# --- What denies -----------------------------------------------------------------------------------------------------
_SEEN = (
    r"(?:identified|seen|present|observed|noted|detected|found|evident|demonstrated|appreciated|visible|visuali[sz]ed|"
)
_SEEN += r"recogni[sz]ed|apparent|shown|encountered|discernible|recogni[sz]able|involved|infiltrated|invaded)"
_AUXILIARY = r"(?:is|are|was|were|be|been|being)"
_BE = rf"\b{_AUXILIARY}"
# Pre- and post-negations of NegEx (Chapman et al. 2001, J Biomed Inform 34:301) with the wordings of pathology reports;
# each with its positive counterpart, so that a denial and the assertion it denies come to the same words. {be} is the
# auxiliary that was met, {s} its third person; <verb> gives the verb after "does not" its ending back.
_CUES: tuple[tuple[str, str], ...] = (
    (r"\b(?:there (?:is|are|was|were) )?(?:an? )?(?:complete |total )?(?:absence|lack) of\b", "presence of"),
    (r"\b(?:do|does|did)(?: not|n['’]t) (?=\w)", "<verb>"),
    (r"\bfail(?:s|ed|ing)? to (?=\w)", "<verb>"),
    (_BE + r" (?:\w+ly )?not (?=\w)|\b(?:is|are|was|were)n['’]t ", "{be} "),
    (_BE + r" (?:\w+ly )?(?:ruled out|excluded)\b", "{be} present"),
    (r"\b(?:cannot|can ?not|can['’]t|could not|couldn['’]t) (?=\w)", "can "),
    (_BE + r" (?:\w+ly )?(?:devoid of|free (?:of|from)|clear of|without)\b(?: any)?", "contain{s}"),
    (_BE + r" (?:\w+ly )?(?:uninvolved|unaffected|spared)\b", "{be} involved"),
    (_BE + r" (?:\w+ly )?free(?=\s*(?:$|[.,;(]|at\b|by\b))", "{be} involved"),
    (r"(?:(?<=margins )|(?<=margin ))(?:is|are|was|were) (?:\w+ly )?clear\b(?! of)", "{be} involved"),
    (r"\bunable to (?=\w)", "able to "),
    (r"\bnothing\b", "something"),
    (r"\bnever\b|\bnowhere\b", ""),
    (r"\b(?:0|zero) ?(?:/|of|out of) ?(?=\d)", ""),
    (r"\bneither\b", ""),
    (r"\bnor\b", "and"),
    (r"\bwithout (?:any |definite )?(?:evidence|signs?|indication) of\b", "with"),
    (r"\bwithout(?: any)?\b", "with"),
    (r"\b(?:devoid of|free (?:of|from)|clear of)\b", "with"),
    (r"\bnegative for\b", "positive for"),
    (r"\blacks\b", "shows"),
    (r"\black\b(?! of)", "show"),
    (r"\black(?:ing|ed)\b", "showing"),
    (r"\babsent\b", "present"),
    (r"(?<=[:=])\s*(?:none|no|nil|negative|\(-\))(?=\s*(?:$|[.,;(]))", " present"),
    (r"(?:(?<=is)|(?<=are)|(?<=was)|(?<=were))\s+negative(?=\s*(?:$|[.,;(]))", " positive"),
    (r"\bnone of\b", ""),
    (r"\bnone\b", "some"),
    (r"\bnot\b", ""),
    (r"\bno\b", ""),
)
# NegEx pseudo-negations and their kin: they hold a cue word and deny nothing.
_PSEUDO_NEGATIONS = (
    r"\bno (?:significant |definite |appreciable |further |obvious )?(?:increase|decrease|change|progression|"
    r"difference|doubt)s?\b",
    r"\bno (?:longer|more than|less than|fewer than)\b|\bnot more than\b|\bno\. ?(?:[A-Z]{1,4}-?)?\d+",
    r"\bnot (?:only|just|merely|simply|necessarily|always|entirely|infrequent\w*|uncommon\w*|unusual\w*|rare\w*|"
    r"certain|clear|limited to|restricted to|confined to)\b|\bnot un\w+",
    r"\bnot (?:otherwise|further) (?:specified|classified|categori[sz]ed)\b",
    r"\b(?:cannot|can ?not|could not|can['’]t|couldn['’]t) (?:be )?(?:\w+ly )?(?:excluded?|ruled? out)\b",
    r"\bnot (?:be )?(?:\w+ly )?(?:excluded?|ruled? out)\b",
    r"\b(?:not|no) (?:completely |entirely )?(?:without|absent|absence|devoid of|free of|negative|lack(?:ing)?)\b",
    r"\bwith or without\b|\bwhether or not\b|\b(?:gram|triple)[- ]negative\b|\bwithout (?:difficulty|delay)\b",
)

# --- How a sentence falls apart --------------------------------------------------------------------------------------
# Where polarity or visibility may change within a sentence (NegEx's termination terms, and prepositions that deny).
_CLAUSE_BREAKS = (
    r"\s*;\s*",
    r",?\s+\b(?:but|although|though|while|whereas|however|except(?: for)?|despite|yet)\b,?\s+",
    r",\s+(?=with\b|no\b(?!\.))|,\s+and\s+(?=(?:there|the|this|these|it|its|all|some|no|focal|both|surgical|margins?)\b)",
    r"(?<!not),?\s+(?=without\b|with (?:no|an? absence)\b)",
    r",\s+(?=measuring\b)|\s+and\s+(?=(?:measures|weighs|shows|exhibits|contains|extends|is accompanied)\b)",
    r"\s+and\s+(?=(?:no|without)\b|(?:is|are) (?:negative|free)\b)",
)
# A clause that begins so has no subject of its own: it is about what the clause before it is about.
_DEPENDENT = re.compile(
    r"(?:with|without|all of|none of|of which)\b|"
    r"(?:is|are|was|were) (?:also )?(?:negative|free|clear|benign|uninvolved)\b",
    re.IGNORECASE,
)
# Words that alone state nothing a slide could show or lack: a clause of these only is a frame, not a statement.
_FRAME = frozenset(
    """a an the this these that there it its is are was were be been has have had shows show showed showing reveals
    revealed reveal demonstrates demonstrated exhibits displays in on of at by for from to and or with all any section
    sections slide slides sample samples specimen biopsy tissue lesion tumor tumour tumors tumours examined material
    however also furthermore moreover otherwise examination evaluation analysis pathological microscopic histological
    histologic evidence sign signs present seen identified noted observed found detected as well here both which either
    contains extends diagnosis background remaining area areas field fields image region none no not neither
    nor""".split()  # noqa: SIM905
)
_BARE_DENIAL = re.compile(rf"(?:none|not|nothing)(?: {_AUXILIARY})?(?: {_SEEN})?\W*$", re.IGNORECASE)
_OPENING = re.compile(
    r"^(?:(?:additionally|notably|importantly|overall|microscopically|histologically|however|also|furthermore|moreover|"
    r"further|specifically|conversely|interestingly|in addition|of note|on microscopy|microscopy|comment)\s*[,:]\s*)+",
    re.IGNORECASE,
)
_BULLET = re.compile(r"^\s*(?:[•●▪■◦·*–—-]+\s+|[(\[]?(?:\d{1,2}|[A-Za-z]|[ivxIVX]{1,4})[.)\]]\s+)(?=\S)")


def _any_of(patterns: tuple[str, ...]) -> re.Pattern[str]:
    return re.compile("|".join(patterns), re.IGNORECASE)


_NOT_VISUAL_RES = [(kind, re.compile(pattern)) for kind, pattern in _NOT_VISUAL_CASED.items()]
_NOT_VISUAL_RES += [(kind, _any_of(patterns)) for kind, patterns in _NOT_VISUAL.items()]
_VISIBLE_RE, _PSEUDO, _CLAUSE = _any_of(_VISIBLE_ANYWAY), _any_of(_PSEUDO_NEGATIONS), _any_of(_CLAUSE_BREAKS)
_CUE = re.compile("|".join(f"(?P<c{i}>{pattern})" for i, (pattern, _) in enumerate(_CUES)), re.IGNORECASE)


@lru_cache(maxsize=65536)  # training parses the same sentences again and again
def parse_statement(sentence: str) -> SubCaption:
    """What one sentence states.

    The sentence is cut into clauses ("…, but …", "… without …", "…; …"). Clauses the slide cannot show are set aside;
    of the rest the affirmative ones count, and only if there are none does the statement deny. So "Solid carcinoma
    without necrosis" affirms *solid carcinoma*, and "No necrosis is seen, but margins are close" denies *necrosis*.

    ``content`` is the normal form used in training and at inference alike: the clauses that count, in lower case, each
    denial replaced by its positive counterpart ("absent" → "present", "without" → "with", "negative for" → "positive
    for", "does not show" → "shows", "no" dropped), no bullet, no opening adverb, no final stop. Hence "No necrosis
    is identified." and "Necrosis is identified." have the same content and differ in ``negated`` alone.

    Raises:
        CaptionError: the sentence is blank.
    """
    if not sentence.strip():
        raise CaptionError("cannot parse an empty sentence: expected text")
    text = _without_asides(_bare(sentence)) or sentence.strip()
    clauses = _clauses(text)
    kinds = _kinds(clauses)
    if text.endswith(":"):  # a bare heading
        kinds = ["no information"] * len(clauses)
    visible = [clause for clause, kind in zip(clauses, kinds, strict=True) if kind is None]
    counting = visible or clauses
    affirmed = [clause for clause in counting if not _denies(clause)]
    chosen = affirmed or counting
    whole = text if len(chosen) == len(clauses) else ", ".join(chosen)
    content = _tidy(_affirmative(whole)) or _tidy(text)
    return SubCaption(text=sentence.strip(), content=content, visual=bool(visible), negated=not affirmed)


def polar_clauses(sentence: str) -> list[tuple[str, bool]]:
    """The clauses of a sentence, each with whether it denies. A blank sentence has none."""
    text = _bare(sentence)
    return [(clause, _denies(clause)) for clause in _clauses(text)] if text.strip() else []


def not_visual_kind(text: str) -> str | None:
    """Why a slide cannot show ``text`` ("margins", "nodes", "stage", …), or None if it can."""
    rest = _VISIBLE_RE.sub(" ", text)
    return next((kind for kind, pattern in _NOT_VISUAL_RES if pattern.search(rest)), None)


def _bare(sentence: str) -> str:
    """The sentence without bullet, list number and opening adverb."""
    return _OPENING.sub("", _BULLET.sub("", sentence.strip()))


def _clauses(text: str) -> list[str]:
    """Clauses that state something; a bare denial ("…; none was found") or a scrap stays with what it is about."""
    clauses: list[str] = []
    for clause in (part for part in _CLAUSE.split(text) if part and part.strip(" .,;:")):
        words = re.findall(r"[^\W_]+", clause.lower())
        frame = all(word in _FRAME or word.endswith("ly") for word in words)
        scrap = 0 < len(words) < 3 and words[0] not in _FRAME  # "…, but focal"
        denies = _denies(clause)
        if clauses and (_BARE_DENIAL.match(clause) or (scrap and not denies)):
            clauses[-1] = f"{clauses[-1]}, {clause}"
        elif denies or not frame:
            clauses.append(clause)
    return clauses or [text]


def _kinds(clauses: list[str]) -> list[str | None]:
    """Why each clause cannot be seen; one without a subject inherits from the clause before it."""
    kinds: list[str | None] = []
    for clause in clauses:
        kind = not_visual_kind(clause)
        if kind is None and kinds and _DEPENDENT.match(clause):
            kind = kinds[-1]
        kinds.append(kind)
    return kinds


def _without_asides(text: str) -> str:
    """The sentence without bracketed or trailing stage, size and count fragments."""

    def aside(match: re.Match[str]) -> str:
        return "" if not_visual_kind(match.group()) in _ASIDES else match.group()

    parts = re.split(r"(,\s+)", re.sub(r"\s*\([^()]*\)", aside, text))
    while len(parts) > 2 and not_visual_kind(parts[-1]) == "stage" and len(parts[-1].split()) <= 6:
        del parts[-2:]
    return "".join(parts)


def _mask_pseudo(clause: str) -> str:
    """The clause with pseudo-negations blanked out, character for character."""
    return _PSEUDO.sub(lambda match: "\0" * len(match.group()), clause)


def _denies(clause: str) -> bool:
    return _CUE.search(_mask_pseudo(clause)) is not None


def _third_person(verb: str) -> str:
    """``show`` → ``shows``, ``carry`` → ``carries``: what follows "does not"."""
    if re.search(r"(?:s|sh|ch|x|z|o)$", verb):
        return verb + "es"
    return re.sub(r"(?<=[^aeiou])y$", "ie", verb) + "s"


def _affirmative(clause: str) -> str:
    """The clause with every denial replaced by its positive counterpart."""
    masked, pieces, position = _mask_pseudo(clause), [], 0
    for match in _CUE.finditer(masked):
        if match.start() < position:
            continue
        be = re.split(r"\s|n['’]t", match.group())[0]
        counterpart = _CUES[int(str(match.lastgroup)[1:])][1]
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


def _tidy(text: str) -> str:
    """Lower case, single spaces, no space before a stop and none at the end."""
    return re.sub(r"\s+([,.;:)])", r"\1", " ".join(text.lower().split())).strip(" .,;:!?")


# --- Flips -----------------------------------------------------------------------------------------------------------
# Where a "not" can be put, in the order tried: existence, detection, possession, being.
_EXISTS = re.compile(
    r"\b(there (?:is|are|was|were)) (?:also )?(?:an? |some )?(?:(?:definite )?evidence of )?(?=\w)", re.IGNORECASE
)
_DETECTED = re.compile(rf"\b(is|are|was|were|can be) (?:also )?((?:\w+ly )?{_SEEN})\b", re.IGNORECASE)
_VERBS = {
    "shows": "show", "reveals": "reveal", "demonstrates": "demonstrate", "exhibits": "exhibit", "displays": "display",
    "contains": "contain", "has": "have", "invades": "invade", "infiltrates": "infiltrate", "involves": "involve",
    "forms": "form", "produces": "produce", "includes": "include", "extends": "extend", "grows": "grow",
    "consists": "consist", "occupies": "occupy", "represents": "represent",
}  # fmt: skip
_SINGULAR = re.compile(r"\b(?:\w+ly |also )?(" + "|".join(_VERBS) + r")\b(?! (?:\w+ed|been)\b)", re.IGNORECASE)
_PLURAL = re.compile(
    r"\b(?:\w+ly |also )?(show|reveal|demonstrate|exhibit|display|contain|have|invade|infiltrate|involve)\b"
    r"(?! (?:\w+ed|been)\b)",
    re.IGNORECASE,
)
_IS = re.compile(r"\b(is|are|was|were) (only )?", re.IGNORECASE)
# Openings and synoptic answers that turn by a word.
_TURNS = (
    (re.compile(r"^positive for\b", re.IGNORECASE), "negative for"),
    (re.compile(r"^presence of\b", re.IGNORECASE), "absence of"),
    (re.compile(r"^with\b", re.IGNORECASE), "without"),
    (re.compile(rf"(?<=: )(?={_SEEN}$)", re.IGNORECASE), "not "),
)
_NO_NOUN_PHRASE = re.compile(r"[,:;]|^(?:the|this|these|it|its|we|all|there|in|on|at)\b", re.IGNORECASE)
_ABSENCE_FRAMES = ("No {} is identified.", "{} is absent.", "There is no evidence of {}.", "No {} is seen.")


def flip_statement(statement: SubCaption | str, rng: np.random.Generator) -> str | None:
    """A sentence that is false of every slide the statement is true of: the denial of an assertion, or the reverse.

    None where the rules cannot be sure: statements a slide cannot show, sentences of mixed polarity or several
    clauses, pseudo-negations, and sentences without a place for a "not". ``rng`` chooses among wordings.
    """
    parsed = parse_statement(statement) if isinstance(statement, str) else statement
    text = _bare(parsed.text).rstrip(" .;!")
    clauses = _clauses(text)
    if any(_kinds(clauses)) or not parsed.visual or _PSEUDO.search(text) or text.endswith(":"):
        return None
    if len({*map(_denies, clauses)}) != 1:
        return None
    if parsed.negated:
        return _sentence(_affirmative(text))
    return _deny(text, rng) if len(clauses) == 1 else None


def _deny(text: str, rng: np.random.Generator) -> str | None:
    if match := _EXISTS.search(text):
        return _sentence(f"{text[: match.end(1)]} no {text[match.end() :]}")
    if match := _DETECTED.search(text):
        word = match.group(2).lower()
        auxiliary = match.group(1)
        if auxiliary.lower() == "can be":
            denied = f"cannot be {word}"
        else:
            denied = f"{auxiliary} absent" if word == "present" and int(rng.integers(2)) else f"{auxiliary} not {word}"
        return _sentence(text[: match.start()] + denied + text[match.end() :])
    if (match := _SINGULAR.search(text)) and match.start() > 0:
        return _sentence(f"{text[: match.start()]}does not {_VERBS[match.group(1).lower()]}{text[match.end() :]}")
    if (match := _PLURAL.search(text)) and match.start() > 0:
        return _sentence(f"{text[: match.start()]}do not {match.group(1)}{text[match.end() :]}")
    if (match := _IS.search(text)) and match.start() > 0:
        return _sentence(f"{text[: match.end(1)]} not {text[match.end() :]}")
    for pattern, turn in _TURNS:
        if pattern.search(text):
            return _sentence(pattern.sub(turn, text))
    if len(text.split()) <= 8 and not _NO_NOUN_PHRASE.search(text):  # "Focal necrosis"
        noun = re.sub(r"^an? ", "", _lower_first(text))
        return _sentence(_ABSENCE_FRAMES[int(rng.integers(len(_ABSENCE_FRAMES)))].format(noun))
    return None


def _lower_first(text: str) -> str:
    """Lower the first letter unless the word is an acronym."""
    return text if text[:2].isupper() and len(text.split()[0]) > 1 else text[:1].lower() + text[1:]


def _sentence(text: str) -> str:
    """One sentence: single spaces, a capital, a full stop."""
    text = re.sub(r"\s+([,.;:)])", r"\1", " ".join(text.split())).rstrip(" .,;") + "."
    return text[:1].upper() + text[1:]
