import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from attnbench.analysis.roofline import derived, flops_exact, visible_pairs
from attnbench.contracts.case import Mask
from attnbench.contracts.record import Rates
from unit.analysis.courses_planted import row, sweep
from unit.report.planted import OWN

RATES = Rates(device="cpu", threads=2, bytes_per_s=10e9, flops_per_s={"float32": 100e9, "bfloat16": None})
FACTS = {
    "flops": 2 * 10**9,
    "flops_by": "variant",
    "bytes_executed": 3 * 10**8,
    "bytes_by": "counter",
    "bytes_least": 10**8,
}
OWN_BYTES = {"bytes_executed": 5 * 10**8, "bytes_by": "variant"}


def of(metric, *, rates=RATES, seconds=0.1, facts=FACTS, **changes):
    """Return the derived row of a metric, or None."""
    timed = row("v", 512, [seconds] * 3, facts=facts, **changes)
    return next((each for each in derived([timed], rates) if each.metric == metric), None)


@given(
    keys=st.integers(1, 40),
    missing=st.integers(0, 39),
    causal=st.booleans(),
    window=st.none() | st.integers(1, 50),
)
def test_visible_pairs_are_those_that_the_mask_allows_counted_one_by_one(keys, missing, causal, window):
    queries = max(1, keys - missing)
    seen = sum(
        (not causal or key <= query) and (window is None or abs(query - key) < window)
        for query in range(keys - queries, keys)
        for key in range(keys)
    )
    assert visible_pairs(Mask(causal=causal, window=window), queries=queries, keys=keys) == seen


def test_more_queries_than_keys_see_every_key():
    assert visible_pairs(Mask(), queries=7, keys=3) == 21


@pytest.mark.parametrize(
    ("passes", "times"), [("forward", 1), ("backward", 2.5), ("forward-backward", 3.5), ("decode", 1)]
)
def test_the_exact_count_is_that_of_two_products_and_five_backward(passes, times):
    timed = row("v", 512, [1.0], passes=passes)
    assert flops_exact(timed) == times * 4 * 8 * 512 * 512 * 64


def test_a_rate_is_work_over_time():
    assert of("flop_rate").value == pytest.approx(4 * 8 * 512 * 512 * 64 / 0.1)
    assert of("flop_rate_executed").value == pytest.approx(2e10)
    assert of("bandwidth").value == pytest.approx(3e9)
    assert [of(name).unit for name in ("flop_rate", "bandwidth", "roofline_share")] == ["FLOP/s", "bytes/s", "1"]


def test_the_share_is_the_larger_of_both_lower_bounds_over_the_time():
    assert of("roofline_share").value == pytest.approx(0.2)  # 20 ms of products, 10 ms of traffic
    traffic = of("roofline_share", facts=FACTS | {"bytes_executed": 10**9, "bytes_least": 5 * 10**8})
    assert traffic.value == pytest.approx(0.5)


def test_the_bound_uses_the_least_traffic_or_the_variants_own_count_because_operands_may_be_cached():
    assert of("roofline_share", facts=FACTS | {"bytes_executed": 10**12}).value == pytest.approx(0.2)
    assert of("roofline_share", facts=FACTS | OWN_BYTES).value == pytest.approx(0.5)
    long = FACTS | {"bytes_executed": None, "bytes_least": 5 * 10**8}
    assert of("roofline_share", facts=long).value == pytest.approx(0.5)


def test_a_mechanism_that_leaves_inputs_unread_is_bounded_by_what_it_reads():
    unread = FACTS | {"bytes_executed": 4 * 10**8, "bytes_least": 5 * 10**8}
    assert of("roofline_share", facts=unread).value == pytest.approx(0.4)


def test_the_interval_is_that_of_the_latency_inverted():
    (timed,) = sweep({"v": lambda n: 0.1}, noise=0.05, lengths=(512,), facts=FACTS)
    found = {each.metric: each for each in derived([timed], RATES)}
    assert found["bandwidth"].low == pytest.approx(3e8 / timed.high)
    assert found["bandwidth"].high == pytest.approx(3e8 / timed.low)
    assert found["bandwidth"].medians == {number: 3e8 / each for number, each in timed.medians.items()}
    assert found["bandwidth"].higher_is_better


def test_a_share_above_one_is_flagged():
    assert "above_roofline" in of("roofline_share", seconds=0.01).flags
    assert "above_roofline" not in of("roofline_share").flags


def test_a_byte_count_is_flagged_unless_it_is_the_variants_own():
    assert of("bandwidth").flags == ("operand_bytes",)
    assert of("roofline_share").flags == ("least_bytes",)
    assert of("bandwidth", facts=FACTS | OWN_BYTES).flags == ()
    assert of("roofline_share", facts=FACTS | OWN_BYTES).flags == ()


@pytest.mark.parametrize(
    ("lacking", "missing"),
    [
        ({"facts": FACTS | {"flops": None}}, {"flop_rate_executed", "roofline_share"}),
        ({"facts": FACTS | {"bytes_executed": None}}, {"bandwidth"}),
        ({"facts": FACTS | {"bytes_least": None, "bytes_executed": None}}, {"bandwidth", "roofline_share"}),
        ({"facts": {}}, {"flop_rate_executed", "bandwidth", "roofline_share"}),
        ({"rates": None}, {"roofline_share"}),
        ({"dtype": "bfloat16"}, {"roofline_share"}),
        ({"level": "layer"}, {"flop_rate"}),
    ],
)
def test_a_rate_whose_inputs_are_unknown_has_no_row(lacking, missing):
    every = {"flop_rate", "flop_rate_executed", "bandwidth", "roofline_share"}
    assert {name for name in every if of(name, **lacking) is None} == missing


def test_the_harness_and_failed_cases_have_no_rates():
    harness = row("empty", 512, [1e-6], origin=OWN, facts={"flops": 0, "bytes_executed": 0})
    failed = msgspec.structs.replace(row("v", 512, [1.0]), value=None, status="timeout")
    assert derived([harness, failed], RATES) == []
