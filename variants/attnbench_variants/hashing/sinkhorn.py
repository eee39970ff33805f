"""Sparse Sinkhorn attention: a learned, relaxed permutation sorts blocks; a block attends to itself and its match.

Tay, Bahri, Yang, Metzler, Juan 2020, "Sparse Sinkhorn Attention":

    P = sinkhorn(exp(sum(k_b) W / temperature))      [M, M]; sum(k_b) [M, D] over the keys of a block, W [D, M] learned
    k'_n = sum_b P_bn k_b,  v'_n = sum_b P_bn v_b                               the blocks sorted to place n
    out_i = softmax over both [k_n, k'_n] of q_i . () / sqrt(D), times [v_n, v'_n]            n the block of query i

Sinkhorn's iterations make rows (a block's places) and columns (a place's blocks) sum to one in turn, columns last.
Causal ("Causal Sinkhorn Balancing"): only earlier blocks may move to a place, and the first place gets none. One block
is exact attention. Queries are the last T positions of the keys.

Time: O(S C D) for attention and O(S^2 D / C) to mix the blocks: the first is more in the usual lengths (with blocks of
64 time grows as N^1.2 from 2048 to 16384 tokens on a CPU), the second beyond. Memory: O(S D + (S / C)^2); the paper's
O(C^2 + (S / C)^2) is that of the scores. (Its SortCut is not here: linear in time, but queries attend to the first
sorted blocks only and not to their own.)

Where the paper leaves a choice, or is changed:

- The sorting network reads keys, one linear layer for all heads, as in the authors' code for Long Range Arena; in the
  paper it reads the layer's input, which attention itself is not given. It starts normal, of variance 1 / D.
- Gumbel noise is added to the scores of places while a model is trained, as in the paper (section 3.2.2), and nowhere
  else: the answer is a function of the inputs. The defaults of temperature and iterations are those of the public port,
  which calls them the paper's best.
- `balance=softmax` stops after the rows and has no noise: P = softmax over a block's places, as Long Range Arena's code
  by default. A place's shares do not sum to one then. (That code attends to the own and the sorted block in two
  softmaxes and adds what they give, where one is the paper's.)
- A block's own place is not open to it where causal, so that its last tokens do not reach its first.
- Causally a block's row sums to one over the places up to each one, not over all: later places' columns depend on later
  blocks, and would leak them.
- A last block that is not full is only mixed into the positions that it has; in the others, the other blocks share its
  part where places sum to one.
"""
# B batch, H heads, G key/value heads, T queries, S keys, D head dimension; X = B x H, M blocks of keys, N blocks of
# queries (the last N of the M), C positions of a block, R rows of logits that are sorted (all M or all but the last)

from collections.abc import Iterator
from typing import Annotated, ClassVar, Literal

import msgspec
import torch
from msgspec import Meta
from torch import Tensor
from torch.nn.functional import pad

from attnbench import Case, Support, Tune
from attnbench import Options as BaseOptions
from attnbench_variants.blocks.dtypes import wide_dtype
from attnbench_variants.blocks.flop_counts import executed
from attnbench_variants.blocks.fused_kernels import Fused
from attnbench_variants.blocks.grouped_heads import per_query_head
from attnbench_variants.blocks.masks import require_queries_last
from attnbench_variants.blocks.reach import share_seen
from attnbench_variants.blocks.weights import generator, normal
from attnbench_variants.hashing.sinkhorn_balancing import balanced, causally_balanced, rows_balanced

# Elements of the keys laid out for one call on a CPU: copies that stay in the cache cost half of those that do not.
_CACHED_ELEMENTS = 2**20
_LEAST_UNIFORM = 1e-12  # whose logarithm is finite, twice


