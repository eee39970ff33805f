"""Mechanisms that start from tokens."""

# B batch, T tokens, E width
import torch

from attnbench import Case, Support


class Mean:
    """Give each token the mean of all tokens, or causally of those up to it."""

    supports = Support(level="layer", cross="its tokens are averaged among themselves")

    def __init__(self, case: Case) -> None:
        assert case.level == "layer"
        self.causal = case.mask.causal

    def __call__(self, x_BTE):
        if not self.causal:
            return x_BTE.mean(dim=1, keepdim=True).expand_as(x_BTE)
        counts_T1 = torch.arange(1, x_BTE.shape[1] + 1).to(x_BTE)[:, None]
        return x_BTE.cumsum(dim=1) / counts_T1


class SteppingMean(Mean):
    """The same, and token by token from a running sum."""

    supports = Support(level="layer")

    def prefill(self, x_BSE):
        return x_BSE.sum(dim=1, keepdim=True), x_BSE.shape[1]

    def step(self, x_B1E, state):
        total_B1E, count = state
        total_B1E = total_B1E + x_B1E
        return total_B1E / (count + 1), (total_B1E, count + 1)


class MeanOfOthers:
    """Give each token the mean of the tokens of the other sequence, if there is one, or else of its own."""

    supports = Support(level="layer", causal=False)

    def __init__(self, case: Case) -> None:
        pass

    def __call__(self, x_BTE, y_BSE=None):
        y_BSE = x_BTE if y_BSE is None else y_BSE
        return y_BSE.mean(dim=1, keepdim=True).expand_as(x_BTE)
