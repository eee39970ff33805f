"""The harness floor: a mechanism that does nothing, so that its latency is the harness's own."""

from typing import TYPE_CHECKING

from attnbench.contracts.case import Case
from attnbench.contracts.variant import Support

if TYPE_CHECKING:
    import torch

FLOOR = "empty"  # its entry point's name
WORST = "uniform"  # that of the variant which looks at no query and no key: the floor of every quality


class Empty:
    """Return the queries unchanged. Its latency, that of a call and of the timer, is measured in every run."""

    supports = Support(window=True, grouped=True)
    backend = "none"

    def __init__(self, case: Case) -> None:
        del case

    def __call__(self, q: "torch.Tensor", k: "torch.Tensor", v: "torch.Tensor", /) -> "torch.Tensor":
        """Return q_BHTD."""
        del k, v
        return q

    @staticmethod
    def flops(case: Case) -> int:
        """Return 0: nothing is computed."""
        del case
        return 0
