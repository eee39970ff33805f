"""Nystrom attention: every query reaches every key through a few landmarks, averages of queries and of keys.

Xiong et al. 2021, "Nystromformer: A Nystrom-Based Algorithm for Approximating Self-Attention":

    out = F Z B v + conv(v)                                               scores divided by sqrt(D)
    F = softmax(q k'^T) [T, L],   A = softmax(q' k'^T) [M, L],   B = softmax(q' k^T) [M, S],   Z ~ pinv(A) [L, M]
    q', k': the means of segments of queries [M, D] and of keys [L, D]
    Z <- Z (13 I - A Z (15 I - A Z (7 I - A Z))) / 4, six times, from A^T / (|A|_1 |A|_inf)           (lemma 1)

Read from the right, F Z B v is two calls of a fused kernel around small matrices: the landmarks of the queries attend
to all keys, and all queries to the landmarks of the keys. Time: O((T + S) M D); memory: O(T + S). No causal form,
window or decoding: each landmark is a mean of a stretch of the whole sequence.

Where the paper leaves a choice, or this differs:

- The start of the iteration is that of each head of each sequence. (The authors' code divides by the largest sum of all
  heads and sequences, which makes them depend on one another.)
- Segments tile any length: the first N mod M hold one token more. The paper pads, which moves the means.
- Where every query and key is a landmark, attention is exact and computed so, as in the authors' code.
- The skip of the values, conv(v), is that of the paper's model; its kernel, one for each head, is 33 wide in the
  authors' models for text and starts as torch's convolutions do, drawn from the case's seed. With fewer queries than
  keys, queries are the last T positions.
"""
# B batch, H heads, G key/value heads, T queries, S keys, N positions (T or S), D head dimension; M landmarks of the
# queries, L of the keys; W width of the convolution, P blocks of C positions

from typing import Annotated, ClassVar

import msgspec
import torch
from msgspec import Meta
from torch.nn.functional import pad

from attnbench import Case, Support, Tune, Unsupported
from attnbench import Options as BaseOptions
from attnbench_variants.blocks.dtypes import wide
from attnbench_variants.blocks.flop_counts import executed
from attnbench_variants.blocks.fused_kernels import Fused
from attnbench_variants.blocks.grouped_heads import per_query_head
from attnbench_variants.blocks.weights import generator, learned, uniform

# Positions whose convolution is one product of matrices, unless the kernel is wider: the fastest of 32, 64 and 128.
_BLOCK = 32


