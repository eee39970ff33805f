"""FlexAttention: the mask is a function that a compiler builds into a fused kernel for this very case.

Dong et al. 2024, "Flex Attention", as torch.nn.attention.flex_attention, compiled:

    out = softmax(q k^T / sqrt(D) + (0 where mask_mod(t, j), else -inf)) v          q [T, D], k, v [S, D]

The block mask is made from the workload's causal mask and window when the variant is built, without a mask of T x S:
blocks of 128 positions that are wholly hidden are skipped, those wholly seen need no mask. Queries are the last T
positions of the keys. Time: O(T S D) less what is skipped; memory beyond the output: O(T).

The kernel is compiled in the first call, for this one shape: the first call's time includes that (a cache on disk makes
it less in later processes), and no other figure does. Where there is no compiler, or it refuses the case, that call
raises Unsupported with its reason. On a CPU there is no backward pass, and so no training, and no float64.
"""
# B batch, H heads, G key/value heads, T queries, S keys, D head dimension, N blocks of queries, M blocks of keys

from collections.abc import Callable

import torch
from torch.nn.attention.flex_attention import BlockMask, flex_attention

from attnbench import Case, Mask, Support, Unsupported
from attnbench_variants.blocks.flop_counts import executed_pairs
from attnbench_variants.blocks.fused_kernels import TORCH, packed

BLOCK = 128  # of queries and of keys in a block mask, torch's default

MaskMod = Callable[[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]


class Flex:
    """torch.nn.attention.flex_attention, compiled (Dong et al. 2024, "Flex Attention")."""

    # What it computes is N^2; the CPU's kernel was seen to grow as N^2.1 on one machine and as N^2.4 on another.
    supports = Support(devices=("cpu", "cuda"), window=True, grouped=True, exact=True, growth=2.2)
    backend = f"torch-flex {TORCH}"

    def __init__(self, case: Case) -> None:
        if case.device == "cpu":
            _check_cpu(case)
        self._blocks = block_mask(case)
        self._attend = torch.compile(flex_attention, dynamic=False)

    def __call__(self, q_BHTD: torch.Tensor, k_BGSD: torch.Tensor, v_BGSD: torch.Tensor) -> torch.Tensor:
        """Attend: out_BHTD. The first call compiles; it raises Unsupported where that cannot be done."""
        q, k, v = packed(q_BHTD, k_BGSD, v_BGSD)
        grouped = q.shape[1] != k.shape[1]
        try:
            out_BHTD: torch.Tensor = self._attend(q, k, v, block_mask=self._blocks, enable_gqa=grouped)
        except torch._dynamo.exc.BackendCompilerFailed as error:  # noqa: SLF001 - it has no public name
            reason = str(error.inner_exception).partition("\n")[0]
            raise Unsupported(f"torch.compile cannot build its kernel here: {reason}") from error
        return out_BHTD

    @staticmethod
    def flops(case: Case) -> int:
        """Count the matrix products that are executed: the blocks that are not wholly hidden."""
        nearest_NM, farthest_NM = _distances(case)
        some_NM = _within(nearest_NM, farthest_NM, case.mask, all_of_it=False)
        rows_N, columns_M = _lengths(case.shape.seq_q), _lengths(case.shape.seq_k)
        return executed_pairs(int((some_NM * rows_N[:, None] * columns_M).sum()), case)

    @staticmethod
    def bytes(case: Case) -> int:
        """Count the bytes that its kernel must move, which torch's counters miss: q, k, v read, the output written."""
        shape, width = case.shape, torch.finfo(getattr(torch, case.dtype)).bits // 8
        forward = 2 * shape.batch * (shape.heads * shape.seq_q + shape.kv_heads * shape.seq_k) * shape.head_dim * width
        return {"backward": 2 * forward, "forward-backward": 3 * forward}.get(case.passes, forward)


def block_mask(case: Case) -> BlockMask | None:
    """Return the blocks that are seen, wholly or in part, and the rule for pairs in the latter; None if all are seen.

    Time and memory: O(N M).
    """
    shape, mask = case.shape, case.mask
    if not mask.causal and mask.window is None:
        return None
    nearest_NM, farthest_NM = _distances(case)
    whole_NM = (_lengths(shape.seq_q) == BLOCK)[:, None] & (_lengths(shape.seq_k) == BLOCK)
    seen_NM = _within(nearest_NM, farthest_NM, mask, all_of_it=True) & whole_NM
    partly_NM = _within(nearest_NM, farthest_NM, mask, all_of_it=False) & ~seen_NM
    made = BlockMask.from_kv_blocks(
        *_listed(partly_NM, case.device),
        *_listed(seen_NM, case.device),
        BLOCK_SIZE=BLOCK,
        mask_mod=_mask_mod(mask, offset=shape.seq_k - shape.seq_q),
        seq_lengths=(shape.seq_q, shape.seq_k),
    )
    assert isinstance(made, BlockMask)
    return made


def _mask_mod(mask: Mask, *, offset: int) -> MaskMod:
    """Return the rule for a pair: of query t, which stands at position t + offset, and key j."""
    least, most = _reach(mask)

    def sees(_b: torch.Tensor, _h: torch.Tensor, t: torch.Tensor, j: torch.Tensor) -> torch.Tensor:
        distance = t + offset - j
        return (distance >= least) & (distance <= most)

    return sees


def _reach(mask: Mask) -> tuple[int, int]:
    """Return the least and the most positions that a seen key may lie before its query."""
    most = mask.window - 1 if mask.window is not None else 2**31 - 1
    return 0 if mask.causal else -most, most


def _distances(case: Case) -> tuple[torch.Tensor, torch.Tensor]:
    """Return, for each block, the least and the most positions that a key lies before a query: two of [N, M]."""
    queries, keys = case.shape.seq_q, case.shape.seq_k
    first_N1 = torch.arange(0, queries, BLOCK)[:, None] + keys - queries
    first_M = torch.arange(0, keys, BLOCK)
    last_N1, last_M = first_N1 + _lengths(queries)[:, None] - 1, first_M + _lengths(keys) - 1
    return first_N1 - last_M, last_N1 - first_M


def _within(nearest_NM: torch.Tensor, farthest_NM: torch.Tensor, mask: Mask, *, all_of_it: bool) -> torch.Tensor:
    """Mark the blocks of which all pairs are seen, or any (a block's distances are all whole numbers between)."""
    least, most = _reach(mask)
    if all_of_it:
        return (nearest_NM >= least) & (farthest_NM <= most)
    return (farthest_NM >= least) & (nearest_NM <= most)


def _lengths(length: int) -> torch.Tensor:
    """Return the number of positions in each block, fewer in the last."""
    return (length - torch.arange(0, length, BLOCK)).clamp(max=BLOCK)


def _listed(chosen_NM: torch.Tensor, device: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the number of chosen blocks of each row, and all blocks, chosen first: int32 [1, 1, N], [1, 1, N, M]."""
    order_NM = chosen_NM.int().argsort(dim=1, descending=True, stable=True)
    counts_N = chosen_NM.sum(dim=1)
    return tuple(x[None, None].to(device, torch.int32).contiguous() for x in (counts_N, order_NM))  # type: ignore[return-value]  # two of them


def _check_cpu(case: Case) -> None:
    """Refuse what torch's FlexAttention supports on CUDA only."""
    if case.passes not in ("forward", "decode"):
        raise Unsupported("FlexAttention has no backward pass on a CPU, so it cannot train there either")
    if case.dtype == "float64":
        raise Unsupported("FlexAttention has no float64 on a CPU")
