"""The exponents fitted to mechanisms whose growth is known, from 512 to 8192 tokens."""

import pytest

import attnbench

# The harness's own cost does not grow; over lengths this short, constant parts still show in the others.
EXPECTED = {"empty": (-0.1, 0.1), "vanilla": (1.7, 2.3), "flash": (1.7, 2.3), "linear": (0.8, 1.2)}


@pytest.fixture(scope="module")
def exponents(tmp_path_factory: pytest.TempPathFactory) -> dict[str, float]:
    run = attnbench.run(
        variants=[name for name in EXPECTED if name != "empty"],
        seq="512..8192",
        metrics="latency",
        rounds=3,
        out=tmp_path_factory.mktemp("runs"),
    )
    found = {growth.variant: growth for growth in run.scaling() if growth.metric == "latency"}
    for name, growth in found.items():
        print(f"{name}: N^{growth.exponent:.2f} [{growth.low:.2f}, {growth.high:.2f}], at the end {growth.local:.2f}")
    return {name: growth.exponent for name, growth in found.items()}


@pytest.mark.parametrize("name", EXPECTED)
def test_the_fitted_exponent_is_the_known_one(name: str, exponents: dict[str, float]) -> None:
    low, high = EXPECTED[name]
    assert low <= exponents[name] <= high
