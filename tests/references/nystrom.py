"""Nystromformer by its equations, a head at a time: softmax(q k'^T) Z softmax(q' k^T) v (Xiong et al. 2021)."""

import torch

from attnbench import Attention, Case
from references.exact import softmax_over
from references.reference import Reference


def attend(attention: Attention, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, case: Case) -> torch.Tensor:
    heads, queries = q.shape[1:3]
    groups, keys = k.shape[1:3]
    landmarks = case.options["landmarks"]
    if queries <= landmarks and keys <= landmarks:
        out = softmax_over(q, k, v, lambda _i, _j: True)
    else:
        each = [
            head(q[b, h], k[b, h * groups // heads], v[b, h * groups // heads], case)
            for b in range(len(q))
            for h in range(heads)
        ]
        out = torch.stack(each).view(q.shape)
    return out + convolved(attention, v, case) if case.options["conv"] else out


def head(q_TD: torch.Tensor, k_SD: torch.Tensor, v_SD: torch.Tensor, case: Case) -> torch.Tensor:
    q_MD, k_LD = (means(x, case.options["landmarks"]) for x in (q_TD, k_SD))
    f, a, b = softmax(q_TD, k_LD), softmax(q_MD, k_LD), softmax(q_MD, k_SD)
    return f @ inverse(a, case.options["iterations"]) @ b @ v_SD


def means(x_ND: torch.Tensor, count: int) -> torch.Tensor:
    """Cut the positions into segments: each takes its share of the length that is left for those still to come."""
    found, start = [], 0
    for left in range(min(count, len(x_ND)), 0, -1):
        size = -(-(len(x_ND) - start) // left)
        found.append(sum(x_ND[start : start + size]) / size)
        start += size
    return torch.stack(found)


def softmax(q: torch.Tensor, k: torch.Tensor) -> torch.Tensor:
    rows = [torch.stack([(each @ key / len(key) ** 0.5).exp() for key in k]) for each in q]
    return torch.stack([row / row.sum() for row in rows])


def inverse(a: torch.Tensor, iterations: int) -> torch.Tensor:
    one = torch.eye(len(a), dtype=a.dtype)
    z = a.T / (a.abs().sum(dim=0).max() * a.abs().sum(dim=1).max())
    for _ in range(iterations):
        z = z @ (13 * one - a @ z @ (15 * one - a @ z @ (7 * one - a @ z))) / 4
    return z


def convolved(attention: Attention, v: torch.Tensor, case: Case) -> torch.Tensor:
    width, shape = case.options["conv"], case.shape
    rows = []
    for b, h, t in ((b, h, t) for b in range(len(v)) for h in range(shape.heads) for t in range(shape.seq_q)):
        i, values = shape.seq_k - shape.seq_q + t, v[b, h * shape.kv_heads // shape.heads]
        near = [(w, i + w - width // 2) for w in range(width) if 0 <= i + w - width // 2 < len(values)]
        rows.append(sum(attention.kernel[h, w] * values[j] for w, j in near))
    return torch.stack(rows).view(shape.batch, shape.heads, shape.seq_q, -1)


REFERENCES = {
    "nystrom": Reference(
        attend,
        options=(
            {"landmarks": 5, "conv": 3},
            {"landmarks": 4, "conv": 4, "iterations": 2},
            {"landmarks": 12, "conv": 0},
            {"landmarks": 6, "conv": 1},
            {"landmarks": 64},
        ),
        breaks={
            "sums": "its pseudo-inverse is an approximation, and the convolution adds what it learns",
            "signs": "and both have either sign",
        },
    )
}
