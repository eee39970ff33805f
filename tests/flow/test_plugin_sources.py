"""What is measured is what is named: a figure is never of other sources than those that its run began with."""

from collections.abc import Callable, Iterator
from contextlib import chdir
from pathlib import Path
from unittest import mock

import pytest

import attnbench
from attnbench.contracts.record import Record
from attnbench.execute import local
from attnbench.runs import Run
from attnbench.session import Notice, quietly
from attnbench.store import Store
from helpers.command import SMALL, call
from helpers.servers import KeptServer

MINE = """
from pathlib import Path
import acme_helper

class Mine:
    version = "old"

    def __init__(self, case):
        import acme_late
        table = Path(__file__).with_name("table.txt").read_text()
        self.backend = " ".join((self.version, acme_helper.version, acme_late.version, table))

    def __call__(self, q, k, v):
        return v
"""
FILES = {
    "mine.py": MINE,
    "acme_helper.py": 'version = "old"\n',
    "acme_late.py": 'version = "old"\n',
    "table.txt": "old",
}
OLD, ALL = "old old old old", 4
ENDINGS = [
    ("mine.py", "new old old old"),
    ("acme_helper.py", "old new old old"),
    ("acme_late.py", "old old new old"),
    ("table.txt", "old old old new"),
]


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """Lay out a plugin of four files, and be where it lies."""
    for name, text in FILES.items():
        (tmp_path / name).write_text(text)
    with chdir(tmp_path), mock.patch.object(local, "ForkServer", KeptServer):
        yield tmp_path


def edit(path: Path) -> None:
    """Change a file's content but not its size, within the second that it was written in."""
    path.write_text(path.read_text().replace("old", "new", 1))


def measure(folder: Path, notify: Callable[[Notice], None] = quietly) -> Run:
    return attnbench.run(
        variants="./mine.py:Mine",
        seq="16,32,48,64",
        heads=1,
        head_dim=16,
        metrics="memory",
        profile="quick",
        threads=1,
        out=folder / "results",
        notify=notify,
    )


def records(run: Run) -> list[Record]:
    """Return the plugin's standing records of what is planned."""
    with Store.open(run.path, write=False) as store:
        planned = {job.key for job in store.plan.jobs}
        return [one for one in store.records() if one.job.key in planned and one.job.case.variant == "Mine"]


@pytest.mark.parametrize(("name", "after"), ENDINGS)
def test_a_plugin_edited_during_its_run_is_measured_no_further_and_again_on_resume(
    folder: Path, name: str, after: str
) -> None:
    seen: list[Record] = []

    def edit_after_the_first(notice: Notice) -> None:
        if isinstance(notice, Record) and notice.job.case.variant == "Mine":
            seen.append(notice)
            if len(seen) == 1:
                edit(folder / name)

    run = measure(folder, edit_after_the_first)
    first, *others = seen
    assert (first.outcome.status, first.outcome.backend) == ("ok", OLD)
    assert [one.outcome.status for one in others] == ["interrupted"] * (ALL - 1)
    assert all(f"{name} changed while the run was under way" in one.outcome.detail for one in others)
    again = records(attnbench.resume(run))
    assert [(one.outcome.status, one.outcome.backend) for one in again] == [("ok", after)] * ALL


@pytest.mark.parametrize(("name", "after"), ENDINGS)
def test_whatever_file_of_a_plugin_was_edited_its_figures_are_measured_again(
    folder: Path, name: str, after: str
) -> None:
    run = measure(folder)
    before = [one.started_s for one in records(run)]
    assert [one.started_s for one in records(attnbench.resume(run))] == before  # nothing to do
    edit(folder / name)
    assert [one.outcome.backend for one in records(attnbench.resume(run))] == [after] * ALL
    settled = [one.started_s for one in records(run)]
    assert [one.started_s for one in records(attnbench.resume(run))] == settled


def test_the_files_that_a_plugin_reads_late_are_named_in_its_records(folder: Path) -> None:
    for one in records(measure(folder)):
        assert {Path(path).name for path in one.outcome.sources} == {"acme_late.py", "table.txt"}


BREAKS: dict[str, Callable[[Path], object]] = {
    "is gone": Path.unlink,
    "was renamed": lambda file: file.rename(file.with_name("other.py")),
    "no longer imports": lambda file: file.write_text(MINE + "\nimport acme_missing\n"),
    "has lost its class": lambda file: file.write_text(MINE.replace("class Mine", "class Other")),
}


@pytest.mark.parametrize("broken", BREAKS)
def test_no_old_figure_is_shown_of_a_plugin_that_cannot_be_asked_today(folder: Path, broken: str) -> None:
    measure(folder)
    before = (folder / "mine.py").read_text()
    BREAKS[broken](folder / "mine.py")
    done = call("run", "--resume", "latest", "--strict", cwd=folder)
    assert (done.returncode, "Mine: error: " in done.stdout, OLD in done.stdout) == (1, True, False), done.stdout
    (folder / "mine.py").write_text(before)
    again = call("run", "--resume", "latest", "--strict", cwd=folder)
    assert again.returncode == 0, again.stdout


def test_a_plugin_that_cannot_be_described_has_a_source_hash_too(folder: Path) -> None:
    (folder / "mine.py").write_text(MINE + "    supports = 5\n")
    run = measure(folder)
    assert {bool(one.job.origin.source_hash) for one in records(run)} == {True}


def test_a_misspelt_class_of_a_file_is_wrong_usage(folder: Path) -> None:
    done = call("run", "--variants", "./mine.py:Mien", *SMALL, cwd=folder)
    assert (done.returncode, done.stdout) == (2, "")
    assert "has no 'Mien'; did you mean 'Mine'?" in done.stderr
