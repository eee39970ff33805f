"""Exact attention in one fused kernel that never holds the scores: the first of a fixed list that can run the case.

Dao et al. 2022, "FlashAttention", algorithm 1, for blocks j of keys, with m the running maximum and l the running sum:

    s = q k_j^T / sqrt(D),  m' = max(m, max s),  p = exp(s - m')
    l <- exp(m - m') l + sum p,   o <- exp(m - m') o + p v_j,   m <- m';   at the end out = o / l

CUDA: flash-attn 3, flash-attn 4, flash-attn 2, xformers, torch; CPU: torch. Which one runs, and its version, is
`backend`; the choice is proved on a small example of the case. Raises Unsupported with each one's reason if none runs.

Queries are the last T positions of the keys. Where a causal mask makes fewer queries than keys of it, torch's kernel
runs twice on a CPU, for the keys before all queries and for the square after them, merged by their log-sum-exps.
Windows are those of `vanilla`; on a CPU no kernel has them. Time: O(T S D). Memory beyond the output: O(T).
"""

from attnbench import Case, Support, Unsupported
from attnbench_variants.exact.package_kernels import Kernel, Xformers, flash_attn2, flash_attn3, flash_attn4
from attnbench_variants.exact.pinned import MakeKernel, Pinned, proved
from attnbench_variants.exact.torch_kernels import torch_flash

# On Hopper flash-attn 3 is the fastest and runs nowhere later; 4 is made for Hopper and Blackwell, 2 for all since
# Ampere, where a later one may refuse to run.
KERNELS: dict[str, dict[str, MakeKernel]] = {
    "cpu": {"torch": torch_flash},
    "cuda": {
        "flash-attn 3": flash_attn3,
        "flash-attn 4": flash_attn4,
        "flash-attn 2": flash_attn2,
        "xformers": Xformers,
        "torch": torch_flash,
    },
}


def first_that_runs(case: Case) -> Kernel:
    """Return the device's first kernel that takes the case, proved on a small example of it.

    Raises Unsupported with the reason of each.
    """
    reasons = []
    for name, make in KERNELS[case.device.partition(":")[0]].items():
        try:
            return proved(make, case)
        except Unsupported as refusal:
            reasons.append(f"{name}: {refusal}")
    raise Unsupported("; ".join(reasons))


class Flash(Pinned):
    """Exact attention in one fused kernel, blocks of scores at a time (Dao et al. 2022, algorithm 1)."""

    supports = Support(devices=("cpu", "cuda"), window=True, grouped=True, exact=True, growth=2)
    kernel = staticmethod(first_that_runs)
