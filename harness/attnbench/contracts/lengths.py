"""Options that follow the number of keys N, as typed: `k=N/8..256` is N / 8 but at most 256, `density=256/N` falls."""

import re
from typing import Any

from msgspec import Struct

_RULE = re.compile(
    r"(?:N/(?P<divisor>[1-9][0-9]{0,8})|(?P<keys>[1-9][0-9]{0,8})/N)(?:\.\.(?P<most>[0-9.]+))?", re.ASCII
)


class ByLength(Struct, frozen=True, kw_only=True):
    """An option's value for every number of keys N: N / divisor rounded up, or else keys / N; at most `most`."""

    divisor: int = 0
    keys: int = 0
    most: float | None = None

    def at(self, length: int) -> int | float:
        """Return the value for a number of keys."""
        value = -(-length // self.divisor) if self.divisor else self.keys / length
        if self.most is None or value <= self.most:
            return value
        return int(self.most) if self.divisor else self.most


def parse_by_length(text: str) -> ByLength | None:
    """Parse 'N/8', 'N/8..256', '256/N' or '256/N..0.125'; return None for any other text."""
    match = _RULE.fullmatch(text)
    if match is None:
        return None
    try:
        most = None if match["most"] is None else float(match["most"])
    except ValueError:
        return None
    return ByLength(divisor=int(match["divisor"] or 0), keys=int(match["keys"] or 0), most=most)


def options_at(options: dict[str, Any], rules: dict[str, ByLength], length: int) -> dict[str, Any]:
    """Return options with those that follow the length at their values for it."""
    return options | {name: rule.at(length) for name, rule in rules.items()}
