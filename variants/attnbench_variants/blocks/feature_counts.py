"""The matrix products of attention by features, in the form that a case's pass takes."""

from attnbench import Case
from attnbench_variants.blocks.causal_sums import STREAMED_CHUNK
from attnbench_variants.blocks.counting import executed_with
from attnbench_variants.blocks.feature_attention import BATCHED_CHUNK


def count_by_features(
    case: Case, *, features: int, projected: int = 0, apart: bool = False, exponents: bool = False
) -> int:
    """Count the matrix products that the case's pass executes: sums over keys, their use, pairs of causal chunks.

    `projected` numbers of each query and key are products of head-dimension length. In decoding: one further key.
    Features that average apart have no weights to sum where sums are all that is read.
    """
    shape, dim, decodes = case.shape, case.shape.head_dim, case.passes == "decode"
    project, add = projected * dim, features * dim
    use = add if apart and (decodes or not case.mask.causal) else add + features
    if decodes:
        return 2 * shape.batch * (shape.kv_heads * (project + add) + shape.heads * (project + use))
    seen_by_all = shape.seq_k
    if not case.mask.causal:
        forward, backward = shape.seq_q * use, 2 * shape.seq_q * use
    else:
        streams = case.device == "cpu" and (case.passes == "forward" or not exponents)
        forward, backward = (_streamed if streams else _batched)(shape.seq_q, features, dim + 1)
        seen_by_all -= shape.seq_q
    forward, backward = forward + seen_by_all * add, backward + 2 * seen_by_all * add
    projections = (shape.seq_q + shape.seq_k) * project  # by what has no gradient
    sequences = 2 * shape.batch * shape.heads
    return executed_with(sequences * (forward + projections), sequences * (backward + projections), case)


def _streamed(rows: int, features: int, one: int) -> tuple[int, int]:
    """Count both passes of sums in chunks, where there is `one` column of ones among the values."""
    chunks, rest = divmod(rows, STREAMED_CHUNK)
    pairs, added = chunks * STREAMED_CHUNK**2 + rest**2, rows * features * one
    return 2 * added + pairs * (features + one), 5 * added + pairs * (3 * features + 2 * one)


def _batched(rows: int, features: int, one: int) -> tuple[int, int]:
    """Count the same where chunks are filled up, and autograd has two products for each."""
    chunk = min(rows, BATCHED_CHUNK)
    forward = -(-rows // chunk) * chunk * (2 * features * one + chunk * (features + one))
    return forward, 2 * forward
