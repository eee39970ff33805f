"""Which of torch's operations a call runs."""

from collections.abc import Callable

import torch
from torch.utils._python_dispatch import TorchDispatchMode


class _Recorder(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.names.append(func.overloadpacket.__name__)
        return func(*args, **(kwargs or {}))


def _baddbmm_flop(_, left, right, **__):
    return 2 * left[0] * left[1] * left[2] * right[2]


# What torch's FlopCounterMode counts out of place only, as its `custom_mapping` takes it.
IN_PLACE = {torch.ops.aten.baddbmm_: _baddbmm_flop}


def operations(call: Callable[[], object]) -> list[str]:
    """Return the names of the operations of a call that reached a kernel, in order."""
    with _Recorder() as recorder:
        call()
    return recorder.names
