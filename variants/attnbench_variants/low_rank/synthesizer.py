"""Synthesizer attention: weights that no query and key make together.

Tay et al. 2020, "Synthesizer: Rethinking Self-Attention in Transformer Models", section 3:

    out = softmax(C) v                                                              C [T, S]
    dense:              C_t = W2 relu(W1 x_t + b1) + b2                             W1 [D, E], W2 [S, D]
    factorized-dense:   C_ts = u_t[s // b] w_t[s mod b]                             u_t [a], w_t [b], each made as C_t
    random:             C is learned as it is
    factorized-random:  C = R1 R2^T                                                 R1 [T, rank], R2 [S, rank]

With `dot_product` the scores of exact attention are added, softmax(C + q k^T / sqrt(D)) v ("Mixture of Synthesizers" in
section 3). Without it keys are never read. Weights are learned for as many positions as the case has. Causally, later
positions are masked. Queries are the last T positions of the keys. There is no window. Time: O(T S D). Memory: O(T + S)
for the dense form, which is attention from relu(q + b1) to the rows of W2 in a fused kernel, and for all of them
without gradients, besides C itself where it is learned; O(T S) for the others with gradients.

Where the paper leaves a choice, or this differs:

- W1 x is the query (as in the authors' code, which has no biases either): between the standard projections Wq is W1,
  and b1, W2 and b2 are the mechanism's own, one set for each head as in the paper.
- The lengths of the two short vectors are the paper's a and b with a b = S, for which it names no values: here both are
  near the square root of S. One is repeated value by value, the other as a whole, so that no two scores are the same
  product (the paper repeats both "k times"). Both come from the one first layer.
- No start is named: matrices are Glorot-uniform, biases zero, drawn from the case's seed.
"""
# B batch, H heads, G key/value heads, T queries, S keys, D head dimension, X = D + 1; C queries of a run, U keys that a
# run is shown, F features of a value: D, or B * D where all sequences share their weights (then B is 1)

from collections.abc import Iterator
from typing import Annotated, ClassVar, Literal, NamedTuple

import msgspec
import torch
from msgspec import Meta
from torch.nn.functional import pad

from attnbench import Case, Mask, Support, Tune
from attnbench import Options as BaseOptions
from attnbench_variants.blocks.flop_counts import executed
from attnbench_variants.blocks.fused_kernels import TORCH, Fused
from attnbench_variants.blocks.grouped_heads import per_query_head
from attnbench_variants.blocks.masks import visible_keys, visible_pairs
from attnbench_variants.blocks.reach import all_keys
from attnbench_variants.low_rank.synthetic_scores import Dense, FactorizedDense, FactorizedRandom, Random, factors

# Scores of a run of queries: on a CPU few enough to stay in the cache and in the heap.
_CPU_SCORES, _DEVICE_SCORES = 2**20, 2**28


class _Run(NamedTuple):
    """Queries that are answered together, and the number of keys that they are shown."""

    queries: slice
    seen: int


