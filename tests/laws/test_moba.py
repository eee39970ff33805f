import msgspec
import pytest
import torch

from attnbench import Mask, Unsupported
from attnbench.contracts.variant import complete_options
from attnbench_variants.blocks.lse_kernels import FUSED_CPU, PLAIN
from attnbench_variants.routing import chosen_blocks, moba
from attnbench_variants.routing.chosen_blocks import Blocks, attend_to_blocks
from helpers.subtests import as_subtests
from laws.memory import peak_bytes
from laws.operations import operations
from laws.workloads import WORKLOADS, assert_near, built, case_for, draw, variant
from references import REFERENCES

MASKS = as_subtests("causal", [True, False])


def _moba(length, *, queries=None, causal=False, dtype="float64", passes="", heads=2, **options):
    shape = msgspec.structs.replace(
        WORKLOADS["full"].shape, seq_q=queries or length, seq_k=length, heads=heads, kv_heads=heads
    )
    changes = {"shape": shape, "mask": Mask(causal=causal), "dtype": dtype, "passes": passes}
    return case_for("moba", WORKLOADS["full"], options, **changes)


@MASKS
@as_subtests("queries", [50, 23, 1])
@as_subtests("block", [1, 8, 50, 64])
def test_choosing_all_blocks_is_exact_attention(causal, queries, block):
    case = _moba(50, queries=queries, causal=causal, block=block, topk=50)
    qkv = draw("moba", case)
    out, exact = built("moba", case)(*qkv), built("vanilla", msgspec.structs.replace(case, options={}))(*qkv)
    assert_near(out, exact, 1e-12)
    cotangent = torch.randn_like(out)
    for found, true in zip(*(torch.autograd.grad(x, qkv, cotangent) for x in (out, exact)), strict=True):
        assert_near(found, true, 1e-12)


@MASKS
@as_subtests("queries", [1, 2, 5, 12, 13, 16, 17, 20])
def test_fewer_queries_than_keys_are_the_last_rows_wherever_the_first_one_lies(causal, queries):
    all_rows = _moba(21, causal=causal, block=4, topk=2)
    q, k, v = draw("moba", all_rows)
    expected = built("moba", all_rows)(q, k, v)[:, :, -queries:]
    fewer = _moba(21, queries=queries, causal=causal, block=4, topk=2)
    assert_near(built("moba", fewer)(q[:, :, -queries:], k, v), expected, 1e-12)


@MASKS
def test_a_query_finds_the_blocks_whose_keys_are_like_it(causal):
    case = _moba(32, causal=causal, block=4, topk=2)
    attention, (q, k, _) = built("moba", case), (x.detach()[0] for x in draw("moba", case))
    k[:, 8:12] = 3 * q[:, 20:21]
    choice_XTK = attention.choose(q, k)
    assert (choice_XTK[:, 20] == 2).all()
    assert (choice_XTK[:, :4] == 8).all() == causal  # the first block has none before it


def test_all_dtypes_choose_the_same_blocks():
    case = _moba(64, block=4, topk=3)
    q, k, _ = (x.detach()[0].bfloat16() for x in draw("moba", case))
    narrow, wide = (built("moba", case).choose(q.to(dtype), k.to(dtype)) for dtype in (torch.bfloat16, torch.float64))
    assert torch.equal(narrow, wide)


@MASKS
def test_queries_in_several_parts_choose_as_all_at_once(monkeypatch, causal):
    case = _moba(50, causal=causal, block=4, topk=3)
    qkv = draw("moba", case)
    at_once = built("moba", case)(*qkv)
    monkeypatch.setattr(moba, "_CPU_SCORES", 1)
    assert_near(built("moba", case)(*qkv), at_once, 1e-13)


