"""A mechanism between projections, held against the formula written out."""

import math
from pathlib import Path

import pytest
import torch
from msgspec.structs import replace

from attnbench.contracts.case import Case, Mask, Shape
from attnbench.contracts.record import Job, Outcome, ProbeKind
from attnbench.contracts.variant import InvalidOutput, Unsupported
from attnbench.measure import agreement, latency, memory
from attnbench.measure.layer import Projections, exact_layer_gradients, exact_outputs, leaves
from attnbench.measure.workload import Workload
from attnbench.plugins.describe import describe_variant
from attnbench.plugins.registry import find, load
from helpers.planted import job
from helpers.subtests import as_subtests

PLUGINS = Path(__file__).parents[2] / "plugins"
SHAPE = Shape(batch=2, heads=4, kv_heads=4, seq_q=24, seq_k=24, head_dim=8)
LAYER = Case(variant="x", shape=SHAPE, level="layer", dtype="float64")
GROUPED, CROSS = replace(SHAPE, kv_heads=2), replace(SHAPE, seq_q=10, kv_heads=2)


def plugin(name: str) -> object:
    return load(find(name, "variants", flag="").target)


def measured(target: str, kind: ProbeKind, case: Case) -> Outcome:
    where = target if ":" in target else find(target, "variants", flag="").target
    planned: Job = replace(job("x", kind=kind), case=case, target=where)
    return {"latency": latency, "memory": memory, "agreement": agreement}[kind].measure(planned, lambda _text: None)


def figures(outcome: Outcome) -> dict[str, float]:
    return {one.metric: one.values[0] for one in outcome.measurements}


def written_out(x: torch.Tensor, y: torch.Tensor, w: Projections, case: Case) -> torch.Tensor:
    """Multi-head attention as Vaswani et al. 2017, section 3.2.2, write it: a head at a time, then concatenated."""
    heads, groups, width = case.shape.heads, case.shape.kv_heads, case.shape.head_dim
    wk = w.wq if w.wk is None else w.wk
    outs = []
    for h in range(heads):
        g = h * groups // heads
        q = x @ w.wq[h * width : (h + 1) * width].T
        k, v = (y @ weight[g * width : (g + 1) * width].T for weight in (wk, w.wv))
        scores = q @ k.transpose(1, 2) / math.sqrt(width)
        if case.mask.causal:
            scores = scores + torch.full_like(scores, -math.inf).triu(1 + y.shape[1] - x.shape[1])
        outs.append(scores.softmax(-1) @ v)
    return torch.cat(outs, dim=-1) @ w.wo.T


@as_subtests("shape", [SHAPE, GROUPED, CROSS])
@as_subtests("mask", [Mask(), Mask(causal=True)])
def test_vanilla_at_layer_level_is_multi_head_attention_written_out(shape: Shape, mask: Mask) -> None:
    case = replace(LAYER, shape=shape, mask=mask)
    workload = Workload(case, plugin("vanilla"))
    (call,) = workload.calls(1)
    x, y = workload.sets[0].sources
    torch.testing.assert_close(call(), written_out(x, y, workload.callee.layer.projections, case))
    workload.judge()


@as_subtests("shape, tied", [(SHAPE, False), (GROUPED, False), (CROSS, False), (SHAPE, True)])
def test_the_references_gradients_are_those_of_the_formula_written_out(shape: Shape, tied: bool) -> None:
    case = replace(LAYER, shape=shape, mask=Mask(causal=True), passes="backward")
    workload = Workload(case, plugin("vanilla"))
    projections = Projections(case, tied=tied).double()
    tokens, rows = workload.sets[0], torch.tensor([0, 3, 9])
    out = written_out(*tokens.sources, projections, case)[:, rows]
    (found,) = exact_outputs(projections, tokens, mask=case.mask, rows_R=rows)
    torch.testing.assert_close(found, out)
    wanted = torch.autograd.grad(out, list(leaves(projections, tokens).values()), tokens.cotangent[:, :3])
    torch.testing.assert_close(exact_layer_gradients(projections, tokens, mask=case.mask, rows_R=rows), wanted)