class Synthesizer(torch.nn.Module):
    """Synthesizer: softmax(C) v, where no score in C is made of a query and a key (Tay et al. 2020, section 3)."""

    class Options(BaseOptions, frozen=True, kw_only=True):
        """The form of the scores. Of the paper's mixtures, which are sums of several forms, those with dot products."""

        form: Annotated[
            Literal["dense", "factorized-dense", "random", "factorized-random"],
            Meta(description="what scores are made of: the token (dense) or its position (random), in factors or not"),
        ] = "dense"
        rank: Annotated[int, Meta(ge=1, description="columns of the factors, with form=factorized-random")] = 8
        dot_product: Annotated[bool, Meta(description="add the scores of exact attention")] = False

    tunes: ClassVar = {"form": Tune(("factorized-random", "random", "dense"), monotone=False)}
    supports = Support(
        window="its scores are learned for the whole sequence, and the paper gives them no window",
        grouped=True,
        growth=2,
    )
    reach = staticmethod(all_keys)

    def __init__(self, case: Case, options: Options) -> None:
        super().__init__()
        self._mask, self._dot_product = case.mask, options.dot_product
        self.scores = _scores(case, options)
        self._fused = None if options.form != "dense" else _fused(case, options)
        self._shared = _shared(options)
        self._runs = list(_runs(case, shared=self._shared))
        self.backend = f"torch-matmul {TORCH}" if self._fused is None else self._fused.name

    def forward(self, q_BHTD: torch.Tensor, k_BGSD: torch.Tensor, v_BGSD: torch.Tensor) -> torch.Tensor:
        """Attend: out_BHTD."""
        k_BHSD, v_BHSD = (per_query_head(x, q_BHTD.shape[1]) for x in (k_BGSD, v_BGSD))
        if self._fused is None:
            return self._in_runs(q_BHTD, k_BHSD, v_BHSD)
        return self._at_once(self._fused, q_BHTD, k_BHSD, v_BHSD)

    def _at_once(self, fused: Fused, q_BHTD: torch.Tensor, k_BHSD: torch.Tensor, v_BHSD: torch.Tensor) -> torch.Tensor:
        """Attend with the second layer as the keys of every sequence, so that no scores are held.

        Dot products are further features of both.
        """
        batch, _, queries, dim = q_BHTD.shape
        keys = v_BHSD.shape[2]
        q_BHTX, k_HSX = self.scores(q_BHTD)
        k_BHSX = k_HSX.expand(batch, -1, -1, -1)
        if self._dot_product:
            q_BHTX, k_BHSX = torch.cat([q_BHTX, q_BHTD * dim**-0.5], dim=-1), torch.cat([k_BHSX, k_BHSD], dim=-1)
        width = q_BHTX.shape[-1]
        qkv = q_BHTX * width**0.5, k_BHSX, pad(v_BHSD, (0, width - dim))
        if queries in (1, keys):
            return fused(*qkv, causal=self._mask.causal and queries > 1)[..., :dim]
        mask_TS = visible_keys(self._mask, queries=queries, keys=keys, device=q_BHTD.device)
        return fused(*qkv, mask=mask_TS)[..., :dim]

    def _in_runs(self, q_BHTD: torch.Tensor, k_BHSD: torch.Tensor, v_BHSD: torch.Tensor) -> torch.Tensor:
        """Attend a run of queries at a time; weights that all sequences share mix their values side by side."""
        batch, heads, queries, dim = q_BHTD.shape
        q_HBTD, k_HBSD, v_HBSF = q_BHTD.transpose(0, 1), k_BHSD.transpose(0, 1), v_BHSD.transpose(0, 1).contiguous()
        if not self._shared:
            rows = [self._attend(q_HBTD, k_HBSD, v_HBSF, run) for run in self._runs]
            return torch.cat(rows, dim=2).transpose(0, 1)
        v_H1SF = v_HBSF.transpose(1, 2).flatten(2)[:, None]
        out_H1TF = torch.cat([self._attend(q_HBTD, k_HBSD, v_H1SF, run) for run in self._runs], dim=2)
        return out_H1TF.view(heads, queries, batch, dim).permute(2, 0, 1, 3)

    def _attend(self, q_HBTD: torch.Tensor, k_HBSD: torch.Tensor, v_HBSF: torch.Tensor, run: _Run) -> torch.Tensor:
        """Attend with a run of queries: out_HBCF."""
        queries, keys = q_HBTD.shape[2], v_HBSF.shape[2]
        q_HBCD = q_HBTD[:, :, run.queries]
        scores_HBCU: torch.Tensor = self.scores(q_HBCD, run.queries, run.seen)
        if self._dot_product:
            scores_HBCU = scores_HBCU + q_HBCD @ k_HBSD[:, :, : run.seen].mT * q_HBCD.shape[-1] ** -0.5
        visible_CS = visible_keys(self._mask, queries=queries, keys=keys, device=v_HBSF.device, rows=run.queries)
        if visible_CS is not None:
            scores_HBCU = scores_HBCU.masked_fill(visible_CS[:, : run.seen].logical_not(), float("-inf"))
        return scores_HBCU.softmax(dim=-1) @ v_HBSF[:, :, : run.seen]

    @staticmethod
    def flops(case: Case) -> int:
        """Count the matrix products that are executed: scores where they are products, and sums of values."""
        shape, options = case.shape, msgspec.convert(case.options, Synthesizer.Options)
        heads, dim = shape.batch * shape.heads, shape.head_dim
        if options.form == "dense":
            skips_later = Mask(causal=case.mask.causal and shape.seq_q == shape.seq_k)
            pairs = visible_pairs(skips_later, queries=shape.seq_q, keys=shape.seq_k)
            return executed(4 * heads * pairs * _features(dim, options), case, scores="recomputed")
        pairs = sum((run.queries.stop - run.queries.start) * run.seen for run in _runs(case, shared=_shared(options)))
        made = {
            "factorized-dense": 2 * heads * shape.seq_q * sum(factors(shape.seq_k)) * dim,
            "random": 0,
            "factorized-random": 2 * shape.heads * pairs * options.rank,
        }
        products = 2 * heads * pairs * dim * (2 if options.dot_product else 1)
        return executed(made[options.form] + products, case)


def _scores(case: Case, options: Synthesizer.Options) -> Dense | FactorizedDense | Random | FactorizedRandom:
    match options.form:
        case "dense":
            return Dense(case)
        case "factorized-dense":
            return FactorizedDense(case)
        case "random":
            return Random(case)
        case "factorized-random":
            return FactorizedRandom(case, options.rank)


def _shared(options: Synthesizer.Options) -> bool:
    """Return whether all sequences have the same scores, as they do not depend on tokens."""
    return "random" in options.form and not options.dot_product


def _features(dim: int, options: Synthesizer.Options) -> int:
    """Return how many features the dense form's kernel has: the first layer's, a one for the bias, and the query's."""
    return dim + 1 + (dim if options.dot_product else 0)


def _fused(case: Case, options: Synthesizer.Options) -> Fused:
    """Return the kernel for the dense form's features."""
    features = _features(case.shape.head_dim, options)
    shape = msgspec.structs.replace(case.shape, kv_heads=case.shape.heads, head_dim=features)
    masked = case.mask.causal and case.shape.seq_q not in (1, case.shape.seq_k)
    return Fused(msgspec.structs.replace(case, shape=shape), masked=masked)


def _runs(case: Case, *, shared: bool) -> Iterator[_Run]:
    """Cut the queries into runs; a causal one is shown the keys up to its last query's own."""
    shape = case.shape
    of_a_query = shape.heads * shape.seq_k * (1 if shared else shape.batch)
    length = max(1, (_CPU_SCORES if case.device == "cpu" else _DEVICE_SCORES) // of_a_query)
    for start in range(0, shape.seq_q, length):
        stop = min(start + length, shape.seq_q)
        yield _Run(slice(start, stop), shape.seq_k - shape.seq_q + stop if case.mask.causal else shape.seq_k)
