"""A recommendation as sentences and blocks of a table: the answer, the alternatives, and why the others fail."""

from collections.abc import Iterable, Iterator, Sequence

from rich.console import Group as Renderables
from rich.console import RenderableType
from rich.text import Text

from attnbench.analysis.scores import Adaptation, Score
from attnbench.answers.recommend.interpolation import LengthEstimate
from attnbench.answers.recommend.needs import Needs
from attnbench.answers.recommend.ranking import Assessment, Recommendation
from attnbench.contracts.case import Case
from attnbench.contracts.text import plain
from attnbench.contracts.units import Scale, amount, digits, scale_for
from attnbench.report.axes import AXES, TITLES, VariantNames, axis_text, variant_labels
from attnbench.report.table import Block, Cell, Group, Line, block_scale, number_cell, with_unit
from attnbench.report.terminal import Paragraph, Tables
from attnbench.report.text import grouped

_MOST_LEFT_OUT = 3
_NO_QUALITY = (
    "nothing was asked of quality (--max-error, --min-accuracy): this is the fastest, whatever it gives up for that"
)


def printable(answer: Recommendation) -> Renderables:
    """Return a recommendation for a rich console."""
    names = variant_labels({one.identity: one.options for one in (*answer.lines, *answer.heads_and_layers)})
    parts: list[RenderableType] = [Paragraph(headline(answer, names))]
    parts += [Paragraph(remark, indent=2) for remark in remarks(answer)]
    if blocks := [*_ranking(answer, names), *_adapted(answer.heads_and_layers, names)]:
        parts += [Text(), Tables(blocks)]
    for title, verdict in (("Ruled out", "fails"), ("Not known", "unknown")):
        lines = [line for line in answer.lines if line.verdict == verdict]
        reasons = grouped((plain("; ".join(line.why)), names[line.identity]) for line in lines)
        if reasons:
            parts += [Text(), Paragraph(f"{title}:")]
            parts += [Paragraph(f"{', '.join(named)}: {why}", indent=2) for why, named in reasons.items()]
    return Renderables(*parts)


def headline(answer: Recommendation, names: VariantNames) -> str:
    """Return the answer in a sentence."""
    asked = ", ".join(filter(None, (workload(answer.workload), needs(answer.needs))))
    first = [line for line in answer.answers if line.rank == 1]
    if not first:
        return f"For {asked}: none of the measured variants is known to qualify"
    variants = " or ".join(names[line.identity] for line in first)
    values = ", ".join(_values(first[0])) if len(first) == 1 else "tied, as their intervals overlap"
    return f"For {asked}: {variants} ({values})"


def remarks(answer: Recommendation) -> list[str]:
    """Return what qualifies the answer."""
    lines = [_NO_QUALITY] if answer.answers and not answer.needs.quality else []
    if any(line.verdict == "unknown" for line in answer.lines) or not answer.lines:
        lines.append("--measure measures what is not known")
    if any(line.latency and not line.latency.has_interval for line in answer.answers):
        lines.append("too few rounds or lengths for an interval in places: the order there is not sure")
    if answer.elsewhere:
        lines.append(f"no stored run has {'; '.join(answer.elsewhere)}")
    tasks = {line.score.task: line.score for line in answer.lines if line.score}
    lines += [_trained(score) for score in tasks.values()]
    lines += [f"measured elsewhere: run {plain(run)}" for run in answer.measured_elsewhere]
    lines += [f"left out: run {plain(run)}" for run in answer.left_out[:_MOST_LEFT_OUT]]
    more = len(answer.left_out) - _MOST_LEFT_OUT
    return [*lines, f"left out: {more} more runs"] if more > 0 else lines


def workload(case: Case) -> str:
    """Return the name of a workload: its length, and the axes that are not at their default."""
    shape, axes = case.shape, case.axes()
    defaults = {"kv_heads": shape.heads, "seq_k": shape.seq_q, "window": None, "inputs": "normal", "level": "core"}
    parts = [f"{case.length} tokens"]
    for name in (*AXES, "passes"):
        value = axes[name]
        if name == "seed" or value is False or (name in defaults and value == defaults[name]):
            continue
        if name in ("dtype", "device", "passes"):
            parts.append(plain(str(value)))
        elif name != "seq_k" or case.passes != "decode":
            parts.append(TITLES[name] if value is True else f"{TITLES[name]} {axis_text(value)}")
    return ", ".join(parts)


def needs(bounds: Needs) -> str:
    """Return the needs in words."""
    parts = []
    if bounds.max_latency_s is not None:
        parts.append(f"at most {amount(bounds.max_latency_s, 's')}")
    if bounds.memory_bytes is not None:
        parts.append(f"at most {amount(bounds.memory_bytes, 'bytes')} above the inputs")
    if bounds.max_error is not None:
        parts.append(f"error at most {digits(bounds.max_error)}")
    if bounds.min_accuracy is not None:
        parts.append(f"accuracy{f' on {bounds.task}' if bounds.task else ''} at least {digits(bounds.min_accuracy)}")
    return ", ".join(parts)


def _values(line: Assessment) -> Iterator[str]:
    if line.latency:
        yield _with_interval(line.latency)
    if line.memory:
        yield amount(line.memory.value, "bytes")
    if line.error:
        yield f"error {digits(line.error.value)}"
    if line.score:
        yield f"accuracy {digits(line.score.value)}"


