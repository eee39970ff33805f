"""Verification of a stored run: its integrity, and how much of it is done."""

from collections import Counter
from pathlib import Path

import msgspec
from msgspec import Struct

from attnbench.contracts.errors import DamagedStore
from attnbench.contracts.record import Status
from attnbench.store.files import replace_file
from attnbench.store.lines import Plan
from attnbench.store.progress import tally
from attnbench.store.reading import Broken, read_journal, read_plan

QUARANTINE = "quarantine.jsonl"


class Report(Struct, frozen=True, kw_only=True):
    """The state of a run: its planned jobs by status, and everything that is out of order.

    `duplicates` counts records that repeat an attempt, `orphans` records of jobs that were not planned, `unknown`
    events of kinds newer than this version, `foreign` records of other runs, `torn` lines that were never acknowledged
    and are no damage. `damage` is what is wrong with the plan, `quarantine` the path of the copy
    of broken lines.
    """

    run: str
    planned: int
    statuses: dict[Status, int]
    pending: int
    duplicates: int
    orphans: int
    unknown: int
    foreign: int = 0
    torn: int = 0
    broken: tuple[Broken, ...] = ()
    damage: str = ""
    quarantine: str = ""

    @property
    def sound(self) -> bool:
        """Whether every line is intact and of this run."""
        return not (self.broken or self.foreign or self.damage)


def verify(path: Path) -> Report:
    """Check every line of a run, and copy broken lines beside the journal, which is never rewritten.

    If the folder cannot be written, nothing is copied. While a run is being written, its last line may be incomplete.
    Raises UsageError if the run cannot be read.
    """
    plan, damage = _planned(path)
    jobs = plan.jobs if plan else ()
    planned = {job.key for job in jobs}
    journal = read_journal(path, plan)
    attempts = Counter((record.job.key, record.job.attempt) for record in journal.records)
    statuses = tally(jobs, journal.records)
    return Report(
        run=path.name,
        planned=len(planned),
        statuses=statuses,
        pending=len(planned) - sum(statuses.values()),
        duplicates=attempts.total() - len(attempts),
        orphans=sum(count for (key, _), count in attempts.items() if key not in planned),
        unknown=journal.unknown,
        foreign=journal.foreign,
        torn=journal.torn,
        broken=journal.broken,
        damage=damage,
        quarantine=_quarantine(path, journal.broken),
    )


def _planned(path: Path) -> tuple[Plan | None, str]:
    try:
        return read_plan(path), ""
    except DamagedStore as error:
        return None, str(error)


def _quarantine(path: Path, broken: tuple[Broken, ...]) -> str:
    """Copy broken lines, their bytes in base64; return the copy's path, empty if there is none."""
    if not broken:
        return ""
    try:
        replace_file(path / QUARANTINE, msgspec.json.Encoder().encode_lines(broken))
    except OSError:
        return ""
    return str(path / QUARANTINE)
