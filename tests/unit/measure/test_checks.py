"""A checksum notices what changed, and what is no attention output is named."""

import pytest
import torch

from attnbench.contracts.variant import InvalidOutput
from attnbench.measure.checks import checksum, output_like
from helpers.subtests import as_subtests


@as_subtests("dtype", [torch.float16, torch.float32, torch.float64])
@as_subtests("start, width", [(0, 7), (0, 8), (1, 8)])
def test_a_checksum_notices_values_that_changed_places(dtype: torch.dtype, start: int, width: int) -> None:
    tensor = torch.randn(start + 3 * 5 * width, dtype=dtype)[start:].view(3, 5, width)
    assert checksum(tensor) == checksum(tensor.clone())
    for dimension in range(3):
        assert checksum(tensor) != checksum(tensor.flip(dimension))
    swapped = tensor.clone()
    swapped[0, 0, 0], swapped[2, 4, -1] = tensor[2, 4, -1], tensor[0, 0, 0]
    assert checksum(tensor) != checksum(swapped)


def test_a_checksum_of_nothing_and_of_a_single_row_is_a_number() -> None:
    assert checksum(torch.empty(2, 0, 4)) == 0
    assert checksum(torch.ones(3)) != checksum(torch.zeros(3))


def test_an_output_is_compared_with_queries_at_core_and_with_tokens_at_layer_level() -> None:
    with pytest.raises(InvalidOutput, match=r"shape \[1, 2, 3, 4\], the queries \[1, 2, 9, 4\]"):
        output_like(torch.zeros(1, 2, 3, 4), torch.zeros(1, 2, 9, 4))
    with pytest.raises(InvalidOutput, match=r"shape \[1, 3, 4\], the tokens \[1, 9, 4\]"):
        output_like(torch.zeros(1, 3, 4), torch.zeros(1, 9, 4))
