"""Exact attention as the harness's own models have it: what a mechanism is put in place of."""

import torch
from torch.nn.functional import scaled_dot_product_attention

from attnbench.contracts.case import Case
from attnbench.contracts.variant import Support


class Exact:
    """Scaled dot-product attention (Vaswani et al. 2017, equation 1), by torch's fused kernel where there is one."""

    supports = Support(exact=True)
    backend = "torch"

    def __init__(self, case: Case) -> None:
        self.causal = case.mask.causal

    def __call__(self, q_BHTD: torch.Tensor, k_BHSD: torch.Tensor, v_BHSD: torch.Tensor) -> torch.Tensor:
        """Return out_BHTD."""
        return scaled_dot_product_attention(q_BHTD, k_BHSD, v_BHSD, is_causal=self.causal)
