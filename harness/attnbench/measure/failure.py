"""What an exception from a mechanism means: which status it is, and the reason in words."""

from contextlib import suppress

import torch

from attnbench.record import Status
from attnbench.variant import InvalidOutput, Unsupported

_LONGEST = 2000
_NO_HOST_MEMORY = ("DefaultCPUAllocator: can't allocate memory", "DefaultCPUAllocator: not enough memory")
_DEVICE_GONE = ("no CUDA-capable device", "GPU is lost", "fallen off the bus", "CUDA-capable device(s) is/are busy")


def status_of(error: BaseException) -> Status:
    """Tell the status that an exception stands for."""
    text = words(error)
    if isinstance(error, Unsupported):
        return "unsupported"
    if isinstance(error, InvalidOutput):
        return "invalid_output"
    if isinstance(error, torch.OutOfMemoryError):
        return "oom_device"
    if isinstance(error, MemoryError) or any(mark in text for mark in _NO_HOST_MEMORY):
        return "oom_host"
    if any(mark in text for mark in _DEVICE_GONE):
        return "device_lost"
    return "error"


def reason(error: BaseException) -> str:
    """Say in one sentence what went wrong."""
    text = words(error)
    match status_of(error):
        case "unsupported" | "invalid_output" | "device_lost":
            return text
        case "oom_device":
            return text.partition("\n")[0]
        case "oom_host":
            wanted = text.partition("you tried to allocate ")[2].partition(" bytes")[0]
            amount = f"{int(wanted) / 2**30:.2f} GiB more than" if wanted.isdigit() else "more than"
            return f"it wanted {amount} the memory left"
        case _:
            return f"{type(error).__name__}: {text}"


def words(error: BaseException) -> str:
    """Give an exception's message, shortened; its type where it has none or cannot say it."""
    with suppress(Exception):
        return str(error)[:_LONGEST] or type(error).__name__
    return type(error).__name__
