"""A survey of the installed plugins: each described, and each variant tried, in a child."""

from collections.abc import Iterator

from msgspec import Struct

from attnbench.contracts.case import Case, Mask, Shape
from attnbench.contracts.record import Environment
from attnbench.contracts.variant import Support
from attnbench.execute.executor import Executor, NoAnswer
from attnbench.execute.messages import DescribeVariant, TryVariant
from attnbench.measure import processor
from attnbench.planning.machine import describe_machine
from attnbench.planning.metrics import describe_metric
from attnbench.planning.plugins import describe_each
from attnbench.planning.tasks import describe_task
from attnbench.plugins import registry
from attnbench.plugins.describe import Description, MetricDescription, TaskDescription
from attnbench.plugins.registry import Entry

# Large enough for every kernel's smallest block, small enough to be over at once.
_TRIAL = Shape(batch=1, heads=2, kv_heads=2, seq_q=128, seq_k=128, head_dim=64)


class Surveyed(Struct, frozen=True, kw_only=True):
    """A variant, how it describes itself, and why it does not run here (empty where it does)."""

    name: str
    entry: Entry
    description: Description
    device: str
    obstacle: str


def variants(executor: Executor, machine: Environment) -> Iterator[Surveyed]:
    """Describe and try every registered variant, on the machine's device and in the dtype usual there."""
    entries = tuple(_entries("variants"))
    questions = [DescribeVariant(entry=entry) for entry in entries]
    for entry, description in zip(entries, describe_each(executor, questions, Description), strict=True):
        obstacle = description.failure or _try(executor, entry, description, machine.device)
        yield Surveyed(name=entry.name, entry=entry, description=description, device=machine.device, obstacle=obstacle)


def tasks(executor: Executor) -> Iterator[tuple[Entry, TaskDescription]]:
    """Describe every registered task, with the options of its default preset."""
    for entry in _entries("tasks"):
        yield entry, describe_task(executor, entry)


def metrics(executor: Executor) -> Iterator[tuple[Entry, MetricDescription]]:
    """Describe every registered metric."""
    for entry in _entries("metrics"):
        yield entry, describe_metric(executor, entry)


def _try(executor: Executor, entry: Entry, description: Description, device: str) -> str:
    support = description.support or Support()
    case = Case(
        variant=entry.name,
        options=description.options,
        shape=_TRIAL,
        mask=Mask(causal=support.full is not True),
        dtype="bfloat16" if device.startswith("cuda") else "float32",
        device=device,
        level=support.level,
    )
    try:
        return executor.ask(TryVariant(target=entry.target, case=case), str)
    except NoAnswer as end:
        return f"its process {end}"


def _entries(group: registry.Group) -> Iterator[Entry]:
    for claims in registry.entries(group).values():
        yield from claims


def machine(executor: Executor) -> Environment:
    """Describe this machine with the device that --device auto chooses."""
    return describe_machine(executor, "auto", threads=processor.cores(), allocator="default")
