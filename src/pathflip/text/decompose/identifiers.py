"""What in a report may tell who the patient is: a guard before text leaves the machine or is learnt from.

Patterns for those of the 18 identifiers of the HIPAA Safe Harbor rule (45 CFR 164.514(b)(2)) that reports hold and
patterns can find: dates, record and accession numbers, names behind a title or a label, telephone numbers, e-mail
addresses, web addresses, social-security numbers, ages over 89; with the labels of English, German, French, Spanish
and Japanese reports, in capitals too, with spaces within numbers, and with zero-width characters between letters. It
warns; it does not de-identify: a name without a title or a label passes.
"""

import re
import unicodedata
from dataclasses import dataclass
from functools import lru_cache

__all__ = ["Identifier", "find_identifiers", "redact"]

_MONTH = (
    r"(?:jan(?:uary|uar|vier)?|enero|feb(?:ruary|ruar)?|f[eé]vr?(?:ier)?|febrero|mar(?:ch|s|zo)?|m[aä]rz|apr(?:il)?|avr(?:il)?|"
    r"abril|may|mai|mayo|june?|juni?o?|juin|july?|juli?o?|juil(?:let)?|aug(?:ust)?|ao[uû]t|agosto|sept?(?:ember|embre|iembre)?|"
    r"o[ck]t(?:ober|obre|ubre)?|nov(?:ember|embre|iembre)?|de[cz](?:ember)?|d[eé]c(?:embre)?|diciembre)\.?"
)
_YEAR = r"(?:19|20)\d\d"
_UPPER = "A-ZÄÖÜÉÈÁÍÓÚÑÇŁŠŽ"
_NAME = rf"[{_UPPER}][\w'’\-]{{1,40}}|[A-Z]\."
_NAMES = rf"(?:{_NAME})(?:[ ,]{{1,3}}(?:{_NAME})){{0,3}}"
_LABEL = (
    r"(?i:resident|fellow|pathologist of record|cc|attn|pt|hausarzt|hausärztin|befunder(?:in)?|(?:assistenz|ober|chef|fach)arzt|zuweiser(?:in)?|interne|"
    r"m[eé]dico solicitante|solicitante|patient(?:in|'s)?(?: name)?|name|surname|physician|surgeon|pathologist|clinician|referr(?:er|ed by)|"
    r"signed(?: out)?(?: electronically)?(?: by)?|dictated by|reported by|requested by|attending|next of kin|vorname|nachname|"
    r"einsender|patholog(?:e|in)|nom|pr[eé]nom|m[eé]decin|prescripteur|patiente|paciente|nombre|apellidos?|m[eé]dico|firmado)"
)
_PLAIN_LABEL = r"(?i:(?:patient(?:'s)?|last|first|family|given|maiden) name|surname|forename|nachname|apellidos?)"
_NUMBER_LABEL = (
    r"(?:(?i:HN|MRN|UHID|URN|NHC|UMRN|medical record(?: (?:no|number))?|record (?:no|number)|accession(?: (?:no|number))?|"
    r"case (?:no|number)|(?:patient|pat\.?)[- ]?id(?:entifier)?|hospital (?:no|number)|specimen (?:no|number|id)|lab(?:oratory)? (?:no|number)|"
    r"account (?:no|number)|policy (?:no|number)|NHS (?:no|number)|reference (?:no|number)|befund(?:bericht)?[- ]?nr|fall[- ]?(?:nr|nummer)|"
    r"(?:e|histo|lab|auftrags|untersuchungs|aufnahme|versicherten|sozialversicherungs|journal|bericht)[- ]?(?:nr|nummer)|unser zeichen|"
    r"n[°ºo]\.? d['’]examen|num[eé]ro (?:de |d['’])(?:dossier|examen)|n[°º] ?SS|n[°º.o]* ?(?:de )?historia(?: cl[ií]nica)?|"
    r"eingangs[- ]?(?:nr|nummer)|patienten[- ]?(?:nr|nummer)|pat\.?[- ]?nr|journal[- ]?nr|dossier(?: invent[eé])? n[°o]|n[°o] (?:de )?dossier|"
    r"historia cl[ií]nica(?: n[°º.o]*)?|n[.º°o]* de historia|informe n[.º°o]*)|(?:カルテ(?:番号|No)|病理番号|標本番号|受付番号|検体番号|検査番号|依頼番号|患者ID))"
)
_VALUE = r"(?=[A-Za-z\d\-/ ]{0,20}\d)[A-Za-z\d](?:[A-Za-z\d\-/]|[ ](?=[\d\-/])|(?<=[\-/])[ ]){3,24}"

