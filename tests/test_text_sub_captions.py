import csv

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pathflip.errors import CaptionError
from pathflip.text.captions import read_captions
from pathflip.text.flips import flip_sub_caption
from pathflip.text.sub_captions import not_visual_kind, parse_sub_caption, sub_captions_of

# An assertion and denials of it that must come to the same content.
SAME_CONTENT = [
    ("Necrosis is identified.", "No necrosis is identified."),
    ("Necrosis is identified.", "Necrosis is not identified."),
    ("Necrosis is present.", "Necrosis is absent."),
    ("There is evidence of necrosis.", "There is no evidence of necrosis."),
    ("Necrosis and mitoses are seen.", "Neither necrosis nor mitoses are seen."),
    ("The tumour shows keratin pearls.", "The tumour does not show keratin pearls."),
    ("The tumour shows keratin pearls.", "The tumour lacks keratin pearls."),
    ("The tumour shows keratin pearls.", "The tumour fails to show keratin pearls."),
    ("Positive for malignancy.", "Negative for malignancy."),
    ("The tissue contains tumour.", "The tissue is free of tumour."),
    ("The tissue contains tumour.", "The tissue is without tumour."),
    ("Presence of necrosis.", "Absence of necrosis."),
    ("Presence of necrosis.", "There is an absence of necrosis."),
    ("With necrosis", "Without evidence of necrosis"),
    ("Necrosis: present", "Necrosis: none"),
    ("Necrosis: present", "Necrosis: No."),
    ("Necrosis can be seen", "Necrosis cannot be seen"),
    ("We can demonstrate necrosis.", "We cannot demonstrate any necrosis."),
    ("Mitotic figures are seen.", "Additionally, no mitotic figures are seen."),
    ("The nests contain tumour.", "The nests are free of tumour."),
    ("Tumour invades the capsule.", "1. Tumour does not invade the capsule."),
    ("The cells carries pigment.", "The cells does not carry pigment."),
]

DENIALS = [
    "Nothing suggests necrosis.",
    "Mitoses are not readily identified.",
    "Vascular invasion wasn't seen.",
    "Vascular invasion has been looked for and is ruled out.",
    "Lymphovascular invasion: Not identified",
    "No tumour budding, necrosis or perineural invasion was observed.",
    "None of the glands is dysplastic.",
    "Sections show no necrosis.",
    "A search for necrosis was made; none was found.",
]

AFFIRMATIONS = [
    "A non-keratinizing squamous cell carcinoma is present.",
    "There is no increase in mitoses.",
    "Perineural invasion cannot be excluded.",
    "Not only necrosis but also haemorrhage is seen.",
    "The tumour is not limited to the mucosa.",
    "Adenocarcinoma, not otherwise specified.",
    "The mucosa is not without atypia.",
    "Carcinoma with or without necrosis.",
    "Mitoses are not uncommon.",
    "Focal note is made of nodular growth.",  # "no" only inside words
    "Solid carcinoma without necrosis.",
    "Vascular invasion is present, but necrosis is absent.",
    "Adenocarcinoma with no mucin pools.",
    "The uninvolved lung shows emphysema.",
    "The cytoplasm is clear.",
]

NOT_VISUAL = {
    "margins": [
        "Surgical margins are free of tumour.",
        "The bronchial margin is involved.",
        "No residual tumour (R0).",
    ],
    "nodes": [
        "0/14 lymph nodes are positive.",
        "Two of three sentinel lymph nodes hold tumour.",
        "Nodal status: positive",
    ],
    "stage": ["The tumour is pT2b N0 M0.", "Pathologic stage IIB.", "AJCC 8th edition.", "Classified as ypT3, L1, V0."],
    "size": ["The mass is 3.5 x 2 cm.", "It weighs 250 g.", "Greatest dimension of the lesion is large."],
    "gross": ["Received fresh and labelled 'breast'.", "Grossly tan and firm.", "Serially sectioned."],
    "clinical": ["A 67-year-old woman.", "History of lung cancer.", "The patient had chemotherapy.", "Former smoker."],
    "receptors": [
        "ER and PR are positive.",
        "HER2 is negative (1+).",
        "Ki-67 approx. 20 %.",
        "Tumour cells hold TTF-1.",
    ],
    "molecular": ["A KRAS mutation is found.", "1p/19q codeletion.", "FISH was negative.", "Microsatellite stable."],
    "administration": ["Reported on 12/03/2019.", "Signed by the pathologist.", "See the previous report, No. S-7070."],
    "no information": ["Grade is not specified.", "Mitoses: not assessed.", "Differentiation cannot be assessed."],
    "interpretation": ["These findings highlight the aggressive nature of the disease."],
}

