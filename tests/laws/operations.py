"""Which of torch's operations a call runs."""

from collections.abc import Callable

from torch.utils._python_dispatch import TorchDispatchMode


class _Recorder(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.names.append(func.overloadpacket.__name__)
        return func(*args, **(kwargs or {}))


def operations(call: Callable[[], object]) -> list[str]:
    """Run a call and give the names of the operations that reached a kernel, in order."""
    with _Recorder() as recorder:
        call()
    return recorder.names
