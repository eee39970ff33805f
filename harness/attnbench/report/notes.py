"""The notes under a block: why cells have no number, what was flagged, and which kernels ran."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from statistics import median

from attnbench.analysis.groups import group_by
from attnbench.analysis.regime import is_quality, share
from attnbench.analysis.rows import Row
from attnbench.contracts.record import PENDING
from attnbench.contracts.text import plain
from attnbench.contracts.units import digits, duration, scale_for
from attnbench.report.axes import ColumnKey, VariantNames, column_of
from attnbench.report.text import grouped, one_line

_FLAGS = {
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
_AT_LEVEL = {"core": "", "layer": " with projections"}
_LONGEST_REASON = 300
_ALIKE = 0.05  # largest relative difference of the parameters of models that count as of one size


def notes(rows: Sequence[Row], names: VariantNames, *, columns: Mapping[ColumnKey, str]) -> tuple[str, ...]:
    """Return each reason once, with its variants, and with their columns where it does not hold for all of them."""
    reasons: dict[tuple[str, str], dict[str, list[str]]] = {}
    for row in rows:
        for kind, reason in _remarks(row):
            of_kind = reasons.setdefault((names[row.identity], kind), {})
            of_kind.setdefault(reason, []).append(columns[column_of(row)])
    columns_of = grouped((names[row.identity], columns[column_of(row)]) for row in rows)
    variants: dict[str, dict[str, list[str]]] = {}
    for (name, kind), of_kind in reasons.items():
        where = dict.fromkeys(column for in_columns in of_kind.values() for column in in_columns)
        at = "" if set(columns_of[name]) == where.keys() else f" at {', '.join(where)}"
        variants.setdefault(_sentence(kind, list(of_kind)), {}).setdefault(at, []).append(name)
    concerned = {
        reason: [f"{', '.join(named)}{at}" for at, named in by_columns.items()]
        for reason, by_columns in variants.items()
    }
    return (
        *(f"{'; '.join(named)}: {reason}" for reason, named in concerned.items()),
        *_inputs(rows, names),
        *_own_positions(rows, names),
        *_reaches(rows, names, columns),
        *_sizes(rows, names, columns),
        *_rates(rows, names),
        *_kernels(rows, names),
    )


def aa_floor_note(floor: float) -> str:
    """Return the meaning of a run's own A/A floor for its latencies."""
    return f"noise floor: repeat measurements differ by up to {floor:.1%}"


def harness_floor(rows: Iterable[Row]) -> str:
    """Return the latency of the harness itself; at layer level that is the projections around nothing."""
    timed = [row for row in rows if row.is_harness and row.probe.kind == "latency" and row.value is not None]
    floors = []
    for level, of_level in group_by(timed, lambda row: row.case.level).items():
        values = [row.value or 0 for row in of_level]
        scale = scale_for("s", values)
        floors.append(f"{digits(median(values) / scale.size)} {scale.name}{_AT_LEVEL[level]}")
    return ", ".join(floors)


def replicates(rows: Iterable[Row]) -> str:
    """Return what intervals are over: 5 rounds, 3 seeds; empty where there are none."""
    replicated = [row for row in rows if row.low is not None]
    if not replicated:
        return ""
    of_seeds = replicated[0].probe.metric.replicates == "seeds"
    counts = sorted({row.samples if of_seeds else row.rounds for row in replicated})
    span = " to ".join(map(str, dict.fromkeys((counts[0], counts[-1]))))
    return f"{span} {'seeds' if of_seeds else 'rounds'}"


def _remarks(row: Row) -> list[tuple[str, str]]:
    """Return the kinds of a row's trouble, each with its reason; a pending row has none."""
    remarks = []
    if row.detail and row.detail != PENDING:
        remarks.append(("" if row.status == "ok" else row.status.replace("_", " "), _short(row.detail)))
    if row.value is not None:
        remarks += [(_flagged(flag, row), "") for flag in row.flags]
    return remarks


def _flagged(flag: str, row: Row) -> str:
    """Return the meaning of a flag."""
    if flag == "once":
        return f"one call per round: a call exceeds the {duration(row.protocol.cap_s)} cap"
    return _FLAGS.get(flag, f"flagged {plain(flag.replace('_', ' '))}")


def _sentence(kind: str, reasons: list[str]) -> str:
    """Join a kind of trouble with the first of its reasons, which often differ in a number alone."""
    others = f" (and {len(reasons) - 1} more like it)" if len(reasons) > 1 else ""
    return f"{': '.join(filter(None, (kind, reasons[0])))}{others}"


