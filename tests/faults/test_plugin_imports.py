"""Plugins that hang at import, or kill what imports them: told within the timeout, and the others are measured."""

import json
import time
from contextlib import chdir, closing
from pathlib import Path

import pytest

from attnbench.execute.local import LocalExecutor
from attnbench.execute.messages import DescribeVariant
from attnbench.planning.plugins import describe_each
from attnbench.planning.variants import describe_variant
from attnbench.plugins.describe import Description
from attnbench.plugins.registry import find
from helpers.command import SMALL, call
from helpers.servers import KeptServer

GOOD = "class Mine:\n    def __init__(self, case): pass\n    def __call__(self, q, k, v): return v\n"
HANGS = "import time\ntime.sleep(600)\n"
KILLS_ITS_SERVER = "import os, signal\nos.kill(os.getppid(), signal.SIGKILL)\n"


def lay_out(folder: Path, **files: str) -> list[str]:
    for name, text in files.items():
        (folder / f"{name}.py").write_text(f"{text}{GOOD.replace('Mine', name.title())}")
    return [f"./{name}.py:{name.title()}" for name in files]


def test_plugins_that_hang_at_import_cost_one_timeout_together(tmp_path: Path) -> None:
    good, *hanging = lay_out(tmp_path, good="", one=HANGS, two=HANGS, three=HANGS, four=HANGS)
    with chdir(tmp_path), closing(LocalExecutor()) as executor:
        describe_variant(executor, find(good, "variants", flag=""))  # starts the server
        executor.import_timeout_s, started = 1.0, time.monotonic()
        questions = [DescribeVariant(entry=find(name, "variants", flag="")) for name in (*hanging, good)]
        *hung, described = describe_each(executor, questions, Description)
        assert time.monotonic() - started < 2
    assert {one.failure for one in hung} == {"its import gave no sign of life and was ended"}
    assert described.failure == ""


@pytest.mark.exhaustive  # servers start anew
def test_a_plugin_that_kills_its_server_is_told_and_the_others_are_described(tmp_path: Path) -> None:
    names = lay_out(tmp_path, good="", kills=KILLS_ITS_SERVER, other="")
    done = call("run", "--variants", ",".join(names), *SMALL, "--metrics", "memory", "--json", cwd=tmp_path)
    KeptServer.end_all()
    assert done.returncode == 0, done.stderr
    assert {row["variant"]: row["status"] for row in json.loads(done.stdout)} == {
        "Good": "ok",
        "Kills": "crash",
        "Other": "ok",
    }
