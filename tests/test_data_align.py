"""Batches: the same whatever was asked before, padded truthfully, nothing dropped in silence."""

import numpy as np
import pytest
import torch

from feature_grids import make_features, scattered_cells
from pathflip.checkpoint import InputContract
from pathflip.data.align import AlignDataset, TextSpec, sub_caption_key, text_to_encode
from pathflip.data.patches import Neighbourhood
from pathflip.data.regions import RegionSpec
from pathflip.data.whole_files import WholeFiles
from pathflip.errors import CaptionError, ConfigError, ContractError
from pathflip.features import write_features
from pathflip.models import build_config
from pathflip.text.sub_captions import parse_sub_caption
from pathflip.text.tokenizer import train_tokenizer
from pathflip.types import Caption

REPORTS = {
    "a": ["Keratin pearls are seen in the upper left.", "No necrosis is identified.", "Margins are free of tumour."],
    "b": ["There is abundant necrosis.", "No necrosis is identified."],
    "c": ["Mucin pools are seen.", "The tumour is poorly differentiated.", "Foamy macrophages are present."],
}


@pytest.fixture
def cohort(tmp_path):
    captions = []
    for seed, (slide_id, sentences) in enumerate(REPORTS.items()):
        features = make_features(scattered_cells(np.random.default_rng(seed), 40 + 20 * seed), seed=seed, invalid=(1,))
        features = type(features)(**{**vars(features), "slide_id": slide_id})
        write_features(tmp_path / f"{slide_id}.h5", features)
        sub_captions = tuple(parse_sub_caption(s) for s in sentences)
        captions.append(Caption(slide_id, f"patient-{slide_id}", " ".join(sentences), sub_captions))
    return sorted(tmp_path.glob("*.h5")), captions


def make(cohort, **kwargs) -> AlignDataset:
    files, captions = cohort
    text = kwargs.pop("text", TextSpec(num_sub_captions=2))
    tokenizer = train_tokenizer([c.text for c in captions], 300)
    return AlignDataset(files, captions, tokenizer, text=text, **kwargs)


def same(first, second) -> bool:
    return all(
        torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b
        for a, b in zip(vars(first).values(), vars(second).values(), strict=True)
    )


def test_a_batch_depends_on_its_arguments_only(cohort):
    data = make(cohort, max_patches=5, text=TextSpec(num_sub_captions=2, num_flips=1))
    first = data.batch([2, 0], np.random.default_rng(7))
    data.batch([1, 2], np.random.default_rng(8))
    assert same(first, data.batch([2, 0], np.random.default_rng(7)))
    assert same(
        first,
        make(cohort, max_patches=5, reader=WholeFiles(cache_bytes=1), text=data.text).batch(
            [2, 0], np.random.default_rng(7)
        ),
    )
    assert not same(first, data.batch([2, 0], np.random.default_rng(9)))


def test_a_share_of_a_batch_is_the_rows_of_the_whole(cohort):
    data = make(cohort, max_patches=5)
    whole, share = data.batch([0, 1, 2], np.random.default_rng(3)), data.batch([1], np.random.default_rng(3))
    assert torch.equal(whole.patches[1:2], share.patches)
    assert torch.equal(whole.context[1:2], share.context)
    assert torch.equal(whole.sub_caption_keys[1:2], share.sub_caption_keys)


def test_patches_context_and_positions_are_those_of_the_slide(cohort):
    data = make(cohort)
    batch = data.batch([1], np.random.default_rng(0))
    features = make_features(scattered_cells(np.random.default_rng(1), 60), seed=1, invalid=(1,))
    near = Neighbourhood(features.grid.cells(), features.valid)
    context = near.mean(features.features, np.arange(len(features.valid)))
    valid = np.flatnonzero(features.valid)
    got = {tuple(row.tolist()) for row in batch.patches[batch.patch_mask]}
    assert got == {tuple(row.tolist()) for row in features.features[valid]}
    by_patch = {
        tuple(p.tolist()): c
        for p, c in zip(batch.patches[batch.patch_mask], batch.context[batch.patch_mask], strict=True)
    }
    for row in valid:
        np.testing.assert_allclose(by_patch[tuple(features.features[row].tolist())], context[row], atol=1e-6)


def test_drawn_patches_know_tiles_that_were_not_drawn(cohort):
    whole = make(cohort).batch([2], np.random.default_rng(0))
    some = make(cohort, max_patches=6).batch([2], np.random.default_rng(0))
    assert some.patches.shape[1] == 6
    context_of = {tuple(p.tolist()): c for p, c in zip(whole.patches[0], whole.context[0], strict=True)}
    for patch, context in zip(some.patches[0], some.context[0], strict=True):
        assert torch.equal(context_of[tuple(patch.tolist())], context)


