"""Vision transformers in timm's weight layout, in plain torch, and the heads published pathology encoders put on them.

timm is not needed to run them, so they run wherever torch does. The published files use these module names; how wide a
layer is, whether it is gated and whether it is scaled is read off the weights and checked against the table.

Dosovitskiy et al., arXiv 2010.11929; registers: Darcet et al., arXiv 2309.16588; layer scale: Touvron et al.,
arXiv 2103.17239; SwiGLU: Shazeer, arXiv 2002.05202.
"""

import math
from collections.abc import Mapping

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from pathflip.errors import ConfigError
from pathflip.features.foundation import ViTShape

__all__ = ["Conch", "Conch15", "Keep", "PooledViT", "VisionTransformer"]

State = Mapping[str, Tensor]


class VisionTransformer(nn.Module):
    """A vision transformer as a function from pixels to normalised tokens: class token, registers, patches.

    Args:
        shape: what the table says.
        state: its weights, by published name; only their shapes are used here.

    Raises:
        ConfigError: the weights are those of another transformer.
    """

    def __init__(self, shape: ViTShape, state: State) -> None:
        super().__init__()
        _check(shape, state)
        self.shape = shape
        self.prefix = 1 + shape.registers
        self.patch_embed = nn.ModuleDict({"proj": nn.Conv2d(3, shape.width, shape.patch, shape.patch)})
        self.cls_token = nn.Parameter(torch.empty(1, 1, shape.width))
        if shape.registers:
            self.reg_token = nn.Parameter(torch.empty(1, shape.registers, shape.width))
        self.pos_embed = nn.Parameter(torch.empty_like(state["pos_embed"]))
        scaled = "blocks.0.ls1.gamma" in state
        wide, narrow = len(state["blocks.0.mlp.fc1.weight"]), state["blocks.0.mlp.fc2.weight"].shape[1]
        blocks = (_Block(shape.width, shape.heads, wide, wide == 2 * narrow, scaled) for _ in range(shape.depth))
        self.blocks = nn.ModuleList(blocks)
        self.norm = nn.LayerNorm(shape.width, eps=1e-6)

    def forward(self, x: Float[Tensor, "n 3 y x"]) -> Float[Tensor, "n t W"]:
        """Pixels, normalised, to tokens (n, 1 + registers + patches, width)."""
        patches = self.patch_embed["proj"](x)
        grid = patches.shape[2:]
        tokens = patches.flatten(2).transpose(1, 2)
        first = self.cls_token.expand(len(x), -1, -1)
        if self.shape.registers:
            first = torch.cat([first, self.reg_token.expand(len(x), -1, -1)], dim=1)
        prefix, positions = self._positions(grid[0], grid[1])
        tokens = tokens + positions
        with_position = prefix.shape[1]  # none, the class token, or the registers too
        first = torch.cat([first[:, :with_position] + prefix, first[:, with_position:]], dim=1)
        tokens = torch.cat([first, tokens], dim=1)
        for block in self.blocks:
            tokens = block(tokens)
        return self.norm(tokens)

    def _positions(self, rows: int, columns: int) -> tuple[Tensor, Tensor]:
        """Positions of prefix tokens and of the patches, stretched to the grid at hand."""
        side = math.isqrt(self.pos_embed.shape[1])
        count = self.pos_embed.shape[1] - side * side
        prefix, grid = self.pos_embed[:, :count], self.pos_embed[:, count:]
        if (rows, columns) == (side, side):
            return prefix, grid
        image = grid.float().reshape(1, side, side, -1).permute(0, 3, 1, 2)
        if self.shape.resample == "dino":
            # DINO adds 0.1 so that rounding cannot lose a row; the offset shifts the samples and so must be kept.
            scale = [(rows + 0.1) / side, (columns + 0.1) / side]
            image = F.interpolate(image, scale_factor=scale, mode="bicubic")
        else:
            image = F.interpolate(image, (rows, columns), mode="bicubic", antialias=True)
        return prefix, image.flatten(2).transpose(1, 2).to(grid.dtype)


class _Block(nn.Module):
    """Attention, then a (gated) perceptron, each after a layer norm and with a residual."""

    def __init__(self, width: int, heads: int, hidden: int, gated: bool, scaled: bool) -> None:
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(width, eps=1e-6), nn.LayerNorm(width, eps=1e-6)
        self.attn = nn.ModuleDict({"qkv": nn.Linear(width, 3 * width), "proj": nn.Linear(width, width)})
        self.mlp = _Perceptron(width, hidden, gated)
        self.ls1: nn.Module = _Scale(width) if scaled else nn.Identity()
        self.ls2: nn.Module = _Scale(width) if scaled else nn.Identity()

    def forward(self, x: Float[Tensor, "n t W"]) -> Float[Tensor, "n t W"]:
        qkv = self.attn["qkv"](self.norm1(x)).unflatten(-1, (3, self.heads, -1))
        q, k, v = qkv.permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        x = x + self.ls1(self.attn["proj"](mixed))
        return x + self.ls2(self.mlp(self.norm2(x)))


