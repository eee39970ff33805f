import msgspec
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from attnbench import Mask
from helpers.subtests import as_subtests
from laws.memory import peak_bytes
from laws.operations import IN_PLACE, operations
from laws.workloads import WORKLOADS, assert_near, built, case_for, draw, variant

FLASH_KERNEL = "_scaled_dot_product_flash_attention_for_cpu"


def _sized(name, length, **changes):
    case = case_for(name, WORKLOADS["full"], **changes)
    return msgspec.structs.replace(case, shape=msgspec.structs.replace(case.shape, seq_q=length, seq_k=length))


@as_subtests("causal", [True, False])
def test_a_window_as_wide_as_the_sequence_equals_exact_attention(causal):
    case = case_for("vanilla", WORKLOADS["full"], mask=Mask(causal=causal))
    wide = msgspec.structs.replace(case, mask=Mask(causal=causal, window=case.shape.seq_k))
    qkv = draw("vanilla", case)
    assert_near(built("vanilla", wide)(*qkv), built("vanilla", case)(*qkv), 1e-14)


@as_subtests("mask", [Mask(), Mask(causal=True)])
def test_flash_equals_vanilla(mask):
    case = _sized("vanilla", 300, mask=mask)
    qkv = draw("vanilla", case)
    flash = built("flash", msgspec.structs.replace(case, variant="flash"))
    assert_near(flash(*qkv), built("vanilla", case)(*qkv), 1e-12)


@as_subtests("mask", [Mask(), Mask(causal=True)])
def test_vanilla_without_gradients_holds_the_scores_once(mask):
    case = _sized("vanilla", 256, mask=mask, dtype="float32")
    attention, qkv = built("vanilla", case), draw("vanilla", case)
    scores = 4 * 256 * 256 * 4

    def forward():
        with torch.no_grad():
            return attention(*qkv)

    forward()
    # Beside the scores: a mask of a byte for each of a head's, the inputs and the output.
    assert scores <= peak_bytes(forward) < 1.2 * scores


@pytest.mark.parametrize("name", ["flash", "sdpa-flash"])
@as_subtests("queries, causal", [(1024, False), (1024, True), (512, True)])
def test_flash_never_holds_the_scores(name, queries, causal):
    case = _sized(name, 1024, mask=Mask(causal=causal), dtype="float32")
    case = msgspec.structs.replace(case, shape=msgspec.structs.replace(case.shape, seq_q=queries))
    attention, qkv = built(name, case), draw(name, case)
    assert peak_bytes(lambda: attention(*qkv)) < 4 * queries * 1024


@pytest.mark.parametrize(("name", "kernel"), [("sdpa-flash", "torch-flash "), ("sdpa-math", "torch-math ")])
@as_subtests("workload", ["full", "causal", "causal-grouped", "causal-fewer-queries", "causal-decode"])
def test_a_backend_requested_by_name_is_the_one_that_runs(name, kernel, workload):
    case = case_for(name, WORKLOADS[workload])
    attention = built(name, case)
    assert attention.backend.startswith(kernel)
    assert (FLASH_KERNEL in operations(lambda: attention(*draw(name, case)))) == (name == "sdpa-flash")


@pytest.mark.parametrize("name", ["flash", "linformer", "sparse"])
def test_the_kernel_that_is_named_is_the_one_that_runs(name):
    case = case_for(name, WORKLOADS["full"])
    attention = built(name, case)
    assert attention.backend.startswith("torch-flash ")
    assert FLASH_KERNEL in operations(lambda: attention(*draw(name, case)))


@pytest.mark.parametrize("name", ["vanilla", "linear", "sdpa-math"])
@as_subtests("passes", ["forward", "backward", "forward-backward"])
@as_subtests("workload", ["full", "full-fewer-queries", "causal", "causal-grouped"])
def test_operations_are_counted_as_torch_counts_them(name, workload, passes):
    case = case_for(name, WORKLOADS[workload], passes=passes)
    attention, qkv = built(name, case), draw(name, case)
    with FlopCounterMode(display=False, custom_mapping=IN_PLACE) as counter:
        with torch.set_grad_enabled(passes != "forward"):
            out = attention(*qkv)
        forward = counter.get_total_flops()
        if passes != "forward":
            torch.autograd.grad(out.sum(), qkv)
        total = counter.get_total_flops()
    assert variant(name).flops(case) == (total - forward if passes == "backward" else total)


def test_flash_counts_only_the_pairs_that_a_query_sees():
    case = case_for("flash", WORKLOADS["causal"])
    pairs = sum(range(1, case.shape.seq_q + 1))
    assert variant("flash").flops(case) == 4 * 2 * 2 * pairs * 4


def test_vanilla_drops_only_its_weights_and_keeps_their_mean():
    case = _sized("vanilla", 32)
    attention, (q, k, v) = built("vanilla", case), draw("vanilla", case)
    eye = torch.eye(32, dtype=v.dtype).expand(*v.shape[:2], 32, 32)
    weights = attention(q, k, eye)
    attention.weight_dropout = 0.25
    torch.manual_seed(0)
    dropped = torch.stack([attention(q, k, eye) for _ in range(400)])
    grown = weights / (1 - 0.25)
    assert ((dropped == 0) | torch.isclose(dropped, grown)).all()
    assert (dropped == 0).double().mean().item() == pytest.approx(0.25, abs=0.01)
    assert_near(dropped.mean(dim=0), weights, 0.1)
