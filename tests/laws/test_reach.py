"""A law of every mechanism that approximates: the share of the keys that it declares to see is the share that it reads.

A mechanism reads a key if its effective matrix gives the key a weight. Hashes and random blocks find keys by chance, so
that means over heads and seeds are compared. Where keys are pooled, what a query reads is counted by rank: over many
draws of the queries, with the same keys, its rows of the matrix span one dimension for each key or pool.
"""
# B batch (or draws of queries), H heads, T queries, S keys

from dataclasses import dataclass
from itertools import product

import msgspec
import pytest
import torch

from attnbench import Case, Mask, Shape
from attnbench.contracts.reach import reach_of, spans_of
from attnbench.contracts.reach import scaled as scaled_options
from attnbench.contracts.variant import Unsupported, build, complete_options, support_of
from attnbench.measure.effective import effective_matrix
from attnbench.measure.failure import LeftOut
from attnbench.measure.inputs import Inputs, draw
from attnbench.measure.reference import visible
from laws.workloads import ENTRIES, MECHANISMS, variant

KEYS = 96
# Options under which 96 keys are many, and how far off, relatively, a declared share may be.
OPTIONS: dict[str, list[dict[str, object]]] = {
    "bigbird": [{"block": 4, "globals": 1, "random": 1}],
    "block-sparse": [{"block": 8}, {"block": 4, "pattern": "random", "density": 0.25}],
    "hierarchical": [{"block": 4}],
    "linformer": [{"k": 12}],
    "local-average": [{"width": 7}],
    "long-short": [{"width": 8, "rank": 2, "segment": 16}],
    "longformer": [{"width": 8, "globals": 0}, {"width": 8, "globals": 3, "dilation": 2}],
    "moba": [{"block": 8, "topk": 3}],
    "nystrom": [{"landmarks": 12, "conv": 0}],
    "reformer": [{"bucket": 6, "rounds": 1}, {"bucket": 6, "rounds": 3}],
    "routing": [{"window": 8, "clusters": 12}],
    "sinkhorn": [{"block": 8}, {"block": 8, "balance": "softmax"}],
    "smyrf": [{"cluster": 8, "rounds": 1}, {"cluster": 8, "rounds": 3}],
    "sparse": [{"block": 4}, {"block": 4, "globals": 0, "neighbours": 2}],
    "sparse-fixed": [{"stride": 8, "c": 2}, {"stride": 8, "c": 2, "causal": True}],
    "sparse-strided": [{"stride": 8}],
    "window": [{"width": 5}, {"width": 5, "dilation": 3}],
}
POOLS = ("hierarchical", "linformer", "long-short", "sinkhorn")  # of keys, before they are weighed
POOLS_BY_QUERIES = ("nystrom",)  # other queries, other pools: its rank is that of the rows of all queries
DRAWS = 32  # more than any of these reads keys and pools: a rank cannot exceed it
BY_CHANCE = {"block-sparse": 0.1, "reformer": 0.2, "routing": 0.3, "smyrf": 0.05}  # others: 0.02
APPROXIMATE = [name for name in ENTRIES if not support_of(variant(name)).exact]


@dataclass
class Planted:
    """The case of one mechanism, with options, at a length and under a mask."""

    name: str
    options: dict[str, object]
    causal: bool
    keys: int = KEYS
    queries: int = KEYS

    @property
    def case(self) -> Case:
        complete = msgspec.structs.asdict(complete_options(variant(self.name), self.options))
        shape = Shape(batch=1, heads=4, kv_heads=4, seq_q=self.queries, seq_k=self.keys, head_dim=16)
        return Case(variant=self.name, options=complete, shape=shape, mask=Mask(causal=self.causal), dtype="float64")

    @property
    def declared(self) -> float:
        share = reach_of(variant(self.name), self.case)
        assert share is not None
        return share

    def measured(self) -> float:
        """Return the mean share of the visible keys that have a weight, over three seeds where chance decides."""
        shares, visible_TS = [], self.visible()
        for seed in range(3 if self.name in BY_CHANCE else 1):
            case = msgspec.structs.replace(self.case, seed=seed)
            (inputs,) = draw(case, sets=1, tied=support_of(variant(self.name)).ties_qk)
            shares.append(((weights(case, inputs) != 0) & visible_TS).sum(-1) / visible_TS.sum(-1))
        return float(torch.stack(shares).double().mean())

    def spanned(self) -> float:
        """Return the rank of what queries read over the keys that they see, the mean over queries."""
        shape = msgspec.structs.replace(self.case.shape, batch=DRAWS, heads=1, kv_heads=1)
        case = msgspec.structs.replace(self.case, shape=shape)
        (inputs,) = draw(case, sets=1)
        first = {"k_BGSD": inputs.k_BGSD[:1], "v_BGSD": inputs.v_BGSD[:1]}
        same = {name: x.repeat(DRAWS, 1, 1, 1) for name, x in first.items()}
        weights_BTS = weights(case, msgspec.structs.replace(inputs, **same))[:, 0]
        rows = weights_BTS[0] if self.name in POOLS_BY_QUERIES else weights_BTS.transpose(0, 1)
        return float((torch.linalg.matrix_rank(rows, rtol=1e-9) / self.visible().sum(-1)).mean())

    def visible(self) -> torch.Tensor:
        """Return which keys the mask shows to each query: TS."""
        return visible(self.case.mask, torch.arange(self.queries), queries=self.queries, keys=self.keys)


