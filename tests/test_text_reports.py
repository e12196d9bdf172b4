"""Whole reports: parts, sections, places, markup; on reports written for this test."""

import json
import re
import time
from pathlib import Path

import pytest

from pathflip.text import reports as reading
from pathflip.text.captions import read_captions
from pathflip.text.headings import heading_of
from pathflip.text.markup import plain_text
from pathflip.text.reports import ALL_PARTS, read_report

REPORTS = [
    report
    for name in ("reports.json", "odd_reports.json")
    for report in json.loads((Path(__file__).parent / "fixtures" / "text" / name).read_text(encoding="utf-8"))
]


@pytest.mark.parametrize("example", REPORTS, ids=lambda e: e["report_id"])
def test_what_a_slide_of_a_part_shows(example):
    report = read_report(example["text"])
    stated = report.sub_captions(example["slide_part"])
    for finding, polarity in example["statements"]:
        polarities = {s.polarity for s in stated if s.visual and finding.lower() in s.text.lower()}
        assert polarities == {polarity}, (finding, polarities)
    learnt = [s.text.lower() for s in stated if s.decided]
    for quote in example["not_on_this_slide"]:
        assert not [text for text in learnt if quote.lower().strip(".") in text], quote
    for one in report.all_sub_captions:
        words = re.findall(r"\w+", one.text)  # clauses of one polarity may be joined
        assert all(word in report.text[slice(*one.place)] for word in (words[0], words[-1]))


def test_a_plain_caption_is_read_as_its_sentences():
    text = "Glands are present but no necrosis. The margins are free."
    report = read_report(text)
    assert (report.text, report.parts, report.notes) == (text, (), ())
    assert [(s.text, s.polarity, s.visual) for s in report.sub_captions()] == [
        ("Glands are present", "affirmed", True),
        ("no necrosis.", "denied", True),
        ("The margins are free.", "denied", False),
    ]
    assert [text[slice(*s.place)] for s in report.all_sub_captions] == [s.text for s in report.all_sub_captions]


MANY_PARTS = (
    "MICROSCOPY\nA. Skin: Melanoma.\nB. Node: No melanoma.\nC. Scar: Fibrosis.\nCOMMENT: No ulceration in A and C."
)


def test_parts_are_kept_apart():
    report = read_report(MANY_PARTS)
    assert report.parts == ("A", "B", "C")

    def decided(part):
        return [s.text for s in report.sub_captions(part) if s.decided]

    assert decided("A") == ["Melanoma.", "No ulceration in A and C."]
    assert decided("B") == ["No melanoma."]
    assert decided(None) == []  # nobody knows which part the slide is of
    assert {s.reason for s in report.sub_captions(None)} == {"the slide's part is not known"}
    assert len(decided(ALL_PARTS)) == 4
    assert report.caption("B") == "No melanoma."


@pytest.mark.parametrize(
    ("line", "kind", "part"),
    [
        ("CLINICAL HISTORY", "clinical", ""), ("Clinical diagnosis: cancer", "clinical", ""),
        ("FINAL PATHOLOGIC DIAGNOSIS:", "diagnosis", ""), ("## Microscopic description", "microscopy", ""),
        ("**Gross description:** tan", "gross", ""), ("2. Frozen section diagnosis:", "frozen", ""),
        ("Mikroskopischer Befund zu A:", "microscopy", "A"), ("MICROSCOPY (PART B):", "microscopy", "B"),
        ("Microscopie A : Carcinome", "microscopy", "A"), ("DESCRIPCIÓN MACROSCÓPICA:", "gross", ""),
        ("組織所見：腺癌", "microscopy", ""), ("REGIONAL LYMPH NODES", "nodes", ""), ("Nachtrag:", "addendum", ""),
        ("pTNM CLASSIFICATION (AJCC 8th Edition)", "stage", ""), ("Signed: X", "administration", ""),
    ],
)  # fmt: skip
def test_headings(line, kind, part):
    heading = heading_of(line)
    assert heading is not None
    assert (heading.kind, heading.part) == (kind, part)


@pytest.mark.parametrize(
    "line",
    [
        "Histologic type: Adenocarcinoma",
        "Diagnosis cannot be made.",
        "Necrosis: absent",
        "Sections show a tumour.",
        "A.",
    ],
)
def test_no_headings(line):
    assert heading_of(line) is None


