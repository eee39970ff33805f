"""Torch's own fused kernels, each given its case's mask in a form that it takes."""
# B batch, H heads, G key/value heads, T queries, S keys, D head dimension

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import scaled_dot_product_attention

from attnbench import Case, Unsupported
from attnbench_variants.blocks.fused_kernels import Fused
from attnbench_variants.blocks.lse_kernels import FUSED_CPU, Chunks
from attnbench_variants.blocks.masks import visible_keys
from attnbench_variants.blocks.merging import attend_in_parts
from attnbench_variants.exact.key_blocks import key_blocks
from attnbench_variants.exact.package_kernels import Kernel

NO_WINDOW = "torch's fused kernels have no window"


class Aligned:
    """Torch's call as it is: every query sees all keys, or there are as many queries as keys, causally."""

    def __init__(self, case: Case, backend: SDPBackend) -> None:
        # A single query is the last position and sees every key.
        self._causal = case.mask.causal and case.shape.seq_q > 1
        self._fused = Fused(case, among=(backend,))
        self.name = self._fused.name

    def __call__(self, q_BHTD: torch.Tensor, k_BGSD: torch.Tensor, v_BGSD: torch.Tensor) -> torch.Tensor:
        """Attend: out_BHTD."""
        return self._fused(q_BHTD, k_BGSD, v_BGSD, causal=self._causal)


class InParts:
    """Causal with fewer queries than keys on a CPU, whose kernel aligns its mask at the first key.

    The keys before all queries and the square after them are attended to separately and merged, without a mask.
    """

    name = FUSED_CPU.name

    def __call__(self, q_BHTD: torch.Tensor, k_BGSD: torch.Tensor, v_BGSD: torch.Tensor) -> torch.Tensor:
        """Attend: out_BHTD."""
        whole = Chunks(q_BHTD, k_BGSD, v_BGSD, causal=True, scale=q_BHTD.shape[3] ** -0.5)
        parts = list(key_blocks(whole, blocks=1))
        return attend_in_parts(parts, queries=q_BHTD.shape[2], kernel=FUSED_CPU).view(q_BHTD.shape)


class LowerRight:
    """Causal with fewer queries than keys on CUDA: torch's bias for a mask aligned at the last key."""

    def __init__(self, case: Case, backend: SDPBackend) -> None:
        self._backend = backend
        self.name = Fused(case, among=(backend,)).name

    def __call__(self, q_BHTD: torch.Tensor, k_BGSD: torch.Tensor, v_BGSD: torch.Tensor) -> torch.Tensor:
        """Attend: out_BHTD. A kernel that does not take the bias raises, as torch may not choose another."""
        grouped = q_BHTD.shape[1] != k_BGSD.shape[1]
        from torch.nn.attention.bias import causal_lower_right  # imports the compiler: a second in a fresh process

        bias = causal_lower_right(q_BHTD.shape[2], k_BGSD.shape[2])
        with sdpa_kernel(self._backend):
            return scaled_dot_product_attention(q_BHTD, k_BGSD, v_BGSD, bias, enable_gqa=grouped)


class Masked:
    """Any mask, as a dense one of T x S."""

    def __init__(self, case: Case, backend: SDPBackend) -> None:
        self._mask = case.mask
        self._fused = Fused(case, among=(backend,), masked=True)
        self.name = self._fused.name

    def __call__(self, q_BHTD: torch.Tensor, k_BGSD: torch.Tensor, v_BGSD: torch.Tensor) -> torch.Tensor:
        """Attend: out_BHTD."""
        queries, keys = q_BHTD.shape[2], k_BGSD.shape[2]
        mask_TS = visible_keys(self._mask, queries=queries, keys=keys, device=q_BHTD.device)
        return self._fused(q_BHTD, k_BGSD, v_BGSD, mask=mask_TS)


def torch_math(case: Case) -> Kernel:
    """Return torch's unfused formulation, which takes any mask. Raises Unsupported."""
    masked = case.mask.window is not None or _trails(case)
    return (Masked if masked else Aligned)(case, SDPBackend.MATH)


def torch_flash(case: Case) -> Kernel:
    """Return torch's flash kernel. Raises Unsupported."""
    _without_window(case)
    if not _trails(case):
        return Aligned(case, SDPBackend.FLASH_ATTENTION)
    return InParts() if case.device == "cpu" else LowerRight(case, SDPBackend.FLASH_ATTENTION)


def torch_efficient(case: Case) -> Kernel:
    """Return torch's memory-efficient kernel. Raises Unsupported."""
    _without_window(case)
    return (LowerRight if _trails(case) else Aligned)(case, SDPBackend.EFFICIENT_ATTENTION)


def torch_cudnn(case: Case) -> Kernel:
    """Return cuDNN's kernel as torch calls it. Raises Unsupported."""
    _without_window(case)
    if _trails(case):
        raise Unsupported("torch has cuDNN align a causal mask at the first key, not at the last")
    return Aligned(case, SDPBackend.CUDNN_ATTENTION)


def _trails(case: Case) -> bool:
    """Return whether the causal mask is that of several queries at the end of more keys."""
    return case.mask.causal and 1 < case.shape.seq_q < case.shape.seq_k


def _without_window(case: Case) -> None:
    if case.mask.window is not None:
        raise Unsupported(NO_WINDOW)
