"""What a run stores of the code that measured it."""

import subprocess
from pathlib import Path

import pytest

from attnbench.measure.environment import describe_machine

ROOT = Path(__file__).parents[3]


@pytest.mark.skipif(not (ROOT / ".git").exists(), reason="not a git checkout")
def test_a_run_from_a_checkout_names_its_commit() -> None:
    head = subprocess.run(
        ["git", "-C", str(ROOT), "rev-parse", "HEAD"], capture_output=True, text=True, check=True
    ).stdout.strip()
    environment = describe_machine("cpu", threads=1, allocator="default")
    assert environment.commit == head
    assert environment.dirty is not None
