"""What every registered mechanism owes the harness: it imports, answers or refuses, and says what it is."""

import subprocess
import sys

import msgspec
import pytest
import torch

from attnbench import Mask, Unsupported
from attnbench.contracts.variant import backend_of, options_type, support_of
from attnbench.plugins.describe import option_fields
from helpers.subtests import as_subtests
from laws.workloads import ENTRIES, MECHANISMS, WORKLOADS, built, case_for, defines, draw, variant
from references import REFERENCES


@as_subtests("name", MECHANISMS)
def test_every_registered_mechanism_imports_and_declares_itself(name):
    assert support_of(variant(name)).growth is not None
    assert all(field.meaning for field in option_fields(options_type(variant(name))))
    assert variant(name).__doc__


def test_no_mechanism_but_a_compiled_one_imports_the_compiler():
    modules = sorted({entry.target.partition(":")[0] for name, entry in MECHANISMS.items() if name != "flex"})
    code = (
        f"import sys, {', '.join(modules)}; print([name for name in ('torch._dynamo', 'sympy') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@as_subtests("name", ENTRIES)
def test_every_registered_mechanism_has_a_reference(name):
    assert name in REFERENCES


@as_subtests("name", ENTRIES)
@as_subtests("workload", WORKLOADS)
def test_a_workload_is_served_or_refused_with_a_reason(name, workload):
    case = case_for(name, WORKLOADS[workload])
    try:
        attention = built(name, case)
    except Unsupported as refusal:
        assert len(str(refusal).split()) > 3  # noqa: PT017 - a refusal is one of two good answers
    else:
        assert callable(attention)


@as_subtests("name", ENTRIES)
def test_a_mechanism_serves_full_or_causal_self_attention(name):
    answers = []
    for workload in ("full", "causal"):
        try:
            answers.append(built(name, case_for(name, WORKLOADS[workload])))
        except Unsupported:
            continue
    assert answers


@as_subtests("name", ENTRIES)
@as_subtests("mask", [Mask(causal=True), Mask(causal=True, window=4), Mask(window=4)])
def test_a_mask_that_leaves_a_query_without_a_key_is_refused(name, mask):
    with pytest.raises(Unsupported, match="without a key"):
        built(name, case_for(name, WORKLOADS["causal-more-queries"], mask=mask))


@as_subtests("name", ENTRIES)
def test_key_heads_that_query_heads_cannot_share_evenly_are_refused(name):
    shape = msgspec.structs.replace(WORKLOADS["full"].shape, heads=3)
    with pytest.raises(Unsupported, match="evenly"):
        built(name, case_for(name, WORKLOADS["full"], shape=shape))


def defined(name):
    return [workload for workload in WORKLOADS if defines(name, workload)]


@as_subtests("name", ENTRIES)
@as_subtests("workload", defined)
@as_subtests("dtype", ["float64", "float32", "bfloat16", "float16"])
def test_the_output_has_the_queries_shape_dtype_and_device(name, workload, dtype):
    case = case_for(name, WORKLOADS[workload], dtype=dtype)
    q, k, v = draw(name, case)
    out = built(name, case)(q, k, v)
    assert (out.shape, out.dtype, out.device) == (q.shape, q.dtype, q.device)
    assert torch.isfinite(out).all()


@as_subtests("name", ENTRIES)
@as_subtests("workload", defined)
def test_the_backend_that_runs_is_named(name, workload):
    assert backend_of(built(name, case_for(name, WORKLOADS[workload])))


@as_subtests("name", ENTRIES)
@as_subtests("workload", defined)
def test_the_count_of_operations_is_a_positive_whole_number(name, workload):
    case = case_for(name, WORKLOADS[workload])
    assert isinstance(variant(name).flops(case), int)
    assert variant(name).flops(case) > 0
