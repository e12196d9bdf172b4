"""The built-in encoder: a stain-and-texture descriptor. No weights, no download, nothing to train.

A pathologist's first look, written down: how much of each stain, in which mixtures; nuclei by size, number,
darkness and shape; edges, lines and their common direction; holes and their sizes; pigment and blood.

1. Optical density and stain unmixing (Ruifrok & Johnston 2001), with stain vectors nudged towards what the slide
   shows (Macenko et al. 2009) and staining strength half-way normalised per slide: another scanner or staining day
   moves the texture little. Full normalisation was measured to be worse: it mistakes composition for staining.
2. Haematoxylin and eosin maps, on a pyramid of four octaves, through Gaussian-like derivatives. Only
   rotation-invariant combinations are kept (gradient, Laplacian, Hessian anisotropy, structure-tensor coherence),
   as mean and root mean square; a second order is their spread over blocks (compare Mallat's scattering energies).
3. Blobs: maxima of the Laplacian (Lindeberg 1998) of haematoxylin at each octave: how many nuclei, how large, how
   dark, how long, how clustered.
4. Absolute colour, not normalised: soft joint histograms in reference stain space (pigment, blood, mucin and calcium
   are colours, not textures).

Everything is a mean over pixels, so a tile's size does not change the width of the result; 32 px is the smallest.
"""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, UInt8
from numpy.typing import NDArray
from torch import Tensor

from pathflip.errors import ConfigError
from pathflip.features.calibration import CENTRE, SPREAD
from pathflip.slide.stain import macenko_vectors

__all__ = ["REFERENCE_STAINS", "StainState", "StainTexture", "estimate_stains"]

# Haematoxylin and eosin in optical density, rows unit length (Ruifrok & Johnston 2001, Anal Quant Cytol Histol 23:291).
_RUIFROK = np.array([[0.650, 0.704, 0.286], [0.072, 0.990, 0.105]])
# Optical density of strong staining (1 in stain units), and the total (R + G + B) of typical tissue.
_STRONG = np.array([1.5, 1.0])
_TYPICAL_DENSITY = 1.1
_WHITE = 245.0
_LIMIT = 20.0  # no single number may dominate a vector
_PLANE = 128  # side, pixels, that larger tiles are averaged down to before filtering
_LEVELS = 4
_BLOB_LEVELS = 3  # the coarsest octave of a small tile has too few pixels for blobs and blocks
_MICRO_BATCH_PX = 2**18  # working pixels filtered at once: small enough to stay in the processor's cache


@dataclass(frozen=True, eq=False)
class StainState:
    """How one slide is stained.

    Attributes:
        white: what glass looks like, 0..255 per channel (3,).
        unmix: optical density (row, R G B) times this gives haematoxylin, eosin and residual, where 1 is the
            slide's strong staining (3, 3).
    """

    white: Float[Tensor, "3"]
    unmix: Float[Tensor, "3 3"]


def _state(white: NDArray[np.float64], stains: NDArray[np.float64], strong: NDArray[np.float64]) -> StainState:
    residual = np.cross(stains[0], stains[1])
    basis = np.stack([stains[0], stains[1], residual / np.linalg.norm(residual)])
    unmix = np.linalg.inv(basis) / np.array([strong[0], strong[1], strong[1]])
    return StainState(torch.tensor(white, dtype=torch.float32), torch.tensor(unmix, dtype=torch.float32))


REFERENCE_STAINS = _state(np.full(3, _WHITE), _RUIFROK / np.linalg.norm(_RUIFROK, axis=1, keepdims=True), _STRONG)
"""Used where no slide was measured."""


