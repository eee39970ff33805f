"""What a call executes and moves: the variant's own counts, those of its operations, and the least traffic."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from msgspec.structs import replace
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import scaled_dot_product_attention
from torch.utils.flop_counter import FlopCounterMode

from attnbench.contracts.case import Mask
from attnbench.contracts.record import Job
from attnbench.measure import counting, latency
from attnbench.measure.workload import Workload
from attnbench.plugins.registry import find
from helpers.planted import SHAPE, job
from helpers.subtests import as_subtests

FORWARD = 4 * 8 * 256 * 256 * 64
WIDTH = 8 * 64
TENSOR = 8 * 256 * 64 * 4
PLAIN = "import torch\ndef Mine(q, k, v):\n    return torch.softmax(q @ k.transpose(-1, -2) / 8, -1) @ v\n"


def planned(target: str, **case: object) -> Job:
    base = job("v", seq=256)
    return replace(base, target=target, case=replace(base.case, **case))


def facts(planned: Job, *, call_ns: float = 1e6) -> dict[str, object]:
    workload = Workload.of(planned)
    return counting.counts(planned, workload, call_ns=call_ns)


def built_in(name: str) -> str:
    return find(name, "variants", flag="").target


def written(folder: Path, source: str) -> str:
    """Write a plugin that is called Mine, and give its target."""
    (folder / "mine.py").write_text(source)
    return f"{folder / 'mine.py'}:Mine"


def fused(*, causal: bool) -> torch.Tensor:
    q, k, v = (torch.randn(1, 8, 256, 64, requires_grad=True) for _ in range(3))
    with sdpa_kernel(SDPBackend.FLASH_ATTENTION):
        return scaled_dot_product_attention(q, k, v, is_causal=causal)


@as_subtests("causal", [False, True])
def test_the_cpu_s_fused_kernel_is_counted_as_the_pairs_that_its_mask_leaves(causal: bool) -> None:
    pairs = 256 * 257 // 2 if causal else 256 * 256
    assert counting.counted(lambda: fused(causal=causal)).flops == 4 * 8 * pairs * 64
    out = fused(causal=causal).sum()
    assert counting.counted(out.backward).flops == 10 * 8 * pairs * 64


def test_the_count_is_that_of_torch_s_own_counter() -> None:
    x, w = torch.randn(2, 16, 32), torch.randn(8, 32)

    def products() -> None:
        y = torch.nn.functional.linear(x, w)
        torch.einsum("bte,bse->bts", y, y).softmax(-1) @ y
        torch.nn.functional.conv1d(x, torch.randn(4, 16, 3))

    with FlopCounterMode(display=False) as torchs:
        products()
    assert counting.counted(products).flops == torchs.get_total_flops() > 0
    with torch.inference_mode():
        assert counting.counted(products).flops == torchs.get_total_flops()


def test_counting_does_not_import_the_compiler_which_takes_seconds() -> None:
    code = (
        "import sys, torch\n"
        "from attnbench.measure.counting import counted\n"
        "x = torch.randn(8, 8)\n"
        "print(counted(lambda: x @ x).flops, 'torch._dynamo' in sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "1024 False\n"


def test_a_function_that_counts_nothing_is_counted_by_torch(tmp_path: Path) -> None:
    found = facts(planned(written(tmp_path, PLAIN)))
    assert (found["flops"], found["flops_by"]) == (FORWARD, "counter")


@pytest.mark.parametrize(("passes", "times"), [("forward", 1), ("backward", 2), ("forward-backward", 3)])
def test_torch_counts_the_pass_alone(tmp_path: Path, passes: str, times: int) -> None:
    assert facts(planned(written(tmp_path, PLAIN), passes=passes))["flops"] == times * FORWARD


@as_subtests("name", ["vanilla", "flash", "linear", "linformer", "reformer", "sparse"])
def test_the_built_in_variants_count_for_themselves(name: str) -> None:
    found = facts(planned(built_in(name)))
    assert found["flops_by"] == "variant"
    assert isinstance(found["flops"], int)
    assert found["flops"] > 0


def test_only_a_variant_s_own_zero_is_a_zero() -> None:
    found = facts(planned(built_in("empty")))
    assert (found["flops"], found["flops_by"]) == (0, "variant")


def test_a_count_of_zero_by_torch_is_unknown_and_says_why(tmp_path: Path) -> None:
    found = facts(planned(written(tmp_path, "def Mine(q, k, v):\n    return v * 2\n")))
    assert found["flops"] is None
    assert "no matrix product" in str(found["flops_unknown"])


@pytest.mark.parametrize("answer", ["-1", "2.5", "True", "2 ** 80", "1 / 0"])
def test_a_count_that_is_none_is_unknown_and_says_why(tmp_path: Path, answer: str) -> None:
    source = (
        "class Mine:\n"
        "    def __init__(self, case): pass\n"
        "    def __call__(self, q, k, v): return v\n"
        "    @staticmethod\n"
        f"    def flops(case): return {answer}\n"
        "    bytes = flops\n"
    )
    found = facts(planned(written(tmp_path, source)))
    assert (found["flops"], found["bytes_executed"]) == (None, None)
    assert found["flops_unknown"]
    assert found["bytes_unknown"]
    assert "flops_by" not in found
    assert "bytes_by" not in found


def test_a_long_call_and_a_later_round_are_not_made_once_more(tmp_path: Path) -> None:
    one = planned(written(tmp_path, PLAIN))
    long = facts(one, call_ns=6e8)
    assert (long["flops"], long["bytes_executed"]) == (None, None)
    assert "too long" in str(long["flops_unknown"])
    assert "too long" in str(long["bytes_unknown"])
    assert facts(replace(one, round=2)).keys() == {"bytes_least"}


def test_what_a_variant_counts_itself_holds_for_long_calls_and_every_round() -> None:
    one = planned(built_in("vanilla"))
    assert facts(one, call_ns=6e8)["flops_by"] == "variant"
    assert "flops_unknown" not in facts(one, call_ns=6e8)
    assert facts(replace(one, round=2)).keys() == {"flops", "flops_by", "bytes_least"}


def test_a_variant_that_counts_all_itself_is_not_called_for_it(tmp_path: Path) -> None:
    source = "def Mine(q, k, v):\n    raise RuntimeError\nMine.bytes = Mine.flops = lambda case: 7\n"
    found = facts(planned(written(tmp_path, source)))
    assert (found["flops"], found["bytes_executed"]) == (7, 7)


def test_the_bytes_of_a_call_are_those_of_its_operations(tmp_path: Path) -> None:
    found = facts(planned(written(tmp_path, PLAIN)))
    scores, shared = 8 * 256 * 256 * 4, 4 * TENSOR  # two products read three tensors and write one, beside the scores
    assert (found["bytes_executed"], found["bytes_by"]) == (shared + 6 * scores, "counter")


def test_what_a_mechanism_does_is_counted_on_the_first_inputs_however_many_calls_there_were(tmp_path: Path) -> None:
    source = (
        "def Mine(q, k, v):\n    return v * (q[0, 0, 0, 0] + k[k > 0].sum())\n"  # how much is chosen: the inputs say
    )
    one = planned(written(tmp_path, source))
    workload = Workload.of(one)
    before = counting.counts(one, workload, call_ns=1e6)
    for call in workload.calls(1):
        call()
    assert counting.counts(one, workload, call_ns=1e6) == before


def test_where_a_kernel_takes_part_that_is_not_torch_s_what_it_does_is_unknown(tmp_path: Path) -> None:
    source = (
        "import torch\n"
        "def Mine(q, k, v):\n"
        "    out = torch.empty_like(q)\n"
        "    out.numpy()[:] = (q @ k.mT @ v).numpy()\n"
        "    return out\n"
    )
    found = facts(planned(written(tmp_path, source)))
    assert (found["flops"], found["bytes_executed"]) == (None, None)
    assert found["bytes_unknown"] == found["flops_unknown"] == counting.UNSEEN


def test_a_call_that_fails_while_it_is_watched_leaves_the_variant_s_own_count(tmp_path: Path) -> None:
    source = "def Mine(q, k, v):\n    raise RuntimeError('not now')\nMine.flops = lambda case: 7\n"
    found = facts(planned(written(tmp_path, source)))
    assert (found["flops"], found["bytes_executed"]) == (7, None)
    assert "not now" in str(found["bytes_unknown"])


@as_subtests("passes, tensors", [("forward", 4), ("backward", 7), ("forward-backward", 8)])
def test_the_least_traffic_is_what_goes_in_and_what_comes_out_once(passes: str, tensors: int) -> None:
    found = facts(planned(built_in("vanilla"), passes=passes))
    assert found["bytes_least"] == tensors * TENSOR


def test_tied_queries_and_keys_are_read_once_and_parameters_too() -> None:
    assert facts(planned(built_in("reformer")))["bytes_least"] == 3 * TENSOR
    assert facts(planned(built_in("linformer"), options={"k": 32}))["bytes_least"] > 4 * TENSOR


def test_a_variant_s_own_counts_are_those_of_the_core_and_say_nothing_of_a_layer(tmp_path: Path) -> None:
    target = written(tmp_path, PLAIN + "Mine.bytes = lambda case: 7\nMine.flops = lambda case: 9\n")
    found = facts(planned(target))
    assert (found["bytes_executed"], found["bytes_by"], found["flops"]) == (7, "variant", 9)
    layer = facts(planned(target, level="layer"))
    assert (layer["bytes_by"], layer["flops_by"], layer["flops"]) == (
        "counter",
        "counter",
        FORWARD + 4 * 2 * 256 * WIDTH**2,
    )


def test_a_latency_job_tells_its_counts() -> None:
    base = planned(built_in("flash"), mask=Mask(causal=True), shape=replace(SHAPE, seq_q=64, seq_k=64))
    found = latency.measure(base, lambda _text: None).facts
    assert found["flops"] == 4 * 8 * (64 * 65 // 2) * 64
    assert {"flops_by", "bytes_executed", "bytes_by", "bytes_least"} <= set(found)
