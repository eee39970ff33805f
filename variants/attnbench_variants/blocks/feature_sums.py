"""Sums over keys of their features, with their values and alone: what attention by features keeps of the past."""
# X = B * H sequences (Y = B * G of key/value heads), R query heads of a group, T queries, S keys, D dimension of the
# values, F features; runs of C rows. Queries and keys have a dimension of their own: K

import math
from collections.abc import Iterator
from typing import NamedTuple

import torch

from attnbench_variants.blocks.feature_maps import FeatureMap

# Numbers in a run of rows whose features stay in a CPU's cache: with 2**17 two threads take a sixth longer.
_CACHED_NUMBERS, _FEWEST_ROWS = 2**20, 64


class Sums(NamedTuple):
    """What is kept of keys: sum_s f(k_s) v_s, sum_s f(k_s), and how many they are.

    Features given by their exponents are exp(exponent - peak), where peak is the largest of all these keys.
    """

    values_XFD: torch.Tensor
    weights_X1F: torch.Tensor
    peak_X1F: torch.Tensor
    keys: int


def keys_summed(k_XSK: torch.Tensor, v_XSD: torch.Tensor, *, features: FeatureMap) -> Sums:
    """Sum f(k_s) v_s and f(k_s) over all keys, in place (Katharopoulos et al. 2020, eqs. 16 to 19)."""
    none_X0F = features.keys(k_XSK[:, :0], 0)
    weights_X1F = none_X0F.sum(dim=1, keepdim=True)  # of no keys: zeros
    values_XFD = weights_X1F.mT.repeat(1, 1, v_XSD.shape[2])
    sums = Sums(values_XFD, weights_X1F, torch.full_like(weights_X1F, -torch.inf), k_XSK.shape[1])
    for rows in runs(sums.keys, cached_rows(sums)):
        k_XCF = next_keys(features, k_XSK[:, rows], sums, first=rows.start)
        _add(sums, k_XCF, v_XSD[:, rows].to(k_XCF.dtype))
    return sums


def averaged(k_XSK: torch.Tensor, v_XSD: torch.Tensor, *, features: FeatureMap) -> Sums:
    """Average the values by each feature that averages apart, over all keys at once."""
    k_XSF = features.keys(k_XSK, 0).softmax(dim=1)
    weights_X1F = k_XSF.new_ones(len(k_XSF), 1, k_XSF.shape[2])
    values_XFD = torch.bmm(k_XSF.mT, v_XSD.to(k_XSF.dtype))
    return Sums(values_XFD, weights_X1F, torch.zeros_like(weights_X1F), k_XSK.shape[1])


def one_further(
    q_YR1K: torch.Tensor, k_Y1K: torch.Tensor, v_Y1D: torch.Tensor, sums: Sums, *, features: FeatureMap
) -> tuple[torch.Tensor, Sums]:
    """Add one key with its value to the sums, and answer the query heads from them: (out_YRD, the sums after it).

    Katharopoulos et al. 2020, eqs. 18 to 20. Time: O(F D) a query, however many keys were summed.
    """
    values_YFD, weights_Y1F, peak_Y1F, position = sums
    after = Sums(values_YFD.clone(), weights_Y1F.clone(), peak_Y1F.clone(), position + 1)
    k_Y1F = next_keys(features, k_Y1K, after, first=position)
    _add(after, k_Y1F, v_Y1D.to(k_Y1F.dtype))
    q_YRF = features.queries(q_YR1K, position).squeeze(2)
    return read(features, q_YRF, after).to(v_Y1D.dtype), after


def next_keys(
    features: FeatureMap, k_XCK: torch.Tensor, sums: Sums, *, first: int, shown: bool = False
) -> torch.Tensor:
    """Give the features of further keys, k_XCF, and bring the sums in place to a scale on which none is above one.

    Those that are shown to queries one after another do not vanish, for a query may see no other.
    """
    k_XCF = features.keys(k_XCK, first)
    if not features.exponents:
        return k_XCF
    peak_X1F = torch.maximum(sums.peak_X1F, k_XCF.amax(dim=1, keepdim=True))
    shrink_X1F = (sums.peak_X1F - peak_X1F).exp_()
    sums.values_XFD.mul_(shrink_X1F.mT)
    sums.weights_X1F.mul_(shrink_X1F)
    sums.peak_X1F.copy_(peak_X1F)
    exponents_XCF = torch.sub(k_XCF, peak_X1F)
    return (exponents_XCF.clamp_(min=lowest(k_XCF)) if shown else exponents_XCF).exp_()


def read(features: FeatureMap, q_XTF: torch.Tensor, sums: Sums, *, out: torch.Tensor | None = None) -> torch.Tensor:
    """Answer mapped queries from the sums alone: y_XTD, written to `out` if it is given."""
    if features.apart:
        return torch.bmm(q_XTF.softmax(dim=-1), sums.values_XFD / sums.weights_X1F.mT, out=out)
    if features.exponents:
        q_XTF = (q_XTF + sums.peak_X1F).softmax(dim=-1)
    return torch.div(q_XTF @ sums.values_XFD, or_one(q_XTF @ sums.weights_X1F.mT), out=out)


def _add(sums: Sums, k_XCF: torch.Tensor, v_XCD: torch.Tensor) -> None:
    torch.baddbmm(sums.values_XFD, k_XCF.mT, v_XCD, out=sums.values_XFD)
    sums.weights_X1F.add_(k_XCF.sum(dim=1, keepdim=True))


def lowest(exponents: torch.Tensor) -> float:
    """Give the exponent below which features would vanish, and a query that sees no other keys would have no weights.

    It is about -79 in float32: a feature of e^-79 of the largest is nothing beside any other. A row whose own keys are
    that far below a later one of its chunk averages them evenly.
    """
    return 0.9 * math.log(torch.finfo(exponents.dtype).tiny)


def or_one(weight: torch.Tensor) -> torch.Tensor:
    """Divide what has no weight, and so no sum, by one."""
    return weight.masked_fill(weight == 0, 1)


def cached_rows(sums: Sums) -> int:
    """Say how many rows to take at once."""
    return max(_FEWEST_ROWS, _CACHED_NUMBERS // sums.weights_X1F.numel())


def runs(length: int, rows: int) -> Iterator[slice]:
    """Split a sequence into runs of rows, the last of them what is left."""
    return (slice(start, min(start + rows, length)) for start in range(0, length, rows))
