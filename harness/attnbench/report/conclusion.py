"""The conclusion of a run in at most three sentences: what to take, what it gives up, what was not told apart."""

from collections.abc import Iterator, Sequence

from attnbench.analysis.conclusion import Choice, Conclusion, Loss, conclude
from attnbench.analysis.rows import Row
from attnbench.contracts.metrics import metric_named
from attnbench.contracts.stats import FEWEST_REPLICATES
from attnbench.contracts.text import plain
from attnbench.contracts.units import amount
from attnbench.report.axes import VariantNames
from attnbench.report.sentences import times
from attnbench.report.text import enumerated


def conclusion(rows: Sequence[Row], names: VariantNames) -> list[str]:
    """Return the sentences that the rows of one run bear out; none where nothing was timed."""
    found = conclude(rows)
    return list(_sentences(found, names)) if found else []


def _sentences(found: Conclusion, names: VariantNames) -> Iterator[str]:
    if found.exact:
        yield f"{_setting(found.exact)}, {_fastest(found.exact, names)}."
    if found.approximate:
        start = "" if found.exact else f"{_setting(found.approximate)}, "
        yield f"{start}{_approximate(found, found.approximate, names)}."
    if found.at.rounds < FEWEST_REPLICATES:
        yield "Too few rounds to test any of this: measure with --rounds 5."
        return
    undecided = [choice for choice in (found.exact, found.approximate) if choice is not None and choice.undecided]
    if undecided:
        yield f"Not told apart: {'; '.join(_together(choice, names) for choice in undecided)}."


def _setting(choice: Choice) -> str:
    case = choice.best.case
    passes = "" if case.passes == "forward" else f", {case.passes}"
    heads = f"{case.shape.heads} head{'s' * (case.shape.heads > 1)}"
    return f"At {case.length} tokens and {heads}{passes}"


def _fastest(choice: Choice, names: VariantNames) -> str:
    """Return the fastest exact mechanism with its time, and how it compares with the next."""
    name, time = names[choice.best.identity], _amount(choice.best)
    if not choice.against:
        return f"{name} is the only exact mechanism: {time}"
    next_one = choice.against[0]
    if next_one.verdict != "faster":
        return f"{name} has the lowest time of {len(choice.against) + 1} exact mechanisms, {time}"
    return f"{name} is the fastest exact mechanism: {time}, {times(next_one)} as fast as {names[next_one.one.identity]}"


def _approximate(found: Conclusion, choice: Choice, names: VariantNames) -> str:
    """Return the fastest that approximates, its time beside that of the fastest exact one, and what it gives up."""
    kind = "the fastest that approximates" if choice.against else "the only one that approximates"
    text = f"{names[choice.best.identity]}, {kind}, takes {_amount(choice.best)}"
    gain, gives_up = found.gain, _losses(found.losses, choice.best.case.length)
    if gain is None:
        return f"{text}; {gives_up}"
    exact = names[gain.one.identity]
    if gain.verdict == "faster":
        return f"{text}, {times(gain)} as fast as {exact}; {gives_up}"
    if gain.verdict == "slower" or (gain.new_value or 0) >= (gain.base_value or 0):
        return f"{text}: nothing is gained over {exact}"
    return f"{text}, where {exact} takes {_amount(gain.one)}, which no test tells apart; {gives_up}"


def _losses(losses: Sequence[Loss], length: int) -> str:
    counted = [_loss(loss) for loss in losses if loss.refused is None]
    if counted:
        return f"it has {enumerated(counted)}"
    if losses:
        refused = losses[0].refused
        assert refused is not None
        return f"what it gives up at {length} tokens is not known: {refused.reason}"
    return "what it gives up was not measured: add --metrics agreement,swap"


def _loss(loss: Loss) -> str:
    """Return a figure of quality with what it was measured on, exact attention's and the floor's beside it."""
    row = loss.row
    on = plain(row.task) if row.task else f"{plain(row.case.inputs)} inputs"
    beside = [
        f"{what} {_amount(other)}"
        for what, other in (("exact", loss.exact), ("floor", loss.floor))
        if other is not None
    ]
    words = metric_named(row.metric).words
    article = "an" if words[0] in "aeio" else "a"
    aside = f" ({', '.join(beside)})" if beside else ""
    return f"{article} {words} of {_amount(row)} on {on}{aside}"


def _amount(row: Row) -> str:
    return "unknown" if row.value is None else amount(row.value, row.unit)


def _together(choice: Choice, names: VariantNames) -> str:
    return enumerated(names[row.identity] for row in (choice.best, *choice.undecided))
