"""The harness's own cost among the rows: what is told apart from the mechanisms."""

from attnbench.empty import FLOOR
from attnbench.insight.rows import Row

_OWN = "attnbench "  # how the harness's own origin begins: a user may call a plugin of his as the floor is called


def is_harness(row: Row) -> bool:
    """Tell the harness's own cost, which every run measures, from a mechanism's."""
    return row.variant == FLOOR and row.origin.startswith(_OWN)
