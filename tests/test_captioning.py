"""Captioning metrics against numbers stored from pycocoevalcap, naive references, and known baselines."""

import csv
import itertools
import json
from pathlib import Path

import numpy as np
import pytest

from pathflip.errors import CaptionError, ConfigError
from pathflip.evaluate import caption_baselines, caption_scores, meteor
from pathflip.evaluate.captioning import caption_measures, evaluate_captions
from pathflip.evaluate.ptb_words import ptb_words
from pathflip.text.captions import read_captions
from pathflip.types import Caption

FIXTURES = Path(__file__).parent / "fixtures" / "language"
STORED = json.loads((FIXTURES / "caption_scores.json").read_text())
CASES = json.loads((FIXTURES / "caption_cases.json").read_text())


def edited(text):
    """As in fixtures/language/make_caption_scores.py."""
    parts = text.split(". ")
    words = ". ".join([*parts[1:], parts[0]]).split()
    return " ".join(word for place, word in enumerate(words) if place % 7 != 3)


@pytest.fixture(scope="module")
def captions():
    import os

    beside = Path(__file__).resolve().parents[2] / "shared" / "data"
    path = Path(os.environ.get("PATHFLIP_REAL_DATA", beside)) / "slidebench" / "SlideBench-Caption-TCGA.csv"
    if not path.is_file():
        pytest.skip(f"real data absent: {path}")
    with open(path, encoding="utf-8-sig") as handle:
        return [row["Caption"] for row in csv.DictReader(handle)]


def test_words_are_the_java_tools_words():
    for case, (hypothesis, references) in zip(CASES, STORED["cases"]["tokens"], strict=True):
        assert ptb_words(case["hypothesis"]) == hypothesis.split()
        assert [ptb_words(text) for text in case["references"]] == [text.split() for text in references]


def test_hand_written_cases_equal_pycocoevalcap():
    scores = caption_scores.caption_scores([c["hypothesis"] for c in CASES], [c["references"] for c in CASES])
    stored, everyone = STORED["cases"], [np.arange(len(CASES))]
    for n in range(4):
        assert scores.of(f"BLEU-{n + 1}", everyone)[0] == pytest.approx(stored["bleu"]["corpus"][n], abs=1e-6)
        each = scores.of(f"BLEU-{n + 1}", [np.array([i]) for i in range(len(CASES))])
        assert each == pytest.approx(stored["bleu"]["each"][n], abs=1e-6)
    np.testing.assert_allclose(scores.rouge, stored["rouge_l"]["each"], atol=1e-6)
    np.testing.assert_allclose(scores.cider, stored["cider"]["each"], atol=1e-6)
    assert scores.of("ROUGE-L", everyone)[0] == pytest.approx(stored["rouge_l"]["corpus"], abs=1e-6)
    assert scores.of("CIDEr", everyone)[0] == pytest.approx(stored["cider"]["corpus"], abs=1e-6)
    each = [meteor.meteor_exact_stem(scores.meteor[i : i + 1]) for i in range(len(CASES))]
    np.testing.assert_allclose(each, stored["meteor_exact_stem"]["each"], atol=0.012)
    score = scores.of("METEOR exact+stem", everyone)[0]
    assert score == pytest.approx(stored["meteor_exact_stem"]["corpus"], abs=0.002)


@pytest.mark.real
@pytest.mark.parametrize("name", ["next", "edited"])
def test_slidebench_equals_pycocoevalcap(captions, name):
    """All 732 captions to 1e-4."""
    predicted = [*captions[1:], captions[0]] if name == "next" else [edited(caption) for caption in captions]
    guesses, truths = [ptb_words(text) for text in predicted], [[ptb_words(text)] for text in captions]
    stored = STORED[name]
    counts = np.stack([caption_scores.bleu_counts(g, t) for g, t in zip(guesses, truths, strict=True)])
    np.testing.assert_allclose(caption_scores.bleu(counts), stored["bleu"]["corpus"], atol=1e-4)
    rouge = np.mean([caption_scores.rouge_l(g, t) for g, t in zip(guesses, truths, strict=True)])
    assert rouge == pytest.approx(stored["rouge_l"]["corpus"], abs=1e-4)
    if name == "next":  # CIDEr is the slow one
        assert caption_scores.cider(guesses, truths).mean() == pytest.approx(stored["cider"]["corpus"], abs=1e-4)


