"""How much memory a call holds at most, counted from torch's own allocations."""

from collections.abc import Callable

from torch.autograd.profiler import profile


def peak_bytes(call: Callable[[], object]) -> int:
    """Return the peak bytes that a call holds in tensors on the CPU, its result included."""
    with profile(use_cpu=True, profile_memory=True) as profiler:
        kept = call()
    del kept
    changes = [event for event in profiler.kineto_results.events() if event.name() == "[memory]"]
    held = most = 0
    for change in sorted(changes, key=lambda event: event.start_ns()):
        held += change.nbytes()
        most = max(most, held)
    return most
