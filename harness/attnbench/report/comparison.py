"""Comparisons as a summary, as blocks of a table, and in the formats for other programs."""

from collections.abc import Callable, Iterator, Sequence
from typing import Literal, get_args

from rich.console import Group as Renderables
from rich.text import Text

from attnbench.analysis.compare import FALSE_SHARE, Comparison, Comparisons, GeometricMean, Verdict
from attnbench.analysis.groups import group_by
from attnbench.analysis.rows import Row
from attnbench.contracts.case import Identity
from attnbench.contracts.text import plain
from attnbench.contracts.units import Scale, digits
from attnbench.report.axes import (
    TITLES,
    VariantNames,
    axis_text,
    column_heading,
    column_labels,
    column_of,
    layout,
    variant_labels,
)
from attnbench.report.csv import to_csv
from attnbench.report.flat import to_json
from attnbench.report.markdown import escaped, markdown
from attnbench.report.table import Block, Cell, Group, Line, block_scale, with_pass, with_unit
from attnbench.report.terminal import Paragraph, Tables, as_text
from attnbench.report.text import grouped, one_line

_COLUMNS = ("base", "new", "ratio", "low", "high", "verdict")
_PLAIN_RATIO = 10.0  # above it, three significant digits say more than three decimals
SESSIONS = "two sessions: a machine that was slower in one of them looks the same as a slower mechanism"


def printable(comparisons: Comparisons) -> Renderables:
    """Return comparisons for a rich console: the summary, then the blocks."""
    return Renderables(*map(Paragraph, summary(comparisons)), Text(), Tables(blocks(comparisons)))


def summary(comparisons: Comparisons) -> list[str]:
    """Return what was compared and the verdicts of each metric, a line each."""
    lines = [_sides(comparisons.pairs)]
    if comparisons.differs:
        lines.append(f"not measured alike: {plain(', '.join(comparisons.differs))}")
    metrics = dict.fromkeys(pair.metric for pair in comparisons.pairs)
    return [*lines, *(_of_metric(metric, comparisons) for metric in metrics)]


def blocks(comparisons: Comparisons) -> list[Block]:
    """Arrange comparisons in blocks: one for a metric of a pass, a line for each pair."""
    groups = group_by(comparisons.pairs, lambda pair: (pair.metric, pair.case.passes)).values()
    return [_block(pairs) for pairs in groups]


def label(pair: Comparison) -> str:
    """Return the name of a comparison in a sentence."""
    base, new = pair.case.variant, pair.other.case.variant
    name = plain(base if base == new else f"{new} against {base}")
    where = plain(pair.task or pair.case.shape_name) or f"{column_heading(pair)} {column_of(pair)[1]}"
    return " ".join(filter(None, (name, pair.metric, pair.case.passes, where)))


def _sides(pairs: Sequence[Comparison]) -> str:
    base, new = (next(filter(None, (getattr(pair, name) for pair in pairs)), "") for name in ("base_run", "new_run"))
    if not pairs:
        return "nothing to compare"
    if base == new:
        return f"within run {plain(base)}"
    return f"base {plain(base) or 'without a row'}, new {plain(new) or 'without a row'}"


def _of_metric(metric: str, comparisons: Comparisons) -> str:
    verdicts = [pair.verdict for pair in comparisons.pairs if pair.metric == metric]
    first, *others = [(verdicts.count(verdict), verdict) for verdict in get_args(Verdict) if verdict in verdicts]
    counts = [f"{first[0]} of {len(verdicts)} {first[1]}", *(f"{count} {verdict}" for count, verdict in others)]
    more = []
    if metric == "latency":
        more += [_mean(comparisons.mean, of=len(verdicts))] if comparisons.mean else []
        more += [f"A/A floor {comparisons.floor:.1%}"] if comparisons.floor is not None else []
    return "; ".join([f"{plain(metric.replace('_', ' '))}: {', '.join(counts)}", *more])


def _mean(mean: GeometricMean, *, of: int) -> str:
    """Render the mean over cells, with their number where it is not that of all."""
    interval = f" [{_ratio(mean.low)}, {_ratio(mean.high)}]" if mean.low and mean.high else ""
    cells = f" over {mean.cells} of {of} cells" if mean.cells < of else ""
    return f"geometric mean x{_ratio(mean.ratio)}{interval}{cells}"


def _ratio(value: float) -> str:
    return f"{value:.3f}" if 1 / _PLAIN_RATIO < value < _PLAIN_RATIO else digits(value)


