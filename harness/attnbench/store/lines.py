"""The format of a stored run: one event a line, each under a checksum over its exact bytes.

`plan.json` is one such line, `events.jsonl` many: {"crc32":"1a2b3c4d","event":{"event":"record","schema":1,...}}.
"""

import zlib
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, get_args

import msgspec
from msgspec import Struct

from attnbench.case import Option
from attnbench.collector import collector_paused
from attnbench.errors import DamagedStore, UsageError
from attnbench.record import SCHEMA, Environment, Job, Outcome, Rates, Record

_BUFFER_BYTES = 2**20
PLAN = "plan.json"
EVENTS = "events.jsonl"

# UPGRADES[n] turns an event of schema n, as plain JSON values, into one of schema n + 1.
UPGRADES: dict[int, Callable[[dict[str, Any]], dict[str, Any]]] = {}


class Fit(Struct, frozen=True, kw_only=True):
    """A search for the longest context that fits: after `lengths`, lengths up to `most` are chosen as records come in.

    `allowed_bytes` is what a prediction goes by; null where nobody knows.
    """

    lengths: tuple[int, ...]
    most: int
    allowed_bytes: int | None = None


class Axis(Struct, frozen=True, kw_only=True):
    """Values of an option, the cheapest first; where `monotone`, quality does not fall along them."""

    option: str
    values: tuple[Option, ...]
    monotone: bool = True


class Searched(Struct, frozen=True, kw_only=True):
    """A variant whose options are searched: all of them as they are to begin with, and the values of some."""

    variant: str
    options: dict[str, Option]
    axes: tuple[Axis, ...]


class Search(Struct, frozen=True, kw_only=True):
    """A search for the cheapest options that reach a quality: trials are chosen as records come in, then timings.

    `metric` must be at most `bound`, or at least with `at_least`. `timed` are the latency jobs of one setting of every
    variant, and of the `reference`, with which their speed is compared.
    """

    metric: str
    bound: float
    at_least: bool = False
    reference: str
    reference_options: dict[str, Option] = {}
    variants: tuple[Searched, ...]
    timed: tuple[Job, ...]


class Plan(Struct, frozen=True, kw_only=True, tag="plan", tag_field="event"):
    """What a run set out to measure: the command as typed, the sweep it stood for, and every job in order.

    `prune` leaves out what is longer than a case that ran out of memory or time; `budget_s` bounds the whole in time.
    `refine` is how many more times lengths are added around crossings, `fit` the search for the longest context,
    `search` that for options. `memory_bytes` bounds what a job may take; null is what the machine has to spare.
    `sources` names the runs that this one was merged from.
    """

    schema: int = SCHEMA
    run: str
    created_s: float
    command: tuple[str, ...]
    sweep: dict[str, Any]
    jobs: tuple[Job, ...]
    environment: Environment
    prune: bool = True
    budget_s: float | None = None
    refine: int = 0
    fit: Fit | None = None
    search: Search | None = None
    memory_bytes: int | None = None
    sources: tuple[str, ...] = ()


class EnvironmentSeen(Struct, frozen=True, kw_only=True, tag="environment", tag_field="event"):
    """An environment under the key by which records name it."""

    schema: int = SCHEMA
    key: str
    environment: Environment


class RatesSeen(Struct, frozen=True, kw_only=True, tag="rates", tag_field="event"):
    """What the device itself was seen to do, before the run's first job."""

    schema: int = SCHEMA
    rates: Rates


Event = Plan | EnvironmentSeen | RatesSeen | Record


class Broken(Struct, frozen=True, kw_only=True):
    """A line that cannot be trusted: where it stands (lines from 1, bytes from 0), why, and its bytes."""

    line: int
    offset: int
    why: str
    raw: bytes


class Journal(Struct, frozen=True, kw_only=True):
    """What a journal holds, in the order written; `unknown` counts sound events of kinds that this version lacks."""

    records: tuple[Record, ...] = ()
    environments: dict[str, Environment] = {}
    rates: Rates | None = None
    unknown: int = 0
    broken: tuple[Broken, ...] = ()


class _Line(Struct):
    crc32: str
    event: msgspec.Raw


class _Header(Struct):
    event: str
    schema: int


class _JobApart(Struct, tag="record", tag_field="event"):
    """A record whose job may be known by its bytes."""

    schema: int
    run: str
    job: msgspec.Raw
    outcome: Outcome
    environment: str = ""
    started_s: float = 0.0
    seconds: float = 0.0


# What `to_line` writes before a checksum, between it and the event, and at an event's start: read without a parser.
_BEFORE, _BETWEEN, _AFTER = b'{"crc32":"', b'","event":', b"}"
_SUM = slice(len(_BEFORE), len(_BEFORE) + 8)
_RAW = slice(_SUM.stop + len(_BETWEEN), -len(_AFTER))
_CURRENT = b'{"event":"record","schema":%d,' % SCHEMA
_LINE = msgspec.json.Decoder(_Line)
_HEADER = msgspec.json.Decoder(_Header)
_EVENT: msgspec.json.Decoder[Event] = msgspec.json.Decoder(Event)
_JOB_APART, _JOB = msgspec.json.Decoder(_JobApart), msgspec.json.Decoder(Job)
_KINDS = {kind.__struct_config__.tag for kind in get_args(Event)}


