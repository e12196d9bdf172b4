"""Stain normalisation in front of any encoder: ``load_encoder("uni_v1+macenko")``.

Every slide is measured once, on a seeded sample of its tiles, and all its tiles then go through the same map to
reference stains. Normalising tile by tile, as is often done, gives a tile of fat or mucus the colours of a tile of
nuclei, and gives neighbours different colours.
"""

from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

import cv2
import numpy as np
import torch
from jaxtyping import Float64, UInt8
from numpy.typing import NDArray
from torch import Tensor

from pathflip.errors import ConfigError, MissingExtraError, SlideError
from pathflip.features.encoder_protocol import Encoder

__all__ = ["STAIN_METHODS", "StainNormalised", "split_method"]

STAIN_METHODS = ("macenko",)
"""What may stand behind the plus sign of an encoder's name."""

_SAMPLE_TILES = 64
_SAMPLE_PIXELS = 2**20
_GLASS = 240.0  # of the library, for slides and reference alike
_STAINED = 0.15  # of the library: the least optical density in all three channels of a stained pixel
_DENSITY = (-np.log((np.arange(256) + 1) / _GLASS)).astype(np.float32)
_MIN_STAINED = 500
_MIN_ANGLE = 8.0
"""Least angle between the two stains, degrees: real slides showed 16 to 44; below, noise would be made colours."""


def split_method(reference: str) -> tuple[str, str | None]:
    """``"uni_v1+macenko"`` to ``("uni_v1", "macenko")``; None where no method of :data:`STAIN_METHODS` stands last."""
    encoder, _, method = reference.rpartition("+")
    return (encoder, method) if encoder and method in STAIN_METHODS else (reference, None)


@dataclass(frozen=True, eq=False)
class _Fit:
    """One slide's map of optical densities to reference stains, and what the encoder behind it measured."""

    density_map: Float64[np.ndarray, "3 3"]
    state: Any


class StainNormalised:
    """An encoder that sees every slide in the same stains (Macenko et al. 2009, ISBI).

    The library ``torchstain`` finds a slide's two stain vectors and the strength of each (99th percentile), and holds
    the reference they are mapped to. All pixels of the slide then take one linear map in optical density:
    ``reference stains · (reference strength / strength) · pseudo-inverse(stains)``.

    Args:
        encoder: what encodes the normalised tiles. Where it measures slides itself, it measures normalised ones.
        method: one of :data:`STAIN_METHODS`.

    Raises:
        ConfigError: no such method.
        MissingExtraError: the library is not installed.
    """

    def __init__(self, encoder: Encoder, method: str = "macenko") -> None:
        if method not in STAIN_METHODS:
            raise ConfigError(f"stain normalisation '{method}': expected one of {', '.join(STAIN_METHODS)}")
        _normaliser()
        self.encoder = encoder
        self.name = f"{encoder.name}+{method}"
        # The fit is the library's: another release of it may give other numbers.
        self.revision = f"{encoder.revision}+1-torchstain{version('torchstain')}"
        self.dim, self.tile_px, self.mpp = encoder.dim, encoder.tile_px, encoder.mpp
        self.sample_tiles = max(_SAMPLE_TILES, encoder.sample_tiles)
        self.row = getattr(encoder, "row", None)
        self.device = torch.device(getattr(encoder, "device", "cpu"))

    def prepare(self, sample: NDArray[np.uint8]) -> _Fit:
        """Measure a slide's stains on a sample of its tiles, uint8 (n, px, px, 3).

        Raises:
            SlideError: the sample holds too little stained tissue, or a single stain.
        """
        density_map = _density_map(sample)
        return _Fit(density_map, self.encoder.prepare(_normalised(sample, density_map)))

    def encode(self, tiles: NDArray[np.uint8] | Tensor, state: _Fit | None = None) -> NDArray[np.float32]:
        """Normalise tiles uint8 (n, px, px, 3) and encode them; float32 (n, dim).

        Args:
            state: of :meth:`prepare`. None measures these very tiles, as if they were a slide.
        """
        if len(tiles) == 0:
            return np.zeros((0, self.dim), np.float32)
        pixels: NDArray[np.uint8] = torch.as_tensor(tiles).cpu().numpy()
        fit = state or self.prepare(pixels)
        return self.encoder.encode(_normalised(pixels, fit.density_map), fit.state)


def _normalised(
    tiles: UInt8[np.ndarray, "n y x 3"], density_map: Float64[np.ndarray, "3 3"]
) -> UInt8[np.ndarray, "n y x 3"]:
    mixed = np.empty_like(tiles)
    for tile, out in zip(tiles, mixed, strict=True):
        transmission = cv2.exp(cv2.transform(cv2.LUT(tile, _DENSITY), -density_map))
        out[:] = cv2.convertScaleAbs(transmission, alpha=_GLASS)  # rounds, and stops at 255
    return mixed


def _density_map(sample: NDArray[np.uint8]) -> Float64[np.ndarray, "3 3"]:
    """What takes a slide's optical densities to those of the reference stains."""
    pixels = sample.reshape(-1, 3)
    pixels = pixels[:: -(-len(pixels) // _SAMPLE_PIXELS) or 1]
    stained = int((_DENSITY[pixels] >= _STAINED).all(axis=1).sum())
    if stained < _MIN_STAINED:
        raise SlideError(
            f"stain normalisation: {stained} stained pixels in a sample of {len(sample)} tiles, expected at least "
            f"{_MIN_STAINED}; check the tissue mask, or use the encoder without normalisation"
        )
    reference, measured = _normaliser(), _normaliser()
    measured.fit(pixels[None], Io=_GLASS, beta=_STAINED)
    stains, strength = measured.HERef, measured.maxCRef
    angle = np.degrees(np.arccos(np.clip(stains[:, 0] @ stains[:, 1], -1, 1)))
    if not (angle >= _MIN_ANGLE and (strength > 0).all()):
        raise SlideError(
            f"stain normalisation: two stains {angle:.1f}° apart, expected haematoxylin and eosin at least "
            f"{_MIN_ANGLE:.0f}° apart; a slide of one stain cannot be normalised: use the encoder without it"
        )
    wanted: Float64[np.ndarray, "3 2"] = reference.HERef * (reference.maxCRef / strength)
    return wanted @ np.linalg.pinv(stains)


def _normaliser() -> Any:
    """The library's normaliser; until it is fitted it holds the reference stains and strengths."""
    try:
        from torchstain.base.normalizers import MacenkoNormalizer
    except ImportError:
        raise MissingExtraError("torchstain", "stain", "stain normalisation") from None
    return MacenkoNormalizer(backend="numpy")
