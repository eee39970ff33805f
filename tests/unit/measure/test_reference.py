"""The harness's own exact attention against loops over single scores."""

import math

import torch

from attnbench.contracts.case import Mask
from attnbench.measure.inputs import Inputs
from attnbench.measure.memory import allocator_peak
from attnbench.measure.reference import chosen_rows, exact_attention, exact_gradients, visible
from helpers.subtests import as_subtests


def looped(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, mask: Mask) -> torch.Tensor:
    batch, heads, queries, width = q.shape
    groups, keys = k.shape[1], k.shape[2]
    out = torch.zeros(batch, heads, queries, v.shape[3], dtype=torch.float64)
    for b in range(batch):
        for h in range(heads):
            g = h * groups // heads
            for t in range(queries):
                place = t + keys - queries
                total = 0.0
                for s in range(keys):
                    if mask.causal and s > place:
                        continue
                    if mask.window is not None and abs(s - place) >= mask.window:
                        continue
                    weight = math.exp(
                        sum(float(a) * float(c) for a, c in zip(q[b, h, t], k[b, g, s], strict=True)) / math.sqrt(width)
                    )
                    total += weight
                    out[b, h, t] += weight * v[b, g, s]
                out[b, h, t] /= total
    return out


@as_subtests("queries, keys", [(5, 5), (1, 7), (3, 8)])
@as_subtests("mask", [Mask(), Mask(causal=True), Mask(window=2), Mask(causal=True, window=3)])
def test_exact_attention_equals_loops_over_single_scores(queries: int, keys: int, mask: Mask) -> None:
    torch.manual_seed(0)
    q = torch.randn(2, 4, queries, 3, dtype=torch.float64)
    k, v = (torch.randn(2, 2, keys, 3, dtype=torch.float64) for _ in range(2))
    torch.testing.assert_close(exact_attention(q, k, v, mask=mask), looped(q, k, v, mask), rtol=1e-12, atol=1e-12)


def test_chosen_rows_are_those_of_the_whole() -> None:
    q, k, v = (torch.randn(1, 2, 30, 4, dtype=torch.float64) for _ in range(3))
    rows = torch.tensor([0, 7, 29])
    whole = exact_attention(q, k, v, mask=Mask(causal=True))
    torch.testing.assert_close(exact_attention(q, k, v, mask=Mask(causal=True), rows_R=rows), whole[:, :, rows])


def test_a_window_as_wide_as_the_sequence_hides_nothing() -> None:
    rows = torch.arange(9)
    assert visible(Mask(window=9), rows, queries=9, keys=9).all()


def test_rows_are_all_up_to_2048_and_then_256_that_follow_from_the_seed() -> None:
    cpu = torch.device("cpu")
    assert len(chosen_rows(2048, seed=0, device=cpu)) == 2048
    drawn = chosen_rows(5000, seed=0, device=cpu)
    assert len(set(drawn.tolist())) == 256
    assert torch.equal(drawn, chosen_rows(5000, seed=0, device=cpu))
    assert not torch.equal(drawn, chosen_rows(5000, seed=1, device=cpu))


@as_subtests("tied", [False, True])
def test_gradients_taken_a_head_at_a_time_are_those_of_the_whole(tied: bool) -> None:
    heads, keys = (2, 9) if tied else (4, 12)
    q, grad = (torch.randn(2, heads, 9, 3, dtype=torch.float64) for _ in range(2))
    k, v = (torch.randn(2, 2, keys, 3, dtype=torch.float64) for _ in range(2))
    inputs = Inputs(
        q_BHTD=q.requires_grad_(),
        k_BGSD=q if tied else k.requires_grad_(),
        v_BGSD=v.requires_grad_(),
        cotangent=grad,
    )
    mask, rows = Mask(causal=True), torch.tensor([0, 4, 8])
    out = exact_attention(*inputs.tensors, mask=mask, rows_R=rows)
    wanted = torch.autograd.grad(out, tuple(inputs.leaves.values()), grad[:, :, :3])
    torch.testing.assert_close(exact_gradients(inputs, mask=mask, rows_R=rows), wanted, rtol=1e-12, atol=1e-12)


def test_memory_of_the_exact_gradients_grows_with_the_heads_by_the_gradients_alone() -> None:
    def scratch(heads: int) -> int:
        shape, rows = (1, heads, 512, 8), torch.arange(512)
        q, k, v, grad = (torch.randn(shape).requires_grad_() for _ in range(4))
        inputs = Inputs(q_BHTD=q, k_BGSD=k, v_BGSD=v, cotangent=grad.detach())
        return allocator_peak(lambda: exact_gradients(inputs, mask=Mask(), rows_R=rows))

    gradients_of_a_head = 3 * 512 * 8 * 4
    assert scratch(8) - scratch(2) == 6 * gradients_of_a_head


@as_subtests("queries", [2049, 4096, 5000, 131072])
def test_the_chosen_rows_have_the_first_the_last_and_both_sides_of_edges_of_blocks(queries: int) -> None:
    rows = chosen_rows(queries, seed=0, device=torch.device("cpu")).tolist()
    assert len(set(rows)) == 256
    assert {0, queries - 1, 63, 64} <= set(rows)
    assert sum(row % 64 == 0 for row in rows) >= 32
