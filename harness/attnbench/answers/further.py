"""What a search in a run's plan wants to know next, from what is known so far: pure."""

from collections.abc import Sequence

from attnbench.analysis.rows import rows
from attnbench.answers.fit.search import further_lengths
from attnbench.answers.tune.search import further_trials
from attnbench.contracts.record import Job, Record
from attnbench.store import Plan


def further(plan: Plan, records: Sequence[Record]) -> tuple[Job, ...]:
    """Give the jobs that are to be planned now, none of which is planned already; none where no search goes on."""
    if plan.fit is None and plan.search is None:
        return ()
    planned = {job.key for job in plan.jobs}
    found = rows([record for record in records if record.job.key in planned], plan.jobs, run=plan.run)
    jobs = [*further_lengths(found, plan), *further_trials(found, plan)]
    return tuple({job.key: job for job in jobs if job.key not in planned}.values())
