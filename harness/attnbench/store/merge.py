"""Several runs as one: the jobs and records of all; a record goes on naming the run that it was written in."""

import shutil
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from msgspec.structs import replace

from attnbench.contracts.errors import DamagedStore
from attnbench.contracts.record import Job
from attnbench.store.lines import Plan
from attnbench.store.reading import read_journal
from attnbench.store.run import Store
from attnbench.store.runs import CHECKPOINTS, new_run_id


def merge(paths: Sequence[Path], out: Path, command: tuple[str, ...]) -> Path:
    """Make one run of several, which are left as they are; give its folder.

    The timed rounds of each run follow those of the one before, under numbers of their own: rounds of two runs were
    not measured side by side, and no comparison may pair them. What is no timed round (memory, agreement, a training
    from a seed) is the same job in each run that has it, and the last run's record of it counts. Searches (--refine,
    --fit, tune) do not go on in what was merged.

    Raises DamagedStore for a run that is not whole, and UsageError where `out` cannot be written.
    """
    with ExitStack() as held:
        stores = [held.enter_context(Store.open(path, write=False)) for path in paths]
        for path in paths:
            if read_journal(path).broken:
                raise DamagedStore(f"{path} has broken lines: attnbench verify {path} names them; nothing was merged")
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
        sources=tuple(dict.fromkeys(source for plan in plans for source in (plan.sources or (plan.run,)))),
    )


def _renumbered(job: Job, by: int, total: int) -> Job:
    """Give a timed job a round that no other run's has; all of them are then rounds of one question."""
    if not job.timed_round:
        return job
    return replace(job, round=job.round + by, protocol=replace(job.protocol, rounds=total))
