"""The passes in which each metric is measured."""

from collections.abc import Sequence

from attnbench.contracts.case import Passes
from attnbench.contracts.record import ProbeKind

# Memory is a peak over a whole pass, so a backward pass is measured with its forward pass. Agreement looks at the
# output, and at the gradients where they are computed. The energy of a backward pass cannot be separated from that of
# the forward pass that builds its graph.
_WHOLE_PASSES: dict[Passes, tuple[Passes, ...]] = {"backward": ("forward-backward",)}
_PASSES: dict[ProbeKind, dict[Passes, tuple[Passes, ...]]] = {
    "memory": _WHOLE_PASSES,
    "energy": _WHOLE_PASSES,
    "agreement": {"backward": ("forward", "backward"), "forward-backward": ("forward", "backward")},
}


def passes_of(metric: ProbeKind, passes: Sequence[Passes]) -> tuple[Passes, ...]:
    """Return the passes in which a metric is measured when these are swept, each once."""
    measured = _PASSES.get(metric, {})
    return tuple(dict.fromkeys(each for swept in passes for each in measured.get(swept, (swept,))))
