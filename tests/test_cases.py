"""Cases from tables, JSON and folders: one report, its slides, their parts; what does not fit is named and counted."""

import json
import warnings

import pytest

from pathflip.data.instruct_examples import read_examples
from pathflip.data.question_files import read_questions
from pathflip.errors import CaptionError
from pathflip.io.slide_id import slide_names_in
from pathflip.io.tables import TableOptions
from pathflip.text.captions import read_caption_table, read_captions, write_captions
from pathflip.text.decompose import DecomposeSpec, decompose_reports, read_reports, write_decomposed
from pathflip.text.privacy import identifier_note
from pathflip.types import Caption, Case, CaseSlide

TWO_PARTS = "MICROSCOPY\nA. Skin: Melanoma is present.\nB. Node: No melanoma is seen."


def table(path, rows):
    """A CSV file of dictionaries; every cell quoted."""
    columns = list(dict.fromkeys(name for row in rows for name in row))
    quoted = [",".join(f'"{row.get(name, "")}"' for name in columns) for row in rows]
    path.write_text("\n".join([",".join(columns), *quoted]) + "\n", encoding="utf-8")
    return path


def decided(caption):
    return [one.text for one in caption.sub_captions if one.decided]


def test_one_cell_with_several_slides_is_a_case(tmp_path):
    rows = [
        {"case": "C1", "patient": "P1", "slides": "a.svs; b.svs", "part": "A; B", "stain": "H&E", "report": TWO_PARTS},
        {"case": "C2", "patient": "P2", "slides": "c.svs", "part": "A", "report": "Necrosis is present."},
    ]
    one, two = read_captions(table(tmp_path / "t.csv", rows))
    assert isinstance(one, Case)
    assert (one.slide_id, one.case_id, one.patient) == ("C1", "C1", "P1")
    assert [(s.slide_id, s.part, s.stain) for s in one.slides] == [("a", "A", "H&E"), ("b", "B", "H&E")]
    assert one.parts == ("A", "B")
    assert decided(one) == ["Melanoma is present.", "No melanoma is seen."]
    assert (two.slide_id, two.case_id) == ("c", "C2")  # a case of one slide bears its slide's name


def test_parts_may_be_listed_as_slides_are(tmp_path):
    rows = [
        {"case": "C1", "slides": "['a.svs', 'b.svs']", "parts": "['A', 'B']", "report": TWO_PARTS},
        {"case": "C2", "slides": "c.svs; d.svs", "parts": "['B', 'A']", "report": TWO_PARTS},
        {"case": "C3", "slides": "e.svs", "parts": "['B']", "report": TWO_PARTS},
    ]
    cases = read_captions(table(tmp_path / "t.csv", rows))
    assert [[one.part for one in case.slides] for case in cases] == [["A", "B"], ["B", "A"], ["B"]]


def test_rows_of_one_case_and_one_report_are_one_case(tmp_path):
    rows = [
        {"Case": "C1", "Slide": "a.svs", "Part": "A", "Report": TWO_PARTS},
        {"Case": "C1", "Slide": "b.svs", "Part": "B", "Report": ""},
        {"Case": "C2", "Slide": "c.svs", "Part": "", "Report": "Necrosis is present."},
        {"Case": "C1", "Slide": "d.svs", "Part": "B", "Report": TWO_PARTS},
    ]
    one, two = read_captions(table(tmp_path / "t.csv", rows))
    assert [(s.slide_id, s.part) for s in one.slides] == [("a", "A"), ("b", "B"), ("d", "B")]
    assert two.slide_id == "c"


def test_different_reports_of_one_case_stay_apart(tmp_path):
    rows = [
        {"case_id": "C1", "slide": "a", "text": "Necrosis is present."},
        {"case_id": "C1", "slide": "b", "text": "No necrosis."},
        {"case_id": "C1", "slide": "c", "text": ""},
    ]
    captions = read_caption_table(table(tmp_path / "t.csv", rows))
    assert [(c.slide_id, c.patient, c.text) for c in captions.captions] == [
        ("a", "C1", "Necrosis is present."), ("b", "C1", "No necrosis."),
    ]  # fmt: skip
    assert captions.problems == [
        "row 3: case 'C1' has 2 different reports, and here none; expected the text in every row"
    ]


