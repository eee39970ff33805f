"""A simulated CUDA device: a host and a device, each with a time of its own, and a log of what was asked."""

from types import SimpleNamespace

import torch

US = 1_000


class Device:
    """A device that works through a queue while the host goes on. Times in nanoseconds."""

    def __init__(self, *, host_ns: int = 5 * US, device_ns: int = 100 * US, cycles_per_ns: float = 1.6) -> None:
        self.host_ns, self.device_ns, self.cycles_per_ns = host_ns, device_ns, cycles_per_ns
        self.now, self.idle_at = 0, 0.0
        self.busy_ns = self.most_queued_ns = 0.0
        self.log: list[str] = []
        self.spins: list[float] = []
        self.fault: Exception | None = None  # what every wait for the device raises from now on

    @property
    def torch(self) -> SimpleNamespace:
        """Return the parts of torch that a timer uses."""
        cuda = SimpleNamespace(
            Event=lambda enable_timing=False: Event(self, enable_timing),
            _sleep=self.spin,
            synchronize=lambda device: self.synchronise(f"synchronise {device}"),
            get_device_properties=lambda device: SimpleNamespace(L2_cache_size=50 << 20),
        )
        return SimpleNamespace(cuda=cuda, empty=self.empty, int8=torch.int8, no_grad=torch.no_grad)

    @property
    def time(self) -> SimpleNamespace:
        """Return the parts of `time` that a timer uses."""
        return SimpleNamespace(perf_counter_ns=lambda: self.now, perf_counter=lambda: self.now / 1e9)

    def empty(self, size: int, *, dtype: object, device: str) -> SimpleNamespace:
        self.log.append(f"allocate {size >> 20} MiB on {device}")
        return SimpleNamespace(zero_=lambda: self.queue("flush", 60 * US))

    def call(self) -> None:
        self.now += self.host_ns
        self.queue("call", self.device_ns)

    def spin(self, cycles: int) -> None:
        self.spins.append(cycles / self.cycles_per_ns)
        self.queue("spin", self.spins[-1])

    def queue(self, what: str, takes: float) -> None:
        self.log.append(what)
        self.idle_at = max(self.idle_at, self.now) + takes
        self.most_queued_ns = max(self.most_queued_ns, self.idle_at - self.now)
        self.busy_ns += takes

    def synchronise(self, what: str, until: float | None = None) -> None:
        self.log.append(what)
        if self.fault is not None:
            raise self.fault
        self.now = max(self.now, round(self.idle_at if until is None else until))


class Event:
    """A mark in the device's queue."""

    def __init__(self, device: Device, enable_timing: bool) -> None:
        self.device, self.timed, self.at = device, enable_timing, 0.0

    def record(self) -> None:
        self.device.log.append("event")
        self.at = max(self.device.idle_at, self.device.now)

    def synchronize(self) -> None:
        self.device.synchronise("synchronise", self.at)

    def elapsed_time(self, other: "Event") -> float:
        assert self.timed
        assert other.timed
        return (other.at - self.at) / 1e6
