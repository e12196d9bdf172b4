"""The first stage of a search by text: one vector a slide that stands for its answers to texts."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from archive_model import write_model, write_slide_features
from pathflip.archive import Searcher, index_features, open_archive
from pathflip.archive.text_vectors import TextProbe, query_direction
from pathflip.inference import encode_text, load
from pathflip.types import SlideCode, TextCode

pytest.importorskip("lancedb")


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return load(write_model(tmp_path_factory.mktemp("model") / "m"), "cpu")


def slides_of(count: int, width: int = 8) -> SlideCode:
    """Slides of twelve patches around a few directions of their own."""
    draw = torch.Generator().manual_seed(0)
    kinds = torch.randn(count, 3, width, generator=draw)
    patches = kinds[:, torch.arange(12) % 3] + 0.3 * torch.randn(count, 12, width, generator=draw)
    slide = torch.randn(count, width, generator=draw)
    return SlideCode(slide, F.normalize(patches, dim=-1), torch.ones(count, 12, dtype=torch.bool))


def test_coefficients_foretell_answers_to_other_texts(model):
    slides, probe = slides_of(60), TextProbe.of(model)
    coefficients = probe.coefficients(model, slides)
    texts = encode_text(model, ["Keratin pearls are seen.", "Mucin pools are present.", "Necrosis is identified."])
    plain = TextCode(texts.texts, texts.local, texts.local, torch.zeros(3, dtype=torch.bool))
    with torch.no_grad():
        presence = model.net.presence(slides, plain).numpy()
    foretold = coefficients @ F.normalize(texts.local, dim=-1).numpy().T
    for column in range(3):
        assert np.corrcoef(presence[:, column], foretold[:, column])[0, 1] > 0.9
    again = TextProbe.of(model)
    assert np.array_equal(again.coefficients(model, slides), coefficients), "the same on every machine"


@pytest.mark.parametrize("denied", [False, True])
def test_a_direction_ranks_slides_that_it_was_not_fitted_to(denied):
    rng = np.random.default_rng(0)
    width, count = 6, 400
    vectors = rng.normal(size=(count, 2 * width)).astype(np.float32)
    vectors[:, width:] += 5  # what all slides have in common
    whole, sub_captions = rng.normal(size=width), rng.normal(size=(3, width))
    gates = np.array([1.0, 0.2, -0.7 if denied else 0.7])  # what each counts for, unknown to the query
    presence = (vectors[:, width:] @ sub_captions.T + 0.1 * rng.normal(size=(count, 3))) * gates
    scores = np.stack([vectors[:, :width] @ whole, presence.mean(1)], 1)
    some = slice(0, 100)
    direction = query_direction(vectors[some], scores[some], whole, sub_captions, presence[some], 2.0)
    wanted = (scores / scores[some].std(0) @ [1.0, 2.0])[100:]
    assert np.corrcoef(vectors[100:] @ direction, wanted)[0, 1] > 0.97


def test_the_farthest_rows_are_those_with_the_largest_product(model, tmp_path):
    files = [write_slide_features(tmp_path / "f", f"slide-{n}", 15, seed=n) for n in range(40)]
    index_features(model, files, tmp_path / "a")
    archive = open_archive(tmp_path / "a")
    stored = np.array(archive.rows(["text_vector"])["text_vector"], np.float32)
    names = archive.rows(["slide_id"])["slide_id"]
    rng = np.random.default_rng(0)
    for _ in range(5):
        direction = rng.normal(size=16).astype(np.float32)
        row_ids = archive.farthest("text_vector", direction, stored[:20], 8)
        found = archive.take(row_ids, ["slide_id"])["slide_id"].to_pylist()
        product = dict(zip(names, stored @ direction, strict=True))
        best = sorted(product.values(), reverse=True)[:8]
        np.testing.assert_allclose([product[name] for name in found], best, atol=0.01 * np.ptp(list(product.values())))


def test_few_candidates_of_a_text_hold_the_best_slide(model, tmp_path):
    """Exhaustive search over forty slides, and two stages with four candidates, references apart from most of them."""
    files = [write_slide_features(tmp_path / "f", f"slide-{n}", 15 + n, seed=n) for n in range(40)]
    index_features(model, files, tmp_path / "a")
    whole, few = (Searcher(open_archive(tmp_path / "a"), model, candidates=n) for n in (40, 4))
    queries = ["Keratin pearls are seen in the upper left.", "No necrosis is identified.", "Mucin pools. No keratin."]
    same = [whole.by_text(query, 1)[0].slide_id == few.by_text(query, 1)[0].slide_id for query in queries]
    assert all(same)