@pytest.mark.parametrize(
    ("cell", "names"),
    [
        ("a.svs; b.svs", ["a.svs", "b.svs"]), ("a,b", ["a", "b"]), ("a.svs\nb.svs", ["a.svs", "b.svs"]),
        ("['a.svs', 'b.svs']", ["a.svs", "b.svs"]), ('["x/a.tif"]', ["x/a.tif"]), ("a.svs b.svs", ["a.svs", "b.svs"]),
        ("a | b", ["a", "b"]), ("Smith, left.svs", ["Smith, left.svs"]), ("left breast", ["left breast"]),
        ("a;b.svs", ["a;b.svs"]), ("[broken", ["[broken"]), (7, [7]), (["a", "b"], ["a", "b"]),
    ],
)  # fmt: skip
def test_slides_in_one_cell(cell, names):
    assert slide_names_in(cell) == names


def test_equal_file_names_are_told_apart_by_folder_or_case(tmp_path):
    path = tmp_path / "t.json"
    rows = [
        {"image": ["case_1/slide_0.tiff"], "case_id": "case_1", "text": "Necrosis is present."},
        {"image": ["case_2/slide_0.tiff", "case_2/slide_1.tiff"], "case_id": "case_2", "text": "No necrosis."},
    ]
    path.write_text(json.dumps(rows))
    one, two = read_captions(path)
    assert one.slide_id == "case_1__slide_0"
    assert [(s.slide_id, s.folder) for s in two.slides] == [("case_2__slide_0", "case_2"), ("slide_1", "case_2")]
    rows = [
        {"case": "C1", "slide": "scan.svs", "text": "Necrosis is present."},
        {"case": "C2", "slide": "scan.svs", "text": "No necrosis."},
    ]
    assert [c.slide_id for c in read_captions(table(tmp_path / "t.csv", rows))] == ["C1__scan", "C2__scan"]
    rows = [{key: value for key, value in row.items() if key != "case"} for row in rows]
    with pytest.raises(CaptionError, match="slide 'scan' stands already in row 1"):
        read_captions(table(tmp_path / "t.csv", rows))


def test_an_archive_with_a_column_a_section_and_no_slides(tmp_path):
    path = tmp_path / "t.json"
    rows = [
        {"case_mapping": "case_7", "id": 3, "grossing": "Two grey cores.", "micro_protocol": "Solid nests.",
         "conclusion": "Carcinoma.", "clinical_history": "Rule out lymphoma."},
        {"case_mapping": "case_8", "micro_protocol": None, "conclusion": "No evidence of malignancy."},
    ]  # fmt: skip
    path.write_text(json.dumps(rows))
    one, two = read_captions(path)
    assert (one.case_id, one.slides, decided(one)) == ("case_7", (), ["Solid nests.", "Carcinoma."])
    assert one.text == "Solid nests. Carcinoma."
    assert [(s.text, s.polarity) for s in two.sub_captions] == [("No evidence of malignancy.", "denied")]


def test_a_list_of_slide_objects_and_an_identifier_with_a_report(tmp_path):
    path = tmp_path / "t.json"
    slides = [{"slide": "a.svs", "part": "A", "stain": "H&E"}, {"slide": "b.svs", "part": "Part B"}]
    path.write_text(json.dumps([{"case": "C", "slides": slides, "report": TWO_PARTS}]))
    (case,) = read_captions(path)
    assert case.slides == (CaseSlide("a", "A", "H&E", "C"), CaseSlide("b", "Part B", None, "C"))
    path.write_text(json.dumps([{"id": "PIT_01_00002_01.tiff", "report": "Breast:\n1. Carcinoma."}]))
    assert read_captions(path)[0].slide_id == "PIT_01_00002_01"


