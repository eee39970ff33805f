"""Many structs as columns: what a group of them has in common is held once, and only what they differ in apart."""

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import count, product
from typing import Any, Generic, Self, TypeVar

import numpy as np
from msgspec import Struct
from msgspec.structs import replace
from numpy.typing import NDArray

from attnbench.contracts.stats import FloatArray

T = TypeVar("T", bound=Struct)
Places = NDArray[np.int64]


class ByRound(Struct, frozen=True, eq=False):
    """Figures by round: one row of `values_NR` for each struct, NaN where a round gave none; `rounds` ascend.

    Rounds are few, and most structs have a figure of each.
    """

    rounds: tuple[int, ...]
    values_NR: FloatArray

    @classmethod
    def of(cls, mappings: Sequence[Mapping[int, float]]) -> Self:
        """Take mappings from round to figure."""
        rounds = tuple(sorted(set().union(*mappings)))
        values = [[each.get(number, math.nan) for number in rounds] for each in mappings]
        return cls(rounds, np.array(values, dtype=np.float64).reshape(len(mappings), len(rounds)))

    def mappings(self) -> list[dict[int, float]]:
        """Give the figures of each by round."""
        return [
            {number: value for number, value in zip(self.rounds, values, strict=True) if not math.isnan(value)}
            for values in self.values_NR.tolist()
        ]

    def at(self, rounds: Sequence[int]) -> FloatArray:
        """Give the values with columns for these rounds, which ascend and have all of its own among them."""
        values = np.full((len(self.values_NR), len(rounds)), np.nan)
        values[:, np.searchsorted(rounds, self.rounds)] = self.values_NR
        return values


class Words(Struct, frozen=True, eq=False):
    """Cells few of which differ: each is held once in `words`, and `places` say which of them a struct has."""

    words: Sequence[Any]
    places: Places

    @classmethod
    def of(cls, cells: Iterable[Any]) -> Self:
        """Take cells that can be told apart by a dictionary."""
        known: defaultdict[Any, int] = defaultdict(count().__next__)
        places = np.fromiter(map(known.__getitem__, cells), dtype=np.int64)
        return cls(list(known), places)

    @classmethod
    def combined(cls, make: Callable[..., Any], *columns: "Words") -> Self:
        """Make each cell of those of several columns."""
        places = np.zeros_like(columns[0].places)
        for column in columns:
            places = places * len(column.words) + column.places
        return cls([make(*words) for words in product(*(column.words for column in columns))], places)

    def take(self, which: Places) -> Self:
        """Give some of them, in the order asked for."""
        return type(self)(self.words, self.places[which])

    def are(self, *words: object) -> NDArray[np.bool_]:
        """Tell which structs have one of these cells."""
        found: NDArray[np.bool_] = np.array([each in words for each in self.words], dtype=np.bool_)[self.places]
        return found

    def cells(self) -> list[Any]:
        """Give the cell of each struct."""
        return list(map(self.words.__getitem__, self.places.tolist()))


Column = NDArray[Any] | list[Any] | ByRound | Words  # in an array of floats, NaN is null


class Columns(Struct, Generic[T], frozen=True, eq=False):
    """Structs column by column: `shared` are whole ones, `places` says by which of them each is completed.

    `own` are the columns in which those completed by one differ; the shared struct's value of them means nothing.
    """

    shared: Sequence[T]
    places: Places
    own: dict[str, Column]

    @classmethod
    def of(cls, structs: Sequence[T], own: Sequence[str] = ()) -> Self:
        """Take apart structs with nothing in common; `own` are the columns of those that they are to be joined to.

        Of those, mappings are figures by round.
        """
        columns = {name: [getattr(each, name) for each in structs] for name in own}
        return cls(structs, np.arange(len(structs)), {name: _column(cells) for name, cells in columns.items()})

    def rows(self) -> list[T]:
        """Give every struct whole."""
        cells = zip(*(_cells(column) for column in self.own.values()), strict=True) if self.own else [()] * len(self)
        return [
            replace(self.shared[place], **dict(zip(self.own, own, strict=True)))
            for place, own in zip(self.places.tolist(), cells, strict=True)
        ]

    def cells(self, name: str) -> list[Any]:
        """Give a column in which they differ, cell by cell."""
        return _cells(self.own[name])

    def words(self, name: str) -> Words:
        """Give a column in which they differ, and of whose cells few do."""
        return _words(self.own[name])

    def take(self, which: Places) -> Self:
        """Give some of them, in the order asked for."""
        own = {name: _take(column, which) for name, column in self.own.items()}
        return type(self)(self.shared, self.places[which], own)

    def joined(self, *others: Self) -> Self:
        """Give these and then others, which have the same columns of their own."""
        parts = (self, *others)
        wholes = {id(part.shared): part.shared for part in parts}
        starts = dict(zip(wholes, np.cumsum([0, *map(len, wholes.values())]).tolist(), strict=False))
        return type(self)(
            [each for shared in wholes.values() for each in shared],
            np.concatenate([part.places + starts[id(part.shared)] for part in parts]),
            {name: _joined([part.own[name] for part in parts]) for name in self.own},
        )

    def __len__(self) -> int:
        return len(self.places)


def _column(cells: list[Any]) -> Column:
    return ByRound.of(cells) if cells and isinstance(cells[0], Mapping) else cells


def _cells(column: Column) -> list[Any]:
    match column:
        case ByRound():
            return column.mappings()
        case Words():
            return column.cells()
        case list():
            return column
    cells: list[Any] = column.tolist()
    return [None if math.isnan(cell) else cell for cell in cells] if column.dtype.kind == "f" else cells


def _words(column: Column) -> Words:
    return column if isinstance(column, Words) else Words.of(_cells(column))


def _take(column: Column, which: Places) -> Column:
    match column:
        case ByRound(rounds, values_NR):
            return ByRound(rounds, values_NR[which])
        case Words():
            return column.take(which)
        case list():
            return [column[place] for place in which.tolist()]
    return column[which]


def _joined(columns: Sequence[Column]) -> Column:
    by_round = [column for column in columns if isinstance(column, ByRound)]
    if by_round:  # any other is one of no structs
        rounds = tuple(sorted({number for column in by_round for number in column.rounds}))
        return ByRound(rounds, np.concatenate([column.at(rounds) for column in by_round]))
    if any(isinstance(column, Words) for column in columns):
        parts = list(map(_words, columns))
        starts = np.cumsum([0, *(len(part.words) for part in parts)])[:-1]
        places = np.concatenate([part.places + start for part, start in zip(parts, starts, strict=True)])
        return Words.of(word for part in parts for word in part.words).take(places)
    dtype = next((column.dtype for column in columns if isinstance(column, np.ndarray)), None)
    if dtype is None:
        return [cell for column in columns for cell in _cells(column)]
    return np.concatenate([np.array(column, dtype=dtype) for column in columns])
