"""Attention by features, f(q) . f(k) in place of exp(q . k): sums over keys, never a weight for every pair of a row."""
# B batch, H heads, G key/value heads, X = B * H, Y = B * G, R query heads of a group, T queries, S keys, D dimension of
# the values, E = D + 1 (values and a one), F features; runs of M rows, N chunks of C. Queries and keys have a dimension
# of their own: K

import math
from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch.nn.functional import pad

from attnbench_variants.blocks.feature_maps import FeatureMap
from attnbench_variants.blocks.heads import per_query_head

# Rows whose features are made at once, enough of them for two CPU cores, and rows among which every pair has a weight,
# of which half are none. The batched form keeps a state a chunk for its backward pass.
STREAMED_RUN, STREAMED_CHUNK = 128, 64
BATCHED_CHUNK = 64
# Numbers in a run of rows whose features stay in a CPU's cache: with 2**17 two threads take a sixth longer.
_CACHED_NUMBERS = 2**20
# Numbers of which a softmax is taken at once: of a run of rows torch makes a copy first. The C library keeps blocks of
# less than 32 MiB.
_WHOLE_NUMBERS = 2**22


class Sums(NamedTuple):
    """What is kept of keys: sum_s f(k_s) v_s, sum_s f(k_s), and how many they are.

    Features given by their exponents are exp(exponent - peak), where peak is the largest of all these keys.
    """

    values_XFD: torch.Tensor
    weights_X1F: torch.Tensor
    peak_X1F: torch.Tensor
    keys: int


class FeatureAttention:
    """Average values by f(q) . f(k), over all keys or, causally, those up to the query's own; grouped heads too."""

    def __init__(self, features: FeatureMap, *, causal: bool) -> None:
        self._features = features
        self._causal = causal

    def __call__(self, q_BHTK: torch.Tensor, k_BGSK: torch.Tensor, v_BGSD: torch.Tensor) -> torch.Tensor:
        """Attend: out_BHTD."""
        heads = q_BHTK.shape[1]
        q_XTK, k_XSK, v_XSD = (per_query_head(x, heads).flatten(0, 1) for x in (q_BHTK, k_BGSK, v_BGSD))
        out_XTD = attend_by_features(q_XTK, k_XSK, v_XSD, features=self._features, causal=self._causal)
        return out_XTD.view(*q_BHTK.shape[:3], -1)

    @torch.no_grad()
    def prefill(self, k_BGSK: torch.Tensor, v_BGSD: torch.Tensor) -> Sums:
        """Sum the keys' features, with their values and alone, for each key/value head."""
        return keys_summed(k_BGSK.flatten(0, 1), v_BGSD.flatten(0, 1), features=self._features)

    @torch.no_grad()
    def step(
        self, q_BH1K: torch.Tensor, k_BG1K: torch.Tensor, v_BG1D: torch.Tensor, sums: Sums
    ) -> tuple[torch.Tensor, Sums]:
        """Add a key and its value to the sums, and read them with the query: out_BH1D and the new sums."""
        k_Y1K, v_Y1D = k_BG1K.flatten(0, 1), v_BG1D.flatten(0, 1)
        q_YR1K = q_BH1K.reshape(len(k_Y1K), -1, 1, q_BH1K.shape[-1])
        out_YRD, after = one_further(q_YR1K, k_Y1K, v_Y1D, sums, features=self._features)
        return out_YRD.view(*q_BH1K.shape[:3], -1), after


def attend_by_features(
    q_XTK: torch.Tensor, k_XSK: torch.Tensor, v_XSD: torch.Tensor, *, features: FeatureMap, causal: bool
) -> torch.Tensor:
    """Average values by f(q) . f(k): out_XTD (Katharopoulos et al. 2020, eqs. 4 to 6; causal: eqs. 8 to 12).

    Queries are the last T positions of the keys. A query without weight on any key gets zeros. Time: O((T + S) F D).
    """
    # Chunk after chunk in the cache is fastest on a CPU; a GPU wants all chunks at once, and so does autograd.
    tracked = torch.is_grad_enabled() and any(x.requires_grad for x in (q_XTK, k_XSK, v_XSD))
    attend = batched if tracked or q_XTK.device.type != "cpu" else streamed
    with torch.autocast(q_XTK.device.type, enabled=False):  # in a model of mixed precision sums stay wide, too
        return attend(q_XTK, k_XSK, v_XSD, features=features, causal=causal)