def test_markup_comes_off_and_is_noted():
    assert plain_text("Mitoses &lt; 3 per mm&sup2;.") == plain_text("Mitoses < 3 per mm².").__class__(
        "Mitoses < 3 per mm².", ("entities",)
    )
    assert plain_text("<p>No<br>necrosis</p>").text.split() == ["No", "necrosis"]
    assert plain_text("Mitoses <3 and >2").notes == ()
    assert plain_text("NÃ©crose").text == "Nécrose"
    assert plain_text("Nests\x1fof\u200b cells").text == "Nests of cells"
    assert "lost" in plain_text("N\ufffdcrose").notes[0]
    assert plain_text("{\\rtf1 No \\b necrosis\\b0 .\\par}").text.strip() == "No necrosis."


def test_the_text_has_single_spaces_and_the_place_is_the_source_to_the_letter():
    line = "Vascular invasion:  [ ] Present   [x] Not identified"
    one = read_report(f"A. Breast:\n{line}\n").sub_captions("A")[-1]
    assert one.text == " ".join(line.split())
    assert read_report(f"A. Breast:\n{line}\n").text[slice(*one.place)] == line


def test_boxes_on_lines_of_their_own():
    report = read_report("Perineural invasion:\n  [ ] Present\n  [x] Not identified\nNecrosis: absent\n")
    assert [(s.polarity, s.content) for s in report.all_sub_captions] == [
        ("denied", "perineural invasion is identified"),
        ("denied", "necrosis is present"),
    ]


def test_two_languages_in_one_sentence_are_undecided():
    (one,) = read_report("Keine Nekrosen, the tumour is solid and no mitoses are seen").all_sub_captions[:1]
    assert (one.polarity, one.reason) == ("undecided", "language: mixed")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "   ",
        "A.\nB.",
        "{\\rtf1 broken",
        "<p>",
        "&nbsp;",
        "[x]",
        "[ ] [x]",
        "Part A\nPart B",
        "A: " * 900,
        "((((" * 900,
    ],
)
def test_odd_texts_are_read(text):
    report = read_report(text)
    assert all(0 <= s.place[0] <= s.place[1] <= len(report.text) for s in report.all_sub_captions)
    assert not any(s.decided for s in report.sub_captions("A") if s.text.strip("[]x ()A.:") == "")


def test_a_long_report_is_read_in_seconds():
    text = "The tumour shows necrosis and no mitoses are seen in it. " * 1200
    start = time.process_time()
    assert len(read_report(text).all_sub_captions) == 2400
    assert time.process_time() - start < 20


@pytest.mark.parametrize(
    "text",
    [
        "<p>Other features are noted in the lower left of the tissue. No</p>\n<p>unremarkable glands are seen.</p>",
        "Other features are noted in the lower left of the tissue. No vascular\n\ninvasion is identified anywhere.",
    ],
)
def test_a_sentence_goes_on_behind_the_empty_lines_of_an_export(text):
    """Each line a paragraph of its own: "No" and "glands are seen" are one denial."""
    first, denied = read_report(text).all_sub_captions
    assert (first.polarity, denied.polarity) == ("affirmed", "denied")


def test_headings_in_capitals_are_found_where_line_ends_were_lost():
    text = (
        "NORTHFIELD HOSPITAL Accession: H26-4 CLINICAL HISTORY: Known mucin pools elsewhere. SPECIMENS: A. Skin, "
        "biopsy GROSS DESCRIPTION: A mass. MICROSCOPIC DESCRIPTION: Necrosis is present. FINAL DIAGNOSIS: Melanoma."
    )
    decided = [one.text for one in read_report(text).all_sub_captions if one.decided]
    assert decided == ["Necrosis is present.", "Melanoma."]


@pytest.mark.parametrize("heading", ["Macroscopy:", "GROSS DESCRIPTION:", "Makroskopie:"])
def test_histology_behind_a_gross_description_without_a_heading_is_seen(heading):
    """A gross description ends where cells, grades, invasion begin, unless another heading says where."""
    text = f"{heading} A firm mass of 3 cm.\nThe cut surface shows necrosis.\nWell differentiated carcinoma.\nNo mucin."
    assert [s.text for s in read_report(text).all_sub_captions if s.decided] == [
        "Well differentiated carcinoma.",
        "No mucin.",
    ]
    headed = f"{heading} A firm mass.\nA known carcinoma.\nDIAGNOSIS: Melanoma."
    assert [s.text for s in read_report(headed).all_sub_captions if s.decided] == ["Melanoma."]


