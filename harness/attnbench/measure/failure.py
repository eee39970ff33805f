"""The status that a mechanism's exception stands for, and its reason in words."""

import errno
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import torch

from attnbench.contracts.record import Status
from attnbench.contracts.units import digits
from attnbench.contracts.variant import InvalidOutput, Unsupported

_LONGEST = 2000
_NO_HOST_MEMORY = (
    "DefaultCPUAllocator: can't allocate memory",
    "DefaultCPUAllocator: not enough memory",
    "std::bad_alloc",
)
_NO_DEVICE_MEMORY = ("CUDA error: out of memory", "CUDA driver error: out of memory", "STATUS_ALLOC_FAILED")
# No mechanism causes these; a process that starts after the loss finds no device, or none of that index.
_DEVICE_GONE = (
    "no CUDA-capable device",
    "No CUDA GPUs are available",
    "invalid device ordinal",
    "CUDA unknown error",
    "GPU is lost",
    "fallen off the bus",
    "CUDA-capable device(s) is/are busy",
    "uncorrectable ECC error",
    "uncorrectable NVLink error",
)
_CUDA_ERROR = "CUDA error: "


class LeftOut(Exception):  # noqa: N818 - it is an answer, not an error
    """Raised in place of a metric that is optional; the message says why it was not measured."""


def status_of(error: BaseException) -> Status:
    """Return the status that an exception stands for."""
    text = words(error)
    if isinstance(error, Unsupported):
        return "unsupported"
    if isinstance(error, InvalidOutput):
        return "invalid_output"
    if isinstance(error, torch.OutOfMemoryError) or any(mark in text for mark in _NO_DEVICE_MEMORY):
        return "oom_device"
    if _is_no_host_memory(error) or any(mark in text for mark in _NO_HOST_MEMORY):
        return "oom_host"
    if any(mark in text for mark in _DEVICE_GONE):
        return "device_lost"
    return "error"


def reason(error: BaseException) -> str:
    """Return in one sentence what went wrong."""
    text, culprit = words(error), next(iter(getattr(error, "__notes__", ())), "")
    match status_of(error):
        case "unsupported" | "invalid_output":
            return text
        case "device_lost":
            return text.partition("\n")[0]
        case "oom_device":
            first = text.partition("\n")[0]
            return f"{culprit} needed more than the device's memory: {first}" if culprit else first
        case "oom_host":
            asked = text.partition("you tried to allocate ")[2].partition(" bytes")[0]
            amount = f"{digits(int(asked) / 2**30)} GiB more" if asked.isdigit() else "more memory"
            return f"{culprit or 'it'} needed {amount} than was free"
        case _ if _CUDA_ERROR in text:  # torch adds advice on debugging, which stays in the log
            return f"{type(error).__name__}: {text.partition(chr(10))[0]}"
        case _:
            return f"{type(error).__name__}: {text}"


def words(error: BaseException) -> str:
    """Return an exception's message, shortened; its type where the message is empty or cannot be rendered."""
    with suppress(Exception):
        return encodable(str(error)[:_LONGEST]) or type(error).__name__
    return type(error).__name__


def encodable(text: str) -> str:
    r"""Return text with lone surrogates, which UTF-8 cannot encode, escaped as \udcff."""
    return text.encode(errors="backslashreplace").decode()


@contextmanager
def on_account_of(culprit: str) -> Iterator[None]:
    """Attribute running out of memory in this context to the harness's own work, `culprit`, not to the mechanism."""
    try:
        yield
    except Exception as error:
        if status_of(error) in ("oom_host", "oom_device"):
            error.add_note(culprit)
        raise


def _is_no_host_memory(error: BaseException) -> bool:
    return isinstance(error, MemoryError) or (isinstance(error, OSError) and error.errno == errno.ENOMEM)
