"""Records as a machine might have given them, the same every time: the makers, of which scenarios are built."""

import math
import random
import zlib
from collections.abc import Callable, Sequence

import msgspec

from attnbench.contracts.case import Case, Shape
from attnbench.contracts.record import Job, Measurement, Origin, Outcome, Probe, Protocol, Record

Cost = Callable[[Shape], float]

OWN = Origin(distribution="attnbench", version="0.1.0", source_hash="5eed5eed5eed5eed")
BACKENDS = {"flash": "torch flash (cpu)"}
COSTS: dict[str, Cost] = {
    "vanilla": lambda s: 2e-11 * s.batch * s.seq_q * s.seq_k * s.heads + 4e-5,
    "linformer": lambda s: 1.1e-8 * s.batch * s.seq_q * s.heads + 9e-5,
    "reformer": lambda s: 6e-8 * s.batch * s.seq_q * s.heads + 3e-4,
    "sparse": lambda s: 2.1e-8 * s.batch * s.seq_q * s.heads + 2e-4,
    "linear": lambda s: 0.8e-8 * s.batch * s.seq_q * s.heads + 6e-5,
    "flash": lambda s: 0.7e-11 * s.batch * s.seq_q * s.seq_k * s.heads + 2e-5,
}
ERRORS = {"vanilla": 3.1e-7, "flash": 2.9e-7, "linformer": 0.83, "reformer": 0.31, "sparse": 0.42, "linear": 0.71}


def shape(seq=512, **sizes):
    """Make a shape of 8 heads of 64 features."""
    given = {"batch": 1, "heads": 8, "head_dim": 64, "seq_q": seq, "seq_k": seq} | sizes
    return Shape(**{"kv_heads": given["heads"]} | given)


def job(variant="vanilla", kind="latency", *, seq=512, **changes):
    """Make a job; `changes` are fields of the shape, the probe, the case or the job."""
    sizes, probe, case = (
        {name: changes.pop(name) for name in list(changes) if name in struct.__struct_fields__}
        for struct in (Shape, Probe, Case)
    )
    fields = {"protocol": Protocol(), "target": "plugin:Plugin", "origin": OWN} | changes
    return Job(case=Case(variant=variant, shape=shape(seq, **sizes), **case), probe=Probe(kind=kind, **probe), **fields)


def record(of, *measurements, status="ok", run="r1", **outcome):
    """Make the record of a job."""
    return Record(
        run=run, job=of, outcome=Outcome(status=status, measurements=measurements, **outcome), environment="e1"
    )


def value(number, metric="latency", unit="ns", **more):
    """Make a measurement of one value."""
    return Measurement(metric=metric, unit=unit, values=(number,), **more)


def failed(of, status, detail=""):
    """Make the record of a job that gave nothing."""
    return record(of, status=status, detail=detail)


def timing(of, seconds, *, noise=0.004, flags=()):
    """Make a latency record of 25 samples around a time, whose processes differ by `noise`."""
    lot = random.Random(zlib.crc32(msgspec.json.encode(of.case)) + of.round)
    centre = seconds * 1e9 * math.exp(lot.gauss(0, noise))
    samples = tuple(round(centre * math.exp(lot.gauss(0, 0.003))) for _ in range(25))
    latency = Measurement(metric="latency", unit="ns", values=samples, flags=tuple(flags))
    first = value(round(40 * centre), "first_call")
    return record(of, latency, first, backend=BACKENDS.get(of.case.variant, ""))


def timings(variant, lengths, rounds=5, *, noise=0.004, **changes):
    """Make the latency records of a variant over lengths and rounds."""
    jobs = [job(variant, seq=seq, round=number, **changes) for number in range(1, rounds + 1) for seq in lengths]
    return [timing(each, COSTS[variant](each.case.shape), noise=noise) for each in jobs]


def memories(variant, lengths):
    """Make the memory records of a variant over lengths, one round."""
    jobs = [job(variant, "memory", seq=seq) for seq in lengths]
    width = {"vanilla": lambda seq: seq, "linformer": lambda seq: 48, "reformer": lambda seq: 512}
    sizes = [8 * 4 * seq * width.get(variant, lambda seq: 64)(seq) for seq in lengths]
    return [record(each, value(size, "memory", "bytes")) for each, size in zip(jobs, sizes, strict=True)]


def agreements(variant, lengths):
    """Make the agreement records of a variant over lengths: two metrics."""
    measured = (value(ERRORS[variant], "approximation_error", "1"), value(1e-7, "numerical_error", "1"))
    return [record(job(variant, "agreement", seq=seq), *measured) for seq in lengths]


def accuracy_job(variant, *, seq=64, heads=4, **task_options):
    """Make the job that trains a variant, in a model 64 wide."""
    typed = {"length": seq, "pairs": 8} | task_options
    written = typed if heads == 4 else typed | {"heads": heads}  # what is as in the preset is not written
    task = ",".join(["mqar:preset=tiny", *(f"{name}={value}" for name, value in written.items())])
    sizes, options = {"heads": heads, "head_dim": 64 // heads}, {"layers": 2} | typed
    return job(variant, "accuracy", seq=seq, passes="", **sizes, task=task, task_options=options)


def accuracies(variant, scores: Sequence[float], **task_options):
    """Make the accuracy record of a variant over seeds."""
    score = Measurement(metric="accuracy", unit="1", values=tuple(scores), higher_is_better=True)
    loss = Measurement(metric="loss", unit="1", values=tuple(1 - each for each in scores))
    return record(accuracy_job(variant, **task_options), score, loss, facts={"rate": 0.003})


def floor(lengths):
    """Make the latency records of the harness's own floor."""
    return [timing(job("empty", seq=seq, round=number), 1.2e-6) for seq in lengths for number in (1, 2, 3)]