@pytest.mark.real
def test_meteor_is_near_the_java_programs_and_why_it_differs(captions):
    """Same matchers: the program searches less thoroughly, so ours is rarely lower and never by much."""
    predicted = [*captions[1:], captions[0]]
    stored = STORED["next"]["meteor_exact_stem"]["each"]
    gaps = []
    for i in range(0, len(captions), 18):
        counts = meteor.meteor_counts(ptb_words(predicted[i]), [ptb_words(captions[i])])
        gaps.append(meteor.meteor_exact_stem(np.array([counts])) - stored[i])
    assert abs(np.mean(gaps)) < 0.004
    assert np.abs(gaps).max() < 0.02


def brute_force(hypothesis, reference):
    """Every one-to-one alignment of words with a common stem: most exact, most stems, fewest chunks."""
    stem = meteor._stemmer()
    best = None
    choices = [[-1, *(j for j, r in enumerate(reference) if stem(r) == stem(w))] for w in hypothesis]
    for chosen in itertools.product(*choices):
        taken = [j for j in chosen if j >= 0]
        if len(set(taken)) < len(taken):
            continue
        exact = sum(j >= 0 and reference[j] == w for j, w in zip(chosen, hypothesis, strict=True))
        chunks = sum(j >= 0 and (i == 0 or chosen[i - 1] < 0 or chosen[i - 1] + 1 != j) for i, j in enumerate(chosen))
        key = (-exact, -(len(taken) - exact), chunks)
        best = key if best is None else min(best, key)
    return -best[0], -best[1], best[2]


def test_meteor_alignments_are_the_best_there_are(rng):
    words = ["cell", "cells", "the", "necrosis", "necrotic", "invades", "invaded"]
    for _ in range(150):
        hypothesis = [words[i] for i in rng.integers(len(words), size=rng.integers(1, 7))]
        reference = [words[i] for i in rng.integers(len(words), size=rng.integers(1, 7))]
        counts = meteor.meteor_counts(hypothesis, [reference])
        exact, stem, chunks = brute_force(hypothesis, reference)
        if chunks == 1 and exact + stem == len(hypothesis) == len(reference):
            chunks = 0  # a whole match is in no pieces
        assert (counts.exact, counts.stem, counts.chunks) == (exact, stem, chunks), (hypothesis, reference)


def naive_subsequence(a, b):
    table = np.zeros((len(a) + 1, len(b) + 1), int)
    for i, j in itertools.product(range(len(a)), range(len(b))):
        table[i + 1, j + 1] = table[i, j] + 1 if a[i] == b[j] else max(table[i, j + 1], table[i + 1, j])
    return table[-1, -1]


def test_common_subsequence_equals_the_table(rng):
    for _ in range(100):
        a, b = (["abcd"[i] for i in rng.integers(4, size=rng.integers(0, 90))] for _ in range(2))
        assert caption_scores._common_subsequence(a, b) == naive_subsequence(a, b)


def test_ends_of_the_scale():
    same = "necrosis is seen in all cells"
    perfect = caption_scores.caption_scores([same, same], [[same], ["x y"]])
    for name in ("BLEU-4", "ROUGE-L", "METEOR exact+stem"):
        assert perfect.of(name, [np.array([0])])[0] == pytest.approx(1, abs=1e-6)
    nothing = caption_scores.caption_scores(["", "foo"], [["necrosis is seen"], ["a b"]])
    for name in nothing.names:
        assert nothing.of(name, [np.arange(2)])[0] == pytest.approx(0, abs=1e-6)
    with pytest.raises(CaptionError, match="holds no word"):
        caption_scores.caption_scores(["a"], [["…"]])
    with pytest.raises(CaptionError, match="expected as many"):
        caption_scores.caption_scores(["a"], [])


def test_meteor_proper_needs_its_program(tmp_path):
    with pytest.raises(ConfigError, match="pycocoevalcap"):
        caption_scores.caption_scores(["a"], [["a"]], meteor_jar=tmp_path / "meteor-1.5.jar")


@pytest.mark.real
def test_floors_of_slidebench(captions):
    """One constant caption .391 and a bag of words over .48 in BLEU-1, ROUGE-L of the bag under .2."""
    truths = [[ptb_words(text)] for text in captions]

    def scores(text):
        words = ptb_words(text)
        counts = np.stack([caption_scores.bleu_counts(words, truth) for truth in truths])
        return caption_scores.bleu(counts)[0], np.mean([caption_scores.rouge_l(words, truth) for truth in truths])

    constant = caption_baselines.constant_caption(captions)
    assert constant in captions
    assert scores(constant)[0] == pytest.approx(0.391, abs=0.002)
    bleu_1, rouge = scores(caption_baselines.bag_of_words(captions))
    assert bleu_1 > 0.48
    assert rouge < 0.2


