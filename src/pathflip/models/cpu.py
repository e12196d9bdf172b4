"""What makes a model faster on a CPU, behind one door: :func:`accelerate_for_cpu`. Layers elsewhere are plain torch.

oneDNN multiplies large matrices in float32 faster than what torch chooses by itself on AMD processors: by a tenth on
Zen 4, twofold on Zen 5 (docs/performance.md).
"""

from typing import Any, TypeVar

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

__all__ = ["accelerate_for_cpu"]

_onednn = getattr(torch.ops.mkldnn, "_linear_pointwise", None) if torch.backends.mkldnn.is_available() else None
_Model = TypeVar("_Model", bound=nn.Module)


def accelerate_for_cpu(model: _Model) -> _Model:
    """The same model, its linear layers computed by oneDNN wherever they run on a CPU in float32; in place.

    Weights, their names and, but for rounding, results are as before; elsewhere (GPU, bfloat16, ``torch.compile``)
    the layers do what they did.
    """
    for part in model.modules():
        if type(part) is nn.Linear:
            part.__class__ = _OneDNNLinear
    return model


class _OneDNNLinear(nn.Linear):
    def forward(self, x: Float[Tensor, "*b A"]) -> Float[Tensor, "*b N"]:
        plain = x.device.type == "cpu" and x.dtype == torch.float32 and not torch.is_autocast_enabled("cpu")
        if _onednn is None or torch.compiler.is_compiling() or not plain or x.numel() == 0:
            return F.linear(x, self.weight, self.bias)
        rows = x.flatten(0, -2)
        if torch.is_grad_enabled():
            return _LinearFunction.apply(rows, self.weight, self.bias).view(*x.shape[:-1], -1)
        return _product(rows, self.weight, self.bias).view(*x.shape[:-1], -1)


def _product(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """x · weightᵀ + bias. oneDNN's loop for orders of memory it does not know takes seconds: those are copied."""
    if not (weight.is_contiguous() or weight.mT.is_contiguous()):
        weight = weight.contiguous()
    return _onednn(x, weight, bias, "none", [], "")  # type: ignore[misc]


class _LinearFunction(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, weight)
        return _product(x, weight, bias)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        grad, (to_x, to_weight, to_bias) = grads[0].contiguous(), ctx.needs_input_grad
        return (
            _product(grad, weight.t()) if to_x else None,
            _product(grad.t(), x.t()) if to_weight else None,
            grad.sum(dim=0) if to_bias else None,
        )
