"""The machine that a run is planned for."""

from attnbench.contracts.errors import NoProcess
from attnbench.contracts.record import Allocator, Environment
from attnbench.execute.executor import Executor, NoAnswer
from attnbench.execute.limits import available_bytes
from attnbench.execute.messages import DescribeMachine


def describe_machine(executor: Executor, device: str, *, threads: int, allocator: Allocator) -> Environment:
    """Return a description of this machine with one of its devices.

    Raises UsageError for a device that it lacks, and NoProcess where it has no room for a process of ours.
    """
    try:
        return executor.ask(DescribeMachine(device=device, threads=threads, allocator=allocator), Environment)
    except NoAnswer as end:
        raise NoProcess(
            f"the process that describes this machine {end}; free memory, or raise the limits on memory and processes "
            "(ulimit -v, ulimit -u)"
        ) from end


def spare_bytes(machine: Environment) -> int | None:
    """Return the memory that a job may use where no flag bounds it: a GPU's own, or what the machine has free now."""
    return machine.device_memory_bytes if machine.device.startswith("cuda") else available_bytes()
