"""cosFormer by its definition: relu(q_i) . relu(k_j) times the cosine of their distance (Qin et al. 2022)."""

import torch
from torch import Tensor

from attnbench import Attention, Case
from references.linear import row_by_row, weighted
from references.reference import Reference


def attend(attention: Attention, q: Tensor, k: Tensor, v: Tensor, case: Case) -> Tensor:
    queries, keys = case.shape.seq_q, case.shape.seq_k

    def row(query: Tensor, seen: Tensor, values: Tensor, _head: int, _group: int, t: int) -> Tensor:
        distances = keys - queries + t - torch.arange(len(seen), dtype=query.dtype)
        closeness = (torch.pi / 2 * distances / max(queries, keys)).cos()
        return weighted((seen.relu() * query.relu()).sum(dim=1) * closeness, values)

    return row_by_row(row, q, k, v, case)


REFERENCES = {
    "cosformer": Reference(
        attend,
        breaks={"sums": "a query without a feature above zero that a key has too has no weights, and gets zeros"},
    )
}
