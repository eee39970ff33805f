"""Queries, keys and values of a model, from a file in place of those that are drawn."""

# B batch, H heads, G key/value heads, T queries, S keys, D head dimension
import math
from pathlib import Path

import torch
from safetensors import safe_open

from attnbench.contracts.case import Case, Option, seed_for
from attnbench.contracts.variant import Unsupported
from attnbench.measure.inputs import Inputs


def load(case: Case, path: Path, *, sets: int, tied: bool = False) -> tuple[Inputs, ...]:
    """Return sets of a layer's queries, keys and values, in the case's dtype and on its device.

    The file holds `LAYER.q` [B, H, T, D], `LAYER.k` and `LAYER.v` [B, G, S, D], and the scale of its scores, which is
    folded into the queries where it is not 1 / sqrt(D). Keys of shared heads are repeated where the case has as many
    as query heads. In decoding the query is the last one. With `tied`, keys are the queries themselves. Further sets
    are the first one's heads in another order, or where there is one head its positions in reverse. The cotangent is
    drawn. Raises Unsupported at layer level: a capture has no tokens.
    """
    if case.level == "layer":
        raise Unsupported("captured queries, keys and values have no tokens: measure them with --level core")
    q_BHTD, k_BGSD, v_BGSD = _tensors(case, path)
    if case.shape.seq_q == 1:
        q_BHTD = q_BHTD[:, :, -1:]
    group = case.shape.kv_heads // k_BGSD.shape[1]
    k_BGSD, v_BGSD = (x.repeat_interleave(group, dim=1) for x in (k_BGSD, v_BGSD))
    generator = torch.Generator().manual_seed(seed_for(case.seed, "cotangent"))
    cotangent = torch.randn(q_BHTD.shape, generator=generator) if case.differentiates else q_BHTD[:0]
    several = (_reordered((q_BHTD, k_BGSD, v_BGSD), index) for index in range(sets))
    return tuple(_placed(tensors, cotangent, case, tied=tied) for tensors in several)


def source_of(path: str) -> dict[str, Option]:
    """Return the facts of a capture: the model that it is from, and the text that the model read."""
    with safe_open(path, framework="pt") as file:
        metadata = file.metadata()
    return {"captured_in": metadata.get("model", ""), "captured_on": metadata.get("text", "")}


def _tensors(case: Case, path: Path) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    layer = case.inputs.rpartition(":")[2]
    with safe_open(path, framework="pt") as file:
        q_BHTD, k_BGSD, v_BGSD = (file.get_tensor(f"{layer}.{name}").float() for name in "qkv")
        scale = float(file.metadata()["scale"])
    return q_BHTD * (scale * math.sqrt(q_BHTD.shape[-1])), k_BGSD, v_BGSD


def _reordered(tensors: tuple[torch.Tensor, ...], index: int) -> tuple[torch.Tensor, ...]:
    """Return the tensors with their heads rolled by whole groups, so that each query head keeps its keys."""
    groups = tensors[1].shape[1]
    if not index:
        return tensors
    if groups == 1:
        return tuple(x.flip(2) for x in tensors)
    return tuple(x.roll(index * x.shape[1] // groups, dims=1) for x in tensors)


def _placed(tensors: tuple[torch.Tensor, ...], cotangent: torch.Tensor, case: Case, *, tied: bool) -> Inputs:
    dtype = getattr(torch, case.dtype)
    q, k, v, grad = (x.to(device=case.device, dtype=dtype, copy=True).contiguous() for x in (*tensors, cotangent))
    for tensor in (q, k, v):
        tensor.requires_grad_(case.differentiates)
    return Inputs(q_BHTD=q, k_BGSD=q if tied else k, v_BGSD=v, cotangent=grad)
