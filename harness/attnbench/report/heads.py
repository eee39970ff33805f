"""Heatmaps of heads against lengths: how many times as fast as the sweep's first variant each other one is there."""

import math
from collections.abc import Iterator, Mapping, Sequence

from attnbench.analysis.compare import Comparison
from attnbench.analysis.summary import Standing
from attnbench.contracts.case import Axes, Identity, canonical
from attnbench.report.figure import Drawn, HeatCell, Heatmap, Section, distinct, named
from attnbench.report.lengths import facets_of
from attnbench.report.reported import Report
from attnbench.report.sentences import times

_LEAD = "A number is how many times as fast as {base} a variant is there; ~ stands where no test shows it."
_OF_HEADS = ("heads", "kv_heads", "head_dim")  # where the width is constant they change together

_Cells = dict[tuple[int, int], Comparison]


def by_heads(report: Report, standings: Sequence[Sequence[Standing]]) -> Iterator[Section]:
    """Draw a heatmap for each variant and setting; nothing where heads do not vary, or nothing can be compared.

    `standings` are those of each run's summary.
    """
    grids = [
        (run, axes, variant, cells)
        for run, each in enumerate(standings)
        for axes, variant, cells in _grids(each)
        if len({heads for heads, _ in cells}) > 1
    ]
    if not grids:
        return
    named_by_axes = facets_of([axes for _, axes, _, _ in grids])
    maps = [_heatmap(report, grid, facets) for grid, facets in zip(grids, named_by_axes, strict=True)]
    first = next(iter(grids[0][3].values()))
    lead = _LEAD.format(base=report.names[first.one.identity])
    yield Section(key="heads", title="Heads", lead=lead, figures=distinct(maps))


def _grids(standings: Sequence[Standing]) -> Iterator[tuple[Axes, Identity, _Cells]]:
    """Sort comparisons into grids of heads and lengths; sizes of heads tell grids apart only where they must."""
    for left_out in (_OF_HEADS, _OF_HEADS[:2], _OF_HEADS[:1]):
        grids = _sorted(standings, left_out)
        if grids is not None:
            yield from ((axes, variant, cells) for axes, variant, cells in grids.values())
            return


def _sorted(
    standings: Sequence[Standing], left_out: Sequence[str]
) -> Mapping[str, tuple[Axes, Identity, _Cells]] | None:
    """Give the grids by setting and variant; null where two comparisons fall into one cell."""
    grids: dict[str, tuple[Axes, Identity, _Cells]] = {}
    for standing in standings:
        axes = {name: value for name, value in standing.axes.items() if name not in left_out}
        for pair in standing.pairs:
            variant = pair.other.identity
            _, _, cells = grids.setdefault(f"{canonical(axes)} {variant}", (axes, variant, {}))
            place = (pair.case.shape.heads, pair.case.length)
            if place in cells:
                return None
            cells[place] = pair
    return grids


def _heatmap(report: Report, grid: tuple[int, Axes, Identity, _Cells], facets: dict[str, str]) -> Drawn:
    run, _, variant, cells = grid
    first = next(iter(cells.values()))
    base, name = report.names[first.one.identity], report.names[variant]
    of_run = {"run": report.run_names[run]} if report.several else {}
    return Heatmap(
        name=named(["heads", first.case.passes, name, *of_run.values(), *(f"{k}-{v}" for k, v in facets.items())]),
        title=f"{name} against {base}, {first.case.passes}",
        facets={"variant": name, **of_run, **facets},
        x="keys (N)" if first.case.passes == "decode" else "sequence length (N)",
        y="heads",
        columns=tuple(map(str, sorted({length for _, length in cells}))),
        rows=tuple(map(str, sorted({heads for heads, _ in cells}))),
        cells=tuple(_cell(place, pair, name) for place, pair in sorted(cells.items()) if pair.ratio),
        scale=f"times as fast as {base}",
    )


def _cell(place: tuple[int, int], pair: Comparison, name: str) -> HeatCell:
    heads, length = place
    assert pair.ratio
    speed = times(pair)
    shown = pair.verdict in ("faster", "slower", "same")
    return HeatCell(
        x=str(length),
        y=str(heads),
        colour=-math.log2(pair.ratio),
        text=f"{'' if shown else '~'}{speed.partition('x')[0]}",
        told=(f"{name}, heads {heads}, N = {length}", f"{speed} as fast", f"{pair.verdict}: {pair.why}"),
    )
