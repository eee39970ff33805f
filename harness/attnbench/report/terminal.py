"""Blocks as tables in a terminal or a pipe: intervals where there is room, columns in parts where they do not fit."""

import io
import re
import textwrap
from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise

from msgspec import Struct
from rich.box import Box
from rich.cells import cell_len, chop_cells
from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.measure import Measurement
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from attnbench.analysis.rows import Row
from attnbench.report.axes import names_of
from attnbench.report.conclusion import conclusion
from attnbench.report.growth import GROWTH
from attnbench.report.table import Block, Cell, legend, tables

FILE_WIDTH = 120
_UNLIMITED = 10_000
_TONES = {"good": "green", "bad": "red"}
_MARKED = {"~": " yellow", "!": " red", "1x": " red"}
_NARROWEST_NAME = 16
_LONGEST_REPEATED = 7  # a longer word stands in the first of several columns, a dash in the others
_LINES_FOR_PROGRESS = 4  # of the screen, left to what stands around a live table
_WIDEST_PHRASE = 16  # a longer one, as a paper has in place of a number, is wrapped
_RULE = "    \n    \n {0}{0} \n    \n    \n    \n    \n    \n"  # a line below the heading, and no other


class Page(Struct, frozen=True, kw_only=True):
    """A console's properties that decide how blocks are drawn on it."""

    console: Console
    options: ConsoleOptions
    margins: bool

    def fits(self, table: Table) -> bool:
        """Return whether a table has room for all of its text."""
        return self.width_of(table) <= self.options.max_width

    def width_of(self, table: Table) -> int:
        """Return the width that a table needs."""
        return Measurement.get(self.console, self.options.update(max_width=_UNLIMITED), table).maximum

    def text(self, text: str, style: str = "") -> Text:
        """Return text in which no markup is read."""
        return Text(_encodable(text, self.options), style)

    @property
    def has_bold(self) -> bool:
        """Whether the best of a column can be shown in bold."""
        return self.console.color_system is not None

    @property
    def sign(self) -> str:
        """The sign before an interval."""
        return "+-" if self.options.ascii_only else "\N{PLUS-MINUS SIGN}"

    @property
    def box(self) -> Box:
        """The lines of a table."""
        return Box(_RULE.format("-" if self.options.ascii_only else "\N{BOX DRAWINGS LIGHT HORIZONTAL}"), ascii=True)


class Paragraph:
    """A paragraph that is wrapped to the console's width with a hanging indent; markup in it is not read."""

    def __init__(self, text: str, *, style: str = "", indent: int = 0) -> None:
        self.text, self.style, self.indent = text, style, indent

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        del console
        text, width = _encodable(self.text, options), max(1, options.max_width - self.indent)
        for line in textwrap.wrap(text, width, subsequent_indent="  ", break_on_hyphens=False):
            yield Text(f"{' ' * self.indent}{line}", style=self.style, overflow="fold")


class Tables:
    """Blocks on a rich console: `console.print(Tables(blocks))`.

    The best of a column is bold, or has a star where the console has no bold. Markup in names is not read. `compact`
    shows the numbers alone, and as many blocks as the screen holds.
    """

    def __init__(self, blocks: Sequence[Block], *, compact: bool = False) -> None:
        self.blocks = blocks
        self.compact = compact

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        page = Page(console=console, options=options, margins=not self.compact)
        room, shown, replicates = console.height - _LINES_FOR_PROGRESS, set[str](), list[str]()
        for number, block in enumerate(self.blocks):
            parts, has_margins = _parts(block, page)
            drawn: list[RenderableType] = [Paragraph(block.title, style="bold"), *parts]
            if self.compact:
                room -= len(console.render_lines(Group(*drawn), options))
                if room < 0 and number > 0:
                    return
            else:
                replicates += [block.replicates] if has_margins else []
                context, notes = _new([block.context], shown), _new(block.footnotes, shown, indent=2)
                drawn = [*[Text()] * (number > 0), drawn[0], *context, *parts, *_growth(block, page), *notes]
            for renderable in drawn:
                yield from _stripped(renderable, console, options)
        if not self.compact and (
            marks := legend(self.blocks, best="" if page.has_bold else "*", replicates=replicates)
        ):
            yield Text()
            yield Paragraph(marks.replace("+-", page.sign), style="dim")


