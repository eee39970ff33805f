"""Rows as blocks of a table, whatever will draw them: titles, labels, numbers in one unit, words where there are none.

A block is one metric of one pass: a line for each variant, a column for each sequence length.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from statistics import median
from typing import Literal

import msgspec
from msgspec import Struct

from attnbench.analysis.floor import aa_floor, is_harness
from attnbench.analysis.rows import Row
from attnbench.contracts.case import AxisValue, Identity
from attnbench.contracts.metrics import Metric, metric_named
from attnbench.contracts.record import PENDING
from attnbench.contracts.stats import CLEAN, NOISY
from attnbench.contracts.text import plain
from attnbench.contracts.units import Scale, digits, scale_for
from attnbench.report.axes import (
    AXES,
    TITLES,
    Column,
    Layout,
    Names,
    axis_text,
    column_heading,
    column_labels,
    column_of,
    layout,
    variant_labels,
)
from attnbench.report.growth import Grown, crossings, grown
from attnbench.report.notes import aa_floor_note, notes

_AT_LEVEL = {"core": "", "layer": " with projections"}
_MARKS = {"noisy": "~", "unusable": "!"}
_MEANINGS = {"~": f"noisy (spread above {CLEAN:.0%})", "!": f"unusable (spread above {NOISY:.0%})"}
_WORDS = {"invalid_output": "invalid", "oom_device": "oom", "oom_host": "oom", "device_lost": "lost"}
_RANGE = 1e3  # of the largest value: what is smaller does not choose the unit
_PERCENT_WITH_DECIMAL, _MOST_PERCENT = 10, 999


class Cell(Struct, frozen=True, kw_only=True):
    """A number, a status word, or nothing where the sweep has no such cell."""

    text: str = ""
    number: bool = False
    margin: str = ""  # half of the 95% interval: a share where there is a unit, else in the value's own terms
    mark: str = ""  # noise
    best: bool = False
    tone: Literal["", "good", "bad"] = ""  # of a verdict


class Line(Struct, frozen=True, kw_only=True):
    """A variant under one set of the other axes."""

    name: str
    cells: tuple[Cell, ...]


class Group(Struct, frozen=True, kw_only=True):
    """Lines that may be compared with each other: all axes but the variant agree."""

    labels: tuple[str, ...]
    lines: tuple[Line, ...]


class Block(Struct, frozen=True, kw_only=True):
    """A table of one metric: `axes` head the groups' labels, `across` names what the columns are."""

    title: str
    context: str
    axes: tuple[str, ...]
    across: str
    columns: tuple[str, ...]
    groups: tuple[Group, ...]
    notes: tuple[str, ...] = ()
    floor: str = ""
    grown: tuple[Grown, ...] = ()
    crossings: tuple[str, ...] = ()
    replicates: str = ""  # over what the intervals were taken: "5 rounds", "3 seeds"

    @property
    def cells(self) -> Iterable[Cell]:
        """All cells, line by line."""
        return (cell for group in self.groups for line in group.lines for cell in line.cells)


def tables(rows: Sequence[Row], metrics: Collection[str] | None = None) -> list[Block]:
    """Arrange rows in blocks: of the metrics asked for, else of each probe's primary one.

    A failed question has a row under its probe's primary metric alone; it stands in each block of its probe and task.
    """
    names = variant_labels({row.identity: row.case.options for row in rows})
    several = len({row.run for row in rows}) > 1
    measured = _measured(rows, metrics)
    chosen: dict[tuple[str, str, str], list[Row]] = {}
    for row in rows:
        for metric in _metrics_of(row, metrics, measured):
            chosen.setdefault((row.run if several else "", metric, row.case.passes), []).append(row)
    return [
        _with_aa_floor(
            _block(title_of(_about(metric, group), run), _latest(group), names),
            metric,
            (row for row in rows if run in ("", row.run)),
        )
        for (run, metric, _), group in chosen.items()
    ]


def _about(metric: str, rows: Iterable[Row]) -> Metric:
    """Return what is known of a block's metric; a failed row of its probe knows only the primary one."""
    return next((row.about for row in rows if row.metric == metric), metric_named(metric))


