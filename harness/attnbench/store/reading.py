"""Reading a stored run: its plan, and its journal line by line.

A record of a planned job is left unread until it is asked for: its job is known by its bytes, and most readers take the
records of one question at a time.
"""

from collections.abc import Iterable
from functools import cached_property, lru_cache
from itertools import chain
from pathlib import Path

import msgspec
from msgspec import Struct

from attnbench.contracts.errors import DamagedStore, UsageError
from attnbench.contracts.record import Entry, Environment, Rates, Record, Told, Unread, read
from attnbench.store.collector import collector_paused
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
    sealed,
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
        self._alike = [msgspec.json.encode(question)[:-1] for question in plan.questions]  # round 1 is not written
        self._asked = plan.places
        self._ends = list(chain.from_iterable([_end(turn.round)] * len(turn.places) for turn in plan.order))
        self.jobs = plan.jobs

    @cached_property
    def _places(self) -> dict[bytes, dict[bytes, int]]:
        places: dict[bytes, dict[bytes, int]] = {}
        for place, (question, end) in enumerate(zip(self._asked, self._ends, strict=True)):
            places.setdefault(self._alike[question], {})[end] = place
        return places

    def written(self, place: int) -> bytes:
        """Give the bytes of the job in a place, up to the outcome."""
        return self._alike[self._asked[place]] + self._ends[place]

    def find(self, event: bytes, start: int) -> int | None:
        """Find the place of the job whose bytes start there in a record; None where no such job is planned."""
        behind = event.find(_OUTCOME_KEY, start)
        round_at = event.rfind(_ROUND, start, behind)
        end = behind - 1 if round_at < 0 else round_at
        return self._places.get(event[start:end], {}).get(event[end : behind + len(_OUTCOME_KEY)])


@lru_cache(maxsize=1024)
def _end(number: int) -> bytes:
    return (b"}" if number == 1 else b"%b%d}" % (_ROUND, number)) + _OUTCOME_KEY


# How a record and a job begin to say something: the bytes stand in no string, for quotes in a string are escaped.
_HEAD, _JOB_KEY, _OUTCOME_KEY, _ROUND = CURRENT_RECORD + b'"run":', b',"job":', b',"outcome":', b',"round":'
_NONE = b"\n"  # no event begins so
_TOLD = msgspec.json.Decoder(Told)


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

    def told(self) -> Told | None:
        try:
            return _TOLD.decode(self.rest)
        except (msgspec.MsgspecError, UnicodeDecodeError):
            return None


def _parse(file: Iterable[bytes], planned: Planned | None) -> Journal:
    entries: list[Entry] = []
    environments: dict[str, Environment] = {}
    broken: list[Broken] = []
    last_rates: Rates | None = None
    unknown = offset = 0
    records = _Records(planned) if planned else None
    for number, line in enumerate(file, start=1):
        entry = records.find(line) if records else None
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
        self._start, self._run = _NONE, ""
        self._next = 0

    def find(self, line: bytes) -> Unread | None:
        """Give a record of this version whose job is planned, as it stands; None for any other line."""
        event, planned, place = line[BEFORE_EVENT:-AFTER_EVENT], self._planned, self._next
        begin = self._start + planned.written(place) if place < len(planned.jobs) else _NONE
        if not event.startswith(begin):
            if not event.startswith(self._start):
                return self.find(line) if self._begins(event) else None
            found = planned.find(event, len(self._start))
            if found is None:
                return None
            place, begin = found, self._start + planned.written(found)
        if sealed(event) != line:
            return None
        self._next = place + 1
        return _Line(self._run, planned.jobs[place], b"{" + event[len(begin) - len(_OUTCOME_KEY) + 1 :])

    def _begins(self, event: bytes) -> bool:
        """Look at how an event begins: if as a record, those after it are held against it."""
        before = event.find(_JOB_KEY)
        run = _text(event[len(_HEAD) : before]) if event.startswith(_HEAD) else None
        if run is None:
            return False
        self._start, self._run = event[: before + len(_JOB_KEY)], run
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
