"""What a report takes: runs, each with all that is told of it, and the names that variants have in all of them."""

from collections.abc import Sequence
from functools import cached_property
from typing import Any

from msgspec import Struct

from attnbench.analysis.floor import is_harness
from attnbench.analysis.guard import Circumstances
from attnbench.analysis.roofline import derived
from attnbench.analysis.rows import Row, rows
from attnbench.contracts.case import Identity
from attnbench.contracts.record import Rates
from attnbench.contracts.text import plain
from attnbench.report.axes import variant_labels
from attnbench.report.reproduction import reproduction
from attnbench.store import Store


class Reported(Struct, frozen=True, kw_only=True):
    """One run: its rows (derived ones too), its machine's rates, how to measure it again, how it was measured."""

    run: str
    rows: tuple[Row, ...]
    rates: Rates | None
    reproduction: dict[str, Any]
    circumstances: Circumstances


def rows_of(store: Store) -> list[Row]:
    """Return the rows of what is planned in a run (an edited plugin's old records are not), and those derived."""
    measured = rows(store.history(), store.plan.jobs, run=store.plan.run)
    return [*measured, *derived(measured, store.rates())]


def read(store: Store, rows: Sequence[Row]) -> Reported:
    """Return what a report needs of a stored run, with the run's rows."""
    environments = store.environments()
    return Reported(
        run=store.plan.run,
        rows=tuple(rows),
        rates=store.rates(),
        reproduction=reproduction(store.plan, environments),
        circumstances=Circumstances(environments=tuple(environments.values()), jobs=store.plan.jobs),
    )


class Report:
    """Runs side by side. Variants have one name and one place in the order, whichever run they are of."""

    def __init__(self, runs: Sequence[Reported]) -> None:
        self.runs = tuple(runs)

    @property
    def several(self) -> bool:
        """Whether there is more than one run."""
        return len(self.runs) > 1

    @cached_property
    def rows(self) -> tuple[Row, ...]:
        """All rows of mechanisms; the harness's own are no variants."""
        return tuple(row for run in self.runs for row in run.rows if not is_harness(row))

    @cached_property
    def has_one_device_a_run(self) -> bool:
        """Whether the device only tells that runs are of different machines."""
        return self.several and all(len({row.case.device for row in run.rows}) == 1 for run in self.runs)

    @cached_property
    def _drawn_as(self) -> dict[Identity, Identity]:
        """Each variant, and the identity under which it is drawn: without its origin, unless a run has two of it."""
        known = dict.fromkeys(row.identity for row in self.rows)
        apart = self._ambiguous if self.several else {each[:2] for each in known}
        return {each: each if each[:2] in apart else (*each[:2], "") for each in known}

    @cached_property
    def _ambiguous(self) -> set[tuple[str, str]]:
        """Names with options that some run has from two origins: elsewhere a variant is one in all runs."""
        keys = [{row.identity for row in run.rows} for run in self.runs]
        return {each[:2] for known in keys for each in known if sum(other[:2] == each[:2] for other in known) > 1}

    @cached_property
    def names(self) -> dict[Identity, str]:
        """The variants' names, in the order in which they are drawn."""
        labels = variant_labels({self._drawn_as[row.identity]: row.case.options for row in self.rows})
        return {each: labels[drawn] for each, drawn in self._drawn_as.items()}

    @cached_property
    def order(self) -> dict[Identity, int]:
        """Each variant's index, by which it is drawn."""
        indices = {drawn: index for index, drawn in enumerate(dict.fromkeys(self._drawn_as.values()))}
        return {each: indices[drawn] for each, drawn in self._drawn_as.items()}

    @cached_property
    def legend(self) -> tuple[str, ...]:
        """The variants' names by their places."""
        named = {place: self.names[key] for key, place in self.order.items()}
        return tuple(named[place] for place in sorted(named))

    @cached_property
    def run_names(self) -> tuple[str, ...]:
        """The runs' ids; one that is given twice has its place behind it."""
        ids = [plain(run.run) for run in self.runs]
        return tuple(f"{name} ({place})" if ids.count(name) > 1 else name for place, name in enumerate(ids, start=1))

    def name(self, row: Row, run: int) -> str:
        """Name a row's variant, with its run where there are several."""
        label = self.names[row.identity]
        return f"{label} ({self.run_names[run]})" if self.several else label
