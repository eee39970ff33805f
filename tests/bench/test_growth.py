"""How time grows with the sequence: what each mechanism claims, measured from 4096 to 16384 by the harness itself."""

import math

import pytest

import attnbench

BOUNDS = {"linformer": 1.3, "linear": 1.3, "sparse": 1.3, "reformer": 1.5}
QUADRATIC = {"vanilla": (1.7, 2.4), "flash": (1.7, 2.4)}


@pytest.fixture(scope="module")
def exponents(tmp_path_factory: pytest.TempPathFactory) -> dict[str, float]:
    run = attnbench.run(
        variants=[*BOUNDS, *QUADRATIC],
        seq="4096,16384",
        metrics="latency",
        rounds=3,
        out=tmp_path_factory.mktemp("runs"),
    )
    values = {(row.variant, row.seq_q): row.value for row in run.rows() if row.metric == "latency"}
    found = {}
    for name in (*BOUNDS, *QUADRATIC):
        short, long = values[name, 4096], values[name, 16384]
        assert short is not None
        if long is not None:
            found[name] = math.log(long / short) / math.log(4)
            print(f"{name}: N^{found[name]:.2f} from 4096 ({short * 1e3:.1f} ms) to 16384 ({long * 1e3:.1f} ms)")
    return found


@pytest.mark.parametrize("name", BOUNDS)
def test_time_grows_no_faster_than_claimed(name: str, exponents: dict[str, float]) -> None:
    assert exponents[name] <= BOUNDS[name]


@pytest.mark.parametrize("name", QUADRATIC)
def test_exact_attention_grows_with_the_square(name: str, exponents: dict[str, float]) -> None:
    low, high = QUADRATIC[name]
    assert low <= exponents[name] <= high
