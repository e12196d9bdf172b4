"""Verifying reports: a model that knows its words finds planted errors; one that is deaf does not, and says so."""

import gc
import json
import time
import weakref
from dataclasses import replace

import numpy as np
import pytest
import torch

from keyword_world import NAMES_OF, KeywordNet, encoded, features_of, keyword_cohort, keyword_model
from pathflip.errors import CaptionError, CheckpointError, ConfigError
from pathflip.evaluate.simulated.planted_errors import plant_errors, study_verification
from pathflip.evaluate.verifier_calibration import calibrate
from pathflip.inference import Aligned, ground
from pathflip.text.known_words import unknown_fraction
from pathflip.text.sub_captions import parse_sub_caption
from pathflip.verify import read_verifier_calibration, verify_report, write_verification, write_verifier_calibration
from pathflip.verify.calibration import FILE_NAME
from pathflip.verify.heatmaps import encoded_once, heatmaps
from pathflip.verify.lexicon import Finding, Lexicon, denied_phrases, learn_lexicon, rewordings, subjects
from pathflip.verify.place_and_extent import describe
from pathflip.verify.scores import synonym_groups


@pytest.fixture(scope="module")
def cohort():
    return keyword_cohort()


@pytest.fixture(scope="module")
def model(cohort, tmp_path_factory):
    return keyword_model(cohort["train"][1], cohort["train"][2][0], tmp_path_factory.mktemp("words"))


@pytest.fixture(scope="module")
def calibration(cohort, model):
    train, val = cohort["train"], cohort["val"]
    return calibrate(model, encoded(model, val[2]), val[1], train[1], encoded(model, train[2]), split="val")


@pytest.fixture(scope="module")
def study(cohort, model, calibration):
    truths, _, features = cohort["test"]
    result = study_verification(model, encoded(model, features), truths, calibration, cohort["train"][1], num=200)
    return {(row.kind, row.attribute): row for row in result.rows}, result


# --- Words -----------------------------------------------------------------------------------------------------------


def test_alternatives_stand_in_the_same_places_and_are_no_findings(cohort):
    lexicon = learn_lexicon(cohort["train"][1])
    assert "lower right" in lexicon.alternatives["upper left"]
    assert "extensive" in lexicon.alternatives["focal"]
    assert "necrosis" not in lexicon.alternatives
    assert {"necrosis", "calcification", "adipose tissue"} <= {finding.name for finding in lexicon.findings}
    assert all(parse_sub_caption(ask).visual for finding in lexicon.findings for ask in finding.asks)


def test_the_order_of_captions_does_not_matter(cohort):
    captions = cohort["train"][1]
    assert learn_lexicon(captions) == learn_lexicon(captions[::-1])


def test_rewordings_replace_the_longest_phrase_only():
    alternatives = {"well differentiated": ("poorly differentiated",), "well": ("badly",), "focal": ("extensive",)}
    lexicon = Lexicon(words=frozenset(), findings=(), alternatives=alternatives)
    assert rewordings("focal, well differentiated tumour (nested)", lexicon) == [
        ["focal, poorly differentiated tumour (nested)"],
        ["extensive, well differentiated tumour (nested)"],
    ]


def test_denials_name_their_findings_and_nothing_else():
    def named(sentence):
        return denied_phrases(parse_sub_caption(sentence))

    assert named("Neither mucin pools nor calcification can be identified.") == ["mucin pools", "calcification"]
    assert named("There is no evidence of adipose tissue.") == ["adipose tissue"]
    assert named("No tumour is seen.") == ["tumour"]


def test_unknown_words_are_counted_without_frame_words_and_numbers():
    words = frozenset({"keratin", "pearls", "necrosis"})
    assert unknown_fraction("keratin pearls are seen in 5 % of the tissue", words) == 0
    assert unknown_fraction("keratin whorls are seen", words) == 0.5
    assert unknown_fraction("Nekrosen und Verkalkungen", words) == 1
    assert unknown_fraction("it is seen", words) == 1


def test_subjects_are_the_longest_names(cohort):
    lexicon = learn_lexicon(cohort["train"][1])
    named = [lexicon.findings[i].name for i in subjects("multinucleated giant cells are present", lexicon)]
    assert named == ["multinucleated giant cells"]


def test_of_several_findings_each_is_a_subject():
    names = ("necrosis", "coagulative necrosis", "tumour-infiltrating lymphocytes")
    findings = tuple(Finding(name=name, asks=(f"{name} present",)) for name in names)
    lexicon = Lexicon(words=frozenset(), findings=findings, alternatives={})
    assert subjects("tumour-infiltrating lymphocytes or necrosis present", lexicon) == [2, 0]
    assert subjects("coagulative necrosis present", lexicon) == [1]
    assert subjects("coagulative necrosis and other necrosis present", lexicon) == [1, 0]


