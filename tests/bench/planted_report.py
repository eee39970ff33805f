"""A run of 20,000 records: what a large sweep stores, planted."""

import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from msgspec.structs import replace

from attnbench.contracts.case import Mask
from attnbench.contracts.record import Environment, Measurement, Record
from attnbench.store import EnvironmentSeen, Plan
from attnbench.store.lines import EVENTS, PLAN, to_line
from unit.report.planted import job, record, value

VARIANTS, LENGTHS, HEADS = 15, (512, 1024, 2048, 4096, 8192, 16384), (4, 8, 16, 32)
PASSES, DTYPES, MASKS = ("forward", "forward-backward"), ("float32", "bfloat16"), (Mask(), Mask(causal=True))
MACHINE = Environment(attnbench="0.1.0", torch="2.13.0", cpu="a processor", device="cpu", threads=2)


def records() -> Iterator[Record]:
    """Yield five timings, a memory record and an agreement record of each case."""
    lot = random.Random(0)
    cases: list[dict[str, Any]] = [
        {"variant": f"variant-{number}", "seq": seq, "heads": heads, "passes": passes, "dtype": dtype, "mask": mask}
        for number in range(VARIANTS)
        for seq in LENGTHS
        for heads in HEADS
        for passes in PASSES
        for dtype in DTYPES
        for mask in MASKS
    ]
    for case in cases:
        number_of = int(case["variant"].partition("-")[2])
        cost_ns = 2e3 * case["heads"] * case["seq"] ** (1 + number_of / VARIANTS)
        for number in range(1, 6):
            samples = tuple(round(cost_ns * lot.gauss(1, 0.01)) for _ in range(25))
            timed = job(**case, round=number)
            counts = {"flops": 10**9 * case["seq"], "bytes_least": 10**6 * case["seq"], "bytes_executed": 10**9}
            yield record(timed, Measurement(metric="latency", unit="ns", values=samples), facts=counts)
        held = 4 * case["seq"] * case["heads"] * (64 + number_of)
        peaks = (value(held, "memory", "bytes"), value(held + 5, "memory_first", "bytes"))
        yield record(job(**case, kind="memory"), *peaks, value(held * 2, "memory_resident", "bytes"))
        errors = ("approximation_error", "numerical_error", "kept_mass", "cosine", "hidden_mass", "mask_leak")
        told = (value(lot.random(), name, "1") for name in errors)
        yield record(job(**case, kind="agreement"), *told)


def store(folder: Path) -> tuple[Path, int]:
    """Write the run without a sync after each record; return its folder and the number of records."""
    found = [replace(each, run="large", environment=MACHINE.key) for each in records()]
    path = folder / "large"
    path.mkdir(parents=True)
    jobs = tuple(each.job for each in found)
    plan = Plan.of(jobs, run="large", created_s=0.0, command=("run",), sweep={}, environment=MACHINE)
    (path / PLAN).write_bytes(to_line(plan))
    with (path / EVENTS).open("wb") as journal:
        journal.write(to_line(EnvironmentSeen(key=MACHINE.key, environment=MACHINE)))
        for each in found:
            journal.write(to_line(each))
    return path, len(found)
