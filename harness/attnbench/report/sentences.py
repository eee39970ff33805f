"""What a run shows, in sentences: what wins where, by how much and how sure. Any renderer may begin with them."""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby

from msgspec import Struct

from attnbench.analysis.compare import FALSE_SHARE, SMALLEST_EFFECT, Comparison
from attnbench.analysis.courses import ALONG
from attnbench.analysis.rows import Row
from attnbench.analysis.summary import CLOSE, Lead, Standing, Summary
from attnbench.contracts.case import Axes, canonical
from attnbench.contracts.stats import FEWEST_REPLICATES
from attnbench.contracts.text import plain
from attnbench.contracts.units import digits
from attnbench.report.axes import Names
from attnbench.report.growth import differing, sentence, where
from attnbench.report.table import block_scale

_MOST_SETTINGS = 3  # of which each gets sentences of its own
_MOST_NAMED = 8
_MOST_CROSSINGS, _MOST_TOLD_CROSSING = 6, 6  # sentences, and settings of which there may be some
_BEST = {"latency": "is the fastest", "memory": "needs the least memory"}
_EVEN = {"latency": "are equally fast", "memory": "need the same memory"}


class Told(Struct, frozen=True, kw_only=True):
    """A sentence under its topic; `claims` tells one that says of something that it is better."""

    topic: str
    text: str
    claims: bool = False


def sentences(found: Summary, names: Names) -> list[Told]:
    """Tell a summary. What no test has shown is told as not decided, or not at all."""
    return [
        *([_too_few(found.rounds)] if found.timed and found.rounds < FEWEST_REPLICATES else _times(found, names)),
        *_of_leads("Memory", [each for each in found.leads if each.metric == "memory"], names),
        *_errors(found.errors, names),
        *(_score(each, names) for each in found.leads if each.best.probe.kind == "accuracy"),
        *_missing(found.missing),
        *_how_sure(found),
    ]


def _too_few(rounds: int) -> Told:
    counted = "One round" if rounds == 1 else f"{rounds} rounds"
    text = f"{counted} cannot tell a difference from noise, so no variant is called faster: measure with --rounds 5"
    return Told(topic="Latency", text=text)


def _times(found: Summary, names: Names) -> Iterator[Told]:
    yield from _of_leads("Latency", [each for each in found.leads if each.metric == "latency"], names)
    near = f"of those whose error is below {CLOSE:.0%}, "
    yield from _of_leads("Latency", found.close, names, among=near)
    yield from _against(found.against, names)
    yield from _crossings(found, names)


def _of_leads(topic: str, leads: Sequence[Lead], names: Names, *, among: str = "") -> Iterator[Told]:
    """Tell who is best: of each setting where there are few, else how many cells each variant has for itself."""
    for passes, group in groupby(leads, lambda lead: lead.best.case.passes):
        of_pass = list(group)
        told = topic if not passes else f"{topic}, {passes}"
        settings = _by_setting(of_pass)
        if len(settings) > _MOST_SETTINGS:
            yield _counted(told, of_pass, names, among=among)
            continue
        labels = differing([each[0].axes for each in settings])
        for setting in settings:
            yield from _of_setting(told, setting, names, place=f"{where(setting[0].axes, labels)}{among}")


def _by_setting(leads: Iterable[Lead]) -> list[list[Lead]]:
    settings: dict[str, list[Lead]] = {}
    for lead in leads:
        settings.setdefault(canonical(lead.axes), []).append(lead)
    return list(settings.values())


def _of_setting(topic: str, leads: Sequence[Lead], names: Names, *, place: str) -> Iterator[Told]:
    """Tell the leads of one setting, lengths of one outcome together, what is open last."""
    open_ = []
    for outcome, group in groupby(leads, lambda lead: (lead.sure, lead.even, _contenders(lead, names))):
        sure, even, contenders = outcome
        stretch = list(group)
        if sure:
            text = f"{contenders[0]} {_BEST[stretch[0].metric]} {_span(stretch)}: {_by_how_much(stretch, names)}"
            yield Told(topic=topic, text=f"{place}{text}", claims=True)
        elif even and len(contenders) == 2:
            within = f"within {stretch[0].rival.band:.1%}"
            text = f"{' and '.join(contenders)} {_EVEN[stretch[0].metric]} {_span(stretch)}, {within}"
            yield Told(topic=topic, text=f"{place}{text}")
        else:
            open_.append(f"{_span(stretch)} ({_listed(contenders)})")
    if open_:
        yield Told(topic=topic, text=f"{place}not told apart, so nothing is decided: {'; '.join(open_)}")