class Nystrom(torch.nn.Module):
    """Nystromformer: F Z B v, and a convolution of the values (Xiong et al. 2021)."""

    class Options(BaseOptions, frozen=True, kw_only=True):
        """The paper's sizes. An untrained convolution is most of the distance to exact attention: conv=0 leaves it."""

        landmarks: Annotated[int, Meta(ge=1, description="means that queries and keys are each cut down to")] = 64
        iterations: Annotated[int, Meta(ge=1, description="steps towards the pseudo-inverse")] = 6
        conv: Annotated[int, Meta(ge=0, description="width of the values' convolution; 0 leaves it out")] = 33

    tunes: ClassVar = {"landmarks": Tune("16..512"), "conv": Tune((0,))}
    supports = Support(
        causal="each landmark is a mean of a stretch of the sequence, later tokens too: Nystromformer is an encoder",
        window="each landmark stands for a stretch of the whole sequence, so that no key can be left out",
        grouped=True,
        growth=1,
        spans=("landmarks",),
    )

    def __init__(self, case: Case, options: Options) -> None:
        super().__init__()
        if case.passes == "decode":
            raise Unsupported("decoding is causal, and landmarks are means over the whole sequence")
        if options.conv and case.shape.seq_q > case.shape.seq_k:
            raise Unsupported("its convolution adds to a query the values around it, so every query needs one: conv=0")
        self._options = options
        self.kernel = None
        if options.conv:
            kernel_HW = uniform(case.shape.heads, options.conv, bound=options.conv**-0.5, generator=generator(case))
            self.kernel = learned(case, kernel_HW)
        self._fused = Fused(case)
        self.backend = self._fused.name

    def forward(self, q_BHTD: torch.Tensor, k_BGSD: torch.Tensor, v_BGSD: torch.Tensor) -> torch.Tensor:
        """Attend: out_BHTD."""
        queries, keys = q_BHTD.shape[2], k_BGSD.shape[2]
        is_exact = max(queries, keys) <= self._options.landmarks
        attend = self._fused if is_exact else self._through_landmarks
        out_BHTD = attend(q_BHTD, k_BGSD, v_BGSD)
        if self.kernel is None:
            return out_BHTD
        around_BHSD = _convolved(per_query_head(v_BGSD, q_BHTD.shape[1]), self.kernel)
        return out_BHTD + around_BHSD[:, :, keys - queries :]

    def _through_landmarks(self, q_BHTD: torch.Tensor, k_BGSD: torch.Tensor, v_BGSD: torch.Tensor) -> torch.Tensor:
        """Return F Z B v."""
        q_BHMD = _segment_means(q_BHTD, self._options.landmarks)
        k_BHLD = per_query_head(_segment_means(k_BGSD, self._options.landmarks), q_BHTD.shape[1])
        read_BHMD = self._fused(q_BHMD, k_BGSD, v_BGSD)
        z_BHLM = _pseudo_inverse(_softmax_scores(q_BHMD, k_BHLD), self._options.iterations)
        values_BHLD = (z_BHLM @ read_BHMD.to(z_BHLM.dtype)).to(q_BHTD.dtype)
        return self._fused(q_BHTD, k_BHLD, values_BHLD)

    @staticmethod
    def reach(case: Case) -> float:
        """Return the landmarks over the keys that they stand for."""
        landmarks = msgspec.convert(case.options, Nystrom.Options).landmarks
        return min(1.0, landmarks / case.shape.seq_k)

    @staticmethod
    def flops(case: Case) -> int:
        """Count the matrix products that are executed: both attentions, the iteration, and the convolution."""
        shape, options = case.shape, msgspec.convert(case.options, Nystrom.Options)
        queries, keys, dim = shape.seq_q, shape.seq_k, shape.head_dim
        heads = shape.batch * shape.heads
        block = max(_BLOCK, options.conv - 1)
        around = executed(4 * heads * -(-keys // block) * block**2 * dim, case) if options.conv else 0
        if max(queries, keys) <= options.landmarks:
            return around + executed(4 * heads * queries * keys * dim, case, scores="recomputed")
        m, n = min(queries, options.landmarks), min(keys, options.landmarks)
        attend = executed(4 * heads * (m * keys + queries * n) * dim, case, scores="recomputed")
        inverse = options.iterations * 4 * (m * m * n + m**3)
        return around + attend + executed(heads * (4 * m * n * dim + inverse), case)


def _convolved(v_BHSD: torch.Tensor, kernel_HW: torch.Tensor) -> torch.Tensor:
    """Sum each head's values around every position: y_s = sum_w kernel_w v_(s + w - W // 2), nothing beyond the ends.

    A block of positions is two blocks of values, each multiplied by a band of the kernel. (torch's own convolution, by
    oneDNN on a CPU, is not faster, and writes outside its memory in the backward pass of a single head of few tokens.)
    """
    length, width = v_BHSD.shape[2], kernel_HW.shape[1]
    block = max(_BLOCK, width - 1)
    blocks = -(-length // block)
    before = width // 2
    padded_BHND = pad(v_BHSD, (0, 0, before, (blocks + 1) * block - length - before))
    v_BHPCD = padded_BHND.view(*padded_BHND.shape[:2], blocks + 1, block, -1)
    own_H1CC, next_H1CC = _band(kernel_HW, block).chunk(2, dim=-1)
    return (own_H1CC @ v_BHPCD[:, :, :-1] + next_H1CC @ v_BHPCD[:, :, 1:]).flatten(2, 3)[:, :, :length]


def _band(kernel_HW: torch.Tensor, block: int) -> torch.Tensor:
    """Return a matrix with the kernel in each row, one column further right a row: [H, 1, C, 2 C]."""
    rows_HCN = pad(kernel_HW, (0, 2 * block + 1 - kernel_HW.shape[1]))[:, None].expand(-1, block, -1)
    return rows_HCN.flatten(1)[:, : 2 * block**2].view(-1, 1, block, 2 * block)


def _segment_means(x_BHND: torch.Tensor, count: int) -> torch.Tensor:
    """Average `count` consecutive segments (or every position by itself, if there are fewer): x_BHMD."""
    length = x_BHND.shape[2]
    count = min(count, length)
    size, longer = divmod(length, count)
    parts = x_BHND.split([longer * (size + 1), (count - longer) * size], dim=2)
    longs, shorts = parts[0].unflatten(2, (longer, size + 1)), parts[1].unflatten(2, (count - longer, size))
    return torch.cat([longs.mean(dim=3), shorts.mean(dim=3)], dim=2)


def _softmax_scores(q_BHMD: torch.Tensor, k_BHLD: torch.Tensor) -> torch.Tensor:
    """Return softmax(q k^T / sqrt(D)) in float32 or wider."""
    return torch.softmax(wide(q_BHMD) @ wide(k_BHLD).mT / q_BHMD.shape[-1] ** 0.5, dim=-1)


def _pseudo_inverse(a_BHML: torch.Tensor, iterations: int) -> torch.Tensor:
    """Approximate the Moore-Penrose inverse of matrices whose rows sum to one, each by itself (lemma 1)."""
    # Of the two norms that the start is divided by, the largest sum of a row is one.
    z_BHLM = a_BHML.mT / a_BHML.sum(dim=-2).amax(dim=-1)[..., None, None]
    one_MM = torch.eye(a_BHML.shape[-2], dtype=a_BHML.dtype, device=a_BHML.device)
    for _ in range(iterations):
        az_BHMM = a_BHML @ z_BHLM
        inner_BHMM = az_BHMM @ (15 * one_MM - az_BHMM @ (7 * one_MM - az_BHMM))
        z_BHLM = 0.25 * z_BHLM @ (13 * one_MM - inner_BHMM)
    return z_BHLM
