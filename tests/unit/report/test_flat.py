"""Rows and comparisons as columns: names and order are published, and every field of a case has a column."""

import msgspec
import pytest

from attnbench.analysis.compare import Comparison, compare
from attnbench.analysis.rows import Row, rows
from attnbench.contracts.case import Case, Mask, Shape
from attnbench.contracts.record import Origin, Protocol
from attnbench.report.flat import columns
from helpers.planted import with_axes
from helpers.simulated import blank, timed
from unit.report.planted import accuracy_job, job, record, value

OF_A_ROW = [
    *("run", "variant", "options", "origin", "metric", "passes", "level", "task", "seq_q", "seq_k", "heads"),
    *("kv_heads", "head_dim", "batch", "dtype", "device", "causal", "window", "status", "value", "low", "high"),
    *("unit", "samples", "rounds", "noise", "backend", "detail", "inputs", "seed", "shape_name", "min", "p05"),
    *("p95", "iqr", "spread", "medians", "outliers", "flags", "probe", "primary", "higher_is_better"),
    *("task_options", "facts", "source", "environment", "profile", "threads", "hot", "allocator"),
]
OF_A_COMPARISON = [
    *("variant", "options", "origin", "passes", "level", "task", "seq_q", "seq_k", "heads", "kv_heads", "head_dim"),
    *("batch", "dtype", "device", "causal", "window", "inputs", "seed", "metric", "base", "new", "ratio", "low"),
    *("high", "verdict", "why", "unit", "paired", "base_rounds", "new_rounds", "band", "p", "p_adjusted", "flags"),
    *("probe", "higher_is_better", "base_run", "new_run", "new_variant", "new_options", "new_origin", "shape_name"),
]
# No two fields that a column could mistake for one another have the same value.
CASE = Case(
    variant="v",
    options={"k": 3},
    shape=Shape(batch=2, heads=4, kv_heads=1, seq_q=6, seq_k=7, head_dim=16),
    mask=Mask(causal=True, window=5),
    dtype="float16",
    device="cuda:1",
    passes="backward",
    level="layer",
    inputs="clustered",
    shape_name="tall",
    seed=9,
)


def names(of):
    return [column.name for column in columns(of)]


def cells(row):
    return {column.name: column.get(row) for column in columns(type(row))}


def fields_of(struct):
    """Return a struct's values by name, with those of the structs that it holds in their place."""
    found = {}
    for name in struct.__struct_fields__:
        each = getattr(struct, name)
        found |= fields_of(each) if isinstance(each, msgspec.Struct) else {name: each}
    return found


@pytest.mark.parametrize(("of", "published"), [(Row, OF_A_ROW), (Comparison, OF_A_COMPARISON)])
def test_the_published_columns_come_first_and_in_their_published_order(of, published):
    assert names(of)[: len(published)] == published


@pytest.mark.parametrize("of", [Row, Comparison])
@pytest.mark.parametrize("struct", [Shape, Mask, Case])
def test_every_field_of_a_case_is_a_column(of, struct):
    assert set(struct.__struct_fields__) - {"shape", "mask"} <= set(names(of))


@pytest.mark.parametrize("of", [Row, Comparison])
def test_no_two_columns_have_the_same_name(of):
    assert len(set(names(of))) == len(names(of))


def test_every_field_of_a_case_reaches_the_column_of_its_name():
    (row,) = rows([record(msgspec.structs.replace(job(), case=CASE), value(1))])
    assert fields_of(CASE) == {name: cells(row)[name] for name in fields_of(CASE)}


def test_a_comparison_has_the_case_of_its_base():
    (row,) = rows([record(msgspec.structs.replace(job(), case=CASE), value(1))])
    (pair,) = compare([row], []).pairs
    assert fields_of(CASE) == {name: cells(pair)[name] for name in fields_of(CASE)}


def test_a_row_has_its_task_its_plugin_and_its_protocol_in_columns():
    mine = Origin(distribution="mine", version="2", source_hash="abc")
    protocol = Protocol(profile="quick", threads=3, hot=True, allocator="retained")
    trained = msgspec.structs.replace(accuracy_job("v", pairs=4), origin=mine, protocol=protocol)
    (row,) = rows([record(trained, value(0.5, "accuracy", "1"))])
    shown = cells(row)
    assert (shown["origin"], shown["source"]) == ("mine 2", "abc")
    assert (shown["probe"], shown["task"]) == ("accuracy", "mqar:preset=tiny,length=64,pairs=4")
    assert shown["task_options"] == {"length": 64, "pairs": 4, "layers": 2}
    assert [shown[name] for name in ("profile", "threads", "hot", "allocator")] == ["quick", 3, True, "retained"]


def test_a_comparison_has_both_sides_figures_runs_and_variants_in_columns():
    base, new = timed(blank("old"), [1.0, 1.0]), timed(blank("new", run="later"), [3.0, 3.0, 3.0])
    new = with_axes(msgspec.structs.replace(new, origin=Origin(path="mine.py"), flags=("once",)), options={"k": 1})
    shown = cells(Comparison(metric="latency", base=base, new=new, band=0.01))
    assert [shown[f"{side}{what}"] for side in ("base", "new") for what in ("", "_run", "_rounds")] == [
        *(1.0, "base", 2),
        *(3.0, "later", 3),
    ]
    assert (shown["variant"], shown["options"], shown["origin"]) == ("old", {}, "planted 1")
    assert (shown["new_variant"], shown["new_options"], shown["new_origin"]) == ("new", {"k": 1}, "mine.py")
    assert (shown["unit"], shown["probe"], shown["flags"]) == ("s", "latency", ("once",))


def test_a_comparison_without_one_side_has_no_figure_and_no_run_of_it():
    only_new = Comparison(metric="latency", base=None, new=timed(blank("v", run="later"), [3.0]), band=0.01)
    shown = cells(only_new)
    assert (shown["base"], shown["base_run"], shown["base_rounds"]) == (None, "", 0)
    assert (shown["new"], shown["new_run"], shown["new_rounds"], shown["variant"]) == (3.0, "later", 1, "v")


def test_every_column_of_a_row_says_what_it_means():
    assert [column.name for column in columns(Row) if not column.meta.description] == []
