"""What `attnbench map` gives of the maps that were read: pictures, arrays, and a table of distances."""

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
    """Say by a file's ending what is to be written there. Raises UsageError."""
    form = path.suffix.lower().removeprefix(".")
    if form not in (*FORMATS, _ARRAYS):
        known = ", ".join(f".{each}" for each in (*FORMATS, _ARRAYS))
        raise UsageError(f"--output: {path} must end in one of {known}; the ending says what is written")
    return form


def free_name(found: Sequence[Map]) -> Path:
    """Give a name that no file has yet: nothing is overwritten that was not named."""
    variants = "-".join(dict.fromkeys(re.sub(r"[^A-Za-z0-9-]+", "_", each.variant) for each in found))[:80]
    names = (Path(f"map-{variants}{suffix}.png") for suffix in ("", *(f"-{number}" for number in range(2, 10_000))))
    return next(name for name in names if not name.exists())


def drawn(found: Sequence[Map], caption: str, *, form: str, log: bool) -> bytes:
    """Make the file of a form."""
    whole = [each for each in found if not each.reading.reason]
    if form == _ARRAYS:
        return _arrays(whole)
    each_head = [list(_panels(whole, place)) for place in range(len(whole[0].reading.heads))]
    return picture(each_head, whole[0].visible, caption=caption, form=form, log=log)


def lines(found: Map) -> Iterator[dict[str, Any]]:
    """Give what is told of a map to programs: a head each, or the reason why there is none."""
    whose = {"variant": found.variant, "options": found.options, "origin": found.origin}
    if found.reading.reason:
        yield whose | {"status": "unsupported", "detail": found.reading.reason}
    for each in found.reading.heads:
        distances = {"error": each.error, "variation": each.variation, "kept": each.kept}
        yield whose | {"status": "ok", "detail": "", "layer": each.layer, "head": each.head} | distances


def summary(found: Sequence[Map]) -> str:
    """Render the table of distances from exact attention, with the reasons of the variants that have none."""
    layers = len({each.layer for one in found for each in one.reading.heads}) > 1
    table = listing([_line(one, each, layers=layers) for one in found for each in one.reading.heads], nothing="")
    reasons = [
        textwrap.fill(plain(f"{one.name}: no map: {one.reading.reason}"), width=_WIDTH)
        for one in found
        if one.reading.reason
    ]
    return "\n".join([_HEADING, "", table, "", *_LEGEND, *reasons])


def _line(found: Map, of: HeadRead, *, layers: bool) -> dict[str, Any]:
    where = {"layer": of.layer} if layers else {}
    told = {"error": digits(of.error), "TV": digits(of.variation), "kept": f"{of.kept:.1%}"}
    return {"variant": found.name} | where | {"head": of.head} | told


def _panels(found: Sequence[Map], place: int) -> Iterator[Panel]:
    """Give the panels of a head: exact attention's first, and again where a variant has other queries and keys."""
    known: list[Any] = []
    heads = found[0].reading.heads
    layers = len({one.layer for one in heads}) > 1
    for each in found:
        of, exact = each.reading.heads[place], each.exact[place]
        if not any(np.array_equal(exact, other) for other in known):
            where = f"{f'layer {of.layer}, ' * layers}head {of.head}" if len(heads) > 1 else ""
            yield Panel(title=f"exact, on {each.name}'s q and k" if known else "exact", caption=where, matrix_TS=exact)
            known.append(exact)
        told = f"error {digits(of.error)}, TV {digits(of.variation)}, kept {of.kept:.0%}"
        yield Panel(title=each.name, caption=told, matrix_TS=each.matrices[place])


def _arrays(found: Sequence[Map]) -> bytes:
    """Pack the matrices of each variant and exact attention's, once or for each variant where they differ."""
    target = io.BytesIO()
    same = all(np.array_equal(each.exact, found[0].exact) for each in found)
    exact: dict[str, Any] = {"exact": found[0].exact} if same else {f"exact, {each.name}": each.exact for each in found}
    places = np.array([(each.layer, each.head) for each in found[0].reading.heads])
    matrices: dict[str, Any] = {re.sub(r"[^\w:=,.-]", "_", each.name): each.matrices for each in found}
    np.savez_compressed(target, visible=found[0].visible, layers_and_heads=places, **exact, **matrices)
    return target.getvalue()
