"""Rows as a pandas DataFrame with a type for every column, and as Parquet."""

import io
from collections.abc import Sequence
from importlib.util import find_spec
from typing import TYPE_CHECKING

from attnbench.analysis.rows import Row
from attnbench.contracts.errors import UsageError
from attnbench.report.flat import Kind, columns

if TYPE_CHECKING:
    import pandas as pd

DTYPES: dict[Kind, str] = {
    "int": "Int64",
    "float": "Float64",
    "bool": "boolean",
    "text": "string[python]",
    "category": "category",
}


def frame(rows: Sequence[Row]) -> "pd.DataFrame":
    """Return rows as a DataFrame; numbers and booleans may be null (Int64, Float64, boolean), names are categories.

    `options`, `task_options`, `facts` and `medians` are JSON text, `flags` are joined by spaces.
    """
    import pandas as pd

    return pd.DataFrame(
        {column.name: pd.Series(column.cells(rows), dtype=DTYPES[column.kind]) for column in columns(Row)}
    )


def to_parquet(rows: Sequence[Row]) -> bytes:
    """Return rows as a Parquet file. Raises UsageError if pyarrow is not installed."""
    if find_spec("pyarrow") is None:
        raise UsageError("--format parquet: pyarrow is not installed; run pip install 'attnbench[parquet]'")
    target = io.BytesIO()
    frame(rows).to_parquet(target, index=False)
    return target.getvalue()
