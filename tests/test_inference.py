"""The jobs people come for, on an untrained model: shapes, refusals, and scores against naive computation."""

import json
import subprocess
import sys
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

import pathflip
from feature_grids import make_features, neighbour_means, scattered_cells
from pathflip import inference
from pathflip.checkpoint import InputContract, save_checkpoint
from pathflip.cli import app
from pathflip.data.align import TextSpec
from pathflip.data.patches import relative_positions
from pathflip.data.regions import group_regions
from pathflip.errors import CaptionError, ConfigError, ContractError
from pathflip.inference import grounding
from pathflip.models import build_model
from pathflip.text.tokenizer import train_tokenizer
from pathflip.verify.heatmaps import heatmaps

WORDS = ["Keratin pearls are seen in the upper left.", "No necrosis is identified.", "Mucin pools are present."]
KINDS = {
    "pathflip": {"width": 16, "embed_dim": 8, "text_width": 16, "text_heads": 2},
    "clip": {"width": 16, "embed_dim": 8, "text_width": 16, "text_heads": 2},
    "published": {
        "width": 16, "embed_dim": 8, "num_layers": 2, "num_heads": 2, "ffn_width": 32, "num_queries": 2,
        "region_heads": 2, "mixing_heads": 2,
    },
}  # fmt: skip


@pytest.fixture(params=list(KINDS))
def model(request, tmp_path):
    tokenizer = train_tokenizer(WORDS, 200)
    torch.manual_seed(0)
    net = build_model(
        {"kind": request.param, "feature_dim": 5, "vocab_size": tokenizer.vocab_size, **KINDS[request.param]}
    )
    save_checkpoint(
        tmp_path / "model",
        net,
        contract=InputContract.of(slide("x")),
        tokenizer=tokenizer,
        text=TextSpec(),
        recipe={"regions": {"side": 3}},
    )
    return pathflip.load(tmp_path / "model")


def slide(name: str, seed: int = 0, **changes):
    features = make_features(scattered_cells(np.random.default_rng(seed), 60), seed=seed, invalid=(2, 9))
    return replace(features, slide_id=name, **changes)


def test_heatmap_has_a_score_for_every_valid_tile_and_none_for_others(model):
    heatmap = pathflip.ground(model, slide("a"), "keratin pearls")
    assert heatmap.scores.shape == slide("a").valid.shape
    assert (np.isnan(heatmap.scores) == ~slide("a").valid).all()
    assert not heatmap.negated


def test_half_of_a_tiles_heat_is_the_mean_around_it(model, monkeypatch):
    features = slide("a")
    own = pathflip.ground(model, features, "keratin pearls", alone=True).scores
    heat = pathflip.ground(model, features, "keratin pearls").scores
    shown = np.flatnonzero(features.valid)
    cells = features.grid.cells()[shown]
    near = np.abs(cells[:, None] - cells[None]).max(axis=-1) <= 1  # the tile itself among them
    around = np.array([own[shown][row].mean() for row in near])
    np.testing.assert_allclose(heat[shown], (own[shown] + around) / 2, atol=1e-6)
    (together,) = heatmaps(model, pathflip.encode_slide(model, features), "keratin pearls")
    np.testing.assert_allclose(together.scores, heat, atol=1e-6)
    monkeypatch.setattr(grounding, "CELLS_AT_MOST", -(10**6))  # a lattice far emptier than full
    np.testing.assert_allclose(pathflip.ground(model, features, "keratin pearls").scores, heat, atol=1e-6)


def test_a_text_of_absence_says_so(model):
    assert pathflip.ground(model, slide("a"), "No necrosis is identified.").negated


def test_a_word_of_no_training_text_says_nothing_to_the_scratch_tower(model):
    bare, more = pathflip.encode_text(model, ["Necrosis is seen.", "Necrosis is zzyzx seen."]).local
    assert torch.equal(bare, more)


