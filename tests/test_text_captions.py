import json
import subprocess
import sys

import pytest

from pathflip.errors import CaptionError
from pathflip.geometry import Box
from pathflip.text.captions import check_captions, read_captions, write_captions
from pathflip.text.sentences import split_sentences

ROWS = [
    {"slide": "a/b/case1.svs", "patient": "p1", "text": "No necrosis is seen. Margins are free at 1.5 cm."},
    {"slide_id": "case2", "report": "Solid carcinoma."},
    {"image": ["x/TCGA-DK-A3IS-01Z-00-DX1.31CABE32-36D7-4920.h5"], "caption": "Papillary carcinoma."},
]


def write_rows(path, rows):
    path.write_text("\n".join(json.dumps(row) for row in rows) + "\n", encoding="utf-8")
    return path


def test_jsonl_with_aliases(tmp_path):
    captions = read_captions(write_rows(tmp_path / "captions.jsonl", ROWS))
    assert [caption.slide_id for caption in captions] == [
        "case1",
        "case2",
        "TCGA-DK-A3IS-01Z-00-DX1.31CABE32-36D7-4920",
    ]
    assert [caption.patient for caption in captions] == ["p1", "case2", "TCGA-DK-A3IS"]
    first = captions[0].sub_captions
    assert [sub_caption.text for sub_caption in first] == ["No necrosis is seen.", "Margins are free at 1.5 cm."]
    assert [(sub_caption.visual, sub_caption.negated) for sub_caption in first] == [(True, True), (False, True)]


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
@pytest.mark.parametrize("bom", ["", "\ufeff"])
def test_csv(tmp_path, delimiter, bom):
    path = tmp_path / "captions.csv"
    header = delimiter.join(["ID", "Slide", "Case_ID", "Caption"])
    rows = [f'1{delimiter}C:\\slides\\s1.ndpi{delimiter}p{delimiter}"One, two; three.\tFour.\nFive."', ""]
    path.write_bytes((bom + "\r\n".join([header, *rows])).encode())
    (caption,) = read_captions(path)
    assert (caption.slide_id, caption.patient) == ("s1", "p")
    assert [sub_caption.text for sub_caption in caption.sub_captions] == ["One, two; three.", "Four.", "Five."]


def test_ready_made_sub_captions(tmp_path):
    rows = [
        {"slide": "s1", "text": "Report.", "subcaptions": ["No pus.", {"text": "Keratin.", "box": [1, 2, 3, 4]}]},
        {"slide": "s2", "fine_grained_concepts": [{"concept": "glands", "visual_description": "Glands fuse."}]},
        {
            "slide": "s3",
            "text": "x1",
            "subcaptions": [{"text": "T.", "content": "c", "visual": False, "negated": True, "concept": "k"}],
        },
    ]
    one, two, three = read_captions(write_rows(tmp_path / "captions.jsonl", rows))
    assert one.text == "Report."
    assert one.sub_captions[0].negated
    assert one.sub_captions[1].box == Box(1, 2, 3, 4)
    assert two.text == "Glands fuse."
    assert two.sub_captions[0].concept == "glands"
    sub_caption = three.sub_captions[0]
    assert (sub_caption.content, sub_caption.visual, sub_caption.negated, sub_caption.concept) == (
        "c",
        False,
        True,
        "k",
    )


def test_llava_json_list(tmp_path):
    turns = [{"from": "human", "value": "<image>\nDescribe."}, {"from": "gpt", "value": "Nests of cells. No mucin."}]
    path = tmp_path / "slidebench.json"
    path.write_text(json.dumps([{"image": ["d/s.csv"], "conversations": turns}]))
    (caption,) = read_captions(path)
    assert (caption.slide_id, len(caption.sub_captions)) == ("s", 2)


def test_round_trip(tmp_path):
    captions = read_captions(write_rows(tmp_path / "captions.jsonl", ROWS))
    write_captions(tmp_path / "again.jsonl", captions)
    assert read_captions(tmp_path / "again.jsonl") == captions


BAD = [
    {"slide": "good", "text": "Fine."},
    {"slide": "empty", "text": "  "},
    {"slide": "good.svs", "text": "Again."},
    {"text": "Nobody's."},
    {"slide": "dots", "text": "..."},
    {"slide": "number", "text": 5},
    {"slide": "subs", "text": "T", "subcaptions": [{"visual": True}]},
    {"slide": "flag", "text": "T", "subcaptions": [{"text": "a", "visual": "yes"}]},
    {"slide": "box", "text": "T", "subcaptions": [{"text": "a", "box": [1, 2]}]},
    {"image": ["a", ""], "text": "Two."},
]


