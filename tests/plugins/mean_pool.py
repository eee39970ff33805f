"""Uniform attention: every query averages the values it may see."""

# B batch, H heads, T queries, S keys, D head dimension
import torch

from attnbench import Case, Unsupported


class MeanPool(torch.nn.Module):
    def __init__(self, case: Case) -> None:
        super().__init__()
        if case.mask.window is not None or case.shape.kv_heads != case.shape.heads:
            raise Unsupported("mean pooling has no window and no grouped heads")
        self.causal = case.mask.causal

    def forward(self, q_BHTD, k_BHSD, v_BHSD):
        queries, keys = q_BHTD.shape[2], v_BHSD.shape[2]
        if not self.causal:
            return v_BHSD.mean(dim=2, keepdim=True).expand_as(q_BHTD)
        counts_S1 = torch.arange(1, keys + 1).to(v_BHSD)[:, None]
        return (v_BHSD.cumsum(dim=2) / counts_S1)[:, :, keys - queries :]
