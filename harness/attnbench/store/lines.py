"""The format of a stored run: one event a line, each under a checksum over its exact bytes.

`plan.json` is one such line, `events.jsonl` many: {"crc32":"1a2b3c4d","event":{"event":"record","schema":1,...}}.
"""

import zlib
from collections.abc import Callable, Iterable
from functools import cached_property
from itertools import chain
from typing import Any, NamedTuple, Self, get_args

import msgspec
from msgspec import Struct
from msgspec.structs import fields, replace

from attnbench.contracts.case import Option
from attnbench.contracts.errors import UsageError
from attnbench.contracts.record import SCHEMA, Environment, Job, Rates, Record

PLAN = "plan.json"
EVENTS = "events.jsonl"


class Fit(Struct, frozen=True, kw_only=True):
    """A search for the longest context that fits: it starts from `lengths` and tries lengths up to `most`.

    Predictions are held against `allowed_bytes`, null where the limit is unknown.
    """

    lengths: tuple[int, ...]
    most: int
    allowed_bytes: int | None = None


class Axis(Struct, frozen=True, kw_only=True):
    """Values of an option, cheapest first; if `monotone`, quality does not fall along them."""

    option: str
    values: tuple[Option, ...]
    monotone: bool = True


class Searched(Struct, frozen=True, kw_only=True):
    """A variant whose options are searched: its complete options at the start, and the values to try of some."""

    variant: str
    options: dict[str, Option]
    axes: tuple[Axis, ...]


class Search(Struct, frozen=True, kw_only=True):
    """A search for the cheapest options that reach a quality: trials of quality first, then timings.

    `metric` must be at most `bound` (with `at_least`, at least). `timed` are the latency jobs of one setting of every
    variant and of the `reference`, the baseline of the comparison.
    """

    metric: str
    bound: float
    at_least: bool = False
    reference: str
    reference_options: dict[str, Option] = {}
    variants: tuple[Searched, ...]
    timed: tuple[Job, ...]


class Turn(NamedTuple):
    """Consecutive jobs of one round, as indices into a plan's `questions`."""

    round: int
    places: tuple[int, ...]


class Plan(Struct, frozen=True, kw_only=True, tag="plan", tag_field="event", dict=True):
    """What a run measures: the command as typed, the sweep behind it, and every job in order.

    Jobs that differ only in their round are stored once, in `questions`, as of round 1; `order` lists the rounds. With
    `prune`, lengths beyond one that ran out of memory or time are skipped. `budget_s` limits the total time,
    `memory_bytes` the memory of a job (null: all free memory). `refine` counts the remaining passes that add lengths
    around crossings; `fit` and `search` hold a search for the longest context and for options. `sources` names the runs
    that were merged into this one.
    """

    schema: int = 2
    run: str
    created_s: float
    command: tuple[str, ...]
    sweep: dict[str, Any]
    questions: tuple[Job, ...]
    order: tuple[Turn, ...]
    environment: Environment
    prune: bool = True
    budget_s: float | None = None
    refine: int = 0
    fit: Fit | None = None
    search: Search | None = None
    memory_bytes: int | None = None
    sources: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.places and not 0 <= min(self.places) <= max(self.places) < len(self.questions):
            raise ValueError("its order refers to questions that it does not hold")
        if not all(1 <= turn.round < 2**31 for turn in self.order):
            raise ValueError("its order names rounds that cannot exist")
        if any(question.round != 1 for question in self.questions):
            raise ValueError("its questions are not in their first round")

    @classmethod
    def of(cls, jobs: Iterable[Job], **others: Any) -> Self:
        """Return a plan of jobs in their order; `others` are the other fields."""
        questions, order = _in_turns(jobs)
        return cls(questions=questions, order=order, **others)

    def with_jobs(self, jobs: Iterable[Job], **others: Any) -> Self:
        """Return this plan with other jobs and fields."""
        questions, order = _in_turns(jobs)
        return replace(self, questions=questions, order=order, **others)

    @cached_property
    def places(self) -> tuple[int, ...]:
        """The index into `questions` of each job."""
        return tuple(chain.from_iterable(turn.places for turn in self.order))

    @cached_property
    def jobs(self) -> tuple[Job, ...]:
        """Every job in order."""
        rounds = chain.from_iterable([turn.round] * len(turn.places) for turn in self.order)
        asked = zip(map(self.questions.__getitem__, self.places), rounds, strict=True)
        return tuple(job if number == 1 else replace(job, round=number) for job, number in asked)


