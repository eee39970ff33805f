"""The CUDA peak on a simulated device: what is asked of torch and of the driver, and what comes of it."""

from functools import partial
from types import SimpleNamespace

import pytest

from attnbench.measure import memory
from attnbench.measure.nvml import Gpu
from helpers.simulated_nvml import Unread
from helpers.subtests import as_subtests

MIB = 1 << 20


class Memory:
    """torch.cuda's memory statistics, each asked of one device."""

    def __init__(self, *, allocated: int, reserved: int, driver: int) -> None:
        self.after = {"allocated": allocated, "reserved": reserved, "driver": driver}
        self.grown = dict.fromkeys(self.after, 0)
        self.log: list[str] = []

    def call(self) -> None:
        self.log.append("call")
        self.grown = self.after

    def asked(self, what: str, device: str) -> None:
        assert device == "cuda:1"
        self.log.append(what)

    def level(self, device: str, *, of: str, base: int) -> int:
        self.asked(of, device)
        return base + self.grown[of]

    @property
    def cuda(self) -> SimpleNamespace:
        return SimpleNamespace(
            synchronize=lambda device: self.asked("synchronise", device),
            empty_cache=lambda: self.log.append("empty"),
            reset_peak_memory_stats=lambda device: self.asked("reset", device),
            memory_allocated=partial(self.level, of="allocated", base=10 * MIB),
            max_memory_allocated=partial(self.level, of="allocated", base=10 * MIB),
            memory_reserved=partial(self.level, of="reserved", base=20 * MIB),
            max_memory_reserved=partial(self.level, of="reserved", base=20 * MIB),
            mem_get_info=lambda device: (10**11 - self.level(device, of="driver", base=0), 10**12),
        )


class Told(Unread):
    """A GPU of whose memory this process has so much, one figure an asking."""

    process_bytes = property(lambda self: next(self.figures))

    def __init__(self, *figures: int | None) -> None:
        super().__init__("cuda:1")
        self.figures = iter(figures)


def peak_of(monkeypatch: pytest.MonkeyPatch, device: Memory, gpu: Gpu) -> memory.Peak:
    monkeypatch.setattr(memory, "torch", SimpleNamespace(cuda=device.cuda))
    return memory._cuda_peak(gpu, device.call)


def test_the_cuda_peak_is_above_the_level_before(monkeypatch: pytest.MonkeyPatch) -> None:
    device = Memory(allocated=30 * MIB, reserved=40 * MIB, driver=40 * MIB)
    peak = peak_of(monkeypatch, device, Told(100 * MIB, 142 * MIB))
    figures = {"memory_reserved": 40 * MIB, "memory_driver": 42 * MIB}
    assert peak == memory.Peak(allocated=30 * MIB, left=30 * MIB, others=figures)
    called = device.log.index("call")
    assert device.log[:3] == ["synchronise", "empty", "reset"]
    assert device.log[called + 1] == "synchronise"


@as_subtests("others, unseen", [(0, False), (63, False), (65, True)])
@as_subtests("told", [True, False])
def test_what_the_driver_gave_and_torch_did_not_take_is_flagged(
    monkeypatch: pytest.MonkeyPatch, others: int, unseen: bool, told: bool
) -> None:
    taken = (40 + others) * MIB
    # Where NVML tells of this process, what the device lost to others meanwhile is of no interest.
    device = Memory(allocated=30 * MIB, reserved=40 * MIB, driver=taken + 10**9 * told)
    peak = peak_of(monkeypatch, device, Told(0, taken) if told else Unread("cuda:1"))
    assert peak.unseen == unseen


def test_memory_that_the_driver_does_not_tell_is_null_with_its_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    device = Memory(allocated=30 * MIB, reserved=40 * MIB, driver=40 * MIB)
    peak = peak_of(monkeypatch, device, Unread("cuda:1"))
    assert peak.others == {"memory_reserved": 40 * MIB}
    assert peak.facts == {"memory_driver": None, "nvml_unread": "process_bytes: simulated"}


def test_of_a_large_call_a_tenth_may_go_unseen(monkeypatch: pytest.MonkeyPatch) -> None:
    device = Memory(allocated=2000 * MIB, reserved=2000 * MIB, driver=2150 * MIB)
    assert not peak_of(monkeypatch, device, Unread("cuda:1")).unseen
