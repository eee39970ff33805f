"""`attnbench run` spends no time on what is known, keeps to its budget, and tells where the time went."""

import json
from pathlib import Path

from flow.conftest import Sweep
from helpers.command import SMALL, call

TOO_LONG = Path(__file__).parent.parent / "plugins" / "too_long.py"
SWEEP = ("--seq", "64..512", *SMALL[2:])


def measured(text: str) -> dict[int, tuple[str, str]]:
    """Return the status and the reason of each length."""
    rows = [row for row in json.loads(text) if row["metric"] == "memory"]
    return {row["seq_q"]: (row["status"], row["detail"]) for row in rows}


def test_lengths_beyond_one_that_ran_out_of_memory_are_skipped(tmp_path: Path) -> None:
    words = ("--variants", f"{TOO_LONG}:TooLong", *SWEEP, "--metrics", "memory", "--json")
    found = measured(call("run", *words, cwd=tmp_path).stdout)
    assert [status for status, _ in found.values()] == ["ok", "oom_host", "skipped", "skipped"]
    assert all("longer than 128" in detail and "oom_host" in detail for _, detail in list(found.values())[2:])


def test_no_length_is_skipped_under_no_prune_even_after_resuming(tmp_path: Path) -> None:
    words = ("--variants", f"{TOO_LONG}:TooLong", *SWEEP, "--metrics", "memory", "--no-prune")
    for begun in (words, ("--resume", "latest", "--retry-failed")):
        found = measured(call("run", *begun, "--json", cwd=tmp_path).stdout)
        assert [status for status, _ in found.values()] == ["ok", "oom_host", "oom_host", "oom_host"]
        assert not any("longer" in detail for _, detail in found.values())


def test_a_time_budget_is_kept_and_the_cut_is_reported(tmp_path: Path) -> None:
    words = ("--variants", "vanilla,linear,linformer", "--seq", "64..512", *SMALL[2:], "--metrics", "latency")
    done = call("run", *words, "--profile", "default", "--time-budget", "2s", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "cut by --time-budget 2 s" in " ".join(done.stdout.split())
    rows = json.loads(call("show", "latest", "--json", cwd=tmp_path).stdout)
    assert {row["status"] for row in rows} <= {"ok", "skipped"}
    assert max(row["rounds"] for row in rows) < 10


def test_every_run_reports_where_its_time_went(sweep: Sweep) -> None:
    told = " ".join(sweep.stderr.split())
    for word in ("Time: latency", "around those of a job", "memory", "in all"):
        assert word in told


def test_how_to_measure_a_run_again_is_shown(sweep: Sweep) -> None:
    shown = call("show", "latest", "--environment", cwd=sweep.folder).stdout
    for word in ("attnbench run --variants vanilla,flash,linear:features=relu", "torch", "cap s", "source"):
        assert word in " ".join(shown.split())
    assert "OMP_WAIT_POLICY=x" in shown
    assert max(len(line) for line in shown.splitlines()) <= 80
    whole = json.loads(call("show", "latest", "--environment", "--json", cwd=sweep.folder).stdout)
    assert whole["protocols"][0]["min_samples"] == 20
    assert {one["name"] for one in whole["variants"]} == {"empty", "flash", "linear:features=relu", "vanilla"}
    assert whole["environments"][0]["variables"]["OMP_WAIT_POLICY"] == "x"