class Sinkhorn(torch.nn.Module):
    """Sparse Sinkhorn attention (Tay, Bahri, Yang, Metzler, Juan 2020, "Sparse Sinkhorn Attention")."""

    class Options(BaseOptions, frozen=True, kw_only=True):
        """The blocks, and how close their relaxed permutation comes to one."""

        block: Annotated[int, Meta(ge=1, description="positions of a block")] = 64
        iterations: Annotated[int, Meta(ge=1, description="times that rows and columns are made to sum to one")] = 7
        temperature: Annotated[float, Meta(gt=0, description="the lower, the nearer to a permutation")] = 0.75
        balance: Annotated[
            Literal["sinkhorn", "softmax"],
            Meta(description="make rows and columns sum to one in turn, or rows alone (no iterations)"),
        ] = "sinkhorn"

    tunes: ClassVar = {"block": Tune("16..1024")}
    supports = Support(
        window="which blocks a query sees is learned, not a window of positions",
        grouped=True,
        growth=1.25,
        spans=("block",),
    )

    def __init__(self, case: Case, options: Options) -> None:
        super().__init__()
        require_queries_last(case)
        shape = case.shape
        self.options = options
        self.causal, self.queries, self.keys = case.mask.causal, shape.seq_q, shape.seq_k
        self.block, self.blocks, self.first_block = _layout(case, options)
        self._fused = Fused(case, masked=True)
        self.backend = self._fused.name
        deviation = shape.head_dim**-0.5
        places_DM = normal(shape.head_dim, self.blocks, deviation=deviation, generator=generator(case))
        self.places_DM = torch.nn.Parameter(places_DM)
        self.bias_M = torch.nn.Parameter(torch.zeros(self.blocks, dtype=torch.float64))
        self._noise_seed: int | None = None

    def forward(self, q_BHTD: Tensor, k_BGSD: Tensor, v_BGSD: Tensor) -> Tensor:
        """Attend: out_BHTD."""
        heads = q_BHTD.shape[1]
        q_XTD, k_XSD, v_XSD = (per_query_head(x, heads).flatten(0, 1) for x in (q_BHTD, k_BGSD, v_BGSD))
        k_XMCD, v_XMCD = self._blocks(k_XSD), self._blocks(v_XSD)
        share_XMN = self.log_shares(k_XMCD)[:, :, self.first_block :]
        given = [(x[:, self.first_block :], self._sorted(x, share_XMN)) for x in (k_XMCD, v_XMCD)]
        lead = self.keys - self.queries - self.first_block * self.block
        q_XNCD = self._blocks(pad(q_XTD, (0, 0, lead, 0)))
        rows = list(self._attended(q_XNCD, *given))
        return torch.cat(rows, dim=1).flatten(1, 2)[:, lead : lead + self.queries].view(q_BHTD.shape)

    def log_shares(self, k_XMCD: Tensor) -> Tensor:
        """Return log P, float32 or wider: the share of each block (row) that moves to a place (column)."""
        dtype = wide_dtype(k_XMCD.dtype)
        scores_XMM = k_XMCD.sum(dim=2, dtype=dtype) @ self.places_DM.to(dtype) + self.bias_M.to(dtype)
        if self.options.balance == "softmax":
            return rows_balanced(scores_XMM / self.options.temperature, causal=self.causal)
        balance = causally_balanced if self.causal else balanced
        logits_XMM: Tensor = (scores_XMM + self._noise(scores_XMM)) / self.options.temperature
        return balance(logits_XMM, iterations=self.options.iterations)

    def redraw(self, seed: int | None) -> None:
        """Add Gumbel noise of a seed to the scores in the next call, or none."""
        self._noise_seed = seed

    def _noise(self, scores_XMM: Tensor) -> Tensor | float:
        if self._noise_seed is None:
            return 0.0
        draws = torch.Generator().manual_seed(self._noise_seed)
        uniform_XMM = torch.rand(scores_XMM.shape, generator=draws, dtype=torch.float64).clamp(min=_LEAST_UNIFORM)
        return -(-uniform_XMM.log()).clamp(min=_LEAST_UNIFORM).log().to(scores_XMM)

    @staticmethod
    def reach(case: Case) -> float:
        """Return the share of the visible keys in a query's own block, and of as many mixed ones."""
        block = msgspec.convert(case.options, Sinkhorn.Options).block
        return share_seen(
            case,
            lambda i, j: i // block == j // block,
            further=lambda i: block * (i // block > 0) if case.mask.causal else torch.full_like(i, block),
        )

    @staticmethod
    def flops(case: Case) -> int:
        """Count the matrix products that are executed: scores of places, the mixing of blocks, all pairs of blocks."""
        shape = case.shape
        block, blocks, first = _layout(case, msgspec.convert(case.options, Sinkhorn.Options))
        heads, given = 2 * shape.batch * shape.heads * shape.head_dim, blocks - first
        is_partial = shape.seq_k % block and not case.mask.causal
        mixed = block * blocks - (block - shape.seq_k % block if is_partial else 0)
        sort = heads * (blocks * blocks + 2 * given * mixed)
        attend = heads * 2 * given * block * 2 * block
        return executed(sort, case) + executed(attend, case, scores="recomputed")

    def _blocks(self, x_XSD: Tensor) -> Tensor:
        """Cut into blocks, the last one filled up with zeros."""
        filled = pad(x_XSD, (0, 0, 0, -x_XSD.shape[1] % self.block))
        return filled.view(len(filled), -1, self.block, filled.shape[2])

    def _sorted(self, x_XMCD: Tensor, share_XMN: Tensor) -> Tensor:
        """Mix the blocks of each place by P: x_XNCD."""
        filled = self.keys % self.block
        if self.causal or not filled:
            return _mixed(x_XMCD, share_XMN)
        others_XRN = share_XMN[:, :-1]
        if self.options.balance == "sinkhorn":
            others_XRN = others_XRN - others_XRN.logsumexp(dim=1, keepdim=True)
        with_last, without = _mixed(x_XMCD[:, :, :filled], share_XMN), _mixed(x_XMCD[:, :-1, filled:], others_XRN)
        return torch.cat([with_last, without], dim=2)

    def _attended(self, q_XNCD: Tensor, keys: tuple[Tensor, Tensor], values: tuple[Tensor, Tensor]) -> Iterator[Tensor]:
        """Attend to the own and the sorted blocks of keys and values, a run of blocks at a time."""
        run = q_XNCD.shape[1]
        if q_XNCD.device.type == "cpu":
            run = max(1, _CACHED_ELEMENTS // (2 * q_XNCD[:, 0].numel()))
        runs = [x.split(run, dim=1) for x in (q_XNCD, *keys, *values, self._mask(q_XNCD.device)[None])]
        for q, own_k, sorted_k, own_v, sorted_v, mask in zip(*runs, strict=True):
            yield self._fused(q, torch.cat([own_k, sorted_k], dim=2), torch.cat([own_v, sorted_v], dim=2), mask=mask)

    def _mask(self, device: torch.device) -> Tensor:
        """Mark the keys of their own and the sorted block that a block's rows see: [N, C or 1, 2C]."""
        number_N11 = torch.arange(self.first_block, self.blocks, device=device)[:, None, None]
        column_C = torch.arange(self.block, device=device)
        own = number_N11 * self.block + column_C < self.keys
        if self.causal:
            own = own & (column_C <= column_C[:, None])
        given = (number_N11 > 0) if self.causal else (number_N11 >= 0)
        return torch.cat([own, given.expand(own.shape[:2] + column_C.shape)], dim=2)


def _mixed(x_XMCD: Tensor, share_XMN: Tensor) -> Tensor:
    mixed_XNE = share_XMN.exp().to(x_XMCD.dtype).mT @ x_XMCD.flatten(2)
    return mixed_XNE.view(*mixed_XNE.shape[:2], *x_XMCD.shape[2:])


def _layout(case: Case, options: Sinkhorn.Options) -> tuple[int, int, int]:
    """Return the size of a block, the number of blocks of keys, and the first of them that has queries."""
    block = min(options.block, case.shape.seq_k)
    return block, -(-case.shape.seq_k // block), (case.shape.seq_k - case.shape.seq_q) // block
