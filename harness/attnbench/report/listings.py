"""The tables of a report as columns: what grows how, who overtakes whom, what has no figure and why, and all rows."""

from collections.abc import Sequence
from typing import Any

from msgspec import Struct

from attnbench.analysis.compare import Comparison
from attnbench.analysis.rows import Row
from attnbench.analysis.scaling import growths
from attnbench.analysis.summary import Summary
from attnbench.contracts.case import Axes
from attnbench.report.axes import TITLES, axis_text
from attnbench.report.encoding import Coded, coded
from attnbench.report.flat import Cell, columns
from attnbench.report.growth import differing
from attnbench.report.reported import Report

_LEFT_OUT = ("medians", "facts", "task_options", "source", "environment", "probe", "primary", "higher_is_better")
_CASE = (
    *("passes", "level", "task", "seq_q", "seq_k", "heads", "kv_heads", "head_dim", "batch", "dtype", "device"),
    *("causal", "window", "inputs"),
)
_OF_STATUS = ("run", "variant", "options", "metric", *_CASE, "status", "detail")
_OF_PAIRS = ("metric", "variant", "options", *_CASE, "base", "new", "ratio", "low", "high", "unit", "verdict", "why")


class Listing(Struct, frozen=True, kw_only=True):
    """A table under its heading; `key` is its place on the page and in its file's name."""

    key: str
    title: str
    lead: str
    table: Coded


def listings(report: Report, summaries: Sequence[Summary]) -> list[Listing]:
    """Give the tables that have a line."""
    found = [_growth(report), _crossings(report, summaries), _statuses(report), _rows(report)]
    return [each for each in found if each.table["count"]]


def of_pairs(pairs: Sequence[Comparison]) -> Coded:
    """Give comparisons as columns."""
    return _picked(pairs, _OF_PAIRS)


def _rows(report: Report) -> Listing:
    names = [column.name for column in columns(Row) if column.name not in _LEFT_OUT]
    rows = [row for run in report.runs for row in run.rows]
    return Listing(
        key="data",
        title="All data",
        lead="Every row, in base units (s, bytes, J), rounded to seven digits. `attnbench show RUN --format csv` has "
        "the medians of the rounds besides.",
        table=_picked(rows, names),
    )


def _statuses(report: Report) -> Listing:
    rows = [row for row in report.rows if row.primary and (row.value is None or row.detail)]
    return Listing(
        key="statuses",
        title="No figure, and why",
        lead="Cells without a figure, and those of whose rounds some gave none.",
        table=_picked(rows, _OF_STATUS),
    )


def _growth(report: Report) -> Listing:
    found = [each for run in report.runs for each in growths(row for row in run.rows if row.primary)]
    known = [each for each in found if each.identity in report.names]
    lines = [
        {
            "run": each.run,
            "variant": report.names[each.identity],
            "metric": each.metric,
            "exponent": each.exponent,
            "low": each.low,
            "high": each.high,
            "last doubling": each.local,
            "from": each.lengths[0],
            "to": each.lengths[-1],
        }
        for each in known
    ]
    return Listing(
        key="growth",
        title="How each grows",
        lead="Time and memory as N^exponent, with a 95% interval, and the exponent over the last doubling alone.",
        table=_with_axes(lines, [each.axes for each in known]),
    )


def _crossings(report: Report, summaries: Sequence[Summary]) -> Listing:
    found = [each for summary in summaries for each in summary.crossed]
    lines = [
        {
            "run": each.winner.run,
            "overtakes": report.names[each.winner.identity],
            "overtaken": report.names[each.loser.identity],
            "N": each.length,
            "low": each.low,
            "high": each.high,
            "sure": "yes" if each.sure else "no",
        }
        for each in found
    ]
    return Listing(
        key="crossings",
        title="Who overtakes whom",
        lead="From which length on the first is faster than the second, interpolated; sure where both sides are "
        "significant by themselves. Of many pairs some cross by chance: the summary has those that passed all tests.",
        table=_with_axes(lines, [each.axes for each in found]),
    )


def _with_axes(lines: Sequence[dict[str, Any]], several: Sequence[Axes]) -> Coded:
    """Put columns for the settings in which lines differ behind the others."""
    labels = ["passes", *differing(several)]
    names = list(lines[0]) if lines else []
    cells: dict[str, list[Cell]] = {name: [line[name] for line in lines] for name in names}
    return coded(cells | {TITLES[name]: [_axis(axes.get(name)) for axes in several] for name in labels})


def _axis(value: Any) -> Cell:
    return value if isinstance(value, int) and not isinstance(value, bool) else axis_text(value)


def _picked(rows: Sequence[Row] | Sequence[Comparison], names: Sequence[str]) -> Coded:
    of = columns(type(rows[0])) if rows else ()
    by_name = {column.name: column for column in of if column.name in names}
    return coded({name: by_name[name].cells(rows) for name in names if name in by_name})
