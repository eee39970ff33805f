"""FlexAttention's laws: its blocks and its mask hold what the workload's mask does; compiled it is exact attention."""

# B batch, H heads, T queries, S keys, D head dimension, N blocks of queries, M blocks of keys
import msgspec
import pytest
import torch

from attnbench import Mask, Shape, Unsupported
from attnbench.contracts.variant import build
from attnbench_variants.blocks.masks import visible_keys
from attnbench_variants.exact import flex
from attnbench_variants.exact.flex import BLOCK, Flex, block_mask
from helpers.subtests import as_subtests
from laws.workloads import WORKLOADS, assert_near, built, case_for, draw, variant

# Importing torch's own compiler warns.
pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit.script_method` is deprecated:DeprecationWarning")

LENGTHS = [(1, 1), (300, 300), (1, 300), (50, 300), (256, 512), (130, 300)]
MASKS = [
    Mask(causal=True),
    Mask(causal=True, window=1),
    Mask(causal=True, window=140),
    Mask(window=130),
    Mask(window=1),
]


def _case(queries, keys, mask, **changes):
    shape = Shape(batch=1, heads=4, kv_heads=2, seq_q=queries, seq_k=keys, head_dim=16)
    given = {"dtype": "float32", "passes": "forward"} | changes
    return msgspec.structs.replace(WORKLOADS["full"], variant="flex", shape=shape, mask=mask, **given)


def _by_block(x_TS):
    """Cut a matrix into blocks, the last of them filled up with NaN: [N, M, rows * columns]."""
    filled = torch.nn.functional.pad(x_TS, (0, -x_TS.shape[1] % BLOCK, 0, -x_TS.shape[0] % BLOCK), value=torch.nan)
    return filled.unflatten(0, (-1, BLOCK)).unflatten(2, (-1, BLOCK)).transpose(1, 2).flatten(2)


@as_subtests("mask", MASKS)
@as_subtests("queries, keys", LENGTHS)
def test_blocks_are_listed_as_partly_or_fully_visible_as_the_mask_says(queries, keys, mask):
    made = block_mask(_case(queries, keys, mask))
    seen_NMZ = _by_block(visible_keys(mask, queries=queries, keys=keys, device="cpu").float())
    whole_NM, some_NM = (seen_NMZ == 1).all(-1), (seen_NMZ == 1).any(-1)
    for counts, listed, wanted in (
        (made.full_kv_num_blocks, made.full_kv_indices, whole_NM),
        (made.kv_num_blocks, made.kv_indices, some_NM & ~whole_NM),
    ):
        rows = [sorted(row[:count].tolist()) for row, count in zip(listed[0, 0], counts[0, 0], strict=True)]
        assert rows == [row.nonzero().flatten().tolist() for row in wanted]


@as_subtests("mask", MASKS)
@as_subtests("queries, keys", LENGTHS)
def test_a_pair_is_visible_where_the_mask_says_so(queries, keys, mask):
    sees = block_mask(_case(queries, keys, mask)).mask_mod
    none = torch.zeros((), dtype=torch.int64)
    seen_TS = sees(none, none, torch.arange(queries)[:, None], torch.arange(keys))
    assert torch.equal(seen_TS, visible_keys(mask, queries=queries, keys=keys, device="cpu"))


def test_without_a_mask_there_are_no_blocks():
    assert block_mask(_case(300, 300, Mask())) is None


@as_subtests("mask", [Mask(), *MASKS])
def test_only_blocks_that_are_not_wholly_hidden_are_counted(mask):
    case = _case(130, 300, mask)
    seen = visible_keys(mask, queries=130, keys=300, device="cpu")
    seen_NMZ = _by_block(torch.ones(130, 300) if seen is None else seen.float())
    pairs = int((~seen_NMZ.isnan()).sum(-1)[(seen_NMZ == 1).any(-1)].sum())
    assert Flex.flops(case) == 4 * 4 * 16 * pairs


# One compilation each, of several seconds: the quick tests have one.
@pytest.mark.parametrize(
    ("queries", "keys", "mask", "dtype", "tolerance"),
    [
        pytest.param(130, 300, Mask(causal=True, window=140), "float32", 1e-6, id="window"),
        pytest.param(300, 300, Mask(causal=True), "bfloat16", 1e-2, id="causal", marks=pytest.mark.exhaustive),
        pytest.param(1, 300, Mask(), "float32", 1e-6, id="decode", marks=pytest.mark.exhaustive),
    ],
)
def test_the_compiled_kernel_equals_vanilla(queries, keys, mask, dtype, tolerance):
    case = _case(queries, keys, mask, dtype=dtype)
    qkv = [x.detach() for x in draw("flex", case)]
    wide = msgspec.structs.replace(case, variant="vanilla", dtype="float64")
    with torch.no_grad():
        out = build(Flex, case)(*qkv)
        assert out.dtype == qkv[0].dtype
        assert_near(out, built("vanilla", wide)(*(x.double() for x in qkv)), tolerance)


@as_subtests("changes", [{"passes": "backward"}, {"passes": ""}, {"dtype": "float64"}])
def test_features_that_torch_has_only_on_gpus_are_refused_on_a_cpu(changes):
    with pytest.raises(Unsupported, match="on a CPU"):
        build(Flex, _case(16, 16, Mask(), **changes))


def test_a_call_that_cannot_be_compiled_is_refused_with_the_compilers_reason(monkeypatch):
    def refuse(*_, **__):
        raise torch._dynamo.exc.BackendCompilerFailed(refuse, RuntimeError("No working C++ compiler found"), None)

    monkeypatch.setattr(flex.torch, "compile", lambda *_, **__: refuse)
    case = _case(16, 16, Mask())
    with pytest.raises(Unsupported, match=r"No working C\+\+ compiler found"):
        build(Flex, case)(*draw("flex", case))


def test_it_serves_every_workload_that_has_no_gradient():
    for workload in WORKLOADS.values():
        case = case_for("flex", workload, dtype="float32", passes="forward")
        if workload.shape.seq_q <= workload.shape.seq_k or not workload.mask.causal:
            assert callable(build(variant("flex"), case))
