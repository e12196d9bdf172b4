"""Reports of seven sets written with their right polarities before the rules were run on them: nothing is opposite."""

import json
import re
from pathlib import Path

import pytest

from pathflip.text.caution import with_caution
from pathflip.text.lead_ins import columns_as_answers
from pathflip.text.reports import read_report
from pathflip.text.sub_captions import sub_captions_of

FRESH = json.loads((Path(__file__).parent / "fixtures" / "text" / "fresh_reports.json").read_text(encoding="utf-8"))
OPPOSITE = {"affirmed": "denied", "denied": "affirmed"}


def polarities_of(example):
    """(finding, right polarity, polarities read) of every statement of a report."""
    stated = read_report(example["text"]).sub_captions(example["part"] or None)
    for finding, right in example["statements"]:
        yield finding, right, {s.polarity for s in stated if s.visual and finding.lower() in s.text.lower()}


@pytest.mark.parametrize("example", FRESH, ids=lambda e: e["id"])
def test_nothing_is_read_as_its_opposite(example):
    for finding, right, polarities in polarities_of(example):
        assert OPPOSITE.get(right, "denied") not in polarities, finding


@pytest.mark.parametrize("example", [e for e in FRESH if "hidden" in e], ids=lambda e: e["id"])
def test_what_no_slide_of_the_part_shows_is_not_stated(example):
    stated = [s for s in read_report(example["text"]).sub_captions(example["part"] or None) if s.visual and s.decided]
    for phrase in example["hidden"]:
        assert not [s.content for s in stated if phrase.lower() in s.content.lower()], phrase


def test_most_is_read():
    outcomes = [polarities == {right} for example in FRESH for _, right, polarities in polarities_of(example)]
    assert len(outcomes) == 756
    assert sum(outcomes) >= 0.9 * len(outcomes)


@pytest.mark.parametrize(
    ("clause", "read", "language", "polarity"),
    [
        ("Mitoses are sought in vain", "affirmed", "en", "undecided"),
        ("Mitoses are frequent", "affirmed", "en", "affirmed"),
        ("Granulome werden vermisst", "affirmed", "de", "undecided"),
        ("la nécrose fait défaut", "affirmed", "fr", "undecided"),
        ("muqueuse d'aspect bénin", "affirmed", "fr", "affirmed"),
        ("no gland lacks a basal layer", "denied", "en", "undecided"),
        ("no gland has a basal layer", "denied", "en", "denied"),
        ("nests whose cells have no nucleoli", "denied", "en", "denied"),
        ("solid nests whose cells have no nucleoli", "denied", "en", "undecided"),
        ("as is palisading necrosis", "affirmed", "en", "undecided"),
        ("壊死に乏しい", "affirmed", "ja", "undecided"),
        ("nekróza", "affirmed", "cs", "affirmed"),
    ],
)
def test_a_hint_at_a_denial_nobody_read_is_undecided(clause, read, language, polarity):
    assert with_caution(clause, read, language) == polarity


@pytest.mark.parametrize(
    ("text", "polarities"),
    [
        ("Carcinoma in situ, that is not identified.", ["denied"]),
        ("Perineural invasion, which is absent.", ["undecided"]),
        ("The tumour shows glands and mucin, which is not seen.", ["undecided"]),
        ("Carcinoma with necrosis, which does not extend into fat.", ["affirmed", "denied"]),
        ("Invasion, which was suspected, is not seen.", ["undecided"]),
        ("Granulomas, which are numerous, are not confluent.", ["undecided"]),
        ("Gefäßeinbrüche, die nicht nachweisbar sind.", ["denied"]),
        ("Hobnailing, although sought, was not encountered.", ["denied"]),
        ("Invasion ist nachweisbar, Nekrosen hingegen nicht.", ["affirmed", "denied"]),
        ("Nekrosen sind hingegen nicht zu sehen.", ["denied"]),
        ("Les granulomes ne sont pas retrouvés.", ["denied"]),
        ("It lacks not only mucin but also keratin.", ["denied"]),
        ("Rosettes are lacking, as is necrosis.", ["denied"]),
    ],
)
def test_a_subject_keeps_its_predicate(text, polarities):
    assert [one.polarity for one in sub_captions_of(text) if one.visual] == polarities


@pytest.mark.parametrize(
    ("text", "rows"),
    [
        ("Feature\tPresent\tAbsent\nNecrosis\tX\t\nCilia\t\tX", ["Necrosis: Present", "Cilia: Absent"]),
        ("| Merkmal | ja | nein |\n|---|---|---|\n| Nekrose | | x |", ["Nekrose: nein"]),
        ("Finding | Yes | No | Comment\nNecrosis | x | | focal\nCilia | x | x |", ["Necrosis: Yes, focal", "Cilia: ?"]),
        ("Finding | Yes | No\nNecrosis | x | \nMitoses |  | ", ["Necrosis: Yes", "Mitoses: ?"]),
    ],
)
def test_columns_of_answers(text, rows):
    assert [line for line in columns_as_answers(text).split("\n") if re.search(r"\w", line)] == rows


