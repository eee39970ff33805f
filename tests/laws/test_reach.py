"""A law of every mechanism that approximates: the share of the keys that it declares to see is the share that it reads.

A mechanism reads a key if its effective matrix gives the key a weight. Hashes and random blocks find keys by chance, so
that means over heads and seeds are compared.
"""

from dataclasses import dataclass

import msgspec
import pytest
import torch

from attnbench import Case, Mask, Shape
from attnbench.contracts.variant import Unsupported, build, complete_options, reach_of, spans_of, support_of
from attnbench.contracts.variant import scaled as scaled_options
from attnbench.measure.effective import effective_matrix
from attnbench.measure.failure import LeftOut
from attnbench.measure.inputs import draw
from attnbench.measure.reference import visible
from laws.workloads import ENTRIES, variant

KEYS = 96
# Options under which 96 keys are many, and how far a declared share may be from the measured one, relative to it.
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
    "sinkhorn": [{"block": 8}],
    "smyrf": [{"cluster": 8, "rounds": 1}, {"cluster": 8, "rounds": 3}],
    "sparse": [{"block": 4}, {"block": 4, "globals": 0, "neighbours": 2}],
    "sparse-fixed": [{"stride": 8, "c": 2}],
    "sparse-strided": [{"stride": 8}],
    "window": [{"width": 5}, {"width": 5, "dilation": 3}],
}
POOLS = ("hierarchical", "linformer", "long-short", "nystrom", "sinkhorn")  # mix keys before they are weighed
BY_CHANCE = {"bigbird": 0.1, "block-sparse": 0.15, "moba": 0.1, "reformer": 0.35, "routing": 0.35, "smyrf": 0.35}
APPROXIMATE = [name for name in ENTRIES if not support_of(variant(name)).exact]


@dataclass
class Planted:
    """The case of one mechanism, with options, at a length and under a mask."""

    name: str
    options: dict[str, object]
    causal: bool
    keys: int = KEYS

    @property
    def case(self) -> Case:
        complete = msgspec.structs.asdict(complete_options(variant(self.name), self.options))
        shape = Shape(batch=1, heads=4, kv_heads=4, seq_q=self.keys, seq_k=self.keys, head_dim=16)
        return Case(variant=self.name, options=complete, shape=shape, mask=Mask(causal=self.causal), dtype="float64")

    @property
    def declared(self) -> float:
        share = reach_of(variant(self.name), self.case)
        assert share is not None
        return share

    def measured(self, seeds: int = 3) -> float:
        """Return the mean share of the visible keys that have a weight."""
        shares = []
        for seed in range(seeds):
            case = msgspec.structs.replace(self.case, seed=seed)
            (inputs,) = draw(case, sets=1, tied=support_of(variant(self.name)).ties_qk)
            matrix_BHTS = effective_matrix(build(variant(self.name), case), inputs.tensors, seed=seed)
            visible_TS = visible(case.mask, torch.arange(self.keys), queries=self.keys, keys=self.keys)
            shares.append(((matrix_BHTS != 0) & visible_TS).sum(-1) / visible_TS.sum(-1))
        return float(torch.stack(shares).double().mean())


def planted(names: list[str]) -> list[Planted]:
    """Plant each mechanism with its options, full and causal as far as it serves them."""
    several = []
    for name in names:
        for options in OPTIONS.get(name, [{}]):
            for causal in (False, True):
                one = Planted(name, options, causal)
                try:
                    build(variant(name), one.case)
                except Unsupported:
                    continue
                several.append(one)
    return several


@pytest.mark.parametrize("name", APPROXIMATE)
def test_every_mechanism_that_approximates_declares_its_reach(name):
    assert planted([name])
    for one in planted([name]):
        assert 0 < one.declared <= 1


@pytest.mark.parametrize("name", [name for name in APPROXIMATE if name not in POOLS])
def test_the_declared_share_of_the_keys_is_the_share_that_has_a_weight(name):
    for one in planted([name]):
        try:
            measured = one.measured()
        except LeftOut:  # not linear in its values: no matrix to look at
            return
        assert one.declared == pytest.approx(measured, rel=BY_CHANCE.get(name, 0.02)), one


@pytest.mark.parametrize("name", [name for name in APPROXIMATE if spans_of(variant(name))])
def test_with_spans_in_proportion_a_shorter_sequence_is_seen_in_the_same_share(name):
    for one in planted([name]):
        spans = spans_of(variant(name))
        wide = {key: value * 16 if key in spans else value for key, value in one.options.items()}
        if one.options.get("globals", 0) and name == "longformer":  # positions, a fixed number at any length
            continue
        long = Planted(name, wide, one.causal, keys=16 * KEYS)
        short = scaled_options(long.case.options, spans, costed=long.keys, trained=KEYS)
        assert {key: short[key] for key in one.options} == one.options
        assert one.declared == pytest.approx(long.declared, rel=0.3), one


@pytest.mark.parametrize("name", [name for name in APPROXIMATE if spans_of(variant(name))])
def test_a_span_as_long_as_the_sequence_reaches_every_key(name):
    spans = spans_of(variant(name))
    for one in planted([name]):
        gapless = {key: 1 for key in one.options if key == "dilation"}
        whole = Planted(name, {**one.options, **dict.fromkeys(spans, 2 * KEYS), **gapless}, one.causal)
        assert whole.declared == pytest.approx(1), whole


def test_a_wrong_declaration_is_caught(monkeypatch):
    one = Planted("window", {"width": 5}, causal=False)
    assert one.declared == pytest.approx(one.measured(), rel=0.02)
    monkeypatch.setattr(variant("window"), "reach", staticmethod(lambda case: 5 / case.shape.seq_k))
    assert one.declared != pytest.approx(one.measured(), rel=0.02)
