"""What a mechanism's effective weights tell: how much of exact attention's they keep, and where they should not be."""

# B batch, H heads, G key/value heads, T queries, R chosen query rows, S keys, C columns of a block, D head dimension,
# K heaviest keys of a row
import torch
from msgspec import Struct

from attnbench.contracts.case import Mask
from attnbench.contracts.record import Measurement
from attnbench.contracts.variant import Attention
from attnbench.measure.effective import (
    Tensors,
    at_core,
    calls_for,
    column_blocks,
    hold_to_time,
    rounding,
    within_time,
)
from attnbench.measure.failure import LeftOut
from attnbench.measure.figure import figure
from attnbench.measure.leaks import flag_of
from attnbench.measure.reference import chosen_rows, heaviest_keys, visible
from attnbench.measure.workload import Workload

_MOST_KEYS, _MOST_ROWS, _HEAVIEST = 2048, 256, 16


class Masses(Struct, frozen=True, kw_only=True):
    """`kept`: the mean share of exact attention's heaviest keys that a row keeps.

    `hidden`: the largest share of a row's weight, sizes without signs, that lies on keys which the mask hides.
    """

    kept: float
    hidden: float


def look(workload: Workload, *, call_s: float) -> list[Measurement]:
    """Measure kept_mass, and hidden_mass where there is a mask; nothing for a backward pass, whose forward tells it.

    `call_s` is what a call takes. Raises LeftOut.
    """
    if workload.differentiates:
        return []
    mask, shape, tensors = workload.case.mask, workload.case.shape, at_core(workload.sets[0])
    if shape.seq_k > _MOST_KEYS:
        raise LeftOut(f"the effective weights are read up to {_MOST_KEYS} keys")
    hold_to_time(calls=calls_for(shape.seq_k, shape.head_dim), call_s=call_s)
    masses = weigh(within_time(workload.attention), tensors, mask=mask, seed=workload.case.seed)
    found = [figure("kept_mass", masses.kept, higher=True)]
    if mask != Mask():
        leaks = masses.hidden > rounding(tensors[0].dtype, shape.seq_k)
        found.append(figure("hidden_mass", masses.hidden, flags=(flag_of(mask),) if leaks else ()))
    return found


def weigh(attention: Attention, tensors: Tensors, *, mask: Mask, seed: int) -> Masses:
    """Compare a mechanism's effective weights with exact attention's (in float64) on its 16 heaviest keys of each row.

    A row keeps sum(min(max(A, 0), exact)) / sum(exact) over those keys. Rows are all up to 256 queries, else 256 drawn
    from the seed. Columns come in blocks, so nothing of S x S is held. Raises LeftOut.
    """
    q_BHTD, k_BGSD, _ = tensors
    rows_R = chosen_rows(q_BHTD.shape[2], seed=seed, device=q_BHTD.device, all_up_to=_MOST_ROWS)
    exact_BHRK, keys_BHRK = heaviest_keys(q_BHTD, k_BGSD, mask=mask, rows_R=rows_R, count=_HEAVIEST)
    hidden_RS = ~visible(mask, rows_R, queries=q_BHTD.shape[2], keys=k_BGSD.shape[2])
    kept_BHRK = torch.zeros_like(exact_BHRK)
    astray_BHR, all_BHR = (torch.zeros_like(exact_BHRK[..., 0]) for _ in range(2))
    first = 0
    for block in column_blocks(attention, tensors, rows_R=rows_R, seed=seed):
        weights_BHRC, width = block.double(), block.shape[-1]
        kept_BHRK += torch.minimum(_picked(weights_BHRC, keys_BHRK - first).clamp(min=0), exact_BHRK)
        sizes_BHRC = weights_BHRC.abs()
        all_BHR += sizes_BHRC.sum(-1)
        astray_BHR += (sizes_BHRC * hidden_RS[:, first : first + width]).sum(-1)
        first += width
    tiny = torch.finfo(all_BHR.dtype).tiny
    return Masses(
        kept=float((kept_BHRK.sum(-1) / exact_BHRK.sum(-1)).mean()),
        hidden=float((astray_BHR / all_BHR.clamp(min=tiny)).max()),
    )


def _picked(weights_BHRC: torch.Tensor, places_BHRK: torch.Tensor) -> torch.Tensor:
    """Read the weights at places within a block; zero for places outside it."""
    width = weights_BHRC.shape[-1]
    is_inside = (places_BHRK >= 0) & (places_BHRK < width)
    return weights_BHRC.gather(-1, places_BHRK.clamp(0, width - 1)) * is_inside
