import numpy as np
import pytest
from msgspec import Struct

from attnbench.insight.columns import ByRound, Columns


class Reading(Struct, frozen=True):
    name: str
    figure: float | None = None
    words: tuple[str, ...] = ()


FLOWERS = Columns(
    [Reading("rose"), Reading("lily")],
    np.array([0, 1, 0]),
    {"figure": np.array([1.5, np.nan, 2.5]), "words": [("red",), (), ("white", "red")]},
)
WHOLE = [Reading("rose", 1.5, ("red",)), Reading("lily"), Reading("rose", 2.5, ("white", "red"))]
TREES = [Reading("oak", 3.0), Reading("elm", None, ("old",))]


def test_rows_are_the_shared_structs_completed_and_nan_is_null():
    assert FLOWERS.rows() == WHOLE
    assert len(FLOWERS) == 3


def test_structs_that_share_nothing_come_back_as_they_are():
    for own in ((), ("figure", "words")):
        assert Columns.of(TREES, own).rows() == TREES
    assert Columns.of([]).rows() == []


@pytest.mark.parametrize("which", [[2, 0], [1], []])
def test_some_of_them_are_taken_in_the_order_asked_for(which):
    assert FLOWERS.take(np.array(which, dtype=np.int64)).rows() == [WHOLE[place] for place in which]


def test_several_are_joined_in_order_and_keep_what_they_share_once():
    trees = Columns.of(TREES, tuple(FLOWERS.own))
    joined = FLOWERS.joined(FLOWERS.take(np.array([2])), trees)
    assert joined.rows() == [*WHOLE, WHOLE[2], *TREES]
    assert [each.name for each in joined.shared] == ["rose", "lily", "oak", "elm"]
    assert joined.own["figure"].dtype == np.float64


class Timing(Struct, frozen=True):
    name: str
    medians: dict[int, float] = {}


TIMINGS = [Timing("a", {1: 1.0, 3: 3.0}), Timing("b", {}), Timing("c", {2: 2.0})]


def test_figures_by_round_come_back_as_the_mappings_they_were():
    found = Columns.of(TIMINGS, ("medians",))
    assert found.own["medians"].rounds == (1, 2, 3)
    assert found.rows() == TIMINGS
    assert found.take(np.array([2, 1])).rows() == [TIMINGS[2], TIMINGS[1]]


def test_figures_of_other_rounds_are_joined_by_their_rounds():
    later = Columns(
        [Timing("d")], np.array([0, 0]), {"medians": ByRound((2, 7), np.array([[2.0, 7.0], [np.nan, 0.5]]))}
    )
    joined = Columns.of(TIMINGS, ("medians",)).joined(Columns.of([], ("medians",)), later)
    assert joined.own["medians"].rounds == (1, 2, 3, 7)
    assert joined.rows() == [*TIMINGS, Timing("d", {2: 2.0, 7: 7.0}), Timing("d", {7: 0.5})]


def test_figures_without_any_round_are_empty_mappings():
    assert ByRound.of([{}, {}]).mappings() == [{}, {}]
    assert ByRound.of([]).mappings() == []
