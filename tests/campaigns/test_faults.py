"""Random faults in real runs: processes killed, journals damaged, commands at once. `make faults` runs the long form.

A failure prints the seed; ATTNBENCH_FAULT_SEED repeats it. ATTNBENCH_FAULTS is the number of each, in percent of the
long form: 200 kills of the command, 100 of its children, 500 damaged journals, 50 pairs of commands.
"""

import json
import os
import random
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from helpers.command import SMALL, call, command, environment, started
from helpers.processes import running

pytestmark = [pytest.mark.exhaustive, pytest.mark.timeout(7200)]

SEED = int(os.environ.get("ATTNBENCH_FAULT_SEED", time.time_ns() % 2**32))
SHARE = float(os.environ.get("ATTNBENCH_FAULTS", "2")) / 100
SWEEP = ("run", "--variants", "vanilla,flash,linear", *SMALL, "--seq", "64,128", "--metrics", "memory")
JOBS = 6
LONGEST_S = 4.0  # of a sweep on a machine that does nothing else; later kills find nothing to kill
ENDED_S = 5.0
STORED = Path(__file__).parents[1] / "golden" / "reference" / "20261127-024030-9rg2"


def times(of_the_long_form: int) -> int:
    return max(1, round(of_the_long_form * SHARE))


@pytest.fixture
def rng(request: pytest.FixtureRequest) -> random.Random:
    print(f"ATTNBENCH_FAULT_SEED={SEED}")
    return random.Random(f"{SEED}/{request.node.name}")


def folders(parent: Path, count: int) -> Iterator[Path]:
    """Make folders for as many runs."""
    for number in range(count):
        folder = parent / str(number)
        folder.mkdir()
        yield folder


def the_run(folder: Path) -> Path | None:
    return next((path for path in folder.glob("results/*") if (path / "plan.json").exists()), None)


def nothing_runs_in(folder: Path) -> bool:
    deadline = time.monotonic() + ENDED_S
    while time.monotonic() < deadline:
        if not running("", folder=folder):
            return True
        time.sleep(0.05)
    return False


def resumed_to_the_end(folder: Path, run: Path) -> None:
    """Resume a run, and hold it to its plan: every job has its record, and every line is sound."""
    done = subprocess.run(
        command("run", "--resume", run.name, "--retry-failed", "--json"),
        cwd=folder,
        capture_output=True,
        text=True,
        env=environment(),
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    checked = json.loads(call("verify", run.name, "--json", cwd=folder).stdout)
    assert (checked["pending"], checked["statuses"]) == (0, {"ok": JOBS}), checked
    assert not list(folder.rglob("*.tmp")), "a temporary file is left"


def acknowledged(said: str) -> int:
    """Return how many records a command said to have stored."""
    return sum(line.startswith("[") and "interrupted" not in line for line in said.splitlines())


def stored(run: Path) -> list[bytes]:
    return (run / "events.jsonl").read_bytes().splitlines(keepends=True)


def test_a_command_killed_at_any_moment_loses_no_record_leaves_no_process_and_can_be_resumed(
    tmp_path: Path, rng: random.Random
) -> None:
    for folder in folders(tmp_path, times(200)):
        process = started(*SWEEP, cwd=folder)
        time.sleep(rng.uniform(0, LONGEST_S))
        process.kill()
        said = process.communicate()[1]
        assert nothing_runs_in(folder), f"kill {folder.name}: processes outlive the command"
        run = the_run(folder)
        if run is None:
            assert not acknowledged(said)
            continue
        before = [line for line in stored(run) if line.endswith(b"\n")]
        assert sum(b'"event":"record"' in line.replace(b" ", b"") for line in before) >= acknowledged(said)
        resumed_to_the_end(folder, run)
        assert stored(run)[: len(before)] == before, f"kill {folder.name}: acknowledged records have changed"


def test_a_child_killed_at_any_moment_costs_its_job_alone(tmp_path: Path, rng: random.Random) -> None:
    for folder in folders(tmp_path, times(100)):
        process = started(*SWEEP, cwd=folder)
        time.sleep(rng.uniform(0.5, LONGEST_S))
        if children := sorted(running("", folder=folder) - {process.pid}):
            os.kill(rng.choice(children), signal.SIGKILL)
        said = process.communicate(timeout=120)[1]
        assert process.returncode == 0, said
        assert "Traceback" not in said
        assert nothing_runs_in(folder)
        run = the_run(folder)
        assert run is not None
        checked = json.loads(call("verify", run.name, "--json", cwd=folder).stdout)
        assert sum(checked["statuses"].values()) + checked["pending"] == JOBS
        resumed_to_the_end(folder, run)


def damaged(whole: bytes, rng: random.Random) -> bytes:
    """Cut a file, flip some of its bits, or repeat, drop or swap some of its lines."""
    data = bytearray(whole)
    match rng.randrange(4):
        case 0:
            return bytes(data[: rng.randrange(len(data))])
        case 1:
            for _ in range(rng.randint(1, 20)):
                data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
            return bytes(data)
        case 2:
            lines = whole.splitlines(keepends=True)
            rng.shuffle(lines)
            return b"".join(lines)
        case _:
            at, junk = rng.randrange(len(data)), rng.randbytes(rng.randint(1, 200))
            return bytes(data[:at]) + junk + bytes(data[at:])


def read_by(run: Path) -> Iterator[tuple[str, ...]]:
    yield from (("show", run.name), ("show", run.name, "--scaling"), ("verify", run.name), ("list", "runs"))
    yield ("recommend", "--seq", "1024", "--anywhere")
    yield ("compare", run.name, "--variants", "vanilla,flash")


def test_a_damaged_journal_or_plan_is_told_of_and_never_ends_a_command_in_a_traceback(
    tmp_path: Path, rng: random.Random
) -> None:
    run = tmp_path / "results" / STORED.name
    shutil.copytree(STORED, run)
    for number in range(times(500)):
        name = "events.jsonl" if number % 5 else "plan.json"
        whole = (STORED / name).read_bytes()
        (run / name).write_bytes(damaged(whole, rng))
        for words in read_by(run):
            done = call(*words, cwd=tmp_path)
            assert done.returncode in (0, 1, 2), (number, words, done.stderr)
            assert "Traceback" not in done.stderr, (number, words, done.stderr)
        (run / name).write_bytes(whole)


def test_of_two_commands_that_resume_one_run_at_once_one_measures_and_the_other_is_told(
    tmp_path: Path, rng: random.Random
) -> None:
    for folder in folders(tmp_path, times(50)):
        process = started(*SWEEP, cwd=folder)
        time.sleep(LONGEST_S * 0.7)
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=30)
        run = the_run(folder)
        if run is None:
            continue
        several = [started("run", "--resume", run.name, cwd=folder) for _ in range(2)]
        time.sleep(rng.uniform(0, 1))
        said = [each.communicate(timeout=120)[1] for each in several]
        codes = sorted(each.returncode for each in several)
        assert codes in ([0, 0], [0, 2]), said  # both, where the first has ended before the second begins
        assert "Traceback" not in "".join(said)
        resumed_to_the_end(folder, run)
