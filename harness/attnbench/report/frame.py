"""Rows as a pandas DataFrame with a type for every column, and as Parquet."""

import io
from collections.abc import Sequence
from importlib.util import find_spec
from itertools import repeat
from typing import TYPE_CHECKING, Any

from attnbench.errors import UsageError
from attnbench.insight.rows import Row
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


def frame(rows: Sequence[Row]) -> "pd.DataFrame":
    """Give rows as a DataFrame; numbers and booleans may be null (Int64, Float64, boolean), names are categories.

    `options`, `task_options` and `facts` are JSON text, `flags` are joined by spaces.
    """
    import pandas as pd

    kinds = columns(Row)
    cells = cells_of(rows) if rows else repeat(())
    return pd.DataFrame({name: _array(next(cells), kind) for name, kind in kinds.items()})


def _array(cells: Sequence[Cell], kind: Kind) -> Any:
    """Give a column its type; numbers by way of numpy, which is the faster."""
    import numpy as np
    import pandas as pd

    if kind == "float":
        numbers = np.array(cells, dtype=np.float64)  # null is now NaN
        return pd.arrays.FloatingArray(numbers, np.isnan(numbers))
    return pd.Series(list(cells), dtype=DTYPES[kind])


def to_parquet(rows: Sequence[Row]) -> bytes:
    """Write rows as a Parquet file. Raises UsageError where pyarrow is not installed."""
    if find_spec("pyarrow") is None:
        raise UsageError("--format parquet: pyarrow is not installed; run pip install 'attnbench[parquet]'")
    target = io.BytesIO()
    frame(rows).to_parquet(target, index=False)
    return target.getvalue()