@pytest.mark.parametrize(
    "text",
    [
        "Necrosis: |x| Present | | Absent",
        "Necrosis | Present | Absent",
        "Finding | Result\nNecrosis | no",
        "a | b | c\nd | e | f",
    ],
)
def test_other_tables_stay_as_they_are(text):
    assert columns_as_answers(text) == text


@pytest.mark.parametrize(
    ("text", "polarities"),
    [
        ("Negative for:\n- necrosis\n- mucin\nSolid growth.", ["denied", "denied", "affirmed"]),
        ("No evidence of:\n1. necrosis\n2. no mucin\n", ["denied", "denied"]),
        ("Kein Nachweis von:\n• Nekrosen\n• Mitosen sind häufig", ["denied", "undecided"]),
        ("Absence de :\n- nécrose\n\n- stroma fibreux", ["denied", "affirmed"]),
        ("Negative for:\nnecrosis\nmucin\n\nSolid growth.", ["denied", "undecided", "affirmed"]),
        ("Negative for: necrosis\n- mucin", ["denied", "undecided"]),
        ("Invasion: not identified\n- mucin", ["denied", "affirmed"]),
        ("Positive for:\n- necrosis\n- mucin", ["affirmed", "affirmed"]),
    ],
)
def test_what_stands_below_a_denial_with_a_colon(text, polarities):
    assert [s.polarity for s in read_report(text).all_sub_captions if s.visual] == polarities


@pytest.mark.parametrize(
    ("text", "polarities"),
    [
        ("Despite lymphovascular invasion, the margins are free of tumour.", ["affirmed"]),
        ("Despite careful search, no necrosis is found.", ["denied"]),
        ("The tumour invades into, but not through, the muscularis propria.", ["affirmed", "denied"]),
        ("Membranes: acute chorioamnionitis, stage 2; meconium macrophages absent.", ["affirmed", "denied"]),
        ("Arteries with sclerosis, thrombi absent.", ["undecided", "denied"]),
        ("Nephrogenic rests: intralobar present, perilobar absent.", ["undecided"]),
        ("Eine Gefäßinvasion lässt sich nicht darstellen.", ["denied"]),
        ("Eine Gefäßinvasion lässt sich nicht sicher nachweisen.", ["undecided"]),
        ("These findings collectively indicate a carcinoma with clear margins.", []),
        ("The tumour, a friable mass, shows necrosis.", ["affirmed"]),
        ("The DCIS, exhibiting a cribriform pattern, is observed at the margin.", ["affirmed"]),
        ("リンパ管侵襲：Ｌｙ０", []),
        ("線維化は門脈域に限局し、架橋形成はみられない。", ["affirmed", "denied"]),
        ("尿細管萎縮は軽度で、半月体はない。", ["affirmed", "denied"]),
        ("Airway inflammation: B0.", ["undecided"]),
        ("Glomerulitis g0, tubulitis t2.", ["undecided"]),
        ("Carcinoma without perineural invasion and involved two lymph nodes.", ["affirmed", "denied"]),
        ("The tumour is staged as pT2, with a grade of G3 and a resection status of R0.", ["affirmed"]),
        ("Despite marked atypia there is no invasion.", ["affirmed", "denied"]),
        ("Necrosis (Y/N): N", ["denied"]),
        ("Necrosis (Y/N): Y", ["affirmed"]),
    ],
)
def test_kinds_met_by_readers_who_did_not_know_the_rules(text, polarities):
    assert [one.polarity for one in sub_captions_of(text) if one.visual] == polarities


@pytest.mark.parametrize(
    ("text", "part", "content"),
    [
        ("INTRAOPERATIVE CONSULTATION\nA. Ovary: no invasion.\n\nDIAGNOSIS\nA. Ovary: carcinoma.", "A", ["carcinoma"]),
        ("BEFUND\n1. (Sigma) Tubuläres Adenom.\n2. (Rektum) Keine Granulome.", "2", ["(rektum) granulome"]),
        (
            "RENAL BIOPSY\nTubulitis: present\nGlomerulitis: no\nDiagnosis: Rejection",
            "",
            ["tubulitis", "glomerulitis", "rejection"],
        ),
        ("所見\n壊死：（－）　粘液：（＋）", "", ["壊死", "粘液"]),
        ("Dr. A\nPrevious carcinoma: yes\nFamily history of melanoma: no\nDiagnosis: Naevus.", "", ["naevus"]),
        ("Institut\nBekanntes Karzinom: ja\nDiagnose: Kein Karzinom.", "", ["karzinom"]),
    ],
)
def test_parts_and_sections_of_odd_layouts(text, part, content):
    stated = [s.content for s in read_report(text).sub_captions(part or None) if s.visual and s.decided]
    assert len(stated) == len(content)
    assert all(words in one for words, one in zip(content, stated, strict=True))
