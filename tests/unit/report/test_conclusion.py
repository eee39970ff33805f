"""The conclusion of a run: each of its sentences where it is true, and where planted figures make it false."""

import math
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace
from scipy.stats import ttest_rel

from attnbench.analysis.rows import Row, rows
from attnbench.report.axes import names_of
from attnbench.report.conclusion import conclusion
from unit.analysis.courses_planted import row
from unit.report.planted import job, record, value

STEADY = (1.0, 1.001, 0.999, 1.0005, 0.9995)


def times(variant: str, seconds: float, *, exact: bool, seq: int = 4096, rounds: int = 5, **facts: float) -> Row:
    medians = [seconds * share for share in STEADY[:rounds]]
    return row(variant, seq, medians, facts={"exact": exact, "reach": 1.0} | facts)


def error(variant: str, of: float, *, exact: bool = False, seq: int = 4096, **facts: float) -> Row:
    (found,) = rows([record(job(variant, "agreement", seq=seq), value(of, "approximation_error", "1"))])
    return replace(found, facts={"exact": exact, "reach": 1.0} | facts)


def told(*of_run: Row) -> list[str]:
    return conclusion(of_run, names_of(of_run))


def test_the_fastest_of_each_kind_is_named_with_its_time_its_gain_and_what_it_gives_up() -> None:
    exact, approximate = told(
        times("vanilla", 0.4, exact=True),
        times("flash", 0.2, exact=True),
        times("window", 0.05, exact=False),
        times("linear", 0.01, exact=False),
        error("flash", 1e-7, exact=True),
        error("linear", 0.8),
        error("uniform", 0.9),
    )
    assert re.fullmatch(
        r"At 4096 tokens and 8 heads, flash is the fastest exact mechanism: 200 ms, 2\.00x \[\S+, \S+\] as fast as "
        r"vanilla\.",
        exact,
    )
    assert re.fullmatch(
        r"linear, the fastest that approximates, takes 10\.0 ms, 20\.0x \[\S+, \S+\] as fast as flash; it has an "
        r"approximation error of 0\.800 on normal inputs \(exact 1\.00e-07, floor 0\.900\)\.",
        approximate,
    )


def test_only_the_longest_length_counts() -> None:
    (only,) = told(
        times("flash", 0.2, exact=True),
        times("flash", 0.01, exact=True, seq=512),
        times("vanilla", 0.001, exact=True, seq=512),
    )
    assert only == "At 4096 tokens and 8 heads, flash is the only exact mechanism: 200 ms."


def test_what_is_not_told_apart_is_said_and_nothing_is_called_the_fastest() -> None:
    first, last = told(times("flash", 0.2, exact=True), times("flex", 0.2001, exact=True))
    assert first == "At 4096 tokens and 8 heads, flash has the lowest time of 2 exact mechanisms, 200 ms."
    assert last == "Not told apart: flash and flex."


def test_an_approximation_that_is_slower_than_exact_attention_gains_nothing() -> None:
    _, approximate = told(times("flash", 0.1, exact=True), times("reformer", 0.2, exact=False), error("reformer", 0.5))
    assert approximate == "reformer, the only one that approximates, takes 200 ms: nothing is gained over flash."


def test_a_quality_of_another_regime_is_not_what_it_gives_up() -> None:
    _, approximate = told(
        times("flash", 0.2, exact=True),
        times("sparse", 0.01, exact=False, reach=0.07),
        error("sparse", 0.01, seq=512, reach=0.53),
    )
    assert "0.01" not in approximate.split("flash; ")[1]
    assert approximate.endswith(
        "what it gives up at 4096 tokens is not known: it sees 53% of the keys at N = 512 and 7.0% at N = 4096."
    )


def test_a_quality_that_nobody_measured_is_asked_for() -> None:
    _, approximate = told(times("flash", 0.2, exact=True), times("sparse", 0.01, exact=False))
    assert approximate.endswith("what it gives up was not measured: add --metrics agreement,swap.")


@pytest.mark.parametrize("rounds", [1, 2])
def test_too_few_rounds_call_nothing_the_fastest_and_say_so(rounds: int) -> None:
    found = told(times("vanilla", 0.4, exact=True, rounds=rounds), times("flash", 0.2, exact=True, rounds=rounds))
    assert found[0].endswith("flash has the lowest time of 2 exact mechanisms, 200 ms.")
    assert found[1:] == ["Too few rounds to test any of this: measure with --rounds 5."]


def test_nothing_is_concluded_of_runs_that_timed_nothing_or_do_not_say_what_is_exact() -> None:
    assert told(error("linear", 0.8)) == []
    assert told(row("linear", 4096, [0.1] * 5, facts={})) == []


Medians = dict[str, tuple[bool, list[float]]]


@settings(deadline=None, max_examples=100)
@given(
    st.dictionaries(
        st.sampled_from(["a", "b", "c", "d", "e"]),
        st.tuples(st.booleans(), st.lists(st.floats(0.001, 10), min_size=5, max_size=5)),
        min_size=1,
    )
)
def test_whatever_is_called_faster_is_so_by_a_paired_test_of_its_own(medians: Medians) -> None:
    of_run = [row(name, 4096, each, facts={"exact": exact, "reach": 1.0}) for name, (exact, each) in medians.items()]
    by_value = {one.case.variant: one.value for one in of_run}
    for sentence in told(*of_run):
        for faster, slower in _claims(sentence):
            logs = [[math.log(value) for value in medians[name][1]] for name in (faster, slower)]
            assert ttest_rel(*logs).pvalue <= 0.05
            assert math.fsum(logs[0]) / 5 < math.fsum(logs[1]) / 5 - math.log(1.01)
            others = [name for name in medians if medians[name][0] == medians[faster][0]]
            assert by_value[faster] == min(by_value[name] for name in others)


def _claims(sentence: str) -> list[tuple[str, str]]:
    """Return who is called faster than whom in a sentence."""
    names = re.search(r"(?:heads, |^)(\w)(?: is the fastest|, the).*? as fast as (\w)\b", sentence)
    return [(names[1], names[2])] if names else []
