"""The findings of a run in sentences: which variant wins where, by how much and how sure that is."""

from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import groupby

from msgspec import Struct

from attnbench.analysis.compare import FALSE_SHARE, SMALLEST_EFFECT, Comparison
from attnbench.analysis.curves import ALONG
from attnbench.analysis.groups import group_by
from attnbench.analysis.regime import is_exact_here
from attnbench.analysis.rows import Row
from attnbench.analysis.summary import CLOSE, AgainstBaseline, Lead, Summary
from attnbench.contracts.case import Axes, canonical
from attnbench.contracts.metrics import TRAINED, ProbeKind
from attnbench.contracts.stats import FEWEST_REPLICATES
from attnbench.contracts.text import plain
from attnbench.contracts.units import digits
from attnbench.report.axes import VariantNames
from attnbench.report.growth import differing, sentence, where
from attnbench.report.table import block_scale

_MOST_SETTINGS = 3  # above it, settings are counted instead of described one by one
_MOST_NAMED = 8
_MOST_CROSSINGS, _MOST_CROSSING_SETTINGS = 6, 6  # above the second, crossings are only counted
_BEST: dict[ProbeKind, str] = {"latency": "is the fastest", "memory": "needs the least memory"}
_EVEN: dict[ProbeKind, str] = {"latency": "are equally fast", "memory": "need the same memory"}


class Sentence(Struct, frozen=True, kw_only=True):
    """A sentence under its topic; `claims` is true if it calls something better."""

    topic: str
    text: str
    claims: bool = False


def sentences(summary: Summary, names: VariantNames) -> list[Sentence]:
    """Render a summary; untested differences are reported as undecided, or not at all."""
    return [
        *(
            [_too_few(summary.rounds)]
            if summary.timed and summary.rounds < FEWEST_REPLICATES
            else _times(summary, names)
        ),
        *_of_leads("Memory", [lead for lead in summary.leads if lead.best.probe.kind == "memory"], names),
        *_errors(summary.errors, names),
        *(_score(lead, names) for lead in summary.leads if lead.best.probe.kind in TRAINED),
        *_missing(summary.missing),
        *_how_sure(summary),
    ]


def _too_few(rounds: int) -> Sentence:
    counted = "One round" if rounds == 1 else f"{rounds} rounds"
    text = f"{counted} cannot tell a difference from noise, so no variant is called faster: measure with --rounds 5"
    return Sentence(topic="Latency", text=text)


def _times(summary: Summary, names: VariantNames) -> Iterator[Sentence]:
    yield from _of_leads("Latency", [lead for lead in summary.leads if lead.metric == "latency"], names)
    yield from _of_leads(
        "Latency", summary.close, names, among=f"of those that are exact or err by less than {CLOSE:.0%}, "
    )
    yield from _against(summary.against, names)
    yield from _crossings(summary, names)


def _of_leads(topic: str, leads: Sequence[Lead], names: VariantNames, *, among: str = "") -> Iterator[Sentence]:
    """Yield the leads of each setting where there are few settings, else how many cells each variant leads."""
    for passes, group in groupby(leads, lambda lead: lead.best.case.passes):
        of_pass = list(group)
        topic_of_pass = f"{topic}, {passes}" if passes else topic
        settings = group_by(of_pass, lambda lead: canonical(lead.axes)).values()
        if len(settings) > _MOST_SETTINGS:
            yield _counted(topic_of_pass, of_pass, names, among=among)
            continue
        labels = differing([setting[0].axes for setting in settings])
        for setting in settings:
            yield from _of_setting(topic_of_pass, setting, names, prefix=f"{where(setting[0].axes, labels)}{among}")


def _of_setting(topic: str, leads: Sequence[Lead], names: VariantNames, *, prefix: str) -> Iterator[Sentence]:
    """Yield the leads of one setting: lengths with the same outcome together, what is undecided last."""
    undecided = []
    for outcome, group in groupby(leads, lambda lead: (lead.sure, lead.even, _contenders(lead, names))):
        sure, even, contenders = outcome
        stretch = list(group)
        if sure:
            text = (
                f"{contenders[0]} {_BEST[stretch[0].best.probe.kind]} {_span(stretch)}: {_by_how_much(stretch, names)}"
            )
            yield Sentence(topic=topic, text=f"{prefix}{text}", claims=True)
        elif even and len(contenders) == 2:
            within = f"within {stretch[0].rival.band:.1%}"
            text = f"{' and '.join(contenders)} {_EVEN[stretch[0].best.probe.kind]} {_span(stretch)}, {within}"
            yield Sentence(topic=topic, text=f"{prefix}{text}")
        else:
            undecided.append(f"{_span(stretch)} ({_listed(contenders)})")
    if undecided:
        yield Sentence(topic=topic, text=f"{prefix}not told apart, so nothing is decided: {'; '.join(undecided)}")


