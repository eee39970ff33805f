from itertools import pairwise

import msgspec
import pytest
import torch
from torch import Tensor
from torch.autograd import gradcheck
from torch.testing import assert_close
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from attnbench import Case, Mask, Shape, Unsupported
from attnbench.contracts.variant import build, check_support, complete_options
from attnbench_variants.blocks.lse_kernels import FUSED_CPU, PLAIN
from attnbench_variants.hashing.reformer import Reformer
from helpers.subtests import as_subtests
from references.reformer import reformer as reference
from references.reformer import seen

KERNELS = as_subtests("kernel", [FUSED_CPU, PLAIN])
MASKS = as_subtests("causal", [False, True])
HEAD_DIM = 8


def case(tokens: int, *, batch: int = 2, heads: int = 2, head_dim: int = HEAD_DIM, **fields) -> Case:
    options = msgspec.to_builtins(complete_options(Reformer, fields.pop("options", {"rounds": 3, "bucket": 4})))
    sizes = {"batch": batch, "heads": heads, "kv_heads": heads, "seq_q": tokens, "seq_k": tokens, "head_dim": head_dim}
    mask = Mask(causal=fields.pop("causal", False))
    return Case(variant="reformer", options=options, shape=Shape(**sizes), mask=mask, **fields)


def inputs(of: Case, *, dtype: torch.dtype = torch.float64, seed: int = 1) -> tuple[Tensor, Tensor]:
    shape = (of.shape.batch, of.shape.heads, of.shape.seq_q, of.shape.head_dim)
    generator = torch.Generator().manual_seed(seed)
    return tuple(torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype) for _ in range(2))


def with_gradients(out: Tensor, *wrt: Tensor) -> tuple[Tensor, ...]:
    cotangent = torch.randn(out.shape, generator=torch.Generator().manual_seed(2), dtype=torch.float64).to(out)
    return out, *torch.autograd.grad(out, wrt, cotangent, allow_unused=True, materialize_grads=True)


def reference_of(attention: Reformer, qk: Tensor, v: Tensor, buckets: Tensor) -> Tensor:
    heads = [
        reference(*tensors, buckets=rounds.tolist(), chunk=attention.options.bucket, causal=attention.causal)
        for *tensors, rounds in zip(qk.flatten(0, 1), v.flatten(0, 1), buckets.flatten(0, 1), strict=True)
    ]
    return torch.stack(heads).view_as(v)


def weights_of(attention: Reformer, qk: Tensor, buckets: Tensor) -> Tensor:
    tokens = qk.shape[2]
    padded = torch.nn.functional.pad(qk, (0, tokens - qk.shape[3]))
    return attention.attend(padded, torch.eye(tokens, dtype=qk.dtype).expand_as(padded), buckets)


@KERNELS
@MASKS
@as_subtests("tokens, bucket", [(1, 4), (2, 4), (3, 4), (4, 4), (5, 4), (8, 4), (21, 4), (24, 8), (7, 1), (9, 64)])
def test_output_and_gradients_equal_the_plain_formulation_with_the_same_hashes(tokens, bucket, causal, kernel):
    attention = build(Reformer, case(tokens, causal=causal, options={"rounds": 3, "bucket": bucket}))
    attention.kernel = kernel
    qk, v = (x.requires_grad_() for x in inputs(case(tokens)))
    buckets = attention.buckets(qk)
    found = with_gradients(attention(qk, qk, v), qk, v)
    expected = with_gradients(reference_of(attention, qk, v, buckets), qk, v)
    for each, right in zip(found, expected, strict=True):
        assert_close(each, right, rtol=1e-9, atol=1e-12)


@KERNELS
@MASKS
@as_subtests("rounds", [1, 3])
def test_one_bucket_equals_exact_attention_with_shared_queries_and_keys(rounds, causal, kernel):
    attention = build(Reformer, case(24, causal=causal, options={"rounds": rounds, "bucket": 24}))
    attention.kernel = kernel
    qk, v = (x.requires_grad_() for x in inputs(case(24)))
    hidden = torch.eye(24, dtype=torch.bool) | (torch.ones(24, 24, dtype=torch.bool).triu() if causal else False)
    hidden[0, 0] &= not causal  # the first token has no other to attend to
    scores = qk @ (qk / qk.norm(dim=-1, keepdim=True)).mT
    exact = scores.masked_fill(hidden, -torch.inf).softmax(dim=-1) @ v
    for found, right in zip(with_gradients(attention(qk, qk, v), qk, v), with_gradients(exact, qk, v), strict=True):
        assert_close(found, right, rtol=1e-9, atol=1e-12)


@KERNELS
@MASKS
def test_gradients_agree_with_finite_differences(causal, kernel):
    attention = build(Reformer, case(11, batch=1, heads=1, causal=causal))
    attention.kernel = kernel
    qk, v = (x.requires_grad_() for x in inputs(case(11, batch=1, heads=1)))
    buckets = attention.buckets(qk)
    assert gradcheck(lambda qk, v: attention.attend(qk, v, buckets), (qk, v))


