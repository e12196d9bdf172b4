"""Captions of training sentences that a model bears out: what is said is there, once, with its place; nothing leaks."""

import json
from dataclasses import replace
from itertools import combinations

import numpy as np
import pytest

from keyword_world import NAMES_OF, encoded, keyword_cohort, keyword_model
from pathflip.errors import CaptionError, CheckpointError, ConfigError
from pathflip.evaluate.verifier_calibration import calibrate
from pathflip.inference import encode_case
from pathflip.text.sub_captions import parse_sub_caption, sub_captions_of
from pathflip.types import Caption
from pathflip.verify import (
    CaptionComposer,
    collect_sentences,
    composed_captions,
    read_sentence_bank,
    write_sentence_bank,
)
from pathflip.verify.calibration import Logistic
from pathflip.verify.lexicon import Finding, Lexicon, subjects
from pathflip.verify.scores import Knowledge
from pathflip.verify.sentence_bank import states_a_number
from pathflip.verify.sentence_conflicts import clash, topic_of


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """Model, calibration, bank of the training reports, and the parts of a small cohort."""
    parts = keyword_cohort(64)
    model = keyword_model(parts["train"][1], parts["train"][2][0], tmp_path_factory.mktemp("words"))
    seen, held = encoded(model, parts["train"][2]), encoded(model, parts["val"][2])
    calibration = calibrate(model, held, parts["val"][1], parts["train"][1], seen, split="val")
    return model, calibration, collect_sentences(model, parts["train"][1], seen), parts


@pytest.fixture(scope="module")
def composed(world):
    """Truth and caption of test slides."""
    model, calibration, bank, parts = world
    composer = CaptionComposer(model, bank, calibration)
    truths, captions, features = (part[:12] for part in parts["test"])
    slides = encoded(model, features)
    return [
        (truth, slide, composer.compose(slide, caption.patient))
        for truth, caption, slide in zip(truths, captions, slides, strict=True)
    ]


def _findings(text: str) -> set[str]:
    """Findings named in a sentence, longest names first."""
    left, named = text.lower(), set()
    for name in sorted(NAMES_OF, key=len, reverse=True):
        if name in left:
            named.add(NAMES_OF[name])
            left = left.replace(name, " ")
    return named


def test_what_is_affirmed_is_there_and_what_is_denied_is_not(composed):
    said = [
        (truth.measured[name].present, sentence.negated)
        for truth, _, caption in composed
        for sentence in caption.sentences
        for name in _findings(sentence.text)
    ]
    assert sum(negated for _, negated in said) >= 12
    assert sum(not negated for _, negated in said) >= 12
    assert np.mean([present != negated for present, negated in said]) > 0.97


def test_no_finding_is_spoken_of_twice(composed):
    for _, _, caption in composed:
        named = [name for sentence in caption.sentences for name in _findings(sentence.text)]
        assert len(named) == len(set(named)), caption.text


def test_sentences_of_other_vectors_do_not_contradict_each_other_either(world, monkeypatch):
    model, calibration, bank, parts = world
    monkeypatch.setattr(composed_captions, "ALIKE", 2.0)  # this model has one vector for all but findings
    composer = CaptionComposer(model, bank, calibration)
    for slide in encoded(model, parts["test"][2][:4]):
        topics = [
            topic_of(parse_sub_caption(one.text), calibration.knowledge) for one in composer.compose(slide).sentences
        ]
        assert len(topics) > 4
        assert not any(clash(one, other) for one, other in combinations(topics, 2))


def test_of_several_slides_no_place_is_told(world, composed):
    model, calibration, bank, parts = world
    case = encode_case(model, parts["test"][2][:2], "case")
    sentences = CaptionComposer(model, bank, calibration).compose(case).sentences
    places = ("left", "right", "upper", "lower", "top", "bottom", "cent")
    assert any(word in one.text for _, _, alone in composed for one in alone.sentences for word in places)
    assert not any(word in one.text for one in sentences for word in places)
    slides = {region.slide_id for one in sentences for region in one.regions}
    assert slides <= {one.slide_id for one in case.slides}
    assert sentences
    assert slides


