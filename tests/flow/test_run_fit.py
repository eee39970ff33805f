"""`attnbench run --fit` finds the longest context that runs, and says what ended it."""

import json
from pathlib import Path

from helpers.command import SMALL, call

TOO_LONG = Path(__file__).parent.parent / "plugins" / "too_long.py"


def test_the_longest_context_is_found_shown_and_stored(tmp_path: Path) -> None:
    words = ("--variants", f"{TOO_LONG}:TooLong", "--seq", "64,120,128", *SMALL[2:])
    done = call("run", "--fit", *words, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert max(map(len, done.stdout.splitlines())) <= 80
    rows = json.loads(call("show", "latest", "--json", cwd=tmp_path).stdout)
    (found,) = [row for row in rows if row["metric"] == "longest_context"]
    assert (found["facts"]["stopped"], found["value"] < 128, found["high"]) == ("memory", True, 128)
    assert found["high"] <= 1.05 * found["value"] + 1
    assert {row["seq_q"] for row in rows if row["metric"] == "memory"} > {64, 120, 128}
    assert "Longest context that fits, forward (tokens)" in call("show", "latest", cwd=tmp_path).stdout


def test_a_memory_limit_holds_for_every_job_and_wrong_limits_are_refused(tmp_path: Path) -> None:
    words = ("run", "--variants", "vanilla", "--seq", "4096", *SMALL[2:], "--metrics", "memory")
    done = call(*words, "--memory", "100MiB", "--json", cwd=tmp_path)
    (row,) = [row for row in json.loads(done.stdout) if row["metric"] == "memory"]
    assert row["status"] == "oom_host"
    for wrong in (("--memory", "much"), ("--fit", "--memory", "0")):
        refused = call(*words, *wrong, cwd=tmp_path)
        assert (refused.returncode, "--memory: " in refused.stderr) == (2, True)
    refused = call("run", "--fit", "--metrics", "latency", cwd=tmp_path)
    assert (refused.returncode, "--fit: it measures memory alone" in refused.stderr) == (2, True)
