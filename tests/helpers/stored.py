"""Runs stored in a folder, for tests of commands that read them."""

from pathlib import Path

from msgspec.structs import replace

from attnbench.contracts.record import Environment, Record
from attnbench.store import Plan, Store
from unit.report.planted import job, timing

MACHINE = Environment(attnbench="0.1.0", torch="2.13.0", cpu="a processor", device="cpu", threads=2)


def store(folder: Path, name: str, records: list[Record], *, machine: Environment = MACHINE) -> None:
    """Store records as a run."""
    jobs = tuple(record.job for record in records)
    plan = Plan.of(jobs, run=name, created_s=0.0, command=("run",), sweep={}, environment=machine)
    with Store.create(folder / "results", plan) as run:
        for record in records:
            run.append(replace(record, run=name, environment=machine.key))


def timed(variant: str, factor: float, rounds: int = 5, *, lengths: tuple[int, ...] = (512, 1024), **changes) -> list:
    """Return timings of a variant at some lengths; rounds differ by a twentieth of a percent."""
    return [
        timing(job(variant, seq=seq, round=number, **changes), factor * seq * 1e-6 * (1 + number / 2000), noise=0)
        for number in range(1, rounds + 1)
        for seq in lengths
    ]
