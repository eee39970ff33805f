"""What a fresh process for each case costs, and how fast the command line answers."""

import statistics
import subprocess
import time
from contextlib import closing
from pathlib import Path

import pytest
from msgspec.structs import replace

import attnbench
from attnbench.contracts.record import Job, Outcome
from attnbench.execute.executor import Finished
from attnbench.execute.local import LocalExecutor
from attnbench.plugins.registry import find
from helpers.command import command, environment
from helpers.planted import job

REPEATS = 15


def planned(variant: str) -> Job:
    base = job(variant)
    return replace(base, target=find(variant, "variants", flag="").target, protocol=replace(base.protocol, threads=1))


def calls_s(outcome: Outcome) -> float:
    """Give what the calls of a latency job took: its first, warm-up and timed calls."""
    assert outcome.status == "ok", outcome
    return float(outcome.facts["calls_ns"]) * 1e-9  # type: ignore[arg-type]


@pytest.mark.parametrize("variant", ["vanilla", "linear", "flash", "reformer", "sparse", "linformer"])
def test_a_case_in_a_fresh_process_costs_less_than_100_ms_more_than_in_a_warm_one(variant: str) -> None:
    """All that is not a call: fork, import, inputs, checks, answer; a warm process would need some of it too."""
    with closing(LocalExecutor()) as executor:
        jobs = [replace(planned(variant), round=1, attempt=number + 1) for number in range(REPEATS)]
        done = [event for event in executor.run(iter(jobs)) if isinstance(event, Finished)]
    outside = [event.seconds - calls_s(event.outcome) for event in done]
    print(f"{variant}: {statistics.median(outside) * 1e3:.0f} ms outside the calls (median of {REPEATS})")
    assert statistics.median(outside) < 0.100


def test_over_a_sweep_of_200_cells_a_latency_job_takes_under_150_ms_beside_its_calls(tmp_path: Path) -> None:
    run = attnbench.run(
        variants="vanilla,linear,flash,linformer",
        seq="128..2048",
        heads="2,4,8,16",
        dtype="float32,bfloat16",
        causal=False,
        metrics="latency",
        profile="quick",
        out=tmp_path,
    )
    cells = sum(row.status == "ok" and row.metric == "latency" for row in run.rows())
    spent = run.spent()
    print(f"{cells} cells: {spent.sentence()}")
    assert cells >= 200
    assert spent.around_s is not None
    assert spent.around_s < 0.150


def test_help_answers_in_under_300_ms() -> None:
    times = []
    for _ in range(REPEATS):
        started = time.perf_counter()
        subprocess.run(command("--help"), capture_output=True, check=True, env=environment())
        times.append(time.perf_counter() - started)
    print(f"--help: {statistics.median(times) * 1e3:.0f} ms (median of {REPEATS})")
    assert statistics.median(times) < 0.3
