"""Sparse Sinkhorn attention: a learned, relaxed permutation sorts blocks; a block attends to itself and its match."""
# B batch, H heads, G key/value heads, T queries, S keys, D head dimension; X = B x H, M blocks of keys, N blocks of
# queries (the last N of the M), C positions of a block, R rows of logits that are sorted (all M or all but the last)

from collections.abc import Iterator
from typing import Annotated, ClassVar

import msgspec
import torch
from msgspec import Meta
from torch import Tensor
from torch.nn.functional import pad

from attnbench import Case, Support, Tune, Unsupported
from attnbench import Options as BaseOptions
from attnbench_variants.blocks.flop_counts import executed
from attnbench_variants.blocks.fused_kernels import Fused
from attnbench_variants.blocks.grouped_heads import per_query_head
from attnbench_variants.hashing.sinkhorn_balancing import balanced, causally_balanced

# Elements of the keys laid out for one call on a CPU: copies that stay in the cache cost half of those that do not.
_CACHED_ELEMENTS = 2**20


class Sinkhorn(torch.nn.Module):
    """Sparse Sinkhorn attention (Tay, Bahri, Yang, Metzler, Juan 2020, "Sparse Sinkhorn Attention").

    Keys are cut into blocks. A sorting network scores for each block, from the sum of its keys, every place that it
    could be moved to; Sinkhorn's iterations make of exp(scores / temperature) a relaxed permutation, rows (a block's
    places) and columns (a place's blocks) summing to one in turn, columns last. By it keys and values are sorted, each
    place a mixture of blocks. A query attends to its own block and to the one sorted to its place, in one softmax.

    Causal ("Causal Sinkhorn Balancing"): only earlier blocks may move to a place, and the first place gets
    none. One block is exact attention. Queries are the last T positions of the keys.

    Time: O(S C D) for attention and O(S^2 D / C) to mix the blocks: the first is more in the usual lengths (with blocks
    of 64 time grows as N^1.2 from 2048 to 16384 tokens on a CPU), the second beyond, so 2 is claimed. Memory:
    O(S D + (S / C)^2); the paper's O(C^2 + (S / C)^2) is that of the scores. (Its SortCut is not here: linear in time,
    but queries attend to the first sorted blocks only and not to their own.)

    Where the paper leaves a choice, or is changed:

    - The sorting network reads keys, one linear layer for all heads, as in the authors' code for Long Range Arena; in
      the paper it reads the layer's input, which attention itself is not given. It starts normal, of variance 1 / D.
    - No Gumbel noise, which the paper adds in training: the answer is a function of the inputs. The defaults of
      temperature and iterations are those of the public port, which calls them the paper's best.
    - A block's own place is not open to it where causal, so that its last tokens do not reach its first.
    - Causally a block's row sums to one over the places up to each one, not over all: later places' columns know of
      later blocks, and would tell.
    - A last block that is not full is only mixed into the positions that it has; in the others, the other blocks
      share its part.
    """

    class Options(BaseOptions, frozen=True, kw_only=True):
        """The blocks and how nearly they are permuted."""

        block: Annotated[int, Meta(ge=1, description="positions of a block")] = 64
        iterations: Annotated[int, Meta(ge=1, description="times that rows and columns are made to sum to one")] = 7
        temperature: Annotated[float, Meta(gt=0, description="the lower, the nearer to a permutation")] = 0.75

    tunes: ClassVar = {"block": Tune("16..1024")}
    supports = Support(
        window="which blocks a query sees is learned, not a window of positions", grouped=True, growth=1.25
    )

    def __init__(self, case: Case, options: Options) -> None:
        super().__init__()
        shape = case.shape
        if shape.seq_q > shape.seq_k:
            raise Unsupported("its queries are the last positions of the keys: there cannot be more of them than keys")
        self.options = options
        self.causal, self.queries, self.keys = case.mask.causal, shape.seq_q, shape.seq_k
        self.block, self.blocks, self.first_block = _layout(case, options)
        self._fused = Fused(case, masked=True)
        self.backend = self._fused.name
        generator = torch.Generator().manual_seed(case.seed)
        places_DM = torch.randn(shape.head_dim, self.blocks, generator=generator, dtype=torch.float64)
        self.places_DM = torch.nn.Parameter(places_DM * shape.head_dim**-0.5)
        self.bias_M = torch.nn.Parameter(torch.zeros(self.blocks, dtype=torch.float64))

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
        """Give the logarithm of the relaxed permutation, float32 or wider: of each block (row) the share of a place."""
        dtype = torch.promote_types(k_XMCD.dtype, torch.float32)
        scores_XMM = k_XMCD.sum(dim=2, dtype=dtype) @ self.places_DM.to(dtype) + self.bias_M.to(dtype)
        balance = causally_balanced if self.causal else balanced
        logits_XMM: Tensor = scores_XMM / self.options.temperature
        return balance(logits_XMM, iterations=self.options.iterations)

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
        """Mix blocks by their shares of each place: x_XNCD."""
        filled = self.keys % self.block
        if self.causal or not filled:
            return _mixed(x_XMCD, share_XMN)
        others_XRN = share_XMN[:, :-1] - share_XMN[:, :-1].logsumexp(dim=1, keepdim=True)
        with_last, without = _mixed(x_XMCD[:, :, :filled], share_XMN), _mixed(x_XMCD[:, :-1, filled:], others_XRN)
        return torch.cat([with_last, without], dim=2)

    def _attended(self, q_XNCD: Tensor, keys: tuple[Tensor, Tensor], values: tuple[Tensor, Tensor]) -> Iterator[Tensor]:
        """Attend, a run of blocks at a time, to keys and values: each its own and the sorted blocks."""
        run = q_XNCD.shape[1]
        if q_XNCD.device.type == "cpu":
            run = max(1, _CACHED_ELEMENTS // (2 * q_XNCD[:, 0].numel()))
        runs = [x.split(run, dim=1) for x in (q_XNCD, *keys, *values, self._mask(q_XNCD.device)[None])]
        for q, own_k, sorted_k, own_v, sorted_v, mask in zip(*runs, strict=True):
            yield self._fused(q, torch.cat([own_k, sorted_k], dim=2), torch.cat([own_v, sorted_v], dim=2), mask=mask)

    def _mask(self, device: torch.device) -> Tensor:
        """Mark what a block's rows see of their own and the sorted block: [N, C or 1, 2C]."""
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
    """Give the size of a block, the number of blocks of keys, and the first of them that has queries."""
    block = min(options.block, case.shape.seq_k)
    return block, -(-case.shape.seq_k // block), (case.shape.seq_k - case.shape.seq_q) // block