def _in_turns(jobs: Iterable[Job]) -> tuple[tuple[Job, ...], tuple[Turn, ...]]:
    known: dict[bytes, int] = {}
    questions: list[Job] = []
    turns: list[tuple[int, list[int]]] = []
    for job in jobs:
        question = replace(job, round=1)
        place = known.setdefault(msgspec.json.encode(question), len(questions))
        if place == len(questions):
            questions.append(question)
        if not turns or turns[-1][0] != job.round:
            turns.append((job.round, []))
        turns[-1][1].append(place)
    return tuple(questions), tuple(Turn(number, tuple(places)) for number, places in turns)


class EnvironmentSeen(Struct, frozen=True, kw_only=True, tag="environment", tag_field="event"):
    """An environment under the key that records refer to."""

    schema: int = SCHEMA
    key: str
    environment: Environment


class RatesSeen(Struct, frozen=True, kw_only=True, tag="rates", tag_field="event"):
    """The device's own peak rates, measured before the run's first job."""

    schema: int = SCHEMA
    rates: Rates


class TornSeen(Struct, frozen=True, kw_only=True, tag="torn", tag_field="event"):
    """A line that was never acknowledged: a full disk or a kill left its beginning at an offset of the journal."""

    schema: int = SCHEMA
    offset: int


def _asked_once(event: dict[str, Any]) -> dict[str, Any]:
    """Upgrade a plan that stored every job of every round."""
    questions, order = _in_turns(msgspec.convert(event.pop("jobs", None), tuple[Job, ...]))
    return {**event, "schema": 2, "questions": msgspec.to_builtins(questions), "order": order}


# UPGRADES[kind, n] turns an event of schema n, as plain JSON values, into one of schema n + 1.
UPGRADES: dict[tuple[str, int], Callable[[dict[str, Any]], dict[str, Any]]] = {("plan", 1): _asked_once}

Event = Plan | EnvironmentSeen | RatesSeen | TornSeen | Record


class _Line(Struct):
    crc32: str
    event: msgspec.Raw


class _Header(Struct):
    event: str
    schema: int


_AS_WRITTEN = b'{"crc32":"%08x","event":%b}\n'
_LINE = msgspec.json.Decoder(_Line)
_HEADER = msgspec.json.Decoder(_Header)
_EVENT: msgspec.json.Decoder[Event] = msgspec.json.Decoder(Event)
# The schema of each kind of event, which its struct has as a default.
SCHEMAS: dict[str, int] = {
    str(kind.__struct_config__.tag): next(each.default for each in fields(kind) if each.name == "schema")
    for kind in get_args(Event)
}


def to_line(event: Event) -> bytes:
    """Return an event as a line of the journal, newline included.

    Raises ValueError for an event that could not be read back (a time that is NaN): it must not be acknowledged.
    """
    try:
        raw = msgspec.json.encode(event)
    except UnicodeEncodeError:  # half of a surrogate pair, as in a file name that is not UTF-8
        raw = msgspec.json.encode(_escaped(msgspec.to_builtins(event)))
    line = _AS_WRITTEN % (zlib.crc32(raw), raw)
    from_line(line)
    return line


def from_line(line: bytes) -> Event | None:
    """Return the event of a line, or None for a kind of event that this version does not know.

    Raises ValueError with what is wrong with the line, and UsageError if a newer version wrote it.
    """
    try:
        return _event(_checked(line))
    except (msgspec.MsgspecError, RecursionError) as error:
        raise ValueError(f"it is no event: {error}") from None


def _checked(line: bytes) -> msgspec.Raw:
    parts = _LINE.decode(line)
    found = f"{zlib.crc32(parts.event):08x}"
    if found != parts.crc32:
        raise ValueError(f"its checksum is {found}, not {parts.crc32} as written")
    return parts.event


def _event(raw: msgspec.Raw) -> Event | None:
    header = _HEADER.decode(raw)
    current = SCHEMAS.get(header.event, SCHEMA)
    if header.schema > current:
        raise UsageError(
            f"the run was written by a newer attnbench (schema {header.schema}, here {current}): upgrade it"
        )
    if header.event not in SCHEMAS:
        return None
    if header.schema == current:
        return _EVENT.decode(raw)
    event = msgspec.json.decode(raw)
    for version in range(header.schema, current):
        if (header.event, version) not in UPGRADES:
            raise ValueError(f"its schema {version} was never published")
        event = UPGRADES[header.event, version](event)
    upgraded: Event = msgspec.convert(event, Event)
    return upgraded


def _escaped(value: Any) -> Any:
    """Return JSON values with lone surrogates as backslash escapes, since JSON readers reject them."""
    match value:
        case str():
            return value.encode("utf-8", "backslashreplace").decode()
        case list() | tuple():
            return [_escaped(each) for each in value]
        case dict():
            return {_escaped(key): _escaped(each) for key, each in value.items()}
        case _:
            return value