VISUAL = [
    "Poorly differentiated squamous cell carcinoma.",
    "The tumor has pushing margins and ill-defined borders.",
    "Nests with ill-defined margins.",
    "Mitoses number 10 per 2 mm2.",
    "T cells surround the nests in the upper left.",
    "Approx. 30 % of the tissue is necrotic.",
    "The tumour nuclei are large, dark and pleomorphic.",
    "The patient was diagnosed with papillary carcinoma.",
    "Anterior serosa is invaded.",  # "er", "pr", "is" inside words or in lower case
]


@pytest.mark.parametrize(("assertion", "denial"), SAME_CONTENT)
def test_a_denial_has_the_content_of_what_it_denies(assertion, denial):
    affirmed, denied = parse_sub_caption(assertion), parse_sub_caption(denial)
    assert (affirmed.negated, denied.negated) == (False, True)
    assert affirmed.content == denied.content
    assert (affirmed.text, denied.text) == (assertion, denial)
    assert denied.visual


@pytest.mark.parametrize("text", DENIALS)
def test_denied(text):
    assert parse_sub_caption(text).negated


@pytest.mark.parametrize("text", AFFIRMATIONS)
def test_not_denied(text):
    assert not parse_sub_caption(text).negated


@pytest.mark.parametrize(("kind", "text"), [(kind, text) for kind, texts in NOT_VISUAL.items() for text in texts])
def test_what_a_slide_cannot_show(kind, text):
    assert not parse_sub_caption(text).visual
    assert not_visual_kind(text) == kind or kind in ("margins", "stage", "clinical")  # some sentences are of two kinds


@pytest.mark.parametrize("text", VISUAL)
def test_what_a_slide_can_show(text):
    assert parse_sub_caption(text).visual


@pytest.mark.parametrize(
    ("text", "content", "visual", "negated"),
    [
        ("Invasive ductal carcinoma, grade 2, pT2 N0.", "invasive ductal carcinoma, grade 2", True, False),
        ("Solid carcinoma (2.5 cm) with necrosis.", "solid carcinoma with necrosis", True, False),
        ("Solid carcinoma without necrosis.", "solid carcinoma", True, False),
        ("Margins are free, although vascular invasion is seen.", "vascular invasion is seen", True, False),
        ("No necrosis is seen, but the margin is close.", "necrosis is seen", True, True),
        ("Lymph nodes are reactive, without malignancy.", "lymph nodes are reactive", False, False),
        ("Notably, mitoses are frequent.", "mitoses are frequent", True, False),
        ("- Keratin pearls", "keratin pearls", True, False),
        ("Necrosis is seen, but focal.", "necrosis is seen, but focal", True, False),
        ("The tumour is papillary and measures 3 cm.", "the tumour is papillary", True, False),
        ("It measures 3 cm and shows necrosis.", "shows necrosis", True, False),
        ("The biopsy shows atrophy, with no evidence of tumour.", "the biopsy shows atrophy", True, False),
        ("Findings:", "findings", False, False),
        ("No.", "no", False, True),
    ],
)
def test_whole_sub_captions(text, content, visual, negated):
    sub_caption = parse_sub_caption(text)
    assert (sub_caption.content, sub_caption.visual, sub_caption.negated) == (content, visual, negated)
    assert sub_caption.concept is None


FLIPPABLE = [
    "Necrosis is present.",
    "No necrosis is seen.",
    "The tumour shows keratin pearls.",
    "Sections show mucin pools.",
    "There is focal necrosis in the upper left.",
    "Focal necrosis",
    "The tumour is grade 2.",
    "Negative for malignancy.",
    "Mucin pools can be seen on the left.",
    "There are no giant cells.",
    "LVI: Not identified",
]


