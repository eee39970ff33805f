"""Rows as a pandas DataFrame with a type for every column, and as Parquet."""

import io
from collections.abc import Sequence
from importlib.util import find_spec
from typing import TYPE_CHECKING

from attnbench.errors import UsageError
from attnbench.insight.rows import Row
from attnbench.report.flat import Kind, column, columns

if TYPE_CHECKING:
    import pandas as pd

_DTYPES: dict[Kind, str] = {
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

    return pd.DataFrame(
        {name: pd.Series(column(rows, name), dtype=_DTYPES[kind]) for name, kind in columns(Row).items()}
    )


def to_parquet(rows: Sequence[Row]) -> bytes:
    """Write rows as a Parquet file. Raises UsageError where pyarrow is not installed."""
    if find_spec("pyarrow") is None:
        raise UsageError("--format parquet: pyarrow is not installed; run pip install 'attnbench[parquet]'")
    target = io.BytesIO()
    frame(rows).to_parquet(target, index=False)
    return target.getvalue()