def streamed(
    q_XTK: torch.Tensor, k_XSK: torch.Tensor, v_XSD: torch.Tensor, *, features: FeatureMap, causal: bool
) -> torch.Tensor:
    """Walk the sequence with one running state, in place. Not differentiable."""
    queries, before = q_XTK.shape[1], _keys_that_all_see(q_XTK, k_XSK, causal)
    first = k_XSK.shape[1] - queries
    whole = features.apart and not causal and max(q_XTK.numel(), k_XSK.numel()) <= _WHOLE_NUMBERS
    sum_up = _averaged if whole else keys_summed
    sums = sum_up(k_XSK[:, :before], v_XSD[:, :before], features=features)
    out_XTD = sums.values_XFD.new_empty(len(q_XTK), queries, v_XSD.shape[2])

    if causal:
        _stream_causally(q_XTK, k_XSK[:, first:], v_XSD[:, first:], sums, features=features, out=out_XTD)
        return out_XTD.to(v_XSD.dtype)
    for rows in _runs(queries, queries if whole else _cached_rows(sums)):
        _read(features, features.queries(q_XTK[:, rows], first + rows.start), sums, out=out_XTD[:, rows])
    return out_XTD.to(v_XSD.dtype)


def _stream_causally(
    q_XTK: torch.Tensor,
    k_XTK: torch.Tensor,
    v_XTD: torch.Tensor,
    sums: Sums,
    *,
    features: FeatureMap,
    out: torch.Tensor,
) -> None:
    """Write to `out` what each query gets from what the sums hold and from its own position's key and those before."""
    # A column of ones among the values sums the weights; `sums` are views of both, brought to scale in place.
    state_XFE = torch.cat([sums.values_XFD, sums.weights_X1F.mT], dim=2)
    sums = sums._replace(values_XFD=state_XFE[..., :-1], weights_X1F=state_XFE[..., -1:].mT)
    values_XME = state_XFE.new_ones(len(state_XFE), min(q_XTK.shape[1], STREAMED_RUN), state_XFE.shape[2])
    sums_XME = torch.empty_like(values_XME)
    weights_XCC = state_XFE.new_empty(len(state_XFE), STREAMED_CHUNK, STREAMED_CHUNK)
    tiny = torch.finfo(state_XFE.dtype).tiny
    for rows in _runs(q_XTK.shape[1], STREAMED_RUN):
        v_XME, y_XME = (x[:, : rows.stop - rows.start] for x in (values_XME, sums_XME))
        v_XME[..., :-1].copy_(v_XTD[:, rows])
        k_XMF = _next_keys(features, k_XTK[:, rows], sums, first=sums.keys + rows.start, shown=True)
        q_XMF = features.queries(q_XTK[:, rows], sums.keys + rows.start)
        q_XMF = _queries(features, q_XMF, k_XMF, weights=sums.weights_X1F, peak=sums.peak_X1F)
        for part in _runs(rows.stop - rows.start, STREAMED_CHUNK):
            q_XCF, k_XCF, v_XCE, y_XCE = (x[:, part] for x in (q_XMF, k_XMF, v_XME, y_XME))
            pairs_XCC = weights_XCC[:, : q_XCF.shape[1], : q_XCF.shape[1]]
            torch.bmm(q_XCF, k_XCF.mT, out=pairs_XCC)
            torch.bmm(q_XCF, state_XFE, out=y_XCE).baddbmm_(pairs_XCC.tril_(), v_XCE)
            state_XFE.baddbmm_(k_XCF.mT, v_XCE)
        # No weight is below zero, and what has none has no sum: quicker than _or_one, for which there is no gradient.
        torch.div(y_XME[..., :-1], y_XME[..., -1:].clamp_(min=tiny), out=out[:, rows])


