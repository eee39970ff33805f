"""Two callables held against each other: outputs, and the gradients of their inputs."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from attnbench import Attention, Case
from references import REFERENCES

FLOAT64, FLOAT32 = 1e-10, 1e-5  # how far two orders of the same additions may lie apart, relative


def draw(count: int, *sizes: int, dtype: torch.dtype = torch.float64, seed: int = 0) -> list[Tensor]:
    """Draw tensors of one size, the same for the same seed."""
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(sizes, generator=generator, dtype=torch.float64).to(dtype) for _ in range(count)]


def assert_same(ours: Tensor, theirs: Tensor, *, tolerance: float) -> None:
    torch.testing.assert_close(ours, theirs, rtol=tolerance, atol=tolerance, check_dtype=False)


def assert_parity(
    ours: Callable[..., Tensor], theirs: Callable[..., Tensor], *inputs: Tensor, tolerance: float
) -> None:
    """Compare what both give for the inputs, and the gradients that both give them.

    Ours is called without gradients too, as it may then go another way.
    """
    with torch.no_grad():
        untracked = ours(*inputs)
    (out, *gradients), (their_out, *their_gradients) = (with_gradients(attend, inputs) for attend in (ours, theirs))
    assert_same(untracked, their_out, tolerance=tolerance)
    assert_same(out, their_out, tolerance=tolerance)
    for gradient, their_gradient in zip(gradients, their_gradients, strict=True):
        assert_same(gradient, their_gradient, tolerance=tolerance)


def with_gradients(attend: Callable[..., Tensor], inputs: Sequence[Tensor]) -> tuple[Tensor, ...]:
    """Give the output, and the gradients of a fixed random sum of it."""
    leaves = [x.detach().clone().requires_grad_() for x in inputs]
    out = attend(*leaves)
    [cotangent] = draw(1, *out.shape, dtype=out.dtype, seed=9)
    return out.detach(), *torch.autograd.grad(out, leaves, cotangent)


def rows_that_differ(ours: Tensor, theirs: Tensor, *, tolerance: float) -> Tensor:
    """Tell of each row, a vector of the last dimension, whether it differs by more than rounding."""
    return (ours - theirs).abs().amax(dim=-1) > tolerance * theirs.abs().amax()


def by_the_paper(attention: Attention, of: Case, *qkv: Tensor) -> Tensor:
    """Give what the plain formulation gives that the law tests hold the mechanism against."""
    return REFERENCES[of.variant].attend(attention, *qkv, of)
