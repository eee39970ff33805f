"""A replayed table as blocks: each mechanism's published line and ours below, as values and as ratios."""

from collections.abc import Iterator, Mapping, Sequence

import msgspec
from rich.console import Group as Renderables
from rich.console import RenderableType
from rich.text import Text

from attnbench.analysis.groups import group_by
from attnbench.answers.replay.beside import ABSENT, Difference, Replay, ReplayedValue
from attnbench.contracts.metrics import metric_named
from attnbench.contracts.record import PENDING
from attnbench.contracts.text import plain
from attnbench.contracts.units import Scale, digits
from attnbench.report.table import NO_UNIT, Block, Cell, Group, Line, block_scale, cell_of, title_of, with_unit
from attnbench.report.terminal import Paragraph, Tables
from attnbench.report.text import few, grouped, one_line

_NO_FIGURE = "no figure"  # the paper's table is empty there
_NOT_RUN = "not run"
_MOST_NAMED = 3

_Column = tuple[str, int | None]  # the task, and the length where the task has none of its own


def printable(table: Replay) -> Renderables:
    """Return a replayed table for a rich console: its source, the blocks, and how the set-ups differ."""
    parts: list[RenderableType] = [*map(Paragraph, headline(table)), Text(), Tables(blocks(table))]
    if differences := set_up(table):
        parts += [Text(), *map(Paragraph, differences)]
    return Renderables(*parts)


def headline(table: Replay) -> list[str]:
    """Return the table's title, its source and its conditions, a paragraph each."""
    paper = table.paper
    parts = [paper.title, f"Published: {paper.source}", paper.note and f"There: {paper.note}"]
    return [plain(part) for part in parts if part]


def blocks(table: Replay) -> list[Block]:
    """Arrange values by metric and pass: as they are, then relative to the baseline's at the same length.

    What a run has nothing of is left out, unless that is all.
    """
    groups = group_by(table.figures, lambda value: (value.metric, value.passes)).values()
    measured = [values for values in groups if any(value.row for value in values)]
    return [block for values in measured or groups for block in _blocks(table, values)]


def set_up(table: Replay) -> list[str]:
    """Return how the set-ups differ: a paragraph for what holds everywhere, and one for each task."""
    differences = [(difference.task, _difference(difference)) for difference in table.differences]
    notes = [(quantity.task, quantity.note) for quantity in table.paper.figures if quantity.note]
    by_task = {"": list[str]()} | grouped([*differences, *notes])
    return [plain(f"{task or 'Set-up'}: {'; '.join(parts)}") for task, parts in by_task.items() if parts]


def _difference(difference: Difference) -> str:
    return f"{difference.name.replace('_', ' ')} {difference.published} there, {difference.here} here"


def _blocks(table: Replay, values: Sequence[ReplayedValue]) -> Iterator[Block]:
    """Yield the block of one metric and pass, and that of its ratios where it has a baseline."""
    measured = {_column(value) for value in values if value.row}
    columns = list(dict.fromkeys(map(_column, values)))
    shown = [column for column in columns if column in measured or column[1] is None] or columns
    scale = _scale([value for value in values if _column(value) in shown])
    title = ", ".join(filter(None, (title_of(metric_named(values[0].metric)), values[0].passes)))
    absolute = Block(
        title=with_unit(title, scale),
        context="",
        axes=(),
        across="task" if values[0].seq is None else "seq",
        columns=tuple(plain(task) if length is None else str(length) for task, length in shown),
        groups=tuple(_groups(values, shown, scale)),
        notes=tuple(_notes(table, values, left_out=[column for column in columns if column not in shown])),
    )
    yield absolute
    if any(value.published_ratio is not None for value in values):
        yield msgspec.structs.replace(
            absolute,
            title=f"{title}, over {table.paper.baseline} at the same length",
            groups=tuple(_groups(values, shown, None)),
            notes=(),
        )


def _column(value: ReplayedValue) -> _Column:
    return value.task, value.seq


def _scale(values: Sequence[ReplayedValue]) -> Scale:
    unit = next((value.unit for value in values if value.unit), "")
    numbers = [number for value in values for number in (value.published, value.value)]
    return block_scale(unit, numbers) if unit else NO_UNIT


def _groups(values: Sequence[ReplayedValue], columns: Sequence[_Column], scale: Scale | None) -> Iterator[Group]:
    """Yield each mechanism's published line and, where it is a variant, ours below; without a scale as ratios."""
    for mechanism, of_mechanism in group_by(values, lambda value: value.mechanism).items():
        by_column = {_column(value): value for value in of_mechanism}
        lines = [Line(name=plain(mechanism), cells=_cells(by_column, columns, scale, ours=False))]
        if variant := of_mechanism[0].variant:
            name = f"  here: {plain(variant.partition(':')[0])}"
            lines.append(Line(name=name, cells=_cells(by_column, columns, scale, ours=True)))
        yield Group(labels=(), lines=tuple(lines))


def _cells(
    by_column: Mapping[_Column, ReplayedValue], columns: Sequence[_Column], scale: Scale | None, *, ours: bool
) -> tuple[Cell, ...]:
    cell = _here if ours else _there
    return tuple(cell(by_column[column], scale) if column in by_column else Cell() for column in columns)


def _there(value: ReplayedValue, scale: Scale | None) -> Cell:
    number = value.published_ratio if scale is None else value.published
    if number is None:
        return Cell(text=plain(value.published_words) or _NO_FIGURE)
    return Cell(text=digits(number / (scale or NO_UNIT).size), number=True)


def _here(value: ReplayedValue, scale: Scale | None) -> Cell:
    if value.row is None:
        return Cell(text=_NOT_RUN)
    if scale is not None or value.value is None:
        return cell_of(value.row, scale or NO_UNIT, None)
    return Cell(text=_NO_FIGURE) if value.ratio is None else Cell(text=digits(value.ratio), number=True)


def _notes(table: Replay, values: Sequence[ReplayedValue], *, left_out: Sequence[_Column]) -> Iterator[str]:
    """Yield each mechanism's variant, why values are missing, and where else the paper has values."""
    for name, mechanism in table.paper.mechanisms.items():
        if mechanism.reason:
            yield f"{name}: none here, as {mechanism.reason}"
        elif ":" in mechanism.variant or mechanism.by_task or mechanism.note:
            tasks = grouped((variant, task) for task, variant in mechanism.by_task.items())
            others = [f"for {' and '.join(of)} {variant}" for variant, of in tasks.items()]
            yield "; ".join(filter(None, (f"{name} is {mechanism.variant} here", *others, mechanism.note)))
    missing = (
        value
        for value in values
        if value.variant and value.why not in ("", ABSENT, PENDING) and _column(value) not in left_out
    )
    for reason, where in grouped((value.why, _where(value)) for value in missing).items():
        yield f"{few(where, _MOST_NAMED, separator='; ')}: {one_line(reason)}"
    if left_out:
        yield f"published also at {', '.join(str(length or task) for task, length in left_out)}"


def _where(value: ReplayedValue) -> str:
    return f"{value.variant} at {value.task or value.seq}" if value.row else value.task  # a task lacks for all
