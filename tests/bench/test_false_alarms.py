"""Verdicts on a real machine: identical runs are not called different, and a planted slowdown is found.

ATTNBENCH_PAIRS sets how many pairs of runs are measured (10; about 40 s each on two cores).
"""

import os
from pathlib import Path

import pytest

import attnbench

PAIRS = int(os.environ.get("ATTNBENCH_PAIRS", "10"))
PLUGIN = Path(__file__).parents[1] / "plugins" / "slowed.py"
SWEEP = {"seq": "256,512", "heads": 2, "head_dim": 32, "metrics": "latency", "threads": 1}
CALLED_DIFFERENT = {"faster", "slower"}


def measure(out: Path, *variants: str) -> attnbench.Run:
    return attnbench.run(variants=variants, out=out, **SWEEP)


def described(found) -> str:
    ratios = ", ".join(
        f"{pair.other.case.variant} {pair.case.length} x{pair.ratio:.3f} {pair.verdict}" for pair in found.pairs
    )
    return f"A/A floor {found.floor:.1%}: {ratios}"


@pytest.mark.timeout(3600)
def test_of_ten_pairs_of_identical_runs_at_most_one_is_called_different(tmp_path: Path) -> None:
    alarms = []
    for number in range(PAIRS):
        found = attnbench.compare(*(measure(tmp_path, "vanilla", "linear") for _ in range(2)))
        alarms.append(bool(CALLED_DIFFERENT & {pair.verdict for pair in found.pairs}))
        print(f"pair {number + 1}: {described(found)}")
    assert sum(alarms) <= 1


def test_a_variant_slowed_by_a_quarter_is_found_at_the_default_profile(tmp_path: Path) -> None:
    plain, slowed = (f"{PLUGIN}:{name}" for name in ("Plain", "Slowed"))
    found = attnbench.compare(measure(tmp_path, plain, slowed), variants=f"{plain},{slowed}")
    print(described(found))
    verdicts = {pair.verdict for pair in found.pairs}
    assert "slower" in verdicts
    assert verdicts <= {"slower", "inconclusive"}  # one wild round of five leaves a cell undecided
