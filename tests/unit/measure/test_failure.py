"""What exceptions mean, and that their words can always be stored."""

import errno

import msgspec
import pytest
import torch

from attnbench.measure.failure import on_account_of, reason, status_of, words
from helpers.subtests import as_subtests


@as_subtests(
    "error, status",
    [
        (RuntimeError("std::bad_alloc"), "oom_host"),
        (OSError(errno.ENOMEM, "Cannot allocate memory"), "oom_host"),
        (OSError(errno.ENOENT, "No such file"), "error"),
        (RuntimeError("CUDA error: out of memory\nCUDA kernel errors might be..."), "oom_device"),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"), "oom_device"),
        (RuntimeError("CUDNN error: CUDNN_STATUS_ALLOC_FAILED"), "oom_device"),
        (RuntimeError("CUDA error: an illegal memory access was encountered"), "error"),
        (RuntimeError("CUDA error: device-side assert triggered"), "error"),
    ],
)
def test_memory_that_ran_out_is_told_from_other_errors_however_it_is_put(error: Exception, status: str) -> None:
    assert status_of(error) == status


def test_half_a_character_in_a_message_is_written_so_that_it_can_be_stored() -> None:
    error = ValueError("file \udcff is bad")
    assert words(error) == r"file \udcff is bad"
    assert msgspec.json.encode(reason(error))


@as_subtests(
    "error, told",
    [
        (
            RuntimeError("[..] DefaultCPUAllocator: can't allocate memory: you tried to allocate 6442450944 bytes."),
            "the float64 reference needed 6.00 GiB more than was free",
        ),
        (
            torch.OutOfMemoryError("CUDA out of memory. Tried 20 GiB.\nSee documentation"),
            "the float64 reference needed more than the device's memory: CUDA out of memory. Tried 20 GiB.",
        ),
        (ValueError("no luck"), "ValueError: no luck"),
    ],
)
def test_where_the_harness_itself_ran_out_of_memory_the_reason_says_so(error: Exception, told: str) -> None:
    with pytest.raises(type(error)) as caught, on_account_of("the float64 reference"):
        raise error
    assert reason(caught.value) == told


ADVICE = (
    "\nCUDA kernel errors might be asynchronously reported at some other API call, so the stacktrace below might be "
    "incorrect.\nFor debugging consider passing CUDA_LAUNCH_BLOCKING=1"
)


@as_subtests(
    "told",
    [
        "CUDA error: no CUDA-capable device is detected",
        "No CUDA GPUs are available",
        "CUDA error: invalid device ordinal",
        "CUDA unknown error - this may be due to an incorrectly set up environment",
        "Unable to determine the device handle for GPU 0000:01:00.0: GPU is lost",
        "CUDA error: CUDA-capable device(s) is/are busy or unavailable",
        "CUDA error: uncorrectable ECC error encountered",
        "CUDA error: uncorrectable NVLink error detected during the execution",
    ],
)
def test_a_device_that_is_gone_or_broken_is_no_fault_of_the_mechanism(told: str) -> None:
    error = RuntimeError(told + ADVICE)
    assert (status_of(error), reason(error)) == ("device_lost", told)


@as_subtests("kind", [RuntimeError, torch.AcceleratorError])
def test_of_a_cuda_error_the_reason_is_its_first_line(kind: type[Exception]) -> None:
    error = kind("CUDA error: an illegal memory access was encountered" + ADVICE)
    assert reason(error) == f"{kind.__name__}: CUDA error: an illegal memory access was encountered"
