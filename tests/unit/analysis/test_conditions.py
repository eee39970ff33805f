import msgspec
import pytest

from attnbench.analysis.compare import compare
from attnbench.analysis.conditions import is_undecided, read_conditions, violations
from attnbench.analysis.rows import rows
from attnbench.contracts.errors import UsageError
from helpers.simulated import blank, timed
from unit.report.planted import job, record, value

PAIR = compare([timed(blank("vanilla"), [1.0] * 3)], [timed(blank("vanilla", run="new"), [1.06] * 3)]).pairs[0]


def broken(text, **changes):
    return bool(violations([msgspec.structs.replace(PAIR, **changes)], read_conditions(text, flag="--fail-on")))


@pytest.mark.parametrize(
    ("text", "fails"),
    [
        ("slower", True),
        ("slower:5%", True),
        ("slower:5.9%", True),
        ("slower:6.5%", False),
        ("faster", False),
        ("higher, slower:5%", True),
        ("inconclusive,incomparable", False),
    ],
)
def test_a_verdict_fails_beyond_its_threshold(text, fails):
    assert broken(text) is fails


def test_a_decrease_counts_by_its_share_too():
    assert broken("faster:5%", verdict="faster", ratio=0.94)
    assert not broken("faster:5%", verdict="faster", ratio=0.96)


def test_a_change_from_zero_is_beyond_any_threshold():
    assert broken("higher:500%", verdict="higher", ratio=None)


@pytest.mark.parametrize(
    "text", ["", "slow", "slower:5", "slower:-5%", "slower:%", "same", "slower,", "slower:5%:6%", "incomparable:5%"]
)
def test_anything_else_is_refused_with_the_grammar(text):
    with pytest.raises(UsageError, match=r"--fail-on: .*; write slower, slower:5% \(likewise"):
        read_conditions(text, flag="--fail-on")


def test_what_counts_without_a_test_decides_nothing_of_times():
    memory = record(job("vanilla", "memory"), value(1024, "memory", "bytes"))
    base, new = ([*rows([memory]), timed(blank("vanilla", run=run), [1.0, 1.1])] for run in ("base", "new"))
    pairs = compare(base, new).pairs
    assert {pair.verdict for pair in pairs} == {"same", "inconclusive"}
    for text, undecided in (("slower:5%", True), ("slower,undecided", True), ("higher", False), ("undecided", False)):
        assert is_undecided(pairs, read_conditions(text, flag="--fail-on")) is undecided