class _Perceptron(nn.Module):
    def __init__(self, width: int, hidden: int, gated: bool) -> None:
        super().__init__()
        self.gated = gated
        self.fc1 = nn.Linear(width, hidden)
        self.fc2 = nn.Linear(hidden // 2 if gated else hidden, width)

    def forward(self, x: Float[Tensor, "n t W"]) -> Float[Tensor, "n t W"]:
        hidden = self.fc1(x)
        if not self.gated:
            return self.fc2(F.gelu(hidden))
        gate, value = hidden.chunk(2, dim=-1)
        return self.fc2(F.silu(gate) * value)


class _Scale(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.empty(width))

    def forward(self, x: Float[Tensor, "n t W"]) -> Float[Tensor, "n t W"]:
        return x * self.gamma


def _check(shape: ViTShape, state: State) -> None:
    """Every size the table names against the weights."""
    needed = ["pos_embed", "patch_embed.proj.weight", "blocks.0.mlp.fc1.weight", "blocks.0.mlp.fc2.weight"]
    absent = [key for key in needed if key not in state]
    if absent:
        raise ConfigError(f"no weight named '{absent[0]}', expected a vision transformer in timm's layout")
    actual = ViTShape(
        width=len(state["patch_embed.proj.weight"]),
        depth=1 + max(int(key.split(".")[1]) for key in state if key.startswith("blocks.")),
        heads=shape.heads,
        patch=state["patch_embed.proj.weight"].shape[-1],
        registers=state["reg_token"].shape[1] if "reg_token" in state else 0,
        resample=shape.resample,
    )
    for name in ("width", "depth", "patch", "registers"):
        got, expected = getattr(actual, name), getattr(shape, name)
        if got != expected:
            raise ConfigError(f"the weights have {name} {got}, expected {expected}: they are of another model")
    positions = state["pos_embed"].shape[1]
    count = positions - math.isqrt(positions) ** 2
    if count not in (0, 1, 1 + shape.registers):
        raise ConfigError(f"the weights have {positions} positions, expected a square of patches and their prefix")


class PooledViT(nn.Module):
    """A vision transformer's class token, alone or beside the mean of the patch tokens (registers left out)."""

    def __init__(self, trunk: VisionTransformer, pooling: str) -> None:
        super().__init__()
        self.trunk, self.pooling = trunk, pooling

    def forward(self, x: Float[Tensor, "n 3 y x"]) -> Float[Tensor, "n D"]:
        tokens = self.trunk(x)
        if self.pooling == "cls":
            return tokens[:, 0]
        return torch.cat([tokens[:, 0], tokens[:, self.trunk.prefix :].mean(dim=1)], dim=1)


class Keep(nn.Module):
    """KEEP's image side (arXiv 2412.13126): a transformer's class token through a two-layer head, at unit length."""

    def __init__(self, trunk: VisionTransformer, dim: int) -> None:
        super().__init__()
        self.visual = trunk
        self.visual_head = nn.Sequential(nn.Linear(trunk.shape.width, dim), nn.GELU(), nn.Linear(dim, dim))

    def forward(self, x: Float[Tensor, "n 3 y x"]) -> Float[Tensor, "n D"]:
        return F.normalize(self.visual_head(self.visual(x)[:, 0]), dim=-1)


class Conch(nn.Module):
    """CONCH's image side (arXiv 2307.12914) up to its contrastive pooling: one query attends to all tokens."""

    def __init__(self, trunk: VisionTransformer, dim: int, heads: int = 8) -> None:
        super().__init__()
        width = trunk.shape.width
        self.trunk = trunk
        self.attn_pool_contrast = nn.ModuleDict(
            {
                "attn": nn.MultiheadAttention(dim, heads, kdim=width, vdim=width, batch_first=True),
                "ln_q": nn.LayerNorm(dim),
                "ln_k": nn.LayerNorm(width),
            }
        )
        self.attn_pool_contrast.register_parameter("query", nn.Parameter(torch.empty(1, dim)))
        self.ln_contrast = nn.LayerNorm(dim)

    def forward(self, x: Float[Tensor, "n 3 y x"]) -> Float[Tensor, "n D"]:
        pool = self.attn_pool_contrast
        tokens = pool["ln_k"](self.trunk(x))
        query = pool["ln_q"](pool.get_parameter("query")).expand(len(x), 1, -1)
        pooled, _ = pool["attn"](query, tokens, tokens, need_weights=False)
        return self.ln_contrast(pooled[:, 0])


class Conch15(nn.Module):
    """CONCH v1.5's image side: as CONCH, with separate projections without bias in the pooling."""

    def __init__(self, trunk: VisionTransformer, dim: int, heads: int = 8) -> None:
        super().__init__()
        width = trunk.shape.width
        self.trunk, self.heads = trunk, heads
        self.attn_pool_contrast = nn.ModuleDict(
            {
                "to_q": nn.Linear(dim, dim, bias=False),
                "to_kv": nn.Linear(width, 2 * dim, bias=False),
                "to_out": nn.Linear(dim, dim, bias=False),
                "ln_q": nn.LayerNorm(dim),
                "ln_k": nn.LayerNorm(width),
            }
        )
        self.attn_pool_contrast.register_parameter("query", nn.Parameter(torch.empty(1, dim)))
        self.ln_contrast = nn.LayerNorm(dim)

    def forward(self, x: Float[Tensor, "n 3 y x"]) -> Float[Tensor, "n D"]:
        pool = self.attn_pool_contrast
        kv = pool["to_kv"](pool["ln_k"](self.trunk(x))).unflatten(-1, (2, self.heads, -1))
        k, v = kv.permute(2, 0, 3, 1, 4)
        q = pool["to_q"](pool["ln_q"](pool.get_parameter("query"))).unflatten(-1, (self.heads, -1))
        q = q.transpose(0, 1).expand(len(x), -1, -1, -1)
        mixed = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        return self.ln_contrast(pool["to_out"](mixed)[:, 0])