def test_image_lists_of_llava(tmp_path):
    path = tmp_path / "t.json"
    turns = [{"from": "human", "value": "<image><image>\nDescribe."}, {"from": "gpt", "value": "Necrosis is present."}]
    path.write_text(json.dumps([{"id": "q1", "image": ["a.svs", "b.svs"], "conversations": turns}]))
    (case,) = read_captions(path)
    assert ([s.slide_id for s in case.slides], case.text) == (["a", "b"], "Necrosis is present.")


def test_folders_with_a_report_each(tmp_path):
    for name, text in (("case_1", "Necrosis is present."), ("case_2", "No necrosis.")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "report.txt").write_text(text)
    (tmp_path / "s9.txt").write_text("Solid nests.")
    (tmp_path / "s8.txt").write_text(" ")
    captions = read_caption_table(tmp_path)
    assert sorted((c.slide_id, c.text) for c in captions.captions) == [
        ("case_1", "Necrosis is present."), ("case_2", "No necrosis."), ("s9", "Solid nests."),
    ]  # fmt: skip
    assert len(captions.problems) == 1
    assert "s8.txt: is empty" in captions.problems[0]


# --- Parts -----------------------------------------------------------------------------------------------------------

THREE_PARTS = TWO_PARTS + "\nC. Scar: Fibrosis is present."


@pytest.mark.parametrize(
    ("slides", "parts", "expected", "note"),
    [
        ("a; b; c", "A; B; C", ["Melanoma is present.", "No melanoma is seen.", "Fibrosis is present."], ""),
        ("a; b", "A; A1", ["Melanoma is present."], "a part of the report has no slide: K (part B, C)"),
        ("a; b", "Part A; C", ["Melanoma is present.", "Fibrosis is present."], "a part of the report has no slide"),
        ("a; b; c", "", ["Melanoma is present.", "No melanoma is seen.", "Fibrosis is present."], ""),
        ("a; b", "", [], "a slide has no part, and the report has several"),
        ("a; b", "A; ", ["Melanoma is present."], "a slide has no part, and the report has several"),
        ("a; b", "A; skin", ["Melanoma is present."], "a slide's part is none of the report's: K (part skin)"),
        ("a; b", "X; Y", [], "a slide's part is none of the report's: K (part X, Y)"),
        ("a", "", [], "a slide has no part, and the report has several"),
    ],
)
def test_findings_are_of_the_parts_that_have_slides(tmp_path, slides, parts, expected, note):
    rows = [{"case": "K", "slides": slides, "part": parts, "text": THREE_PARTS}]
    captions = read_caption_table(table(tmp_path / "t.csv", rows))
    assert captions.problems == []
    (case,) = captions.captions
    assert decided(case) == expected
    note = note.replace(": K", ": a") if "; " not in slides else note
    kinds = [line.removeprefix("1 reports: ") for line in captions.notes]
    assert len(kinds) == bool(note)
    if note:
        kind, _, which = note.partition(": ")
        assert kinds[0].startswith(kind + " (")
        assert which in kinds[0]
        with pytest.warns(UserWarning, match="1 reports: "):
            read_captions(tmp_path / "t.csv")


def test_what_cannot_be_used_is_named_and_the_rest_goes_on(tmp_path):
    rows = [
        {"case": "C1", "patient": "P1", "slide": "a", "report": "Necrosis is present."},
        {"case": "C1", "patient": "P2", "slide": "b", "report": "Necrosis is present."},  # whose?
        {"case": "1", "patient": "P3", "slide": "c", "report": "Solid nests."},
        {"case": "1", "patient": "P4", "slide": "d", "report": "No necrosis."},  # numbered a patient
        {"case": "C5", "patient": "P5", "slide": "e;f", "report": "N/A"},
        {"case": "C6", "patient": "P6", "slide": "g;h", "part": "A;B;C", "report": "Solid nests."},
        {"case": "C7", "patient": "P7", "slide": "i", "report": "Necrosis is present."},
        {"case": "", "patient": "P8", "slide": "", "report": "Nobody's."},
    ]
    captions = read_caption_table(table(tmp_path / "t.csv", rows))
    assert [(c.slide_id, c.patient) for c in captions.captions] == [("c", "P3"), ("d", "P4"), ("i", "P7")]
    assert [c.case_id for c in captions.captions] == ["P3__1", "P4__1", "C7"]
    assert captions.notes == ["case '1' stands with 2 patients ('P3', 'P4'): taken as a case of each"]
    expected = [
        (1, "case 'C1' stands with 2 patients"), (2, "case 'C1' stands"), (5, "case 'C5' has an empty caption"),
        (6, "3 parts for 2 slides"), (8, "no slide named"),
    ]  # fmt: skip
    assert len(captions.problems) == len(expected)
    for problem, (row, words) in zip(captions.problems, expected, strict=True):
        assert problem.startswith(f"row {row}: ")
        assert words in problem


