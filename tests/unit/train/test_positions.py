import math

import pytest
import torch

from attnbench.train.positions import Learned, Rotary, Sinusoidal
from helpers.subtests import as_subtests

LENGTH, WIDTH = 9, 6


def test_sinusoidal_positions_are_the_sines_and_cosines_of_the_paper() -> None:
    waves = Sinusoidal(LENGTH, WIDTH)(torch.zeros(2, LENGTH, WIDTH))
    for position in range(LENGTH):
        for pair in range(WIDTH // 2):
            angle = position / 10_000 ** (2 * pair / WIDTH)
            expected = pytest.approx((math.sin(angle), math.cos(angle)), abs=1e-7)
            assert tuple(waves[1, position, 2 * pair : 2 * pair + 2].tolist()) == expected


def test_an_odd_width_has_sinusoidal_positions_too() -> None:
    assert Sinusoidal(LENGTH, 5)(torch.zeros(1, LENGTH, 5)).shape == (1, LENGTH, 5)


@as_subtests("kind", [Sinusoidal, Learned])
def test_positions_are_added_to_what_stands_there(kind: type[torch.nn.Module]) -> None:
    positions, x_BTE = kind(LENGTH, WIDTH), torch.randn(3, LENGTH, WIDTH)
    torch.testing.assert_close(positions(x_BTE) - x_BTE, positions(torch.zeros_like(x_BTE)))


def test_learned_positions_are_weights_with_a_gradient_and_the_others_are_not() -> None:
    learned = Learned(LENGTH, WIDTH)
    learned(torch.zeros(2, LENGTH, WIDTH)).sum().backward()
    (vectors,) = learned.parameters()
    assert torch.equal(vectors.grad, torch.full((LENGTH, WIDTH), 2.0))
    assert not list(Sinusoidal(LENGTH, WIDTH).parameters())
    assert not list(Rotary(LENGTH, WIDTH).parameters())


def test_learned_positions_are_as_long_as_an_embedded_token() -> None:
    torch.manual_seed(0)
    assert Learned(1000, 64).vectors_TE.detach().norm(dim=1).mean() == pytest.approx(1, abs=0.02)


def test_turned_features_are_complex_numbers_times_a_rotation() -> None:
    q_BHTD = torch.randn(2, 3, LENGTH, WIDTH, generator=torch.Generator().manual_seed(0))
    turned = Rotary(LENGTH, WIDTH)(q_BHTD)
    half = WIDTH // 2
    angles = torch.tensor([[t / 10_000 ** (2 * i / WIDTH) for i in range(half)] for t in range(LENGTH)])
    expected = torch.complex(q_BHTD[..., :half], q_BHTD[..., half:]) * torch.polar(torch.ones(()), angles)
    torch.testing.assert_close(torch.complex(turned[..., :half], turned[..., half:]), expected)


def test_the_product_of_a_turned_query_and_a_turned_key_depends_on_their_distance_alone() -> None:
    length = 64
    rotary, generator = Rotary(length, WIDTH), torch.Generator().manual_seed(0)
    q_D, k_D = (torch.randn(WIDTH, generator=generator) for _ in range(2))
    products_TS = rotary(q_D.expand(length, -1)) @ rotary(k_D.expand(length, -1)).T
    for distance in range(-length + 1, length):
        diagonal = products_TS.diagonal(distance)
        torch.testing.assert_close(diagonal, diagonal[:1].expand_as(diagonal), rtol=0, atol=2e-5)
    assert products_TS[0].std() > 0.1  # and it does depend on the distance


def test_turning_keeps_the_first_position_and_every_length_and_dtype() -> None:
    q_HTD = torch.randn(2, LENGTH, WIDTH, generator=torch.Generator().manual_seed(0))
    turned = Rotary(LENGTH, WIDTH)(q_HTD)
    assert torch.equal(turned[:, 0], q_HTD[:, 0])
    torch.testing.assert_close(turned.norm(dim=-1), q_HTD.norm(dim=-1))
    assert Rotary(LENGTH, WIDTH)(q_HTD.bfloat16()).dtype == torch.bfloat16
