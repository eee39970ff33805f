"""What the speed table times: mechanisms as calls on one workload, forward or with gradients."""

# H heads, N tokens, D head dimension, E width (H * D)
from collections.abc import Callable
from typing import Any

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import scaled_dot_product_attention

from attnbench import Shape
from helpers import peers

HEADS, DIM = 8, 64
Call = Callable[[], object]


class Inputs:
    """Queries, keys and values [1, H, N, D], tokens [1, N, E], and what a gradient starts from, drawn once."""

    def __init__(self, tokens: int) -> None:
        generator = torch.Generator().manual_seed(0)
        self.q, self.k, self.v, self.cotangent = (
            torch.randn(1, HEADS, tokens, DIM, generator=generator) for _ in range(4)
        )
        self.x = torch.randn(1, tokens, HEADS * DIM, generator=generator)

    @property
    def qkv(self) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        return self.q, self.k, self.v

    @property
    def shape(self) -> Shape:
        return peers.shape(self.q.shape[2], heads=HEADS, dim=DIM)


def forward(attend: Callable[..., Any], *inputs: torch.Tensor) -> Call:
    """Call without gradients."""

    def call() -> object:
        with torch.no_grad():
            return attend(*inputs)

    return call


def both_passes(attend: Callable[..., Any], cotangent: torch.Tensor, *inputs: torch.Tensor) -> Call:
    """Call, and differentiate for every input, one that stands for two once."""
    leaves = {id(x): x.detach().clone().requires_grad_() for x in inputs}

    def call() -> object:
        out = attend(*(leaves[id(x)] for x in inputs))
        return torch.autograd.grad(out, list(leaves.values()), cotangent.reshape(out.shape))

    return call


def sdpa(*, causal: bool = False) -> Callable[..., Any]:
    return lambda q, k, v: scaled_dot_product_attention(q, k, v, is_causal=causal)


def sdpa_math(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    with sdpa_kernel(SDPBackend.MATH):
        return scaled_dot_product_attention(q, k, v)


def flex_window(tokens: int, *, width: int) -> Callable[..., Any]:
    """Give FlexAttention, compiled, with a causal window."""
    from torch.nn.attention.flex_attention import create_block_mask, flex_attention

    def sees(_b: Any, _h: Any, i: Any, j: Any) -> Any:
        return (j <= i) & (i - j < width)

    mask = create_block_mask(sees, None, None, tokens, tokens, device="cpu")
    compiled = torch.compile(flex_attention)
    return lambda q, k, v: compiled(q, k, v, block_mask=mask)
