"""What an operation reads and writes, counted by hand."""

from collections.abc import Callable

import torch
from torch.nn.functional import scaled_dot_product_attention

from attnbench.measure.counting import Work, counted
from attnbench.measure.traffic import stored_bytes
from helpers.subtests import as_subtests

WIDE = 4  # bytes of a number in float32
LONG = 8


def moved(call: Callable[[], object]) -> int:
    with torch.no_grad():
        work = counted(call)
    assert work.whole
    return work.bytes


@as_subtests(
    "operation, elements",
    [
        (lambda x, _y: x * 2, 2 * 60),
        (lambda x, y: x + y, 3 * 60),
        (lambda x, y: x.add_(y), 3 * 60),
        (lambda x, y: x.copy_(y), 2 * 60),
        (lambda x, _y: x.zero_(), 60),
        (lambda x, _y: torch.zeros_like(x), 60),
        (lambda x, y: torch.exp(x, out=y), 2 * 60),
        (lambda x, _y: x.sum(dim=1), 60 + 6),
        (lambda x, y: torch.cat([x, y]), 4 * 60),
        (lambda x, _y: x.view(2, 3, 10).mT.contiguous(), 2 * 60),
        (lambda x, y: x @ y.mT, 2 * 60 + 36),
        (lambda x, y: torch.baddbmm(x.new_empty(1, 6, 6), x[None], y.mT[None], beta=0), 2 * 60 + 36),
        (lambda x, y: torch.baddbmm(x.new_ones(1, 6, 6), x[None], y.mT[None]), 36 + 2 * 60 + 2 * 36),
    ],
)
def test_operands_are_read_and_results_written(
    operation: Callable[[torch.Tensor, torch.Tensor], object], elements: int
) -> None:
    x, y = torch.ones(6, 10), torch.ones(6, 10)
    assert moved(lambda: operation(x, y)) == elements * WIDE


@as_subtests(
    "operation",
    [
        lambda x: x.view(3, 20),
        lambda x: x[2:4, ::3].T,
        lambda x: x.split(2),
        lambda x: x[0:0],
        lambda x: x.expand(5, 6, 10),
        lambda x: x.unfold(0, 4, 1),
        lambda x: x.detach().requires_grad_(),
        lambda x: (torch.empty_like(x), x.new_empty(9), None)[2],
        lambda x: x.shape[0] + x.dim(),
    ],
)
def test_views_and_memory_that_is_only_allocated_move_nothing(operation: Callable[[torch.Tensor], object]) -> None:
    x = torch.ones(6, 10)
    assert moved(lambda: operation(x)) == 0


def test_what_is_expanded_or_overlaps_itself_is_its_memory_once() -> None:
    x = torch.ones(6, 10)
    assert stored_bytes(x.expand(5, 6, 10)) == 60 * WIDE
    assert stored_bytes(x.unfold(0, 4, 1)) == 60 * WIDE
    assert stored_bytes(x[:, ::2]) == 30 * WIDE
    assert stored_bytes(x[:, :0]) == 0
    assert moved(lambda: x[0].expand(6, 10) * x) == (10 + 60 + 60) * WIDE


@as_subtests(
    "operation",
    [lambda x, at: x[at], lambda x, at: x.index_select(0, at), lambda x, at: torch.nn.functional.embedding(at, x)],
)
def test_of_what_is_gathered_from_only_the_rows_that_are_taken_are_read(
    operation: Callable[[torch.Tensor, torch.Tensor], object],
) -> None:
    x, at = torch.ones(1000, 10), torch.tensor([3, 999])
    assert moved(lambda: operation(x, at)) == 2 * 20 * WIDE + 2 * LONG


def test_of_what_is_scattered_to_only_the_places_are_written() -> None:
    x, at, rows = torch.ones(1000, 10), torch.tensor([3, 999]), torch.ones(2, 10)
    assert moved(lambda: x.index_copy_(0, at, rows)) == 2 * 20 * WIDE + 2 * LONG
    assert moved(lambda: x.index_add_(0, at, rows)) == 3 * 20 * WIDE + 2 * LONG
    assert moved(lambda: x.index_put_((at,), rows)) == 2 * 20 * WIDE + 2 * LONG
    wide = at[:, None].expand(2, 10)  # an index whose memory is that of two numbers
    assert moved(lambda: x.scatter_(0, wide, rows)) == 2 * 20 * WIDE + 2 * LONG
    assert moved(lambda: x.scatter_add_(0, wide, rows)) == 3 * 20 * WIDE + 2 * LONG


def test_a_fused_kernel_reads_queries_keys_and_values_and_writes_its_output_and_a_sum_for_each_query() -> None:
    q, k, v = torch.ones(1, 2, 50, 8), torch.ones(1, 2, 70, 8), torch.ones(1, 2, 70, 8)
    elements = 2 * (2 * 50 + 2 * 70) * 8 + 2 * 50
    assert moved(lambda: scaled_dot_product_attention(q, k, v)) == elements * WIDE


def test_a_backward_pass_is_counted_like_any_other_call() -> None:
    x = torch.ones(6, 10, requires_grad=True)
    out, cotangent = x.exp(), torch.ones(6, 10)
    assert counted(lambda: torch.autograd.grad(out, x, cotangent)).bytes == 3 * 60 * WIDE


def unseen(into: torch.Tensor) -> torch.Tensor:
    """Write as a kernel does that is not torch's."""
    into.numpy()[:] = 1
    return into


@as_subtests(
    "call",
    [
        lambda: unseen(torch.empty(6)),
        lambda: (unseen(torch.empty(6)) * 2, None),
        lambda: unseen(torch.empty(6)).view(2, 3).mT @ torch.ones(2, 2),
    ],
)
def test_that_a_kernel_which_is_not_torch_s_took_part_is_noticed(call: Callable[[], object]) -> None:
    assert not counted(call).whole


def test_memory_that_torch_s_own_operations_fill_is_no_sign_of_another_kernel() -> None:
    def call() -> torch.Tensor:
        filled = torch.empty(6, 6)
        for row in filled.unbind():
            torch.exp(torch.ones(6), out=row)
        del row
        return filled @ filled

    assert counted(call) == Work(flops=2 * 6**3, bytes=(6 * (6 + 6 + 6) + 3 * 36) * WIDE, whole=True)
