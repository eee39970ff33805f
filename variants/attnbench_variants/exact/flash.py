"""Fused exact attention that never holds the scores: the first kernel of a fixed list that can run the case."""
# B batch, H heads, G key/value heads, T queries, S keys, D head dimension

from collections.abc import Callable

import torch
from torch.nn.attention import SDPBackend

from attnbench import Case, Support, Unsupported
from attnbench_variants.blocks.counting import executed
from attnbench_variants.blocks.fused import Fused, example
from attnbench_variants.blocks.visible import visible_pairs
from attnbench_variants.exact.kernels import Kernel, Xformers, flash_attn2, flash_attn3


class TorchFlash:
    """Torch's own flash kernel, for CPUs and CUDA, pinned."""

    def __init__(self, case: Case) -> None:
        shape, mask = case.shape, case.mask
        if mask.window is not None:
            raise Unsupported("its flash kernel has no window")
        # A single query is the last position and sees every key.
        self._causal = mask.causal and shape.seq_q > 1
        if self._causal and shape.seq_q != shape.seq_k:
            raise Unsupported("its flash kernel aligns a causal mask at the first key, not at the last")
        self._fused = Fused(case, among=(SDPBackend.FLASH_ATTENTION,))
        self.name = self._fused.name

    def __call__(self, q_BHTD: torch.Tensor, k_BGSD: torch.Tensor, v_BGSD: torch.Tensor) -> torch.Tensor:
        """Attend: out_BHTD."""
        return self._fused(q_BHTD, k_BGSD, v_BGSD, causal=self._causal)


KERNELS: dict[str, dict[str, Callable[[Case], Kernel]]] = {
    "cpu": {"torch": TorchFlash},
    "cuda": {"flash-attn 3": flash_attn3, "flash-attn 2": flash_attn2, "xformers": Xformers, "torch": TorchFlash},
}


class Flash:
    """Exact attention in one fused kernel, blocks of scores at a time (Dao et al. 2022, algorithm 1).

    Of the device's list (CUDA: flash-attn 3, flash-attn 2, xformers, torch; CPU: torch) the first that runs a small
    example of the case; which one, and its version, is `backend`. Raises Unsupported with each one's reason if none
    runs. Queries are the last T positions of the keys; windows are those of `vanilla`. Memory beyond the output: O(T).
    """

    supports = Support(devices=("cpu", "cuda"), window=True, grouped=True, exact=True, growth=2)

    def __init__(self, case: Case) -> None:
        self._kernel = first_that_runs(case)
        self.backend = self._kernel.name

    def __call__(self, q_BHTD: torch.Tensor, k_BGSD: torch.Tensor, v_BGSD: torch.Tensor) -> torch.Tensor:
        """Attend: out_BHTD."""
        return self._kernel(q_BHTD, k_BGSD, v_BGSD)

    @staticmethod
    def flops(case: Case) -> int:
        """Count the matrix products that are executed: the visible pairs, as kernels skip the others."""
        shape = case.shape
        pairs = visible_pairs(case.mask, queries=shape.seq_q, keys=shape.seq_k)
        return executed(4 * shape.batch * shape.heads * pairs * shape.head_dim, case, scores="recomputed")


def first_that_runs(case: Case) -> Kernel:
    """Give the device's first kernel that takes the case, proved on a small example of it.

    Raises Unsupported with the reason of each.
    """
    reasons = []
    for name, make in KERNELS[case.device.partition(":")[0]].items():
        try:
            kernel = make(case)
            _prove(kernel, case)
        except Exception as error:  # whatever a foreign package raises is its reason
            reasons.append(f"{name}: {error or type(error).__name__}")
        else:
            return kernel
    raise Unsupported("; ".join(reasons))


def _prove(kernel: Kernel, case: Case) -> None:
    # A variant may be built where gradients are off, and called where they are on.
    with torch.inference_mode(mode=False), torch.enable_grad():
        q_BHTD, k_BGSD, v_BGSD = example(case)
        out_BHTD = kernel(q_BHTD, k_BGSD, v_BGSD)
        if q_BHTD.requires_grad:
            torch.autograd.grad(out_BHTD.sum(), (q_BHTD, k_BGSD, v_BGSD))
