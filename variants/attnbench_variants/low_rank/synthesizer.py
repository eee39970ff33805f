"""Synthesizer attention: weights that no query and key make together."""
# B batch, H heads, G key/value heads, T queries, S keys, D head dimension, C queries of a run, U keys that a run is
# shown, F features of a value: D, or B * D where all sequences share their weights (then B is 1)

from collections.abc import Iterator
from typing import Annotated, Literal, NamedTuple

import msgspec
import torch
from msgspec import Meta

from attnbench import Case, Support
from attnbench import Options as BaseOptions
from attnbench_variants.blocks.counting import executed
from attnbench_variants.blocks.fused import TORCH
from attnbench_variants.blocks.heads import per_query_head
from attnbench_variants.blocks.visible import visible_keys
from attnbench_variants.low_rank.synthetic_scores import Dense, FactorizedDense, FactorizedRandom, Random, factors

# Scores of a run of queries: on a CPU few enough to stay in the cache and in the heap.
_CPU_SCORES, _DEVICE_SCORES = 2**20, 2**28


class _Run(NamedTuple):
    """Queries that are answered at once, and how many keys they are shown."""

    queries: slice
    seen: int


class Synthesizer(torch.nn.Module):
    """Synthesizer: softmax(C) v, where no score in C is made of a query and a key (Tay et al. 2020, section 3).

    dense: C_t = F(x_t), a two-layered network with a score for each position. random: C is learned as it is.
    factorized-dense: F gives two short vectors, whose products are the scores. factorized-random: C = R1 R2^T, of rank
    k. Keys are never read; weights are learned for as many positions as the case has. Causally, later positions are
    masked. Queries are the last T positions of the keys. Time: O(T S); memory without gradients: O(T + S) and C itself
    where it is learned.

    Where the paper leaves a choice, or this differs:
    - F starts from the token; here W1 x is the query (as in the authors' code, which has no biases either): between the
      standard projections Wq is W1, and b1, W2 and b2 are the mechanism's own, one set for each head as in the paper.
    - The lengths of the two short vectors are the paper's a and b with a b = S, for which it names no values: here both
      are near the square root of S. One is repeated value by value, the other as a whole, so that no two scores are the
      same product (the paper repeats both "k times"). Both come from the one first layer.
    - No start is named: matrices are Glorot-uniform, biases zero, drawn from the case's seed.
    """

    class Options(BaseOptions, frozen=True, kw_only=True):
        """Mixtures of forms (the paper's section on them) are sums of scores and not offered."""

        form: Annotated[
            Literal["dense", "factorized-dense", "random", "factorized-random"],
            Meta(description="what scores are made of: the token (dense) or its position (random), in factors or not"),
        ] = "dense"
        rank: Annotated[int, Meta(ge=1, description="columns of the factors, with form=factorized-random")] = 8

    supports = Support(
        window="its scores are learned for the whole sequence, and the paper gives them no window",
        grouped=True,
        growth=2,
    )
    backend = f"torch-matmul {TORCH}"

    def __init__(self, case: Case, options: Options) -> None:
        super().__init__()
        self._mask = case.mask
        self.scores = _scores(case, options)
        self._runs = list(_runs(case, shared=self.scores.shared))

    def forward(self, q_BHTD: torch.Tensor, k_BGSD: torch.Tensor, v_BGSD: torch.Tensor) -> torch.Tensor:
        """Attend: out_BHTD."""
        del k_BGSD
        batch, heads, queries, dim = q_BHTD.shape
        q_HBTD, v_HBSD = q_BHTD.transpose(0, 1), per_query_head(v_BGSD, heads).transpose(0, 1)
        v_HBSF = v_HBSD.transpose(1, 2).flatten(2)[:, None] if self.scores.shared else v_HBSD.contiguous()
        out_HBTF = torch.cat([self._attend(q_HBTD, v_HBSF, run) for run in self._runs], dim=2)
        if self.scores.shared:
            return out_HBTF.view(heads, queries, batch, dim).permute(2, 0, 1, 3)
        return out_HBTF.transpose(0, 1)

    def _attend(self, q_HBTD: torch.Tensor, v_HBSF: torch.Tensor, run: _Run) -> torch.Tensor:
        """Give out_HBCF for a run of queries."""
        queries, keys = q_HBTD.shape[2], v_HBSF.shape[2]
        scores_HBCU: torch.Tensor = self.scores(q_HBTD[:, :, run.queries], run.queries, run.seen)
        visible_CS = visible_keys(self._mask, queries=queries, keys=keys, device=v_HBSF.device, rows=run.queries)
        if visible_CS is not None:
            scores_HBCU = scores_HBCU.masked_fill(visible_CS[:, : run.seen].logical_not(), float("-inf"))
        return scores_HBCU.softmax(dim=-1) @ v_HBSF[:, :, : run.seen]

    @staticmethod
    def flops(case: Case) -> int:
        """Count the matrix products that are executed: scores that are products, and the values' sums, run by run."""
        shape, options = case.shape, msgspec.convert(case.options, Synthesizer.Options)
        pairs = sum(
            (run.queries.stop - run.queries.start) * run.seen for run in _runs(case, shared="random" in options.form)
        )
        heads = shape.batch * shape.heads
        values = 2 * heads * pairs * shape.head_dim
        made = {
            "dense": values,
            "factorized-dense": 2 * heads * shape.seq_q * sum(factors(shape.seq_k)) * shape.head_dim,
            "random": 0,
            "factorized-random": 2 * shape.heads * pairs * options.rank,
        }
        return executed(made[options.form] + values, case)


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


def _runs(case: Case, *, shared: bool) -> Iterator[_Run]:
    """Cut the queries into runs; a causal one is shown the keys up to its last query's own."""
    shape = case.shape
    of_a_query = shape.heads * shape.seq_k * (1 if shared else shape.batch)
    length = max(1, (_CPU_SCORES if case.device == "cpu" else _DEVICE_SCORES) // of_a_query)
    for start in range(0, shape.seq_q, length):
        stop = min(start + length, shape.seq_q)
        yield _Run(slice(start, stop), shape.seq_k - shape.seq_q + stop if case.mask.causal else shape.seq_k)
