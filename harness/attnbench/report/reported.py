"""The content of a report: runs side by side, and the names and order of variants in all of them."""

from collections import Counter
from collections.abc import Sequence
from functools import cached_property
from typing import Any

from msgspec import Struct

from attnbench.analysis.comparability import Circumstances
from attnbench.analysis.held import with_totals
from attnbench.analysis.refuted import without_refuted
from attnbench.analysis.roofline import derived
from attnbench.analysis.rows import Row, rows
from attnbench.contracts.case import Identity
from attnbench.contracts.record import Rates
from attnbench.contracts.text import plain
from attnbench.report.axes import variant_labels
from attnbench.report.reproduction import reproduction
from attnbench.store import Store


class ReportedRun(Struct, frozen=True, kw_only=True):
    """One run: its rows (derived ones too), its machine's rates, how to measure it again, how it was measured."""

    run: str
    rows: tuple[Row, ...]
    rates: Rates | None
    reproduction: dict[str, Any]
    circumstances: Circumstances


def rows_of(store: Store) -> list[Row]:
    """Return the rows of a run's plan (not an edited plugin's old records), and those derived from them.

    What a wrong output costs is left out.
    """
    measured = with_totals(without_refuted(rows(store.history(), store.plan.jobs, run=store.plan.run)))
    return [*measured, *derived(measured, store.rates())]


def read(store: Store, rows: Sequence[Row]) -> ReportedRun:
    """Return a stored run for a report, with the given rows."""
    environments = store.environments()
    return ReportedRun(
        run=store.plan.run,
        rows=tuple(rows),
        rates=store.rates(),
        reproduction=reproduction(store.plan, environments),
        circumstances=Circumstances(environments=tuple(environments.values()), jobs=store.plan.jobs),
    )


class Report:
    """Runs side by side. A variant has one name and one index in the order, in whichever run it is."""

    def __init__(self, runs: Sequence[ReportedRun]) -> None:
        self.runs = tuple(runs)

    @property
    def several(self) -> bool:
        """Whether there is more than one run."""
        return len(self.runs) > 1

    @cached_property
    def rows(self) -> tuple[Row, ...]:
        """All rows of mechanisms, without the harness's own."""
        return tuple(row for run in self.runs for row in run.rows if not row.is_harness)

    @cached_property
    def has_one_device_a_run(self) -> bool:
        """Whether the device varies between runs alone."""
        return self.several and all(len({row.case.device for row in run.rows}) == 1 for run in self.runs)

    @cached_property
    def _drawn_as(self) -> dict[Identity, Identity]:
        """The identity as which each variant is drawn: without its origin, unless a run has two of it."""
        variants = dict.fromkeys(row.identity for row in self.rows)
        apart = self._ambiguous if self.several else {identity[:2] for identity in variants}
        return {identity: identity if identity[:2] in apart else (*identity[:2], "") for identity in variants}

    @cached_property
    def _ambiguous(self) -> set[tuple[str, str]]:
        """Names with options that some run has from two origins."""
        origins = [Counter(identity[:2] for identity in {row.identity for row in run.rows}) for run in self.runs]
        return {name for in_run in origins for name, count in in_run.items() if count > 1}

    @cached_property
    def names(self) -> dict[Identity, str]:
        """The variants' names, in the order in which they are drawn."""
        labels = variant_labels({self._drawn_as[row.identity]: row.case.options for row in self.rows})
        return {identity: labels[drawn] for identity, drawn in self._drawn_as.items()}

    @cached_property
    def order(self) -> dict[Identity, int]:
        """Each variant's index, which decides its style."""
        indices = {drawn: index for index, drawn in enumerate(dict.fromkeys(self._drawn_as.values()))}
        return {identity: indices[drawn] for identity, drawn in self._drawn_as.items()}

    @cached_property
    def legend(self) -> tuple[str, ...]:
        """The variants' names by their indices."""
        names = {index: self.names[identity] for identity, index in self.order.items()}
        return tuple(names[index] for index in sorted(names))

    @cached_property
    def run_names(self) -> tuple[str, ...]:
        """The runs' ids; one that is given twice is numbered."""
        ids = [plain(run.run) for run in self.runs]
        return tuple(f"{name} ({number})" if ids.count(name) > 1 else name for number, name in enumerate(ids, start=1))

    def name(self, row: Row, run: int) -> str:
        """Return the name of a row's variant, with its run where there are several."""
        label = self.names[row.identity]
        return f"{label} ({self.run_names[run]})" if self.several else label
