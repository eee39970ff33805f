"""SMYRF's attention: queries and keys are hashed on one sphere, and each query attends to the keys of its cluster.

Daras, Kitaev, Odena, Dimakis 2020, "SMYRF: Efficient attention using asymmetric clustering":

    F(q) = [q; 0; sqrt(M_Q^2 + M_K^2 - |q|^2)],   G(k) = [k; sqrt(M_Q^2 + M_K^2 - |k|^2); 0]              [D + 2]
    |F(q) - G(k)|^2 = 2 (M_Q^2 + M_K^2 - q . k)
    h_r(x) = a_r . x, a_r random: clusters of round r are equal cuts of the q sorted by h_r(F(q)), the k by h_r(G(k))
    out_i^r = sum_j softmax_j(q_i . k_j / sqrt(D)) v_j   over the j in the cluster of i; rounds merged as Reformer's

M_Q and M_K are the largest norms of the sequence's queries and of its keys, so that F and G lie on one sphere, on which
a query is nearer to a key the larger their product is (E2LSH, adaptive clustering). With one cluster it is exact
attention. Time: O((T + S) log(T + S)), and rounds x cluster x D for each query; memory: O(T + S).

Where the paper leaves a choice, or its code differs:

- Projections are sorted as they are, as in the authors' code. The paper's hash floor((a . x + b) / r) has them rounded
  down first; without that neither b nor r changes an order, so there is no option r.
- Scores are q . k / sqrt(D), those of the dense attention that it stands in for; hashes are of q and k unscaled.
- A key that is seen in n rounds counts n times, as in the authors' code.
- The authors need T / (queries in a cluster) = S / (keys in a cluster). Here the number of clusters follows from
  `cluster` keys in each, or from T if that is less; sizes differ by one where they do not divide. So one query
  (decoding) sees all keys: a lone query has no order.
- No causal form: clusters of equal size follow from the order of all tokens, later ones too.
"""
# B batch, H heads, G key/value heads, T queries, S keys, N of either, D head dimension; X = B x H, R rounds, C clusters

from typing import Annotated, ClassVar

import msgspec
import torch
from msgspec import Meta
from torch import Tensor

from attnbench import Case, Support, Tune
from attnbench import Options as BaseOptions
from attnbench_variants.blocks.flop_counts import executed
from attnbench_variants.blocks.grouped_heads import per_query_head
from attnbench_variants.blocks.lse_kernels import kernel_for
from attnbench_variants.blocks.reach import share_found
from attnbench_variants.blocks.weights import generator
from attnbench_variants.hashing.clusters import Clusters, Orders, attend_in_clusters
from attnbench_variants.hashing.hash_rounds import Qkv
from attnbench_variants.hashing.lsh import hash_order


class Smyrf(torch.nn.Module):
    """SMYRF (Daras, Kitaev, Odena, Dimakis 2020, "SMYRF: Efficient attention using asymmetric clustering")."""

    class Options(BaseOptions, frozen=True, kw_only=True):
        """The trade of time for the share of large products that are found. The defaults are the authors' scripts'."""

        rounds: Annotated[int, Meta(ge=1, description="hash rounds; each finds near keys that others miss")] = 4
        cluster: Annotated[int, Meta(ge=1, description="keys in a cluster (of queries as many, if T = S)")] = 32

    tunes: ClassVar = {"rounds": Tune("1..16"), "cluster": Tune("16..1024")}
    supports = Support(
        devices=("cpu", "cuda"),
        causal="clusters of equal size follow from the order of all tokens, later ones too, and a query may find no "
        "earlier key in its own",
        window="which keys are near is decided by their hashes, not by a window of positions",
        grouped=True,
        growth=1,
        spans=("cluster",),
    )

    def __init__(self, case: Case, options: Options) -> None:
        super().__init__()
        self.options = options
        self.kernel = kernel_for(torch.device(case.device))
        self._size, self._device = (case.shape.head_dim + 2, options.rounds), case.device
        self.directions_DR = self._own_DR = torch.randn(self._size, generator=generator(case)).to(case.device)

    @property
    def backend(self) -> str:
        """The kernel that attends within clusters."""
        return self.kernel.name

    def forward(self, q_BHTD: Tensor, k_BGSD: Tensor, v_BGSD: Tensor) -> Tensor:
        """Attend: out_BHTD."""
        heads = q_BHTD.shape[1]
        k_BHSD, v_BHSD = per_query_head(k_BGSD, heads), per_query_head(v_BGSD, heads)
        q_XTD, k_XSD, v_XSD = (x.flatten(0, 1).contiguous() for x in (q_BHTD, k_BHSD, v_BHSD))
        orders = self._orders(q_XTD, k_XSD)
        clusters = Clusters(q_XTD.shape[1], k_XSD.shape[1], size=self.options.cluster, like=v_XSD)
        out_XTD = attend_in_clusters(Qkv(q_XTD, k_XSD, v_XSD), orders, clusters=clusters, kernel=self.kernel)
        return out_XTD.view_as(q_BHTD)

    def redraw(self, seed: int | None) -> None:
        """Draw the directions anew for a call of a training, as the authors' code does at every call."""
        if seed is None:
            self.directions_DR = self._own_DR
            return
        draws = torch.Generator().manual_seed(seed)
        self.directions_DR = torch.randn(self._size, generator=draws).to(self._device)

    @torch.no_grad()
    def _orders(self, q_XTD: Tensor, k_XSD: Tensor) -> Orders:
        """Sort F(q) and G(k) along each round's direction, in float32 whatever the dtype."""
        q_XTD, k_XSD = q_XTD.float(), k_XSD.float()
        q_square_XT1, k_square_XS1 = (x.square().sum(dim=-1, keepdim=True) for x in (q_XTD, k_XSD))
        radius_X11 = q_square_XT1.amax(dim=1, keepdim=True) + k_square_XS1.amax(dim=1, keepdim=True)
        of_vector_DR, of_key_R, of_query_R = self.directions_DR.split([q_XTD.shape[2], 1, 1])
        q_XTR = q_XTD @ of_vector_DR + (radius_X11 - q_square_XT1).sqrt() * of_query_R
        k_XSR = k_XSD @ of_vector_DR + (radius_X11 - k_square_XS1).sqrt() * of_key_R
        return Orders(hash_order(q_XTR.mT), hash_order(k_XSR.mT))

    @staticmethod
    def reach(case: Case) -> float:
        """Return the expected share of the keys in a query's cluster of any round."""
        options = msgspec.convert(case.options, Smyrf.Options)
        return share_found(options.cluster / case.shape.seq_k, options.rounds)

    @staticmethod
    def flops(case: Case) -> int:
        """Count the matrix products that are executed: projections, and all pairs of the clusters' slots."""
        options, shape = msgspec.convert(case.options, Smyrf.Options), case.shape
        heads = 2 * shape.batch * shape.heads * options.rounds * shape.head_dim
        clusters = min(-(-shape.seq_k // options.cluster), shape.seq_q)
        pairs = clusters * -(-shape.seq_q // clusters) * -(-shape.seq_k // clusters)
        projections = 0 if case.passes == "backward" else heads * (shape.seq_q + shape.seq_k)
        return projections + executed(2 * heads * pairs, case, scores="recomputed")
