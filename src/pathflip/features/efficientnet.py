"""EfficientNet-Lite0 (Tan & Le 2019, arXiv 1905.11946, in Google's "Lite" form) as a function to one vector a tile.

Inverted bottlenecks without squeeze-and-excitation, ReLU6 for swish. Strided convolutions pad as TensorFlow does, where
the weights come from: what does not divide evenly goes to the right and below. The vector is the mean over positions
of the last feature map (1280 numbers), before the classifier.
"""

import re
from typing import NamedTuple

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

__all__ = ["EfficientNetLite0", "published_name"]

_EPS = 1e-3  # of the batch normalisation, as trained


class _Stage(NamedTuple):
    """One row of the paper's table 1."""

    expansion: int
    kernel: int
    channels: int
    repeats: int
    stride: int


_STAGES = (
    _Stage(1, 3, 16, 1, 1),
    _Stage(6, 3, 24, 2, 2),
    _Stage(6, 5, 40, 2, 2),
    _Stage(6, 3, 80, 3, 2),
    _Stage(6, 5, 112, 3, 1),
    _Stage(6, 5, 192, 4, 2),
    _Stage(6, 3, 320, 1, 1),
)
_STEM, _HEAD = 32, 1280


class _Convolution(nn.Module):
    """Convolution, batch normalisation, and ReLU6 unless ``linear``."""

    def __init__(self, inside: int, outside: int, kernel: int, stride: int = 1, groups: int = 1, linear: bool = False):
        super().__init__()
        self.kernel, self.stride, self.linear = kernel, stride, linear
        self.conv = nn.Conv2d(inside, outside, kernel, stride, groups=groups, bias=False)
        self.norm: nn.Module = nn.BatchNorm2d(outside, eps=_EPS)

    def forward(self, x: Float[Tensor, "n C y x"]) -> Float[Tensor, "n K y2 x2"]:
        """The next feature map."""
        across, down = (_padding(side, self.kernel, self.stride) for side in (x.shape[3], x.shape[2]))
        if any(across + down):
            x = F.pad(x, across + down)
        x = self.norm(self.conv(x))
        return x if self.linear else F.relu6(x, inplace=not x.requires_grad)


def _padding(side: int, kernel: int, stride: int) -> tuple[int, int]:
    """TensorFlow's "same" padding of one axis: (before, after)."""
    total = max((-(-side // stride) - 1) * stride + kernel - side, 0)
    return total // 2, total - total // 2


class _Bottleneck(nn.Module):
    """Widen, filter each channel by itself, narrow; added to what came in where the shapes agree."""

    def __init__(self, inside: int, stage: _Stage, stride: int) -> None:
        super().__init__()
        wide = inside * stage.expansion
        self.expand = _Convolution(inside, wide, 1) if stage.expansion > 1 else None
        self.depthwise = _Convolution(wide, wide, stage.kernel, stride, groups=wide)
        self.project = _Convolution(wide, stage.channels, 1, linear=True)
        self.residual = stride == 1 and inside == stage.channels

    def forward(self, x: Float[Tensor, "n C y x"]) -> Float[Tensor, "n K y2 x2"]:
        """The next feature map."""
        inner = x if self.expand is None else self.expand(x)
        inner = self.project(self.depthwise(inner))
        return x + inner if self.residual else inner


class EfficientNetLite0(nn.Module):
    """Pixels float (n, 3, y, x), normalised, to (n, 1280)."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = _Convolution(3, _STEM, 3, 2)
        blocks, inside = [], _STEM
        for stage in _STAGES:
            for repeat in range(stage.repeats):
                blocks.append(_Bottleneck(inside, stage, stage.stride if repeat == 0 else 1))
                inside = stage.channels
        self.blocks = nn.ModuleList(blocks)
        self.head = _Convolution(inside, _HEAD, 1)

    def forward(self, x: Float[Tensor, "n 3 y x"]) -> Float[Tensor, "n D"]:
        """One vector a tile."""
        x = self.stem(x)
        for block in self.blocks:
            x = block(x)
        return self.head(x).mean(dim=(2, 3))

    def with_norms_folded(self) -> "EfficientNetLite0":
        """Itself, in evaluation mode, each normalisation multiplied into its convolution: half as fast again."""
        for module in self.eval().modules():
            if isinstance(module, _Convolution) and isinstance(module.norm, nn.BatchNorm2d):
                module.conv, module.norm = fuse_conv_bn_eval(module.conv, module.norm), nn.Identity()
        return self


_NAMES = (
    (r"^_conv_stem\.", "stem.conv."),
    (r"^_bn0\.", "stem.norm."),
    (r"^_conv_head\.", "head.conv."),
    (r"^_bn1\.", "head.norm."),
    (r"^_blocks\.", "blocks."),
    (r"\._expand_conv\.", ".expand.conv."),
    (r"\._bn0\.", ".expand.norm."),
    (r"\._depthwise_conv\.", ".depthwise.conv."),
    (r"\._bn1\.", ".depthwise.norm."),
    (r"\._project_conv\.", ".project.conv."),
    (r"\._bn2\.", ".project.norm."),
)


def published_name(key: str) -> str:
    """A weight's name in the published file, to its name here."""
    for old, new in _NAMES:
        key = re.sub(old, new, key)
    return key
