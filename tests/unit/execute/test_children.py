"""How long a child may be silent, by a clock that stands still while the parent is stopped."""

import time

import pytest

from attnbench.execute.children import TICK_S, AwakeClock, Child, to_kill


def test_a_parent_that_was_stopped_for_an_hour_blames_no_child(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    clock = AwakeClock()
    child = Child(1, timeout_s=10, clock=clock)
    now += 3600  # stopped, and continued
    assert to_kill([child], clock.now()) == []
    for _ in range(10):
        now += TICK_S
        to_kill([child], clock.now())
    assert child.silent
