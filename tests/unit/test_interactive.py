"""attnbench at a Python prompt and in a notebook: names that complete, progress, and results that show themselves."""

import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import attnbench
from attnbench import api
from attnbench.contracts.record import Record
from attnbench.runs import Run
from attnbench.session import Notify, Opened
from helpers.planted import job, ok, plan
from helpers.stored import store, timed


def test_the_names_of_the_package_complete_without_importing_what_they_need() -> None:
    code = "import sys, attnbench; print(*dir(attnbench)); print('numpy' in sys.modules)"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    names, imported = ran.stdout.splitlines()
    assert {"build", "run", "load", "compare", "resume", "Run"} <= set(names.split())
    assert imported == "False"


def test_a_script_beside_a_clone_imports_the_installed_package(tmp_path: Path) -> None:
    (tmp_path / "attnbench" / "harness").mkdir(parents=True)
    (tmp_path / "script.py").write_text("import attnbench; print(attnbench.UsageError.__name__)")
    done = subprocess.run([sys.executable, "script.py"], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout == "UsageError\n"


def measured(*, out: Any, notify: Notify, **_flags: Any) -> Run:
    """Stand in for `api.run`: two jobs, and the notices of a session that does them."""
    planned = plan([job("vanilla"), job("flash")])
    notify(Opened(path=Path(out), plan=planned, jobs=planned.jobs))
    for one in planned.jobs:
        notify(Record(run=planned.run, job=one, outcome=ok()))
    return Run(Path(out))


class ZMQInteractiveShell:
    """A notebook's shell, by its name."""


def test_a_notebook_shows_one_line_until_all_jobs_are_done(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    shown: list[str] = []

    class Handle:
        def update(self, data: dict[str, str], *, raw: bool) -> None:
            shown.append(data["text/plain"])

    def display(data: dict[str, str], *, raw: bool, display_id: bool) -> Handle:
        shown.append(data["text/plain"])
        return Handle()

    ipython, displaying = ModuleType("IPython"), ModuleType("IPython.display")
    ipython.get_ipython = ZMQInteractiveShell  # type: ignore[attr-defined]
    displaying.display = display  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "IPython", ipython)
    monkeypatch.setitem(sys.modules, "IPython.display", displaying)
    monkeypatch.setattr(api, "run", measured)
    attnbench.run(out=tmp_path)
    assert (shown[0], shown[-1]) == tuple(f"run 20260101-000000-aaaa: {done} of 2 jobs" for done in (0, 2))


def test_a_terminal_shows_the_progress_and_a_script_s_log_nothing(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setattr(api, "run", measured)
    attnbench.run(out=tmp_path)
    assert capfd.readouterr() == ("", "")
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    attnbench.run(out=tmp_path)
    assert capfd.readouterr().err.startswith("\x1b[?25l")  # the live display hides the cursor first


@pytest.fixture
def run(tmp_path: Path) -> Run:
    store(tmp_path, "one", [*timed("<slow>", 2.0), *timed("fast", 1.0)])
    return Run(tmp_path / "results" / "one")


def test_a_notebook_shows_a_run_as_its_tables_with_all_names_escaped(run: Run) -> None:
    shown = run._repr_html_()
    assert "<td>&lt;slow&gt;</td>" in shown
    assert "<slow>" not in shown
    assert shown.count("<table>") == 1


def test_comparisons_show_themselves_as_their_summary_and_in_a_notebook_as_tables(run: Run) -> None:
    comparisons = attnbench.compare(run, variants="<slow>,fast")
    assert repr(comparisons).splitlines()[0] == "within run one"
    assert "latency: 2 of 2 faster" in repr(comparisons)
    assert len(repr(comparisons)) < 200
    shown = comparisons._repr_html_()
    assert "faster" in shown
    assert "<slow>" not in shown
