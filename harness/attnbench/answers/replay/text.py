"""A replayed table as blocks: under each mechanism's published line ours, as figures and as ratios to the baseline."""

import textwrap
from collections.abc import Iterable, Iterator, Mapping, Sequence

import msgspec

from attnbench.answers.replay.beside import ABSENT, Difference, Replay, Replayed
from attnbench.contracts.metrics import metric_named
from attnbench.contracts.record import PENDING
from attnbench.contracts.text import plain
from attnbench.contracts.units import Scale, digits
from attnbench.report.table import Block, Cell, Group, Line, block_scale, cell_of, title_of

_NO_FIGURE = "no figure"  # the paper's table is empty there
_NOT_RUN = "not run"
_UNITLESS = Scale("", 1.0)

Place = tuple[str, int | None]  # a task, or a length


def headline(found: Replay) -> list[str]:
    """Say what is replayed, where it was published and under which conditions, a paragraph each."""
    paper = found.paper
    told = [paper.title, f"Published: {paper.source}", paper.note and f"There: {paper.note}"]
    return [plain(each) for each in told if each]


def blocks(found: Replay) -> list[Block]:
    """Arrange figures by metric and pass: first as they are, then over the baseline's at the same place.

    What a run has nothing of is left out, unless that is all.
    """
    grouped: dict[tuple[str, str], list[Replayed]] = {}
    for each in found.figures:
        grouped.setdefault((each.metric, each.passes), []).append(each)
    known = [figures for figures in grouped.values() if any(each.row for each in figures)]
    return [block for figures in known or grouped.values() for block in _blocks(found, figures)]


def set_up(found: Replay) -> list[str]:
    """Say in what the set-ups differ: a paragraph for what holds everywhere, and one for each task."""
    told: dict[str, list[str]] = {"": []}
    for each in found.differences:
        told.setdefault(each.task, []).append(_told(each))
    for figure in found.paper.figures:
        if figure.note:
            told.setdefault(figure.task, []).append(figure.note)
    return [plain(f"{task or 'Set-up'}: {'; '.join(parts)}") for task, parts in told.items() if parts]


def wrapped(paragraphs: Iterable[str], width: int) -> str:
    """Wrap paragraphs to a terminal's width."""
    return "\n".join(textwrap.fill(each, width, subsequent_indent="  ", break_on_hyphens=False) for each in paragraphs)


def _told(each: Difference) -> str:
    return f"{each.name.replace('_', ' ')} {each.published} there, {each.here} here"


def _blocks(found: Replay, figures: Sequence[Replayed]) -> Iterator[Block]:
    """Give the block of one metric and pass, and that of its ratios where it has a baseline."""
    known = {_place(each) for each in figures if each.row}
    places = list(dict.fromkeys(_place(each) for each in figures))
    shown = [place for place in places if place in known or place[1] is None] or places
    name = found.paper.baseline
    scale = _scale([each for each in figures if _place(each) in shown])
    title = ", ".join(filter(None, (title_of(metric_named(figures[0].metric)), figures[0].passes)))
    absolute = Block(
        title=f"{title} ({scale.name})" if scale.name else title,
        context="",
        axes=(),
        across="task" if figures[0].seq is None else "seq",
        columns=tuple(plain(task) if length is None else str(length) for task, length in shown),
        groups=tuple(_groups(figures, shown, scale)),
        notes=tuple(_notes(found, figures, left_out=[place for place in places if place not in shown])),
    )
    yield absolute
    if any(each.published_ratio is not None for each in figures):
        yield msgspec.structs.replace(
            absolute,
            title=f"{title}, over {name} at the same length",
            groups=tuple(_groups(figures, shown, None)),
            notes=(),
        )


def _place(each: Replayed) -> Place:
    return each.task, each.seq


def _scale(figures: Sequence[Replayed]) -> Scale:
    unit = next((each.unit for each in figures if each.unit), "")
    values = [value for each in figures for value in (each.published, each.value)]
    return block_scale(unit, values) if unit else _UNITLESS


def _groups(figures: Sequence[Replayed], places: Sequence[Place], scale: Scale | None) -> Iterator[Group]:
    """Give each mechanism its published line and, where it is a variant, ours below; without a scale as ratios."""
    by_mechanism: dict[str, dict[Place, Replayed]] = {}
    for each in figures:
        by_mechanism.setdefault(each.mechanism, {})[_place(each)] = each
    for mechanism, line in by_mechanism.items():
        lines = [Line(name=plain(mechanism), cells=_cells(line, places, scale, ours=False))]
        variant = next(iter(line.values())).variant
        if variant:
            name = f"  here: {plain(variant.partition(':')[0])}"
            lines.append(Line(name=name, cells=_cells(line, places, scale, ours=True)))
        yield Group(labels=(), lines=tuple(lines))


def _cells(
    line: Mapping[Place, Replayed], places: Sequence[Place], scale: Scale | None, *, ours: bool
) -> tuple[Cell, ...]:
    show = _here if ours else _there
    return tuple(show(line[place], scale) if place in line else Cell() for place in places)


def _there(each: Replayed, scale: Scale | None) -> Cell:
    value = each.published_ratio if scale is None else each.published
    if value is None:
        return Cell(text=plain(each.published_words) or _NO_FIGURE)
    return Cell(text=digits(value / (scale or _UNITLESS).size), number=True)


def _here(each: Replayed, scale: Scale | None) -> Cell:
    if each.row is None:
        return Cell(text=_NOT_RUN)
    if scale is not None or each.value is None:
        return cell_of(each.row, scale or _UNITLESS, None)
    return Cell(text=_NO_FIGURE) if each.ratio is None else Cell(text=digits(each.ratio), number=True)


def _notes(found: Replay, figures: Sequence[Replayed], *, left_out: Sequence[Place]) -> Iterator[str]:
    """Say what each mechanism is here, why figures are missing, and where the paper has more."""
    for name, mechanism in found.paper.mechanisms.items():
        if mechanism.reason:
            yield f"{name}: none here, as {mechanism.reason}"
        elif ":" in mechanism.variant or mechanism.note:
            yield "; ".join(filter(None, (f"{name} is {mechanism.variant} here", mechanism.note)))
    reasons: dict[str, dict[str, None]] = {}
    for each in figures:
        if each.variant and each.why not in ("", ABSENT, PENDING) and _place(each) not in left_out:
            where = f"{each.variant} at {each.task or each.seq}" if each.row else each.task  # a task lacks for all
            reasons.setdefault(each.why, {})[where] = None
    for reason, places in reasons.items():
        yield f"{_few(list(places))}: {plain(' '.join(reason.split()))}"
    if left_out:
        yield f"published also at {', '.join(str(length or task) for task, length in left_out)}"


def _few(places: Sequence[str]) -> str:
    told = "; ".join(places[:3])
    return f"{told} and {len(places) - 3} more" if len(places) > 3 else told
