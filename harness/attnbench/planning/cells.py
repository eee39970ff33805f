"""From a sweep's axes to its cells: every shape with its mask, as a product, or as the suite links them in a list."""

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from itertools import product

import msgspec
from msgspec import Struct

from attnbench.contracts.case import Mask, Shape
from attnbench.contracts.errors import UsageError, suggestion
from attnbench.contracts.ranges import parse_range
from attnbench.contracts.suite import Linked, Sweep, flag_of, overlay

_LINKABLE = tuple(name for name in Linked.__struct_fields__ if name != "name")
# What follows from an axis where nothing else is said, and what says the same in other words.
_FOLLOWS = {"seq": "seq_k", "heads": "kv_heads", "head_dim": "width", "width": "head_dim"} | {
    "batch": "tokens",
    "tokens": "batch",
}
_MOST_LISTED = 8


class Cell(Struct, frozen=True, kw_only=True):
    """Sizes and mask of one workload, and its name where the suite lists it."""

    shape: Shape
    mask: Mask
    shape_name: str = ""

    def value(self, axis: str) -> int | None:
        """Give what an axis of the command line is here."""
        return _VALUES[axis](self)


_VALUES: dict[str, Callable[[Cell], int | None]] = {
    "seq": lambda cell: cell.shape.seq_q,
    "seq_k": lambda cell: cell.shape.seq_k,
    "heads": lambda cell: cell.shape.heads,
    "kv_heads": lambda cell: cell.shape.kv_heads,
    "head_dim": lambda cell: cell.shape.head_dim,
    "width": lambda cell: cell.shape.heads * cell.shape.head_dim,
    "batch": lambda cell: cell.shape.batch,
    "tokens": lambda cell: cell.shape.batch * cell.shape.seq_q,
    "causal": lambda cell: cell.mask.causal,
    "window": lambda cell: cell.mask.window,
}


def asked(suite: Sweep, flags: Sweep) -> Sweep:
    """Lay flags over a suite: one replaces the axis of its name; where the suite links that axis, it filters the list.

    Then `shapes` holds what is left of the list, each cell with all its sizes. Raises UsageError where nothing is left.
    """
    if not isinstance(suite.shapes, tuple):
        if flags.shapes is not None:
            raise UsageError("--shapes: this suite lists no shapes to choose from; leave it out")
        return overlay(suite, flags)
    overlay(Sweep(), flags)  # refuses what says the same thing twice
    linked = _linked(suite.shapes)
    below = overlay(suite, msgspec.structs.replace(flags, shapes=None, **dict.fromkeys(linked)))
    found = list(cells(below))
    for keeps in _filters(flags, linked, found):
        found = [cell for cell in found if keeps(cell)]
    if not found:
        raise UsageError(f"{_given(flags, linked)}: no shape of the suite has all of these; leave one out")
    return msgspec.structs.replace(below, shapes=tuple(map(_complete, found)))


def cells(sweep: Sweep) -> Iterator[Cell]:
    """Give every cell, lengths innermost, of listed shapes in their order.

    Raises UsageError naming the flag and the fix, and the shape where it is one of a list.
    """
    if not isinstance(sweep.shapes, tuple):
        yield from _product(sweep, "")
        return
    for linked in sweep.shapes:
        axes = {name: getattr(linked, name) for name in _LINKABLE}
        try:
            yield from _product(overlay(sweep, Sweep(**axes)), linked.name)
        except UsageError as mistake:
            raise UsageError(f"{mistake} (shape {linked.name!r})") from None


def _product(sweep: Sweep, name: str) -> Iterator[Cell]:
    windows = [None] if sweep.window is None else _range(sweep.window, "--window")
    for window in windows:
        mask = Mask(causal=bool(sweep.causal), window=window)
        yield from (Cell(shape=shape, mask=mask, shape_name=name) for shape in _shapes(sweep))


def _linked(shapes: Sequence[Linked]) -> tuple[str, ...]:
    """Name the axes that a list links: those that any of its shapes gives, and what follows from them."""
    given = [name for name in _LINKABLE if any(getattr(each, name) is not None for each in shapes)]
    return tuple(dict.fromkeys((*given, *(_FOLLOWS[name] for name in given if name in _FOLLOWS))))