@as_subtests("passes", ["backward", "forward-backward"])
def test_gradients_reach_the_tokens_and_every_weight(passes: str) -> None:
    workload = Workload(replace(LAYER, shape=CROSS, passes=passes), plugin("vanilla"))
    (call,) = workload.calls(1)
    gradients = call()
    own = leaves(workload.callee.layer.projections, workload.sets[0])
    assert list(own) == ["x", "y", "wq", "wk", "wv", "wo"]
    assert sorted(g.shape for g in gradients) == sorted(leaf.shape for leaf in own.values())
    assert all(g.abs().sum() > 0 for g in gradients)


@as_subtests("passes", ["forward", "backward", "decode"])
@as_subtests("name", ["vanilla", "flash", "linear"])
def test_agreement_at_layer_level_is_that_of_the_same_projections(name: str, passes: str) -> None:
    shape = replace(GROUPED, seq_q=1) if passes == "decode" else GROUPED
    case = replace(LAYER, shape=shape, mask=Mask(causal=True), passes=passes, dtype="float32")
    found = figures(measured(name, "agreement", case))
    assert found["numerical_error"] < 1e-5
    assert (found["approximation_error"] < 1e-5) == (name != "linear")
    if passes == "backward":
        names = ("x", "wq", "wk", "wv", "wo")
        assert {f"approximation_error_d{one}" for one in names} == {one for one in found if "error_d" in one}


def test_a_variant_that_ties_queries_and_keys_ties_the_projections() -> None:
    case = replace(
        LAYER, shape=replace(SHAPE, seq_q=64, seq_k=64), options={"rounds": 1, "bucket": 64}, dtype="float32"
    )
    workload = Workload(case, plugin("reformer"))
    assert workload.callee.layer.projections.wk is None
    found = figures(measured("reformer", "agreement", replace(case, passes="backward")))
    assert {one for one in found if "error_d" in one} == {
        f"approximation_error_d{one}" for one in ("x", "wq", "wv", "wo")
    }


def test_linformers_own_weights_stand_beside_the_projections() -> None:
    case = replace(LAYER, passes="backward", options={"k": 4, "sharing": "headwise"}, dtype="float32")
    workload = Workload(case, plugin("linformer"))
    (call,) = workload.calls(1)
    assert len(call()) == 1 + 4 + 2
    assert figures(measured("linformer", "agreement", case))["numerical_error"] < 1e-5


# A second of each: the quick tests have one variant.
@pytest.mark.parametrize(
    "name", ["vanilla", *(pytest.param(name, marks=pytest.mark.exhaustive) for name in ("linear", "empty"))]
)
@as_subtests("kind", ["latency", "memory"])
@as_subtests("passes", ["forward", "backward", "forward-backward", "decode"])
def test_every_pass_is_measured_at_layer_level(name: str, passes: str, kind: ProbeKind) -> None:
    shape = replace(SHAPE, seq_q=1) if passes == "decode" else SHAPE
    outcome = measured(name, kind, replace(LAYER, shape=shape, passes=passes, dtype="float32"))
    assert outcome.status == "ok"
    assert figures(outcome)[kind] > 0


def test_a_call_at_layer_level_allocates_more_than_the_mechanism_alone() -> None:
    case = replace(LAYER, shape=replace(SHAPE, seq_q=256, seq_k=256), dtype="float32")
    alone, layer = (
        figures(measured("flash", "memory", replace(case, level=one)))["memory"] for one in ("core", "layer")
    )
    heads = 2 * 4 * 256 * 8 * 4
    assert layer >= alone + 3 * heads  # queries, keys and values are made in the call


def test_heads_of_unit_tokens_have_unit_variance_and_weights_follow_from_the_seed() -> None:
    case = replace(LAYER, shape=replace(SHAPE, seq_q=512, seq_k=512, head_dim=32), dtype="float32")
    workload, again = Workload(case, plugin("vanilla")), Workload(case, plugin("flash"))
    projections = workload.callee.layer.projections
    for tensor in projections.to_heads(*workload.sets[0].sources):
        assert tensor.var().item() == pytest.approx(1, rel=0.1)
    for one, other in zip(projections.parameters(), again.callee.layer.projections.parameters(), strict=True):
        assert torch.equal(one, other)
        assert not one.requires_grad  # the pass asks for none
    other = Workload(replace(case, seed=1), plugin("vanilla")).callee.layer.projections
    assert not torch.equal(projections.wq, other.wq)


