"""Every mechanism's effective matrix is its paper's; exact ones pass as exact, keep all, and see nothing hidden."""

# B batch, H heads, G key/value heads, T queries, S keys, D head dimension
import functools
from itertools import product

import pytest
import torch
from torch.nn.functional import elu

from attnbench import Case
from attnbench.contracts.record import Job, Origin, Probe, Protocol
from attnbench.contracts.variant import support_of
from attnbench.measure import agreement
from attnbench.measure.effective import effective_matrix
from attnbench.measure.failure import LeftOut
from attnbench.measure.leaks import mask_leak
from attnbench.measure.reference import visible
from attnbench.measure.weights import weigh
from helpers.subtests import as_subtests
from laws.workloads import ENTRIES, WORKLOADS, assert_near, breaks, built, case_for, draw, each, each_that, variant
from references import REFERENCES

MASKED = tuple(name for name, case in WORKLOADS.items() if case.mask.causal or case.mask.window)


def is_exact(name: str) -> bool:
    return support_of(variant(name)).exact


def is_linear(name: str) -> bool:
    return not breaks(name, "linear")


def hidden(case: Case) -> torch.Tensor:
    shape = case.shape
    return ~visible(case.mask, torch.arange(shape.seq_q), queries=shape.seq_q, keys=shape.seq_k)


@each_that(is_linear, "full", "full-grouped", "full-window", "full-more-queries", "full-decode", rest=("full",))
def test_the_effective_matrix_is_that_of_the_slow_formulation(name, workload):
    same_as_the_formulation(name, workload)


@each_that(
    is_linear, "causal", "causal-grouped", "causal-window", "causal-fewer-queries", "causal-decode", rest=("causal",)
)
def test_the_effective_matrix_of_a_causal_mechanism_is_that_of_the_slow_formulation(name, workload):
    same_as_the_formulation(name, workload)


def same_as_the_formulation(name, workload):
    case = case_for(name, WORKLOADS[workload])
    attention, tensors = built(name, case), draw(name, case)
    slow = REFERENCES[name].attend
    of_the_paper = effective_matrix(lambda q, k, v: slow(attention, q, k, v, case), tensors)
    assert_near(effective_matrix(attention, tensors), of_the_paper, 1e-9)


