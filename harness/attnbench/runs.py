"""A stored run and what is known of it: its rows, its fits and comparisons, its report."""

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from attnbench.analysis.crossover import Crossover, crossovers
from attnbench.analysis.guard import Circumstances
from attnbench.analysis.pareto import OBJECTIVES, Front, fronts
from attnbench.analysis.rows import Row
from attnbench.analysis.scaling import Growth, growths
from attnbench.analysis.spent import Spent, spent
from attnbench.report.frame import frame
from attnbench.report.reported import Report, Reported, columns_of, read, rows_of
from attnbench.report.reproduction import reproduction
from attnbench.store import RESULTS, Store, find_run
from attnbench.store.collector import collector_paused

if TYPE_CHECKING:
    import pandas as pd


class Run:
    """A stored run: its folder, and what has been measured so far."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @property
    def id(self) -> str:
        """The run's name under its folder."""
        return self.path.name

    @collector_paused()
    def rows(self) -> list[Row]:
        """Give the tidy rows: one per case and metric of what is planned (an edited plugin's old records are not)."""
        with Store.open(self.path, write=False) as store:
            return rows_of(store)

    def scaling(self) -> list[Growth]:
        """Fit latency and memory of each variant as a power of the sequence length."""
        return growths(self.rows())

    def crossovers(self) -> list[Crossover]:
        """Find the lengths at which one variant overtakes another in latency, those that concern the best first."""
        return crossovers(self.rows())

    def pareto(self, objectives: Iterable[str] = OBJECTIVES) -> list[Front]:
        """Find which variants no other one beats at no loss, at each place of the sweep and for each task."""
        return fronts(self.rows(), tuple(objectives))

    def reproduction(self) -> dict[str, Any]:
        """Give what a stranger needs to measure this run again, as JSON values."""
        with Store.open(self.path, write=False) as store:
            return reproduction(store.plan, store.environments())

    def spent(self) -> Spent:
        """Say where the time of this run went."""
        with Store.open(self.path, write=False) as store:
            return spent(store.records())

    def circumstances(self) -> Circumstances:
        """Give where and how the run was measured: what makes its figures comparable with another's, or not."""
        with Store.open(self.path, write=False) as store:
            return Circumstances(environments=tuple(store.environments().values()), jobs=store.plan.jobs)

    @collector_paused()
    def reported(self) -> Reported:
        """Give all that a report takes of the run, read once."""
        with Store.open(self.path, write=False) as store:
            return read(store)

    @collector_paused()
    def report(self, path: str | Path, *others: "Run") -> None:
        """Write the run, with others beside it, as one HTML file that needs no network."""
        from attnbench.report.files import write_page  # here, because loading a run does without it

        write_page(Report([each.reported() for each in (self, *others)]), Path(path))

    @collector_paused()
    def frame(self) -> "pd.DataFrame":
        """Give the tidy rows as a pandas DataFrame."""
        with Store.open(self.path, write=False) as store:
            return frame(columns_of(store))

    def __repr__(self) -> str:
        return f"attnbench.Run({str(self.path)!r})"


def load(run: str | Path, *, out: str | Path = RESULTS) -> "pd.DataFrame":
    """Load a run's tidy rows as a pandas DataFrame, by its path or its id under `out`."""
    return Run(find_run(str(run), Path(out))).frame()
