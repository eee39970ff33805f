"""The Routing Transformer's attention: clusters each take the tokens nearest to them, which attend to one another.

Roy, Saffar, Vaswani, Grangier 2021, "Efficient Content-Based Sparse Attention with Routing Transformers", section 4.1,
algorithm 1:

    x_i = layer_norm(q_i), without scale or bias
    M_c = the `window` tokens i of the largest x_i . mu_c, in order of position          mu_c the centroid of cluster c
    out_i^c = sum_j softmax_j(x_i . x_j / sqrt(D)) v_j   over the j in M_c, causally j <= i
    out_i = mean of out_i^c over the clusters c with i in M_c; zero where there is none

With about sqrt(N) clusters of sqrt(N) tokens, time: O(N^1.5 D); memory: O(N D), and O(N) products at a time.

Where the paper leaves a choice, its code differs, or this does:

- Queries are the keys too (K <- Q): the algorithm's causal form, in which every token sees itself. Without causality it
  lets keys be clustered apart; here they are shared in both, as in the paper's experiments.
- The paper's centroids follow the tokens as moving averages during training. A mechanism here keeps nothing from one
  call to the next: the centroids stay as drawn from the seed, random directions for each head. Products with them are
  taken in float32 whatever the dtype, so that all dtypes route alike.
- Scores are divided by sqrt(D), as in exact attention; the algorithm and the code leave them D times a cosine.
- The code divides the sum over a token's clusters by their number plus 0.01, which shrinks every output.
- In the paper half of the heads attend locally instead. Here all of them route.
- Causal: weights go to earlier positions only. But which ones those are follows from the ranking of all tokens, later
  ones too. So there is no decoding token by token that gives the same.
"""
# B batch, H heads, N tokens (= T = S), D head dimension, C clusters, W tokens of a cluster, X = B * H, Z = X * N

import math
from typing import Annotated, ClassVar

import msgspec
import torch
from msgspec import Meta
from torch import Tensor
from torch.nn.functional import embedding_bag, layer_norm

from attnbench import Case, Shape, Support, Tune
from attnbench import Options as BaseOptions
from attnbench_variants.blocks.dtypes import wide
from attnbench_variants.blocks.flop_counts import executed
from attnbench_variants.blocks.fused_kernels import Fused
from attnbench_variants.blocks.reach import share_found
from attnbench_variants.blocks.weights import generator

# Products of tokens with centroids at a time: on a CPU they stay in its cache; elsewhere few launches count.
_CPU_PRODUCTS, _DEVICE_PRODUCTS = 2**20, 2**26
_EPSILON = 1e-6

_Count = Annotated[int, Meta(ge=1)]


