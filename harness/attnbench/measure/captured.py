"""A mechanism's inputs as a model's attention was given them, read from a capture."""

# B batch, H heads, G key/value heads, T queries, S keys, D head dimension
import hashlib
import math
from pathlib import Path

import torch

from attnbench.contracts.case import Case, seed_for
from attnbench.contracts.variant import Unsupported
from attnbench.measure.inputs import Inputs, placed


def read(case: Case, path: Path, *, sets: int, tied: bool = False) -> tuple[Inputs, ...]:
    """Read the layer that a case names from its capture; cotangents are standard normals drawn from the seed.

    Queries are multiplied so that a scale of 1 / sqrt(D) gives the model's scores. Keys and values are repeated for
    each query head unless the case groups heads. Decoding takes the last query. With `tied`, keys are the queries.

    The first set is the capture. A further one has the features of q, k and v rolled by one more: scores stay as they
    are and outputs have other numbers, so an answer that is kept between calls shows, and every call does real work.

    Raises ValueError where the file is not the one that was planned, Unsupported where queries cannot be tied to keys.
    """
    q, k, v = _layer(case, path)
    if tied and q.shape[2] != k.shape[2]:
        raise Unsupported("queries and keys of different lengths cannot be one tensor")
    if case.passes == "decode":
        q = q[:, :, -1:]
    drawn = torch.randn(q.shape, generator=torch.Generator().manual_seed(seed_for(case.seed, "cotangent")))
    return tuple(_rolled(q, k, v, drawn, case=case, by=index, tied=tied) for index in range(sets))


def _layer(case: Case, path: Path) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return the layer's tensors in float32, with scale and groups as the case has them."""
    from safetensors import safe_open

    if hashlib.sha256(path.read_bytes()).hexdigest()[:16] != case.inputs_digest:
        raise ValueError(f"{path} has changed since the run was planned; start a new run")
    with safe_open(path, "pt") as file:
        layers = sorted({int(key.partition(".")[0]) for key in file.keys()})  # noqa: SIM118 - it is no mapping
        layer = layers[0] if len(layers) == 1 else int(case.inputs.rpartition(":")[2])
        q, k, v = (file.get_tensor(f"{layer}.{name}").float() for name in "qkv")
        scale = float(file.metadata()["scale"])
    times = case.shape.kv_heads // k.shape[1]
    return q * (scale * math.sqrt(q.shape[3])), k.repeat_interleave(times, 1), v.repeat_interleave(times, 1)


def _rolled(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, grad: torch.Tensor, *, case: Case, by: int, tied: bool
) -> Inputs:
    q_BHTD, k_BGSD, v_BGSD = (placed(tensor.roll(by, dims=3), case) for tensor in (q, k, v))
    cotangent = grad.to(q_BHTD) if case.differentiates else torch.zeros_like(q_BHTD[:0])
    return Inputs(q_BHTD=q_BHTD, k_BGSD=q_BHTD if tied else k_BGSD, v_BGSD=v_BGSD, cotangent=cotangent)