@MASKS
def test_weights_go_only_to_the_own_chunk_and_the_previous_one_of_some_round(causal):
    attention = build(Reformer, case(26, batch=1, heads=1, causal=causal, options={"rounds": 2, "bucket": 4}))
    qk, _ = inputs(case(26, batch=1, heads=1))
    buckets = attention.buckets(qk)
    weights = weights_of(attention, qk, buckets)[0, 0]
    for i, row in enumerate(weights):
        others = {j for of_round in buckets[0, 0].tolist() for j in seen(i, of_round, chunk=4, causal=causal)}
        assert set(row.nonzero().flatten().tolist()) == (others or {i})
    assert_close(weights.sum(dim=-1), torch.ones(26, dtype=torch.float64))


def test_a_token_attends_to_itself_only_where_there_is_no_other_token():
    attention = build(Reformer, case(26, causal=True, dtype="float32"))
    qk, _ = inputs(case(26), dtype=torch.float32)
    weights = weights_of(attention, 1e4 * qk, attention.buckets(qk))
    own = weights.diagonal(dim1=-2, dim2=-1)
    assert_close(own[..., 0], torch.ones_like(own[..., 0]))
    assert set(own.unique().tolist()) <= {0.0, 1.0}
    assert own[..., 8:].count_nonzero() == 0  # from there on every token has an earlier one in its two chunks of four


def test_equal_values_meet_in_equal_buckets_in_every_dtype():
    qk, _ = inputs(case(64), dtype=torch.bfloat16)
    attention = build(Reformer, case(64))
    for dtype in (torch.float16, torch.float32, torch.float64):
        assert torch.equal(attention.buckets(qk.to(dtype)), attention.buckets(qk))


@MASKS
@as_subtests("dtype, tolerance", [(torch.float32, 1e-5), (torch.float16, 1e-2), (torch.bfloat16, 5e-2)])
@KERNELS
def test_output_and_gradients_in_every_dtype_are_near_those_in_float64(dtype, tolerance, causal, kernel):
    attention = build(Reformer, case(45, causal=causal))
    attention.kernel = kernel
    rounded = inputs(case(45), dtype=dtype)
    buckets = attention.buckets(rounded[0])
    results = []
    for each in (dtype, torch.float64):
        qk, v = (x.detach().to(each).requires_grad_() for x in rounded)
        results.append(with_gradients(attention.attend(qk, v, buckets), qk, v))
    for found, right in zip(*results, strict=True):
        assert found.dtype == dtype
        assert (found.double() - right).norm() <= tolerance * right.norm()


def test_the_same_seed_gives_the_same_output_and_another_seed_other_hashes():
    qk, v = inputs(case(64))
    same = [build(Reformer, case(64, seed=seed))(qk, qk, v) for seed in (7, 7)]
    assert torch.equal(*same)
    buckets = [build(Reformer, case(64, seed=seed)).buckets(qk) for seed in (7, 8)]
    assert not torch.equal(*buckets)


def test_inputs_are_not_changed():
    qk, v = (x.requires_grad_() for x in inputs(case(21)))
    before = qk.detach().clone(), v.detach().clone()
    with_gradients(build(Reformer, case(21))(qk, qk, v), qk, v)
    assert torch.equal(qk, before[0])
    assert torch.equal(v, before[1])


def test_the_layout_of_inputs_and_cotangents_in_memory_does_not_matter():
    attention = build(Reformer, case(21))
    qk, v = (x.requires_grad_() for x in inputs(case(21)))
    strided = [x.detach().transpose(1, 2).contiguous().transpose(1, 2).requires_grad_() for x in (qk, v)]
    cotangent = torch.ones(1, dtype=torch.float64).expand_as(v)
    expected = torch.autograd.grad(attention(qk, qk, v), (qk, v), cotangent.contiguous())
    found = torch.autograd.grad(attention(strided[0], strided[0], strided[1]), strided, cotangent)
    assert all(torch.equal(*pair) for pair in zip(found, expected, strict=True))


@MASKS
def test_a_sequence_and_a_head_do_not_depend_on_the_others(causal):
    attention = build(Reformer, case(300, batch=3, causal=causal, options={"rounds": 2, "bucket": 16}))
    qk, v = inputs(case(300, batch=3))
    together = attention(qk, qk, v)
    for i in range(3):
        for h in range(2):
            alone = attention(qk[i : i + 1, h : h + 1], qk[i : i + 1, h : h + 1], v[i : i + 1, h : h + 1])
            assert_close(alone[0, 0], together[i, h], rtol=1e-12, atol=1e-12)


