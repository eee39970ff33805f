"""What exceptions mean, and that their words can always be stored."""

import errno

import msgspec
import pytest
import torch

from attnbench.measure.failure import on_account_of, reason, status_of, words


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (RuntimeError("std::bad_alloc"), "oom_host"),
        (OSError(errno.ENOMEM, "Cannot allocate memory"), "oom_host"),
        (OSError(errno.ENOENT, "No such file"), "error"),
        (RuntimeError("CUDA error: out of memory\nCUDA kernel errors might be..."), "oom_device"),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"), "oom_device"),
        (RuntimeError("CUDA error: an illegal memory access was encountered"), "error"),
    ],
)
def test_memory_that_ran_out_is_told_from_other_errors_however_it_is_put(error: Exception, status: str) -> None:
    assert status_of(error) == status


def test_half_a_character_in_a_message_is_written_so_that_it_can_be_stored() -> None:
    error = ValueError("file \udcff is bad")
    assert words(error) == r"file \udcff is bad"
    assert msgspec.json.encode(reason(error))


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (
            RuntimeError("[..] DefaultCPUAllocator: can't allocate memory: you tried to allocate 6442450944 bytes."),
            "the float64 reference wanted 6.00 GiB more than the memory left",
        ),
        (
            torch.OutOfMemoryError("CUDA out of memory. Tried 20 GiB.\nSee documentation"),
            "the float64 reference wanted more than the device's memory: CUDA out of memory. Tried 20 GiB.",
        ),
        (ValueError("no luck"), "ValueError: no luck"),
    ],
)
def test_where_the_harness_itself_ran_out_of_memory_the_reason_says_so(error: Exception, told: str) -> None:
    with pytest.raises(type(error)) as caught, on_account_of("the float64 reference"):
        raise error
    assert reason(caught.value) == told
