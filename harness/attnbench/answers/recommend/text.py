"""A recommendation as sentences and blocks of a table: what to take, what else would do, what would not, and why."""

import textwrap
from collections.abc import Iterable, Iterator, Sequence

from rich.console import Console, ConsoleOptions, RenderResult
from rich.text import Text

from attnbench.analysis.scores import Adaptation, Score
from attnbench.answers.recommend.interpolation import Figure
from attnbench.answers.recommend.needs import Needs
from attnbench.answers.recommend.ranking import Line, Recommendation
from attnbench.contracts.case import Case
from attnbench.contracts.text import plain
from attnbench.contracts.units import Scale, amount, digits, scale_for
from attnbench.report.axes import AXES, TITLES, Names, axis_text, variant_labels
from attnbench.report.table import Block, Cell, Group, block_scale
from attnbench.report.table import Line as TableLine
from attnbench.report.terminal import Tables

_MOST_LEFT_OUT = 3

_MARKS = {"noisy": "~", "unusable": "!"}
_NO_QUALITY = (
    "nothing was asked of quality (--max-error, --min-accuracy): this is the fastest, whatever it gives up for that"
)


class Report:
    """Draw a recommendation on a rich console. Names stay text."""

    def __init__(self, found: Recommendation) -> None:
        self.found = found

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        del console
        found = self.found
        named = {each.identity: each.options for each in found.lines}
        named |= {each.identity: each.options for each in found.heads_and_layers}
        names = variant_labels(named)
        yield from _told([headline(found, names)], options)
        yield from _told(remarks(found), options, indent=2)
        blocks = [*_ranking(found, names), *_adapted(found.heads_and_layers, names)]
        if blocks:
            yield Text()
            yield Tables(blocks)
        for title, verdict in (("Does not do", "fails"), ("Not known", "unknown")):
            reasons = _reasons((line for line in found.lines if line.verdict == verdict), names)
            if reasons:
                yield Text()
                yield from _told([f"{title}:"], options)
                yield from _told(reasons, options, indent=2)


def headline(found: Recommendation, names: Names) -> str:
    """Say in a sentence what to take, or that there is nothing."""
    asked = ", ".join(filter(None, (workload(found.workload), needs(found.needs))))
    first = [line for line in found.answers if line.rank == 1]
    if not first:
        return f"For {asked}: no variant that was measured is known to do"
    whom = " or ".join(names[line.identity] for line in first)
    figures = ", ".join(_figures(first[0])) if len(first) == 1 else "tied, as their intervals overlap"
    return f"For {asked}: {whom} ({figures})"


def remarks(found: Recommendation) -> list[str]:
    """Say what a reader must know of the answer."""
    told = [_NO_QUALITY] if found.answers and not found.needs.quality else []
    if any(line.verdict == "unknown" for line in found.lines) or not found.lines:
        told.append("--measure measures what is not known")
    if any(line.latency and not line.latency.known for line in found.answers):
        told.append("too few rounds or lengths for an interval in places: the order there is not sure")
    if found.elsewhere:
        told.append(f"no stored run has {'; '.join(found.elsewhere)}")
    tasks = {line.score.task: line.score for line in found.lines if line.score}
    told += [_trained(score) for score in tasks.values()]
    told += [f"measured elsewhere: run {plain(each)}" for each in found.measured_elsewhere]
    told += [f"left out: run {plain(each)}" for each in found.left_out[:_MOST_LEFT_OUT]]
    more = len(found.left_out) - _MOST_LEFT_OUT
    return [*told, f"left out: {more} more runs"] if more > 0 else told


def workload(case: Case) -> str:
    """Name a workload: its length, and the axes that have a say."""
    shape = case.shape
    twins = {"kv_heads": shape.heads, "seq_k": shape.seq_q, "window": None, "inputs": "normal", "level": "core"}
    whole = case.axes()
    told = [f"{case.length} tokens"]
    for name in (*AXES, "passes"):
        value = whole[name]
        if name == "seed" or value is False or (name in twins and value == twins[name]):
            continue
        if name in ("dtype", "device", "passes"):
            told.append(plain(str(value)))
        elif name != "seq_k" or case.passes != "decode":
            told.append(TITLES[name] if value is True else f"{TITLES[name]} {axis_text(value)}")
    return ", ".join(told)


def needs(asked: Needs) -> str:
    """Say what must hold."""
    told = []
    if asked.max_latency_s is not None:
        told.append(f"at most {amount(asked.max_latency_s, 's')}")
    if asked.memory_bytes is not None:
        told.append(f"at most {amount(asked.memory_bytes, 'bytes')} above the inputs")
    if asked.max_error is not None:
        told.append(f"error at most {digits(asked.max_error)}")
    if asked.min_accuracy is not None:
        told.append(f"accuracy{f' on {asked.task}' if asked.task else ''} at least {digits(asked.min_accuracy)}")
    return ", ".join(told)


def _figures(line: Line) -> Iterator[str]:
    if line.latency:
        yield _with_interval(line.latency)
    if line.memory:
        yield amount(line.memory.value, "bytes")
    if line.error:
        yield f"error {digits(line.error.value)}"
    if line.score:
        yield f"accuracy {digits(line.score.value)}"


def _with_interval(figure: Figure) -> str:
    if figure.low is None or figure.high is None:
        return amount(figure.value, figure.unit)
    scale = scale_for(figure.unit, [figure.value / 10])
    low, value, high = (digits(each / scale.size) for each in (figure.low, figure.value, figure.high))
    return f"{value} [{low}, {high}] {scale.name}"


def _trained(score: Score) -> str:
    mask = "causal" if score.causal else "not causal"
    return f"accuracy is that of models trained on {plain(score.task)}: {score.seq} tokens, {mask}, whatever --seq is"


