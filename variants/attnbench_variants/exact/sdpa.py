"""Torch's scaled_dot_product_attention, a variant for each of its backends: that backend runs, or nothing.

    out = softmax(q k^T / sqrt(D)) v          q [T, D], k, v [S, D]

Queries are the last T positions of the keys. A backend that does not run a small example of the case raises Unsupported
with torch's reason. Time: O(T S D). Memory beyond the output: O(T S) for `sdpa-math`, O(T) for the others.
"""

from functools import partial

from attnbench import Case, Support
from attnbench_variants.blocks.flop_counts import executed_densely
from attnbench_variants.exact.pinned import Pinned, proved
from attnbench_variants.exact.torch_kernels import NO_WINDOW, torch_cudnn, torch_efficient, torch_flash, torch_math


class SdpaMath(Pinned):
    """Torch's unfused formulation (SDPBackend.MATH): the scores are materialised, as in `vanilla`.

    Queries are the last T positions of the keys. A window, and a causal mask with fewer queries than keys, is a dense
    mask of T x S.
    """

    supports = Support(devices=("cpu", "cuda"), window=True, grouped=True, exact=True, growth=2)

    kernel = staticmethod(partial(proved, torch_math))

    @staticmethod
    def flops(case: Case) -> int:
        """Count the matrix products that are executed: every pair of query and key, seen or not."""
        return executed_densely(case)


class SdpaFlash(Pinned):
    """Torch's flash kernel (SDPBackend.FLASH_ATTENTION; Dao 2023 on CUDA, the same algorithm on CPUs).

    Queries are the last T positions of the keys. Torch's own causal flag counts from the first: with fewer queries than
    keys it is `causal_lower_right` on CUDA, and on a CPU two calls of the kernel, merged by their log-sum-exps.
    """

    supports = Support(devices=("cpu", "cuda"), window=NO_WINDOW, grouped=True, exact=True, growth=2)

    kernel = staticmethod(partial(proved, torch_flash))


class SdpaEfficient(Pinned):
    """Torch's memory-efficient kernel (SDPBackend.EFFICIENT_ATTENTION; Rabe and Staats 2021); CUDA only.

    Queries are the last T positions of the keys: with a causal mask and fewer of them by `causal_lower_right`.
    """

    supports = Support(devices=("cuda",), window=NO_WINDOW, grouped=True, exact=True, growth=2)

    kernel = staticmethod(partial(proved, torch_efficient))


class SdpaCudnn(Pinned):
    """The kernel of NVIDIA's cuDNN as torch calls it (SDPBackend.CUDNN_ATTENTION): CUDA only, half precision."""

    supports = Support(
        dtypes=("bfloat16", "float16"), devices=("cuda",), window=NO_WINDOW, grouped=True, exact=True, growth=2
    )

    kernel = staticmethod(partial(proved, torch_cudnn))
