"""Display units: values are stored in base units (s, bytes, J, 1) and scaled only here, one unit per column."""

import math
from collections.abc import Iterable

from msgspec import Struct


class Scale(Struct, frozen=True):
    """A display unit: a stored value divided by `size` is shown under the heading `name`."""

    name: str
    size: float


_DECIMAL = (("M", 1e6), ("G", 1e9), ("T", 1e12))
_SCALES = {
    "s": (Scale("ns", 1e-9), Scale("us", 1e-6), Scale("ms", 1e-3), Scale("s", 1.0)),
    "bytes": (Scale("B", 1.0), Scale("KiB", 2.0**10), Scale("MiB", 2.0**20), Scale("GiB", 2.0**30)),
    "J": (Scale("uJ", 1e-6), Scale("mJ", 1e-3), Scale("J", 1.0)),
    "1": (Scale("", 1.0),),
    "FLOP/s": tuple(Scale(f"{prefix}FLOP/s", size) for prefix, size in _DECIMAL),
    "bytes/s": tuple(Scale(f"{prefix}B/s", size) for prefix, size in _DECIMAL),
}
_SIGNIFICANT = 3
_LARGEST_PLAIN = 1e5
_SMALLEST_PLAIN = 1e-3
_THOUSAND, _SIXTY = 1000, 60


def scale_for(unit: str, values: Iterable[float]) -> Scale:
    """Return one display unit for a column: the largest in which its smallest non-zero finite value is at least 0.1."""
    scales = _SCALES.get(unit, (Scale(unit, 1.0),))
    sizes = [abs(value) for value in values if value and math.isfinite(value)]
    smallest = min(sizes, default=scales[0].size)
    return next((scale for scale in reversed(scales) if smallest >= 0.1 * scale.size), scales[0])


def digits(value: float) -> str:
    """Return a number with three significant digits, without an exponent if a plain number is short enough."""
    if value == 0:
        return "0"
    rounded = f"{value:.{_SIGNIFICANT - 1}e}"  # rounded first: 99.96 is 100, not 100.0
    if not _SMALLEST_PLAIN <= abs(value) < _LARGEST_PLAIN:
        return rounded
    exponent = int(rounded.partition("e")[2])
    return f"{value:.{max(0, _SIGNIFICANT - 1 - exponent)}f}"


def amount(value: float, unit: str) -> str:
    """Return a value in the unit that suits it: 31.0 GiB, 12.5 ms, 0.42."""
    scale = scale_for(unit, [value / 10])  # in a column 0.1 will do, but a single value should be at least 1
    return f"{digits(value / scale.size)} {scale.name}".rstrip()


def roughly(seconds: float) -> str:
    """Return a duration that is only estimated in words: under 10 s, about 40 s, about 8 min, about 3 h."""
    if seconds < 10:
        return "under 10 s"
    if seconds < 1.5 * _SIXTY:
        return f"about {round(seconds, -1):.0f} s"
    minutes = seconds / _SIXTY
    return f"about {minutes:.0f} min" if minutes < 1.5 * _SIXTY else f"about {minutes / _SIXTY:.0f} h"


def duration(seconds: float) -> str:
    """Return a duration in words: 850 ms, 12 s, 3 min 20 s, 2 h 05 min."""
    milliseconds = round(seconds * 1000)
    if milliseconds < _THOUSAND:
        return f"{milliseconds} ms"
    minutes, rest = divmod(round(seconds), _SIXTY)
    hours, minutes = divmod(minutes, _SIXTY)
    if hours:
        return f"{hours} h {minutes:02d} min"
    return f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"