def test_flips_are_undone_by_flipping(rng):
    for text in FLIPPABLE:
        for _ in range(4):
            flipped = flip_sub_caption(text, rng)
            assert flipped is not None, text
            assert parse_sub_caption(flipped).negated != parse_sub_caption(text).negated, (text, flipped)
            assert flipped.endswith(".")
            again = flip_sub_caption(flipped, rng)
            assert again is not None
            assert parse_sub_caption(again).negated == parse_sub_caption(text).negated, (text, flipped, again)


@pytest.mark.parametrize(
    ("text", "flipped"),
    [
        ("Necrosis is identified.", {"Necrosis is not identified."}),
        ("Necrosis is present.", {"Necrosis is absent.", "Necrosis is not present."}),
        ("There is a focus of necrosis.", {"There is no focus of necrosis."}),
        ("There is evidence of necrosis.", {"There is no necrosis."}),
        ("No necrosis is identified.", {"Necrosis is identified."}),
        ("The tumour lacks pearls.", {"The tumour shows pearls."}),
        ("The tumour contains mucin.", {"The tumour does not contain mucin."}),
        ("Sections show necrosis.", {"Sections do not show necrosis."}),
        ("Mucin can be seen.", {"Mucin cannot be seen."}),
        ("LVI is absent.", {"LVI is present."}),
        ("Nests are free of mucin.", {"Nests contain mucin."}),
        ("DCIS is also seen.", {"DCIS is not seen."}),
        ("The tumour extensively involves fat.", {"The tumour does not involve fat."}),
        ("Cysts are only focal.", {"Cysts are not focal."}),
        ("Positive for mucin.", {"Negative for mucin."}),
    ],
)
def test_flipped_wordings(text, flipped, rng):
    assert {flip_sub_caption(text, rng) for _ in range(30)} == flipped


@pytest.mark.parametrize(
    "text",
    [
        "Margins are free.",
        "Perineural invasion cannot be excluded.",
        "Vascular invasion is present, but necrosis is absent.",
        "Solid carcinoma without necrosis.",
        "Findings:",
    ],
)
def test_no_flip_where_it_might_not_be_false(text, rng):
    assert flip_sub_caption(text, rng) is None


def test_flip_takes_a_parsed_sub_caption_and_repeats_with_the_seed():
    parsed = parse_sub_caption("Focal necrosis")
    draws = [[flip_sub_caption(parsed, np.random.default_rng(seed)) for seed in range(8)] for _ in range(2)]
    assert draws[0] == draws[1]
    assert len(set(draws[0])) > 1


@settings(max_examples=200, deadline=None)
@given(st.text(min_size=1, max_size=80).filter(str.strip))
def test_any_text_parses(text):
    sub_caption = parse_sub_caption(text)
    assert sub_caption.text == text.strip()
    assert sub_caption.content == sub_caption.content.strip()
    flipped = flip_sub_caption(text, np.random.default_rng(0))
    assert flipped is None or flipped.strip()


def test_blank_is_refused():
    with pytest.raises(CaptionError, match="empty sentence"):
        parse_sub_caption("  ")


@pytest.mark.real
def test_slidebench_rates(real_data, tmp_path):
    """TCGA reports retold: about half the sentences speak of margins, nodes, stage or stains."""
    with open(real_data / "slidebench" / "SlideBench-Caption-TCGA.csv", encoding="utf-8-sig", newline="") as handle:
        header, *rows = csv.reader(handle)
    with open(tmp_path / "third.csv", "w", encoding="utf-8", newline="") as handle:
        csv.writer(handle).writerows([header, *rows[::3]])
    captions = read_captions(tmp_path / "third.csv")
    sub_captions = [sub_caption for caption in captions for sub_caption in caption.sub_captions]
    visual = [sub_caption for sub_caption in sub_captions if sub_caption.visual]
    assert 0.40 < len(visual) / len(sub_captions) < 0.55
    assert 0.15 < sum(sub_caption.negated for sub_caption in visual) / len(visual) < 0.30
    assert sum(sub_caption.visual for caption in captions for sub_caption in caption.sub_captions[:1]) > 0.85 * len(
        captions
    )
    assert all(sub_caption.content for sub_caption in sub_captions)
    free = [sub_caption for sub_caption in sub_captions if "margins are free of" in sub_caption.text.lower()]
    assert len(free) > 20
    assert not any("margin" in sub_caption.content for sub_caption in free if sub_caption.visual)


