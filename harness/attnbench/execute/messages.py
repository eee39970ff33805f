"""The messages between the parent and its child processes. All of them travel as JSON, never as pickle."""

from typing import Any, Literal

import msgspec
from msgspec import Struct

from attnbench.contracts.case import Case, Dtype
from attnbench.contracts.record import Allocator, Job, Swap
from attnbench.plugins.registry import Entry


class Bounded(Struct, frozen=True, kw_only=True):
    """A question whose answer takes a plugin's code.

    `memory_bytes` limits what that may allocate; by default it is what the machine can spare.
    """

    memory_bytes: int | None = None


class DescribeVariant(Bounded, frozen=True, kw_only=True, tag="describe-variant"):
    """Describe a variant, with the `given` options completed. Answer: a Description."""

    entry: Entry
    given: dict[str, Any] = {}


class DescribeTask(Bounded, frozen=True, kw_only=True, tag="describe-task"):
    """Describe a task, with the `given` options completed. Answer: a TaskDescription."""

    entry: Entry
    given: dict[str, Any] = {}


class DescribeMetric(Bounded, frozen=True, kw_only=True, tag="describe-metric"):
    """Describe a plugin's metric. Answer: a MetricDescription."""

    entry: Entry


class DescribeModel(Bounded, frozen=True, kw_only=True, tag="describe-model"):
    """Describe the attention of the pretrained model that a swap is of. Answer: a Case without a variant."""

    swap: Swap


class DescribeMachine(Struct, frozen=True, kw_only=True, tag="describe-machine"):
    """Describe this machine and its `device`. Answer: an Environment."""

    device: str
    threads: int
    allocator: Allocator = "default"


class MeasureRates(Struct, frozen=True, kw_only=True, tag="measure-rates"):
    """Measure the device's bandwidth, and its matrix rate in these dtypes. Answer: Rates."""

    device: str
    threads: int
    dtypes: tuple[Dtype, ...]


class TryVariant(Bounded, frozen=True, kw_only=True, tag="try-variant"):
    """Run a variant once, on a small case. Answer: the reason why it cannot run here, empty where it can."""

    target: str
    case: Case


class Perform(Struct, frozen=True, kw_only=True, tag="perform"):
    """Perform a job. Answer: an Outcome, with the job's `key`.

    `memory_bytes` limits what the job may allocate; on the CPU what it allocates beyond the process's own at its start.
    `checkpoint` is the path of a training's checkpoint, from which it resumes if the file exists, or of the training of
    the exact model that a swap begins with; empty for none.
    `figures` are those of the job's case that a derived metric is computed from. `sources` are the plugins' files as
    they were read before, with their hashes.
    """

    job: Job
    key: str = ""
    memory_bytes: int | None = None
    checkpoint: str = ""
    figures: dict[str, float] = {}
    sources: dict[str, str] = {}


class ReadMatrices(Bounded, frozen=True, kw_only=True, tag="read-matrices"):
    """Read a variant's effective attention matrices on the inputs of `case`; no heads: all. Answer: a Reading.

    `inputs_path` is the file of captured inputs, empty for those that are drawn.
    """

    target: str
    case: Case
    heads: tuple[int, ...]
    path: str
    inputs_path: str = ""


class ReadTrained(Bounded, frozen=True, kw_only=True, tag="read-trained"):
    """Read a trained model's matrices on an example of its task; no heads or layers: all. Answer: a Reading."""

    checkpoint: str
    heads: tuple[int, ...] = ()
    layers: tuple[int, ...] = ()
    path: str


class Capture(Bounded, frozen=True, kw_only=True, tag="capture"):
    """Write a model's captured inputs to the file `path`; no layers: all. Answer: a Captured.

    `model` is a folder, a GGUF file, an installed distribution, or a training's checkpoint, which has no `text` and no
    `length`. `name` replaces the model's own.
    """

    model: str
    text: str = ""
    length: int = 0
    layers: tuple[int, ...] = ()
    precision: Literal["float32", "float16"] = "float32"
    name: str = ""
    path: str


class Captured(Struct, frozen=True, kw_only=True):
    """What a capture holds. `error` is the largest by which exact attention on a layer misses the model's own output.

    It is relative, in the Frobenius norm, before the tensors are rounded to the file's precision.
    """

    path: str
    layers: tuple[int, ...]
    heads: int
    kv_heads: int
    head_dim: int
    tokens: int
    causal: bool
    scale: float
    model: str
    text: str
    licence: str
    error: float


class HeadRead(Struct, frozen=True, kw_only=True):
    """A head whose matrix was read, with its distances from exact attention's, as `measure.maps.distances` has them."""

    layer: int
    head: int
    error: float
    variation: float
    kept: float


class Reading(Struct, frozen=True, kw_only=True):
    """The matrices that were read, or the `reason` why there are none.

    The file at the question's `path` is an .npz with `matrices` and `exact`, [N, T, S] in the order of `heads`, and
    `visible`, [T, S], true where the mask leaves a key.
    """

    heads: tuple[HeadRead, ...] = ()
    reason: str = ""


Question = (
    DescribeVariant
    | DescribeTask
    | DescribeMetric
    | DescribeModel
    | DescribeMachine
    | MeasureRates
    | TryVariant
    | Perform
    | ReadMatrices
    | ReadTrained
    | Capture
)


class Progress(Struct, frozen=True, kw_only=True, tag="progress"):
    """Progress of a child that is still at work, in words; it restarts the child's timeout."""

    text: str


class Answer(Struct, frozen=True, kw_only=True, tag="answer"):
    """The last line from a child: the answer as JSON, or the user's `mistake` (a UsageError) that prevents one.

    `job` is the key of the job that it is the outcome of; empty for other questions.
    """

    value: msgspec.Raw = msgspec.Raw(b"null")
    mistake: str = ""
    job: str = ""
