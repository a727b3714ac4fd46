"""Matrix products of the fast path by the faster library on this processor, MKL or oneDNN.

PyTorch's float32 products on a CPU use MKL, which leaves AVX-512 unused on processors of other makers;
oneDNN, which is part of PyTorch, uses it: 2.3 times as fast on an AMD EPYC. The choice depends on the
processor alone, not on a measurement, so that every process and every run has the same numbers.
"""

from functools import cache
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn


class Linear(nn.Module):
    """A linear layer of float32 weights on a CPU, multiplied by oneDNN; the weights are not copied.

    Gradients flow to the input and not to the weights.
    """

    def __init__(self, plain: nn.Linear) -> None:
        super().__init__()
        self.weight, self.bias = plain.weight, plain.bias

    def forward(self, x: Float[Tensor, "*place n_in"]) -> Float[Tensor, "*place n_out"]:
        if torch.is_grad_enabled() and x.requires_grad:
            return _Product.apply(x, self.weight, self.bias)  # pyright: ignore[reportReturnType]
        return multiply(x, self.weight, self.bias)


class _Product(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.weight = weight
        return multiply(x, weight, bias)

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        return multiply(gradients[0], ctx.weight.detach().t().contiguous(), None), None, None


def multiply(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    try:
        return torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")
    except RuntimeError as error:
        if "could not" in str(error) and "primitive" in str(error):
            # oneDNN's message when memory runs out; `is_onednn_faster` has tried such products before
            raise MemoryError(f"oneDNN: {error}") from error
        raise


def product(
    x: Float[Tensor, "row n_in"], weight: Float[Tensor, "n_out n_in"]
) -> Float[Tensor, "row n_out"]:
    """x @ weight.T without gradients, by the faster library for float32 on this CPU."""
    on_cpu = x.device.type == "cpu" and x.dtype == weight.dtype == torch.float32
    if on_cpu and is_onednn_faster():
        return multiply(x.detach(), weight.detach(), None)
    return torch.nn.functional.linear(x.detach(), weight.detach())


def with_onednn(module: nn.Module) -> nn.Module:
    """The module, or for a float32 linear layer on a CPU where it is faster its oneDNN version."""
    if type(module) is not nn.Linear or "forward" in vars(module):  # a caller has replaced it
        return module
    if module.weight.dtype != torch.float32:
        return module
    return Linear(module) if module.weight.device.type == "cpu" and is_onednn_faster() else module


@cache
def is_onednn_faster() -> bool:
    """Whether this is a processor on which MKL leaves AVX-512 unused, and oneDNN is there."""
    cpuinfo = Path("/proc/cpuinfo")
    if torch.backends.cpu.get_cpu_capability() != "AVX512" or not cpuinfo.is_file():
        return False
    if "GenuineIntel" in cpuinfo.read_text() or not torch.backends.mkldnn.is_available():
        return False
    x, weight = torch.arange(12.0).reshape(1, 3, 4), torch.arange(20.0).reshape(5, 4)
    try:
        return torch.equal(multiply(x, weight, None), x @ weight.T)
    except (AttributeError, RuntimeError, TypeError, MemoryError):  # another version of PyTorch
        return False
