"""What the smaller commands say, and what flags refuse one another."""

import json
from importlib.metadata import entry_points
from pathlib import Path

import pytest

from attnbench.plugins import registry
from helpers.command import SMALL, attnbench, call
from helpers.subtests import as_subtests

STORED = Path(__file__).parents[1] / "golden" / "reference"
SHOW = ("show", "latest", "--out", str(STORED))
RUN = ("run", "--variants", "vanilla", *SMALL, "--metrics", "memory")


@as_subtests(
    "words",
    [
        ("--suite", "quick"),
        ("--no-causal",),
        ("--profile", "quick"),
        ("--rounds", "2"),
        ("--timeout", "9"),
        ("--seed", "0"),
        ("--threads", "1"),
        ("--device", "cpu"),
        ("--hot",),
        ("--allocator", "default"),
    ],
)
def test_resuming_a_run_refuses_each_flag_it_would_ignore_by_name(tmp_path: Path, words: tuple[str, ...]) -> None:
    done = call("run", "--resume", "latest", *words, cwd=tmp_path)
    assert (done.returncode, len(done.stderr.splitlines())) == (2, 1)
    assert done.stderr.startswith(f"attnbench: {words[0].replace('no-', '')}: --resume goes on")


def test_the_command_that_shows_a_run_again_names_its_folder(tmp_path: Path) -> None:
    done = call(*RUN, "--out", "else where", cwd=tmp_path)
    (run,) = (tmp_path / "else where").iterdir()
    assert f"(again: attnbench show {run.name} --out 'else where')" in done.stderr


