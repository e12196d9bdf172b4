"""The vocabulary of the synthetic reports: names, templates, prompts; a share of each is held out for testing.

Slots of the templates: ``{name}`` a finding, with ``{is}`` and ``{s}`` agreeing with it; ``{amount}`` its extent
before a noun and ``{degree}`` after a verb; ``{place}``; ``{percent}``; of a diagnosis ``{type}``, ``{a_type}`` (with
article), ``{grade}``, ``{a_grade}``, ``{pattern}`` (adjective), ``{a_pattern}``, ``{arrangement}``, ``{nuclear}``.
The first letter of a sentence is made a capital when it is filled in.
"""

from collections.abc import Mapping
from dataclasses import dataclass

__all__ = [
    "ABSENCE",
    "AMOUNTS",
    "ARRANGEMENTS",
    "DEGREES",
    "DIAGNOSIS",
    "GRADES_SAID",
    "GRADE_CLASSNAMES",
    "NAMES",
    "NON_VISUAL",
    "NUCLEAR",
    "PATTERNS_SAID",
    "PATTERN_CLASSNAMES",
    "PLACES_SAID",
    "PRESENCE",
    "PRESENCE_PLAIN",
    "TEMPLATES",
    "TYPES_SAID",
    "TYPE_CLASSNAMES",
    "Name",
    "Wording",
    "agreement",
    "article",
    "prompts",
    "sentence_case",
]


@dataclass(frozen=True)
class Wording:
    """Ways to say one thing: ``seen`` in all reports, ``held_out`` only in the paraphrases of test reports."""

    seen: tuple[str, ...]
    held_out: tuple[str, ...] = ()

    def of(self, held_out: bool) -> tuple[str, ...]:
        """The held-out ways where there are some, else those every report uses."""
        return self.held_out if held_out and self.held_out else self.seen


@dataclass(frozen=True)
class Name:
    """A finding's names. ``plural`` holds for each name in turn, seen ones first."""

    wording: Wording
    plural: Mapping[str, bool]


def _name(*seen: str, held_out: str = "") -> Name:
    """A trailing + marks a plural; names of a finding that nobody holds out have no ``held_out``."""
    all_names = (*seen, held_out) if held_out else seen
    plural = {name.rstrip("+"): name.endswith("+") for name in all_names}
    return Name(
        Wording(tuple(name.rstrip("+") for name in seen), (held_out.rstrip("+"),) if held_out else ()),
        plural,
    )


NAMES: dict[str, Name] = {
    "keratin_pearls": _name("keratin pearls+", "squamous pearls+", held_out="whorled keratin"),
    "mucin_pools": _name("mucin pools+", "extracellular mucin", held_out="mucin lakes+"),
    "necrosis": _name("necrosis", "coagulative necrosis", held_out="necrotic debris"),
    "lymphoid_aggregates": _name(
        "lymphoid aggregates+", "lymphoid follicles+", held_out="nodular lymphoid collections+"
    ),
    "tumour_infiltrating_lymphocytes": _name("tumour-infiltrating lymphocytes+", "intratumoural lymphocytes+"),
    "vascular_invasion": _name("vascular invasion", "lymphovascular invasion", held_out="intravascular tumour emboli+"),
    "perineural_invasion": _name("perineural invasion", "perineural infiltration"),
    "desmoplastic_stroma": _name("desmoplastic stroma", "stromal desmoplasia"),
    "hyalinised_collagen": _name("hyalinised collagen", "hyalinised fibrosis", held_out="glassy dense collagen"),
    "smooth_muscle": _name("smooth muscle", "smooth muscle bundles+"),
    "adipose_tissue": _name("adipose tissue", "fatty tissue", held_out="mature adipocytes+"),
    "normal_glands": _name("normal glands+", "unremarkable glands+", held_out="pre-existing normal glandular units+"),
    "haemorrhage": _name("haemorrhage", "extravasated blood"),
    "calcification": _name("calcification", "calcific deposits+"),
    "multinucleated_giant_cells": _name(
        "multinucleated giant cells+", "giant cells+", held_out="multinucleate histiocytes+"
    ),
    "foamy_macrophages": _name("foamy macrophages+", "foamy histiocytes+", held_out="lipid-laden macrophages+"),
    "eosinophil_infiltrate": _name("eosinophils+", "eosinophilic infiltration"),
    "neutrophil_abscess": _name("neutrophil abscesses+", "microabscesses+", held_out="collections of neutrophils+"),
    "cystic_spaces": _name("cystic spaces+", "cysts+"),
    "haemosiderin_pigment": _name("haemosiderin pigment", "haemosiderin deposits+"),
    "tumour": _name("tumour", "malignancy", held_out="neoplastic growth"),
    "fibrous_stroma": _name("fibrous stroma", "fibrous connective tissue"),
}
"""Concept -> names. Eleven findings (and tumour) have one that training never reads."""

