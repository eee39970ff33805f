"""The time and memory to make the report of a run of 20,000 records, and how fast a browser answers in it."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from planted_report import store

from helpers.command import environment

MOST_S, MOST_BYTES, MOST_MEMORY_BYTES = 15, 12 * 2**20, 1.5 * 2**30
MOST_WAIT_S = 2.0  # until a page answers: one that a reader would close is of no use
BROWSER = Path("/usr/bin/chromium")
CLICKS = {
    "sort": "document.querySelectorAll('#data th button')[8].click()",
    "filter": "(i => { i.value = 'variant-3 latency'; i.dispatchEvent(new Event('input')) })"
    "(document.querySelector('#data input'))",
    "draw": "document.querySelector('#none').click(), document.querySelector('#all').click()",
}
PROGRAM = """
import json, resource, sys
from pathlib import Path
from attnbench.runs import Run
Run(Path(sys.argv[1])).report(sys.argv[2])
used = resource.getrusage(resource.RUSAGE_SELF)
print(json.dumps({"cpu_s": used.ru_utime + used.ru_stime, "peak_bytes": used.ru_maxrss * 1024}))
"""


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Make the report in a process of its own; return its time, memory and path."""
    folder = tmp_path_factory.mktemp("large")
    path, count = store(folder)
    words = [sys.executable, "-c", PROGRAM, str(path), str(folder / "report.html")]
    started = time.perf_counter()
    done = subprocess.run(words, capture_output=True, text=True, check=True, env=environment())
    took = {"seconds": time.perf_counter() - started, "records": count, "file": folder / "report.html"}
    return took | json.loads(done.stdout)


def test_a_report_of_20_000_records_is_made_within_its_time_its_memory_and_its_size(made: dict[str, Any]) -> None:
    size = made["file"].stat().st_size
    print(
        f"{made['records']} records: {made['seconds']:.1f} s ({made['cpu_s']:.1f} s of a processor under a load of "
        f"{os.getloadavg()[0]:.1f}), peak {made['peak_bytes'] / 2**20:.0f} MiB, file {size / 2**20:.1f} MiB"
    )
    assert made["records"] >= 20_000
    assert made["cpu_s"] < MOST_S
    assert made["peak_bytes"] < MOST_MEMORY_BYTES
    assert size < MOST_BYTES


@pytest.mark.skipif(not BROWSER.exists(), reason="there is no Chromium on this machine")
def test_a_report_of_20_000_records_answers_its_reader(made: dict[str, Any]) -> None:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=str(BROWSER), args=["--no-sandbox"])
        tab = browser.new_page()
        opened_s = timed_s(lambda: tab.goto(f"file://{made['file']}"))
        took = {name: timed_s(lambda code=code: tab.evaluate(code)) for name, code in CLICKS.items()}
        browser.close()
    print(f"open {opened_s:.2f} s, {', '.join(f'{name} {seconds:.2f} s' for name, seconds in took.items())}")
    assert max(took.values()) < MOST_WAIT_S


def timed_s(act: Callable[[], object]) -> float:
    started = time.perf_counter()
    act()
    return time.perf_counter() - started
