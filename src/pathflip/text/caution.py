"""The last look at a clause: what hints at a denial that no rule has read is undecided, never its opposite.

The tables of :mod:`pathflip.text.cues` read the wordings they know. Here stand the words that mean something missing in
whatever wording ("is sought in vain", "fait défaut", "werden vermisst"): where one stands in a clause that came out
affirmed, nobody can tell. The same holds for a clause that came out denied and denies twice ("it is not true that
mitoses are lacking"). Of 2,371 affirmed SlideBench sub-captions these words stand in fewer than one in a hundred.
"""

import re

from pathflip.text.polarity import Polarity, blanked, rules_of

__all__ = ["with_caution"]

_HINTS = {
    "en": r"absen\w*|fail(?:s|ed|ing|ure to)?|missing|missed|nil|none|nothing|never|nowhere|neither|nor|not|"
    r"\w+n['’]t|no|without|minus|sans|den(?:y|ies|ied)|refut\w*|rul(?:e|es|ed|ing) out|exclud\w*|discounted|"
    r"dismissed|disproved?|against|spared|devoid|void of|bereft|exempt|far from|short of|anything but|hardly|"
    r"barely|scarcely|seldom|vanished|disappear\w*|eliminated|non-?existent|elusive|wanting|unseen|undetect\w*|"
    r"unidentif\w*|unaffected|sought|searched for|looked for|instead of|in lieu of|in place of|omitted|zero|"
    r"eschew\w*|evade\w*|unable|impossible|inapparent|invisible|imperceptible|improbable|doubt(?!less)\w*|"
    r"questioned|questionable|contrary|unlike|unsupported|unconfirmed|in vain|lack\w*|free(?:ness)? (?:of|from)|"
    r"clear of|negative|to no avail|untrue|refrain\w*|defie[sd]|eludes?|eluded|escap\w*|rid of|would|"
    r"unless|were to|provided that|stays? away|ceased",
    "de": r"vermiss\w*|fehl(?:t|te|ten|en|end\w*)|ohne|kein\w*|nicht|nie|niemals|weder|ausgeschloss\w*|"
    r"auszuschlie\w*|ausbleib\w*|ausgeblieben|entbehr\w*|ausgespart\w*|verschont\w*|verneint|negativ\w*|mangels?|"
    r"entfällt|fehlanzeige|kaum|unwahrscheinlich\w*|gesucht|vergebl\w*|umsonst|statt|anstelle|anstatt|nirgend\w*|"
    r"widerleg\w*|"
    r"abwesen\w*|frei von|\w{4,}frei(?:e[rnms]?)?|ermangel\w*|nil|null|verschwunden|weit entfernt|"
    r"alles andere als|abzugrenzen von|unbeteiligt|ausgenommen",
    "fr": r"(?:fait|font|faisant|faisaient) défaut|manqu\w+|absen\w+|sans|pas|aucun\w*|nul(?:le)?s?|ni|jamais|"
    r"exclue?s?|écartée?s?|éliminée?s?|indemnes?|exempte?s?|dépourvue?s?|libres? d\w*|négati\w+|épargn\w+|"
    r"infirm\w+|recherchée?s?|guère|loin d\w*|au lieu|plutôt que|en vain|vainement|faute de|disparue?s?|"
    r"introuvables?|à peine|rien|nulle part|inexistante?s?|ni(?:e|ée?s?|ent)|respectée?s?",
    "es": r"ausen\w+|faltan?|faltando|sin|no|ning[uú]n\w*|nul[oa]s?|ni|nunca|jamás|tampoco|carec\w+|carent\w+|"
    r"exclu[iy]\w*|descart\w+|exent[oa]s?|libres? de|negativ[oa]s?|respetad[oa]s?|indemnes?|desprovist[oa]s?|"
    r"lejos de|en vez de|en lugar de|apenas|en vano|inexistentes?|nada|buscad[oa]s?|desaparecid[oa]s?|"
    r"preservad[oa]s? de",
    "ja": r"ない|なし|無し|無い|(?<=[らめれえせけべ])ず|ません|欠[くいけ]|欠如|否定|除外|"
    r"陰性|乏し|見当たら|皆無|免れ|とは言え|とはいえ",
}
_REVERSES = {
    "en": r"far from|anything but|hardly|scarcely|barely|not (?:true(?= that|\W*(?:$|[,.;]))|"
    r"the case|correct|so that)|untrue|incorrect|"
    r"false that|wrong|contrary|den(?:y|ies|ied)|refut\w*|disput\w*|reject(?:s|ed)? (?:the|that)|instead of|"
    r"in lieu of|rarely|seldom|doubt\w*|question\w*",
    "de": r"weit entfernt|alles andere als|kaum|nicht (?:richtig|wahr|so)|falsch|widerleg\w*|statt|anstelle|"
    r"entgegen|selten",
    "fr": r"loin d\w*|guère|faux|au lieu|rarement|il n['’]est pas vrai|infirm\w*|contraire\w*|à peine",
    "es": r"lejos de|no es (?:cierto|verdad)|falso|en vez de|en lugar de|rara vez|contrari\w+|apenas",
    "ja": r"わけではない|とは限らない|なくはない|ないではない|ないとは言えない|ないとはいえない",
}
# Two denials of one thing, with nothing between them that begins another: "no gland lacks", "manque pas".
_TWICE = {
    "en": r"\b(?:no|not|\w+n['’]t|never|none|neither|nothing|nowhere|cannot|hardly|fails? to)\b(?:(?!\b(?:and|or|"
    r"nor|but|with)\b)[^,;.:()–]){0,60}\b(?:lack\w*|absent|absence|missing|fail(?:s|ed|ing)?|free (?:of|from)|"
    r"devoid|without|negative for|excluded|ruled out|unaffected|uninvolved|spar\w+)\b",
    "de": r"\b(?:kein\w*|nicht|nie|niemals|weder)\b(?:(?!\b(?:und|oder|noch|aber|"
    r"mit)\b)[^,;.:()–]){0,50}\b(?:fehl\w*|frei von|ohne|ausgeschlossen|vermiss\w*|\w{4,}frei\w*|negativ)\b|"
    r"\bfehl(?:t|en|ten)\b[^,;.:]{0,20}\bnicht\b",
    "fr": r"\b(?:ne|n['’])\s?(?:manqu|fait pas défaut|font pas défaut|est pas (?:absen|indemne|exempt|dépourvu)|"
    r"sont pas (?:absen|indemne|exempt|dépourvu))|\b(?:pas|aucun\w*|jamais)\b(?:(?!\b(?:et|ou|ni|mais|"
    r"avec)\b)[^,;.:()–]){0,50}\b(?:absen\w+|sans|manqu\w+|indemnes?|exempt\w*|dépourvu\w*|défaut)\b",
    "es": r"\b(?:no|ning[uú]n\w*|nunca)\b(?:(?!\b(?:y|o|ni|pero|con)\b)[^,;.:()–]){0,50}\b(?:falta\w*|ausen\w+|"
    r"sin|exent\w+|libres? de|carec\w+|desprovist\w+|negativ\w+)\b",
    "ja": r"(?:ない|なし|無い|欠)[^。、]{0,12}(?:ない|ません|否定)",
}