def keys_summed(k_XSK: torch.Tensor, v_XSD: torch.Tensor, *, features: FeatureMap) -> Sums:
    """Sum f(k_s) v_s and f(k_s) over all keys, in place (Katharopoulos et al. 2020, eqs. 16 to 19)."""
    none_X0F = features.keys(k_XSK[:, :0], 0)
    weights_X1F = none_X0F.sum(dim=1, keepdim=True)  # of no keys: zeros
    values_XFD = weights_X1F.mT.repeat(1, 1, v_XSD.shape[2])
    sums = Sums(values_XFD, weights_X1F, torch.full_like(weights_X1F, -torch.inf), k_XSK.shape[1])
    for rows in _runs(sums.keys, _cached_rows(sums)):
        k_XCF = _next_keys(features, k_XSK[:, rows], sums, first=rows.start)
        _add(sums, k_XCF, v_XSD[:, rows].to(k_XCF.dtype))
    return sums


def _averaged(k_XSK: torch.Tensor, v_XSD: torch.Tensor, *, features: FeatureMap) -> Sums:
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
    k_Y1F = _next_keys(features, k_Y1K, after, first=position)
    _add(after, k_Y1F, v_Y1D.to(k_Y1F.dtype))
    q_YRF = features.queries(q_YR1K, position).squeeze(2)
    return _read(features, q_YRF, after).to(v_Y1D.dtype), after


def batched(
    q_XTK: torch.Tensor, k_XSK: torch.Tensor, v_XSD: torch.Tensor, *, features: FeatureMap, causal: bool
) -> torch.Tensor:
    """Take all chunks at once, each with the state before it. Differentiable."""
    keys, before = k_XSK.shape[1], _keys_that_all_see(q_XTK, k_XSK, causal)
    k_XSF = features.keys(k_XSK, 0)
    # One split, whose gradients are put side by side; a slice's is filled up with zeros and added.
    (all_see, later), (values, later_values) = (
        x.split([before, keys - before], dim=1) for x in (k_XSF, v_XSD.to(k_XSF.dtype))
    )
    peak_X1F = torch.full_like(k_XSF[:, :1], -torch.inf)
    if features.exponents and before:
        peak_X1F = all_see.detach().amax(dim=1, keepdim=True)
        all_see = (all_see - peak_X1F).exp()
    sums = Sums(all_see.mT @ values, all_see.sum(dim=1, keepdim=True), peak_X1F, before)
    q_XTF = features.queries(q_XTK, keys - q_XTK.shape[1])
    if not causal:
        return _read(features, q_XTF, sums).to(q_XTK.dtype)
    return _read_causally(features, q_XTF, later, later_values, sums).to(q_XTK.dtype)


def _read_causally(
    features: FeatureMap, q_XTF: torch.Tensor, k_XTF: torch.Tensor, v_XTD: torch.Tensor, sums: Sums
) -> torch.Tensor:
    """Average v_s by q_t . k_s over s up to t, and over what the sums hold: y_XTD."""
    length = q_XTF.shape[1]
    chunk = min(length, BATCHED_CHUNK)
    # A column of ones among the values sums the weights: it spares autograd a second set of sums.
    before_XFE = torch.cat([sums.values_XFD, sums.weights_X1F.mT], dim=2)
    v_XTE = pad(v_XTD, (0, 1), value=1.0)
    # Zeros at the end change nothing: a key without features or value adds nothing, and a query's row is cut off.
    nothing = -torch.inf if features.exponents else 0.0
    q_XNCF, k_XNCF, v_XNCE = (
        pad(x, (0, 0, 0, -length % chunk), value=value).view(x.shape[0], -1, chunk, x.shape[2])
        for x, value in ((q_XTF, 0.0), (k_XTF, nothing), (v_XTE, 0.0))
    )
    peak_XN1F = sums.peak_X1F[:, None]
    if features.exponents:  # the largest so far: of later chunks no row may know
        so_far_XN1F = k_XNCF.detach().amax(dim=2, keepdim=True).cummax(dim=1).values
        peak_XN1F = torch.maximum(so_far_XN1F, peak_XN1F)
        k_XNCF = (k_XNCF - peak_XN1F).clamp(min=_lowest(k_XNCF)).exp()
    added_XNFE = torch.cat([before_XFE[:, None], (k_XNCF.mT @ v_XNCE)[:, :-1]], dim=1)
    state_XNFE = added_XNFE.cumsum(dim=1)
    if features.exponents:
        state_XNFE = _rescaled_sums(added_XNFE, torch.cat([sums.peak_X1F[:, None], peak_XN1F], dim=1))
    q_XNCF = _queries(features, q_XNCF, k_XNCF, weights=state_XNFE[..., -1:].mT, peak=peak_XN1F)
    within_XNCE = (q_XNCF @ k_XNCF.mT).tril_() @ v_XNCE
    y_XTE = (within_XNCE + q_XNCF @ state_XNFE).flatten(1, 2)[:, :length]
    return y_XTE[..., :-1] / _or_one(y_XTE[..., -1:])


