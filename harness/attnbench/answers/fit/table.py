"""The blocks of a run, and of a search for the longest context its own in place of the memory at each length tried."""

from collections.abc import Collection, Iterator, Mapping, Sequence

from msgspec.structs import replace

from attnbench.analysis.rows import Row
from attnbench.answers.fit.search import METRIC
from attnbench.contracts.text import plain
from attnbench.contracts.units import Scale, digits
from attnbench.report.axes import TITLES, VariantKey, axis_text, layout, variant_key, variant_labels
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
    others = [row for row in rows if row.metric != METRIC and (metrics is not None or row.probe != "memory")]
    return [*blocks_of_figures(others, metrics), *_by_pass(found)]


def _by_pass(rows: Sequence[Row]) -> Iterator[Block]:
    for passes in dict.fromkeys(row.passes for row in rows):
        yield _block([row for row in rows if row.passes == passes])


def _block(rows: Sequence[Row]) -> Block:
    names = variant_labels(rows)
    alike = [replace(row, seq_q=1, seq_k=1) for row in rows]  # a length is what was found, and no axis
    axes = layout(alike)
    scale = block_scale("bytes", (_memory(row) for row in rows))
    return Block(
        title=f"Longest context that fits, {rows[0].passes} (tokens)",
        context=axes.context,
        axes=tuple(TITLES[axis] for axis in axes.labels),
        across="",
        columns=(*_COLUMNS, f"memory ({scale.name})" if scale.name else "memory"),
        groups=tuple(
            Group(
                labels=tuple(axis_text(getattr(row, axis)) for axis in axes.labels),
                lines=(Line(name=names[variant_key(row)], cells=tuple(_cells(row, scale))),),
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


def _reasons(rows: Sequence[Row], names: Mapping[VariantKey, str]) -> Iterator[str]:
    told: dict[str, list[str]] = {}
    for row in rows:
        if row.detail:
            told.setdefault(plain(" ".join(row.detail.split())), []).append(names[variant_key(row)])
    yield from (f"{', '.join(dict.fromkeys(whom))}: {why}" for why, whom in told.items())
