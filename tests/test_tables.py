"""One reader for all tables: what spreadsheets, databases and other programs write is read rightly, or refused."""

import csv
import warnings
from dataclasses import replace
from pathlib import Path

import pytest

from pathflip.data.instruct_examples import read_examples
from pathflip.data.question_files import read_questions
from pathflip.errors import CaptionError, ConfigError
from pathflip.evaluate.predictions import match_predictions, read_predictions
from pathflip.evaluate.vqa import letter_baselines
from pathflip.io.slide_id import join_ids
from pathflip.io.tables import TableOptions, column_name, first_of, is_empty, read_rows, read_table, read_utf8
from pathflip.text.captions import check_captions, read_captions
from pathflip.text.question_tables import read_question_rows

TABLES = Path(__file__).parent / "fixtures" / "cases" / "tables"


def written(tmp_path, text, name="t.csv", encoding="utf-8"):
    path = tmp_path / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode(encoding))
    return path


# ---------------------------------------------------------------- CSV


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32"])
@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_encodings_separators_and_line_ends(tmp_path, encoding, delimiter, end):
    lines = ["Slide ID{0}Report-Text", 's1{0}"a, b; c\td|e"', 's2{0}"Größe ""2"" cm"']
    path = written(tmp_path, end.join(lines).format(delimiter), encoding=encoding)
    assert read_table(path) == [
        {"slide_id": "s1", "report_text": "a, b; c\td|e"},
        {"slide_id": "s2", "report_text": 'Größe "2" cm'},
    ]


@pytest.mark.parametrize("name", ["sep_line_of_a_spreadsheet.csv", "utf16_tab_separated.csv", "windows_1252.csv"])
def test_files_of_spreadsheets(name):
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        (caption,) = read_captions(TABLES / name)
    assert caption.slide_id == "s1"
    assert caption.text == ("Größe 2 cm, kein Tumor." if "1252" in name else "Necrosis is present.")
    assert [str(one.message).split(". ")[0] for one in warned] == (
        ["windows_1252.csv: not UTF-8; read as Windows-1252"] if "1252" in name else []
    )


@pytest.mark.parametrize("line", ["sep=;", '"sep=;"', "SEP=;;;", "sep=\t", "sep=,"])
def test_sep_lines(tmp_path, line):
    mark = line.strip('"')[4]
    path = written(tmp_path, f"{line}\r\nslide{mark}text\r\ns1{mark}Seen.\r\n")
    assert read_table(path) == [{"slide": "s1", "text": "Seen."}]
    bad = written(tmp_path, f'{line}\nslide{mark}text\ns1{mark}ok\ns2{mark}"open\n')
    with pytest.raises(CaptionError, match="line 4: a quote is opened"):
        read_table(bad)


def test_other_alphabets_are_not_taken_for_western_text(tmp_path):
    russian = written(tmp_path, "slide,text\ns1,Некроз не обнаружен.\n", encoding="cp1251")
    with pytest.raises(CaptionError, match=r"not UTF-8 \(byte 14\).*--encoding"):
        read_captions(russian)
    assert read_captions(russian, options=TableOptions(encoding="cp1251"))[0].text == "Некроз не обнаружен."
    with pytest.raises(ConfigError, match="no encoding 'klingon'"):
        read_captions(russian, options=TableOptions(encoding="klingon"))
    with pytest.raises(CaptionError, match="not utf-16"):
        read_captions(written(tmp_path, b"abc"), options=TableOptions(encoding="utf-16"))


def test_a_comma_inside_a_semicolon_header():
    path = TABLES / "comma_inside_a_semicolon_header.csv"
    with pytest.raises(
        CaptionError, match=r"no column for the text: got \['report, final', 'slide id'\].*--text-column"
    ):
        read_captions(path)
    (caption,) = read_captions(path, options=TableOptions(text_column="Report, final"))
    assert (caption.slide_id, caption.text) == ("s1", "Necrosis is present, focal.")


def test_named_columns_come_before_usual_ones(tmp_path):
    path = written(tmp_path, "slide,barcode,text,Final Report\n1,s1,old,Seen.\n")
    options = TableOptions(slide_column="barcode", text_column="final_report")
    (caption,) = read_captions(path, options=options)
    assert (caption.slide_id, caption.text) == ("s1", "Seen.")
    with pytest.raises(CaptionError, match=r"no column 'scan'; got \['barcode', 'final_report', 'slide', 'text'\]"):
        read_captions(path, options=TableOptions(slide_column="scan"))
    lines = written(tmp_path, '{"slide": 1, "barcode": "s1", "text": "Seen."}\n', "t.jsonl")
    assert read_captions(lines, options=TableOptions(slide_column="Barcode"))[0].slide_id == "s1"


