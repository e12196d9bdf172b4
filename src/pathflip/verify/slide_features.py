"""Features of a slide file, made as the model's training features were."""

from collections.abc import Callable
from pathlib import Path

from pathflip.features import extract, load_encoder
from pathflip.inference import Aligned
from pathflip.slide import find_tissue, open_slide, tile_slide
from pathflip.slide.resolution_table import SlideResolution
from pathflip.types import SlideFeatures

__all__ = ["features_of_slide"]


def features_of_slide(
    model: Aligned,
    file: Path,
    slide_mpp: SlideResolution | None = None,
    *,
    progress: Callable[[int, int], None] | None = None,
) -> SlideFeatures:
    """Find tissue, cut tiles and encode them with the encoder, tile size, stride and resolution of the model's
    contract.

    ``progress`` is called with (tiles done, tiles in all).

    Raises:
        SlideError: the slide cannot be read. ConfigError: the encoder is unknown here.
    """
    contract = model.checkpoint.contract
    encoder = load_encoder(contract.encoder)
    with open_slide(file, slide_mpp=slide_mpp) as slide:
        spec = contract.tile_spec()
        spec.downsample(slide.info)  # refuse before any pixel is read
        grid = tile_slide(slide, find_tissue(slide), spec)
        return extract(slide, grid, encoder, progress=progress)