def _with_interval(estimate: LengthEstimate) -> str:
    if estimate.low is None or estimate.high is None:
        return amount(estimate.value, estimate.unit)
    scale = scale_for(estimate.unit, [estimate.value / 10])
    low, value, high = (digits(end / scale.size) for end in (estimate.low, estimate.value, estimate.high))
    return f"{value} [{low}, {high}] {scale.name}"


def _trained(score: Score) -> str:
    mask = "causal" if score.causal else "not causal"
    return f"accuracy is that of models trained on {plain(score.task)}: {score.seq} tokens, {mask}, whatever --seq is"


def _ranking(answer: Recommendation, names: VariantNames) -> Iterator[Block]:
    lines = answer.answers
    if not lines:
        return
    times = block_scale("s", (line.latency.value for line in lines if line.latency))
    sizes = block_scale("bytes", (line.memory.value for line in lines if line.memory))
    yield Block(
        title="Qualifying variants, fastest first",
        context="",
        axes=("rank",),
        across="",
        columns=(f"latency ({times.name})", "low", "high", with_unit("memory", sizes), "error", "accuracy"),
        groups=tuple(
            Group(
                labels=(f"{line.rank}{'=' if line.tied else ''}",),
                lines=(Line(name=names[line.identity], cells=_cells(line, times, sizes)),),
            )
            for line in lines
        ),
        notes=(
            *_evidence(lines, names),
            *(f"{names[line.identity]}: {'; '.join(line.doubts)}" for line in lines if line.doubts),
        ),
    )


def _cells(line: Assessment, times: Scale, sizes: Scale) -> tuple[Cell, ...]:
    latency, memory, error, score = line.latency, line.memory, line.error, line.score
    value, low, high = (latency.value, latency.low, latency.high) if latency else (None, None, None)
    return (
        number_cell(value, times, latency.noise if latency else ""),
        number_cell(low, times),
        number_cell(high, times),
        number_cell(memory.value if memory else None, sizes),
        number_cell(error.value if error else None),
        number_cell(score.value if score else None),
    )


def _evidence(lines: Sequence[Assessment], names: VariantNames) -> Iterator[str]:
    """Yield what values rest on, once for all that rest on the same."""
    supports: dict[str, list[tuple[str, str]]] = {}
    for line in lines:
        for metric, support in _supports(line):
            supports.setdefault(support, []).append((names[line.identity], metric))
    for support, pairs in supports.items():
        by_metrics = grouped((" and ".join(metrics), name) for name, metrics in grouped(pairs).items())
        yield from (f"{metrics} of {', '.join(variants)}: {support}" for metrics, variants in by_metrics.items())


def _supports(line: Assessment) -> Iterator[tuple[str, str]]:
    for metric, estimate in (("latency", line.latency), ("memory", line.memory), ("error", line.error)):
        if estimate:
            yield metric, support(estimate)
    if line.score:
        seeds = f"{line.score.seeds} seed{'s' * (line.score.seeds != 1)}"
        yield "accuracy", f"{plain(line.score.task)}, {seeds}, run {plain(line.score.run)}"


def support(estimate: LengthEstimate) -> str:
    """Return what an estimate rests on."""
    runs = f"run{'s' * (len(estimate.runs) > 1)} {plain(', '.join(estimate.runs))}"
    rounds = f"{estimate.rounds} round{'s' * (estimate.rounds != 1)}, " if estimate.unit == "s" else ""
    lengths = [str(length) for length in estimate.lengths]
    match estimate.how:
        case "measured":
            return f"measured at this length, {rounds}{runs}"
        case "between":
            return f"interpolated between {' and '.join(lengths)}, {rounds}{runs}"
        case _:
            by = f"N^{estimate.exponent:.2f}, fitted to {len(lengths)} lengths"
            return f"extrapolated from {lengths[0]} to {lengths[-1]} by {by}, {rounds}{runs}"


def _adapted(adaptations: Sequence[Adaptation], names: VariantNames) -> Iterator[Block]:
    """Yield the block of scores by heads and layers, a line each."""
    if not adaptations:
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
                lines=(Line(name=names[adaptation.identity], cells=_score_cells(adaptation, score)),),
            )
            for adaptation in adaptations
            for score in adaptation.scores
        ),
        notes=tuple(_advice(adaptations, names)),
    )


def _score_cells(adaptation: Adaptation, score: Score) -> tuple[Cell, ...]:
    standing = "best" if score == adaptation.best else "tied" if score in adaptation.tied else ""
    numbers = map(number_cell, (score.value, score.low, score.high))
    return (*numbers, Cell(text=str(score.seeds), number=True), Cell(text=standing))


def _advice(adaptations: Iterable[Adaptation], names: VariantNames) -> Iterator[str]:
    for one in adaptations:
        layers = f" and {one.best.layers} layers" if one.best.layers is not None else ""
        doubt = "" if one.sure else " (not sure: fewer than 3 seeds)"
        choice = ", the fewest layers of those that are tied" if len(one.tied) > 1 else ""
        yield f"take {one.best.heads} heads{layers} with {names[one.identity]}{choice}{doubt}"
