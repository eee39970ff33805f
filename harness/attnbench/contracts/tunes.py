"""What a variant says of tuning: its options that trade time for quality, and the values of each."""

from typing import Any

from msgspec import Struct

from attnbench.contracts.case import Option
from attnbench.contracts.ranges import parse_range
from attnbench.contracts.variant import name_of, options_type


class Tune(Struct, frozen=True):
    """Values of an option that trades time for quality, the cheapest first: themselves, or a range as of `--seq`.

    A variant's `tunes` maps options to these; `attnbench tune` searches them. Where `monotone`, quality does not fall
    along them while other options stay as they are, and the search may halve; else each value is tried.
    """

    values: str | tuple[Option, ...]
    monotone: bool = True


def tunes_of(variant: Any) -> dict[str, Tune]:
    """Read which options of a variant trade time for quality, with their values. Raises TypeError for a wrong one."""
    known, found = options_type(variant).__struct_fields__, {}
    for name, tune in getattr(variant, "tunes", {}).items():
        if name not in known or not isinstance(tune, Tune):
            raise TypeError(
                f"{name_of(variant)}.tunes: {name!r} must be an option, and its value an attnbench.Tune(...)"
            )
        values = parse_range(tune.values, flag=f"tunes[{name!r}]") if isinstance(tune.values, str) else tune.values
        found[name] = Tune(values, tune.monotone)
    return found