def estimate_stains(sample: NDArray[np.uint8], *, shrink: float = 0.8) -> StainState:
    """Measure a slide's glass, stain vectors and staining strength from some of its tiles.

    Vectors after Macenko et al. 2009 (the plane of the two largest principal components of optical density, its 1st
    and 99th percentile angles), averaged with the reference by ``shrink``: a slide of fat, mucin or blood has no two
    stains to find. Strength is the square root of the median density relative to typical tissue, for the same reason.

    Args:
        sample: uint8 tiles (n, px, px, 3).
        shrink: weight of the reference vectors, 0 (pure Macenko) to 1 (fixed vectors).
    """
    pixels = sample.reshape(-1, 3)
    if len(pixels) == 0:
        return REFERENCE_STAINS
    pixels = pixels[:: max(1, len(pixels) // 50_000)].astype(np.float64)
    white = np.clip(np.percentile(pixels, 99.5, axis=0), 215, 255)
    density = np.maximum(np.log((white + 1) / (pixels + 1)), 0)
    tissue = density[(density > 0.12).all(axis=1)]
    reference = _RUIFROK / np.linalg.norm(_RUIFROK, axis=1, keepdims=True)
    if len(tissue) < 500:
        return _state(white, reference, _STRONG)
    found = macenko_vectors(tissue)
    if (found * reference).sum(axis=1).min() < 0.8:  # more than 37 degrees off: not these two stains
        found = reference
    stains = (1 - shrink) * found + shrink * reference
    stains /= np.linalg.norm(stains, axis=1, keepdims=True)
    strength = np.clip(np.median(tissue.sum(axis=1)) / _TYPICAL_DENSITY, 0.5, 2)
    return _state(white, stains, _STRONG * np.sqrt(strength))


class StainTexture:
    """The stain-and-texture descriptor as an encoder (see the module's docstring).

    Args:
        device: where to compute; None takes the GPU if there is one.
    """

    name = "stain_texture"
    revision = "2"
    tile_px: int | None = None
    mpp: float | None = None
    sample_tiles = 64
    reentrant = True
    dim = len(CENTRE)

    def __init__(self, device: torch.device | str | None = None) -> None:
        self.device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        self._micro_batch_px = _MICRO_BATCH_PX * (1 if self.device.type == "cpu" else 64)
        self._centre = torch.tensor(CENTRE, device=self.device)
        self._spread = torch.tensor(SPREAD, device=self.device)

    def prepare(self, sample: NDArray[np.uint8]) -> StainState:
        """Measure a slide's staining from a sample of its tiles, uint8 (n, px, px, 3)."""
        return estimate_stains(sample)

    def encode(self, tiles: NDArray[np.uint8] | Tensor, state: StainState | None = None) -> NDArray[np.float32]:
        """Describe tiles.

        Args:
            tiles: uint8 (n, px, px, 3), px at least 32.
            state: the slide's staining from :meth:`prepare`; None uses reference stains.

        Returns:
            float32 (n, dim).
        """
        pixels = torch.as_tensor(tiles)
        if pixels.dtype != torch.uint8 or pixels.ndim != 4 or pixels.shape[3] != 3 or min(pixels.shape[1:3]) < 32:
            raise ConfigError(
                f"encoder '{self.name}': got {pixels.dtype} {tuple(pixels.shape)}, expected uint8 (n, px, px, 3) "
                "tiles of at least 32 px"
            )
        if len(pixels) == 0:
            return np.zeros((0, self.dim), np.float32)
        factor = _reduction(*pixels.shape[1:3])
        step = max(1, self._micro_batch_px * factor**2 // (pixels.shape[1] * pixels.shape[2]))
        parts = [self._encode(part, state or REFERENCE_STAINS) for part in pixels.split(step)]
        return torch.cat(parts).cpu().numpy()

    @torch.inference_mode()
    def _encode(self, tiles: Tensor, state: StainState) -> Float[Tensor, "n dim"]:
        raw = torch.cat(list(describe(tiles.to(self.device), state).values())).t()
        return ((raw - self._centre) / self._spread).clamp_(-_LIMIT, _LIMIT).contiguous()


def describe(tiles: UInt8[Tensor, "n y x 3"], state: StainState) -> dict[str, Float[Tensor, "_ n"]]:
    """The named parts of the descriptor, in order, for tiles of one slide.

    All maps are laid out (channel, y, x, tile): with the tiles innermost every shift, stride and maximum below is a
    vectorised pass, which on a processor is several times faster than convolution and pooling of small images.
    """
    fine, density, stains, glass = _stain_maps(tiles, state)
    groups = {"fine": fine}
    groups |= _colour(density, state)
    groups |= _mixtures(stains, glass)
    groups |= _octaves(torch.cat([stains, glass]))
    groups |= _texture(stains[:2])
    return groups


def _reduction(height: int, width: int) -> int:
    """By how much a tile is averaged down before filtering (its own Haar detail is kept apart)."""
    return max(1, round(min(height, width) / _PLANE))


def _stain_maps(
    tiles: UInt8[Tensor, "n y x 3"], state: StainState
) -> tuple[Float[Tensor, "4 n"], Float[Tensor, "3 h w n"], Float[Tensor, "3 h w n"], Float[Tensor, "1 h w n"]]:
    """Full-resolution detail of haematoxylin; density, stains and glass at the working size (at most 192 px)."""
    n, height, width = tiles.shape[:3]
    x = tiles.reshape(n, -1).t().contiguous().reshape(height, width, 3, n).float().add_(1).log_()
    white = torch.log(state.white + 1).tolist()
    density = [white[channel] - x[:, :, channel] for channel in range(3)]
    unmix = state.unmix.tolist()
    fine = _fine_detail(_weighted(density, [row[0] for row in unmix]))
    factor = _reduction(height, width)
    density = [_shrink(plane[None], factor)[0] for plane in density]
    stains = torch.stack([_weighted(density, [row[stain] for row in unmix]) for stain in range(3)])
    glass = _weighted(density, [-5.0, -5.0, -5.0]).add_(1.5).clamp_(0, 1)
    return fine, torch.stack(density), stains, glass[None]


def _weighted(planes: list[Tensor], weights: list[float]) -> Tensor:
    total = planes[0] * weights[0]
    for plane, weight in zip(planes[1:], weights[1:], strict=True):
        total.add_(plane, alpha=weight)
    return total


def _shrink(maps: Float[Tensor, "c h w n"], factor: int) -> Float[Tensor, "c _ _ n"]:
    """Averages over ``factor`` × ``factor`` squares; what does not fill a square at the far edges is left out."""
    if factor == 1:
        return maps
    height, width = maps.shape[1] // factor * factor, maps.shape[2] // factor * factor
    rows = sum((maps[:, i:height:factor, :width] for i in range(1, factor)), maps[:, 0:height:factor, :width])
    total = sum((rows[:, :, i::factor] for i in range(1, factor)), rows[:, :, ::factor])
    return total / factor**2


def _blocks(maps: Float[Tensor, "c h w n"], count: int) -> Float[Tensor, "c b n"]:
    """Averages over a grid of ``count`` × ``count`` centred blocks of at least 2 px (more or fewer, to fit)."""
    size = max(2, min(maps.shape[1:3]) // count)
    rows, columns = maps.shape[1] // size, maps.shape[2] // size
    top, left = (maps.shape[1] - rows * size) // 2, (maps.shape[2] - columns * size) // 2
    cut = maps[:, top : top + rows * size, left : left + columns * size]
    return cut.reshape(len(maps), rows, size, columns, size, -1).mean(dim=(2, 4)).flatten(1, 2)


def _mean(maps: Float[Tensor, "c h w n"]) -> Float[Tensor, "c n"]:
    return maps.flatten(1, 2).mean(dim=1)


def _spread(values: Float[Tensor, "c p n"]) -> Float[Tensor, "c n"]:
    """Standard deviation over positions (two passes: dark tiles would lose their digits in one)."""
    return (values - values.mean(dim=1, keepdim=True)).square_().mean(dim=1).sqrt_()


def _log(energy: Tensor) -> Tensor:
    """Energies spread over decades; a logarithm with a floor below which nothing is told apart."""
    return torch.log(energy + 0.02)


def _fine_detail(h: Float[Tensor, "y x n"]) -> Float[Tensor, "4 n"]:
    """The finest Haar wavelets, straight (horizontal with vertical) and diagonal: mean and root mean square."""
    height, width = h.shape[0] // 2 * 2, h.shape[1] // 2 * 2
    top, bottom = h[0:height:2], h[1:height:2]
    p, q = top[:, 0:width:2] - bottom[:, 1:width:2], bottom[:, 0:width:2] - top[:, 1:width:2]
    diagonal = top[:, 0:width:2] + bottom[:, 1:width:2] - bottom[:, 0:width:2] - top[:, 1:width:2]
    power = p.square_().add_(q.square_())
    return _log(torch.cat([*_amplitude(power[None]), *_amplitude(diagonal.square_()[None])]))


def _amplitude(power: Float[Tensor, "c h w n"]) -> tuple[Float[Tensor, "c n"], Float[Tensor, "c n"]]:
    """Mean and root mean square of an amplitude, given its square, which is overwritten by its root."""
    root_mean_square = _mean(power).sqrt_()
    return _mean(power.sqrt_()), root_mean_square


def _mixtures(stains: Float[Tensor, "3 h w n"], glass: Float[Tensor, "1 h w n"]) -> dict[str, Float[Tensor, "_ n"]]:
    """Which stains, in which mixtures: means and correlations."""
    half = _shrink(torch.cat([stains, glass]), 2).flatten(1, 2)
    mean = half.mean(dim=1)
    centred = half - mean[:, None]
    spread = centred.square().mean(dim=1).sqrt_()
    pairs = [(0, 1), (0, 2), (1, 2), (0, 3), (1, 3), (2, 3)]
    products = torch.stack([(centred[a] * centred[b]).mean(dim=0) for a, b in pairs])
    scale = torch.stack([spread[a] * spread[b] for a, b in pairs]) + 0.005
    return {"mean": mean, "correlation": products / scale}


def _colour(density: Float[Tensor, "3 h w n"], state: StainState) -> dict[str, Float[Tensor, "_ n"]]:
    """Absolute colour: joint soft histograms in reference stains (square roots of fractions: Hellinger).

    Haematoxylin × eosin has even bins; residual × eosin has bins even in the square root, finest where pale.
    """
    half = _shrink(density, 2).flatten(1, 2)
    against_white = torch.log((_WHITE + 1) / (state.white + 1)).to(half.device)
    half = half + against_white[:, None, None]
    unmix = REFERENCE_STAINS.unmix.tolist()
    h, e, r = (_weighted(list(half), [row[stain] for row in unmix]) for stain in range(3))
    eosin = _memberships(e, 0.0, 1.0, 6)
    pale_eosin = _memberships(e.clamp(min=0).sqrt_(), 0.0, 1.0, 8)
    residual = _memberships(r.add_(0.03).clamp_(min=0).sqrt_(), 0.0, 0.7, 8)
    return {
        "joint_he": torch.cat([(row * eosin).mean(dim=1) for row in _memberships(h, 0.0, 1.0, 6)]).sqrt_(),
        "joint_re": torch.cat([(row * pale_eosin).mean(dim=1) for row in residual]).sqrt_(),
    }


def _memberships(values: Float[Tensor, "p n"], low: float, high: float, bins: int) -> Float[Tensor, "b p n"]:
    """Triangular memberships in ``bins`` bins between two centres; they sum to one, ends are open."""
    place = (values - low).mul_((bins - 1) / (high - low)).clamp_(0, bins - 1)
    centres = torch.arange(bins, device=values.device, dtype=values.dtype)
    return (place - centres[:, None, None]).abs_().neg_().add_(1).clamp_(min=0)


def _octaves(maps: Float[Tensor, "4 h w n"]) -> dict[str, Float[Tensor, "_ n"]]:
    """Spread of each map after averaging over ever larger squares, and how much of it is solidly filled.

    The first is a power spectrum in octaves; the second tells a few large holes (or nests) from many small ones.
    """
    spreads, filled = [_spread(maps.flatten(1, 2))], []
    slope = maps.new_tensor([1.6, 1.6, 2.0])[:, None, None]
    for _ in range(4):
        maps = _shrink(maps, 2)
        flat = maps.flatten(1, 2)
        spreads.append(_spread(flat))
        filled.append((flat[[0, 1, 3]] * slope).sub_(1).clamp_(0, 1).mean(dim=1))
    return {"spectrum": _log(torch.cat(spreads)), "filled": torch.cat(filled).sqrt_()}


def _texture(stains: Float[Tensor, "2 h w n"]) -> dict[str, Float[Tensor, "_ n"]]:
    """Filter energies, direction and blobs of haematoxylin and eosin at each octave."""
    groups: dict[str, Tensor] = {}
    for level in range(_LEVELS):
        if level:
            stains = _shrink(stains, 2)
        dx, dy, dxx, dyy, dxy = derivatives(stains)
        laplace = dxx + dyy
        bright, dark = laplace.clamp(min=0), laplace.neg_().clamp_(min=0)
        anisotropy = dxx.sub_(dyy).square_().add_(dxy.square_(), alpha=4)
        cross = dx * dy
        dx.square_(), dy.square_()
        power = dx + dy
        if level < _BLOB_LEVELS:
            groups[f"coherence_{level}"] = _coherence(dx.sub_(dy), cross, power)
        energies = [*_amplitude(power), *_amplitude(anisotropy), _mean(bright), _mean(dark)]
        energies += [_mean(bright.square_()).sqrt_(), _mean(dark.square()).sqrt_()]
        groups[f"energy_{level}"] = _log(torch.cat(energies))
        if level < _BLOB_LEVELS:
            groups[f"second_order_{level}"] = torch.cat([_second_order(power), _second_order(dark)])
            groups[f"blobs_{level}"] = _blobs(dark[0], stains[:, 1:-1, 1:-1], anisotropy[0])
    return groups


def derivatives(x: Float[Tensor, "c h w n"]) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """First and second derivatives x, y, xx, yy, xy by 3 × 3 binomial (Sobel) stencils, each (c, h-2, w-2, n).

    Each responds 1 to its own monomial (x, y, x²/2, y²/2, xy).
    """
    left, centre, right = x[:, :, :-2], x[:, :, 1:-1], x[:, :, 2:]
    outer = left + right
    smooth, second = outer.add(centre, alpha=2), outer.sub_(centre, alpha=2)
    first = right - left
    dx = (first[:, :-2] + first[:, 2:]).add_(first[:, 1:-1], alpha=2).div_(8)
    dxx = (second[:, :-2] + second[:, 2:]).add_(second[:, 1:-1], alpha=2).div_(4)
    dyy = (smooth[:, :-2] + smooth[:, 2:]).sub_(smooth[:, 1:-1], alpha=2).div_(4)
    dy = (smooth[:, 2:] - smooth[:, :-2]).div_(8)
    dxy = (first[:, 2:] - first[:, :-2]).div_(4)
    return dx, dy, dxx, dyy, dxy


def _coherence(
    difference: Float[Tensor, "c h w n"], cross: Float[Tensor, "c h w n"], power: Float[Tensor, "c h w n"]
) -> Float[Tensor, "_ n"]:
    """How far gradients agree on a direction (0 to 1): over the whole tile, and within blocks of an eighth.

    The structure tensor, from dx² - dy², dx dy and dx² + dy² of each stain; (2 c, n).
    """
    real, imaginary, total = _blocks(difference, 8), 2 * _blocks(cross, 8), _blocks(power, 8)
    scale = total.mean(dim=1) + 1e-4
    overall = torch.hypot(real.mean(dim=1), imaginary.mean(dim=1)) / scale
    within = torch.hypot(real, imaginary).mean(dim=1) / scale
    return torch.cat([overall, within])


def _second_order(maps: Float[Tensor, "c h w n"]) -> Float[Tensor, "c n"]:
    """Spread of filter amplitudes over blocks of an eighth of the tile, relative to their mean."""
    pooled = _blocks(maps, 8)
    return _spread(pooled) / (pooled.mean(dim=1) + 0.02)


def _blobs(
    dark: Float[Tensor, "h w n"], stains: Float[Tensor, "2 h w n"], anisotropy: Float[Tensor, "h w n"]
) -> Float[Tensor, "7 n"]:
    """Nuclei-like blobs at one scale: density, strength and its spread, stains there, elongation, clustering."""
    across = torch.maximum(torch.maximum(dark[:, :-2], dark[:, 1:-1]), dark[:, 2:])
    highest = torch.maximum(torch.maximum(across[:-2], across[1:-1]), across[2:])
    inner = dark[1:-1, 1:-1]
    peak = ((inner == highest) & (inner > 0.06)).to(dark.dtype)
    weighted = peak * inner
    elsewhere = [stains[0, 1:-1, 1:-1], stains[1, 1:-1, 1:-1], anisotropy[1:-1, 1:-1]]
    columns = [peak, weighted, weighted * inner, *(peak * values for values in elsewhere)]
    density, *sums = (column.mean(dim=(0, 1)) for column in columns)
    shown = density + 0.5 / inner[..., 0].numel()
    strength, square, h, e, elongation = (value / shown for value in sums)
    spread = (square - strength.square()).clamp_(min=0).sqrt_()
    counts = _blocks(peak[None], 4)
    clustering = (_spread(counts) / (counts.mean(dim=1) + 0.01))[0]
    return torch.stack([(100 * density).sqrt(), strength, spread, h, e, elongation / (strength + 0.02), clustering])
