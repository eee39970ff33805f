"""How long a large run takes to load: 100,000 records as a sweep leaves them, from the disk to a DataFrame.

They are 20,000 cells (4 variants, 5000 lengths) timed in 5 rounds. pandas is imported before the clock starts.
"""

import json
import subprocess
import sys
from pathlib import Path
from random import Random
from statistics import median

import pytest

from attnbench.contracts.case import Case, Shape
from attnbench.contracts.record import Job, Measurement, Origin, Outcome, Probe, Protocol, Rates, Record
from attnbench.store import Store
from attnbench.store.lines import to_line
from helpers.command import environment
from helpers.planted import ENVIRONMENT, plan

GOES = 3  # the median of them, as the machine may be shared
ROUNDS, LENGTHS = 5, 5000
OPTIONS = {"vanilla": {}, "linear": {"features": "elu"}, "reformer": {"rounds": 4, "bucket": 64}, "flash": {}}
RECORDS = ROUNDS * LENGTHS * len(OPTIONS)
ROWS_OF_A_CELL = 6  # latency and first call; four rates that follow from latency
LOAD = """
import json, resource, sys, time
import pandas
start = time.perf_counter()
import attnbench
frame = attnbench.load(sys.argv[1])
wall = time.perf_counter() - start
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
print(json.dumps({"rows": len(frame), "wall_s": wall, "peak_bytes": peak}))
"""


def jobs() -> list[Job]:
    """Plan a sweep as `plan_jobs` does: a round at a time, each in an order of its own."""
    found: list[Job] = []
    for number in range(1, ROUNDS + 1):
        block = [job(variant, length, number) for length in range(1, LENGTHS + 1) for variant in OPTIONS]
        Random(number).shuffle(block)
        found += block
    return found


def job(variant: str, length: int, number: int) -> Job:
    """Plan one latency job."""
    shape = Shape(batch=1, heads=8, kv_heads=8, seq_q=length, seq_k=length, head_dim=64)
    return Job(
        case=Case(variant=variant, options=OPTIONS[variant], shape=shape),
        probe=Probe(kind="latency"),
        protocol=Protocol(threads=2),
        target=f"attnbench_variants.{variant}:Mechanism",
        origin=Origin(distribution="attnbench", version="0.1.0", source_hash=f"{variant:0<16}"),
        round=number,
    )


def outcome(job: Job, lot: Random) -> Outcome:
    """Give what a latency job tells, at its usual size: 20 samples and some twenty facts."""
    centre = 1000 * job.case.shape.seq_q
    samples = tuple(round(centre * lot.gauss(1, 0.01)) for _ in range(20))
    latency = Measurement(metric="latency", unit="ns", values=samples)
    first = Measurement(metric="first_call", unit="ns", values=(40 * centre,))
    work = {"flops": 4 * 64 * job.case.shape.seq_q, "flops_by": "variant", "bytes_by": "counter"}
    work |= {"bytes_least": 1 << 20, "bytes_executed": 1 << 21}
    calls = {"stop": "steady", "group": 2, "warmup_calls": 4, "warmup_ns": 260921039, "calls_ns": 2004028123}
    machine = {"threads": 2, "cpu_mhz_before": 2445.402, "load_before": 1.19, "cpu_mhz": 2445.402, "load": 1.34}
    return Outcome(
        status="ok", measurements=(latency, first), backend="torch-matmul 2.13.0", facts=calls | work | machine
    )


@pytest.fixture(scope="session")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write the run; its journal all at once, for 100,000 times to the disk is not what is measured."""
    planned, lot = jobs(), Random(0)
    with Store.create(tmp_path_factory.mktemp("results"), plan(planned)) as store:
        store.append(ENVIRONMENT)
        store.append(Rates(device="cpu", threads=2, bytes_per_s=2e10, flops_per_s={"float32": 1e11}))
    with (store.path / "events.jsonl").open("ab") as journal:
        for number, each in enumerate(planned):
            of = Record(
                run=plan([]).run, job=each, outcome=outcome(each, lot), environment=ENVIRONMENT.key, seconds=2.5
            )
            journal.write(to_line(of))
            lot.seed(number)
    return store.path


def load(run: Path) -> dict[str, float]:
    """Load the run in a fresh process and give its rows, seconds and peak."""
    done = subprocess.run(
        [sys.executable, "-c", LOAD, str(run)], capture_output=True, text=True, check=True, env=environment()
    )
    told: dict[str, float] = json.loads(done.stdout)
    return told


def test_a_hundred_thousand_records_are_a_data_frame_in_under_12_s(run: Path) -> None:
    told = [load(run) for _ in range(GOES)]
    seconds = sorted(each["wall_s"] for each in told)
    size = sum(file.stat().st_size for file in run.iterdir()) / 2**20
    print(
        f"{RECORDS} records ({size:.0f} MiB) as {told[0]['rows']} rows: median "
        f"{median(seconds):.2f} s ({seconds[0]:.2f} to {seconds[-1]:.2f}); peak {told[0]['peak_bytes'] / 2**20:.0f} MiB"
    )
    assert {each["rows"] for each in told} == {RECORDS // ROUNDS * ROWS_OF_A_CELL}
    assert median(seconds) < 12
    assert max(each["peak_bytes"] for each in told) < 1.5 * 2**30
