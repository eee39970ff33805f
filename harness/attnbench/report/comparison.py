"""Comparisons as a summary, as blocks of a table, and in the formats for other programs."""

import io
from collections.abc import Callable, Iterator, Sequence
from typing import Literal, get_args

from rich.console import Console, ConsoleOptions, RenderResult
from rich.text import Text

from attnbench.analysis.compare import FALSE_SHARE, Comparison, Comparisons, Verdict
from attnbench.analysis.mean import Mean
from attnbench.analysis.rows import Row
from attnbench.contracts.case import Identity
from attnbench.contracts.text import plain
from attnbench.contracts.units import Scale, digits
from attnbench.report.axes import (
    TITLES,
    Names,
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
from attnbench.report.table import Block, Cell, Group, Line, block_scale
from attnbench.report.terminal import Tables

_COLUMNS = ("base", "new", "ratio", "low", "high", "verdict")
_FILE_WIDTH = 120
_PLAIN_RATIO = 10.0  # above it, three significant digits say more than three decimals
SESSIONS = "two sessions: a machine that was slower in one of them looks the same as a slower mechanism"


class Report:
    """Draw comparisons on a rich console: the summary, then the blocks. Names stay text."""

    def __init__(self, found: Comparisons) -> None:
        self.found = found

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        del console
        for sentence in summary(self.found):
            yield Text(sentence.encode(options.encoding, "backslashreplace").decode(options.encoding))
        yield Text()
        yield Tables(blocks(self.found))


def summary(found: Comparisons) -> list[str]:
    """Say in a few lines what was compared and what came of it, a line for each metric."""
    told = [_sides(found.pairs)]
    if found.differs:
        told.append(f"not measured alike: {plain(', '.join(found.differs))}")
    metrics = dict.fromkeys(pair.metric for pair in found.pairs)
    return [*told, *(_of_metric(metric, found) for metric in metrics)]


def blocks(found: Comparisons) -> list[Block]:
    """Arrange comparisons in blocks: one for a metric of a pass, a line for each pair."""
    grouped: dict[tuple[str, str], list[Comparison]] = {}
    for pair in found.pairs:
        grouped.setdefault((pair.metric, pair.case.passes), []).append(pair)
    return [_block(pairs) for pairs in grouped.values()]


def rendered(found: Comparisons, form: str) -> str:
    """Write comparisons in one of FORMATS."""
    return FORMATS[form](found)


def label(pair: Comparison) -> str:
    """Name a comparison in a sentence."""
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


def _of_metric(metric: str, found: Comparisons) -> str:
    verdicts = [pair.verdict for pair in found.pairs if pair.metric == metric]
    first, *others = [(verdicts.count(one), one) for one in get_args(Verdict) if one in verdicts]
    counts = [f"{first[0]} of {len(verdicts)} {first[1]}", *(f"{count} {verdict}" for count, verdict in others)]
    more = []
    if metric == "latency":
        more += [_mean(found.mean)] if found.mean else []
        more += [f"A/A floor {found.floor:.1%}"] if found.floor is not None else []
    return "; ".join([f"{plain(metric.replace('_', ' '))}: {', '.join(counts)}", *more])


def _mean(mean: Mean) -> str:
    interval = f" [{_ratio(mean.low)}, {_ratio(mean.high)}]" if mean.low and mean.high else ""
    return f"geometric mean x{_ratio(mean.ratio)}{interval}"


def _ratio(value: float) -> str:
    return f"{value:.3f}" if 1 / _PLAIN_RATIO < value < _PLAIN_RATIO else digits(value)


def _block(pairs: list[Comparison]) -> Block:
    first, axes = pairs[0], layout(pairs)
    scale = block_scale(first.one.unit, (value for pair in pairs for value in (pair.base_value, pair.new_value)))
    names = variant_labels({_named(row): row.case.options for pair in pairs for row in (pair.one, pair.other)})
    lengths = dict(zip(axes.columns, column_labels(pairs, axes.columns), strict=True))
    base, new = _named(first.one), _named(first.other)
    two = f"{names[new]} against {names[base]}" if base != new else ""
    pass_of = f", {first.case.passes}" if first.case.passes else ""
    title = f"{_heading(first)}{pass_of}: new over base"
    return Block(
        title=f"{title} ({scale.name})" if scale.name else title,
        context=", ".join(filter(None, (two, axes.context))),
        axes=(column_heading(first), *(TITLES[axis] for axis in axes.labels)),
        across="",
        columns=_COLUMNS,
        groups=tuple(
            Group(
                labels=(lengths[column_of(pair)], *(axis_text(pair.case.axes()[axis]) for axis in axes.labels)),
                lines=(Line(name=names[_named(pair.other)], cells=_cells(pair, scale)),),
            )
            for pair in pairs
        ),
        notes=(*_reasons(pairs, names), *_meanings(pairs)),
    )


def _heading(pair: Comparison) -> str:
    words = plain(pair.one.about.words)
    return f"{words[:1].upper()}{words[1:]}"


def _named(row: Row) -> Identity:
    """Return a variant's identity without its origin, which may differ between runs."""
    return *row.case.identity, ""


def _cells(pair: Comparison, scale: Scale) -> tuple[Cell, ...]:
    figures = (
        *(digits(value / scale.size) if value is not None else "" for value in (pair.base_value, pair.new_value)),
        *(_ratio(value) if value is not None else "" for value in (pair.ratio, pair.low, pair.high)),
    )
    return (*(Cell(text=text, number=bool(text)) for text in figures), Cell(text=pair.verdict, tone=_tone(pair)))


def _tone(pair: Comparison) -> Literal["", "good", "bad"]:
    match pair.verdict:
        case "faster" | "slower" | "higher" | "lower":
            rose = pair.verdict in ("slower", "higher")
            return "good" if rose == pair.one.higher_is_better else "bad"
        case _:
            return ""


def _reasons(pairs: Sequence[Comparison], names: Names) -> Iterator[str]:
    """Say why there is no test of some pairs: each reason once, with whom it concerns where that is not all."""
    compared = [pair for pair in pairs if pair.verdict != "incomparable"]
    yield from _told([pair for pair in pairs if pair.verdict == "incomparable"], pairs, names)
    yield from _told([pair for pair in compared if pair.p is None], compared, names)


def _told(untested: Sequence[Comparison], among: Sequence[Comparison], names: Names) -> Iterator[str]:
    every = _places(among, names)
    reasons: dict[str, list[Comparison]] = {}
    for pair in untested:
        reasons.setdefault(plain(" ".join(pair.why.split())), []).append(pair)
    for why, concerned in reasons.items():
        where = _places(concerned, names)
        whom = [name if every[name] == here else f"{name} at {', '.join(here)}" for name, here in where.items()]
        yield why if where == every else f"{', '.join(whom)}: {why}"


def _places(pairs: Sequence[Comparison], names: Names) -> dict[str, list[str]]:
    """Collect in which columns each variant stands."""
    labels = column_labels(pairs, [column_of(pair) for pair in pairs])
    found: dict[str, dict[str, None]] = {}
    for pair, label_of_column in zip(pairs, labels, strict=True):
        found.setdefault(names[_named(pair.other)], {})[label_of_column] = None
    return {name: list(columns) for name, columns in found.items()}


def _meanings(pairs: Sequence[Comparison]) -> Iterator[str]:
    """Explain verdicts that were tested."""
    tested = next((pair for pair in pairs if pair.p is not None), None)
    if tested is None:
        return
    up, down = ("slower", "faster") if tested.one.unit == "s" else ("higher", "lower")
    how = (
        "paired by round"
        if tested.paired
        else "Welch's t over seeds"
        if tested.one.probe.metric.replicates == "seeds"
        else "Welch's t over rounds"
    )
    yield (
        f"{down}, {up}: beyond {tested.band:.1%}, and p up to {FALSE_SHARE} after Benjamini-Hochberg over the sweep; "
        f"same: the 90% interval within {tested.band:.1%}; low, high: 95% interval, {how}"
    )
    if not tested.paired and tested.one.unit == "s":
        yield SESSIONS


def _table(found: Comparisons) -> str:
    page = io.StringIO()
    Console(file=page, width=_FILE_WIDTH).print(Report(found))
    return page.getvalue()


def _markdown(found: Comparisons) -> str:
    told = "\n".join(f"- {escaped(sentence)}" for sentence in summary(found))
    return f"{told}\n\n{markdown(blocks(found))}"


def _csv(found: Comparisons) -> str:
    return to_csv(found.pairs, of=Comparison)


def _json(found: Comparisons) -> str:
    return to_json(found.pairs)


FORMATS: dict[str, Callable[[Comparisons], str]] = {"table": _table, "md": _markdown, "csv": _csv, "json": _json}