def _with_aa_floor(block: Block, metric: str, rows: Iterable[Row]) -> Block:
    """Say under latencies what their run makes of no difference."""
    floor = aa_floor(rows) if metric == "latency" else None
    return block if floor is None else msgspec.structs.replace(block, notes=(*block.notes, aa_floor_note(floor.share)))


def _wanted(row: Row, metrics: Collection[str] | None) -> bool:
    return row.primary if metrics is None else row.metric in metrics


def _measured(rows: Iterable[Row], metrics: Collection[str] | None) -> dict[tuple[str, str], dict[str, None]]:
    """Find which of the metrics asked for each probe and task has figures of."""
    found: dict[tuple[str, str], dict[str, None]] = {}
    for row in rows:
        if row.samples and _wanted(row, metrics):
            found.setdefault((row.probe.kind, row.task), {})[row.metric] = None
    return found


def _metrics_of(
    row: Row, metrics: Collection[str] | None, measured: dict[tuple[str, str], dict[str, None]]
) -> Iterable[str]:
    if row.samples == 0 and row.primary and (row.probe.kind, row.task) in measured:
        return measured[row.probe.kind, row.task]
    return (row.metric,) if _wanted(row, metrics) else ()


def _latest(rows: Iterable[Row]) -> list[Row]:
    """Keep one row a cell: where code or protocol changed within a run, the one measured last, flagged."""
    latest: dict[object, Row] = {}
    for row in rows:
        axes = row.case.axes()
        cell = (row.identity, column_of(row), *(axes[axis] for axis in AXES))
        flags = (*row.flags, "measured_again") if cell in latest else row.flags
        latest[cell] = msgspec.structs.replace(row, flags=flags)
    return list(latest.values())


def _block(title: str, rows: list[Row], names: Names) -> Block:
    shown = [row for row in rows if not is_harness(row)] or rows
    axes, scale = layout(shown), block_scale(shown[0].unit, (row.value for row in shown))
    headings = column_labels(shown, axes.columns)
    apart = ("shape_name", *axes.labels) if len({row.case.shape_name for row in shown}) > 1 else axes.labels
    pass_of = f", {shown[0].case.passes}" if shown[0].case.passes else ""
    return Block(
        title=f"{title}{pass_of}{f' ({scale.name})' if scale.name else ''}",
        context=axes.context,
        axes=tuple(TITLES[axis] for axis in axes.labels),
        across=column_heading(shown[0]),
        columns=headings,
        groups=_groups(shown, axes, names, scale),
        notes=notes(shown, names, columns=dict(zip(axes.columns, headings, strict=True))),
        floor=_floor(rows) if shown is not rows else "",
        grown=grown(shown, names, apart),
        crossings=crossings(shown, names, apart),
        replicates=_replicates(shown),
    )


def title_of(metric: Metric, run: str = "") -> str:
    """Return a metric's title for a heading, after the run where there are several."""
    name = plain(metric.title)
    return f"{plain(run)}: {name}" if run else f"{name[:1].upper()}{name[1:]}"


def block_scale(unit: str, values: Iterable[float | None]) -> Scale:
    """Choose a block's unit so that neither its smallest nor its largest number needs an exponent."""
    known = [value for value in values if value is not None]
    if not known:
        return Scale("", 1.0)
    sizes = [abs(value) for value in known if value]
    least = max(sizes, default=0) / _RANGE
    return scale_for(unit, [max(size, least) for size in sizes])


def _floor(rows: Iterable[Row]) -> str:
    """Tell what the harness itself takes; at layer level that is the projections, around nothing."""
    values: dict[str, list[float]] = {}
    for row in rows:
        if is_harness(row) and row.probe.kind == "latency" and row.value is not None:
            values.setdefault(row.case.level, []).append(row.value)
    told = []
    for level, found in values.items():
        scale = scale_for("s", found)
        told.append(f"{digits(median(found) / scale.size)} {scale.name}{_AT_LEVEL[level]}")
    return ", ".join(told)


