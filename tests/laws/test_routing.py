import msgspec
import pytest
import torch
from torch.nn.functional import layer_norm

from attnbench import Mask, Shape
from attnbench.contracts.variant import complete_options
from attnbench_variants.routing import routing
from helpers.subtests import as_subtests
from laws.memory import peak_bytes
from laws.operations import operations
from laws.workloads import WORKLOADS, assert_near, built, case_for, draw, leaves, variant

MASKS = as_subtests("causal", [True, False])


def _routing(tokens, *, causal=False, dtype="float64", passes="", **options):
    shape = Shape(batch=2, heads=2, kv_heads=2, seq_q=tokens, seq_k=tokens, head_dim=8)
    changes = {"shape": shape, "mask": Mask(causal=causal), "dtype": dtype, "passes": passes}
    return case_for("routing", WORKLOADS["full"], options, **changes)


@MASKS
def test_one_cluster_of_all_tokens_is_exact_attention_of_normalised_tokens(causal):
    case = _routing(40, causal=causal, clusters=1)
    qk, _, v = draw("routing", case)
    exact = built("vanilla", msgspec.structs.replace(case, options={}))
    out, true = built("routing", case)(qk, qk, v), exact(*(layer_norm(qk, (8,), eps=1e-6) for _ in range(2)), v)
    assert_near(out, true, 1e-12)
    cotangent = torch.randn_like(out)
    for found, right in zip(*(torch.autograd.grad(x, (qk, v), cotangent) for x in (out, true)), strict=True):
        assert_near(found, right, 1e-12)


@MASKS
def test_clusters_that_all_take_every_token_average_to_the_same(causal):
    one, many = (_routing(30, causal=causal, clusters=clusters, window=30) for clusters in (1, 5))
    qkv = draw("routing", one)
    assert_near(built("routing", many)(*qkv), built("routing", one)(*qkv), 1e-12)


def test_a_token_that_no_cluster_took_is_given_zero_and_no_gradient():
    case = _routing(40, clusters=2, window=5)
    attention, (qk, _, v) = built("routing", case), draw("routing", case)
    members_BHM = attention.members(attention.normalise(qk)).flatten(2)
    is_taken = torch.zeros(2, 2, 40, dtype=torch.bool).scatter_(2, members_BHM, value=True)
    out = attention(qk, qk, v)
    assert not is_taken.all()
    assert torch.equal(out.detach().any(dim=-1), is_taken)
    for gradient in torch.autograd.grad(out.square().sum(), (qk, v)):
        assert torch.equal(gradient.any(dim=-1), is_taken)


def test_tokens_that_point_where_a_centroid_does_are_its_members_in_order():
    case = _routing(40, clusters=4, window=3)
    attention, (qk, _, _) = built("routing", case), (x.detach() for x in draw("routing", case))
    qk[:, :, [31, 7, 19]] = 5 * attention.centroids_HCD[:, None, 2].double()
    assert (attention.members(attention.normalise(qk))[:, :, 2] == torch.tensor([7, 19, 31])).all()


def test_routing_ignores_the_scale_and_the_offset_of_a_token():
    case = _routing(40)
    qk, _, v = draw("routing", case)
    moved = 3 * qk + 2
    # Not quite: a millionth is added to the variance.
    assert_near(built("routing", case)(moved, moved, v), built("routing", case)(qk, qk, v), 1e-4)


def test_all_dtypes_route_tokens_to_the_same_clusters():
    case = _routing(100)
    narrow = draw("routing", case)[0].detach().bfloat16()
    attention = built("routing", case)
    from_narrow, from_wide = (attention.members(attention.normalise(x)) for x in (narrow, narrow.double()))
    assert torch.equal(from_narrow, from_wide)


def test_clusters_in_several_parts_equal_all_at_once(monkeypatch):
    case = _routing(100)
    qkv = draw("routing", case)
    at_once = built("routing", case)(*qkv)
    monkeypatch.setattr(routing, "_CPU_PRODUCTS", 1)
    assert_near(built("routing", case)(*qkv), at_once, 1e-13)


@as_subtests(
    "tokens, options, expected",
    [
        (4096, {}, (64, 64)),
        (21, {}, (5, 5)),
        (1, {}, (1, 1)),
        (100, {"clusters": 8}, (8, 13)),
        (100, {"window": 7}, (10, 7)),
        (5, {"clusters": 9, "window": 9}, (9, 5)),
    ],
)
def test_as_many_clusters_as_the_root_of_the_tokens_take_all_of_them_if_nothing_is_said(tokens, options, expected):
    shape = msgspec.structs.replace(WORKLOADS["full"].shape, seq_q=tokens, seq_k=tokens)
    assert routing.sizes(shape, complete_options(variant("routing"), options)) == expected


@MASKS
@as_subtests("passes", ["forward", "forward-backward"])
def test_memory_grows_with_the_length_and_not_with_its_square(monkeypatch, causal, passes):
    monkeypatch.setattr(routing, "_CPU_PRODUCTS", 2**16)

    def peak(tokens):
        case = _routing(tokens, causal=causal, dtype="float32")
        attention, qkv = built("routing", case), draw("routing", case)

        def call():
            with torch.set_grad_enabled(passes == "forward-backward"):
                out = attention(*qkv)
            return out if passes == "forward" else torch.autograd.grad(out.sum(), leaves(qkv))

        return peak_bytes(call)

    assert peak(4096) < 2.2 * peak(2048)


def test_operations_grow_with_the_length_to_the_power_of_one_and_a_half():
    flops = [variant("routing").flops(_routing(tokens)) for tokens in (4096, 16384)]
    assert flops[1] == 8 * flops[0]


@as_subtests("passes", ["forward", "backward", "forward-backward"])
@MASKS
def test_operations_are_those_of_the_clusters(causal, passes):
    case = _routing(36, causal=causal, clusters=6, passes=passes)
    route, attend = 2 * 4 * 36 * 6 * 8, 4 * 4 * 6 * (21 if causal else 36) * 8
    expected = {"forward": route + attend, "backward": attend * 5 // 2, "forward-backward": route + attend * 7 // 2}
    assert variant("routing").flops(case) == expected[passes]


def test_the_kernel_that_is_named_is_the_one_that_runs():
    case = _routing(40)
    attention = built("routing", case)
    assert attention.backend.startswith("torch-flash ")
    assert "_scaled_dot_product_flash_attention_for_cpu" in operations(lambda: attention(*draw("routing", case)))


@as_subtests("option", ["clusters", "window"])
def test_an_option_of_zero_is_refused(option):
    with pytest.raises(msgspec.ValidationError, match=option):
        complete_options(variant("routing"), {option: 0})
