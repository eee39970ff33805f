"""Reading a stored run: its plan, and its journal line by line.

A record of a planned job is left unread until it is asked for: its job is known by its bytes, and most readers take the
records of one question at a time.
"""

from collections.abc import Iterable
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Self

import msgspec
from msgspec import Raw, Struct
from msgspec.structs import replace

from attnbench.collector import collector_paused
from attnbench.errors import DamagedStore, UsageError
from attnbench.record import Entry, Environment, Job, Outcome, Rates, Record, Unread, read
from attnbench.store.lines import (
    AFTER_EVENT,
    BEFORE_EVENT,
    CURRENT_PLAN,
    CURRENT_RECORD,
    EVENTS,
    PLAN,
    EnvironmentSeen,
    Plan,
    RatesSeen,
    from_line,
    is_as_written,
)

_BUFFER_BYTES = 2**20


class Broken(Struct, frozen=True, kw_only=True):
    """A line that cannot be trusted: where it stands (lines from 1, bytes from 0), why, and its bytes."""

    line: int
    offset: int
    why: str
    raw: bytes


class Journal(Struct, frozen=True, kw_only=True, dict=True):
    """What a journal holds, in the order written; `unknown` counts sound events of kinds that this version lacks.

    `entries` are its records, read or not.
    """

    entries: tuple[Entry, ...] = ()
    environments: dict[str, Environment] = {}
    rates: Rates | None = None
    unknown: int = 0
    broken: tuple[Broken, ...] = ()

    @cached_property
    def records(self) -> tuple[Record, ...]:
        """Every record, read."""
        with collector_paused():
            return tuple(record for entry in self.entries if (record := read(entry)) is not None)


class Planned:
    """Planned jobs by their bytes: those of a question differ in their round alone, which is written last.

    Retries are not among them.
    """

    def __init__(self) -> None:
        self._known: dict[bytes, dict[int | None, Job]] = {}

    @classmethod
    def of(cls, jobs: Iterable[Job]) -> Self:
        """Take jobs as they are."""
        planned = cls()
        for job in jobs:
            raw = msgspec.json.encode(job)
            alike, number = _split(raw, 0, len(raw))
            if number is not None:
                planned._known.setdefault(alike, {})[number] = job
        return planned

    def read(self, raw: bytes) -> Job:
        """Read a job and take it; it shares all but its round with those of its question."""
        alike, number = _split(raw, 0, len(raw))
        if number is None:
            return _JOB.decode(raw)
        rounds = self._known.setdefault(alike, {})
        first = next(iter(rounds.values()), None)
        rounds[number] = job = replace(first, round=number) if first else _JOB.decode(raw)
        return job

    def find(self, line: bytes, start: int, end: int) -> Job | None:
        """Find the job whose bytes stand in a line from `start` to `end`; None where no such job is planned."""
        alike, number = _split(line, start, end)
        rounds = self._known.get(alike)
        return rounds.get(number) if rounds else None


class _PlanApart(Plan, frozen=True, kw_only=True, tag="plan", tag_field="event"):
    """A plan whose jobs are still bytes."""

    jobs: tuple[Raw, ...]  # type: ignore[assignment]


class _Rest(Struct, gc=False):
    """What a record says behind its job."""

    outcome: Outcome
    environment: str = ""
    started_s: float = 0.0
    seconds: float = 0.0


# How a record and a job begin to say something: the bytes stand in no string, for quotes in a string are escaped.
_HEAD, _JOB_KEY, _OUTCOME_KEY, _ROUND = CURRENT_RECORD + b'"run":', b',"job":', b',"outcome":', b',"round":'
_PLAN_APART = msgspec.json.Decoder(_PlanApart)
_REST, _JOB = msgspec.json.Decoder(_Rest), msgspec.json.Decoder(Job)


def read_plan(path: Path) -> tuple[Plan, Planned]:
    """Read the plan of the run in a folder, and its jobs by their bytes.

    Raises DamagedStore where it is missing or altered, and UsageError where it cannot be read.
    """
    try:
        with collector_paused():
            line = _read(path / PLAN)
            planned = Planned()
            plan = _plan(line, len(line) - line.endswith(b"\n"), planned)
            event = plan or from_line(line)
    except FileNotFoundError:
        raise DamagedStore(f"{path} has no {PLAN}: it is no run, or a damaged one") from None
    except ValueError as error:
        raise DamagedStore(f"{path / PLAN} is damaged: {error}") from None
    if not isinstance(event, Plan):
        raise DamagedStore(f"{path / PLAN} is damaged: it holds no plan")
    return event, planned if plan else Planned.of(event.jobs)


