"""The search for the longest context, on planted needs of memory: each trial is what a machine would have answered."""

from itertools import count, pairwise

import pytest
from msgspec.structs import replace

from attnbench.analysis.rows import rows
from attnbench.answers.fit.search import contexts, first_lengths, predicted_length
from attnbench.answers.further import further
from attnbench.contracts.errors import UsageError
from attnbench.contracts.record import BUILDING, HELD
from attnbench.contracts.suite import Sweep
from attnbench.store import Fit
from helpers.planted import plan
from unit.report.planted import failed, job, record, value

ALLOWED = 8 << 30
FIT = Fit(lengths=(512, 1024, 2048), most=1 << 20, allowed_bytes=ALLOWED)
HELD_A_TOKEN = 6 * 8 * 64 * 4


def answer(one, needs, *, status="oom_host", really=ALLOWED):
    length = one.case.shape.seq_q
    call = needs(length)
    if call is None or call + HELD_A_TOKEN * length > really:
        return failed(one, status, "it wanted more")
    facts = {BUILDING: 2 * HELD_A_TOKEN * length, HELD: HELD_A_TOKEN * length}
    return record(one, value(call, "memory", "bytes"), facts=facts)


def search(needs, *, fit=FIT, **how):
    """Search to the end; give the lengths tried and what was found."""
    planned = replace(plan([job("a", "memory", seq=seq) for seq in fit.lengths], run="r1"), fit=fit)
    records = [answer(one, needs, **how) for one in planned.jobs]
    for trial in count():
        jobs = further(planned, records)
        if not jobs:
            break
        assert trial < 20
        planned = planned.with_jobs((*planned.jobs, *jobs))
        records += [answer(one, needs, **how) for one in jobs]
    (found,) = contexts(rows(records, planned.jobs, run="r1"), fit)
    return [each.job.case.shape.seq_q for each in records], found


def truth(needs):
    return max(n for n in range(64, 1 << 20, 64) if needs(n) + HELD_A_TOKEN * n <= ALLOWED)


NEEDS = {
    "quadratic": lambda n: 32 * n * n + 4096 * n,
    "linear": lambda n: 40_000 * n + (1 << 20),
    "three halves": lambda n: 3000 * round(n**1.5),
}


@pytest.mark.parametrize("name", NEEDS)
def test_the_longest_length_that_fits_is_predicted_and_found_within_5_percent_in_few_trials(name):
    tried, found = search(NEEDS[name])
    longest = truth(NEEDS[name])
    assert (found.stopped, found.longest <= longest < found.failed) == ("memory", True)
    assert found.failed <= 1.05 * found.longest + 64
    assert found.predicted == pytest.approx(longest, rel=0.1)
    assert len(tried) <= 3 + 8


def test_a_prediction_that_is_off_by_half_costs_trials_but_not_the_answer():
    for really in (ALLOWED // 2, 2 * ALLOWED):
        tried, found = search(NEEDS["quadratic"], really=really)
        assert found.failed <= 1.05 * found.longest + 64
        assert NEEDS["quadratic"](found.longest) + HELD_A_TOKEN * found.longest <= really
        assert len(tried) <= 3 + 12


def test_a_length_is_never_more_than_four_times_the_longest_that_ran():
    tried, found = search(lambda n: 16, fit=replace(FIT, most=1 << 18))
    assert all(after <= 4 * before for before, after in pairwise(tried))
    assert (found.longest, found.stopped, found.failed) == (1 << 18, "the end of --seq", None)


@pytest.mark.parametrize(
    ("status", "stopped"),
    [("oom_device", "memory"), ("timeout", "time"), ("unsupported", "support"), ("crash", "an error")],
)
def test_the_reason_why_the_search_ended_is_reported(status, stopped):
    _, found = search(lambda n: 16 if n <= 10_000 else None, status=status)
    assert (found.stopped, found.longest <= 10_000 < found.failed) == (stopped, True)


def test_a_variant_that_runs_nowhere_is_not_searched():
    tried, found = search(lambda n: None, status="unsupported")
    assert (tried, found.longest, found.stopped) == ([512, 1024, 2048], None, "support")


def test_without_a_memory_limit_there_is_no_prediction_and_the_search_goes_by_steps():
    _, found = search(NEEDS["quadratic"], fit=replace(FIT, allowed_bytes=None))
    assert found.predicted is None
    assert found.stopped == "memory"
    assert predicted_length({}, ALLOWED) is None


def test_decoding_is_searched_along_the_number_of_keys():
    jobs = [job("a", "memory", seq=1, seq_k=seq, passes="decode") for seq in FIT.lengths]
    planned = replace(plan(jobs, run="r1"), fit=FIT)
    records = [record(one, value(1000 * one.case.shape.seq_k, "memory", "bytes")) for one in jobs]
    (wanted,) = further(planned, records)
    assert (wanted.case.shape.seq_q, wanted.case.shape.seq_k) == (1, 8192)
    assert further(planned, records[:2]) == ()  # one is pending


def test_the_first_lengths_are_measured_and_the_last_is_the_end():
    standard = Sweep(seq="512..4096", tokens=16384, metrics="latency", variants="a")
    sweep, fit = first_lengths(standard, Sweep(seq="1k..64k"))
    assert (sweep.seq, sweep.metrics, sweep.batch, sweep.tokens) == ("1024,2048,4096", "memory", 1, None)
    assert (fit.lengths, fit.most) == ((1024, 2048, 4096), 65536)
    assert first_lengths(standard, Sweep())[1].most == 1 << 20


@pytest.mark.parametrize("asked", [Sweep(metrics="latency"), Sweep(tokens=16384), Sweep(seq_k=64)])
def test_sweeps_that_the_search_cannot_handle_are_refused(asked):
    with pytest.raises(UsageError, match=r"^--fit: "):
        first_lengths(Sweep(seq=512), asked)
