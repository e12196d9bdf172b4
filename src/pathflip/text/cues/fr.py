"""French.

Denials: the French NegEx of Deléger & Grouin 2012 (IHI 697) and FastContext-style lists as far as their words are
general French (ne … pas, pas de, aucun, sans, absence de, ni, dépourvu, indemne), with the wordings of routine
reports. What a slide cannot show: the items of the Société française de pathologie's minimal data sets.
"""

from pathflip.text.cues import NEXT_SENTENCE, Cues
from pathflip.text.cues.en import NOT_VISUAL, NOT_VISUAL_CASED

CUES = Cues(
    not_visual={
        "margins": (
            r"\b(?:marges?|limites?|berges?|tranches?) (?:\w+ ){0,2}(?:chirurgical\w*|d['’ ]?exérèse|de résection|profonde?s?|"
            r"latérale?s?|saine?s?|indemne?s?|de section)\b|\bmarges?\b|\bexérèse (?:in)?complète\b|\bmarge\w*|\bberges?\b|"
            r"\brecoupes?\b|\bencr\w+",
        ),
        "nodes": (r"\bganglion\w*|\bcurage\b|\bcapsulaire ganglionnaire\b|\bextra-?ganglionnaire\b|\bsentinelle\b",),
        "stage": (r"\bstades?\b|\b(?:TNM|pTNM|UICC|FIGO)\b|\bmétastases? à distance\b", *NOT_VISUAL["stage"]),
        "size": (
            r"\d\s*(?:cm|mm|g|kg|ml)\b(?!\s*(?:2|²|\^2))|\bmesur\w+|\bplus grand (?:axe|diamètre)\b|\bpoids\b|\bpès(?:e|ent)\b",
            r"\btaille (?:tumorale|de la tumeur)\b|\bdiamètre\b",
        ),
        "gross": (
            r"\bmacroscop\w+|\bformol\b|\binclus\w* en totalité\b|\badressée?s?\b|\bparvenu\w*|\bexamen extemporané\b|\bextemporan\w+",
            r"\borienté\w* par\b|\btranche de section\b|\bcassettes?\b",
        ),
        "clinical": (
            r"\bcliniques?\b|\bantécédents?\b|\bpatiente?s?\b|\bâgée?\b|\btraitement\w*|\w*thérapi\w+|\brecommand\w+|"
            r"\bimagerie\b|\bradiolog\w+|\bà confronter\b|\bcorrélation\b|\bpronosti\w+|\bsuivi\b|\bsurveillance\b",
        ),
        "receptors": (
            r"\brécepteurs?\b|\bimmuno-?histo\w+|\bimmunofluoresc\w+|\bimmunomarquage\w*|\bimmunophénotyp\w+|\bhormon\w+|\bKi-?67\b|\bmarquage\b",
            *NOT_VISUAL["receptors"],
        ),
        "molecular": (r"\bmoléculaire\w*|\bmutation\w*|\bmicrosatell\w+|\bgènes?\b|\bgénét\w+", *NOT_VISUAL["molecular"]),
        "administration": (
            r"\b\d{1,2}[/.-]\d{1,2}[/.-](?:19|20)?\d\d\b|\bnée? le\b|\b(?:dr|docteur|pr|professeur)\b\.? |\bsigné\w*|"
            r"\bcompte[- ]rendu\b|\bprélevé\w* le\b|\breçu\w* le\b|\bdossier\b|\brelecture\b|\bavis (?:externe|d['’]expert)\b",
        ),
        "no information": (
            r"^\W*(?:voir|cf\.?) (?:\w+ )?(?:compte[- ]rendu|rapport|commentaire|ci-(?:dessus|dessous)|texte)\W*$",
            r"\bnon (?:évaluable|évalué|réalisé|précisé|renseigné|connu|applicable|déterminé|communiqué|interprétable)\w*",
            r"\ben cours\b|\bne (?:peut|peuvent) (?:pas )?être (?:évalué|déterminé|apprécié)\w*|\binconnue?\b",
        ),
    },
    not_visual_cased={"stage": NOT_VISUAL_CASED["stage"]},
    visible_anyway=(
        r"\b(?:dans|sur) (?:le|la|les) (?:matériel|prélèvements?|fragments?|biopsies?|tissus?) (?:adress|reç|parven|transmi)\w+",
        r"\b(?:bien|mal) limitée?s?\b|\bpar (?:\d+ ?)?mm\b|\blimites? (?:floues?|nettes?|irrégulières?)\b",),
    denials=(
        (r"(?<=\w)\s*[(（]\s*[-−–]\s*[)）]", " (+)"),
        (r"(?<=[^\W\d_]{3}) (?:neg\.?|negativ|négatif|négative)(?=\s*(?:$|[.,;]))", " positiv"),
        (r"\b(?:il )?n['’]y a (?:pas|aucun\w*) (?:de |d['’])?", "il y a "),
        (r"\babsence (?:complète |totale )?(?:de |d['’]|du |des )", "présence de "),
        (r"\babsentes?\b|\babsents?\b", "présent"),
        (r"\babsences?\b", "présence"),
        (r"\bsans (?:signes? |argument |élément |évidence )?(?:de |d['’]|en faveur d['’e] ?)?", "avec "),
        (r"\b(?:ne|n['’])(?=\s*\w+.*\b(?:pas|aucun\w*|ni|jamais|plus|point|guère)\b)|\bn['’](?=est|a\b|ont|on)|\bne\b(?! serait)", ""),
        (r"\bpas (?:de |d['’])", ""),
        (r"\b(?:pas|jamais|nullement|point)\b", ""),
        (r"\baucune?s?\b", ""),
        (r"\bni\b", "et"),
        (r"\b(?:dépourvue?s?|exempte?s?|indemnes?|libres?) (?:de |d['’])", "avec "),
        (r"\bindemnes?\b", "atteint"),
        (r"\bnégati(?:f|fs|ve|ves)\b(?: pour)?", "positif"),
        (r"\b(?:manque|défaut) (?:de |d['’])", "présence de "),
        (r"\b(?:est|sont|a été|ont été) (?:\w+ment )?(?:exclue?s?|éliminée?s?|écartée?s?)\b", "est présent"),
        (r"\bexclu(?:t|ent)\b|\bélimine(?:nt)?\b", "montre"),
        (r"\bnon (?=(?:\w+ment )?(?:vu|retrouvé|identifié|observé|visible|mis en évidence|décelé|détecté|présent|visualisé|atteint|envahi))", ""),
        (r"(?<=[:=])\s*(?:non|néant|nul(?:le)?s?|0|\(-\)|\(−\))(?=\s*(?:$|[.,;(]))", " présent"),
        (r"\bnul(?:le)?s?\b|\bnéant\b", "présent"),
    ),
    pseudo=(
        r"\b(?:ne|n['’])\s?\w+ (?:pas|guère) (?:rares?|exceptionnel\w*|inhabituel\w*|seulement|négligeables?)\b",
        r"\bnon (?:spécifiques?|seulement|kératinisante?s?|invasi\w+|infiltrante?s?|à petites cellules|épidermoïde|mucineu\w+|"
        r"hodgkinien\w*|séminomateu\w+|tumora\w+|néoplasique\w*|autrement|classé\w*)\b|\bsans autre (?:indication|précision)\b",
        r"\b(?:pas|non) (?:rares?|exceptionnel\w*|inhabituel\w*|seulement|plus de)\b|\bpas de type (?:particulier|spécial)\b",
        r"\b(?:pas|jamais|non|aucun\w*)\b[^,;.]{0,30}?\b(?:absentes?|absents?|sans|dépourvu\w*|exempt\w*|indemnes?|libres? de|négati\w+)\b",
        r"\bn['’]est pas (?:absente?|dépourvue?|sans|exempte?|indemne)\b|\bne manque(?:nt)? pas\b|\bavec ou sans\b",
        r"\bpas d['’](?:augmentation|évolution)\b|\bsans (?:difficulté|particularités?)\b",
    ),
    doubts=(
        r"\bpas plus (?:de |d['’])[^,;.]{1,40}? que (?:de |d['’])",
        r"\b(?:ne|n['’])\s?\w*\s?(?:peut|peuvent|pouvant|pourrait|saurait|permet|permettent)\b.{0,40}\b(?:exclu\w*|élimin\w*|écart\w*)",
        r"\b(?:pas|non|sans)\b.{0,25}\b(?:exclu\w*|élimin\w*|écart\w+)\b|\bdifficile (?:à|d['’])\b|\bà (?:exclure|éliminer|écarter)\b",
        r"\b(?:pas|sans|aucun\w*)\b.{0,25}\b(?:certain\w*|formel\w*|franc(?:he)?s?\b|évident\w*|indiscutable\w*|net\w*)\b|\bdouteu\w+|\bincertain\w*",
        r"\?|\bà discuter\b|\bdiscut\w+|\bsans doute\b|\béquivoque\w*|\bindétermin\w+|\bplutôt que\b|\binsuffisan\w+ pour\b",
        r"\bpas (?:très |particulièrement )?(?:nombreu\w+|fréquent\w*|étendu\w*|marqué\w*|important\w*|diffus\w*|sévère\w*)\b",
    ),
    hedges=(
        r"\bsuspicion\w*|\bsuspect\w*|\bpossibl\w+|\bprobabl\w+|\bévocat\w+|\bévoqu\w+|\ben faveur\b|\bcompatibles?\b|"
        r"\bsuggèr\w+|\bsuggest\w+|\bpourrai(?:t|ent)\b|\bvraisembl\w+|\béventuel\w*|\bprésum\w+|\bdiagnostics? différentiel\w*|\bsemble\w*",
    ),
    breaks=(
        NEXT_SENTENCE,
        r"\s*;\s*",
        r",?\s+\b(?:mais|cependant|toutefois|alors que|tandis que|néanmoins|en revanche|hormis|sauf|excepté|en dehors)\b,?\s+",
        r",\s+(?=(?:pas|sans|absence|aucun\w*|avec|ni|non|il|on|la|le|les|présence)\b)",
        r"(?<!\bnon)(?<!\bou),?\s+(?=sans\b|avec (?:une )?absence\b|ne \w+ant pas\b|en l['’]absence\b)",
        r",?\s+et\s+(?=(?:sans|absence|pas|aucun\w*|présence)\b)",
        r"\s+(?=(?:dépourvue?s?|exempte?s?) d)",
        r",?\s+(?=qui (?:ne|n['’]))",
        r"(?:,|\bavec|\bet)\s+(?=(?:une? )?(?:possibl\w+|probabl\w+|suspect\w*|suspicion|évocat\w+|douteu\w+)\b)",
    ),
    dependent=r"(?:avec|sans|qui|dont|dépourvue?s?|exempte?s?)\b",
    frame=frozenset(
        """le la les l un une des du de d au aux il elle on est sont a ont été y en dans sur par pour avec et ou ce cet
        cette ces se s n ne pas présence présente présent observe observé observée retrouve retrouvé retrouvée vu vue
        identifié identifiée note noté existe montre montrent prélèvement biopsie tissu coupe coupes examen lame lames
        niveau signe signes foyer foyers microscopique histologique également aucun aucune sans absence ni que
        qui""".split()
    ),
    degrees=frozenset("nombreux nombreuses fréquent fréquentes étendu étendue marqué marquée très".split()),
    predicates=frozenset(
        """présent présente présents présentes absent absente absents absentes négatif négative positif positive nombreux
        nombreuses rares fréquentes marqué marquée modéré modérée oui non néant nul nulle focale diffuse""".split()
    ),
    verbs=r"\b(?:est|sont|a|ont|montre|montrent|présente|présentent|observe|note|retrouve|existe|infiltre|envahit|comporte|"
    r"comportent|correspond|correspondent|contient|contiennent)\b",
    yes=("oui", "présent", "présente", "présents", "présentes", "positif", "positive", "+", "(+)", "retrouvé", "identifié"),
    no=(
        "non", "absent", "absente", "absents", "absentes", "absence", "aucun", "aucune", "néant", "nul", "nulle",
        "négatif", "négative", "0", "(-)", "(−)", "non retrouvé", "non retrouvée", "non vu", "non vue", "non identifié",
        "non identifiée", "non observé", "non observée", "pas vu", "non visible",
    ),
    open=("?", "±", "+/-", "douteux", "douteuse", "suspect", "possible", "probable", "-", "–", "indéterminé", "équivoque"),
    blank=("non évaluable", "non évalué", "non applicable", "na", "n/a", "non précisé", "non renseigné", "en cours", "inconnu"),
)  # fmt: skip