def test_later_values_do_not_change_earlier_outputs_nor_do_later_queries_with_the_same_hashes():
    attention = build(Reformer, case(40, causal=True))
    qk, v = inputs(case(40))
    buckets = attention.buckets(qk)
    changed_qk, changed_v = qk.clone(), v.clone()
    changed_qk[:, :, 25:] *= -2
    changed_v[:, :, 25:] += 5
    before, after = attention.attend(qk, v, buckets), attention.attend(changed_qk, changed_v, buckets)
    assert torch.equal(before[:, :, :25], after[:, :, :25])
    assert not torch.equal(before[:, :, 26:], after[:, :, 26:])


def test_a_query_of_zero_leaves_output_and_gradients_finite():
    qk, v = inputs(case(21))
    qk[:, :, 5] = 0
    qk, v = qk.requires_grad_(), v.requires_grad_()
    for result in with_gradients(build(Reformer, case(21))(qk, qk, v), qk, v):
        assert result.isfinite().all()


class LargestTensor(TorchDispatchMode):
    """Remembers the most elements that any operator put out."""

    def __init__(self) -> None:
        super().__init__()
        self.elements = 0

    def __torch_dispatch__(self, operator, types, args=(), kwargs=None):
        out = operator(*args, **(kwargs or {}))
        owned = [x.untyped_storage().nbytes() // x.element_size() for x in tree_leaves(out) if isinstance(x, Tensor)]
        self.elements = max(self.elements, *owned, 0)
        return out


@KERNELS
@MASKS
def test_the_largest_tensor_grows_with_the_sequence_and_not_with_its_square(causal, kernel):
    largest = []
    for tokens in (8192, 16384):
        of = case(tokens, batch=1, heads=1, causal=causal, options={"rounds": 2, "bucket": 16})
        attention = build(Reformer, of)
        attention.kernel = kernel
        qk, v = (x.requires_grad_() for x in inputs(of, dtype=torch.float32))
        with LargestTensor() as seen_so_far:
            with_gradients(attention(qk, qk, v), qk, v)
        largest.append(seen_so_far.elements)
    assert largest[1] <= 2.1 * largest[0]
    assert largest[1] < 16384 * 16384 / 100


@as_subtests("passes", ["forward", "forward-backward"])
@as_subtests("tokens, bucket", [(64, 8), (61, 8), (5, 8), (600, 2)])
def test_flops_are_those_that_torch_counts(tokens, bucket, passes):
    of = case(tokens, options={"rounds": 2, "bucket": bucket}, passes=passes, causal=True)
    attention = build(Reformer, of)
    attention.kernel = PLAIN  # torch counts none for the fused kernel
    qk, v = (x.requires_grad_() for x in inputs(of, dtype=torch.float32))
    with FlopCounterMode(display=False) as counter:
        out = attention(qk, qk, v)
        if passes == "forward-backward":
            out.sum().backward()
    assert Reformer.flops(of) == counter.get_total_flops()


def test_flops_of_the_backward_pass_exclude_the_forward_pass():
    forward, backward, both = (
        Reformer.flops(case(64, passes=passes)) for passes in ("forward", "backward", "forward-backward")
    )
    assert forward + backward == both


def test_flops_grow_more_slowly_than_the_length_to_the_power_of_one_and_a_half():
    lengths = [2**power for power in range(12, 21)]
    counts = [Reformer.flops(case(tokens, options={})) for tokens in lengths]
    assert all(longer < 2**1.5 * shorter for shorter, longer in pairwise(counts))


@as_subtests(
    "change, reason",
    [
        ({"mask": Mask(window=8)}, "window"),
        ({"passes": "decode"}, "decode"),
        ({"shape": Shape(batch=1, heads=2, kv_heads=2, seq_q=1, seq_k=16, head_dim=8)}, "one sequence"),
        ({"shape": Shape(batch=1, heads=2, kv_heads=1, seq_q=16, seq_k=16, head_dim=8)}, "queries are the keys"),
    ],
)
def test_unsupported_cases_are_refused_with_a_reason(change, reason):
    with pytest.raises(Unsupported, match=reason):
        check_support(Reformer.supports, msgspec.structs.replace(case(16), **change))


@as_subtests("option", ["rounds", "bucket"])
def test_an_option_of_zero_is_refused(option):
    with pytest.raises(msgspec.ValidationError, match=option):
        complete_options(Reformer, {option: 0})


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@MASKS
def test_on_cuda_output_and_gradients_equal_those_on_the_cpu(causal):
    results = []
    for device in ("cpu", "cuda"):
        of = case(333, causal=causal, device=device, options={"rounds": 3, "bucket": 16})
        attention = build(Reformer, of)
        qk, v = (x.to(device).requires_grad_() for x in inputs(of))
        results.append([x.cpu() for x in with_gradients(attention(qk, qk, v), qk, v)])
    for found, right in zip(*results, strict=True):
        assert_close(found, right, rtol=1e-9, atol=1e-12)