TYPES_SAID: dict[str, Wording] = {
    "adenocarcinoma": Wording(("adenocarcinoma",)),
    "squamous_cell_carcinoma": Wording(("squamous cell carcinoma",), ("epidermoid carcinoma",)),
    "small_cell_carcinoma": Wording(("small cell carcinoma",), ("small cell neuroendocrine carcinoma",)),
    "clear_cell_carcinoma": Wording(("clear cell carcinoma",), ("carcinoma of clear cells",)),
    "melanoma": Wording(("melanoma", "malignant melanoma")),
}
GRADES_SAID: dict[int, Wording] = {
    1: Wording(("well differentiated", "grade 1", "low grade")),
    2: Wording(("moderately differentiated", "grade 2", "intermediate grade")),
    3: Wording(("poorly differentiated", "grade 3", "high grade")),
}
PATTERNS_SAID: dict[str, Wording] = {
    "glandular": Wording(("glandular", "gland-forming"), ("acinar",)),
    "papillary": Wording(("papillary", "predominantly papillary"), ("papilliform",)),
    "solid_nests": Wording(("nested", "solid nested"), ("solid-alveolar",)),
    "single_files": Wording(("single-file", "single-cell"), ("cord-like",)),
}
ARRANGEMENTS: dict[str, Wording] = {
    "glandular": Wording(("irregular glands", "glandular structures"), ("tubules and acini",)),
    "papillary": Wording(("papillae", "papillary fronds"), ("finger-like papillary projections",)),
    "solid_nests": Wording(("solid nests", "nests of cells"), ("rounded solid islands",)),
    "single_files": Wording(("single files", "single rows of cells"), ("linear single cords",)),
}
NUCLEAR: dict[int, Wording] = {
    1: Wording(("small and uniform", "bland and regular"), ("small and monotonous",)),
    2: Wording(("moderately enlarged", "mildly irregular and enlarged"), ("enlarged to a moderate degree",)),
    3: Wording(("large, dark and pleomorphic", "markedly pleomorphic"), ("bizarre and markedly enlarged",)),
}
AMOUNTS: dict[str, Wording] = {
    "focal": Wording(("focal", "a small focus of", "a small amount of"), ("scant",)),
    "moderate": Wording(("a moderate amount of", "moderate"), ("an intermediate amount of",)),
    "extensive": Wording(("extensive", "abundant", "a large area of"), ("plentiful",)),
}
DEGREES: dict[str, Wording] = {
    "focal": Wording(("focal", "only focal"), ("scant",)),
    "moderate": Wording(("moderate", "moderate in extent"), ("intermediate in extent",)),
    "extensive": Wording(("extensive", "abundant"), ("plentiful",)),
}


def _at(where: str, side: str) -> Wording:
    return Wording(
        (f"in the {where} of the tissue", f"in the {where} part of the section", f"towards the {side}"),
        (f"within the {where} area of the fragments",),
    )


