"""Recurrences in chunks, in steps and with a weight for every pair are one and the same, whatever decays."""

# X rows, T queries, S keys, D features of a key, E of a value
import msgspec
import pytest
import torch
from torch.nn.functional import normalize
from torch.utils.flop_counter import FlopCounterMode

from attnbench import Mask
from attnbench_variants.linear import scan
from attnbench_variants.linear.scan import CHUNK, Writes, attend_by_recurrence, state_after, step
from laws.memory import peak_bytes
from laws.workloads import WORKLOADS, assert_near, built, case_for, draw, variant

NAMES = ("retention", "gla", "deltanet", "gated-deltanet")
KINDS = ("constant", "features", "delta", "gated-delta")


def _drawn(kind, length, *, queries=None, dtype=torch.float64, strength=1.0):
    """Draw queries and writes whose logarithms of decays are `strength` times those of a sigmoid."""
    generator = torch.Generator().manual_seed(length)

    def normal(positions, features):
        return torch.randn(3, positions, features, generator=generator, dtype=torch.float64)

    q, k, v = normal(queries or length, 4), normal(length, 4), normal(length, 5)
    log_decay = normal(1 if kind == "constant" else length, 4 if kind == "features" else 1).sigmoid().log() * strength
    if kind == "delta":
        log_decay = torch.zeros(3, 1, 1, dtype=torch.float64)
    beta = normal(length, 1).sigmoid().to(dtype) if "delta" in kind else None
    k = normalize(k, dim=-1) if "delta" in kind else k
    return q.to(dtype), Writes(k.to(dtype), v.to(dtype), log_decay.to(dtype), beta)


def _at(writes, t):
    decay = writes.log_decay_XSF[:, min(t, writes.log_decay_XSF.shape[1] - 1)][:, None]
    beta = None if writes.beta_XS1 is None else writes.beta_XS1[:, t : t + 1]
    return Writes(writes.k_XSD[:, t : t + 1], writes.v_XSE[:, t : t + 1], decay, beta)


def _by_steps(q, writes):
    length, rows = writes.k_XSD.shape[1], []
    state = torch.zeros(3, 4, 5, dtype=q.dtype)
    for t in range(length):
        at = t - (length - q.shape[1])
        row, state = step(q[:, max(at, 0)][:, None], _at(writes, t), state)
        rows += [row] * (at >= 0)
    return torch.cat(rows, dim=1)


def _by_all_pairs(q, writes):
    """Weigh every pair by its own product of decays; the delta rule solves for all that is written at once."""
    length, before = writes.k_XSD.shape[1], writes.k_XSD.shape[1] - q.shape[1]
    sums = writes.log_decay_XSF.expand(-1, length, -1).cumsum(1)
    apart = (sums[:, :, None] - sums[:, None]).exp().expand(-1, -1, -1, 4)
    read = torch.einsum("xtd,xsd,xtsd->xts", q, writes.k_XSD, apart[:, before:]).tril(before)
    if writes.beta_XS1 is None:
        return read @ writes.v_XSE
    known = torch.einsum("xtd,xsd,xtsd->xts", writes.k_XSD, writes.k_XSD, apart).tril(-1) * writes.beta_XS1
    return read @ torch.linalg.solve(torch.eye(length, dtype=q.dtype) + known, writes.beta_XS1 * writes.v_XSE)


SIZES = [(1, 1), (3, 3), (63, 63), (64, 64), (65, 65), (128, 128), (300, 300), (1, 300), (70, 300)]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("queries", "keys"), SIZES)
def test_chunks_equal_steps_and_a_weight_for_every_pair(kind, queries, keys):
    q, writes = _drawn(kind, keys, queries=queries)
    out = attend_by_recurrence(q, writes)
    assert_near(out, _by_steps(q, writes), 1e-12)
    assert_near(out, _by_all_pairs(q, writes), 1e-9)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("strength", [1.0, 1e3])
