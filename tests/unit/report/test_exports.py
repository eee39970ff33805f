import csv
import io
import json
import math
import subprocess
import sys

import msgspec
import pandas as pd
import pytest

from attnbench.analysis.rows import Row, rows
from attnbench.contracts.errors import UsageError
from attnbench.report import frame as frame_module
from attnbench.report.csv import to_csv
from attnbench.report.flat import columns, to_json
from attnbench.report.frame import frame, to_parquet
from unit.report.golden import check
from unit.report.planted import failed, job, record, value
from unit.report.scenarios import SCENARIOS

NAMES = [column.name for column in columns(Row)]
FORMULA_SIGNS = ("=", "+", "-", "@", "\t", "\r")


def planted(name):
    return rows(*SCENARIOS[name]())


def named(name):
    return rows([record(job(name), value(-(10**9)))])


def test_json_is_one_array_with_an_object_for_every_row():
    found = planted("once")
    told = json.loads(to_json(found))
    assert [list(each) for each in told] == [NAMES] * len(found)
    assert told[0]["value"] == found[0].value
    assert told[0]["options"] == {}
    assert [each["flags"] for each in told[:2]] == [["once"], ["once"]]


@pytest.mark.parametrize("name", ["complete", "accuracy", "options", "statuses"])
def test_json_reads_back_as_the_values_of_the_rows(name):
    found = planted(name)
    for row, told in zip(found, json.loads(to_json(found)), strict=True):
        read = {each.name: msgspec.convert(told[each.name], each.type, str_keys=True) for each in columns(Row)}
        assert read == {each.name: each.get(row) for each in columns(Row)}


def test_no_rows_are_an_empty_array_and_a_table_of_headings():
    assert json.loads(to_json([])) == []
    assert to_csv([]) == ",".join(NAMES) + "\r\n"
    assert list(frame([]).columns) == NAMES


def test_json_has_null_for_what_is_not_finite():
    told = json.loads(to_json(rows([record(job(), value(math.nan))])))
    assert told[0]["value"] is None


def test_json_has_the_fields_in_order_and_options_as_an_object():
    (row, *_) = json.loads(to_json(planted("options")))
    assert list(row) == NAMES
    assert row["options"] == {"rounds": 2, "bucket": 64, "tied": True}


@pytest.mark.parametrize("name", ["statuses", "hostile", "accuracy"])
def test_csv_equals_the_golden_file(name):
    check(f"{name}.csv", to_csv(planted(name)))


@pytest.mark.parametrize("sign", FORMULA_SIGNS)
def test_text_that_a_spreadsheet_would_take_for_a_formula_gets_an_apostrophe_in_front(sign):
    (line,) = csv.DictReader(io.StringIO(to_csv(named(f"{sign}cmd|' /C calc'!A0"))))
    assert line["variant"].startswith("'")
    words = [column.name for column in columns(Row) if column.kind in ("text", "category")]
    assert not any(line[name].startswith(FORMULA_SIGNS) for name in words)


def test_negative_numbers_stay_numbers_in_csv():
    (line,) = csv.DictReader(io.StringIO(to_csv(named("vanilla"))))
    assert line["value"] == "-1.0"


def test_csv_has_one_line_per_row_ended_by_crlf_and_nothing_unprintable():
    found = planted("hostile")
    text = to_csv(found)
    lines = text.split("\r\n")
    assert len(lines) == len(found) + 2
    assert all(line.isprintable() for line in lines)


def test_csv_reads_back_with_the_same_numbers():
    found = planted("complete")
    read = pd.read_csv(io.StringIO(to_csv(found)))
    assert read["value"].isna().tolist() == [row.value is None for row in found]
    assert read["value"].dropna().tolist() == [row.value for row in found if row.value is not None]
    assert read["causal"].tolist() == [row.case.mask.causal for row in found]


def test_a_frame_has_a_type_for_every_column_even_where_every_cell_is_null():
    types = {name: str(each) for name, each in frame(planted("statuses")).dtypes.items()}
    assert list(types) == NAMES
    assert types["window"] == types["seq_q"] == "Int64"
    assert types["value"] == types["low"] == "Float64"
    assert types["causal"] == "boolean"
    assert {types[name] for name in ("metric", "passes", "dtype", "device", "status", "unit", "noise")} == {"category"}
    assert {types[name] for name in ("variant", "options", "origin", "task", "detail")} == {"string"}


def test_a_frame_has_the_same_types_where_there_are_no_rows():
    nothing, something = (frame(found).dtypes.astype(str).to_dict() for found in ([], planted("statuses")))
    assert nothing == something
    assert {nothing[name] for name in ("samples", "rounds", "outliers")} == {"Int64"}


def test_categories_of_a_frame_are_those_that_its_rows_have():
    found = planted("complete")
    few = frame(found[:1])
    for name in ("metric", "unit", "noise"):
        assert few[name].cat.categories.tolist() == few[name].tolist()
    assert len(frame(found)["metric"].cat.categories) > 1


@pytest.mark.parametrize("rounds", [[(1, 2, 3), (1, 2, 3)], [(1, 3), (12,)], [(1,), ()], [(), ()]])
def test_a_frame_has_the_medians_of_the_rounds_that_have_one(rounds):
    each = [(variant, number) for variant in ("vanilla", "flash") for number in (1, 2, 3, 12)]
    good = dict(zip(("vanilla", "flash"), rounds, strict=True))
    found = rows(
        [
            record(job(variant, round=number), value(7 * number))
            if number in good[variant]
            else failed(job(variant, round=number), "crash")
            for variant, number in each
        ]
    )
    texts = [json.loads(text) for text in frame(found)["medians"]]
    assert [tuple(map(int, text)) for text in texts] == rounds
    assert texts == [{str(number): median for number, median in row.medians.items()} for row in found]


def test_a_frame_keeps_options_as_canonical_json():
    found = frame(planted("options"))
    assert found["options"][0] == '{"bucket":64,"rounds":2,"tied":true}'


def test_parquet_reads_back_as_the_same_frame():
    found = frame(planted("hostile"))
    read = pd.read_parquet(io.BytesIO(to_parquet(planted("hostile"))))
    assert read.dtypes.astype(str).tolist() == found.dtypes.astype(str).tolist()
    pd.testing.assert_frame_equal(read.astype(found.dtypes), found)  # strings may be kept in another way


def test_parquet_without_pyarrow_names_the_extra(monkeypatch):
    monkeypatch.setattr(frame_module, "find_spec", lambda _: None)
    with pytest.raises(UsageError, match=r"attnbench\[parquet\]"):
        to_parquet([])


def test_importing_every_renderer_costs_no_pandas_scipy_or_torch():
    program = """
import sys
import attnbench.report.csv, attnbench.report.flat, attnbench.report.frame, attnbench.report.latex
import attnbench.report.markdown, attnbench.report.terminal
print(*sorted({"pandas", "pyarrow", "scipy", "torch"} & set(sys.modules)))
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""
