"""The blocks of a run, with the longest contexts in place of the memory at each length that a search tried."""

from collections.abc import Collection, Iterator, Sequence

from msgspec.structs import replace

from attnbench.analysis.rows import Row
from attnbench.answers.fit.search import METRIC, at_length
from attnbench.contracts.units import Scale
from attnbench.report.axes import TITLES, VariantNames, axis_text, layout, names_of
from attnbench.report.summary import blocks as blocks_of_metrics
from attnbench.report.table import Block, Cell, Group, Line, block_scale, number_cell, with_unit
from attnbench.report.text import grouped, one_line

_COLUMNS = ("longest", "fails at", "stopped by", "predicted")
_PREDICTED = "predicted: from the memory that the first lengths needed, before any longer one ran"


def blocks(rows: Sequence[Row], metrics: Collection[str] | None = None) -> list[Block]:
    """Arrange rows as `report.summary` does, with a block of longest contexts for each pass."""
    contexts = [row for row in rows if row.metric == METRIC]
    if not contexts or not (metrics is None or METRIC in metrics):
        return blocks_of_metrics(rows, metrics)
    others = [row for row in rows if row.metric != METRIC and (metrics is not None or row.probe.kind != "memory")]
    passes = dict.fromkeys(row.case.passes for row in contexts)
    return [
        *blocks_of_metrics(others, metrics),
        *(_block([row for row in contexts if row.case.passes == one]) for one in passes),
    ]


def _block(rows: Sequence[Row]) -> Block:
    names = names_of(rows)
    axes = layout([replace(row, case=at_length(row.case, 1)) for row in rows])  # the length is the result, and no axis
    scale = block_scale("bytes", (_memory(row) for row in rows))
    return Block(
        title=f"Longest context that fits, {rows[0].case.passes} (tokens)",
        context=axes.context,
        axes=tuple(TITLES[axis] for axis in axes.labels),
        across="",
        columns=(*_COLUMNS, with_unit("memory", scale)),
        groups=tuple(
            Group(
                labels=tuple(axis_text(row.case.axes()[axis]) for axis in axes.labels),
                lines=(Line(name=names[row.identity], cells=tuple(_cells(row, scale))),),
            )
            for row in rows
        ),
        notes=(_PREDICTED, *_reasons(rows, names)),
    )


def _cells(row: Row, scale: Scale) -> Iterator[Cell]:
    predicted, memory = row.facts.get("predicted"), _memory(row)
    yield Cell(text=str(int(row.value)), number=True) if row.value is not None else Cell(text="none")
    yield Cell(text=str(int(row.high)), number=True) if row.high is not None else Cell(text="-")
    yield Cell(text=str(row.facts["stopped"] or "not over"))
    yield Cell(text=str(predicted), number=True) if predicted is not None else Cell(text="no end")
    yield number_cell(memory, scale)


def _memory(row: Row) -> float | None:
    """Return the peak above the inputs at the longest length that ran."""
    memory = row.facts.get("memory_bytes")
    return float(memory) if isinstance(memory, int | float) else None


def _reasons(rows: Sequence[Row], names: VariantNames) -> Iterator[str]:
    reasons = grouped((one_line(row.detail), names[row.identity]) for row in rows if row.detail)
    yield from (f"{', '.join(variants)}: {reason}" for reason, variants in reasons.items())
