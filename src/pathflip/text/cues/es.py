"""Spanish.

Denials: the Spanish NegEx of Cotik et al. 2016 (BioTxtM 53) and NUBes (Lima et al. 2020, LREC 5772) as far as their words
are general Spanish (no, sin, ausencia de, ningún, ni, carece, libre de, negativo para), with the wordings of routine
reports. What a slide cannot show: the items of the Sociedad Española de Anatomía Patológica's protocols.
"""

from pathflip.text.cues import NEXT_SENTENCE, Cues
from pathflip.text.cues.en import NOT_VISUAL, NOT_VISUAL_CASED

CUES = Cues(
    not_visual={
        "margins": (
            r"\bm[aá]rgen(?:es)?\b|\bbordes? (?:quirúrgico\w*|de resección|libre\w*)\b|\blímites? (?:quirúrgico\w*|de resección)\b|"
            r"\bresección (?:in)?completa\b|\btinta\b",
        ),
        "nodes": (r"\bganglio\w*|\blinfadenectom\w+|\bextra-?(?:ganglionar|nodal)\b|\bcentinela\b|\bvaciamiento\b",),
        "stage": (r"\bestadi\w+|\b(?:TNM|pTNM|AJCC|FIGO)\b|\bmetástasis a distancia\b", *NOT_VISUAL["stage"]),
        "size": (
            r"\d\s*(?:cm|mm|g|kg|ml)\b(?!\s*(?:2|²|\^2))|\bmide\w*|\bdiámetro\b|\bpesa\b|\bpeso\b|\btamaño (?:tumoral|del tumor)\b|"
            r"\bdimensi\w+ máxima\b",
        ),
        "gross": (
            r"\bmacrosc\w+|\bformol\b|\bse (?:recibe|reciben|incluye|incluyen)\b|\bremitid\w+|\bcongelación\b|\bintraoperatori\w+|"
            r"\bal corte\b",
        ),
        "clinical": (
            r"\bclínic\w+|\bantecedentes?\b|\bpaciente\w*|\baños\b|\btratamiento\w*|\w*terapia\b|\brecom[ie]\w+|\bimagen\b|"
            r"\bradiológic\w+|\bcorrelacion\w*|\bpronóstic\w+|\bseguimiento\b",
        ),
        "receptors": (
            r"\breceptor\w*|\binmunohisto\w+|\binmunofluoresc\w+|\binmunofenotip\w+|\binmunotinci\w+|\btinci\w+|\bKi-?67\b|\bestrógen\w+",
            *NOT_VISUAL["receptors"],
        ),
        "molecular": (r"\bmolecular\w*|\bmutaci\w+|\bmicrosatél\w+|\bgen(?:es|étic\w+)?\b", *NOT_VISUAL["molecular"]),
        "administration": (
            r"\b\d{1,2}[/.-]\d{1,2}[/.-](?:19|20)?\d\d\b|\bfecha\b|\b(?:dr|dra|prof)\b\.? |\bfirmad\w+|\binforme (?:previo|n)\w*|"
            r"\bnacid\w+|\bhistoria n\w*|\bconsulta externa\b|\bsegunda opinión\b",
        ),
        "no information": (
            r"^\W*(?:ver|véase) (?:\w+ )?(?:informe|comentario|nota|arriba|abajo|texto)\W*$",
            r"\bno (?:valorable|evaluable|valorad|evaluad|realizad|especificad|aplicable|disponible|informad|determinad)\w*",
            r"\bpendiente\w*|\bdesconocid\w+",
        ),
    },
    not_visual_cased={"stage": NOT_VISUAL_CASED["stage"]},
    visible_anyway=(
        r"\ben (?:el|la|los|las) (?:material|muestras?|tejido|biopsias?|fragmentos?) (?:remitid|enviad|estudiad)\w+",
        r"\b(?:bien|mal) (?:delimitad\w+|definid\w+)|\bpor (?:\d+ ?)?mm\b|\bbordes? (?:infiltrante|expansiv)\w*",),
    denials=(
        (r"(?<=\w)\s*[(（]\s*[-−–]\s*[)）]", " (+)"),
        (r"(?<=[^\W\d_]{3}) (?:neg\.?|negativ|négatif|négative)(?=\s*(?:$|[.,;]))", " positiv"),
        (r"\bcon ausencia (?:de|del)\b", "con presencia de"),
        (r"\bausencia (?:completa |total )?(?:de|del)\b", "presencia de"),
        (r"\bausentes?\b", "presente"),
        (r"\bausencia\b", "presencia"),
        (r"\bsin (?:evidencias? |signos? |datos |indicios |hallazgos )?(?:de\b|del\b)?", "con "),
        (r"\bning(?:ún|una|uno)\b", ""),
        (r"\btampoco\b", "también"),
        (r"\bni\b", "y"),
        (r"\bcarece(?:n)? de\b", "muestra"),
        (r"\b(?:libres?|exent[oa]s?|desprovist[oa]s?) de\b", "con"),
        (r"\bnegativ[oa]s?(?: para)?\b", "positivo para"),
        (r"\bse (?:descarta|excluye)n?\b|\b(?:descartad[oa]s?|excluid[oa]s?)\b|\b(?:descarta|excluye)n?\b", "se observa"),
        (r"\b(?:falta|faltan) (?:de )?", "presencia de "),
        (r"(?<=[:=])\s*(?:no|nul[oa]s?|ningun[oa]|0|\(-\)|\(−\))(?=\s*(?:$|[.,;(]))", " presente"),
        (r"\bnul[oa]s?\b|\bnunca\b|\bjamás\b", ""),
        (r"\bno\b", ""),
    ),
    pseudo=(
        r"\bno (?:son |es |está\w* )?(?:infrecuentes?|rar[oa]s?|escas[oa]s?|despreciables?|inusual(?:es)?)\b",
        r"\bno (?:s[oó]lo|solamente|infrecuente\w*|raro\w*|inusual\w*|únicamente)\b|\bsin otra especificación\b|\bsin dudas?\b",
        r"\b(?:sin|no|de) (?:tipo )?(?:especial|específico|especificado)\b|\bde tipo no especial\b|\bno (?:queratinizante|invasiv|"
        r"infiltrante|microcític|hodgkin|seminomatos|mucinos|neoplásic|tumoral)\w*|\bcon o sin\b|\bno[- ]hodgkin\b",
        r"\b(?:no|ningun\w*)\b[^,;.]{0,25}?\b(?:ausentes?|ausencia|sin|carecen?|libres? de|desprovist\w+|negativ\w+)\b|\bno faltan?\b",
        r"\bno más de\b|\bsin dificultad\b|\bno (?:hay )?(?:aumento|incremento|cambios?)\b",
    ),
    doubts=(
        r"\b(?:no|ni) (?:\w+ )?más [^,;.]{1,40}? que\b",
        r"\bno\b.{0,25}\b(?:descart\w+|exclu\w+)|\bsin (?:poder )?(?:descartar|excluir)\b|\b(?:a|para) descartar\b|^\W*descartar\b",
        r"\b(?:no|sin|ningun\w*)\b.{0,20}\b(?:clar\w+|definitiv\w+|concluyente\w*|segur\w+|inequívoc\w+|evidente)\b|\bdudos\w+|\binciert\w+",
        r"[?¿]|\bequívoc\w+|\bindetermin\w+|\bno diagnóstic\w+|\bno concluyente\w*|\binsuficiente para\b|\bmás que\b|\ben lugar de\b",
        r"\bno (?:son |es |muy )*(?:frecuente|numeros|extens|abundante|marcad|prominente|difus|sever)\w*",
    ),
    hedges=(
        r"\ben favor de\b",
        r"\bsospech\w+|\bposible\w*|\bprobable\w*|\bposibilidad\b|\bsuge(?:stiv|rente|rent|rir|rid)\w*|\bsugieren?\b|\bcompatibles?\b|"
        r"\bpodría\w*|\bpuede (?:ser|tratarse|corresponder)\b|\bdiagnósticos? diferencial\w*|\ba favor de\b|\bparece\w*|\bpresunt\w+|\borienta\w*",
    ),
    breaks=(
        r",\s+(?=(?:positiv|negativ)[oa]s?\b)",
        NEXT_SENTENCE,
        r"\s*;\s*",
        r",?\s+\b(?:pero|sin embargo|aunque|mientras que|mientras|salvo|excepto|a excepción de|sino|no obstante)\b,?\s+",
        r",\s+(?=(?:no|sin|con|ausencia|ni|ningun\w*|el|la|los|las|se|presencia)\b)",
        r"(?<!\bno)(?<!\bo),?\s+(?=sin\b|con ausencia\b|en ausencia\b)",
        r",?\s+[ye]\s+(?=(?:sin|no|ausencia|ningun\w*|presencia)\b)",
        r",?\s+(?=que (?:no|carece\w*)\b)|\s+(?=(?:desprovist\w+|exent\w+) de\b)",
        r"(?:,|\bcon|\by)\s+(?=(?:una? )?(?:posible\w*|probable\w*|sospech\w+|suge\w+|dudos\w+)\b)",
    ),
    dependent=r"(?:con|sin|que|desprovist\w+|libres?)\b",
    frame=frozenset(
        """el la los las un una unos unas de del al a en con por para y o se ha han es son está están fue hay existe existen
        observa observan identifica identifican aprecia aprecian evidencia muestra muestran reconoce reconocen presencia
        presente presentes muestra biopsia tejido cortes corte examen fragmentos material datos signos microscópico
        histológico también no sin ni ausencia que""".split()
    ),
    degrees=frozenset("frecuente frecuentes numerosas numerosos extensa extenso abundante abundantes muy".split()),
    predicates=frozenset(
        """presente presentes ausente ausentes positivo positiva negativo negativa sí si no frecuentes escasas escasos
        abundantes marcada marcado moderada moderado leve focal difusa nulo nula""".split()
    ),
    verbs=r"\b(?:es|son|está|están|hay|existe|existen|se|muestra|muestran|presenta|presentan|contiene|infiltra|invade|forma|forman)\b",
    yes=("sí", "si", "presente", "presentes", "positivo", "positiva", "+", "(+)", "identificado", "identificada", "se identifica"),
    no=(
        "no", "ausente", "ausentes", "ausencia", "negativo", "negativa", "ninguno", "ninguna", "nulo", "nula", "0", "(-)",
        "(−)", "no identificado", "no identificada", "no se identifica", "no se observa", "no presente", "no observado",
    ),
    open=("?", "±", "+/-", "dudoso", "dudosa", "sospechoso", "sospechosa", "posible", "probable", "-", "–", "indeterminado"),
    blank=("no valorable", "no evaluable", "no aplica", "n/a", "na", "pendiente", "desconocido", "no realizado", "no valorado"),
)  # fmt: skip
