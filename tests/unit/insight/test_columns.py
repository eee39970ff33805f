import numpy as np
import pytest
from msgspec import Struct

from attnbench.analysis.columns import ByRound, Columns, Words


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


class Lot(Struct, frozen=True):
    name: str
    unit: str | None = None


UNITS = Words.of(["s", "1", "s", None])
LOTS = Columns([Lot("a"), Lot("b")], np.array([1, 1, 0, 0]), {"unit": UNITS})


def test_cells_that_repeat_are_held_once_and_come_back_in_their_places():
    assert (UNITS.words, UNITS.places.tolist()) == (["s", "1", None], [0, 1, 0, 2])
    assert UNITS.cells() == ["s", "1", "s", None]
    assert Words.of([]).cells() == []
    assert LOTS.rows() == [Lot("b", "s"), Lot("b", "1"), Lot("a", "s"), Lot("a")]
    assert LOTS.take(np.array([3, 1])).rows() == [Lot("a"), Lot("b", "1")]


def test_structs_are_found_by_a_cell_that_repeats():
    assert UNITS.are("s", "bytes").tolist() == [True, False, True, False]
    assert UNITS.are("bytes").tolist() == [False] * 4
    assert LOTS.words("unit") is UNITS
    assert Columns.of([Lot("c", "s")], ("unit",)).words("unit").are("s").tolist() == [True]


def test_cells_are_made_of_those_of_several_columns():
    kinds = Words.of(["x", "x", "y", "y"])
    assert Words.combined(lambda kind, unit: f"{kind}{unit}", kinds, UNITS).cells() == ["xs", "x1", "ys", "yNone"]
    assert Words.combined(lambda kind, unit: kind, Words.of([]), Words.of([])).cells() == []


def test_columns_of_cells_that_repeat_are_joined_by_their_cells_however_each_holds_them():
    other = Columns([Lot("c")], np.array([0, 0]), {"unit": Words(["bytes", "s", "unused"], np.array([1, 0]))})
    joined = LOTS.joined(Columns.of([Lot("d", "1")], ("unit",)), other, Columns.of([], ("unit",)))
    assert joined.rows() == [*LOTS.rows(), Lot("d", "1"), Lot("c", "s"), Lot("c", "bytes")]
