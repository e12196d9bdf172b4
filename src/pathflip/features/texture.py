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

import cv2
import numpy as np
import torch
from jaxtyping import Float, UInt8
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import pad

from pathflip.errors import ConfigError
from pathflip.features.texture_scale import CENTRE, SPREAD
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
_DENSITY = np.log((_WHITE + 1) / np.arange(1, 257)).astype(np.float32)  # of each pixel value
_MICRO_BATCH_PX = 2**18  # pixels at once, as stored for what is linear, at the working size for what follows: they
# stay in the processor's cache


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
    measured = macenko_vectors(tissue)
    if (measured * reference).sum(axis=1).min() < 0.8:  # more than 37 degrees off: not these two stains
        measured = reference
    stains = (1 - shrink) * measured + shrink * reference
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
        """Features of tiles.

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

    Maps are laid out (channel, y, x, tile): with the tiles innermost every shift, stride and maximum below is a
    vectorised pass, which on a processor is several times faster than convolution and pooling of small images.
    """
    few = max(1, _MICRO_BATCH_PX // (tiles.shape[1] * tiles.shape[2])) if tiles.device.type == "cpu" else len(tiles)
    parts = zip(*(_unmixed(part, state) for part in tiles.split(few)), strict=True)
    fine, stains, reference = (torch.cat(part, dim=1) for part in parts)
    pyramid = [stains.permute(0, 2, 3, 1).contiguous()]
    for _ in range(_LEVELS):
        pyramid.append(_shrink(pyramid[-1], 2))
    groups = {"fine": fine}
    groups |= _colour(reference)
    groups |= _mixtures(pyramid[1])
    groups |= _octaves(pyramid)
    groups |= _texture([maps[:2] for maps in pyramid[:_LEVELS]])
    return groups


def _unmixed(
    tiles: UInt8[Tensor, "n y x 3"], state: StainState
) -> tuple[Float[Tensor, "4 n"], Float[Tensor, "4 n h w"], Float[Tensor, "4 n h2 w2"]]:
    """All that needs the pixels as stored: fine detail; stain maps at the working size; reference stains at half of it.

    Averaging down, unmixing and differences of neighbours are linear in optical density: matrix products do them
    together, and no stain is ever computed at full size.
    """
    density = _density(tiles)
    factor = _reduction(*tiles.shape[1:3])
    rows = _row_sums(density, factor)
    stains = _stain_maps(rows, factor, state)
    reference = _stain_maps(_row_sums(rows, 2), 2 * factor, REFERENCE_STAINS)
    return _fine_detail(density, state), stains, reference


def _reduction(height: int, width: int) -> int:
    """By how much a tile is averaged down before filtering (its own Haar detail is kept apart)."""
    return max(1, round(min(height, width) / _PLANE))


def _density(tiles: UInt8[Tensor, "n y x 3"]) -> Float[Tensor, "n y x_rgb"]:
    """Optical density against reference white, colours interleaved: looked up, which is faster than a logarithm."""
    n, height, width = tiles.shape[:3]
    if tiles.device.type != "cpu":
        return torch.from_numpy(_DENSITY).to(tiles.device)[tiles.int()].reshape(n, height, width * 3)
    density = cv2.LUT(tiles.reshape(n * height, width * 3).numpy(), _DENSITY)
    return torch.from_numpy(density).reshape(n, height, width * 3)


def _row_sums(rows: Float[Tensor, "n y x_rgb"], factor: int) -> Float[Tensor, "n _ x_rgb"]:
    """Sums of ``factor`` rows each; what does not fill a sum at the far edge is left out."""
    height = rows.shape[1] // factor * factor
    return sum((rows[:, i:height:factor] for i in range(1, factor)), rows[:, 0:height:factor])


def _stain_maps(rows: Float[Tensor, "n h x_rgb"], factor: int, state: StainState) -> Float[Tensor, "4 n h w"]:
    """Haematoxylin, eosin, residual and glass, averaged over squares of ``factor`` columns and of the rows summed."""
    weights = torch.cat([state.unmix.t(), torch.full((1, 3), -5.0)])
    at_white = weights @ torch.log((state.white + 1) / (_WHITE + 1)) + torch.tensor([0, 0, 0, 1.5])
    maps = _weighted_columns(rows, weights.repeat(1, factor) / factor**2)
    maps.add_(at_white.to(maps.device)[:, None, None, None])[3].clamp_(0, 1)
    return maps


def _weighted_columns(rows: Float[Tensor, "n h x_rgb"], weights: Float[Tensor, "k c"]) -> Float[Tensor, "k n h w"]:
    """Weighted sums of ``c`` neighbouring numbers at a time: the colours of one column or more."""
    count, size = weights.shape
    n, height, width = len(rows), rows.shape[1], rows.shape[2] // size
    columns = rows[:, :, : width * size].reshape(-1, size)
    padded = pad(weights, (0, 0, 0, -count % 4)).to(rows.device)  # MKL is faster with four rows than with two or three
    return (padded @ columns.t())[:count].reshape(count, n, height, width)


def _shrink(maps: Float[Tensor, "c h w n"], factor: int) -> Float[Tensor, "c _ _ n"]:
    """Averages over ``factor`` × ``factor`` squares; what does not fill a square at the far edges is left out."""
    height, width = maps.shape[1] // factor * factor, maps.shape[2] // factor * factor
    rows = sum((maps[:, i:height:factor, :width] for i in range(1, factor)), maps[:, 0:height:factor, :width])
    return sum((rows[:, :, i::factor] for i in range(1, factor)), rows[:, :, ::factor]) / factor**2


def _blocks(maps: Float[Tensor, "c h w n"], count: int) -> Float[Tensor, "c b n"]:
    """Averages over a grid of ``count`` × ``count`` centred blocks of at least 2 px (more or fewer, to fit)."""
    size = max(2, min(maps.shape[1:3]) // count)
    rows, columns = maps.shape[1] // size, maps.shape[2] // size
    top, left = (maps.shape[1] - rows * size) // 2, (maps.shape[2] - columns * size) // 2
    cut = maps[:, top : top + rows * size, left : left + columns * size]
    down = cut.unflatten(1, (rows, size)).sum(dim=2)  # both directions at once would take seven times as long
    return down.unflatten(2, (columns, size)).sum(dim=3).flatten(1, 2).div_(size**2)


def _mean(maps: Float[Tensor, "c h w n"]) -> Float[Tensor, "c n"]:
    return maps.flatten(1, 2).mean(dim=1)


def _spread(values: Float[Tensor, "c p n"]) -> Float[Tensor, "c n"]:
    """Standard deviation over positions (two passes: dark tiles would lose their digits in one)."""
    return (values - values.mean(dim=1, keepdim=True)).square_().mean(dim=1).sqrt_()


def _log(energy: Tensor) -> Tensor:
    """Energies spread over decades; a logarithm with a floor below which nothing is told apart."""
    return torch.log(energy + 0.02)


def _fine_detail(density: Float[Tensor, "n y x_rgb"], state: StainState) -> Float[Tensor, "4 n"]:
    """The finest Haar wavelets of haematoxylin, straight and diagonal: mean and root mean square."""
    height = density.shape[1] // 2 * 2
    top, bottom = density[:, 0:height:2], density[:, 1:height:2]
    h = state.unmix[:, 0]
    same, opposite = torch.cat([h, h]), torch.cat([h, -h])
    (horizontal,) = _weighted_columns(top + bottom, opposite[None])
    vertical, diagonal = _weighted_columns(top - bottom, torch.stack([same, opposite]))
    straight, diagonal = _power(horizontal, vertical).div_(2), diagonal.square_()
    energies = [value for power in (straight, diagonal) for value in _amplitude(power.permute(1, 2, 0)[None])]
    return _log(torch.cat(energies))


def _power(one: Tensor, other: Tensor, weight: float = 1) -> Tensor:
    """one² + weight · other², never zero: the square root of zero takes MKL five times as long as any other."""
    return one.square().add_(1e-20).addcmul_(other, other, value=weight)


def _amplitude(power: Float[Tensor, "c h w n"]) -> tuple[Float[Tensor, "c n"], Float[Tensor, "c n"]]:
    """Mean and root mean square of an amplitude, given its square, which is overwritten by its root."""
    root_mean_square = _mean(power).sqrt_()
    return _mean(power.sqrt_()), root_mean_square


def _mixtures(half: Float[Tensor, "4 h w n"]) -> dict[str, Float[Tensor, "_ n"]]:
    """Which stains, in which mixtures: means and correlations of stains and glass."""
    values = half.flatten(1, 2)
    mean = values.mean(dim=1)
    centred = values - mean[:, None]
    spread = centred.square().mean(dim=1).sqrt_()
    one, other = [0, 0, 1, 0, 1, 2], [1, 2, 2, 3, 3, 3]
    products = (centred[one] * centred[other]).mean(dim=1)
    return {"mean": mean, "correlation": products / (spread[one] * spread[other] + 0.005)}


def _colour(maps: Float[Tensor, "4 n h w"]) -> dict[str, Float[Tensor, "_ n"]]:
    """Absolute colour: joint soft histograms in reference stains (square roots of fractions: Hellinger).

    Haematoxylin × eosin has even bins; residual × eosin has bins even in the square root, finest where pale.
    """
    h, e, r, _ = maps.flatten(2)
    pale_eosin = _memberships(e.clamp(min=0).sqrt_(), 0.0, 1.0, 8)
    residual = _memberships(r.add_(0.03).clamp_(min=0).sqrt_(), 0.0, 0.7, 8)
    return {
        "joint_he": _joint(_memberships(h, 0.0, 1.0, 6), _memberships(e, 0.0, 1.0, 6)),
        "joint_re": _joint(residual, pale_eosin),
    }


def _joint(one: Float[Tensor, "n b p"], other: Float[Tensor, "n b p"]) -> Float[Tensor, "bb n"]:
    """Square roots of the joint histogram's bins."""
    return (one @ other.transpose(1, 2)).div_(one.shape[2]).sqrt_().flatten(1).t()


def _memberships(values: Float[Tensor, "n p"], low: float, high: float, bins: int) -> Float[Tensor, "n b p"]:
    """Triangular memberships in ``bins`` bins between two centres; they sum to one, ends are open."""
    place = (values - low).mul_((bins - 1) / (high - low)).clamp_(0, bins - 1)
    centres = torch.arange(bins, device=values.device, dtype=values.dtype)
    return (1 - (place[:, None] - centres[:, None]).abs_()).clamp_(min=0)


def _octaves(pyramid: list[Float[Tensor, "4 _ _ n"]]) -> dict[str, Float[Tensor, "_ n"]]:
    """Spread of each map after averaging over ever larger squares, and how much of it is solidly filled.

    The first is a power spectrum in octaves; the second tells a few large holes (or nests) from many small ones.
    """
    slope = pyramid[0].new_tensor([1.6, 1.6, 0.0, 2.0])[:, None, None]  # none for the residual, which fills nothing
    flat = [maps.flatten(1, 2) for maps in pyramid]
    filled = [(values * slope).sub_(1).clamp_(0, 1).mean(dim=1)[[0, 1, 3]] for values in flat[1:]]
    return {"spectrum": _log(torch.cat([_spread(values) for values in flat])), "filled": torch.cat(filled).sqrt_()}


def _texture(pyramid: list[Float[Tensor, "2 _ _ n"]]) -> dict[str, Float[Tensor, "_ n"]]:
    """Filter energies, direction and blobs of haematoxylin and eosin at each octave."""
    groups: dict[str, Tensor] = {}
    for level, stains in enumerate(pyramid):
        dx, dy, dxx, dyy, dxy = derivatives(stains)
        laplace = dxx + dyy
        bright, dark = laplace.clamp(min=0), laplace.neg_().clamp_(min=0)
        anisotropy = _power(dxx.sub_(dyy), dxy, 4)
        power = _power(dx, dy)
        if level < _BLOB_LEVELS:
            groups[f"coherence_{level}"] = _coherence(torch.addcmul(power, dy, dy, value=-2), dx.mul_(dy), power)
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
    x = x / 4
    left, centre, right = x[:, :, :-2], x[:, :, 1:-1], x[:, :, 2:]
    outer = left + right
    smooth, second = outer.add(centre, alpha=2), outer.sub_(centre, alpha=2)
    first = right - left
    dx = first[:, 1:-1].add(first[:, :-2], alpha=0.5).add_(first[:, 2:], alpha=0.5)
    dxx = (second[:, :-2] + second[:, 2:]).add_(second[:, 1:-1], alpha=2)
    dyy = (smooth[:, :-2] + smooth[:, 2:]).sub_(smooth[:, 1:-1], alpha=2)
    dy = (smooth[:, 2:] - smooth[:, :-2]).div_(2)
    dxy = first[:, 2:] - first[:, :-2]
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
    peak = highest.clamp_(min=0.06).le_(inner)
    elsewhere = [stains[0, 1:-1, 1:-1], stains[1, 1:-1, 1:-1], anisotropy[1:-1, 1:-1]]
    weighted = peak * inner
    columns = [peak, weighted, weighted * inner, *(peak * values for values in elsewhere)]
    density, *sums = (column.mean(dim=(0, 1)) for column in columns)
    shown = density + 0.5 / inner[..., 0].numel()
    strength, square, h, e, elongation = (value / shown for value in sums)
    spread = (square - strength.square()).clamp_(min=0).sqrt_()
    counts = _blocks(peak[None], 4)
    clustering = (_spread(counts) / (counts.mean(dim=1) + 0.01))[0]
    return torch.stack([(100 * density).sqrt(), strength, spread, h, e, elongation / (strength + 0.02), clustering])