PLACES_SAID: dict[str, Wording] = {
    "upper left": _at("upper left", "upper left"),
    "upper": Wording(
        ("at the top of the tissue", "in the upper part of the section", "towards the top"),
        ("within the uppermost area of the fragments",),
    ),
    "upper right": _at("upper right", "upper right"),
    "left": Wording(
        ("on the left of the tissue", "in the left part of the section", "towards the left"),
        ("within the left-hand area of the fragments",),
    ),
    "central": Wording(
        ("in the centre of the tissue", "in the central part of the section", "centrally"),
        ("within the middle area of the fragments",),
    ),
    "right": Wording(
        ("on the right of the tissue", "in the right part of the section", "towards the right"),
        ("within the right-hand area of the fragments",),
    ),
    "lower left": _at("lower left", "lower left"),
    "lower": Wording(
        ("at the bottom of the tissue", "in the lower part of the section", "towards the bottom"),
        ("within the lowermost area of the fragments",),
    ),
    "lower right": _at("lower right", "lower right"),
    "scattered": Wording(
        ("scattered throughout the tissue", "at several places in the section", "multifocally"),
        ("in a dispersed fashion across the fragments",),
    ),
}

DIAGNOSIS: dict[str, Wording] = {
    "diagnosis": Wording(
        (
            "Sections show {a_grade} {type} with {a_pattern} growth pattern.",
            "{grade} {type}, {pattern} pattern.",
            "The appearances are those of {a_grade} {type} arranged in {arrangement}.",
            "Diagnosis: {type}, {grade}, growing in {arrangement}.",
            "There is {a_grade} {type} composed of {arrangement}.",
            "The slide shows {a_pattern} {type}, {grade}.",
            "Microscopy confirms {a_grade} {type} of {pattern} architecture.",
        ),
        (
            "The neoplasm is best classified as {a_grade} {type} forming {arrangement}.",
            "Features indicate {type} ({grade}) in which the cells make up {arrangement}.",
            "Histologically, we favour {type} with {pattern} morphology, {grade}.",
        ),
    ),
    "type": Wording(
        (
            "Diagnosis: {type}.",
            "Sections show {type}.",
            "The tumour is {a_type}.",
            "The findings are diagnostic of {type}.",
            "The lesion represents {a_type}.",
            "Microscopy confirms {type}.",
        ),
        ("The neoplasm is best classified as {type}.", "Histologically, we favour {type}."),
    ),
    "grade_pattern": Wording(
        (
            "It is {grade} and grows in {arrangement}.",
            "The growth pattern is {pattern} and the tumour is {grade}.",
            "It is {grade}, with {a_pattern} architecture.",
            "The tumour is {grade} and consists of {arrangement}.",
            "It forms {arrangement} and is {grade}.",
            "The tumour cells form {arrangement}; the tumour is {grade}.",
        ),
        (
            "Differentiation: {grade}; morphology: {pattern}.",
            "The cells make up {arrangement}, and the lesion is regarded as {grade}.",
        ),
    ),
    "type_grade": Wording(
        (
            "Diagnosis: {type}, {grade}.",
            "Sections show {a_grade} {type}.",
            "The tumour is {a_grade} {type}.",
            "The findings are diagnostic of {a_grade} {type}.",
            "The lesion represents {a_grade} {type}.",
            "{grade} {type}.",
        ),
        ("The neoplasm is best classified as {a_grade} {type}.", "Histologically, we favour {type} ({grade})."),
    ),
    "pattern": Wording(
        (
            "The tumour cells form {arrangement}.",
            "The growth pattern is {pattern}.",
            "The tumour grows in {arrangement}.",
            "Its architecture is {pattern}.",
            "The tumour is arranged in {arrangement}.",
            "It consists of {arrangement}.",
        ),
        ("Neoplastic cells make up {arrangement}.", "Morphologically it is of {pattern} character."),
    ),
    "nuclei": Wording(
        (
            "Nuclei are {nuclear}.",
            "The tumour nuclei are {nuclear}.",
            "Cytologically, the nuclei are {nuclear}.",
            "At high power the nuclei appear {nuclear}.",
            "The nuclei of the tumour cells are {nuclear}.",
            "Nuclear features: {nuclear}.",
        ),
        ("As for cytology, nuclei look {nuclear}.", "Karyology is {nuclear}."),
    ),
    "tumour_extent": Wording(
        (
            "Tumour occupies approx. {percent} % of the tissue.",
            "The tumour covers about {percent} % of the section.",
            "Approx. {percent} % of the tissue is tumour.",
            "The tumour makes up {percent} % of the sampled tissue.",
            "Tumour cellularity is estimated at {percent} % of the area.",
            "About {percent} % of the section is involved by tumour.",
        ),
        ("Neoplastic cells account for roughly {percent} % of the fragments.", "Share of neoplasm: ca. {percent} %."),
    ),
    "tumour_place": Wording(
        (
            "The bulk of the tumour lies {place}.",
            "The tumour is found {place}.",
            "Tumour is seen {place}.",
            "The main tumour mass is located {place}.",
            "The tumour is situated {place}.",
            "Most of the tumour is {place}.",
        ),
        ("The neoplasm is mainly encountered {place}.", "Its largest focus sits {place}."),
    ),
    "benign": Wording(
        (
            "Benign tissue.",
            "The sampled tissue is benign.",
            "Sections show benign fibrous tissue.",
            "Diagnosis: benign tissue.",
            "The appearances are those of benign tissue.",
            "Microscopy confirms a benign process.",
        ),
        ("The material is best classified as benign.", "Histologically, we favour a benign lesion."),
    ),
    "background": Wording(
        (
            "The background is {name}.",
            "The surrounding tissue consists of {name}.",
            "The remainder of the section is {name}.",
            "{name} {is} present in the background.",
            "The stroma is made up of {name}.",
            "Background: {name}.",
        ),
        ("All this is embedded in {name}.", "Elsewhere one encounters {name}."),
    ),
}
"""Kind of sentence -> templates, findings and non-visual sentences apart."""

