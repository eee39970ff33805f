"""Reading a stored run: its plan, and its journal line by line.

A record of a planned job is left unread until it is asked for: its job is known by its bytes, and most readers take the
records of one question at a time.
"""

from collections.abc import Iterable, Iterator
from functools import cached_property, lru_cache, partial
from pathlib import Path

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


class _PlanApart(Plan, frozen=True, kw_only=True, tag="plan", tag_field="event"):
    """A plan whose jobs are still bytes."""

    jobs: tuple[Raw, ...]  # type: ignore[assignment]


class _Rest(Struct):
    """What a record says behind its job."""

    outcome: Outcome
    environment: str = ""
    started_s: float = 0.0
    seconds: float = 0.0


# How a record and a job begin to say something: the bytes stand in no string, for quotes in a string are escaped.
_HEAD, _JOB_KEY, _OUTCOME_KEY, _ROUND = CURRENT_RECORD + b'"run":', b',"job":', b',"outcome":', b',"round":'
_PLAN_APART = msgspec.json.Decoder(_PlanApart)
_REST, _JOB = msgspec.json.Decoder(_Rest), msgspec.json.Decoder(Job)


def read_plan(path: Path) -> Plan:
    """Read the plan of the run in a folder; jobs of one question share what they have in common.

    Raises DamagedStore where it is missing or altered, and UsageError where it cannot be read.
    """
    try:
        with collector_paused():
            line = _read(path / PLAN)
            event = _plan(line, len(line) - line.endswith(b"\n")) or from_line(line)
    except FileNotFoundError:
        raise DamagedStore(f"{path} has no {PLAN}: it is no run, or a damaged one") from None
    except ValueError as error:
        raise DamagedStore(f"{path / PLAN} is damaged: {error}") from None
    if not isinstance(event, Plan):
        raise DamagedStore(f"{path / PLAN} is damaged: it holds no plan")
    return event


def read_journal(path: Path, planned: Iterable[Job] = ()) -> Journal:
    """Read all that a run's journal holds and that its checksums vouch for; what they do not is in `broken`.

    A record of a planned job, in its first attempt, holds that very job, and is left unread: a line under a sound
    checksum that turns out to be none is then passed over, and not among the broken ones.
    """
    try:
        with collector_paused(), (path / EVENTS).open("rb", buffering=_BUFFER_BYTES) as file:
            return _parse(file, planned)
    except (FileNotFoundError, NotADirectoryError):  # killed after the plan was written, or before a measurement
        return Journal()
    except OSError as error:
        raise _unreadable(path / EVENTS, error) from None


def _plan(line: bytes, end: int) -> Plan | None:
    """Give a plan of this version; None for anything else, and for what is wrong, of which `from_line` says what."""
    if not line.startswith(CURRENT_PLAN, BEFORE_EVENT) or not is_as_written(line, end):
        return None
    try:
        found = _PLAN_APART.decode(memoryview(line)[BEFORE_EVENT : end - AFTER_EVENT])
        jobs = tuple(_jobs(map(bytes, found.jobs)))
    except msgspec.MsgspecError:
        return None
    return Plan(**{name: getattr(found, name) for name in Plan.__struct_fields__} | {"jobs": jobs})


def _jobs(several: Iterable[bytes]) -> Iterator[Job]:
    """Read jobs; those of a question differ in their round alone, which is written last, and share the rest."""
    known: dict[bytes, Job] = {}
    for raw in several:
        place = raw.rfind(_ROUND)  # -1 in the first round, which is not written: before the brace
        alike, number = known.get(raw[:place]), _number(raw[place:])
        if number is None:
            yield _JOB.decode(raw)
        elif alike is None:
            alike = known[raw[:place]] = _JOB.decode(raw)
            yield alike
        else:
            yield replace(alike, round=number)


@lru_cache(maxsize=1024)
def _number(end: bytes) -> int | None:
    """Read the round at the end of a job's bytes; null where something else stands there (a retry's attempt)."""
    digits = end[len(_ROUND) : -1]
    return 1 if end == b"}" else int(digits) if digits.isdigit() else None


