"""Matrix products: oneDNN's on CPU in float32, torch's elsewhere.

On AMD processors oneDNN is up to twice as fast in float32 as what torch chooses by itself (docs/performance.md).
"""

from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn
from torch.utils.weak import WeakTensorKeyDictionary

__all__ = ["Linear", "MatrixStack", "keep_laid_out", "linear", "on_onednn", "product", "products"]

_onednn = getattr(torch.ops.mkldnn, "_linear_pointwise", None) if torch.backends.mkldnn.is_available() else None


def _on_onednn(x: Tensor) -> bool:
    if torch.compiler.is_compiling():  # it chooses for itself, and cannot trace ours
        return False
    plain = x.device.type == "cpu" and x.dtype == torch.float32 and not torch.is_autocast_enabled("cpu")
    return plain and _onednn is not None and x.numel() > 0


_laid_out: WeakTensorKeyDictionary = WeakTensorKeyDictionary()
"""Frozen weights: each one's version and values when it was laid out, and its layout; None until its first use."""


def keep_laid_out(module: nn.Module) -> None:
    """Have oneDNN keep a frozen module's matrices in a layout of its own, each from its first use on.

    For models that only answer, on CPU: a product of few rows takes half the time, one of many a tenth less
    (docs/performance.md). Costs the matrices' memory again. A weight that changed is laid out anew, and one that
    requires a gradient is used as it is; writing through ``weight.data`` goes unnoticed, as in torch itself.
    """
    for weight in module.parameters():
        if weight.ndim == 2:
            _laid_out[weight] = None


def _as_laid_out(weight: Tensor) -> Tensor:
    """A frozen weight as oneDNN would have it; any other as it is."""
    if weight.requires_grad or weight not in _laid_out or weight.is_inference():
        return weight
    kept = _laid_out[weight]
    if kept is None or kept[0] != weight._version or kept[1].data_ptr() != weight.data_ptr():
        values = weight.detach()  # kept, lest other values come to lie at its address
        kept = _laid_out[weight] = (weight._version, values, torch.ops.mkldnn._reorder_linear_weight(values, None))
    layout: Tensor = kept[2]
    return layout


def _fit(weight: Float[Tensor, "*b N A"]) -> Float[Tensor, "*b N A"]:
    """Matrices in an order that oneDNN knows; its loop for others takes seconds."""
    if weight.is_contiguous() or weight.mT.is_contiguous():
        return weight
    return weight.mT.contiguous().mT if weight.stride(-2) == 1 else weight.contiguous()


def product(
    x: Float[Tensor, "M A"], weight: Float[Tensor, "N A"], bias: Tensor | None = None, gelu: bool = False
) -> Float[Tensor, "M N"]:
    """x · weightᵀ + bias, perhaps through a gelu, without gradient."""
    if _onednn and _on_onednn(x):
        return _onednn(x, _as_laid_out(_fit(weight)), bias, *(("gelu", [], "none") if gelu else ("none", [], "")))
    out = F.linear(x, weight, bias)
    return F.gelu(out) if gelu else out


_WORTH_A_CALL = 2**20
"""Multiplications in one product, below which a call to oneDNN costs more than it saves."""


def _products(a: Float[Tensor, "*b M K"], b: Float[Tensor, "*b K N"]) -> Float[Tensor, "*b M N"]:
    """a · b of each pair of matrices, without gradient."""
    if not _on_onednn(a) or a.shape[-2] * b.shape[-1] * a.shape[-1] < _WORTH_A_CALL or a.shape[:-2] != b.shape[:-2]:
        return a @ b
    rows, columns = a.reshape(-1, *a.shape[-2:]), _fit(b.mT).reshape(-1, b.shape[-1], b.shape[-2])
    done = [_onednn(one, other, None, "none", [], "") for one, other in zip(rows, columns, strict=True)]  # type: ignore[misc]
    return (done[0] if len(done) == 1 else torch.stack(done)).view(*a.shape[:-1], b.shape[-1])


