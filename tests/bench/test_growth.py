"""How time grows with the sequence: what every registered mechanism claims, measured by the harness itself.

With a heap that is kept: by default blocks above 32 MiB are faulted in again at each call, which adds to an exponent as
soon as a mechanism holds such blocks, and tells of the allocator more than of the mechanism.
"""

from pathlib import Path

import pytest

import attnbench
from attnbench.registry import entries, load
from attnbench.variant import support_of

SEQS = "2048..16384"
# What each sweep may spend. Every case is measured once whatever that takes; what is left goes, as the harness has it,
# to further rounds of those whose interval is widest.
BUDGETS = {"full": "18m", "causal": "5m", "tokens": "1m"}
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
    run = attnbench.run(variants=names, time_budget=budget, **given, **changes)  # type: ignore[arg-type]
    found = {growth.variant: growth for growth in run.scaling() if growth.metric == "latency"}
    for name, growth in sorted(found.items()):
        claim = SUPPORTS[name].growth if name in SUPPORTS else 0
        print(f"{name}: N^{growth.exponent:.2f} over {growth.lengths[0]} to {growth.lengths[-1]} (claimed {claim:g})")
    return {name: growth.exponent for name, growth in found.items()}


@pytest.fixture(scope="module")
def exponents(tmp_path_factory: pytest.TempPathFactory) -> dict[str, float]:
    new = tmp_path_factory.mktemp
    found = measured(new("full"), variants(level="core", full=True), budget=BUDGETS["full"])
    if causal := variants(level="core", full=False):
        found |= measured(new("causal"), causal, budget=BUDGETS["causal"], causal=True)
    if tokens := variants(level="layer", full=True):
        found |= measured(new("tokens"), tokens, budget=BUDGETS["tokens"], level="layer")
    return found


@pytest.mark.timeout(3600)
@pytest.mark.parametrize("name", SUPPORTS)
def test_time_grows_as_claimed(name: str, exponents: dict[str, float]) -> None:
    if name not in exponents:
        pytest.skip("it does not run on this machine")
    claim = SUPPORTS[name].growth
    assert claim is not None
    assert claim - 0.15 <= exponents[name] <= claim + 0.15
