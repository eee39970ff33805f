"""Commands that take structs: each field that is a flag becomes an option, and the command gets the struct whole."""

from collections.abc import Callable, Collection, Iterator
from inspect import Parameter, Signature, signature
from typing import Annotated, Any, get_args, get_origin, get_type_hints

import typer
from msgspec import Meta, Struct
from msgspec.structs import FieldInfo, fields

from attnbench.contracts.errors import UsageError

Command = Callable[..., None]


class Only(tuple[str, ...]):
    """The fields of a struct that are flags of a command: `sweep: Annotated[Sweep, Only(("seq", "heads"))]`."""

    __slots__ = ()


def command(function: Command) -> Command:
    """Return a command for Typer, with the struct parameters of a function replaced by one option per field."""
    parameters: list[Parameter] = []
    structs: dict[str, tuple[type[Struct], Only | None]] = {}
    hints = get_type_hints(function, include_extras=True)
    for name, parameter in signature(function).parameters.items():
        kind, *marks = get_args(hints[name]) if get_origin(hints[name]) is Annotated else (hints[name],)
        if isinstance(kind, type) and issubclass(kind, Struct):
            only = next((mark for mark in marks if isinstance(mark, Only)), None)
            structs[name] = kind, only
            parameters += [_option(*each) for each in _flags(kind) if only is None or each[0].name in only]
        else:
            parameters.append(parameter.replace(annotation=hints[name], kind=Parameter.KEYWORD_ONLY))

    def with_structs(**given: Any) -> None:  # Typer passes whatever the signature lists
        whole = {name: _struct(kind, given, only) for name, (kind, only) in structs.items()}
        function(**{name: whole[name] if name in whole else given[name] for name in hints if name != "return"})

    with_structs.__doc__, with_structs.__name__ = function.__doc__, function.__name__
    with_structs.__signature__ = Signature(parameters)  # type: ignore[attr-defined]
    return with_structs


def refuse(context: typer.Context, sentence: str, *, besides: Collection[str] = (), only: Collection[str] = ()) -> None:
    """Raise UsageError for the first flag on the command line that is one of `only`, or else none of `besides`.

    In the sentence {flag} stands for it.
    """
    for parameter in context.command.params:
        source = context.get_parameter_source(parameter.name or "")
        name = parameter.opts[0]
        refused = name in only if only else name.startswith("--") and name not in besides
        if refused and source is not None and source.name == "COMMANDLINE":
            raise UsageError(sentence.format(flag=name))


def _flags(kind: type[Struct]) -> Iterator[tuple[FieldInfo, Meta]]:
    """Yield the fields that are flags with their metadata, those of nested structs in their place."""
    for field in fields(kind):
        if isinstance(field.type, type) and issubclass(field.type, Struct):
            yield from _flags(field.type)
        for mark in get_args(field.type)[1:] if get_origin(field.type) is Annotated else ():
            if isinstance(mark, Meta) and "panel" in (mark.extra or {}):
                yield field, mark


def _option(field: FieldInfo, meta: Meta) -> Parameter:
    extra = meta.extra or {}
    name = str(extra["name"] or field.name).replace("_", "-")
    kind = _kind(field)
    switches = {None: f"--{name}/--no-{name}", False: f"--{name}", True: f"--no-{name}"}
    option = typer.Option(
        switches[field.default] if kind is bool else f"--{name}",
        help=_help(field, meta),
        metavar=extra["metavar"],
        rich_help_panel=extra["panel"],
        show_default=False,
    )
    annotation: Any = Annotated[kind | None, option]
    return Parameter(field.name, Parameter.KEYWORD_ONLY, default=None, annotation=annotation)


def _help(field: FieldInfo, meta: Meta) -> str:
    default = (meta.extra or {})["default"]
    if not default and isinstance(field.default, int | str) and not isinstance(field.default, bool):
        default = field.default
    unsaid = default in ("", "default")  # a value of that name needs no words
    return f"{meta.description}." if unsaid else f"{meta.description}; default: {default}."


def _kind(field: FieldInfo) -> type:
    """Return the type that Typer parses; text is left for `Request.check` and the grammar of ranges to refuse."""
    base = get_args(field.type)[0]
    choices = get_args(base) or (base,)
    return next((kind for kind in (bool, str, int, float) if kind in choices), str)


def _struct(kind: type[Struct], given: dict[str, Any], only: Only | None) -> Struct:
    """Return a struct of the flags that were given; other fields have their defaults.

    A command may have a flag of its own with the name of a field that is not one of `only`.
    """
    values: dict[str, Any] = {}
    for field in fields(kind):
        value = given.get(field.name) if only is None or field.name in only else None
        if isinstance(field.type, type) and issubclass(field.type, Struct):
            values[field.name] = _struct(field.type, given, only)
        elif value is not None:  # a switch turns its default around
            values[field.name] = not field.default if isinstance(field.default, bool) else value
    return kind(**values)
