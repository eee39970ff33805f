"""The formats of the reference run, as they were published: other programs read them.

Wording that is changed on purpose is accepted with `ATTNBENCH_GOLDEN=write pytest tests/unit/report`.
"""

import csv
import io
from pathlib import Path

import pandas as pd
import pyarrow.parquet as pq
import pytest

import attnbench
from attnbench.contracts.text import plain
from attnbench.report import comparison
from attnbench.report.formats import OF_BLOCKS, OF_ROWS
from attnbench.report.summary import blocks
from attnbench.runs import Run
from unit.report.golden import check_csv, check_json, check_text, same

REFERENCE = Path(__file__).parents[2] / "golden" / "reference" / "20261127-024030-9rg2"  # of version 0.1.0


@pytest.fixture(scope="module")
def rows():
    return Run(REFERENCE).rows()


@pytest.fixture(scope="module")
def parquet(rows):
    return OF_ROWS["parquet"](rows)


def test_csv_is_as_published(rows):
    check_csv("formats/rows.csv.gz", OF_ROWS["csv"](rows))


def test_json_is_as_published(rows):
    check_json("formats/rows.json.gz", OF_ROWS["json"](rows))


def test_markdown_is_as_published(rows):
    check_text("formats/tables.md", OF_BLOCKS["md"](blocks(rows)))


def test_latex_is_as_published(rows):
    check_text("formats/tables.tex", OF_BLOCKS["latex"](blocks(rows)))


def test_a_comparison_in_json_is_as_published():
    found = attnbench.compare(Run(REFERENCE), variants="flash,linear")
    check_json("formats/comparison.json", comparison.FORMATS["json"](found))


def test_the_columns_and_types_of_parquet_are_as_published(parquet):
    schema, types = pq.read_schema(io.BytesIO(parquet)), pd.read_parquet(io.BytesIO(parquet)).dtypes
    lines = [f"{field.name}: {field.type}, {types[field.name]} in pandas" for field in schema]
    check_text("formats/parquet.txt", "\n".join(lines) + "\n")


def test_parquet_has_the_values_of_csv(rows, parquet):
    stored = pd.read_parquet(io.BytesIO(parquet)).astype(object)
    written = list(csv.DictReader(io.StringIO(OF_ROWS["csv"](rows), newline="")))
    different = [
        name
        for name in stored
        if not all(same(_in_csv(cell), line[name]) for cell, line in zip(stored[name], written, strict=True))
    ]
    assert different == []


def _in_csv(cell):
    """Return a cell of a DataFrame as CSV has it."""
    if pd.isna(cell):
        return ""
    return str(cell).lower() if isinstance(cell, bool) else plain(str(cell))
