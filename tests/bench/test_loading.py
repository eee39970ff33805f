"""The time and memory that loading a large run takes, from the files on disk to a DataFrame.

The run has 100,000 records: 20,000 cases (4 variants at 5000 lengths), each timed in 5 rounds. The time excludes the
import of pandas and must be under 12 s in the median of three loads, the peak memory under 1.5 GiB.
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

LOADS = 3  # the median of them counts, because the machine may be shared
MOST_S, MOST_BYTES = 12, 1.5 * 2**30
ROUNDS, LENGTHS = 5, 5000
OPTIONS = {"vanilla": {}, "linear": {"features": "elu"}, "reformer": {"rounds": 4, "bucket": 64}, "flash": {}}
RECORDS = ROUNDS * LENGTHS * len(OPTIONS)
ROWS_OF_A_CASE = 6  # latency and first call, and four rates derived from latency
LOAD = """
import json, resource, sys, time
import pandas
start, start_cpu = time.perf_counter(), time.process_time()
import attnbench
frame = attnbench.load(sys.argv[1])
wall, cpu = time.perf_counter() - start, time.process_time() - start_cpu
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
print(json.dumps({"rows": len(frame), "wall_s": wall, "cpu_s": cpu, "peak_bytes": peak}))
"""


def jobs() -> list[Job]:
    """Return the jobs of a sweep in the order of a run: round by round, each round shuffled anew."""
    found: list[Job] = []
    for number in range(1, ROUNDS + 1):
        block = [job(variant, length, number) for length in range(1, LENGTHS + 1) for variant in OPTIONS]
        Random(number).shuffle(block)
        found += block
    return found


def job(variant: str, length: int, number: int) -> Job:
    """Return the latency job of a variant at one length in one round."""
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
    """Return the outcome of a latency job, of its usual size: 20 samples and some twenty facts."""
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
    """Write the run; its journal without a sync after each record, which is not what is measured."""
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
    """Load the run in a fresh process; return its number of rows, its seconds and its peak memory."""
    done = subprocess.run(
        [sys.executable, "-c", LOAD, str(run)], capture_output=True, text=True, check=True, env=environment()
    )
    measured: dict[str, float] = json.loads(done.stdout)
    return measured


def test_a_hundred_thousand_records_load_as_a_data_frame_in_under_12_s_and_1_5_gib(run: Path) -> None:
    loads = [load(run) for _ in range(LOADS)]
    seconds, cpu_s = (sorted(each[name] for each in loads) for name in ("wall_s", "cpu_s"))
    peak_bytes = max(each["peak_bytes"] for each in loads)
    size = sum(file.stat().st_size for file in run.iterdir()) / 2**20
    print(
        f"{RECORDS} records ({size:.0f} MiB) as {loads[0]['rows']} rows: median {median(seconds):.2f} s "
        f"({seconds[0]:.2f} to {seconds[-1]:.2f}), {median(cpu_s):.2f} s of them on a processor; "
        f"peak {peak_bytes / 2**20:.0f} MiB"
    )
    assert {each["rows"] for each in loads} == {RECORDS // ROUNDS * ROWS_OF_A_CASE}
    assert median(seconds) < MOST_S
    assert peak_bytes < MOST_BYTES
