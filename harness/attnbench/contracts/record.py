"""Jobs, their outcomes, and the records that a run's journal holds."""

import re
from typing import Annotated, Literal, get_args

from msgspec import Meta, Struct

from attnbench.contracts.case import Case, Dtype, Option, digest
from attnbench.contracts.errors import UsageError
from attnbench.contracts.metrics import METRICS, PRIMARY, TRAINED, Metric, ProbeKind

SCHEMA = 1

Status = Literal[
    "ok",
    "unsupported",
    "invalid_output",
    "error",
    "oom_device",
    "oom_host",
    "timeout",
    "crash",
    "device_lost",
    "interrupted",
    "skipped",
]
Profile = Literal["quick", "default", "rigorous"]
Allocator = Literal["default", "retained"]
ALLOCATORS: tuple[Allocator, ...] = get_args(Allocator)

# Facts of a memory job: the peak while the mechanism and its inputs were built, what of it stays allocated, and what of
# that is the mechanism's own.
BUILDING, HELD, OWN = "building_bytes", "held_bytes", "own_bytes"
ENOUGH = "enough"  # fact of a skipped round that goes beyond those the profile promises
PENDING = "not measured yet"  # detail of a row whose job has no record

TRIAL_METRIC = "search_accuracy"
_RATE = re.compile(r",learning_rate=[^,]*")


