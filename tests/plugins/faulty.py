"""Mechanisms that misbehave, one way each. Tests run them in real child processes."""

import ctypes
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import torch

from attnbench import Case


class Good:
    """Exact attention, plainly."""

    def __init__(self, case: Case) -> None:
        self.causal = case.mask.causal

    def __call__(self, q, k, v):
        return torch.softmax(q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5, -1) @ v


class Raises(Good):
    def __call__(self, q, k, v):
        raise ValueError("no luck")


class RaisesUnprintable(Good):
    def __call__(self, q, k, v):
        class Shy(Exception):
            def __str__(self):
                raise RuntimeError("not even this")

        raise Shy


class WrongShape(Good):
    def __call__(self, q, k, v):
        return v[:, :, :1]


class WrongDtype(Good):
    def __call__(self, q, k, v):
        return super().__call__(q, k, v).half()


class NotATensor(Good):
    def __call__(self, q, k, v):
        return [q]


class GivesNaN(Good):
    def __call__(self, q, k, v):
        out = super().__call__(q, k, v)
        out[0, 0, 0, 0] = float("nan")
        return out


class ChangesInputs(Good):
    def __call__(self, q, k, v):
        return super().__call__(q, k, v.mul_(2))


class Remembers(Good):
    answer = None

    def __call__(self, q, k, v):
        if self.answer is None:
            self.answer = super().__call__(q, k, v)
        return self.answer


class HangsSilently(Good):
    def __call__(self, q, k, v):
        time.sleep(3600)


class HangsChattily(Good):
    def __call__(self, q, k, v):
        while True:
            print("still here " * 100, flush=True)


class IgnoresSigterm(Good):
    def __call__(self, q, k, v):
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        time.sleep(3600)


class HangingGrandchild(Good):
    """Starts a process in a session of its own that would outlive everything, and hangs."""

    def __call__(self, q, k, v):
        subprocess.Popen(
            [sys.executable, "-c", "import time; time.sleep(3600)", "attnbench-grandchild"], start_new_session=True
        )
        time.sleep(3600)


class LeavesGrandchild(Good):
    """Starts a process in a session of its own, and answers."""

    def __init__(self, case):
        super().__init__(case)
        subprocess.Popen(
            [sys.executable, "-c", "import time; time.sleep(3600)", "attnbench-stray"], start_new_session=True
        )


class StrayThread(Good):
    def __init__(self, case):
        super().__init__(case)
        threading.Thread(target=time.sleep, args=(3600,)).start()


class Segfaults(Good):
    def __call__(self, q, k, v):
        ctypes.string_at(0)


class Aborts(Good):
    def __call__(self, q, k, v):
        os.abort()


class SysExits(Good):
    def __call__(self, q, k, v):
        sys.exit(0)


class OsExits(Good):
    def __call__(self, q, k, v):
        os._exit(0)


class KilledLikeByTheKernel(Good):
    def __call__(self, q, k, v):
        os.kill(os.getpid(), signal.SIGKILL)


def ancestors():
    """Return the ids of the server and of the guard that forked it."""
    server = os.getppid()
    return server, int(Path(f"/proc/{server}/stat").read_text().rpartition(")")[2].split()[1])


class StopsTheServer(HangingGrandchild):
    """Starts a process that would outlive everything, and stops the server."""

    def __call__(self, q, k, v):
        os.kill(os.getppid(), signal.SIGSTOP)
        super().__call__(q, k, v)


class KillsTheServer(HangingGrandchild):
    """Has the server killed by a daemon, which lives on as a child of whoever adopts it."""

    def __call__(self, q, k, v):
        code = (
            f"import os, time; os.fork() and os._exit(0); time.sleep(.3); os.kill({os.getppid()}, 9); time.sleep(3600)"
        )
        subprocess.Popen([sys.executable, "-c", code, "attnbench-grandchild"], start_new_session=True)
        super().__call__(q, k, v)


class KillsTheGuard(HangingGrandchild):
    """Stops the server, and kills the process that would end it."""

    def __call__(self, q, k, v):
        server, guard = ancestors()
        os.kill(server, signal.SIGSTOP)
        os.kill(guard, signal.SIGKILL)
        super().__call__(q, k, v)


class StopsBoth(HangingGrandchild):
    """Stops the server and the process that would end it."""

    def __call__(self, q, k, v):
        for pid in ancestors():
            os.kill(pid, signal.SIGSTOP)
        super().__call__(q, k, v)


class Floods(Good):
    """Prints 300 MB, some of it no UTF-8, and answers."""

    def __init__(self, case):
        super().__init__(case)
        chunk = b"\xff\xfe flood \x1b[31m" * 80_000
        for _ in range(300):
            os.write(1, chunk[: 1 << 20])
        os.write(2, b"the end of the flood\n")


class FloodsAndRaises(Floods):
    def __call__(self, q, k, v):
        raise ValueError("after the flood")


class TakesAllMemory(Good):
    def __call__(self, q, k, v):
        held = []
        while True:
            held.append(torch.ones(1 << 24))


class TakesPythonMemory(Good):
    def __call__(self, q, k, v):
        held = []
        while True:
            held.append(bytearray(1 << 26))


class CudaOutOfMemory(Good):
    def __call__(self, q, k, v):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB.\nSee documentation")


class DeviceLost(Good):
    def __call__(self, q, k, v):
        raise RuntimeError("CUDA error: GPU is lost.")


def make_local():
    class Local(Good):
        pass

    return Local


LocalClass = make_local()
lambda_attention = lambda q, k, v: torch.softmax(q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5, -1) @ v  # noqa: E731


def plain_function(q, k, v):
    """Exact attention as a plain function."""
    return lambda_attention(q, k, v)