class _ProductsFunction(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, a: Tensor, b: Tensor) -> Tensor:
        ctx.save_for_backward(a, b)
        return _products(a, b)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        a, b = ctx.saved_tensors
        to_a, to_b = ctx.needs_input_grad
        return _products(grads[0], b.mT) if to_a else None, _products(a.mT, grads[0]) if to_b else None


def products(a: Float[Tensor, "*b M K"], b: Float[Tensor, "*b K N"]) -> Float[Tensor, "*b M N"]:
    """a @ b for matrices in equal stacks, by oneDNN on CPU in float32 where they are large enough."""
    if not _on_onednn(a) or a.shape[:-2] != b.shape[:-2]:
        return a @ b
    return _ProductsFunction.apply(a, b) if torch.is_grad_enabled() else _products(a, b)


class _LinearFunction(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, weight)
        return product(x, weight, bias)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        grad, (to_x, to_weight, to_bias) = grads[0].contiguous(), ctx.needs_input_grad
        return (
            product(grad, weight.t()) if to_x else None,
            product(grad.t(), x.t()) if to_weight else None,
            grad.sum(dim=0) if to_bias else None,
        )


class Linear(nn.Linear):
    """``nn.Linear``, computed by oneDNN on CPU in float32."""

    def forward(self, x: Float[Tensor, "*b A"]) -> Float[Tensor, "*b N"]:
        """Rows through the layer."""
        return linear(x, self.weight, self.bias)


def on_onednn(module: nn.Module) -> None:
    """Turn every plain ``nn.Linear`` in a module that others wrote into a :class:`Linear`, in place; names stay."""
    for part in module.modules():
        if type(part) is nn.Linear:
            part.__class__ = Linear


def linear(
    x: Float[Tensor, "*b A"], weight: Float[Tensor, "N A"], bias: Float[Tensor, " N"] | None = None
) -> Float[Tensor, "*b N"]:
    """x · weightᵀ + bias, by oneDNN on CPU in float32."""
    if not _on_onednn(x):
        return F.linear(x, weight, bias)
    rows = x.flatten(0, -2)
    if torch.is_grad_enabled():
        return _LinearFunction.apply(rows, weight, bias).view(*x.shape[:-1], -1)
    return product(rows, weight, bias).view(*x.shape[:-1], -1)


class MatrixStack:
    """Matrices of which each meets rows of its own: matrices (G, N, K) · rows (M, G, K) -> (M, G, N), no gradient.

    oneDNN has no product of stacks in float32, but a grouped convolution over 1 x 1 pixels is one: for many small
    matrices twice as fast as one product after the other. The matrices are laid out for it once, at the first call, so
    every call should bring about as many rows.
    """

    def __init__(self, matrices: Float[Tensor, "G N K"]) -> None:
        self.matrices = matrices
        self._kernels: Tensor | None = None

    def __call__(self, rows: Float[Tensor, "M G K"]) -> Float[Tensor, "M G N"]:
        """Rows of each place times its matrix."""
        groups, width, inner = self.matrices.shape
        if not _on_onednn(rows) or len(rows) * width * inner * groups < _WORTH_A_CALL:
            return (rows.transpose(0, 1) @ self.matrices.mT).transpose(0, 1)
        pixels = rows.reshape(1, len(rows), 1, groups * inner).permute(0, 3, 1, 2)
        plain = ([0, 0], [1, 1], [1, 1])  # padding, stride, dilation
        if self._kernels is None:
            kernels = self.matrices.reshape(groups * width, inner, 1, 1)
            self._kernels = torch.ops.mkldnn._reorder_convolution_weight(kernels, *plain, groups, list(pixels.shape))
        out = torch.ops.mkldnn._convolution_pointwise(pixels, self._kernels, None, *plain, groups, "none", [], "")
        return out.permute(0, 2, 3, 1).reshape(len(rows), groups, width)
