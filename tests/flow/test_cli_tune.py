"""`attnbench tune`: mechanisms at equal quality, as a user has it."""

import json
from pathlib import Path

from helpers.command import SMALL, call
from helpers.subtests import as_subtests

SIZES = ("--seq", "64", *SMALL[2:])


def test_the_cheapest_options_that_reach_an_error_are_found_timed_and_stored(tmp_path: Path) -> None:
    words = ("window,linformer:sharing=none", "--match", "0.01", "--option", "width=8..64", "--option", "k=8,16")
    done = call("tune", *words, *SIZES, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert max(map(len, done.stdout.splitlines())) <= 80
    assert "window:width=64" in done.stdout
    assert "not reached" in done.stdout
    (run,) = (tmp_path / "results").iterdir()
    again = call("tune", "--resume", run.name, "--json", cwd=tmp_path)
    assert again.returncode == 0, again.stderr
    window, linformer = json.loads(again.stdout)["found"]
    assert (window["best"]["options"], window["best"]["latency"]["status"]) == ({"width": 64}, "ok")
    assert (linformer["best"], linformer["nearest"]["options"]["k"] in (8, 16)) == (None, True)
    shown = json.loads(call("show", "latest", "--json", cwd=tmp_path).stdout)
    assert {row["metric"] for row in shown} >= {"approximation_error", "latency"}


def test_a_quality_that_nothing_reaches_exits_with_1_and_names_the_nearest(tmp_path: Path) -> None:
    words = ("window", "--match", "0.0001", "--option", "width=4,8")
    done = call("tune", *words, *SIZES, cwd=tmp_path)
    assert done.returncode == 1
    assert "the best was" in done.stdout


@as_subtests(
    "words, told",
    [
        ((), "name variants to begin with"),
        (("window",), "--match: say what quality is to be reached"),
        (("window", "--match", "0.1", "--option", "width"), "--option: 'width' is no option with values"),
        (("window", "--match", "0.1", "--option", "depth=1"), "--option: no variant here has an option 'depth'"),
        (("window", "--match", "0.1", "--option", "width=wide"), "--option: width=wide: "),
        (("vanilla", "--match", "0.1"), "has no option left that trades time for quality"),
        (("flash", "--match", "0.1"), "--against: 'flash' is one of those that are searched"),
        (("window", "--match", "0.1", "--seq", "64,128"), "quality is matched at one length"),
        (("window", "--match-accuracy", "0.9"), "--match-accuracy: it is that on a task"),
    ],
)
def test_a_mistake_is_one_sentence_and_exits_with_2(tmp_path: Path, words: tuple[str, ...], told: str) -> None:
    done = call("tune", *words, "--device", "cpu", cwd=tmp_path)
    assert (done.returncode, done.stdout, len(done.stderr.splitlines())) == (2, "", 1)
    assert told in done.stderr
    assert not (tmp_path / "results").exists()
