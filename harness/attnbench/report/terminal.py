"""Blocks as text for a terminal or a pipe: the columns that fit, intervals where there is room, ASCII where needed."""

import re
import textwrap
from collections.abc import Iterable, Iterator, Sequence

import msgspec
from msgspec import Struct
from rich.cells import cell_len, chop_cells, set_cell_size
from rich.console import Console, ConsoleOptions, RenderResult
from rich.text import Text

from attnbench.analysis.rows import Row
from attnbench.report.grid import GAP, Column, Span, Style, line, measure, right, span_width
from attnbench.report.growth import GROWTH
from attnbench.report.table import Block, Group, Line, legend, tables

_NAME = "variant"
_TONES = {"good": "green", "bad": "red"}
_NARROWEST_NAME = 16
_INDENT = 4  # of exponents below their heading
_LOCAL = 5  # cells of an exponent without an interval
_ROWS_FOR_PROGRESS = 4  # of the screen, left to what stands around a live table


class Page(Struct, frozen=True, kw_only=True):
    """What the console allows."""

    width: int
    style: Style
    rule: str


class Frame(Struct, frozen=True, kw_only=True):
    """A block's fixed part: the widths of its columns of labels, and which value columns stand side by side."""

    labels: tuple[int, ...]
    name: int
    style: Style
    parts: tuple[tuple[int, ...], ...]

    @property
    def width(self) -> int:
        """Cells that the labels take."""
        return sum(self.labels) + GAP * len(self.labels) + self.name


class Tables:
    """Draw blocks on a rich console: `console.print(Tables(blocks))`.

    The best of a column is bold, or has a star where the console has no bold. Names stay text: markup in them is not
    read. `compact` leaves the numbers alone, and as many blocks as the screen holds.
    """

    def __init__(self, blocks: Sequence[Block], *, compact: bool = False) -> None:
        self.blocks = blocks
        self.compact = compact

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        page = _page(console, options, margins=not self.compact)
        blocks = [_encodable(block, options.encoding) for block in self.blocks]
        frames = [_frame(block, page) for block in blocks]
        if self.compact:
            yield from _held(blocks, frames, page, console.height - _ROWS_FOR_PROGRESS)
            return
        told: set[str] = set()
        for number, (block, frame) in enumerate(zip(blocks, frames, strict=True)):
            yield from [Text()] * (number > 0)
            yield from _told(block, frame, page, told)
        yield from _legend(blocks, frames, page)


def live(rows: Sequence[Row]) -> Tables:
    """Give a compact table of the rows so far, for a display that is drawn again and again while a run is under way."""
    under_way = [block for block in tables(rows) if any(cell.text not in ("", "pending") for cell in block.cells)]
    return Tables(under_way, compact=True)


def _page(console: Console, options: ConsoleOptions, *, margins: bool) -> Page:
    style = Style(
        margins=margins, stars=console.color_system is None, sign="+-" if options.ascii_only else "\N{PLUS-MINUS SIGN}"
    )
    rule = "-" if options.ascii_only else "\N{BOX DRAWINGS LIGHT HORIZONTAL}"
    return Page(width=options.max_width, style=style, rule=rule)


def _encodable(block: Block, encoding: str) -> Block:
    """Write what the console's encoding lacks as escapes, before any width is taken."""

    def fit(texts: Iterable[str]) -> tuple[str, ...]:
        return tuple(text.encode(encoding, "backslashreplace").decode(encoding) for text in texts)

    def lines(group: Group) -> Iterator[Line]:
        names = fit(each.name for each in group.lines)
        return (Line(name=name, cells=each.cells) for name, each in zip(names, group.lines, strict=True))

    title, context = fit([block.title, block.context])
    groups = tuple(Group(labels=fit(group.labels), lines=tuple(lines(group))) for group in block.groups)
    names = fit(each.name for each in block.grown)
    return msgspec.structs.replace(
        block,
        title=title,
        context=context,
        columns=fit(block.columns),
        groups=groups,
        notes=fit(block.notes),
        grown=tuple(msgspec.structs.replace(each, name=name) for each, name in zip(block.grown, names, strict=True)),
        crossings=fit(block.crossings),
    )


def _held(blocks: Sequence[Block], frames: Sequence[Frame], page: Page, room: int) -> Iterator[Text]:
    """Draw as many bare blocks as the screen holds, and the first in any case."""
    for number, (block, frame) in enumerate(zip(blocks, frames, strict=True)):
        drawn = [*_paragraph(block.title, page, style="bold"), *_grid(block, frame, page)]
        room -= len(drawn)
        if room < 0 and number > 0:
            return
        yield from drawn


def _told(block: Block, frame: Frame, page: Page, told: set[str]) -> Iterator[Text]:
    """Draw a block with its context and reasons, less those that an earlier block has told."""
    floor = [f"harness floor: {block.floor}"] if block.floor else []
    yield from _paragraph(block.title, page, style="bold")
    yield from _new([block.context], page, told, indent=0)
    yield from _grid(block, frame, page)
    yield from _growth(block, page)
    yield from _new([*block.crossings, *floor, *block.notes], page, told, indent=2)


def _growth(block: Block, page: Page) -> Iterator[Text]:
    """Draw the exponents in columns, where names leave room for them."""
    if not block.grown:
        return
    widest = max(cell_len(each.exponent) for each in block.grown)
    room = max(_NARROWEST_NAME, page.width - widest - _LOCAL - 2 * GAP - _INDENT)
    name = min(room, max(cell_len(each.name) for each in block.grown))
    yield from _paragraph(GROWTH, page, style="dim", indent=2)
    for each in block.grown:
        first, *rest = _folded(each.name, name)
        figures = f"{each.exponent.ljust(widest)}{' ' * GAP}{each.local.rjust(_LOCAL)}"
        yield _text(Span(f"{' ' * _INDENT}{set_cell_size(first, name)}{' ' * GAP}{figures}"))
        yield from (_text(Span(f"{' ' * _INDENT}  {more}")) for more in rest)