@pytest.mark.parametrize(
    ("text", "finding", "title"),
    [
        ("A. Gutartiges Bindegewebe.\nB. Invasives Karzinom.", "Gutartiges Bindegewebe.", None),
        ("A. Tissu conjonctif bénin.\nB. Carcinome.", "Tissu conjonctif bénin.", None),
        ("A. Tejido fibroso benigno.\nB. Carcinoma ductal infiltrante.", "Tejido fibroso benigno.", None),
        ("A. Haut, Rücken, Exzision\nMelanom.\nB. Karzinom.", "Melanom.", "Haut, Rücken, Exzision"),
    ],
)
def test_a_parts_finding_is_told_from_its_title_in_every_language(text, finding, title):
    report = read_report(text)
    assert [s.text for s in report.sub_captions("A") if s.decided] == [finding]
    assert title in (None, *(s.text for s in report.all_sub_captions if s.reason == "specimen"))


@pytest.mark.parametrize("spoken", ["de", "fr", "es", "ja"])
@pytest.mark.parametrize("line", ["No necrosis.", "Necrosis absent", "Nekrosefrei.", "Senza necrosi.", "未见坏死"])
def test_a_denial_in_another_language_is_never_affirmed(spoken, line):
    begin = {
        "de": "Es findet sich ein Karzinom mit vielen Mitosen.",
        "fr": "Présence d'un carcinome avec de nombreuses mitoses.",
        "es": "Se observa un carcinoma con numerosas mitosis.",
        "ja": "高分化管状腺癌を認めます。",
    }[spoken]
    report = read_report(f"{begin}\n{line}")
    assert report.all_sub_captions[-1].polarity in ("denied", "undecided")


def test_a_short_report_is_read_in_the_language_of_its_file(tmp_path):
    rows = [
        "Se observa un carcinoma con necrosis y numerosas mitosis.",
        "No se observa necrosis en la muestra enviada.",
    ]
    table = tmp_path / "informes.csv"
    table.write_text("slide,text\n" + "\n".join(f"s{n},{row}" for n, row in enumerate([*rows, "Fibrosis leve"])))
    assert {one.language for caption in read_captions(table) for one in caption.sub_captions} == {"es"}
    table.write_text("slide,text\ns1,Fibrosis leve\n")
    assert read_captions(table)[0].sub_captions[0].language == "en"


def test_sentences_stand_where_a_pattern_of_their_words_finds_them(monkeypatch: pytest.MonkeyPatch) -> None:
    quick = [read_report(case["text"]) for case in REPORTS]
    monkeypatch.setattr(reading, "_words_in_order", lambda *_: None)  # every sentence is searched for
    assert [read_report(case["text"]) for case in REPORTS] == quick


@pytest.mark.parametrize(
    ("text", "words", "place"),
    [
        ("a b, a c.", "a c", (5, 8)),  # the first place fails at its second word
        ("x - - y", "- y", (2, 7)),
        ("1. Tumor\n2. Tumor (G2)", "Tumor G2", (12, 21)),
        ("no such words", "tumor", None),
    ],
)
def test_words_are_placed(text: str, words: str, place: tuple[int, int] | None) -> None:
    split, end = words.split(), len(text)
    assert reading._words_searched(text, split, 0, end) == place
    assert reading._words_in_order(text, split, 0, end) in (place, None)


def test_a_slide_of_a_node_shows_what_is_said_of_it():
    report = read_report(
        "A. Breast, left, lumpectomy: Invasive ductal carcinoma, grade 2.\n"
        "B. Sentinel lymph node, excision: Metastatic carcinoma, 4 mm. No extranodal extension."
    )
    node = {one.text: one.visual for one in report.sub_captions("B")}
    assert node["Metastatic carcinoma, 4 mm."]
    assert not node["Invasive ductal carcinoma, grade 2."]
    tumour = {one.text: one.visual for one in report.sub_captions("A")}
    assert tumour["Invasive ductal carcinoma, grade 2."]
    assert not tumour["Metastatic carcinoma, 4 mm."]
    assert not {one.text: one.visual for one in report.sub_captions(ALL_PARTS)}["Metastatic carcinoma, 4 mm."]
    (alone, *_) = read_report("Lymph node, left axilla, excision: Metastatic adenocarcinoma.").sub_captions()
    assert alone.visual
    (line,) = read_report("Lymph nodes: no evidence of malignancy.").sub_captions()
    assert not line.visual
