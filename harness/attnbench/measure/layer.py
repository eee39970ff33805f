"""The layer level: a mechanism between the standard projections, and exact attention between the same projections."""

# B batch, H heads, G key/value heads, T queries, S keys, R chosen query rows, D head dimension, E width (H * D)
import copy
import math
from typing import Any

import torch
from torch.nn.functional import linear, pad

from attnbench.contracts.case import Case, Mask, seed_for
from attnbench.contracts.variant import Attention, has_from_tokens, has_steps
from attnbench.measure.checks import output_like
from attnbench.measure.inputs import Inputs, Tokens
from attnbench.measure.reference import exact_attention, exact_gradients

Heads = tuple[torch.Tensor, torch.Tensor, torch.Tensor]


class Projections(torch.nn.Module):
    """Project tokens to heads, and joined heads back (Vaswani et al. 2017, section 3.2.2): no bias, no normalisation.

    Its first half is the attnbench.Projections that `from_tokens` receives.

    Wq and Wo are [E, E], Wk and Wv [G * D, E]; with `tied`, keys are the queries and there is no Wk. Weights are drawn
    from the seed, in a stream of their own, as normals of variance 1 / E: heads have the variance of the tokens.
    """

    def __init__(self, case: Case, *, tied: bool) -> None:
        super().__init__()
        self.heads, self.kv_heads = case.shape.heads, case.shape.kv_heads
        width, kv_width = (heads * case.shape.head_dim for heads in (self.heads, self.kv_heads))
        generator = torch.Generator().manual_seed(seed_for(case.seed, "projections"))

        def weight(features: int) -> torch.nn.Parameter:
            drawn = torch.randn(features, width, generator=generator) / math.sqrt(width)
            return torch.nn.Parameter(drawn, requires_grad=case.differentiates)

        self.wq, self.wo, self.wv = weight(width), weight(width), weight(kv_width)
        self.wk = None if tied else weight(kv_width)

    def queries(self, x_BTE: torch.Tensor) -> torch.Tensor:
        """Return q_BHTD."""
        return _split(linear(x_BTE, self.wq), self.heads)

    def keys(self, y_BSE: torch.Tensor) -> torch.Tensor:
        """Return k_BGSD."""
        return _split(linear(y_BSE, self.wq if self.wk is None else self.wk), self.kv_heads)

    def values(self, y_BSE: torch.Tensor) -> torch.Tensor:
        """Return v_BGSD."""
        return _split(linear(y_BSE, self.wv), self.kv_heads)

    def to_heads(self, x_BTE: torch.Tensor, y_BSE: torch.Tensor) -> Heads:
        """Return q_BHTD of x, and k_BGSD and v_BGSD of y; tied queries and keys are one tensor."""
        q_BHTD = self.queries(x_BTE)
        return q_BHTD, q_BHTD if self.wk is None else self.keys(y_BSE), self.values(y_BSE)

    def join(self, out_BHTD: torch.Tensor) -> torch.Tensor:
        """Join heads and project them: out_BTE."""
        return linear(out_BHTD.transpose(1, 2).flatten(2), self.wo)


