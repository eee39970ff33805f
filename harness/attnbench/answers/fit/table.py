"""The blocks of a run, and of a search for the longest context its own in place of the memory at each length tried."""

from collections.abc import Collection, Iterator, Sequence

from msgspec.structs import replace

from attnbench.analysis.rows import Row
from attnbench.answers.fit.search import METRIC, at_length
from attnbench.contracts.text import plain
from attnbench.contracts.units import Scale, digits
from attnbench.report.axes import TITLES, Names, axis_text, layout, variant_labels
from attnbench.report.summary import blocks as blocks_of_figures
from attnbench.report.table import Block, Cell, Group, Line, block_scale

_COLUMNS = ("longest", "fails at", "stopped by", "predicted")
_PREDICTED = "predicted: from the memory that the first lengths needed, before any longer one ran"


def blocks(rows: Sequence[Row], metrics: Collection[str] | None = None) -> list[Block]:
    """Arrange rows as `summary` does; contexts where there are any and no other metric is asked for."""
    found = [row for row in rows if row.metric == METRIC]
    wanted = metrics is None or METRIC in metrics
    if not found or not wanted:
        return blocks_of_figures(rows, metrics)
    others = [row for row in rows if row.metric != METRIC and (metrics is not None or row.probe.kind != "memory")]
    return [*blocks_of_figures(others, metrics), *_by_pass(found)]


def _by_pass(rows: Sequence[Row]) -> Iterator[Block]:
    for passes in dict.fromkeys(row.case.passes for row in rows):
        yield _block([row for row in rows if row.case.passes == passes])


def _block(rows: Sequence[Row]) -> Block:
    names = variant_labels({row.identity: row.case.options for row in rows})
    alike = [replace(row, case=at_length(row.case, 1)) for row in rows]  # the length is the result, and no axis
    axes = layout(alike)
    scale = block_scale("bytes", (_memory(row) for row in rows))
    return Block(
        title=f"Longest context that fits, {rows[0].case.passes} (tokens)",
        context=axes.context,
        axes=tuple(TITLES[axis] for axis in axes.labels),
        across="",
        columns=(*_COLUMNS, f"memory ({scale.name})" if scale.name else "memory"),
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
    yield Cell(text=digits(memory / scale.size), number=True) if memory is not None else Cell(text="-")


def _memory(row: Row) -> float | None:
    """Give the peak above the inputs at the longest length that ran."""
    found = row.facts.get("memory_bytes")
    return float(found) if isinstance(found, int | float) else None


def _reasons(rows: Sequence[Row], names: Names) -> Iterator[str]:
    told: dict[str, list[str]] = {}
    for row in rows:
        if row.detail:
            told.setdefault(plain(" ".join(row.detail.split())), []).append(names[row.identity])
    yield from (f"{', '.join(dict.fromkeys(whom))}: {why}" for why, whom in told.items())
