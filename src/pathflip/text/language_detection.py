"""Which language a text is written in, offline: by script, by function words, and by a small trained detector.

Short report lines ("Necrosis: nil") give a detector little to go by, so words that belong to one language alone are
counted first; py3langid (Barbaresi; a Naive Bayes model over byte n-grams, no pickle) decides where those are silent
or disagree. Text that stays unclear takes the language of the report it stands in.
"""

import re
import unicodedata
from collections import Counter
from collections.abc import Iterable
from functools import lru_cache
from typing import Any

__all__ = ["MIXED", "language_of", "language_of_file"]

MIXED = "mixed"
"""Two languages, or two scripts with words of their own, in one text."""


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


# Words of one of these languages alone (among them and English).
_OWN_WORDS: dict[str, frozenset[str]] = {
    "en": _words(
        """the and is are was were with without there this that these which of from by not shows show seen identified
        present noted into within has have been its between throughout consists consistent lacks neither nor cannot
        sections tumour tumours tumors cells nuclei lymphovascular rules ruled but seen found present
        does did only frequent"""
    ),
    "de": _words(
        """der das und ist sind mit ohne kein keine keinen keiner keines nicht eine einer eines einem dem den von zu zum
        zur sich findet finden nachweisbar nachweis weder noch wird werden auf bei liegt vor fehlt sowie aus im vom
        mäßig anhalt für zeigt zahlreiche schlecht gut wurde wurden nach über
        nein fehlen fehlend fraglich fragliche verdacht herdförmig herdförmige mitosen nekrosen karzinom adenokarzinom
        plattenepithelkarzinom mammakarzinom urothelkarzinom gefäßinvasion malignität drüsen zellen tumorgewebe lymphom
        niedriggradig hochgradig niedriggradige hochgradige mäßiggradig vereinzelt reichlich vorhanden unauffällig
        gutartig gutartige gutartiges gutartiger bösartig bösartige bindegewebe fettgewebe muskulatur schleimhaut
        chronische chronischer entzündung invasives invasiver nekrose stromareaktion kerne herd"""
    ),
    "fr": _words(
        """une du est sont avec sans pas aucun aucune dans les aux ne présence signe cette il absence d'une n'est
        d'un nécrose peu très foyers retrouve observe observée à jamais carcinome adénocarcinome lymphome tumeur
        tumeurs cellules vasculaire vasculaires engainement engainements embole emboles muqueuse atypies douteux
        douteuse nombreux nombreuses épithélium glandes oui canalaire lobulaire épidermoïde fibreux fibreuse fibreuses
        conjonctif tissu tissus bénin bénigne bénignes inflammatoire inflammatoires chronique gastrique sein peau"""
    ),
    "es": _words(
        """el los del y con sin se hay ningún ninguna observa observan identifica identifican ausencia por
        para presencia aprecia aprecian una invasión células está muestra
        ausente ausentes nula nulo carece hallazgos sospechoso sospechosa sospecha queratinizante
        las los hay valorable valorables ningunos células también existe existen desprovisto desprovista
        urotelial papilar lobulillar escamoso escamosa epidermoide basocelular gástrica gástrico crónica
        crónico tejido tejidos músculo benigno benigna benignos piel mama linfoma delimitado delimitada"""
    ),
}
# Words that deny: one of these within a text of another language makes it mixed.
_DENIALS: dict[str, frozenset[str]] = {
    "en": _words("not without absent neither nor none negative nil lacks lacking"),
    "de": _words("kein keine keinen keiner keines nicht ohne weder fehlt fehlend"),
    "fr": _words("pas sans aucun aucune"),
    "es": _words("sin ausencia ausente ausentes ningún ninguna"),
}
# Words of other languages, denials above all: text that holds one and nothing of the above is none of ours.
_FOREIGN_WORDS = _words(
    """assenza assente assenti senza nessun nessuna della delle degli dei nel nella sono osserva osservano
    ausência não sem nenhum nenhuma com uma são presença
    geen niet zonder afwezig aanwezig het een wordt zijn aanwijzingen
    ingen ikke inte uten uden utan inga inget saknas och på og påvises
    brak nie bez jest stwierdzono ognisk nema není žádné bylo
    ei ilman puuttuu todeta ole yok izlenmedi saptanmadı değil görülmedi
    nincs nem nélkül fără absența este lipsa nėra puudub amb"""
)
# Letters that none of en, de, fr and es has, in words that are no names.
_FOREIGN_LETTERS = re.compile(r"(?<!\w)(?=\w\w)[a-zà-ž]*[ăâșțşţãõığøåłąęśżźćńěřůčšžőűġħ](?<!â)[a-zà-ž]*")
# Words and endings that English has not: where they stand and no English word does, a text is not English.
_NOT_ENGLISH = _words("de del la las le les los lo un una di da du des der ni il gli sur por con sin")
_FORMS = re.compile(
    r"(?<![\w-])(?!(?:comedo|embryo|vivo|vitro|novo|toto|halo|ratio|into|also|zero|photo|macro|micro|auto|echo|"
    r"tattoo|lentigo|"
    r"vertigo|impetigo|prurigo|technique|unique|oblique|critique|physique|antique|questionnaire|lung|young|among)s?\b)"
    r"[a-zß-ÿ]*(?:[a-zß-ÿ]{3}os?|[a-zß-ÿ]{3}ntes?|iques?|aires?|euses?|eux|zion[ei]|ção|dade?s?|miento|"
    r"ische?[nmrs]?|[a-z]{3}ung|keit|"
    r"liche?[nmrs]?|ierte?[nmrs]?|eerde?|iye|(?:kar[sz]inom|karcinom|nekro[sz]|adenok)\w*)(?![\w-])"
)
_LATIN_PLURALS = re.compile(
    r"(?<![\w-])(?!(?:foci|fungi|nuclei|nucleoli|bronchi|alveoli|thrombi|emboli|\w*villi|pylori|loci|calculi|radii|"
    r"na?evi|hili|rami|"
    r"cocci|bacilli|gyri|sulci|stimuli|tubuli|semi|anti|multi|mini)\b)[a-z]{3,}i(?![\w-])"
)
_GREEK_ENDING = re.compile(r"\b\w{2,}(?:sis|itis|plasia)\b", re.IGNORECASE)
# "no" before a verb: in Portuguese it means "in the" and stands before nouns, Italian writes "non".
_SPANISH_DENIAL = re.compile(
    r"\bno (?:existen?|presentan?|invaden?|infiltran?|muestran?|contienen?|afectan?|alcanzan?|"
    r"rebasan?|sobrepasan?|hay|se|son|es|"
    r"est[áa]n?|descartad[oa]s?|encapsulad[oa]s?|queratiniz\w+|invasiv[oa]s?|valorad[oa]s?|concluyentes?|realizad[oa]s?)\b",
    re.IGNORECASE,
)
_PIECE = re.compile(r"[,;:]\s|\s[-–]\s|\b(?:but|aber|jedoch|mais|pero)\b")
# What tells Japanese without kana: characters of the Japanese reform, and words of its reports.
_JAPANESE = re.compile(
    r"[壊悪転検断観発変対応実単顕膵歯拡囲労続総黒価気効処圧両剤収徴拠歳浅産痩県粋繊縦臓蔵薬覚説豊軽遅鉄録険随隠雑頼顔験髄黄齢]|所見|脈管|侵襲|"
    r"扁平上皮|乳管|核分裂像|腺管|浸潤癌|浸潤性|分化型|異型|組織型|陽性率"
)
# What Chinese reports deny with, and Japanese ones do not.
_CHINESE = re.compile(r"未[见見]|[无没沒壞]|無(?=[一-鿿])(?!構造|細胞|核|色素)")
_LATIN_LANGUAGES = _words("en de fr es it pt nl da sv no fi pl cs hu ro tr ca sk sl hr lt lv et")
_SCRIPTS = {
    "HIRAGANA": "ja", "KATAKANA": "ja", "CJK": "zh", "HANGUL": "ko", "CYRILLIC": "ru", "GREEK": "el", "ARABIC": "ar",
    "HEBREW": "he", "THAI": "th", "DEVANAGARI": "hi", "BENGALI": "bn", "TAMIL": "ta", "GEORGIAN": "ka",
}  # fmt: skip
_LATIN_WORD = re.compile(r"[^\W\d_]+(?:['’][^\W\d_]+)?")
_SURE = 0.5
_SHORT = 6  # words
_LONG = 30  # characters; Japanese has no spaces