def _inputs(rows: Sequence[Row], names: VariantNames) -> Iterator[str]:
    """Yield what agreement was measured on, and which variant is the floor."""
    compared = [row for row in rows if row.probe.kind == "agreement" and row.value is not None]
    sources = dict.fromkeys(
        (row.case.inputs, row.facts.get("captured_in"), row.facts.get("captured_on")) for row in compared
    )
    for inputs, model, text in sources:
        if model:
            layer = inputs.rpartition(":")[2]
            yield f"inputs {plain(inputs)}: layer {plain(layer)} of {plain(str(model))}, on {plain(str(text))}"
        elif inputs == "normal" and any(not row.facts.get("exact") for row in compared):
            yield "normal inputs spread attention over all keys: they test kernels, and do not rank approximations"
    floors = dict.fromkeys(names[row.identity] for row in rows if row.is_floor)
    if floors:
        yield f"{', '.join(floors)}: the floor, the mean of the visible values, which looks at no query and no key"


def _own_positions(rows: Sequence[Row], names: VariantNames) -> Iterator[str]:
    """Yield which variants carry positions of their own, so that the trained model added none."""
    own = dict.fromkeys(
        names[row.identity] for row in rows if row.value is not None and row.facts.get("positions") == "none"
    )
    if own:
        yield f"positions are the mechanism's own, and the model adds none: {', '.join(own)}"


def _reaches(rows: Sequence[Row], names: VariantNames, columns: Mapping[ColumnKey, str]) -> Iterator[str]:
    """Yield which share of the keys each variant saw where its quality was measured, and with which scaled options."""
    several = len(columns) > 1
    seen = []
    for row in rows:
        reach = row.facts.get("reach")
        if row.value is not None and is_quality(row) and isinstance(reach, float) and reach < 1:
            at = f" at {columns[column_of(row)]}" if several else ""
            seen.append((names[row.identity], f"{share(reach)}{at}{_scaled(row)}"))
    if seen:
        parts = (f"{name} {' and '.join(shares)}" for name, shares in grouped(seen).items())
        yield f"share of the keys that a query sees: {', '.join(parts)}; others see all"


def _scaled(row: Row) -> str:
    """Return the options that differ from the variant's own, as they were scaled to the length of the task."""
    scaled = row.probe.scaled
    differing = [f"{name}={value}" for name, value in scaled.items() if row.case.options.get(name) != value]
    return f" ({plain(','.join(differing))})" if differing else ""


def _sizes(rows: Sequence[Row], names: VariantNames, columns: Mapping[ColumnKey, str]) -> Iterator[str]:
    """Yield where trained models differ in size from the first one, so that their scores are not of equals."""
    sizes: dict[tuple[ColumnKey, int], dict[str, int]] = {}
    for row in rows:
        count = row.facts.get("parameters")
        if row.value is not None and isinstance(count, int):
            sizes.setdefault((column_of(row), row.case.shape.heads), {})[names[row.identity]] = count
    differing = []
    for (column, _), counts in sizes.items():
        (base, its), *others = counts.items()
        unlike = [
            f"{name} {count:,} ({count / its - 1:+.1%})" for name, count in others if abs(count - its) > _ALIKE * its
        ]
        if unlike:
            differing.append((", ".join([f"{base} {its:,} parameters", *unlike]), columns[column]))
    for sentence, where in grouped(differing).items():
        yield f"models differ in size at {', '.join(where)}: {sentence}"


def _rates(rows: Sequence[Row], names: VariantNames) -> Iterator[str]:
    """Yield the best of the learning rates that were searched for each variant."""
    searched = (row for row in rows if row.value is not None and "searched_rates" in row.facts)
    rates = grouped((names[row.identity], f"{row.facts['learning_rate']:g}") for row in searched)
    if rates:
        variants = (f"{name} {' and '.join(best)}" for name, best in rates.items())
        yield f"learning rates, the best of those searched: {', '.join(variants)}"


def _kernels(rows: Sequence[Row], names: VariantNames) -> Iterator[str]:
    """Yield the kernels that ran, where they are not evident from the variant's name."""
    ran = (row for row in rows if row.value is not None and row.backend not in ("", row.case.variant))
    kernels = grouped((names[row.identity], _short(row.backend)) for row in ran)
    if kernels:
        variants = (f"{name} = {' and '.join(backends)}" for name, backends in kernels.items())
        yield f"kernels: {', '.join(variants)}"


def _short(detail: str) -> str:
    line = one_line(detail)
    return line if len(line) <= _LONGEST_REASON else f"{line[: _LONGEST_REASON - 3]}..."
