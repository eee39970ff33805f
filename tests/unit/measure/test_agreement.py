"""What an agreement job tells of weights, hidden tokens and gradients, and what it refuses."""

from pathlib import Path

import pytest
from msgspec.structs import replace

from attnbench.contracts.case import Mask, Shape
from attnbench.contracts.record import Outcome
from attnbench.contracts.variant import InvalidOutput
from attnbench.measure import agreement, effective
from attnbench.plugins.registry import find
from helpers.planted import job
from helpers.subtests import as_subtests

LEAKING = Path(__file__).parents[2] / "plugins" / "leaking.py"
SMALL = Shape(batch=1, heads=2, kv_heads=2, seq_q=40, seq_k=40, head_dim=8)
CAUSAL = Mask(causal=True)


def measured(name: str, **case: object) -> Outcome:
    planned = job(name, kind="agreement")
    target = f"{LEAKING}:{name}" if name[0].isupper() else find(name, "variants", flag="").target
    return agreement.measure(
        replace(planned, case=replace(planned.case, **{"shape": SMALL} | case), target=target), lambda _text: None
    )


def figures(outcome: Outcome) -> dict[str, float | None]:
    return {one.metric: one.values[0] for one in outcome.measurements}


def flags(outcome: Outcome) -> set[str]:
    return {flag for one in outcome.measurements if one.metric == "approximation_error" for flag in one.flags}


@as_subtests("mask", [Mask(), CAUSAL, Mask(window=7), Mask(causal=True, window=7)])
def test_an_exact_mechanism_keeps_all_hides_all_and_changes_with_nothing_hidden(mask: Mask) -> None:
    found = figures(measured("vanilla", mask=mask))
    assert found["kept_mass"] == pytest.approx(1.0, abs=1e-5)
    masked = {} if mask == Mask() else {"hidden_mass": 0.0, "mask_leak": 0.0}
    assert {name: found[name] for name in found if name in ("hidden_mass", "mask_leak")} == masked


def test_an_exact_mechanism_that_sees_the_next_key_is_refused_however_little_it_errs(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with pytest.raises(InvalidOutput, match="errs by"):
        measured("LooksAhead", mask=CAUSAL)
    monkeypatch.setattr(agreement, "_check_exact", lambda *_results, **_options: None)
    with pytest.raises(InvalidOutput, match=r"tokens that the mask hides: hidden_mass 3e-05, mask_leak"):
        measured("LooksAhead", mask=CAUSAL)


LONG = Shape(batch=1, heads=1, kv_heads=1, seq_q=64, seq_k=4096, head_dim=16)


def test_an_exact_kernel_that_adds_one_key_after_another_errs_as_a_sum_does_and_is_believed() -> None:
    found = figures(measured("OneByOne", shape=LONG))
    plain = figures(measured("vanilla", shape=LONG))
    assert (found["approximation_error"] or 0) > 2 * (plain["approximation_error"] or 1) + 2**-23


@as_subtests("name", ["RoughExponentials", "NarrowWeights"])
@as_subtests("shape", [SMALL, LONG])
def test_what_is_no_rounding_of_sums_is_found_among_as_many_keys(name: str, shape: Shape) -> None:
    with pytest.raises(InvalidOutput, match="errs by"):
        measured(name, shape=shape)


def test_an_approximate_mechanism_that_sees_the_next_key_is_reported_not_judged() -> None:
    found = measured("LooksAheadALittle", mask=CAUSAL)
    assert flags(found) == {"later_tokens"}
    assert all((figures(found)[metric] or 0) > 0.1 for metric in ("hidden_mass", "mask_leak"))


def test_a_mechanism_whose_weights_are_chosen_by_later_tokens_is_found_though_none_shows() -> None:
    found = measured("ChoosesByLater", mask=CAUSAL)
    assert figures(found)["hidden_mass"] == 0.0
    assert flags(found) == {"later_tokens"}


def test_reformer_keeps_to_earlier_keys_which_later_ones_choose() -> None:
    found = measured("reformer", mask=CAUSAL, options={"rounds": 2, "bucket": 8})
    assert figures(found)["hidden_mass"] == 0.0
    assert flags(found) == {"later_tokens"}


def test_keys_outside_the_window_that_matter_are_told_as_such() -> None:
    assert flags(measured("OutsideItsWindow", mask=Mask(causal=True, window=5))) == {"hidden_tokens"}


def test_nothing_is_asked_where_the_mask_hides_nothing() -> None:
    assert not figures(measured("ChoosesByLater")).keys() & {"hidden_mass", "mask_leak"}


def test_a_backward_pass_is_held_to_the_mask_and_has_no_kept_mass() -> None:
    found = figures(measured("vanilla", mask=CAUSAL, passes="backward"))
    assert found["mask_leak"] == 0.0
    assert "kept_mass" not in found
    assert flags(measured("ChoosesByLater", mask=CAUSAL, passes="forward-backward")) == {"later_tokens"}


def test_what_is_left_out_says_why_and_the_errors_stand(monkeypatch: pytest.MonkeyPatch) -> None:
    found = measured("NotLinear", mask=CAUSAL)
    assert "kept_mass" not in figures(found)
    assert str(found.facts["kept_mass"]).startswith("left out: it is not linear in V")
    assert figures(found)["approximation_error"]
    equal_calls_differ = measured("DrawsOfItsOwn", mask=CAUSAL).facts["mask_leak"]
    assert str(equal_calls_differ).startswith("left out: equal calls differ by")
    long = measured("vanilla", shape=replace(SMALL, heads=1, kv_heads=1, seq_q=4, seq_k=2049))
    assert long.facts["kept_mass"] == "left out: the effective weights are read up to 2048 keys"
    monkeypatch.setattr(effective, "_LONGEST_S", 0.0)
    slow = measured("vanilla", mask=CAUSAL)
    assert "it needs 6 calls" in str(slow.facts["kept_mass"])
    assert "it needs 5 calls" in str(slow.facts["mask_leak"])


def test_chance_that_all_share_does_not_count_as_numerical_error() -> None:
    assert (figures(measured("Dropping", mask=CAUSAL))["numerical_error"] or 1) < 1e-6


def test_a_backward_pass_tells_the_error_of_the_output_as_well() -> None:
    found = figures(measured("linear", passes="forward-backward"))
    forward = figures(measured("linear"))
    assert found["approximation_error_output"] == pytest.approx(forward["approximation_error"])
    assert found["approximation_error"] != pytest.approx(forward["approximation_error"])


def test_gradients_that_are_not_finite_are_counted() -> None:
    with pytest.raises(InvalidOutput, match=r"^not finite: 3 of 640 values of dq \(2 NaN\)$"):
        measured("NaNGradients", passes="backward")


def test_each_gradient_of_an_exact_mechanism_is_held_to_the_plain_formula() -> None:
    assert measured("WrongGradient", mask=CAUSAL).status == "ok"
    with pytest.raises(InvalidOutput, match=r"errs by \S+ in dk"):
        measured("WrongGradient", mask=CAUSAL, passes="backward")
