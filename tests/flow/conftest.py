"""What the flow tests share: servers that are kept, and one stored sweep that is measured once a session."""

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from filelock import FileLock
from msgspec import Struct

from helpers.command import SMALL, attnbench
from helpers.servers import KeptServer


@pytest.fixture(scope="session", autouse=True)
def _servers_end_with_the_tests() -> Iterator[None]:
    yield
    KeptServer.end_all()


class Sweep(Struct, frozen=True, kw_only=True):
    """A folder with the results of one run, as its command left it, and what the command printed."""

    folder: Path
    stdout: str
    stderr: str


@pytest.fixture(scope="session")
def sweep(tmp_path_factory: pytest.TempPathFactory) -> Sweep:
    """Measure three variants at three lengths in a process; tests on other cores read the same. Nobody writes there."""
    root = tmp_path_factory.getbasetemp()
    folder = (root.parent if "PYTEST_XDIST_WORKER" in os.environ else root) / "sweep"
    printed = folder / "printed.json"
    with FileLock(f"{folder}.lock"):
        if not printed.exists():
            folder.mkdir(exist_ok=True)
            words = ("run", "--variants", "vanilla,flash,linear:features=relu", "--seq", "64..256", *SMALL[2:])
            done = attnbench(*words, "--metrics", "latency,memory", cwd=folder, OMP_WAIT_POLICY="x")
            assert done.returncode == 0, done.stderr
            printed.write_text(json.dumps([done.stdout, done.stderr]))
    stdout, stderr = json.loads(printed.read_text())
    return Sweep(folder=folder, stdout=stdout, stderr=stderr)
