"""A stored run: its rows, fits, comparisons and report."""

from collections.abc import Iterable
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

from attnbench.analysis.comparability import Circumstances
from attnbench.analysis.crossover import Crossover, crossovers
from attnbench.analysis.pareto import Front, fronts
from attnbench.analysis.rows import Row
from attnbench.analysis.scaling import Growth, growths
from attnbench.analysis.time_spent import TimeSpent, time_spent
from attnbench.answers.fit.search import context_rows
from attnbench.answers.fit.table import blocks
from attnbench.report.frame import frame
from attnbench.report.notebook import html
from attnbench.report.reported import Report, ReportedRun, read, rows_of
from attnbench.report.reproduction import reproduction
from attnbench.store import RESULTS, Store, find_run

if TYPE_CHECKING:
    import pandas as pd


class Run:
    """A stored run, finished or not."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._store: Store | None = None

    @property
    def id(self) -> str:
        """The run's name under its folder."""
        return self.path.name

    def rows(self) -> list[Row]:
        """Return the tidy rows: one per case and metric of what is planned (an edited plugin's old records are not)."""
        return _rows(self._opened())

    def scaling(self) -> list[Growth]:
        """Fit the latency and memory of each variant as a power of the sequence length."""
        return growths(self.rows())

    def crossovers(self) -> list[Crossover]:
        """Return the lengths at which one variant overtakes another in latency, those that concern the best first."""
        return crossovers(self.rows())

    def pareto(self, objectives: Iterable[str] | None = None) -> list[Front]:
        """Return the variants that no other one beats without loss, for each setting of the sweep and each task.

        The default objectives are latency and the most telling quality that the run has.
        """
        return fronts(self.rows(), objectives)

    def reproduction(self) -> dict[str, Any]:
        """Return what is needed to measure this run again, as JSON values."""
        store = self._opened()
        return reproduction(store.plan, store.environments())

    def damage(self) -> str:
        """Return how many lines of the journal are left out as broken, in words; empty where it is whole."""
        count = self._opened().broken()
        lines = f"{count} line{'s' * (count != 1)} of its journal {'are' if count != 1 else 'is'}"
        return f"run {self.id}: {lines} broken and left out; attnbench verify {self.id} names them" if count else ""

    def spent(self) -> TimeSpent:
        """Return where the time of this run went."""
        return time_spent(self._opened().records())

    def circumstances(self) -> Circumstances:
        """Return where and how the run was measured, which decides what it can be compared with."""
        store = self._opened()
        return Circumstances(environments=tuple(store.environments().values()), jobs=store.plan.jobs)

    def reported(self) -> ReportedRun:
        """Return what a report needs of the run."""
        store = self._opened()
        return read(store, _rows(store))

    def report(self, path: str | Path, *others: "Run") -> None:
        """Write the run, with others beside it, as one HTML file that needs no network."""
        from attnbench.report.files import write_page  # here, because loading a run does without it

        write_page(Report([run.reported() for run in (self, *others)]), Path(path))

    def frame(self) -> "pd.DataFrame":
        """Return the tidy rows as a pandas DataFrame."""
        return frame(_rows(self._opened()))

    def _opened(self) -> Store:
        """Return the run's store, the same one for as long as its plan is the same: it reads a journal once."""
        store = Store.open(self.path, write=False)
        if self._store is None or self._store.plan != store.plan:
            self._store = store
        return self._store

    def __repr__(self) -> str:
        return f"attnbench.Run({str(self.path)!r})"

    def _repr_html_(self) -> str:
        """Return the run's tables, for a notebook."""
        return f"<div>run {escape(self.id)}</div>{html(blocks(self.rows()))}"


def _rows(store: Store) -> list[Row]:
    rows = rows_of(store)
    return [*rows, *context_rows(rows, store.plan.fit)]


def load(run: str | Path, *, out: str | Path = RESULTS) -> "pd.DataFrame":
    """Return a run's tidy rows as a pandas DataFrame; `run` is its path or its id under `out`."""
    return Run(find_run(str(run), Path(out))).frame()
