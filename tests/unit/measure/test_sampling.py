"""The stopping rule, driven by a clock that never reads the time."""

from collections.abc import Callable, Iterator
from itertools import chain, repeat

import pytest
from msgspec.structs import replace

from attnbench.contracts.record import Protocol
from attnbench.measure import sampling
from attnbench.measure.sampling import MOST_SAMPLES, Clock, Verdict, sample
from helpers.subtests import as_subtests

MS = 1_000_000


class Simulated:
    """A mechanism whose n-th call takes cost(n) nanoseconds, on a clock that advances by just that."""

    def __init__(self, cost: Callable[[int], int]) -> None:
        self.cost, self.calls, self.now = cost, 0, 0
        self.groups: list[int] = []

    def run(self, count: int) -> int:
        taken = sum(self.cost(self.calls + index) for index in range(count))
        self.calls += count
        self.now += taken
        self.groups.append(count)
        return taken

    def clock(self, least_ns: int = MS) -> Clock:
        return Clock(run=self.run, now_ns=lambda: self.now, least_ns=least_ns)


def test_the_first_call_is_timed_apart_and_never_among_the_samples() -> None:
    machine = Simulated(lambda call: 700 * MS if call == 0 else 20 * MS)
    result = sample(machine.clock(), Protocol())
    assert result.first_ns == 700 * MS
    assert set(result.samples_ns) == {20 * MS}


def test_warm_up_goes_on_until_two_calls_agree() -> None:
    costs = [90, 80, 60, 40, 30, 30]
    machine = Simulated(lambda call: (costs[call] if call < len(costs) else 30) * MS)
    result = sample(machine.clock(), Protocol(warmup_s=10.0))
    assert result.warmup_calls == 5
    assert set(result.samples_ns) == {30 * MS}