def language_of_file(texts: Iterable[str]) -> str:
    """The language that the reports of a file are written in, where four fifths of the longer ones agree; else English.

    What a short report ("Carcinoma ductal infiltrante.", "腺癌") is read in where its own words do not tell.
    """
    spoken = Counter(language_of(text[:2000]) for text in texts if len(text.split()) > _SHORT or len(text) > _LONG)
    if not spoken:
        return "en"
    language, count = spoken.most_common(1)[0]
    return language if language in (*_OWN_WORDS, "ja") and count >= max(2, 0.8 * spoken.total()) else "en"


def language_of(text: str, default: str = "en") -> str:
    """The language of a text as a two-letter code, or :data:`MIXED`.

    Args:
        text: a sentence or a whole report.
        default: what it is where nothing tells: the language of the report, or English.
    """
    scripts = _scripts(text)
    capitals = text.isupper()
    # Without acronyms ("PAS"), and without the Y of yes.
    latin_words = (word for word in _LATIN_WORD.findall(text) if capitals or not (word.isupper() and word != "A"))
    latin = [word.lower().replace("’", "'") for word in latin_words]
    if scripts:
        own = [word for word in latin if len(word) > 2 and word.isascii()]
        known = [*_OWN_WORDS.values(), *_DENIALS.values()]
        native = [word for word in own if any(word in words for words in known)]
        if native:
            return MIXED
        return _of_scripts(text, scripts, default)
    return _of_latin(text, latin, "en" if default == "ja" else default)


