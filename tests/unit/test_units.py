import math

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from attnbench.contracts.units import digits, duration, scale_for

SECONDS = st.floats(0, 1e6)


@pytest.mark.parametrize(
    ("unit", "values", "name"),
    [
        ("s", [0.25, 12.0], "s"),
        ("s", [0.09, 12.0], "ms"),
        ("s", [2.5e-4], "ms"),
        ("s", [9e-5, 2.0], "us"),
        ("s", [1e-12], "ns"),
        ("s", [0.0, 0.5], "s"),
        ("s", [-0.5], "s"),
        ("s", [math.nan, 0.5], "s"),
        ("s", [math.inf, 0.5e-3], "ms"),
        ("bytes", [300 * 2**20], "GiB"),
        ("bytes", [2**20], "MiB"),
        ("bytes", [1.0, 2**30], "B"),
        ("1", [1e-9, 0.5], ""),
        ("J", [0.5, 40.0], "J"),
        ("J", [2.5e-4], "mJ"),
        ("J", [1e-9], "uJ"),
        ("W", [1e-9], "W"),
        ("s", [], "ns"),
        ("s", [0.0], "ns"),
    ],
)
def test_a_column_is_shown_in_the_largest_unit_that_its_smallest_value_fills(unit, values, name):
    assert scale_for(unit, values).name == name


def test_mib_are_powers_of_two():
    assert scale_for("bytes", [2**20]).size == 2**20


@given(st.lists(st.floats(1e-9, 1e6), min_size=1))
def test_no_value_of_a_column_falls_below_a_tenth_of_its_unit(values):
    assert min(values) / scale_for("s", values).size >= 0.1


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0"),
        (-0.0, "0"),
        (1, "1.00"),
        (0.5, "0.500"),
        (0.0123, "0.0123"),
        (0.00123, "0.00123"),
        (9.996, "10.0"),
        (9.994, "9.99"),
        (99.96, "100"),
        (12.34, "12.3"),
        (123.4, "123"),
        (12345.6, "12346"),
        (-12.34, "-12.3"),
        (123456, "1.23e+05"),
        (0.000123, "1.23e-04"),
        (math.nan, "nan"),
        (math.inf, "inf"),
    ],
)
def test_numbers_are_written_with_three_significant_digits(value, text):
    assert digits(value) == text


@given(st.floats(-1e12, 1e12))
def test_writing_a_number_changes_it_by_at_most_half_of_its_third_digit(value):
    assume(abs(value) > 1e-300)
    assert float(digits(value)) == pytest.approx(value, rel=0.00501)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0 ms"),
        (0.85, "850 ms"),
        (0.9996, "1 s"),
        (12, "12 s"),
        (59.4, "59 s"),
        (59.6, "1 min 00 s"),
        (200, "3 min 20 s"),
        (3599.7, "1 h 00 min"),
        (7500, "2 h 05 min"),
        (360000, "100 h 00 min"),
    ],
)
def test_spans_are_written_as_a_person_says_them(seconds, text):
    assert duration(seconds) == text


@given(SECONDS, SECONDS)
def test_a_longer_span_is_never_written_as_a_shorter_one(one, other):
    shorter, longer = sorted((one, other))
    assert written(duration(shorter)) <= written(duration(longer))


def written(text):
    sizes = {"ms": 0.001, "s": 1, "min": 60, "h": 3600}
    words = text.split()
    return sum(int(number) * sizes[unit] for number, unit in zip(words[::2], words[1::2], strict=True))