def _rescaled_sums(added_XNFE: torch.Tensor, peak_XM1F: torch.Tensor) -> torch.Tensor:
    """Sum over chunks up to each: what chunk n adds is in the scale of peak n, and its sum is in that of peak n + 1."""
    shrink_XNF1 = (peak_XM1F[:, :-1] - peak_XM1F[:, 1:]).exp().mT
    states_XFE = [added_XNFE[:, 0] * shrink_XNF1[:, 0]]
    for added_XFE, shrink_XF1 in zip(added_XNFE.unbind(1)[1:], shrink_XNF1.unbind(1)[1:], strict=True):
        states_XFE.append((states_XFE[-1] + added_XFE) * shrink_XF1)
    return torch.stack(states_XFE, dim=1)


def _next_keys(
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
    return (exponents_XCF.clamp_(min=_lowest(k_XCF)) if shown else exponents_XCF).exp_()


def _queries(
    features: FeatureMap, q: torch.Tensor, k: torch.Tensor, *, weights: torch.Tensor, peak: torch.Tensor
) -> torch.Tensor:
    """Bring mapped queries of a chunk [..., C, F] to the scale of the sums before it and of its keys, k.

    `weights` and `peak` are the sums', [..., 1, F]. What a row's scale is cancels.
    """
    if features.apart:
        return q.softmax(dim=-1) / (weights + k.cumsum(dim=-2))
    return (q + peak).softmax(dim=-1) if features.exponents else q


def _read(features: FeatureMap, q_XTF: torch.Tensor, sums: Sums, *, out: torch.Tensor | None = None) -> torch.Tensor:
    """Answer mapped queries from the sums alone: y_XTD, written to `out` if it is given."""
    if features.apart:
        return torch.bmm(q_XTF.softmax(dim=-1), sums.values_XFD / sums.weights_X1F.mT, out=out)
    if features.exponents:
        q_XTF = (q_XTF + sums.peak_X1F).softmax(dim=-1)
    return torch.div(q_XTF @ sums.values_XFD, _or_one(q_XTF @ sums.weights_X1F.mT), out=out)


def _add(sums: Sums, k_XCF: torch.Tensor, v_XCD: torch.Tensor) -> None:
    torch.baddbmm(sums.values_XFD, k_XCF.mT, v_XCD, out=sums.values_XFD)
    sums.weights_X1F.add_(k_XCF.sum(dim=1, keepdim=True))


def _lowest(exponents: torch.Tensor) -> float:
    """Give the exponent below which features would vanish, and a query that sees no other keys would have no weights.

    It is about -79 in float32: a feature of e^-79 of the largest is nothing beside any other. A row whose own keys are
    that far below a later one of its chunk averages them evenly.
    """
    return 0.9 * math.log(torch.finfo(exponents.dtype).tiny)


def _or_one(weight: torch.Tensor) -> torch.Tensor:
    """Divide what has no weight, and so no sum, by one."""
    return weight.masked_fill(weight == 0, 1)


def _keys_that_all_see(q_XTK: torch.Tensor, k_XSK: torch.Tensor, causal: bool) -> int:
    return k_XSK.shape[1] - q_XTK.shape[1] if causal else k_XSK.shape[1]


def _cached_rows(sums: Sums) -> int:
    return max(BATCHED_CHUNK, _CACHED_NUMBERS // sums.weights_X1F.numel())


def _runs(length: int, rows: int) -> Iterator[slice]:
    return (slice(start, min(start + rows, length)) for start in range(0, length, rows))