def _scripts(text: str) -> dict[str, int]:
    """Letters of scripts other than Latin, counted by script; single Greek letters and micro signs aside."""
    counts: dict[str, int] = {}
    for character in text:
        if character < "\u0250" or not character.isalpha():
            continue
        name = _SCRIPTS.get(unicodedata.name(character, "").split(" ")[0].split("-")[0])
        if name is not None:
            counts[name] = counts.get(name, 0) + 1
    if counts.get("el", 0) < 3:
        counts.pop("el", None)
    return counts


def _of_scripts(text: str, scripts: dict[str, int], default: str) -> str:
    if "ja" in scripts:
        return "ja"
    best = max(scripts, key=lambda name: scripts[name])
    if best == "zh" and _JAPANESE.search(text):
        return "ja"
    if best == "zh" and _CHINESE.search(text):
        return "zh"
    return "ja" if best == "zh" and default == "ja" else best


def _of_latin(text: str, words: list[str], default: str) -> str:
    evidence = _evidence(text, words)
    distinct = {word for word in words if len(word) > 1 or word in "yày"}
    parts = distinct | {word.split("'")[0] for word in distinct} | {word.split("'")[-1] for word in distinct}
    foreign = len(parts & _FOREIGN_WORDS) + len(_FOREIGN_LETTERS.findall(text))
    best = max(evidence, key=lambda name: evidence[name])
    if evidence[best] and _is_mixed(text, distinct, best, evidence):
        return MIXED
    second = max((name for name in evidence if name != best), key=lambda name: evidence[name])
    if evidence[best] and not evidence[second] and not foreign:
        return best
    if evidence[second] >= 2 and evidence[second] >= 0.4 * evidence[best] and {best, second} != {"fr", "es"}:
        return MIXED
    detected, sure = _detect(text)
    if foreign > evidence[best] or (foreign and detected not in (best, "en")):
        return detected if detected not in _OWN_WORDS or evidence.get(detected) else "other"
    if evidence[best]:
        return best if evidence[best] > evidence[second] else (detected if evidence.get(detected) else MIXED)
    if _is_not_english(text, distinct):
        return _of_forms(text, default)
    telling = sum(len(word) > 2 for word in distinct) >= 4 or not text.isascii()
    return detected if sure >= _SURE and telling and detected != default else default


