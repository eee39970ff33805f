"""Small plans and records for tests of the store, in this process and in children that are killed."""

import os
import subprocess
import sys
import zlib
from pathlib import Path

from attnbench.contracts.case import Case, Shape
from attnbench.contracts.record import Environment, Job, Measurement, Origin, Outcome, Probe, Protocol, Record, Status
from attnbench.store import Plan, Store

RUN = "20261122-121405-x7k2"
CREATED_S = 1795349645.0
ENVIRONMENT = Environment(attnbench="0.1.0", torch="2.13.0", cpu="a processor", cores=2, threads=2)


def make_job(number: int, *, attempt: int = 1) -> Job:
    """Return the job with a number; each number is another case."""
    shape = Shape(batch=1, heads=8, kv_heads=8, seq_q=number + 1, seq_k=512, head_dim=64)
    origin = Origin(distribution="attnbench", version="0.1.0", source_hash="0123456789abcdef")
    case = Case(variant="vanilla", shape=shape)
    return Job(
        case=case, probe=Probe(kind="latency"), protocol=Protocol(), target="m:V", origin=origin, attempt=attempt
    )


def number_of(record: Record) -> int:
    """Return the number of a record's job."""
    return record.job.case.shape.seq_q - 1


def make_record(number: int, status: Status = "ok", *, attempt: int = 1, detail: str = "", samples: int = 2) -> Record:
    """Return a record of the job with a number."""
    values = tuple(1_000_000 + number + sample for sample in range(samples))
    measured = (Measurement(metric="latency", unit="ns", values=values),) if status == "ok" else ()
    outcome = Outcome(status=status, measurements=measured, detail=detail)
    return Record(
        run=RUN, job=make_job(number, attempt=attempt), outcome=outcome, environment=ENVIRONMENT.key, started_s=1e9
    )


def make_plan(jobs: int, *, run: str = RUN, created_s: float = CREATED_S) -> Plan:
    """Return a plan of the jobs with numbers below `jobs`."""
    return Plan.of(
        (make_job(number) for number in range(jobs)),
        run=run,
        created_s=created_s,
        command=("attnbench", "run", "--seq", "512"),
        sweep={"seq": [512], "metrics": ["latency"]},
        environment=ENVIRONMENT,
    )


def numbers(store: Store) -> list[int]:
    """Return the numbers of the jobs that have a record."""
    return [number_of(record) for record in store.records()]


def sealed(event: bytes) -> bytes:
    """Return a line that holds these bytes under their checksum."""
    return b'{"crc32":"%08x","event":%s}\n' % (zlib.crc32(event), event)


def add_line(store: Store, line: bytes) -> None:
    """Append a line to a run's journal, bypassing the store."""
    with (store.path / "events.jsonl").open("ab") as journal:
        journal.write(line)


def start_child(code: str, *arguments: object) -> subprocess.Popen[str]:
    """Run code in a process of its own that can import this module."""
    tests = Path(__file__).parent
    paths = os.pathsep.join([str(tests.parent / "harness"), str(tests)])
    return subprocess.Popen(
        [sys.executable, "-c", code, *map(str, arguments)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": paths},
    )
