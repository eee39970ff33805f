"""Heatmaps of heads against lengths: the speed of each variant relative to the sweep's first."""

import math
from collections.abc import Iterator, Mapping, Sequence

from attnbench.analysis.compare import Comparison
from attnbench.analysis.summary import AgainstBaseline
from attnbench.contracts.case import Axes, Identity, canonical
from attnbench.report.figure import Drawn, HeatCell, Heatmap, Section, drawable, named
from attnbench.report.lengths import facets_of
from attnbench.report.reported import Report
from attnbench.report.sentences import times

_LEAD = "A number is how many times as fast as {base} a variant is there; ~ stands where no test shows it."
_OF_HEADS = ("heads", "kv_heads", "head_dim")  # where the width is constant they change together

_Cells = dict[tuple[int, int], Comparison]


def by_heads(report: Report, against: Sequence[Sequence[AgainstBaseline]]) -> Iterator[Section]:
    """Yield a heatmap for each variant and setting; none where heads do not vary, or nothing can be compared.

    `against` are the comparisons with the baseline of each run's summary.
    """
    grids = [
        (run, axes, variant, cells)
        for run, comparisons in enumerate(against)
        for axes, variant, cells in _grids(comparisons)
        if len({heads for heads, _ in cells}) > 1
    ]
    if not grids:
        return
    facets = facets_of([axes for _, axes, _, _ in grids])
    maps = [_heatmap(report, grid, own) for grid, own in zip(grids, facets, strict=True)]
    first = next(iter(grids[0][3].values()))
    lead = _LEAD.format(base=report.names[first.one.identity])
    yield Section(key="heads", title="Heads", lead=lead, figures=drawable(maps))


def _grids(comparisons: Sequence[AgainstBaseline]) -> Iterator[tuple[Axes, Identity, _Cells]]:
    """Yield comparisons in grids of heads and lengths, with as few sizes of heads apart as cells allow."""
    for left_out in (_OF_HEADS, _OF_HEADS[:2], _OF_HEADS[:1]):
        grids = _gridded(comparisons, left_out)
        if grids is not None:
            yield from grids.values()
            return


def _gridded(
    comparisons: Sequence[AgainstBaseline], left_out: Sequence[str]
) -> Mapping[str, tuple[Axes, Identity, _Cells]] | None:
    """Return the grids by setting and variant; None where two comparisons fall into one cell."""
    grids: dict[str, tuple[Axes, Identity, _Cells]] = {}
    for against in comparisons:
        axes = {name: value for name, value in against.axes.items() if name not in left_out}
        for pair in against.pairs:
            variant = pair.other.identity
            _, _, cells = grids.setdefault(f"{canonical(axes)} {variant}", (axes, variant, {}))
            key = (pair.case.shape.heads, pair.case.length)
            if key in cells:
                return None
            cells[key] = pair
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
        cells=tuple(
            _cell(key, pair, name) for key, pair in sorted(cells.items()) if pair.ratio and math.isfinite(pair.ratio)
        ),
        scale=f"times as fast as {base}",
    )


def _cell(key: tuple[int, int], pair: Comparison, name: str) -> HeatCell:
    heads, length = key
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