def _contenders(lead: Lead, names: VariantNames) -> tuple[str, ...]:
    """Return the names of the best and of all that it is not shown to beat, in an order that noise does not change."""
    return tuple(sorted(names[row.identity] for row in (lead.best, *lead.undecided)))


def _span(leads: Sequence[Lead]) -> str:
    first, last = leads[0].length, leads[-1].length
    return f"at N = {first}" if first == last else f"from N = {first} to {last}"


def _by_how_much(leads: Sequence[Lead], names: VariantNames) -> str:
    """Return the comparison with the closest rival, at both ends of a stretch of lengths."""
    ends = leads if len(leads) == 1 else (leads[0], leads[-1])
    return ", ".join(_over_rival(lead, names, at_length=len(leads) > 1) for lead in ends)


def _over_rival(lead: Lead, names: VariantNames, *, at_length: bool) -> str:
    rival, base = lead.rival, _base_name(lead.rival, names)
    at = f" at {lead.length}" if at_length else ""
    if lead.metric == "latency":
        return f"{times(rival)} as fast as {base}{at}"
    scale = block_scale(rival.one.unit, [lead.best.value])
    amount = f"{digits((lead.best.value or 0) / scale.size)} {scale.name}"
    return f"{amount}{at}, where {base} needs {times(rival)} as much"


def times(pair: Comparison) -> str:
    """Render how many times as fast, or as small, the new side is: 2.40x [2.38, 2.43]."""
    if not pair.ratio:
        return "any number of times"
    interval = f" [{digits(1 / pair.high)}, {digits(1 / pair.low)}]" if pair.low and pair.high else ""
    return f"{digits(1 / pair.ratio)}x{interval}"


def _counted(topic: str, leads: Sequence[Lead], names: VariantNames, *, among: str) -> Sentence:
    """Return how many cells each variant leads."""
    won = Counter(names[lead.best.identity] for lead in leads if lead.sure)
    if not won:
        text = f"{among}in none of {len(leads)} cells is one shown to be better than all others"
        return Sentence(topic=topic, text=text)
    parts = [f"{name} {_BEST[leads[0].best.probe.kind]} in {count}" for name, count in won.most_common(_MOST_NAMED)]
    undecided = len(leads) - sum(won.values())
    rest = [f"in {undecided} nothing is decided"] if undecided else []
    return Sentence(topic=topic, text=f"{among}of {len(leads)} cells, {'; '.join([*parts, *rest])}", claims=True)


def _against(comparisons: Sequence[AgainstBaseline], names: VariantNames) -> Iterator[Sentence]:
    """Yield how variants compare with the sweep's first one, at the longest length of each setting."""
    compared = (against for against in comparisons if against.pairs)
    for passes, group in groupby(compared, lambda against: against.axes["passes"]):
        of_pass = list(group)
        labels = differing([against.axes for against in of_pass])
        topic = f"Latency, {passes}"
        if len(of_pass) > _MOST_SETTINGS:
            yield _counted_against(topic, of_pass, names)
            continue
        for against in of_pass:
            yield _against_baseline(topic, against.pairs, names, prefix=where(against.axes, labels))


def _against_baseline(topic: str, pairs: Sequence[Comparison], names: VariantNames, *, prefix: str) -> Sentence:
    longest = max(pair.case.length for pair in pairs)
    there = sorted((pair for pair in pairs if pair.case.length == longest), key=lambda pair: pair.ratio or 0)
    of_verdict = {
        verdict: [pair for pair in there if pair.verdict == verdict]
        for verdict in ("faster", "slower", "same", "inconclusive")
    }
    different = [*of_verdict["faster"], *of_verdict["slower"]]
    parts = [_listed([f"{_new_name(pair, names)} {times(pair)} as fast" for pair in different])] if different else []
    for verdict, words in (("same", "the same"), ("inconclusive", "not decided")):
        if of_verdict[verdict]:
            parts.append(f"{words}: {_listed([_new_name(pair, names) for pair in of_verdict[verdict]])}")
    text = f"{prefix}against {_base_name(pairs[0], names)} at N = {longest}: {'; '.join(parts)}"
    return Sentence(topic=topic, text=text, claims=bool(different))