@pytest.mark.parametrize(
    "sentence",
    ["Dr. Hall was informed of the result by telephone.", "Frau Dr. Sato wurde telefonisch verständigt."],
)
def test_a_doctors_title_ends_no_clause(sentence):
    (one,) = sub_captions_of(sentence)
    assert not one.visual


@pytest.mark.parametrize(
    "sentence",
    [
        "Studies for MSH2 reveal a normal phenotype, which does not support a diagnosis of colorectal carcinoma.",
        "MLH1 is retained, which argues against a diagnosis of hereditary non-polyposis colorectal carcinoma.",
        "The tumor is staged at pT2, with the grade classified as G2 and the resection as R0, signifying that "
        "the resection margins are free of tumor cells.",
        "The well differentiated tumor, the stroma and the resection margins are free of necrotic tumor cells.",
    ],
)
def test_what_is_cut_out_of_a_clause_says_what_the_clause_says(sentence):
    """The diagnosis behind "does not support", and a subject joined to another one's predicate."""
    claims = [s for s in sub_captions_of(sentence) if s.decided]
    assert not [s.text for s in claims if not s.negated and "carcinoma" in s.text]
    assert not [s.text for s in claims if s.negated and ("G2" in s.text or "differentiated" in s.text)]


@pytest.mark.parametrize(
    ("sentence", "visible"),
    [
        ("There were no additional significant pathological findings noted.", False),
        ("No other abnormalities are seen.", False),
        ("The ovary shows no other abnormalities.", False),
        ("No abnormalities are seen in the adjacent mucosa.", False),
        ("Each aspect of the specimen has been meticulously evaluated.", False),
        ("Thus, the margins are clear and the stage is pT1.", False),
        ("The stains for GFAP are negative, solidifying that the cells are of no glial origin.", False),
        ("The cystoprostatectomy specimen shows a tumor located on the bladder wall.", False),
        ("Cystic glands are located on the bladder wall.", True),
    ],
)
def test_a_sentence_that_names_no_finding_is_not_visible(sentence, visible):
    assert any(s.visual for s in sub_captions_of(sentence)) is visible


def test_what_is_lacking_and_makes_it_worse_is_affirmed_and_what_is_not_definite_is_not_denied():
    (one,) = sub_captions_of("The tumor is notable for its significant lack of differentiation.")
    assert not one.negated
    (vague,) = sub_captions_of("There is a single focus without definitive evidence of carcinoma in situ.")[1:]
    assert vague.undecided


