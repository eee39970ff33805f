"""Many cases in one test: each is a subtest named by its values, and one that fails hides none of the others."""

import functools
import inspect
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import pytest

Values = Iterable[object] | Callable[..., Iterable[object]]
Arguments = dict[str, object]
Axes = tuple[tuple[tuple[str, ...], Values], ...]


def as_subtests(names: str, values: Values) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Run a test over values as `pytest.mark.parametrize` does, but within one item, each case as a subtest.

    The values may be a function of the item's arguments, which the test itself need not take, and of the axes above.
    Several of these decorators make the product of their values. Each case has a `monkeypatch` of its own; other
    fixtures are set up once for the item, so a test that changes what they gave wants `parametrize`.
    """
    columns = tuple(name.strip() for name in names.split(","))
    values = values if callable(values) else tuple(values)

    def decorate(test: Callable[..., None]) -> Callable[..., None]:
        law, inner = getattr(test, "looped", (test, ()))
        axes = ((columns, values), *inner)
        taken = set(inspect.signature(law).parameters) - {"monkeypatch"}
        patches = "monkeypatch" in inspect.signature(law).parameters

        @functools.wraps(law)
        def in_a_loop(subtests: Any, **given: object) -> None:
            cases = list(_cases(axes, given))
            assert cases, "there is no case to test"
            fixtures = {name: value for name, value in given.items() if name in taken}
            for case in cases:
                with subtests.test(**case), pytest.MonkeyPatch.context() as monkeypatch:
                    law(**fixtures, **case, **({"monkeypatch": monkeypatch} if patches else {}))

        in_a_loop.looped = (law, axes)
        in_a_loop.pytestmark = list(getattr(test, "pytestmark", ()))
        in_a_loop.__signature__ = _signature(law, axes)
        return in_a_loop

    return decorate


def _cases(axes: Axes, given: Arguments) -> Iterator[Arguments]:
    """Yield what the axes make of an item's arguments, one case after another."""
    if not axes:
        yield {}
        return
    (names, values), *inner = axes
    for value in values(**{name: given[name] for name in _needs(values)}) if callable(values) else values:
        case = dict(zip(names, (value,) if len(names) == 1 else value, strict=True))
        for rest in _cases(tuple(inner), given | case):
            yield case | rest


def _needs(values: Values) -> list[str]:
    return list(inspect.signature(values).parameters) if callable(values) else []


def _signature(law: Callable[..., None], axes: Axes) -> inspect.Signature:
    """Return what pytest has to give: what the law and the values take and no axis holds, and `subtests`."""
    looped = {"monkeypatch", *(name for names, _ in axes for name in names)}
    wanted = [*inspect.signature(law).parameters, *(name for _, values in axes for name in _needs(values)), "subtests"]
    kept = dict.fromkeys(name for name in wanted if name not in looped)
    return inspect.Signature([inspect.Parameter(name, inspect.Parameter.POSITIONAL_OR_KEYWORD) for name in kept])
