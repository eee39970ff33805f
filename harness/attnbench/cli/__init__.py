"""The command line: one short function a command; only this package prints and exits."""

import os
import signal
import sys
import traceback
from types import FrameType
from typing import NoReturn

import typer
from typer.exceptions import TyperException

from attnbench.cli import doctor, listing, run, show, verify
from attnbench.errors import DamagedStore, NotStored, UsageError

DONE, NOT_HELD, WRONG_USAGE, BUG, INTERRUPTED, TERMINATED = 0, 1, 2, 70, 130, 143

app = typer.Typer(
    name="attnbench",
    help="What each attention mechanism costs at your lengths, heads, hardware and task, and what it gives up.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command("run")(run.run)
app.command("show")(show.show)
app.command("list")(listing.list_things)
app.command("verify")(verify.verify)
app.command("doctor")(doctor.doctor)


class _Terminated(BaseException):
    """SIGTERM arrived: end as after Ctrl-C, with another exit code."""


@app.callback(invoke_without_command=True)
def _about(version: bool = typer.Option(False, "--version", help="Print the version and exit.", is_eager=True)) -> None:
    if version:
        from importlib.metadata import version as installed

        print(f"attnbench {installed('attnbench')}")
        raise typer.Exit


def main() -> NoReturn:
    """Run the command line and exit with its code."""
    signal.signal(signal.SIGTERM, _terminate)
    code = _guarded()
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        _close_quietly()
    sys.exit(code)


def _guarded() -> int:
    """Run a command, and turn what ends it into an exit code and at most one sentence on standard error."""
    try:
        return app(standalone_mode=False) or DONE
    except (UsageError, TyperException) as mistake:
        return _say(mistake.format_message() if isinstance(mistake, TyperException) else str(mistake), WRONG_USAGE)
    except (DamagedStore, NotStored) as damage:
        return _say(str(damage), NOT_HELD)
    except (KeyboardInterrupt, typer.Abort):
        return _say("interrupted", INTERRUPTED)
    except _Terminated:
        return _say("terminated", TERMINATED)
    except (BrokenPipeError, SystemExit):  # the latter is how Typer takes a closed pipe
        _close_quietly()
        return DONE
    except Exception:
        traceback.print_exc()
        return _say("this is a bug of attnbench; please report the lines above", BUG)


def _say(sentence: str, code: int) -> int:
    one_line = " ".join(sentence.split())
    print(f"attnbench: {''.join(c if c.isprintable() else ascii(c)[1:-1] for c in one_line)}", file=sys.stderr)
    return code


def _terminate(_number: int, _frame: FrameType | None) -> NoReturn:
    raise _Terminated


def _close_quietly() -> None:
    """Whoever read our output has gone: give Python's own last flush somewhere to go."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
