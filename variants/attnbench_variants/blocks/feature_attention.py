"""Attention by features, f(q) . f(k) in place of exp(q . k): sums over keys, never a weight for every pair of a row."""
# B batch, H heads, G key/value heads, X = B * H, Y = B * G, R query heads of a group, T queries, S keys, D dimension of
# the values, E = D + 1 (values and a one), F features; runs of M rows, N chunks of C, Z = X * N. Queries and keys have
# a dimension of their own: K

import torch
from torch.nn.functional import pad

from attnbench_variants.blocks.causal_sums import causal_average, chunked_runs, read_run, with_ones
from attnbench_variants.blocks.feature_maps import FeatureMap
from attnbench_variants.blocks.feature_sums import (
    Sums,
    averaged,
    cached_rows,
    keys_summed,
    lowest,
    next_keys,
    one_further,
    or_one,
    read,
    runs,
)
from attnbench_variants.blocks.heads import per_query_head

BATCHED_CHUNK = 64  # rows among which every pair has a weight; a state is kept for each chunk
# Numbers of which a softmax is taken at once: of a run of rows torch makes a copy first. The C library keeps blocks of
# less than 32 MiB.
_WHOLE_NUMBERS = 2**22


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
    # Chunk after chunk in the cache is fastest on a CPU; a GPU wants all chunks at once.
    tracked = torch.is_grad_enabled() and any(x.requires_grad for x in (q_XTK, k_XSK, v_XSD))
    attend = batched if q_XTK.device.type != "cpu" else tracked_stream if tracked else streamed
    with torch.autocast(q_XTK.device.type, enabled=False):  # in a model of mixed precision sums stay wide, too
        return attend(q_XTK, k_XSK, v_XSD, features=features, causal=causal)


def streamed(
    q_XTK: torch.Tensor, k_XSK: torch.Tensor, v_XSD: torch.Tensor, *, features: FeatureMap, causal: bool
) -> torch.Tensor:
    """Walk the sequence with one running state, in place. Not differentiable."""
    queries, before = q_XTK.shape[1], _keys_that_all_see(q_XTK, k_XSK, causal)
    first = k_XSK.shape[1] - queries
    whole = features.apart and not causal and max(q_XTK.numel(), k_XSK.numel()) <= _WHOLE_NUMBERS
    sum_up = averaged if whole else keys_summed
    sums = sum_up(k_XSK[:, :before], v_XSD[:, :before], features=features)
    if causal:
        return _streamed_causally(q_XTK, k_XSK[:, first:], v_XSD[:, first:], sums, features=features).to(v_XSD.dtype)
    out_XTD = sums.values_XFD.new_empty(len(q_XTK), queries, v_XSD.shape[2])
    for rows in runs(queries, queries if whole else cached_rows(sums)):
        read(features, features.queries(q_XTK[:, rows], first + rows.start), sums, out=out_XTD[:, rows])
    return out_XTD.to(v_XSD.dtype)


def _streamed_causally(
    q_XTK: torch.Tensor, k_XTK: torch.Tensor, v_XTD: torch.Tensor, sums: Sums, *, features: FeatureMap
) -> torch.Tensor:
    """Give what each query gets from what the sums hold and from its own position's key and those before: out_XTD."""
    # A column of ones among the values sums the weights; `sums` are views of both, brought to scale in place.
    state_XFE = _with_weights(sums)
    sums = sums._replace(values_XFD=state_XFE[..., :-1], weights_X1F=state_XFE[..., -1:].mT)
    out_XTD, tiny = torch.empty_like(v_XTD, dtype=state_XFE.dtype), torch.finfo(state_XFE.dtype).tiny
    for rows in chunked_runs(q_XTK.shape[1]):
        k_XMF = next_keys(features, k_XTK[:, rows], sums, first=sums.keys + rows.start, shown=True)
        q_XMF = features.queries(q_XTK[:, rows], sums.keys + rows.start)
        q_XMF = _queries(features, q_XMF, k_XMF, weights=sums.weights_X1F, peak=sums.peak_X1F)
        y_XME = read_run(q_XMF, k_XMF, with_ones(v_XTD[:, rows], state_XFE.dtype), state_XFE)
        # No weight is below zero, and what has none has no sum: quicker than or_one, for which there is no gradient.
        torch.div(y_XME[..., :-1], y_XME[..., -1:].clamp_(min=tiny), out=out_XTD[:, rows])
    return out_XTD