def _contenders(lead: Lead, names: Names) -> tuple[str, ...]:
    """Name the best, alone where that is sure; else all that share its place, in an order that no noise changes."""
    if lead.sure:
        return (names[lead.best.identity],)
    return tuple(sorted(names[row.identity] for row in (lead.best, *lead.level)))


def _span(leads: Sequence[Lead]) -> str:
    first, last = leads[0].length, leads[-1].length
    return f"at N = {first}" if first == last else f"from N = {first} to {last}"


def _by_how_much(leads: Sequence[Lead], names: Names) -> str:
    """Compare with whom it is hardest to beat, at both ends of a stretch of lengths."""
    ends = leads if len(leads) == 1 else (leads[0], leads[-1])
    return ", ".join(_over_rival(each, names, at=len(leads) > 1) for each in ends)


def _over_rival(lead: Lead, names: Names, *, at: bool) -> str:
    rival, base = lead.rival, _base_name(lead.rival, names)
    where_to = f" at {lead.length}" if at else ""
    if lead.metric == "latency":
        return f"{times(rival)} as fast as {base}{where_to}"
    scale = block_scale(rival.one.unit, [lead.best.value])
    amount = f"{digits((lead.best.value or 0) / scale.size)} {scale.name}"
    return f"{amount}{where_to}, where {base} needs {times(rival)} as much"


def times(pair: Comparison) -> str:
    """Write how many times as fast, or as small, the new side is: 2.40x [2.38, 2.43]."""
    if not pair.ratio:
        return "any number of times"
    interval = f" [{digits(1 / pair.high)}, {digits(1 / pair.low)}]" if pair.low and pair.high else ""
    return f"{digits(1 / pair.ratio)}x{interval}"


def _counted(topic: str, leads: Sequence[Lead], names: Names, *, among: str) -> Told:
    """Count cells where there are too many settings to tell each."""
    won = Counter(names[lead.best.identity] for lead in leads if lead.sure)
    parts = [f"{name} {_BEST[leads[0].metric]} in {count}" for name, count in won.most_common(_MOST_NAMED)]
    open_ = len(leads) - sum(won.values())
    if not won:
        return Told(topic=topic, text=f"{among}in none of {len(leads)} cells is one shown to be better than all others")
    rest = [f"in {open_} nothing is decided"] if open_ else []
    return Told(topic=topic, text=f"{among}of {len(leads)} cells, {'; '.join([*parts, *rest])}", claims=True)


def _against(standings: Sequence[Standing], names: Names) -> Iterator[Told]:
    """Say how all stand against the sweep's first variant, at the longest length that it has."""
    for passes, group in groupby((each for each in standings if each.pairs), lambda each: each.axes["passes"]):
        of_pass = list(group)
        labels = differing([each.axes for each in of_pass])
        topic = f"Latency, {passes}"
        if len(of_pass) > _MOST_SETTINGS:
            yield _counted_against(topic, of_pass, names)
            continue
        for standing in of_pass:
            yield _standing(topic, standing.pairs, names, place=where(standing.axes, labels))


def _standing(topic: str, pairs: Sequence[Comparison], names: Names, *, place: str) -> Told:
    longest = max(pair.case.length for pair in pairs)
    here = sorted((each for each in pairs if each.case.length == longest), key=lambda each: each.ratio or 0)
    faster = [f"{_new_name(each, names)} {times(each)} as fast" for each in here if each.verdict == "faster"]
    slower = [f"{_new_name(each, names)} {times(each)} as fast" for each in here if each.verdict == "slower"]
    same = [_new_name(each, names) for each in here if each.verdict == "same"]
    open_ = [_new_name(each, names) for each in here if each.verdict == "inconclusive"]
    parts = [*([_listed([*faster, *slower])] if faster or slower else [])]
    parts += [f"the same: {_listed(same)}"] if same else []
    parts += [f"not decided: {_listed(open_)}"] if open_ else []
    text = f"{place}against {_base_name(pairs[0], names)} at N = {longest}: {'; '.join(parts)}"
    return Told(topic=topic, text=text, claims=bool(faster or slower))


