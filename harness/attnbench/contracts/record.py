"""What is planned and what came of it: jobs, outcomes and records, as they stand in a run's journal."""

import re
from typing import Annotated, Literal, get_args

from msgspec import Meta, Struct

from attnbench.contracts.case import Case, Dtype, Option, digest

SCHEMA = 1

# gc=False: there are 100,000 of them, they hold no cycles, and untracked they are made and freed faster.

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
ProbeKind = Literal["latency", "memory", "agreement", "accuracy", "energy"]
Profile = Literal["quick", "default", "rigorous"]
Allocator = Literal["default", "retained"]
ALLOCATORS: tuple[Allocator, ...] = get_args(Allocator)

# Facts of a memory job: bytes that building the mechanism and its inputs took at most, and what of it stays.
BUILDING, HELD = "building_bytes", "held_bytes"

# What a row is named after when a job has nothing to show but its status.
PRIMARY_METRIC: dict[ProbeKind, str] = {
    "latency": "latency",
    "memory": "memory",
    "agreement": "approximation_error",
    "accuracy": "accuracy",
    "energy": "energy",
}
TRIAL_METRIC = "search_accuracy"
_RATE = re.compile(r",learning_rate=[^,]*")


class Origin(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Where a plugin comes from. `source_hash` covers every file that its import read, so an edit is a new origin."""

    distribution: str = ""
    version: str = ""
    path: str = ""
    source_hash: str = ""

    def __str__(self) -> str:
        return f"{self.distribution} {self.version}" if self.distribution else self.path


class Protocol(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """How a case is measured. Times are in seconds; `cap_s` bounds all calls of a process, `timeout_s` its silence."""

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


class Probe(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What is asked of a case; an accuracy probe names its task with complete options.

    `twin` marks the second of two identical measurements, by which a run tells what its machine makes of no difference.
    `trial` marks a training that only tells how good a learning rate is. A training at another `rate` than its task's
    was chosen from those `searched`.
    """

    kind: ProbeKind
    twin: bool = False
    task: str = ""
    task_options: dict[str, Option] = {}
    task_origin: Origin | None = None
    trial: bool = False
    rate: float | None = None
    searched: tuple[float, ...] = ()

    @property
    def metric(self) -> str:
        """The metric by which this probe is known in a table."""
        return TRIAL_METRIC if self.trial else PRIMARY_METRIC[self.kind]

    @property
    def primary(self) -> bool:
        """Whether a table shows it unless another metric is asked for."""
        return not (self.twin or self.trial)

    @property
    def label(self) -> str:
        """The task as a row names it: a trial's with its learning rate."""
        if not self.trial:
            return self.task
        return f"{_RATE.sub('', self.task)},learning_rate={self.rate:g}"


class Job(Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """One process's work: a probe of a case in a round. `target` is what to import for the variant."""

    case: Case
    probe: Probe
    protocol: Protocol
    target: str
    origin: Origin = Origin()
    task_target: str = ""
    round: int = 1
    attempt: int = 1

    @property
    def key(self) -> str:
        """The job's stable name: the same question to the same code has the same key, whatever the attempt."""
        return digest(self.case, self.probe, self.protocol, self.origin, self.round)

    @property
    def timed(self) -> bool:
        """Whether other work on the machine would change its figures: training is not timed."""
        return self.probe.kind != "accuracy"

    @property
    def timed_round(self) -> int:
        """The round of a latency job, whose rounds repeat one another; 0 for what is measured once."""
        return self.round if self.probe.kind == "latency" else 0

    @property
    def question(self) -> str:
        """The job's name without its round: rounds of one question are replicates of one another."""
        return digest(self.case, self.probe, self.protocol, self.origin)


class Measurement(Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """Raw values of one metric from one process, in base units or integer nanoseconds.

    A value that is not finite is stored as null (JSON has no infinity) under the flag `non_finite`.
    """

    metric: str
    unit: Literal["ns", "s", "bytes", "J", "1"]
    values: tuple[int | float | None, ...]
    higher_is_better: bool = False
    flags: tuple[str, ...] = ()


class Outcome(Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """What came of a job: measurements when `status` is ok, else the reason in `detail`; the output's end in `log`."""

    status: Status
    measurements: tuple[Measurement, ...] = ()
    detail: str = ""
    backend: str = ""
    facts: dict[str, Option] = {}
    log: str = ""


class Environment(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The machine and the software that a record was measured with; null where the machine does not tell."""

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
        """The environment's stable name."""
        return digest(self)


class Rates(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The best that a device was seen to do before a run's first job; null, with the reason, where nothing was seen.

    `bytes_per_s` is what arrays larger than its caches are read and written at, `flops_per_s` the rate of a product of
    large square matrices by dtype.
    """

    device: str
    threads: int
    bytes_per_s: float | None = None
    flops_per_s: dict[Dtype, float | None] = {}
    reason: str = ""


class Record(Struct, frozen=True, kw_only=True, tag="record", tag_field="event", gc=False):
    """A job with its outcome: one line of the journal. Times are seconds since the epoch, and a span in seconds.

    Defaults are written too: a `schema` left out would take the value of whatever version reads it.
    """

    schema: int = SCHEMA
    run: str
    job: Job
    outcome: Outcome
    environment: str = ""
    started_s: float = 0.0
    seconds: float = 0.0


class Told(Struct, gc=False):
    """What a record tells behind its job."""

    outcome: Outcome
    environment: str = ""
    started_s: float = 0.0
    seconds: float = 0.0


class Unread(Struct, frozen=True, eq=False, gc=False):
    """A record of which only run and job are known until it is asked; then it can turn out to be none."""

    run: str
    job: Job

    def told(self) -> Told | None:
        """Read what it tells."""
        raise NotImplementedError


Entry = Record | Unread


def read(entry: Entry) -> Record | None:
    """Give the record that an entry of a journal is; None where it turns out to be none."""
    if isinstance(entry, Record):
        return entry
    found = entry.told()
    if found is None:
        return None
    return Record(
        run=entry.run,
        job=entry.job,
        outcome=found.outcome,
        environment=found.environment,
        started_s=found.started_s,
        seconds=found.seconds,
    )