@pytest.mark.parametrize(("bias", "negated"), [(-9.0, True), (9.0, False)])
def test_a_finding_is_told_by_its_own_probability_too(world, bias, negated):
    model, calibration, bank, parts = world
    always = Logistic(scores=("presence",), weights=(0.0,), bias=bias)
    told = calibration.sub_captions.model_copy(update={"logistic": always})
    composer = CaptionComposer(model, bank, calibration.model_copy(update={"findings": told}))
    sentences = composer.compose(encoded(model, parts["test"][2][:1])[0]).sentences
    lexicon = calibration.knowledge.lexicon
    named = [one for one in sentences if subjects(parse_sub_caption(one.text).content, lexicon)]
    assert {one.negated for one in named} == {negated}


def test_what_is_affirmed_has_places_on_the_slide_and_an_absence_none(composed):
    for _, slide, caption in composed:
        corners = {tuple(corner) for corner in slide.grid.coords.tolist()}
        for sentence in caption.sentences:
            assert bool(sentence.regions) != sentence.negated
            assert {(one.box.x, one.box.y) for one in sentence.regions} <= corners


def test_everything_considered_is_accounted_for(composed, world):
    _, calibration, bank, _ = world
    for _, _, caption in composed:
        counts = caption.counts()
        rest = sum(count for name, count in counts.items() if name not in ("considered", "own_report"))
        assert counts["considered"] == rest <= len(bank.sentences)
        assert counts["undecided"] > 0
        assert f"{counts['undecided']} left undecided" in caption.note
        assert all(one.probability >= calibration.sub_captions.high for one in caption.sentences)
        assert all(one.reports >= 1 and one.sources for one in caption.sentences)


def test_a_report_is_not_used_to_describe_its_own_slide(world):
    model, calibration, bank, parts = world
    slide, caption = encoded(model, parts["train"][2][:1])[0], parts["train"][1][0]
    composer = CaptionComposer(model, bank, calibration)
    composed = composer.compose(slide)
    number = next(n for n, source in enumerate(bank.sources) if source.name == caption.slide_id)
    alone = {one.text for one in composer.sentences if set(one.sources) == {number}}
    assert alone
    assert composed.own_report == len(alone)
    assert not alone & {one.text for one in composed.sentences}
    assert "own report" in composed.note
    assert all(caption.slide_id not in one.sources for one in composed.sentences)
    other = composer.compose(replace(slide, slide_id="never-seen"))
    assert other.own_report == 0


def test_where_nothing_is_borne_out_nothing_is_said(world):
    model, calibration, bank, parts = world
    deaf = calibration.model_copy(
        update={
            "sub_captions": calibration.sub_captions.model_copy(
                update={
                    "logistic": calibration.sub_captions.logistic.model_copy(
                        update={"weights": (0.0,) * len(calibration.sub_captions.logistic.weights), "bias": 0.0}
                    )
                }
            )
        }
    )
    slide = encoded(model, parts["test"][2][:1])[0]
    composed = CaptionComposer(model, bank, deaf).compose(slide)
    assert composed.text == ""
    assert composed.as_answer().abstained
    assert "no sentence is borne out" in composed.note


def test_a_model_that_nothing_was_fitted_for_composes_nothing(world):
    model, calibration, bank, _ = world
    with pytest.raises(CheckpointError, match="pathflip calibrate"):
        CaptionComposer(model, bank, None)
    never = calibration.sub_captions.model_copy(update={"high": None})
    slide = encoded(model, world[3]["test"][2][:1])[0]
    silent = CaptionComposer(model, bank, calibration.model_copy(update={"sub_captions": never})).compose(slide)
    assert silent.text == ""
    assert "calls no sentence supported" in silent.note
    with pytest.raises(ConfigError, match="at least"):
        CaptionComposer(model, bank, calibration, at_least=0.4)