def weights(case: Case, inputs: Inputs) -> torch.Tensor:
    """Return the effective matrix, BHTS, or the outputs' derivatives by the values of a mechanism not linear in them.

    They are along one direction of the features, in which no sum of a Fourier transform's cosines cancels.
    """
    attention = build(variant(case.variant), case)
    try:
        return effective_matrix(attention, inputs.tensors, seed=case.seed)
    except LeftOut:
        q_BHTD, k_BHSD, v_BHSD = inputs.tensors
        v_BHSD = v_BHSD.detach().requires_grad_()
        direction_D = torch.arange(1, v_BHSD.shape[3] + 1, dtype=v_BHSD.dtype).sqrt()
        outputs_BHT = attention(q_BHTD, k_BHSD, v_BHSD) @ direction_D
        each = [torch.autograd.grad(out_BH.sum(), v_BHSD, retain_graph=True)[0] for out_BH in outputs_BHT.unbind(-1)]
        return torch.stack(each, dim=2) @ direction_D


def planted(name: str, *, queries: tuple[int, ...] = (KEYS,)) -> list[Planted]:
    """Plant a mechanism with its options, full and causal and with each number of queries, as far as it serves them."""
    several = []
    for options, causal, number in product(OPTIONS.get(name, [{}]), (False, True), queries):
        one = Planted(name, options, causal, queries=number)
        try:
            build(variant(name), one.case)
        except Unsupported:
            continue
        several.append(one)
    assert several, f"{name} serves none of its planted cases"
    return several


@pytest.mark.parametrize("name", [name for name in MECHANISMS if not support_of(variant(name)).exact])
def test_every_mechanism_that_approximates_declares_its_reach(name):
    for causal in (False, True):
        assert 0 < Planted(name, {}, causal).declared <= 1


@pytest.mark.parametrize("name", [name for name in APPROXIMATE if name not in POOLS + POOLS_BY_QUERIES])
def test_the_declared_share_of_the_keys_is_the_share_that_has_a_weight(name):
    for one in planted(name, queries=(KEYS, 40)):
        assert one.declared == pytest.approx(one.measured(), rel=BY_CHANCE.get(name, 0.02)), one


@pytest.mark.parametrize("name", POOLS + POOLS_BY_QUERIES)
def test_the_declared_share_of_the_keys_counts_a_pool_as_one_key(name):
    for one in planted(name, queries=(KEYS, 40)):
        assert one.declared == pytest.approx(one.spanned(), rel=0.001), one


@pytest.mark.parametrize("name", [name for name in APPROXIMATE if spans_of(variant(name))])
def test_with_spans_in_proportion_a_shorter_sequence_is_seen_in_the_same_share(name):
    """From 1536 keys to 384, within 4%: a causal query of longformer's sees half the width and its own key as well."""
    spans = spans_of(variant(name))
    for one in planted(name):
        if one.options.get("globals", 0) and name == "longformer":  # positions, a fixed number at any length
            continue
        short, long = (
            Planted(
                name,
                {key: value * times if key in spans else value for key, value in one.options.items()},
                one.causal,
                keys=times * KEYS,
                queries=times * KEYS,
            )
            for times in (4, 16)
        )
        scaled = scaled_options(long.case.options, spans, costed=long.keys, trained=short.keys)
        assert scaled == short.case.options
        assert short.declared == pytest.approx(long.declared, rel=0.04), one


@pytest.mark.parametrize("name", [name for name in APPROXIMATE if spans_of(variant(name))])
def test_a_span_as_long_as_the_sequence_reaches_every_key(name):
    spans = spans_of(variant(name))
    for one in planted(name):
        gapless = {key: 1 for key in one.options if key == "dilation"}
        whole = Planted(name, {**one.options, **dict.fromkeys(spans, 2 * KEYS), **gapless}, one.causal)
        assert whole.declared == pytest.approx(1), whole


def test_a_wrong_declaration_is_caught(monkeypatch):
    one = Planted("window", {"width": 5}, causal=False)
    assert one.declared == pytest.approx(one.measured(), rel=0.02)
    monkeypatch.setattr(variant("window"), "reach", staticmethod(lambda case: 5 / case.shape.seq_k))
    assert one.declared != pytest.approx(one.measured(), rel=0.02)


def test_a_wrong_count_of_pools_is_caught(monkeypatch):
    one = Planted("linformer", {"k": 12}, causal=False)
    assert one.declared == pytest.approx(one.spanned(), rel=0.001)
    monkeypatch.setattr(variant("linformer"), "reach", staticmethod(lambda case: 13 / case.shape.seq_k))
    assert one.declared != pytest.approx(one.spanned(), rel=0.001)
