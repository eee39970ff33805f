"""A request for a run: the sweep with its settings, each setting a flag of `attnbench run`."""

import math
from collections.abc import Iterable

from msgspec import Struct
from msgspec.structs import replace

from attnbench.contracts.errors import UsageError, is_text, suggestion
from attnbench.contracts.ranges import parse_bytes, parse_duration
from attnbench.contracts.record import ALLOCATORS, Allocator, Profile, Protocol
from attnbench.contracts.suite import Sweep

PROFILES: dict[Profile, Protocol] = {
    "quick": Protocol(profile="quick", rounds=1),
    "default": Protocol(profile="default"),
    "rigorous": Protocol(profile="rigorous", rounds=10, min_time_s=0.5, cap_s=30.0, timeout_s=300.0),
}
MOST_ROUNDS = PROFILES["rigorous"].rounds  # of a case, when a time budget has time left
_LONGEST_TIMEOUT_S = 30 * 86_400


class Request(Struct, frozen=True, kw_only=True):
    """What `attnbench run` was asked for. None leaves the profile's own value."""

    threads: int
    suite: str = "standard"
    sweep: Sweep = Sweep()
    device: str = "auto"
    profile: Profile = "default"
    rounds: int | None = None
    timeout_s: float | None = None
    seed: int = 0
    hot: bool = False
    allocator: Allocator = "default"
    prune: bool = True
    time_budget: str | None = None
    refine: bool = False
    fit: bool = False
    memory: str | None = None
    command: tuple[str, ...] = ()

    @property
    def budget_s(self) -> float | None:
        """The time budget in seconds. Raises UsageError."""
        return None if self.time_budget is None else parse_duration(self.time_budget, flag="--time-budget")

    @property
    def memory_bytes(self) -> int | None:
        """The memory limit of a job in bytes. Raises UsageError."""
        return None if self.memory is None else parse_bytes(self.memory, flag="--memory")

    @property
    def protocol(self) -> Protocol:
        """The profile's protocol with the settings applied."""
        base = PROFILES[self.profile]
        # What a budget leaves is for lengths in between where those are asked for, else for further rounds.
        extends = self.time_budget is not None and not self.refine
        return replace(
            base,
            rounds=self.rounds or (max(base.rounds, MOST_ROUNDS) if extends else base.rounds),
            timeout_s=self.timeout_s or base.timeout_s,
            hot=self.hot,
            threads=self.threads,
            allocator=self.allocator,
        )

    def check(self) -> None:
        """Check the settings. Raises UsageError naming the flag and the fix."""
        _ = self.budget_s, self.memory_bytes
        _one_of(self.profile, PROFILES, flag="--profile")
        _one_of(self.allocator, ALLOCATORS, flag="--allocator")
        for flag, value in (("--threads", self.threads), ("--rounds", self.rounds), ("--timeout", self.timeout_s)):
            if value is not None and not value >= 1:
                raise UsageError(f"{flag}: {value} is less than 1; give 1 or more")
        if self.timeout_s is not None and not (math.isfinite(self.timeout_s) and self.timeout_s <= _LONGEST_TIMEOUT_S):
            raise UsageError(f"--timeout: {self.timeout_s:g} seconds is longer than a month; give less")
        if not 0 <= self.seed < 2**63:
            raise UsageError(f"--seed: {self.seed} is not between 0 and 2^63; give another")
        if not is_text(self.device):
            raise UsageError(f"--device: {self.device!r} is not a device; write auto, cpu, cuda, cuda:1 or mps")


def _one_of(value: str, known: Iterable[str], *, flag: str) -> None:
    if value not in known:
        raise UsageError(f"{flag}: {value!r} is not one of {', '.join(known)}; {suggestion(value, known)}")