class Layer(torch.nn.Module):
    """A core mechanism called with tokens: out_BTE = layer(x_BTE), or layer(x_BTE, y_BSE) for cross-attention.

    The layer projects tokens to heads, unless the mechanism has `from_tokens`. It decodes with the mechanism's own
    state, or else a cache of projected keys and values whose last position each step overwrites with its token's.
    """

    def __init__(self, case: Case, attention: Attention, *, tied: bool) -> None:
        super().__init__()
        self.projections = Projections(case, tied=tied)
        self.attention: Any = attention
        self._has_steps = has_steps(attention)

    def forward(self, x_BTE: torch.Tensor, y_BSE: torch.Tensor | None = None) -> torch.Tensor:
        """Return out_BTE."""
        y_BSE = x_BTE if y_BSE is None else y_BSE
        if has_from_tokens(self.attention):
            out_BHTD = self.attention.from_tokens(x_BTE, y_BSE, self.projections)
            like_BHTD = _split(x_BTE, self.projections.heads)
        else:
            like_BHTD, k_BGSD, v_BGSD = self.projections.to_heads(x_BTE, y_BSE)
            out_BHTD = self.attention(like_BHTD, k_BGSD, v_BGSD)
        return self.projections.join(output_like(out_BHTD, like_BHTD))

    def prefill(self, x_BSE: torch.Tensor) -> Any:
        """Return the state after a sequence."""
        k_BGSD, v_BGSD = self.projections.keys(x_BSE), self.projections.values(x_BSE)
        if self._has_steps:
            return self.attention.prefill(k_BGSD, v_BGSD)
        return _extended(k_BGSD), _extended(v_BGSD)

    def step(self, x_B1E: torch.Tensor, state: Any) -> tuple[torch.Tensor, Any]:
        """Return (out_B1E, next state) of a token that attends to itself and to all before it."""
        q_BH1D, k_BG1D, v_BG1D = self.projections.to_heads(x_B1E, x_B1E)
        if self._has_steps:
            out_BH1D, after = self.attention.step(q_BH1D, k_BG1D, v_BG1D, state)
        else:
            k_BGSD, v_BGSD = state
            k_BGSD[:, :, -1:], v_BGSD[:, :, -1:] = k_BG1D, v_BG1D
            out_BH1D, after = self.attention(q_BH1D, k_BGSD, v_BGSD), state
        return self.projections.join(output_like(out_BH1D, q_BH1D)), after


def exact_outputs(
    projections: Projections, tokens: Tokens, *, mask: Mask, rows_R: torch.Tensor
) -> tuple[torch.Tensor, ...]:
    """Return (out_BRE,) of exact attention between these projections, in the dtype of the tokens."""
    own = _like(projections, tokens)
    with torch.no_grad():
        return (own.join(exact_attention(*own.to_heads(*tokens.sources), mask=mask, rows_R=rows_R)),)


def exact_layer_gradients(
    projections: Projections, tokens: Tokens, *, mask: Mask, rows_R: torch.Tensor
) -> tuple[torch.Tensor, ...]:
    """Return the gradients of exact attention between projections, in the order of `leaves`.

    Row i of the cotangent belongs to the i-th chosen row. The projections are differentiated by autograd, attention one
    head at a time by `exact_gradients`.
    """
    own = _like(projections, tokens)
    with torch.enable_grad():
        q_BHTD, k_BGSD, v_BGSD = own.to_heads(*tokens.sources)
    q, v = q_BHTD.detach(), v_BGSD.detach()
    k = q if own.wk is None else k_BGSD.detach()
    mixed_BHRD = exact_attention(q, k, v, mask=mask, rows_R=rows_R).requires_grad_()
    with torch.enable_grad():
        out_BRE = own.join(mixed_BHRD)
    grad_BHRD, grad_wo = torch.autograd.grad(out_BRE, (mixed_BHRD, own.wo), tokens.cotangent[:, : len(rows_R)])
    inner = Inputs(q_BHTD=q, k_BGSD=k, v_BGSD=v, cotangent=grad_BHRD)
    heads = (q_BHTD, v_BGSD) if inner.tied else (q_BHTD, k_BGSD, v_BGSD)
    before_heads = [leaf for name, leaf in leaves(own, tokens).items() if name != "wo"]
    return *torch.autograd.grad(heads, before_heads, exact_gradients(inner, mask=mask, rows_R=rows_R)), grad_wo


def leaves(projections: Projections, tokens: Tokens) -> dict[str, torch.Tensor]:
    """Return the tensors whose gradients are compared at layer level, by name: x (and y), then the weights, wo last."""
    wk = {} if projections.wk is None else {"wk": projections.wk}
    return {**tokens.leaves, "wq": projections.wq, **wk, "wv": projections.wv, "wo": projections.wo}


def _like(projections: Projections, tokens: Tokens) -> Projections:
    return copy.deepcopy(projections).to(tokens.x_BTE.dtype)


def _split(x_BTF: torch.Tensor, heads: int) -> torch.Tensor:
    batch, length, _ = x_BTF.shape
    return x_BTF.view(batch, length, heads, -1).transpose(1, 2)


def _extended(x_BGSD: torch.Tensor) -> torch.Tensor:
    """Return a cache with one more position, for the token that is decoded."""
    return pad(x_BGSD, (0, 0, 0, 1)).contiguous()