class _Planned:
    """Planned jobs by their bytes, which those of a question have in common up to their round."""

    def __init__(self, jobs: Iterable[Job]) -> None:
        self._known: dict[bytes, dict[bytes, Job]] = {}
        alike: dict[tuple[object, ...], dict[bytes, Job]] = {}
        for job in jobs:
            common = id(job.case), id(job.probe), id(job.protocol), id(job.origin), job.target, job.task_target
            rounds = alike.get(common)
            if rounds is None or job.attempt > 1:
                raw = msgspec.json.encode(job)
                place = raw.rfind(_ROUND)
                rounds = self._known.setdefault(raw[:place], {})
                rounds[raw[place:]] = job
                if _number(raw[place:]) == job.round and job.attempt == 1:
                    alike[common] = rounds
            else:
                rounds[b"%b%d}" % (_ROUND, job.round) if job.round > 1 else b"}"] = job

    def get(self, raw: bytes) -> Job | None:
        """Find a job; None where none is planned."""
        place = raw.rfind(_ROUND)
        rounds = self._known.get(raw[:place])
        return rounds.get(raw[place:]) if rounds else None


def _parse(file: Iterable[bytes], planned: Iterable[Job]) -> Journal:
    entries: list[Entry] = []
    environments: dict[str, Environment] = {}
    broken: list[Broken] = []
    last_rates: Rates | None = None
    unknown = 0
    jobs = _Planned(planned)
    for number, offset, line in _lines(file):
        try:
            match _unread(line, len(line) - line.endswith(b"\n"), jobs) or from_line(line):
                case Unread() | Record() as entry:
                    entries.append(entry)
                case EnvironmentSeen(key=key, environment=environment):
                    environments[key] = environment
                case RatesSeen(rates=rates):
                    last_rates = rates
                case None | Plan():
                    unknown += 1
        except ValueError as error:
            broken.append(Broken(line=number, offset=offset, why=str(error), raw=line.removesuffix(b"\n")))
    return Journal(
        entries=tuple(entries), environments=environments, rates=last_rates, unknown=unknown, broken=tuple(broken)
    )


def _unread(line: bytes, end: int, jobs: _Planned) -> Unread | None:
    """Give a record of this version whose job is planned, as it stands; None for any other line."""
    if not line.startswith(_HEAD, BEFORE_EVENT):
        return None
    before = line.find(_JOB_KEY)
    behind = line.find(_OUTCOME_KEY, before)
    job = jobs.get(line[before + len(_JOB_KEY) : behind])
    if job is None or not is_as_written(line, end):
        return None
    run = _text(line[BEFORE_EVENT + len(_HEAD) : before])
    if run is None:
        return None
    return Unread(run, job, partial(_record, run, job, b"{" + line[behind + 1 : end - AFTER_EVENT]))


@lru_cache(maxsize=64)
def _text(raw: bytes) -> str | None:
    try:
        return msgspec.json.decode(raw, type=str)
    except msgspec.MsgspecError:
        return None


def _record(run: str, job: Job, rest: bytes) -> Record | None:
    try:
        found = _REST.decode(rest)
    except msgspec.MsgspecError:
        return None
    return Record(
        run=run,
        job=job,
        outcome=found.outcome,
        environment=found.environment,
        started_s=found.started_s,
        seconds=found.seconds,
    )


def _lines(file: Iterable[bytes]) -> Iterator[tuple[int, int, bytes]]:
    """Give each line with its number and offset; an empty one comes of a newline put after a line that was whole."""
    offset = 0
    for number, line in enumerate(file, start=1):
        if line != b"\n":
            yield number, offset, line
        offset += len(line)


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        raise FileNotFoundError(path) from None
    except OSError as error:
        raise _unreadable(path, error) from None


def _unreadable(path: Path, error: OSError) -> UsageError:
    return UsageError(f"{path} cannot be read: {error.strerror}")
