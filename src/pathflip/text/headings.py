"""The headings of pathology reports, and how they name their parts, in five languages.

Headings follow the College of American Pathologists' and ICCR's templates (English), the Leitfaden of the Deutsche
Gesellschaft für Pathologie (German), the Société française de pathologie's report form (French), the Sociedad Española
de Anatomía Patológica's (Spanish) and the Japanese General Rules' report form. A line is a heading when all its words
are heading words, so that "Histologic type: …" and "Diagnosis cannot be made" are none.
"""

import re
from typing import NamedTuple

__all__ = ["HIDDEN_SECTIONS", "Heading", "heading_of", "keyword_part"]

HIDDEN_SECTIONS = frozenset(
    ("clinical", "specimen", "gross", "frozen", "ancillary", "margins", "nodes", "stage", "addendum", "administration")
)
"""Sections that say nothing of what this slide shows."""

# In this order: the first kind one of whose words stands in the heading is its kind ("clinical diagnosis").
_KINDS: tuple[tuple[str, str], ...] = (
    ("frozen", """frozen intraoperative intra-operative schnellschnitt schnellschnittuntersuchung extemporané extemporanée
        intraoperatorio intraoperatoria intraoperatoire congelación peroperatoire 術中迅速診断 迅速診断"""),
    ("clinical", """clinical history indication indications preoperative pre-operative postoperative operative
        symptoms complaint klinisch klinische klinischer klinik anamnese fragestellung indikation vorgeschichte angaben
        renseignements clinique cliniques contexte antécédents motif clínico clínicos clínica antecedentes historia
        indicación motivo 臨床情報 臨床診断 臨床経過 既往歴 臨床所見"""),
    ("gross", """gross macroscopic macroscopy macroscopical makroskopie makroskopisch makroskopische makroskopischer
        makroskopisches macroscopie macroscopique macroscopía macroscópica macroscópico macroscopia zuschnitt 肉眼所見
        肉眼 肉眼的所見 切り出し"""),
    ("ancillary", """ancillary immunohistochemistry immunohistochemical immunochemistry immunostains immunoperoxidase ihc
        immunohistology special stains stain molecular genetics cytogenetics fish biomarker biomarkers receptor receptors
        flow cytometry immunofluorescence hormone immunhistochemie immunhistologie immunhistochemisch immunhistochemische
        molekularpathologie molekulare molekular zusatzuntersuchungen zusatzuntersuchung sonderfärbungen
        immunohistochimie immunohistochimique moléculaire colorations complémentaires inmunohistoquímica
        inmunohistoquímico molecular tinciones especiales 免疫染色 免疫組織化学 免疫組織染色 特殊染色 遺伝子検査"""),
    ("addendum", """addendum addenda amendment supplemental supplementary nachtrag nachtragsbefund ergänzung
        complément adenda anexo 追加報告 追記"""),
    ("margins", """margin margins resektionsränder schnittränder resektionsrand marges limites márgenes bordes 断端"""),
    ("nodes", """node nodes lymphknoten lymphknotenstatus ganglions ganglion curage ganglios リンパ節"""),
    ("stage", """staging stage classification distant tnm ptnm tnm-klassifikation tumorstadium stadium stade estadificación estadio 病期 進行度"""),
    ("administration", """signed signature electronically copies copy cc requested requesting requester patient patientin name dob mrn
        accession collected received date doctor physician surgeon pathologist pathologists reported dictated sex gender age
        original previous prior initial vorbefund vorbefunde antérieur antérieurs previo previos geb geburtsdatum eingang ausgang einsender befunddatum unterschrift nom prénom née né médecin prescripteur
        reçu signé date médico paciente fecha nombre edad firmado sexo 患者 氏名 患者名 報告日 受付日 採取日 診断医 担当医 年齢 性別"""),
    ("specimen", """procedure specimen specimens source material sample samples tissue submitted site sites entnahme entnahmen entnahmeort
        untersuchungsgut untersuchungsmaterial einsendung präparat präparate lokalisation prélèvement prélèvements nature
        siège matériel muestra muestras espécimen remitido remitida pieza piezas 検体 材料 採取部位 提出検体 臓器"""),
    ("synoptic", """synoptic checklist template synoptischer formular synoptique sinóptico"""),
    ("comment", """comment comments note notes remark remarks discussion kommentar anmerkung anmerkungen bemerkung bemerkungen
        commentaire commentaires remarque comentario comentarios nota observaciones コメント 備考 所見コメント"""),
    ("diagnosis", """diagnosis diagnoses diagnostic impression conclusion conclusions interpretation opinion diagnose diagnosen
        beurteilung zusammenfassung schlussfolgerung diagnostique conclusión diagnóstico diagnósticos 診断 病理診断
        病理組織診断 組織診断 診断名"""),
    ("microscopy", """microscopic microscopy microscopical histology histologic histological histopathology histopathologic
        permanent sections mikroskopie mikroskopisch mikroskopische mikroskopischer mikroskopisches histologie
        histologisch histologische histologischer microscopie microscopique histologique microscopía microscópica
        microscópico histología histológico microscopia 組織所見 顕微鏡所見 病理組織所見 組織学的所見 鏡検所見 病理所見 所見"""),
)  # fmt: skip
_FILLERS = frozenset(
    """a an the of and or for by to in on at with de la le les du des d l et y e el los der die das des dem den von vom zu zum zur und
    im final pathologic pathological pathology surgical anatomic anatomical anatomo description descriptions finding findings
    examination report information data details detail summary part parts other additional provided provisional
    revised corrected amended case no number pathologist's microscopic/diagnosis befund befunde bericht untersuchung beschreibung
    angaben pathologisch pathologische pathologischer pathologisch-anatomische endgültige endgültiger endgültiges definitiver definitive définitive examen étude compte rendu
    résultats résultat analyse anatomopathologique anatomopathologiques histopathologique définitif descripción estudio
    examen informe anatomopatológico anatomopatológica patológico histopatológico final datos resultados información
    consultation autopsy studies study tests test results performed specimen(s) diagnosis(es) teil tumor tumour carcinoma invasive breast
    colon prostate lung skin section regional lymph axillary sentinel procedure(s)""".split()  # noqa: SIM905
)
# These alone do not make a heading, and so do not count as the word that tells its kind.
_WORDS: dict[str, str] = {}
for _kind, _listed in reversed(_KINDS):
    for _word in _listed.split():
        _WORDS[_word] = _kind
