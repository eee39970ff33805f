"""The flash kernels of other packages behind one call, each pinned so that nothing else can run in its place."""
# B batch, H heads, G key/value heads, T queries, S keys, D head dimension

import importlib
from collections.abc import Callable
from importlib import metadata
from typing import Any, Protocol

import torch

from attnbench import Case, Mask, Unsupported


class Kernel(Protocol):
    """A kernel with the mask of its case built in; `name` holds its version."""

    name: str

    def __call__(self, q_BHTD: torch.Tensor, k_BGSD: torch.Tensor, v_BGSD: torch.Tensor, /) -> torch.Tensor:
        """Attend: out_BHTD."""
        ...


class FlashAttn:
    """`flash_attn_func` of a flash-attn: masks aligned at the end, windows, grouped heads (Dao 2023).

    `unlimited`: the release's value for a side of the window without a limit.
    """

    def __init__(self, case: Case, *, function: Callable[..., Any], name: str, unlimited: int | None = -1) -> None:
        self.name = name
        self._function = function
        self._causal = case.mask.causal
        self._window = tuple(unlimited if side < 0 else side for side in window_sides(case.mask))

    def __call__(self, q_BHTD: torch.Tensor, k_BGSD: torch.Tensor, v_BGSD: torch.Tensor) -> torch.Tensor:
        """Attend in the kernel's own layout, [B, T, H, D]."""
        q, k, v = (x.transpose(1, 2) for x in (q_BHTD, k_BGSD, v_BGSD))
        answer = self._function(q, k, v, causal=self._causal, window_size=self._window)
        # Some releases of flash-attn 3 and 4 also return the log-sum-exp.
        out_BTHD: torch.Tensor = answer[0] if isinstance(answer, tuple) else answer
        return out_BTHD.transpose(1, 2)


class Xformers:
    """`memory_efficient_attention` of xformers, its flash operators pinned (they have no grouped backward)."""

    def __init__(self, case: Case) -> None:
        if case.shape.kv_heads != case.shape.heads:
            raise Unsupported("its flash operators take no grouped heads")
        ops = importlib.import_module("xformers.ops")
        self.name = f"xformers-flash {importlib.import_module('xformers').__version__}"
        self._function = ops.memory_efficient_attention
        self._operators = ops.MemoryEfficientAttentionFlashAttentionOp
        self._bias = _bias(importlib.import_module("xformers.ops.fmha.attn_bias"), case.mask)

    def __call__(self, q_BHTD: torch.Tensor, k_BHSD: torch.Tensor, v_BHSD: torch.Tensor) -> torch.Tensor:
        """Attend in the kernel's own layout, [B, T, H, D]."""
        q, k, v = (x.transpose(1, 2) for x in (q_BHTD, k_BHSD, v_BHSD))
        out_BTHD: torch.Tensor = self._function(q, k, v, attn_bias=self._bias, op=self._operators)
        return out_BTHD.transpose(1, 2)


def flash_attn4(case: Case) -> Kernel:
    """Load flash-attn 4 (Hopper, Blackwell). Raises ImportError or PackageNotFoundError where it is not installed."""
    function = importlib.import_module("flash_attn.cute").flash_attn_func
    name = f"flash-attn {metadata.version('flash-attn-4')}"
    return FlashAttn(case, function=function, name=name, unlimited=None)


def flash_attn3(case: Case) -> Kernel:
    """Load flash-attn 3 (Hopper). Raises ImportError or PackageNotFoundError where it is not installed."""
    function = importlib.import_module("flash_attn_interface").flash_attn_func
    return FlashAttn(case, function=function, name=f"flash-attn {metadata.version('flash_attn_3')}")


def flash_attn2(case: Case) -> Kernel:
    """Load flash-attn 2 (Ampere and later). Raises ImportError or PackageNotFoundError where it is not installed."""
    # Not from `flash_attn` itself, which flash-attn 4 makes a package too.
    function = importlib.import_module("flash_attn.flash_attn_interface").flash_attn_func
    return FlashAttn(case, function=function, name=f"flash-attn {metadata.version('flash-attn')}")


def window_sides(mask: Mask) -> tuple[int, int]:
    """Return how many keys before and after its own a query sees; -1 where there is no limit."""
    if mask.window is None:
        return -1, -1
    return mask.window - 1, 0 if mask.causal else mask.window - 1


def _bias(biases: Any, mask: Mask) -> object:
    """Return the mask in xformers' terms: aligned at the end, and None where a query sees all keys."""
    before, after = window_sides(mask)
    if mask.window is not None:
        return biases.LocalAttentionFromBottomRightMask(window_left=before, window_right=after)
    return biases.LowerTriangularFromBottomRightMask() if mask.causal else None