PRESENCE = Wording(
    (
        "{name} {is} present {place}.",
        "There {is} {amount} {name} {place}.",
        "{name} {is} {degree} and located {place}.",
        "Sections show {amount} {name}, {place}.",
        "{amount} {name} can be seen {place}.",
        "{name} {is} seen {place} and {is} {degree}.",
        "{name} {is} identified and {is} {degree}.",
        "{place} there {is} {amount} {name}.",
        "The section also contains {amount} {name}.",
        "{name} account{s} for approx. {percent} % of the tissue and {is} seen {place}.",
        "Other features, e.g. {name}, are noted {place}.",
    ),
    (
        "One encounters {amount} {name} {place}.",
        "Attention is drawn to {name} {place}, {degree} overall.",
        "Of note, {amount} {name} can be appreciated {place}.",
        "{name} {is} a further feature, {place}.",
    ),
)
"""A finding that is there."""

PRESENCE_PLAIN = Wording(
    (
        "{name} {is} present.",
        "There {is} {name}.",
        "{name} {is} seen.",
        "{name} {is} identified.",
        "Sections show {name}.",
    ),
    ("One encounters {name}.", "{name} can be appreciated.", "Attention is drawn to {name}."),
)
"""The same without extent and place: prompts and planted errors."""

ABSENCE = Wording(
    (
        "No {name} {is} identified.",
        "There is no evidence of {name}.",
        "Negative for {name}.",
        "{name} {is} not seen.",
        "{name} {is} absent.",
        "No {name} {is} seen.",
        "The tissue is without {name}.",
        "There {is} no {name}.",
        "No {name} or {other} {is} seen.",
        "Neither {name} nor {other} can be identified.",
    ),
    (
        "We cannot demonstrate any {name}.",
        "The material lacks {name}.",
        "Nothing suggests {name}.",
        "Free of {name}.",
    ),
)
"""A finding that is not there; ``{other}`` is a second one."""

