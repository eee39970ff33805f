"""Base units are stored (s, bytes, 1); here, and only here, they become what a person reads, one unit a column."""

from collections.abc import Iterable

from msgspec import Struct


class Scale(Struct, frozen=True):
    """A display unit: a stored value divided by `size` is shown under the heading `name`."""

    name: str
    size: float


_SCALES = {
    "s": (Scale("ns", 1e-9), Scale("us", 1e-6), Scale("ms", 1e-3), Scale("s", 1.0)),
    "bytes": (Scale("B", 1.0), Scale("KiB", 2.0**10), Scale("MiB", 2.0**20), Scale("GiB", 2.0**30)),
    "1": (Scale("", 1.0),),
}
_SIGNIFICANT = 3
_LARGEST_PLAIN = 1e5
_SMALLEST_PLAIN = 1e-3


def scale_for(unit: str, values: Iterable[float]) -> Scale:
    """Choose one display unit for a whole column: the largest in which its smallest non-zero value is at least 0.1."""
    scales = _SCALES.get(unit, (Scale(unit, 1.0),))
    sizes = [abs(value) for value in values if value]
    smallest = min(sizes, default=scales[0].size)
    return next((scale for scale in reversed(scales) if smallest >= 0.1 * scale.size), scales[0])


def digits(value: float) -> str:
    """Write a number with three significant digits and no exponent where a plain number is short enough."""
    if value == 0:
        return "0"
    if not _SMALLEST_PLAIN <= abs(value) < _LARGEST_PLAIN:
        return f"{value:.1e}"
    decimals = next((d for d in range(_SIGNIFICANT) if abs(round(value, d)) >= 10 ** (_SIGNIFICANT - 1 - d)), None)
    return f"{value:.{_SIGNIFICANT if decimals is None else decimals}f}"


def duration(seconds: float) -> str:
    """Write a span of time as a person says it: 850 ms, 12 s, 3 min 20 s, 2 h 05 min."""
    if seconds < 1:
        return f"{seconds * 1000:.0f} ms"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    minutes, rest = divmod(whole, 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    return f"{minutes // 60} h {minutes % 60:02d} min"
