"""A request for a run: the sweep with its settings, each setting a flag of `attnbench run`."""

import math
from collections.abc import Iterable
from typing import Annotated

from msgspec import Struct, field
from msgspec.structs import replace

from attnbench.contracts.errors import UsageError, is_text, suggestion
from attnbench.contracts.flags import HOW, MEASURE, flag
from attnbench.contracts.ranges import parse_bytes, parse_duration
from attnbench.contracts.record import ALLOCATORS, Allocator, Profile, Protocol
from attnbench.contracts.suite import Sweep
from attnbench.measure.processor import cores
from attnbench.planning.variants import Role

PROFILES: dict[Profile, Protocol] = {
    "quick": Protocol(profile="quick", rounds=1),
    "default": Protocol(profile="default"),
    "rigorous": Protocol(profile="rigorous", rounds=10, min_time_s=0.5, cap_s=30.0, timeout_s=300.0),
}
MOST_ROUNDS = PROFILES["rigorous"].rounds  # of a case, when a time budget has time left
_LONGEST_TIMEOUT_S = 30 * 86_400


class Request(Struct, frozen=True, kw_only=True):
    """A sweep and how to measure it, as `attnbench run` takes it. None leaves the profile's own value."""

    suite: Annotated[str, flag("Suite name or TOML file", "NAME")] = "standard"
    sweep: Sweep = Sweep()
    refine: Annotated[bool, flag("Measure between lengths where one variant overtakes another", panel=MEASURE)] = False
    fit: Annotated[bool, flag("Find the longest context that fits, up to the end of --seq", panel=MEASURE)] = False
    device: Annotated[str, flag("auto, cpu, cuda, cuda:1 or mps", "NAME", panel=HOW)] = "auto"
    threads: Annotated[int, flag("CPU threads", "N", panel=HOW, default="all cores")] = field(default_factory=cores)
    profile: Annotated[
        Profile, flag("quick (1 round), default (5 rounds) or rigorous (10 rounds)", "NAME", panel=HOW)
    ] = "default"
    rounds: Annotated[int | None, flag("Rounds, in fresh processes", "N", panel=HOW, default="the profile's")] = None
    timeout_s: Annotated[
        float | None,
        flag(
            "Kill a job after this many seconds without a sign of life",
            "S",
            panel=HOW,
            default="the profile's",
            name="timeout",
        ),
    ] = None
    time_budget: Annotated[
        str | None,
        flag("Total time limit (10m, 1h30m); extra rounds go to the widest intervals", "T", panel=HOW),
    ] = None
    memory: Annotated[
        str | None, flag("Memory limit per job (24GiB)", "SIZE", panel=HOW, default="all free memory")
    ] = None
    prune: Annotated[bool, flag("Also run lengths beyond one that ran out of memory or time", panel=HOW)] = True
    seed: Annotated[int, flag("Seed of inputs, weights and order", "N", panel=HOW)] = 0
    hot: Annotated[bool, flag("CUDA: do not flush the L2 cache between samples", panel=HOW)] = False
    allocator: Annotated[
        Allocator, flag("C heap: default, or retained (never returned to the system)", "NAME", panel=HOW)
    ] = "default"
    command: tuple[str, ...] = ()
    roles: dict[str, Role] = {}

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
        for name, value in (("--threads", self.threads), ("--rounds", self.rounds), ("--timeout", self.timeout_s)):
            if value is not None and not value >= 1:
                raise UsageError(f"{name}: {value} is less than 1; give 1 or more")
        if self.timeout_s is not None and not (math.isfinite(self.timeout_s) and self.timeout_s <= _LONGEST_TIMEOUT_S):
            raise UsageError(f"--timeout: {self.timeout_s:g} seconds is longer than a month; give less")
        if not 0 <= self.seed < 2**63:
            raise UsageError(f"--seed: {self.seed} is not between 0 and 2^63; give another")
        if not is_text(self.device):
            raise UsageError(f"--device: {self.device!r} is not a device; write auto, cpu, cuda, cuda:1 or mps")


def _one_of(value: str, known: Iterable[str], *, flag: str) -> None:
    if value not in known:
        raise UsageError(f"{flag}: {value!r} is not one of {', '.join(known)}; {suggestion(value, known)}")