def test_attnbench_alone_shows_its_help_and_is_no_error(tmp_path: Path) -> None:
    done = attnbench(cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert "Usage: attnbench [OPTIONS] COMMAND" in done.stdout


def test_help_fits_80_columns_cuts_no_word_and_gives_examples_a_line_each(tmp_path: Path) -> None:
    for name in ("run", "show", "compare", "recommend", "tune", "replay", "list", "verify", "doctor"):
        told = call(name, "--help", cwd=tmp_path).stdout
        lines = [line.strip() for line in told.splitlines()]
        assert max(map(len, told.splitlines())) <= 80
        assert "\N{HORIZONTAL ELLIPSIS}" not in told
        assert any(line.startswith(f"attnbench {name}") for line in lines), told


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Register few variants, as trying each takes a process; one of them ends every process that imports it."""
    registered = registry.entries("variants")
    (tmp_path / "dies.py").write_text("import os, signal\nos.kill(os.getpid(), signal.SIGSEGV)\n")
    dies = registry.find(f"{tmp_path / 'dies.py'}:dies", "variants", flag="")
    few = {name: registered[name] for name in ("vanilla", "linformer", "xformers")} | {"dies": (dies,)}
    monkeypatch.setattr(registry, "entries", lambda group: few if group == "variants" else {})


@pytest.mark.usefixtures("few")
def test_doctor_names_every_variant_and_gives_the_fix_for_what_is_missing(tmp_path: Path) -> None:
    done = call("doctor", "--json", cwd=tmp_path)
    findings = {one["what"]: one for one in json.loads(done.stdout)}
    assert findings["results"]["verdict"] == "ok"
    assert findings["variant vanilla"]["found"].startswith("runs on ")
    assert findings["variant xformers"]["verdict"] == "missing"
    assert (findings["variant dies"]["verdict"], done.returncode) == ("broken", 1)
    assert all(one["fix"] for one in findings.values() if one["verdict"] == "missing" and "variant" not in one["what"])


def test_doctor_exits_with_1_and_the_fix_where_results_cannot_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(registry, "entries", lambda _group: {})
    assert call("doctor", cwd=tmp_path).returncode == 0
    (tmp_path / "file").touch()
    done = call("doctor", "--out", "file/results", cwd=tmp_path)
    assert done.returncode == 1
    assert "results: name another folder with --out" in done.stdout


@pytest.mark.usefixtures("few")
def test_variants_are_listed_with_what_they_serve_their_options_and_their_obstacles(tmp_path: Path) -> None:
    done = call("list", "variants", "--details", "--json", cwd=tmp_path)
    found = {one["name"]: one for one in json.loads(done.stdout)}
    assert found["vanilla"]["from"].startswith("attnbench ")
    assert found["vanilla"]["on cpu"] == "runs"
    assert any(option.startswith("k=") for option in found["linformer"]["options"])
    assert any(refused.startswith("causal: ") for refused in found["linformer"]["refuses"])
    assert "does not run: its import ended by SIGSEGV" in found["dies"]["on cpu"]
    told = call("list", "variants", "--details", cwd=tmp_path).stdout
    assert "linformer\n  from:" in told
    assert max(map(len, told.splitlines())) <= 80


@pytest.mark.exhaustive
def test_every_installed_variant_is_listed_and_checked_by_doctor(tmp_path: Path) -> None:
    installed = {point.name for point in entry_points(group="attnbench.variants")}
    listed = json.loads(attnbench("list", "variants", "--details", "--json", cwd=tmp_path).stdout)
    assert {one["name"] for one in listed} == installed
    done = attnbench("doctor", "--json", cwd=tmp_path)
    looked_at = {one["what"] for one in json.loads(done.stdout)}
    assert (done.returncode, looked_at >= {f"variant {name}" for name in installed}) == (0, True)


def test_tasks_are_listed_with_their_presets_and_options(tmp_path: Path) -> None:
    tasks = json.loads(call("list", "tasks", "--details", "--json", cwd=tmp_path).stdout)
    assert {"mqar", "listops", "digits"} <= {task["name"] for task in tasks}
    presets = {task["name"]: task["presets"] for task in tasks}
    assert presets.pop("mqar") == "recall, tiny, small, large"
    assert set(presets.values()) == {"tiny, small, paper", "tiny, small, large"}
    assert all(any(option.startswith("layers=") for option in task["options"]) for task in tasks)


def test_runs_are_listed_with_their_command_and_any_damage(tmp_path: Path) -> None:
    assert call("list", "runs", cwd=tmp_path).stdout == "there are no runs\n"
    call(*RUN, cwd=tmp_path)
    (whole,) = json.loads(call("list", "runs", "--details", "--json", cwd=tmp_path).stdout)
    assert (whole["done"], whole["statuses"], "--variants vanilla" in whole["command"]) == ("1/1", "1 ok", True)
    (tmp_path / "results" / whole["run"] / "plan.json").write_text("torn")
    done = call("list", "runs", cwd=tmp_path)
    assert (done.returncode, "damaged" in done.stdout) == (0, True)


def distribution(place: Path, name: str, points: str, files: dict[str, str]) -> str:
    """Lay a distribution out as an installer would; return the folder for the path."""
    info = place / f"{name}-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(points)
    for path, text in files.items():
        (place / path).parent.mkdir(exist_ok=True)
        (place / path).write_text(text)
    return str(place)


@pytest.mark.parametrize("details", [(), ("--details",)])
def test_a_suite_that_is_broken_or_claimed_twice_is_listed_with_its_problem(
    tmp_path: Path, details: tuple[str, ...]
) -> None:
    points = "[attnbench.suites]\ntorn = acme:torn.toml\nquick = acme:torn.toml\n"
    path = distribution(tmp_path / "site", "acme", points, {"acme/__init__.py": "", "acme/torn.toml": "sweep = 3\n"})
    done = call("list", "suites", *details, "--json", cwd=tmp_path, site=path)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    problems = [(one["name"], one["from"], one.get("problem", "")) for one in found]
    whole = {name for name, _, problem in problems if not problem}
    assert "standard" in whole
    assert not whole & {"torn", "quick"}
    assert any(name == "torn" and "torn.toml" in problem for name, _, problem in problems)
    assert {origin for name, origin, problem in problems if name == "quick" and "claimed by" in problem} == {
        "attnbench 0.2.0",
        "acme 1.0",
    }


def test_names_in_a_stored_run_cannot_control_the_terminal(tmp_path: Path) -> None:
    call(*RUN, cwd=tmp_path)
    (run,) = (tmp_path / "results").iterdir()
    evil = run.rename(run.with_name("a\x1b[2J\nb"))
    checked = call("verify", evil.name, cwd=tmp_path)
    assert checked.stdout.splitlines()[0].startswith("run a\\x1b[2J\\nb: 1 jobs planned")


@pytest.mark.parametrize(
    ("ending", "begins"),
    [(".tex", "% needs"), (".md", "### Latency"), (".csv", "run,"), (".json", "["), (".txt", "Latency")],
)
def test_a_table_takes_its_format_from_the_ending_of_its_file(tmp_path: Path, ending: str, begins: str) -> None:
    assert call(*SHOW, "-o", f"table{ending}", cwd=tmp_path).returncode == 0
    assert (tmp_path / f"table{ending}").read_text().startswith(begins)


def test_a_probe_stands_for_its_metrics_in_a_table(tmp_path: Path) -> None:
    table = call(*SHOW, "--metric", "agreement", cwd=tmp_path).stdout
    assert table.startswith("Approximation error against exact attention")
    assert "Latency" not in table
