import csv
import json
import re
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pathflip.text.sentences import split_sentences

FIXTURES = Path(__file__).parent / "fixtures" / "sampling"

ONE_SENTENCE = [
    "The tumor measures 1.5 cm in greatest dimension.",
    "Staged as pT2b N0 M0.",
    "Benign lesions, e.g. Fibroadenoma and cysts, are seen.",
    "Reviewed by Dr. Smith and Prof. A. Jones.",
    "Reviewed by Dr. J. K. Smith.",
    "Ki-67 approx. 20 %.",
    "Cells (cf. Fig. 2) are atypical.",
    "Reactive vs. Neoplastic change was discussed.",
    "Lymph node No. 3 shows anthracosis.",
    "Blocks Nos. 4 and 5 hold tumour.",
    "A second focus, i.e. The satellite, is smaller.",
    "See also the previous report, No. S-7070.",
    "The margins are clear; the closest is 1.2 cm away.",
    "Differentiation: poor; morphology: acinar.",
    "A search for it failed; none was found.",
    "As shown in Fig. 2 and Figs. 3 and 4, glands fuse.",
    "1. Invasive ductal carcinoma",
    "2. Adenoma of the colon.",
    "IV. Lymph nodes",
    "A. Left breast, excision",
    "Stained with H.E. and PAS.",
    "Helicobacter (H. pylori) organisms are absent.",
    "H. pylori is not seen.",
    "Colonies of E. coli are seen.",
    "The tumour is 1.5 cm. in greatest dimension.",
    "A mass of 2.5 cm. x 3.0 cm. x 1.0 cm. is present.",
    "Graded by the N.S.A.B.P. grading system.",
    "According to AJCC (8th ed. 2017. Revised) this is stage II.",
    "Necrosis is seen... in the centre only.",
    "There is a KRAS mutation (p.G12V) here.",
    "Mitoses: 3.2/mm2; Ki67 10.",
    "A margin of ca. 2 mm remains.",
    "Befund z.B. Nekrose, ca. 3 mm groß.",
    "carcinoma? in situ",
    "Smith et al. describe this pattern.",
]

MANY = [
    ("Tumor is 3.5 cm. Margins free", ["Tumor is 3.5 cm.", "Margins free"]),
    ("Measures 0.9 cm. In the node there is tumour.", ["Measures 0.9 cm.", "In the node there is tumour."]),
    ("Staged pT2b N0. No necrosis.", ["Staged pT2b N0.", "No necrosis."]),
    ("Ki-67 approx. 20 %. PR is low.", ["Ki-67 approx. 20 %.", "PR is low."]),
    ("Stage I. The nodes are free.", ["Stage I.", "The nodes are free."]),
    ("Hepatitis B. No fibrosis.", ["Hepatitis B.", "No fibrosis."]),
    ("Grade is 2. The stroma is loose.", ["Grade is 2.", "The stroma is loose."]),
    ("Glands are seen. pT2 was given.", ["Glands are seen.", "pT2 was given."]),
    ("margins are free. necrosis is seen.", ["margins are free.", "necrosis is seen."]),
    ("Necrosis: No. Grade: 2.", ["Necrosis: No.", "Grade: 2."]),
    ("Glands, papillae, etc. The stroma is loose.", ["Glands, papillae, etc.", "The stroma is loose."]),
    ("Is it benign? It is. Really!", ["Is it benign?", "It is.", "Really!"]),
    ("No tumour identified.The stroma is loose.", ["No tumour identified.", "The stroma is loose."]),
    ('This is "blunt duct." It is benign.', ['This is "blunt duct."', "It is benign."]),
    ("Vessels are involved; however, nerves are spared.", ["Vessels are involved;", "however, nerves are spared."]),
    ("Sizes (3 cm; 4 cm) vary. Done.", ["Sizes (3 cm; 4 cm) vary.", "Done."]),
    ("p\nq.r</s>Done.. End . ", ["p", "q.r", "Done..", "End ."]),
    ("- Necrosis present\n• No mitoses\n", ["Necrosis present", "No mitoses"]),
    ("DIAGNOSIS:\nInvasive carcinoma\n\nMARGINS:\n1. Free", ["DIAGNOSIS: Invasive carcinoma", "MARGINS:", "1. Free"]),
    ("The tumour is a carcinoma of\n3 cm.", ["The tumour is a carcinoma of 3 cm."]),
    ("In the slide tumour is poorly\ndifferentiated", ["In the slide tumour is poorly", "differentiated"]),
    (
        "In this slide the tumour is rather poorly\ndifferentiated.",
        ["In this slide the tumour is rather poorly differentiated."],
    ),
    ("Told Dr. Hall at 9.45 a.m. 4/5 nodes hold it.", ["Told Dr. Hall at 9.45 a.m.", "4/5 nodes hold it."]),
    ("1. Carcinoma. 2. Adenoma.", ["1. Carcinoma.", "2. Adenoma."]),
    ("肿瘤细胞呈巢状。未见坏死。", ["肿瘤细胞呈巢状。", "未见坏死。"]),
    ("Tumeur de 1,5 cm. Pas de nécrose.", ["Tumeur de 1,5 cm.", "Pas de nécrose."]),
    ("Kein Tumor. Ränder frei.", ["Kein Tumor.", "Ränder frei."]),
    ("A (forgotten bracket. Next is here. More.", ["A (forgotten bracket.", "Next is here.", "More."]),
]


