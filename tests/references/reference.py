"""A reference: a mechanism's formulation, slow and plain, that its implementation is tested against."""

from collections.abc import Callable, Mapping
from typing import Literal, NamedTuple

import torch

from attnbench import Attention, Case
from attnbench.contracts.case import Option

Attend = Callable[[Attention, torch.Tensor, torch.Tensor, torch.Tensor, Case], torch.Tensor]

# The laws that most mechanisms keep and some, by their definition, do not:
# later   causal: nothing that comes later moves an earlier output, not even by deciding which keys are looked at
# heads   a head's output depends on that head's tensors alone
# sums    the weights of a query sum to one
# signs   no weight is below zero, and no weight is larger than one
# linear  the output is a weighted sum of the values
# queries the output depends on the query
Law = Literal["later", "heads", "sums", "signs", "linear", "queries"]


class Reference(NamedTuple):
    """A formulation, and sets of options under which the laws' short sequences are long; the first serves every law.

    `alone` is the reason why all laws of a mechanism are in a test of its own, and it is left out of those over all
    mechanisms. `breaks` names the laws that the mechanism does not keep, each with the reason; a test proves each.
    """

    attend: Attend
    options: tuple[Mapping[str, Option], ...] = ({},)
    breaks: Mapping[Law, str] = {}
    alone: str = ""
