"""Matrix products of the fast path by the faster library on this processor, MKL or oneDNN.

PyTorch's float32 products on a CPU use MKL, which leaves AVX-512 unused on some processors; oneDNN,
which is part of PyTorch, uses it: 2.2 times as fast on an AMD EPYC. Both are timed once per process,
for at most a twentieth of a second, and oneDNN is taken where it is clearly faster: the two differ in
rounding, and where they are about equal every run should have the same numbers.
"""

import time
from functools import cache
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

MEASURED = 0.05
"""Seconds that the two libraries are timed for."""
CLEARLY = 1.25
"""Times as fast as MKL that oneDNN must be to be taken."""


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
def onednn_speed() -> float | None:
    """The speed of oneDNN in that of MKL on this machine, or None where it cannot be used.

    The best of several products of each, in turns and on one thread: what else the machine does
    slows single products, and threads that wait for each other even more.
    """
    if not torch.backends.mkldnn.is_available():
        return None
    generator = torch.Generator().manual_seed(0)
    x, weight = (torch.randn(n, 512, generator=generator) for n in (256, 512))
    ways = (lambda: torch.nn.functional.linear(x, weight), lambda: multiply(x, weight, None))
    best = [float("inf"), float("inf")]
    n_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        if not torch.allclose(ways[0](), ways[1](), rtol=1e-3, atol=1e-3):
            return None
        start = time.perf_counter()
        while time.perf_counter() - start < MEASURED:
            for i, way in enumerate(ways):
                begin = time.perf_counter()
                way()
                best[i] = min(best[i], time.perf_counter() - begin)
    except (AttributeError, RuntimeError, TypeError, MemoryError):  # another version of PyTorch
        return None
    finally:
        torch.set_num_threads(n_threads)
    return best[0] / best[1]


def is_onednn_faster() -> bool:
    """Whether oneDNN multiplies clearly faster than MKL on this processor."""
    speed = onednn_speed()
    return speed is not None and speed >= CLEARLY