def test_texts_of_unknown_words_are_marked_and_come_last(model, tmp_path):
    slides, foreign = [slide("a"), slide("b", 1)], "Verhornung, Plattenepithel"
    assert [model.knows_no_word_of(text) for text in (foreign, "Necrosis, Plattenepithel", "zzyzx")] == [1, 0, 1]
    zero = pathflip.zero_shot(model, slides, {"odd": foreign, "plain": "necrosis"})
    assert zero.unknown == ("odd",)
    assert zero.best == ("plain", "plain")
    assert pathflip.zero_shot(model, slides, {"odd": foreign, "odder": "zzyzx"}).unknown == ("odd", "odder")
    retrieval = pathflip.retrieve(model, slides, [foreign, "Necrosis is seen."])
    assert retrieval.unknown == (True, False)
    assert [retrieval.captions_for(place)[-1][0] for place in range(2)] == [0, 0]
    rows = pathflip.inference.ground_to_files(
        model, pathflip.encode_slide(model, slides[0]), [foreign, "Necrosis"], tmp_path
    )
    assert [bool(row["warnings"]) for row in rows] == [True, False]


def test_every_tile_knows_its_row(model):
    if model.net.reads_regions:
        encoded = pathflip.encode_slide(model, slide("a"))
        shown = encoded.row_of_tile >= 0
        cells = slide("a").grid.cells()[shown] // 3
        assert len(np.unique(cells, axis=0)) == encoded.code.patches.shape[1]
        for row in np.unique(encoded.row_of_tile[shown]):
            assert len(np.unique(cells[encoded.row_of_tile[shown] == row], axis=0)) == 1
        return
    features = slide("a")
    encoded = pathflip.encode_slide(model, features)
    net, row = model.net, 5
    place = relative_positions(features.coords, features.valid, features.grid.tile_px0)
    alone = net.encode_slides(
        torch.from_numpy(features.features[row][None, None]),
        torch.ones(1, 1, dtype=torch.bool),
        torch.from_numpy(neighbour_means(features)[row][None, None]),
        torch.from_numpy(place[row][None, None]),
    )
    own = encoded.code.patches[0, encoded.row_of_tile[row]]
    torch.testing.assert_close(own, alone.patches[0, 0], atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"encoder": "uni_v1"}, "encoder of the features is 'uni_v1', the model was trained on 'test'"),
        (
            {"spec": replace(slide("a").spec, tile_px=128, stride_px=128)},
            "tile_px of the features is 128, the model was trained on 64",
        ),
        ({"spec": replace(slide("a").spec, mpp=1.0)}, "mpp of the features is 1.0, the model was trained on 0.5"),
        (
            {"spec": replace(slide("a").spec, stride_px=32)},
            "stride_px of the features is 32, the model was trained on 64",
        ),
    ],
)
def test_features_of_another_kind_are_refused_both_named(model, change, message):
    with pytest.raises(ContractError, match=message):
        pathflip.encode_slide(model, slide("a", **change))


def test_presence_of_many_equals_presence_of_each(model):
    slides = [slide("a", 0), slide("b", 1)]
    together = inference.presence_scores(model, slides, WORDS)
    for row, one in enumerate(slides):
        for column, text in enumerate(WORDS):
            alone = inference.presence_scores(model, [one], [text])[0, 0]
            np.testing.assert_allclose(together[row, column], alone, atol=1e-4)


def test_retrieval_is_whole_slide_plus_mean_of_sub_captions(model):
    slides, reports = [slide("a", 0), slide("b", 1), slide("c", 2)], [" ".join(WORDS[:2]), WORDS[2]]
    retrieved = pathflip.retrieve(model, slides, reports)
    presence = inference.presence_scores(model, slides, WORDS)
    np.testing.assert_allclose(retrieved.sub_captions[:, 0], presence[:, :2].mean(1), atol=1e-4)
    np.testing.assert_allclose(retrieved.sub_captions[:, 1], presence[:, 2], atol=1e-4)
    z = [(m - m.mean()) / m.std() if m.std() > 1e-9 else 0 * m for m in (retrieved.whole, retrieved.sub_captions)]
    np.testing.assert_allclose(retrieved.scores, z[0] + 2 * z[1], atol=1e-4)
    assert retrieved.slides_for(0, 2)[0][1] == retrieved.scores[:, 0].max()
    assert [i for i, _ in retrieved.captions_for(1, 2)] == list(np.argsort(-retrieved.scores[1]))


