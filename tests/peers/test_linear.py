"""Linear attention beside linear-attention-transformer and flash-linear-attention."""

import torch
from parity import FLOAT64, assert_parity, assert_same, by_the_paper, draw, rows_that_differ
from torch.nn.functional import elu

from helpers import peers

SHAPE = peers.shape(128, batch=2, heads=3, dim=8)
BUCKET = 16


def ours(*, causal, features="elu"):
    of = peers.case("linear", SHAPE, causal=causal, dtype="float64", features=features)
    return of, peers.ours(of)


def qkv():
    return draw(3, 2, 3, 128, 8)


def transformer():
    return peers.imported("linear_attention_transformer.linear_attention_transformer")


def test_softmax_features_are_the_package_s_but_for_a_factor():
    """It divides by sqrt(D) what is an average already, so its weights sum to that; Shen et al. (3.2) do not."""
    _, attention = ours(causal=False, features="softmax")
    theirs = peers.shen_full()
    assert_parity(attention, lambda q, k, v: theirs(q, k, v) * 8**0.5, *qkv(), tolerance=FLOAT64)
    q, k, v = qkv()
    ones = torch.ones_like(v)
    assert_same(attention(q, k, ones), ones, tolerance=FLOAT64)
    assert_same(theirs(q, k, ones), ones / 8**0.5, tolerance=FLOAT64)


def test_a_causal_row_of_softmax_features_is_the_package_s_full_form_of_its_prefix():
    """Its own causal form is another mechanism: it divides by the sum over all features at once."""
    _, attention = ours(causal=True, features="softmax")
    q, k, v = qkv()
    rows = [8**0.5 * peers.shen_full()(*(x[:, :, :t] for x in (q, k, v)))[:, :, -1] for t in range(1, 129)]
    assert_same(attention(q, k, v), torch.stack(rows, dim=2), tolerance=FLOAT64)
    its_own = transformer().causal_linear_attn(q, k, v, bucket_size=1)
    assert rows_that_differ(its_own, torch.stack(rows, dim=2), tolerance=1e-6)[:, :, 1:].all()


def test_a_value_reaches_its_own_query_where_the_package_waits_for_the_next_bucket():
    """Causal sums go up to the query's own key (Katharopoulos et al. 2020, eqs. 8 to 12), not to its bucket's start."""
    q, k, v = qkv()
    planted = torch.zeros_like(v)
    planted[:, :, BUCKET + 3] = 1
    theirs = transformer().causal_linear_attn(q, k, planted, bucket_size=BUCKET)
    assert theirs[:, :, : 2 * BUCKET].count_nonzero() == 0
    assert theirs[:, :, 2 * BUCKET :].ne(0).all()
    for features in ("elu", "softmax"):
        of, attention = ours(causal=True, features=features)
        out = attention(q, k, planted)
        assert out[:, :, : BUCKET + 3].count_nonzero() == 0
        assert out[:, :, BUCKET + 3 :].ne(0).all()
        assert_same(out, by_the_paper(attention, of, q, k, planted), tolerance=FLOAT64)


def test_its_buckets_leave_out_what_equation_9_sums():
    """Given its own features, the equation's sums up to the start of a bucket are what it gives for all its queries."""
    q, k, v = qkv()
    f, g = q.softmax(dim=-1), k.exp()
    theirs = transformer().causal_linear_attn(q, k, v, bucket_size=BUCKET)
    for t in (BUCKET, BUCKET + 1, 2 * BUCKET - 1, 127):
        seen = t // BUCKET * BUCKET
        weights = torch.einsum("bhd,bhsd->bhs", f[:, :, t], g[:, :, :seen])
        row = (weights / weights.sum(dim=-1, keepdim=True))[..., None, :] @ v[:, :, :seen]
        assert_same(theirs[:, :, t], row[:, :, 0], tolerance=FLOAT64)


def test_causal_elu_features_are_those_of_fla_s_chunks():
    _, attention = ours(causal=True)
    assert_parity(attention, peers.fla_causal(), *qkv(), tolerance=1e-9)


def test_causal_elu_features_are_those_of_fla_s_recurrence():
    """It computes in float32 whatever it is given."""
    _, attention = ours(causal=True)
    recurrence = peers.imported("fla.ops.linear_attn.naive").naive_recurrent_linear_attn
    q, k, v = qkv()
    f, g = ((elu(x) + 1).transpose(1, 2) for x in (q, k))
    theirs, _ = recurrence(f, g, v.transpose(1, 2), normalize=True)
    assert_same(attention(q, k, v), theirs.transpose(1, 2), tolerance=1e-5)
