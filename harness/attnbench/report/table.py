"""Rows as blocks of a table for any renderer: titles, labels, numbers in one unit, words where there is no number.

A block is one metric of one pass: a line for each variant, a column for each sequence length.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Literal

import msgspec
from msgspec import Struct

from attnbench.analysis.aa_floor import aa_floor
from attnbench.analysis.failures import examples, in_metrics
from attnbench.analysis.regime import is_exact_here
from attnbench.analysis.rows import Row
from attnbench.contracts.case import AxisValue, Identity
from attnbench.contracts.metrics import Metric
from attnbench.contracts.record import PENDING
from attnbench.contracts.stats import CLEAN, NOISY, Noise
from attnbench.contracts.text import plain
from attnbench.contracts.units import Scale, digits, scale_for
from attnbench.report.axes import (
    AXES,
    TITLES,
    ColumnKey,
    Layout,
    RowOrPair,
    VariantNames,
    axis_text,
    column_heading,
    column_labels,
    column_of,
    layout,
    names_of,
)
from attnbench.report.growth import GrowthLine, crossing_sentences, growth_lines
from attnbench.report.notes import aa_floor_note, harness_floor, notes, replicates

_MARKS = {"noisy": "~", "very noisy": "!"}
_EXACT_HERE, _ONE_CALL = "=", "1x"
_MEANINGS = {
    "~": f"noisy (spread above {CLEAN:.0%})",
    "!": f"very noisy (spread above {NOISY:.0%})",
    _ONE_CALL: "one call, so its noise is not known",
    _EXACT_HERE: "exact attention at this length",
}
_WORDS = {"invalid_output": "invalid", "oom_device": "oom", "oom_host": "oom", "device_lost": "lost"}
_RANGE = 1e3  # values smaller than the largest by more than this ratio do not choose the unit
_PERCENT_WITH_DECIMAL, _MOST_PERCENT = 10, 999
NO_UNIT = Scale("", 1.0)


class Cell(Struct, frozen=True, kw_only=True):
    """A number, a status word, or nothing where the sweep has no such case."""

    text: str = ""
    number: bool = False
    margin: str = ""  # half of the 95% interval: a share where there is a unit, else in the value's own terms
    mark: str = ""  # noise, or that an approximate mechanism is exact here
    best: bool = False
    tone: Literal["", "good", "bad"] = ""  # of a verdict


class Line(Struct, frozen=True, kw_only=True):
    """A variant under one set of the other axes."""

    name: str
    cells: tuple[Cell, ...]


class Group(Struct, frozen=True, kw_only=True):
    """Lines that are comparable: all axes but the variant agree."""

    labels: tuple[str, ...]
    lines: tuple[Line, ...]


class Block(Struct, frozen=True, kw_only=True):
    """A table of one metric: `axes` are the headings of the groups' labels, `across` is that of the columns."""

    title: str
    context: str
    axes: tuple[str, ...]
    across: str
    columns: tuple[str, ...]
    groups: tuple[Group, ...]
    notes: tuple[str, ...] = ()
    floor: str = ""
    growth: tuple[GrowthLine, ...] = ()
    crossings: tuple[str, ...] = ()
    replicates: str = ""  # of the intervals: "5 rounds", "3 seeds"

    @property
    def footnotes(self) -> tuple[str, ...]:
        """All sentences under the table, but for the growth."""
        floor = [f"harness floor: {self.floor}"] if self.floor else []
        return (*self.crossings, *floor, *self.notes)

    @property
    def cells(self) -> Iterable[Cell]:
        """All cells, line by line."""
        return (cell for group in self.groups for line in group.lines for cell in line.cells)


def tables(rows: Sequence[Row], metrics: Collection[str] | None = None) -> list[Block]:
    """Arrange rows in blocks: of the given metrics, else of each probe's primary one.

    A failed job stands in each block of its probe and task.
    """
    names = names_of(rows)
    several = len({row.run for row in rows}) > 1
    groups: dict[tuple[str, str, str], list[Row]] = {}
    for row in in_metrics(rows, metrics, examples(rows, metrics)):
        groups.setdefault((row.run if several else "", row.metric, row.case.passes), []).append(row)
    blocks = []
    for (run, metric, _), group in groups.items():
        block = _block(title_of(group[0].about, run), _latest(group), names)
        if metric == "latency" and (floor := aa_floor(row for row in rows if run in ("", row.run))):
            block = msgspec.structs.replace(block, notes=(*block.notes, aa_floor_note(floor.share)))
        blocks.append(block)
    return blocks


def _latest(rows: Iterable[Row]) -> list[Row]:
    """Return one row a cell: where code or protocol changed within a run, the one measured last, flagged."""
    latest: dict[object, Row] = {}
    for row in rows:
        axes = row.case.axes()
        key = (row.identity, column_of(row), *(axes[axis] for axis in AXES))
        flags = (*row.flags, "measured_again") if key in latest else row.flags
        latest[key] = msgspec.structs.replace(row, flags=flags)
    return list(latest.values())


def _block(title: str, rows: list[Row], names: VariantNames) -> Block:
    shown = [row for row in rows if not row.is_harness] or rows
    axes, scale = layout(shown), block_scale(shown[0].unit, (row.value for row in shown))
    headings = column_labels(shown, axes.columns)
    labels = ("shape_name", *axes.labels) if len({row.case.shape_name for row in shown}) > 1 else axes.labels
    return Block(
        title=with_unit(with_pass(title, shown[0]), scale),
        context=axes.context,
        axes=tuple(TITLES[axis] for axis in axes.labels),
        across=column_heading(shown[0]),
        columns=headings,
        groups=_groups(shown, axes, names, scale),
        notes=notes(shown, names, columns=dict(zip(axes.columns, headings, strict=True))),
        floor=harness_floor(rows) if shown is not rows else "",
        growth=growth_lines(shown, names, labels),
        crossings=crossing_sentences(shown, names, labels),
        replicates=replicates(shown),
    )