def test_zero_shot_averages_prompts_and_sums_to_one(model):
    answer = pathflip.zero_shot(model, [slide("a")], {"keratin": ["keratin pearls"], "mucin": ["mucin", "mucin pools"]})
    np.testing.assert_allclose(answer.probabilities.sum(1), 1, atol=1e-6)
    assert answer.best[0] in ("keratin", "mucin")
    with pytest.raises(ConfigError, match="at least two"):
        pathflip.zero_shot(model, [slide("a")], {"keratin": ["keratin"]})
    with pytest.raises(ConfigError, match="template"):
        pathflip.zero_shot(model, [slide("a")], {"a": ["x"], "b": ["y"]}, ["no slot"])


def test_empty_texts_are_refused(model):
    with pytest.raises(CaptionError, match="empty text"):
        pathflip.ground(model, slide("a"), "  ")
    with pytest.raises(CaptionError, match="no sentence"):
        pathflip.retrieve(model, [slide("a")], ["..."])


def test_one_text_is_one_caption_and_not_its_letters(model):
    alone = pathflip.retrieve(model, [slide("a"), slide("b", 1)], WORDS[0])
    assert alone.captions == (WORDS[0],)
    np.testing.assert_array_equal(alone.scores, pathflip.retrieve(model, [slide("a"), slide("b", 1)], WORDS[:1]).scores)
    names = {"keratin": "keratin pearls", "mucin": "mucin"}
    by_name = pathflip.zero_shot(model, [slide("a")], names, "There is {}.")
    by_list = pathflip.zero_shot(model, [slide("a")], {c: [n] for c, n in names.items()}, ["There is {}."])
    np.testing.assert_array_equal(by_name.scores, by_list.scores)


@pytest.mark.usefixtures("annotations_off")
def test_a_heatmap_is_of_one_text(model):
    with pytest.raises(TypeError, match="expected one text"):
        pathflip.ground(model, slide("a"), WORDS[:2])


def test_nothing_to_score_is_said(model):
    for ask in (
        lambda: pathflip.retrieve(model, [], WORDS),
        lambda: pathflip.retrieve(model, [slide("a")], []),
        lambda: pathflip.zero_shot(model, [], {"a": ["x"], "b": ["y"]}),
        lambda: inference.presence_scores(model, [], WORDS),
    ):
        with pytest.raises(ConfigError, match=r"got (no|0|1) slide"):
            ask()


def test_the_verb_lists_files_it_could_not_read_even_if_they_are_all(model, tmp_path):
    (tmp_path / "features").mkdir()
    for name in ("a", "b"):
        (tmp_path / "features" / f"{name}.h5").write_bytes(b"no feature file")
    words = ["retrieve", "--model", str(tmp_path / "model"), "--features", str(tmp_path / "features"), "--json"]
    done = CliRunner().invoke(app, [*words, "--text", "necrosis"])
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert done.exit_code == 1
    assert [row["slide_id"] for row in rows] == ["a", "b"]
    assert all(row["error"] for row in rows)


def test_files_of_a_grounded_phrase(model, tmp_path):
    encoded = pathflip.encode_slide(model, slide("a"))
    rows = inference.ground_to_files(model, encoded, ["keratin pearls"], tmp_path / "out", tiles=3)
    assert len(rows[0]["tiles"]) == 3
    top, everything = (json.loads(Path(path).read_text(encoding="utf-8")) for path in rows[0]["files"])
    assert len(top["features"]) == 3
    assert len(everything["features"]) == slide("a").valid.sum()
    corner = top["features"][0]["geometry"]["coordinates"][0][0]
    assert corner == [rows[0]["tiles"][0]["x"], rows[0]["tiles"][0]["y"]]
    assert "medical device" in rows[0]["note"]


