"""Locality-sensitive hashing by random rotations, and the order of tokens by their hashes.

    h(x) = argmax([x R; -x R])                    R [D, F], normal

(Kitaev et al. 2020, section 2), which makes 2 F buckets.
"""
# D head dimension, R rounds, F rotated axes (half as many as buckets), X vectors; for orders X sequences of N tokens

import math
from collections.abc import Sequence

import torch
from torch import Tensor

# With more buckets than this a bucket is a pair of hashes, so that hashing costs N^1.5 and not N^2. The paper's authors
# do so too (trax: n_buckets as a list; transformers: above 128 for chunks of 64). A pair of hashes finds fewer of the
# nearest tokens: 8% fewer among 256 buckets of tokens in groups, where a single rotation takes 4 times as long.
_MOST_BUCKETS_IN_ONE_ROTATION = 128
# Rotated values at a time: on a CPU they stay in a core's cache; elsewhere few launches count.
_CPU_VALUES, _DEVICE_VALUES = 2**18, 2**26


def bucket_factors(buckets: int) -> tuple[int, ...]:
    """Split a number of buckets (at least 1) into even factors whose product is the same or little more.

    Even, as a rotated axis makes two buckets. One factor for few buckets, two near the square root for many.
    """
    if buckets <= _MOST_BUCKETS_IN_ONE_ROTATION:
        return (_even(buckets),)
    first = _even(math.isqrt(buckets))
    return first, _even(-(-buckets // first))


def draw_rotations(head_dim: int, rounds: int, *, buckets: int, seed: int) -> tuple[Tensor, ...]:
    """Draw a random matrix [D, R, F] of float32 for each factor of the number of buckets, the same for the same seed.

    All heads and sequences share them, so that one sequence's buckets do not depend on the others.
    """
    generator = torch.Generator().manual_seed(seed)
    return tuple(torch.randn(head_dim, rounds, factor // 2, generator=generator) for factor in bucket_factors(buckets))


def hash_vectors(x_XD: Tensor, rotations: Sequence[Tensor]) -> Tensor:
    """Return the bucket of each vector in each round, int64 [R, X].

    Computed in float32 whatever the dtype, so that equal values have equal buckets. With two rotations a bucket is the
    pair of their hashes.
    """
    buckets_RX = _angular_hash(x_XD, rotations[0])
    for rotation_DRF in rotations[1:]:
        buckets_RX = buckets_RX * (2 * rotation_DRF.shape[2]) + _angular_hash(x_XD, rotation_DRF)
    return buckets_RX


def hash_order(buckets_XRN: Tensor) -> Tensor:
    """Order the tokens of each round by bucket and, within a bucket, by position: int64 [X, R, N]."""
    return buckets_XRN.sort(dim=-1, stable=True).indices


def _angular_hash(x_XD: Tensor, rotation_DRF: Tensor) -> Tensor:
    values = _CPU_VALUES if x_XD.device.type == "cpu" else _DEVICE_VALUES
    few = max(1, values // rotation_DRF[0].numel())
    parts = (x_XD[first : first + few] for first in range(0, len(x_XD), few))
    return torch.cat([_hash_few(part_XD.float(), rotation_DRF) for part_XD in parts], dim=1)


def _hash_few(x_XD: Tensor, rotation_DRF: Tensor) -> Tensor:
    """Return argmax([x R; -x R]) from the highest and the lowest of x R, with the axis written into the lowest bits.

    That is twice as fast as argmax. Where two axes differ in no higher bits, either may win.
    """
    _, rounds, axes = rotation_DRF.shape
    low = (1 << (axes - 1).bit_length()) - 1
    rotated_RFX = (rotation_DRF.flatten(1).mT @ x_XD.mT).view(rounds, axes, -1)
    axis_F1 = torch.arange(axes, dtype=torch.int32, device=x_XD.device)[:, None]
    rotated_RFX.view(torch.int32).bitwise_and_(~low).bitwise_or_(axis_F1)
    highest_RX, lowest_RX = rotated_RFX.amax(dim=1), rotated_RFX.amin(dim=1)
    negative_RX = -lowest_RX > highest_RX
    winner_RX = torch.where(negative_RX, lowest_RX, highest_RX)
    return winner_RX.view(torch.int32).bitwise_and(low) + negative_RX.long() * axes


def _even(number: int) -> int:
    return number + number % 2