def test_cases_come_back_as_they_were_written(tmp_path):
    rows = [
        {"case": "C1", "patient": "P1", "slides": "C1/a.svs; C1/b.svs", "part": "A; C", "report": THREE_PARTS},
        {"case": "", "patient": "P2", "slides": "z.svs", "part": "", "report": "Solid nests."},
    ]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        captions = read_captions(table(tmp_path / "t.csv", rows))
    write_captions(tmp_path / "again.jsonl", captions)
    assert read_captions(tmp_path / "again.jsonl") == captions
    assert type(captions[1]) is Caption


def test_a_decomposed_case_stays_a_case(tmp_path):
    rows = [{"case": "C1", "patient": "P1", "slides": "a.svs; b.svs", "part": "A; C", "report": THREE_PARTS}]
    with pytest.warns(UserWarning, match="a part of the report has no slide"):
        reports, problems = read_reports(table(tmp_path / "t.csv", rows))
    assert problems == []
    write_decomposed(tmp_path / "o.jsonl", decompose_reports(reports, DecomposeSpec()))
    (case,) = read_captions(tmp_path / "o.jsonl")
    assert [(s.slide_id, s.part) for s in case.slides] == [("a", "A"), ("b", "C")]
    assert (case.parts, decided(case)) == (("A", "B", "C"), ["Melanoma is present.", "Fibrosis is present."])


def test_the_case_column_may_bear_any_name(tmp_path):
    rows = [{"Fall-Nr": "C1", "slide": "a", "text": "Nests."}, {"Fall-Nr": "C1", "slide": "b", "text": "Nests."}]
    path = table(tmp_path / "t.csv", rows)
    assert len(read_captions(path)) == 2
    (case,) = read_captions(path, options=TableOptions(case_column="Fall-Nr"))
    assert [s.slide_id for s in case.slides] == ["a", "b"]


# --- Questions and captions to learn from ----------------------------------------------------------------------------


def test_all_slides_of_an_image_list_are_shown_with_its_caption(tmp_path):
    path = tmp_path / "t.json"
    path.write_text(json.dumps([{"image": ["K/a.svs", "K/b.svs"], "caption": "Necrosis is present."}]))
    (example,) = read_examples(path)
    assert example.slide_ids == ("a", "b")
    rows = [{"case": "K", "slides": "a.svs; b.svs", "report": "Necrosis is present."}]
    (example,) = read_examples(table(tmp_path / "t.csv", rows))
    assert (example.slide_ids, example.turns[1].text) == (("a", "b"), "Necrosis is present.")
    path.write_text(json.dumps([{"case_mapping": "K", "conclusion": "Carcinoma."}]))
    with pytest.raises(CaptionError, match="case 'K' names no slide"):
        read_examples(path)


def test_a_question_about_the_slides_of_a_case(tmp_path):
    rows = [{"slide": "a.svs; b.svs", "question": "What is it?", "A": "x", "B": "y", "answer": "B"}]
    (question,) = read_questions(table(tmp_path / "q.csv", rows))
    assert (question.slides, question.slide_id, question.answer) == (("a", "b"), "a+1", "B")


def test_identifiers_in_training_text_are_counted():
    texts = ["Necrosis is present.", "Signed by Dr. Huber on 12.03.2021.", "Seen on 13.03.2021."]
    note = identifier_note(texts)
    assert note.startswith("2 of 3 training texts hold")
    assert "2 × date" in note
    assert identifier_note(texts[:1]) == ""