def _new(sentences: Iterable[str], page: Page, told: set[str], *, indent: int) -> Iterator[Text]:
    for sentence in sentences:
        if sentence and sentence not in told:
            told.add(sentence)
            yield from _paragraph(sentence, page, style="dim", indent=indent)


def _paragraph(sentence: str, page: Page, *, style: str, indent: int = 0) -> Iterator[Text]:
    for wrapped in textwrap.wrap(sentence, page.width - indent, subsequent_indent="  ", break_on_hyphens=False):
        yield _text(Span(f"{' ' * indent}{wrapped}"), style=style)


def _legend(blocks: Sequence[Block], frames: Sequence[Frame], page: Page) -> Iterator[Text]:
    shown = (block.replicates for block, frame in zip(blocks, frames, strict=True) if frame.style.margins)
    sentence = legend(blocks, best="*" if page.style.stars else "", replicates=shown)
    if sentence:
        yield Text()
        yield from _paragraph(sentence.replace("+-", page.style.sign), page, style="dim")


def _frame(block: Block, page: Page) -> Frame:
    """Fit a block to the page: leave the intervals out if it is too wide, then fold names, then split the columns."""
    labels = tuple(
        max(cell_len(text) for text in (axis, *(group.labels[place] for group in block.groups)))
        for place, axis in enumerate(block.axes)
    )
    names = [each.name for group in block.groups for each in group.lines]
    heading = cell_len(_NAME) + GAP + cell_len(block.across)
    widest = max(heading, *map(cell_len, names))
    everything = tuple(range(len(block.columns)))
    room = page.width - sum(labels) - GAP * (len(labels) + 1)
    for style in (page.style, msgspec.structs.replace(page.style, margins=False)):
        free = room - span_width(measure(block, everything, style=style))
        if free >= widest:
            return Frame(labels=labels, name=widest, style=style, parts=(everything,))
    name = min(widest, max(heading, _NARROWEST_NAME, free))
    return Frame(labels=labels, name=name, style=style, parts=tuple(_parts(block, room - name, style)))


def _parts(block: Block, room: int, style: Style) -> Iterator[tuple[int, ...]]:
    """Split the columns into as few parts as the room allows, of much the same size."""
    count = len(block.columns)
    for size in range(count, 0, -1):
        parts = [tuple(range(start, min(start + size, count))) for start in range(0, count, size)]
        if size == 1 or all(span_width(measure(block, part, style=style)) <= room for part in parts):
            balanced = -(-count // len(parts))
            yield from (tuple(range(start, min(start + balanced, count))) for start in range(0, count, balanced))
            return


def _grid(block: Block, frame: Frame, page: Page) -> Iterator[Text]:
    for part in frame.parts:
        yield from _part(block, frame, part, page)


def _part(block: Block, frame: Frame, part: tuple[int, ...], page: Page) -> Iterator[Text]:
    columns = measure(block, part, style=frame.style)
    heading = f"{_NAME}{' ' * (frame.name - cell_len(_NAME) - cell_len(block.across))}{block.across}"
    tops = (right(block.columns[place], GAP + column.width) for place, column in zip(part, columns, strict=True))
    yield _text(Span(f"{_labels(block.axes, frame)}{heading}{''.join(tops)}"))
    yield _text(Span(page.rule * (frame.width + GAP + span_width(columns))), style="dim")
    for group in block.groups:
        yield from _group(group, columns, part, frame)


def _group(group: Group, columns: Sequence[Column], part: Sequence[int], frame: Frame) -> Iterator[Text]:
    left = _labels(group.labels, frame)
    for each in group.lines:
        if not any(each.cells[place].text for place in part):
            continue
        first, *rest = _folded(each.name, frame.name)
        spans = line([each.cells[place] for place in part], columns, style=frame.style)
        yield _text(Span(f"{left}{set_cell_size(first, frame.name)}"), *spans)
        left = " " * len(left)
        yield from (_text(Span(f"{left}  {more}")) for more in rest)


def _labels(labels: Sequence[str], frame: Frame) -> str:
    padded = (set_cell_size(label, width) for label, width in zip(labels, frame.labels, strict=True))
    return "".join(f"{label}{' ' * GAP}" for label in padded)


def _folded(name: str, width: int) -> list[str]:
    """Fold a name that is too long, after a comma or colon where it can be; further lines are indented by two."""
    lines = [""]
    for piece in re.split(r"(?<=[:, ])", name):
        room = width - 2 * (len(lines) > 1)
        if cell_len(lines[-1] + piece) <= room:
            lines[-1] += piece
        else:
            lines += chop_cells(piece, width - 2)
    return [each for each in lines if each]


def _text(*spans: Span, style: str = "") -> Text:
    text = Text(style=style, overflow="fold")
    for span in spans:
        text.append(span.text, style=_emphasis(span))
    text.rstrip()
    return text


def _emphasis(span: Span) -> str:
    if span.cell is None:
        return ""
    if not span.cell.number:
        return _TONES.get(span.cell.tone, "dim")
    colour = {"~": " yellow", "!": " red"}.get(span.cell.mark, "")
    return f"{'bold' if span.cell.best else ''}{colour}".strip()