def test_names_of_one_finding_are_one_group_and_others_are_not(cohort, model):
    findings = learn_lexicon(cohort["train"][1]).findings
    groups = dict(zip([f.name for f in findings], synonym_groups(model, findings), strict=True))
    assert groups["calcification"] == groups["calcific deposits"]
    assert groups["keratin pearls"] == groups["squamous pearls"]
    known = [group for name, group in groups.items() if name in NAMES_OF]
    assert len(set(known)) == len({NAMES_OF[name] for name in groups if name in NAMES_OF})


def test_exchanges_the_model_is_deaf_to_are_dropped(cohort, model, calibration):
    """The model knows findings only: no exchange of words of place or grade changes its logit."""
    assert calibration.knowledge.lexicon.alternatives
    assert calibration.knowledge.heard == {}


# --- Heatmaps --------------------------------------------------------------------------------------------------------


def test_a_square_of_heat_is_described_by_its_middle_and_share():
    axis = (np.arange(20) + 0.5) / 20
    place = np.stack(np.meshgrid(axis, axis), -1).reshape(-1, 2)
    inside = (np.abs(place - (0.25, 0.75)) < 0.11).all(1)
    x, y, spread, half, *_, peak, median = describe(np.where(inside, 0.9, 0.1), place)
    assert (x, y) == pytest.approx((0.25, 0.75), abs=1e-6)
    assert spread == pytest.approx(np.sqrt(((place[inside] - (0.25, 0.75)) ** 2).sum(1).mean()), abs=1e-6)
    assert half == pytest.approx(np.log(inside.mean() + 1e-3))
    assert (peak, median) == pytest.approx((0.9, 0.1))


def test_heatmaps_are_those_of_ground(cohort, model):
    slide = encoded(model, cohort["val"][2][:1])[0]
    texts = ["Necrosis is seen.", "No calcification is seen."]
    for one, text in zip(heatmaps(model, slide, texts), texts, strict=True):
        expected = ground(model, slide, text)
        np.testing.assert_array_equal(one.scores, expected.scores)
        assert one.negated == expected.negated


# --- Judging ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def case(model):
    """A slide made for the purpose: necrosis, upper left, extensive; calcification, lower right."""
    from pathflip.simulate.world import CasePlan, PlacedFinding

    findings = (PlacedFinding("necrosis", 0.12, "upper left"), PlacedFinding("calcification", 0.05, "lower right"))
    plan = CasePlan("made", "P", "test", "melanoma", 2, "papillary", 0.3, findings, 5)
    return encoded(model, [features_of(plan)])[0]


def judged(model, case, calibration, *sentences):
    verification = verify_report(model, case, " ".join(sentences), calibration)
    assert [j.sentence for j in verification.judgements] == list(sentences)
    return verification


def test_true_sentences_are_supported_and_false_ones_contradicted(model, case, calibration):
    true = ["Necrosis is present in the upper left of the tissue.", "No mucin pools are seen."]
    false = [
        "Keratin pearls are present in the upper left of the tissue.",
        "No necrosis is seen.",
        "Necrosis is present in the lower right of the tissue.",
    ]
    verification = judged(model, case, calibration, *true, *false)
    assert [j.verdict for j in verification.judgements] == ["supported"] * 2 + ["contradicted"] * 3
    assert "left” rather than “lower right”" in verification.judgements[4].reason
    assert verification.judgements[3].negated


def test_evidence_lies_on_the_finding(model, case, calibration):
    region = judged(model, case, calibration, "Necrosis is present.").judgements[0].regions[0]
    assert max(region.box.center) < 24 * 64 / 2
    region = judged(model, case, calibration, "Calcification is present.").judgements[0].regions[0]
    assert min(region.box.center) > 24 * 64 / 2


def test_what_is_left_out_is_named_once(model, case, calibration):
    complete = judged(model, case, calibration, "Necrosis is present.", "Calcific deposits are seen.")
    assert complete.omissions == ()
    short = judged(model, case, calibration, "Necrosis is present.")
    assert short.omissions[0].finding in ("calcification", "calcific deposits")
    assert len(short.omissions) == 1
    assert short.omission_score > complete.omission_score


def test_what_no_slide_shows_is_not_judged_and_says_why(model, case, calibration):
    verification = judged(model, case, calibration, "The resection margins are clear.", "HER2 is negative.")
    assert [j.verdict for j in verification.judgements] == ["not visible"] * 2
    assert all(j.probability is None and j.logit is None and not j.regions for j in verification.judgements)
    assert "margins" in verification.judgements[0].reason
    assert "stain" in verification.judgements[1].reason
    assert any("No sentence" in note for note in verification.notes)