def test_the_mechanism_inside_is_built_as_at_core_level() -> None:
    levels = []

    class Noting:
        def __init__(self, case: Case) -> None:
            levels.append(case.level)

        def __call__(self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
            return v * 1

    Workload(LAYER, Noting)
    assert levels == ["core"]


def test_what_is_no_output_of_the_mechanism_is_refused_before_it_is_projected() -> None:
    with pytest.raises(InvalidOutput, match="the output is a list"):
        measured(f"{PLUGINS / 'faulty.py'}:NotATensor", "latency", LAYER)
    with pytest.raises(InvalidOutput, match="the output has shape"):
        measured(f"{PLUGINS / 'faulty.py'}:WrongShape", "latency", LAYER)
    with pytest.raises(InvalidOutput, match="NaN"):
        measured(f"{PLUGINS / 'faulty.py'}:GivesNaN", "latency", LAYER)


def test_a_mechanism_that_changes_the_cache_of_a_layer_is_found_out() -> None:
    case = replace(LAYER, shape=replace(SHAPE, seq_q=1), passes="decode")
    with pytest.raises(InvalidOutput, match="state that a step starts from changes"):
        measured(f"{PLUGINS / 'faulty.py'}:ChangesInputs", "latency", case)


# A mechanism that starts from tokens.


def tokens(name: str) -> str:
    return f"{PLUGINS / 'tokens.py'}:{name}"


@as_subtests("mask", [Mask(), Mask(causal=True)])
def test_a_mechanism_that_starts_from_tokens_is_called_with_them(mask: Mask) -> None:
    workload = Workload(replace(LAYER, mask=mask), load(tokens("Mean")))
    (call,) = workload.calls(1)
    out, x = call(), workload.sets[0].x_BTE
    torch.testing.assert_close(out[:, -1], x.mean(dim=1))
    torch.testing.assert_close(out[:, 0], x[:, 0] if mask.causal else x.mean(dim=1))
    workload.judge()


def test_that_a_mechanism_starts_from_tokens_is_part_of_its_description() -> None:
    found = describe_variant(find(tokens("Mean"), "variants", flag=""), {})
    assert found.support is not None
    assert found.support.level == "layer"


@as_subtests("kind", ["latency", "memory"])
@as_subtests("passes", ["forward", "backward", "forward-backward"])
def test_a_mechanism_that_starts_from_tokens_is_measured(passes: str, kind: ProbeKind) -> None:
    assert measured(tokens("Mean"), kind, replace(LAYER, passes=passes)).status == "ok"


def test_a_mechanism_that_starts_from_tokens_is_given_both_sequences_unless_it_refuses() -> None:
    case = replace(LAYER, shape=replace(SHAPE, seq_q=10))
    workload = Workload(case, load(tokens("MeanOfOthers")))
    (call,) = workload.calls(1)
    torch.testing.assert_close(call()[:, 0], workload.sets[0].y_BSE.mean(dim=1))
    with pytest.raises(Unsupported, match="averaged among themselves"):
        Workload(case, load(tokens("Mean")))


def test_a_mechanism_that_starts_from_tokens_has_no_core_and_no_agreement_with_exact_attention() -> None:
    with pytest.raises(Unsupported, match=r"starts from tokens, .* with --level layer$"):
        Workload(replace(LAYER, level="core"), load(tokens("Mean")))
    with pytest.raises(Unsupported, match="no queries, keys and values"):
        measured(tokens("Mean"), "agreement", LAYER)


def test_a_mechanism_that_starts_from_tokens_decodes_only_with_a_state() -> None:
    case = replace(LAYER, shape=replace(SHAPE, seq_q=1), passes="decode")
    with pytest.raises(Unsupported, match="neither prefill nor step"):
        Workload(case, load(tokens("MeanOfOthers")))
    workload = Workload(case, load(tokens("SteppingMean")))
    (call,) = workload.calls(1)
    torch.testing.assert_close(call()[:, 0], workload.sets[0].y_BSE.mean(dim=1))
    workload.judge()