def test_gradients_through_chunks_equal_those_through_steps(kind, strength):
    q, writes = _drawn(kind, 150, queries=140, strength=strength)
    leaves = [x.requires_grad_() for x in (q, *writes) if x is not None]
    cotangent = torch.rand(3, 140, 5, dtype=torch.float64)
    gradients = torch.autograd.grad(attend_by_recurrence(q, writes), leaves, cotangent)
    expected = torch.autograd.grad(_by_steps(q, writes), leaves, cotangent)
    for gradient, true in zip(gradients, expected, strict=True):
        assert_near(gradient, true, 1e-11)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("tracked", [True, False])
def test_decays_too_strong_for_float32_to_hold_their_product_lose_nothing_else(kind, tracked):
    q, writes = _drawn(kind, 200)
    strong = torch.arange(200) % 9 == 4
    if kind in {"features", "gated-delta"}:
        writes = writes._replace(log_decay_XSF=torch.where(strong[:, None], -1e3, writes.log_decay_XSF / 1e3))
    narrow = Writes(*(x if x is None else x.float() for x in writes))
    with torch.set_grad_enabled(tracked):
        out = attend_by_recurrence(q.float().requires_grad_(tracked), narrow)
    assert_near(out, _by_steps(q, writes), 3e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_a_run_that_stays_in_the_cache_gives_what_all_chunks_at_once_do(monkeypatch, kind):
    q, writes = _drawn(kind, 5 * CHUNK + 7)
    at_once = attend_by_recurrence(q, writes)
    monkeypatch.setattr(scan, "_CACHED_ELEMENTS", 1)
    assert_near(attend_by_recurrence(q, writes), at_once, 1e-14)


@pytest.mark.parametrize("kind", KINDS)
def test_a_state_after_some_positions_is_that_after_as_many_steps(kind):
    q, writes = _drawn(kind, 200)
    for positions in (0, 1, 64, 150):
        first = Writes(*(x if x is None or x.shape[1] == 1 else x[:, :positions] for x in writes))
        state = torch.zeros(3, 4, 5, dtype=torch.float64)
        for t in range(positions):
            _, state = step(q[:, :1], _at(writes, t), state)
        assert_near(state_after(first), state, 1e-12)


# The mechanisms on it.


def _case(name, length, *, queries=None, options=None, dtype="float64", **sizes):
    shape = msgspec.structs.replace(WORKLOADS["full"].shape, seq_q=queries or length, seq_k=length, **sizes)
    return case_for(name, WORKLOADS["causal"], options, shape=shape, mask=Mask(causal=True), dtype=dtype)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("norm", ["none", "head"])
@pytest.mark.parametrize("kv_heads", [2, 1])
@pytest.mark.parametrize("before", [0, 1, 150])
def test_steps_after_a_prefill_equal_the_causal_whole(name, norm, kv_heads, before):
    case = _case(name, 200, options={"norm": norm}, kv_heads=kv_heads)
    attention, (q, k, v) = built(name, case), (x.detach() for x in draw(name, case))
    state, steps = attention.prefill(k[:, :, :before], v[:, :, :before]), []
    for t in range(before, 200):
        out, state = attention.step(q[:, :, t : t + 1], k[:, :, t : t + 1], v[:, :, t : t + 1], state)
        steps.append(out)
    assert_near(torch.cat(steps, dim=2), attention(q, k, v)[:, :, before:], 1e-12)


@pytest.mark.parametrize("name", NAMES)
def test_a_step_leaves_its_state_as_it_was(name):
    attention, (q, k, v) = built(name, _case(name, 30)), (x.detach() for x in draw(name, _case(name, 30)))
    state = attention.prefill(k[:, :, :-1], v[:, :, :-1])
    before = state.clone()
    (one, _), (two, _) = (attention.step(q[:, :, -1:], k[:, :, -1:], v[:, :, -1:], state) for _ in range(2))
    assert torch.equal(state, before)
    assert torch.equal(one, two)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_a_state_in_half_precision_is_held_in_float32(name, dtype):
    case = _case(name, 30, dtype=dtype)
    _, k, v = (x.detach() for x in draw(name, case))
    assert built(name, case).prefill(k, v).dtype == torch.float32


@pytest.mark.parametrize("name", NAMES)
def test_mixed_precision_does_not_reach_the_sums(name):
    case = _case(name, 100, dtype="float32")
    attention, qkv = built(name, case), draw(name, case)
    expected = attention(*qkv)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(attention(*qkv), expected)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("norm", ["none", "head"])
def test_a_norm_divides_by_the_root_mean_square_of_a_head_and_is_learned_but_in_retention(name, norm):
    case = _case(name, 30, options={"norm": norm})
    attention, qkv = built(name, case), draw(name, case)
    scales = [weight for key, weight in attention.named_parameters() if key == "norm_scale"]
    assert len(scales) == (norm == "head" and name != "retention")
    plain = built(name, _case(name, 30, options={"norm": "none"}))(*qkv)
    if norm == "head":
        for scale in scales:
            scale.data.fill_(3)
        wanted = plain / (plain.square().mean(-1, keepdim=True) + 1e-5).sqrt() * (3 if scales else 1)
        assert_near(attention(*qkv), wanted, 1e-12)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(("queries", "keys"), [(200, 200), (70, 200), (64, 64), (5, 5)])
@pytest.mark.parametrize("kv_heads", [2, 1])
def test_the_operations_are_the_products_that_torch_counts_and_the_solves(name, queries, keys, kv_heads):
    case = _case(name, keys, queries=queries, kv_heads=kv_heads)
    attention, qkv = built(name, case), draw(name, case)
    in_place = {torch.ops.aten.baddbmm_: lambda _, a, b, **__: 2 * a[0] * a[1] * a[2] * b[2]}
    with FlopCounterMode(display=False, custom_mapping=in_place) as counter, torch.no_grad():
        attention(*qkv)
    chunks = [CHUNK, CHUNK, CHUNK, 8] if queries == keys == 200 else [CHUNK, 6, CHUNK, CHUNK, 2]
    chunks = [keys] if keys <= CHUNK else chunks
    solves = 4 * sum(chunk**3 for chunk in chunks) if "delta" in name else 0
    assert variant(name).flops(case) == counter.get_total_flops() + solves


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("kv_heads", [2, 1])
def test_the_operations_of_a_step_are_those_that_torch_counts_and_the_same_at_any_length(name, kv_heads):
    shape = msgspec.structs.replace(WORKLOADS["full"].shape, seq_q=1, kv_heads=kv_heads)
    case = case_for(name, WORKLOADS["causal-decode"], shape=shape)
    attention, (q, k, v) = built(name, case), (x.detach() for x in draw(name, case))
    state = attention.prefill(k, v)
    with FlopCounterMode(display=False) as counter:
        attention.step(q, k[:, :, :1], v[:, :, :1], state)
    longer = msgspec.structs.replace(case, shape=msgspec.structs.replace(shape, seq_k=4096))
    assert counter.get_total_flops() == variant(name).flops(case) == variant(name).flops(longer)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("passes", ["forward", "forward-backward"])
def test_memory_grows_with_the_length_and_not_with_its_square(name, passes):
    def peak(length):
        case = _case(name, length, dtype="float32")
        attention, qkv = built(name, case), draw(name, case)

        def call():
            out = attention(*qkv)
            return torch.autograd.grad(out.sum(), qkv) if passes == "forward-backward" else out

        with torch.set_grad_enabled(passes == "forward-backward"):
            return peak_bytes(call)

    assert peak(4096) < 2.2 * peak(2048)


@pytest.mark.parametrize("name", NAMES)
def test_the_seed_draws_the_weights_and_every_dtype_has_the_same(name):
    def weights(**changes):
        return list(built(name, case_for(name, WORKLOADS["causal"], **changes)).parameters())

    assert all(torch.equal(one, other) for one, other in zip(weights(), weights(), strict=True))
    assert not any(torch.equal(one, other) for one, other in zip(weights(), weights(seed=4), strict=True))
    narrow = weights(dtype="bfloat16")
    assert all(torch.equal(one.bfloat16(), other) for one, other in zip(weights(), narrow, strict=True))
