"""Jobs, plans, outcomes and rows made by hand, for tests that measure nothing."""

from msgspec.structs import replace

from attnbench.analysis.rows import Row
from attnbench.contracts.case import Case, Mask, Shape
from attnbench.contracts.record import Environment, Job, Measurement, Origin, Outcome, Probe, ProbeKind, Protocol
from attnbench.store import Plan

SHAPE = Shape(batch=1, heads=8, kv_heads=8, seq_q=512, seq_k=512, head_dim=64)
ENVIRONMENT = Environment(attnbench="0.1.0", torch="2.13.0", device="cpu", device_dtypes=("float32",), threads=2)


def job(variant: str = "vanilla", *, kind: ProbeKind = "latency", seq: int = 512, number: int = 1) -> Job:
    """Return a job."""
    return Job(
        case=Case(variant=variant, shape=replace(SHAPE, seq_q=seq, seq_k=seq)),
        probe=Probe(kind=kind),
        protocol=Protocol(threads=2, timeout_s=20.0),
        target=f"planted:{variant}",
        origin=Origin(distribution="planted", version="1", source_hash=variant),
        round=number,
    )


def plan(jobs: list[Job], *, run: str = "20260101-000000-aaaa") -> Plan:
    """Return the plan of a run of these jobs."""
    return Plan.of(tuple(jobs), run=run, created_s=0.0, command=("run",), sweep={}, environment=ENVIRONMENT)


def ok(*values_ns: int, flags: tuple[str, ...] = ()) -> Outcome:
    """Return the outcome of a latency job with these samples."""
    return Outcome(
        status="ok", measurements=(Measurement(metric="latency", unit="ns", values=values_ns or (1000,), flags=flags),)
    )


def with_axes(row: Row, **axes: object) -> Row:
    """Return a row as of another case; `axes` are fields of the case, of its shape or of its mask."""
    shape, mask = (
        {name: axes.pop(name) for name in list(axes) if name in part.__struct_fields__} for part in (Shape, Mask)
    )
    case = row.case
    shape, mask = replace(case.shape, **shape), replace(case.mask, **mask)
    return replace(row, case=replace(case, shape=shape, mask=mask, **axes))