def title_of(metric: Metric, run: str = "") -> str:
    """Return a metric's title for a heading, after the run where there are several."""
    name = plain(metric.title)
    return f"{plain(run)}: {name}" if run else f"{name[:1].upper()}{name[1:]}"


def with_pass(title: str, row: RowOrPair) -> str:
    """Return a title with the pass of a row, if it has one."""
    return f"{title}, {row.case.passes}" if row.case.passes else title


def with_unit(title: str, scale: Scale) -> str:
    """Return a title with the unit of its numbers, if they have one."""
    return f"{title} ({scale.name})" if scale.name else title


def block_scale(unit: str, values: Iterable[float | None]) -> Scale:
    """Return a block's display unit, in which few numbers need an exponent."""
    present = [value for value in values if value is not None]
    if not present:
        return NO_UNIT
    sizes = [abs(value) for value in present if value]
    least = max(sizes, default=0) / _RANGE
    return scale_for(unit, [max(size, least) for size in sizes])


def _groups(rows: Iterable[Row], axes: Layout, names: VariantNames, scale: Scale) -> tuple[Group, ...]:
    groups: dict[tuple[AxisValue, ...], dict[Identity, dict[ColumnKey, Row]]] = {}
    for row in rows:
        of_case = row.case.axes()
        values = tuple(of_case[axis] for axis in axes.labels)
        groups.setdefault(values, {}).setdefault(row.identity, {})[column_of(row)] = row
    return tuple(
        Group(labels=tuple(map(axis_text, values)), lines=_lines(groups[values], names, axes.columns, scale))
        for values in sorted(groups, key=lambda values: [(value is not None, value) for value in values])
    )


def _lines(
    by_variant: Mapping[Identity, Mapping[ColumnKey, Row]],
    names: VariantNames,
    columns: Sequence[ColumnKey],
    scale: Scale,
) -> tuple[Line, ...]:
    best = {column: best_of(rows[column] for rows in by_variant.values() if column in rows) for column in columns}
    return tuple(
        Line(
            name=names[variant],
            cells=tuple(cell_of(rows[column], scale, best[column]) if column in rows else Cell() for column in columns),
        )
        for variant, rows in by_variant.items()
    )


def best_of(rows: Iterable[Row]) -> float | None:
    """Return the best of two or more values; None for agreement, where the least rounding is no merit.

    What is exact attention at this length alone has earned no merit either.
    """
    ranked = [
        row for row in rows if row.value is not None and not (row.probe.kind == "agreement" or is_exact_here(row))
    ]
    if len(ranked) < 2:
        return None
    values = [row.value for row in ranked if row.value is not None]
    return max(values) if ranked[0].higher_is_better else min(values)


def number_cell(value: float | None, scale: Scale = NO_UNIT, noise: Noise = "") -> Cell:
    """Return the cell of a number in a unit, marked where it is noisy; a dash for none."""
    if value is None:
        return Cell(text="-")
    return Cell(text=digits(value / scale.size), number=True, mark=_MARKS.get(noise, ""))


def cell_of(row: Row, scale: Scale, best: float | None) -> Cell:
    """Return the cell of a row: its value in a block's unit, or the word for why there is none."""
    if row.value is None:
        return Cell(text=_word(row))
    cell = number_cell(row.value, scale, row.noise)
    is_one_call = row.samples == 1 and row.probe.metric.replicates == "rounds"
    mark = _EXACT_HERE if is_exact_here(row) else _ONE_CALL if is_one_call else cell.mark
    return msgspec.structs.replace(cell, margin=_margin(row), mark=mark, best=row.value == best and mark != _EXACT_HERE)


def _word(row: Row) -> str:
    if row.detail == PENDING:
        return "pending"
    return "no value" if row.status == "ok" else _WORDS.get(row.status, row.status)


def _margin(row: Row) -> str:
    if row.value is None or row.low is None or row.high is None or row.low == row.high:
        return ""
    half = max(row.high - row.value, row.value - row.low)
    if row.unit == "1" or not row.value:
        return _with_same_decimals(half, digits(row.value)) if row.unit == "1" else ""
    percent = max(100 * half / abs(row.value), 0.1)
    if percent > _MOST_PERCENT:
        return f">{_MOST_PERCENT}%"
    return f"{percent:.{int(percent < _PERCENT_WITH_DECIMAL)}f}%"


def _with_same_decimals(half: float, number: str) -> str:
    """Return half an interval with as many decimals as its number has, unless that rounds it to zero."""
    rounded = f"{half:.{len(number.partition('.')[2])}f}"
    return digits(half) if "e" in number or not float(rounded) else rounded


def legend(blocks: Sequence[Block], *, best: str, replicates: Iterable[str]) -> str:
    """Return the meaning of the marks in use; `best` marks the best, `replicates` are those of the intervals shown."""
    cells = [cell for block in blocks for cell in block.cells]
    within = " and group" if any(len(block.groups) > 1 for block in blocks) else ""
    parts = [f"{best} best of its column{within}"] if best and any(cell.best for cell in cells) else []
    parts += [f"{mark} {meaning}" for mark, meaning in _MEANINGS.items() if any(cell.mark == mark for cell in cells)]
    over = " or ".join(filter(None, dict.fromkeys(replicates)))
    return ", ".join([*parts, f"+- 95% interval over {over}"] if over else parts)