_RANK = {kind: place for place, (kind, _) in enumerate(_KINDS)}

_PART_WORD = (
    r"(?:parts?|specimens?|samples?|containers?|jars?|pots?|teile?|entnahmen?|proben?|präparate?|einsendung(?:en)?|"
    r"prélèvements?|pièces?|flacons?|échantillons?|muestras?|piezas?|frascos?|partes?|検体|標本|材料)"
)
_LABEL = r"(?:[A-Z]|\d{1,2}|[IVX]{1,4})"
# Behind the word no plural's last letter: "SPECIMENS" names no part S.
_KEYWORD_PART = re.compile(
    rf"(?<!\w){_PART_WORD}(?![sen]\b)\s*(?:no\.?|nr\.?|n°|#)?\s*\(?(?P<label>{_LABEL})\b\)?(?!\s*(?:mm|cm|%|of\b|/))(?!\.\d)",
    re.IGNORECASE,
)
_MARKS = re.compile(r"^[\s#>*_\-–—•●▪■◦=~|]+|[\s*_#=~|]+$")
_COLON = re.compile(r"\s*[:：]\s*|\s+[-–—]\s+|\s*\*\*\s*")
_BOXED = re.compile(r"\s*[【［〔《＜](?P<head>[^】］〕》＞\n]{1,40})[】］〕》＞]\s*[:：]?\s*")
_TUMOUR = re.compile(r"\W*(?:the )?tumou?r\W*", re.IGNORECASE)
_CAPITAL_LABEL = re.compile(r"(?<![\w'’./-])\(?(?P<label>[A-Z]|[IVX]{1,4})\)?(?=\s*$)")


class Heading(NamedTuple):
    """A heading: its kind of section, the part it names ("" if none), and how many characters of the line it takes."""

    kind: str
    part: str
    length: int


def keyword_part(text: str) -> re.Match[str] | None:
    """ "Part A", "Specimen 2", "Entnahme B", "検体A" at the beginning of a text."""
    match = _KEYWORD_PART.match(text)
    return match if (match and match["label"].isupper()) or (match and match["label"].isdigit()) else None


def heading_of(line: str) -> Heading | None:
    """The heading a line is or begins with, None where it begins with none.

    A heading ends with a colon or a dash and may be followed by text, or is a line of its own.
    """
    lead = len(line) - len(_MARKS.sub("", line + "x")) + 1 if line.strip() else 0
    body = line[lead:]
    numbered = re.match(r"(?:\d{1,2}|[IVX]{1,4})[.)]\s+(?=\D)", body)
    offset = lead + (numbered.end() if numbered else 0)
    body = line[offset:]
    if (boxed := _BOXED.match(line)) is not None and (kind_and_part := _classify(boxed["head"])) is not None:
        return Heading(*kind_and_part, boxed.end())
    for match in [*_COLON.finditer(body[:90]), None]:
        head = body[: match.start()] if match else body
        if len(head) > 80 or (match is None and body.rstrip().endswith((".", ",", ";"))):
            continue
        kind_and_part = _classify(head)
        if match is not None and _TUMOUR.fullmatch(head) and body[match.end() :].strip():
            continue  # "Tumour: present, in the centre": a question and its answer
        if kind_and_part is not None:
            kind, part = kind_and_part
            return Heading(kind, part, offset + (match.end() if match else len(body)))
    return None


def _classify(head: str) -> tuple[str, str] | None:
    """The kind and part of a heading's words, None where one of them is no heading word."""
    text, part = _MARKS.sub("", head), ""
    if (keyword := _KEYWORD_PART.search(text)) is not None and keyword["label"].upper() == keyword["label"]:
        part, text = keyword["label"], text[: keyword.start()] + " " + text[keyword.end() :]
    text = re.sub(r"\((?!\s*[A-Z0-9]{1,2}\s*\))[^()]*\)", " ", text)
    capital = None if part else _CAPITAL_LABEL.search(text)
    if capital is not None and capital.start() > 0:
        part, text = capital["label"], text[: capital.start()]
    words = [word.strip("()[]{}.,*_#-–/").lower() for word in re.split(r"[\s/&]+", text)]
    words = [word for word in words if word and not word.isdigit()]
    if not words or len(words) > 7 or any(word not in _WORDS and word not in _FILLERS for word in words):
        return None
    kinds = [_WORDS[word] for word in words if word in _WORDS]
    if "amended" in words and not kinds:  # "AMENDED REPORT"
        kinds = ["addendum"]
    if not kinds:  # "TUMOR", "ADDITIONAL FINDINGS", "Befund"
        microscopic = set(words) & {
            "tumor",
            "tumour",
            "findings",
            "finding",
            "befund",
            "befunde",
            "description",
            "beschreibung",
        }
        return ("microscopy", part) if microscopic and (len(words) > 1 or words[0] not in ("finding",)) else None
    return min(kinds, key=lambda kind: _RANK[kind]), part
