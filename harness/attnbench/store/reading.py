"""Reading a stored run: its plan, and its journal line by line.

A record of a planned job is left unread until it is asked for: its job is known by its bytes, and most readers take the
records of one question at a time.
"""

from collections.abc import Iterable
from functools import cached_property, lru_cache
from pathlib import Path

import msgspec
from msgspec import Struct

from attnbench.collector import collector_paused
from attnbench.errors import DamagedStore, UsageError
from attnbench.record import Entry, Environment, Outcome, Rates, Record, Unread, read
from attnbench.store.lines import (
    AFTER_EVENT,
    BEFORE_EVENT,
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
    """A plan's jobs in their order, each with its bytes in a record, as far as they are alike in its question's jobs.

    The rest is the round, which is written last, and what follows in a record: `ends`.
    """

    def __init__(self, plan: Plan) -> None:
        alike = [msgspec.json.encode(question)[:-1] for question in plan.questions]  # the first round is not written
        self.alike = [alike[place] for place in plan.places]
        self.ends = [_end(job.round) for job in plan.jobs]
        self.jobs = plan.jobs

    @cached_property
    def _places(self) -> dict[bytes, dict[bytes, int]]:
        places: dict[bytes, dict[bytes, int]] = {}
        for place, (alike, end) in enumerate(zip(self.alike, self.ends, strict=True)):
            places.setdefault(alike, {})[end] = place
        return places

    def stands(self, place: int, line: bytes, start: int) -> bool:
        """Tell whether the bytes of the job in a place start there in a record."""
        alike = self.alike[place]
        return line.startswith(alike, start) and line.startswith(self.ends[place], start + len(alike))

    def find(self, line: bytes, start: int) -> int | None:
        """Find the place of the job whose bytes start there in a record; None where no such job is planned."""
        behind = line.find(_OUTCOME_KEY, start)
        round_at = line.rfind(_ROUND, start, behind)
        end = behind - 1 if round_at < 0 else round_at
        return self._places.get(line[start:end], {}).get(line[end : behind + len(_OUTCOME_KEY)])


@lru_cache(maxsize=1024)
def _end(number: int) -> bytes:
    return (b"}" if number == 1 else b"%b%d}" % (_ROUND, number)) + _OUTCOME_KEY


class _Rest(Struct, gc=False):
    """What a record says behind its job."""

    outcome: Outcome
    environment: str = ""
    started_s: float = 0.0
    seconds: float = 0.0


# How a record and a job begin to say something: the bytes stand in no string, for quotes in a string are escaped.
_HEAD, _JOB_KEY, _OUTCOME_KEY, _ROUND = CURRENT_RECORD + b'"run":', b',"job":', b',"outcome":', b',"round":'
_REST = msgspec.json.Decoder(_Rest)


def read_plan(path: Path) -> Plan:
    """Read the plan of the run in a folder.

    Raises DamagedStore where it is missing or altered, and UsageError where it cannot be read.
    """
    try:
        with collector_paused():
            event = from_line(_read(path / PLAN))
    except FileNotFoundError:
        raise DamagedStore(f"{path} has no {PLAN}: it is no run, or a damaged one") from None
    except ValueError as error:
        raise DamagedStore(f"{path / PLAN} is damaged: {error}") from None
    if not isinstance(event, Plan):
        raise DamagedStore(f"{path / PLAN} is damaged: it holds no plan")
    return event


def read_journal(path: Path, planned: Planned | None = None) -> Journal:
    """Read all that a run's journal holds and that its checksums vouch for; what they do not is in `broken`.

    A record of a planned job that is no further attempt holds that very job, and is left unread: a line under a sound
    checksum that turns out to be none is then passed over, and not among the broken ones.
    """
    try:
        with collector_paused(), (path / EVENTS).open("rb", buffering=_BUFFER_BYTES) as file:
            return _parse(file, planned)
    except (FileNotFoundError, NotADirectoryError):  # killed after the plan was written, or before a measurement
        return Journal()
    except OSError as error:
        raise _unreadable(path / EVENTS, error) from None


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


def _parse(file: Iterable[bytes], planned: Planned | None) -> Journal:
    entries: list[Entry] = []
    environments: dict[str, Environment] = {}
    broken: list[Broken] = []
    last_rates: Rates | None = None
    unknown = offset = 0
    records = _Records(planned) if planned else None
    for number, line in enumerate(file, start=1):
        entry = records.find(line, len(line) - line.endswith(b"\n")) if records else None
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
    """Finds records of planned jobs.

    As a rule all begin alike, up to the job: with their run. And each job is the one planned after the last one's.
    """

    def __init__(self, planned: Planned) -> None:
        self._planned = planned
        self._start, self._run = b"\n", ""  # no line begins so
        self._next = 0

    def find(self, line: bytes, end: int) -> Unread | None:
        """Give a record of this version whose job is planned, as it stands; None for any other line."""
        if not line.startswith(self._start, BEFORE_EVENT) and not self._begins(line):
            return None
        planned, job_at, place = self._planned, BEFORE_EVENT + len(self._start), self._next
        if place == len(planned.jobs) or not planned.stands(place, line, job_at):
            found = planned.find(line, job_at)
            if found is None:
                return None
            place = found
        if not is_as_written(line, end):
            return None
        self._next = place + 1
        behind = job_at + len(planned.alike[place]) + len(planned.ends[place]) - len(_OUTCOME_KEY)
        return _Line(self._run, planned.jobs[place], b"{%b" % line[behind + 1 : end - AFTER_EVENT])

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
