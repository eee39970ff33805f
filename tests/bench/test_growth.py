"""How time grows with the sequence: what every registered mechanism claims, measured by the harness itself.

With a heap that is kept: by default blocks above 32 MiB are faulted in again at each call, which adds to an exponent as
soon as a mechanism holds such blocks, and tells of the allocator more than of the mechanism.

What misses its claim is measured twice more, and the median of the three exponents counts: a machine that others use
moves one of them by more than the 0.15 that a claim leaves.
"""

from functools import partial
from pathlib import Path
from statistics import median

import pytest

import attnbench
from attnbench.analysis.scaling import growths
from attnbench.contracts.variant import support_of
from attnbench.plugins.registry import entries, load

SEQS = "2048..16384"
# What each sweep may spend. Every case is measured once whatever that takes; what is left goes, as the harness has it,
# to further rounds of those whose interval is widest.
BUDGETS = {"full": "18m", "causal": "5m", "tokens": "1m"}
KINDS: dict[str, dict[str, object]] = {"full": {}, "causal": {"causal": True}, "tokens": {"level": "layer"}}
AGAIN = "3m"
# With a kept heap its second call still faults in new memory: at 8192 tokens 4 GB more, 9.5 s in place of the third's
# 2.4. At 16384 it is that second call which the protocol times (flag `once`), on a machine of 24 GiB of which the first
# has taken 18 GB. That figure is left out; those of other mechanisms count, warm or not.
COLD = "sdpa-math"
SUPPORTS = {
    name: support_of(load(entry.target))
    for name, claims in entries("variants").items()
    for entry in claims
    if not entry.target.startswith("attnbench.") and "cpu" in support_of(load(entry.target)).devices
}


def variants(*, level: str, full: bool) -> list[str]:
    """Name the mechanisms that start at a level and have, or lack, a form that sees all tokens."""
    return [name for name, each in SUPPORTS.items() if each.level == level and (each.full is True) == full]


def measured(folder: Path, names: list[str], *, budget: str, **changes: object) -> dict[str, float]:
    """Sweep the lengths and give the exponents; a variant that cannot run on this machine has none."""
    given = {"seq": SEQS, "metrics": "latency", "allocator": "retained", "timeout_s": 120, "out": folder}
    rows = attnbench.run(variants=names, time_budget=budget, **given, **changes).rows()  # type: ignore[arg-type]
    warm = [row for row in rows if row.case.variant != COLD or "once" not in row.flags]
    found = {growth.variant: growth for growth in growths(warm, ["latency"], once=True)}
    for name, growth in sorted(found.items()):
        claim = SUPPORTS[name].growth if name in SUPPORTS else 0
        print(f"{name}: N^{growth.exponent:.2f} over {growth.lengths[0]} to {growth.lengths[-1]} (claimed {claim:g})")
    return {name: growth.exponent for name, growth in found.items()}


def holds(name: str, exponent: float) -> bool:
    claim = SUPPORTS[name].growth
    assert claim is not None
    return claim - 0.15 <= exponent <= claim + 0.15


@pytest.fixture(scope="module")
def exponents(tmp_path_factory: pytest.TempPathFactory) -> dict[str, float]:
    found: dict[str, float] = {}
    for kind, changes in KINDS.items():
        names = variants(level=str(changes.get("level", "core")), full=not changes.get("causal"))
        sweep = partial(measured, **changes)  # type: ignore[arg-type]
        first = sweep(tmp_path_factory.mktemp(kind), names, budget=BUDGETS[kind]) if names else {}
        missed = [name for name in names if name in first and not holds(name, first[name])]
        again = [sweep(tmp_path_factory.mktemp(kind), missed, budget=AGAIN) for _ in range(2)] if missed else []
        found |= first | {name: median([first[name], *(each[name] for each in again)]) for name in missed}
    return found


@pytest.mark.timeout(3600)
@pytest.mark.parametrize("name", SUPPORTS)
def test_time_grows_as_claimed(name: str, exponents: dict[str, float]) -> None:
    if name not in exponents:
        pytest.skip("it does not run on this machine")
    assert holds(name, exponents[name])