def test_another_language_is_not_judged(model, case, calibration):
    verification = judged(model, case, calibration, "Es finden sich ausgedehnte Verkalkungen.", "Necrosis is present.")
    first, second = verification.judgements
    assert (first.verdict, first.probability) == ("uncertain", None)
    assert first.reason.startswith("Cannot judge")
    assert second.verdict == "supported"
    assert any(note.startswith("Cannot judge 1 of 2") for note in verification.notes)


def test_without_calibration_nothing_is_called_true_or_false(model, case):
    verification = judged(model, case, None, "Necrosis is present.", "Keratin pearls are present.", "Stage pT2 N0.")
    assert [j.verdict for j in verification.judgements] == ["uncertain", "uncertain", "not visible"]
    assert all(j.probability is None for j in verification.judgements)
    assert verification.judgements[0].logit > verification.judgements[1].logit
    assert "pathflip calibrate" in verification.notes[0]
    assert verification.omission_score is None


@pytest.mark.parametrize("report", ["", "  \n ", "..."])
def test_an_empty_report_is_one_clear_line(model, case, calibration, report):
    with pytest.raises(CaptionError, match="no sentence"):
        verify_report(model, case, report, calibration)


def test_ten_thousand_words_are_judged_in_linear_time(model, case, calibration):
    def processor_seconds(count: int) -> float:
        report = " ".join(f"Focal necrosis is seen in {n} % of the upper left of the tissue." for n in range(count))
        start = time.process_time()
        verification = verify_report(model, case, report, calibration)
        seconds = time.process_time() - start
        assert len(verification.judgements) == count
        return seconds

    processor_seconds(10)
    a_tenth, whole = processor_seconds(77), processor_seconds(770)  # 10,010 words
    assert whole < 30 * a_tenth  # a quadratic step would cost a hundred times as much


# --- Planted errors --------------------------------------------------------------------------------------------------


def test_planted_errors_are_false_and_of_every_kind(cohort):
    planted = plant_errors(cohort["test"][0][:10])
    assert {p.kind for p in planted} == {"attribute_swapped", "finding_invented", "finding_omitted", "negation_flipped"}
    for p in planted:
        truth = cohort["test"][0][p.slide].report
        assert bool(p.sentence) == (p.kind != "finding_omitted")
        assert bool(p.original) == (p.kind != "finding_invented")
        if p.sentence:
            assert p.sentence in p.report.text
            assert p.sentence not in truth.text
        if p.original:
            assert p.original in truth.text
            assert p.original not in p.report.text
    assert plant_errors(cohort["test"][0][:10]) == planted


def test_a_model_that_knows_findings_finds_errors_about_them(study):
    rows, result = study
    for kind in ("finding_invented", "negation_flipped", "finding_omitted"):
        assert rows[kind, None].auroc.value > 0.95, kind
        assert rows[kind, None].caught > 0.7
    assert rows["attribute_swapped", "place"].auroc.value > 0.85
    assert result.ece < 0.1


def test_and_it_is_a_coin_about_what_it_is_deaf_to(study):
    rows, _ = study
    assert abs(rows["attribute_swapped", "tumour"].paired - 0.5) < 0.15


def test_a_wrong_slide_finds_nothing(study):
    rows, _ = study
    assert abs(rows["finding_invented", None].wrong_slide - 0.5) < 0.15
    assert abs(rows["finding_omitted", None].wrong_slide - 0.5) < 0.15


def test_a_deaf_model_finds_nothing_and_is_sure_of_nothing(cohort, tmp_path):
    class Deaf(KeywordNet):
        def patch_similarity(self, slides, texts):
            generator = torch.Generator().manual_seed(int(1e6 * slides.patches.abs().sum()) % 2**31)
            return torch.rand(1, len(texts.texts), slides.patches.shape[1], generator=generator)

    train, val, test = cohort["train"], cohort["val"], cohort["test"]
    known = keyword_model(train[1], train[2][0], tmp_path)
    deaf = replace(known, checkpoint=replace(known.checkpoint, model=Deaf()))
    assert isinstance(deaf, Aligned)
    fitted = calibrate(deaf, encoded(deaf, val[2]), val[1], train[1], split="val")
    result = study_verification(deaf, encoded(deaf, test[2][:12]), test[0][:12], fitted, train[1], num=5)
    rows = {(row.kind, row.attribute): row for row in result.rows}
    assert abs(rows["finding_invented", None].auroc.value - 0.5) < 0.2
    assert abs(rows["finding_omitted", None].auroc.value - 0.5) < 0.2
    assert rows["finding_invented", None].caught < 0.2