class Ending:
    """What a run shows, its last lines: `console.print(Ending(rows))`."""

    def __init__(self, rows: Sequence[Row]) -> None:
        self.sentences = conclusion(rows, names_of(rows))

    def __rich_console__(self, _console: Console, _options: ConsoleOptions) -> RenderResult:
        """Yield each sentence as a paragraph, after an empty line."""
        for sentence in self.sentences:
            yield Text()
            yield Paragraph(sentence)


def live(rows: Sequence[Row]) -> Tables:
    """Return a compact table of the rows so far, for a display that is drawn again and again during a run."""
    under_way = [block for block in tables(rows) if any(cell.text not in ("", "pending") for cell in block.cells)]
    return Tables(under_way, compact=True)


def as_text(renderable: RenderableType) -> str:
    """Render for a file."""
    target = io.StringIO()
    Console(file=target, width=FILE_WIDTH).print(renderable)
    return target.getvalue()


def _stripped(renderable: RenderableType, console: Console, options: ConsoleOptions) -> Iterator[Text]:
    """Yield lines without spaces at their ends, with which rich fills the width of a table."""
    for segments in console.render_lines(renderable, options, pad=False):
        line = Text(overflow="fold")
        for segment in segments:
            line.append(segment.text, segment.style)
        line.rstrip()
        yield line


def _new(sentences: Iterable[str], shown: set[str], *, indent: int = 0) -> Iterator[Paragraph]:
    """Yield the sentences that no earlier block has shown."""
    for sentence in sentences:
        if sentence and sentence not in shown:
            shown.add(sentence)
            yield Paragraph(sentence, style="dim", indent=indent)


def _growth(block: Block, page: Page) -> Iterator[RenderableType]:
    """Yield the exponents in columns."""
    if not block.growth:
        return
    table = Table(box=None, show_header=False, pad_edge=False, padding=(0, 2, 0, 0))
    for line in block.growth:
        table.add_row(page.text(line.name), page.text(line.exponent), page.text(line.local))
    table.columns[0].overflow = "fold"
    table.columns[1].no_wrap = table.columns[2].no_wrap = True
    table.columns[2].justify = "right"
    yield Paragraph(GROWTH, style="dim", indent=2)
    yield Padding(table, (0, 0, 0, 4))


