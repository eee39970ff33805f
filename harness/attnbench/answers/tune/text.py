"""What a search for options found, as a table: a line for each variant, at the quality that was asked."""

from collections.abc import Iterator, Sequence

from rich.console import Console, ConsoleOptions, RenderResult

from attnbench.analysis.rows import Row
from attnbench.answers.tune.search import Setting, Tuned
from attnbench.contracts.text import plain, with_options
from attnbench.contracts.units import Scale, digits
from attnbench.report.table import Block, Cell, Group, Line, block_scale
from attnbench.report.terminal import Tables
from attnbench.store import Search

_MARKS = {"noisy": "~", "unusable": "!"}
_RATIO = "ratio: latency over that of {}, with its 95% interval; below 1 is faster"


class Report:
    """Draw what was found on a rich console."""

    def __init__(self, found: Sequence[Tuned], search: Search) -> None:
        self.found, self.search = found, search

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        del console, options
        yield Tables([block(self.found, self.search)])


def block(found: Sequence[Tuned], search: Search) -> Block:
    """Arrange what was found: options, quality, latency with its interval, ratio with its own."""
    best = [each.best for each in found if each.best]
    scale = block_scale("s", (each.latency.value for each in best if each.latency))
    name, bound = search.metric.replace("_", " "), "at least" if search.at_least else "at most"
    return Block(
        title=f"{name.capitalize()} {bound} {digits(search.bound)}: the cheapest",
        context=", ".join(_workload(best)),
        axes=(),
        across="",
        columns=(
            name.partition(" ")[2] or name,
            f"latency ({scale.name or 's'})",
            "low",
            "high",
            "ratio",
            "low",
            "high",
        ),
        groups=(Group(labels=(), lines=tuple(_line(each, scale) for each in found)),),
        notes=(*(_RATIO.format(plain(search.reference)) for _ in best[:1]), *_notes(found, search)),
    )


def named(each: Tuned, setting: Setting) -> str:
    """Write a variant with the options that were found, as it is typed."""
    return plain(with_options(each.variant, setting.options, keys=each.searched))


def _workload(best: Sequence[Setting]) -> Iterator[str]:
    row = next((each.latency for each in best if each.latency), None)
    if row is not None:
        shape = row.case.shape
        yield f"seq {shape.seq_q}, batch {shape.batch}, heads {shape.heads}, head dim {shape.head_dim}"
        yield from ("causal" for _ in range(row.case.mask.causal))
        yield from (row.case.passes, row.case.dtype, plain(row.case.device))


def _line(each: Tuned, scale: Scale) -> Line:
    setting = each.best
    if setting is None:
        word = "not reached" if each.nearest else "nothing ran"
        return Line(name=plain(each.variant), cells=(Cell(text=word),) * 7)
    return Line(name=named(each, setting), cells=tuple(_cells(setting, scale)))


def _cells(setting: Setting, scale: Scale) -> Iterator[Cell]:
    yield Cell(text=digits(setting.value), number=True)
    latency, ratio = setting.latency, setting.comparison
    for end in ("value", "low", "high"):
        value = getattr(latency, end) if latency is not None else None
        yield _cell(value, scale, _mark(latency) if end == "value" else "")
    for end in ("ratio", "low", "high"):
        yield _cell(getattr(ratio, end) if ratio is not None else None, Scale("", 1.0))


def _cell(value: float | None, scale: Scale, mark: str = "") -> Cell:
    return Cell(text=digits(value / scale.size), number=True, mark=mark) if value is not None else Cell(text="-")


def _mark(latency: Row | None) -> str:
    return _MARKS.get(latency.noise, "") if latency is not None else ""


def _notes(found: Sequence[Tuned], search: Search) -> Iterator[str]:
    for each in found:
        setting, nearest = each.best, each.nearest
        tried = f"{each.trials} settings of {', '.join(map(plain, each.searched))} tried"
        if setting is not None:
            others = [named(each, other) for other in each.tied]
            yield "; as fast: ".join(filter(None, (f"{named(each, setting)}: {tried}", ", ".join(others))))
            if not setting.sure:
                end = setting.low if search.at_least else setting.high
                yield f"{named(each, setting)}: its {search.metric.replace('_', ' ')} may be {digits(end or 0)}"
        elif nearest is not None:
            yield f"{plain(each.variant)}: {tried}; the best was {digits(nearest.value)}, by {named(each, nearest)}"
        else:
            yield f"{plain(each.variant)}: {plain(each.why)}"