_PATTERNS: tuple[tuple[str, str], ...] = (
    ("e-mail", r"(?<![\w.+-])[\w.+-]{1,64}@[\w-]{1,63}(?:\.[\w-]{1,63}){1,5}\b"),
    ("web address", r"\b(?i:https?://|www\.)\S{1,300}"),
    ("social security number", r"(?<![\d-])\d{3}-\d{2}-\d{4}(?![\d-])"),
    ("date", rf"(?<![\d./-])(?:{_YEAR} ?([-/.]) ?(?:0?[1-9]|1[0-2]) ?\1 ?(?:0?[1-9]|[12]\d|3[01]))(?![\d-])"),
    ("date", rf"(?<![\d./-])\d{{1,2}} ?([-/.]) ?\d{{1,2}} ?\1 ?{_YEAR}(?!\d)"),
    (
        "date",
        r"(?<![\d./-])(?:(?:0?[1-9]|[12]\d|3[01])([-/.])(?:0?[1-9]|1[0-2])|(?:0?[1-9]|1[0-2])([-/])"
        r"(?:0?[1-9]|[12]\d|3[01]))[-/.](?:19|20)?\d\d(?![\d/-]|\.\d|\s*(?:cm|mm)\b)",
    ),
    (
        "date",
        rf"\b(?:\d{{1,2}}(?:st|nd|rd|th|er|\.)?(?: de)?[ -]{{1,2}})?(?i:{_MONTH})(?: de)?[ -](?:\d{{1,2}}(?:st|nd|rd|th)?,? ?)?{_YEAR}\b",
    ),
    (
        "date",
        rf"\b(?:\d{{1,2}}(?:st|nd|rd|th)? (?:of )?(?i:{_MONTH})"
        rf"|(?=[A-Z])(?i:{_MONTH}) \d{{1,2}}(?:st|nd|rd|th)?)(?=[ ,.;)]|$)",
    ),
    ("date", rf"(?<![\d./-])(?:0?[1-9]|1[0-2])/{_YEAR}(?![\d/])"),
    ("date", r"(?:(?:19|20)\d\d|(?:令和|平成|昭和)[\d元]{1,2})年\s?\d{1,2}月(?:\s?\d{1,2}日)?"),
    ("record number", rf"\b{_NUMBER_LABEL}\.?\s*(?:is|:|：|#|=)?\s*#?\s*{_VALUE}"),
    # Behind such a number "/3" makes it a morphology code ("M-8140/3").
    ("record number", r"\b[A-Z]{1,3} ?\d{0,2} ?[-:/] ?(?:\d{2}[-:])?\d{4,7}\b(?!/\d)"),
    ("record number", r"\b\d{2}[A-Z]{1,2}\d{4,7}\b|\b[A-Z]{1,2}(?:19|20)\d\d\.\d{4,6}\b"),
    ("record number", r"(?<![\d.,])\d{7,14}(?![\d.,]*\d)"),
    ("record number", r"(?<![\d.])\d{3} \d{3} \d{4}(?! ?\d)"),
    ("telephone number", r"(?i:\b(?:t[eé]l|tfno|tlf|phone|telephone|telefon|handy|mobile|m[oó]vil|tel[eé]fono|t[eé]l[eé]phone|fax|pager|ext|call)\b|電話)"
                         r"\.?\s?:?\s*\+?[\d(][\d()\-. /]{3,24}\d"),
    ("address", r"(?<![\d.])\d{1,5} (?:[A-Z][\w'’]+ ){1,3}(?:Street|St|Avenue|Ave|Road|Rd|Lane|Drive|Boulevard|Blvd|Court)\b\.?"
                r"(?:,? [A-Z][a-z]+){0,3}(?:,? [A-Z]{2} \d{5})?"),
    ("address", rf"(?<![\w-])[{_UPPER}][a-zäöüß-]{{2,}}(?:straße|strasse|str\.|weg|platz|allee|gasse) ?\d{{1,4}}[a-z]?(?:,? \d{{5}} [{_UPPER}]\w+)?"),
    ("address", rf"(?<![\d.])\d{{1,4}},? (?i:rue|avenue|boulevard|place|chemin|all[eé]e|impasse|quai) (?:(?:de la|de|du|des) |(?:de )?[lL]['’]|d['’])?"
                rf"[{_UPPER}][\w'’-]+(?: [{_UPPER}][\w'’-]+){{0,2}}(?:,? \d{{5}} [{_UPPER}][\w-]+)?"),
    ("address", rf"\b(?:[Cc]alle|C/|[Aa]venida|[Aa]vda\.?|[Pp]laza|[Pp]aseo) (?:de (?:la )?)?[{_UPPER}]\w+(?: [{_UPPER}]\w+){{0,2}},? \d{{1,4}}"
                rf"(?:,? \d{{5}} [{_UPPER}]\w+)?"),
    ("address", r"(?:東京都|北海道|(?:京都|大阪)府|[一-龯]{2,3}県)[一-龯ヶ]{1,8}[市区町村郡][^\s。、]{0,24}"),
    ("address", r"\b[A-Z][a-z]{2,},? [A-Z]{1,2}\d[A-Z\d]? \d[A-Z]{2}\b"),
    ("telephone number", r"(?<![\w.-])(?:\+\d{1,3}[ .-]?)?(?:\(\d{3}\)[ ]?|\d{3}[-.])\d{3}[-.]\d{4}(?![\d-])"),
    ("telephone number", r"(?<![\w.])\+\d{2}[ .-]?\(?\d{1,4}\)?(?:[ .-]?\d{2,4}){2,4}(?!\d)"),
    ("name", rf"\b(?:Drs?|DRS?|Dra|Mr|Mrs|MRS|Ms|Miss|MISS|Prof|PROF|Doz|Frau|FRAU|Herrn?|HERRN?|Mme|Mlle|Madame|Monsieur|Mademoiselle|"
             rf"Sr|Srta|Sra|Señora?|Señorita|Doña|Dña|Pr|Docteur|gez|i\. ?[AV])\.?\s+(?:(?:med|habil|univ|dent|Prof|PD|Dr|DR)\.?\s+){{0,4}}{_NAMES}"),
    ("name", rf"\b(?:Don|D\.)\s+(?:{_NAME})\s+(?:{_NAME})(?:\s+(?:{_NAME}))?"),
    ("name", rf"\bM\.\s+{_NAMES}(?=,?\s+(?:\d{{1,3}} ans|née?\b|âgé))"),
    ("name", rf"\b(?:[Nn]ée?|NÉE?|geb\.|geborene)\s+(?:{_NAME})"),
    ("name", rf"\b[Pp]atient(?:in)?\s+(?:{_NAME}),\s+(?:{_NAME})"),
    ("name", rf"\b(?i:(?:electronically )?(?:signed|verified|reviewed|dictated|reported|transcribed|approved|validated)(?: out)?(?: electronically)? by|valid[eé] par)"
             rf"\s*:?\s*(?:(?:Drs?|DR|Prof)\.?\s+){{0,2}}(?!\w+(?:ology|ment)\b){_NAMES}"),
    ("name", rf"\b(?i:pathologist of record|attending pathologist)\s*[-–:]\s*{_NAMES}"),
    ("name", r"(?<![一-龯])[一-龯]{2,5}(?:医師|先生)|(?<![一-龯])(?![一-龯]*[状型性腺癌腫炎胞膜管皮骨脈芽核織同多模仕異])[一-龯]{3,5}(?<!患者)様(?=\s*(?:$|[、。]))"),
    ("name", r"(?:氏名|担当医|主治医|診断医|病理医)[ 　]+[一-龯]{1,4}(?:[ 　][一-龯]{1,4})?"),
    ("name", rf"\b(?:MR|MS|PROF|DR)\.\s+{_NAMES}"),
    ("name", rf"\b(?i:doctor|professor|surgeon|pathologist)\s+{_NAMES}"),
    ("name", rf"\b{_LABEL}\s{{0,3}}[:：=]\s{{0,3}}(?:(?:Praxis|Drs?|DR|Prof|PROF|Herr|Frau)\.?\s{{1,2}}){{0,3}}{_NAMES}"),
    ("name", rf"\b{_PLAIN_LABEL}\s{{0,3}}[:=]?\s{{1,3}}[\w'’\-]{{2,40}}(?:[ ,]{{1,3}}[\w'’\-]{{2,40}}){{0,2}}"),
    ("name", r"(?:患者名?|氏名|診断医|担当医|主治医|病理医)\s*[:：]\s*[^\s、。：:]{2,10}(?:[ 　][^\s、。：:]{1,6})?"),
    ("name", rf"(?<![\w'’-])(?:{_NAME})(?:[ ,]{{1,2}}(?:{_NAME})){{0,3}},?\s{{1,2}}(?:M\.?D\.?|Ph\.?D\.?|D\.O\.|MBBS|FRCPath)(?![A-Za-z])"),
    ("age over 89", r"\b(?:9\d|1[01]\d)(?= ?Jahre\b|[ -]?(?i:years?|yrs?|y|jahre?|ans|años)[ -]?(?i:old|of age|alt|o\b)|[ -]?(?i:y/?o)\b|-?(?i:jährig)|歳| ans\b| años\b)"),
    ("age over 89", r"(?i:\b(?:aged?|age of|age:)\s*)(?:9\d|1[01]\d)\b"),
)  # fmt: skip
_COMPILED = tuple((kind, re.compile(pattern)) for kind, pattern in _PATTERNS)
# What follows a label or a title and is no name.
_NOT_NAMES = re.compile(
    r"(?i:(?:^|[:.=]\s*|\b(?:sur|fore)?name\s+)(?:not|none|unknown|unspecified|the|this|no|is|was|has|are|nicht|keine?|non|sans)\b)"
    r"|(?i:M\.?D\.? Anderson)"
)
_INVISIBLE = frozenset(
    "\u00ad\u200b\u200c\u200d\u200e\u200f\u2060\u2061\u2062\u2063\ufeff\u202a\u202b\u202c\u202d\u202e"
)