def test_constant_caption_is_the_best_by_trying_each(rng):
    words = ["necrosis", "seen", "cells", "of", "carcinoma", "grade"]
    texts = [" ".join(words[i] for i in rng.integers(len(words), size=rng.integers(3, 12))) for _ in range(12)]
    truths = [[text.split()] for text in texts]

    def of(text):
        return caption_scores.bleu(np.stack([caption_scores.bleu_counts(text.split(), truth) for truth in truths]))[0]

    assert of(caption_baselines.constant_caption(texts)) == pytest.approx(max(map(of, texts)))


TRUTH = [
    Caption(f"s{i}", f"p{i // 2}", text, ())
    for i, text in enumerate(
        ["Carcinoma with necrosis is present.", "Benign gland tissue is seen here.", "Melanoma fills the whole dermis.",
         "Extensive necrosis with keratin pearls.", "Lymphocytes surround small nests.", "No tumour is seen at all."]
    )
]  # fmt: skip


def test_measures_have_intervals_floors_and_a_text_only_baseline():
    right = [caption.text for caption in TRUTH]
    rows = {
        row["measure"]: row for row in caption_measures(right, TRUTH, text_only=["Carcinoma is seen."] * 6, num=200)
    }
    assert rows["BLEU-4"]["value"] == pytest.approx(1, abs=1e-6)
    assert rows["BLEU-1"]["skill"] == pytest.approx(1, abs=1e-6)
    assert set(rows["CIDEr"]["baselines"]) == {"constant", "bag of words"}
    row = rows["ROUGE-L"]
    assert row["difference"] == pytest.approx(row["value"] - row["text_only"])
    assert row["difference_low"] <= row["difference"] <= row["difference_high"]
    same = caption_measures(right, TRUTH, text_only=right, num=50)
    assert all(row["difference"] == row["difference_low"] == row["difference_high"] == 0 for row in same)
    constant = caption_baselines.constant_caption(right)
    rows = caption_measures([constant] * 6, TRUTH, groups=["a", "a", "a", "b", "b", "b"], num=50)
    assert rows[0]["value"] == rows[0]["baselines"]["constant"]
    assert rows[0]["skill"] <= 0
    assert "constant a group" in rows[0]["baselines"]


def test_files(tmp_path):
    truth, predicted = tmp_path / "truth.csv", tmp_path / "said.jsonl"
    truth.write_text(
        "Slide,Caption,Tumor\n" + "".join(f"/x/{c.slide_id}.h5,{c.text},T{i % 2}\n" for i, c in enumerate(TRUTH))
    )
    predicted.write_text("".join(json.dumps({"slide_id": c.slide_id, "answer": c.text}) + "\n" for c in TRUTH[:4]))
    rows = evaluate_captions(predicted, truth, group_column="Tumor", num=20)
    assert {row["missing"] for row in rows} == {2}
    assert rows[0]["captions"] == 6
    assert 0.3 < rows[0]["value"] < 1
    predicted.write_text(json.dumps({"slide": "elsewhere", "text": "a"}))
    with pytest.raises(CaptionError, match="same slides"):
        evaluate_captions(predicted, truth)
    slidechat = tmp_path / "chat.csv"
    slidechat.write_text("Slide,Caption,Output\n" + "".join(f"{c.slide_id},truth,{c.text}\n" for c in TRUTH))
    assert evaluate_captions(slidechat, truth, num=20)[0]["value"] == pytest.approx(1, abs=1e-6)
    assert len(read_captions(truth)) == 6


def test_a_text_where_a_list_belongs_is_refused():
    """Its letters would be scored as captions, and give numbers."""
    held = json.loads((Path(__file__).parent / "fixtures" / "answers" / "scores.json").read_text(encoding="utf-8"))
    wrong, right = held["references_must_be_lists"], held["the_same_rightly"]
    with pytest.raises(TypeError, match="expected a list of texts"):
        caption_scores.caption_scores(wrong["hypotheses"], wrong["references"])
    with pytest.raises(TypeError, match="expected a list of captions"):
        caption_scores.caption_scores("the gland is round", right["references"])
    with pytest.raises(CaptionError, match="got 1 captions and 2 references"):
        caption_scores.caption_scores(right["hypotheses"][:1], right["references"])
    assert caption_scores.caption_scores(right["hypotheses"], right["references"]).rouge.mean() == 1
