"""Transformer-LS, a query at a time: near keys and landmarks in one softmax (Zhu et al. 2021, equations 5 and 6)."""

import torch
from torch import Tensor

from attnbench import Attention, Case
from references.reference import Reference


def attend(attention: Attention, q: Tensor, k: Tensor, v: Tensor, case: Case) -> Tensor:
    batch, heads, queries, dim = q.shape
    groups, keys = k.shape[1:3]
    rows = []
    for b, h, t in ((b, h, t) for b in range(batch) for h in range(heads) for t in range(queries)):
        g, i = h // (heads // groups), keys - queries + t
        near, far = ((norms.gain[g, 0], norms.shift[g, 0]) for norms in (attention.near, attention.far))
        seen = [(_normal(k[b, g, j], *near), _normal(v[b, g, j], *near)) for j in range(keys) if _is_near(i, j, case)]
        for segment in _summed_up(i, keys, case):
            for column in attention.project[g].T:
                share = (k[b, g, segment] * column).sum(dim=1).softmax(dim=0)
                made = ((share[:, None] * x[b, g, segment]).sum(dim=0) for x in (k, v))
                seen.append(tuple(_normal(x, *far) for x in made))
        scores = torch.stack([(q[b, h, t] * key).sum() / dim**0.5 for key, _ in seen]).softmax(dim=0)
        rows.append((scores[:, None] * torch.stack([value for _, value in seen])).sum(dim=0))
    return torch.stack(rows).view(batch, heads, queries, -1)


def _is_near(i: int, j: int, case: Case) -> bool:
    width = case.options["width"]
    if case.mask.causal:
        return i - width < j <= i
    first = i // width * width
    return first - width // 2 <= j < first + width + width // 2


def _summed_up(i: int, keys: int, case: Case) -> list[slice]:
    """List the segments whose landmarks the query at position i sees."""
    length = case.options["segment"]
    if not case.mask.causal:
        return [slice(0, keys)]
    return [slice(first, first + length) for first in range(0, i - length + 1, length) if i // length > first // length]


def _normal(x: Tensor, gain: Tensor, shift: Tensor) -> Tensor:
    centred = x - x.mean()
    return gain * centred / (centred.square().mean() + 1e-5).sqrt() + shift


REFERENCES = {
    "long-short": Reference(
        attend,
        options=(
            {"width": 4, "rank": 2, "segment": 5},
            {"width": 3, "rank": 1, "segment": 1},
            {"width": 7, "rank": 3, "segment": 8},
            {},
        ),
        breaks={"linear": "its values are layer-normalised"},
    )
}
