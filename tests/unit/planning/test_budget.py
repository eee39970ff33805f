"""The time budget: which cases are measured again when time is short."""

from collections.abc import Sequence

from msgspec.structs import replace

from attnbench.contracts.record import Job, Outcome, Profile, Record
from attnbench.planning.budget import Budget
from attnbench.planning.jobs import in_running_order
from helpers.planted import job, ok


class Timeline:
    """A run in simulated time: each job takes its variant's time and has a scripted outcome."""

    def __init__(self, jobs: Sequence[Job], costs: dict[str, float], wobble: dict[str, float]) -> None:
        self.jobs, self.costs, self.wobble, self.now = jobs, costs, wobble, 0.0
        self.done: list[Job] = []
        self.cut: dict[str, list[Outcome]] = {}

    def run(self, total_s: float | None) -> "Timeline":
        budget = Budget(total_s, (), self.jobs, slots=2, now_s=lambda: self.now)
        for one in in_running_order(self.jobs, further_rounds_last=True):
            name, outcome = one.case.variant, budget.cut(one)
            if outcome is None:
                self.now += self.costs[name]
                outcome = ok(round(1000 * (1 + self.wobble.get(name, 0.0) * (-1) ** one.round)))
                self.done.append(one)
            else:
                self.cut.setdefault(name, []).append(outcome)
            budget.add(Record(run="r", job=one, outcome=outcome, seconds=self.costs[name]))
        return self

    def rounds(self, name: str) -> int:
        return sum(one.case.variant == name and one.timed_round > 0 for one in self.done)


def sweep(names: str, rounds: int, *, profile: Profile = "default") -> list[Job]:
    planned = [job(name, number=number) for number in range(1, rounds + 1) for name in names]
    return [replace(one, protocol=replace(one.protocol, rounds=rounds, profile=profile)) for one in planned]


def test_without_a_budget_nothing_is_cut() -> None:
    run = Timeline(sweep("ab", 5), {"a": 1e6, "b": 1e6}, {}).run(None)
    assert (run.rounds("a"), run.rounds("b"), run.cut) == (5, 5, {})


def test_a_budget_is_not_exceeded_and_every_case_is_measured_first() -> None:
    run = Timeline(sweep("abcd", 5), dict.fromkeys("abcd", 10.0), dict.fromkeys("abcd", 0.05)).run(100.0)
    assert run.now <= 100.0
    assert all(run.rounds(name) >= 1 for name in "abcd")
    assert run.done[:4] == sorted(run.done[:4], key=lambda one: one.round)


def test_what_is_measured_once_comes_before_further_rounds() -> None:
    jobs = [*sweep("ab", 3), job("a", kind="memory"), job("b", kind="memory")]
    run = Timeline(jobs, {"a": 10.0, "b": 10.0}, {}).run(1000.0)
    kinds = [(one.probe.kind, one.timed_round) for one in run.done]
    assert kinds[2:4] == [("memory", 0), ("memory", 0)]
    assert len(run.done) == len(jobs)


def test_three_rounds_of_some_are_worth_more_than_two_of_all() -> None:
    costs = {"a": 10.0, "b": 20.0, "c": 30.0}
    run = Timeline(sweep("abc", 5), costs, dict.fromkeys("abc", 0.01)).run(125.0)
    assert run.rounds("a") >= 3
    assert run.rounds("b") >= 3
    assert run.rounds("c") == 1
    assert "no interval yet" in run.cut["c"][0].detail


def test_further_rounds_go_to_the_widest_interval() -> None:
    run = Timeline(sweep("ab", 5), {"a": 10.0, "b": 10.0}, {"a": 0.001, "b": 0.2}).run(85.0)
    assert (run.rounds("a"), run.rounds("b")) == (3, 5)
    assert "% so far; another round needs 10 s" in run.cut["a"][0].detail
    assert "--time-budget 1 min 25 s" in run.cut["a"][0].detail


def test_beyond_the_profile_s_rounds_only_cases_with_a_wide_interval_are_measured_and_the_others_say_why() -> None:
    run = Timeline(sweep("ab", 10), {"a": 1.0, "b": 1.0}, {"a": 0.001, "b": 0.2}).run(1e6)
    assert (run.rounds("a"), run.rounds("b")) == (5, 10)
    assert all(outcome.facts == {"enough": True} for outcome in run.cut["a"])


def test_time_spent_before_a_run_was_resumed_counts() -> None:
    jobs = sweep("a", 2)
    before = [Record(run="r", job=jobs[0], outcome=ok(), seconds=95.0)]
    budget = Budget(100.0, before, jobs[1:], slots=1, now_s=lambda: 0.0)
    outcome = budget.cut(jobs[1])
    assert outcome is not None
    assert outcome.status == "skipped"


def test_a_case_that_was_measured_once_is_not_paid_for_again() -> None:
    slow, quick = sweep("sq", 5)[:2]
    jobs = sweep("sq", 5)
    records = [
        Record(run="r", job=slow, outcome=ok(9_000, flags=("once",)), seconds=60.0),
        Record(run="r", job=quick, outcome=ok(), seconds=1.0),
    ]
    budget = Budget(70.0, records, jobs[2:], slots=1, now_s=lambda: 0.0)
    assert budget.cut(jobs[3]) is None


def test_rounds_beyond_the_profile_s_are_cut_without_a_mention_in_tables() -> None:
    run = Timeline(sweep("a", 10), {"a": 10.0}, {"a": 0.2}).run(75.0)
    assert run.rounds("a") == 7
    assert all(outcome.facts == {"enough": True} for outcome in run.cut["a"])
    short = Timeline(sweep("a", 10), {"a": 10.0}, {"a": 0.2}).run(45.0)
    assert [outcome.facts for outcome in short.cut["a"][:2]] == [{}, {"enough": True}]
