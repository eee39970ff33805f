"""Agreement from the command line: what is kept of exact attention, and what leaks, in a table."""

import json
from pathlib import Path

from helpers.command import SMALL, call

LEAKING = Path(__file__).parent.parent / "plugins" / "leaking.py"
RUN = ("run", *SMALL, "--inputs", "normal", "--metrics", "agreement", "--causal", "--variants")


def test_kept_mass_is_shown_when_it_is_asked_for_and_a_leak_under_the_errors(tmp_path: Path) -> None:
    done = call(*RUN, f"vanilla,linear,{LEAKING}:ChoosesByLater,{LEAKING}:NotLinear", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    strict = call(*RUN, f"{LEAKING}:ChoosesByLater", "--strict", cwd=tmp_path)
    assert strict.returncode == 1
    text = " ".join(done.stdout.split())
    assert "ChoosesByLater: its output depends on later tokens" in text
    shown = call("show", done.stderr.split("attnbench show ")[1].rstrip(")\n"), "--metric", "kept_mass", cwd=tmp_path)
    assert shown.stdout.startswith("Share of exact attention's 16 heaviest weights that is kept, forward")
    assert "NotLinear: left out: it is not linear in V" in " ".join(shown.stdout.split())
    rows = json.loads(call(*shown.args, "--format", "json", cwd=tmp_path).stdout)
    kept = {row["variant"]: row["value"] for row in rows}
    assert kept["vanilla"] > 0.9999
    assert 0 < kept["linear"] < 0.9
    assert kept["NotLinear"] is None


def test_an_exact_mechanism_that_leaks_is_invalid_output_with_the_reason(tmp_path: Path) -> None:
    done = call(*RUN, f"vanilla,{LEAKING}:LooksAhead", "--json", cwd=tmp_path)
    (row,) = [row for row in json.loads(done.stdout) if row["variant"] == "LooksAhead"]
    assert row["status"] == "invalid_output"
    assert "calls itself exact" in row["detail"]
