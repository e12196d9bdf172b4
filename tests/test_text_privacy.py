"""Names, dates and record numbers: noted, taken out, and never tokens of a saved tokenizer."""

import json
import time
from pathlib import Path

import numpy as np
import pytest

from pathflip.data.align import TextSpec
from pathflip.text.decompose import find_identifiers, redact
from pathflip.text.privacy import without_private_words
from pathflip.text.reports import read_report
from pathflip.text.tokenizer import train_tokenizer
from pathflip.train.align_run import _words
from pathflip.types import Caption

IDENTIFIERS = json.loads((Path(__file__).parent / "fixtures" / "text" / "identifiers.json").read_text(encoding="utf-8"))
SURNAMES = (
    "Quillfeather",
    "Zywiecki",
    "Oberhuber",
    "Nakagawa",
    "Ferreira-Lobo",
    "O'Dunleavy",
    "Łukaszewicz",
    "Weißenböck",
)
FORENAMES = ("Jane", "Piotr", "Ute", "Kenji", "Inês", "Sean", "Ewa", "Max")
PLANTED = {
    "name": (
        "Patient: {s}, {f}", "PATIENT: {S}, {F}", "Dr. {f} {s} reviewed the slides.", "DR. {S} WAS INFORMED.", "Dr {s}",
        "Prof. Dr. med. {f} {s}",
        "Signed: Dr. {f} {s}", "signed out by: {f} {s}", "Name: {s}, {f}", "Patientin: {s}, {f}",
        "Frau {s} wurde informiert.", "Nom : {s}", "Paciente: {f} {s}", "Mrs. {s}", "{f} {s}, M.D.", "Surname: {s}",
        "Reported by: {f} {s}", "Pa\u200btient: {s}, {f}", "患者名：{s}",
    ),
    "date": (
        "DOB: 01/02/1950", "geb. 01.02.1950", "né le 1 février 1950", "Fecha: 12 de marzo de 2019", "12 MAR 2019",
        "2019 - 03 - 12", "12 . 03 . 2019", "2019年3月12日", "32.01.1900", "1\u200b2/03/2019", "On March 3, 2020",
    ),
    "record number": (
        "MRN: 00 12 34 56", "MRN 00123456", "ACCESSION S 19 - 12345", "accession s19-12345", "Befund-Nr. 2019/004512",
        "NHC: 4455667",
        "Case No. 2019-AB-1234", "NHS number 943 476 5919", "病理番号：19-12345", "M\u200bRN: 0\u200b0123456",
    ),
}  # fmt: skip


def planted():
    for kind, templates in PLANTED.items():
        for template in templates:
            for surname, forename in zip(SURNAMES, FORENAMES, strict=True):
                yield kind, template.format(s=surname, f=forename, S=surname.upper(), F=forename.upper())


def test_planted_identifiers_are_noted():
    texts = list(dict.fromkeys(planted()))
    noted = [kind in {item.kind for item in find_identifiers(f"Necrosis is seen. {text}")} for kind, text in texts]
    missed = [text for (_, text), seen in zip(texts, noted, strict=True) if not seen]
    print(f"{sum(noted)} of {len(noted)} planted identifiers noted; missed: {missed[:10]}")
    assert sum(noted) >= 0.97 * len(noted), missed


@pytest.mark.parametrize(("kind", "text", "secret"), IDENTIFIERS["planted"])
def test_identifiers_of_reports_are_taken_out(kind, text, secret):
    assert secret not in redact(f"Necrosis is seen. {text}"), kind


@pytest.mark.parametrize("text", IDENTIFIERS["none"])
def test_eponyms_and_measures_are_no_identifiers(text):
    assert find_identifiers(text) == []


def test_places_are_those_of_the_text_given():
    text = "Seen by D\u200br. Qu\u200billfeather today."
    (one,) = find_identifiers(text)
    assert text[one.start : one.end] == one.text
    assert redact(text) == "Seen by [name] today."


@pytest.mark.parametrize("piece", ["a.", "Aa ", "1 ", "A. ", "Dr. ", "x@", "(", "S-", "12.", "Patient: "])
def test_the_guard_takes_time_in_proportion(piece):
    def seconds(count):
        start = time.process_time()
        find_identifiers(piece * count)
        return time.process_time() - start

    seconds(10)
    assert seconds(20_000) < 30 * max(seconds(2_000), 0.02)


WORDS = "necrosis mitoses glands stroma nests cells keratin pearls mucin pools papillae growth pattern".split()  # noqa: SIM905


def reports_with(planted_in_one: str, number: int = 50) -> list[str]:
    rng = np.random.default_rng(3)
    texts = [
        f"The tumour shows {' and '.join(rng.permutation(WORDS)[:4])}. No invasion is seen." for _ in range(number)
    ]
    texts[17] += f" {planted_in_one}"
    return texts


@pytest.mark.parametrize(
    "line",
    [
        "Signed: Dr. Quillfeather.",
        "QUILLFEATHER QUILLFEATHER QUILLFEATHER",
        "quillfeather saw it; quillfeather agreed, quillfeather",
    ],
)
def test_a_surname_in_one_report_of_fifty_is_no_token(line, tmp_path):
    texts = reports_with(line)
    captions = [Caption(f"s{i}", f"p{i}", text, read_report(text).sub_captions()) for i, text in enumerate(texts)]
    for name, corpus in (("direct", texts), ("training", _words(captions, TextSpec()))):
        train_tokenizer(corpus).save(tmp_path / name)
        tokens = json.loads((tmp_path / name / "tokenizer.json").read_text(encoding="utf-8"))["model"]["vocab"]
        assert "necrosis" in tokens
        assert not [token for token in tokens if "quill" in token or "feather" in token]


def test_a_signature_under_every_report_is_no_token():
    texts = [f"{text} Signed: Dr. N. Quillfeather, MRN 1234567" for text in reports_with("")]
    tokens = train_tokenizer(texts).backend.get_vocab()
    assert not [token for token in tokens if "quill" in token or "12345" in token]
    assert "signed" in tokens


def test_words_of_several_reports_stay():
    texts = without_private_words([["Reed cells are seen."], ["Reed cells."], ["reed cells"], ["Dr. Reed saw cells."]])
    assert texts[3] == "Dr. Reed saw cells."
