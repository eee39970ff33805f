"""Variants that are one kernel and nothing else, proved on a small example of the case before they are measured."""
# B batch, H heads, G key/value heads, T queries, S keys, D head dimension

from collections.abc import Callable
from typing import TypeAlias

import torch

from attnbench import Case, Unsupported
from attnbench_variants.blocks.flop_counts import executed_visible
from attnbench_variants.blocks.fused_kernels import example
from attnbench_variants.exact.package_kernels import Kernel

MakeKernel: TypeAlias = Callable[[Case], Kernel]


class Pinned:
    """A variant of one kernel, which a subclass names as `kernel`."""

    def __init__(self, case: Case) -> None:
        self._kernel = self.kernel(case)
        self.backend = self._kernel.name

    def __call__(self, q_BHTD: torch.Tensor, k_BGSD: torch.Tensor, v_BGSD: torch.Tensor) -> torch.Tensor:
        """Attend: out_BHTD."""
        return self._kernel(q_BHTD, k_BGSD, v_BGSD)

    @staticmethod
    def kernel(case: Case) -> Kernel:
        """Return the kernel for a case. Raises Unsupported with the reason."""
        raise NotImplementedError

    @staticmethod
    def flops(case: Case) -> int:
        """Count the matrix products that are executed: the visible pairs, as kernels skip the others."""
        return executed_visible(case)


def proved(make: MakeKernel, case: Case) -> Kernel:
    """Return a kernel that has run a small example of the case, backward too where the case asks for it.

    Raises Unsupported with the reason, whatever a package raises.
    """
    try:
        kernel = make(case)
        # A variant may be built where gradients are off, and called where they are on.
        with torch.inference_mode(mode=False), torch.enable_grad():
            q_BHTD, k_BGSD, v_BGSD = example(case)
            out_BHTD = kernel(q_BHTD, k_BGSD, v_BGSD)
            if q_BHTD.requires_grad:
                torch.autograd.grad(out_BHTD.sum(), (q_BHTD, k_BGSD, v_BGSD))
    except Unsupported:
        raise
    except Exception as error:
        raise Unsupported(f"{error or type(error).__name__}") from error
    return kernel
