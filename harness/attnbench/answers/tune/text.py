"""The result of a search for options as a table: a line for each variant, at the quality that was asked for."""

from collections.abc import Iterator, Sequence

from attnbench.answers.tune.search import Setting, TunedVariant
from attnbench.contracts.text import plain, with_options
from attnbench.contracts.units import Scale, digits
from attnbench.report.table import Block, Cell, Group, Line, block_scale, number_cell
from attnbench.report.terminal import Tables
from attnbench.store import Search

_RATIO = "ratio: latency over that of {}, with its 95% interval; below 1 is faster"


def printable(tuned: Sequence[TunedVariant], search: Search) -> Tables:
    """Return the result of a search for a rich console."""
    return Tables([block(tuned, search)])


def block(tuned: Sequence[TunedVariant], search: Search) -> Block:
    """Arrange the result of a search: options, quality, latency and ratio with their intervals."""
    best = [variant.best for variant in tuned if variant.best]
    scale = block_scale("s", (setting.latency.value for setting in best if setting.latency))
    name, bound = search.metric.replace("_", " "), ">=" if search.at_least else "<="
    return Block(
        title=f"Cheapest settings with {name} {bound} {digits(search.bound)}",
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
        groups=(Group(labels=(), lines=tuple(_line(variant, scale) for variant in tuned)),),
        notes=(*(_RATIO.format(plain(search.reference)) for _ in best[:1]), *_notes(tuned, search)),
    )


def named(variant: TunedVariant, setting: Setting) -> str:
    """Return a variant with the options of a setting, as it is typed."""
    return plain(with_options(variant.variant, setting.options, keys=variant.searched))


def _workload(best: Sequence[Setting]) -> Iterator[str]:
    row = next((setting.latency for setting in best if setting.latency), None)
    if row is not None:
        shape = row.case.shape
        yield f"seq {shape.seq_q}, batch {shape.batch}, heads {shape.heads}, head dim {shape.head_dim}"
        yield from ("causal" for _ in range(row.case.mask.causal))
        yield from (row.case.passes, row.case.dtype, plain(row.case.device))


def _line(variant: TunedVariant, scale: Scale) -> Line:
    setting = variant.best
    if setting is None:
        word = "not reached" if variant.nearest else "nothing ran"
        return Line(name=plain(variant.variant), cells=(Cell(text=word),) * 7)
    return Line(name=named(variant, setting), cells=_cells(setting, scale))


def _cells(setting: Setting, scale: Scale) -> tuple[Cell, ...]:
    latency, pair = setting.latency, setting.comparison
    value, low, high = (latency.value, latency.low, latency.high) if latency else (None, None, None)
    ratios = (pair.ratio, pair.low, pair.high) if pair else (None, None, None)
    return (
        number_cell(setting.value),
        number_cell(value, scale, latency.noise if latency else ""),
        number_cell(low, scale),
        number_cell(high, scale),
        *map(number_cell, ratios),
    )


def _notes(tuned: Sequence[TunedVariant], search: Search) -> Iterator[str]:
    for variant in tuned:
        setting, nearest = variant.best, variant.nearest
        name = plain(variant.variant)
        tried = f"{variant.trials} settings of {', '.join(map(plain, variant.searched))} tried"
        if setting is not None:
            others = [named(variant, other) for other in variant.tied]
            yield "; as fast: ".join(filter(None, (f"{named(variant, setting)}: {tried}", ", ".join(others))))
            if not setting.sure:
                end = setting.low if search.at_least else setting.high
                yield f"{named(variant, setting)}: its {search.metric.replace('_', ' ')} may be {digits(end or 0)}"
        elif nearest is not None:
            yield f"{name}: {tried}; the best was {digits(nearest.value)}, by {named(variant, nearest)}"
        else:
            yield f"{name}: {plain(variant.why)}"