def read_journal(path: Path, planned: Planned | None = None) -> Journal:
    """Read all that a run's journal holds and that its checksums vouch for; what they do not is in `broken`.

    A record of a planned job, in its first attempt, holds that very job, and is left unread: a line under a sound
    checksum that turns out to be none is then passed over, and not among the broken ones.
    """
    try:
        with collector_paused(), (path / EVENTS).open("rb", buffering=_BUFFER_BYTES) as file:
            return _parse(file, planned or Planned())
    except (FileNotFoundError, NotADirectoryError):  # killed after the plan was written, or before a measurement
        return Journal()
    except OSError as error:
        raise _unreadable(path / EVENTS, error) from None


def _plan(line: bytes, end: int, planned: Planned) -> Plan | None:
    """Give a plan of this version; None for anything else, and for what is wrong, of which `from_line` says what."""
    if not line.startswith(CURRENT_PLAN, BEFORE_EVENT) or not is_as_written(line, end):
        return None
    try:
        found = _PLAN_APART.decode(memoryview(line)[BEFORE_EVENT : end - AFTER_EVENT])
        jobs = tuple(map(planned.read, map(bytes, found.jobs)))
    except msgspec.MsgspecError:
        return None
    return Plan(**{name: getattr(found, name) for name in Plan.__struct_fields__} | {"jobs": jobs})


def _split(line: bytes, start: int, end: int) -> tuple[bytes, int | None]:
    """Split the bytes of a job into those that its question's jobs have in common, and its round."""
    place = line.rfind(_ROUND, start, end)
    if place < 0:
        place = end - 1  # the first round is not written: before the brace
    return line[start:place], _number(line[place:end])


@lru_cache(maxsize=1024)
def _number(end: bytes) -> int | None:
    """Read the round at the end of a job's bytes; null where something else stands there (a retry's attempt)."""
    digits = end[len(_ROUND) : -1]
    return 1 if end == b"}" else int(digits) if digits.isdigit() else None


class _Line(Unread, frozen=True, eq=False, gc=False):
    """A record in a journal: the bytes behind its job, as a JSON object."""

    rest: bytes

    def read(self) -> Record | None:
        try:
            found = _REST.decode(self.rest)
        except (msgspec.MsgspecError, UnicodeDecodeError):
            return None
        return Record(
            run=self.run,
            job=self.job,
            outcome=found.outcome,
            environment=found.environment,
            started_s=found.started_s,
            seconds=found.seconds,
        )


def _parse(file: Iterable[bytes], planned: Planned) -> Journal:
    entries: list[Entry] = []
    environments: dict[str, Environment] = {}
    broken: list[Broken] = []
    last_rates: Rates | None = None
    unknown = offset = 0
    records = _Records(planned)
    for number, line in enumerate(file, start=1):
        entry = records.find(line, len(line) - line.endswith(b"\n"))
        if entry is not None:
            entries.append(entry)
        elif line != b"\n":  # an empty one comes of a newline put after a line that was whole
            try:
                match from_line(line):
                    case Record() as record:
                        entries.append(record)
                    case EnvironmentSeen(key=key, environment=environment):
                        environments[key] = environment
                    case RatesSeen(rates=rates):
                        last_rates = rates
                    case None | Plan():
                        unknown += 1
            except ValueError as error:
                broken.append(Broken(line=number, offset=offset, why=str(error), raw=line.removesuffix(b"\n")))
        offset += len(line)
    return Journal(
        entries=tuple(entries), environments=environments, rates=last_rates, unknown=unknown, broken=tuple(broken)
    )


class _Records:
    """Finds records of planned jobs, which as a rule all begin alike, up to the job: with their run."""

    def __init__(self, planned: Planned) -> None:
        self._planned = planned
        self._start, self._run = b"\n", ""  # no line begins so

    def find(self, line: bytes, end: int) -> Unread | None:
        """Give a record of this version whose job is planned, as it stands; None for any other line."""
        if not line.startswith(self._start, BEFORE_EVENT) and not self._begins(line):
            return None
        job_at = BEFORE_EVENT + len(self._start)
        behind = line.find(_OUTCOME_KEY, job_at)
        job = self._planned.find(line, job_at, behind)
        if job is None or not is_as_written(line, end):
            return None
        return _Line(self._run, job, b"{%b" % line[behind + 1 : end - AFTER_EVENT])

    def _begins(self, line: bytes) -> bool:
        """Look at how a line begins: if as a record, those after it are held against it."""
        before = line.find(_JOB_KEY)
        run = _text(line[BEFORE_EVENT + len(_HEAD) : before]) if line.startswith(_HEAD, BEFORE_EVENT) else None
        if run is None:
            return False
        self._start, self._run = line[BEFORE_EVENT : before + len(_JOB_KEY)], run
        return True


def _text(raw: bytes) -> str | None:
    try:
        return msgspec.json.decode(raw, type=str)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return None


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        raise FileNotFoundError(path) from None
    except OSError as error:
        raise _unreadable(path, error) from None


def _unreadable(path: Path, error: OSError) -> UsageError:
    return UsageError(f"{path} cannot be read: {error.strerror}")
