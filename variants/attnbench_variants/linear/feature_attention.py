"""Attention by features: f(q) . f(k) in place of exp(q . k), from sums over keys that queries share.

    S = sum_s f(k_s)^T v_s,  z = sum_s f(k_s)      S [F, D], z [F]: over all keys, or causally those up to t
    out_t = f(q_t) S / (f(q_t) . z)

(Katharopoulos et al. 2020, eqs. 4 to 6; causally eqs. 8 to 12; token by token, eqs. 16 to 20). Causally the sequence is
walked in runs of chunks: a query reads the sums before its chunk, and within the chunk a weight for every pair,

    [Y, w] = tril(f(Q) f(K)^T) [V, 1] + f(Q) [S, z]      Q, K [C, F], V [C, D]

Time: O((T + S) F D). Memory beyond the features of a run: O(T D + F D), and with gradients O((T + S) (F + D)).
"""
# B batch, H heads, G key/value heads, X = B * H sequences (B * G in decoding), R query heads of a group, T queries,
# S keys, K dimension of queries and keys, F features, D dimension of values, E = D + 1; runs of M rows, each N chunks
# of C, Z = X * N

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator
from itertools import accumulate
from typing import ClassVar, NamedTuple

import torch
from torch.nn.functional import pad

from attnbench import Case
from attnbench_variants.blocks.flop_counts import executed_with
from attnbench_variants.blocks.grouped_heads import per_query_head


class FeatureMap(ABC):
    """A feature map f, in float32 or wider, the dtype of the sums.

    With `exponents` it returns log f, so that features can be scaled to at most one: the scale cancels in the output.
    With `apart` the values are averaged by each feature separately, and those averages by softmax(f(q)).
    """

    exponents: ClassVar[bool] = False
    apart: ClassVar[bool] = False

    @abstractmethod
    def keys(self, x_XTK: torch.Tensor, first: int) -> torch.Tensor:
        """Map keys at positions from `first` on: f_XTF."""

    def queries(self, x_XTK: torch.Tensor, first: int) -> torch.Tensor:
        """Map queries at positions from `first` on: f_XTF."""
        return self.keys(x_XTK, first)


class Sums(NamedTuple):
    """The state [S, z], sums of f(k_s) v_s and of f(k_s), and the number of keys.

    Features given by their logarithms are exp(log f - peak), where peak is the largest log f of all these keys.
    """

    state_XFE: torch.Tensor
    peak_X1F: torch.Tensor
    keys: int


class FeatureAttention:
    """Attention by the features of a map, in full or causally, in one call or token by token."""

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
        """Return the sums over the keys so far, for each key/value head."""
        return _summed(k_BGSK.flatten(0, 1), v_BGSD.flatten(0, 1), self._features)

    @torch.no_grad()
    def step(
        self, q_BH1K: torch.Tensor, k_BG1K: torch.Tensor, v_BG1D: torch.Tensor, sums: Sums
    ) -> tuple[torch.Tensor, Sums]:
        """Add one key to the sums and read them: out_BH1D and the new sums."""
        k_X1K, v_X1D = k_BG1K.flatten(0, 1), v_BG1D.flatten(0, 1)
        after = _add(k_X1K, v_X1D, Sums(*sums), self._features)
        q_XRF = self._features.queries(q_BH1K.reshape(len(k_X1K), -1, 1, q_BH1K.shape[-1]), after.keys - 1).squeeze(2)
        y_XRE = _scaled_queries(q_XRF, after, self._features) @ after.state_XFE
        out_XRD = _joined(iter([y_XRE]), q_XRF.shape[1], v_X1D)
        return out_XRD.view(*q_BH1K.shape[:3], -1), after


def attend_by_features(
    q_XTK: torch.Tensor, k_XSK: torch.Tensor, v_XSD: torch.Tensor, *, features: FeatureMap, causal: bool
) -> torch.Tensor:
    """Average values by f(q) . f(k): out_XTD. Queries are the last T positions of the keys.

    A query without weight on any key gets zeros.
    """
    queries, keys = q_XTK.shape[1], k_XSK.shape[1]
    with torch.autocast(q_XTK.device.type, enabled=False):  # mixed precision would take the sums in half precision
        if not causal:
            rows = _read_all(q_XTK, _summed(k_XSK, v_XSD, features), keys - queries, features)
        else:
            # One split for each tensor: the gradients of two slices would be filled up with zeros and added.
            (k_X0K, k_XTK), (v_X0D, v_XTD) = (x.split([keys - queries, queries], dim=1) for x in (k_XSK, v_XSD))
            rows = _read_causally(q_XTK, k_XTK, v_XTD, _summed(k_X0K, v_X0D, features), features)
        return _joined(rows, queries, v_XSD)


