"""Whatever bytes a child sends, they are an outcome that the journal can hold, or told as no answer."""

import json
from contextlib import suppress

import msgspec
from hypothesis import given
from hypothesis import strategies as some

from attnbench.contracts.errors import UsageError
from attnbench.contracts.record import Outcome
from attnbench.execute.answers import outcome_of, parse
from attnbench.execute.executor import NoAnswer
from attnbench.execute.messages import Answer
from helpers.planted import job, ok

OURS = job()
RIGHT = json.dumps({"type": "answer", "value": msgspec.to_builtins(ok(1000, 2000)), "job": OURS.key}).encode()
anything = some.recursive(
    some.none() | some.booleans() | some.integers() | some.floats() | some.text(),
    lambda inner: some.lists(inner) | some.dictionaries(some.text(), inner),
    max_leaves=10,
)


def is_handled(line: bytes) -> bool:
    message = parse(line)
    if isinstance(message, Answer):
        with suppress(NoAnswer, UsageError):
            outcome = outcome_of(message, OURS, seconds=1.0)
            return msgspec.json.decode(msgspec.json.encode(outcome), type=Outcome) == outcome
    return True


def test_the_answer_of_a_job_is_its_outcome() -> None:
    message = parse(RIGHT)
    assert isinstance(message, Answer)
    assert outcome_of(message, OURS, seconds=1.0) == ok(1000, 2000)


@given(some.binary())
def test_any_bytes_are_handled(line: bytes) -> None:
    assert is_handled(line)


@given(some.integers(0, len(RIGHT) - 1), some.binary(max_size=4), some.integers(0, 4))
def test_an_answer_with_bytes_replaced_is_handled(at: int, written: bytes, removed: int) -> None:
    assert is_handled(RIGHT[:at] + written + RIGHT[at + removed :])


@given(some.sampled_from(["status", "measurements", "detail", "facts", "log", "backend"]), anything)
def test_an_outcome_with_any_value_in_a_field_is_handled(field: str, value: object) -> None:
    outcome = {**msgspec.to_builtins(ok(1000)), field: value}
    assert is_handled(json.dumps({"type": "answer", "value": outcome, "job": OURS.key}).encode("utf-8", "replace"))
