"""A mechanism for a user's own calls: it refuses tensors of other sizes than those that it was built for.

Many mechanisms would not notice, and answer wrongly. The harness measures them without these checks.
"""

from functools import partial
from typing import Any

from attnbench.contracts.case import Case
from attnbench.contracts.errors import UsageError
from attnbench.contracts.variant import Attention


def checked(attention: Any, case: Case) -> Attention:
    """Return a mechanism that raises UsageError for tensors of another shape; the batch may be of any size."""
    check = partial(_check, case, _shapes(case))
    if hasattr(attention, "register_forward_pre_hook"):  # a torch module stays the module that it is
        attention.register_forward_pre_hook(_Hook(check))
        built: Attention = attention
        return built
    return _Checked(attention, check)


class _Hook:
    """A module's check before its call; torch names the module in front."""

    def __init__(self, check: Any) -> None:
        self.check = check

    def __call__(self, _module: object, tensors: tuple[Any, ...]) -> None:
        self.check(tensors)


class _Checked:
    """A mechanism that is no module, with a check before its call."""

    def __init__(self, attention: Any, check: Any) -> None:
        self._attention, self._check = attention, check

    def __call__(self, *tensors: Any, **named: Any) -> Any:
        self._check(tensors)
        return self._attention(*tensors, **named)

    def __getattr__(self, name: str) -> Any:
        if name in ("_attention", "_check"):  # while it is copied or unpickled
            raise AttributeError(name)
        return getattr(self._attention, name)

    def __repr__(self) -> str:
        return repr(self._attention)


def _shapes(case: Case) -> dict[str, tuple[int, ...]]:
    """Return the shapes of a call's tensors behind the batch, by their names."""
    shape = case.shape
    keys = (shape.kv_heads, shape.seq_k, shape.head_dim)
    return {"q": (shape.heads, shape.seq_q, shape.head_dim), "k": keys, "v": keys}


def _check(case: Case, shapes: dict[str, tuple[int, ...]], tensors: tuple[Any, ...]) -> None:
    batch = None
    for (name, wanted), tensor in zip(shapes.items(), tensors, strict=False):
        given = tuple(getattr(tensor, "shape", ()))
        batch = given[:1] if batch is None else batch
        if given[1:] != wanted or given[:1] != batch:
            sizes = ", ".join(map(str, wanted))
            raise UsageError(
                f"{case.variant}: {name} has the shape {list(given)}, and it was built for [batch, {sizes}]; "
                "build it for the sizes that you call it with"
            )
