import torch

from laws.workloads import WORKLOADS, assert_near, built, case_for, draw


def test_it_is_the_real_part_of_the_transform_over_tokens_and_features():
    case = case_for("fnet", WORKLOADS["full"], {})
    q, k, v = draw("fnet", case)
    x = v.transpose(1, 2).flatten(2)
    expected = torch.fft.fft2(x.detach().to(torch.complex128)).real
    assert_near(built("fnet", case)(q, k, v).transpose(1, 2).flatten(2), expected, 1e-12)


def test_an_orthonormal_transform_keeps_the_size_of_a_random_input():
    case = case_for("fnet", WORKLOADS["full"], {"ortho": True})
    q, k, v = draw("fnet", case)
    # The real part of a real input's transform holds half of its energy.
    assert 0.5 < built("fnet", case)(q, k, v).norm() / v.norm() < 0.95
