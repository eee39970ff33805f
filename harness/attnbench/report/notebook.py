"""Blocks as HTML tables without a style of their own, for notebooks; comparisons that show themselves so."""

from collections.abc import Iterable, Iterator, Sequence
from html import escape

from attnbench.analysis.compare import Comparisons
from attnbench.report.comparison import blocks as comparison_blocks
from attnbench.report.comparison import summary
from attnbench.report.table import Block, Cell, legend


class ShownComparisons(Comparisons, frozen=True, kw_only=True):
    """Comparisons that a prompt shows as their summary, and a notebook as tables."""

    def __repr__(self) -> str:
        return "\n".join(summary(self))

    def _repr_html_(self) -> str:
        lines = "".join(f"<div>{escape(line)}</div>" for line in summary(self))
        return lines + html(comparison_blocks(self))


def html(blocks: Sequence[Block]) -> str:
    """Render blocks as HTML, each a table with its notes; all text is escaped."""
    return "".join(part for block in blocks for part in _block(block))


def _block(block: Block) -> Iterator[str]:
    context = f"<br>{escape(block.context)}" if block.context else ""
    yield f"<table><caption><b>{escape(block.title)}</b>{context}</caption>"
    yield _row("th", map(escape, (*block.axes, " / ".join(filter(None, ("variant", block.across))), *block.columns)))
    for group in block.groups:
        labels = [escape(label) for label in group.labels]
        yield from (_row("td", [*labels, escape(line.name), *map(_cell, line.cells)]) for line in group.lines)
    yield "</table>"
    marks = legend([block], best="bold:", replicates=[block.replicates])
    yield from (f"<div><small>{escape(note)}</small></div>" for note in (*block.footnotes, marks) if note)


def _row(tag: str, cells: Iterable[str]) -> str:
    return f"<tr>{''.join(f'<{tag}>{cell}</{tag}>' for cell in cells)}</tr>"


def _cell(cell: Cell) -> str:
    number = f"<b>{escape(cell.text)}</b>" if cell.best else escape(cell.text)
    margin = f"\N{PLUS-MINUS SIGN}{escape(cell.margin)}" if cell.margin else ""
    return " ".join(filter(None, (number, margin, escape(cell.mark))))
