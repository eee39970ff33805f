"""The harness's own floor: a mechanism that does nothing, so that what remains is the harness."""

from typing import TYPE_CHECKING

from attnbench.contracts.case import Case
from attnbench.contracts.variant import Support

if TYPE_CHECKING:
    import torch

FLOOR = "empty"  # the name that it is registered under


class Empty:
    """Return the queries as they are. Its latency is the cost of a call and of the timer, measured in every run."""

    supports = Support(window=True, grouped=True)
    backend = "none"

    def __init__(self, case: Case) -> None:
        del case

    def __call__(self, q: "torch.Tensor", k: "torch.Tensor", v: "torch.Tensor", /) -> "torch.Tensor":
        """Give back q_BHTD."""
        del k, v
        return q

    @staticmethod
    def flops(case: Case) -> int:
        """Nothing is computed."""
        del case
        return 0