@each_that(is_exact)
def test_the_effective_matrix_of_an_exact_mechanism_is_the_softmax(name, workload):
    case = case_for(name, WORKLOADS[workload])
    q, k, v = draw(name, case)
    k_BHSD = k.repeat_interleave(q.shape[1] // k.shape[1], dim=1)
    scores = (q @ k_BHSD.mT / q.shape[-1] ** 0.5).masked_fill(hidden(case), -torch.inf)
    assert_near(effective_matrix(built(name, case), (q, k, v)), scores.softmax(-1), 1e-9)


@as_subtests("workload", ["full", "causal", "full-grouped", "causal-fewer-queries"])
def test_the_effective_matrix_of_linear_attention_is_its_closed_form(workload):
    case = case_for("linear", WORKLOADS[workload])
    q, k, v = draw("linear", case)
    k_BHSD = k.repeat_interleave(q.shape[1] // k.shape[1], dim=1)
    products = ((elu(q) + 1) @ (elu(k_BHSD) + 1).mT).masked_fill(hidden(case), 0)
    wanted = products / products.sum(-1, keepdim=True)
    assert_near(effective_matrix(built("linear", case), (q, k, v)), wanted, 1e-9)


@functools.cache
def _matrix(name, workload):
    case = case_for(name, WORKLOADS[workload])
    return effective_matrix(built(name, case), draw(name, case))


@each_that(lambda name: is_linear(name) and not breaks(name, "sums"))
def test_weights_of_a_query_sum_to_one(name, workload):
    sums = _matrix(name, workload).sum(-1)
    assert_near(sums, torch.ones_like(sums), 1e-12)


@each_that(is_linear, *MASKED)
def test_hidden_keys_have_no_weight(name, workload):
    case = case_for(name, WORKLOADS[workload])
    masses = weigh(built(name, case), draw(name, case), mask=case.mask, seed=case.seed)
    assert masses.hidden < 1e-15


@each_that(lambda name: not breaks(name, "later"), *MASKED)
def test_hidden_keys_and_values_do_not_change_the_output(name, workload):
    case = case_for(name, WORKLOADS[workload])
    tensors, others = draw(name, case), draw(name, case, seed=1)
    assert mask_leak(built(name, case), tensors, others, mask=case.mask, seed=case.seed) < 1e-13


@each_that(lambda name: breaks(name, "later"), "causal")
def test_a_leak_through_routing_by_later_tokens_is_detected(name, workload):
    case = case_for(name, WORKLOADS[workload])
    tensors, others = draw(name, case), draw(name, case, seed=1)
    assert mask_leak(built(name, case), tensors, others, mask=case.mask, seed=case.seed) > 0.01


@each_that(lambda name: is_linear(name) and not breaks(name, "signs"))
def test_weights_are_between_zero_and_one(name, workload):
    matrix = _matrix(name, workload)
    assert matrix.min() >= -1e-12
    assert matrix.max() <= 1 + 1e-12


@each_that(lambda name: is_linear(name) and breaks(name, "signs"), "full", "causal")
def test_weights_declared_unbounded_leave_the_range_of_zero_to_one(name, workload):
    matrix = _matrix(name, workload)
    assert matrix.min() < 0 or matrix.max() > 1


@each_that(lambda name: is_linear(name) and breaks(name, "sums"), "full", "causal")
def test_weights_declared_not_to_sum_to_one_do_not(name, workload):
    assert (_matrix(name, workload).sum(-1) - 1).abs().max() > 1e-3


@each_that(lambda name: not is_linear(name), "full", "causal")
def test_a_mechanism_not_linear_in_its_values_has_no_effective_matrix(name, workload):
    with pytest.raises(LeftOut, match="not linear in V"):
        _matrix(name, workload)


@each_that(is_linear)
def test_kept_mass_is_a_share_and_is_one_for_exact_attention(name, workload):
    case = case_for(name, WORKLOADS[workload])
    kept = weigh(built(name, case), draw(name, case), mask=case.mask, seed=case.seed).kept
    assert (1 - 1e-12 if is_exact(name) else 0) <= kept < 1 + 1e-12


DECODING = tuple(workload for workload, case in WORKLOADS.items() if case.passes == "decode")
OTHERS = tuple(workload for workload in WORKLOADS if workload not in DECODING)
DTYPES = ("float64", "float32", "bfloat16", "float16")
# What the quick tests look at of every workload, dtype and pass; the exhaustive ones look at all the rest.
QUICK = ("full", "full-grouped", "full-window", "causal", "causal-window", "causal-fewer-queries")
QUICK_PASSES = [("float32", "forward"), ("bfloat16", "backward")]


def the_rest(workload):
    quick = QUICK_PASSES if workload in QUICK else []
    return [pair for pair in product(DTYPES, ("forward", "backward")) if pair not in quick]


@each(*DECODING)
@as_subtests("dtype", ["float32", "bfloat16"])
def test_the_agreement_probe_accepts_every_mechanism_that_decodes(name, workload, dtype):
    _passes_the_probe(name, case_for(name, WORKLOADS[workload], dtype=dtype))


@pytest.mark.exhaustive
@each(*DECODING)
@as_subtests("dtype", ["float64", "float16"])
def test_the_agreement_probe_accepts_every_mechanism_that_decodes_in_every_dtype(name, workload, dtype):
    _passes_the_probe(name, case_for(name, WORKLOADS[workload], dtype=dtype))


@each(*QUICK)
@as_subtests("dtype, passes", QUICK_PASSES)
def test_the_agreement_probe_accepts_every_mechanism(name, workload, dtype, passes):
    _passes_the_probe(name, case_for(name, WORKLOADS[workload], dtype=dtype, passes=passes))


@pytest.mark.exhaustive
@each(*OTHERS)
@as_subtests("dtype, passes", the_rest)
def test_the_agreement_probe_accepts_every_mechanism_in_every_dtype_and_pass(name, workload, dtype, passes):
    _passes_the_probe(name, case_for(name, WORKLOADS[workload], dtype=dtype, passes=passes))


def _passes_the_probe(name, case):
    target = ENTRIES[name].target
    job = Job(case=case, probe=Probe(kind="agreement"), protocol=Protocol(), target=target, origin=Origin())
    outcome = agreement.measure(job, lambda _text: None)
    assert outcome.status == "ok"
    left_out = {"kept_mass", "mask_leak"} & outcome.facts.keys()
    assert left_out <= (set() if is_linear(name) else {"kept_mass"})
