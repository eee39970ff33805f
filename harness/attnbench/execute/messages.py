"""What the parent asks of a child, and what it may be told meanwhile. All of it travels as JSON, never as pickle."""

from typing import Any

import msgspec
from msgspec import Struct

from attnbench.contracts.case import Case, Dtype
from attnbench.contracts.record import Allocator, Job
from attnbench.plugins.registry import Entry


class DescribeVariant(Struct, frozen=True, kw_only=True, tag="describe-variant"):
    """What is this variant, and what are its options, with those given filled in? Answered by a Description."""

    entry: Entry
    given: dict[str, Any] = {}


class DescribeTask(Struct, frozen=True, kw_only=True, tag="describe-task"):
    """What is this task, with these options? Answered by a TaskDescription."""

    entry: Entry
    given: dict[str, Any] = {}


class DescribeMachine(Struct, frozen=True, kw_only=True, tag="describe-machine"):
    """What does this machine have? Answered by an Environment, with the facts of `device`."""

    device: str
    threads: int
    allocator: Allocator = "default"


class MeasureRates(Struct, frozen=True, kw_only=True, tag="measure-rates"):
    """How fast does this device move memory, and multiply matrices of these dtypes? Answered by Rates."""

    device: str
    threads: int
    dtypes: tuple[Dtype, ...]


class TryVariant(Struct, frozen=True, kw_only=True, tag="try-variant"):
    """Does this variant run here, on a small case? Answered by the reason why not, empty where it does."""

    target: str
    case: Case


class Perform(Struct, frozen=True, kw_only=True, tag="perform"):
    """Do this job. Answered by an Outcome; `memory_bytes` bounds what it may take, on the CPU above its start.

    `checkpoint` is the path at which a training leaves how far it is, and looks for it first; empty for none.
    """

    job: Job
    memory_bytes: int | None = None
    checkpoint: str = ""


class ReadMatrices(Struct, frozen=True, kw_only=True, tag="read-matrices"):
    """How does this variant weigh the keys of each query, on inputs drawn for `case`? Answered by Reading."""

    target: str
    case: Case
    heads: tuple[int, ...]
    path: str


class ReadTrained(Struct, frozen=True, kw_only=True, tag="read-trained"):
    """How does a trained model weigh them, on an example of its task? Answered by Reading. No heads or layers: all."""

    checkpoint: str
    heads: tuple[int, ...] = ()
    layers: tuple[int, ...] = ()
    path: str


class HeadRead(Struct, frozen=True, kw_only=True):
    """What a matrix's distances from exact attention's are, and whose it is; `measure.maps` defines them."""

    layer: int
    head: int
    error: float
    variation: float
    kept: float


class Reading(Struct, frozen=True, kw_only=True):
    """Matrices that were read, or the reason why there are none.

    At the question's `path` lies an .npz file with `matrices` and `exact`, [N, T, S] in the order of `heads`, and
    `visible`, [T, S]: what the mask leaves.
    """

    heads: tuple[HeadRead, ...] = ()
    reason: str = ""


Question = (
    DescribeVariant | DescribeTask | DescribeMachine | MeasureRates | TryVariant | Perform | ReadMatrices | ReadTrained
)


class Told(Struct, frozen=True, kw_only=True, tag="told"):
    """A sign of life from a child that is still at work, in words."""

    text: str


class Answered(Struct, frozen=True, kw_only=True, tag="answered"):
    """The last line of a child that finished: the answer as JSON, or the user's mistake that prevents one."""

    answer: msgspec.Raw = msgspec.Raw(b"null")
    mistake: str = ""
