"""`attnbench run`, end to end, in processes as a user starts them."""

import csv
import io
import json
import re
import signal
import subprocess
import time
from importlib.metadata import entry_points
from pathlib import Path

import pytest

from attnbench.runs import Run
from flow.conftest import Sweep
from helpers.command import SMALL, attnbench, call, started
from helpers.processes import running
from helpers.subtests import as_subtests

SERVER = "attnbench.execute.server"
PLUGINS = Path(__file__).parent.parent / "plugins"
COLUMNS = (
    *("run", "variant", "options", "origin", "metric", "passes", "level", "task", "seq_q", "seq_k", "heads"),
    *("kv_heads", "head_dim", "batch", "dtype", "device", "causal", "window", "status", "value", "low", "high"),
    *("unit", "samples", "rounds", "noise", "backend", "detail"),
)


def the_run(folder: Path) -> Path:
    (run,) = (path for path in (folder / "results").iterdir() if path.is_dir())
    return run


def test_a_sweep_ends_with_the_table_and_the_path_of_its_results(sweep: Sweep) -> None:
    for word in ("Latency", "vanilla", "flash", "linear", "memory", "harness floor"):
        assert word in sweep.stdout
    assert str(the_run(sweep.folder).relative_to(sweep.folder)) in sweep.stderr
    assert max(len(line) for line in sweep.stdout.splitlines()) <= 80


def test_json_is_one_array_of_tidy_rows_and_nothing_else_on_standard_output(tmp_path: Path) -> None:
    done = attnbench("run", "--variants", "vanilla", *SMALL, "--metrics", "latency,agreement", "--json", cwd=tmp_path)
    rows = json.loads(done.stdout)
    assert {row["variant"] for row in rows} == {"vanilla", "empty", "uniform"}
    for row in rows:
        assert tuple(row)[: len(COLUMNS)] == COLUMNS
        assert row["status"] == "ok"
        assert row["value"] is not None
    shown = call("show", "latest", "--format", "csv", cwd=tmp_path)
    table = list(csv.DictReader(io.StringIO(shown.stdout)))
    assert [row["variant"] for row in table] == [row["variant"] for row in rows]