@MASKS
@as_subtests("kernel", [PLAIN, FUSED_CPU])
def test_all_sequences_at_once_equal_one_at_a_time(monkeypatch, kernel, causal):
    """Off the CPU, sequences that chose a block less often are filled up with rows that stand for no query."""
    monkeypatch.setattr(chosen_blocks, "kernel_for", lambda _device: kernel)
    generator = torch.Generator().manual_seed(0)
    tensors = [torch.randn(3, 22, 4, dtype=torch.float64, generator=generator).requires_grad_() for _ in range(3)]
    blocks = Blocks(5, 22, 22, causal, 0.5)
    own_T = torch.arange(22) // 5
    others_T = own_T.where(own_T > 0, 6) - 1 if causal else (own_T + 1) % 5
    choice_XTK = torch.stack([others_T, others_T.where(own_T % 2 == 0, 5), torch.full_like(own_T, 5)])[..., None]
    results = []
    for few in (1, 3):
        monkeypatch.setattr(chosen_blocks, "_sequences_at_a_time", lambda _routes, few=few: few)
        out = attend_to_blocks(*tensors, choice_XTK=choice_XTK, blocks=blocks)
        results.append([out, *torch.autograd.grad(out, tensors, torch.ones_like(out).cumsum(1))])
    for found, true in zip(*results, strict=True):
        assert_near(found, true, 1e-12)


@MASKS
def test_no_block_that_was_not_chosen_is_read(causal):
    case = _moba(64, causal=causal, block=8, topk=2)
    q, k, v = (x.detach() for x in draw("moba", case))
    attention = built("moba", case)
    choice_XTK = attention.choose(q.flatten(0, 1), k.flatten(0, 1))
    out, other = attention(q, k, v), v.clone()
    other[:, :, 8:16] += 1
    moved_XT = (attention(q, k, other) - out).abs().amax(dim=-1).flatten(0, 1) > 1e-9
    own_T = torch.arange(64) // 8 == 1
    assert torch.equal(moved_XT, (choice_XTK == 1).any(dim=-1) | own_T)


@MASKS
def test_nothing_of_the_size_of_all_pairs_is_made(monkeypatch, causal):
    monkeypatch.setattr(moba, "_CPU_SCORES", 2**14)

    def peak(length):
        case = _moba(length, causal=causal, dtype="float32", block=64)
        attention, qkv = built("moba", case), draw("moba", case)
        return peak_bytes(lambda: torch.autograd.grad(attention(*qkv).sum(), qkv))

    assert peak(4096) < 2.2 * peak(2048)


def test_operations_grow_hardly_faster_than_the_length():
    flops = [variant("moba").flops(_moba(length)) for length in (2048, 16384)]
    assert 8 < flops[1] / flops[0] < 8 * 1.05


@as_subtests("passes", ["forward", "backward", "forward-backward"])
def test_operations_are_those_of_the_pairs_that_are_shown(passes):
    case = _moba(16, block=4, topk=3, passes=passes, heads=1)
    attend, gate = 2 * 2 * (16 * 12) * 4 * 2, 2 * 16 * 4 * 4 * 2
    expected = {"forward": attend + gate, "backward": attend * 5 // 2, "forward-backward": attend * 7 // 2 + gate}
    assert variant("moba").flops(case) == expected[passes]


def test_the_kernel_that_is_named_is_the_one_that_runs():
    case = _moba(64, block=8)
    attention = built("moba", case)
    assert attention.backend.startswith("torch-flash ")
    ran = operations(lambda: attention(*draw("moba", case)))
    assert "_scaled_dot_product_flash_attention_for_cpu" in ran


def test_the_defaults_are_those_of_the_papers_experiments():
    assert complete_options(variant("moba"), {}) == variant("moba").Options(block=512, topk=3)


def test_the_reference_itself_sees_all_where_all_blocks_are_taken():
    case = _moba(9, block=2, topk=9)
    q, k, v = draw("moba", case)
    exact = REFERENCES["vanilla"].attend(None, q, k, v, case)
    assert_near(REFERENCES["moba"].attend(None, q, k, v, case), exact, 1e-12)


def test_more_queries_than_keys_are_refused():
    with pytest.raises(Unsupported, match="last positions"):
        built("moba", _moba(5, queries=21))
