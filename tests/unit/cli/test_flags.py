"""Commands made of structs: which options they have, what becomes of them, and which are refused."""

from typing import Annotated, Literal

import pytest
import typer
from msgspec import Struct, field
from typer.testing import CliRunner

from attnbench.api import Flags
from attnbench.cli.flags import Only, command, refuse
from attnbench.contracts.errors import UsageError
from attnbench.contracts.flags import HOW, flag
from attnbench.contracts.suite import Sweep
from attnbench.planning.request import Request


class Spices(Struct, frozen=True, kw_only=True):
    """A struct that another one holds."""

    heat: Annotated[str | int | None, flag("How hot", "RANGE")] = None
    whole: Annotated[bool | None, flag("Leave the spices whole")] = None


class Dish(Struct, frozen=True, kw_only=True):
    """A struct with every kind of field."""

    spices: Spices = Spices()
    minutes_s: Annotated[float | None, flag("Time to cook", "S", panel=HOW, name="minutes")] = None
    pots: Annotated[int, flag("Pots", "N", panel=HOW, default="all there are")] = field(default_factory=lambda: 7)
    pan: Annotated[Literal["iron", "clay"], flag("Pan", "NAME", panel=HOW)] = "iron"
    salt: Annotated[bool, flag("Leave the salt out", panel=HOW)] = True
    serve: Annotated[bool, flag("Serve at once", panel=HOW)] = False
    note: str = "no flag"


def run(words: str, *, only: Only | None = None, besides: tuple[str, ...] | None = None) -> tuple[Dish | None, str]:
    """Call a command that takes a dish; return the dish and what was printed."""
    dishes: list[Dish] = []

    def cook(*, context: typer.Context, dish: Dish, out: str = "here") -> None:
        """Cook."""
        if besides is not None:
            refuse(context, "{flag}: leave {flag} out", besides=besides)
        dishes.append(dish)

    if only is not None:
        cook.__annotations__["dish"] = Annotated[Dish, only]
    app = typer.Typer()
    app.command("cook")(command(cook))
    result = CliRunner().invoke(app, words.split(), env={"COLUMNS": "80"})
    if isinstance(result.exception, UsageError):
        raise result.exception
    return (dishes[0] if dishes else None), result.output


def test_fields_that_are_not_given_keep_the_struct_s_defaults() -> None:
    assert run("")[0] == Dish()


@pytest.mark.parametrize(
    ("words", "dish"),
    [
        ("--heat 1..4", Dish(spices=Spices(heat="1..4"))),
        ("--whole", Dish(spices=Spices(whole=True))),
        ("--no-whole", Dish(spices=Spices(whole=False))),
        ("--minutes 2.5 --pots 3", Dish(minutes_s=2.5, pots=3)),
        ("--no-salt --serve", Dish(salt=False, serve=True)),
        ("--pan clay", Dish(pan="clay")),
    ],
)
def test_each_flag_sets_its_field_in_its_type(words: str, dish: Dish) -> None:
    assert run(words)[0] == dish


@pytest.mark.parametrize("words", ["--note x", "--salt", "--minutes-s 2", "--no-serve"])
def test_what_is_no_flag_is_no_option(words: str) -> None:
    dish, told = run(words)
    assert dish is None
    assert "No such option" in told


def test_a_command_may_have_only_some_flags() -> None:
    assert run("--heat 2", only=Only(("heat",)))[0] == Dish(spices=Spices(heat="2"))
    assert run("--pots 2", only=Only(("heat",)))[0] is None


def test_help_shows_flags_in_their_panels_with_what_they_default_to() -> None:
    told = " ".join(run("--help")[1].split())
    for words in ("How hot.", "Pots; default: all there are.", "Pan; default: iron.", "Leave the salt out."):
        assert words in told
    assert told.index("What to sweep") < told.index("--heat") < told.index(" How ") < told.index("--minutes")


def test_flags_beside_those_that_go_together_are_refused_by_name_also_at_their_defaults() -> None:
    assert run("--pots 2", besides=("--pots",))[0] == Dish(pots=2)
    for words, name in (("--pots 7", "--pots"), ("--no-whole", "--whole"), ("--no-salt", "--no-salt")):
        with pytest.raises(UsageError, match=f"{name}: leave {name} out"):
            run(words, besides=("--pan",))


def test_every_argument_of_run_in_python_is_a_flag_of_the_command_line() -> None:
    known = {*Sweep.__struct_fields__, *Request.__struct_fields__} - {"sweep", "command", "roles"}
    assert set(Flags.__annotations__) <= known
