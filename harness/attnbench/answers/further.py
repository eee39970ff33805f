"""The jobs that the searches of a run's plan call for next, given the records so far: pure."""

from collections.abc import Sequence

from attnbench.analysis.rows import rows
from attnbench.answers.fit.search import further_lengths
from attnbench.answers.tune.search import further_trials
from attnbench.contracts.record import Job, Record
from attnbench.store import Plan


def further(plan: Plan, records: Sequence[Record]) -> tuple[Job, ...]:
    """Return the jobs to add to the plan, none of which it has already; none once every search is over."""
    if plan.fit is None and plan.search is None:
        return ()
    planned = {job.key for job in plan.jobs}
    measured = rows([record for record in records if record.job.key in planned], plan.jobs, run=plan.run)
    jobs = [*further_lengths(measured, plan), *further_trials(measured, plan)]
    return tuple({job.key: job for job in jobs if job.key not in planned}.values())
