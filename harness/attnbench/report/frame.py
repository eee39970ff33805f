"""Rows as a pandas DataFrame with a type for every column, and as Parquet."""

import io
from collections.abc import Iterator, Sequence
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from attnbench.errors import UsageError
from attnbench.insight.rows import Own, Row, Split, split
from attnbench.report.flat import Cell, Kind, cells_of, columns

if TYPE_CHECKING:
    import pandas as pd

DTYPES: dict[Kind, str] = {
    "int": "Int64",
    "float": "Float64",
    "bool": "boolean",
    "text": "string",
    "category": "category",
}


def frame(rows: Sequence[Split]) -> "pd.DataFrame":
    """Give rows as a DataFrame; numbers and booleans may be null (Int64, Float64, boolean), names are categories.

    `options`, `task_options` and `facts` are JSON text, `flags` are joined by spaces.
    """
    import pandas as pd

    found = dict(_columns(rows))
    return pd.DataFrame({name: found[name] for name in Row.__struct_fields__})


def _columns(rows: Sequence[Split]) -> Iterator[tuple[str, Any]]:
    """Give each column by its name; one that rows share is made of one cell for each that is shared."""
    import numpy as np

    kinds = columns(Row)
    shared = {id(row.shared): row.shared for row in rows}
    places = {each: place for place, each in enumerate(shared)}
    taken = np.array([places[id(row.shared)] for row in rows], dtype=np.int64)
    for name, cells in cells_of(Row, shared.values()):
        if name not in Own.__struct_fields__:
            yield name, _array(cells, kinds[name]).take(taken)
    for name, cells in cells_of(Own, (row.own for row in rows)):
        yield name, _array(cells, kinds[name])


def _array(cells: Sequence[Cell], kind: Kind) -> Any:
    """Give a column its type; numbers by way of numpy and words that repeat by their places, which is the faster."""
    import numpy as np
    import pandas as pd

    if kind == "float":
        numbers = np.array(cells, dtype=np.float64)  # null is now NaN
        return pd.arrays.FloatingArray(numbers, np.isnan(numbers))
    if kind == "int" and None not in cells:
        return pd.arrays.IntegerArray(np.array(cells, dtype=np.int64), np.zeros(len(cells), dtype=np.bool_))
    if kind != "text":
        return pd.Series(list(cells), dtype=DTYPES[kind]).array
    places: dict[Cell, int] = {}
    taken = np.array([places.setdefault(cell, len(places)) for cell in cells], dtype=np.int64)
    return pd.Series(list(places), dtype=DTYPES[kind]).array.take(taken)


def to_parquet(rows: Sequence[Row]) -> bytes:
    """Write rows as a Parquet file. Raises UsageError where pyarrow is not installed."""
    if find_spec("pyarrow") is None:
        raise UsageError("--format parquet: pyarrow is not installed; run pip install 'attnbench[parquet]'")
    target = io.BytesIO()
    frame([split(row) for row in rows]).to_parquet(target, index=False)
    return target.getvalue()