def _parts(block: Block, page: Page) -> tuple[list[Table], bool]:
    """Return a block as tables that fit the page, and whether they show intervals.

    If it is too wide the intervals are left out, then names are folded, then the columns are split into parts.
    """
    every = range(len(block.columns))
    widest = max(cell_len(line.name) for group in block.groups for line in group.lines)
    for margins in (True, False) if page.margins else (False,):
        table = _table(block, every, page, margins=margins, name_width=widest)
        if page.fits(table):
            return [table], margins
    excess = page.width_of(table) - page.options.max_width
    name_width = max(_NARROWEST_NAME, widest - excess)
    for count in range(1, len(every) + 1):
        size = -(-len(every) // count)
        parts = [every[start : start + size] for start in range(0, len(every), size)]
        split = [_table(block, part, page, margins=False, name_width=name_width) for part in parts]
        if all(map(page.fits, split)):
            break
    return split, False


def _table(block: Block, part: Sequence[int], page: Page, *, margins: bool, name_width: int) -> Table:
    """Return some of a block's columns, given by their indices, as a table."""
    table = Table(box=page.box, show_edge=False, pad_edge=False, padding=(0, 1, 0, 0), border_style="dim")
    table.header_style = ""
    for axis in block.axes:
        table.add_column(page.text(axis), overflow="fold")
    table.add_column(page.text(" / ".join(filter(None, ("variant", block.across)))), overflow="fold")
    lines = list(_lines(block, part))
    columns = []
    for at, index in enumerate(part):
        heading, *texts = _aligned(block.columns[index], [cells[at] for _, _, cells in lines], page, margins=margins)
        table.add_column(heading, no_wrap=True)
        columns.append(texts)
    for (labels, name, _), *texts in zip(lines, *columns, strict=True):
        table.add_row(*map(page.text, labels), page.text(_folded(name, name_width)), *texts)
    return table


def _lines(block: Block, part: Sequence[int]) -> Iterator[tuple[Sequence[str], str, list[Cell]]]:
    """Yield the labels, the name and some cells of each line that has any; a group's labels stand on its first one."""
    for group in block.groups:
        labels: Sequence[str] = group.labels
        for line in group.lines:
            cells = [line.cells[index] for index in part]
            if any(cell.text for cell in cells):
                yield labels, line.name, [cells[0], *(_repeated(a, b) for a, b in pairwise(cells))]
                labels = [""] * len(labels)


def _repeated(before: Cell, cell: Cell) -> Cell:
    """Return a dash in place of a long word that repeats the one before it."""
    repeats = not cell.number and cell.text == before.text and len(cell.text) > _LONGEST_REPEATED
    return Cell(text="-") if repeats else cell


def _aligned(heading: str, cells: Sequence[Cell], page: Page, *, margins: bool) -> list[Text]:
    """Return a column with numbers aligned at the decimal point; their marks follow them closely.

    The padding is not left to rich, which strips the spaces behind a number.
    """
    star = "" if page.has_bold else "*"
    pieces = []
    for cell in cells:
        before, point, decimals = cell.text.partition(".") if cell.number else ("", "", "")
        margin = f" {page.sign}{cell.margin}" if margins and cell.margin else ""
        mark = f" {cell.mark}" if cell.mark[:1].isdigit() else cell.mark
        pieces.append((before, f"{point}{decimals}{star * cell.best}{mark}", margin))
    widths = [max((len(piece[at]) for piece in pieces), default=0) for at in range(3)]
    numbers = [f"{one:>{widths[0]}}{two:<{widths[1]}}{three:>{widths[2]}}" for one, two, three in pieces]
    phrases = [
        [number] if cell.number else textwrap.wrap(cell.text, _WIDEST_PHRASE)
        for number, cell in zip(numbers, cells, strict=True)
    ]
    lines = [[_encodable(line, page.options) for line in phrase] for phrase in ([heading], *phrases)]
    width = max(cell_len(line) for text in lines for line in text)
    padded = ["\n".join(f"{' ' * (width - cell_len(line))}{line}" for line in text) for text in lines]
    return [Text(text, style) for text, style in zip(padded, ["", *map(_emphasis, cells)], strict=True)]


def _emphasis(cell: Cell) -> str:
    if not cell.number:
        return _TONES.get(cell.tone, "dim" if cell.text else "")
    return f"{'bold' if cell.best else ''}{_MARKED.get(cell.mark, '')}".strip()


def _folded(name: str, width: int) -> str:
    """Fold a name that is too long, after a comma or colon where possible; further lines are indented by two."""
    lines = [""]
    for piece in re.split(r"(?<=[:, ])", name):
        if cell_len(lines[-1] + piece) <= width - 2 * (len(lines) > 1):
            lines[-1] += piece
        else:
            lines += chop_cells(piece, width - 2)
    return "\n  ".join(filter(None, lines))


def _encodable(text: str, options: ConsoleOptions) -> str:
    """Escape characters that the console's encoding cannot represent."""
    return text.encode(options.encoding, "backslashreplace").decode(options.encoding)