def test_texts_in_several_columns_are_said(tmp_path):
    path = written(tmp_path, "slide,report,findings\ns1,Necrosis is seen.,No necrosis.\ns2,Same.,Same.\ns3,Only.,\n")
    with pytest.warns(UserWarning, match="1 rows hold texts in several columns: 'report' is taken, not 'findings'"):
        assert [caption.text for caption in read_captions(path)] == ["Necrosis is seen.", "Same.", "Only."]
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        chosen = read_captions(path, options=TableOptions(text_column="findings"), on_error="skip")
    assert [caption.text for caption in chosen] == ["No necrosis.", "Same."]
    assert ["several columns" in str(one.message) for one in warned] == [False]


def test_long_cells(tmp_path):
    long = "Necrosis is seen. " * 12_000
    path = written(tmp_path, f"slide,text\ns1,{long}\ns2,No necrosis.\n")
    limit = csv.field_size_limit()
    captions = read_captions(path)
    assert [len(c.text) for c in captions] == [len(long.strip()), 12]
    assert csv.field_size_limit() == limit


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('slide,text\ns1,ok\ns2,"open\ns3,more\n', "line 3: a quote is opened there and not closed before line 4"),
        ('slide,text\ns1,"open\ns2,"closed"\n', "line 2: a quote is opened there"),
        (
            'slide,text\ns1,"open\ns2,"\n',
            r"row 1: a quote seems not to be closed in line 2 \(its text ends in line 3\)",
        ),
        ('slide,text\ns1,"a" b\ns2,ok\n', r"row 1: a quote stands inside a text \(line 2\)"),
        ("slide,text\ns1,a,b\n", "row 1: more fields than the header"),
        ("slide,Slide,text\ns1,s2,a\n", "two columns are named 'slide'"),
    ],
)
def test_broken_quotes_never_swallow_a_row(tmp_path, text, message):
    with pytest.raises(CaptionError, match=message) as caught:
        read_captions(written(tmp_path, text))
    assert "\n" not in str(caught.value)


def test_rows_a_spreadsheet_leaves(tmp_path):
    path = written(tmp_path, "slide,text,,\n\ns1,Seen.,,\n,,,\n s2 ,\x0cform feed and \u2028 stay,,,\n,,,\n")
    rows = read_rows(path)
    assert [(row.number, row.problem) for row in rows] == [(1, ""), (3, "")]
    assert [row.fields for row in rows] == [
        {"slide": "s1", "text": "Seen."}, {"slide": "s2 ", "text": "\x0cform feed and \u2028 stay"},
    ]  # fmt: skip


def test_a_row_without_a_slide_is_not_of_its_number(tmp_path):
    path = written(tmp_path, "ID,Slide,Text\n1,s1,Seen.\n2,,Not seen.\n")
    captions, problems = check_captions(path)
    assert [c.slide_id for c in captions] == ["s1"]
    assert problems == ["row 2: no slide named; expected one of the fields slide, slide_id, wsi, image, file"]


# ---------------------------------------------------------------- JSON, and files as such


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("t.json", "[" * 100_000, "t.json: not JSON that can be read .nested too deeply"),
        ("t.json", '{"a": 1}', "got a JSON dict, expected a list"),
        ("t.json", "[1" + "0" * 5000 + "]", "not JSON"),
        ("t.jsonl", '{"slide": "s", "text": ' + "[" * 100_000, "row 1: not JSON that can be read"),
        ("t.jsonl", "3\n", "row 1: a JSON int, not an object"),
        ("t.jsonl", '{"slide": "s", "Slide": "t", "text": "x"}', "row 1: two of its names differ only in case"),
        ("t.jsonl", '{"slide": "s", "text": "half \\ud83d"}', "row 1: the caption holds half a character"),
        ("t.jsonl", '{"slide": {"a": 1}, "text": "x"}', "row 1: the slide is {'a': 1}, expected its name"),
        ("t.xlsx", "PK", r"got a '.xlsx' file, expected .jsonl.*save it as CSV"),
        ("t", "x", "got a '' file"),
    ],
)
def test_what_cannot_be_read_is_one_line(tmp_path, name, text, message):
    with pytest.raises(CaptionError, match=message) as caught:
        read_captions(written(tmp_path, text, name))
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 400


def test_json_lines_under_another_name(tmp_path):
    path = written(tmp_path, '{"slide": "s1", "text": "Seen."}\n{"slide": "s2", "text": "Not seen."}\n', "t.json")
    assert [c.slide_id for c in read_captions(path)] == ["s1", "s2"]


def test_a_folder_where_a_file_is_wanted(tmp_path):
    with pytest.raises(CaptionError, match=f"{tmp_path}: is a folder, expected a file of captions: it holds no table"):
        read_captions(tmp_path)
    written(tmp_path, "slide,text\n", "reports.csv")
    with pytest.raises(CaptionError, match=r"give one of the tables in it \(reports.csv\)"):
        read_captions(tmp_path)


