"""The runs of a folder: their ids, their list, and the one that a name refers to."""

import difflib
import re
import secrets
import time
from pathlib import Path

from msgspec import Struct

from attnbench.contracts.errors import DamagedStore, UsageError
from attnbench.contracts.record import Job, Status
from attnbench.store.lines import EVENTS, PLAN
from attnbench.store.progress import tally
from attnbench.store.reading import read_journal, read_plan

RESULTS = Path("results")  # the default of --out
LATEST = "latest"
CHECKPOINTS = "checkpoints"
_SHOWN = 3
_LETTERS = "23456789abcdefghjkmnpqrstuvwxyz"  # none that is read as another
_ID = re.compile(rf"[0-9]{{8}}-[0-9]{{6}}-[{_LETTERS}]{{4}}")


class RunSummary(Struct, frozen=True, kw_only=True):
    """A run's summary: jobs planned, jobs done by status, or what is damaged."""

    run: str
    created_s: float | None = None
    command: tuple[str, ...] = ()
    planned: int = 0
    done: int = 0
    statuses: dict[Status, int] = {}
    damage: str = ""


def new_run_id(created_s: float) -> str:
    """Return a new id that sorts by time (UTC) and is a safe folder name: 20261122-121405-x7k2."""
    drawn = "".join(secrets.choice(_LETTERS) for _ in range(4))
    return f"{time.strftime('%Y%m%d-%H%M%S', time.gmtime(created_s))}-{drawn}"


def list_runs(out: Path) -> list[RunSummary]:
    """Return a summary of every run under a folder, ordered by id."""
    return [_summary(out / name) for name in _run_names(out)]


def run_paths(out: Path) -> list[Path]:
    """Return the folders of all runs under a folder, ordered by id, damaged ones included."""
    return [out / name for name in _run_names(out)]


def find_run(name: str, out: Path) -> Path:
    """Return the folder of a run named by its id under `out`, the beginning of one, `latest`, or a path.

    Raises UsageError with the nearest or newest ids if no run or several match.
    """
    for folder in (out / name, Path(name)):
        if name and _is_run(folder):
            return folder
    names = _run_names(out)
    if name == LATEST:
        drawn = [each for each in names if _ID.fullmatch(each)]
        if drawn:
            return out / drawn[-1]
    match [each for each in names if name and each.startswith(name)]:
        case [only]:
            return out / only
        case []:
            raise UsageError(f"no run is called {name!r} under {out}; {_hint(name, names)}")
        case several:
            raise UsageError(f"{name!r} begins more than one run under {out}: {', '.join(several[-_SHOWN:])}")


def checkpoint_path(run: Path, job: Job) -> Path:
    """Return the checkpoint file of a training: its progress, and at the end the best weights."""
    return run.resolve() / CHECKPOINTS / f"{job.key}.pt"


def _summary(path: Path) -> RunSummary:
    try:
        plan = read_plan(path)
        statuses = tally(plan.jobs, read_journal(path, plan).records)
    except (DamagedStore, UsageError) as error:
        return RunSummary(run=path.name, damage=str(error))
    return RunSummary(
        run=path.name,
        created_s=plan.created_s,
        command=plan.command,
        planned=len({job.key for job in plan.jobs}),
        done=sum(statuses.values()),
        statuses=statuses,
    )


def _run_names(out: Path) -> list[str]:
    try:
        return sorted(folder.name for folder in out.iterdir() if _is_run(folder))
    except FileNotFoundError:
        return []
    except OSError as error:
        raise UsageError(f"--out: {out} cannot be read ({error.strerror}); name another folder") from None


def _is_run(folder: Path) -> bool:
    try:
        return (folder / PLAN).is_file() or (folder / EVENTS).stat().st_size > 0
    except (OSError, ValueError):  # not there, not ours to read, or no name that a file could have
        return False


def _hint(name: str, names: list[str]) -> str:
    if not names:
        return "there are none"
    near = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    return f"did you mean {near[0]}?" if near else f"the newest are {', '.join(names[-_SHOWN:])}"
