"""Pretrained text encoders: opened and checked, equal to the library's own computation, joined with the small tower."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from pathflip.errors import CheckpointError, ConfigError
from pathflip.models.text_paths import PretrainedHead, PretrainedPath, text_vectors
from pathflip.models.text_tower import TextConfig, TextEncoder
from pathflip.text.pretrained import KNOWN, open_pretrained_text
from text_encoder_files import FAMILIES, TEXTS, encoder_folder


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("pooling", [None, "cls_token", "mean_tokens"])
def test_vectors_equal_the_library_text_by_text(tmp_path, family, pooling):
    folder = encoder_folder(tmp_path, family, pooling)
    encoder = open_pretrained_text(str(folder))
    got = encoder.embed(TEXTS)
    network = FAMILIES[family][0].from_pretrained(folder).eval()
    for row, text in zip(got, TEXTS, strict=True):
        ids = torch.tensor([encoder.tokenizer.backend.encode(text).ids])
        with torch.no_grad():
            states = network(input_ids=ids, attention_mask=torch.ones_like(ids)).last_hidden_state[0]
        wanted = states[0] if pooling == "cls_token" else states.mean(0)
        torch.testing.assert_close(row, wanted / wanted.norm(), atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(encoder.embed([TEXTS[2], TEXTS[0], TEXTS[2]]), got[[2, 0, 2]])


def test_a_text_is_computed_once(tmp_path, monkeypatch):
    encoder = open_pretrained_text(str(encoder_folder(tmp_path)))
    encoder.embed(TEXTS)
    monkeypatch.setattr(encoder, "_compute", lambda texts: pytest.fail(f"computed again: {texts}"))
    assert encoder.embed(TEXTS * 2).shape == (6, 32)
    assert encoder.embed([]).shape == (0, 32)


def test_what_cannot_be_used_is_one_line(tmp_path):
    folder = encoder_folder(tmp_path / "good")
    with pytest.raises(ConfigError, match="no such folder; expected one as Hugging Face writes it, or minilm-l6"):
        open_pretrained_text(str(tmp_path / "absent"))
    pickled = shutil.copytree(folder, tmp_path / "pickled")
    (pickled / "model.safetensors").rename(pickled / "pytorch_model.bin")
    with pytest.raises(ConfigError, match=r"lacks model\.safetensors.*never loaded"):
        open_pretrained_text(str(pickled))
    other = shutil.copytree(folder, tmp_path / "other")
    weights = load_file(other / "model.safetensors")
    save_file({name: value + 1 for name, value in weights.items()}, other / "model.safetensors", {"format": "pt"})
    digest = open_pretrained_text(str(folder)).digest
    with pytest.raises(CheckpointError, match="expected " + digest[:16]):
        open_pretrained_text(str(other), digest)
    (folder / "1_Pooling").mkdir()
    for text, message in (("[" * 9999, "not a JSON object"), ('{"pooling_mode_max_tokens": true}', "pooling_mode_max")):
        (folder / "1_Pooling" / "config.json").write_text(text)
        with pytest.raises(ConfigError, match=message):
            open_pretrained_text(str(folder))


def test_code_in_a_folder_does_not_run(tmp_path):
    folder = encoder_folder(tmp_path)
    config = json.loads((folder / "config.json").read_text())
    config |= {"model_type": "mine", "auto_map": {"AutoConfig": "evil.C", "AutoModel": "evil.M"}}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "evil.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    with pytest.raises(ConfigError, match="cannot be opened"):
        open_pretrained_text(str(folder))
    assert not (tmp_path / "ran").exists()


def test_minilm_knows_words_by_meaning():
    """The weights are the published file's (checked by hash), and they say what they should."""
    encoder = open_pretrained_text("minilm-l6")
    assert (encoder.width, encoder.pooling, encoder.digest) == (384, "mean", KNOWN["minilm-l6"].sha256)
    dead, necrosis, mitosis = encoder.embed(["areas of dead tissue", "necrosis is seen", "many dividing cells"])
    assert dead @ necrosis > dead @ mitosis + 0.1


CONFIG = TextConfig(vocab_size=50, width=16, num_layers=1, num_heads=2, ffn_width=16, token_types=False, dropout=0.0)
BLOCK = (torch.arange(1, 2001).remainder(50).view(400, 5), torch.ones(400, 5, dtype=torch.bool))


def paths(**settings):
    torch.manual_seed(1)
    path = PretrainedPath(width=8, **settings)
    return TextEncoder(CONFIG), PretrainedHead(path, 16), torch.randn(400, 8)


def test_in_use_both_paths_are_added():
    scratch, head, vectors = paths()
    scratch.eval(), head.eval()
    both = text_vectors(scratch, head, BLOCK, vectors)
    alone = text_vectors(scratch, None, BLOCK, None) + text_vectors(None, head, BLOCK, vectors)
    torch.testing.assert_close(both, alone)


def test_in_training_texts_lose_one_path_in_the_stated_fractions():
    scratch, head, vectors = paths(only_scratch=0.3, only_pretrained=0.4, noise=0.0)
    torch.manual_seed(2)
    both = text_vectors(scratch, head, BLOCK, vectors)
    learned, known = text_vectors(scratch, None, BLOCK, None), head(vectors)
    near = [
        ((both - wanted).abs().amax(1) < 1e-5).float().mean() for wanted in (2 * learned, 2 * known, learned + known)
    ]
    assert sum(near) == 1
    assert [abs(got - fraction) < 0.08 for got, fraction in zip(near, (0.3, 0.4, 0.3), strict=True)] == [True] * 3


def test_noise_is_in_standard_deviations_of_the_vectors_and_in_training_only():
    _, head, vectors = paths(noise=0.5)
    head.set_vector_statistics(100 * vectors + 7)
    head.layers = torch.nn.Identity()
    assert abs(float((head(100 * vectors + 7) - head.eval()(100 * vectors + 7)).std()) - 0.5) < 0.02
    standard = head(100 * vectors + 7)
    assert abs(float(standard.mean())) < 1e-5
    assert abs(float(standard.std()) - 1) < 0.01


def test_missing_vectors_and_impossible_fractions_are_said():
    scratch, head, _ = paths()
    with pytest.raises(ConfigError, match=r"vectors of the texts are missing"):
        text_vectors(scratch, head, BLOCK, None)
    with pytest.raises(ValueError, match="together exceed 1"):
        PretrainedPath(only_scratch=0.7, only_pretrained=0.4)
    with pytest.raises(ValueError, match="needs a path"):
        PretrainedPath(width=0, scratch=False)
