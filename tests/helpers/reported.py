"""Runs as a report takes them, made from planted records without a store."""

from collections.abc import Sequence

from msgspec.structs import replace

from attnbench.analysis.guard import Circumstances
from attnbench.analysis.roofline import derived
from attnbench.analysis.rows import rows
from attnbench.contracts.record import Environment, Rates, Record
from attnbench.report.reported import Report, Reported
from attnbench.report.reproduction import reproduction
from attnbench.store import Plan

MACHINE = Environment(attnbench="0.1.0", torch="2.13.0", cpu="a processor", device="cpu", threads=2)
RATES = Rates(device="cpu", threads=2, bytes_per_s=1e10, flops_per_s={"float32": 1e11})


def reported(
    records: Sequence[Record], *, run: str = "r1", machine: Environment = MACHINE, rates: Rates | None = RATES
) -> Reported:
    """Return a run of these records."""
    named = [replace(record, run=run, environment=machine.key) for record in records]
    jobs = tuple(record.job for record in named)
    plan = Plan.of(jobs, run=run, created_s=0.0, command=("run",), sweep={}, environment=machine)
    found = rows(named, jobs, run=run)
    return Reported(
        run=run,
        rows=(*found, *derived(found, rates)),
        rates=rates,
        reproduction=reproduction(plan, {machine.key: machine}),
        circumstances=Circumstances(environments=(machine,), jobs=jobs),
    )


def report(*several: Sequence[Record]) -> Report:
    """Return a report of runs named r1, r2 and so on."""
    return Report([reported(records, run=f"r{place}") for place, records in enumerate(several, start=1)])