class Routing:
    """Attend within clusters of a head's tokens (Roy, Saffar, Vaswani, Grangier 2021, section 4.1, algorithm 1)."""

    class Options(BaseOptions, frozen=True, kw_only=True):
        """The number of clusters, and of the tokens of each."""

        clusters: Annotated[_Count | None, Meta(description="clusters of a head's tokens; none: sqrt(seq)")] = None
        window: Annotated[_Count | None, Meta(description="tokens that a cluster takes; none: seq / clusters")] = None

    tunes: ClassVar = {"window": Tune("16..2048")}
    supports = Support(
        devices=("cpu", "cuda"),
        passes=("forward", "backward", "forward-backward"),
        window="which keys are near is decided by their clusters, not by a window of positions",
        cross="queries and keys are one sequence, clustered together: no cross-attention, no decoding",
        grouped="queries are the keys too, so every query head needs a key head of its own",
        ties_qk=True,
        growth=1.25,
        spans=("window",),
    )

    def __init__(self, case: Case, options: Options) -> None:
        self._causal = case.mask.causal
        clusters, self._taken = sizes(case.shape, options)
        size = case.shape.heads, clusters, case.shape.head_dim
        self.centroids_HCD = torch.randn(size, generator=generator(case)).to(case.device)
        self._fused = Fused(case)
        self.backend = self._fused.name

    def __call__(self, q_BHND: Tensor, k_BHND: Tensor, v_BHND: Tensor) -> Tensor:
        """Attend: out_BHND. Gradients go to q, as query and as key, and to v; k is assumed to be q."""
        del k_BHND
        normal_BHND = self.normalise(q_BHND)
        members_XCW = self.members(normal_BHND).flatten(0, 1)
        sequences, tokens, features = len(members_XCW), *q_BHND.shape[2:]
        row_XCW = members_XCW + torch.arange(sequences, device=q_BHND.device)[:, None, None] * tokens
        q_XCWD, v_XCWD = (
            x.reshape(-1, features).index_select(0, row_XCW.flatten()).view(*row_XCW.shape, features)
            for x in (normal_BHND.to(q_BHND.dtype), v_BHND)
        )
        out_XCWD = self._fused(q_XCWD, q_XCWD, v_XCWD, causal=self._causal)
        return _mean_by_row(out_XCWD.flatten(0, 2), row_XCW.flatten(), sequences * tokens).view(v_BHND.shape)

    @staticmethod
    def normalise(x_BHND: Tensor) -> Tensor:
        """Return tokens of mean zero and length sqrt(D), in float32 or wider."""
        return layer_norm(wide(x_BHND), x_BHND.shape[-1:], eps=_EPSILON)

    @torch.no_grad()
    def members(self, normal_BHND: Tensor) -> Tensor:
        """Return the positions of each cluster's tokens, ascending, int64 [B, H, C, W]."""
        batch, heads, tokens, _ = normal_BHND.shape
        clusters = self.centroids_HCD.shape[1]
        most = _CPU_PRODUCTS if normal_BHND.device.type == "cpu" else _DEVICE_PRODUCTS
        few = max(1, most // (clusters * tokens))
        at_once = max(1, most // (min(few, batch * heads) * tokens))
        normal_XND, centroids_XCD = normal_BHND.float().flatten(0, 1), self.centroids_HCD.repeat(batch, 1, 1)
        taken = [
            torch.cat([self._nearest(part_XCD @ x_XND.mT) for part_XCD in c_XCD.split(at_once, dim=1)], dim=1)
            for x_XND, c_XCD in zip(normal_XND.split(few), centroids_XCD.split(few), strict=True)
        ]
        return torch.cat(taken).view(batch, heads, clusters, -1)

    def _nearest(self, product_XCN: Tensor) -> Tensor:
        return product_XCN.topk(self._taken, dim=-1, sorted=False).indices.sort(dim=-1).values

    @staticmethod
    def reach(case: Case) -> float:
        """Return the expected share of the keys that a query shares a cluster with, drawn at random."""
        clusters, taken = sizes(case.shape, msgspec.convert(case.options, Routing.Options))
        return share_found((taken / case.shape.seq_k) ** 2, clusters)

    @staticmethod
    def flops(case: Case) -> int:
        """Count the matrix products that are executed: tokens with centroids, and the pairs of each cluster."""
        shape = case.shape
        clusters, taken = sizes(shape, msgspec.convert(case.options, Routing.Options))
        pairs = taken * (taken + 1) // 2 if case.mask.causal else taken**2
        each = 2 * shape.batch * shape.heads * clusters * shape.head_dim
        route = 0 if case.passes == "backward" else each * shape.seq_q
        return route + executed(2 * each * pairs, case, scores="recomputed")


def sizes(shape: Shape, options: Routing.Options) -> tuple[int, int]:
    """Return the number of clusters and of the tokens that each takes: together no fewer than there are tokens."""
    clusters = options.clusters or max(1, round(math.sqrt(shape.seq_q)))
    return clusters, min(shape.seq_q, options.window or -(-shape.seq_q // clusters))


def _mean_by_row(x_MD: Tensor, row_M: Tensor, rows: int) -> Tensor:
    """Average the results of each row, in float32 or wider; zero for a row without any: [Z, D]."""
    counts_Z = torch.bincount(row_M, minlength=rows)
    return embedding_bag(row_M.argsort(), wide(x_MD), counts_Z.cumsum(0) - counts_Z, mode="mean").to(x_MD.dtype)
