"""A run on disk: its plan, and an append-only journal of what came of each job, which survives kills and full disks."""

from attnbench.store.lines import Axis, EnvironmentSeen, Fit, Plan, Search, Searched
from attnbench.store.merge import merge
from attnbench.store.reading import Broken
from attnbench.store.run import Store
from attnbench.store.runs import RESULTS, RunSummary, checkpoint_path, find_run, list_runs, new_run_id, run_paths
from attnbench.store.verify import Report, verify

__all__ = [
    "RESULTS",
    "Axis",
    "Broken",
    "EnvironmentSeen",
    "Fit",
    "Plan",
    "Report",
    "RunSummary",
    "Search",
    "Searched",
    "Store",
    "checkpoint_path",
    "find_run",
    "list_runs",
    "merge",
    "new_run_id",
    "run_paths",
    "verify",
]