def _ranking(found: Recommendation, names: Names) -> Iterator[Block]:
    lines = found.answers
    if not lines:
        return
    times = block_scale("s", (line.latency.value for line in lines if line.latency))
    sizes = block_scale("bytes", (line.memory.value for line in lines if line.memory))
    yield Block(
        title="What does, the fastest first",
        context="",
        axes=("rank",),
        across="",
        columns=(f"latency ({times.name})", "low", "high", _memory_heading(sizes), "error", "accuracy"),
        groups=tuple(
            Group(
                labels=(f"{line.rank}{'=' if line.tied else ''}",),
                lines=(TableLine(name=names[line.identity], cells=tuple(_cells(line, times, sizes))),),
            )
            for line in lines
        ),
        notes=(
            *_evidence(lines, names),
            *(f"{names[line.identity]}: {'; '.join(line.doubts)}" for line in lines if line.doubts),
        ),
    )


def _memory_heading(sizes: Scale) -> str:
    return f"memory ({sizes.name})" if sizes.name else "memory"


def _cells(line: Line, times: Scale, sizes: Scale) -> Iterator[Cell]:
    latency = line.latency
    for end in ("value", "low", "high"):
        yield _cell(getattr(latency, end), times, _MARKS.get(latency.noise, "") if latency and end == "value" else "")
    for figure, scale in ((line.memory, sizes), (line.error, Scale("", 1.0)), (line.score, Scale("", 1.0))):
        yield _cell(figure.value if figure else None, scale)


def _cell(value: float | None, scale: Scale, mark: str = "") -> Cell:
    return Cell(text=digits(value / scale.size), number=True, mark=mark) if value is not None else Cell(text="-")


def _evidence(lines: Sequence[Line], names: Names) -> Iterator[str]:
    """Say what each figure rests on, once for all lines that rest on the same."""
    told: dict[str, dict[str, list[str]]] = {}
    for line in lines:
        for what, support in _supports(line):
            told.setdefault(support, {}).setdefault(names[line.identity], []).append(what)
    for support, whom in told.items():
        by_figures: dict[str, list[str]] = {}
        for name, figures in whom.items():
            by_figures.setdefault(" and ".join(figures), []).append(name)
        yield from (f"{of} of {', '.join(them)}: {support}" for of, them in by_figures.items())


def _supports(line: Line) -> Iterator[tuple[str, str]]:
    for what, figure in (("latency", line.latency), ("memory", line.memory), ("error", line.error)):
        if figure:
            yield what, support(figure)
    if line.score:
        seeds = f"{line.score.seeds} seed{'s' * (line.score.seeds != 1)}"
        yield "accuracy", f"{plain(line.score.task)}, {seeds}, run {plain(line.score.run)}"


def support(figure: Figure) -> str:
    """Say what a figure rests on."""
    runs = f"run{'s' * (len(figure.runs) > 1)} {plain(', '.join(figure.runs))}"
    rounds = f"{figure.rounds} round{'s' * (figure.rounds != 1)}, " if figure.unit == "s" else ""
    lengths = [str(length) for length in figure.lengths]
    match figure.how:
        case "measured":
            return f"measured at this length, {rounds}{runs}"
        case "between":
            return f"interpolated between {' and '.join(lengths)}, {rounds}{runs}"
        case _:
            by = f"N^{figure.exponent:.2f}, fitted to {len(lengths)} lengths"
            return f"extrapolated from {lengths[0]} to {lengths[-1]} by {by}, {rounds}{runs}"


def _adapted(found: Sequence[Adaptation], names: Names) -> Iterator[Block]:
    """Give a block of what heads and layers have reached, a line for each."""
    if not found:
        return
    yield Block(
        title="Heads and layers, by what models of each have reached on the task",
        context="",
        axes=("heads", "layers"),
        across="",
        columns=("accuracy", "low", "high", "seeds", ""),
        groups=tuple(
            Group(
                labels=(str(score.heads), "-" if score.layers is None else str(score.layers)),
                lines=(TableLine(name=names[each.identity], cells=tuple(_score_cells(each, score))),),
            )
            for each in found
            for score in each.scores
        ),
        notes=tuple(_advice(found, names)),
    )


def _score_cells(each: Adaptation, score: Score) -> Iterator[Cell]:
    unit = Scale("", 1.0)
    yield from (_cell(value, unit) for value in (score.value, score.low, score.high))
    yield Cell(text=str(score.seeds), number=True)
    yield Cell(text="best" if score == each.best else "tied" if score in each.tied else "")


def _advice(found: Iterable[Adaptation], names: Names) -> Iterator[str]:
    for each in found:
        layers = f" and {each.best.layers} layers" if each.best.layers is not None else ""
        doubt = "" if each.sure else " (not sure: fewer than 3 seeds)"
        choice = ", the fewest layers of those that are tied" if len(each.tied) > 1 else ""
        yield f"take {each.best.heads} heads{layers} with {names[each.identity]}{choice}{doubt}"


def _reasons(lines: Iterable[Line], names: Names) -> list[str]:
    """Give each reason once, with all whom it concerns."""
    told: dict[str, list[str]] = {}
    for line in lines:
        told.setdefault(plain("; ".join(line.why)), []).append(names[line.identity])
    return [f"{', '.join(them)}: {why}" for why, them in told.items()]


def _told(sentences: Iterable[str], options: ConsoleOptions, *, indent: int = 0) -> Iterator[Text]:
    for sentence in sentences:
        shown = sentence.encode(options.encoding, "backslashreplace").decode(options.encoding)
        for line in textwrap.wrap(shown, options.max_width - indent, subsequent_indent="  ", break_on_hyphens=False):
            yield Text(f"{' ' * indent}{line}")
