"""A run's folder: created with its plan, written by one process at a time, readable at any time."""

import os
import shutil
from collections.abc import Collection
from contextlib import ExitStack, suppress
from io import FileIO
from pathlib import Path
from types import TracebackType
from typing import Self

import filelock
from msgspec.structs import replace

from attnbench.contracts.errors import NotStored, UsageError
from attnbench.contracts.record import Environment, Job, Rates, Record, Status
from attnbench.store.files import replace_file, sync_folder, write_all
from attnbench.store.lines import EVENTS, PLAN, EnvironmentSeen, Event, Plan, RatesSeen, TornSeen, to_line
from attnbench.store.progress import pending, standing
from attnbench.store.reading import Journal, read_journal, read_plan
from attnbench.store.runs import new_run_id

LOCK = ".lock"
_TAIL = 2**16  # bytes of a journal that are searched for the end of a line at a time


class Store:
    """A run on disk, from `create` or `open`. A writer holds the run's lock until it is closed."""

    def __init__(self, path: Path, plan: Plan, *, journal: FileIO | None, held: ExitStack) -> None:
        self.path = path
        self.plan = plan
        self._journal = journal
        self._held = held
        self._known: tuple[tuple[int, int], Journal] | None = None
        self._torn = _torn_tail(path / EVENTS) if journal else None
        self._size = os.fstat(journal.fileno()).st_size if journal else 0

    @classmethod
    def create(cls, out: Path, plan: Plan) -> Self:
        """Create a run's folder under `out`, open for writing; if `plan.run` is taken, another id is drawn.

        Raises UsageError, leaving nothing behind, if the folder cannot be written.
        """
        try:
            with ExitStack() as undo:
                parents = _make_folders(out, undo)
                plan = _claim(out, plan, undo)
                path, held = out / plan.run, undo.enter_context(ExitStack())
                journal = _hold(path, held)
                replace_file(path / PLAN, to_line(plan))  # last: a folder that has a plan is a whole run
                for folder in (out, *parents):
                    sync_folder(folder)
                store = cls(path, plan, journal=journal, held=held)
                undo.pop_all()
                return store
        except OSError as error:
            raise UsageError(f"--out: {out} cannot be written ({error.strerror}); name another folder") from None

    @classmethod
    def open(cls, path: Path, *, write: bool) -> Self:
        """Open a stored run. A reader takes no lock and needs no write permission.

        Raises DamagedStore if the plan is missing or altered, and UsageError if the run cannot be written or another
        process is writing it.
        """
        plan = read_plan(path)
        with ExitStack() as held:
            try:
                journal = _hold(path, held) if write else None
            except OSError as error:
                raise UsageError(f"run {path} cannot be written ({error.strerror}); resume a copy of it") from None
            return cls(path, plan, journal=journal, held=held.pop_all())

    def replan(self, plan: Plan) -> None:
        """Replace the run's plan, as jobs were added or left out. Raises NotStored, and the old plan stays."""
        if plan == self.plan:
            return
        try:
            replace_file(self.path / PLAN, to_line(plan))
        except OSError as error:
            raise self._not_stored(f"{self.path / PLAN} cannot be replaced ({error.strerror})", "make room") from None
        self.plan = plan

    def append(self, *events: Record | Environment | Rates) -> None:
        """Append events to the journal; once this returns, they are on the disk.

        Raises NotStored if the disk does not take them, or the journal is no longer the one that this run has written,
        and ValueError for an event that could not be read back.
        """
        assert self._journal is not None, "this run was opened for reading, or is closed"
        lines = b"".join(to_line(_as_seen(event)) for event in events)
        self._check_in_place(self._journal)
        start = b"" if self._torn is None else b"\n" + to_line(TornSeen(offset=self._torn))
        try:
            write_all(self._journal.fileno(), start + lines)
            self._torn = None
        except OSError as error:
            self._torn = _torn_tail(self.path / EVENTS)
            raise self._not_stored(
                f"{self.path / EVENTS} did not take a record ({error.strerror})", "make room"
            ) from None
        finally:
            self._size = os.fstat(self._journal.fileno()).st_size

    def _check_in_place(self, journal: FileIO) -> None:
        """Raise NotStored where the journal was removed, replaced or cut, as by a checkout or a sync."""
        ours = os.fstat(journal.fileno())
        try:
            there = (self.path / EVENTS).stat()
        except OSError:
            there = None
        if there is None or (there.st_dev, there.st_ino) != (ours.st_dev, ours.st_ino):
            raise self._not_stored(f"{self.path / EVENTS} was removed or replaced while it was written", "put it back")
        if ours.st_size < self._size:
            raise self._not_stored(f"{self.path / EVENTS} was cut while it was written", "put it back")

    def _not_stored(self, what: str, fix: str) -> NotStored:
        return NotStored(f"{what}; all records before are safe: {fix}, then continue with --resume {self.path.name}")

    def records(self) -> list[Record]:
        """Return each measured job's record: of its highest attempt, the one written last."""
        return list(standing(self._read().records).values())

    def history(self) -> tuple[Record, ...]:
        """Return every record, in the order written."""
        return self._read().records

    def broken(self) -> int:
        """Return the number of lines that cannot be trusted, and of records of other runs; all are left out."""
        journal = self._read()
        return len(journal.broken) + journal.foreign

    def rates(self) -> Rates | None:
        """Return the device's own peak rates; None if they were never measured."""
        return self._read().rates

    def environments(self) -> dict[str, Environment]:
        """Return every environment of the run, the plan's own included, by the key that records refer to."""
        return {self.plan.environment.key: self.plan.environment, **self._read().environments}

    def pending(self, *, retry: Collection[Status] = ()) -> list[Job]:
        """Return the planned jobs still to be measured, each as its next attempt.

        Jobs that ended in a status of `retry` are among them.
        """
        return pending(self.plan.jobs, self._read().records, retry=retry)

    def close(self) -> None:
        """Close the journal and release the lock. A second call does nothing."""
        self._journal = None
        self._held.close()

    def _read(self) -> Journal:
        """Return the journal, read again only if the file has changed: 100,000 records take seconds."""
        try:
            found = (self.path / EVENTS).stat()
        except OSError:  # there is none yet, or reading it will raise the right error
            return read_journal(self.path, self.plan)
        if self._known is None or self._known[0] != (found.st_size, found.st_mtime_ns):
            self._known = ((found.st_size, found.st_mtime_ns), read_journal(self.path, self.plan))
        return self._known[1]

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _as_seen(event: Record | Environment | Rates) -> Event:
    match event:
        case Environment():
            return EnvironmentSeen(key=event.key, environment=event)
        case Rates():
            return RatesSeen(rates=event)
        case Record():
            return event


