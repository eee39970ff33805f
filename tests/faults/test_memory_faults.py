"""A plugin is bounded by --memory wherever its code runs, and it is what the kernel ends first."""

import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from attnbench.execute.local import LocalExecutor
from attnbench.planning.variants import describe_variant
from attnbench.plugins.registry import find
from helpers.command import SMALL, call, environment

IMPORTS_MUCH = """
held = [bytearray(b"x") * (1 << 28) for _ in range(12)]

class Mine:
    def __init__(self, case):
        pass
"""
TAKES_MUCH = """
import torch

class Mine:
    def __init__(self, case):
        pass

    def __call__(self, q, k, v):
        return torch.ones(1 << 29)
"""


@pytest.fixture(scope="module")
def executor() -> Iterator[LocalExecutor]:
    with closing(LocalExecutor(memory_bytes=1 << 30)) as one:
        yield one


def test_an_import_that_takes_more_than_its_limit_is_a_failure(executor: LocalExecutor, tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(IMPORTS_MUCH)
    assert "MemoryError" in describe_variant(executor, find(f"{tmp_path}/mine.py:Mine", "variants", flag="")).failure


def test_a_process_that_describes_a_plugin_is_the_first_that_the_kernel_ends(
    executor: LocalExecutor, tmp_path: Path
) -> None:
    (tmp_path / "mine.py").write_text("raise ValueError(open('/proc/self/oom_score_adj').read())")
    assert "1000" in describe_variant(executor, find(f"{tmp_path}/mine.py:Mine", "variants", flag="")).failure


@pytest.mark.parametrize("code", [IMPORTS_MUCH, TAKES_MUCH])
def test_a_map_that_takes_more_than_its_limit_is_told(tmp_path: Path, code: str) -> None:
    (tmp_path / "mine.py").write_text(code)
    done = call("map", "./mine.py:Mine", "--seq", "16", "--memory", "1GiB", cwd=tmp_path)
    assert done.returncode == 2
    assert re.search("no map: it needed .*more .*than was free", done.stderr)


def test_a_machine_without_room_for_a_process_is_a_sentence(tmp_path: Path) -> None:
    code = (
        "import resource\nfrom attnbench.cli import main\n"
        "resource.setrlimit(resource.RLIMIT_AS, (400 << 20, 400 << 20))\nmain()"
    )
    words = [sys.executable, "-c", code, "run", "--variants", "vanilla", *SMALL]
    done = subprocess.run(
        words, cwd=tmp_path, capture_output=True, text=True, env=environment(), check=False, timeout=60
    )
    assert done.returncode == 1
    assert "attnbench: the process that describes this machine was lost" in done.stderr
    assert "Traceback" not in done.stderr
    assert not list(tmp_path.iterdir())
