"""The cases of a sweep: every combination of its axes, or those of each shape that a suite lists.

An axis is a field of Shape, Mask or Case for which Sweep has a field of the same name. Sizes that follow from others,
or are given in other words (--width, --tokens), are the business of `_shape`.
"""

from collections.abc import Iterable, Iterator
from itertools import islice, product
from typing import Any, Literal, get_args, get_origin, get_type_hints

from msgspec import Struct
from msgspec.structs import replace

from attnbench.contracts.case import DRAWN, Case, Mask, Shape
from attnbench.contracts.errors import UsageError
from attnbench.contracts.ranges import parse_choices, parse_range
from attnbench.contracts.suite import LINKABLE, Sweep, flag_of, overlay

Point = dict[str, Any]  # a value for each axis; None where the sweep leaves it open

MOST_SHAPES = 10_000

# One of each must be given.
_NEEDED = (("seq",), ("heads",), ("head_dim", "width"), ("batch", "tokens"))
# The axes that vary fastest, the last one fastest of all.
_INNERMOST = ("passes", "window", "heads", "kv_heads", "seq", "seq_k", "head_dim", "width", "batch", "tokens")


def _axes(*structs: type[Struct]) -> tuple[str, ...]:
    return tuple(name for struct in structs for name in struct.__struct_fields__ if name in Sweep.__struct_fields__)


_OF_A_SHAPE = ("seq", "width", "tokens", *_axes(Shape, Mask))
AXES_OF_A_CASE = _axes(Case)
# The words that an axis takes; all other axes take whole numbers, or are switches.
_WORDS: dict[str, tuple[str, ...]] = {"inputs": DRAWN} | {
    name: tuple(word for word in get_args(hint) if word)
    for struct in (Shape, Mask, Case)
    for name, hint in get_type_hints(struct).items()
    if get_origin(hint) is Literal
}


def cases(sweep: Sweep) -> tuple[Case, ...]:
    """Return every case of a sweep, without a variant; shapes vary fastest.

    Raises UsageError naming the flag and the fix, and the shape where it is one of a list.
    """
    shaped = tuple(islice(shapes(sweep), MOST_SHAPES + 1))
    if len(shaped) > MOST_SHAPES:
        raise UsageError(f"--seq: with the other axes it makes more than {MOST_SHAPES} shapes; narrow a range")
    return tuple(_at(point, case) for point in _points(sweep, AXES_OF_A_CASE) for case in shaped)


def shapes(sweep: Sweep) -> Iterator[Case]:
    """Yield a case for each shape and mask of a sweep, all else at its default; listed shapes in their order."""
    if not isinstance(sweep.shapes, tuple):
        yield from _product(sweep, "")
        return
    for linked in sweep.shapes:
        axes = {name: getattr(linked, name) for name in LINKABLE}
        try:
            yield from _product(overlay(sweep, Sweep(**axes)), linked.name)
        except UsageError as mistake:
            raise UsageError(f"{mistake} (shape {linked.name!r})") from None


def _product(sweep: Sweep, name: str) -> Iterator[Case]:
    for axes in _NEEDED:
        if all(getattr(sweep, axis) is None for axis in axes):
            flag = flag_of(axes[0])
            raise UsageError(f"{flag}: neither the suite nor a flag gives it; add {flag}")
    for point in _points(sweep, _OF_A_SHAPE):
        yield Case(variant="", shape=_shape(point), mask=Mask(**_given(Mask, point)), shape_name=name)


def _points(sweep: Sweep, axes: Iterable[str]) -> Iterator[Point]:
    """Yield every combination of the values of some axes."""
    ordered = sorted(axes, key=lambda axis: _INNERMOST.index(axis) if axis in _INNERMOST else -1)
    values = [_values(axis, getattr(sweep, axis)) for axis in ordered]
    return (dict(zip(ordered, combination, strict=True)) for combination in product(*values))


def _values(axis: str, text: str | int | bool | None) -> tuple[Any, ...]:
    if text is None or isinstance(text, bool):
        return (text,)
    if axis in _WORDS:
        return parse_choices(str(text), _WORDS[axis], flag=flag_of(axis))
    return parse_range(str(text), flag=flag_of(axis))


def _at(point: Point, case: Case) -> Case:
    shape = replace(case.shape, seq_q=1) if point["passes"] == "decode" else case.shape  # one token against all keys
    return replace(case, shape=shape, **_given(Case, point))


def _shape(point: Point) -> Shape:
    """Return the shape at a point; a size that is left open follows from another."""
    seq, heads = point["seq"], point["heads"]
    kv_heads = point["kv_heads"] or heads
    if heads % kv_heads:
        raise UsageError(
            f"--kv-heads: {heads} heads cannot share {kv_heads} kv heads evenly; --heads must be a multiple"
        )
    follows = {
        "seq_q": seq,
        "seq_k": point["seq_k"] or seq,
        "kv_heads": kv_heads,
        "head_dim": point["head_dim"] or _head_dim(point["width"], heads),
        "batch": point["batch"] or _batch(point["tokens"], seq),
    }
    return Shape(**_given(Shape, point | follows))


def _head_dim(width: int, heads: int) -> int:
    if width % heads:
        raise UsageError(
            f"--width: {width} features cannot be shared by {heads} heads evenly; use a multiple of {heads}"
        )
    return width // heads


def _batch(tokens: int, seq: int) -> int:
    if tokens < seq:
        raise UsageError(f"--tokens: {tokens} tokens hold no sequence of {seq}; use --tokens {seq} or more")
    return tokens // seq


def _given(struct: type[Struct], point: Point) -> Point:
    """Return the fields of a struct that have a value; the others keep their defaults."""
    return {name: point[name] for name in struct.__struct_fields__ if point.get(name) is not None}