def _words(language: str, pattern: str) -> re.Pattern[str]:
    """Whole words, but of a script that sets none apart."""
    return re.compile(pattern if language == "ja" else rf"(?<![\w-])(?:{pattern})(?![\w-])", re.IGNORECASE)


_HINT = {name: _words(name, pattern) for name, pattern in _HINTS.items()}
_REVERSE = {name: _words(name, pattern) for name, pattern in _REVERSES.items()}
_DOUBLE = {name: re.compile(pattern, re.IGNORECASE) for name, pattern in _TWICE.items()}


# What goes on from a denial without saying so: "…, as is necrosis", "The same holds for mitoses."
_GOES_ON = re.compile(
    r"\W*(?:as (?:is|are|was|were|do|does)\b|nor\b|neither\b|ditto\b|idem\b|dito\b|"
    r"(?:and )?(?:the )?same (?:holds|is true|applies|goes|"
    r"can be said)\b|(?:dasselbe|gleiches|das gleiche) gilt\b|(?:il )?en (?:va|est) de même\b|de même (?:pour|"
    r"que)\b|lo mismo\b|"
    r"(?:likewise|similarly|ebenso|ebensowenig|asimismo)\W+(?:[\w-]+\W*){1,3}$)|同様",
    re.IGNORECASE,
)
# A denial behind one of these is of the subordinate clause alone, and what stands before it is not denied.
_SUBORDINATE = {
    "en": r"(?:which|whose|wherein|where|because|since|although|though|whereas|while|so that|such that)",
    "de": r"(?:welche[rsmn]?|deren|dessen|wobei|weil|da|obwohl|während|so ?dass|wo)",
    "fr": r"(?:qui|que|dont|lequel|laquelle|lesquel(?:le)?s|où|parce que|puisque|bien que|quoique|tandis que|"
    r"alors que)",
    "es": r"(?:que|cuy[oa]s?|donde|porque|ya que|aunque|mientras que)",
}
_BEHIND = {name: re.compile(rf"[,\s]\s*{words}\b", re.IGNORECASE) for name, words in _SUBORDINATE.items()}


# "Granulomas, which are numerous, are not confluent": what is denied is the predicate, or the whole.
_EMBEDDED = re.compile(
    r",\s+(?:which|that|who|sparing|die|der|das|welche[rs]?|qui|que)\s+[^,;]{3,60},\s", re.IGNORECASE
)


def _is_subordinate(masked: str, language: str) -> bool:
    """Whether the only denial of a clause stands in a subordinate one behind something that is stated."""
    subordinate = _BEHIND[language].search(masked) if language in _BEHIND else None
    if subordinate is None or len(re.findall(r"[^\W\d_]{3,}", masked[: subordinate.start()])) < 2:
        return False
    return rules_of(language).denial.search(masked[: subordinate.start()]) is None


def with_caution(clause: str, polarity: Polarity, language: str) -> Polarity:
    """The polarity of a clause as the rules read it, or undecided where a word of it speaks against that."""
    if polarity == "undecided" or language not in _HINT:
        return polarity
    masked = rules_of(language).pseudo.sub(blanked, clause)
    if polarity == "affirmed":
        return "undecided" if _HINT[language].search(masked) or _GOES_ON.match(clause) else polarity
    reversed_or_twice = (
        _REVERSE[language].search(masked) or _DOUBLE[language].search(masked) or _EMBEDDED.search(clause)
    )
    return "undecided" if reversed_or_twice is not None or _is_subordinate(masked, language) else polarity