def test_whole_regions_are_drawn_for_models_that_read_them(cohort):
    reader = WholeFiles(regions=RegionSpec(side=2))
    data = make(cohort, reader=reader, regions=True, max_regions=3)
    batch = data.batch([0, 2], np.random.default_rng(1))
    assert batch.regions.shape == (2, 3, 4)
    for row, item in enumerate((0, 2)):
        slide = reader.slide(cohort[0][item])
        grid, features = slide.regions, slide.features[slide.rows]
        known = {frozenset(map(tuple, features[r[m]].tolist())) for r, m in zip(grid.index, grid.mask, strict=True)}
        used = batch.regions[row][batch.regions[row] >= 0]
        assert sorted(used.tolist()) == list(range(int(batch.patch_mask[row].sum())))
        for region in batch.regions[row]:
            assert frozenset(map(tuple, batch.patches[row, region[region >= 0]].tolist())) in known
    with pytest.raises(ConfigError, match=r"max_patches: got a number with 'regions'; expected max_regions"):
        make(cohort, regions=True, max_patches=3)
    with pytest.raises(ConfigError, match=r"max_regions: got a number without 'regions'; expected max_patches"):
        make(cohort, max_regions=3)


def test_equal_sub_captions_have_equal_keys_and_negation_counts(cohort):
    spec = TextSpec()
    necrosis = sub_caption_key(*text_to_encode(parse_sub_caption("No necrosis is identified."), spec))
    again = sub_caption_key(*text_to_encode(parse_sub_caption("no  necrosis is IDENTIFIED."), spec))
    present = sub_caption_key(*text_to_encode(parse_sub_caption("Necrosis is identified."), spec))
    assert necrosis == again != present
    batch = make(cohort).batch([0, 1], np.random.default_rng(0))
    assert necrosis in batch.caption_keys[0]
    assert necrosis in batch.caption_keys[1]


def test_flips_are_marked_untrue_and_change_the_sign(cohort):
    data = make(cohort, text=TextSpec(num_sub_captions=3, num_flips=2))
    batch = data.batch([1], np.random.default_rng(0))
    assert batch.sub_caption_mask[0].tolist() == [True, True, True, True, False]  # two sub-captions, two flips, nothing
    true_keys = set(batch.sub_caption_keys[0][batch.sub_caption_mask[0] & ~batch.sub_caption_false[0]].tolist())
    assert int(batch.sub_caption_false.sum()) == 2
    assert true_keys.isdisjoint(batch.sub_caption_keys[0][batch.sub_caption_false[0]].tolist())


def test_published_sampler_gives_eight_merges(cohort):
    data = make(cohort, text=TextSpec(sampler="published", polarity=False))
    batch = data.batch([0, 1, 2], np.random.default_rng(0))
    assert batch.sub_caption_mask.shape == (3, 8)
    assert batch.sub_caption_mask.all()
    assert not batch.sub_caption_negated.any()


def test_every_slide_is_checked_as_it_is_read(cohort):
    contract = InputContract(encoder="test", dim=5, tile_px=64, mpp=0.5)
    make(cohort, reader=WholeFiles(contract.check)).batch([0, 1, 2], np.random.default_rng(0))
    other = contract.model_copy(update={"encoder": "uni_v1"})
    with pytest.raises(ContractError, match="uni_v1"):
        make(cohort, reader=WholeFiles(other.check)).batch([0], np.random.default_rng(0))


def test_slides_and_captions_that_do_not_match_are_named(cohort):
    files, captions = cohort
    with pytest.raises(CaptionError, match=r"1 \(c\) without a caption"):
        make((files, captions[:2]))
    with pytest.raises(CaptionError, match=r"1 \(a\) without features"):
        make((files[1:], captions))


def test_a_caption_without_a_sentence_is_refused(cohort):
    files, captions = cohort
    captions[1] = Caption("b", "p", "...", ())
    with pytest.raises(CaptionError, match="slide 'b': the caption has no sentence"):
        make((files, captions))


def test_settings_of_older_checkpoints_are_read():
    """Their names of before, in the text's and in the model's settings; the new names are written."""
    assert TextSpec.model_validate({"num_subcaptions": 3, "statement_tokens": 9}) == TextSpec(
        num_sub_captions=3, sub_caption_tokens=9
    )
    assert {"num_sub_captions", "sub_caption_tokens"} <= TextSpec().model_dump().keys()
    of_before = {"kind": "pathflip", "feature_dim": 4, "vocab_size": 9, "statement_weight": 0.5}
    assert build_config(of_before).sub_caption_weight == 0.5