def _filters(flags: Sweep, linked: Iterable[str], found: Sequence[Cell]) -> Iterator[Callable[[Cell], bool]]:
    """Turn flags into tests of a cell. Raises UsageError for one that no cell passes, saying what there is."""
    if isinstance(flags.shapes, str):
        yield _named(flags.shapes, list(dict.fromkeys(cell.shape_name for cell in found)))
    for axis in linked:
        given = getattr(flags, axis)
        if given is not None:
            wanted = {given} if isinstance(given, bool) else set(_range(given, flag_of(axis)))
            there = dict.fromkeys(cell.value(axis) for cell in found)
            if not wanted & there.keys():
                raise UsageError(f"{_as_typed(axis, given)}: no shape of the suite has that{_listed(axis, there)}")
            yield _in(axis, wanted)


def _in(axis: str, wanted: Collection[int]) -> Callable[[Cell], bool]:
    return lambda cell: cell.value(axis) in wanted


def _named(text: str, known: Sequence[str]) -> Callable[[Cell], bool]:
    names = [name.strip() for name in text.split(",")]
    for name in names:
        if name not in known:
            raise UsageError(f"--shapes: the suite has no shape {name!r}; {suggestion(name, known)}")
    return lambda cell: cell.shape_name in names


def _as_typed(axis: str, given: str | int | bool) -> str:
    if isinstance(given, bool):
        return flag_of(axis) if given else f"--no-{axis}"
    return f"{flag_of(axis)} {given}"


def _listed(axis: str, values: Iterable[int | None]) -> str:
    known = sorted(value for value in values if value is not None and not isinstance(value, bool))
    if not known:
        return "; leave it out" if axis != "causal" else ""
    told = [str(value) for value in known[:_MOST_LISTED]] + ["..."] * (len(known) > _MOST_LISTED)
    return f"; there are {', '.join(told)}"


def _given(flags: Sweep, linked: Iterable[str]) -> str:
    return ", ".join(flag_of(name) for name in ("shapes", *linked) if getattr(flags, name) is not None)


def _complete(cell: Cell) -> Linked:
    """Write a cell as a listed shape that leaves nothing open."""
    sizes = msgspec.structs.asdict(cell.shape)
    return Linked(name=cell.shape_name, seq=sizes.pop("seq_q"), **sizes, **msgspec.structs.asdict(cell.mask))


def _shapes(sweep: Sweep) -> Iterator[Shape]:
    """Give every shape of the sweep, lengths innermost."""
    lengths = _range(_needed(sweep.seq, "--seq"), "--seq")
    key_lengths = [None] if sweep.seq_k is None else _range(sweep.seq_k, "--seq-k")
    all_heads = _range(_needed(sweep.heads, "--heads"), "--heads")
    kv_counts = [None] if sweep.kv_heads is None else _range(sweep.kv_heads, "--kv-heads")
    for heads, kv_heads, sizes in product(all_heads, kv_counts, product(lengths, key_lengths)):
        if kv_heads is not None and heads % kv_heads:
            raise UsageError(
                f"--kv-heads: {heads} heads cannot share {kv_heads} kv heads evenly; --heads must be a multiple"
            )
        seq, seq_k = sizes
        for head_dim, batch in product(_head_dims(sweep, heads), _batches(sweep, seq)):
            yield Shape(
                batch=batch, heads=heads, kv_heads=kv_heads or heads, seq_q=seq, seq_k=seq_k or seq, head_dim=head_dim
            )


def _head_dims(sweep: Sweep, heads: int) -> tuple[int, ...]:
    if sweep.width is None:
        return _range(_needed(sweep.head_dim, "--head-dim"), "--head-dim")
    widths = _range(sweep.width, "--width")
    for width in widths:
        if width % heads:
            raise UsageError(
                f"--width: {width} features cannot be shared by {heads} heads evenly; use a multiple of {heads}"
            )
    return tuple(width // heads for width in widths)


def _batches(sweep: Sweep, seq: int) -> tuple[int, ...]:
    if sweep.tokens is None:
        return _range(_needed(sweep.batch, "--batch"), "--batch")
    budgets = _range(sweep.tokens, "--tokens")
    for tokens in budgets:
        if tokens < seq:
            raise UsageError(f"--tokens: {tokens} tokens hold no sequence of {seq}; use --tokens {seq} or more")
    return tuple(tokens // seq for tokens in budgets)


def _range(text: str | int, flag: str) -> tuple[int, ...]:
    return parse_range(str(text), flag=flag)


def _needed(value: str | int | None, flag: str) -> str | int:
    if value is None:
        raise UsageError(f"{flag}: neither the suite nor a flag gives it; add {flag}")
    return value
