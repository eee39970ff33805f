"""One number as a measurement: what is not finite is null, under a flag of its own (JSON has no infinity)."""

import math

from attnbench.contracts.record import Measurement


def figure(metric: str, value: float, *, higher: bool = False, flags: tuple[str, ...] = ()) -> Measurement:
    """Make the measurement of a single number without a unit."""
    is_finite = math.isfinite(value)
    return Measurement(
        metric=metric,
        unit="1",
        values=(value if is_finite else None,),
        higher_is_better=higher,
        flags=flags if is_finite else ("non_finite", *flags),
    )
