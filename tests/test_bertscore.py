"""BERTScore against plain loops over a tiny model's hidden states, one text at a time."""

import json
import math

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from pathflip.cli import app
from pathflip.errors import ConfigError
from pathflip.evaluate.bertscore import BertScorer, greedy_matching
from pathflip.evaluate.captioning import evaluate_captions

WORDS = "carcinoma with necrosis is present benign gland tissue seen here melanoma fills the whole dermis no ."
TEXTS = ["Carcinoma with necrosis is present.", "Benign gland tissue seen here.", "No melanoma fills the whole dermis."]
SAID = ["Necrosis with carcinoma here.", "No gland is seen.", "Melanoma, melanoma."]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    from transformers import BertConfig, BertModel, BertTokenizerFast

    path = tmp_path_factory.mktemp("bert") / "tiny bert"
    path.mkdir()
    (path / "vocab.txt").write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS.split()]))
    BertTokenizerFast(str(path / "vocab.txt"), model_max_length=16).save_pretrained(path)
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=5 + len(WORDS.split()), hidden_size=16, num_hidden_layers=3, num_attention_heads=2,
        intermediate_size=24, max_position_embeddings=20, initializer_range=0.1,
    )  # fmt: skip
    model = BertModel(config)
    model.embeddings.word_embeddings.weight.data *= 10  # or all tokens would be nearly alike
    model.save_pretrained(path)
    return path


def states(folder, text, layer):
    """Hidden states from a model cut after ``layer`` layers, and the words they belong to."""
    from transformers import AutoModel, AutoTokenizer

    tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModel.from_pretrained(folder).eval()
    model.encoder.layer = model.encoder.layer[:layer]
    coded = tokenizer(text, return_tensors="pt")
    with torch.no_grad():
        rows = model(**coded).last_hidden_state[0].tolist()
    return rows, tokenizer.convert_ids_to_tokens(coded["input_ids"][0])


def naive(folder, predicted, truth, layer):
    (ours, our_words), (theirs, their_words) = states(folder, predicted, layer), states(folder, truth, layer)

    def cosine(u, v):
        return sum(a * b for a, b in zip(u, v, strict=True)) / math.sqrt(sum(a * a for a in u) * sum(b * b for b in v))

    def mean_of_best(rows, words, others):
        best = [
            max(cosine(u, v) for v in others) for u, w in zip(rows, words, strict=True) if w not in ("[CLS]", "[SEP]")
        ]
        return sum(best) / len(best)

    precision, recall = mean_of_best(ours, our_words, theirs), mean_of_best(theirs, their_words, ours)
    return precision, recall, 2 / (1 / precision + 1 / recall)


@pytest.mark.parametrize("layer", [1, 2, 3, None])
def test_equals_plain_loops(folder, layer):
    scorer = BertScorer(folder, layer, "cpu")
    got = scorer(SAID, [[text] for text in TEXTS])
    want = [naive(folder, predicted, truth, layer or 3) for predicted, truth in zip(SAID, TEXTS, strict=True)]
    np.testing.assert_allclose(got, want, atol=1e-6)
    assert np.ptp(got[:, 0] - got[:, 1]) > 0.01  # precision and recall are told apart
    np.testing.assert_array_equal(scorer(SAID, [[text] for text in TEXTS]), got)


def test_same_text_several_references_and_nothing(folder):
    scorer = BertScorer(folder, 2, "cpu")
    np.testing.assert_allclose(scorer([TEXTS[0]], [[TEXTS[0]]]), 1, atol=1e-6)
    each = np.concatenate([scorer(SAID[:1], [[text]]) for text in TEXTS])
    np.testing.assert_array_equal(scorer(SAID[:1], [TEXTS])[0], each.max(axis=0))
    assert scorer(["", "  "], [[TEXTS[0]]] * 2).tolist() == [[0, 0, 0]] * 2


def test_marks_may_be_matched_but_do_not_count():
    predicted = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    truth = torch.tensor([[0.0, 2.0], [3.0, 3.0]])
    precision, recall, both = greedy_matching(predicted, truth, [False, True], [False, True])
    assert precision == pytest.approx(1)  # its nearest is the other text's begin mark
    assert recall == pytest.approx(math.sqrt(0.5))
    assert both == pytest.approx(2 * math.sqrt(0.5) / (1 + math.sqrt(0.5)))
    assert greedy_matching(predicted, truth, [False, False], [False, True]) == (0, 0, 0)


def test_long_texts_are_cut_and_counted(folder):
    scorer = BertScorer(folder, device="cpu")
    long = "carcinoma with necrosis " * 9
    got = scorer([long, TEXTS[1]], [[long], [TEXTS[1]]])
    np.testing.assert_allclose(got, 1, atol=1e-6)
    assert scorer.truncated == 1
    start = " ".join(long.split()[:14])
    np.testing.assert_allclose(scorer([long], [[start]]), 1, atol=1e-6)


def test_folders_and_layers_that_are_not_there(folder, tmp_path):
    with pytest.raises(ConfigError, match=r"holds no config.json; expected the folder of a Hugging Face encoder"):
        BertScorer(tmp_path)
    for layer in (0, 4):
        with pytest.raises(ConfigError, match=rf"got {layer}, expected 1 to 3"):
            BertScorer(folder, layer)
    (tmp_path / "config.json").write_text((folder / "config.json").read_text())
    with pytest.raises(ConfigError, match="cannot be opened"):
        BertScorer(tmp_path)
    with pytest.raises(ConfigError, match="give --bertscore FOLDER, too"):
        evaluate_captions(tmp_path / "a", tmp_path / "b", bertscore_layer=2)


def test_command(folder, tmp_path):
    truth, predicted = tmp_path / "truth.jsonl", tmp_path / "said.jsonl"
    truth.write_text("".join(json.dumps({"slide_id": f"s{i}", "text": text}) + "\n" for i, text in enumerate(TEXTS)))
    predicted.write_text(
        "".join(json.dumps({"slide_id": f"s{i}", "output": text}) + "\n" for i, text in enumerate(SAID))
    )
    command = ["eval", "caption", "--predictions", str(predicted), "--references", str(truth), "--resamples", "20"]
    command += ["--bertscore", str(folder), "--bertscore-layer", "2", "--json"]
    done = CliRunner().invoke(app, command)
    assert done.exit_code == 0, done.output
    rows = {row["measure"]: row for row in map(json.loads, done.stdout.splitlines())}
    want = np.mean([naive(folder, a, b, 2) for a, b in zip(SAID, TEXTS, strict=True)], axis=0)
    assert [rows[f"BERTScore {letter}"]["value"] for letter in "PRF"] == pytest.approx(want, abs=1e-6)
    row = rows["BERTScore F"]
    assert (row["model"], row["layer"], row["truncated"]) == ("tiny bert", 2, 0)
    assert set(row["baselines"]) == {"constant", "bag of words"}
    assert row["low"] <= row["value"] <= row["high"]
    assert "model" not in rows["CIDEr"]