@dataclass(frozen=True)
class Identifier:
    """A stretch of text that may identify somebody."""

    kind: str
    text: str
    start: int
    end: int


def find_identifiers(text: str) -> list[Identifier]:
    """Identifiers in reading order; where two overlap, the longer one."""
    return list(_identifiers(text))


@lru_cache(maxsize=16384)  # each training of a process looks at the same texts, three times
def _identifiers(text: str) -> tuple[Identifier, ...]:
    seen, places = _as_read(text)
    matches = [
        (kind, match)
        for kind, pattern in _COMPILED
        for match in pattern.finditer(seen)
        if not (kind == "name" and _NOT_NAMES.search(match.group()))
    ]
    taken = bytearray(len(seen))
    identifiers: list[Identifier] = []
    for kind, match in sorted(matches, key=lambda one: (one[1].start() - one[1].end(), one[1].start())):
        if any(taken[match.start() : match.end()]):
            continue
        taken[match.start() : match.end()] = b"\1" * (match.end() - match.start())
        start, end = places[match.start()], places[match.end() - 1] + 1
        identifiers.append(Identifier(kind, text[start:end], start, end))
    return tuple(sorted(identifiers, key=lambda i: i.start))


def redact(text: str) -> str:
    """The text with every identifier found replaced by its kind in brackets, for example ``[date]``."""
    for item in reversed(find_identifiers(text)):
        text = f"{text[: item.start]}[{item.kind}]{text[item.end :]}"
    return text


def _as_read(text: str) -> tuple[str, list[int]]:
    """The text as an eye reads it (no zero-width characters, full-width digits as digits), and where each character was."""
    characters, places = [], []
    for place, character in enumerate(text):
        if character in _INVISIBLE:
            continue
        plain = unicodedata.normalize("NFKC", character) if character > "\x7f" else character
        characters.append(plain if len(plain) == 1 else character)
        places.append(place)
    return "".join(characters), places