# --- The bank --------------------------------------------------------------------------------------------------------


def _bank_of(world, sentences: list[str], reports: int = 24):
    """A bank of reports that each hold all these sentences."""
    model, *_, parts = world
    slides = encoded(model, parts["train"][2][:2])
    captions = [
        Caption(f"s{n}", f"p{n}", " ".join(sentences), tuple(parse_sub_caption(one) for one in sentences))
        for n in range(reports)
    ]
    return collect_sentences(model, captions, slides)


@pytest.mark.parametrize(
    ("sentence", "reason"),
    [
        ("Necrosis makes up 40 % of the tissue.", "state a measured number"),
        ("Two lymphoid aggregates are seen.", "state a measured number"),
        ("Necrosis is seen in S23-04567.", "tell who somebody is"),
        ("It shows extensive necrosis.", "point at something outside themselves"),
        ("Necrosis is seen as described above.", "point at something outside themselves"),
        ("Part B shows necrosis.", "point at something outside themselves"),
        ("The left lung shows necrosis.", "a side of the body"),
        ("Necrosis is seen in the right side of the tongue.", "a side of the body"),
        ("Lobectomy shows necrosis.", "a procedure"),
        ("The margins are free of tumour.", "no slide can show"),
        ("Necrosis cannot be excluded.", "leave open"),
        ("Xanthogranulomatous necrosis is seen.", "a word that the model does not know"),
        ("Es findet sich eine ausgedehnte Nekrose.", "in another language"),
    ],
)
def test_a_sentence_that_another_slide_cannot_bear_out_is_no_part_of_a_bank(world, sentence, reason):
    bank = _bank_of(world, ["Necrosis is seen.", "No calcification is seen.", "Adipose tissue is seen.", sentence])
    assert sentence not in {one.text for one in bank.sentences}
    assert any(reason in why for why in bank.left_out), bank.left_out


def test_places_of_the_section_are_no_sides_of_the_body_and_half_a_sentence_is_none(world):
    places = ["Necrosis is seen in the upper left part of the section.", "Necrosis is seen on the right of the tissue."]
    assert {*places} == {one.text for one in _bank_of(world, places).sentences}
    model, *_, parts = world
    text = "Necrosis is present, but no calcification is seen."
    cut = tuple(sub_captions_of(text))
    assert len(cut) == 2
    captions = [
        Caption(f"s{n}", f"p{n}", f"{text} Necrosis is seen.", (*cut, parse_sub_caption("Necrosis is seen.")))
        for n in range(24)
    ]
    bank = collect_sentences(model, captions, encoded(model, parts["train"][2][:2]))
    assert [one.text for one in bank.sentences] == ["Necrosis is seen."]
    assert bank.left_out["are a part of a sentence"] == 48


def test_a_word_that_a_single_report_holds_stays_out(world):
    model, *_, parts = world
    captions = [
        Caption(f"s{n}", f"p{n}", text, (parse_sub_caption(text),))
        for n, text in enumerate(["Necrosis is seen."] * 24 + ["Focal necrosis is seen."])
    ]
    bank = collect_sentences(model, captions, encoded(model, parts["train"][2][:2]))
    assert [one.text for one in bank.sentences] == ["Necrosis is seen."]
    assert len(bank.sentences[0].sources) == 24


@pytest.mark.parametrize(
    ("text", "measured"),
    [
        ("Adenocarcinoma, grade 2.", False),
        ("Gleason score 3+4=7.", False),
        ("Nottingham grade 2 of 3.", False),
        ("CD20 positive cells are seen.", False),
        ("Necrosis accounts for approx. 3.1 % of the tissue.", True),
        ("Grade 2 with 14 mitoses.", True),
        ("The focus measures 3mm.", True),
        ("Half of the tissue is necrotic.", True),
    ],
)
def test_measured_numbers_are_told_from_grades(text, measured):
    assert states_a_number(text) == measured


