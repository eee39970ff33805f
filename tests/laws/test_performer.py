import msgspec
import torch

from attnbench import Mask
from attnbench_variants.linear.performer import draw_directions
from helpers.subtests import as_subtests
from laws.workloads import WORKLOADS, built, case_for, draw


def _performer(length, *, causal=False, dtype="float64", seed=3, **options):
    shape = msgspec.structs.replace(WORKLOADS["full"].shape, seq_q=length, seq_k=length)
    mask = Mask(causal=causal)
    return case_for("performer", WORKLOADS["full"], options, shape=shape, mask=mask, dtype=dtype, seed=seed)


def _error(features, *, causal):
    """Return the relative error against softmax attention over a few draws of the features."""
    errors = []
    for seed in range(8):
        case = _performer(40, causal=causal, features=features, seed=seed)
        q, k, v = (x.detach() for x in draw("performer", case))
        # The longer queries and keys are, the more features it takes until the law of large numbers shows: e^|q + k|^2.
        qkv = q / 2, k / 2, v
        exact = built("vanilla", msgspec.structs.replace(case, options={}))(*qkv)
        errors.append((built("performer", case)(*qkv) - exact).norm() / exact.norm())
    return torch.stack(errors).mean()


@as_subtests("causal", [True, False])
def test_the_error_against_softmax_attention_falls_as_features_grow(causal):
    few, some, many = (_error(features, causal=causal) for features in (16, 512, 16384))
    # A mean of F independent features errs by F^-1/2: 5.7 times less for 32 times as many.
    assert some < few / 2.5
    assert many < some / 2.5
    assert many < 0.03


def test_directions_are_orthogonal_within_each_block_and_of_every_length():
    directions_FD = draw_directions(8, 20, seed=0)
    assert directions_FD.shape == (20, 8)
    for block in (directions_FD[:8], directions_FD[8:16], directions_FD[16:]):
        products = block @ block.T
        assert (products - products.diagonal().diag()).abs().max() < 1e-12
    assert directions_FD.norm(dim=1).std() > 0.1


def test_each_direction_is_standard_normal_by_itself():
    directions = torch.stack([draw_directions(4, 6, seed=seed) for seed in range(4000)])
    assert directions.mean(dim=0).abs().max() < 5 * 4000**-0.5
    covariance = torch.einsum("nfd,nfe->fde", directions, directions) / 4000
    assert (covariance - torch.eye(4, dtype=torch.float64)).abs().max() < 0.12


def test_the_seed_draws_the_directions_and_every_dtype_has_the_same():
    first, again = (built("performer", _performer(9, features=5)).directions_DF for _ in range(2))
    other = built("performer", _performer(9, features=5, seed=4)).directions_DF
    narrow = built("performer", _performer(9, features=5, dtype="bfloat16")).directions_DF
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert torch.equal(first.float(), narrow)


@as_subtests("tracked", [True, False])
def test_keys_of_very_different_size_neither_overflow_nor_leave_a_query_without_weight(tracked):
    case = _performer(100, causal=True, dtype="float32", features=16)
    q, k, v = (x.detach() for x in draw("performer", case))
    k[:, :, ::3] *= 30
    k[:, :, -1] *= 1000
    with torch.set_grad_enabled(tracked):
        out = built("performer", case)(q.requires_grad_(tracked), k, torch.ones_like(v))
    assert (out - 1).abs().max() < 1e-4
