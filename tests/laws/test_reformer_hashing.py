import torch

from attnbench_variants.hashing.lsh import bucket_factors, draw_rotations, hash_order, hash_vectors
from helpers.subtests import as_subtests

HEAD_DIM = 8


def test_a_hash_is_the_largest_of_the_rotated_vector_and_its_negative():
    x = torch.randn(500, HEAD_DIM, generator=torch.Generator().manual_seed(3))
    (rotation,) = draw_rotations(HEAD_DIM, 4, buckets=12, seed=0)
    both = torch.einsum("xd,drf->rxf", x.double(), rotation.double())
    first, second = torch.cat([both, -both], dim=-1).topk(2).values.unbind(-1)
    clear = (first - second) / first > 1e-5
    expected = torch.cat([both, -both], dim=-1).argmax(dim=-1)
    assert clear.double().mean() > 0.99
    assert torch.equal(hash_vectors(x, [rotation])[clear], expected[clear])


def test_with_many_buckets_a_bucket_is_a_pair_of_hashes():
    x = torch.randn(200, HEAD_DIM, generator=torch.Generator().manual_seed(3))
    rotations = draw_rotations(HEAD_DIM, 2, buckets=1000, seed=0)
    first, second = (hash_vectors(x, [rotation]) for rotation in rotations)
    assert torch.equal(hash_vectors(x, rotations), first * bucket_factors(1000)[1] + second)


@as_subtests("buckets", [1, 2, 3, 255, 256, 257, 1000, 4096])
def test_factors_of_the_number_of_buckets_are_even_and_as_few_as_suffice(buckets):
    product = 1
    for factor in bucket_factors(buckets):
        assert factor % 2 == 0
        product *= factor
    assert buckets <= product <= max(buckets + 1, 1.3 * buckets)


def test_tokens_of_a_bucket_stay_in_their_order():
    buckets = torch.randint(0, 3, (2, 3, 500), generator=torch.Generator().manual_seed(3))
    for order, of_round in zip(hash_order(buckets).flatten(0, 1).tolist(), buckets.flatten(0, 1).tolist(), strict=True):
        assert order == sorted(range(500), key=lambda token: (of_round[token], token))