class Origin(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Where a plugin comes from; `source_hash` covers every file its import read, so an edit is a new origin.

    `later_hash` covers those read after the import (`Outcome.sources`), once any of them was edited between two parts
    of a run.
    """

    distribution: str = ""
    version: str = ""
    path: str = ""
    source_hash: str = ""
    later_hash: str = ""

    @property
    def name(self) -> str:
        """The distribution and its version, or the path of a file."""
        return f"{self.distribution} {self.version}" if self.distribution else self.path

    @property
    def sources(self) -> str:
        """What tells its sources from others: their hash, and that of files read later where it is known."""
        return "-".join(filter(None, (self.source_hash, self.later_hash)))

    def __str__(self) -> str:
        return self.name


class Protocol(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """How a case is measured. `cap_s` limits all calls of a process, `timeout_s` the time without a sign of life."""

    profile: Profile = "default"
    rounds: Annotated[int, Meta(ge=1)] = 5
    warmup_calls: int = 10
    warmup_s: float = 0.2
    min_samples: int = 20
    min_time_s: float = 0.2
    stop_noise: float = 0.005
    cap_s: float = 5.0
    timeout_s: float = 120.0
    hot: bool = False
    threads: int = 1
    allocator: Allocator = "default"


class Swap(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """How an exact model is swapped: in which layers (all where empty), and for how many steps it is then fine-tuned.

    The first `exact_tokens` queries attend exactly. `base` is the hash of the file with the model, empty where the run
    trains it. `model` is a pretrained one instead, a folder or a package, whose loss is that on the first `tokens` of
    the file `text`; then `base` is the hash of that.
    """

    steps: Annotated[int, Meta(ge=0)] = 200
    learning_rate: Annotated[float, Meta(gt=0)] = 1e-3
    layers: tuple[int, ...] = ()
    exact_tokens: Annotated[int, Meta(ge=0)] = 0
    base: str = ""
    model: str = ""
    text: str = ""
    tokens: Annotated[int, Meta(ge=2)] = 1024

    def check_layers(self, count: int) -> None:
        """Raise UsageError for a layer to swap that a model of `count` layers does not have."""
        missing = [layer for layer in self.layers if not 0 <= layer < count]
        if missing:
            raise UsageError(f"--swap: there is no layer {missing[0]}; the model has {count}, numbered from 0")


class Probe(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What is measured of a case; an accuracy probe names its task with complete options.

    `twin` marks the second of two identical measurements, from which a run derives its A/A floor. `trial` marks a
    training that only rates a learning rate; `rate` is the learning rate where it is not the task's own, chosen from
    those `searched`. `scaled` are the options used in place of the case's own, if the task is shorter than what is
    costed: those that count keys are in proportion. `base` marks the training of an exact model that swaps begin with.
    `declared` is what a plugin's metric declares of itself.
    """

    kind: ProbeKind
    twin: bool = False
    task: str = ""
    task_options: dict[str, Option] = {}
    task_origin: Origin | None = None
    trial: bool = False
    rate: float | None = None
    searched: tuple[float, ...] = ()
    scaled: dict[str, Option] = {}
    swap: Swap | None = None
    base: bool = False
    declared: Metric | None = None
    metric_origin: Origin | None = None

    @property
    def metric(self) -> Metric:
        """The metric that stands for this probe in a table."""
        if self.declared is not None:
            return self.declared
        return METRICS[TRIAL_METRIC] if self.trial else PRIMARY[self.kind]

    @property
    def primary(self) -> bool:
        """Whether tables show this probe by default."""
        return not (self.twin or self.trial or self.base)

    @property
    def label(self) -> str:
        """The task as a row names it; a trial's includes its learning rate."""
        if not self.trial:
            return self.task
        return f"{_RATE.sub('', self.task)},learning_rate={self.rate:g}"


# gc=False: runs have 100,000 of these; they hold no cycles, and tracking them takes a third of the loading time.
class Job(Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """The work of one process: one probe of one case in one round. `target` is the import path of the variant.

    `base_path` is the file of the exact model that a swap begins with, where it ships with a package, `inputs_path`
    that of captured inputs.
    """

    case: Case
    probe: Probe
    protocol: Protocol
    target: str
    origin: Origin = Origin()
    task_target: str = ""
    round: int = 1
    attempt: int = 1
    metric_target: str = ""
    base_path: str = ""
    inputs_path: str = ""

    @property
    def key(self) -> str:
        """A stable hash that identifies what the job measures, whatever the attempt."""
        return digest(self.case, self.probe, self.protocol, self.origin, self.round)

    @property
    def timed(self) -> bool:
        """Whether other work on the machine would change the result; training is not timed."""
        return self.probe.kind not in TRAINED

    @property
    def timed_round(self) -> int:
        """The round of a latency job, 0 for any other: only latency is timed in rounds."""
        return self.round if self.probe.kind == "latency" else 0

    @property
    def derived(self) -> bool:
        """Whether the job computes a figure from those of other jobs."""
        return self.probe.declared is not None and bool(self.probe.declared.needs)

    @property
    def question(self) -> str:
        """The job's key without its round: jobs with the same one are replicates."""
        return digest(self.case, self.probe, self.protocol, self.origin)


class Measurement(Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """Samples of one metric from one process, in a base unit, a plugin's own unit, or integer nanoseconds.

    A sample that is not finite is stored as null (JSON has no infinity) under the flag `non_finite`.
    """

    metric: str
    unit: str
    values: tuple[int | float | None, ...]
    higher_is_better: bool = False
    flags: tuple[str, ...] = ()


class Outcome(Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """The result of a job: measurements if `status` is ok, else the reason in `detail`; `log` ends its output.

    `sources` are the files that plugins read after their import, by path, with the hashes of their contents; without
    figures also those that are no longer what they were.
    """

    status: Status
    measurements: tuple[Measurement, ...] = ()
    detail: str = ""
    backend: str = ""
    facts: dict[str, Option] = {}
    log: str = ""
    sources: dict[str, str] = {}


class Environment(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The machine and software of a measurement; null where the machine does not report a fact."""

    attnbench: str
    commit: str | None = None
    dirty: bool | None = None
    python: str = ""
    torch: str = ""
    packages: dict[str, str] = {}
    flags: dict[str, Option] = {}
    system: str = ""
    cpu: str = ""
    cpu_facts: dict[str, Option] = {}
    variables: dict[str, str] = {}
    cores: int = 0
    memory_bytes: int = 0
    device: str = "cpu"
    device_name: str = ""
    device_memory_bytes: int | None = None
    device_dtypes: tuple[str, ...] = ()
    device_facts: dict[str, Option] = {}
    driver: str | None = None
    threads: int = 0
    allocator: Allocator = "default"

    @property
    def key(self) -> str:
        """A stable hash that identifies the environment."""
        return digest(self)


class Rates(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The device's own peak rates, measured before a run's first job; null, with the reason, where that failed.

    `bytes_per_s` is the bandwidth for arrays larger than the caches, `flops_per_s` the rate of a product of large
    square matrices, by dtype.
    """

    device: str
    threads: int
    bytes_per_s: float | None = None
    flops_per_s: dict[Dtype, float | None] = {}
    reason: str = ""


class Record(Struct, frozen=True, kw_only=True, tag="record", tag_field="event", gc=False):
    """A job with its outcome: one line of the journal. `started_s` is in seconds since the epoch.

    Defaults are written too: an omitted `schema` would take the value of whichever version reads it.
    """

    schema: int = SCHEMA
    run: str
    job: Job
    outcome: Outcome
    environment: str = ""
    started_s: float = 0.0
    seconds: float = 0.0
