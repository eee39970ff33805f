"""Every mechanism's effective matrix is its paper's; exact ones pass as exact, keep all, and see nothing hidden."""

# B batch, H heads, G key/value heads, T queries, S keys, D head dimension
from collections.abc import Callable

import msgspec
import pytest
import torch
from torch.nn.functional import elu

from attnbench import Case
from attnbench.measure import agreement
from attnbench.measure.effective import effective_matrix
from attnbench.measure.leaks import mask_leak
from attnbench.measure.reference import visible
from attnbench.measure.weights import weigh
from attnbench.record import Job, Origin, Probe, Protocol
from attnbench.variant import support_of
from laws.workloads import ENTRIES, WORKLOADS, assert_near, built, case_for, defines, draw, each, ties, variant
from references import REFERENCES

SUMS_TO_ANYTHING = {"linformer": "its values are mixed by a learned matrix, whose rows sum to anything"}
MASKED = tuple(name for name, case in WORKLOADS.items() if case.mask.causal or case.mask.window)


def each_that(keeps: Callable[[str], bool]) -> pytest.MarkDecorator:
    """Run a law over the mechanisms of a kind, on every workload that they define."""
    pairs = [(name, workload) for name in filter(keeps, ENTRIES) for workload in WORKLOADS if defines(name, workload)]
    return pytest.mark.parametrize(("name", "workload"), [pytest.param(*pair, id="-".join(pair)) for pair in pairs])


def is_exact(name: str) -> bool:
    return support_of(variant(name)).exact


def hidden(case: Case) -> torch.Tensor:
    shape = case.shape
    return ~visible(case.mask, torch.arange(shape.seq_q), queries=shape.seq_q, keys=shape.seq_k)


@each("full", "full-grouped", "full-window", "full-more-queries", "full-decode")
def test_the_effective_matrix_is_that_of_the_slow_formulation(name, workload):
    same_as_the_formulation(name, workload)


@each("causal", "causal-grouped", "causal-window", "causal-fewer-queries", "causal-decode")
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


@pytest.mark.parametrize("workload", ["full", "causal", "full-grouped", "causal-fewer-queries"])
def test_the_effective_matrix_of_linear_attention_is_its_closed_form(workload):
    case = case_for("linear", WORKLOADS[workload])
    q, k, v = draw("linear", case)
    k_BHSD = k.repeat_interleave(q.shape[1] // k.shape[1], dim=1)
    products = ((elu(q) + 1) @ (elu(k_BHSD) + 1).mT).masked_fill(hidden(case), 0)
    wanted = products / products.sum(-1, keepdim=True)
    assert_near(effective_matrix(built("linear", case), (q, k, v)), wanted, 1e-9)


@each_that(lambda name: name not in SUMS_TO_ANYTHING)
def test_weights_of_a_query_sum_to_one(name, workload):
    case = case_for(name, WORKLOADS[workload])
    sums = effective_matrix(built(name, case), draw(name, case)).sum(-1)
    assert_near(sums, torch.ones_like(sums), 1e-12)


@each(*MASKED)
def test_no_weight_lies_on_a_key_that_the_mask_hides(name, workload):
    case = case_for(name, WORKLOADS[workload])
    masses = weigh(built(name, case), draw(name, case), mask=case.mask, seed=case.seed)
    assert masses.hidden < 1e-15


@each(*MASKED)
def test_what_the_mask_hides_changes_nothing_unless_queries_are_the_keys(name, workload):
    case = case_for(name, WORKLOADS[workload])
    tensors, others = draw(name, case), draw(name, case, seed=1)
    leak = mask_leak(built(name, case), tensors, others, mask=case.mask, seed=case.seed)
    if ties(name) and case.shape.seq_q > case.options["bucket"]:
        assert leak > 0.01
    else:
        assert leak < 1e-13


@each()
def test_what_is_kept_is_a_share_and_all_of_it_where_attention_is_exact(name, workload):
    case = case_for(name, WORKLOADS[workload])
    kept = weigh(built(name, case), draw(name, case), mask=case.mask, seed=case.seed).kept
    assert (1 - 1e-12 if is_exact(name) else 0) <= kept < 1 + 1e-12


@each()
@pytest.mark.parametrize("passes", ["forward", "backward"])
@pytest.mark.parametrize("dtype", ["float64", "float32", "bfloat16", "float16"])
def test_no_registered_mechanism_is_refused_by_the_agreement_probe(name, workload, dtype, passes):
    case = case_for(name, WORKLOADS[workload], dtype=dtype)
    case = msgspec.structs.replace(case, passes=case.passes if passes == "forward" else passes)
    target = ENTRIES[name].target
    job = Job(case=case, probe=Probe(kind="agreement"), protocol=Protocol(), target=target, origin=Origin())
    outcome = agreement.measure(job, lambda _text: None)
    assert outcome.status == "ok"
    assert not {"kept_mass", "mask_leak"} & outcome.facts.keys()