def test_one_patient_cannot_be_studied(cohort, model, calibration):
    truth = cohort["test"][0][0]
    with pytest.raises(ConfigError, match="two"):
        study_verification(model, encoded(model, cohort["test"][2][:1]), [truth], calibration, cohort["train"][1])


# --- The file --------------------------------------------------------------------------------------------------------


def test_the_calibration_survives_its_file_and_belongs_to_its_weights(model, calibration, tmp_path):
    (tmp_path / "model.safetensors").write_bytes((model.checkpoint.path / "model.safetensors").read_bytes())
    assert read_verifier_calibration(tmp_path) is None
    write_verifier_calibration(tmp_path, calibration)
    assert read_verifier_calibration(tmp_path) == calibration
    stored = json.loads((tmp_path / FILE_NAME).read_text(encoding="utf-8"))
    stored["statements"], stored["unknown_share"] = stored.pop("sub_captions"), stored.pop("unknown_fraction")
    (tmp_path / FILE_NAME).write_text(json.dumps(stored))  # as the first release wrote it
    assert read_verifier_calibration(tmp_path) == calibration
    (tmp_path / "model.safetensors").write_bytes(b"other weights")
    with pytest.raises(CheckpointError, match="other weights"):
        read_verifier_calibration(tmp_path)
    (tmp_path / FILE_NAME).write_text('{"format": "nonsense"}')
    with pytest.raises(CheckpointError, match="pathflip calibrate"):
        read_verifier_calibration(tmp_path)


def test_a_sentence_that_stands_twice_is_judged_twice_alike(model, case, calibration):
    sentences = ["Necrosis is present.", "Stage pT2 N0.", "Necrosis is present.", "Keratin pearls are present."]
    judgements = verify_report(model, case, " ".join(sentences), calibration).judgements
    assert [j.sentence for j in judgements] == sentences
    assert judgements[0] == judgements[2]
    assert judgements[0].regions != judgements[3].regions


# --- The page --------------------------------------------------------------------------------------------------------


def test_the_page_says_what_the_json_says(model, case, calibration, tmp_path):
    sentences = ["Necrosis is present.", "Keratin pearls <b>are</b> present.", "Stage pT2 N0.", "No necrosis is seen."]
    verification = verify_report(model, case, [parse_sub_caption(s) for s in sentences], calibration)
    thumbnail = np.full((96, 96, 3), 200, np.uint8)
    page, data, shapes = write_verification(verification, model, case, tmp_path, thumbnail=thumbnail, note="A caution.")
    html, row = page.read_text(encoding="utf-8"), json.loads(data.read_text(encoding="utf-8"))
    assert [s["sentence"] for s in row["sentences"]] == sentences
    assert "<b>are</b>" not in html
    assert "&lt;b&gt;are&lt;/b&gt;" in html
    for sentence in row["sentences"]:
        assert sentence["verdict"] in html
        if sentence["probability"] is not None:
            assert f"{min(max(sentence['probability'], 0.01), 0.99):.2f}" in html
    for omission in row["omissions"]:
        assert omission["finding"].capitalize() in html
    assert html.count("data:image/jpeg") == 1 + sum(bool(s["regions"]) for s in row["sentences"]) + len(
        row["omissions"]
    )
    assert "not a medical device" in html
    assert "A caution." in html
    assert row["caution"].endswith("not a medical device.")
    assert f"{calibration.sub_captions.ece_after:.3f}" in html
    annotations = json.loads(shapes.read_text(encoding="utf-8"))["features"]
    regions = [r for s in (*row["sentences"], *row["omissions"]) for r in s["regions"]]
    assert len(annotations) == len(regions)
    assert annotations[0]["geometry"]["coordinates"][0][0] == [regions[0]["x"], regions[0]["y"]]
    assert annotations[0]["properties"]["classification"]["name"] == row["sentences"][0]["verdict"]


def test_the_same_report_gives_the_same_files(model, case, calibration, tmp_path):
    def written(folder):
        verification = verify_report(model, case, "Necrosis is present. No cysts are seen.", calibration)
        return [path.read_bytes() for path in write_verification(verification, model, case, tmp_path / folder)]

    assert written("a") == written("b")


def test_texts_are_encoded_once_for_a_model_and_forgotten_with_it(model):
    lists = [(text,) for text in ("necrosis", "invasion", "fat")]
    own = replace(model)
    first = encoded_once(own, lists[0])
    assert encoded_once(own, lists[0]) is first
    assert encoded_once(model, lists[0]) is not first
    for texts in lists[1:]:
        encoded_once(own, texts)
    assert encoded_once(own, lists[0]) is not first  # the last two lists are kept
    gone = weakref.ref(own)
    del own
    gc.collect()
    assert gone() is None
