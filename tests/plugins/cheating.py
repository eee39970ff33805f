"""Mechanisms that take 5 ms a call and look faster, each by another trick."""

import queue
import threading
import time

import torch

from attnbench import Case

LONG_S = 0.005
BUSY = torch.ones(256, 256)


class Honest:
    """The mean of the values, which takes its time."""

    def __init__(self, case: Case) -> None:
        self.calls = 0

    def compute(self, q, k, v):
        end = time.monotonic() + LONG_S
        while time.monotonic() < end:
            pass
        return v.mean(dim=2, keepdim=True) + 0 * q

    def __call__(self, q, k, v):
        self.calls += 1
        return self.compute(q, k, v)


class KeepsByAddress(Honest):
    kept: dict[int, torch.Tensor]

    def __init__(self, case: Case) -> None:
        super().__init__(case)
        self.kept = {}

    def key(self, q):
        return q.data_ptr()

    def __call__(self, q, k, v):
        key = self.key(q)
        if key not in self.kept:
            self.kept[key] = self.compute(q, k, v)
        return self.kept[key]


class KeepsByIdentity(KeepsByAddress):
    def key(self, q):
        return id(q)


class KeepsByContent(KeepsByAddress):
    def key(self, q):
        return float(q.flatten()[0])


class CopiesWhatItKept(KeepsByAddress):
    def __call__(self, q, k, v):
        return super().__call__(q, k, v).clone()


class KeepsTheFirst(KeepsByAddress):
    def key(self, q):
        return 0


class FakesLater(Honest):
    """Compute three times, then give something else."""

    def __call__(self, q, k, v):
        self.calls += 1
        return self.compute(q, k, v) if self.calls <= 3 else self.fake(q)

    def fake(self, q):
        return torch.zeros_like(q)


class GivesNaNLater(FakesLater):
    def fake(self, q):
        return torch.full_like(q, torch.nan)


class GivesTextLater(FakesLater):
    def fake(self, q):
        return "fast"


class GivesTheQueriesLater(FakesLater):
    def fake(self, q):
        return q


class GivesAnotherShapeLater(FakesLater):
    def fake(self, q):
        return q[:, :, :1]


class _Lazy(torch.Tensor):
    pass


class IsLazy(Honest):
    """Give a tensor of a class that could compute when it is looked at."""

    def __call__(self, q, k, v):
        return (v.mean(dim=2, keepdim=True) + 0 * q).as_subclass(_Lazy)


class GoesOnInAThread(Honest):
    """Return at once, and compute later in a thread."""

    def __init__(self, case: Case) -> None:
        super().__init__(case)
        self.asked = queue.SimpleQueue()
        threading.Thread(target=self.work, daemon=True).start()

    def work(self):
        while True:
            out, v = self.asked.get()
            for _ in range(10):
                torch.mm(BUSY, BUSY)
            out.copy_(v.mean(dim=2, keepdim=True))

    def __call__(self, q, k, v):
        out = torch.zeros_like(q)
        self.asked.put((out, v))
        return out


class FillsItLater(GoesOnInAThread):
    """Return at once, and fill the output after a sleep, which takes no processor."""

    def work(self):
        while True:
            out, v = self.asked.get()
            time.sleep(LONG_S)
            out.copy_(v.mean(dim=2, keepdim=True))


class StopsTheClock(Honest):
    def __init__(self, case: Case) -> None:
        super().__init__(case)
        time.perf_counter_ns = lambda: 0


class ReplacesTheCheck(FakesLater):
    def __init__(self, case: Case) -> None:
        super().__init__(case)
        torch.isfinite = torch.ones_like


class TakesMoreThreads(Honest):
    def __init__(self, case: Case) -> None:
        super().__init__(case)
        torch.set_num_threads(torch.get_num_threads() + 1)