@as_subtests("calls", [0, 3, 10])
def test_warm_up_never_takes_more_calls_than_the_protocol_allows(calls: int) -> None:
    machine = Simulated(lambda call: (1000 - 90 * call if call < 10 else 100) * MS // 50)
    assert sample(machine.clock(), Protocol(warmup_calls=calls, warmup_s=100.0)).warmup_calls <= calls


def test_a_quiet_case_stops_at_the_minimum_time() -> None:
    machine = Simulated(lambda _: 2 * MS)
    result = sample(machine.clock(), Protocol())
    assert result.stop == "quiet"
    assert len(result.samples_ns) == 100  # 0.2 s of 2 ms


def test_a_noisy_case_stops_when_its_noise_no_longer_falls() -> None:
    machine = Simulated(lambda call: (10 + 2 * (call % 2)) * MS)
    result = sample(machine.clock(), Protocol())
    assert result.stop == "steady"
    assert len(result.samples_ns) >= Protocol().min_samples


def test_noise_that_still_falls_is_sampled_on() -> None:
    # The spread shrinks with every call: the early stop would report the noise of the beginning.
    machine = Simulated(lambda call: 10 * MS + (MS * (-1) ** call) // (1 + call))
    longer = sample(machine.clock(), Protocol())
    assert longer.stop == "quiet"
    assert len(longer.samples_ns) > Protocol().min_samples


def test_short_calls_are_grouped_until_a_sample_lasts_a_millisecond() -> None:
    machine = Simulated(lambda _: 3_000)
    result = sample(machine.clock(), Protocol())
    assert result.group == 334
    assert set(result.samples_ns) == {3_000}


def test_a_timer_that_costs_more_makes_longer_groups() -> None:
    machine = Simulated(lambda _: 3_000)
    assert sample(machine.clock(least_ns=5 * MS), Protocol()).group == 1667


def test_groups_grow_where_the_minimum_time_would_need_more_samples_than_are_kept() -> None:
    machine = Simulated(lambda _: 10_000)
    result = sample(machine.clock(), Protocol(min_time_s=5.0, cap_s=60.0))
    assert result.group == 500
    assert len(result.samples_ns) <= MOST_SAMPLES


def test_the_cap_covers_everything_and_what_it_cuts_short_says_so() -> None:
    machine = Simulated(lambda _: 700 * MS)
    result = sample(machine.clock(), Protocol())
    assert result.stop == "cap"
    assert result.flags == ("few_samples",)
    assert 1 <= len(result.samples_ns) < Protocol().min_samples
    assert machine.now <= 5_000 * MS


def test_a_call_that_always_exceeds_the_cap_is_sampled_once_and_its_first_call_is_kept_apart() -> None:
    machine = Simulated(lambda call: (7_000 if call == 0 else 6_000) * MS)
    result = sample(machine.clock(), Protocol())
    assert machine.calls == 2
    assert (result.first_ns, result.samples_ns, result.stop) == (7_000 * MS, (6_000 * MS,), "once")
    assert set(result.flags) == {"once", "few_samples"}


def test_a_first_call_that_compiles_beyond_the_cap_is_never_the_figure() -> None:
    machine = Simulated(lambda call: 10_000 * MS if call == 0 else MS)
    result = sample(machine.clock(), Protocol())
    assert result.first_ns == 10_000 * MS
    assert set(result.samples_ns) == {MS}
    assert (result.stop, result.flags) == ("quiet", ())


@as_subtests("later", [1, 100, 2_400, 4_900, 5_100, 15_000])
def test_a_slow_first_call_is_followed_by_at_most_two_calls_more_than_the_cap(later: int) -> None:
    machine = Simulated(lambda call: 10_000 * MS if call == 0 else later * MS)
    result = sample(machine.clock(), Protocol())
    assert set(result.samples_ns) == {later * MS}
    assert machine.now - 10_000 * MS <= max(5_000 * MS, later * MS) + later * MS


def test_a_group_chosen_from_cold_calls_grows_until_a_sample_is_long_enough() -> None:
    # Slow for the first 30 calls, a thousandth afterwards: the group that warm-up suggests would take 20 us.
    machine = Simulated(lambda call: 2 * MS if call < 2 else 20_000 if call < 20 else 2_000)
    result = sample(machine.clock(), Protocol(warmup_calls=1))
    assert result.group == 500
    assert set(result.samples_ns) == {2_000}
    assert sum(machine.groups) == machine.calls == 1 + result.warmup_calls + 500 * len(result.samples_ns)


def test_a_group_grows_no_longer_than_the_clock_allows() -> None:
    machine = Simulated(lambda call: 2 * MS if call < 2 else 2_000)
    clock = replace(machine.clock(), most_grouped=1)
    assert sample(clock, Protocol(warmup_calls=1)).group == 1


def test_noise_is_looked_at_seldom_so_that_the_loop_costs_little(monkeypatch: pytest.MonkeyPatch) -> None:
    looks: list[int] = []
    monkeypatch.setattr(sampling, "_noise", lambda samples: looks.append(len(samples)) or 1.0 / len(samples))
    sample(Simulated(lambda _: 2 * MS).clock(), Protocol(stop_noise=0.0))
    assert len([count for count in looks if count > 20]) < 100


def test_a_call_that_nearly_fills_the_cap_still_gives_one_sample_that_is_not_the_first_call() -> None:
    machine = Simulated(lambda call: (4_500 if call == 0 else 4_000) * MS)
    result = sample(machine.clock(), Protocol())
    assert result.samples_ns == (4_000 * MS,)
    assert result.first_ns == 4_500 * MS


def test_all_time_in_calls_is_accounted_for() -> None:
    machine = Simulated(lambda call: (5 + call % 3) * MS)
    assert sample(machine.clock(), Protocol()).calls_ns == machine.now


def test_a_clock_that_stands_still_does_not_hang_the_loop() -> None:
    clock = Clock(run=lambda _count: 0, now_ns=lambda: 0, least_ns=MS, most_grouped=100)
    result = sample(clock, replace(Protocol(), min_time_s=0.0))
    assert set(result.samples_ns) == {0}


class Watched:
    """A monitor that finds the clock steady after some askings, and gives these verdicts, the last one for ever."""

    def __init__(self, *verdicts: Verdict, rising: int = 0) -> None:
        # The first asking opens the first block: its verdict is on what came before.
        self.verdicts: Iterator[Verdict] = chain(["invalid"], verdicts, repeat(verdicts[-1] if verdicts else "good"))
        self.rising, self.looks, self.blocks = rising, 0, -1

    def steady(self) -> bool:
        self.looks += 1
        return self.looks > self.rising

    def judge(self) -> Verdict:
        self.blocks += 1
        return next(self.verdicts)


def test_a_monitored_device_is_kept_busy_until_its_clock_is_steady() -> None:
    machine, watched = Simulated(lambda _: 2 * MS), Watched(rising=3)
    result = sample(machine.clock(), Protocol(), monitor=watched)
    assert watched.looks == 4
    assert 4 * 50 * MS <= result.warmup_ns <= 4 * 50 * MS + 20 * MS
    assert result.warmup_calls == result.warmup_ns // (2 * MS)


def test_a_clock_that_never_becomes_steady_is_waited_for_half_a_second() -> None:
    machine = Simulated(lambda _: 2 * MS)
    result = sample(machine.clock(), Protocol(), monitor=Watched(rising=10**9))
    assert 500 * MS <= result.warmup_ns <= 510 * MS
    assert result.stop == "quiet"


@as_subtests("cost", [400, 2_000, 2_600, 4_900])
def test_warming_up_for_the_clock_leaves_time_for_a_sample_under_the_cap(cost: int) -> None:
    machine = Simulated(lambda _: cost * MS)
    result = sample(machine.clock(), Protocol(), monitor=Watched(rising=10**9))
    assert len(result.samples_ns) >= 1
    assert machine.now <= 5_000 * MS + cost * MS


def test_without_a_monitor_nothing_is_waited_for_and_nothing_discarded() -> None:
    result = sample(Simulated(lambda _: 2 * MS).clock(), Protocol())
    assert result.warmup_ns == result.warmup_calls * 2 * MS < 10 * MS
    assert (result.discarded, result.invalid_blocks) == (0, 0)


def test_a_monitor_is_asked_around_blocks_of_fifty_milliseconds() -> None:
    watched = Watched()
    result = sample(Simulated(lambda _: 2 * MS).clock(), Protocol(), monitor=watched)
    assert len(result.samples_ns) == 100
    assert watched.blocks == 4


@as_subtests("verdict, blocks", [("slow", 0), ("invalid", 1)])
def test_samples_of_a_block_that_is_not_good_are_discarded_counted_and_replaced(verdict: Verdict, blocks: int) -> None:
    machine = Simulated(lambda _: 2 * MS)
    result = sample(machine.clock(), Protocol(), monitor=Watched("good", verdict, "good"))
    assert len(result.samples_ns) == 100
    assert (result.discarded, result.invalid_blocks) == (25, blocks)
    assert result.flags == ()


def test_the_figure_is_made_of_the_good_blocks_alone() -> None:
    # Every call of the second block takes three times as long.
    machine = Simulated(lambda _: 2 * MS)
    watched = Watched("good", "slow", "good")
    machine.cost = lambda _call: 6 * MS if watched.blocks == 1 else 2 * MS
    result = sample(machine.clock(), Protocol(), monitor=watched)
    assert set(result.samples_ns) == {2 * MS}
    assert result.discarded == 9  # the block is over at the first sample that ends beyond 50 ms


def test_a_device_that_is_always_slow_is_measured_until_the_cap_and_flagged() -> None:
    machine = Simulated(lambda _: 2 * MS)
    result = sample(machine.clock(), Protocol(), monitor=Watched("invalid", "slow"))
    assert result.stop == "cap"
    assert result.flags == ("throttled",)
    assert len(result.samples_ns) == MOST_SAMPLES
    assert result.invalid_blocks == 1


def test_a_device_of_which_no_block_is_valid_has_no_samples() -> None:
    machine = Simulated(lambda _: 2 * MS)
    result = sample(machine.clock(), Protocol(), monitor=Watched("invalid"))
    assert (result.samples_ns, result.stop) == ((), "cap")
    assert result.discarded > 2_000
    assert machine.now <= 5_000 * MS


@as_subtests(
    "verdict, samples, flags",
    [
        ("good", 1, {"once", "few_samples"}),
        ("slow", 1, {"once", "few_samples", "throttled"}),
        ("invalid", 0, {"once", "few_samples"}),
    ],
)
def test_the_only_sample_of_a_long_call_is_judged_too(verdict: Verdict, samples: int, flags: set[str]) -> None:
    result = sample(Simulated(lambda _: 6_000 * MS).clock(), Protocol(), monitor=Watched(verdict))
    assert len(result.samples_ns) == samples
    assert set(result.flags) == flags


def test_few_good_samples_are_few_however_many_were_discarded() -> None:
    result = sample(Simulated(lambda _: 2 * MS).clock(), Protocol(), monitor=Watched(*["slow"] * 20, "good", "slow"))
    assert len(result.samples_ns) == 25
    assert result.flags == ()
    few = sample(Simulated(lambda _: 20 * MS).clock(), Protocol(), monitor=Watched("slow", "good", "slow"))
    assert len(few.samples_ns) == 3
    assert few.flags == ("few_samples",)


def test_a_monitored_measurement_stores_no_more_than_the_most_samples() -> None:
    machine = Simulated(lambda call: (10 + call % 7) * 1_000)
    clock = replace(machine.clock(), most_grouped=1)
    result = sample(clock, Protocol(stop_noise=0.0), monitor=Watched("slow", "good"))
    assert len(result.samples_ns) <= MOST_SAMPLES
