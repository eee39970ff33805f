"""What there is and what of it runs here: every plugin described and tried in a child."""

from collections.abc import Iterator

from msgspec import Struct

from attnbench import registry, session
from attnbench.case import Case, Mask, Shape
from attnbench.describe import Description, TaskDescription
from attnbench.execute.messages import DescribeTask, DescribeVariant, TryVariant
from attnbench.record import Environment
from attnbench.registry import Entry
from attnbench.session import Executor

# Large enough for every kernel's smallest block, small enough to be over at once.
_TRIAL = Shape(batch=1, heads=2, kv_heads=2, seq_q=128, seq_k=128, head_dim=64)


class Surveyed(Struct, frozen=True, kw_only=True):
    """A variant, what it says of itself, and why it does not run here (empty where it does)."""

    name: str
    entry: Entry
    description: Description
    device: str
    obstacle: str


def variants(executor: Executor, machine: Environment) -> Iterator[Surveyed]:
    """Describe and try every registered variant, on the machine's device and in the dtype that is usual there."""
    for entry in _entries("variants"):
        found = _described(executor, entry)
        obstacle = found.failure or _try(executor, entry, found, machine.device)
        yield Surveyed(name=entry.name, entry=entry, description=found, device=machine.device, obstacle=obstacle)


def tasks(executor: Executor) -> Iterator[tuple[Entry, TaskDescription]]:
    """Describe every registered task, with the options of its default preset."""
    for entry in _entries("tasks"):
        try:
            yield entry, executor.ask(DescribeTask(entry=entry), TaskDescription)
        except RuntimeError as loss:
            yield entry, TaskDescription(origin=entry.origin, failure=_first_line(loss))


def _described(executor: Executor, entry: Entry) -> Description:
    """Describe a variant; one whose import ends the process is described by how it ended."""
    try:
        return executor.ask(DescribeVariant(entry=entry), Description)
    except RuntimeError as loss:
        return Description(origin=entry.origin, failure=_first_line(loss))


def _try(executor: Executor, entry: Entry, found: Description, device: str) -> str:
    causal = found.support is not None and found.support.full is not True
    case = Case(
        variant=entry.name,
        options=found.options,
        shape=_TRIAL,
        mask=Mask(causal=causal),
        dtype="bfloat16" if device.startswith("cuda") else "float32",
        device=device,
    )
    try:
        return executor.ask(TryVariant(target=entry.target, case=case), str)
    except RuntimeError as loss:
        return _first_line(loss)


def _first_line(loss: RuntimeError) -> str:
    return str(loss).partition("\n")[0]


def _entries(group: registry.Group) -> Iterator[Entry]:
    for claims in registry.entries(group).values():
        yield from claims


def machine(executor: Executor) -> Environment:
    """Describe this machine with the device that --device auto would take."""
    return session.ask_machine(executor, "auto", threads=session.cores(), allocator="default")