def _counted_against(topic: str, comparisons: Sequence[AgainstBaseline], names: VariantNames) -> Sentence:
    pairs = [pair for against in comparisons for pair in against.pairs]
    faster = Counter(_new_name(pair, names) for pair in pairs if pair.verdict == "faster")
    cells = Counter(_new_name(pair, names) for pair in pairs)
    parts = [f"{name} in {count} of {cells[name]} cells" for name, count in faster.most_common()]
    text = f"faster than {_base_name(pairs[0], names)}: {_listed(parts) or 'none'}"
    return Sentence(topic=topic, text=text, claims=bool(faster))


def _crossings(summary: Summary, names: VariantNames) -> Iterator[Sentence]:
    labels = differing([crossing.axes for crossing in summary.crossings])
    shown = summary.crossings[:_MOST_CROSSINGS]
    if len({canonical(crossing.axes) for crossing in summary.crossings}) > _MOST_CROSSING_SETTINGS:
        shown = ()
    for crossing in shown:
        text = f"{where(crossing.axes, labels)}{sentence(crossing, names)}"
        yield Sentence(topic=f"Latency, {crossing.winner.case.passes}", text=text, claims=True)
    left = len(summary.crossings) - len(shown)
    if left > 0:
        text = f"{left} {'more ' if shown else ''}times one variant overtakes another: see the list of crossings"
        yield Sentence(topic="Latency", text=text, claims=True)


def _errors(rows: Sequence[Row], names: VariantNames) -> Iterator[Sentence]:
    settings = [list(group) for _, group in groupby(rows, lambda row: (row.case.passes, _error_axes(row)))]
    if len(settings) > _MOST_SETTINGS:
        return
    labels = differing([_error_axes(setting[0]) for setting in settings])
    for setting in settings:
        errors = _listed([f"{names[row.identity]} {digits(row.value or 0)}" for row in setting])
        prefix, length = where(_error_axes(setting[0]), labels), setting[0].case.length
        text = f"{prefix}relative error against exact attention at N = {length}: {errors}"
        yield Sentence(topic=f"Agreement, {setting[0].case.passes}", text=text)


def _error_axes(row: Row) -> Axes:
    return row.case.axes(without=(*ALONG, "passes", "shape_name"))


def _score(lead: Lead, names: VariantNames) -> Sentence:
    rival, first, second = lead.rival, names[lead.best.identity], _base_name(lead.rival, names)
    task, metric = plain(lead.best.task), plain(lead.best.metric.replace("_", " "))
    ours, theirs = digits(rival.new_value or 0), digits(rival.base_value or 0)
    if lead.sure:
        text = f"{first} has the best {metric}, {ours}; the next is {second} with {theirs} ({rival.why})"
    else:
        text = f"nothing is decided ({rival.why}); {metric} is {ours} for {first} and {theirs} for {second}"
    exact = [name for row, name in ((lead.best, first), (rival.one, second)) if is_exact_here(row)]
    note = (
        f"; at N = {lead.length} {' and '.join(exact)} {'are' if len(exact) > 1 else 'is'} exact attention"
        if exact
        else ""
    )
    return Sentence(topic="Accuracy", text=f"{task} at N = {lead.length}: {text}{note}", claims=lead.sure)


def _missing(rows: Sequence[Row]) -> Iterator[Sentence]:
    if rows:
        counts = Counter(row.status.replace("_", " ") for row in rows)
        statuses = ", ".join(f"{count} {status}" for status, count in counts.most_common())
        yield Sentence(topic="No figure", text=f"{len(rows)} cells have none: {statuses}; the reasons are listed below")


def _how_sure(summary: Summary) -> Iterator[Sentence]:
    """Yield what the claims rest on, and what weakens them."""
    if summary.noisy:
        text = (
            f"{summary.noisy} of {summary.timed} latencies are very noisy (spread above 10%); tested ratios are surer"
        )
        yield Sentence(topic="How sure", text=text)
    if summary.rounds < FEWEST_REPLICATES:
        return
    least = max(SMALLEST_EFFECT, summary.floor or 0)
    floor = f" (A/A floor {summary.floor:.1%})" if summary.floor is not None else ""
    text = (
        f"brackets are 95% intervals over up to {summary.rounds} rounds, paired by round; what is called faster has p "
        f"up to {FALSE_SHARE} after Benjamini-Hochberg, and differs by more than {least:.1%}{floor}"
    )
    yield Sentence(topic="How sure", text=text)


def _listed(parts: Sequence[str]) -> str:
    shown = parts if len(parts) <= _MOST_NAMED else [*parts[:_MOST_NAMED], f"and {len(parts) - _MOST_NAMED} more"]
    return ", ".join(shown)


def _base_name(pair: Comparison, names: VariantNames) -> str:
    return names[pair.one.identity]


def _new_name(pair: Comparison, names: VariantNames) -> str:
    return names[pair.other.identity]
