"""The vocabulary of the painted cases' German reports; each sentence says what its English counterpart says.

Slots of the templates: ``{name}`` a finding (its nominative and accusative are one form), ``{dative}`` the same after
"von", ``{ist}`` and ``{fehlt}`` agreeing with it, ``{place}``, ``{amount}``; of a diagnosis ``{type}``, ``{grade}``,
``{pattern}``.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from pathflip.simulate.world import CONCEPTS

__all__ = [
    "GERMAN_ABSENCE",
    "GERMAN_AMOUNTS",
    "GERMAN_DIAGNOSIS",
    "GERMAN_GRADES",
    "GERMAN_NAMES",
    "GERMAN_NON_VISUAL",
    "GERMAN_NUCLEI",
    "GERMAN_PATTERNS",
    "GERMAN_PLACES",
    "GERMAN_PRESENCE",
    "GERMAN_PRESENCE_PLAIN",
    "GERMAN_TYPES",
    "GermanName",
]


@dataclass(frozen=True)
class GermanName:
    """A finding in German: nominative, dative, and whether it is a plural."""

    name: str
    dative: str
    plural: bool


def _plural(name: str, dative: str = "") -> GermanName:
    return GermanName(name, dative or name, True)


def _singular(name: str, dative: str = "") -> GermanName:
    return GermanName(name, dative or name, False)


GERMAN_NAMES: Mapping[str, GermanName] = {
    "keratin_pearls": _plural("Hornperlen"),
    "mucin_pools": _plural("Schleimseen"),
    "necrosis": _plural("Nekrosen"),
    "lymphoid_aggregates": _plural("Lymphfollikel", "Lymphfollikeln"),
    "tumour_infiltrating_lymphocytes": _plural("tumorinfiltrierende Lymphozyten", "tumorinfiltrierenden Lymphozyten"),
    "vascular_invasion": _plural("Gefäßeinbrüche", "Gefäßeinbrüchen"),
    "perineural_invasion": _singular("Perineuralscheideninvasion"),
    "desmoplastic_stroma": _singular("desmoplastisches Stroma", "desmoplastischem Stroma"),
    "hyalinised_collagen": _singular("hyalinisiertes Kollagen", "hyalinisiertem Kollagen"),
    "smooth_muscle": _singular("glatte Muskulatur", "glatter Muskulatur"),
    "adipose_tissue": _singular("Fettgewebe"),
    "normal_glands": _plural("regelhafte Drüsen", "regelhaften Drüsen"),
    "haemorrhage": _plural("Einblutungen"),
    "calcification": _plural("Verkalkungen"),
    "multinucleated_giant_cells": _plural("mehrkernige Riesenzellen", "mehrkernigen Riesenzellen"),
    "foamy_macrophages": _plural("Schaumzellen"),
    "eosinophil_infiltrate": _plural("eosinophile Granulozyten", "eosinophilen Granulozyten"),
    "neutrophil_abscess": _plural("Mikroabszesse", "Mikroabszessen"),
    "cystic_spaces": _plural("Zysten"),
    "haemosiderin_pigment": _plural("Hämosiderinablagerungen"),
    "tumour": _singular("Tumorgewebe"),
    "fibrous_stroma": _singular("fibröses Stroma", "fibrösem Stroma"),
}
assert GERMAN_NAMES.keys() == CONCEPTS.keys()

GERMAN_TYPES: Mapping[str, str] = {
    "adenocarcinoma": "Adenokarzinom",
    "squamous_cell_carcinoma": "Plattenepithelkarzinom",
    "small_cell_carcinoma": "kleinzelliges Karzinom",
    "clear_cell_carcinoma": "klarzelliges Karzinom",
    "melanoma": "malignes Melanom",
}
GERMAN_GRADES: Mapping[int, str] = {1: "gut differenziert", 2: "mäßig differenziert", 3: "schlecht differenziert"}
GERMAN_PATTERNS: Mapping[str, str] = {
    "glandular": "drüsigem",
    "papillary": "papillärem",
    "solid_nests": "solidem",
    "single_files": "einzelzelligem",
}
GERMAN_NUCLEI: Mapping[int, str] = {
    1: "klein und gleichförmig",
    2: "mäßig vergrößert",
    3: "groß, dunkel und pleomorph",
}
GERMAN_AMOUNTS: Mapping[str, str] = {"focal": "herdförmig", "moderate": "in mäßiger Menge", "extensive": "ausgedehnt"}
GERMAN_PLACES: Mapping[str, str] = {
    "upper left": "links oben im Gewebe",
    "upper": "im oberen Anteil des Schnittes",
    "upper right": "rechts oben im Gewebe",
    "left": "im linken Anteil des Schnittes",
    "central": "im Zentrum des Gewebes",
    "right": "im rechten Anteil des Schnittes",
    "lower left": "links unten im Gewebe",
    "lower": "im unteren Anteil des Schnittes",
    "lower right": "rechts unten im Gewebe",
    "scattered": "verteilt an mehreren Stellen",
}

GERMAN_PRESENCE = (
    "Nachweis von {dative} {place}.",
    "Man sieht {amount} {name}, {place}.",
    "{name} {ist} {place} nachweisbar.",
    "Ferner erkennt man {amount} {name}.",
    "{name} {ist} {amount} vorhanden.",
)
"""A finding that is there, with its place or extent."""

GERMAN_PRESENCE_PLAIN = ("Nachweis von {dative}.", "Man sieht {name}.", "{name} {ist} nachweisbar.")
"""The same without place and extent."""

GERMAN_ABSENCE = (
    "Kein Nachweis von {dative}.",
    "{name} {ist} nicht nachweisbar.",
    "Kein Anhalt für {name}.",
    "{name} {ist} nicht zu erkennen.",
    "Es {fehlt} {name}.",
)
"""A finding that is not there."""

GERMAN_DIAGNOSIS: Mapping[str, tuple[str, ...]] = {
    "diagnosis": ("{type}, {grade}, mit {pattern} Wachstum.", "Man sieht ein {type} mit {pattern} Aufbau, {grade}."),
    "benign": ("Gutartiges Bindegewebe.", "Es handelt sich um gutartiges Gewebe."),
    "nuclei": ("Die Zellkerne des Tumors sind {nuclear}.",),
    "tumour_extent": ("Der Tumor nimmt etwa {percent} % des Gewebes ein.",),
    "tumour_place": ("Der Tumor liegt überwiegend {place}.",),
    "background": ("Im Hintergrund {name}.", "Das umgebende Gewebe besteht aus {dative}."),
}

GERMAN_NON_VISUAL: Mapping[str, tuple[str, ...]] = {
    "history": ("Zustand nach Chemotherapie.", "Bekannte arterielle Hypertonie.", "Tumor in der Vorgeschichte."),
    "specimen": ("Ein Exzisat von {cm} x {cm2} x {cm3} cm.", "Formalinfixiertes Gewebestück, {cm} cm messend."),
    "receptors": ("Östrogenrezeptor in {percent} % der Kerne positiv.", "Ki-67-Index {percent} %, p53 positiv."),
    "margins": ("Die Resektionsränder sind tumorfrei.", "Abstand zum Resektionsrand {mm} mm."),
    "nodes": ("{k} von {n} Lymphknoten mit Metastase.", "Die {n} Lymphknoten sind tumorfrei."),
    "stage": ("pT{t}{sub} pN{k3}.", "Tumorstadium pT{t} N{k3} M0."),
    "administration": ("Frau Dr. {doctor} wurde telefonisch verständigt.",),
}
"""Topic -> sentences that no slide can confirm."""
