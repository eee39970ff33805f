"""The walls that imports alone cannot hold: what the parent process loads, and a value's way from flag to table."""

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args, get_origin

import msgspec
import pytest
from msgspec import Meta

from attnbench.analysis.rows import Row
from attnbench.contracts.case import Case, Mask, Shape
from attnbench.contracts.suite import Sweep
from attnbench.report.flat import columns
from helpers.command import SMALL, attnbench, command, environment

PLUGIN = Path(__file__).parent / "plugins" / "faulty.py"


def test_the_parent_process_imports_neither_torch_nor_a_plugin(tmp_path: Path) -> None:
    spy = (
        "import sys, atexit\n"
        "wanted = ('torch', 'attnbench_variants', 'attnbench_suites', 'attnbench_file')\n"
        "def tell():\n"
        "    print('LOADED', [n for n in sys.modules if n.startswith(wanted)], file=sys.stderr)\n"
        "atexit.register(tell)\n"
        "from attnbench.cli import main\n"
        "main()\n"
    )
    words = ("run", "--variants", f"vanilla,linformer:k=8,{PLUGIN}:Good", *SMALL, "--metrics", "latency,memory")
    done = subprocess.run(
        [sys.executable, "-c", spy, *words],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        env=environment(),
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "LOADED []" in done.stderr


def test_importing_attnbench_imports_neither_torch_nor_pandas() -> None:
    code = "import attnbench, sys; print([n for n in ('torch', 'pandas', 'numpy', 'typer') if n in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def fields() -> Iterator[tuple[str, str, str]]:
    """Walk every field of a case: its name, its column's heading and its flag."""
    for struct in (Shape, Mask, Case):
        for field in msgspec.structs.fields(struct):
            if field.type in (Shape, Mask):
                continue
            titles, flags = zip(*metas(field.type), strict=True)
            yield field.name, next(filter(None, titles)), next(filter(None, flags))


def metas(hint: Any) -> Iterator[tuple[str | None, str | None]]:
    if get_origin(hint) is not None and hasattr(hint, "__metadata__"):
        for meta in hint.__metadata__:
            if isinstance(meta, Meta):
                yield meta.title, (meta.extra or {}).get("flag")
        yield from metas(get_args(hint)[0])


FIELDS = list(fields())


@pytest.mark.parametrize(("name", "title", "flag"), FIELDS, ids=[name for name, _, _ in FIELDS])
def test_every_field_of_a_case_has_a_heading_a_flag_of_run_and_a_column(name: str, title: str, flag: str) -> None:
    assert title
    assert name in {column.name for column in columns(Row)}
    text = subprocess.run(
        command("run", "--help"), capture_output=True, text=True, check=True, env=environment(COLUMNS="200")
    ).stdout
    assert f"{flag} " in text


# Values that no default has, and where they must arrive; those that go together travel in one run.
WALKS = (
    {
        "batch": ("--batch", "2", 2),
        "heads": ("--heads", "4", 4),
        "kv_heads": ("--kv-heads", "1", 1),
        "seq_q": ("--seq", "96", 96),
        "seq_k": ("--seq-k", "160", 160),
        "head_dim": ("--head-dim", "8", 8),
        "dtype": ("--dtype", "float64", "float64"),
        "inputs": ("--inputs", "clustered", "clustered"),
        "seed": ("--seed", "3", 3),
        "device": ("--device", "cpu", "cpu"),
    },
    {"causal": ("--causal", None, True), "window": ("--window", "7", 7), "passes": ("--passes", "decode", "decode")},
    {"level": ("--level", "layer", "layer")},
)


@pytest.mark.parametrize("walk", WALKS, ids=["-".join(walk) for walk in WALKS])
def test_values_travel_whole_from_their_flags_to_their_row(walk: dict[str, Any], tmp_path: Path) -> None:
    given = dict(zip(SMALL[::2], SMALL[1::2], strict=True)) | {flag: text for flag, text, _ in walk.values()}
    words = [word for pair in given.items() for word in pair if word is not None]
    done = attnbench("run", "--variants", "vanilla", *words, "--metrics", "memory", "--json", cwd=tmp_path)
    (row,) = [row for row in json.loads(done.stdout) if row["metric"] == "memory"]
    assert row["status"] == "ok", row["detail"]
    assert {name: row[name] for name in walk} == {name: value for name, (_, _, value) in walk.items()}


def test_a_new_axis_is_one_field_and_one_flag(tmp_path: Path) -> None:
    root = Path(__file__).parent.parent
    for name in ("harness", "variants", "suites"):
        shutil.copytree(root / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
    contracts = tmp_path / "harness" / "attnbench" / "contracts"
    field = 'spice: Annotated[int, Meta(title="spice", extra={"flag": "--spice"}, description="how hot it is")] = 0'
    insert(field, contracts / "case.py", before="shape_name: Annotated[")
    insert('spice: Annotated[Range, flag("How hot it is", "RANGE")] = None', contracts / "suite.py", before="metrics: ")
    path = ":".join(str(tmp_path / name) for name in ("harness", "variants", "suites"))
    words = ("run", "--variants", "vanilla", *SMALL, "--metrics", "memory", "--spice", "1,2", "--json")
    done = attnbench(*words, cwd=tmp_path, PYTHONPATH=path)
    assert done.returncode == 0, done.stderr
    rows = [row for row in json.loads(done.stdout) if row["metric"] == "memory"]
    assert [(row["status"], row["spice"]) for row in rows] == [("ok", 1), ("ok", 2)]
    shown = attnbench("show", "latest", cwd=tmp_path, PYTHONPATH=path)
    assert "spice" in shown.stdout
    refused = attnbench("run", "--resume", "latest", "--spice", "3", cwd=tmp_path, PYTHONPATH=path)
    assert refused.stderr.startswith("attnbench: --spice: --resume goes on with a run as it was started")


def insert(line: str, path: Path, *, before: str) -> None:
    """Insert a field into a struct's source before another one."""
    head, found, tail = path.read_text().partition(f"    {before}")
    assert found
    path.write_text(f"{head}    {line}\n{found}{tail}")


def test_every_field_of_a_sweep_is_a_flag_of_run() -> None:
    text = subprocess.run(
        command("run", "--help"), capture_output=True, text=True, check=True, env=environment(COLUMNS="200")
    ).stdout
    for field in Sweep.__struct_fields__:
        assert f"--{field.replace('_', '-')} " in text
