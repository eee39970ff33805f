"""`attnbench merge` as a user has it."""

import json
import shutil
from pathlib import Path

from msgspec.structs import replace

from attnbench.contracts.record import Record
from attnbench.store import Store
from helpers.command import attnbench, call
from helpers.planted import ENVIRONMENT, job, ok, plan


def stored(out: Path, day: int, variant: str, *, threads: int = 2) -> str:
    """Store a run of one job."""
    environment = replace(ENVIRONMENT, threads=threads)
    of, run = job(variant), f"2026010{day}-000000-aaaa"
    with Store.create(out, replace(plan([of], run=run), environment=environment)) as store:
        store.append(Record(run=run, job=of, outcome=ok(1000), environment=environment.key, seconds=1.0))
    return run


def test_merged_runs_become_one_run_with_one_table(tmp_path: Path) -> None:
    out = tmp_path / "results"
    sources = [stored(out, 1, "vanilla"), stored(out, 2, "flash")]
    done = attnbench("merge", *sources, "--json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert (told["sources"], told["jobs"], told["done"]) == (sources, 2, 2)
    shown = attnbench("show", told["run"], "--json", cwd=tmp_path)
    assert [row["variant"] for row in json.loads(shown.stdout) if row["metric"] == "latency"] == ["vanilla", "flash"]
    assert attnbench("verify", told["run"], cwd=tmp_path).returncode == 0


def test_runs_that_were_not_measured_alike_are_refused_by_name_unless_forced(tmp_path: Path) -> None:
    out = tmp_path / "results"
    names = [stored(out, 1, "vanilla"), stored(out, 2, "flash", threads=4)]
    refused = call("merge", *names, cwd=tmp_path)
    assert (refused.returncode, "threads (2 and 4)" in refused.stderr) == (2, True)
    assert len(list(out.iterdir())) == 2
    forced = call("merge", *names, "--force", cwd=tmp_path)
    assert (forced.returncode, "2 jobs of 2 runs, 2 done" in forced.stdout) == (0, True)


def test_merging_a_run_with_itself_is_refused(tmp_path: Path) -> None:
    name = stored(tmp_path / "results", 1, "vanilla")
    done = call("merge", name, name, cwd=tmp_path)
    assert (done.returncode, done.stderr) == (2, "attnbench: RUN: this is one run; name at least two\n")


def test_a_run_is_not_counted_twice_by_a_copy_of_it_or_by_a_merged_run_that_holds_it(tmp_path: Path) -> None:
    out = tmp_path / "results"
    first, second = (stored(out, day, variant) for day, variant in ((1, "vanilla"), (2, "flash")))
    shutil.copytree(out / first, out / "copy")
    merged = json.loads(call("merge", first, second, "--json", cwd=tmp_path).stdout)["run"]
    for names in ((first, "copy"), (merged, second)):
        done = call("merge", *names, cwd=tmp_path)
        assert (done.returncode, "both hold the run" in done.stderr) == (2, True), done.stderr


def test_broken_lines_are_told_of_wherever_their_run_is_read(tmp_path: Path) -> None:
    name = stored(tmp_path / "results", 1, "vanilla")
    with (tmp_path / "results" / name / "events.jsonl").open("a") as journal:
        journal.write("broken\n")
    for words in (("show", name), ("report", name), ("compare", name, "--variants", "vanilla,vanilla")):
        assert (
            f"1 line of its journal is broken and left out; attnbench verify {name}"
            in call(*words, cwd=tmp_path).stderr
        )
