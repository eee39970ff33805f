"""The published tables that the project ships, and what their mechanisms are here."""

import csv
import tomllib
from importlib.resources import files
from typing import Any

import pytest

from attnbench.describe import describe_variant
from attnbench.registry import find
from attnbench.specs import parse_specs

FOLDER = files("attnbench_suites") / "published"
TABLES: dict[str, Any] = tomllib.loads((FOLDER / "mechanisms.toml").read_text())
MECHANISMS = [(table, name) for table, each in TABLES.items() for name in each["mechanisms"]]


def column(file: str, name: str) -> set[str]:
    with (FOLDER / file).open(newline="") as lines:
        return {row[name] for row in csv.DictReader(lines)}


@pytest.mark.parametrize(
    ("table", "file", "name"),
    [("lra", "long_range_arena_accuracy.csv", "model"), ("fa1", "flashattention1_appendix_e.csv", "method")],
)
def test_every_mechanism_of_a_published_table_is_mapped_and_no_other(table: str, file: str, name: str) -> None:
    assert set(TABLES[table]["mechanisms"]) == column(file, name)


@pytest.mark.parametrize(("table", "name"), MECHANISMS)
def test_a_published_mechanism_is_a_variant_whose_options_are_valid_or_has_a_reason(table: str, name: str) -> None:
    entry = TABLES[table]["mechanisms"][name]
    assert ("variant" in entry) != ("reason" in entry)
    if "variant" in entry:
        (spec,) = parse_specs(entry["variant"], flag="variant")
        found = describe_variant(find(spec.name, "variants", flag="variant"), spec.options)
        assert (found.failure, found.mistake) == ("", "")