def _make_folders(out: Path, undo: ExitStack) -> list[Path]:
    """Create `out` and its missing parents; return the folders whose entries changed."""
    missing = [folder for folder in (out, *out.parents) if not folder.exists()]
    for folder in reversed(missing):
        folder.mkdir(exist_ok=True)
        undo.callback(_remove_if_empty, folder)
    return [folder.parent for folder in missing]


def _remove_if_empty(folder: Path) -> None:
    with suppress(OSError):  # another run has moved in meanwhile
        folder.rmdir()


def _claim(out: Path, plan: Plan, undo: ExitStack) -> Plan:
    """Create the run's folder under an id that was free; return the plan with that id."""
    while True:
        with suppress(FileExistsError):
            (out / plan.run).mkdir()
            undo.callback(shutil.rmtree, out / plan.run, ignore_errors=True)
            return plan
        plan = replace(plan, run=new_run_id(plan.created_s))


def _hold(path: Path, held: ExitStack) -> FileIO:
    """Lock a run and open its journal for appending, until `held` is closed."""
    lock = filelock.FileLock(path / LOCK, timeout=0, thread_local=False)
    try:
        held.enter_context(lock)
    except filelock.Timeout:
        raise UsageError(f"run {path} is being written by another process; wait until that one has ended") from None
    events = path / EVENTS
    if events.is_symlink() or (events.exists() and not events.is_file()):
        raise UsageError(f"{events} is a link or no regular file: what is measured would go elsewhere; copy it here")
    return held.enter_context(events.open("ab", buffering=0))


def _torn_tail(path: Path) -> int | None:
    """Return the offset of an incomplete last line, which was never acknowledged; None where there is none."""
    with path.open("rb") as file:
        start = end = file.seek(0, os.SEEK_END)
        while start:
            step = min(start, _TAIL)
            start -= step
            file.seek(start)
            newline = file.read(step).rfind(b"\n")
            if newline >= 0:
                return None if start + newline + 1 == end else start + newline + 1
    return 0 if end else None
