import json
import subprocess
import sys

import pytest
import torch

from pathflip.errors import CaptionError, ConfigError
from pathflip.text.tokenizer import SPECIALS, load_tokenizer, train_tokenizer

TEXTS = [
    "The tumour shows focal necrosis and keratin pearls.",
    "No necrosis is identified; mitoses are frequent.",
    "Glandular tumour with mucin pools, approx. 20 % of the tissue.",
    "Tumour cells grow in solid nests; keratin pearls are absent.",
] * 3


def test_encode_pads_to_the_longest_and_counts_cuts():
    tokenizer = train_tokenizer(TEXTS, vocab_size=200)
    batch = tokenizer.encode([TEXTS[0], "Necrosis", ""], max_length=8)
    assert batch.ids.dtype == torch.int64
    assert batch.mask.dtype == torch.bool
    assert batch.ids.shape == batch.mask.shape == (3, 8)
    assert batch.num_truncated == 1
    cls, sep = (tokenizer.backend.token_to_id(token) for token in ("[CLS]", "[SEP]"))
    assert batch.ids[:, 0].tolist() == [cls] * 3
    assert batch.ids[0, -1] == sep
    assert batch.mask[2].sum() == 2
    assert (batch.ids[~batch.mask] == tokenizer.pad_id).all()
    assert (batch.ids[batch.mask] != tokenizer.pad_id).all()
    assert torch.equal(batch.ids[0, :-1], tokenizer.encode([TEXTS[0]]).ids[0, :7])
    assert tokenizer.encode(["Necrosis"]).num_truncated == 0
    assert tokenizer.encode([TEXTS[0]]).ids.shape[1] > 8  # the earlier limit is forgotten
    assert tokenizer.encode([]).ids.shape == (0, 0)
    ids, _, _ = tokenizer.encode(["KERATIN pearls"])
    assert tokenizer.decode(ids[0].tolist()) == "keratin pearls"


def test_special_tokens_and_size():
    tokenizer = train_tokenizer(TEXTS, vocab_size=150)
    assert [tokenizer.backend.token_to_id(token) for token in SPECIALS] == [0, 1, 2, 3]
    assert tokenizer.vocab_size == 150
    assert tokenizer.encode(["ÿ鵺"]).ids.max() < 150
    # characters were learnt under a "##" name, which must not have become a token of the text
    assert tokenizer.encode(["##a"]).ids.tolist() != tokenizer.encode(["a"]).ids.tolist()


def test_same_vocabulary_in_another_process(tmp_path):
    """The library's own trainer numbers characters by a randomly seeded hash map."""
    code = (
        "import json,sys; from pathflip.text.tokenizer import train_tokenizer; "
        "json.dump(train_tokenizer(json.load(sys.stdin), 180).backend.get_vocab(), sys.stdout)"
    )
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, input=json.dumps(TEXTS[::-1]), capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == train_tokenizer(TEXTS, 180).backend.get_vocab()


def test_folder_round_trip_also_for_transformers(tmp_path):
    tokenizer = train_tokenizer(TEXTS, vocab_size=200)
    tokenizer.encode(["cut"], max_length=4)
    tokenizer.save(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["tokenizer.json", "tokenizer_config.json", "words.json"]
    again = load_tokenizer(tmp_path)
    expected = tokenizer.encode(TEXTS[:4])
    assert torch.equal(again.encode(TEXTS[:4]).ids, expected.ids)
    assert (again.pad_id, again.vocab_size) == (tokenizer.pad_id, tokenizer.vocab_size)

    from transformers import AutoTokenizer

    theirs = AutoTokenizer.from_pretrained(tmp_path, local_files_only=True)
    assert torch.equal(torch.tensor(theirs(TEXTS[:4], padding=True)["input_ids"]), expected.ids)


def test_a_hugging_face_folder_without_tokenizer_json(tmp_path):
    """BioBERT and its like are folders with a vocab.txt."""
    words = [*SPECIALS, "[MASK]", "necrosis", "is", "seen"]
    (tmp_path / "vocab.txt").write_text("\n".join(words) + "\n")
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "bert"}))
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "BertTokenizer"}))
    tokenizer = load_tokenizer(tmp_path)
    assert tokenizer.encode(["Necrosis is seen"]).ids.tolist() == [[2, 5, 6, 7, 3]]


def test_refusals(tmp_path):
    with pytest.raises(ConfigError, match="hf download"):
        load_tokenizer("nobody/no-such-tokenizer")
    with pytest.raises(ConfigError, match=r"no tokenizer\.json"):
        load_tokenizer(tmp_path)
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(ConfigError, match="not a tokenizer file"):
        load_tokenizer(tmp_path)
    with pytest.raises(CaptionError, match="none of the texts"):
        train_tokenizer(["", "  "])
    with pytest.raises(ConfigError, match="vocab_size"):
        train_tokenizer(TEXTS, 4)
    tokenizer = train_tokenizer(TEXTS, 100)
    with pytest.raises(ConfigError, match="max_length"):
        tokenizer.encode(["a"], max_length=2)
    with pytest.raises(ConfigError, match="sequence"):
        tokenizer.encode("necrosis")


def test_words_of_no_training_text_are_left_out(tmp_path):
    tokenizer = train_tokenizer(["Necrosis is seen.", "Focal mucin, 3 mm"], 100)
    tokenizer.save(tmp_path)
    for one in (tokenizer, load_tokenizer(tmp_path)):
        assert one.known_part("Focal NECROSIS appreciated, 17 mm: mucinous") == "focal necrosis , 17 mm :"
    (tmp_path / "words.json").unlink()
    assert load_tokenizer(tmp_path).known_part("Focal debris") == "Focal debris"
    (tmp_path / "words.json").write_text('{"a": 1}')
    with pytest.raises(ConfigError, match="list of words"):
        load_tokenizer(tmp_path)