def _summed(k_XSK: torch.Tensor, v_XSD: torch.Tensor, features: FeatureMap) -> Sums:
    """Return the sums over all keys."""
    none_X1F = features.keys(k_XSK[:, :0], 0).sum(dim=1, keepdim=True)  # of no keys: zeros
    sums = Sums(none_X1F.mT.repeat(1, 1, v_XSD.shape[2] + 1), torch.full_like(none_X1F, -torch.inf), 0)
    for k_XMK, v_XMD in _cut(_rows_at_once(sums), k_XSK, v_XSD):
        sums = _add(k_XMK, v_XMD, sums, features)
    return sums


def _add(k_XMK: torch.Tensor, v_XMD: torch.Tensor, sums: Sums, features: FeatureMap) -> Sums:
    """Return the sums with further keys added."""
    k_XMF, sums = _scaled_keys(k_XMK, sums, features)
    state_XFE = torch.baddbmm(sums.state_XFE, k_XMF.mT, _with_ones(v_XMD, k_XMF.dtype))
    return Sums(state_XFE, sums.peak_X1F, sums.keys + k_XMF.shape[1])


def _read_all(q_XTK: torch.Tensor, sums: Sums, first: int, features: FeatureMap) -> Iterator[torch.Tensor]:
    """Read the sums with queries at positions from `first` on, a run at a time: y_XME."""
    for (q_XMK,) in _cut(_rows_at_once(sums), q_XTK):
        yield torch.bmm(_scaled_queries(features.queries(q_XMK, first), sums, features), sums.state_XFE)
        first += q_XMK.shape[1]


def _read_causally(
    q_XTK: torch.Tensor, k_XTK: torch.Tensor, v_XTD: torch.Tensor, sums: Sums, features: FeatureMap
) -> Iterator[torch.Tensor]:
    """Read the sums and the keys up to each query's own, a run at a time: y_XME."""
    for q_XMK, k_XMK, v_XMD in _cut(_causal_runs(q_XTK.shape[1], q_XTK.device.type), q_XTK, k_XTK, v_XTD):
        q_XMF = features.queries(q_XMK, sums.keys)
        k_XMF, sums = _scaled_keys(k_XMK, sums, features)
        q_XMF = _scaled_queries(q_XMF, sums, features, k_XMF)
        y_XME, state_XFE = _read_chunks(q_XMF, k_XMF, _with_ones(v_XMD, k_XMF.dtype), sums.state_XFE)
        yield y_XME
        sums = Sums(state_XFE, sums.peak_X1F, sums.keys + k_XMF.shape[1])