def _replicates(rows: Iterable[Row]) -> str:
    known = [row for row in rows if row.low is not None]
    if not known:
        return ""
    of_seeds = known[0].probe.metric.replicates == "seeds"
    counts = sorted({row.samples if of_seeds else row.rounds for row in known})
    span = " to ".join(map(str, dict.fromkeys((counts[0], counts[-1]))))
    return f"{span} {'seeds' if of_seeds else 'rounds'}"


def _groups(rows: Iterable[Row], axes: Layout, names: Names, scale: Scale) -> tuple[Group, ...]:
    grouped: dict[tuple[AxisValue, ...], dict[Identity, dict[Column, Row]]] = {}
    for row in rows:
        of_case = row.case.axes()
        values = tuple(of_case[axis] for axis in axes.labels)
        grouped.setdefault(values, {}).setdefault(row.identity, {})[column_of(row)] = row
    return tuple(
        Group(labels=tuple(map(axis_text, values)), lines=_lines(grouped[values], names, axes.columns, scale))
        for values in sorted(grouped, key=lambda values: [(value is not None, value) for value in values])
    )


def _lines(
    lines: Mapping[Identity, Mapping[Column, Row]], names: Names, columns: Sequence[Column], scale: Scale
) -> tuple[Line, ...]:
    best = {column: best_of(line[column] for line in lines.values() if column in line) for column in columns}
    return tuple(
        Line(
            name=names[variant],
            cells=tuple(cell_of(line[column], scale, best[column]) if column in line else Cell() for column in columns),
        )
        for variant, line in lines.items()
    )


def best_of(rows: Iterable[Row]) -> float | None:
    """Return the best of several values; None for agreement, where the least rounding is no merit."""
    known = [row for row in rows if row.value is not None and row.probe.kind != "agreement"]
    if len(known) < 2:
        return None
    values = [row.value for row in known if row.value is not None]
    return max(values) if known[0].higher_is_better else min(values)


def cell_of(row: Row, scale: Scale, best: float | None) -> Cell:
    """Show a row's figure in a block's unit, or the word for why there is none."""
    if row.value is None:
        return Cell(text=_word(row))
    return Cell(
        text=digits(row.value / scale.size),
        number=True,
        margin=_margin(row),
        mark=_MARKS.get(row.noise, ""),
        best=row.value == best,
    )


def _word(row: Row) -> str:
    if row.detail == PENDING:
        return "pending"
    return "no value" if row.status == "ok" else _WORDS.get(row.status, row.status)


def _margin(row: Row) -> str:
    if row.value is None or row.low is None or row.high is None or row.low == row.high:
        return ""
    half = max(row.high - row.value, row.value - row.low)
    if row.unit == "1" or not row.value:
        return _to_the_same_place(half, digits(row.value)) if row.unit == "1" else ""
    percent = max(100 * half / abs(row.value), 0.1)
    if percent > _MOST_PERCENT:
        return f">{_MOST_PERCENT}%"
    return f"{percent:.{int(percent < _PERCENT_WITH_DECIMAL)}f}%"


def _to_the_same_place(half: float, number: str) -> str:
    """Write half an interval with as many decimals as its number has, unless that leaves nothing of it."""
    rounded = f"{half:.{len(number.partition('.')[2])}f}"
    return digits(half) if "e" in number or not float(rounded) else rounded


def legend(blocks: Sequence[Block], *, best: str, replicates: Iterable[str]) -> str:
    """Return the meaning of the marks in use; `best` is how the best is shown, `replicates` what intervals are over."""
    cells = [cell for block in blocks for cell in block.cells]
    within = " and group" if any(len(block.groups) > 1 for block in blocks) else ""
    parts = [f"{best} best of its column{within}"] if best and any(cell.best for cell in cells) else []
    parts += [f"{mark} {meaning}" for mark, meaning in _MEANINGS.items() if any(cell.mark == mark for cell in cells)]
    over = " or ".join(filter(None, dict.fromkeys(replicates)))
    return ", ".join([*parts, f"+- 95% interval over {over}"] if over else parts)
