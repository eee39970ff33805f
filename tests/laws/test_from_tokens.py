"""What a mechanism makes of tokens by a way of its own is what its call makes of the heads projected from them."""

import msgspec
import pytest
import torch

from attnbench.contracts.variant import has_from_tokens
from attnbench.measure.layer import Projections
from attnbench.plugins.registry import load
from helpers.subtests import as_subtests
from laws.workloads import ENTRIES, WORKLOADS, assert_near, built, case_for, each_that, leaves, ties, weights_of
from references import REFERENCES

HAVE_IT = [name for name, entry in ENTRIES.items() if hasattr(load(entry.target), "from_tokens")]


def test_at_least_one_mechanism_has_its_own_path_from_tokens():
    assert HAVE_IT


@each_that(lambda name: name in HAVE_IT)
@as_subtests("passes", ["forward", "backward"])
@as_subtests("options", lambda name: REFERENCES[name].options)
def test_from_tokens_equals_the_call_on_projected_heads(name, workload, passes, options):
    case = case_for(name, WORKLOADS[workload], options, passes=passes)
    attention, projections = built(name, case), Projections(case, tied=ties(name)).double()
    assert has_from_tokens(attention)
    x, y = tokens(case)
    out, called = attention.from_tokens(x, y, projections), attention(*projections.to_heads(x, y))
    assert_near(out, called, 1e-12)
    if passes == "backward":
        equal_gradients(out, called, [*leaves((x, y)), *weights_of(attention), *projections.parameters()])


def tokens(case):
    """Draw x_BTE and y_BSE in float64, one tensor where as many ask as are attended to."""
    shape, generator = case.shape, torch.Generator().manual_seed(0)
    x, y = (
        torch.randn(shape.batch, length, shape.heads * shape.head_dim, dtype=torch.float64, generator=generator)
        for length in (shape.seq_q, shape.seq_k)
    )
    return x.requires_grad_(), x if shape.seq_q == shape.seq_k else y.requires_grad_()


def equal_gradients(out, called, inputs):
    cotangent = torch.randn_like(out)
    found, wanted = (
        torch.autograd.grad(one, inputs, cotangent, allow_unused=True, materialize_grads=True) for one in (out, called)
    )
    for gradient, its_true_value in zip(found, wanted, strict=True):
        assert_near(gradient, its_true_value, 1e-12)


@pytest.mark.parametrize("name", HAVE_IT)
@as_subtests("dtype, tolerance", [("float32", 1e-5), ("float16", 1e-2), ("bfloat16", 5e-2)])
def test_from_tokens_is_close_to_float64_in_every_dtype(name, dtype, tolerance):
    case = case_for(name, WORKLOADS["full"], dtype=dtype)
    wide = msgspec.structs.replace(case, dtype="float64")
    projections = Projections(case, tied=ties(name)).to(getattr(torch, dtype))
    x, _ = tokens(case)
    narrow = x.to(getattr(torch, dtype))
    out = built(name, case).from_tokens(narrow, narrow, projections)
    assert out.dtype == narrow.dtype
    x = narrow.double()
    assert_near(out, built(name, wide).from_tokens(x, x, projections.double()), tolerance)
