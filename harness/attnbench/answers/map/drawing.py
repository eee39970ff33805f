"""The output of `attnbench map`: pictures, arrays, and a table of distances from exact attention."""

import io
import re
import textwrap
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from attnbench.answers.map.matrices import Map
from attnbench.answers.map.picture import FORMATS, Panel, picture
from attnbench.contracts.errors import UsageError
from attnbench.contracts.text import plain
from attnbench.contracts.units import digits
from attnbench.execute.messages import HeadRead
from attnbench.report.text import listing

_ARRAYS = "npz"
_WIDTH = 79
_HEADING = "Distance of effective attention matrices from exact attention's"
_LEGEND = (
    "error: relative Frobenius; TV: mean total variation distance of a row;",
    "kept: share of the weight of the 16 keys that exact attention weighs most",
)


def form_of(path: Path) -> str:
    """Return the format that a file's ending names. Raises UsageError."""
    form = path.suffix.lower().removeprefix(".")
    if form not in (*FORMATS, _ARRAYS):
        known = ", ".join(f".{each}" for each in (*FORMATS, _ARRAYS))
        raise UsageError(f"--output: {path} must end in one of {known}; the ending says what is written")
    return form


def free_name(maps: Sequence[Map]) -> Path:
    """Return a file name that is not taken: only files that are named are overwritten."""
    variants = "-".join(dict.fromkeys(re.sub(r"[^A-Za-z0-9-]+", "_", each.variant) for each in maps))[:80]
    names = (Path(f"map-{variants}{suffix}.png") for suffix in ("", *(f"-{number}" for number in range(2, 10_000))))
    return next(name for name in names if not name.exists())


def encoded(maps: Sequence[Map], caption: str, *, form: str, log: bool) -> bytes:
    """Return the contents of a file: a picture in a format, or arrays."""
    whole = [each for each in maps if not each.reading.reason]
    if form == _ARRAYS:
        return _arrays(whole)
    panels = [list(_panels(whole, index)) for index in range(len(whole[0].reading.heads))]
    return picture(panels, whole[0].visible, caption=caption, form=form, log=log)


def items(one: Map) -> Iterator[dict[str, Any]]:
    """Yield a map's JSON objects: one for each head, or one with the reason why there is none."""
    whose = {"variant": one.variant, "options": one.options, "origin": one.origin}
    if one.reading.reason:
        yield whose | {"status": "unsupported", "detail": one.reading.reason}
    for each in one.reading.heads:
        distances = {"error": each.error, "variation": each.variation, "kept": each.kept}
        yield whose | {"status": "ok", "detail": "", "layer": each.layer, "head": each.head} | distances


def summary(maps: Sequence[Map]) -> str:
    """Render the table of distances from exact attention, with the reasons of the variants that have none."""
    layers = len({each.layer for one in maps for each in one.reading.heads}) > 1
    table = listing([_line(one, each, layers=layers) for one in maps for each in one.reading.heads], nothing="")
    reasons = [
        textwrap.fill(plain(f"{one.name}: no map: {one.reading.reason}"), width=_WIDTH)
        for one in maps
        if one.reading.reason
    ]
    return "\n".join([_HEADING, "", table, "", *_LEGEND, *reasons])


def _line(one: Map, of: HeadRead, *, layers: bool) -> dict[str, Any]:
    where = {"layer": of.layer} if layers else {}
    distances = {"error": digits(of.error), "TV": digits(of.variation), "kept": f"{of.kept:.1%}"}
    return {"variant": one.name} | where | {"head": of.head} | distances


def _panels(maps: Sequence[Map], index: int) -> Iterator[Panel]:
    """Yield the panels of a head: exact attention's first, and again where a variant has other queries and keys."""
    drawn: list[Any] = []
    heads = maps[0].reading.heads
    layers = len({one.layer for one in heads}) > 1
    for each in maps:
        of, exact = each.reading.heads[index], each.exact[index]
        if not any(np.array_equal(exact, other) for other in drawn):
            where = f"{f'layer {of.layer}, ' * layers}head {of.head}" if len(heads) > 1 else ""
            yield Panel(title=f"exact, on {each.name}'s q and k" if drawn else "exact", caption=where, matrix_TS=exact)
            drawn.append(exact)
        distances = f"error {digits(of.error)}, TV {digits(of.variation)}, kept {of.kept:.0%}"
        yield Panel(title=each.name, caption=distances, matrix_TS=each.matrices[index])


def _arrays(maps: Sequence[Map]) -> bytes:
    """Pack each variant's matrices, and exact attention's once, or for each variant where they differ."""
    target = io.BytesIO()
    same = all(np.array_equal(each.exact, maps[0].exact) for each in maps)
    exact: dict[str, Any] = {"exact": maps[0].exact} if same else {f"exact, {each.name}": each.exact for each in maps}
    heads = np.array([(each.layer, each.head) for each in maps[0].reading.heads])
    matrices: dict[str, Any] = {re.sub(r"[^\w:=,.-]", "_", each.name): each.matrices for each in maps}
    np.savez_compressed(target, visible=maps[0].visible, layers_and_heads=heads, **exact, **matrices)
    return target.getvalue()
