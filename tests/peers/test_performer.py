"""Performer beside performer-pytorch, with the same random directions.

The package adds 1e-4 to every feature after it has divided them by the largest. That does not cancel: far below the
largest key all weigh the same. It is not in the estimator (Choromanski et al. 2020, lemma 1), which is unbiased.
"""

from functools import partial

import pytest
from parity import FLOAT64, assert_parity, assert_same, by_the_paper, draw, rows_that_differ

from helpers import peers

FEATURES, DIM = 24, 8
SHAPE = peers.shape(40, batch=2, heads=3, dim=DIM)
PACKAGE = "performer_pytorch.performer_pytorch"


def ours(*, causal=False, kernel="softmax"):
    of = peers.case("performer", SHAPE, causal=causal, dtype="float64", features=FEATURES, kernel=kernel)
    return of, peers.ours(of)


def theirs(attention, *, causal=False, kernel="softmax"):
    """Build the package's with our directions; causally the form that needs no CUDA, without what it adds to sums."""
    module = peers.imported(PACKAGE)
    peer = module.FastAttention(DIM, FEATURES, causal=causal, generalized_attention=kernel == "relu").double()
    peer.projection_matrix.copy_(attention.directions_DF.mT * DIM**0.25)
    peer.causal_linear_fn = partial(module.causal_linear_attention_noncuda, eps=0.0)
    return peer


def adding(eps, monkeypatch):
    """Have the package add so much to its features."""
    module = peers.imported(PACKAGE)
    monkeypatch.setattr(module, "softmax_kernel", partial(module.softmax_kernel, eps=eps))


def qkv():
    return draw(3, 2, 3, 40, DIM)


@pytest.mark.parametrize("causal", [False, True])
def test_softmax_features_are_the_same_where_nothing_is_added_to_them(causal, monkeypatch):
    _, attention = ours(causal=causal)
    adding(0.0, monkeypatch)
    assert_parity(attention, theirs(attention, causal=causal), *qkv(), tolerance=FLOAT64)


@pytest.mark.parametrize("causal", [False, True])
def test_relu_features_are_the_same(causal):
    """Both divide q and k by D^(1/4) first and add 0.001, the authors' `kernel_epsilon`."""
    _, attention = ours(causal=causal, kernel="relu")
    assert_parity(attention, theirs(attention, causal=causal, kernel="relu"), *qkv(), tolerance=FLOAT64)


def test_as_less_is_added_the_package_comes_to_ours_which_is_the_estimator(monkeypatch):
    of, attention = ours()
    inputs, distances = qkv(), []
    out = attention(*inputs)
    assert_same(out, by_the_paper(attention, of, *inputs), tolerance=FLOAT64)
    for eps in (1e-4, 1e-6, 1e-8):
        with monkeypatch.context() as patch:
            adding(eps, patch)
            distances.append((theirs(attention)(*inputs) - out).norm().item())
    assert distances[0] > 50 * distances[1] > 2500 * distances[2] > 0


def test_long_keys_all_weigh_the_same_for_the_package_and_not_for_ours():
    """Keys ten times longer have features below 1e-4 of the largest one, so that the average is of all values."""
    of, attention = ours()
    q, k, v = qkv()
    out, average = attention(q, 10 * k, v), v.mean(dim=2, keepdim=True).expand_as(v)
    assert_same(out, by_the_paper(attention, of, q, 10 * k, v), tolerance=FLOAT64)
    assert rows_that_differ(out, average, tolerance=0.1).all()
    its_own = theirs(attention)(q, 10 * k, v)
    assert (its_own - average).norm() < 0.5 * (out - average).norm()


def test_causally_a_later_key_changes_the_package_s_earlier_rows_and_not_ours():
    """It divides by the largest feature of all keys, later ones too, and what it adds after that does not cancel."""
    _, attention = ours(causal=True)
    q, k, v = qkv()
    longer = k.clone()
    longer[:, :, -1] *= 5
    peer = theirs(attention, causal=True)
    assert_same(attention(q, k, v)[:, :, :-1], attention(q, longer, v)[:, :, :-1], tolerance=FLOAT64)
    assert rows_that_differ(peer(q, k, v), peer(q, longer, v), tolerance=1e-6)[:, :, 1:-1].all()