def _read_chunks(
    q_XMF: torch.Tensor, k_XMF: torch.Tensor, v_XME: torch.Tensor, state_XFE: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Sum v_s (q_t . k_s) over s up to t, and what the state holds: y_XME and the state after the run."""
    chunk = min(_sizes(q_XMF.device.type).chunk, q_XMF.shape[1])
    q_ZCF, k_ZCF, v_ZCE = (x.reshape(-1, chunk, x.shape[2]) for x in (q_XMF, k_XMF, v_XME))
    added_XNFE = torch.bmm(k_ZCF.mT, v_ZCE).unflatten(0, (len(q_XMF), -1))
    *before_XFE, after_XFE = accumulate(added_XNFE.unbind(1), torch.add, initial=state_XFE)
    before_ZFE = torch.stack(before_XFE, dim=1).flatten(0, 1)
    y_ZCE = torch.bmm(torch.bmm(q_ZCF, k_ZCF.mT).tril_(), v_ZCE).baddbmm_(q_ZCF, before_ZFE)
    return y_ZCE.view_as(v_XME), after_XFE


def _scaled_keys(k_XMK: torch.Tensor, sums: Sums, features: FeatureMap) -> tuple[torch.Tensor, Sums]:
    """Map keys, and bring them and the sums to a scale on which no feature is above one: k_XMF and the sums.

    A feature of less than e^-79 of the largest (in float32) is held there: it is nothing beside the others, but a query
    may see no others. So a row whose own keys are that far below a later one of its run averages them evenly.
    """
    k_XMF = features.keys(k_XMK, sums.keys)
    if not features.exponents:
        return k_XMF, sums
    peak_X1F = torch.maximum(sums.peak_X1F, k_XMF.detach().amax(dim=1, keepdim=True))
    shrink_X1F = (sums.peak_X1F - peak_X1F).exp()
    lowest = 0.9 * math.log(torch.finfo(k_XMF.dtype).tiny)
    scaled = Sums(sums.state_XFE * shrink_X1F.mT, peak_X1F, sums.keys)
    return torch.sub(k_XMF, peak_X1F).clamp_(min=lowest).exp_(), scaled


def _scaled_queries(
    q_XMF: torch.Tensor, sums: Sums, features: FeatureMap, k_XMF: torch.Tensor | None = None
) -> torch.Tensor:
    """Bring mapped queries to the scale of the sums and, causally, of the keys of their run. A row's own cancels."""
    if features.apart:
        weights_X1F = sums.state_XFE[..., -1:].mT
        return q_XMF.softmax(dim=-1) / (weights_X1F if k_XMF is None else weights_X1F + k_XMF.cumsum(dim=1))
    return (q_XMF + sums.peak_X1F).softmax(dim=-1) if features.exponents else q_XMF


def _with_ones(v_XMD: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """Append a column of ones to the values, which sums the weights: v_XME."""
    return pad(v_XMD.to(dtype), (0, 1), value=1.0)


class Sizes(NamedTuple):
    """Features of a run that is summed or read, rows of a causal run, and rows of a chunk."""

    features: int
    run: int
    chunk: int


def _sizes(device: str) -> Sizes:
    # The fastest on a CPU, with two threads too, of those that stay in its cache; a GPU wants few launches.
    return Sizes(2**19, 256, 64) if device == "cpu" else Sizes(2**26, 4096, 256)


def _rows_at_once(sums: Sums) -> int:
    """Return the rows of a run that is summed or read."""
    sizes = _sizes(sums.peak_X1F.device.type)
    return max(sizes.chunk, sizes.features // sums.peak_X1F.numel())


def _causal_runs(rows: int, device: str) -> list[int]:
    """Return the lengths of runs: of whole chunks, and a last one of what is less than a chunk."""
    _, run, chunk = _sizes(device)
    whole = rows - rows % chunk
    return [length for length in (*[run] * (whole // run), whole % run, rows - whole) if length]


def _cut(lengths: int | list[int], *tensors: torch.Tensor) -> Iterator[tuple[torch.Tensor, ...]]:
    """Cut tensors of as many rows into runs; of no rows there is none."""
    if tensors[0].shape[1] == 0:
        return iter(())
    return zip(*(x.split(lengths, dim=1) for x in tensors), strict=True)


def _joined(rows: Iterator[torch.Tensor], queries: int, v_XSD: torch.Tensor) -> torch.Tensor:
    """Divide the y_XME of runs by their weights, and join them: out_XTD; without gradients in place."""
    # What has no weight has no sum either.
    divided = ((y_XME[..., :-1], y_XME[..., -1:].masked_fill(y_XME[..., -1:] == 0, 1)) for y_XME in rows)
    if torch.is_grad_enabled():
        return torch.cat([y_XMD / w_XM1 for y_XMD, w_XM1 in divided], dim=1).to(v_XSD.dtype)
    out_XTD, start = v_XSD.new_empty(len(v_XSD), queries, v_XSD.shape[2]), 0
    for y_XMD, w_XM1 in divided:
        stop = start + y_XMD.shape[1]
        torch.div(y_XMD, w_XM1, out=out_XTD[:, start:stop])
        start = stop
    return out_XTD


def count_by_features(case: Case, *, features: int, projected: int = 0) -> int:
    """Count the matrix products that the case's pass executes: sums over keys, their use, pairs of causal chunks.

    `projected` numbers of each query and key are products of head-dimension length. In decoding: one further key.
    """
    shape, dim, decodes = case.shape, case.shape.head_dim, case.passes == "decode"
    project, state = projected * dim, features * (dim + 1)
    if decodes:
        return 2 * shape.batch * (shape.kv_heads + shape.heads) * (project + state)
    forward, without_gradient = (shape.seq_q + shape.seq_k) * state, 0
    if case.mask.causal:
        chunk, lengths = _sizes(case.device).chunk, _causal_runs(shape.seq_q, case.device)
        forward += sum(length * min(length, chunk) for length in lengths) * (features + dim + 1)
        # Nothing reads the sums after the last run; where it is a single chunk they have no gradient.
        without_gradient = lengths[-1] * state if lengths[-1] <= chunk else 0
    projections = (shape.seq_q + shape.seq_k) * project  # by what has no gradient
    sequences = 2 * shape.batch * shape.heads
    backward = sequences * (2 * (forward - without_gradient) + projections)
    return executed_with(sequences * (forward + projections), backward, case)