@pytest.mark.parametrize(
    ("sentence", "stated"),
    [
        # Lists of places: a margin or a node among them is left out, the others count.
        ("The margins, nipple and skin are free of tumor.", [("denied", "nipple, skin are free of tumor.")]),
        (
            "No malignancy was found in the left fallopian tube, pelvic lymph nodes, or the omentum.",
            [("denied", "No malignancy was found in the left fallopian tube, the omentum.")],
        ),
        (
            "The thyroid gland and one lymph node are free of tumor.",
            [("denied", "The thyroid gland are free of tumor.")],
        ),
        ("Granulomas are seen in the nodes and the lung.", [("affirmed", "Granulomas are seen in the lung.")]),
        ("The skin and deep margins are free of tumor.", []),  # the skin's margin, maybe
        ("The margins of the bladder, prostate and ureters are free of tumor.", []),
        ("The hilar and mediastinal lymph nodes are free of tumor.", []),
        ("Fortunately, the margins are free of tumor.", []),
        ("On examination of the specimen, all margins were free of tumor.", []),
        ("There is no dysplasia or carcinoma at the ureteric or urethral margins.", []),
        # Nodes, margins, stains: whatever is said of them.
        ("The lymph node shows no tumor but does exhibit granulomas.", []),
        ("None of the nodes contain tumor, although they display reactive changes.", []),
        ("Invasive carcinoma is present at the margin.", []),
        ("Grade 2 carcinoma with clear margins.", [("affirmed", "Grade 2 carcinoma")]),
        ("Stains confirmed TTF-1 in the cells, supporting the diagnosis of lung carcinoma.", []),
        ("Ten nodes were examined, all of which are benign and negative.", []),
        (
            "The tumor invades one lymph node and exhibits vascular invasion.",
            [("affirmed", "exhibits vascular invasion.")],
        ),
        ("The margins for the invasive tumor and DCIS are negative.", []),
        (
            "It was said that the left ureter and urethral margin are free of tumor.",
            [("denied", "It was said that the left ureter are free of tumor.")],
        ),
        (
            "It was noted that necrosis and mitoses were absent.",
            [("denied", "It was noted that necrosis and mitoses were absent.")],
        ),
        (
            "The prostate and urethral margin are benign, but show no evidence of tumor.",
            [("affirmed", "The prostate are benign"), ("denied", "show no evidence of tumor.")],
        ),
        ("Ten nodes show no metastasis, although there are findings of focal fibrosis.", []),
        ("The carcinoma was unifocal.", []),
        ("Multiple lymph nodes were excised and demonstrated no signs of malignancy.", []),
        (
            "Carcinoma is identified in the fossa with foci present at the margin.",
            [("affirmed", "Carcinoma is identified in the fossa")],
        ),
        # A denial that names nothing, and what the specimen does not hold.
        ("The middle lobe showed no significant pathology.", []),
        ("Chronic gastritis with no other abnormality.", [("affirmed", "Chronic gastritis")]),
        ("No skin is present in the specimen.", []),
        ("No features of malignancy are seen.", [("denied", "No features of malignancy are seen.")]),
        # What sums the case up.
        ("Overall, the tumor shows aggressive features.", []),
        ("These findings are consistent with an infiltrating glioma.", []),
        (
            "The pathological findings indicate a diagnosis of infiltrating glioma.",
            [("affirmed", "The pathological findings indicate a diagnosis of infiltrating glioma.")],
        ),
        # Stage: what explains a code is not visible, what stands beside it is.
        ("The tumor is pT2, indicating invasion of the muscle.", []),
        ("The tumor is staged as pT3, invading the preepiglottis.", [("affirmed", "invading the preepiglottis.")]),
        (
            "The thickness is measured at 1 mm, categorizing it as an invasive melanoma.",
            [("affirmed", "an invasive melanoma.")],
        ),
        ("No clear evidence of necrosis.", [("undecided", "No clear evidence of necrosis.")]),
        # Where a denial ends.
        (
            "The tumor exhibited no invasion and was surrounded by normal lung.",
            [("affirmed", "was surrounded by normal lung."), ("denied", "The tumor exhibited no invasion")],
        ),
        (
            "A segment of rib shows no malignancy, exhibiting normal bone.",
            [("affirmed", "exhibiting normal bone."), ("denied", "A segment of rib shows no malignancy")],
        ),
        (
            "There is no necrosis, indicating a low grade.",
            [("affirmed", "indicating a low grade."), ("denied", "There is no necrosis")],
        ),
        (
            "No evidence of lymphovascular invasion and graded as G2.",
            [("affirmed", "graded as G2."), ("denied", "No evidence of lymphovascular invasion")],
        ),
        (
            "Carcinoma invading the fat while sparing the ureters.",
            [("affirmed", "Carcinoma invading the fat"), ("denied", "sparing the ureters.")],
        ),
        (
            "DCIS is present, constituting 10% of it and is devoid of necrosis.",
            [("affirmed", "DCIS is present, constituting 10% of it"), ("denied", "is devoid of necrosis.")],
        ),
        (
            "Definitive invasive carcinoma was not identified.",
            [("undecided", "Definitive invasive carcinoma was not identified.")],
        ),
        (
            "The polyp is hyperplastic, indicating no malignancy.",
            [("affirmed", "The polyp is hyperplastic"), ("denied", "indicating no malignancy.")],
        ),
        (
            "Confirming the absence of necrosis, the tumour is low grade.",
            [("affirmed", "the tumour is low grade."), ("denied", "Confirming the absence of necrosis")],
        ),
        (
            "On the right side, the gland and three lymph nodes exhibited no tumor.",
            [("denied", "On the right side, the gland exhibited no tumor.")],
        ),
        (
            "No vascular invasion, extending to pleura.",
            [("denied", "No vascular invasion"), ("undecided", "extending to pleura.")],
        ),
        (
            "The polyp, sparing the stalk, shows dysplasia.",
            [("undecided", "The polyp, sparing the stalk, shows dysplasia.")],
        ),
        (
            "Necrosis is absent and was confirmed on deeper levels.",
            [("denied", "Necrosis is absent and was confirmed on deeper levels.")],
        ),
        ("The skin was unremarkable for carcinoma.", [("denied", "The skin was unremarkable for carcinoma.")]),
        ("Fungal forms and mycobacteria are absent.", [("denied", "Fungal forms and mycobacteria are absent.")]),
        (
            "There are no lymphatic (L0) or vascular (V0) invasions, and the margins are clear (R0).",
            [("denied", "There are no lymphatic (L0) or vascular (V0) invasions")],
        ),
    ],
)
def test_the_settled_rules(sentence, stated):
    """The settled cases of the annotation's rule book (docs/text.md): what is visible, and what it says."""
    assert [(s.polarity, s.text) for s in sub_captions_of(sentence) if s.visual] == stated