def _block(pairs: list[Comparison]) -> Block:
    first, axes = pairs[0], layout(pairs)
    scale = block_scale(first.one.unit, (value for pair in pairs for value in (pair.base_value, pair.new_value)))
    names = variant_labels({_variant(row): row.case.options for pair in pairs for row in (pair.one, pair.other)})
    lengths = dict(zip(axes.columns, column_labels(pairs, axes.columns), strict=True))
    base, new = _variant(first.one), _variant(first.other)
    two = f"{names[new]} against {names[base]}" if base != new else ""
    metric = plain(first.one.about.words)
    return Block(
        title=with_unit(f"{with_pass(f'{metric[:1].upper()}{metric[1:]}', first)}: new over base", scale),
        context=", ".join(filter(None, (two, axes.context))),
        axes=(column_heading(first), *(TITLES[axis] for axis in axes.labels)),
        across="",
        columns=_COLUMNS,
        groups=tuple(
            Group(
                labels=(lengths[column_of(pair)], *(axis_text(pair.case.axes()[axis]) for axis in axes.labels)),
                lines=(Line(name=names[_variant(pair.other)], cells=_cells(pair, scale)),),
            )
            for pair in pairs
        ),
        notes=(*_reasons(pairs, names), *_meanings(pairs)),
    )


def _variant(row: Row) -> Identity:
    """Return a variant's identity without its origin, which may differ between runs."""
    return *row.case.identity, ""


def _cells(pair: Comparison, scale: Scale) -> tuple[Cell, ...]:
    numbers = (
        *(digits(value / scale.size) if value is not None else "" for value in (pair.base_value, pair.new_value)),
        *(_ratio(value) if value is not None else "" for value in (pair.ratio, pair.low, pair.high)),
    )
    return (*(Cell(text=text, number=bool(text)) for text in numbers), Cell(text=pair.verdict, tone=_tone(pair)))


def _tone(pair: Comparison) -> Literal["", "good", "bad"]:
    match pair.verdict:
        case "faster" | "slower" | "higher" | "lower":
            rose = pair.verdict in ("slower", "higher")
            return "good" if rose == pair.one.higher_is_better else "bad"
        case _:
            return ""


def _reasons(pairs: Sequence[Comparison], names: VariantNames) -> Iterator[str]:
    """Yield each reason why pairs have no test, with the variants and columns that it concerns if not all."""
    compared = [pair for pair in pairs if pair.verdict != "incomparable"]
    yield from _reasons_of([pair for pair in pairs if pair.verdict == "incomparable"], pairs, names)
    yield from _reasons_of([pair for pair in compared if pair.p is None], compared, names)


def _reasons_of(untested: Sequence[Comparison], among: Sequence[Comparison], names: VariantNames) -> Iterator[str]:
    everywhere = _columns_of(among, names)
    for why, concerned in group_by(untested, lambda pair: one_line(pair.why)).items():
        where = _columns_of(concerned, names)
        variants = [
            name if everywhere[name] == columns else f"{name} at {', '.join(columns)}"
            for name, columns in where.items()
        ]
        yield why if where == everywhere else f"{', '.join(variants)}: {why}"


def _columns_of(pairs: Sequence[Comparison], names: VariantNames) -> dict[str, list[str]]:
    """Return the columns in which each variant stands."""
    labels = column_labels(pairs, [column_of(pair) for pair in pairs])
    return grouped((names[_variant(pair.other)], column) for pair, column in zip(pairs, labels, strict=True))


def _meanings(pairs: Sequence[Comparison]) -> Iterator[str]:
    """Yield the meanings of the verdicts that rest on a test."""
    tested = next((pair for pair in pairs if pair.p is not None), None)
    if tested is None:
        return
    up, down = ("slower", "faster") if tested.one.unit == "s" else ("higher", "lower")
    how = "paired by round" if tested.paired else f"Welch's t over {tested.one.probe.metric.replicates}"
    yield (
        f"{down}, {up}: beyond {tested.band:.1%}, and p up to {FALSE_SHARE} after Benjamini-Hochberg over the sweep; "
        f"same: the 90% interval within {tested.band:.1%}; low, high: 95% interval, {how}"
    )
    if tested.has_log_ratio:
        yield "base, new: geometric means over the rounds, whose quotient is the ratio (a run's own table has medians)"
    if not tested.paired and tested.one.unit == "s":
        yield SESSIONS


def _markdown(comparisons: Comparisons) -> str:
    lines = "\n".join(f"- {escaped(line)}" for line in summary(comparisons))
    return f"{lines}\n\n{markdown(blocks(comparisons))}"


FORMATS: dict[str, Callable[[Comparisons], str]] = {
    "table": lambda comparisons: as_text(printable(comparisons)),
    "md": _markdown,
    "csv": lambda comparisons: to_csv(comparisons.pairs, of=Comparison),
    "json": lambda comparisons: to_json(comparisons.pairs),
}
