"""The exact model that a swap begins with: its mechanism's name, and the job that trains it."""

from msgspec.structs import replace

from attnbench.contracts.record import Job, Origin

EXACT = "exact"  # the name of its variant in rows
TARGET = "attnbench.train.exact:Exact"
_ORIGIN = Origin(distribution="attnbench")


def base_of(job: Job) -> Job | None:
    """Return the training of the exact model that a swap begins with, or None for a model that ships with a package."""
    if job.probe.swap is None or job.probe.swap.base:
        return None
    probe = replace(job.probe, kind="accuracy", swap=None, scaled={}, base=True)
    case = replace(job.case, variant=EXACT, options={})
    return replace(job, case=case, probe=probe, target=TARGET, origin=_ORIGIN)
