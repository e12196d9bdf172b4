"""Polarity by clause, tick boxes and languages, on sentences written for this test and kept apart from the rules."""

import json
from pathlib import Path

import pytest

from pathflip.text.checkboxes import checked_lines
from pathflip.text.language_detection import MIXED, language_of
from pathflip.text.reports import read_report
from pathflip.text.sub_captions import parse_sub_caption, sub_captions_of

FIXTURES = Path(__file__).parent / "fixtures" / "text"
EXAMPLES, LANGUAGES, FORMS = (
    json.loads((FIXTURES / name).read_text(encoding="utf-8"))
    for name in ("sub_captions.json", "languages.json", "forms.json")
)
MEANS = {"present": "affirmed", "absent": "denied", "uncertain": "undecided"}
SUPPORTED = ("en", "de", "fr", "es", "ja")


def stated_of(example, finding: str) -> set[str]:
    return {s.polarity for s in sub_captions_of(example["text"]) if s.visual and finding.lower() in s.text.lower()}


@pytest.mark.parametrize("example", [*EXAMPLES, *LANGUAGES], ids=lambda e: e["text"])
def test_nothing_is_read_as_its_opposite(example):
    for finding in example["findings"] if example["visible"] else ():
        polarities, true = stated_of(example, finding["finding"]), MEANS[finding["polarity"]]
        assert not {polarity for polarity in polarities if "undecided" not in (polarity, true)} - {true}, (
            example,
            polarities,
        )
        if true == "undecided":
            assert "denied" not in polarities
        if example["language"] not in SUPPORTED:
            assert polarities == {"undecided"}


@pytest.mark.parametrize("language", SUPPORTED)
def test_findings_and_visibility_are_read(language):
    examples = [e for e in [*EXAMPLES, *LANGUAGES] if e["language"] == language]
    findings = [(e, f) for e in examples if e["visible"] for f in e["findings"]]
    right = [stated_of(e, f["finding"]) == {MEANS[f["polarity"]]} for e, f in findings]
    visible = [any(s.visual for s in sub_captions_of(e["text"])) == e["visible"] for e in examples]
    print(f"{language}: {sum(right)} of {len(right)} findings right, visible {sum(visible)} of {len(visible)}")
    assert len(findings) > 100
    assert sum(right) >= 0.95 * len(right)
    assert sum(visible) >= 0.95 * len(visible)


def test_two_signs_are_two_sub_captions_with_their_places():
    text = "Cribriform glands are present but no necrosis."
    glands, necrosis = sub_captions_of(text)
    assert (glands.content, glands.polarity, necrosis.content, necrosis.polarity) == (
        "cribriform glands are present", "affirmed", "necrosis", "denied"
    )  # fmt: skip
    assert [text[slice(*one.place)] for one in (glands, necrosis)] == ["Cribriform glands are present", "no necrosis."]


def test_what_is_set_aside_has_its_reason():
    seen, aside = sub_captions_of("Vascular invasion is seen, although margins are free.")
    assert (seen.visual, aside.visual, aside.reason) == (True, False, "margins")
    assert parse_sub_caption("Invasion cannot be excluded.").reason == "doubt"
    assert parse_sub_caption("Non si osserva necrosi.").reason == "language: it"
    assert not parse_sub_caption("Invasion cannot be excluded.").decided


@pytest.mark.parametrize(
    ("text", "label", "ticked"),
    [
        ("Necrosis: [X] Present [ ] Absent", "Necrosis", ["Present"]),
        ("Necrosis: Present [x] Absent [ ]", "Necrosis", ["Present"]),
        ("Necrosis: (x) yes ( ) no", "Necrosis", ["yes"]),
        ("Necrosis: _X_ yes ___ no", "Necrosis", ["yes"]),
        ("Necrosis: □ yes ■ no", "Necrosis", ["no"]),
        ("Necrosis: [ ] yes [ ] no", "Necrosis", []),
        ("☒ Basal cell carcinoma ☐ Squamous cell carcinoma", "", ["Basal cell carcinoma"]),
    ],
)
def test_boxes(text, label, ticked):
    (line,) = checked_lines(text)
    assert (line.label, [option.text for option in line.options if option.ticked]) == (label, ticked)


def test_two_questions_in_a_row():
    first, second = sub_captions_of("Necrosis: [x] Present [ ] Absent; Ulceration: [ ] Present [x] Absent")
    assert (first.content, first.polarity, second.polarity) == ("necrosis is present", "affirmed", "denied")
    assert "Ulceration" not in first.text


@pytest.mark.parametrize("text", ["Factor (x) is given.", "Cells (a few) are seen.", "The name is ____."])
def test_no_boxes(text):
    assert checked_lines(text) == []


@pytest.mark.parametrize("text", ["Necrosis: [ ] Present [ ] Absent", "Necrosis: [x] Present [x] Absent"])
def test_no_tick_or_two_are_undecided(text):
    assert parse_sub_caption(text).undecided


@pytest.mark.parametrize(
    ("text", "language"),
    [
        ("No necrosis is seen.", "en"), ("Keine Nekrosen.", "de"), ("Pas de nécrose.", "fr"), ("Sin necrosis.", "es"),
        ("壊死は認めない。", "ja"), ("未见坏死。", "zh"), ("Некроз не выявлен.", "ru"), ("Er is geen necrose.", "nl"),
        ("Keine Nekrosen, the tumour is solid.", MIXED), ("壊死は absent", MIXED), ("CK7陽性、壊死なし。", "ja"),
        ("Carcinoma in situ", "en"), ("ER/PR negative", "en"),
    ],
)  # fmt: skip
def test_languages(text, language):
    assert language_of(text) == language


