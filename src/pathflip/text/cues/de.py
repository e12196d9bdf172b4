"""German.

Denials: the German NegEx of Chapman et al. 2013 (Stud Health Technol Inform 192:677) as far as its words are general
German, checked against the grammar of denial (kein-, nicht, ohne, weder/noch, fehlen, frei von), with the wordings
of routine reports. What a slide cannot show: the sections of the S3 guidelines' structured pathology reports.
"""

from pathflip.text.cues import NEXT_SENTENCE, Cues
from pathflip.text.cues.en import NOT_VISUAL, NOT_VISUAL_CASED

_SEEN = (
    r"(?:nachweisbar|nachgewiesen|erkennbar|sichtbar|vorhanden|gefunden|gesehen|festgestellt|identifiziert|dargestellt|"
)
_SHOWN = (
    r"(?:darstellen|nachweisen|erkennen|finden|auffinden|abgrenzen|identifizieren|feststellen|aufzeigen|beobachten)"
)
_SEEN += r"abgrenzbar|darstellbar|auffindbar|ersichtlich|beobachtet|enthalten|erfasst|zu (?:sehen|erkennen|finden))"

CUES = Cues(
    not_visual={
        "margins": (
            r"\b(?:resektions|schnitt|absetzungs|exzisions|präparate?)(?:rand|ränder\w*|rändern|fläche\w*)\b|"
            r"\babsetzung\w*\b|\brandst(?:ändig|reifen)\w*|\bim gesunden\b|\bR-Status\b|\btuschemarkier\w*",
        ),
        "nodes": (r"\w*lymphknoten\w*|\bnodal\w*|\bnodulus lymph\w*|\bkapselüberschreit\w*|\bsentinel\w*",),
        "stage": (r"\bstadi(?:um|en)\b|\b(?:TNM|UICC|FIGO|Dukes)\b|\bfernmetasta\w+", *NOT_VISUAL["stage"]),
        "size": (
            r"\d\s*(?:cm|mm|g|kg|ml)\b(?!\s*(?:2|²|\^2))|\bmessen\w*\b|\bgr(?:ö|oe)(?:ß|ss)te\w* (?:durchmesser|ausdehnung)",
            r"\btumorgr(?:ö|oe)(?:ß|ss)e\b|\bgewicht\b|\bdurchmesser\b",
        ),
        "gross": (
            r"\bmakroskop\w*|\bschnittfläche\w*|\beingesandt\w*|\bübersandt\w*|\bformalin\w*|\bfadenmarkier\w*",
            r"\bschnellschnitt\w*|\bkapsel\s*\d|\b(?:total|vollständig) eingebettet\b|\blamelli\w*|\b\w+resektat\w* von\b",
        ),
        "clinical": (
            r"\bklinisch\w*|\banamnes\w*|\bpatient\w*|\b\d+[- ]jährig\w*|\btherapie\w*|\w*therapie\b|\bempfehl\w*|"
            r"\bempfohlen\b|\bradiolog\w*|\bbildgeb\w*|\bverlaufskontroll\w*|\bprognos\w*|\bz\.? ?n\.|\bzustand nach\b",
            r"\bkorrelation\b|\bausschluss (?:von|eines|einer)\b",
        ),
        "receptors": (
            r"\w*rezeptor\w*|\bimmunhisto\w*|\bimmunfluoresz\w*|\bKi-?67\b|\bHER-?2\b|\bexpression\b|\bexprimier\w*|\b\w+färbung\b|\bantikörper\b",
            *NOT_VISUAL["receptors"],
        ),
        "molecular": (r"\bmolekular\w*|\bmutation\w*|\bmikrosatelliten\w*|\bgen(?:e|s|en|tisch\w*)?\b", *NOT_VISUAL["molecular"]),
        "administration": (
            r"\b\d{1,2}\.\d{1,2}\.(?:19|20)?\d\d\b|\bgeb\.|\b(?:dr|prof)\b\.? |\bmit freundlichen\b|\bunterschrift\b|"
            r"\b(?:vor|früh)befund\w*|\btelefonisch\w*|\bkonsil\w*|\breferenzpatholog\w*|\bnachbericht\b|\beingang\b|\bausgang\b",
        ),
        "no information": (
            r"^\W*(?:siehe|s\.|vgl\.?) (?:\w+ )?(?:befund\w*|bericht|kommentar|oben|unten|anlage|text)\W*$",
            r"\bnicht (?:beurteilbar|bestimmbar|durchgeführt|untersucht|angegeben|bekannt|mitgeteilt|bewertbar|auswertbar)\b",
            r"\bunbekannt\b|\bentfällt\b|\bsteht aus\b|\bstehen aus\b|\bausstehend\b|\bkeine angaben?\b|\bfolgt\b",
        ),
    },
    not_visual_cased={"stage": NOT_VISUAL_CASED["stage"]},
    visible_anyway=(
        r"\b(?:im|am|in dem) (?:\w+ )?(?:ein|über)gesandten (?:material|gewebe|präparat|exzisat)\w*",
        r"\b(?:un)?scharf (?:begrenzt\w*|abgegrenzt\w*)|\bpro (?:\d+ ?)?mm\b",),
    denials=(
        (r"(?<=\w)\s*[(（]\s*[-−–]\s*[)）]", " (+)"),
        (r"(?<=[^\W\d_]{3}) (?:neg\.?|negativ|négatif|négative)(?=\s*(?:$|[.,;]))", " positiv"),
        (r"\b(?:hinweise?|anhalt(?:spunkte?)?|zeichen) (?:auf|für) (?=.{0,60}\bnicht\b)", ""),
        (r"\bk(?:ein(?:e|en|em|er|es|erlei)?) (?:anhalt(?:spunkte?)?|hinweise?|nachweis|zeichen|beleg\w*) (?:für|auf|von|einer|eines|der|des)\b", ""),
        (r"\bk(?:ein(?:e|en|em|er|es|erlei)?)\b", ""),
        (r"\bohne (?:(?:sicheren? )?(?:nachweis|anhalt(?:spunkte)?|hinweis(?:e)?|zeichen) (?:für|auf|von|einer|eines|der|des)?)", "mit"),
        (r"\bohne\b", "mit"),
        (r"\bweder\b", ""),
        (rf"\bnicht(?= (?:\w+ )?{_SEEN})", ""),
        (r"\bnicht\b", ""),
        (r"\bfehl(?:t|en)\b", "vorhanden"),
        (r"\bfehlend(?:e|en|em|er|es)?\b", "vorhandene"),
        (r"\bfehlen (?:von|eines|einer|der|des)\b", "nachweis von"),
        (r"\babwesen(?:d\w*|heit)\b|\bausbleiben\b", "vorhanden"),
        (r"\bfrei von\b|\b(?=tumor|karzinom|dysplasie|nekrose|malignom|atypie|melanom|befall|entzündungs|metastasen)\w+frei(?:e[nmrs]?)?\b", "mit"),
        (r"\b(?:ist|sind|wurde|wurden|war|waren) (?:\w+ )?(?:ausgeschlossen|auszuschließen|auszuschliessen)\b", "ist vorhanden"),
        (r"\bausgeschlossen\b|\bausschließ(?:t|en)\b", "vorhanden"),
        (r"\bnegativ(?:e|en|er|es)?\b", "positiv"),
        (r"\bnie(?:mals)?\b|\bnirgend(?:s|wo)\b|\bnichts\b|\bkeinesfalls\b|\bkeinerlei\b", ""),
        (r"\bnein\b", "ja"),
        (r"(?<=[:=])\s*(?:0|[∅ø⌀]|\(-\)|\(−\))(?=\s*(?:$|[.,;(]))", " ja"),
    ),
    pseudo=(
        r"\bnicht[- ]?(?:speziell|spezifisch|sonst)\w*",
        r"\bnicht (?:nur|selten|ungewöhnlich|zuletzt|unerheblich\w*|un\w+|ohne|frei|fehlend\w*|ausschließlich|immer)\b",
        r"\bnicht (?:näher|weiter) (?:bezeichnet\w*|klassifizier\w*|spezifizier\w*|charakterisier\w*)\b|\bo\.? ?n\.? ?a\b",
        r"\bnicht[- ](?:verhornend|kleinzellig|invasiv|seminomat|hodgkin|muzin|mucin|papillär|epithelial|neoplast|tumor|"
        r"keratinisier)\w*|\bkein(?:en|em|es)? (?:speziell|besonder|spezifisch)\w* (?:sub)?typ\w*|\bohne (?:speziellen|besonderen) typ\b",
        r"\bkein(?:en|e)? (?:zweifel|zunahme|vermehrung|änderung|unterschied)\b|\bohne zweifel\b|\bnicht mehr als\b",
        r"\bkein\w*\b[^,;.]{1,40}?\b(?:ohne|frei von|fehlt|fehlen|tumorfrei)\b|\bnicht fehl\w+|\bfehl\w+ nicht\b|\bkein fehlen\b",
        r"\bmit oder ohne\b|\bnoch (?:erhalten|vorhanden|nachweisbar|gut|teils|teilweise)\w*",
    ),
    doubts=(
        r"\bspr(?:icht|echen) (?:eher )?(?:gegen|dagegen)\b",
        r"\b(?:nicht|kaum|schwer)\b.{0,30}?\b(?:ausgeschlossen|auszuschließen|auszuschliessen|ausschließen|ausschliessen|ausschließbar)\b",
        rf"\bkann\b.{{0,40}}\bnicht\b.{{0,30}}\b(?:werden|ausschließen)\b|\blassen sich\b.{{0,40}}\bnicht\b(?! (?:mehr )?{_SHOWN})|\blässt sich\b.{{0,40}}\bnicht\b(?! (?:mehr )?{_SHOWN})",
        r"\b(?:nicht|kein\w*|ohne) (?:sicher\w*|eindeutig\w*|zweifelsfrei\w*|definitiv\w*)\b|\bunsicher\w*|\bunklar\w*",
        r"\bfraglich\w*|\bnicht sicher\b|\bgrenzwertig\w*|\b(?:zum|z\.?) ?(?:ausschluss|a\.)|\?|\bnicht (?:ausreichend|beweisend|diagnostisch)\b",
        r"\bausschluss\b|\bnicht (?:häufig|zahlreich|ausgeprägt|ausgedehnt|deutlich|stark|hochgradig|vermehrt|wesentlich)\w*",
        r"\b(?:kaum|anstelle|statt)\b|\bnicht un(?:wahrscheinlich|verdächtig)\b",
    ),
    hedges=(
        r"\bverdacht\w*|\bverdächtig\w*|\bsuspekt\w*|\bv\.? ?a\.?(?=\s)|\bmöglich\w*|\bwahrscheinlich\w*|\bvermutlich\w*",
        r"\beventuell\b|\bevtl\b|\bam ehesten\b|\beher\b|\bhinweis\w* auf\b(?!.{0,60}\b(?:nicht|keine?)\b)|\bspricht für\b|\bsprechen für\b|\bDD\b|"
        r"\bdifferen[tz]ialdiagnos\w*|\bkönnte\w*|\bmutmaßlich\w*|\bdenkbar\b|\banmutend\w*|\bvereinbar\b|\bpasst zu\b",
    ),
    breaks=(
        NEXT_SENTENCE,
        r"\s*;\s*",
        r",?\s+\b(?:(?<!\bnicht )aber|(?<!\bnicht )jedoch|allerdings|während|hingegen|dagegen|dafür|stattdessen|sondern|obwohl|wobei|außer|ausser|abgesehen von|doch)\b,?\s+",
        r",\s+(?=(?:kein\w*|nicht|ohne|mit|weder|sowie|dabei|es|die|der|das)\b)",
        r"(?<!\bnicht)(?<!\boder),?\s+(?=ohne\b|mit (?:fehlend\w*|kein\w*)\b|bei (?:fehlend\w*)\b)",
        r",?\s+und\s+(?=(?:kein\w*|ohne|fehlend\w*)\b)",
        r",\s+(?=(?:der|die|das|welche[rs]?)\b[^,]*\b(?:nicht|kein\w*)\b)",
        r"(?:,|\bmit|\bund)\s+(?=(?:möglich\w*|wahrscheinlich\w*|fraglich\w*|verdächtig\w*|verdacht|am ehesten|v\.a\.)\b)",
    ),
    dependent=r"(?:mit|ohne|der|die|das|welche[rs]?|davon|bei)\b",
    frame=frozenset(
        """der die das des dem den ein eine einer eines einem einen es ist sind war waren wird werden wurde wurden zeigt
        zeigen findet finden sich im in am an auf aus bei mit von zu zum zur für und oder sowie als auch hier dabei
        nachweis nachweisbar erkennbar sichtbar vorhanden vor liegt liegen präparat material schnitt schnitte
        schnittpräparat gewebe probe befund anteile bereich kein keine keinen keiner keines nicht ohne weder noch
        weiterhin zudem ferner außerdem übrigen histologisch mikroskopisch lediglich nur""".split()
    ),
    degrees=frozenset("häufig zahlreich ausgeprägt ausgedehnt deutlich stark vermehrt sehr besonders".split()),
    predicates=frozenset(
        """nachweisbar vorhanden erkennbar fehlend fehlt fehlen reichlich negativ positiv ja nein keine kein zahlreich selten häufig deutlich
        gering mäßig stark ausgeprägt unauffällig erhalten""".split()
    ),
    verbs=r"\b(?:ist|sind|war|waren|wird|werden|zeigt|zeigen|findet|finden|liegt|liegen|fehlt|fehlen|enthält|enthalten|"
    r"besteht|bestehen|stellt|stellen|erkennt|sieht|lässt|lassen|wurde|wurden|infiltriert|weist|weisen)\b",
    yes=("ja", "vorhanden", "nachweisbar", "positiv", "+", "(+)", "nachgewiesen", "gegeben", "vorliegend", "present"),
    no=(
        "∅", "ø", "⌀",
        "nein", "keine", "kein", "keiner", "keines", "nicht vorhanden", "nicht nachweisbar", "nicht nachgewiesen",
        "negativ", "fehlend", "fehlt", "fehlen", "0", "(-)", "(−)", "nicht erkennbar", "nicht vorliegend", "entfallen",
        "ohne", "nicht identifiziert", "kein nachweis", "kein anhalt", "absent",
    ),
    open=("?", "±", "+/-", "fraglich", "unklar", "verdächtig", "möglich", "-", "–", "nicht sicher", "unsicher"),
    blank=("entfällt", "nicht beurteilbar", "unbekannt", "nicht untersucht", "n/a", "keine angabe", "ausstehend", "folgt"),
)  # fmt: skip