def test_a_pipe_does_not_hang(tmp_path):
    import os

    os.mkfifo(tmp_path / "p.csv")
    with pytest.raises(CaptionError, match="a pipe or device"):
        read_utf8(tmp_path / "p.csv")


# ---------------------------------------------------------------- what says nothing


def test_captions_that_say_nothing():
    captions, problems = check_captions(TABLES / "captions_that_say_nothing.csv")
    assert [c.slide_id for c in captions] == ["s1", "s7"]
    assert problems == [f"row {n}: slide 's{n}' has an empty caption" for n in range(2, 7)]


@pytest.mark.parametrize(
    "cell", ["", " ", "nan", "NaN", "N/A", "#N/A", "[Not Available]", "(unknown)", "—", "...", None]
)
def test_cells_that_say_nothing(cell):
    assert is_empty(cell)
    assert first_of({"a": cell, "b": "x"}, ("a", "b")) is None


@pytest.mark.parametrize("cell", ["Nana", "none seen", "病理", "No data on necrosis.", 0, False, "0", "N/A for part A"])
def test_cells_that_say_something(cell):
    assert not is_empty(cell)


def test_columns_are_compared_by_their_words():
    assert [column_name(n) for n in ("Slide ID", " slide-id", "SLIDE__ID ", "Broad Category")] == [
        "slide_id", "slide_id", "slide_id", "broad_category",
    ]  # fmt: skip


def test_captions_by_barcode():
    captions = read_captions(TABLES / "captions_by_barcode.csv")
    ids = [path.name.removesuffix(".h5") for path in (TABLES.parent / "features").glob("TCGA-*.h5")]
    names = join_ids([caption.slide_id for caption in captions], ids)
    named = [replace(caption, slide_id=names[caption.slide_id]) for caption in captions]
    assert sorted(c.slide_id for c in named) == sorted(ids)
    assert {c.slide_id: c.text for c in named}[min(ids)] == "Necrosis is present."
    assert {c.patient for c in named} == {"TCGA-ZZ-A001", "TCGA-ZZ-A002"}


# ---------------------------------------------------------------- questions: one reader for learning and measuring


def keys(path):
    """The right options' texts as measuring and as learning read them; they must agree."""
    measured = [q.options["ABCDEFGH".index(q.answer)] for q in read_questions(path)]
    assert [e.options[e.answer] for e in read_examples(path)] == measured
    return measured


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("question_with_empty_option.csv", ["cribriform"]),
        ("question_with_nan_options.csv", ["glandular"]),
        ("keys_written_differently.csv", ["glandular", "glandular", "cribriform", "papillary"]),
        ("options_are_a_python_list.csv", ["papillary", "glandular"]),
        ("options_are_a_json_list.csv", ["solid"]),
    ],
)
def test_keys(name, expected):
    assert keys(TABLES / name) == expected


def test_letters_stay_with_their_columns(tmp_path):
    (question,) = read_questions(TABLES / "question_with_empty_option.csv")
    assert (question.options, question.answer, question.offered) == (("solid", "", "cribriform", "papillary"), "C", 3)
    assert letter_baselines([question])["chance"][0] == pytest.approx(1 / 3)
    predictions = written(tmp_path, '{"id": 1, "output": "C", "probabilities": [0.1, 0.8, 0.1]}\n', "p.jsonl")
    (prediction,), _ = match_predictions([question], read_predictions(predictions))
    assert prediction.probabilities == (0.1, 0.0, 0.8, 0.1)
    (example,) = read_examples(TABLES / "question_with_empty_option.csv")
    assert (example.options, example.answer) == (("solid", "cribriform", "papillary"), 1)
    (two,) = read_questions(TABLES / "question_with_nan_options.csv")
    assert two.options == ("solid", "glandular")


def test_a_number_may_count_from_0_or_1():
    for read in (read_questions, read_examples):
        with pytest.raises(
            CaptionError, match=r"key_is_a_number.csv: row 2: the answer is the number 2, which may count"
        ):
            read(TABLES / "key_is_a_number.csv")


HEAD = "slide,question,A,B,C,D,answer\n"


@pytest.mark.parametrize(
    ("key", "expected"),
    [
        ("b", "B"), ("(b)", "B"), ("B)", "B"), ("B.", "B"), ("[B]", "B"), ("B: two", "B"), ("(B) two", "B"),
        ("Two.", "B"), ("Answer: B", "B"), ("option b", "B"), ("none", "D"), ("D. None", "D"),
    ],
)  # fmt: skip
def test_keys_others_write(tmp_path, key, expected):
    (question,) = read_questions(written(tmp_path, f"{HEAD}s1,Which?,one,two,three,None,{key}\n"))
    assert question.answer == expected


