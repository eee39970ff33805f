"""`attnbench run` spends no time on what is known, keeps to its budget, and tells where the time went."""

import json
from pathlib import Path

import pytest

from helpers.command import SMALL, attnbench

TOO_LONG = Path(__file__).parent.parent / "plugins" / "too_long.py"
SWEEP = ("--seq", "64..512", *SMALL[2:])


@pytest.mark.parametrize(("flags", "reached"), [((), "skipped"), (("--no-prune",), "oom_host")])
def test_what_is_longer_than_a_case_that_ran_out_of_memory_is_skipped_unless_told(
    tmp_path: Path, flags: tuple[str, ...], reached: str
) -> None:
    words = ("--variants", f"{TOO_LONG}:TooLong", *SWEEP, "--metrics", "memory", "--json", *flags)
    rows = json.loads(attnbench("run", *words, cwd=tmp_path).stdout)
    found = {row["seq_q"]: (row["status"], row["detail"]) for row in rows if row["metric"] == "memory"}
    assert [status for status, _ in found.values()] == ["ok", "oom_host", reached, reached]
    if reached == "skipped":
        assert all("longer than 128" in detail and "oom_host" in detail for _, detail in list(found.values())[2:])
    else:
        assert not any("longer" in detail for _, detail in found.values())


def test_a_run_resumed_prunes_as_it_was_told_at_its_start(tmp_path: Path) -> None:
    words = ("--variants", f"{TOO_LONG}:TooLong", *SWEEP, "--metrics", "memory", "--no-prune")
    assert attnbench("run", *words, cwd=tmp_path).returncode == 0
    done = attnbench("run", "--resume", "latest", "--retry-failed", "--json", cwd=tmp_path)
    statuses = [row["status"] for row in json.loads(done.stdout) if row["metric"] == "memory"]
    assert statuses == ["ok", "oom_host", "oom_host", "oom_host"]


def test_a_time_budget_is_kept_and_what_was_cut_is_told(tmp_path: Path) -> None:
    words = ("--variants", "vanilla,linear,linformer", "--seq", "64..512", *SMALL[2:], "--metrics", "latency")
    done = attnbench("run", *words, "--profile", "default", "--time-budget", "6s", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "cut by --time-budget 6 s" in " ".join(done.stdout.split())
    rows = json.loads(attnbench("show", "latest", "--json", cwd=tmp_path).stdout)
    assert {row["status"] for row in rows} <= {"ok", "skipped"}
    assert max(row["rounds"] for row in rows) < 10


def test_every_run_tells_where_its_time_went(tmp_path: Path) -> None:
    done = attnbench("run", "--variants", "vanilla", *SMALL, "--metrics", "latency,memory", cwd=tmp_path)
    told = " ".join(done.stderr.split())
    for word in ("Time: latency", "around those of a job", "memory", "in all"):
        assert word in told


def test_how_to_measure_a_run_again_is_shown(tmp_path: Path) -> None:
    attnbench(
        "run", "--variants", "reformer:rounds=2", *SMALL, "--metrics", "latency", cwd=tmp_path, OMP_WAIT_POLICY="x"
    )
    shown = attnbench("show", "latest", "--environment", cwd=tmp_path).stdout
    for word in ("attnbench run --variants reformer:rounds=2", "torch", "OMP_WAIT_POLICY=x", "cap s", "source"):
        assert word in shown
    assert max(len(line) for line in shown.splitlines()) <= 80
    whole = json.loads(attnbench("show", "latest", "--environment", "--json", cwd=tmp_path).stdout)
    assert whole["protocols"][0]["min_samples"] == 20
    assert {one["name"] for one in whole["variants"]} == {"empty", "reformer:rounds=2,bucket=64"}
    assert whole["environments"][0]["variables"]["OMP_WAIT_POLICY"] == "x"