@pytest.mark.parametrize(
    ("sentence", "visual", "polarity"),
    [
        ("Smooth muscle is not seen.", True, "denied"),
        ("There is no fatty tissue.", True, "denied"),
        ("Microabscesses are moderate in extent and located centrally.", True, "affirmed"),
        ("No muscle is present in the specimen.", False, "denied"),
        ("No skin is present.", False, "denied"),
    ],
)
def test_a_tissue_denied_is_a_finding_and_one_that_was_not_taken_is_none(sentence, visual, polarity):
    (only,) = sub_captions_of(sentence)
    assert (only.visual, only.polarity) == (visual, polarity)


@pytest.mark.parametrize(
    ("sentence", "affirmed", "denied"),
    [
        (
            "Tubular adenoma, negative for high-grade dysplasia.",
            "Tubular adenoma",
            "negative for high-grade dysplasia.",
        ),
        ("Hyperplastic polyp negative for dysplasia.", "Hyperplastic polyp", "negative for dysplasia."),
        ("Adenocarcinoma, pleura negative for tumour.", "Adenocarcinoma", "pleura negative for tumour."),
        ("Skin negative for melanoma.", None, "Skin negative for melanoma."),
        ("The tumour is negative for necrosis.", None, "The tumour is negative for necrosis."),
    ],
)
def test_a_finding_that_is_negative_for_another_is_not_denied(sentence, affirmed, denied):
    texts = {one.polarity: one.text for one in sub_captions_of(sentence)}
    assert (texts.get("affirmed"), texts.get("denied")) == (affirmed, denied)


@pytest.mark.parametrize(
    ("language", "sentence", "affirmed", "denied"),
    [
        ("de", "Hyperplastischer Polyp, dysplasiefrei.", "Hyperplastischer Polyp", "dysplasiefrei."),
        ("es", "Adenoma tubular negativo para displasia.", "Adenoma tubular", "negativo para displasia."),
        ("fr", "Adénome tubuleux indemne de dysplasie.", "Adénome tubuleux", "indemne de dysplasie."),
        ("es", "Carcinoma, piel libre de tumor.", "Carcinoma", "piel libre de tumor."),
        ("fr", "Carcinome, plèvre indemne de tumeur.", "Carcinome", "plèvre indemne de tumeur."),
        ("de", "Schleimhaut dysplasiefrei.", None, "Schleimhaut dysplasiefrei."),
    ],
)
def test_so_in_other_languages(language, sentence, affirmed, denied):
    texts = {one.polarity: one.text for one in sub_captions_of(sentence, language)}
    assert (texts.get("affirmed"), texts.get("denied")) == (affirmed, denied)


def test_a_node_negative_for_a_carcinoma_denies_none_here():
    stated = sub_captions_of("Lymph node with reactive changes, negative for carcinoma.")
    assert not any(one.visual for one in stated)


@pytest.mark.parametrize(
    ("sentence", "polarities"),
    [
        ("Dysplasia-free mucosa.", ["denied"]),
        ("The mucosa is dysplasia-free.", ["denied"]),
        ("The tumour-free liver shows steatosis.", ["undecided"]),
        ("Rare mitoses, absent necrosis.", ["affirmed", "denied"]),
        ("FIGO grade 2 endometrioid carcinoma.", ["affirmed"]),
    ],
)
def test_free_of_in_one_word_and_absent_before_its_noun(sentence, polarities):
    stated = sub_captions_of(sentence)
    assert [one.polarity for one in stated] == polarities
    assert all(one.visual for one in stated)
