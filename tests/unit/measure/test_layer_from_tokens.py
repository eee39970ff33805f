"""A core mechanism between projections that has a way of its own from tokens."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from msgspec.structs import replace

from attnbench import Projections
from attnbench.contracts.case import Case, Shape
from attnbench.contracts.variant import InvalidOutput
from attnbench.measure.counting import counted
from attnbench.measure.workload import Workload
from attnbench.plugins.registry import find, load
from helpers.subtests import as_subtests

SHAPE = Shape(batch=2, heads=4, kv_heads=4, seq_q=24, seq_k=24, head_dim=8)
LAYER = Case(variant="x", shape=SHAPE, level="layer", dtype="float64")


class MixesTokens:
    """Averages all values: of the tokens' average, in place of the average of what they are projected to."""

    def __init__(self, case: Case) -> None:
        pass

    def __call__(self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        return v.mean(dim=2, keepdim=True).expand_as(q)

    def from_tokens(self, x: torch.Tensor, y: torch.Tensor, projections: Projections) -> torch.Tensor:
        heads = projections.values(y.mean(dim=1, keepdim=True))
        return heads.expand(-1, -1, x.shape[1], -1).clone()


def a_call(case: Case, mechanism: object) -> Callable[[], Any]:
    (call,) = Workload(case, mechanism).calls(1)
    return call


@as_subtests("shape", [SHAPE, replace(SHAPE, seq_q=10)])
@as_subtests("passes", ["forward", "forward-backward"])
def test_a_way_of_its_own_from_tokens_is_taken_and_gives_what_the_call_gives(
    shape: Shape, passes: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    case = replace(LAYER, shape=shape, passes=passes)
    found, work = a_call(case, MixesTokens)(), counted(a_call(case, MixesTokens))
    monkeypatch.delattr(MixesTokens, "from_tokens")
    torch.testing.assert_close(found, a_call(case, MixesTokens)())
    assert work.flops < counted(a_call(case, MixesTokens)).flops


def test_a_way_of_its_own_from_tokens_is_not_taken_in_decoding(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(MixesTokens, "from_tokens", lambda *_: pytest.fail("its keys are cached"))
    workload = Workload(replace(LAYER, shape=replace(SHAPE, seq_q=1), passes="decode"), MixesTokens)
    (call,) = workload.calls(1)
    call()
    workload.judge()


def test_what_a_way_from_tokens_gives_is_examined_as_heads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(MixesTokens, "from_tokens", lambda _self, x, _y, _projections: x)
    with pytest.raises(InvalidOutput, match="the output has shape"):
        a_call(LAYER, MixesTokens)()


def test_linformer_projects_the_sequence_before_the_heads_where_that_is_less_work() -> None:
    def flops(seq: int, sharing: str) -> int:
        case = replace(LAYER, shape=replace(SHAPE, seq_q=seq, seq_k=seq), options={"k": 4, "sharing": sharing})
        return counted(a_call(case, load(find("linformer", "variants", flag="").target))).flops

    outside, attend, batch, width, columns = 2 * 64 * 32 * 32, 2 * 64 * 4 * 32, 2, 32, 4
    heads_first = outside + attend + 2 * 64 * width * width + 2 * columns * 64 * width
    sequence_first = outside + attend + 2 * columns * 64 * width + 2 * columns * width * width
    assert flops(64, "none") == 2 * batch * heads_first
    assert flops(64, "headwise") == 2 * batch * sequence_first
    assert flops(64, "key-value") == 2 * batch * (sequence_first - columns * 64 * width)
    assert flops(3, "headwise") == flops(3, "none")
