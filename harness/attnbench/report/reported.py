"""What a report takes: runs, each with all that is told of it, and the names that variants have in all of them."""

from collections.abc import Sequence
from functools import cached_property
from typing import Any

from msgspec import Struct
from msgspec.structs import replace

from attnbench.analysis.columns import Columns
from attnbench.analysis.floor import is_harness
from attnbench.analysis.guard import Circumstances
from attnbench.analysis.roofline import derived
from attnbench.analysis.rows import Row, tabulated
from attnbench.answers.fit.search import context_rows
from attnbench.contracts.record import Rates
from attnbench.contracts.text import plain
from attnbench.report.axes import VariantKey, variant_key, variant_labels
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
    """Make the rows of what is planned in a run (an edited plugin's old records are not), and those derived."""
    return columns_of(store).rows()


def columns_of(store: Store) -> Columns[Row]:
    """Give the same rows as columns."""
    plan = store.plan
    found = tabulated(store.entries(), plan.jobs, run=plan.run, stray=False, places=plan.places)
    fitting = context_rows(found.rows(), plan.fit) if plan.fit else []
    return found.joined(derived(found, store.rates()), Columns.of(fitting, tuple(found.own)))


def read(store: Store) -> Reported:
    """Read all that a report takes of a stored run."""
    environments = store.environments()
    return Reported(
        run=store.plan.run,
        rows=tuple(rows_of(store)),
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
        return self.several and all(len({row.device for row in run.rows}) == 1 for run in self.runs)

    @cached_property
    def _drawn(self) -> dict[VariantKey, Row]:
        """One row for each variant; of one that several versions have, each, under the origin that tells it apart."""
        first: dict[VariantKey, Row] = {}
        for row in self.rows:
            first.setdefault(variant_key(row), row)
        return {
            key: replace(row, origin="") if self.several and key[:2] not in self._ambiguous else row
            for key, row in first.items()
        }

    @cached_property
    def _ambiguous(self) -> set[tuple[str, str]]:
        """Names with options that some run has from two origins: elsewhere a variant is one in all runs."""
        keys = [{variant_key(row) for row in run.rows} for run in self.runs]
        return {each[:2] for known in keys for each in known if sum(other[:2] == each[:2] for other in known) > 1}

    @cached_property
    def names(self) -> dict[VariantKey, str]:
        """The variants' names, in the order in which they are drawn."""
        labels = variant_labels(self._drawn.values())
        return {key: labels[variant_key(row)] for key, row in self._drawn.items()}

    @cached_property
    def order(self) -> dict[VariantKey, int]:
        """Each variant's place, by which it is drawn."""
        places = {key: place for place, key in enumerate(dict.fromkeys(map(variant_key, self._drawn.values())))}
        return {key: places[variant_key(row)] for key, row in self._drawn.items()}

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
        label = self.names[variant_key(row)]
        return f"{label} ({self.run_names[run]})" if self.several else label
