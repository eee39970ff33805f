"""What stands under a block: why cells hold no number, what was flagged, and which kernel ran."""

from collections.abc import Iterator, Mapping, Sequence

from attnbench.analysis.rows import Row
from attnbench.contracts.record import PENDING
from attnbench.contracts.text import plain
from attnbench.report.axes import Column, Names, column_of

_FLAGS = {
    "once": "measured once, as a single call exceeds the cap",
    "few_samples": "few samples, cut short by the cap",
    "unseen_memory": "the process grew by more than the allocator counted (a library's own buffers: memory_resident)",
    "launch_bound": "the host could not queue calls as fast as the device did them",
    "throttled": "the GPU's clock was below 75% of its default all the while",
    "shared_device": "other processes used the GPU meanwhile",
    "later_tokens": "its output depends on later tokens, though the mask hides them (mask_leak, hidden_mass)",
    "hidden_tokens": "its output depends on tokens that the mask hides (mask_leak, hidden_mass)",
    "least_bytes": "bytes are inputs read once and output written, the least: the bound is optimistic",
    "operand_bytes": "bytes are those that each operation reads and writes, also where a cache serves them",
    "above_roofline": "above the roofline: a count or a rate is wrong (or a cache held everything)",
    "diverged": "a training diverged, its best weights before that were tested",
    "weights_kept": "it cannot drop attention weights (weight_dropout), its output was dropped alone",
    "edge_rate": "the best learning rate lies at the end of those searched",
    "measured_again": "measured again as code or protocol changed, the last is shown",
}
_LONGEST_REASON = 300
_ALIKE = 0.05  # models whose parameters differ by no more than this share are of a size


def notes(rows: Sequence[Row], names: Names, *, columns: Mapping[Column, str]) -> tuple[str, ...]:
    """Give each reason once, with the variants that it concerns, and the columns where it is not all of a variant's."""
    told: dict[tuple[str, str], dict[str, list[str]]] = {}
    asked: dict[str, set[str]] = {}
    for row in rows:
        name, column = names[row.identity], columns[column_of(row)]
        asked.setdefault(name, set()).add(column)
        for kind, reason in _remarks(row):
            told.setdefault((name, kind), {}).setdefault(reason, []).append(column)
    lines: dict[str, dict[str, list[str]]] = {}
    for (name, kind), reasons in told.items():
        where = dict.fromkeys(column for places in reasons.values() for column in places)
        at = "" if asked[name] == where.keys() else f" at {', '.join(where)}"
        lines.setdefault(_sentence(kind, list(reasons)), {}).setdefault(at, []).append(name)
    whom = ((reason, [f"{', '.join(them)}{at}" for at, them in places.items()]) for reason, places in lines.items())
    return (
        *(f"{'; '.join(each)}: {reason}" for reason, each in whom),
        *_sizes(rows, names, columns),
        *_rates(rows, names),
        *_kernels(rows, names),
    )


def aa_floor_note(floor: float) -> str:
    """Say what a run's own A/A floor means to whoever reads its latencies."""
    return f"A/A floor {floor:.1%}: two measurements of an ordinary case differ by up to that much here"


def _remarks(row: Row) -> list[tuple[str, str]]:
    """Say of what kind a row's trouble is, and its reason; a pending row's word says it all."""
    remarks = []
    if row.detail and row.detail != PENDING:
        remarks.append(("" if row.status == "ok" else row.status.replace("_", " "), _short(row.detail)))
    if row.value is not None:
        remarks += [(_FLAGS.get(flag, f"flagged {plain(flag.replace('_', ' '))}"), "") for flag in row.flags]
    return remarks


def _sentence(kind: str, reasons: list[str]) -> str:
    """Join a kind of trouble with the first of its reasons, which often differ by no more than a number."""
    others = f" (and {len(reasons) - 1} more like it)" if len(reasons) > 1 else ""
    return f"{': '.join(filter(None, (kind, reasons[0])))}{others}"


def _sizes(rows: Sequence[Row], names: Names, columns: Mapping[Column, str]) -> Iterator[str]:
    """Tell where trained models are not of the first one's size, and their scores no comparison of like with like."""
    sizes: dict[tuple[Column, int], dict[str, int]] = {}
    for row in rows:
        count = row.facts.get("parameters")
        if row.value is not None and isinstance(count, int):
            sizes.setdefault((column_of(row), row.case.shape.heads), {})[names[row.identity]] = count
    told: dict[str, dict[str, None]] = {}
    for (column, _), each in sizes.items():
        (base, its), *others = each.items()
        apart = [f"{name} {count:,} ({count / its - 1:+.1%})" for name, count in others if _differ(count, its)]
        if apart:
            told.setdefault(", ".join([f"{base} {its:,} parameters", *apart]), {})[columns[column]] = None
    for counts, where in told.items():
        yield f"models differ in size at {', '.join(where)}: {counts}"


def _differ(one: int, other: int) -> bool:
    return abs(one - other) > _ALIKE * other


def _rates(rows: Sequence[Row], names: Names) -> Iterator[str]:
    """Name the learning rates that were found the best for each variant."""
    found: dict[str, dict[str, None]] = {}
    for row in rows:
        if row.value is not None and "searched_rates" in row.facts:
            found.setdefault(names[row.identity], {})[f"{row.facts['learning_rate']:g}"] = None
    if found:
        told = (f"{name} {' and '.join(rates)}" for name, rates in found.items())
        yield f"learning rates, the best of those searched: {', '.join(told)}"


def _kernels(rows: Sequence[Row], names: Names) -> Iterator[str]:
    """Name the kernels that really ran, where they tell more than the variant's name."""
    ran: dict[str, dict[str, None]] = {}
    for row in rows:
        if row.value is not None and row.backend not in ("", row.case.variant):
            ran.setdefault(names[row.identity], {})[_short(row.backend)] = None
    if ran:
        told = (f"{name} = {' and '.join(backends)}" for name, backends in ran.items())
        yield f"kernels: {', '.join(told)}"


def _short(detail: str) -> str:
    line = plain(" ".join(detail.split()))
    return line if len(line) <= _LONGEST_REASON else f"{line[: _LONGEST_REASON - 3]}..."
