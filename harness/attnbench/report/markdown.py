"""Blocks as Markdown (GitHub's tables): a heading, a table and its notes for each."""

import re
from collections.abc import Iterable, Iterator, Sequence

from attnbench.report.growth import GROWTH
from attnbench.report.table import Block, Cell, legend

_SIGN = "\N{PLUS-MINUS SIGN}"
_SPECIAL = re.compile(r"([\\`*_\[\]|~$#])")


def markdown(blocks: Sequence[Block]) -> str:
    """Write blocks as Markdown; names are escaped so that none of them is markup."""
    return "\n\n".join("\n".join(_block(block)) for block in blocks) + "\n" * bool(blocks)


def _block(block: Block) -> Iterator[str]:
    yield f"### {escaped(block.title)}\n"
    if block.context:
        yield f"{escaped(block.context)}\n"
    yield _row(map(escaped, (*block.axes, " / ".join(filter(None, ("variant", block.across))), *block.columns)))
    yield _row([":--"] * (len(block.axes) + 1) + ["--:"] * len(block.columns))
    for group in block.groups:
        labels = [escaped(label) for label in group.labels]
        yield from (_row([*labels, escaped(line.name), *map(_cell, line.cells)]) for line in group.lines)
    if block.grown:
        yield f"\n{escaped(GROWTH)}\n"
        yield _row(["variant", "p", "last doubling"])
        yield _row([":--", "--:", "--:"])
        yield from (_row(map(escaped, (each.name, each.exponent, each.local))) for each in block.grown)
    floor = [f"harness floor: {block.floor}"] if block.floor else []
    marks = legend([block], best="bold:", replicates=[block.replicates]).replace("+-", _SIGN)
    notes = [f"- {escaped(note)}" for note in (*block.crossings, *floor, *block.notes, marks) if note]
    if notes:
        yield "\n" + "\n".join(notes)


def _row(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _cell(cell: Cell) -> str:
    number = f"**{cell.text}**" if cell.best else cell.text
    margin = f"{_SIGN}{cell.margin}" if cell.margin else ""
    return " ".join(filter(None, (number, margin, escaped(cell.mark))))


def escaped(text: str) -> str:
    """Write text so that nothing in it is markup."""
    entities = text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return _SPECIAL.sub(r"\\\1", entities)
