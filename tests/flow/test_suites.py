"""A suite that lists shapes, as its user runs it: names in rows and columns, flags that filter, mistakes."""

import json
from pathlib import Path

import pytest

from helpers.command import call
from helpers.subtests import as_subtests

LISTED = """\
description = "two shapes"
[sweep]
variants = "vanilla,flash"
metrics = "latency,memory"
batch = 1
[[sweep.shapes]]
name = "small"
seq = 32
heads = 2
head_dim = 16
[[sweep.shapes]]
name = "cross"
seq = 16
seq_k = 48
heads = 4
kv_heads = 2
head_dim = 8
"""
QUICK = ("--suite", "listed.toml", "--profile", "quick", "--threads", "1")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "listed.toml").write_text(LISTED)
    return tmp_path


def test_the_name_of_a_listed_shape_is_in_its_rows_and_heads_its_column(folder: Path) -> None:
    done = call("run", *QUICK, cwd=folder)
    assert done.returncode == 0, done.stderr
    assert "shape (seq)" in done.stdout
    assert "small (32)" in done.stdout
    assert "cross (16)" in done.stdout
    assert max(map(len, done.stdout.splitlines())) <= 80
    rows = json.loads(call("show", "latest", "--json", cwd=folder).stdout)
    sizes = {(row["shape_name"], row["seq_q"], row["seq_k"], row["kv_heads"]) for row in rows}
    assert sizes == {("small", 32, 32, 2), ("cross", 16, 48, 2)}
    names = list(rows[0])
    assert names.index("shape_name") > names.index("detail")


def test_flags_filter_the_listed_shapes(folder: Path) -> None:
    done = call("run", *QUICK, "--shapes", "cross", "--kv-heads", "2", "--metrics", "memory", "--json", cwd=folder)
    assert {row["shape_name"] for row in json.loads(done.stdout)} == {"cross"}


@as_subtests(
    "words, told",
    [
        (("--seq", "64"), "--seq 64: no shape of the suite has that; there are 16, 32"),
        (("--shapes", "smal"), "did you mean 'small'?"),
        (("--suite", "standard", "--shapes", "small"), "--shapes: this suite lists no shapes"),
    ],
)
def test_flags_that_leave_no_shape_are_a_mistake_in_one_sentence(
    folder: Path, words: tuple[str, ...], told: str
) -> None:
    done = call("run", *QUICK, *words, cwd=folder)
    assert (done.returncode, len(done.stderr.splitlines())) == (2, 1)
    assert told in done.stderr
    assert not (folder / "results").exists()
