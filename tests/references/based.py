"""Based's linear attention by its weights: 1 + s + s^2 / 2 for every pair (Arora et al. 2024, section 4.1)."""

from torch import Tensor

from attnbench import Attention, Case
from references.linear import row_by_row, weighted
from references.reference import Reference


def attend(attention: Attention, q: Tensor, k: Tensor, v: Tensor, case: Case) -> Tensor:
    def row(query: Tensor, keys: Tensor, values: Tensor, head: int, group: int, _t: int) -> Tensor:
        short_query = query @ attention.project_queries[head]
        scores = (keys @ attention.project_keys[group]) @ short_query / len(short_query) ** 0.5
        return weighted(1 + scores + scores**2 / 2, values)

    return row_by_row(row, q, k, v, case)


REFERENCES = {"based": Reference(attend, options=({"feature_dim": 3}, {}, {"feature_dim": 1}))}