def test_bad_rows_are_named(tmp_path):
    path = write_rows(tmp_path / "captions.jsonl", BAD)
    with path.open("a") as handle:
        handle.write("{broken\n[1]\n")
    captions, problems = check_captions(path)
    assert [caption.slide_id for caption in captions] == ["good"]
    expected = [
        (2, "empty caption"), (3, "already in row 1"), (4, "no slide named"), (5, "empty caption"),
        (6, "expected text"), (7, "sub-caption 1 has no text"), (8, "'visual' is 'yes'"),
        (9, "level-0 pixels"), (10, "no slide named in a list"),
        (11, "not JSON"), (12, "not an object with named values"),
    ]  # fmt: skip
    assert len(problems) == len(expected)
    for problem, (row, words) in zip(problems, expected, strict=True):
        assert problem.startswith(f"row {row}: ")
        assert words in problem
        assert "\n" not in problem
    with pytest.raises(CaptionError, match=r"11 rows cannot be used: row 2: .* and 6 more; .*on_error='skip'"):
        read_captions(path)
    with pytest.warns(UserWarning, match="11 rows cannot be used"):
        assert len(read_captions(path, on_error="skip")) == 1


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("c.jsonl", b"", "no usable caption"),
        ("c.csv", b"a,b\n1,2\n", "no column for the slide"),
        ("c.csv", b"slide,b\n1,2\n", "no column for the text"),
        ("c.csv", b"slide,text\ns,a,b\n", "row 1: more fields"),
        ("c.csv", "slide,text\ns,診断診断\n".encode("shift_jis"), "not UTF-8 .*--encoding"),
        ("c.json", b"{}", "expected a list"),
        ("c.json", b"[1]", "row 1: a JSON int, not an object"),
        ("c.json", b"[", "not JSON"),
        ("c.docx", b"x", r"expected \.jsonl"),
    ],
)
def test_unusable_files(tmp_path, name, content, message):
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(CaptionError, match=message):
        read_captions(path)


@pytest.mark.usefixtures("annotations_off")
def test_absent_file_and_option(tmp_path):
    with pytest.raises(CaptionError, match="cannot be read"):
        read_captions(tmp_path / "none.jsonl")
    with pytest.raises(CaptionError, match="on_error"):
        read_captions(tmp_path / "none.jsonl", on_error="ignore")


def test_sentences_and_sampling_cost_no_torch():
    code = (
        "import sys, pathflip.text; from pathflip import split_sentences; from pathflip.text import sample_sentences; "
        "assert 'torch' not in sys.modules, 'torch was imported'; assert len(split_sentences('It is. No.')) == 2"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_lazy_names():
    import pathflip.text

    for name in pathflip.text.__all__:
        assert getattr(pathflip.text, name).__name__ == name
    with pytest.raises(AttributeError, match="nothing"):
        _ = pathflip.text.nothing


@pytest.mark.real
def test_slidebench(real_data):
    captions = read_captions(real_data / "slidebench" / "SlideBench-Caption-TCGA.csv")
    assert len(captions) == len({caption.slide_id for caption in captions}) == 732
    assert captions[0].slide_id == "TCGA-DK-A3IS-01Z-00-DX1.31CABE32-36D7-4920-BF5A-9C9D8B54320F"
    assert captions[0].patient == "TCGA-DK-A3IS"
    assert sum(len(split_sentences(caption.text)) for caption in captions) == 5377
    assert sum(len(caption.sub_captions) for caption in captions) > 5377  # sentences of two polarities give two


@pytest.mark.parametrize("column", ["Case No", "accession", "Patient"])
def test_slides_of_one_case_with_reports_of_their_own_are_of_one_patient(tmp_path, column):
    file = tmp_path / "captions.csv"
    rows = ["a,7,Necrosis is seen.", "b,7,No necrosis is seen.", "TCGA-AA-0001-01Z-00-DX1,9,Calcification is seen."]
    file.write_text("\n".join([f"slide,{column},text", *rows]) + "\n")
    told = [caption.patient for caption in read_captions(file)]
    assert told == ["7", "7", "9" if column == "Patient" else "TCGA-AA-0001"]
