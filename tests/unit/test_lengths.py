"""Options that follow the number of keys."""

import pytest

from attnbench.contracts.lengths import options_at, parse_by_length


@pytest.mark.parametrize(
    ("text", "length", "value"),
    [
        ("N/8", 128, 16),
        ("N/10", 2001, 201),
        ("N/8..256", 65536, 256),
        ("N/8..256", 100, 13),
        ("256/N", 1024, 0.25),
        ("256/N..0.125", 1024, 0.125),
        ("256/N..0.125", 8192, 0.03125),
    ],
)
def test_a_rule_gives_a_value_at_each_length(text: str, length: int, value: float) -> None:
    rule = parse_by_length(text)
    assert rule is not None
    found = rule.at(length)
    assert found == value
    assert type(found) is type(value), "a whole number stays one, or an option would not take it"


@pytest.mark.parametrize("text", ["256", "N", "N/0", "n/8", "N/8..", "N/8..1.2.3", "0/N", "butterfly", "N/8,256"])
def test_any_other_text_is_no_rule(text: str) -> None:
    assert parse_by_length(text) is None


def test_other_options_stay() -> None:
    rule = parse_by_length("N/4")
    assert rule is not None
    assert options_at({"k": "N/4", "sharing": "none"}, {"k": rule}, 64) == {"k": 16, "sharing": "none"}
