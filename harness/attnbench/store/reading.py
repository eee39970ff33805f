"""Reading a stored run: its plan, and its journal line by line."""

from collections.abc import Collection, Iterable
from pathlib import Path
from typing import BinaryIO

from msgspec import Struct

from attnbench.contracts.errors import DamagedStore, UsageError
from attnbench.contracts.record import Environment, Rates, Record
from attnbench.store.lines import EVENTS, PLAN, EnvironmentSeen, Plan, RatesSeen, TornSeen, from_line


class Broken(Struct, frozen=True, kw_only=True):
    """A line that cannot be trusted: its number (from 1), its offset in bytes, the reason, and its bytes."""

    line: int
    offset: int
    why: str
    raw: bytes


class Journal(Struct, frozen=True, kw_only=True):
    """A journal's events in the order written; `unknown` counts sound events of kinds that this version lacks.

    `foreign` counts records of runs other than the journal's, which are left out, and `torn` lines that were never
    acknowledged and are no damage.
    """

    records: tuple[Record, ...] = ()
    environments: dict[str, Environment] = {}
    rates: Rates | None = None
    unknown: int = 0
    foreign: int = 0
    torn: int = 0
    broken: tuple[Broken, ...] = ()


def read_plan(path: Path) -> Plan:
    """Return the plan of the run in a folder.

    Raises DamagedStore where it is missing or altered, and UsageError where it cannot be read.
    """
    try:
        with _regular(path / PLAN) as file:
            event = from_line(file.read())
    except (FileNotFoundError, NotADirectoryError):
        raise DamagedStore(f"{path} has no {PLAN}: it is no run, or a damaged one") from None
    except OSError as error:
        raise _unreadable(path / PLAN, error) from None
    except ValueError as error:
        raise DamagedStore(f"{path / PLAN} is damaged: {error}") from None
    if not isinstance(event, Plan):
        raise DamagedStore(f"{path / PLAN} is damaged: it holds no plan")
    return event


def read_journal(path: Path, plan: Plan | None = None) -> Journal:
    """Return everything in a run's journal that its checksums vouch for; other lines are in `broken`.

    With the run's plan, records of other runs than its own and its sources are left out.
    """
    try:
        with _regular(path / EVENTS) as file:
            return _parse(file, runs={plan.run, *plan.sources} if plan else None)
    except (FileNotFoundError, NotADirectoryError):  # killed after the plan was written, or before a measurement
        return Journal()
    except OSError as error:
        raise _unreadable(path / EVENTS, error) from None


def _regular(path: Path) -> BinaryIO:
    """Open a file for reading. Raises UsageError for a pipe or a device, which could be read for ever."""
    if path.exists() and not path.is_file():
        raise UsageError(f"{path} is no regular file; copy what it gives into one")
    return path.open("rb")


def _parse(file: Iterable[bytes], *, runs: Collection[str] | None) -> Journal:
    records: list[Record] = []
    environments: dict[str, Environment] = {}
    broken: list[Broken] = []
    last_rates: Rates | None = None
    torn: set[int] = set()
    unknown = foreign = offset = 0
    for number, line in enumerate(file, start=1):
        try:
            match from_line(line) if line != b"\n" else ():  # an empty line follows one that was whole after all
                case Record(run=run) if runs is not None and run not in runs:
                    foreign += 1
                case Record() as record:
                    records.append(record)
                case TornSeen(offset=start):
                    torn.add(start)
                case EnvironmentSeen(key=key, environment=environment):
                    environments[key] = environment
                case RatesSeen(rates=rates):
                    last_rates = rates
                case None | Plan():
                    unknown += 1
        except ValueError as error:
            broken.append(Broken(line=number, offset=offset, why=str(error), raw=line.removesuffix(b"\n")))
        offset += len(line)
    return Journal(
        records=tuple(records),
        environments=environments,
        rates=last_rates,
        unknown=unknown,
        foreign=foreign,
        torn=len(torn),
        broken=tuple(line for line in broken if line.offset not in torn),
    )


def _unreadable(path: Path, error: OSError) -> UsageError:
    return UsageError(f"{path} cannot be read: {error.strerror}")
