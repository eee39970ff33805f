"""Rows as a pandas DataFrame with a type for every column, and as Parquet."""

import io
import math
from collections.abc import Sequence
from importlib.util import find_spec
from itertools import compress, starmap
from operator import attrgetter
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np

from attnbench.analysis.columns import ByRound, Columns, Words
from attnbench.analysis.rows import Row
from attnbench.contracts.errors import UsageError
from attnbench.report.flat import Cell, Kind, columns, written

if TYPE_CHECKING:
    import pandas as pd
    from numpy.typing import NDArray

DTYPES: dict[Kind, str] = {
    "int": "Int64",
    "float": "Float64",
    "bool": "boolean",
    "text": "string",
    "category": "category",
}


def frame(rows: Columns[Row]) -> "pd.DataFrame":
    """Give rows as a DataFrame; numbers and booleans may be null (Int64, Float64, boolean), names are categories.

    `options`, `task_options`, `facts` and `medians` are JSON text, `flags` are joined by spaces.
    """
    import pandas as pd

    return pd.DataFrame({name: _column(rows, name, kind) for name, kind in columns(Row).items()}, copy=False)


def _column(rows: Columns[Row], name: str, kind: Kind) -> Any:
    """Give a column; one that rows share is made of one cell for each that is shared."""
    import pandas as pd

    match rows.own.get(name):
        case None:
            return _array(written(list(map(attrgetter(name), rows.shared))), kind).take(rows.places)
        case ByRound() as by_round:
            return pd.array(_mappings(by_round), dtype="string[python]")
        case Words(words, places):
            used = np.bincount(places, minlength=len(words)) > 0
            return _array(written(list(compress(words, used))), kind).take((np.cumsum(used) - 1)[places])
        case list(cells):
            return _array(written(cells), kind)
        case numbers:
            return _array(numbers, kind)


def _mappings(column: ByRound) -> list[str]:
    """Write figures by round as `canonical` writes mappings; structs for it are made in half the time of mappings."""
    names = {f"place_{place}": str(number) for place, number in enumerate(column.rounds)}
    fields = [(name, float | None, None) for name in names]
    mapping = msgspec.defstruct("Mapping", fields, rename=names, omit_defaults=True, gc=False)
    rows = column.values_NR.tolist()
    for place in np.flatnonzero(np.isnan(column.values_NR).any(axis=1)):
        rows[place] = [None if math.isnan(value) else value for value in rows[place]]
    return msgspec.json.Encoder().encode_lines(list(starmap(mapping, rows))).decode().split("\n")[:-1]


def _array(cells: "Sequence[Cell] | NDArray[Any]", kind: Kind) -> Any:
    """Give a column its type; numbers by way of numpy and words that repeat by their places, which is the faster."""
    import pandas as pd

    if kind == "float":
        numbers = np.array(cells, dtype=np.float64)  # null is now NaN
        return pd.arrays.FloatingArray(numbers, np.isnan(numbers))
    if kind in ("text", "category"):
        return _words(list(cells), kind)
    if not isinstance(cells, np.ndarray) and None in cells:
        return pd.Series(list(cells), dtype=DTYPES[kind]).array
    none = np.zeros(len(cells), dtype=np.bool_)
    if kind == "int":
        return pd.arrays.IntegerArray(np.array(cells, dtype=np.int64), none)
    return pd.arrays.BooleanArray(np.array(cells, dtype=np.bool_), none)


def _words(cells: Sequence[Any], kind: Kind) -> Any:
    """Give words their type; each is held once: Arrow's would be copied for each row."""
    import pandas as pd

    words = list(dict.fromkeys(cells))
    if kind == "category":
        words = sorted(word for word in words if isinstance(word, str))
    places = {None: -1} | dict(zip(words, range(len(words)), strict=True))
    taken = np.fromiter(map(places.__getitem__, cells), dtype=np.int64, count=len(cells))
    if kind == "category":
        return pd.Categorical.from_codes(taken, pd.Index(words))
    return pd.array(words, dtype="string[python]").take(taken)


def to_parquet(rows: Sequence[Row]) -> bytes:
    """Write rows as a Parquet file. Raises UsageError where pyarrow is not installed."""
    if find_spec("pyarrow") is None:
        raise UsageError("--format parquet: pyarrow is not installed; run pip install 'attnbench[parquet]'")
    target = io.BytesIO()
    frame(Columns.of(rows)).to_parquet(target, index=False)
    return target.getvalue()
