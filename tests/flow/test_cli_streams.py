"""What becomes of a command whose output or messages nobody takes any more."""

import json
import subprocess
from pathlib import Path

import pytest

from helpers.command import SMALL, attnbench, call, command, environment

RUN = ("run", "--variants", "vanilla,flash", *SMALL, "--metrics", "memory")


def shell(script: str, *words: str, cwd: Path, **settings: str) -> subprocess.CompletedProcess[str]:
    """Run a command as `"$@"` within a line of bash, whose exit code is the command's own."""
    return subprocess.run(
        ["bash", "-c", f"{script}; exit ${{PIPESTATUS[0]}}", "-", *command(*words)],
        cwd=cwd,
        capture_output=True,
        text=True,
        env=environment(**settings),
        timeout=120,
        check=False,
    )


def statuses(folder: Path) -> dict[str, int]:
    found: dict[str, int] = json.loads(call("verify", "latest", "--json", cwd=folder).stdout)["statuses"]
    return found


def test_a_run_finishes_though_the_reader_of_its_messages_has_gone(tmp_path: Path) -> None:
    done = shell('"$@" 2>&1 | head -n 1', *RUN, cwd=tmp_path)
    assert (done.returncode, len(done.stdout.splitlines())) == (0, 1)
    assert statuses(tmp_path) == {"ok": 2}


def test_the_table_is_printed_though_standard_error_is_lost(tmp_path: Path) -> None:
    done = shell('"$@" 2> >(head -c 1 >/dev/null)', *RUN, cwd=tmp_path)
    assert (done.returncode, "flash" in done.stdout) == (0, True)
    done = shell('"$@" 2>&-', "show", "latest", "--json", cwd=tmp_path)
    assert {row["status"] for row in json.loads(done.stdout)} == {"ok"}


def test_the_exit_code_is_kept_though_the_reader_has_gone(tmp_path: Path) -> None:
    call(*RUN, cwd=tmp_path)
    (journal,) = (tmp_path / "results").glob("*/events.jsonl")
    journal.write_bytes(b"torn\n" + journal.read_bytes())
    assert shell('"$@" | head -n 0', "verify", "latest", cwd=tmp_path).returncode == 1
    assert shell('"$@" 2>&1 | head -n 0', "show", "nothing", cwd=tmp_path).returncode == 2


@pytest.mark.parametrize("words", [("--version",), ("list", "suites"), ("list", "suites", "--json"), ("run", "--help")])
def test_a_closed_standard_output_is_no_error_and_a_full_one_is_one_sentence(
    tmp_path: Path, words: tuple[str, ...]
) -> None:
    closed = shell('"$@" >&-', *words, cwd=tmp_path)
    assert (closed.returncode, closed.stderr) == (0, "")
    full = shell('"$@" >/dev/full', *words, cwd=tmp_path)
    assert full.returncode == 1
    assert full.stderr == "attnbench: standard output cannot be written: No space left on device\n"


def test_with_every_stream_closed_no_output_ends_up_in_the_files_of_the_run(tmp_path: Path) -> None:
    assert shell('"$@" <&- >&- 2>&-', *RUN, cwd=tmp_path).returncode == 0
    assert call("verify", "latest", cwd=tmp_path).returncode == 0
    assert statuses(tmp_path) == {"ok": 2}


def test_json_is_utf_8_and_text_is_escaped_where_the_terminal_lacks_a_character(tmp_path: Path) -> None:
    folder = tmp_path / "m\N{LATIN SMALL LETTER A WITH DIAERESIS}chtig"
    folder.mkdir()
    (folder / "mine.py").write_text("def Mine(q, k, v):\n    return v\n")
    words = ("run", "--variants", f"{folder}/mine.py:Mine", *SMALL, "--metrics", "memory", "--json")
    done = attnbench(*words, cwd=tmp_path, PYTHONIOENCODING="ascii")
    assert (done.returncode, json.loads(done.stdout)[0]["origin"]) == (0, str(folder / "mine.py"))
    listed = attnbench("list", "runs", cwd=tmp_path, PYTHONIOENCODING="ascii")
    assert (listed.returncode, "m\\xe4chtig" in listed.stdout) == (0, True)
    runs = json.loads(attnbench("list", "runs", "--json", cwd=tmp_path, PYTHONIOENCODING="ascii").stdout)
    assert str(folder) in runs[0]["command"]


def test_a_reader_that_goes_away_ends_a_command_quietly(tmp_path: Path) -> None:
    done = shell('set -o pipefail; "$@" | head -n 0', "list", "variants", cwd=tmp_path)
    assert (done.stdout, done.stderr, done.returncode) == ("", "", 0)