@pytest.mark.exhaustive
def test_every_installed_variant_gives_a_number_or_a_reason(tmp_path: Path) -> None:
    done = attnbench(
        "run", "--variants", "linear:features=relu,all", *SMALL, "--metrics", "latency", "--json", cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    rows = json.loads(done.stdout)
    installed = {point.name for point in entry_points(group="attnbench.variants")}
    assert {row["variant"].partition(":")[0] for row in rows} == installed
    for row in rows:
        assert row["value"] is not None or (row["status"] == "unsupported" and len(row["detail"].split()) > 2), row
    # What is named beside `all` is measured as it was named alone.
    assert {row["options"]["features"] for row in rows if row["variant"] == "linear"} == {"relu"}


def test_all_variants_take_no_options_together(tmp_path: Path) -> None:
    done = call("run", "--variants", "all:rounds=4", "--seq", "64", cwd=tmp_path)
    assert (done.returncode, "all takes no options" in done.stderr) == (2, True)


def test_three_lengths_tell_how_each_variant_grows_in_the_table_and_from_python(sweep: Sweep) -> None:
    assert sweep.stdout.count("growth exponent p") == 1  # of memory: one round of times shows no exponent
    told = json.loads(call("show", "latest", "--scaling", "--json", cwd=sweep.folder).stdout)
    memory = {each["variant"]: each["exponent"] for each in told["scaling"] if each["metric"] == "memory"}
    assert memory["vanilla"] > memory["linear"] > 0
    assert memory["vanilla"] > 1.5
    fitted = {(each.metric, each.variant) for each in Run(the_run(sweep.folder)).scaling()}
    assert ("memory", "linear") in fitted
    assert "latency" not in {metric for metric, _ in fitted}


def test_rates_derived_from_a_latency_can_be_shown(sweep: Sweep) -> None:
    rows = json.loads(call("show", "latest", "--json", cwd=sweep.folder).stdout)
    derived = {(row["metric"], row["variant"]): row for row in rows if not row["primary"]}
    told = {"flop_rate", "flop_rate_executed", "bandwidth", "roofline_share"}
    assert {(metric, "vanilla") for metric in told} <= set(derived)
    assert all(row["value"] > 0 and row["variant"] != "empty" for (metric, _), row in derived.items() if metric in told)
    shown = call("show", "latest", "--metric", "roofline_share", cwd=sweep.folder)
    assert "Share of the roofline" in shown.stdout


CROSSING = """
import time

class Straight:
    def __init__(self, case):
        self.seconds = self.cost(case.shape.seq_q)

    @staticmethod
    def cost(length):
        return length * 5e-5

    def __call__(self, q, k, v):
        end = time.perf_counter() + self.seconds
        while time.perf_counter() < end:
            pass
        return q + v

class Square(Straight):
    @staticmethod
    def cost(length):
        return length ** 2 / 300 * 5e-5
"""


def test_refining_measures_between_the_lengths_where_variants_cross(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(CROSSING)
    words = (
        "--variants",
        "./mine.py:Straight,./mine.py:Square",
        "--seq",
        "128,512",
        *SMALL[2:],
        "--metrics",
        "latency",
    )
    done = call("run", *words, "--refine", "--json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    measured = {(row["variant"], row["seq_q"]) for row in json.loads(done.stdout) if row["metric"] == "latency"}
    assert {length for name, length in measured if name == "empty"} == {128, 512}
    between = {length for _, length in measured} - {128, 512}
    assert 256 in between
    assert {(name, length) for name in ("Straight", "Square") for length in between} <= measured
    (crossing,) = Run(the_run(tmp_path)).crossovers()
    assert (crossing.winner.case.variant, crossing.loser.case.variant) == ("Straight", "Square")
    assert crossing.between[1] - crossing.between[0] < 384
    assert json.loads(call("verify", "latest", "--json", cwd=tmp_path).stdout)["pending"] == 0


def test_a_dry_run_says_what_it_would_take_and_measures_and_writes_nothing(tmp_path: Path) -> None:
    words = ("run", "--variants", "flash", "--seq", "64..256", "--dry-run")
    done = call(*words, cwd=tmp_path)
    first, *parts, last = done.stdout.splitlines()
    assert re.fullmatch(r"\d+ jobs on .+, \d+ threads?, (under|about) .+:", first)
    assert {part.split()[0] for part in parts} == {"latency", "memory", "agreement", "swap"}
    assert last.startswith("make it shorter with ")
    data = json.loads(
        call("run", "--variants", "flash", "--seq", "64..256", "--dry-run", "--json", cwd=tmp_path).stdout
    )
    assert data["jobs"] == sum(part["jobs"] for part in data["parts"]) == int(first.split()[0])
    assert not list(tmp_path.iterdir())


def test_heads_and_passes_are_swept(tmp_path: Path) -> None:
    words = ("--heads", "2,4", "--passes", "forward,forward-backward", "--metrics", "latency", "--json")
    done = call("run", "--variants", "vanilla,linear", *SMALL[:2], *SMALL[4:], *words, cwd=tmp_path)
    rows = [row for row in json.loads(done.stdout) if row["metric"] == "latency" and row["variant"] != "empty"]
    assert {(row["variant"], row["heads"], row["passes"]) for row in rows} == {
        (variant, heads, passes)
        for variant in ("vanilla", "linear")
        for heads in (2, 4)
        for passes in ("forward", "forward-backward")
    }


def test_accuracy_is_measured_in_the_same_run_in_the_shape_of_its_task(tmp_path: Path) -> None:
    task = "mqar:preset=tiny,steps=2,batch=4,train_examples=8,validation_examples=8,test_examples=8"
    words = ("--metrics", "accuracy", "--tasks", task, "--json")
    done = call("run", "--variants", "flash,linformer", *SMALL, *words, "--out", str(tmp_path), cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    rows = [row for row in json.loads(done.stdout) if row["metric"] == "accuracy"]
    assert {row["variant"]: row["status"] for row in rows} == {"flash": "ok", "linformer": "ok"}
    assert all(row["task"].startswith("mqar:preset=tiny") and 0 <= row["value"] <= 1 for row in rows)


def test_a_case_that_fails_is_a_row_with_its_reason_and_the_rest_is_measured(tmp_path: Path) -> None:
    words = ("--variants", f"vanilla,{PLUGINS / 'faulty.py'}:Segfaults,linformer", "--causal", "--metrics", "latency")
    done = call("run", *words, *SMALL, "--json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    rows = {row["variant"]: row for row in json.loads(done.stdout)}
    assert rows["vanilla"]["status"] == "ok"
    assert rows["Segfaults"]["status"] == "crash"
    assert "SIGSEGV" in rows["Segfaults"]["detail"]
    assert rows["linformer"]["status"] == "unsupported"
    assert rows["linformer"]["detail"]
    assert call("run", *words, *SMALL, "--strict", cwd=tmp_path).returncode == 1


def test_a_plugin_that_cannot_be_imported_is_a_row_with_the_reason(tmp_path: Path) -> None:
    (tmp_path / "lacks.py").write_text("import nothing_of_that_name\n")
    (tmp_path / "exits.py").write_text("import os; os._exit(1)\n")
    words = ("--variants", "vanilla,./lacks.py:Lacks,./exits.py:Exits", "--metrics", "latency", "--json")
    done = call("run", *words, *SMALL, cwd=tmp_path)
    rows = {row["variant"]: row for row in json.loads(done.stdout)}
    assert rows["vanilla"]["status"] == "ok"
    for variant, status, reason in (("Lacks", "error", "nothing_of_that_name"), ("Exits", "crash", "code 1")):
        assert (rows[variant]["status"], reason in rows[variant]["detail"]) == (status, True)


def test_equal_shapes_made_by_two_axes_are_measured_once(tmp_path: Path) -> None:
    words = ("--passes", "decode", "--seq", "64,128", "--seq-k", "256", "--metrics", "memory", "--json")
    done = call("run", "--variants", "vanilla", *SMALL[2:], *words, cwd=tmp_path)
    assert len([row for row in json.loads(done.stdout) if row["metric"] == "memory"]) == 1


@as_subtests(
    "words, flag, fix",
    [
        (["--variants", "vanila"], "--variants", "'vanilla'"),
        (["--variants", "linformer:kk=3"], "--variants", "k (int"),
        (["--variants", "linformer:k=many"], "--variants", "k (int"),
        (["--variants", "./missing.py:Mine"], "--variants", "./file.py:Name"),
        (["--seq", ""], "--seq", "512..16384"),
        (["--seq", "1024..512"], "--seq", "reversed"),
        (["--seq", "0"], "--seq", "zero"),
        (["--seq", "4294967296"], "--seq", "2^31"),
        (["--heads", "8", "--kv-heads", "3"], "--kv-heads", "multiple"),
        (["--dtype", "float8"], "--dtype", "float32"),
        (["--device", "cuda:7"], "--device", "use --device"),
        (["--device", "tpu"], "--device", "auto, cpu, cuda"),
        (["--out", "/proc/nowhere"], "--out", "another folder"),
        (["--suite", "standart"], "--suite", "'standard'"),
        (["--tasks", "mqar:lenght=3", "--metrics", "accuracy"], "--tasks", "'length'"),
        (["--tasks", "mqar:heads=4..2", "--metrics", "accuracy"], "--tasks: mqar:heads", "'4..2' is reversed"),
        (["--tasks", "mqar:heads=1..4,3", "--metrics", "accuracy"], "--tasks", "heads=3 does not divide width=64"),
        (["--batch", "1", "--tokens", "1024"], "--batch", "one of them"),
        (["--level", "lair"], "--level", "'layer'"),
        (["--inputs", "outlier"], "--inputs", "'outliers'"),
        (["--time-budget", "soon"], "--time-budget", "1h30m"),
        (["--executor", "ray"], "--executor", "No such option"),
        (["--metrics", "speed"], "--metrics", "latency"),
        (["--profile", "fast"], "--profile", "default"),
        (["--rounds", "0"], "--rounds", "1 or more"),
        (["--retry-failed"], "--retry-failed", "--resume"),
        (["--timeout", "inf"], "--timeout", "a month"),
        (["--seed", "18446744073709551616"], "--seed", "2^63"),
        (["--dtype", ""], "--dtype", "float32"),
        (["--metrics", ""], "--metrics", "latency"),
        (["--seq", "1..1000:+1", "--heads", "1..1000:+1"], "--seq", "narrow"),
        (["--resume", "nothing"], "nothing", "there are none"),
        (["--sequence", "512"], "--sequence", "No such option"),
    ],
)
def test_wrong_input_is_one_sentence_that_names_the_flag_and_writes_nothing(
    tmp_path: Path, words: list[str], flag: str, fix: str
) -> None:
    done = call("run", *words, cwd=tmp_path)
    assert done.returncode == 2, done.stderr
    assert done.stdout == ""
    assert len(done.stderr.strip().splitlines()) == 1, done.stderr
    assert flag in done.stderr
    assert fix in done.stderr
    assert not list(tmp_path.iterdir())


def test_two_plugins_of_one_name_are_refused_with_both_origins(tmp_path: Path) -> None:
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "mine.py").write_text("def Mine(q, k, v):\n    return v\n")
    done = call("run", "--variants", "a/mine.py:Mine,b/mine.py:Mine", *SMALL, cwd=tmp_path)
    assert done.returncode == 2
    assert "a/mine.py" in done.stderr
    assert "b/mine.py" in done.stderr


PATIENT = """
import pathlib, time, torch

class First:
    def __init__(self, case):
        pass

    def __call__(self, q, k, v):
        while (pathlib.Path(__file__).parent / "hang").exists() and type(self) is Second:
            time.sleep(0.1)
        return torch.softmax(q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5, -1) @ v

class Second(First):
    pass
"""


def start(tmp_path: Path) -> subprocess.Popen[str]:
    """Start a run that hangs in its second case, and wait until its first one is done."""
    (tmp_path / "mine.py").write_text(PATIENT)
    (tmp_path / "hang").touch()
    words = ("run", "--variants", "./mine.py:First,./mine.py:Second", "--metrics", "memory", *SMALL)
    process = started(*words, cwd=tmp_path)
    assert process.stderr is not None
    for line in process.stderr:
        if line.startswith("[1/2]"):
            time.sleep(0.3)
            return process
    raise AssertionError("the run ended by itself")


def resume(tmp_path: Path) -> dict[str, str]:
    """Resume the one run there is, with nothing left to hang; return each variant's status."""
    (tmp_path / "hang").unlink()
    done = call("run", "--resume", the_run(tmp_path).name, "--json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    return {row["variant"]: row["status"] for row in json.loads(done.stdout) if row["metric"] == "memory"}


def interrupt(tmp_path: Path, number: signal.Signals, code: int) -> Path:
    """Start a run, send it a signal while it measures, and hold it to what an interrupted run says and keeps."""
    process = start(tmp_path)
    process.send_signal(number)
    assert process.wait(timeout=10) == code
    run = the_run(tmp_path)
    assert process.stderr is not None
    with process.stderr as said:
        assert f"attnbench run --resume {run.name}" in said.read()
    checked = json.loads(call("verify", run.name, "--json", cwd=tmp_path).stdout)
    assert (checked["statuses"], checked["pending"]) == ({"ok": 1}, 1)
    return run


def test_a_run_interrupted_by_ctrl_c_says_how_to_resume_it_and_can_be_resumed(tmp_path: Path) -> None:
    interrupt(tmp_path, signal.SIGINT, 130)
    assert resume(tmp_path) == {"First": "ok", "Second": "ok"}


def test_a_run_that_is_terminated_can_be_resumed_and_measures_an_edited_plugin_again(tmp_path: Path) -> None:
    interrupt(tmp_path, signal.SIGTERM, 143)
    (tmp_path / "mine.py").write_text(PATIENT + "# edited\n")
    assert resume(tmp_path) == {"First": "ok", "Second": "ok"}
    checked = json.loads(call("verify", "latest", "--json", cwd=tmp_path).stdout)
    assert checked["statuses"] == {"ok": 2}
    assert checked["orphans"] >= 1  # what the old source gave is kept, and no longer counted


def test_a_killed_command_leaves_no_process_and_can_be_resumed(tmp_path: Path) -> None:
    process = start(tmp_path)
    servers = running(SERVER, parent=process.pid)
    assert servers
    process.kill()
    process.communicate()
    deadline = time.monotonic() + 5
    while running(SERVER) & servers and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not running(SERVER) & servers
    assert resume(tmp_path) == {"First": "ok", "Second": "ok"}


def test_a_resumed_run_takes_no_sweep_options(tmp_path: Path) -> None:
    done = call("run", "--resume", "latest", "--seq", "64", cwd=tmp_path)
    assert (done.returncode, "--resume" in done.stderr) == (2, True)