def test_the_report_decides_where_a_line_tells_nothing():
    assert language_of("Adenokarzinom", default="de") == "de"
    assert language_of("脈管侵襲陰性", default="ja") == "ja"


@pytest.mark.parametrize(
    ("text", "polarities"),
    [
        ("Mitoses: rare, necrosis: none, LVI: present.", {"Mitoses": "affirmed", "necrosis": "denied"}),
        ("Without necrosis, the tumour shows marked atypia.", {"necrosis": "denied", "atypia": "affirmed"}),
        ("In the absence of necrosis, mitoses are frequent.", {"necrosis": "denied", "mitoses": "affirmed"}),
        ("Ulceration present (no necrosis).", {"Ulceration": "undecided"}),
        ("HER2 is negative (score 1+).", {}),
        ("Not all glands are fused.", {"glands": "undecided"}),
        ("Lymphovascular invasion: present / absent", {"invasion": "undecided"}),
        ("Little or no necrosis.", {"necrosis": "undecided"}),
        ("Mitoses < 2 & no necrosis.", {"Mitoses": "affirmed", "necrosis": "denied"}),
        ("Hardly any mitoses.", {"mitoses": "undecided"}),
        ("Mitosen reichlich, Nekrosen fehlen.", {"Mitosen": "affirmed", "Nekrosen": "denied"}),
        ("Nekrosen fehlen, Mitosen reichlich.", {"Mitosen": "affirmed", "Nekrosen": "denied"}),
    ],
)
def test_the_reach_of_a_denial(text, polarities):
    for finding, polarity in polarities.items():
        assert stated_of({"text": text}, finding) == {polarity}, finding


@pytest.mark.parametrize("example", FORMS, ids=lambda e: e["text"])
def test_forms(example):
    """What a form may be read as: one of the polarities listed for a finding, or nothing that trains."""
    stated = read_report(example["text"]).sub_captions()
    if example["nothing"]:
        assert not [s.text for s in stated if s.decided]
    for finding, may_be in example["findings"]:
        polarities = {s.polarity for s in stated if s.visual and finding.lower() in s.text.lower()}
        assert polarities - {"undecided"} <= set(may_be)
        assert polarities or "undecided" in may_be or not may_be


@pytest.mark.parametrize(
    ("text", "denied", "undecided"),
    [
        ("Carcinoma without necrosis, haemorrhage, and mucin.", ["necrosis", "haemorrhage", "mucin"], []),
        ("Hyperplasia without atypia, necrosis, and mitoses.", ["atypia", "necrosis", "mitoses"], []),
        ("Hyperplasia without atypia, adenosis, and cysts.", ["atypia"], ["adenosis", "cysts"]),
        ("Carcinoma without necrosis, grade 2, and 3 mitoses per 10 HPF.", ["necrosis"], ["grade 2", "3 mitoses"]),
        ("Karzinom ohne Nekrosen, Blutungen und Verkalkungen.", ["Nekrosen", "Blutungen", "Verkalkungen"], []),
        ("Carcinome sans nécrose, embole et mitoses.", ["nécrose", "embole", "mitoses"], []),
        ("Without necrosis, ulcerated carcinoma.", ["necrosis"], ["ulcerated"]),
        ("Sans nécrose, carcinome ulcéré.", ["nécrose"], ["ulcéré"]),
        ("without necrosis, calcification, and mucin", ["necrosis"], ["calcification"]),
        ("Invasion - no glands in the stroma", ["glands"], ["Invasion"]),
        ("Necrosis - absent - LVI - present", [], ["Necrosis", "LVI"]),
        ("LVI, no", ["LVI"], []),
        ("No pleural involvement, vessel invasion (venous), or mucin is seen.", ["pleural", "mucin"], []),
        ("NECROSIS: No / ULCERATION: Yes", [], ["NECROSIS", "ULCERATION"]),
        ("PNI: + LVI: -", [], ["PNI", "LVI"]),
        ("No LVI - mitoses", ["LVI"], ["mitoses"]),
        ("Nécrose oui, emboles non", [], ["Nécrose", "emboles"]),
        ("Necrosis sí, mitosis no", [], ["Necrosis", "mitosis"]),
        ("壊死あり・脈管侵襲なし", [], ["壊死", "脈管侵襲"]),
        ("Without granulomas, the mucosa is inflamed.", ["granulomas"], []),
    ],
)  # fmt: skip
def test_how_far_a_denial_reaches_in_a_list(text, denied, undecided):
    stated = sub_captions_of(text)
    for words, polarity in ((denied, "denied"), (undecided, "undecided")):
        for word in words:
            assert {s.polarity for s in stated if word in s.text} == {polarity}, (word, stated)


@pytest.mark.parametrize(
    "text", ["Necrosis is not absent.", "Non small cell carcinoma.", "PAS positive cells are seen."]
)
def test_words_of_two_languages_are_no_foreign_denials(text):
    assert {s.polarity for s in sub_captions_of(text) if s.visual} <= {"affirmed"}