def _evidence(text: str, words: list[str]) -> dict[str, int]:
    """How much in a text only one of the languages with tables has."""
    evidence = {name: len(set(words) & own) for name, own in _OWN_WORDS.items()}
    evidence["fr"] += re.search(r"\b[ldn]['’](?=[^\W\d_]{2})", text, re.IGNORECASE) is not None
    evidence["de"] += re.search(r"ß|(?<=[a-zA-Z])[äöü]|[ÄÖÜ](?=[a-z])", text) is not None
    evidence["es"] += re.search(r"[ñ¿¡]|ción\b|\b(?:ductal|tubular) infiltrantes?\b", text) is not None
    evidence["es"] += _SPANISH_DENIAL.search(text) is not None
    if {"non", "né", "senza"} & set(words):  # Italian has "infiltrante" too
        evidence["es"] = 0
    return evidence


def _is_mixed(text: str, distinct: set[str], best: str, evidence: dict[str, int]) -> bool:
    """Whether a denial of another language stands in the text, or its pieces are of different languages."""
    if best in ("de", "fr") and "no" in distinct:
        return True
    others = [words for name, words in _DENIALS.items() if name != best]
    if any(distinct & (words - _OWN_WORDS[best] - _DENIALS[best]) for words in others):
        return True
    if sum(count > 0 for count in evidence.values()) < 2:
        return False
    spoken = set()
    for piece in _PIECE.split(text):
        own = _evidence(piece, [word.lower().replace("’", "'") for word in _LATIN_WORD.findall(piece)])
        languages = [name for name, count in own.items() if count]
        spoken |= set(languages) if len(languages) == 1 else set()
    return len(spoken) > 1 and spoken != {"fr", "es"}


def _is_not_english(text: str, distinct: set[str]) -> bool:
    without_acronyms = text if text.isupper() else re.sub(r"\b[A-Z]{2,}\b", " ", text)
    lower = without_acronyms.lower().replace("de novo", "")
    return bool(
        (distinct & _NOT_ENGLISH and "de novo" not in text.lower())
        or _FORMS.search(lower)
        or len(_LATIN_PLURALS.findall(lower)) > 1
    )


def _of_forms(text: str, default: str) -> str:
    """The language of a short text that is not English; "other" where that cannot be told."""
    ranked = [(str(name), float(sure)) for name, sure in _identifier().rank(text.lower()) if str(name) != "en"]
    chances = dict(ranked)
    whole = sum(chances.values()) or 1.0
    detected, sure = ranked[0][0], ranked[0][1] / whole
    if default in ("de", "fr", "es") and len(text.split()) < _SHORT:
        return default  # a report's or a file's own language; what denies in another one was met before
    if (
        chances.get("es", 0) / whole > 0.15
        and _GREEK_ENDING.search(text)
        and detected in ("es", "ca", "pt", "it", "sl")
    ):
        return "es"  # "necrosis", "gastritis", "displasia": Portuguese and Italian write "necrose", "gastrite"
    if sure >= _SURE:
        return detected
    return default if default != "en" else "other"


@lru_cache(maxsize=1)
def _identifier() -> Any:
    from py3langid import langid

    identifier = langid.LanguageIdentifier.from_model_file(langid.MODEL_FILE, norm_probs=True)
    identifier.set_languages(sorted(_LATIN_LANGUAGES))
    return identifier


def _detect(text: str) -> tuple[str, float]:
    name, sure = _identifier().classify(text)
    return str(name), float(sure)