@pytest.mark.parametrize("key", ["E", "two three", "B. three", "A or B", "", "?", "BB", "1", "B C", "C"])
def test_keys_that_name_no_option(tmp_path, key):
    path = written(tmp_path, f"{HEAD}s1,Which?,one,two,,four,{key}\n")
    for read in (read_questions, read_examples):
        with pytest.raises(CaptionError, match="row 1"):
            read(path)


def test_a_letter_that_is_another_options_text(tmp_path):
    path = written(tmp_path, f"{HEAD}s1,Blood group?,B,A,AB,0,A\n")
    with pytest.raises(CaptionError, match="is the text of another option"):
        read_questions(path)


@pytest.mark.parametrize(
    ("numbers", "expected"),
    [((0, 2), ["one", "three"]), ((1, 3), ["one", "three"]), (("1.0", "3.0"), ["one", "three"]), ((1, 2), None)],
)
def test_numbers_count_from_what_the_file_shows(tmp_path, numbers, expected):
    rows = "".join(f"s1,Which {n}?,one,two,three,,{n}\n" for n in numbers)
    path = written(tmp_path, HEAD + rows)
    if expected is None:
        with pytest.raises(CaptionError, match=r"row 1: .*from 0 or from 1.*row 2: "):
            read_questions(path)
    else:
        assert keys(path) == expected


@pytest.mark.parametrize(
    ("cell", "expected"),
    [
        ("['a b', \"c's\"]", ("a b", "c's")),
        ('["A. solid", "B. glandular"]', ("solid", "glandular")),
        ('{"A": "solid", "B": "glandular"}', ("solid", "glandular")),
        ("('solid', None, 'glandular')", None),
        ("__import__('os').system('true')", None),
        ("solid; glandular", None),
        ("[" * 5000 + "1", None),
    ],
)
def test_options_in_one_cell(tmp_path, cell, expected):
    quoted = cell.replace('"', '""')
    path = written(tmp_path, f'slide,question,options,answer\ns1,Which?,"{quoted}",A\n')
    if expected is None:
        with pytest.raises(CaptionError, match="row 1: the options are "):
            read_questions(path)
    else:
        assert read_questions(path)[0].options == expected


def test_answers_as_long_as_reports_are_read_whole():
    (example,) = read_examples(TABLES / "answer_longer_than_the_context.json")
    assert example.slide_ids == ("s1",)
    assert len(example.turns[1].text.split()) > 2_900


def test_questions_without_keys_can_be_asked(tmp_path):
    path = written(tmp_path, "slide,question\ns1,Is there necrosis?\n")
    (row,) = read_question_rows(path)
    assert (row.options, row.answer, row.answer_text) == ((), -1, "")
    assert read_questions(path, labelled=False)[0].question == "Is there necrosis?"
    with pytest.raises(CaptionError, match="row 1: no answer"):
        read_examples(path)
    answered = written(tmp_path, "slide,question,answer\ns1,Is there necrosis?,Yes.\n")
    assert [turn.text for turn in read_examples(answered)[0].turns] == ["Is there necrosis?", "Yes."]


def test_conversations_with_broken_turns(tmp_path):
    def conversation(turns):
        import json

        return written(tmp_path, json.dumps([{"image": "s1.svs", "conversations": turns}]), "c.json")

    human, gpt = {"from": "human", "value": "<image>\nDescribe."}, {"from": "gpt", "value": "Nests."}
    assert len(read_examples(conversation([human, gpt]))[0].turns) == 2
    for turns, message in (
        ([gpt], "nobody asks"),
        ([human], "nobody answers"),
        (["hello"], "a turn is a str"),
        ([{"from": ["x"], "value": "a"}], "a turn is from"),
        ([human, {"from": "gpt", "value": 5}], "holds a int"),
    ):
        with pytest.raises(CaptionError, match=f"'c.json' row 1: .*{message}"):
            read_examples(conversation(turns))


def test_a_name_that_stands_twice_in_json_is_no_choice_of_ours(tmp_path):
    """Python keeps the last silently: the report would go to another slide."""
    lines = tmp_path / "c.jsonl"
    lines.write_text('{"slide": "a", "slide": "b", "text": "Necrosis."}\n{"slide": "c", "text": "Necrosis."}\n')
    rows = read_rows(lines)
    assert "'slide' stands twice" in rows[0].problem
    assert rows[1].fields["slide"] == "c"
    whole = tmp_path / "c.json"
    whole.write_text(
        '[{"slide": "a", "text": "x", "sub_captions": [{"text": "x", "negated": true, "negated": false}]}]'
    )
    with pytest.raises(CaptionError, match="'negated' stands twice"):
        read_rows(whole)
