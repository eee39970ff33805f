"""What a variant declares for `attnbench tune`: its options that trade time for quality, with the values of each."""

from typing import Any

from msgspec import Struct

from attnbench.contracts.case import Option
from attnbench.contracts.ranges import parse_range
from attnbench.contracts.variant import name_of, options_type


class Tune(Struct, frozen=True):
    """Values of an option that trades time for quality, the cheapest first: a tuple, or a range as in `--seq`.

    A variant's `tunes` maps option names to these; `attnbench tune` searches them. With `monotone`, quality does not
    fall from one value to the next at fixed other options, so that the search may bisect; else it tries every value.
    """

    values: str | tuple[Option, ...]
    monotone: bool = True


def tunes_of(variant: Any) -> dict[str, Tune]:
    """Return a variant's tunable options with their values, ranges expanded. Raises TypeError for an unknown one."""
    options, tunes = options_type(variant).__struct_fields__, {}
    for name, tune in getattr(variant, "tunes", {}).items():
        if name not in options or not isinstance(tune, Tune):
            raise TypeError(
                f"{name_of(variant)}.tunes: {name!r} must be an option, and its value an attnbench.Tune(...)"
            )
        values = parse_range(tune.values, flag=f"tunes[{name!r}]") if isinstance(tune.values, str) else tune.values
        tunes[name] = Tune(values, tune.monotone)
    return tunes
