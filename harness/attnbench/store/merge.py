"""Merging runs: one run with the jobs and records of all; each record keeps the run that it was written in."""

import shutil
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from msgspec.structs import replace

from attnbench.contracts.errors import DamagedStore, UsageError
from attnbench.contracts.record import Job
from attnbench.store.lines import Plan
from attnbench.store.run import Store
from attnbench.store.runs import CHECKPOINTS, new_run_id


def merge(paths: Sequence[Path], out: Path, command: tuple[str, ...]) -> Path:
    """Merge runs into a new one, leaving them as they are; return its folder.

    The timed rounds of each run are numbered after those of the run before: rounds of two runs were not measured side
    by side, and no comparison may pair them. Any other job (memory, agreement, a training from a seed) is the same in
    each run that has it, and the last run's record counts. Searches (--refine, --fit, tune) do not continue in a merged
    run.

    Raises DamagedStore for a damaged run, and UsageError if `out` cannot be written.
    """
    with ExitStack() as held:
        stores = [held.enter_context(Store.open(path, write=False)) for path in paths]
        for path, store in zip(paths, stores, strict=True):
            if store.broken():
                raise DamagedStore(f"{path} has broken lines: attnbench verify {path} names them; nothing was merged")
        _refuse_doubles([store.plan for store in stores], paths)
        counts = [max((job.timed_round for job in store.plan.jobs), default=0) for store in stores]
        total, before = sum(counts), [sum(counts[:place]) for place in range(len(counts))]
        jobs = [
            _renumbered(job, by, total) for store, by in zip(stores, before, strict=True) for job in store.plan.jobs
        ]
        target = held.enter_context(Store.create(out, _plan([store.plan for store in stores], jobs, command)))
        for store, by in zip(stores, before, strict=True):
            rates = store.rates()
            target.append(*store.environments().values(), *([rates] if rates else []))
            target.append(*(replace(each, job=_renumbered(each.job, by, total)) for each in store.history()))
            if (store.path / CHECKPOINTS).is_dir():
                shutil.copytree(store.path / CHECKPOINTS, target.path / CHECKPOINTS, dirs_exist_ok=True)
        return target.path


def _refuse_doubles(plans: Sequence[Plan], paths: Sequence[Path]) -> None:
    """Raise UsageError for a run that would be counted twice: it, or a copy, is named again or in a merged run."""
    seen: dict[str, Path] = {}
    for plan, path in zip(plans, paths, strict=True):
        for run in _sources(plan):
            if run in seen:
                raise UsageError(f"RUN: {seen[run]} and {path} both hold the run {run}; name one of them")
            seen[run] = path


def _sources(plan: Plan) -> tuple[str, ...]:
    """Return the runs whose records a run holds."""
    return plan.sources or (plan.run,)


def _plan(plans: Sequence[Plan], jobs: Sequence[Job], command: tuple[str, ...]) -> Plan:
    created_s = time.time()
    return plans[0].with_jobs(
        {job.key: job for job in jobs}.values(),
        run=new_run_id(created_s),
        created_s=created_s,
        command=command,
        budget_s=None,
        refine=0,
        fit=None,
        search=None,
        sources=tuple(dict.fromkeys(source for plan in plans for source in _sources(plan))),
    )


def _renumbered(job: Job, by: int, total: int) -> Job:
    """Return a timed job with a round number that no other run uses; all are then rounds of the same measurement."""
    if not job.timed_round:
        return job
    return replace(job, round=job.round + by, protocol=replace(job.protocol, rounds=total))
