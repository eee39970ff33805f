"""What a mechanism sees of the keys at a shape, and whether it is exact there: asked of the mechanism, and measured."""

import msgspec
import pytest

from attnbench import Case, Mask, Options, Shape, Support
from attnbench.contracts.record import Job, Probe, Protocol
from attnbench.contracts.variant import complete_options, support_of
from attnbench.measure import regime
from attnbench.plugins.registry import find, load

HERE = f"{__file__}:"


class Half:
    """A mechanism that says that it sees half of the keys."""

    def __init__(self, case: Case) -> None:
        self.case = case

    def __call__(self, q, k, v):
        return v[:, :, : q.shape[2]].clone()

    @staticmethod
    def reach(case: Case) -> float:
        return 0.5


class Boast(Half):
    @staticmethod
    def reach(case: Case) -> float:
        return 2.0


def job(target: str, *, seq: int, kind: str = "accuracy", options: dict | None = None, causal: bool = False) -> Job:
    shape = Shape(batch=4, heads=2, kv_heads=2, seq_q=seq, seq_k=seq, head_dim=8)
    case = Case(variant="it", options=options or {}, shape=shape, mask=Mask(causal=causal), passes="")
    return Job(case=case, probe=Probe(kind=kind), protocol=Protocol(), target=target)


def registered(name: str, *, seq: int, causal: bool = False, **given: object) -> Job:
    target = find(name, "variants", flag="--variants").target
    options = msgspec.structs.asdict(complete_options(load(target), given))
    return job(target, seq=seq, options=options, causal=causal)


@pytest.mark.parametrize("causal", [False, True])
def test_a_block_as_long_as_the_sequence_is_found_to_be_exact_there_and_a_shorter_one_is_not(causal):
    long, short = (registered("sparse", seq=32, causal=causal, block=block) for block in (64, 4))
    assert regime.facts(long)["exact_here"] is True
    assert regime.facts(short)["exact_here"] is False
    assert regime.facts(long)["exact"] is False


@pytest.mark.parametrize("name", ["linear", "performer", "linformer"])
def test_a_mechanism_that_approximates_at_every_length_is_exact_at_none(name):
    assert regime.facts(registered(name, seq=32))["exact_here"] is False


def test_an_exact_mechanism_is_exact_everywhere_and_sees_all_keys():
    assert regime.facts(registered("flash", seq=32)) == {"exact": True, "reach": 1.0, "exact_here": True}


def test_what_a_plugin_declares_is_recorded_and_a_share_that_is_none_is_said_to_be_unknown():
    assert regime.facts(job(f"{HERE}Half", seq=8, kind="latency")) == {"exact": False, "reach": 0.5}
    facts = regime.facts(job(f"{HERE}Boast", seq=8, kind="latency"))
    assert "reach" not in facts
    assert "Boast.reach(case) gave 2" in str(facts["reach_unknown"])


def test_a_span_that_is_no_option_is_refused():
    class Wrong:
        class Options(Options):
            width: int = 4

        supports = Support(spans=("breadth",))

    with pytest.raises(TypeError, match="spans names 'breadth', which is no option"):
        support_of(Wrong)
