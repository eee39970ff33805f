"""Planted runs by name, each a tuple of records and planned jobs: what the golden tables show."""

from attnbench.contracts.case import Mask
from attnbench.contracts.record import Origin
from unit.report.planted import accuracies, accuracy_job, agreements, failed, floor, job, memories, timing, timings

LENGTHS = (512, 1024, 2048, 4096, 8192, 16384)
SHORT = LENGTHS[:4]
HOSTILE = (
    "../../x",
    "<script>alert(1)</script>",
    "=cmd|' /C calc'!A0",
    "\x1b[31mred",
    "a\x00b",
    "[red]x[/red]",
    "&_%$#{}~^\\",
    "*`|bold|`*",
    "a\nb",
    "\u202eevil",
    "\N{CJK UNIFIED IDEOGRAPH-6CE8}\N{CJK UNIFIED IDEOGRAPH-610F}",
)
_STATUSES = (
    "unsupported",
    "invalid_output",
    "error",
    "oom_device",
    "oom_host",
    "timeout",
    "crash",
    "device_lost",
    "interrupted",
    "skipped",
)
_DTYPES = ("float32", "bfloat16")
_NOISE = {"reformer": 0.03, "sparse": 0.2}
_VARIANTS = ("vanilla", "linformer", "reformer", "sparse", "linear", "flash")


def complete():
    """Six variants at six lengths; one is noisy, one very noisy, one unsupported, and one runs out of memory."""
    records = floor(LENGTHS)
    for variant in _VARIANTS:
        lengths = LENGTHS[:-1] if variant == "vanilla" else LENGTHS
        if variant == "linear":
            probes = [job(variant, kind, seq=seq) for kind in ("latency", "memory", "agreement") for seq in LENGTHS]
            records += [failed(each, "unsupported", "it has no window") for each in probes]
            continue
        records += timings(variant, lengths, noise=_NOISE.get(variant, 0.004))
        records += memories(variant, lengths) + agreements(variant, lengths)
    for kind in ("latency", "memory", "agreement"):
        full = job("vanilla", kind, seq=LENGTHS[-1])
        records.append(failed(full, "oom_host", "cannot allocate 8.0 GiB: over the worker's limit of 6.1 GiB"))
    return [*records, *accuracy()[0]], []


def accuracy():
    """Three seeds for two variants at two lengths; a third variant is not defined for the task."""
    records = [failed(accuracy_job("linear", seq=seq), "unsupported", "it has no window") for seq in (64, 128)]
    for variant, scores in {"vanilla": (0.99, 0.992, 0.995), "linformer": (0.31, 0.35, 0.28)}.items():
        records += [accuracies(variant, scores), accuracies(variant, [0.9 * score for score in scores], seq=128)]
    return records, []


def tasks():
    """A task's lengths, heads and layers are swept, the width staying as it is."""
    return [
        accuracies(variant, [0.01 * place + score for place in range(3)], seq=seq, heads=count, **layers)
        for variant, score in (("vanilla", 0.9), ("linear", 0.3))
        for seq in (64, 128)
        for count in (1, 2, 4)
        for layers in ({}, {"layers": 1})
    ], []


def heads():
    """Heads are swept, in two passes."""
    swept = [(passes, count) for passes in ("forward", "forward-backward") for count in (4, 8, 16)]
    return [
        each
        for variant in ("vanilla", "linear", "flash")
        for passes, count in swept
        for each in timings(variant, SHORT, heads=count, passes=passes)
    ], []


def masks():
    """Three further axes vary at once."""
    several = [
        (mask, dtype) for mask in (Mask(), Mask(causal=True), Mask(causal=True, window=256)) for dtype in _DTYPES
    ]
    return [
        each
        for variant in ("vanilla", "flash")
        for mask, dtype in several
        for each in timings(variant, SHORT, mask=mask, dtype=dtype)
    ], []


def tokens():
    """The batch follows from the length, and is no axis of its own."""
    return [
        each
        for variant in ("vanilla", "flash")
        for seq in SHORT
        for each in timings(variant, (seq,), batch=16384 // seq, dtype="bfloat16", device="cuda:0")
    ], []


def decode():
    """One query against a cache of keys, of which there are fewer heads."""
    return [
        each
        for variant in ("vanilla", "flash")
        for seq in SHORT
        for each in timings(variant, (seq,), seq_q=1, passes="decode", kv_heads=2)
    ], []


def options():
    """One variant stands there three times, with different options; another twice, from different origins."""
    several = ({"rounds": 2, "bucket": 64}, {"rounds": 4, "bucket": 64}, {"rounds": 4, "bucket": 128})
    records = [each for given in several for each in timings("reformer", LENGTHS, options=given | {"tied": True})]
    return [*records, *timings("flash", LENGTHS), *timings("flash", LENGTHS, origin=Origin(path="mine.py"))], []


def statuses():
    """Every status, one a column, and a row that lacks most of its cells."""
    lengths = [2 ** (6 + place) for place in range(len(_STATUSES))]
    records = [
        failed(job("vanilla", seq=seq), status, f"why {status}") for seq, status in zip(lengths, _STATUSES, strict=True)
    ]
    return [*records, *timings("flash", lengths), failed(job("linear", seq=64), "unsupported", "no")], []


def long():
    """Twelve lengths, more than a screen holds side by side."""
    lengths = [2**power for power in range(6, 18)]
    return [each for variant in ("vanilla", "linformer", "flash") for each in timings(variant, lengths)], []


def once():
    """Slow cases were measured once, and one round of a fast one failed."""
    slow = [timing(job("vanilla", seq=seq), 9.0, flags=["once"]) for seq in SHORT]
    later = [failed(job("vanilla", seq=seq, round=2), "skipped", "measured once in round 1") for seq in SHORT]
    fast = [timing(job("flash", seq=seq, round=number), 1e-3) for seq in SHORT for number in (1, 2, 3, 4)]
    fast[1] = failed(fast[1].job, "timeout", "silent for 120 s")
    return slow + later + fast, []


def pending():
    """An interrupted run: some cells have been measured, others not yet."""
    planned = [
        job(variant, kind, seq=seq, round=number)
        for number in (1, 2, 3, 4, 5)
        for kind in ("latency", "memory")
        for variant in ("vanilla", "flash", "linear")
        for seq in SHORT
    ]
    return [*timings("vanilla", SHORT), *timings("flash", SHORT[:2])], planned


def hostile():
    """Names, options and reasons that would be markup, commands or formulas if they were let."""
    return [
        each
        for place, name in enumerate(HOSTILE)
        for each in (
            timing(job(name, seq=512), 1e-3 * (place + 1)),
            failed(job(name, seq=1024), "crash", name),
            timing(job(name, seq=2048, options={name: name}), 1e-3),
            timing(job(name, seq=2048, options={name: 2}), 1e-3),
        )
    ], []


SCENARIOS = {
    made.__name__: made
    for made in (
        complete,
        accuracy,
        tasks,
        heads,
        masks,
        tokens,
        decode,
        options,
        statuses,
        long,
        once,
        pending,
        hostile,
    )
}