def test_a_bank_is_read_as_written_and_anything_else_refused(world, tmp_path):
    model, _, bank, _ = world
    file = write_sentence_bank(tmp_path / "bank.json", bank)
    assert read_sentence_bank(file, model) == bank
    values = json.loads(file.read_text())
    for change, error, match in (
        ({"weights_digest": "0" * 32}, CheckpointError, "another model"),
        ({"format_version": 9}, CheckpointError, "version 9"),
        ({"format": "captions"}, CaptionError, "no bank of sentences"),
        ({"sources": []}, CaptionError, "damaged"),
        ({"sentences": [{"text": 3}]}, CaptionError, "damaged"),
    ):
        other = tmp_path / "other.json"
        other.write_text(json.dumps(values | change))
        with pytest.raises(error, match=match):
            read_sentence_bank(other, model)
    with pytest.raises(CaptionError, match="no such file"):
        read_sentence_bank(tmp_path / "none.json", model)
    (tmp_path / "captions.jsonl").write_text('{"slide": "a", "text": "Necrosis."}\n{"slide": "b", "text": "No."}\n')
    with pytest.raises(CaptionError, match="pathflip calibrate"):
        read_sentence_bank(tmp_path / "captions.jsonl", model)


# --- What cannot stand together --------------------------------------------------------------------------------------

_LEXICON = Lexicon(
    words=frozenset(),
    findings=(
        Finding(name="necrosis", asks=("necrosis is seen",)),
        Finding(name="coagulative necrosis", asks=("coagulative necrosis is seen",)),
        Finding(name="tumour", asks=("tumour is seen",)),
        Finding(name="calcification", asks=("calcification is seen",)),
    ),
    alternatives={"papillary": ("nested",), "nested": ("papillary", "glandular"), "glandular": ("nested",)},
)
_KNOWN = Knowledge(lexicon=_LEXICON, groups=(0, 0, 2, 3))


@pytest.mark.parametrize(
    ("first", "second", "why"),
    [
        ("Grade 2 adenocarcinoma.", "A poorly differentiated adenocarcinoma is seen.", "grade"),
        ("Moderately differentiated adenocarcinoma.", "Squamous cell carcinoma is seen.", "diagnosis"),
        ("Sections show melanoma.", "Small cell carcinoma is seen.", "diagnosis"),
        ("Invasive ductal carcinoma is seen.", "The carcinoma invades muscle.", ""),
        ("Benign tissue.", "Grade 3 adenocarcinoma.", "malignancy"),
        ("There is no malignancy.", "Sections show melanoma.", "malignancy"),
        ("No carcinoma in situ is seen.", "Sections show melanoma.", ""),
        ("No tumour is seen.", "The tumour is found centrally.", "presence"),
        ("Necrosis is present.", "No necrosis is seen.", "presence"),
        ("Neither calcification nor necrosis is seen.", "Extensive coagulative necrosis is seen.", "presence"),
        ("Extensive necrosis is seen.", "Coagulative necrosis is focal.", "same finding"),
        ("Extensive necrosis is seen.", "Focal calcification is seen.", ""),
        ("The growth is papillary.", "A glandular pattern is seen.", "attribute"),
        ("The tumour is found centrally.", "The tumour lies towards the upper right.", "place"),
        ("The background is fibrous stroma.", "The surrounding tissue consists of fibrous stroma.", "same words"),
        ("No necrosis is seen.", "No calcification is seen.", ""),
    ],
)
def test_what_contradicts_or_repeats_does_not_stand_together(first, second, why):
    one, other = (topic_of(parse_sub_caption(text), _KNOWN) for text in (first, second))
    assert clash(one, other) == clash(other, one) == why