def to_line(event: Event) -> bytes:
    """Write an event as a line, newline included.

    Raises ValueError for one that could not be read back (a time that is NaN): it must not be acknowledged.
    """
    try:
        raw = msgspec.json.encode(event)
    except UnicodeEncodeError:  # half of a surrogate pair, as in a file name that is not UTF-8
        raw = msgspec.json.encode(_escaped(msgspec.to_builtins(event)))
    line = b'{"crc32":"%08x","event":%s}\n' % (zlib.crc32(raw), raw)
    from_line(line)
    return line


def from_line(line: bytes) -> Event | None:
    """Read a line back: its event, or None for a kind of event that this version does not know.

    Raises ValueError saying what is wrong with the line, and UsageError where a newer version wrote it.
    """
    try:
        return _event(_as_written(line.removesuffix(b"\n")) or _checked(line))
    except (msgspec.MsgspecError, RecursionError) as error:
        raise ValueError(f"it is no event: {error}") from None


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


def read_journal(path: Path, planned: Iterable[Job] = ()) -> Journal:
    """Read all that a run's journal holds and that its checksums vouch for; what they do not is in `broken`.

    A record of a planned job, in its first attempt, holds that very job.
    """
    try:
        with collector_paused(), (path / EVENTS).open("rb", buffering=_BUFFER_BYTES) as file:
            return _parse(file, planned)
    except (FileNotFoundError, NotADirectoryError):  # killed after the plan was written, or before a measurement
        return Journal()
    except OSError as error:
        raise _unread(path / EVENTS, error) from None


def _parse(file: Iterable[bytes], planned: Iterable[Job]) -> Journal:
    records: list[Record] = []
    environments: dict[str, Environment] = {}
    broken: list[Broken] = []
    last_rates: Rates | None = None
    unknown = 0
    jobs = _Jobs({msgspec.json.encode(job): job for job in planned})
    for number, offset, line in _lines(file):
        try:
            match _record(_as_written(line), jobs) or from_line(line):
                case Record() as record:
                    records.append(record)
                case EnvironmentSeen(key=key, environment=environment):
                    environments[key] = environment
                case RatesSeen(rates=rates):
                    last_rates = rates
                case None | Plan():
                    unknown += 1
        except ValueError as error:
            broken.append(Broken(line=number, offset=offset, why=str(error), raw=line))
    return Journal(
        records=tuple(records), environments=environments, rates=last_rates, unknown=unknown, broken=tuple(broken)
    )


class _Jobs(dict[bytes, Job]):
    """Jobs by their bytes; those that are not known yet are read."""

    def __missing__(self, raw: bytes) -> Job:
        job = self[raw] = _JOB.decode(raw)
        return job


def _record(raw: bytes, jobs: _Jobs) -> Record | None:
    """Give a record of this version; None for anything else, and for what is wrong, of which `from_line` says what."""
    if not raw.startswith(_CURRENT):
        return None
    try:
        found = _JOB_APART.decode(raw)
        job = jobs[bytes(found.job)]
    except msgspec.MsgspecError:
        return None
    return Record(
        schema=found.schema,
        run=found.run,
        job=job,
        outcome=found.outcome,
        environment=found.environment,
        started_s=found.started_s,
        seconds=found.seconds,
    )


def _lines(file: Iterable[bytes]) -> Iterator[tuple[int, int, bytes]]:
    """Give each line with its number and offset; an empty one comes of a newline put after a line that was whole."""
    offset = 0
    for number, line in enumerate(file, 1):
        if line != b"\n":
            yield number, offset, line.removesuffix(b"\n")
        offset += len(line)


def _as_written(line: bytes) -> bytes:
    """Give the event of a line that is byte for byte as `to_line` writes it, else nothing; it takes half the time."""
    raw = line[_RAW]
    around = line.startswith(_BEFORE) and line.startswith(_BETWEEN, _SUM.stop) and line.endswith(_AFTER)
    return raw if around and line[_SUM] == b"%08x" % zlib.crc32(raw) else b""


def _checked(line: bytes) -> msgspec.Raw:
    parts = _LINE.decode(line)
    found = f"{zlib.crc32(parts.event):08x}"
    if found != parts.crc32:
        raise ValueError(f"its checksum is {found}, not {parts.crc32} as written")
    return parts.event


def _event(raw: bytes | msgspec.Raw) -> Event | None:
    if isinstance(raw, bytes) and raw.startswith(_CURRENT):
        return _EVENT.decode(raw)
    header = _HEADER.decode(raw)
    if header.schema > SCHEMA:
        raise UsageError(
            f"the run was written by a newer attnbench (schema {header.schema}, here {SCHEMA}): upgrade it"
        )
    if header.event not in _KINDS:
        return None
    if header.schema == SCHEMA:
        return _EVENT.decode(raw)
    event = msgspec.json.decode(raw)
    for version in range(header.schema, SCHEMA):
        if version not in UPGRADES:
            raise ValueError(f"its schema {version} was never published")
        event = UPGRADES[version](event)
    upgraded: Event = msgspec.convert(event, Event)
    return upgraded


def _escaped(value: Any) -> Any:
    """Spell out every lone surrogate in JSON values, a backslash and its number: no JSON reader takes it as it is."""
    match value:
        case str():
            return value.encode("utf-8", "backslashreplace").decode()
        case list() | tuple():
            return [_escaped(each) for each in value]
        case dict():
            return {_escaped(key): _escaped(each) for key, each in value.items()}
        case _:
            return value


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        raise FileNotFoundError(path) from None
    except OSError as error:
        raise _unread(path, error) from None


def _unread(path: Path, error: OSError) -> UsageError:
    return UsageError(f"{path} cannot be read: {error.strerror}")
