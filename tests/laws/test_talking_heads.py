import torch

from attnbench import Mask
from attnbench_variants.head_mixing import talking_heads
from helpers.subtests import as_subtests
from laws.workloads import WORKLOADS, assert_near, built, case_for, draw


@as_subtests("mask", [Mask(), Mask(causal=True), Mask(causal=True, window=4)])
def test_heads_that_are_not_mixed_are_exact_attention(mask):
    case = case_for("talking-heads", WORKLOADS["full"], mask=mask)
    attention, qkv = built("talking-heads", case), draw("talking-heads", case)
    with torch.no_grad():
        attention.mix_scores.copy_(torch.eye(2))
        attention.mix_weights.copy_(torch.eye(2))
    assert_near(attention(*qkv), built("vanilla", case_for("vanilla", case))(*qkv), 1e-13)


@as_subtests("workload", ["full", "causal", "causal-window", "full-window", "causal-fewer-queries"])
def test_queries_in_several_blocks_equal_queries_in_one(monkeypatch, workload):
    case = case_for("talking-heads", WORKLOADS[workload])
    qkv = draw("talking-heads", case)
    at_once = built("talking-heads", case)(*qkv)
    monkeypatch.setattr(talking_heads, "_CPU_SCORES", 1)
    monkeypatch.setattr(talking_heads, "_LEAST_ROWS", 3)
    assert_near(built("talking-heads", case)(*qkv), at_once, 1e-13)
