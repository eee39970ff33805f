"""Reformer's attention: tokens are hashed, and each attends to those that hash near it, in several rounds.

Kitaev, Kaiser, Levskaya 2020, "Reformer: The Efficient Transformer", section 2 and appendix A:

    h_r(x) = argmax([x R_r; -x R_r]), R_r random: the bucket of x in round r
    out_i^r = sum_j exp(q_i . k_j - z_i^r) v_j   over the j in the chunk of i and the one before (eq. 5), k = q / |q|
    out_i = sum_r exp(z_i^r - z_i) out_i^r,   z_i^r the log-sum-exp of round r,   z_i = logsumexp_r(z_i^r)       (eq. 8)

In each round tokens are sorted by (bucket, position) and cut into chunks. A token attends to itself only where there is
no other. Queries are the keys too, and `k` is not read. Time: O(N log N), and rounds x chunk x D for each token.
Memory: O(N).

Where the paper leaves a choice, or its code differs:

- Scores are q . k without 1 / sqrt(D): the authors' code (trax) makes keys sqrt(D) long before it divides by that, so
  that scores are as large as in exact attention. Ports that do not are nearly uniform where |q| is sqrt(D).
- Within the two chunks the bucket does not matter (trax: attend_across_buckets, set in the paper's experiments).
- The first chunk of a round looks back at nothing (equation 5). Published code wraps around to the last one.
- A key that is seen in n rounds counts n times: N_ij = 1 in equation 8, as in trax's second implementation and its
  ports. To count it once, as in the paper's experiments, each pair would be looked up in all other rounds.
- As many buckets as chunks, so a bucket has the size of a chunk on average (in the paper, of half a chunk).
- Causal: weights go to earlier positions only, whose values alone are put out. But which ones those are follows from
  the sorting of all tokens, later ones too. So there is no decoding token by token that gives the same.
"""
# B batch, H heads, T queries, S keys, D head dimension; N tokens (= T = S), R rounds, Z = B x H x N

from typing import Annotated, ClassVar

import msgspec
import torch
from msgspec import Meta
from torch import Tensor

from attnbench import Case, Support, Tune
from attnbench import Options as BaseOptions
from attnbench_variants.blocks.lse_kernels import kernel_for
from attnbench_variants.blocks.reach import share_found
from attnbench_variants.hashing.lsh import bucket_factors, draw_rotations, hash_order, hash_vectors
from attnbench_variants.hashing.shared_qk import attend_shared_qk
from attnbench_variants.hashing.sorted_chunks import ChunkLayout

# Matrix products with the scores or the weights: two forward, five for the gradient, which computes the scores again.
_PRODUCTS = {"backward": 5, "forward-backward": 7}


class Reformer(torch.nn.Module):
    """Attend by locality-sensitive hashing (Kitaev, Kaiser, Levskaya 2020, "Reformer", section 2 and appendix A)."""

    class Options(BaseOptions, frozen=True, kw_only=True):
        """The trade of time for the share of similar tokens that find each other."""

        rounds: Annotated[int, Meta(ge=1, description="hash rounds; each finds similar tokens that others miss")] = 4
        bucket: Annotated[int, Meta(ge=1, description="tokens in a chunk, and in a bucket on average")] = 64

    tunes: ClassVar = {"rounds": Tune("1..16"), "bucket": Tune("16..1024")}
    supports = Support(
        devices=("cpu", "cuda"),
        passes=("forward", "backward", "forward-backward"),
        window="which keys are near is decided by their hashes, not by a window of positions",
        cross="queries and keys are one sequence, hashed and sorted together: no cross-attention, no decoding",
        grouped="queries are the keys too, so every query head needs a key head of its own",
        ties_qk=True,
        growth=1,
        spans=("bucket",),
    )

    def __init__(self, case: Case, options: Options) -> None:
        super().__init__()
        self.options = options
        self.causal = case.mask.causal
        self.kernel = kernel_for(torch.device(case.device))
        self._case = case
        self.rotations = self._own = self._rotations(case.seed)

    @property
    def backend(self) -> str:
        """The kernel that attends within chunks."""
        return self.kernel.name

    def forward(self, q_BHTD: Tensor, k_BHSD: Tensor, v_BHSD: Tensor) -> Tensor:
        """Attend: out_BHTD. Gradients go to q, as query and as key, and to v; k is assumed to be q."""
        del k_BHSD
        return self.attend(q_BHTD, v_BHSD, self.buckets(q_BHTD))

    def redraw(self, seed: int | None) -> None:
        """Draw the hashes anew for a call of a training, as the authors' code does: fixed ones would be learned."""
        self.rotations = self._own if seed is None else self._rotations(seed)

    def _rotations(self, seed: int) -> list[Tensor]:
        shape = self._case.shape
        buckets = -(-shape.seq_q // self.options.bucket)
        drawn = draw_rotations(shape.head_dim, self.options.rounds, buckets=buckets, seed=seed)
        return [rotation_DRF.to(self._case.device) for rotation_DRF in drawn]

    @torch.no_grad()
    def buckets(self, qk_BHND: Tensor) -> Tensor:
        """Return the bucket of each token in each round, int64 [B, H, R, N]."""
        batch, heads, tokens, features = qk_BHND.shape
        with torch.autocast(qk_BHND.device.type, enabled=False):  # in a model of mixed precision, too
            buckets_RZ = hash_vectors(qk_BHND.reshape(-1, features), self.rotations)
        return buckets_RZ.view(-1, batch, heads, tokens).movedim(0, 2)

    def attend(self, qk_BHND: Tensor, v_BHND: Tensor, buckets_BHRN: Tensor) -> Tensor:
        """Attend given the buckets: out_BHND."""
        qk_XND, v_XND = (x.flatten(0, 1).contiguous() for x in (qk_BHND, v_BHND))
        tokens = qk_XND.shape[1]
        layout = ChunkLayout(tokens, min(self.options.bucket, tokens), causal=self.causal, like=v_XND)
        order_XRN = hash_order(buckets_BHRN.flatten(0, 1))
        return attend_shared_qk(qk_XND, v_XND, order_XRN, layout=layout, kernel=self.kernel).view_as(v_BHND)

    @staticmethod
    def reach(case: Case) -> float:
        """Return the expected share of the keys in a query's chunk and the one before, of any round."""
        options = msgspec.convert(case.options, Reformer.Options)
        return share_found(2 * options.bucket / case.shape.seq_k, options.rounds)

    @staticmethod
    def flops(case: Case) -> int:
        """Count the matrix products that are executed: hashing, and all pairs of the chunks, hidden ones included."""
        options = msgspec.convert(case.options, Reformer.Options)
        shape, tokens = case.shape, case.shape.seq_q
        chunk, buckets = min(options.bucket, tokens), -(-tokens // options.bucket)
        pairs = -(-tokens // chunk) * chunk * 2 * chunk
        axes = 0 if case.passes == "backward" else tokens * sum(bucket_factors(buckets)) // 2
        a_round = pairs * _PRODUCTS.get(case.passes, 2) + axes
        return 2 * shape.batch * shape.heads * options.rounds * shape.head_dim * a_round
