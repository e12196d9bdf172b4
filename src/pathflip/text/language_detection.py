"""Which language a text is written in, offline: by script, by function words, and by a small trained detector.

Short report lines ("Necrosis: nil") give a detector little to go by, so words that belong to one language alone are
counted first; py3langid (Barbaresi; a Naive Bayes model over byte n-grams, no pickle) decides where those are silent
or disagree. Text that stays unclear takes the language of the report it stands in.
"""

import re
import unicodedata
from functools import lru_cache
from typing import Any

__all__ = ["MIXED", "language_of"]

MIXED = "mixed"
"""Two languages, or two scripts with words of their own, in one text."""


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


# Words of one of these languages alone (among them and English).
_OWN_WORDS: dict[str, frozenset[str]] = {
    "en": _words(
        """the and is are was were with without there this that these which of from by not shows show seen identified
        present noted into within has have been its between throughout consists consistent lacks neither nor cannot
        sections tumour tumor tumours tumors cells nuclei lymphovascular rules ruled"""
    ),
    "de": _words(
        """der das und ist sind mit ohne kein keine keinen keiner keines nicht eine einer eines einem dem den von zu zum
        zur sich findet finden nachweisbar nachweis weder noch wird werden auf bei liegt vor fehlt sowie aus im vom
        mäßig anhalt für zeigt zahlreiche schlecht gut wurde wurden nach über
        nein fehlen fehlend fraglich fragliche verdacht herdförmig herdförmige"""
    ),
    "fr": _words(
        """une du est sont avec sans pas aucun aucune dans les aux ne présence signe cette il absence d'une n'est
        d'un nécrose bien peu très foyers retrouve observe observée à"""
    ),
    "es": _words(
        """el los del y con sin se hay ningún ninguna observa observan identifica identifican ausencia por
        para presencia aprecia aprecian una invasión células está muestra
        ausente ausentes nula nulo carece"""
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
_LATIN_LANGUAGES = _words("en de fr es it pt nl da sv no fi pl cs hu ro tr ca sk sl hr lt lv et")
_SCRIPTS = {
    "HIRAGANA": "ja", "KATAKANA": "ja", "CJK": "zh", "HANGUL": "ko", "CYRILLIC": "ru", "GREEK": "el", "ARABIC": "ar",
    "HEBREW": "he", "THAI": "th", "DEVANAGARI": "hi", "BENGALI": "bn", "TAMIL": "ta", "GEORGIAN": "ka",
}  # fmt: skip
_LATIN_WORD = re.compile(r"[^\W\d_]+(?:['’][^\W\d_]+)?")
_SURE = 0.5


def language_of(text: str, default: str = "en") -> str:
    """The language of a text as a two-letter code, or :data:`MIXED`.

    Args:
        text: a sentence or a whole report.
        default: what it is where nothing tells: the language of the report, or English.
    """
    scripts = _scripts(text)
    capitals = text.isupper()
    latin_words = (word for word in _LATIN_WORD.findall(text) if capitals or not (word.isupper() and len(word) > 1))
    latin = [word.lower().replace("’", "'") for word in latin_words]  # without acronyms ("PAS")
    if scripts:
        own = [word for word in latin if len(word) > 2 and word.isascii()]
        known = [*_OWN_WORDS.values(), *_DENIALS.values()]
        native = [word for word in own if any(word in words for words in known)]
        if native:
            return MIXED
        return _of_scripts(scripts, default)
    return _of_latin(text, latin, default)


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


def _of_scripts(scripts: dict[str, int], default: str) -> str:
    if "ja" in scripts:
        return "ja"
    best = max(scripts, key=lambda name: scripts[name])
    return "ja" if best == "zh" and default == "ja" else best


def _of_latin(text: str, words: list[str], default: str) -> str:
    distinct = {word for word in words if len(word) > 1 or word in "yày"}
    parts = distinct | {word.split("'")[0] for word in distinct} | {word.split("'")[-1] for word in distinct}
    evidence = {name: len(distinct & own) for name, own in _OWN_WORDS.items()}
    if re.search(r"\b[ldn]['’](?=[^\W\d_]{2})", text, re.IGNORECASE):
        evidence["fr"] += 1
    if re.search(r"ß|(?<=[a-zA-Z])[äöü]|[ÄÖÜ](?=[a-z])", text):
        evidence["de"] += 1
    if re.search(r"[ñ¿¡]|ción\b", text):
        evidence["es"] += 1
    foreign = len(parts & _FOREIGN_WORDS)
    best = max(evidence, key=lambda name: evidence[name])
    others = [words for name, words in _DENIALS.items() if name != best]
    if best in ("de", "fr") and evidence[best] and "no" in distinct:
        return MIXED
    if evidence[best] and any(distinct & (words - _OWN_WORDS[best] - _DENIALS[best]) for words in others):
        return MIXED
    ranked = sorted(evidence, key=lambda name: -evidence[name])
    second = ranked[1] if ranked[0] == best else ranked[0]
    if evidence[best] and not evidence[second] and not foreign:
        return best
    if evidence[second] >= 2 and evidence[second] >= 0.4 * evidence[best] and {best, second} != {"fr", "es"}:
        return MIXED
    detected, sure = _detect(text)
    if foreign > evidence[best] or (foreign and detected not in (best, "en")):
        return detected if detected not in _OWN_WORDS or evidence.get(detected) else "other"
    if evidence[best]:
        return best if evidence[best] > evidence[second] else (detected if evidence.get(detected) else MIXED)
    telling = sum(len(word) > 2 for word in distinct) >= 4 or not text.isascii()
    return detected if sure >= _SURE and telling and detected != default else default


@lru_cache(maxsize=1)
def _identifier() -> Any:
    from py3langid import langid

    identifier = langid.LanguageIdentifier.from_model_file(langid.MODEL_FILE, norm_probs=True)
    identifier.set_languages(sorted(_LATIN_LANGUAGES))
    return identifier


def _detect(text: str) -> tuple[str, float]:
    name, sure = _identifier().classify(text)
    return str(name), float(sure)
