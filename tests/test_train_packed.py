"""Training through the store: the same losses, the same bits after a kill, other features refused."""

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from pathflip.data.packed.packed_store import PackedStore
from pathflip.data.whole_files import WholeFiles
from pathflip.errors import CaptionError, FeatureError, TrainingError
from pathflip.features import write_features
from pathflip.geometry import SlideInfo, TileSpec
from pathflip.recipes.align import find_recipe
from pathflip.recipes.settings import with_settings
from pathflip.text.sub_captions import parse_sub_caption
from pathflip.train import read_metrics
from pathflip.train.align_run import train_align
from pathflip.types import Caption, SlideFeatures

WORDS = ("Necrosis is seen.", "Keratin pearls are present.", "Mucin pools are seen.", "Calcification is noted.")


def slide(path: Path, seed: int) -> Path:
    rng = np.random.default_rng(seed)
    coords = np.array([(x * 256, y * 256) for y in range(4) for x in range(5)])
    info = SlideInfo(path.stem, (2048, 2048), 0.5, (1.0,), "test", "test")
    features = rng.normal(size=(20, 8)).astype(np.float32)
    write_features(
        path, SlideFeatures(path.stem, features, coords, np.ones(20, bool), info, TileSpec(256, 0.5), "test")
    )
    return path


@pytest.fixture
def cohort(tmp_path):
    (tmp_path / "features").mkdir()
    files = [slide(tmp_path / "features" / f"s{i}.h5", i) for i in range(8)]
    captions = [
        Caption(file.stem, f"p-{file.stem}", WORDS[i % 4], (parse_sub_caption(WORDS[i % 4]),))
        for i, file in enumerate(files)
    ]
    return files, captions


def short(recipe="align_base", **settings):
    sets = ["train.steps=5", "train.batch_size=4", "train.eval_every=0", "train.save_every=2", "vocab_size=80"]
    sets += ["text.pretrained=", *(f"{key.replace('__', '.')}={value}" for key, value in settings.items())]
    return with_settings(find_recipe(recipe), sets)


def weights(run: Path) -> dict[str, torch.Tensor]:
    return load_file(run / "last" / "model.safetensors")


def same(a, b) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def losses(run: Path) -> list[float]:
    return [line["loss"] for line in read_metrics(run / "metrics.jsonl")]


class Unpacked(WholeFiles):
    """Feature files read as they are, as training did before there was a store."""

    def digest(self) -> str:
        return ""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("recipe", "settings"),
    [("align_base", {"max_patches": 7}), ("align_published_small", {"regions__side": 2, "max_regions": 2})],
)
def test_the_same_training_as_from_feature_files(cohort, tmp_path, monkeypatch, recipe, settings):
    recipe = short(recipe, **settings)
    train_align(recipe, *cohort, tmp_path / "exact", store_dtype="float32")
    train_align(recipe, *cohort, tmp_path / "rounded")
    assert (tmp_path / "rounded" / "packed" / "store.json").is_file()
    with monkeypatch.context() as patched:
        patched.setattr("pathflip.train.align_run._packed", lambda files, *rest: Unpacked(regions=recipe.regions))
        train_align(recipe, *cohort, tmp_path / "files")
    assert same(weights(tmp_path / "exact"), weights(tmp_path / "files"))
    assert losses(tmp_path / "exact") == losses(tmp_path / "files")
    assert losses(tmp_path / "rounded") == pytest.approx(losses(tmp_path / "files"), rel=2e-3)
    assert losses(tmp_path / "rounded") != losses(tmp_path / "files")


class KilledError(Exception):
    """Stands in for a kill: nothing in the loop catches it."""


@pytest.mark.slow
def test_a_killed_run_goes_on_with_the_same_bits_and_other_features_are_refused(cohort, tmp_path):
    files, captions = cohort
    recipe, store = short(max_patches=7), tmp_path / "store"
    train_align(recipe, files, captions, tmp_path / "through", store=store)

    def kill(row):
        if row["step"] == 3:
            raise KilledError

    with pytest.raises(KilledError):
        train_align(recipe, files, captions, tmp_path / "killed", store=store, on_step=kill)
    before = files[2].read_bytes()
    slide(files[2], 99)
    with pytest.raises(TrainingError, match="contents of the feature files differ"):
        train_align(recipe, files, captions, tmp_path / "killed", store=store, resume=True)
    files[2].write_bytes(before)
    train_align(recipe, files, captions, tmp_path / "killed", store=store, resume=True)
    assert same(weights(tmp_path / "through"), weights(tmp_path / "killed"))
    assert losses(tmp_path / "through") == losses(tmp_path / "killed")
    assert not (tmp_path / "killed" / "packed").exists()  # both share the store they were given


def test_what_cannot_be_packed_is_named_before_anything_is_trained(cohort, tmp_path):
    files, captions = cohort
    data = bytearray(files[1].read_bytes())
    data[len(data) // 2 : len(data) // 2 + 400] = b"\xff" * 400
    files[1].write_bytes(data)
    with pytest.raises(FeatureError, match=r"s1\.h5.*nothing packed is lost"):
        train_align(short(), files, captions, tmp_path / "run")
    assert len(list((tmp_path / "run" / "packed").glob("*.safetensors"))) == 7
    assert not (tmp_path / "run" / "state").exists()


def test_captions_that_do_not_match_are_told_before_packing(cohort, tmp_path):
    files, captions = cohort
    with pytest.raises(CaptionError, match=r"1 \(s7\) without a caption"):
        train_align(short(), files, captions[:-1], tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_every_read_of_a_run_is_by_the_row(cohort, tmp_path, monkeypatch):
    sizes: list[int] = []
    original = PackedStore.read

    def watched(self, wanted, context):
        sizes.extend(len(places) for _, places in wanted)
        return original(self, wanted, context)

    monkeypatch.setattr(PackedStore, "read", watched)
    train_align(short(max_patches=3), *cohort, tmp_path / "run")
    assert set(sizes) == {3}
    assert len(sizes) >= 5 * 4
