"""What every executor yields while it works through jobs."""

from msgspec import Struct

from attnbench.contracts.record import Job, Outcome


class Started(Struct, frozen=True, kw_only=True):
    """A job's process was started."""

    job: Job


class Progressed(Struct, frozen=True, kw_only=True):
    """A job that takes long says how far it is."""

    job: Job
    text: str


class Finished(Struct, frozen=True, kw_only=True):
    """A job is over, one way or another. `started_s` is seconds since the epoch."""

    job: Job
    outcome: Outcome
    started_s: float
    seconds: float


Event = Started | Progressed | Finished
