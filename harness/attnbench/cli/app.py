"""The commands, and the exit code of each way in which one ends."""

import sys
import traceback

import typer
from typer.exceptions import TyperException

from attnbench.cli import (
    capture,
    compare,
    doctor,
    flags,
    listing,
    mapping,
    merge,
    recommend,
    replay,
    report,
    run,
    show,
    streams,
    tune,
    verify,
)
from attnbench.contracts.errors import DamagedStore, NoProcess, NotStored, UsageError
from attnbench.contracts.text import plain

DONE, NOT_HELD, WRONG_USAGE, BUG = 0, 1, 2, 70

app = typer.Typer(
    name="attnbench",
    help="What each attention mechanism costs at your lengths, heads, hardware and task, and what it gives up.",
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
_COMMANDS: dict[str, flags.Command] = {
    "run": run.run,
    "show": show.show,
    "compare": compare.compare,
    "report": report.report,
    "recommend": recommend.recommend,
    "tune": tune.tune,
    "map": mapping.map_matrices,
    "capture": capture.capture,
    "replay": replay.replay,
    "list": listing.list_things,
    "verify": verify.verify,
    "merge": merge.merge,
    "doctor": doctor.doctor,
}
for _name, _function in _COMMANDS.items():
    app.command(_name)(flags.command(_function))


@app.callback(invoke_without_command=True)
def _about(
    context: typer.Context,
    version: bool = typer.Option(False, "--version", help="Print the version and exit.", metavar=""),
) -> None:
    if version:
        from importlib.metadata import version as installed

        print(f"attnbench {installed('attnbench')}")
        raise typer.Exit
    if context.invoked_subcommand is None:
        print(context.get_help())


def guarded() -> int:
    """Run the command that was typed and return its exit code; an error is one sentence on standard error."""
    try:
        code = _invoke()
        sys.stdout.flush()
    except (UsageError, TyperException) as mistake:
        return _say(mistake.format_message() if isinstance(mistake, TyperException) else str(mistake), WRONG_USAGE)
    except (DamagedStore, NoProcess, NotStored, streams.OutputLost) as damage:
        return _say(str(damage), NOT_HELD)
    except typer.Abort as abort:
        raise KeyboardInterrupt from abort
    except Exception:
        traceback.print_exc()
        return _say("this is a bug of attnbench; please report the lines above", BUG)
    return code


def _invoke() -> int:
    """Invoke the command and return its exit code. Typer's own runner would end the work at any broken pipe."""
    command = typer.main.get_command(app)
    try:
        with command.make_context("attnbench", sys.argv[1:]) as context:
            command.invoke(context)
    except typer.Exit as end:
        return end.exit_code
    return DONE


def _say(sentence: str, code: int) -> int:
    print(f"attnbench: {plain(' '.join(sentence.split()))}", file=sys.stderr)
    return code
