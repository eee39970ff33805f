"""Masses of effective weights: the share of exact attention's weights that is kept, and the share on hidden keys."""

# B batch, H heads, G key/value heads, T queries, R chosen query rows, S keys, C columns of a block, D head dimension,
# K heaviest keys of a row
import torch
from msgspec import Struct

from attnbench.contracts.case import Mask
from attnbench.contracts.variant import Attention
from attnbench.measure.effective import Tensors, at_core, calls_for, check_time, column_blocks, within_time
from attnbench.measure.failure import LeftOut
from attnbench.measure.reference import chosen_rows, heaviest_keys, visible
from attnbench.measure.workload import Workload

_MOST_KEYS, _MOST_ROWS, _HEAVIEST = 2048, 256, 16


class Masses(Struct, frozen=True, kw_only=True):
    """`kept`: the mean over rows of the share of exact attention's heaviest weights that is kept.

    `hidden`: the largest share of a row's absolute weights that lies on keys which the mask hides.
    """

    kept: float
    hidden: float


def inspect(workload: Workload, *, call_s: float) -> dict[str, float]:
    """Return kept_mass, and hidden_mass where there is a mask; nothing for a backward pass, as its forward has both.

    `call_s` is the duration of a call. Raises LeftOut.
    """
    if workload.differentiates:
        return {}
    mask, shape, tensors = workload.case.mask, workload.case.shape, at_core(workload.sets[0])
    if shape.seq_k > _MOST_KEYS:
        raise LeftOut(f"the effective weights are read up to {_MOST_KEYS} keys")
    check_time(calls=calls_for(shape.seq_k, shape.head_dim), call_s=call_s)
    masses = weigh(within_time(workload.attention), tensors, mask=mask, seed=workload.case.seed)
    return {"kept_mass": masses.kept} | ({} if mask == Mask() else {"hidden_mass": masses.hidden})


def weigh(attention: Attention, tensors: Tensors, *, mask: Mask, seed: int) -> Masses:
    """Return the masses of a mechanism's effective weights against exact attention's, in float64.

    A row keeps sum(min(max(A, 0), exact)) / sum(exact) over its 16 heaviest keys by exact attention. Rows are all up to
    256 queries, else 256 drawn from the seed. Columns come in blocks, so that no S x S matrix is held. Raises LeftOut.
    """
    q_BHTD, k_BGSD, _ = tensors
    rows_R = chosen_rows(q_BHTD.shape[2], seed=seed, device=q_BHTD.device, all_up_to=_MOST_ROWS)
    exact_BHRK, keys_BHRK = heaviest_keys(q_BHTD, k_BGSD, mask=mask, rows_R=rows_R, count=_HEAVIEST)
    hidden_RS = ~visible(mask, rows_R, queries=q_BHTD.shape[2], keys=k_BGSD.shape[2])
    kept_BHRK = torch.zeros_like(exact_BHRK)
    on_hidden_BHR, on_all_BHR = (torch.zeros_like(exact_BHRK[..., 0]) for _ in range(2))
    first = 0
    for block in column_blocks(attention, tensors, rows_R=rows_R, seed=seed):
        weights_BHRC, width = block.double(), block.shape[-1]
        kept_BHRK += torch.minimum(_picked(weights_BHRC, keys_BHRK - first).clamp(min=0), exact_BHRK)
        sizes_BHRC = weights_BHRC.abs()
        on_all_BHR += sizes_BHRC.sum(-1)
        on_hidden_BHR += (sizes_BHRC * hidden_RS[:, first : first + width]).sum(-1)
        first += width
    tiny = torch.finfo(on_all_BHR.dtype).tiny
    return Masses(
        kept=float((kept_BHRK.sum(-1) / exact_BHRK.sum(-1)).mean()),
        hidden=float((on_hidden_BHR / on_all_BHR.clamp(min=tiny)).max()),
    )


def _picked(weights_BHRC: torch.Tensor, columns_BHRK: torch.Tensor) -> torch.Tensor:
    """Return the weights at columns of a block, zero for columns outside it."""
    width = weights_BHRC.shape[-1]
    is_inside = (columns_BHRK >= 0) & (columns_BHRK < width)
    return weights_BHRC.gather(-1, columns_BHRK.clamp(0, width - 1)) * is_inside
