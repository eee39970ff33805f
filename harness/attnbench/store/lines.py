"""The format of a stored run: one event a line, each under a checksum over its exact bytes.

`plan.json` is one such line, `events.jsonl` many: {"crc32":"1a2b3c4d","event":{"event":"record","schema":1,...}}.
"""

import zlib
from collections.abc import Callable
from typing import Any, get_args

import msgspec
from msgspec import Struct

from attnbench.case import Option
from attnbench.errors import UsageError
from attnbench.record import SCHEMA, Environment, Job, Rates, Record

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


class _Line(Struct):
    crc32: str
    event: msgspec.Raw


class _Header(Struct):
    event: str
    schema: int


# What `to_line` writes around an event, with its checksum, and at an event's start: read without a parser.
_BEFORE_EVENT, _AFTER_EVENT = b'{"crc32":"%08x","event":', b"}"
BEFORE_EVENT, AFTER_EVENT = len(_BEFORE_EVENT % 0), len(_AFTER_EVENT)
CURRENT_PLAN, CURRENT_RECORD = (b'{"event":"%s","schema":%d,' % (kind, SCHEMA) for kind in (b"plan", b"record"))
_LINE = msgspec.json.Decoder(_Line)
_HEADER = msgspec.json.Decoder(_Header)
_EVENT: msgspec.json.Decoder[Event] = msgspec.json.Decoder(Event)
_KINDS = {kind.__struct_config__.tag for kind in get_args(Event)}


def to_line(event: Event) -> bytes:
    """Write an event as a line, newline included.

    Raises ValueError for one that could not be read back (a time that is NaN): it must not be acknowledged.
    """
    try:
        raw = msgspec.json.encode(event)
    except UnicodeEncodeError:  # half of a surrogate pair, as in a file name that is not UTF-8
        raw = msgspec.json.encode(_escaped(msgspec.to_builtins(event)))
    line = b"%b%b%b\n" % (_BEFORE_EVENT % zlib.crc32(raw), raw, _AFTER_EVENT)
    from_line(line)
    return line


def from_line(line: bytes) -> Event | None:
    """Read a line back: its event, or None for a kind of event that this version does not know.

    Raises ValueError saying what is wrong with the line, and UsageError where a newer version wrote it.
    """
    try:
        line = line.removesuffix(b"\n")
        whole = is_as_written(line, len(line))
        return _event(line[BEFORE_EVENT:-AFTER_EVENT] if whole else _checked(line))
    except (msgspec.MsgspecError, RecursionError) as error:
        raise ValueError(f"it is no event: {error}") from None


def is_as_written(line: bytes, end: int) -> bool:
    """Tell whether a line, which ends at `end`, newline aside, is byte for byte as `to_line` writes it.

    Then its event is `line[BEFORE_EVENT : end - AFTER_EVENT]`, found in half the time that a parser takes.
    """
    found = zlib.crc32(memoryview(line)[BEFORE_EVENT : end - AFTER_EVENT])
    return line.startswith(_BEFORE_EVENT % found) and line.startswith(_AFTER_EVENT, end - AFTER_EVENT)


def _checked(line: bytes) -> msgspec.Raw:
    parts = _LINE.decode(line)
    found = f"{zlib.crc32(parts.event):08x}"
    if found != parts.crc32:
        raise ValueError(f"its checksum is {found}, not {parts.crc32} as written")
    return parts.event


def _event(raw: bytes | msgspec.Raw) -> Event | None:
    if isinstance(raw, bytes) and raw.startswith(CURRENT_RECORD):
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
