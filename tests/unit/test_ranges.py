import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from attnbench.contracts.errors import UsageError
from attnbench.contracts.ranges import (
    GRAMMAR,
    LARGEST,
    MOST_VALUES,
    parse_bytes,
    parse_duration,
    parse_latency,
    parse_range,
)

SIZES = st.integers(1, LARGEST)


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("512..16384", (512, 1024, 2048, 4096, 8192, 16384)),
        ("512..4096:+512", tuple(range(512, 4097, 512))),
        ("512..4096:x4", (512, 2048)),
        ("512,1k,16k", (512, 1024, 16384)),
        ("512..4096,6k", (512, 1024, 2048, 4096, 6144)),
        ("1k..4k:+1k", (1024, 2048, 3072, 4096)),
        ("8", (8,)),
        ("3..10", (3, 6)),
        ("7..7", (7,)),
        ("2147483648", (2**31,)),
        ("00512", (512,)),
        (" 512 , 64 ", (64, 512)),
    ],
)
def test_a_range_gives_the_values_it_is_written_for(text, values):
    assert parse_range(text, flag="--seq") == values


def test_zero_is_allowed_on_request_but_no_factor_starts_from_it():
    assert parse_range("0..100:+25", flag="--tasks", zero=True) == (0, 25, 50, 75, 100)
    assert parse_range("0,50", flag="--tasks", zero=True) == (0, 50)
    with pytest.raises(UsageError, match="from zero it goes by steps"):
        parse_range("0..100", flag="--tasks", zero=True)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "is empty"),
        ("512,", "is empty"),
        ("4096..512", "is reversed"),
        ("0", "is zero"),
        ("0k", "is zero"),
        ("0..512", "is zero"),
        ("512..4096:+0", "is zero"),
        ("512..4096:x0", "is zero"),
        ("512..4096:x1", "never ends"),
        ("512..4096:x01", "never ends"),
        ("many", "is not a range"),
        ("-512", "is not a range"),
        ("1.5", "is not a range"),
        ("512..", "is not a range"),
        ("512:+512", "is not a range"),
        ("512..4096:512", "is not a range"),
        ("512..1024..2048", "is not a range"),
        ("1K", "is not a range"),
        ("5 12", "is not a range"),
        ("\u0665", "is not a range"),
        ("2147483649", "is larger than 2^31"),
        ("2097153k", "is larger than 2^31"),
        ("1..9999999999", "is larger than 2^31"),
        ("9" * 5000, "is larger than 2^31"),
        ("1..2147483648:+1", f"gives more than {MOST_VALUES} values"),
        ("1..800:+1,801..1200:+1", f"gives more than {MOST_VALUES} values"),
    ],
)
def test_a_wrong_range_is_a_usage_error_that_shows_the_grammar(text, why):
    with pytest.raises(UsageError) as raised:
        parse_range(text, flag="--heads")
    message = str(raised.value)
    assert message.startswith("--heads: ")
    assert why in message
    assert message.endswith(GRAMMAR)


def test_a_list_of_a_thousand_values_is_allowed():
    assert len(parse_range(f"1..{MOST_VALUES}:+1", flag="--seq")) == MOST_VALUES


@given(st.lists(SIZES, min_size=1, max_size=20))
def test_a_list_is_sorted_and_holds_each_value_once(values):
    assert parse_range(",".join(map(str, values)), flag="--seq") == tuple(sorted(set(values)))


@given(start=SIZES, factor=st.integers(2, 1000), span=st.integers(0, LARGEST))
def test_a_factor_goes_from_the_start_as_far_as_the_end_allows(start, factor, span):
    end = min(start + span, LARGEST)
    values = parse_range(f"{start}..{end}:x{factor}", flag="--seq")
    assert values[0] == start
    assert all(after == before * factor for before, after in itertools.pairwise(values))
    assert values[-1] <= end < values[-1] * factor


@given(start=st.integers(1, 10**6), step=st.integers(1, 10**6), steps=st.integers(0, MOST_VALUES - 1))
def test_a_step_goes_from_the_start_to_the_end(start, step, steps):
    end = start + steps * step
    assert parse_range(f"{start}..{end}:+{step}", flag="--seq") == tuple(range(start, end + 1, step))


@given(st.text(alphabet="0123456789k.,:+x ", max_size=30))
def test_any_text_is_either_refused_or_gives_sizes(text):
    try:
        values = parse_range(text, flag="--seq")
    except UsageError:
        return
    assert values
    assert all(1 <= value <= LARGEST for value in values)


@pytest.mark.parametrize(
    ("text", "seconds"), [("90", 90), ("90s", 90), ("10m", 600), ("1h30m", 5400), ("2h", 7200), ("1m30s", 90)]
)
def test_a_duration_is_parsed_as_seconds(text: str, seconds: float) -> None:
    assert parse_duration(text, flag="--time-budget") == seconds


@pytest.mark.parametrize("text", ["", "0", "-3", "ten", "1d", "m", "1.5h", "30m1h", "0h0m"])
def test_text_that_is_not_a_duration_is_refused_with_the_grammar(text: str) -> None:
    with pytest.raises(UsageError, match=r"--time-budget.*1h30m"):
        parse_duration(text, flag="--time-budget")


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("24GiB", 24 << 30),
        ("24G", 24 << 30),
        ("1.5 GiB", 3 << 29),
        ("512MiB", 512 << 20),
        ("24GB", 24 * 10**9),
        ("1gb", 10**9),
        ("77", 77),
    ],
)
def test_an_amount_of_memory_is_parsed_as_bytes(text: str, size: int) -> None:
    assert parse_bytes(text, flag="--memory") == size


@pytest.mark.parametrize(("text", "seconds"), [("50ms", 0.05), ("200us", 2e-4), ("1.5s", 1.5), ("2", 2.0)])
def test_a_latency_is_parsed_as_seconds(text: str, seconds: float) -> None:
    assert parse_latency(text, flag="--max-latency") == pytest.approx(seconds)


@pytest.mark.parametrize("text", ["", "GiB", "24X", "-1GiB", "0", "1e9", "2 cows", "9" * 30])
def test_text_that_is_not_an_amount_is_refused_with_the_grammar(text: str) -> None:
    for parse, example in ((parse_bytes, "24GiB"), (parse_latency, "50ms")):
        with pytest.raises(UsageError, match=f"^--flag: .*{example}"):
            parse(text, flag="--flag")