def test_a_heatmap_on_another_slide_says_so(model, tmp_path, monkeypatch):
    features = slide("a")

    @contextmanager
    def opened(path, slide_mpp=None):
        yield SimpleNamespace(info=features.info, thumbnail=lambda most: np.full((40, 40, 3), 250, np.uint8))

    monkeypatch.setattr(inference.grounding, "open_slide", opened)
    encoded = pathflip.encode_slide(model, features)

    def note(name):
        (row,) = inference.ground_to_files(model, encoded, ["pearls"], tmp_path, slide_file=tmp_path / f"{name}.svs")
        return row["note"]

    assert "Drawn on slide 'b', but the features are those of 'a'" in note("b")
    assert "Drawn on" not in note("a")


@pytest.mark.parametrize("chunk", [1, 7, 1000])
def test_chunked_equals_whole(model, chunk, monkeypatch):
    features = slide("a")
    monkeypatch.setattr(inference.encoding, "PATCHES_A_CHUNK", chunk)
    monkeypatch.setattr(inference.encoding, "REGION_PATCHES_A_CHUNK", chunk)
    streamed = pathflip.encode_slide(model, features)
    whole = _whole(model, features)
    torch.testing.assert_close(streamed.code.slide, whole.slide, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(streamed.code.patches, whole.patches, atol=1e-5, rtol=1e-5)
    monkeypatch.setattr(inference.encoding, "PAIRS_PER_CALL", 1)
    few = inference.presence_scores(model, [streamed], WORDS)
    monkeypatch.setattr(inference.encoding, "PAIRS_PER_CALL", 10**9)
    np.testing.assert_allclose(few, inference.presence_scores(model, [streamed], WORDS), atol=1e-5)


def _whole(model, features):
    rows = np.flatnonzero(features.valid)
    place = relative_positions(features.coords, features.valid, features.grid.tile_px0)
    patches, context, place = (torch.from_numpy(v)[None] for v in (features.features, neighbour_means(features), place))
    with torch.no_grad():
        if model.net.reads_regions:
            grid = group_regions(features, model.regions)
            regions = torch.from_numpy(np.where(grid.mask, grid.index, -1))[None]
            return model.net.encode_slides(patches, torch.ones(patches.shape[:2], dtype=torch.bool), regions)
        everything = torch.ones(1, len(rows), dtype=torch.bool)
        return model.net.encode_slides(patches[:, rows], everything, context[:, rows], place[:, rows])


LARGE = """
import sys
import numpy as np, torch
from pathflip import inference, TileSpec, SlideInfo
from pathflip.types import SlideFeatures
from pathflip.checkpoint import Checkpoint, InputContract
from pathflip.data.align import TextSpec
from pathflip.models import build_model
from pathflip.processes import keep_memory
from pathflip.text.tokenizer import train_tokenizer


def peak_kb():  # not ru_maxrss: a new program inherits that from whoever started it
    status = open("/proc/self/status").read()
    return int(status.split("VmHWM:")[1].split()[0])


num, width = 200_000, 512
spec, info = TileSpec(256, 0.5), SlideInfo("large", (200_000, 150_000), 0.5)
rng = np.random.default_rng(0)
coords = np.stack(np.meshgrid(np.arange(500), np.arange(400)), -1).reshape(-1, 2).astype(np.int64) * 256
values = rng.standard_normal((num, width), np.float32)
features = SlideFeatures("large", values, coords, np.ones(num, bool), info, spec, "x")
tokenizer = train_tokenizer(["keratin pearls are seen"], 100)
net = build_model({"kind": "pathflip", "feature_dim": width, "vocab_size": tokenizer.vocab_size, "width": 192}).eval()
keep_memory()  # as a verb does
net.requires_grad_(False)
model = inference.Aligned(
    Checkpoint(net, tokenizer, InputContract.of(features), {}), TextSpec(), None, torch.device("cpu")
)
before = peak_kb()
heat = inference.ground(model, features, "keratin pearls")
after = peak_kb()
assert np.isfinite(heat.scores).all() and len(heat.scores) == num
print((after - before) / 2**20)
"""


@pytest.mark.slow
def test_two_hundred_thousand_patches_fit_in_a_gigabyte_above_the_features():
    done = subprocess.run([sys.executable, "-c", LARGE], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert float(done.stdout) < 1.0