def tracked_stream(
    q_XTK: torch.Tensor, k_XSK: torch.Tensor, v_XSD: torch.Tensor, *, features: FeatureMap, causal: bool
) -> torch.Tensor:
    """Walk the sequence with one running state. Differentiable; causal features by exponents are taken all at once."""
    if not causal or features.exponents:
        return batched(q_XTK, k_XSK, v_XSD, features=features, causal=causal)
    q_XTF, k_XTF, v_XTD, sums = _mapped(q_XTK, k_XSK, v_XSD, features=features, causal=True)
    return causal_average(q_XTF, k_XTF, v_XTD, _with_weights(sums)).to(q_XTK.dtype)


def batched(
    q_XTK: torch.Tensor, k_XSK: torch.Tensor, v_XSD: torch.Tensor, *, features: FeatureMap, causal: bool
) -> torch.Tensor:
    """Take all chunks at once, each with the state before it. Differentiable."""
    q_XTF, k_XTF, v_XTD, sums = _mapped(q_XTK, k_XSK, v_XSD, features=features, causal=causal)
    if not causal:
        return read(features, q_XTF, sums).to(q_XTK.dtype)
    return _read_causally(features, q_XTF, k_XTF, v_XTD, sums).to(q_XTK.dtype)


def _mapped(
    q_XTK: torch.Tensor, k_XSK: torch.Tensor, v_XSD: torch.Tensor, *, features: FeatureMap, causal: bool
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, Sums]:
    """Map queries and keys, and sum up the keys that all queries see: (q_XTF, other k_XTF, their v_XTD, the sums)."""
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
    return features.queries(q_XTK, keys - q_XTK.shape[1]), later, later_values, sums


def _with_weights(sums: Sums) -> torch.Tensor:
    """Put both sums side by side, as those of values with a column of ones: state_XFE."""
    return torch.cat([sums.values_XFD, sums.weights_X1F.mT], dim=2)


def _read_causally(
    features: FeatureMap, q_XTF: torch.Tensor, k_XTF: torch.Tensor, v_XTD: torch.Tensor, sums: Sums
) -> torch.Tensor:
    """Average v_s by q_t . k_s over s up to t, and over what the sums hold: y_XTD."""
    length = q_XTF.shape[1]
    chunk = min(length, BATCHED_CHUNK)
    # A column of ones among the values sums the weights: it spares autograd a second set of sums.
    before_XFE = _with_weights(sums)
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
        k_XNCF = (k_XNCF - peak_XN1F).clamp(min=lowest(k_XNCF)).exp()
    added_XNFE = torch.cat([before_XFE[:, None], (k_XNCF.mT @ v_XNCE)[:, :-1]], dim=1)
    state_XNFE = added_XNFE.cumsum(dim=1)
    if features.exponents:
        state_XNFE = _rescaled_sums(added_XNFE, torch.cat([sums.peak_X1F[:, None], peak_XN1F], dim=1))
    q_XNCF = _queries(features, q_XNCF, k_XNCF, weights=state_XNFE[..., -1:].mT, peak=peak_XN1F)
    within_XNCE = (q_XNCF @ k_XNCF.mT).tril_() @ v_XNCE
    y_XTE = (within_XNCE + q_XNCF @ state_XNFE).flatten(1, 2)[:, :length]
    return y_XTE[..., :-1] / or_one(y_XTE[..., -1:])


def _rescaled_sums(added_XNFE: torch.Tensor, peak_XM1F: torch.Tensor) -> torch.Tensor:
    """Sum over chunks up to each: what chunk n adds is in the scale of peak n, and its sum is in that of peak n + 1."""
    shrink_XNF1 = (peak_XM1F[:, :-1] - peak_XM1F[:, 1:]).exp().mT
    states_XFE = [added_XNFE[:, 0] * shrink_XNF1[:, 0]]
    for added_XFE, shrink_XF1 in zip(added_XNFE.unbind(1)[1:], shrink_XNF1.unbind(1)[1:], strict=True):
        states_XFE.append((states_XFE[-1] + added_XFE) * shrink_XF1)
    return torch.stack(states_XFE, dim=1)


def _queries(
    features: FeatureMap, q: torch.Tensor, k: torch.Tensor, *, weights: torch.Tensor, peak: torch.Tensor
) -> torch.Tensor:
    """Bring mapped queries of a chunk [..., C, F] to the scale of the sums before it and of its keys, k.

    `weights` and `peak` are the sums', [..., 1, F]. What a row's scale is cancels.
    """
    if features.apart:
        return q.softmax(dim=-1) / (weights + k.cumsum(dim=-2))
    return (q + peak).softmax(dim=-1) if features.exponents else q


def _keys_that_all_see(q_XTK: torch.Tensor, k_XSK: torch.Tensor, causal: bool) -> int:
    return k_XSK.shape[1] - q_XTK.shape[1] if causal else k_XSK.shape[1]