NON_VISUAL: dict[str, Wording] = {
    "margins": Wording(
        (
            "The resection margins are clear; the closest margin is {cm} cm away.",
            "Tumour extends to the deep resection margin.",
            "All surgical margins are free, the nearest at {mm} mm.",
            "The distal margin is involved.",
        ),
        ("Completeness of excision: the nearest margin lies at {cm} cm.",),
    ),
    "nodes": Wording(
        (
            "{k}/{n} lymph nodes contain metastasis.",
            "Metastasis is found in {k} of {n} regional lymph nodes.",
            "0/{n} lymph nodes are involved.",
            "Lymph nodes: {k} of {n} positive, the largest deposit measuring {cm} cm.",
        ),
        ("Nodal dissection yielded {n} nodes, {k} of which positive.",),
    ),
    "stage": Wording(
        (
            "Pathological stage: pT{t}{sub} N{k3}.",
            "Stage pT{t}{sub} N{k3} M0 (AJCC, 8th ed.).",
            "The tumour is staged as pT{t} pN{k3}.",
            "TNM classification: pT{t}{sub} N{k3} Mx.",
        ),
        ("UICC staging: ypT{t} N{k3}.",),
    ),
    "history": Wording(
        (
            "The patient is a {age}-year-old {person} with a history of {illness}.",
            "Clinical history: {illness}, treated approx. {years} years ago.",
            "The patient was referred by Dr. {doctor} because of weight loss.",
            "The clinical history includes {illness} and prior chemotherapy.",
        ),
        ("According to the clinical notes, the {age}-year-old {person} once had {illness}.",),
    ),
    "receptors": Wording(
        (
            "Oestrogen receptor is positive in approx. {percent} % of nuclei by immunohistochemistry.",
            "The Ki-67 index is {percent}.{digit} %.",
            "HER2 is negative (score {k3}+) by immunohistochemistry.",
            "Immunohistochemistry for p53 is positive.",
        ),
        ("Immunostains: PD-L1 score {percent} %, p40 positive.",),
    ),
    "specimen": Wording(
        (
            "The specimen was received in formalin and measures {cm} x {cm2} x {cm3} cm.",
            "Received fresh, a specimen measuring {cm} cm in greatest dimension.",
            "Grossly, the lesion measures {cm} cm.",
            "Macroscopy: a firm mass, approx. {cm} cm in diameter.",
        ),
        ("Submitted in one cassette, weight {percent}.{digit} g.",),
    ),
    "administration": Wording(
        (
            "The case was discussed with Dr. {doctor} at {hour}.{minute} a.m.",
            "Please see also the previous report, No. {number}.",
            "Dr. {doctor} was informed of the result by telephone.",
            "Frozen section was performed at {hour}.{minute} a.m. and reported by Dr. {doctor}.",
        ),
        ("A copy of the report goes to Prof. {doctor}.",),
    ),
}
"""Topic -> sentences that no slide can confirm."""

TYPE_CLASSNAMES: dict[str, tuple[str, ...]] = {name: wording.seen for name, wording in TYPES_SAID.items()}
GRADE_CLASSNAMES: dict[str, tuple[str, ...]] = {
    str(grade): tuple(f"{phrase} tumour" for phrase in wording.seen) for grade, wording in GRADES_SAID.items()
}
PATTERN_CLASSNAMES: dict[str, tuple[str, ...]] = {
    name: tuple(f"tumour arranged in {phrase}" for phrase in wording.seen) for name, wording in ARRANGEMENTS.items()
}
TEMPLATES = ("Sections show {}.", "Diagnosis: {}.", "The appearances are those of {}.", "The slide shows {}.")
"""Zero-shot classification: every template with every classname of a class."""


def article(words: str) -> str:
    """``words`` with "a" or "an"."""
    return f"an {words}" if words[0].lower() in "aeiou" else f"a {words}"


def agreement(concept: str, name: str) -> dict[str, str]:
    """The slots ``name``, ``is`` and ``s`` for one name of a concept."""
    plural = NAMES[concept].plural[name]
    return {"name": name, "is": "are" if plural else "is", "s": "" if plural else "s"}


def sentence_case(sentence: str) -> str:
    """First letter a capital, the rest as it is."""
    return sentence[0].upper() + sentence[1:]


def prompts(concept: str, split: str = "test") -> tuple[list[str], list[str]]:
    """Sentences that state a concept's presence, and sentences that state its absence.

    ``split="train"`` words them as training reports do; ``"test"`` in wordings held out from training.
    """
    held_out = split == "test"
    names = NAMES[concept].wording.of(held_out)
    absences = [template for template in ABSENCE.of(held_out) if "{other}" not in template]
    stated, denied = (
        [sentence_case(t.format(**agreement(concept, name))) for name in names for t in templates]
        for templates in (PRESENCE_PLAIN.of(held_out), absences)
    )
    return stated, denied