@pytest.mark.parametrize("text", ONE_SENTENCE)
def test_never_cut(text):
    assert split_sentences(text) == [text]


@pytest.mark.parametrize("text", ONE_SENTENCE)
def test_never_cut_between_neighbours(text):
    stop = "" if text.endswith(".") else "."
    before = "Necrosis is present."
    assert split_sentences(f"{before} {text}{stop} The stroma is fibrotic.") == [
        before,
        text + stop,
        "The stroma is fibrotic.",
    ]


@pytest.mark.parametrize(("text", "expected"), MANY)
def test_cut(text, expected):
    assert split_sentences(text) == expected


@pytest.mark.parametrize("text", ["", "   \n\t", "...", "</s>", "- \n •", "?!"])
def test_nothing_to_say(text):
    assert split_sentences(text) == []


def squeeze(text: str) -> str:
    return "".join(text.split())


WORDS = [
    "1.5 cm",
    "e.g.",
    "Dr.",
    "No. 3",
    "tumour",
    "pT2b N0.",
    "No",
    "(",
    ")",
    ";",
    "...",
    ".",
    "?",
    "H. pylori",
    "1.",
]
PROSE = st.lists(st.one_of(st.sampled_from(WORDS), st.text("abcXYZ .,;:!?()\n 0123éß。", max_size=8)), max_size=40)


@settings(max_examples=300, deadline=None)
@given(PROSE.map(" ".join))
def test_nothing_is_lost(text):
    pieces = split_sentences(text)
    assert all(piece.strip() == piece and piece for piece in pieces)
    if any(character.isalnum() for character in text):
        assert squeeze("".join(pieces)) == squeeze(text)
        assert all(any(character.isalnum() for character in piece) for piece in pieces)
    else:
        assert pieces == []


@settings(max_examples=200, deadline=None)
@given(st.text(max_size=200))
def test_any_unicode(text):
    assert all(piece for piece in split_sentences(text))


def test_long_report():
    text = "The tumour shows necrosis (focally, approx. 1.5 cm. in size) and " * 1200 + "ends here. "
    assert len(text.split()) > 10_000
    assert len(split_sentences(text * 2)) == 2


def split_published(text: str) -> list[str]:
    """The splitter of the published PathFLIP code: at newlines, ``</s>`` and *every* full stop, decimals included.

    For parity only: it breaks "3.5 cm" in two, and a caption of dots gives no sentence at all.
    """
    return [piece.strip() for piece in re.split(r"\n|</s>|\.", text) if piece.strip()]


def test_published_examples():
    for text, expected in json.loads((FIXTURES / "split_examples.json").read_text()):
        assert split_published(text) == expected


def slidebench_captions(folder: Path) -> list[str]:
    with open(folder / "slidebench" / "SlideBench-Caption-TCGA.csv", encoding="utf-8-sig", newline="") as handle:
        return [row["Caption"] for row in csv.DictReader(handle)]


def broken_decimals(text: str, pieces: list[str]) -> int:
    decimal = re.compile(r"\d\.\d")
    return len(decimal.findall(text)) - sum(len(decimal.findall(piece)) for piece in pieces)


@pytest.mark.real
def test_slidebench(real_data):
    captions = slidebench_captions(real_data)
    assert len(captions) == 732
    assert sum(broken_decimals(text, split_published(text)) for text in captions[:200]) == 114
    assert sum(broken_decimals(text, split_published(text)) for text in captions) == 278
    sentences = [split_sentences(text) for text in captions]
    for text, pieces in zip(captions, sentences, strict=True):
        assert broken_decimals(text, pieces) == 0
        assert squeeze("".join(pieces)) == squeeze(text)
        for before, after in pairwise(pieces):
            assert before[-1] in '.;)"', before
            assert after[0].isupper() or before[-1] == ";", after
    assert sum(map(len, sentences)) == 5377
