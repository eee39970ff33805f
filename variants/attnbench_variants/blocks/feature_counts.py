"""The matrix products of attention by features, in the form that a case's pass takes."""

from attnbench import Case
from attnbench_variants.blocks.counting import executed
from attnbench_variants.blocks.feature_attention import BATCHED_CHUNK, STREAMED_CHUNK


def count_by_features(case: Case, *, features: int, projected: int = 0, apart: bool = False) -> int:
    """Count the matrix products that the case's pass executes: sums over keys, their use, pairs of causal chunks.

    `projected` numbers of each query and key are products of head-dimension length. In decoding: one further key.
    Features that average apart have no weights to sum where sums are all that is read.
    """
    shape, dim, decodes = case.shape, case.shape.head_dim, case.passes == "decode"
    project, add = projected * dim, features * dim
    use = add if apart and (decodes or not case.mask.causal) else add + features
    if decodes:
        return 2 * shape.batch * (shape.kv_heads * (project + add) + shape.heads * (project + use))
    one = dim + 1  # causally there is a column of ones among the values
    if not case.mask.causal:
        forward = shape.seq_q * (project + use) + shape.seq_k * (project + add)
    elif case.device == "cpu" and case.passes == "forward":
        chunks, rest = divmod(shape.seq_q, STREAMED_CHUNK)
        forward = 2 * shape.seq_q * features * one + (chunks * STREAMED_CHUNK**2 + rest**2) * (features + one)
        forward += (shape.seq_k - shape.seq_q) * add + (shape.seq_q + shape.seq_k) * project
    else:  # chunks filled up
        chunk = min(shape.seq_q, BATCHED_CHUNK)
        length = -(-shape.seq_q // chunk) * chunk
        forward = length * (2 * features * one + chunk * (features + one))
        forward += (shape.seq_k - shape.seq_q) * add + (shape.seq_q + shape.seq_k) * project
    return executed(2 * shape.batch * shape.heads * forward, case)
