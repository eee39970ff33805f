"""What an answer must not depend on: later keys, other sequences and heads, strides, chance, earlier calls."""

import torch

from helpers.subtests import as_subtests
from laws.workloads import ENTRIES, WORKLOADS, assert_near, breaks, built, case_for, defines, draw, each, leaves

CAUSAL = tuple(name for name, case in WORKLOADS.items() if case.mask.causal and case.shape.seq_k > 1)


@each(*CAUSAL)
def test_later_keys_and_values_do_not_matter_to_a_causal_query(name, workload):
    case = case_for(name, WORKLOADS[workload])
    with torch.no_grad():
        q, k, v = draw(name, case)
        out = built(name, case)(q, k, v)
        before = case.shape.seq_k - case.shape.seq_q
        for t in range(0, case.shape.seq_q, 5):
            later = slice(before + t + 1, None)
            other_v, other_k = v.clone(), k
            other_v[:, :, later] += 7
            # Where keys are routed by content a change moves others; their gradient is the next law.
            if not breaks(name, "later"):
                other_k = k.clone()
                other_k[:, :, later] *= -3
            changed = built(name, case)(q, other_k, other_v)
            assert_near(changed[:, :, : t + 1], out[:, :, : t + 1], 1e-13)


@each(*CAUSAL)
def test_no_gradient_flows_from_a_causal_query_to_later_keys_and_values(name, workload):
    case = case_for(name, WORKLOADS[workload])
    q, k, v = draw(name, case)
    out = built(name, case)(q, k, v)
    before = case.shape.seq_k - case.shape.seq_q
    for t in range(0, case.shape.seq_q, 5):
        unread = {"allow_unused": True, "materialize_grads": True}
        for gradient in torch.autograd.grad(out[:, :, t].sum(), (k, v), retain_graph=True, **unread):
            assert not gradient[:, :, before + t + 1 :].any()


@each("full", "full-grouped", "full-window", "causal", "causal-grouped", "causal-window")
@as_subtests("dim", [0, 1])
def test_one_sequence_or_head_does_not_see_another(name, workload, dim):
    case = case_for(name, WORKLOADS[workload])
    with torch.no_grad():
        q, k, v = draw(name, case)
        out = built(name, case)(q, k, v)
        other_q, other_v = q.clone(), v.clone()
        # The first head is the one that changes; with grouped heads its group's keys are everyone's, so only q does.
        other_q.select(dim, 0).neg_()
        if v.shape[dim] == q.shape[dim]:
            other_v.select(dim, 0).add_(5)
        changed = built(name, case)(other_q, other_q if k is q else k, other_v)
        if dim == 1 and breaks(name, "heads"):
            assert (changed.select(dim, 1) - out.select(dim, 1)).norm() > 1e-3 * out.norm()
        else:
            assert_near(changed.select(dim, 1), out.select(dim, 1), 1e-13)
        if other_v.equal(v) and breaks(name, "queries"):
            assert torch.equal(changed, out)
        else:
            assert (changed.select(dim, 0) - out.select(dim, 0)).norm() > 1e-3 * out.norm()


@each()
def test_inputs_are_not_modified(name, workload):
    case = case_for(name, WORKLOADS[workload])
    qkv = draw(name, case)
    before = [x.detach().clone() for x in qkv]
    attention = built(name, case)
    with torch.no_grad():
        attention(*qkv)
    torch.autograd.grad(attention(*qkv).sum(), leaves(qkv), allow_unused=True)
    changed = [name for name, x, copy in zip("qkv", qkv, before, strict=True) if not torch.equal(x, copy)]
    assert not changed


@each()
@as_subtests("layout", ["heads-last", "every-other"])
def test_strides_do_not_matter(name, workload, layout):
    case = case_for(name, WORKLOADS[workload])
    attention, qkv = built(name, case), draw(name, case)
    strided = {id(x): _heads_last(x) if layout == "heads-last" else _every_other(x) for x in leaves(qkv)}
    assert_near(attention(*(strided[id(x)] for x in qkv)), attention(*qkv), 1e-12)
    with torch.no_grad():
        assert_near(attention(*(strided[id(x)] for x in qkv)), attention(*qkv), 1e-12)


def _heads_last(x):
    return x.transpose(1, 2).contiguous().transpose(1, 2)


def _every_other(x):
    return torch.stack([x, torch.full_like(x, 9.0)], dim=-1).flatten(-2)[..., ::2]


@each()
def test_the_seed_determines_everything(name, workload):
    case = case_for(name, WORKLOADS[workload])
    qkv = draw(name, case)
    torch.manual_seed(1)
    first = built(name, case)(*qkv)
    torch.manual_seed(2)
    assert torch.equal(built(name, case)(*qkv), first)


@each("full", "causal")
def test_calls_do_not_depend_on_earlier_calls(name, workload):
    case = case_for(name, WORKLOADS[workload])
    attention, once, other = built(name, case), draw(name, case), draw(name, case, seed=1)
    first, second = attention(*once), attention(*other)
    kept = first.detach().clone()
    assert_near(second, built(name, case)(*other), 1e-12)
    assert torch.equal(first, kept)


@as_subtests("name", ENTRIES)
@as_subtests("workload", lambda name: [one for one in ("full", "causal") if defines(name, one)])
def test_the_global_random_generator_is_left_untouched(name, workload):
    case = case_for(name, WORKLOADS[workload])
    qkv = draw(name, case)
    state = torch.get_rng_state()
    built(name, case)(*qkv)
    assert torch.equal(torch.get_rng_state(), state)
