"""What each mechanism moves, as its operations count: what it must at least, the same always, growing as it says."""

import functools
import math

import msgspec
import torch

from attnbench import Case, Shape
from attnbench.contracts.case import Passes
from attnbench.contracts.variant import support_of
from attnbench.measure.counting import Work, counted, least_bytes
from attnbench.measure.workload import Workload
from helpers.subtests import as_subtests
from laws.workloads import ENTRIES, case_for, mask_of, variant

COUNTED = [name for name in ENTRIES if name != "flex"]  # a compiled kernel is no operation: it counts for itself
MATERIALISED = {"vanilla", "sdpa-math", "talking-heads"}


def workload(name: str, seq: int, *, passes: Passes = "forward") -> Workload:
    shape = Shape(batch=1, heads=1, kv_heads=1, seq_q=seq, seq_k=seq, head_dim=32)
    case = Case(variant=name, shape=shape, mask=mask_of(name), passes=passes, seed=3)
    return Workload(case_for(name, case, {}), variant(name))


def work_of(one: Workload) -> Work:
    with torch.set_grad_enabled(one.differentiates):
        return counted(one.call_on_first())


@functools.cache
def forward(name: str, seq: int) -> Work:
    return work_of(workload(name, seq))


@as_subtests("name", COUNTED)
def test_the_counter_sees_every_kernel_of_a_mechanism(name):
    assert forward(name, 2048).whole


@as_subtests("name", COUNTED)
def test_inputs_are_read_and_the_output_written_at_least_once(name):
    assert least_bytes(workload(name, 2048)) <= forward(name, 2048).bytes
    backward = workload(name, 256, passes="forward-backward")
    assert least_bytes(backward) <= work_of(backward).bytes


@as_subtests("name", COUNTED)
def test_the_count_is_the_same_each_time_and_after_other_calls(name):
    one, other = workload(name, 256), workload(name, 256)
    with torch.no_grad():
        for call in other.calls(2):
            call()
    assert work_of(one) == work_of(one) == work_of(other)


# Fused kernels keep their scores to themselves, so that what is not materialised grows as the sequence does.
@as_subtests("name", COUNTED)
def test_traffic_grows_no_faster_than_the_mechanism_declares(name):
    shorter, longer = forward(name, 2048).bytes, forward(name, 4096).bytes
    assert longer - shorter >= least_bytes(workload(name, 4096)) - least_bytes(workload(name, 2048))
    power = math.log2(longer / shorter)
    assert power < (support_of(variant(name)).growth or 0) + 0.3
    if name in MATERIALISED:
        assert power > 1.9


def test_traffic_of_materialised_scores_matches_a_hand_count():
    seq, scores, tensor = 2048, 2048 * 2048 * 4, 2048 * 32 * 4
    # Scale q; q k^T; softmax, read and written in place; the product with v.
    assert forward("vanilla", seq).bytes == 2 * tensor + (2 * tensor + scores) + 2 * scores + (scores + 2 * tensor)


def test_a_compiled_kernel_declares_the_traffic_observed_of_a_fused_one():
    fused = workload("sdpa-flash", 256)
    log_sum_exp = 256 * 4
    assert (
        variant("flex").bytes(msgspec.structs.replace(fused.case, variant="flex")) == work_of(fused).bytes - log_sum_exp
    )
