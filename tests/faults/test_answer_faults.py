"""An answer that is no answer is a crash of its job: the next one is measured, and the run can be resumed."""

import json
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from msgspec.structs import replace

from attnbench.contracts.case import Shape
from attnbench.contracts.record import Job, Outcome
from attnbench.execute.executor import Finished
from attnbench.execute.local import LocalExecutor
from helpers.command import SMALL, call
from helpers.planted import job
from helpers.subtests import as_subtests

FAULTY = Path(__file__).parent.parent / "plugins" / "faulty.py"
TINY = Shape(batch=1, heads=1, kv_heads=1, seq_q=16, seq_k=16, head_dim=16)
# Writes to every open descriptor, as a library that was given a wrong number does.
WRITES = """
import os, stat

class Mine:
    def __init__(self, case):
        for number in map(int, os.listdir("/proc/self/fd")):
            try:
                if number > 2 and stat.S_ISFIFO(os.fstat(number).st_mode):
                    for at in range(0, len(DATA), 1 << 16):
                        os.write(number, DATA[at : at + (1 << 16)])
            except OSError:
                pass
        os._exit(0)
"""
OURS = replace(job("Mine"), case=replace(job("Mine").case, shape=TINY))


@pytest.fixture(scope="module")
def executor() -> Iterator[LocalExecutor]:
    with closing(LocalExecutor(memory_bytes=1 << 30)) as one:
        yield one


def outcome_of(executor: LocalExecutor, planned: Job) -> Outcome:
    """Run a job, then a good one on the same server: that one must be measured."""
    good = replace(planned, case=replace(planned.case, variant="Good"), target=f"{FAULTY}:Good")
    good = replace(good, probe=replace(good.probe, kind="memory"))
    bad, other = [event for event in executor.run(iter([planned, good])) if isinstance(event, Finished)]
    assert other.outcome.status == "ok", other.outcome
    return bad.outcome


def answer(value: object, *, key: str = OURS.key) -> bytes:
    return json.dumps({"type": "answer", "value": value, "job": key}).encode() + b"\n"


def timed(*values: object, metric: str = "latency", **fields: object) -> dict[str, object]:
    return {"status": "ok", "measurements": [{"metric": metric, "unit": "ns", "values": values}], **fields}


@as_subtests(
    "data, reason",
    [
        (b"Hello\n", "code 0 without an answer, after something that is none"),
        (b"\xff\xfe\x00\n", "code 0 without an answer, after something that is none"),
        (b'{"type": "answer", "value": ' + b"[" * 9000 + b"]" * 9000 + b"}\n", "without an answer"),
        (b'{"type": "answer", "value": {"status": "\xff"}}\n', "something other than an Outcome"),
        (answer({}), "missing required field `status`"),
        (answer(3), "got `int`"),
        (answer(timed(float("nan"))), "without an answer"),
        (answer(timed(-1)), "latency of -1 ns"),
        (answer(timed(1e23)), "latency of 1e+23 ns"),
        (answer(timed(10**400)), "a number too large"),
        (answer(timed()), "no figure"),
        (answer(timed(1, metric="memory")), "a figure of memory, which this job does not measure"),
        (answer(timed(1), key="0" * 16), "the outcome of another job"),
        (answer({"status": "skipped"}), "the status skipped"),
        (answer(timed(1, facts={"count": -(10**30)})), "a number too large"),
        (answer(timed(1000)) * 2, "more than once"),
        (b"x" * (5 << 20), "more than 4 MiB"),
    ],
)
def test_what_is_no_answer_is_a_crash_with_its_reason(
    executor: LocalExecutor, tmp_path: Path, data: bytes, reason: str
) -> None:
    plugin = tmp_path / "mine.py"
    plugin.write_text(f"DATA = {data!r}\n{WRITES}")
    outcome = outcome_of(executor, replace(OURS, target=f"{plugin}:Mine"))
    assert (outcome.status, reason in outcome.detail) == ("crash", True), outcome


def test_a_stray_line_before_the_answer_does_no_harm(executor: LocalExecutor, tmp_path: Path) -> None:
    plugin = tmp_path / "mine.py"
    plugin.write_text(
        f"DATA = b'Hello\\n'\n{WRITES.replace('os._exit(0)', 'pass')}\n    def __call__(self, q, k, v):\n"
    )
    with plugin.open("a") as file:
        file.write("        return (q @ k.mT / q.shape[-1] ** 0.5).softmax(-1) @ v\n")
    assert outcome_of(executor, replace(OURS, target=f"{plugin}:Mine")).status == "ok"


def test_an_exception_of_many_megabytes_is_recorded_in_a_few_kilobytes(executor: LocalExecutor, tmp_path: Path) -> None:
    plugin = tmp_path / "mine.py"
    plugin.write_text(
        "class Mine:\n    def __init__(self, case):\n        raise ValueError('start ' + 'x' * (40 << 20))\n"
    )
    outcome = outcome_of(executor, replace(OURS, target=f"{plugin}:Mine"))
    assert outcome.status == "error"
    assert outcome.detail.startswith("ValueError: start xxx")
    assert "characters left out" in outcome.log
    assert len(outcome.detail) + len(outcome.log) < 50_000


def test_a_run_with_an_answer_that_is_none_is_finished_and_resumed(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(f"DATA = {answer({'x': 1})!r}\n{WRITES}")
    words = ("run", "--variants", "./mine.py:Mine,vanilla", "--metrics", "memory", *SMALL)
    done = call(*words, cwd=tmp_path)
    assert done.returncode == 0
    assert "Mine seq 64 heads 2: crash: answered with something other than an Outcome" in done.stderr
    assert "vanilla seq 64" in done.stderr
    assert call("run", "--resume", "latest", cwd=tmp_path).returncode == 0
    checked = call("verify", "latest", cwd=tmp_path)
    assert (checked.returncode, "pending: 0" in checked.stdout) == (0, True)