def _counted_against(topic: str, standings: Sequence[Standing], names: Names) -> Told:
    pairs = [pair for each in standings for pair in each.pairs]
    faster = Counter(_new_name(pair, names) for pair in pairs if pair.verdict == "faster")
    cells = Counter(_new_name(pair, names) for pair in pairs)
    parts = [f"{name} in {count} of {cells[name]} cells" for name, count in faster.most_common()]
    text = f"faster than {_base_name(pairs[0], names)}: {_listed(parts) or 'none'}"
    return Told(topic=topic, text=text, claims=bool(faster))


def _crossings(found: Summary, names: Names) -> Iterator[Told]:
    labels = differing([each.axes for each in found.crossings])
    told = found.crossings[:_MOST_CROSSINGS]
    if len({canonical(each.axes) for each in found.crossings}) > _MOST_TOLD_CROSSING:
        told = ()
    for each in told:
        words = sentence(each, names[each.winner.identity], names[each.loser.identity])
        topic = f"Latency, {each.winner.case.passes}"
        yield Told(topic=topic, text=f"{where(each.axes, labels)}{words}", claims=True)
    left = len(found.crossings) - len(told)
    if left > 0:
        text = f"{left} {'more ' if told else ''}times one variant overtakes another: see the list of crossings"
        yield Told(topic="Latency", text=text, claims=True)


def _errors(rows: Sequence[Row], names: Names) -> Iterator[Told]:
    settings = [list(group) for _, group in groupby(rows, lambda row: (row.case.passes, _of_errors(row)))]
    if len(settings) > _MOST_SETTINGS:
        return
    labels = differing([_of_errors(each[0]) for each in settings])
    for each in settings:
        told = _listed([f"{names[row.identity]} {digits(row.value or 0)}" for row in each])
        place = where(_of_errors(each[0]), labels)
        text = f"{place}relative error against exact attention at N = {each[0].case.length}: {told}"
        yield Told(topic=f"Agreement, {each[0].case.passes}", text=text)


def _of_errors(row: Row) -> Axes:
    return row.case.axes(without=(*ALONG, "passes", "shape_name"))


def _score(lead: Lead, names: Names) -> Told:
    rival, first, second = lead.rival, names[lead.best.identity], _base_name(lead.rival, names)
    task, metric = plain(lead.best.task), plain(lead.best.metric.replace("_", " "))
    ours, theirs = digits(rival.new_value or 0), digits(rival.base_value or 0)
    if lead.sure:
        text = f"{first} has the best {metric}, {ours}; the next is {second} with {theirs} ({rival.why})"
    else:
        text = f"nothing is decided ({rival.why}); {metric} is {ours} for {first} and {theirs} for {second}"
    return Told(topic="Accuracy", text=f"{task}: {text}", claims=lead.sure)


def _missing(rows: Sequence[Row]) -> Iterator[Told]:
    if rows:
        counts = Counter(row.status.replace("_", " ") for row in rows)
        told = ", ".join(f"{count} {status}" for status, count in counts.most_common())
        yield Told(topic="No figure", text=f"{len(rows)} cells have none: {told}; the reasons are listed below")


def _how_sure(found: Summary) -> Iterator[Told]:
    """Say what stands behind the claims, and what speaks against them."""
    if found.noisy:
        text = f"{found.noisy} of {found.timed} latencies are too noisy to be trusted (spread above 10%)"
        yield Told(topic="How sure", text=text)
    if found.rounds < FEWEST_REPLICATES:
        return
    least = max(SMALLEST_EFFECT, found.floor or 0)
    floor = f" (A/A floor {found.floor:.1%})" if found.floor is not None else ""
    text = (
        f"brackets are 95% intervals over up to {found.rounds} rounds, paired by round; what is called faster has p up "
        f"to {FALSE_SHARE} after Benjamini-Hochberg, and differs by more than {least:.1%}{floor}"
    )
    yield Told(topic="How sure", text=text)


def _listed(parts: Sequence[str]) -> str:
    shown = parts if len(parts) <= _MOST_NAMED else [*parts[:_MOST_NAMED], f"and {len(parts) - _MOST_NAMED} more"]
    return ", ".join(shown)


def _base_name(pair: Comparison, names: Names) -> str:
    return names[pair.one.identity]


def _new_name(pair: Comparison, names: Names) -> str:
    return names[pair.other.identity]
