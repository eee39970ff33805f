"""Mechanisms that break the mask, have no matrix, or spoil a gradient, one way each; their outputs look fine."""

# B batch, H heads, T queries, S keys, D head dimension
import random

import numpy as np
import torch

from attnbench import Case, Support


def causal_weights(q, k, *, reach=0):
    """Weigh keys up to `reach` beyond the query's own position, and those before."""
    scores = q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5
    later = torch.ones_like(scores, dtype=torch.bool).triu(k.shape[2] - q.shape[2] + 1 + reach)
    return scores.masked_fill(later, float("-inf")).softmax(-1)


class Causal:
    """Exact causal attention, plainly."""

    supports = Support(exact=True)

    def __init__(self, case: Case) -> None:
        self.seq = case.shape.seq_q

    def __call__(self, q, k, v):
        return causal_weights(q, k) @ v


class LooksAhead(Causal):
    """Calls itself exact and gives the next key a weight too small to stand out in the error."""

    def __call__(self, q, k, v):
        return causal_weights(q, k) @ v + 3e-5 * v.roll(-1, dims=2)


class LooksAheadALittle(Causal):
    """Sees one key too many, and says that it is an approximation."""

    supports = Support()

    def __call__(self, q, k, v):
        return causal_weights(q, k, reach=1) @ v


class ChoosesByLater(Causal):
    """Weighs earlier keys only, but how sharply depends on all queries: no later weight shows in its matrix."""

    supports = Support()

    def __call__(self, q, k, v):
        return causal_weights(q * (1 + q.mean(dim=2, keepdim=True)), k) @ v


class OutsideItsWindow:
    """Causal attention that knows no window, and says that it serves one."""

    supports = Support(window=True)

    def __init__(self, case: Case) -> None:
        pass

    def __call__(self, q, k, v):
        return causal_weights(q, k) @ v


class NotLinear:
    """Normalises its values: what it gives for columns of the identity tells nothing."""

    def __init__(self, case: Case) -> None:
        pass

    def __call__(self, q, k, v):
        return causal_weights(q, k) @ torch.nn.functional.layer_norm(v, v.shape[-1:])


class Dropping:
    """Drops weights anew at every call, by three generators that the whole process shares."""

    def __init__(self, case: Case) -> None:
        pass

    def __call__(self, q, k, v):
        kept = torch.rand(k.shape[2]) < 0.7
        kept[random.randrange(k.shape[2])] = True
        kept[np.random.randint(k.shape[2])] = True  # noqa: NPY002 - the generator that all share is the point
        return causal_weights(q, k) @ (v * kept[:, None])


class DrawsOfItsOwn(Dropping):
    """Drops weights by a generator of its own, which no one can set back."""

    def __init__(self, case: Case) -> None:
        self.generator = torch.Generator().manual_seed(0)

    def __call__(self, q, k, v):
        return causal_weights(q, k) @ (v * (torch.rand(k.shape[2], generator=self.generator) < 0.7)[:, None])


class NaNGradients:
    """Exact attention whose gradient of the queries is NaN in three places."""

    supports = Support(exact=True)

    def __init__(self, case: Case) -> None:
        pass

    def __call__(self, q, k, v):
        q = q.clone()
        if q.requires_grad:
            q.register_hook(spoilt)
        return torch.softmax(q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5, -1) @ v


def spoilt(gradient):
    """Give a gradient with two NaN and an infinity."""
    gradient = gradient.clone()
    gradient.view(-1)[:3] = torch.tensor([float("nan"), float("nan"), float("inf")])
    return gradient


class WrongGradient(Causal):
    """Exact in its output; the gradient of its keys is a thousandth too large, which the values' gradient drowns."""

    def __call__(self, q, k, v):
        k = k.clone()
        if k.requires_grad:
            k.register_hook(lambda gradient: 1.001 * gradient)
        return causal_weights(q, k) @ v


class OneByOne:
    """Exact: adds what a key weighs, and the weight, to sums in its dtype, one key after another."""

    supports = Support(exact=True)

    def __init__(self, case: Case) -> None:
        pass

    def __call__(self, q, k, v):
        total_BHT1, out_BHTD = 0, 0
        for weight_BHT1, v_BH1D in zip(self.weights(q, k).split(1, dim=-1), v.split(1, dim=-2), strict=True):
            total_BHT1, out_BHTD = total_BHT1 + weight_BHT1, out_BHTD + weight_BHT1 * v_BH1D
        return out_BHTD / total_BHT1

    def weights(self, q, k):
        return torch.exp(q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5)


class RoughExponentials(OneByOne):
    """Calls itself exact, and its exponentials are good to 16 bits."""

    def weights(self, q, k):
        weights = super().weights(q, k)
        return weights * (1 + 2.0**-16 * torch.sin(1e4 * weights))


class NarrowWeights(OneByOne):
    """Calls itself exact, and holds its weights in bfloat16."""

    def weights(self, q, k):
        return super().weights(q, k).bfloat16().to(q.dtype)
